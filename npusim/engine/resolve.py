"""Operands at dispatch: extents and addresses from registers, sizes, byte intervals, the runs of a memory transfer."""

from __future__ import annotations

from npusim.engine.layout import O_BASE, O_DIMS, O_EXT0, O_HASH, O_INTERVAL0, O_INTERVALS, O_RUN, O_STRIDE0
from npusim.jit import kernel


@kernel
def extent(s, c, d, i):
    """Extent of dimension i of descriptor d now."""
    most = s.descs[d]["ext"][i]
    reg = s.descs[d]["ext_reg"][i]
    if reg < 0:
        return most
    return max(0, min(most, s.regs[c, reg]))


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
    reg = s.descs[d]["base_reg"]
    base = s.descs[d]["base"]
    return base + s.regs[c, reg] if reg >= 0 else base


@kernel
def axis_range(s, c, d, x):
    """Lowest and highest coordinate of a window axis that lie inside its limits."""
    reg = s.descs[d]["origin_reg"][x]
    low = s.descs[d]["origin"][x] + (s.regs[c, reg] if reg >= 0 else 0)
    reg = s.descs[d]["limit_reg"][x]
    limit = s.regs[c, reg] if reg >= 0 else s.descs[d]["limit"][x]
    high = low
    for i in range(s.descs[d]["ndim"]):
        if s.descs[d]["axis"][i] == x:
            high += s.descs[d]["coef"][i] * (extent(s, c, d, i) - 1)
    return max(0, min(low, limit - 1)), max(0, min(high, limit - 1))


@kernel
def interval(s, c, d):
    """Lowest byte and one past the highest byte that a non-empty operand may touch (its bounding interval)."""
    low = address(s, c, d)
    high = low
    windowed = False
    for i in range(s.descs[d]["ndim"]):
        if s.descs[d]["axis"][i] >= 0:
            windowed = True
        high += s.descs[d]["stride"][i] * (extent(s, c, d, i) - 1)
    if windowed:
        for x in range(2):
            first, last = axis_range(s, c, d, x)
            low += first * s.descs[d]["axis_stride"][x]
            high += last * s.descs[d]["axis_stride"][x]
    return low, high + s.dtype_bytes[s.descs[d]["dtype"]]


@kernel
def note_interval(s, c, slot, d, writes):
    """Record an operand's interval in the instruction's slot, for the interlock."""
    n = s.op[c, slot, O_INTERVALS]
    low, high = interval(s, c, d)
    column = O_INTERVAL0 + 4 * n
    s.op[c, slot, column] = s.descs[d]["space"]
    s.op[c, slot, column + 1] = low
    s.op[c, slot, column + 2] = high
    s.op[c, slot, column + 3] = writes
    s.op[c, slot, O_INTERVALS] = n + 1


@kernel
def note_runs(s, c, slot, d):
    """Record a memory operand as contiguous runs: bytes of a run and up to six outer dimensions."""
    n = s.descs[d]["ndim"]
    run = s.dtype_bytes[s.descs[d]["dtype"]]
    inner = n - 1
    while inner >= 0 and (s.descs[d]["stride"][inner] == run or extent(s, c, d, inner) == 1):
        run *= extent(s, c, d, inner)
        inner -= 1
    s.op[c, slot, O_BASE] = address(s, c, d)
    s.op[c, slot, O_RUN] = run
    s.op[c, slot, O_DIMS] = inner + 1
    s.op[c, slot, O_HASH] = 0
    for i in range(inner + 1):
        s.op[c, slot, O_EXT0 + i] = extent(s, c, d, i)
        s.op[c, slot, O_STRIDE0 + i] = s.descs[d]["stride"][i]
