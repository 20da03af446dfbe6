"""What a user can get wrong: exit code 2 and one line that names the thing; nothing half written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper

Cli = Callable[..., Result]
Fails = Callable[..., str]
GEMM = "gemm:16x16x16"
MACHINE = (Path(__file__).parents[2] / "configs" / "tiny.yaml").read_text(encoding="utf-8")


# --- machines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("core:", "core: {", "machine.yaml:"),  # malformed YAML
        ("clock_mhz: 1000", "clock_mhz: 1000\nclock_mzh: 5", "did you mean 'clock_mhz'"),  # unknown key
        ("clock_mhz: 1000", "clock_mhz: 1 GHz", "the unit is in the key"),  # wrong unit
        ("rows: 4", "rows: -4", "core.matrix.rows: -4 is out of range"),  # negative size
        ("    - {src: dram, dst: spm, pipe: dma_in, bytes_per_cycle: 16, latency_cycles: 0}\n", "",
         "no legal way from dram or host to 'spm'"),
    ],
    ids=["malformed", "unknown key", "wrong unit", "negative", "no path"],
)  # fmt: skip
def test_machine_faults_name_file_and_key(cli: Cli, tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in MACHINE
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE.replace(old, new), encoding="utf-8")
    result = cli("run", GEMM, "--hw", path)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and "machine.yaml:" in result.stderr
    assert all(line.startswith("npusim: ") for line in result.stderr.splitlines())


def test_the_unchanged_machine_runs(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE, encoding="utf-8")
    assert cli("run", GEMM, "--hw", path, "-q").exit_code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--hw", "tinny"), "did you mean 'tiny'"),
        (("--hw", "missing.yaml"), "cannot be read"),
        (("--hw", "tiny", "--set", "core.matrix.rows=-4"), "out of range"),
        (("--hw", "tiny", "--set", "core.matrix.row=4"), "did you mean 'rows'"),
        (("--hw", "tiny", "--set", "memory.capacity_bytes=1GiB"), "write a plain number"),
        (("--hw", "tiny", "--set", "run.cores=2"), "tiny has 1 cores"),
        (("--hw", "tiny", "--set", "run.core=2"), "unknown setting"),
        (("--hw", "tiny", "--set", "default_dtype=bf16"), "override 'default_dtype=bf16'"),
        (("--hw", "tiny", "--set", "core.spaces.spm.size_bytes=128"), "tiny has 128 and 4096 for kernels"),
        (("--hw", "tpu-v1", "--set", "core.matrix.dataflow=os"), "needs a path from dram to spm"),
        (("--hw", "tpu-v1", "--set", "core.matrix.dataflow=is"), "needs a path from spm to wfifo"),
        (("--hw", "tiny", "--dtype", "fp4"), "unknown dtype 'fp4'"),
        (("--hw", "tiny", "--batch", "2"), "batch"),
        (("--hw", "tiny", "--shape", "x=1x2"), ".onnx"),
    ],
)
def test_options_that_do_not_apply(fails: Fails, args: tuple[str, ...], words: str) -> None:
    assert words in fails("run", GEMM, *args)


@pytest.mark.parametrize(
    "args",
    [
        ("--trace-window", "5:3"), ("--trace-window", "x:3"), ("--trace-window", "-1:3"), ("--shape", "x=1x0"),
        ("--shape", "1x2"), ("--batch", "0"), ("--seed", "-1"), ("--fidelity", "exact"), ("--unknown",),
    ],
)  # fmt: skip
def test_malformed_options(cli: Cli, args: tuple[str, ...]) -> None:
    result = cli("run", GEMM, "--hw", "tiny", *args)
    assert result.exit_code == 2 and args[0] in result.stderr


# --- models ------------------------------------------------------------------------------------------------------


def save(folder: Path, shape: Any = (2, 3), weight: np.ndarray[Any, Any] | None = None) -> Path:
    """An .onnx file with one MatMul."""
    weight = np.ones((3, 4), np.float32) if weight is None else weight
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y],
                              [numpy_helper.from_array(weight, "w")])  # fmt: skip
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nonesuch", "npusim models"),
        ("missing.onnx", "cannot be read"),
        ("missing.csv", "cannot be read"),
        ("gemm:64x64", "gemm:MxNxK"),
        ("add:1000000x1000000", "68719476736"),  # 10^12 elements
        ("conv:1x3x100000x64x64x3x1x1", "smallest tiling needs"),  # one row exceeds the scratchpad
    ],
)
def test_models_that_cannot_run(fails: Fails, model: str, words: str) -> None:
    assert words in fails("run", model, "--hw", "tiny")


def test_truncated_onnx(fails: Fails, tmp_path: Path) -> None:
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "model.onnx" in fails("run", path, "--hw", "tiny")


def test_external_data_stays_in_its_folder(cli: Cli, fails: Fails, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save(folder)
    for place, allowed in (("w.bin", True), ("../w.bin", False)):
        (folder / place).write_bytes(np.ones((3, 4), np.float32).tobytes())
        model = onnx.load(str(path), load_external_data=False)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        path.write_bytes(model.SerializeToString())
        if allowed:
            assert cli("run", path, "--hw", "tiny", "--check", "-q").exit_code == 0
        else:
            assert "../w.bin" in fails("run", path, "--hw", "tiny", "--check")


def test_dynamic_shapes_must_be_fixed(cli: Cli, fails: Fails, tmp_path: Path) -> None:
    path = save(tmp_path, shape=("rows", 3))
    assert "--shape" in fails("run", path, "--hw", "tiny")
    result = cli("run", path, "--hw", "tiny", "--shape", "x=5x3", "--json")
    assert json.loads(result.stdout)["macs"] == 5 * 3 * 4


def test_weights_that_are_not_finite_cannot_be_checked(cli: Cli, fails: Fails, tmp_path: Path) -> None:
    weight = np.ones((3, 4), np.float32)
    weight[1, 2] = np.nan
    path = save(tmp_path, weight=weight)
    assert cli("run", path, "--hw", "tiny", "-q").exit_code == 0
    assert "'w'" in fails("run", path, "--hw", "tiny", "--check")


# --- programs ----------------------------------------------------------------------------------------------------


def test_a_program_out_of_bounds_is_refused_before_it_runs(cli: Cli, fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "p.asm"
    assert cli("compile", GEMM, "--hw", "tiny", "-o", path, "-q").exit_code == 0
    text = path.read_text()
    assert cli("sim", path, "-q").exit_code == 0
    line = next(x for x in text.splitlines() if x.startswith(".tensor"))
    where = next(w for w in line.split() if w.startswith("address=")) if "address=" in line else "shape="
    moved = line.replace(where, "address=99999999999") if where != "shape=" else f"{line} address=99999999999"
    path.write_text(text.replace(line, moved))
    assert "dram" in fails("sim", path)


def test_an_access_out_of_bounds_is_found_while_it_runs(fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "p.asm"
    path.write_text(
        ".program p\n.machine tiny\n.kernel k(a) spm=64\n"
        "  .desc %x space=dram dtype=fp32 ext=[16] base_reg=a\n  .desc %y space=spm dtype=fp32 ext=[16]\n"
        "  cp %y, %x\n  halt\n.end\n.launch k args=[999999999999]\n"
    )
    assert "launch 0" in fails("sim", path, "--hw", "tiny")


@pytest.mark.parametrize("content", [b"NPUPROG\x01 short", b"\xff\xfe binary", b"nonsense here"])
def test_files_that_are_no_program(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.prog"
    path.write_bytes(content)
    for args in (("sim", path, "--hw", "tiny"), ("disasm", path)):
        result = cli(*args)
        assert result.exit_code == 2 and result.stdout == "" and "p.prog" in result.stderr


def test_a_program_for_another_machine_is_refused(cli: Cli, fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "p.prog"
    assert cli("compile", GEMM, "--hw", "tpu-v3", "-o", path, "-q").exit_code == 0
    assert "illegal on tiny" in fails("sim", path, "--hw", "tiny")


def test_runs_that_were_never_saved(cli: Cli, fails: Fails, tmp_path: Path) -> None:
    assert "summary.json" in fails("compare", tmp_path, tmp_path)
    assert "summary.json" in fails("profile", tmp_path)
    assert "--hw" in cli("profile", "mlp").stderr


# --- output ------------------------------------------------------------------------------------------------------


def outputs(folder: Path) -> list[tuple[str, ...]]:
    """Every command that writes, aimed at `folder`."""
    return [
        ("run", GEMM, "--hw", "tiny", "-o", str(folder / "out")),
        ("compile", GEMM, "--hw", "tiny", "-o", str(folder / "p.prog")),
        ("compile", GEMM, "--hw", "tiny", "-o", str(folder / "p.asm")),
        ("compile", GEMM, "--hw", "tiny", "-o", str(folder.parent / "p.prog"), "--dump", str(folder / "dump")),
    ]


@pytest.mark.parametrize("index", range(4))
def test_output_below_a_file_is_one_line(fails: Fails, tmp_path: Path, index: int) -> None:
    """A folder that cannot be made, whoever asks: its parent is a file."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert "cannot write" in fails(*outputs(blocker)[index])
    assert blocker.read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("index", range(4))
def test_output_into_a_read_only_folder_is_one_line(fails: Fails, tmp_path: Path, index: int) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert "cannot write" in fails(*outputs(folder)[index])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("index", range(4))
def test_a_full_disk_leaves_nothing_behind(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    """The last step of every writer, the rename, fails as on a full disk; earlier files stay as they were."""
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "before.txt").write_text("kept")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device" in fails(*outputs(folder)[index])
    assert [p.name for p in folder.iterdir()] == ["before.txt"]


def test_a_disk_that_fills_while_text_is_written(fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from npusim.report import files

    def full(path: Path, write: Any) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_write_text", full)
    assert "No space left on device" in fails("run", GEMM, "--hw", "tiny", "-o", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
