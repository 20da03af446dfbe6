"""The sequencer's own instructions: registers, branches and hardware loops."""

from __future__ import annotations

from npusim.engine.layout import (
    C_BLOCK,
    C_LOOP0,
    C_LOOPS,
    C_PC,
    C_REGS,
    I_A,
    I_B,
    I_DST,
    I_IMM,
    I_OP,
    MAX_LOOPS,
)
from npusim.jit import kernel
from npusim.units.scalar import BNZ, BR, BZ, CSR, ENDL, LI, LOOP, scalar_value

FIRST, LAST = LI, ENDL


@kernel
def control(cores, c, op, a, imm, pc):
    """Execute a branch or loop instruction; returns the next pc, or -1 when loops nest too deep or an end is loose."""
    if op == BR:
        return imm
    if op == BZ:
        return imm if a == 0 else pc + 1
    if op == BNZ:
        return imm if a != 0 else pc + 1
    depth = cores[c, C_LOOPS]
    if op == LOOP:
        if a <= 0:
            return imm
        if depth >= MAX_LOOPS:
            return -1
        cores[c, C_LOOP0 + 3 * depth + 0] = pc + 1
        cores[c, C_LOOP0 + 3 * depth + 2] = a
        cores[c, C_LOOPS] = depth + 1
        return pc + 1
    if depth == 0:
        return -1
    cores[c, C_LOOP0 + 3 * (depth - 1) + 2] -= 1
    if cores[c, C_LOOP0 + 3 * (depth - 1) + 2] > 0:
        return cores[c, C_LOOP0 + 3 * (depth - 1) + 0]
    cores[c, C_LOOPS] = depth - 1
    return pc + 1


@kernel
def step_scalar(code, cores, c):
    """Execute the scalar instruction at the core's pc; returns False when the code is bad."""
    pc = cores[c, C_PC]
    op = int(code[pc, I_OP])
    ra, rb, rd = int(code[pc, I_A]), int(code[pc, I_B]), int(code[pc, I_DST])
    imm = int(code[pc, I_IMM])
    a = cores[c, C_REGS + ra] if ra >= 0 else 0
    b = cores[c, C_REGS + rb] if rb >= 0 else 0
    if op >= BR:
        following = control(cores, c, op, a, imm, pc)
        if following < 0:
            return False
        cores[c, C_PC] = following
        return True
    if op == CSR:
        cores[c, C_REGS + rd] = cores[c, C_BLOCK + imm]
    else:
        cores[c, C_REGS + rd] = scalar_value(op, a, b, imm)
    cores[c, C_PC] = pc + 1
    return True
