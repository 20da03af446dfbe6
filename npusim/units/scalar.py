"""The scalar instructions, for the sequencer of a core and for warps: their codes, and what they compute."""

from __future__ import annotations

from typing import Any

from isa.table import code
from npusim.jit import kernel

Word = Any

LI, MOV, ADD, ADDI, SUB, RSUBI, MUL, MULI, DIVI, MODI = (
    code(n) for n in ("li", "mov", "add", "addi", "sub", "rsubi", "mul", "muli", "divi", "modi")
)
MIN, MINI, MAX, MAXI, SLT, SLTI, SEQ, SEQI, AND, CSR = (
    code(n) for n in ("min", "mini", "max", "maxi", "slt", "slti", "seq", "seqi", "and", "csr")
)
BR, BZ, BNZ, LOOP, ENDL, NOP, MARK = (code(n) for n in ("br", "bz", "bnz", "loop", "endl", "nop", "mark"))


@kernel
def arithmetic(op: Word, a: Word, b: Word, imm: Word) -> Word:
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
def comparison(op: Word, a: Word, b: Word, imm: Word) -> Word:
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
def scalar_value(op: Word, a: Word, b: Word, imm: Word) -> Word:
    """What a scalar instruction makes of registers a and b or a and imm; not csr, branches or loops."""
    return arithmetic(op, a, b, imm) if op <= MODI else comparison(op, a, b, imm)
