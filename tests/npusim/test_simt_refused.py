"""Launches, addresses, barriers and branches that are refused, and the words of each refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simt_fixture import IMM, Threads, machine, own_offset

from isa.errors import DeadlockError, ProgramError, SimulationError
from npusim.functional import simt
from npusim.functional.simt import run_threads

pytestmark = pytest.mark.kernels
Array = Any

Array = Any


def fails(t: Threads, kind: type[SimulationError] = SimulationError, size: int = 256, **launch: int) -> str:
    with pytest.raises(kind) as raised:
        run_threads(t.program((0,), **launch), machine(), np.zeros(size, np.uint8))
    return str(raised.value)


def test_a_bad_address_is_named() -> None:
    t = Threads(8)
    own_offset(t, 32)
    t.put("ldg.32", dst=1, a=0, b=0, imm=100)
    said = fails(t, grid=2)
    assert said.startswith("launch 0, kernel k, block 1, warp 0, instruction 5 `ldg.32 ")
    assert said.endswith("lane 7 accesses 4 bytes at address 256; global memory has 256 bytes")


def test_a_misaligned_address_is_named() -> None:
    t = Threads(8, smem=64)
    t.put("vid", dst=0, imm=0)
    t.put("sts.64", b=0, c=2)
    assert fails(t).endswith("lane 1 accesses 8 bytes at address 1, which is no multiple of 8")


def test_the_end_of_shared_memory_is_named() -> None:
    t = Threads(8, smem=64)
    t.put("vid", dst=0, imm=0)
    t.put("ishl", dst=0, a=0, b=IMM, imm=2)
    t.put("cpa.32", c=0, a=0)
    assert fails(t).endswith("lane 16 accesses 4 bytes at address 64; the block's shared memory has 64 bytes")
    t = Threads(8, smem=64)
    t.put("ldsm.x1", dst=0, b=0, imm=64)
    assert fails(t).endswith("lane 0 accesses 16 bytes at address 64; the block's shared memory has 64 bytes")


def test_part_of_a_warp_at_a_barrier() -> None:
    t = Threads(8)
    t.put("vid", dst=0, imm=0)
    t.put("isetp.lt", dst=0, a=0, b=IMM, imm=8)
    skip = t.put("bra", 0)
    t.put("bar", imm=0)
    t.aim(skip)
    assert "warp 0, instruction 3 `bar 0`: only part of the warp is here; a barrier" in fails(t)


def test_part_of_a_warp_at_a_product() -> None:
    t = Threads(24)
    t.put("vid", dst=0, imm=0)
    t.put("isetp.lt", dst=0, a=0, b=IMM, imm=8)
    t.put("mma.m16n8k8.f32.f16", 0, dst=4, a=8, b=10, c=12)
    assert "all its lanes must execute this together" in fails(t)


def test_different_barriers_at_once() -> None:
    t = Threads(8)
    t.put("vid", dst=0, imm=2)
    t.put("isetp.eq", dst=0, a=0, b=IMM, imm=1)
    skip = t.put("bra", 0)
    t.put("bar", imm=0)
    t.put("exit")
    t.aim(skip)
    t.put("bar", imm=1)
    said = fails(t, DeadlockError, block=64)
    assert "warp 1, instruction 5 `bar 1`: waits at another barrier than warp 0 at 3 `bar 0`" in said


def test_a_loop_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simt, "SLICE", 500)
    monkeypatch.setattr(simt, "MAX_INSTRUCTIONS", 2000)
    t = Threads(8)
    t.put("br", imm=0)
    assert "has executed 2000 instructions, the limit" in fails(t)


def test_loops_too_deep() -> None:
    t = Threads(8)
    t.put("li", dst=1, imm=1)
    for i in range(9):
        t.put("loop", a=1, imm=11 + i)
    for _ in range(9):
        t.put("endl")
    assert "more than 8 loops in one another" in fails(t)
    t = Threads(8)
    t.put("endl")
    assert "endl without loop" in fails(t)


def test_branches_too_deep() -> None:
    t, skips = Threads(8), []
    t.put("vid", dst=0, imm=0)
    for i in range(20):
        t.put("isetp.lt", dst=0, a=0, b=IMM, imm=20 - i)
        skips.append((t.put("bra", 0), t.put("nop"), t.put("bra")))
        t.aim(skips[-1][0])
    t.put("nop")
    for _, _, over in reversed(skips):
        t.aim(over)
        t.put("nop")
    assert "more than 32 ways deep" in fails(t)


@pytest.mark.parametrize(
    ("launch", "said"),
    [({"block": 0}, "0 threads; a block has 1 to 512"), ({"block": 513}, "513 threads"), ({"grid": 0}, "0 blocks")],
)
def test_launches_that_cannot_be(launch: dict[str, int], said: str) -> None:
    assert said in fails(Threads(8), **launch)


def test_too_much_shared_memory() -> None:
    assert "wants 16388 bytes of shared memory and may have 16384" in fails(Threads(8, smem=16388))


def test_memory_must_be_bytes() -> None:
    with pytest.raises(SimulationError, match="uint8"):
        run_threads(Threads(8).program(), machine(), np.zeros(4, np.int32))


def test_a_kernel_must_end() -> None:
    t = Threads(8)
    t.put("exit", 0)
    program = t.program()
    cut = replace(program, kernels=(replace(program.kernels[0], start=0, end=1),))
    with pytest.raises(ProgramError, match="may run past its end"):
        run_threads(cut, machine(), np.zeros(4, np.uint8))
