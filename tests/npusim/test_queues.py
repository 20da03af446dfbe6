"""Machines with queues: waits that hold one pipe, exact times of a ping-pong kernel, and its hazards when mutated."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from functional_fixture import no_host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isa.asm import assemble
from isa.disasm import disassemble
from isa.errors import DeadlockError, ProgramError
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import resolve
from isa.program import Program
from isa.table import code
from isa.verify import verify
from npusim.engine.run import run
from npusim.functional import execute
from npusim.hazards import Finding, check_hazards
from npusim.stepper import step

KERNEL = Path(__file__).parents[2] / "traces" / "ascend_pingpong.asm"
TILES = 8
RACES = ("RAW", "WAR", "WAW")
WAIT, SET = code("wait"), code("set")


@functools.cache
def ascend(*settings: str) -> Machine:
    return load_machine("ascend-310", settings).machine


@functools.cache
def pingpong() -> Program:
    return assemble(KERNEL.read_text(encoding="utf-8"))


def of(program: Program, op: int) -> list[int]:
    return [pc for pc in range(len(program.instrs)) if program.instrs[pc]["op"] == op]


def races(found: list[Finding]) -> list[Finding]:
    return [f for f in found if f.kind in RACES]


def both(program: Program, machine: Machine) -> int:
    """Cycles by engine and stepper, which agree in every state of every pipe and in every instruction."""
    params = resolve(machine)
    mine, truth = run(program, params), step(program, params)
    assert mine.total_cycles == truth.total_cycles
    assert np.array_equal(mine.states, truth.states)
    assert sorted((int(e["start"]), int(e["end"]), int(e["pipe"]), int(e["instr"])) for e in mine.events) == sorted(
        (start, end, pipe, pc) for start, end, _, pipe, _, pc in truth.events
    )
    return mine.total_cycles


# ---- the kernel that is shipped


def test_the_kernel_is_sound_right_and_timed_as_the_stepper_times_it() -> None:
    program, machine = pingpong(), ascend()
    verify(program, machine)
    assert check_hazards(program, machine) == []
    x = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    assert np.allclose(execute(program, machine, {"x": x}, no_host).tensors["y"], np.exp(x), rtol=1e-6)
    both(program, machine)
    assert np.array_equal(assemble(disassemble(program)).instrs, program.instrs)


def loop_waits() -> list[tuple[int, int]]:
    return [(pc, i) for pc in of(pingpong(), WAIT)[:4] for i in range(TILES)]


def test_every_loop_wait_that_is_left_out_is_a_race_with_both_instructions_and_the_bytes() -> None:
    kinds: Counter[str] = Counter()
    for skipped in loop_waits():
        first = races(check_hazards(pingpong(), ascend(), skip=frozenset([skipped])))[0]
        assert len(first.instrs) == 2 and re.search(r"bytes \[\d+, \d+\) of ub", first.message)
        kinds[first.kind] += 1
    assert kinds == {"RAW": 16, "WAR": 16}


@pytest.mark.parametrize("pc", range(4))
def test_every_static_deletion_of_a_loop_wait_is_found(pc: int) -> None:
    skip = frozenset((of(pingpong(), WAIT)[pc], i) for i in range(TILES))
    assert races(check_hazards(pingpong(), ascend(), skip=skip))


def fed_by(wait: int, turn: int) -> tuple[int, int]:
    """The set that the wait of an iteration takes: (instruction, occurrence)."""
    program = pingpong()
    slot = turn % 2
    flag = int(program.instrs[wait]["imm"])
    before = [pc for pc in of(program, SET)[:4] if program.instrs[pc]["imm"] == flag + slot]  # of the prologue
    inside = next(pc for pc in of(program, SET)[4:] if program.instrs[pc]["imm"] == flag)
    if before and turn < 2:
        return before[0], 0
    return inside, turn - (2 if before else 0)


def test_of_the_pairs_of_set_and_wait_only_the_first_uses_of_free_slots_are_redundant() -> None:
    quiet = [
        (wait, turn)
        for wait, turn in loop_waits()
        if not races(check_hazards(pingpong(), ascend(), skip=frozenset([(wait, turn), fed_by(wait, turn)])))
    ]
    first, third = of(pingpong(), WAIT)[0], of(pingpong(), WAIT)[2]  # MTE2 and vector wait for a free slot
    assert quiet == [(first, 0), (first, 1), (third, 0), (third, 1)]


def test_pipes_that_wait_for_each_other_are_a_deadlock_that_names_both() -> None:
    """Without the first credits the load waits for the computation that waits for the load."""
    text = KERNEL.read_text(encoding="utf-8").replace("  set vector, 0  ", "#").replace("  set vector, 1\n", "\n")
    found = [f for f in check_hazards(assemble(text), ascend()) if f.kind == "deadlock"]
    assert len(found) == 1
    assert "MTE2 waits at 5 `wait dma1.0, 0, r4, 1` for flag 0, which VECTOR would set at 11" in found[0].message
    assert "VECTOR waits at 8 `wait vector, 2, r4, 1` for flag 2, which MTE2 would set at 7" in found[0].message


def test_a_flag_that_two_pipes_wait_for_is_ambiguous() -> None:
    """Either may take the only set that there is; the other one then waits for ever."""
    text = KERNEL.read_text(encoding="utf-8").replace("  wait vector, 7, 1", "  wait dma1.0, 7, 1")
    found = check_hazards(assemble(text), ascend())
    assert [f.kind for f in found] == ["ambiguous"] and "VECTOR and MTE2 wait for flag 7" in found[0].message


def test_engine_stepper_and_executor_refuse_a_wait_that_nobody_ends() -> None:
    text = KERNEL.read_text(encoding="utf-8").replace("  set vector, 1\n", "")
    program = assemble(text)
    for attempt in (
        lambda: run(program, resolve(ascend())), lambda: step(program, resolve(ascend())),
        lambda: execute(program, ascend(), {"x": np.zeros((64, 32), np.float32)}, no_host),
    ):  # fmt: skip
        with pytest.raises(DeadlockError):
            attempt()


def test_a_deadlock_of_the_engine_names_the_pipe_that_is_held() -> None:
    program = assemble(KERNEL.read_text(encoding="utf-8").replace("  set vector, 1\n", ""))
    with pytest.raises(DeadlockError, match=r"core 0: MTE2 is held by instruction \d+ `wait dma1.0, 0, r4, 1`"):
        run(program, resolve(ascend()))


def test_waits_are_events_of_their_pipe_with_the_instruction_that_ended_them() -> None:
    """The third load waits until the first computation has freed its slot."""
    program, params = pingpong(), resolve(ascend())
    record = run(program, params)
    label = {p.index: p.label for p in params.pipes}
    arrows = Counter((label[int(w["by_pipe"])], label[int(w["pipe"])]) for w in record.waits if w["by_start"] >= 0)
    assert {("MTE2", "VECTOR"), ("VECTOR", "MTE3")} <= set(arrows)
    exps = {int(e["end"]) for e in record.events if label[int(e["pipe"])] == "VECTOR"}
    assert all(int(w["end"]) in exps for w in record.waits if label[int(w["pipe"])] == "MTE3")


def test_only_machines_with_queues_hold_a_pipe() -> None:
    text = KERNEL.read_text(encoding="utf-8").replace("ascend-310", "gemmini-16x16").replace("space=ub", "space=spm")
    program = assemble(text.replace("ub=4096", "spm=4096"))
    with pytest.raises(ProgramError, match="only a machine with `issue: queues` holds a pipe"):
        verify(program, load_machine("gemmini-16x16", ("core.flags=16",)).machine)


# ---- exact times

# The shipped kernel between l1 and ub, where every time is fixed: MTE1 in the place of MTE2, and the tiles stay.
STAGES = KERNEL.read_text(encoding="utf-8")
for old, new in (
    ("%x_tile space=dram dtype=fp32 ext=[8, 32] base_reg=x", "%x_tile space=l1 dtype=fp32 ext=[8, 32]"),
    ("%y_tile space=dram dtype=fp32 ext=[8, 32] base_reg=y", "%y_tile space=l1 dtype=fp32 ext=[8, 32] base=8192"),
    ("ub=4096", "ub=4096 l1=16384"), ("dma1.0", "dma0.0"), ("&y, 8]", "&y, TILES]"),
):  # fmt: skip
    assert old in STAGES
    STAGES = STAGES.replace(old, new)
HEAD, END = STAGES.split("  set vector, 0")[0], "  halt\n.end\n.launch pingpong args=[&x, &y, 1]\n"
EQUAL = (  # every stage takes 8 cycles, and the sequencer none
    "core.scalar.cycles=0", "core.vector.latency_cycles=0", "core.vector.op_cycles.exp=2",
    "core.dma.mte3.startup_cycles=0",
    *(f"core.paths.{i}.latency_cycles=0" for i in (4, 6)),
)  # fmt: skip


@pytest.mark.parametrize("tiles", [1, 2, 3, 8, 20])
def test_two_slots_and_equal_stages_take_n_plus_2_stage_times(tiles: int) -> None:
    assert both(assemble(STAGES.replace("TILES", str(tiles))), ascend(*EQUAL)) == (tiles + 2) * 8


def test_a_pipe_barrier_waits_for_the_latency_of_what_went_before() -> None:
    copy = "  cp %in, %x_tile\n"
    slow = ("core.scalar.cycles=0", "core.paths.4.latency_cycles=16")
    assert both(assemble(HEAD + copy + copy + END), ascend(*slow)) == 8 + 8 + 16
    assert both(assemble(HEAD + copy + "  pbar dma0.0\n" + copy + END), ascend(*slow)) == 2 * (8 + 16)


# ---- a product through every memory


def matmul() -> Program:
    return assemble(KERNEL.with_name("ascend_matmul.asm").read_text(encoding="utf-8"))


def test_a_product_through_every_memory_is_right_sound_and_timed_as_the_stepper_times_it() -> None:
    program, machine = matmul(), ascend()
    verify(program, machine)
    assert check_hazards(program, machine) == []
    a = np.random.default_rng(2).integers(-8, 8, (64, 128)).astype(np.float16)
    b = np.random.default_rng(3).integers(-8, 8, (128, 64)).astype(np.float16)
    found = execute(program, machine, {"a": a, "b": b}, no_host).tensors["c"]
    assert np.array_equal(found, (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float16))
    both(program, machine)


def test_every_wait_of_the_product_but_those_that_take_credits_back_is_needed() -> None:
    program, machine = matmul(), ascend()
    waits = of(program, WAIT)
    for pc, turns in [*((pc, 4) for pc in waits[:4]), *((pc, 1) for pc in waits[4:6])]:
        for turn in range(turns):
            assert races(check_hazards(program, machine, skip=frozenset([(pc, turn)]))), (pc, turn)
    for pc in waits[6:]:
        assert {f.kind for f in check_hazards(program, machine, skip=frozenset([(pc, 0)]))} == {"leftover"}


FEED = """
.program feed
.machine ascend-310
.tensor x space=dram address=0 shape=[32] dtype=fp16 role=input
.kernel feed(steps) l1=8192 l0a=4096 l0b=4096 l0c=16384
  .desc %a_l1 space=l1  dtype=DTYPE ext=[M, K]
  .desc %b_l1 space=l1  dtype=DTYPE ext=[K, N] base=4096
  .desc %a    space=l0a dtype=DTYPE ext=[M, K] rows=1 base_reg=r5
  .desc %b    space=l0b dtype=DTYPE ext=[K, N] rows=1 base_reg=r5
  .desc %sums space=l0c dtype=SUMS ext=[M, N] rows=1
  set matrix0, 2
  set matrix0, 3
  loop steps, fed
    wait dma0.0, 2, r4, 1
    cp %a, %a_l1
    cp %b, %b_l1
    set dma0.0, 0, r4
    wait matrix0, 0, r4, 1
    mm matrix0, %sums, %a, %b, r6
    set matrix0, 2, r4
    rsubi r4, r4, 1
    rsubi r5, r5, 2048
  endl
fed:
  wait dma0.0, 2, 1
  wait dma0.0, 3, 1
  halt
.end
.launch feed args=[100]
"""
DIRECT = ("core.scalar.cycles=0", "core.matrix.latency_cycles=0",
          *(f"core.paths.{i}.latency_cycles=0" for i in (2, 3)))  # fmt: skip
HALVED = ("core.paths.2.bytes_per_cycle=256", "core.paths.3.bytes_per_cycle=128")  # calibrated on Ascend 910B


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
@pytest.mark.parametrize(("blocks", "rates", "share"), [
    (1, (), 33), (2, (), 67), (3, (), 100), (1, HALVED, 17), (2, HALVED, 33), (3, HALVED, 50),
])  # fmt: skip
def test_small_blocks_of_the_cube_are_bound_by_their_way_into_l0(
    blocks: int, rates: tuple[str, ...], share: int, dtype: str
) -> None:
    """A block of 512 bytes takes a cycle into L0A and two into L0B; int8 has twice the k in the same bytes and time."""
    text = FEED.replace("DTYPE", dtype).replace("SUMS", {"fp16": "fp32", "int8": "int32"}[dtype])
    for name, size in (("M", 16 * blocks), ("N", 16 * blocks), ("K", 16 if dtype == "fp16" else 32)):
        text = text.replace(f"[{name},", f"[{size},").replace(f" {name}]", f" {size}]")
    feed, work = 3 * blocks * (2 if rates else 1), blocks * blocks
    cycles = both(assemble(text), ascend(*DIRECT, *rates))
    assert cycles == 100 * max(feed, work) + min(feed, work)
    assert round(100 * work / max(feed, work)) == share


# ---- random programs

PIPES = {"dma0.0": "cp %in, %x_tile", "vector": "v.exp %out, %in", "dma2.0": "cp %y_tile, %out"}
FAR = """
  .desc %far space=dram dtype=fp32 ext=[8, 32] base_reg=x
  .desc %came space=l1 dtype=fp32 ext=[8, 32] base=4096
"""


@given(seed=st.integers(0, 1 << 32), depth=st.sampled_from([2, 3, 8]), cycles=st.sampled_from([0, 1, 3]),
       stall=st.sampled_from([0, 1, 5]))  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_programs_take_as_long_as_the_stepper_says(seed: int, depth: int, cycles: int, stall: int) -> None:
    """Sets and waits in program order, barriers of pipes, and tiles that arrive in l1 while others leave it.

    No program is stuck, because each flag has one waiter.
    """
    random = np.random.default_rng(seed)
    names, body, raised = list(PIPES), [], Counter[int]()

    def waiter(flag: int) -> str:
        return f"{names[flag % 3]}, " if flag < 6 else ""  # else the sequencer

    for _ in range(int(random.integers(5, 60))):
        pipe, kind = names[int(random.integers(3))], int(random.integers(0, 12))
        if kind < 5:
            body.append(PIPES[pipe])
        elif kind < 8:
            flag = int(random.integers(0, 8))
            raised[flag] += 1
            body.append(f"set {pipe if random.random() < 0.9 else 'scalar'}, {flag}")
        elif kind < 11 and +raised:
            flag = int(random.choice(sorted(+raised)))
            raised[flag] -= 1
            body.append(f"wait {waiter(flag)}{flag}, 1")
        else:
            body.append("cp %came, %far" if random.random() < 0.5 else f"pbar {pipe}")
    body += [f"wait {waiter(flag)}{flag}, {count}" for flag, count in sorted(raised.items()) if count]
    program = assemble(HEAD + FAR + "".join(f"  {line}\n" for line in body) + END)
    changed = (f"core.scalar.cycles={cycles}", *(f"core.dma.mte{i}.queue_depth={depth}" for i in (1, 2, 3)))
    machine = ascend(*changed, f"core.vector.queue_depth={depth}", f"core.spaces.l1.write_stall_cycles={stall}")
    verify(program, machine)
    both(program, machine)
