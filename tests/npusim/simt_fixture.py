"""Build small programs of threads by hand, and round exact numbers, for the tests of what warps do."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from isa.loader import load_simt
from isa.program import DESC, INSTR, LAUNCH, Kernel, Program, instruction
from isa.simt_machine import SimtMachine
from isa.simt_operands import guard_bits
from isa.table import code
from isa.table_simt import IMMEDIATE, SCALAR_SOURCE

IMM = IMMEDIATE


def scalar(number: int) -> int:
    """Scalar register `number` as a source of any kind."""
    return SCALAR_SOURCE + number


@cache
def machine(lanes: int = 32) -> SimtMachine:
    """The teaching GPU, with warps of `lanes` and every product."""
    names = ("m16n8k8.f32.f16", "m16n8k16.f32.f16", "m16n8k16.f32.bf16", "m16n8k8.f32.tf32", "m16n8k32.s32.s8")
    chip = load_simt("gpu-tiny")
    core = chip.core.model_dump()
    core["warps"]["size"] = lanes
    core["mma"] = {f"mma.{name}": {"interval_cycles": 16, "latency_cycles": 24} for name in names}
    return SimtMachine.model_validate(chip.model_dump() | {"core": core})


class Threads:
    """One kernel under construction; `here` is the address of the next instruction."""

    def __init__(self, registers: int = 32, smem: int = 0) -> None:
        self.records: list[Any] = []
        self.registers, self.smem = registers, smem

    @property
    def here(self) -> int:
        return len(self.records)

    def put(self, name: str, guard: int | None = None, **fields: Any) -> int:
        """Append an instruction, guarded by predicate `guard` or, when it is ~p, by p negated; return its address."""
        flags = 0 if guard is None else guard_bits(guard if guard >= 0 else ~guard, guard < 0)
        self.records.append(instruction(code(name), flags=flags, **fields))
        return len(self.records) - 1

    def aim(self, address: int) -> None:
        """Let the branch or loop at `address` go to the next instruction."""
        self.records[address]["imm"] = self.here

    def program(self, args: tuple[int, ...] = (), grid: int = 1, block: int = 32) -> Program:
        """The program: one launch; a halt is appended."""
        self.put("halt")
        row = np.zeros(1, LAUNCH)
        row["grid"], row["block"], row["nargs"] = grid, block, len(args)
        params = tuple(f"p{i}" for i in range(len(args)))
        kernel = Kernel("k", 0, len(self.records), params, {"smem": self.smem}, self.registers)
        return Program("t", "gpu-tiny", np.array(self.records, INSTR), np.zeros(0, DESC), (kernel,), row,
                       np.array(args, np.int64), (), ())  # fmt: skip


def own_offset(t: Threads, block: int, dst: int = 0) -> None:
    """v[dst] = 4 x number of the thread in the launch; uses r60."""
    t.put("csr", dst=60, imm=0)
    t.put("muli", dst=60, a=60, imm=block)
    t.put("vid", dst=dst, imm=1)
    t.put("iadd", dst=dst, a=dst, b=scalar(60))
    t.put("ishl", dst=dst, a=dst, b=IMM, imm=2)


# Bits of the significand, exponent of the smallest subnormal, largest exponent.
FP32, FP16, BF16 = (24, -149, 127), (11, -24, 15), (8, -133, 127)


def nearest(exact: Fraction, kind: tuple[int, int, int]) -> float:
    """The number of a format that is nearest to `exact`, ties to even; not for an exact 0, whose sign it lacks."""
    bits, lowest, highest = kind
    top = exact.numerator.bit_length() - exact.denominator.bit_length()
    top -= abs(exact) < Fraction(2) ** top
    step = Fraction(2) ** max(top - bits + 1, lowest)
    rounded = round(exact / step) * step
    if abs(rounded) >= Fraction(2) ** (highest + 1):
        return float("inf") if exact > 0 else float("-inf")
    return float(rounded) if rounded else 0.0 if exact > 0 else -0.0


def exact_fma(x: float, y: float, z: float, kind: tuple[int, int, int]) -> float:
    """x * y + z rounded once to a format."""
    plain = x * y + z
    if not all(map(np.isfinite, (x, y, z))):
        return plain
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    return nearest(exact, kind) if exact else plain
