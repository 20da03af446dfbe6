"""The control slice: scalars, loops, branches, guards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from functional_fixture import Asm, machine

from isa.errors import SimulationError
from isa.params import resolve
from npusim.functional.control import Step, Walker


def walk(asm: Asm, args: list[int] | None = None, limit: int = 100_000, core: int = 0, cores: int = 1) -> list[Step]:
    program = asm.program([args or []])
    return list(Walker(program, resolve(machine()), limit).steps(0, core, cores, args or []))


def trace(asm: Asm, args: list[int] | None = None, **more: int) -> list[int]:
    """Values of register 15 wherever the program shows it."""
    return [s.operands[0].base for s in walk(asm, args, **more) if s.operands[0] is not None]


def show(asm: Asm) -> None:
    """An instruction on the byte that register 15 names."""
    where = asm.d("spm", "fp32", (1,), base_reg=15)
    asm.op("v.relu", where, where)


@pytest.mark.parametrize(
    ("name", "left", "right", "expected"),
    [("add", 7, -9, -2), ("sub", 7, 9, -2), ("mul", -3, 5, -15), ("min", 2, -1, -1), ("max", 2, -1, 2),
     ("slt", 1, 2, 1), ("slt", 2, 2, 0), ("seq", 2, 2, 1), ("seq", 2, 3, 0), ("and", 12, 10, 8), ("mov", 5, 0, 5),
     ("addi", 7, -9, -2), ("rsubi", 7, 9, 2), ("muli", -3, 5, -15), ("divi", -7, 2, -4), ("divi", 7, 2, 3),
     ("modi", -7, 4, 1), ("mini", 2, -1, -1), ("maxi", 2, -1, 2), ("slti", 1, 2, 1), ("seqi", 3, 3, 1),
     ("li", 0, 42, 42), ("add", (1 << 63) - 1, 1, -(1 << 63)), ("mul", 1 << 62, 4, 0)],
)  # fmt: skip
def test_scalar(name: str, left: int, right: int, expected: int) -> None:
    asm = Asm()
    asm.put(name, dst=15, a=0, b=1, imm=right if abs(right) < 1 << 40 else 0)
    show(asm)
    assert trace(asm, [left, right]) == [expected]


def test_special_registers() -> None:
    asm = Asm()
    for number in (0, 1):
        asm.put("csr", dst=15, imm=number)
        show(asm)
    assert trace(asm, core=1, cores=4) == [1, 4]


@pytest.mark.parametrize("outer", [0, 1, 3])
@pytest.mark.parametrize("inner", [-1, 0, 2])
def test_nested_loops(outer: int, inner: int) -> None:
    asm = Asm()
    first = asm.put("loop", a=0)
    second = asm.put("loop", a=1)
    show(asm)
    asm.put("addi", dst=15, a=15, imm=1)
    asm.put("endl")
    asm.instrs[second]["imm"] = len(asm.instrs)
    asm.put("addi", dst=15, a=15, imm=10)
    asm.put("endl")
    asm.instrs[first]["imm"] = len(asm.instrs)
    show(asm)
    expected, value = [], 0
    for _ in range(outer):
        for _ in range(max(inner, 0)):
            expected.append(value)
            value += 1
        value += 10
    assert trace(asm, [outer, inner]) == [*expected, value]


@pytest.mark.parametrize(
    ("name", "value", "taken"), [("bz", 0, True), ("bz", 2, False), ("bnz", 0, False), ("bnz", -1, True)]
)
def test_branch(name: str, value: int, taken: bool) -> None:
    asm = Asm()
    asm.put(name, a=0, imm=2)
    asm.put("set", dst=3, imm=1)
    asm.put("set", dst=3, imm=2)
    assert [s.imm for s in walk(asm, [value])] == ([2] if taken else [1, 2])


def test_runaway_names_kernel_and_pc() -> None:
    asm = Asm()
    asm.put("nop")
    asm.put("br", imm=0)
    with pytest.raises(SimulationError, match=r"kernel k executed 1000 instructions in block 0, .*limit.* is at [01]:"):
        walk(asm, limit=1000)


@pytest.mark.parametrize(
    ("instrs", "message"),
    [
        ([("br", {"imm": 77})], "runs to 77"),
        ([("nop", {})], "no halt"),
        ([("endl", {})], "endl without loop"),
        ([("loop", {"a": 0})], "has no endl"),
        ([("addi", {"dst": 64, "a": 0})], "register 64 does not exist"),
        ([("divi", {"dst": 1, "a": 0, "imm": 0})], "division by 0"),
        ([("csr", {"dst": 1, "imm": 3})], "special register 3"),
        ([("v.neg", {"dst": 5, "a": 0})], "descriptor 5; there are 0"),
    ],
)
def test_bad_programs(instrs: list[tuple[str, dict[str, int]]], message: str) -> None:
    asm = Asm()
    for name, fields in instrs:
        asm.put(name, **fields)
    program = asm.program()
    program = replace(program, kernels=(replace(program.kernels[0], end=len(instrs)),))
    with pytest.raises(SimulationError, match=message):
        list(Walker(program, resolve(machine())).steps(0, 0, 1, []))


@pytest.mark.parametrize(("value", "expected"), [(-1, 0), (3, 3), (9, 4)])
def test_extent_register_is_clamped(value: int, expected: int) -> None:
    asm = Asm()
    d = asm.d("spm", "fp32", (4, 2), ext_reg=(0, -1), base_reg=1, base=8)
    asm.op("v.neg", d, d)
    (step,) = walk(asm, [value, 100])
    operand = step.operands[0]
    assert operand is not None
    assert (operand.ext, operand.base, operand.stride) == ((expected, 2), 108, (8, 4))


def test_pipes() -> None:
    """Order of docs/architecture.md: scalar, weights x2, matrix x2, vector, cross_lane, load x2, store."""
    asm = Asm()
    dram, spm, acc = (asm.d(space, "fp32", (4, 4), rows=1) for space in ("dram", "spm", "acc"))
    asm.op("cp", spm, dram, unit=3)
    asm.op("cp", dram, spm, unit=1)
    asm.put("ldw", a=spm, unit=1)
    asm.op("mm", acc, spm, unit=1)
    asm.op("fix", spm, acc)
    asm.op("v.lsum", spm, spm)
    asm.put("set", dst=6, unit=1)
    asm.put("wait")
    assert [s.pipe for s in walk(asm)] == [8, 9, 2, 4, 5, 6, 8, -1]


@pytest.mark.parametrize(
    ("pipe_class", "unit", "legal"),
    [(2, 1, True), (2, 2, False), (5, 0, True), (5, 1, False), (6, 2, True), (6, 3, True), (9, 0, False)],
)
def test_pipe_must_exist(pipe_class: int, unit: int, legal: bool) -> None:
    """Only the drain (absent here) falls back to the vector unit; DMA units count modulo their number."""
    asm = Asm()
    asm.put("set", dst=pipe_class, unit=unit)
    if legal:
        assert [s.pipe for s in walk(asm)] == [{(2, 1): 4, (5, 0): 5, (6, 2): 7, (6, 3): 8}[pipe_class, unit]]
        return
    with pytest.raises(SimulationError, match=f"no pipe of class {pipe_class}, unit {unit}"):
        walk(asm)


def test_no_path() -> None:
    asm = Asm()
    asm.op("cp", asm.d("acc", "fp32", (4,)), asm.d("dram", "fp32", (4,)))
    with pytest.raises(SimulationError, match="no copy path dram -> acc"):
        walk(asm)
