"""The sequencer's own instructions: registers, branches and hardware loops."""

from __future__ import annotations

from isa.table import code
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

LI, MOV, ADD, ADDI = (code(n) for n in ("li", "mov", "add", "addi"))
SUB, RSUBI, MUL, MULI = (code(n) for n in ("sub", "rsubi", "mul", "muli"))
DIVI, MODI, MIN, MINI, MAX, MAXI = (code(n) for n in ("divi", "modi", "min", "mini", "max", "maxi"))
SLT, SLTI, SEQ, SEQI, AND, CSR = (code(n) for n in ("slt", "slti", "seq", "seqi", "and", "csr"))
BR, BZ, BNZ, LOOP, ENDL = (code(n) for n in ("br", "bz", "bnz", "loop", "endl"))
FIRST, LAST = LI, ENDL


@kernel
def arithmetic(op, a, b, imm):
    """Value of the register operations on a or on a and imm (first half of the table)."""
    if op == LI:
        return imm
    if op == MOV:
        return a
    if op == ADD:
        return a + b
    if op == ADDI:
        return a + imm
    if op == SUB:
        return a - b
    if op == RSUBI:
        return imm - a
    if op == MUL:
        return a * b
    if op == MULI:
        return a * imm
    if op == DIVI:
        return a // imm
    return a - imm * (a // imm)


@kernel
def comparison(op, a, b, imm):
    """Value of min, max, comparisons and bitwise operations (second half of the table)."""
    if op == MIN:
        return min(a, b)
    if op == MINI:
        return min(a, imm)
    if op == MAX:
        return max(a, b)
    if op == MAXI:
        return max(a, imm)
    if op == SLT:
        return 1 if a < b else 0
    if op == SLTI:
        return 1 if a < imm else 0
    if op == SEQ:
        return 1 if a == b else 0
    if op == SEQI:
        return 1 if a == imm else 0
    return a & b


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
    elif op <= MODI:
        cores[c, C_REGS + rd] = arithmetic(op, a, b, imm)
    else:
        cores[c, C_REGS + rd] = comparison(op, a, b, imm)
    cores[c, C_PC] = pc + 1
    return True
