"""Arrays of warps as they are before anything has run."""

from __future__ import annotations

import numpy as np

from npusim.units.warps.layout import (
    L_COLUMNS,
    LOOP_DEPTH,
    SCALARS,
    STACK_DEPTH,
    T_COLUMNS,
    W_COLUMNS,
    WORK_WORDS,
    WarpState,
)

PREDICATE_ROWS = 8


def make_warps(warps: int, registers: int, lanes: int, blocks: int, shared_bytes: int) -> WarpState:
    """Return state for `warps` resident warps of `lanes` lanes with `registers` each, and the memory of `blocks`."""
    return WarpState(
        warps=np.zeros((warps, W_COLUMNS), np.int64),
        stack=np.zeros((warps, STACK_DEPTH, T_COLUMNS), np.int64),
        loops=np.zeros((warps, LOOP_DEPTH, L_COLUMNS), np.int64),
        regs=np.zeros((warps, max(1, registers), lanes), np.uint32),
        scalars=np.zeros((warps, SCALARS), np.int64),
        preds=np.zeros((warps, PREDICATE_ROWS), np.int64),
        shared=np.zeros((blocks, shared_bytes), np.uint8),
        work=np.zeros(WORK_WORDS, np.int64),
    )
