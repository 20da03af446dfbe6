"""States of a proof by induction that differ in one respect are not taken for one another.

In each kernel one turn of a loop is special in a way that is no fault itself; the same instructions as ever are wrong
after it. Every turn is a piece of its own here, so that only the state tells the turns apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from functional_fixture import Asm, machine

import npusim
from isa.asm import assemble
from isa.loader import load_machine
from isa.machine import Machine
from isa.program import Program
from isa.table import NEXT_TILE, WEIGHTS
from npusim.hazards import check_hazards, induction
from npusim.hazards.induction import Prover

TURNS, NEVER = 20, 99


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(induction, "LENGTH", 1)


@functools.cache
def ascend(flags_per_pair: int = 8) -> Machine:
    loaded = load_machine("ascend-310").machine
    return loaded.model_copy(update={"core": loaded.core.model_copy(update={"flags_per_pair": flags_per_pair})})


def choice(turn: int, special: str, usual: str = "nop", label: str = "a") -> str:
    """Some lines in one turn, others in all other turns."""
    return f"seqi r10, r9, {turn}\n bz r10, {label}1\n {special}\n br {label}2\n{label}1:\n {usual}\n{label}2:\n nop"


def kernel(body: str, before: str = "", after: str = "", cores: int = 1) -> Program:
    """A loop over `body`: r9 counts, %c, %a, %k, %s are four tiles of UB, %m is one at r6; y moves on."""
    args = ", ".join(["[&x, &y]"] * cores)
    return assemble(f"""
.program p
.machine ascend-310
.tensor x space=dram address=0 shape=[8, 32] dtype=fp32 role=input
.tensor y space=dram address=1024 shape=[{8 * TURNS}, 32] dtype=fp32 role=output
.operator o op_type=Exp shape=[8, 32] nodes=[o] dtype=fp32 macs=0 flops=1 min_bytes=1 inputs=[x] outputs=[y]
.kernel k(x, y) ub=16384
  .desc %x space=dram dtype=fp32 ext=[8, 32] base_reg=x
  .desc %y space=dram dtype=fp32 ext=[8, 32] base_reg=y
  .desc %c space=ub dtype=fp32 ext=[8, 32] base=0
  .desc %a space=ub dtype=fp32 ext=[8, 32] base=1024
  .desc %k space=ub dtype=fp32 ext=[8, 32] base=2048
  .desc %s space=ub dtype=fp32 ext=[8, 32] base=3072
  .desc %m space=ub dtype=fp32 ext=[8, 32] base_reg=r6
  cp %k, %x
  set dma1.0, 31
  wait vector, 31, 1
{before}
  li r8, {TURNS}
  loop r8, out
{body}
  addi y, y, 1024
  addi r9, r9, 1
  endl
out:
{after}
  halt
.end
.launch k grid={cores} operator=0 args=[{args}]
""")


def found(program: Program, hw: Machine) -> set[str]:
    """Kinds of findings, which are the same without induction."""
    with_induction, without = check_hazards(program, hw), check_hazards(program, hw, induction=False)
    assert with_induction == without
    return {f.kind for f in with_induction}


def live(turn: int) -> Program:
    """The store of the special turn reads what the next turn overwrites first of all."""
    return kernel(f"""
  v.copy %s, %k
  fence
  pbar dma1.0
  wait vector, 24, 1
  v.copy %a, %k
  set vector, 16
  {choice(turn, "li r6, 3072", "li r6, 1024")}
  wait dma2.0, 16, 1
  cp %y, %m
  set dma2.0, 24
""", "set dma2.0, 24", "wait vector, 24, 1")


def held_back(turn: int) -> Program:
    """A write that waits in its queue until the next turn is to another place."""
    return kernel(f"""
  bz r9, go
  pbar dma1.0
  set dma1.0, 9
go:
  cp %c, %x
  {choice(turn, "li r6, 0", "li r6, 1024")}
  wait vector, 9, 1
  v.copy %m, %k
""", "", "pbar dma1.0\n set dma1.0, 9")


def clocks(turn: int) -> Program:
    """The vector unit does not learn that the load is complete."""
    return kernel(f"""
  v.copy %a, %c
  set vector, 10
  wait dma1.0, 10, 1
  cp %c, %x
  {choice(turn, "nop", "set dma1.0, 9" + chr(10) + "wait vector, 9, 1")}
""", "cp %c, %x\n set dma1.0, 9\n wait vector, 9, 1")


def proof_of_a_set(turn: int) -> Program:
    """The flag is up at the end of each turn; in the special one it was set before the load."""
    return kernel(f"""
  wait vector, 9, 1
  v.copy %a, %c
  set vector, 10
  wait dma1.0, 10, 1
  {choice(turn, "set dma1.0, 9" + chr(10) + "cp %c, %x", "cp %c, %x" + chr(10) + "set dma1.0, 9")}
""", "cp %c, %x\n set dma1.0, 9", "wait vector, 9, 1")


def waiters(turn: int) -> Program:
    """Two pipes wait for the same flag, far from one another."""
    return kernel(f"""
  pbar vector
  {choice(turn, "set dma1.0, 12" + chr(10) + "wait vector, 12, 1")}
  {choice(12, "set dma1.0, 12" + chr(10) + "wait dma2.0, 12, 1", label="b")}
""")


def flags_of_a_pair(turn: int) -> Program:
    """Of eight flags that a pipe may set for another, five are used before, two in one turn, two more in another."""

    def use(pipe: str, flags: range) -> str:
        return "\n".join(f"set {pipe}, {flag}\n wait vector, {flag}, 1" for flag in flags)

    first, second = use("dma1.0", range(2)), use("dma1.0", range(2, 4))
    before = use("dma2.0", range(4)) + "\n" + use("dma1.0", range(4, 8))
    return kernel(f"pbar vector\n {choice(turn, first)}\n {choice(12, second, label='b')}", before)


def values(turn: int) -> Program:
    """Core 0 has written what both read later."""
    return kernel(f"""
  csr r11, 0
  bnz r11, on
  {choice(turn, "cp %c, %x")}
on:
  fence
  pbar vector
  pbar dma1.0
  {choice(12, "v.copy %a, %c", label="b")}
""", cores=2)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(live, "WAR"), (held_back, "WAW"), (clocks, "RAW"), (proof_of_a_set, "RAW"), (waiters, "ambiguous"),
     (flags_of_a_pair, "flags")],
)  # fmt: skip
@pytest.mark.parametrize("turn", [1, 7, NEVER])
def test_what_differs_in_the_state_is_remembered(make: Callable[[int], Program], kind: str, turn: int) -> None:
    kinds = found(make(turn), ascend() if kind == "flags" else ascend(0))
    careless = {"twice", "ambiguous"} - {kind}  # some set flags again without knowing of the last wait
    assert kind in kinds if turn != NEVER else kinds <= careless


@pytest.mark.parametrize(("turn", "cores"), [(0, {1}), (7, {1}), (NEVER, {0, 1})])
def test_bytes_that_have_values_are_those_of_the_core(turn: int, cores: set[int]) -> None:
    program = values(turn)
    assert found(program, ascend()) == {"uninitialised"}
    findings = check_hazards(program, ascend())
    assert min(f.core for f in findings) == min(cores)


@pytest.mark.parametrize(("special", "kind"), [(7, "deadlock"), (NEVER, None)])
def test_how_many_tiles_a_set_stands_behind_is_remembered(special: int, kind: str | None) -> None:
    """The set of the special turn is behind three tiles, of which the FIFO takes two before the wait for it."""
    asm = Asm()
    weight = asm.d("dram", "fp32", (4, 4), asm.tensor("w", (4, 4), "fp32", "input"), rows=1)
    out = asm.d("acc", "fp32", (4, 4), rows=1)

    def unless(wanted: bool, turn: int) -> None:
        asm.put("seqi", dst=1, a=2, imm=turn)
        skip = asm.put("bz" if wanted else "bnz", a=1)
        asm.put("set", dst=WEIGHTS, imm=3)
        asm.instrs[skip]["imm"] = len(asm.instrs)

    asm.put("set", dst=WEIGHTS, imm=3)
    for _ in range(3):
        asm.put("ldw", a=weight)
    asm.put("li", dst=3, imm=TURNS)
    loop = asm.put("loop", a=3)
    asm.put("wait", imm=3)
    for _ in range(3):
        asm.op("mm", out, weight, flags=NEXT_TILE)
    unless(False, special)
    for _ in range(3):
        asm.put("ldw", a=weight)
    unless(True, special)
    asm.put("addi", dst=2, a=2, imm=1)
    asm.put("endl")
    asm.instrs[loop]["imm"] = len(asm.instrs)
    asm.put("wait", imm=3)
    for _ in range(3):
        asm.op("mm", out, weight, flags=NEXT_TILE)
    assert found(asm.program(), machine()) == ({kind} if kind else set())


@pytest.mark.parametrize(("rows", "kind"), [(0, None), (1, "uninitialised")])
def test_what_a_window_cuts_off_is_part_of_a_turn(rows: int, kind: str | None) -> None:
    """The first turn reads a row less; the last one reads beyond the input, by the row that the first one left out."""
    asm = Asm()
    x = asm.tensor("x", (TURNS + 7 - rows, 16), "fp32", "input")
    asm.tensor("y", (64, 16), "fp32", "output")
    window = asm.d("dram", "fp32", (8, 16), x, (0, 4), base_reg=2, axis=(0,), coef=(1,), axis_stride=(64,),
                   limit_reg=(3, -1))  # fmt: skip
    asm.put("li", dst=3, imm=7)
    asm.put("li", dst=4, imm=TURNS)
    loop = asm.put("loop", a=4)
    asm.op("cp", asm.d("spm", "fp32", (8, 16)), window)
    asm.put("fence")
    asm.put("li", dst=3, imm=8)
    asm.put("addi", dst=2, a=2, imm=64)
    asm.put("endl")
    asm.instrs[loop]["imm"] = len(asm.instrs)
    assert found(asm.program(), machine()) == ({kind} if kind else set())


@pytest.mark.parametrize(("shift", "kind"), [(0, "WAR"), (64 * TURNS, None)])
def test_what_is_read_in_dram_is_not_written_without_order(shift: int, kind: str | None) -> None:
    """Everything has values from the start."""
    asm = Asm()
    x = asm.tensor("x", (2 * TURNS, 16), "fp32", "input")
    tile = asm.d("spm", "fp32", (16,), 1024)
    asm.op("cp", tile, asm.d("dram", "fp32", (16,), x))
    asm.put("fence")
    asm.put("li", dst=4, imm=TURNS)
    loop = asm.put("loop", a=4)
    asm.op("cp", asm.d("spm", "fp32", (16,)), asm.d("dram", "fp32", (16,), x, base_reg=2))
    asm.op("cp", asm.d("dram", "fp32", (16,), x + shift, base_reg=2), tile)
    asm.put("fence")
    asm.put("addi", dst=2, a=2, imm=64)
    asm.put("endl")
    asm.instrs[loop]["imm"] = len(asm.instrs)
    assert found(asm.program(), machine()) == ({kind} if kind else set())


@pytest.mark.parametrize(("first", "kind"), [("read", "uninitialised"), ("write", None)])
@pytest.mark.parametrize("issue", ["inorder", "vliw"])
def test_what_is_read_before_it_is_written(first: str, kind: str | None, issue: str) -> None:
    """Each turn writes the tile; in the first turn it matters whether it is read before."""
    asm = Asm()
    x = asm.d("dram", "fp32", (4,), asm.tensor("x", (4,), "fp32", "input"))
    asm.put("li", dst=4, imm=TURNS)
    loop = asm.put("loop", a=4)
    tile = asm.d("spm", "fp32", (4,))
    for what in (first, "write" if first == "read" else "read"):
        if what == "write":
            asm.op("cp", tile, x)
        else:
            asm.op("v.neg", asm.d("spm", "fp32", (4,), 64), tile)
        asm.put("fence")
    asm.put("endl")
    asm.instrs[loop]["imm"] = len(asm.instrs)
    assert found(asm.program(), machine(issue=issue)) == ({kind} if kind else set())


@pytest.mark.parametrize("hw", ["ascend-310", "ascend-910b2", "tpu-v1", "tpu-v3", "gemmini-16x16"])
def test_launches_that_read_what_earlier_ones_wrote_are_proved(hw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[bool] = []
    launch = Prover.launch
    monkeypatch.setattr(Prover, "launch", lambda *args: proved.append(launch(*args)) or proved[-1])
    assert check_hazards(npusim.compile("mlp", hw).built.program, load_machine(hw).machine) == []
    assert len(proved) > 2 and all(proved)
