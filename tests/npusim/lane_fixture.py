"""Two warps with edge values in their registers, and one instruction executed in the second of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from simt_fixture import Threads, machine

from npusim.units.warps import layout as at
from npusim.units.warps.decode import decode
from npusim.units.warps.execute import execute
from npusim.units.warps.flow import start_warp
from npusim.units.warps.layout import WarpState
from npusim.units.warps.state import make_warps

Array = Any
REGISTERS, SHARED = 24, 1024
MASK = np.int64(0xFFFFFFFF)
NAN = 0x7FFFFFFF
EDGES = np.array(
    [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0x3F800000, 0xBF800000, 0x7F800000,
     0xFF800000, 0x7FC00001, 0x00800000, 0x007FFFFF, 0x4B000001, 0x4F000000, 0xCF000000, 0x4EFFFFFF, 0x4F7FFFFF,
     0x3FC00000, 0x7F7FFFFF, 0x477FEFFF, 0x477FF000, 0x38800000, 0x387FFFFF, 0x33000000, 0x33000001,
     0x7BFF7C00, 0x00018001],
    np.uint32,
)  # fmt: skip


def warp(seed: int = 0, lanes: int = 32) -> WarpState:
    """Two warps, of which the second one is under test: registers of edge values and random bits."""
    rng = np.random.default_rng(seed)
    state = make_warps(2, REGISTERS, lanes, 2, SHARED)
    start_warp(state.warps, 1, 3, 5, 1, 1024, lanes)
    state.regs[1] = rng.integers(0, 1 << 32, (REGISTERS, lanes), np.uint32)
    for row in state.regs[1, ::2]:
        row[:] = rng.choice(EDGES, lanes)
    # Numbers of like size, so that sums cancel and round.
    state.regs[1, 3] = rng.standard_normal(lanes).astype(np.float32).view(np.uint32)
    state.regs[1, 4] = rng.standard_normal(lanes).astype(np.float32).view(np.uint32)
    state.scalars[1] = rng.integers(-(1 << 40), 1 << 40, at.SCALARS)
    state.preds[1] = rng.integers(0, 1 << 32, 8)
    state.shared[:] = rng.integers(0, 256, state.shared.shape, np.uint8)
    return state


def run(state: WarpState, name: str, lanes: int = 0xFFFFFFFF, memory: Array | None = None, **fields: Any) -> int:
    """Execute one instruction in warp 1; returns the status."""
    threads = Threads(REGISTERS)
    threads.put(name, **fields)
    program = threads.program()
    code = decode(program, program.kernels[0], machine(state.regs.shape[2]))
    s = state
    if memory is None:
        memory = np.zeros(0, np.uint8)
    with np.errstate(all="ignore"):
        return int(execute(code, 0, 1, lanes, s.warps, s.regs, s.scalars, s.preds, s.shared, memory, s.work))


def bits(mask: int, count: int = 32) -> Array:
    """A mask as booleans of lanes."""
    return (mask >> np.arange(count) & 1).astype(bool)


def real(a: Array) -> Array:
    return a.view(np.float32)


def signed(a: Array) -> Array:
    return a.view(np.int32).astype(np.int64)


def words(result: Array) -> Array:
    """A result as uint32; all NaNs alike."""
    if result.dtype == np.float32:
        return np.where(np.isnan(result), np.uint32(NAN), result.view(np.uint32))
    return (result.astype(np.int64) & MASK).astype(np.uint32)
