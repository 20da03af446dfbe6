"""Codes of the scalar instructions, as constants for kernels."""

from __future__ import annotations

from isa.table import code

LI, MOV, ADD, ADDI, SUB, RSUBI, MUL, MULI, DIVI, MODI = (
    code(n) for n in ("li", "mov", "add", "addi", "sub", "rsubi", "mul", "muli", "divi", "modi")
)
MIN, MINI, MAX, MAXI, SLT, SLTI, SEQ, SEQI, AND, CSR = (
    code(n) for n in ("min", "mini", "max", "maxi", "slt", "slti", "seq", "seqi", "and", "csr")
)
BR, BZ, BNZ, LOOP, ENDL, NOP, MARK = (code(n) for n in ("br", "bz", "bnz", "loop", "endl", "nop", "mark"))
