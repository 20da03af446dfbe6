"""One thread at a time: what a kernel means, with no warps in it. The truth that warps are held against."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from simt_fixture import FP32, exact_fma, nearest

from isa.program import Program
from isa.simt_operands import has_immediate, immediate_bits
from isa.table import BY_CODE
from isa.table_simt import GUARD, GUARD_NOT, GUARD_SHIFT, IMMEDIATE, SCALAR_SOURCE

WORD = 0xFFFFFFFF


def signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


def real(x: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", x))[0])


def word(x: float) -> int:
    """fp32 bits of a number that fp32 holds."""
    return 0x7FFFFFFF if x != x else int(struct.unpack("<I", struct.pack("<f", x))[0])


def fma(x: int, y: int, z: int) -> int:
    return word(exact_fma(real(x), real(y), real(z), FP32))


INTEGER: dict[str, Callable[..., int]] = {
    "iadd": lambda a, b: a + b,
    "isub": lambda a, b: a - b,
    "imul": lambda a, b: a * b,
    "imad": lambda a, b, c: a * b + c,
    "imin": lambda a, b: min(signed(a), signed(b)),
    "imax": lambda a, b: max(signed(a), signed(b)),
    "iand": lambda a, b: a & b,
    "ixor": lambda a, b: a ^ b,
    "ishl": lambda a, b: a << b if b < 32 else 0,
    "isar": lambda a, b: signed(a) >> min(b, 31),
    "vmov": lambda a: a,
    "fadd": lambda a, b: fma(a, word(1.0), b),
    "fmul": lambda a, b: word(float(np.float32(real(a)) * np.float32(real(b)))),
    "ffma": fma,
    "i2f": lambda a: word(nearest_of(signed(a))),
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda a, b: a < b, "ge": lambda a, b: a >= b, "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}  # fmt: skip


def nearest_of(value: int) -> float:
    from fractions import Fraction

    return nearest(Fraction(value), FP32) if value else 0.0


class Thread:
    """A thread of a block, with registers of its own; runs to its end at once."""

    def __init__(self, program: Program, number: int, memory: Any, limit: int = 100_000) -> None:
        self.program, self.number, self.memory, self.limit = program, number, memory, limit
        self.v = [0] * program.kernels[0].registers
        self.r = [*program.args.tolist(), *[0] * 64]
        self.p = [False] * 8
        self.loops: list[list[int]] = []

    def run(self) -> None:
        pc = 0
        for _ in range(self.limit):
            record = self.program.instrs[pc]
            name = BY_CODE[int(record["op"])].name
            flags = int(record["flags"])
            runs = not flags & GUARD or self.p[flags >> GUARD_SHIFT & 7] != bool(flags & GUARD_NOT)
            if name == "halt" or (name == "exit" and runs):
                return
            pc = self.control(name, record, pc) if runs else pc + 1
        raise AssertionError("a test kernel does not end")

    def control(self, name: str, record: Any, pc: int) -> int:
        """Execute an instruction; return the address of the next one."""
        if name == "bra":
            return int(record["imm"])
        if name == "loop":
            if self.r[record["a"]] <= 0:
                return int(record["imm"])
            self.loops.append([pc + 1, self.r[record["a"]] - 1])
        elif name == "endl":
            body, left = self.loops.pop()
            if left:
                self.loops.append([body, left - 1])
                return body
        elif name == "li":
            self.r[record["dst"]] = int(record["imm"])
        else:
            self.data(name, record)
        return pc + 1

    def source(self, record: Any, slot: str) -> int:
        value = int(record[slot])
        if value == IMMEDIATE:
            return immediate_bits(record)
        return self.r[value - SCALAR_SOURCE] & WORD if value >= SCALAR_SOURCE else self.v[value]

    def data(self, name: str, record: Any) -> None:
        family, _, rest = name.partition(".")
        if name == "vid":
            self.v[record["dst"]] = (self.number % 32, self.number, self.number // 32)[record["imm"]]
        elif family in ("ldg", "stg"):
            address = self.r[record["a"]] + self.v[record["b"]] + int(record["imm"])
            place = self.memory[address : address + 4].view(np.uint32)
            if family == "ldg":
                self.v[record["dst"]] = int(place[0])
            else:
                place[0] = self.v[record["c"]]
        elif name == "sel":
            self.v[record["dst"]] = self.source(record, "a" if self.p[record["c"]] else "b")
        elif family in ("isetp", "usetp", "fsetp"):
            view = {"isetp": signed, "usetp": int, "fsetp": real}[family]
            a, b = view(self.source(record, "a")), view(self.source(record, "b"))
            self.p[record["dst"]] = COMPARE[rest](a, b)
        else:
            fields = BY_CODE[int(record["op"])].fields.split()
            values = [self.source(record, f[1]) for f in fields if f[0] == "s"]
            self.v[record["dst"]] = INTEGER[name](*values) & WORD


def run_alone(program: Program, memory: Any) -> None:
    """Run each thread of the program's launch (one block) alone, in order."""
    assert not any(has_immediate(BY_CODE[int(r["op"])], r) and r["op"] == 0 for r in program.instrs)
    for number in range(int(program.launches[0]["block"])):
        Thread(program, number, memory).run()
