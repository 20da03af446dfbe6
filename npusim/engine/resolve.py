"""Operands at dispatch: extents and addresses from registers, sizes, byte intervals, the runs of a memory transfer."""

from __future__ import annotations

from npusim.engine.layout import (
    C_REGS,
    D_AXIS,
    D_AXIS_STRIDE,
    D_BASE,
    D_BASE_REG,
    D_COEF,
    D_DIMS,
    D_DTYPE,
    D_EXT,
    D_EXT_REG,
    D_LIMIT,
    D_LIMIT_REG,
    D_ORIGIN,
    D_ORIGIN_REG,
    D_SPACE,
    D_STRIDE,
    O_BASE,
    O_DIMS,
    O_EXT0,
    O_HASH,
    O_INTERVAL0,
    O_INTERVALS,
    O_RUN,
    O_STRIDE0,
    V_DTYPE_BYTES,
)
from npusim.jit import kernel


@kernel
def extent(s, c, d, i):
    """Extent of dimension i of descriptor d now."""
    most = s.desc[d, D_EXT + i]
    reg = s.desc[d, D_EXT_REG + i]
    if reg < 0:
        return most
    return max(0, min(most, s.core[c, C_REGS + reg]))


@kernel
def elements(s, c, d, first, last):
    """Product of the extents of dimensions first..last-1."""
    total = 1
    for i in range(first, last):
        total *= extent(s, c, d, i)
    return total


@kernel
def address(s, c, d):
    """Byte address of the first element, windows aside."""
    reg = s.desc[d, D_BASE_REG]
    base = s.desc[d, D_BASE]
    return base + s.core[c, C_REGS + reg] if reg >= 0 else base


@kernel
def axis_range(s, c, d, x):
    """Lowest and highest coordinate of a window axis that lie inside its limits."""
    reg = s.desc[d, D_ORIGIN_REG + x]
    low = s.desc[d, D_ORIGIN + x] + (s.core[c, C_REGS + reg] if reg >= 0 else 0)
    reg = s.desc[d, D_LIMIT_REG + x]
    limit = s.core[c, C_REGS + reg] if reg >= 0 else s.desc[d, D_LIMIT + x]
    high = low
    for i in range(s.desc[d, D_DIMS]):
        if s.desc[d, D_AXIS + i] == x:
            high += s.desc[d, D_COEF + i] * (extent(s, c, d, i) - 1)
    return max(0, min(low, limit - 1)), max(0, min(high, limit - 1))


@kernel
def interval(s, c, d):
    """Lowest byte and one past the highest byte that a non-empty operand may touch (its bounding interval)."""
    low = address(s, c, d)
    high = low
    windowed = False
    for i in range(s.desc[d, D_DIMS]):
        if s.desc[d, D_AXIS + i] >= 0:
            windowed = True
        high += s.desc[d, D_STRIDE + i] * (extent(s, c, d, i) - 1)
    if windowed:
        for x in range(2):
            first, last = axis_range(s, c, d, x)
            low += first * s.desc[d, D_AXIS_STRIDE + x]
            high += last * s.desc[d, D_AXIS_STRIDE + x]
    return low, high + s.values[V_DTYPE_BYTES + s.desc[d, D_DTYPE]]


@kernel
def note_interval(s, c, slot, d, writes):
    """Record an operand's interval in the instruction's slot, for the interlock."""
    n = s.op[c, slot, O_INTERVALS]
    low, high = interval(s, c, d)
    column = O_INTERVAL0 + 4 * n
    s.op[c, slot, column] = s.desc[d, D_SPACE]
    s.op[c, slot, column + 1] = low
    s.op[c, slot, column + 2] = high
    s.op[c, slot, column + 3] = writes
    s.op[c, slot, O_INTERVALS] = n + 1


@kernel
def note_runs(s, c, slot, d):
    """Record a memory operand as contiguous runs: bytes of a run and up to six outer dimensions."""
    n = s.desc[d, D_DIMS]
    run = s.values[V_DTYPE_BYTES + s.desc[d, D_DTYPE]]
    inner = n - 1
    while inner >= 0 and (s.desc[d, D_STRIDE + inner] == run or extent(s, c, d, inner) == 1):
        run *= extent(s, c, d, inner)
        inner -= 1
    s.op[c, slot, O_BASE] = address(s, c, d)
    s.op[c, slot, O_RUN] = run
    s.op[c, slot, O_DIMS] = inner + 1
    s.op[c, slot, O_HASH] = 0
    for i in range(inner + 1):
        s.op[c, slot, O_EXT0 + i] = extent(s, c, d, i)
        s.op[c, slot, O_STRIDE0 + i] = s.desc[d, D_STRIDE + i]
