"""The race checker: every barrier and wait of the samples is needed and found missing; intact kernels pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_kernel import RUNS, SAMPLES

from npusim.kernel import run_kernel

HEAD = ".kernel k(x, y)\n  .shared s 256 16\n  .reg i w a off\n  vid i, 1\n  vid w, 2\n  ishl off, i, 2\n"


def races(text: str, path: Path, block: int = 64, grid: int = 1) -> list[str]:
    """What is found in a kernel, a line a race."""
    source = path / "k.asm"
    source.write_text(text)
    arguments = {"x": "iota:i32[128]", "y": "zeros:i32[128]"}
    result = run_kernel(source, "gpu-tiny", grid=grid, block=block, arguments=arguments, check_hazards=True)
    return list(result.hazards)


def kernel(body: str) -> str:
    """A kernel around a body; `i` is the thread, `w` the warp, `off` the byte of the thread's word."""
    return HEAD + "\n".join(f"  {line}" for line in body.split(";")) + "\n  exit\n.end\n"


SYNC = re.compile(r"\n +(?:bar|cpa\.wait)\b[^\n]*")


def parts(key: str) -> tuple[str, str]:
    """The text of a sample in front of the body of its kernel, and the body with what follows."""
    file, name, *_ = RUNS[key]
    before, mark, after = (SAMPLES / f"{file}.asm").read_text().partition(f".kernel {name or file}(")
    return before + mark, after


MUTANTS = [(key, n) for key in RUNS for n in range(len(SYNC.findall(parts(key)[1].partition(".end")[0])))]


def test_there_are_barriers_to_remove() -> None:
    assert len(MUTANTS) == 10


@pytest.mark.parametrize(("key", "number"), MUTANTS)
def test_a_missing_barrier_or_wait_is_found(key: str, number: int, tmp_path: Path) -> None:
    _, name, grid, block, arguments = RUNS[key]
    before, after = parts(key)
    place = list(SYNC.finditer(after.partition(".end")[0]))[number]
    (tmp_path / "mutant.asm").write_text(before + after[: place.start()] + after[place.end() :])
    result = run_kernel(
        tmp_path / "mutant.asm", "gpu-tiny", grid=grid, block=block, arguments=arguments, name=name, check_hazards=True
    )
    assert result.hazards and not result.ok
    for line in result.hazards:
        assert re.search(r"instruction \d+ `.*` of warp \d+ .* byte \d+ of the block's shared memory", line)
        assert "a barrier (bar) between them is missing" in line or "needs cpa.commit and cpa.wait" in line


def test_a_warp_alone_needs_no_barrier(tmp_path: Path) -> None:
    body = "sts.32 off, s, i;ixor a, off, 4;lds.32 a, a, s;sts.32 off, s, a"
    assert races(kernel(body), tmp_path, block=32) == []
    assert races(kernel(body), tmp_path, block=64) == []  # neighbours are in one warp


def test_across_warps_a_barrier_is_needed(tmp_path: Path) -> None:
    cross = "ixor a, off, 128;lds.32 a, a, s"
    assert races(kernel(f"sts.32 off, s, i;bar 0;{cross}"), tmp_path) == []
    found = races(kernel(f"sts.32 off, s, i;{cross}"), tmp_path)  # whichever warp comes first
    assert len(found) == 2 and all("`lds.32" in line and "`sts.32" in line for line in found)


def test_atomics_do_not_race_with_each_other_but_with_plain_accesses(tmp_path: Path) -> None:
    assert races(kernel("atoms.add _, _, s, 1"), tmp_path) == []
    assert len(races(kernel("atoms.add _, _, s, 1;lds.32 a, _, s"), tmp_path)) >= 1
    assert races(kernel("atoms.add _, _, s, 1;bar 0;lds.32 a, _, s"), tmp_path) == []


def test_all_may_read_what_nobody_writes(tmp_path: Path) -> None:
    assert races(kernel("lds.32 a, _, s;ldg.32 a, x, _, 0"), tmp_path, grid=4) == []


def test_blocks_are_ordered_by_nothing(tmp_path: Path) -> None:
    assert races(kernel("stg.32 y, off, i"), tmp_path, grid=1) == []
    (line,) = races(kernel("stg.32 y, off, i"), tmp_path, grid=2)
    assert "of global memory" in line and "nothing orders different blocks" in line
    assert races(kernel("stg.32 y, off, i;bar 0;ldg.32 a, y, off"), tmp_path, grid=1) == []
    assert races(kernel("atomg.add _, y, off, 0, 1"), tmp_path, grid=4) == []


def test_reads_of_an_earlier_epoch_are_ordered(tmp_path: Path) -> None:
    read_all = "ixor a, off, 128;lds.32 a, a, s"
    assert races(kernel(f"{read_all};bar 0;sts.32 off, s, i"), tmp_path) == []
    assert len(races(kernel(f"{read_all};sts.32 off, s, i"), tmp_path)) == 2  # read after write, and the reverse


def test_a_copy_is_over_when_its_group_has_been_waited_for(tmp_path: Path) -> None:
    copy = "iadd a, off, s;cpa.32 a, x, off"
    assert races(kernel(f"{copy};cpa.commit;cpa.wait 0;lds.32 a, off, s"), tmp_path) == []
    (line,) = races(kernel(f"{copy};cpa.commit;cpa.wait 1;lds.32 a, off, s"), tmp_path)
    assert "while a copy by" in line and "needs cpa.commit and cpa.wait" in line
    (line,) = races(kernel(f"{copy};cpa.wait 0;lds.32 a, off, s"), tmp_path)  # never committed
    assert "while a copy by" in line


def test_others_need_a_barrier_after_the_wait(tmp_path: Path) -> None:
    copy, cross = "iadd a, off, s;cpa.32 a, x, off;cpa.commit", "ixor a, off, 128;lds.32 a, a, s"
    assert races(kernel(f"{copy};cpa.wait 0;bar 0;{cross}"), tmp_path) == []
    assert len(races(kernel(f"{copy};bar 0;cpa.wait 0;{cross}"), tmp_path)) >= 1


def test_an_access_outside_of_every_array_is_named(tmp_path: Path) -> None:
    """x and y have 512 bytes each: the last word is inside, the next one is not, be it read or written."""
    assert races(kernel("ldg.32 a, x, _, 508;atomg.add _, y, _, 508, 1"), tmp_path) == []
    (line,) = races(kernel("ldg.32 a, x, _, 512"), tmp_path)
    assert "`ldg.32" in line and "which is in no array: x ends 0 bytes before it; guard the access" in line
    (line,) = races(kernel("@!p0 stg.32 y, _, 516, i"), tmp_path, block=1)
    assert "`@!p0 stg.32" in line and "y ends 4 bytes before it" in line
    (line,) = races(kernel("li r9, 64;ldg.32 a, r9"), tmp_path)
    assert line.endswith("touches byte 64 of global memory, which is in no array")
    assert len(races(kernel("iadd a, off, s;cpa.32 a, x, _, 512;cpa.commit;cpa.wait 0"), tmp_path)) == 1
