"""Every rule of the engine by hand-made programs: the figure follows from the rule, and engine equals stepper."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from engine_fixture import LOAD, STORE, both, finish, small_machine
from functional_fixture import Asm

from isa import assemble
from isa.errors import DeadlockError, ProgramError
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import resolve
from isa.table import MATRIX, NEXT_TILE, VECTOR
from npusim.record import CAUSE_ID, Record

GAP = 7  # launch_cycles of the small machine


def start_of(record: Record, pc: int, nth: int = 0) -> int:
    """Cycle after the launch gap in which the instruction at `pc` started."""
    return sorted(int(e["start"]) for e in record.events if e["instr"] == pc)[nth] - GAP


def end_of(record: Record, pc: int) -> int:
    return min(int(e["end"]) for e in record.events if e["instr"] == pc) - GAP


def spent(record: Record, pipe: int, cause: str) -> int:
    return int(record.states[0, 0, pipe, CAUSE_ID[cause]])


def add(asm: Asm, base: int, rows: int = 4, source: int = 0) -> int:
    """A vector instruction of `rows` registers from `source` to `base`."""
    shape = (8 * rows,)
    return asm.op("v.copy", asm.d("spm", "fp32", shape, base), asm.d("spm", "fp32", shape, source))


def run(asm: Asm, machine: Machine, **launch: Any) -> Record:
    return both(finish(asm, machine.issue == "vliw", **launch), machine)[0]


@pytest.mark.parametrize("model", ["ideal", "cycle"])
@pytest.mark.parametrize(
    ("name", "hw"), [("gemm_4x4", "small"), ("triangle", "tiny"), ("triangle", "small"), ("vector_add", "tpu-v3")]
)
def test_traces(name: str, hw: str, model: str) -> None:
    program = assemble(resources.files("traces").joinpath(f"{name}.asm").read_text(encoding="utf-8"), name)
    if hw == "small":
        machine = small_machine("inorder", **{"memory.model": model})
    else:
        machine = load_machine(hw, [f"memory.model={model}"]).machine
    both(program, machine)


@pytest.mark.parametrize(("cycles", "expected"), [(0, 0), (1, 3), (2, 6)])
def test_scalar_cycles(cycles: int, expected: int) -> None:
    """Three bundles, then halt, which ends the launch when it issues."""
    asm = Asm()
    for _ in range(3):
        asm.put("addi", dst=1, a=1, imm=1)
    record = run(asm, small_machine(**{"core.scalar.cycles": cycles}))
    assert record.total_cycles - GAP == expected
    assert record.issued[0, 0] == 4


@pytest.mark.parametrize(("depth", "third_waits"), [(1, True), (2, False)])
def test_queue_depth(depth: int, third_waits: bool) -> None:
    """The first one works, `depth` wait; the next blocks the sequencer."""
    asm = Asm()
    for i in range(3):
        add(asm, 1024 * (i + 1))
    record = run(asm, small_machine(**{"core.vector.queue_depth": depth}))
    assert (spent(record, 0, "queue_full") > 0) == third_waits


@pytest.mark.parametrize(("window", "blocked"), [(2, True), (3, False)])
def test_window(window: int, blocked: bool) -> None:
    asm = Asm()
    for i in range(3):
        add(asm, 1024 * (i + 1))
    record = run(asm, small_machine("inorder", **{"core.window": window}))
    assert (spent(record, 0, "queue_full") > 0) == blocked


@pytest.mark.parametrize(("gap", "waits"), [(127, True), (128, False)])
def test_interlock_is_on_bytes(gap: int, waits: bool) -> None:
    """A copy out of what a vector instruction writes: bytes [2048, 2176) are written."""
    asm = Asm()
    first = add(asm, 2048)
    copy = asm.op("cp", asm.d("spm", "int8", (4,), 4096), asm.d("spm", "int8", (4,), 2048 + gap))
    record = run(asm, small_machine("inorder"))
    assert start_of(record, copy) == (end_of(record, first) if waits else 1)


def test_interlock_knows_negative_strides() -> None:
    asm = Asm()
    first = add(asm, 2048)
    source = asm.d("spm", "fp32", (8,), 2200, stride=(-4,))  # bytes [2172, 2204): the last one is written
    copy = asm.op("cp", asm.d("spm", "fp32", (8,), 4096), source)
    record = run(asm, small_machine("inorder"))
    assert start_of(record, copy) == end_of(record, first)


def test_readers_do_not_wait_for_each_other() -> None:
    asm = Asm()
    add(asm, 2048)
    copy = asm.op("cp", asm.d("spm", "fp32", (8,), 4096), asm.d("spm", "fp32", (8,), 0))
    assert start_of(run(asm, small_machine("inorder")), copy) == 1


def test_a_writer_waits_for_readers() -> None:
    asm = Asm()
    first = add(asm, 2048)
    copy = asm.op("cp", asm.d("spm", "fp32", (8,), 0), asm.d("spm", "fp32", (8,), 4096))
    record = run(asm, small_machine("inorder"))
    assert start_of(record, copy) == end_of(record, first)


def test_wait_lasts_until_the_youngest_completes() -> None:
    """The flag belongs to the second instruction; the sequencer's wait names the pipe."""
    asm = Asm()
    add(asm, 1024)
    second = add(asm, 2048)
    asm.put("set", dst=VECTOR, imm=3)
    asm.put("wait", imm=3, b=1)
    copy = asm.op("cp", asm.d("spm", "fp32", (8,), 4096), asm.d("spm", "fp32", (8,), 0))
    record = run(asm, small_machine())
    # Issue in 0; four registers through one load port take 4 cycles, then 2 of latency.
    assert end_of(record, second) == 4 + 4 + 2
    assert start_of(record, copy) == 4 + 4 + 2 + 1  # the wait takes one bundle
    assert spent(record, 0, "wait_vector") == 10 - 3


def test_set_on_an_empty_pipe_is_immediate() -> None:
    asm = Asm()
    asm.put("set", dst=LOAD, imm=3)
    asm.put("set", dst=0, imm=3)
    asm.put("wait", imm=3, b=2)
    assert run(asm, small_machine()).total_cycles - GAP == 3


@pytest.mark.parametrize(("sets", "blocks"), [(6, False), (7, True)])
def test_flags_of_one_instruction(sets: int, blocks: bool) -> None:
    asm = Asm()
    add(asm, 1024, rows=20)
    for _ in range(sets):
        asm.put("set", dst=VECTOR, imm=3)
    asm.put("wait", imm=3, b=sets)
    assert (spent(run(asm, small_machine()), 0, "queue_full") > 0) == blocks


def test_a_bundle_issues_as_a_whole() -> None:
    """One queue is full, so the other instruction of the bundle waits too."""
    asm = Asm()
    for i in range(4):
        add(asm, 512 * (i + 1))
    asm.open = [3]  # type: ignore[attr-defined]
    copy = asm.op("cp", asm.d("spm", "fp32", (8,), 4096), asm.d("spm", "fp32", (8,), 0))
    record = run(asm, small_machine(**{"core.vector.queue_depth": 2}))
    assert start_of(record, copy) == start_of(record, 1)  # the second starts, its place is free


def test_a_bundle_must_fit_its_queue_at_once() -> None:
    """Two for a queue of one could never issue, and are refused; with room for two they go at once."""
    asm = Asm()
    add(asm, 1024)
    add(asm, 2048)
    asm.open = [0]  # type: ignore[attr-defined]
    with pytest.raises(ProgramError, match=r"instruction 0 `v\.copy.*the queue of VPU holds 1"):
        run(asm, small_machine(**{"core.vector.queue_depth": 1}))
    assert start_of(run(asm, small_machine(**{"core.vector.queue_depth": 2})), 0) == 0


@pytest.mark.parametrize(("ports", "waits"), [(1, True), (2, False)])
def test_a_pipe_holds_one_port(ports: int, waits: bool) -> None:
    """Two copies of one engine share its port of the scratchpad; the vector unit needs one of its own."""
    asm = Asm()
    copies = [asm.op("cp", asm.d("spm", "int8", (256,), 1024 * i), asm.d("dram", "int8", (256,))) for i in (1, 2)]
    vector = add(asm, 4096)
    record = run(asm, small_machine(**{"core.spaces.spm": {"size_bytes": 8192, "ports": ports}}))
    first, second = (start_of(record, copy) for copy in copies)
    assert first < second < end_of(record, copies[0])
    assert (spent(record, resolve(small_machine())["vector_pipe"], "port_conflict") > 0) == waits
    done = max(end_of(record, copy) for copy in copies)
    assert start_of(record, vector) == (done if waits else 2)


@pytest.mark.parametrize("unit", [0, 1, 2, 3])
def test_set_names_dma_units_modulo_their_number(unit: int) -> None:
    """As copies do: the flag rises when the copy on instance `unit % 2` is done."""
    asm = Asm()
    copies = [
        asm.op("cp", asm.d("spm", "int8", (64 << i,), 1024 * i), asm.d("dram", "int8", (64 << i,)), unit=i)
        for i in (0, 1)
    ]
    asm.put("set", dst=LOAD, unit=unit, imm=0)
    asm.put("wait", imm=0, b=1)
    vector = add(asm, 4096)
    record = run(asm, small_machine())
    assert end_of(record, copies[0]) < end_of(record, copies[1])
    assert start_of(record, vector) == end_of(record, copies[unit % 2]) + 1  # the wait takes a cycle


def tiles(space: str, count: int, rows: int = 2) -> Asm:
    """`count` folds of `rows` rows each, tiles from `space`."""
    asm = Asm()
    for _ in range(count):
        asm.op("ldw", None, asm.d(space, "int8", (4, 4), rows=1))
        a, d = asm.d("spm", "int8", (rows, 4), 64, rows=1), asm.d("acc", "int32", (rows, 4), rows=1)
        asm.op("mm", d, a, flags=NEXT_TILE)
    return asm


# Loading takes 4 cycles (16 bytes at 16 a cycle, but 4 rows) and 1 of path latency; a stream of 2 rows 2, and its
# results are out 4 + 4 - 2 = 6 cycles later.
@pytest.mark.parametrize(
    ("double_buffer", "overlap", "period"),
    [(True, True, 5), (True, False, 8), (False, True, 2 + 5), (False, False, 8 + 5)],
)
def test_period_of_folds(double_buffer: bool, overlap: bool, period: int) -> None:
    changes = {"core.matrix.weight_double_buffer": double_buffer, "core.matrix.fold_overlap": overlap}
    record = run(tiles("spm", 4), small_machine(**changes, **{"core.matrix.queue_depth": 8, "core.window": 60}))
    starts = [start_of(record, 2 * i + 1) for i in range(4)]
    assert [starts[2] - starts[1], starts[3] - starts[2]] == [period, period]


@pytest.mark.parametrize(("depth", "expected"), [(1, 1), (2, 2), (3, 3)])
def test_weight_fifo_bounds_tiles_from_dram(depth: int, expected: int) -> None:
    """No stream takes a tile: as many as the FIFO holds are loaded, and one in the shadow."""
    asm = Asm()
    for _ in range(6):
        asm.op("ldw", None, asm.d("dram", "int8", (4, 4), rows=1))
    asm.put("fence")
    with pytest.raises(DeadlockError):
        run(asm, small_machine(**{"core.matrix.weight_fifo_tiles": depth, "core.matrix.queue_depth": 8}))
    asm.instrs = [*asm.instrs[: expected + 1], asm.instrs[6]]
    assert run(asm, small_machine(**{"core.matrix.weight_fifo_tiles": depth})).issued[0, 1] == expected + 1


def test_tiles_keep_their_order() -> None:
    """A tile from on chip does not overtake one that still comes from DRAM."""
    asm = Asm()
    asm.op("ldw", None, asm.d("dram", "int8", (4, 4), rows=1))
    near = asm.op("ldw", None, asm.d("spm", "int8", (4, 4), rows=1))
    a, d = asm.d("spm", "int8", (2, 4), 64, rows=1), asm.d("acc", "int32", (2, 4), rows=1)
    streams = [asm.op("mm", d, a, flags=NEXT_TILE) for _ in range(2)]
    record = run(asm, small_machine())
    assert start_of(record, near) >= start_of(record, streams[0])


@pytest.mark.parametrize(("ports", "conflict"), [(1, True), (2, False)])
def test_ports(ports: int, conflict: bool) -> None:
    asm = Asm()
    first = add(asm, 2048)
    copy = asm.op("cp", asm.d("spm", "fp32", (8,), 6000), asm.d("spm", "fp32", (8,), 5000))
    record = run(asm, small_machine(**{"core.spaces.spm.ports": ports}))
    assert start_of(record, copy) == (end_of(record, first) if conflict else 1)
    waited = sum(spent(record, p, "port_conflict") for p in range(len(record.pipes)))
    assert (waited > 0) == conflict


@pytest.mark.parametrize(("outstanding", "expected"), [(1, 4 * 16), (2, 2 * 16 + 4), (4, 16 + 3 * 4)])
def test_requests_in_flight(outstanding: int, expected: int) -> None:
    """Four requests of 64 bytes, 4 cycles apart on the path; each is back 16 cycles after it left."""
    engine = {"queue_depth": 3, "outstanding": outstanding, "request_bytes": 64, "startup_cycles": 0}
    machine = small_machine(**{
        "core.dma.load": engine, "clock_mhz": 1000, "memory.ideal_bytes_per_cycle": 64 / 8,
        "memory.request_latency_cycles": 5, "memory.response_latency_cycles": 3,
    })  # fmt: skip
    asm = Asm()
    copy = asm.op("cp", asm.d("spm", "int8", (256,)), asm.d("dram", "int8", (256,)))
    record = run(asm, machine)
    bus = 5 + 4 * 8 + 3  # the bus takes 8 cycles a request whatever is in flight
    assert end_of(record, copy) == max(expected, bus) + 1  # and a cycle of path latency
    assert record.path_bytes[0, 0] == record.dram_bytes[0, 0] == 256


def test_a_transfer_is_no_faster_than_its_path() -> None:
    """64 bytes at one a cycle, though the memory has answered long before."""
    machine = small_machine(**{"core.dma.store": {"outstanding": 4, "request_bytes": 64}})
    paths = [p.model_copy(update={"bytes_per_cycle": 1.0}) if p.dst == "dram" else p for p in machine.core.paths]
    machine = machine.model_copy(update={"core": machine.core.model_copy(update={"paths": paths})})
    asm = Asm()
    copy = asm.op("cp", asm.d("dram", "int8", (64,)), asm.d("spm", "int8", (64,)))
    assert end_of(run(asm, machine), copy) == 64


@pytest.mark.parametrize(("base", "requests"), [(0, 2), (60, 3), (64, 2), (65, 3)])
def test_requests_do_not_cross_a_multiple(base: int, requests: int) -> None:
    asm = Asm()
    asm.op("cp", asm.d("spm", "int8", (128,)), asm.d("dram", "int8", (128,), base))
    assert run(asm, small_machine()).dram_counters["reads"] == requests


def test_reductions_store_each_result_once() -> None:
    """32 rows of 8 elements: 32 registers are read by one port, 4 are written."""
    asm = Asm()
    d = asm.d("spm", "fp32", (32, 8), 4096, stride=(4, 0))
    reduce = asm.op("v.rsum", d, asm.d("spm", "fp32", (32, 8)))
    assert end_of(run(asm, small_machine()), reduce) == 32 + 2


@pytest.mark.parametrize(("op", "sources", "cycles"), [("v.relu", 1, 16 + 3), ("v.add", 2, 2 * 16 + 3)])
def test_a_dtype_that_the_alus_lack_is_unpacked_and_packed(op: str, sources: int, cycles: int) -> None:
    """One register of fp16: 16 operations an input, 2 for the result, one of its own; one ALU; latency 2."""
    machine = small_machine(**{"core.vector.unpack_ops": {"fp16": 16}, "core.vector.pack_ops": {"fp16": 2}})
    asm = Asm()
    inputs = [asm.d("spm", "fp16", (8,), 64 * i) for i in range(sources)]
    native = [asm.d("spm", "fp32", (8,), 1024 + 64 * i) for i in range(sources)]
    foreign = asm.op(op, asm.d("spm", "fp16", (8,), 4096), *inputs)
    own = asm.op(op, asm.d("spm", "fp32", (8,), 5120), *native)
    result = run(asm, machine)
    start = end_of(result, foreign)
    assert start == cycles + 2
    assert end_of(result, own) - start == max(1, sources)  # one load port


@pytest.mark.parametrize(("cores", "barriers"), [(2, 1), (2, 3), (3, 2)])
def test_barrier(cores: int, barriers: int) -> None:
    """Core 0 has work, the others wait for it and leave when it arrives; its own arrival takes it a cycle."""
    asm = Asm()
    asm.put("csr", dst=8, imm=0)
    skip = asm.put("bnz", a=8)
    work = add(asm, 2048, rows=10)
    asm.instrs[skip]["imm"] = len(asm.instrs)
    for _ in range(barriers):
        asm.put("barrier")
    copy = asm.op("cp", asm.d("spm", "fp32", (8,), 4096), asm.d("spm", "fp32", (8,), 0))
    record = run(asm, small_machine(cores=cores), cores=cores)
    starts = {int(e["core"]): int(e["start"]) - GAP for e in record.events if e["instr"] == copy}
    assert len(starts) == cores
    assert {starts[core] for core in range(1, cores)} == {starts[0] - 1}
    assert starts[0] > end_of(record, work)


@pytest.mark.parametrize("grid", [1, 2])
def test_cores_that_take_no_part_are_drained(grid: int) -> None:
    asm = Asm()
    add(asm, 2048)
    record = run(asm, small_machine(cores=2), cores=grid)
    whole = record.total_cycles - GAP
    assert (record.states[0, 1, 0, CAUSE_ID["drained"]] == whole) == (grid == 1)


@pytest.mark.parametrize("extent", [0, 1])
def test_an_instruction_without_elements_does_nothing(extent: int) -> None:
    asm = Asm()
    asm.put("li", dst=3, imm=extent)
    shape = {"ext_reg": [3, -1]}
    asm.op("cp", asm.d("spm", "int8", (4, 16), **shape), asm.d("dram", "int8", (4, 16), **shape))
    record = run(asm, small_machine())
    assert record.dram_bytes[0, 0] == 16 * extent
    assert len(record.events) == extent


def test_two_cores_share_the_memory() -> None:
    """Both stream at once: together they take as long as their bytes on the one bus."""
    asm = Asm()
    asm.op("cp", asm.d("spm", "int8", (2048,)), asm.d("dram", "int8", (2048,)))
    changes = {"cores": 2, "memory.ideal_bytes_per_cycle": 4, "clock_mhz": 1000}
    alone, together = (run(asm, small_machine(**changes), cores=n).total_cycles for n in (1, 2))
    assert together - alone == pytest.approx(2048 / 4, abs=16)


def test_stores_and_loads_have_their_own_engines() -> None:
    asm = Asm()
    for d, a in (("spm", "dram"), ("dram", "spm")):
        asm.op("cp", asm.d(d, "int8", (256,), 512), asm.d(a, "int8", (256,)))
    asm.put("set", dst=LOAD, imm=1)
    asm.put("set", dst=STORE, imm=1)
    asm.put("set", dst=MATRIX, imm=1)
    asm.put("wait", imm=1, b=3)
    record = run(asm, small_machine())
    assert record.dram_bytes[0].tolist() == [256, 256]
    assert start_of(record, 1) == 1
