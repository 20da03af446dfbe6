"""Program files: nothing is lost, and a damaged or hostile file is refused, never believed."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program_strategies import assert_equal, programs

from isa import assemble, binary, load, save
from isa.binary import _PREFIX, MAGIC, VERSION, from_bytes, to_bytes
from isa.errors import ProgramError
from isa.program import Program

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
PROGRAM = assemble(
    ".machine tiny\n.memory dram=64\n.name one\n.tensor t space=dram address=0 shape=[4] dtype=fp32 role=input\n"
    ".hostop node_names=[n] inputs=[t] outputs=[t]\n.desc %x space=spm dtype=fp32 ext=[4]\n"
    ".kernel k(a) spm=16\nv.relu %x, %x\nhalt\n.end\n.launch k args=[7]",
    "sample",
)
DATA = to_bytes(PROGRAM)


@QUICK
@given(programs())
def test_bytes_hold_everything(program: Any) -> None:
    again = from_bytes(to_bytes(program))
    assert_equal(program, again)
    assert to_bytes(again) == to_bytes(program)


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "p.npu"
    path.write_bytes(b"old")
    save(PROGRAM, path)
    assert_equal(PROGRAM, load(path))
    assert [f.name for f in tmp_path.iterdir()] == ["p.npu"]
    assert load(path).instrs.flags.writeable


def test_a_failed_save_leaves_nothing_and_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.npu"
    path.write_bytes(b"old")
    monkeypatch.setattr(binary.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        save(PROGRAM, path)
    assert [f.name for f in tmp_path.iterdir()] == ["p.npu"]
    assert path.read_bytes() == b"old"


def test_missing_file_and_message_with_path(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"none\.npu: No such file"):
        load(tmp_path / "none.npu")
    (tmp_path / "x").write_bytes(b"ELF")
    with pytest.raises(ProgramError, match="x: not a program file"):
        load(tmp_path / "x")


def test_size_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(PROGRAM, tmp_path / "p")
    monkeypatch.setattr(binary, "MAX_FILE_BYTES", len(DATA))
    load(tmp_path / "p")
    to_bytes(PROGRAM)
    monkeypatch.setattr(binary, "MAX_FILE_BYTES", len(DATA) - 1)
    with pytest.raises(ProgramError, match=f"at most {len(DATA) - 1}"):
        load(tmp_path / "p")
    with pytest.raises(ProgramError, match=f"takes {len(DATA)} bytes"):
        to_bytes(PROGRAM)


def test_every_truncation_is_refused() -> None:
    for length in range(len(DATA)):
        with pytest.raises(ProgramError):
            from_bytes(DATA[:length])


@QUICK
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused(position: int, bits: int) -> None:
    changed = bytearray(DATA)
    changed[position] ^= bits
    with pytest.raises(ProgramError):
        from_bytes(bytes(changed))


def sealed(body: bytes, header_bytes: int) -> bytes:
    """A file with a correct checksum: what an attacker, not an accident, would write."""
    return _PREFIX.pack(MAGIC, VERSION, header_bytes, zlib.crc32(body)) + body


@settings(QUICK, max_examples=400)
@given(st.data())
def test_damage_under_a_valid_checksum(data: st.DataObject) -> None:
    body = bytearray(DATA[_PREFIX.size :])
    header_bytes = _PREFIX.unpack_from(DATA)[2]
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.sampled_from([len(body), len(body) - 1, header_bytes, header_bytes - 1]))]
    try:
        program = from_bytes(sealed(bytes(body), min(header_bytes, len(body))))
    except ProgramError:
        return
    assert to_bytes(program)  # whatever was accepted is a whole program


def with_header(change: dict[str, Any]) -> bytes:
    header_bytes = _PREFIX.unpack_from(DATA)[2]
    start = _PREFIX.size
    header = json.loads(DATA[start : start + header_bytes]) | change
    text = json.dumps(header).encode()
    return sealed(text + DATA[start + header_bytes :], len(text))


def test_a_rewritten_header_is_read() -> None:
    assert_equal(from_bytes(with_header({"name": "other"})), replace(PROGRAM, name="other"))


KERNEL = {"name": "k", "start": 0, "end": 2, "params": ["a"], "scratch_bytes": {"spm": 16}, "registers": 0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counts": {"instrs": 1 << 60, "descs": 0, "launches": 0, "args": 0}}, "arrays should take"),
        ({"counts": {"instrs": -1, "descs": 1, "launches": 1, "args": 1}}, "arrays should take"),
        ({"counts": {"instrs": 3, "descs": 1, "launches": 1, "args": 1}}, "arrays should take"),
        ({"counts": []}, "counts is"),
        ({"name": 5}, "name is '5', expected str"),
        ({"names": "abc"}, "names is"),
        ({"names": [1]}, "names is"),
        ({"memory_bytes": {"dram": True}}, "memory_bytes is"),
        ({"memory_bytes": {"dram": 1 << 70}}, "memory_bytes is"),
        ({"kernels": {}}, "kernels is"),
        ({"kernels": [5]}, r"kernels\[0\] does not hold"),
        ({"kernels": [{**KERNEL, "extra": 1}]}, r"kernels\[0\] does not hold"),
        ({"kernels": [{k: v for k, v in KERNEL.items() if k != "registers"}]}, r"exactly .*, registers"),
        ({"kernels": [{**KERNEL, "registers": 0.5}]}, r"kernels\[0\].registers is '0.5', expected int"),
        ({"kernels": [{**KERNEL, "start": 0.5}]}, r"kernels\[0\].start is '0.5', expected int"),
        ({"kernels": [{**KERNEL, "params": [[]]}]}, r"kernels\[0\].params is"),
    ],
)
def test_hostile_headers(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        from_bytes(with_header(change))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 100000, b'{"name": "\xff"}'])
def test_header_that_is_no_object(text: bytes) -> None:
    with pytest.raises(ProgramError, match="damaged header"):
        from_bytes(sealed(text, len(text)))


@pytest.mark.parametrize("version", [0, VERSION + 1])
def test_other_versions_are_named(version: int) -> None:
    changed = bytearray(DATA)
    changed[len(MAGIC)] = version
    with pytest.raises(ProgramError, match=f"version {version}; this release reads versions 1 to {VERSION}"):
        from_bytes(bytes(changed))


def in_version_1(program: Program) -> bytes:
    """The program as the first release wrote it: launches of 48 bytes, kernels without lane registers."""
    header_bytes = _PREFIX.unpack_from(to_bytes(program))[2]
    header = json.loads(to_bytes(program)[_PREFIX.size : _PREFIX.size + header_bytes])
    for kernel in header["kernels"]:
        del kernel["registers"]
    text = json.dumps(header).encode()
    launches = b"".join(row.tobytes()[:48] for row in program.launches)
    body = b"".join([text, program.instrs.tobytes(), program.descs.tobytes(), launches, program.args.tobytes()])
    return _PREFIX.pack(MAGIC, 1, len(text), zlib.crc32(body)) + body


def test_version_1_is_read_and_lacks_threads() -> None:
    again = from_bytes(in_version_1(PROGRAM))
    assert_equal(PROGRAM, again)
    assert again.launches["block"].tolist() == [0] and again.kernels[0].registers == 0


@pytest.mark.parametrize(("data", "version"), [(in_version_1(PROGRAM), 2), (DATA, 1)])
def test_a_version_that_the_content_is_not_is_refused(data: bytes, version: int) -> None:
    changed = bytearray(data)
    changed[len(MAGIC)] = version
    with pytest.raises(ProgramError, match="arrays should take"):
        from_bytes(bytes(changed))


def test_header_longer_than_the_file() -> None:
    with pytest.raises(ProgramError, match="truncated"):
        from_bytes(_PREFIX.pack(MAGIC, VERSION, 1 << 27, 0))


def test_arrays_are_little_endian() -> None:
    assert DATA.endswith(np.array([7], "<i8").tobytes())
