"""When the registers of a warp may be used, and what it is to wait for them."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.engine.simt.layout import DEPENDENCY, FAR, S_DUE, USES, X_DEP, X_DEP_CAUSE
from npusim.jit import inlined, kernel
from npusim.units.warps.layout import W_PC

Array = npt.NDArray[Any]


@kernel
def find_dependency(uses: Array, warps: Array, timing: Array, ready: Array, by: Array, w: int) -> None:
    """Note when all registers of the warp's next instruction may be used, and why not before."""
    pc = warps[w, W_PC]
    latest, cause = 0, DEPENDENCY
    for i in range(USES):
        count = uses[pc, 2 * i + 1]
        if count == 0:
            break
        first = uses[pc, 2 * i]
        for register in range(first, first + count):
            if ready[w, register] > latest:
                latest, cause = ready[w, register], by[w, register]
    timing[w, X_DEP], timing[w, X_DEP_CAUSE] = latest, cause


@inlined
def deliver(ready, by, w, first, count, cycle, cause):
    """Registers [first, first + count) of a warp may be used from `cycle` on; until then it waits for `cause`."""
    for register in range(first, first + count):
        ready[w, register], by[w, register] = cycle, cause


@inlined
def wake(subs, cores, sub, c, cycle):
    """Let a sub-core of core `c` look at its warps at `cycle`, if it would not earlier."""
    if cycle < subs[sub, S_DUE]:
        subs[sub, S_DUE] = cycle
    if cycle < cores[c, 0]:
        cores[c, 0] = cycle


@inlined
def is_far(cycle):
    """True for a cycle that only an answer can make come."""
    return cycle >= FAR
