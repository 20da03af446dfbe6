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
def extent(desc, cores, c, d, i):
    """Extent of dimension i of descriptor d now."""
    most = desc[d, D_EXT + i]
    reg = desc[d, D_EXT_REG + i]
    if reg < 0:
        return most
    return max(0, min(most, cores[c, C_REGS + reg]))


@kernel
def elements(desc, cores, c, d, first, last):
    """Product of the extents of dimensions first..last-1."""
    total = 1
    for i in range(first, last):
        total *= extent(desc, cores, c, d, i)
    return total


@kernel
def address(desc, cores, c, d):
    """Byte address of the first element, windows aside."""
    reg = desc[d, D_BASE_REG]
    base = desc[d, D_BASE]
    return base + cores[c, C_REGS + reg] if reg >= 0 else base


@kernel
def first_byte(desc, cores, c, d):
    """Byte address of the first element, wherever its windows stand."""
    at = address(desc, cores, c, d)
    for x in range(2):
        reg = desc[d, D_ORIGIN_REG + x]
        origin = desc[d, D_ORIGIN + x] + (cores[c, C_REGS + reg] if reg >= 0 else 0)
        at += desc[d, D_AXIS_STRIDE + x] * origin
    return at


@kernel
def axis_range(desc, cores, c, d, x):
    """Lowest and highest coordinate of a window axis that lie inside its limits."""
    reg = desc[d, D_ORIGIN_REG + x]
    low = desc[d, D_ORIGIN + x] + (cores[c, C_REGS + reg] if reg >= 0 else 0)
    reg = desc[d, D_LIMIT_REG + x]
    limit = cores[c, C_REGS + reg] if reg >= 0 else desc[d, D_LIMIT + x]
    high = low
    for i in range(desc[d, D_DIMS]):
        if desc[d, D_AXIS + i] == x:
            reach = desc[d, D_COEF + i] * (extent(desc, cores, c, d, i) - 1)
            low, high = low + min(0, reach), high + max(0, reach)
    return max(0, min(low, limit - 1)), max(0, min(high, limit - 1))


@kernel
def interval(v, desc, cores, c, d):
    """Lowest byte and one past the highest byte that a non-empty operand may touch (its bounding interval)."""
    low = address(desc, cores, c, d)
    high = low + v[V_DTYPE_BYTES + desc[d, D_DTYPE]]
    windowed = False
    for i in range(desc[d, D_DIMS]):
        stride, x = desc[d, D_STRIDE + i], desc[d, D_AXIS + i]
        if x >= 0:
            windowed = True
            stride -= desc[d, D_AXIS_STRIDE + x] * desc[d, D_COEF + i]
        reach = stride * (extent(desc, cores, c, d, i) - 1)
        low, high = low + min(0, reach), high + max(0, reach)
    if windowed:
        for x in range(2):
            first, last = axis_range(desc, cores, c, d, x)
            step = desc[d, D_AXIS_STRIDE + x]
            low += min(first * step, last * step)
            high += max(first * step, last * step)
    return low, high


@kernel
def note_interval(v, desc, cores, ops, c, slot, d, writes):
    """Record an operand's interval in the instruction's slot, for the interlock."""
    n = ops[c, slot, O_INTERVALS]
    low, high = interval(v, desc, cores, c, d)
    column = O_INTERVAL0 + 4 * n
    ops[c, slot, column] = desc[d, D_SPACE]
    ops[c, slot, column + 1] = low
    ops[c, slot, column + 2] = high
    ops[c, slot, column + 3] = writes
    ops[c, slot, O_INTERVALS] = n + 1


@kernel
def note_runs(v, desc, cores, ops, c, slot, d):
    """Record a memory operand as contiguous runs: bytes of a run and up to six outer dimensions."""
    n = desc[d, D_DIMS]
    run = v[V_DTYPE_BYTES + desc[d, D_DTYPE]]
    inner = n - 1
    while inner >= 0 and (desc[d, D_STRIDE + inner] == run or extent(desc, cores, c, d, inner) == 1):
        run *= extent(desc, cores, c, d, inner)
        inner -= 1
    ops[c, slot, O_BASE] = address(desc, cores, c, d)
    ops[c, slot, O_RUN] = run
    ops[c, slot, O_DIMS] = inner + 1
    ops[c, slot, O_HASH] = 0
    for i in range(inner + 1):
        ops[c, slot, O_EXT0 + i] = extent(desc, cores, c, d, i)
        ops[c, slot, O_STRIDE0 + i] = desc[d, D_STRIDE + i]
