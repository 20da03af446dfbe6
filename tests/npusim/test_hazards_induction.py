"""Proofs by induction: the same findings as without, late faults of long loops, what is proved."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_programs import cases
from functional_fixture import Asm, machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import npusim
from isa.asm import assemble
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import resolve
from isa.program import SPACE_ID, Program
from isa.table import DMA, SCALAR, VECTOR, code
from npusim.functional.operand import Operand
from npusim.hazards import Finding, check_hazards
from npusim.hazards.induction import ProvedCore, Prover
from npusim.hazards.order import CoreOrder
from npusim.hazards.regions import Shapes, apart, covers

TRACES = Path(__file__).parents[2] / "traces"
TILE = 1024
RACES = {"RAW", "WAR", "WAW"}
RANDOM = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def ascend() -> Machine:
    return load_machine("ascend-310").machine


def pingpong(
    tiles: int, top: str = "", slots: int = 2, drop: tuple[str, ...] = (), x_tiles: int | None = None,
    step_y: int = TILE, before_store: str = "",
) -> Program:  # fmt: skip
    """y = exp(x) in tiles with some slots on a machine with queues; `top` comes first in the loop, r9 counts turns.

    Lines of the loop whose text is in `drop` are left out.
    """
    flags = [f"  set {pipe}, {base + p}" for p in range(slots) for pipe, base in (("vector", 0), ("dma2.0", 24))]
    ends = [f"  wait {pipe}, {base + p}, 1" for p in range(slots) for pipe, base in (("dma1.0", 0), ("vector", 24))]
    loop = f"""
    {top}
    wait dma1.0, 0, r4, 1
    cp %in, %x_tile
    set dma1.0, 8, r4
    wait vector, 8, r4, 1
    wait vector, 24, r4, 1
    v.exp %out, %in
    set vector, 0, r4
    set vector, 16, r4
    wait dma2.0, 16, r4, 1
    {before_store}
    cp %y_tile, %out
    set dma2.0, 24, r4
    addi x, x, {TILE}
    addi y, y, {step_y}
    addi r9, r9, 1
    modi r4, r9, {slots}
    muli r5, r4, {TILE}
"""
    body = "\n".join(line for line in loop.splitlines() if line.strip() not in drop)
    rows = 8 * (tiles if x_tiles is None else x_tiles)
    return assemble(f"""
.program p
.machine ascend-310
.tensor x space=dram address=0 shape=[{rows}, 32] dtype=fp32 role=input
.tensor y space=dram address={rows * 128} shape=[{8 * tiles}, 32] dtype=fp32 role=output
.operator exp op_type=Exp shape=[64, 32] nodes=[exp] dtype=fp32 macs=0 flops=1 min_bytes=1 inputs=[x] outputs=[y]
.kernel k(x, y, tiles) ub=16384
  .desc %x_tile space=dram dtype=fp32 ext=[8, 32] base_reg=x
  .desc %y_tile space=dram dtype=fp32 ext=[8, 32] base_reg=y
  .desc %in     space=ub dtype=fp32 ext=[8, 32] base_reg=r5
  .desc %out    space=ub dtype=fp32 ext=[8, 32] base=8192 base_reg=r5
{chr(10).join(flags)}
  loop tiles, drained
{body}
  endl
drained:
{chr(10).join(ends)}
  halt
.end
.launch k operator=0 args=[&x, &y, {tiles}]
""")


def waits(program: Program) -> list[int]:
    return [pc for pc in range(len(program.instrs)) if program.instrs[pc]["op"] == code("wait")]


def short(findings: list[Finding]) -> list[tuple[Any, ...]]:
    return [(f.kind, f.instrs, f.launch, f.core) for f in findings]


def alike(program: Program, hw: Machine, **more: Any) -> list[Finding]:
    """The findings, which are the same with and without induction."""
    found = check_hazards(program, hw, **more)
    assert short(found) == short(check_hazards(program, hw, induction=False, **more))
    return found


# ---- long loops


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the pieces of program that are proved, as opposed to known."""
    made: list[int] = []
    follow = ProvedCore.follow

    def count(self: ProvedCore, steps: Any, piece: Any) -> None:
        made.append(len(piece))
        follow(self, steps, piece)

    monkeypatch.setattr(ProvedCore, "follow", count)
    return made


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_what_is_proved_of_a_loop_does_not_grow_with_its_turns(slots: int, proofs: list[int]) -> None:
    totals = []
    for tiles in (120, 1200):
        proofs.clear()
        assert check_hazards(pingpong(tiles, slots=slots), ascend()) == []
        totals.append(sum(proofs))
    assert 0 < totals[0] == totals[1] < 11 * 40


@pytest.mark.parametrize("turn", [0, 1, 499, 500, 998, 999])
@pytest.mark.parametrize("which", range(4))
def test_a_wait_that_is_left_out_once_is_found_in_whatever_turn(which: int, turn: int) -> None:
    program = pingpong(1000)
    found = check_hazards(program, ascend(), skip=frozenset([(waits(program)[which], turn)]))
    assert {f.kind for f in found} & RACES and len(next(f for f in found if f.kind in RACES).instrs) == 2


@pytest.mark.parametrize("turn", [3, 500, 999])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (f"addi x, y, {-TILE}", "RAW"),  # the load reads what the store before it may still be writing
        (f"addi r5, r5, {TILE}", None),  # both buffers move on by a tile, which is nobody's
        ("set dma1.0, 8, r4", "twice"),
        (f"addi x, x, {1 << 24}", "bounds"),
    ],
)
def test_a_turn_that_differs_is_looked_at(turn: int, change: str, kind: str | None) -> None:
    """The register that counts turns decides it, far from the places where the loop begins and ends."""
    top = f"mov r11, x\n    seqi r10, r9, {turn}\n    bz r10, on\n    {change}\non:"
    found = check_hazards(pingpong(1000, top, slots=1, before_store="mov x, r11"), ascend())
    assert (kind in {f.kind for f in found}) if kind else not found


@pytest.mark.parametrize(("tiles_ago", "kind"), [(0, "uninitialised"), (500, None)])
def test_the_last_load_reads_a_result_that_is_there_or_not(tiles_ago: int, kind: str | None) -> None:
    """Half a loop ago the flags have ordered it; what the last turn stores is not there yet."""
    top = f"seqi r10, r9, 999\n    bz r10, on\n    addi x, y, {-TILE * tiles_ago}\non:"
    found = check_hazards(pingpong(1000, top), ascend())
    assert (kind in {f.kind for f in found}) if kind else not found


@pytest.mark.parametrize(("step", "kind"), [(TILE, None), (TILE + 4, "bounds")])
def test_only_the_last_stores_leave_memory(step: int, kind: str | None) -> None:
    found = check_hazards(pingpong(1000, step_y=step), ascend())
    assert {f.kind for f in found} == ({kind} if kind else set())


@pytest.mark.parametrize("turn", [10, 500, 999])
def test_an_address_that_wraps_late_is_found(turn: int) -> None:
    """From some turn on the input comes from where the turn before put its result."""
    wrap = f"slti r10, r9, {turn}\n    bnz r10, on\n    addi x, y, {-TILE}\non:"
    found = check_hazards(pingpong(1000, top=wrap), ascend())
    assert [(f.kind, len(f.instrs)) for f in found] == [("RAW", 2)]


# ---- the same findings with and without


@st.composite
def queued(draw: Any) -> tuple[Program, frozenset[tuple[int, int]]]:
    """A ping-pong kernel with faults in some turns, and waits and sets to leave out."""
    tiles, slots = draw(st.integers(0, 14)), draw(st.integers(1, 3))
    turn = draw(st.integers(0, 13))
    change = draw(st.sampled_from([
        "nop", f"addi x, y, {-TILE}", f"addi y, y, {-TILE}", f"addi r5, r5, {TILE}", "set vector, 16, r4",
        f"addi x, x, {20 * TILE}", "wait vector, 8, r4, 1", "pbar vector", "fence", "barrier", "li r4, 0",
    ]))  # fmt: skip
    when = draw(st.sampled_from(["seqi", "slti"]))
    top = f"{when} r10, r9, {turn}\n    bz r10, on\n    {change}\non:"
    drop = draw(st.sampled_from([(), (), (), ("wait dma2.0, 16, r4, 1",), ("set vector, 0, r4",)]))
    short_of = draw(st.sampled_from([0, 0, 0, 1]))
    program = pingpong(tiles, top, slots, drop, max(1, tiles - short_of), draw(st.sampled_from([TILE, TILE, TILE - 4])))
    sync = [pc for pc in range(len(program.instrs)) if program.instrs[pc]["op"] in (code("set"), code("wait"))]
    skip = draw(st.frozensets(st.tuples(st.sampled_from(sync), st.integers(0, 13)), max_size=1))
    return program, skip


@RANDOM
@given(case=queued())
def test_findings_are_the_same_with_queues(case: tuple[Program, frozenset[tuple[int, int]]]) -> None:
    program, skip = case
    alike(program, ascend(), skip=skip)


LOAD, STORE = DMA, DMA + 1
TURN, SLOT, AT, IN, OUT, LEFT, SIZE, INNER = range(2, 10)


@st.composite
def looped(draw: Any) -> tuple[Program, int]:
    """Two nested loops that load, add and store tiles; slots, steps, edges and flags are drawn, faults are not rare."""
    asm = Asm()
    pick = functools.partial(lambda *values: draw(st.sampled_from(values)))
    cores, slots = pick(1, 1, 2), pick(1, 2, 3)
    outer, inner = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    total = outer * inner
    x = asm.tensor("x", (total * cores - pick(0, 0, 0, 1), 16), "fp32", "input")
    y = asm.tensor("y", (total * cores, 16), "fp32", "output")
    span, edge = pick(64, 64, 64, 60), draw(st.integers(1, 16))
    ins = asm.d("spm", "fp32", (16,), 0, base_reg=SLOT, ext_reg=(SIZE,))
    outs = asm.d("spm", "fp32", (16,), pick(1024, 1024, 128), base_reg=SLOT, ext_reg=(SIZE,))
    for p in range(slots):
        asm.put("set", dst=SCALAR, imm=8 + p)
    asm.put("csr", dst=AT)
    asm.put("muli", dst=AT, a=AT, imm=64 * total)
    asm.put("li", dst=LEFT, imm=outer)
    first = asm.put("loop", a=LEFT)
    asm.put("li", dst=INNER, imm=inner)
    second = asm.put("loop", a=INNER)
    asm.put("modi", dst=SLOT, a=TURN, imm=slots)
    asm.put("seqi", dst=SIZE, a=TURN, imm=total - 1)  # the last tile is an edge
    asm.put("muli", dst=SIZE, a=SIZE, imm=edge - 16)
    asm.put("addi", dst=SIZE, a=SIZE, imm=16)
    flag = asm.put("mov", dst=IN, a=SLOT)
    asm.put("muli", dst=SLOT, a=SLOT, imm=pick(64, 64, 64, 32))
    kept = {name: pick(True, True, True, True, True, False) for name in ("free", "ready", "done", "out")}

    def sync(name: str, pipe: int, base: int) -> None:
        if kept[name]:
            asm.put("set", dst=pipe, imm=base, a=IN)
            asm.put("wait", imm=base, a=IN)

    if kept["free"]:
        asm.put("wait", imm=8, a=IN)
    asm.op("cp", ins, asm.d("dram", "fp32", (16,), x, base_reg=AT, ext_reg=(SIZE,)))
    sync("ready", LOAD, 0)
    asm.op("v.adds", outs, ins, f0=1.0)
    sync("done", VECTOR, 4)
    asm.op("cp", asm.d("dram", "fp32", (16,), y, base_reg=AT, ext_reg=(SIZE,)), outs)
    if kept["free"]:
        asm.put("set", dst=STORE, imm=8, a=IN)
    if pick(False, False, True):
        asm.put(pick("fence", "barrier"))
    asm.put("addi", dst=AT, a=AT, imm=span)
    asm.put("addi", dst=TURN, a=TURN, imm=1)
    asm.put("endl")
    asm.instrs[second]["imm"] = len(asm.instrs)
    if pick(False, False, True):
        asm.put("addi", dst=AT, a=AT, imm=-64 * pick(0, 1))
    asm.put("endl")
    asm.instrs[first]["imm"] = len(asm.instrs)
    for p in range(slots):
        asm.put("wait", imm=8 + p)
    assert flag > second
    return asm.program(launches=draw(st.integers(1, 2)), cores=cores), cores


@RANDOM
@given(case=looped(), issue=st.sampled_from(["vliw", "inorder"]), data=st.data())
def test_findings_are_the_same_in_nested_loops(case: tuple[Program, int], issue: str, data: Any) -> None:
    program, cores = case
    pairs = st.tuples(st.sampled_from(waits(program)), st.integers(0, 12))
    skip = data.draw(st.frozensets(pairs, max_size=1))
    alike(program, machine(issue=issue, cores=cores), skip=skip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(case=st.sampled_from(["vliw", "inorder"]).flatmap(cases))
def test_findings_are_the_same_for_anything_legal(case: tuple[Program, Machine]) -> None:
    alike(*case, max_findings=1000)


def proofs_given(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each launch that is given to the prover is proved."""
    given_: list[bool] = []
    launch = Prover.launch
    monkeypatch.setattr(Prover, "launch", lambda *args: given_.append(launch(*args)) or given_[-1])
    return given_


@pytest.mark.parametrize("hw", ["ascend-310", "ascend-910b2", "tpu-v1", "tpu-v3", "gemmini-16x16", "cambricon-mlu"])
def test_every_launch_of_a_compiled_model_is_proved(hw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = proofs_given(monkeypatch)
    compilation, hardware = npusim.compile("gemm:96x80x64", hw), load_machine(hw).machine
    assert alike(compilation.built.program, hardware) == []
    assert given_ and all(given_)


BLOCKS = (TRACES / "ascend_blocks.asm").read_text(encoding="utf-8")
NEXT = "  add c, c, r8\n"  # each block has an output of its own


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_more_blocks_than_cores_are_proved_as_blocks(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = proofs_given(monkeypatch)
    hardware = load_machine("ascend-310", (f"cores={cores}",)).machine
    assert alike(assemble(BLOCKS), hardware) == [] and given_ == [True]
    assert NEXT in BLOCKS
    assert alike(assemble(BLOCKS.replace(NEXT, "")), hardware)[0].kind == "WAW" and given_ == [True, False]


def test_cores_that_signal_each_other_are_left_to_another_prover(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = proofs_given(monkeypatch)
    text = (TRACES / "ascend_mix.asm").read_text(encoding="utf-8")
    text = text.replace("grid=72", "grid=6").replace("4, 24]", "4, 2]")
    hardware = load_machine("ascend-910b2", ("cores=2", "other_cores.aiv.count=4")).machine
    assert alike(assemble(text), hardware) == []
    lone = text.replace("  signal dma1.0, 1, r16\n", "")
    assert lone != text and "deadlock" in {f.kind for f in alike(assemble(lone), hardware)}
    assert given_ == []


@pytest.mark.parametrize("hw", ["ascend-310", "tpu-v3"])
def test_each_wait_of_a_compiled_loop_that_is_left_out_is_judged_alike(hw: str) -> None:
    compilation, hardware = npusim.compile("gemm:96x80x64", hw), load_machine(hw).machine
    program = compilation.built.program
    judged = [alike(program, hardware, skip=frozenset([(pc, turn)])) for pc in waits(program) for turn in (0, 2)]
    raced = [bool({f.kind for f in found} & RACES) for found in judged]
    assert any(raced) and not all(raced)


# ---- the parts


def bytes_of(shape: Any, base: int) -> list[int]:
    return [b + base for s, e in zip(shape.starts, shape.ends) for b in range(s, e)]


@pytest.mark.parametrize("seed", range(60))
def test_apart_and_covers_are_exact(seed: int) -> None:
    """Against bytes one by one."""
    rng, shapes = np.random.default_rng(seed), Shapes()

    def some(count: int) -> list[tuple[Any, Any]]:
        made = []
        for _ in range(count):
            n = int(rng.integers(1, 3))
            ext, stride = tuple(rng.integers(1, 4, n).tolist()), tuple(rng.integers(1, 30, n).tolist())
            operand = Operand(0, SPACE_ID["dram"], 1, 0, 0, ext, stride, ())
            made.append((shapes.of(operand), rng.integers(0, 400, int(rng.integers(1, 4)))))
        return made

    writes, reads = some(int(rng.integers(0, 3))), some(int(rng.integers(0, 3)))
    written = [b for shape, bases in writes for base in bases for b in bytes_of(shape, base)]
    read = {b for shape, bases in reads for base in bases for b in bytes_of(shape, base)}
    assert apart(writes, reads) == (len(written) == len(set(written)) and not read & set(written))
    whole = (np.array([0, 200]), np.array([150, 350]))
    for shape, bases in reads:
        inside = all(0 <= b < 150 or 200 <= b < 350 for b in bytes_of(shape, int(bases[0])))
        assert covers(whole, (shape.starts + bases[0], shape.ends + bases[0])) == inside


def test_clocks_in_new_numbers_compare_with_live_instructions_as_before() -> None:
    order = CoreOrder(resolve(ascend()), frozenset([1, 2, 3]))
    order.dispatched[1:3] = [9, 4]
    order.sequencer = (0, 6, 4, *[0] * (len(order.dispatched) - 3))
    order.hear(2, (0, 8, 0, *[0] * (len(order.dispatched) - 3)))
    live: list[list[int]] = [[] for _ in order.dispatched]
    live[1] = [5, 7, 9]
    before = [[known[1] < number for number in live[1]] for known in (order.sequencer, *order.knows)]
    order.renumber(live)
    assert before == [[known[1] < number for number in (1, 2, 3)] for known in (order.sequencer, *order.knows)]
    assert order.dispatched[1:3] == [3, 0] and order.sequencer[:3] == (0, 1, 0)
