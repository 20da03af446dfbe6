"""Blocks and cores: more blocks than cores, signals between cores, kernels of cube and vector cores at once."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from functional_fixture import no_host
from test_queues import both

from compiler.build import Built, build_program
from compiler.compile import compile_graph
from compiler.frontend import load_model
from compiler.lower.context import Choices
from isa.asm import assemble
from isa.errors import DeadlockError, ProgramError, SimulationError
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

assert build_program is not None
TRACES = Path(__file__).parents[2] / "traces"
RACES = ("RAW", "WAR", "WAW")
SMALL = ("cores=2", "other_cores.aiv.count=4", "memory.model=ideal", "memory.l2=null", "launch_cycles=0")


@functools.cache
def chip(*settings: str) -> Machine:
    return load_machine("ascend-910b2", settings).machine


@functools.cache
def mix() -> Program:
    """The shipped kernel for two cube cores and their four vector cores."""
    text = (TRACES / "ascend_mix.asm").read_text(encoding="utf-8")
    return assemble(text.replace("grid=72", "grid=6").replace("4, 24]", "4, 2]"))


def of(program: Program, *names: str) -> list[int]:
    codes = [code(name) for name in names]
    return [pc for pc in range(len(program.instrs)) if program.instrs[pc]["op"] in codes]


def races(found: list[Finding]) -> list[Finding]:
    return [f for f in found if f.kind in RACES]


# ---- signals


def test_cube_and_vector_cores_agree_with_the_stepper_and_are_proved() -> None:
    machine = chip(*SMALL)
    verify(mix(), machine)
    assert check_hazards(mix(), machine) == []
    both(mix(), machine)


@pytest.mark.parametrize("cycles", [1, 7, 400])
def test_a_signal_takes_its_time(cycles: int) -> None:
    """Engine and stepper agree for every latency, and a longer one makes a longer run."""
    quick, slow = (both(mix(), chip(*SMALL, f"core.signal_cycles={c}")) for c in (cycles, cycles + 50))
    assert slow > quick


def test_what_waits_for_another_core_is_named_so() -> None:
    record = run(mix(), resolve(chip(*SMALL)))
    labels = [p.label for p in record.pipes]
    from npusim.record import CAUSE_ID

    waited = record.states[0, 2, labels.index("MTE2"), CAUSE_ID["wait_core"]]
    assert waited > 0
    arrows = {(labels[w["by_pipe"]], int(w["by_core"]), labels[w["pipe"]], int(w["core"])) for w in record.waits}
    assert ("FIXP", 0, "MTE2", 2) in arrows and ("MTE2", 5, "FIXP", 1) in arrows


def test_every_await_in_the_loops_that_is_left_out_is_a_race_between_two_cores() -> None:
    program, machine = mix(), chip(*SMALL)
    inside = [pc for pc in of(program, "await") if program.instrs[pc]["a"] >= 0]
    assert len(inside) == 2  # of FIXP for a slot that is read, of MTE2 for one that is full
    for pc in inside:
        found = races(check_hazards(program, machine, without=frozenset([pc])))
        assert found and "of dram" in found[0].message and "signal on" in found[0].message
        assert " of core " in found[0].message


def test_a_signal_that_is_left_out_stops_the_other_core() -> None:
    program, machine = mix(), chip(*SMALL)
    for pc in of(program, "signal"):
        found = check_hazards(program, machine, without=frozenset([pc]))
        stuck = [f.message for f in found if f.kind == "deadlock" and "waits for cross-core flag" in f.message]
        assert stuck and "`signal dma" in stuck[0], pc


def test_a_lone_await_is_a_deadlock_everywhere() -> None:
    text = (TRACES / "ascend_mix.asm").read_text(encoding="utf-8")
    text = text.replace("grid=72", "grid=6").replace("4, 24]", "4, 2]").replace("  signal dma1.0, 1, r16\n", "")
    program, machine = assemble(text), chip(*SMALL)
    start = {"x": np.zeros((384, 128), np.float16), "w": np.zeros((128, 256), np.float16)}
    for attempt in (
        lambda: run(program, resolve(machine)), lambda: step(program, resolve(machine)),
        lambda: execute(program, machine, start, no_host),
    ):  # fmt: skip
        with pytest.raises(DeadlockError):
            attempt()


def kernel(body: str, spaces: str = "ub=1024", grid: int = 1) -> Program:
    head = ".program p\n.machine ascend-910b2\n.tensor x space=dram address=0 shape=[64] dtype=fp32 role=input\n"
    head += ".operator o op_type=T shape=[] nodes=[] dtype=fp32 macs=0 flops=0 min_bytes=0\n"
    return assemble(f"{head}.kernel k() {spaces}\n{body}\n  halt\n.end\n.launch k operator=0 grid={grid}\n")


def test_a_signal_to_a_block_that_is_not_there_is_refused() -> None:
    program = kernel("  li r1, 5\n  signal vector, 0, r1", grid=2)
    with pytest.raises(SimulationError, match="block 5 does not exist; there are 2"):
        execute(program, chip(), {"x": np.zeros(64, np.float32)}, no_host)
    assert [f.kind for f in check_hazards(program, chip())] == ["signal"]
    with pytest.raises(SimulationError, match=r"block 5 does not exist; there are 2 \(the grid of the launch\)"):
        run(program, resolve(chip()))


def test_a_deadlock_does_not_hide_a_signal_to_a_block_that_is_not_there() -> None:
    """The wait holds the queue in which the signal stands; of a signal that somebody would get nothing is said."""
    program = kernel("  li r1, 5\n  await vector, 1, 1\n  signal vector, 0, r1", grid=2)
    with pytest.raises(DeadlockError, match="behind it, core 0: instruction 2 signals block 5, which does not exist"):
        execute(program, chip(), {"x": np.zeros(64, np.float32)}, no_host)
    assert {f.kind for f in check_hazards(program, chip())} == {"deadlock", "signal"}
    program = kernel("  li r1, 1\n  await vector, 1, 1\n  signal vector, 0, r1", grid=2)
    with pytest.raises(DeadlockError) as caught:
        execute(program, chip(), {"x": np.zeros(64, np.float32)}, no_host)
    assert "behind it" not in str(caught.value)
    assert {f.kind for f in check_hazards(program, chip())} == {"deadlock"}


def test_an_instruction_must_find_its_unit_on_the_cores_of_its_kernel() -> None:
    """What a kernel declares decides where it runs; with spaces of both kinds it runs on both."""
    body = (
        "  .desc %a space=ub dtype=fp32 ext=[64]\n  .desc %l space=l1 dtype=fp32 ext=[64]\n"
        "  .desc %x space=dram dtype=fp32 ext=[64]\n  v.relu %a, %a\n"
    )
    verify(kernel(body, "ub=256"), chip())
    verify(kernel(body + "  cp %l, %x", "l1=256 ub=256"), chip())
    with pytest.raises(ProgramError) as caught:
        verify(kernel(body, "l1=256"), chip())
    text = str(caught.value)
    assert "instruction 0 `v.relu %d0, %d0`: v.relu needs VECTOR and ub, which the cores of `cores` do not have" in text
    assert "kernel 'k' runs there because it declares l1" in text
    assert "the cores of `other_cores.aiv` have it: declare what it uses of ub" in text
    with pytest.raises(ProgramError, match=r"cp needs l1, which the cores of `other_cores.aiv` do not have"):
        verify(kernel(body + "  cp %l, %x", "ub=256"), chip())
    verify(kernel("  set vector, 0\n  wait vector, 0, 1", "ub=256"), chip())
    with pytest.raises(ProgramError, match=r"set needs VECTOR, which the cores of `cores` do not have"):
        verify(kernel("  set vector, 0\n  wait scalar, 0, 1", "l1=256"), chip())


def test_a_kernel_declares_all_bytes_that_it_touches() -> None:
    body = "  .desc %a space=ub dtype=fp32 ext=[64] base=256\n  v.relu %a, %a"
    verify(kernel(body, "ub=512"), chip())
    why = r"instruction 0 .*operand D covers bytes \[256, 512\) of ub, of which kernel 'k' declares 511: let"
    with pytest.raises(ProgramError, match=why):
        verify(kernel(body, "ub=511"), chip())


@pytest.mark.parametrize(("declared", "fits"), [(512, True), (511, False)])
@pytest.mark.parametrize("induction", [True, False])
def test_addresses_in_registers_stay_within_what_is_declared(declared: int, fits: bool, induction: bool) -> None:
    body = (
        "  li r1, 256\n  .desc %a space=ub dtype=fp32 ext=[64] base_reg=r1\n"
        "  .desc %x space=dram dtype=fp32 ext=[64]\n  cp %a, %x"
    )
    program, inputs = kernel(body, f"ub={declared}"), {"x": np.zeros(64, np.float32)}
    found = check_hazards(program, chip(), induction=induction)
    if fits:
        execute(program, chip(), inputs, no_host)
        assert found == []
        return
    why = "operand D touches bytes [256, 512) of ub, of which its kernel declares 511: let .kernel say ub=512 or more"
    assert [f.kind for f in found] == ["bounds"] and why in found[0].message
    with pytest.raises(SimulationError, match=r"instruction 1 .*which its kernel declares 511"):
        execute(program, chip(), inputs, no_host)


def test_limits_of_flags_name_their_key_and_what_to_do() -> None:
    with pytest.raises(ProgramError, match=r"flag 512 does not exist \(core.flags\); there are 512: use one again "
                                           r"whose waits have all passed, or raise core.flags"):  # fmt: skip
        verify(kernel("  set scalar, 512"), chip())
    for body, key, count in (("  li r1, 512\n  set vector, 0, r1", "flags", 512),
                             ("  li r1, 11\n  await vector, 0, r1, 1", "cross_flags", 11)):  # fmt: skip
        with pytest.raises(SimulationError, match=rf"flag {count} does not exist; there are {count} \(core.{key}\)"):
            run(kernel(body), resolve(chip()))


def test_cross_core_flags_are_bounded_and_need_all_blocks_at_once() -> None:
    verify(kernel("  csr r1, 0\n  signal vector, 10, r1\n  await vector, 10, 1", grid=48), chip())
    with pytest.raises(ProgramError, match=r"cross-core flag 11 does not exist \(core.cross_flags\); there are 11"):
        verify(kernel("  csr r1, 0\n  signal vector, 11, r1"), chip())
    for body in ("  await vector, 0, 1", "  barrier", "  csr r1, 0\n  signal vector, 0, r1"):
        with pytest.raises(ProgramError, match="grid 49 of kernel 'k', whose blocks wait for each other"):
            verify(kernel(body, grid=49), chip())


def test_signals_that_nobody_takes_are_left_over() -> None:
    program = kernel("  csr r1, 0\n  signal vector, 3, r1", grid=1)
    assert [f.kind for f in check_hazards(program, chip())] == ["leftover"]
    with pytest.raises(SimulationError, match=r"cross-core flag 3 of core 0 is 1 .* a signal has no await"):
        run(program, resolve(chip()))


# ---- blocks


@pytest.mark.parametrize(("cores", "waves"), [(1, 8), (2, 4), (3, 3), (4, 2), (8, 1)])
def test_blocks_run_in_as_many_waves_as_they_need(cores: int, waves: int) -> None:
    """8 x 2048 elements as eight blocks (the course's example): every block takes as long as one alone."""
    ideal = ("memory.model=ideal", "memory.ideal_bytes_per_cycle=100000", "memory.l2=null")
    program = assemble((TRACES / "ascend_blocks.asm").read_text(encoding="utf-8"))
    machine = load_machine("ascend-310", (f"cores={cores}", *ideal)).machine
    alone = load_machine("ascend-310", ("cores=8", *ideal)).machine
    assert both(program, machine) == waves * both(program, alone)
    assert check_hazards(program, machine) == []


def test_a_core_needs_block_cycles_for_the_next_block() -> None:
    ideal = ("memory.model=ideal", "memory.ideal_bytes_per_cycle=100000", "memory.l2=null", "cores=2")
    program = assemble((TRACES / "ascend_blocks.asm").read_text(encoding="utf-8"))
    free, dear = (load_machine("ascend-310", (*ideal, f"block_cycles={n}")).machine for n in (0, 25))
    assert both(program, dear) == both(program, free) + 3 * 25


def test_blocks_that_touch_the_same_bytes_race_though_one_core_runs_both() -> None:
    text = (TRACES / "ascend_blocks.asm").read_text(encoding="utf-8").replace("  add c, c, r8\n", "")
    machine = load_machine("ascend-310", ("cores=1",)).machine
    assert [f.kind for f in check_hazards(assemble(text), machine)][:1] == ["WAW"]


# ---- kernels of cube and vector cores that the compiler makes

GELU = """name: gelunet
inputs: {x: "fp32[100,64]"}
constants: {w: "fp32[64,200]", r: "fp32[200,48]"}
nodes:
  - {op: MatMul, inputs: [x, w], outputs: [a]}
  - {op: Gelu, inputs: [a], outputs: [c]}
  - {op: MatMul, inputs: [c, r], outputs: [y]}
outputs: [y]
"""


def compiled(tmp_path: Path, text: str, machine: Machine, tile: tuple[int, ...] | None = None) -> Built:
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return compile_graph(load_model(str(path)), machine, choices=Choices(tile=tile)).built


def test_what_fixp_lacks_is_done_by_vector_cores_in_the_same_launch(tmp_path: Path) -> None:
    machine = chip()
    program = compiled(tmp_path, GELU, machine).program
    first = program.kernels[int(program.launches[0]["kernel"])]
    assert len(program.launches) == 2 and int(program.launches[0]["grid"]) == 72
    assert {"l1", "l0a", "l0b", "l0c", "ub"} <= set(first.scratch_bytes)
    assert resolve(machine).cores_of(first) == range(72)
    assert check_hazards(program, machine) == []


def test_every_await_of_a_compiled_kernel_is_needed(tmp_path: Path) -> None:
    machine = chip("cores=2", "other_cores.aiv.count=4")
    program = compiled(tmp_path, GELU, machine, (34, 112, 64)).program  # three tiles a core, of two slots
    assert check_hazards(program, machine) == []
    inside = [pc for pc in of(program, "await") if program.instrs[pc]["a"] >= 0]
    assert len(inside) == 2
    for pc in inside:
        assert races(check_hazards(program, machine, without=frozenset([pc]))), pc
    both(program, chip("cores=2", "other_cores.aiv.count=4", "memory.model=ideal", "memory.l2=null", "launch_cycles=0"))


# ---- the vector unit's registers and banks

ROW = """  .desc %a space=ub dtype={kind} ext={ext} stride={stride}
  .desc %d space=ub dtype={kind} ext={ext} base=65536
"""


def vector_time(kind: str, ext: list[int], stride: list[int], op: str = "v.relu %d, %a") -> int:
    desc = ROW.format(kind=kind, ext=ext, stride=stride)
    return vector_span(desc + f"  {op}")


def vector_span(body: str, *changes: str) -> int:
    """Cycles of a kernel's vector instruction, on engine and stepper."""
    program = kernel(body, "ub=196608")
    machine = chip("cores=1", "other_cores.aiv.count=1", "memory.model=ideal", "memory.l2=null", *changes)
    both(program, machine)
    event = run(program, resolve(machine)).events[0]
    return int(event["end"] - event["start"])


def test_a_repeat_is_256_bytes_of_any_type_and_costs_a_slope_and_a_fixed_part() -> None:
    """vadd takes 2 r + 24 cycles, vrelu one a repeat (pto-isa, measured on 910B3)."""
    for repeats in (1, 8, 100):
        assert vector_time("fp32", [64 * repeats], [4]) == repeats + 24
        assert vector_time("fp16", [128 * repeats], [2]) == repeats + 24
        assert vector_time("fp16", [128 * repeats], [2], "v.add %d, %a, %a") == 2 * repeats + 24


def test_masked_lanes_cost_their_repeat() -> None:
    assert vector_time("fp32", [10, 60], [256, 4]) == vector_time("fp32", [10, 64], [256, 4]) == 10 + 24


@pytest.mark.parametrize(("blocks", "cycles"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (16, 8), (17, 1)])
def test_blocks_of_a_repeat_in_one_bank_group_come_one_after_another(blocks: int, cycles: int) -> None:
    """Block strides of 16 and 8 blocks take eight and four cycles a repeat (Ascend C guide, bank conflicts)."""
    assert vector_time("fp32", [8, 8], [32 * blocks, 4]) == cycles + 24
    assert vector_time("fp32", [16, 8], [32 * blocks, 4]) == 2 * cycles + 24


def test_what_is_broadcast_is_read_once() -> None:
    """A number a row, for 64 columns, wherever it is: no conflict."""
    desc = ROW.format(kind="fp32", ext=[8, 64], stride=[256, 4])
    desc += "  .desc %b space=ub dtype=fp32 ext=[8, 64] stride=[4, 0] base=16384\n"
    assert vector_span(desc + "  v.sub %d, %a, %b") == 8 + 24


OPERAND = "  .desc %{} space=ub dtype=fp32 ext=[{}] base={}\n"


def sum_span(a: int, b: int, d: int, elements: int = 4096, *changes: str) -> int:
    """Cycles of d = a + b of so many elements at these addresses, without the fixed part."""
    operands = "".join(OPERAND.format(name, elements, at) for name, at in (("a", a), ("b", b), ("d", d)))
    return vector_span(operands + "  v.add %d, %a, %b", *changes) - 24


@pytest.mark.parametrize(
    ("a", "b", "d", "cycles"),
    [
        (0, 0x4100, 0x10000, 1),  # as the sample leaves them
        (0, 0x4000, 0x10000, 2),  # sources in the same groups
        (0, 0x4100, 0x8000, 2),  # d in the banks of a, which the guide calls a read-write conflict
        (0, 0x4100, 0x8100, 2),  # of b
        (0, 0x4000, 0x8000, 3),  # both conflicts, as the sample is before
        (0, 0x14100, 0x10000, 1),  # d in the same 64 KiB as b, but in banks of other groups
        (0, 0x14000, 0x10000, 2),  # a and b in different banks of the same groups, b and d in one bank
    ],
)
def test_operands_in_one_bank_come_one_after_another(a: int, b: int, d: int, cycles: int) -> None:
    """Addresses of the sample bank_conflict (asc-devkit), a sum of 4096 fp32: 64 repeats."""
    assert sum_span(a, b, d) == 64 * cycles


@pytest.mark.parametrize(("a", "b", "conflict"), [(0x10020, 0x20020, True), (0x10020, 0x10000, False)])
def test_two_reads_of_a_bank_group_conflict(a: int, b: int, conflict: bool) -> None:
    """Banks 17 and 33 are of one group, banks 16 and 17 are not (Ascend C guide, read-read conflicts)."""
    assert sum_span(a, b, 0x5000, 8) == (2 if conflict else 1)


@pytest.mark.parametrize(("a", "d", "conflict"), [(0x10020, 0x10E20, True), (0x10020, 0x10000, False),
                                                  (0x10020, 0x20020, False)])  # fmt: skip
def test_a_read_and_a_write_of_a_bank_conflict(a: int, d: int, conflict: bool) -> None:
    """Both in bank 17; in 17 and 16; in 17 and 33, of one group (Ascend C guide, read-write conflicts)."""
    operands = OPERAND.format("a", 8, a) + OPERAND.format("d", 8, d) + "  v.relu %d, %a"
    assert vector_span(operands) - 24 == (2 if conflict else 1)
    assert vector_span(operands, "core.spaces.ub.bank_size_bytes=0") - 24 == 1


def test_slow_operations_hide_conflicts_of_operands() -> None:
    """An exp takes two cycles a repeat anyway; of three operands in one bank one does not fit into them."""
    operands = "".join(OPERAND.format(name, 64, at) for name, at in (("a", 0), ("b", 0x1000), ("d", 0x2000)))
    assert vector_span(operands + "  v.exp %d, %a") - 24 == 2
    assert vector_span(operands + "  v.add %d, %a, %b") - 24 == 3
    assert vector_span(operands + "  v.div %d, %a, %b") - 24 == 4


def test_bank_conflicts_are_a_state_of_their_own() -> None:
    from npusim.record import CAUSE_ID

    desc = ROW.format(kind="fp32", ext=[8, 8], stride=[512, 4])
    machine = chip("cores=1", "other_cores.aiv.count=1", "memory.model=ideal", "memory.l2=null")
    record = run(kernel(desc + "  v.relu %d, %a", "ub=131072"), resolve(machine))
    states = record.states[0, 1, [p.label for p in record.pipes].index("VECTOR")]
    assert states[CAUSE_ID["port_conflict"]] == 7 and states[CAUSE_ID["busy"]] == 1
