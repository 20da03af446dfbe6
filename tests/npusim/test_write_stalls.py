"""What is written into an on-chip memory holds back copies that are reading it: `core.spaces.*.write_stall_cycles`."""

from __future__ import annotations

from typing import Any

import pytest
from engine_fixture import assert_conserved, both, finish, small_machine
from functional_fixture import Asm

from isa.machine import Machine
from npusim.record import CAUSE_ID, Record

GAP, LATENCY = 7, 3  # launch_cycles of the small machine; of its path inside the scratchpad, which carries 32 bytes
ANSWERS = (16, 24, 32, 40)  # of `load`: sent in 0, 4, 8, 12, five cycles there, the bus takes eight, three back


def machine(stall: int, **changes: Any) -> Machine:
    paths = [path.model_dump() for path in small_machine().core.paths]
    engine = {"count": 2, "queue_depth": 3, "outstanding": 4, "request_bytes": 64, "startup_cycles": 0}
    return small_machine(**{
        "core.dma.load": engine, "clock_mhz": 1000, "memory.ideal_bytes_per_cycle": 64 / 8,
        "memory.request_latency_cycles": 5, "memory.response_latency_cycles": 3,
        "core.paths": [*paths, {"src": "acc", "dst": "spm", "pipe": "load", "bytes_per_cycle": 32}],
        "core.spaces.spm.write_stall_cycles": stall, **changes,
    })  # fmt: skip


def load(asm: Asm) -> int:
    """Four requests, on the first of the two engines."""
    return asm.op("cp", asm.d("spm", "int8", (256,), 4096), asm.d("dram", "int8", (256,)))


def copy(asm: Asm, cycles: int, source: str = "spm") -> int:
    """A copy that occupies the second engine for so many cycles."""
    return asm.op("cp", asm.d("spm", "int8", (32 * cycles,), 2048), asm.d(source, "int8", (32 * cycles,)), unit=1)


def run(asm: Asm, chip: Machine) -> Record:
    record = both(finish(asm), chip)[0]
    assert_conserved(record)
    return record


def times(record: Record, pc: int) -> tuple[int, int]:
    """Start and end of an instruction."""
    (event,) = (e for e in record.events if e["instr"] == pc)
    return int(event["start"]) - GAP, int(event["end"]) - GAP


def spent(record: Record, cause: str) -> int:
    """Cycles of the second engine."""
    pipe = next(p.index for p in record.pipes if p.label == "LOAD1")
    return int(record.states[0, 0, pipe, CAUSE_ID[cause]])


@pytest.mark.parametrize(("stall", "held"), [(0, 0), (1, 1), (3, 3), (4, 4 + 4), (8, 4 * 8), (30, 4 * 30)])
def test_each_answer_holds_back_the_copy_that_is_under_way(stall: int, held: int) -> None:
    """It reads in [1, 21): the answer of 16 meets it, that of 24 if it lasts longer than that, and so on."""
    asm = Asm()
    load(asm)
    mine = copy(asm, 20)
    record = run(asm, machine(stall))
    assert times(record, mine) == (1, 1 + 20 + held + LATENCY)
    assert spent(record, "busy") == 20
    assert spent(record, "port_conflict") == held


@pytest.mark.parametrize(("cycles", "held"), [(15, 0), (16, 2)])
def test_a_copy_that_ends_as_the_answer_comes_has_read_everything(cycles: int, held: int) -> None:
    asm = Asm()
    load(asm)
    mine = copy(asm, cycles)
    assert times(run(asm, machine(2)), mine)[1] == 1 + cycles + held + LATENCY


def test_a_copy_that_stands_behind_starts_later_by_itself() -> None:
    """The first reads in [1, 17) and two more; the second one, in [19, 35), meets the answers of 24 and 32."""
    asm = Asm()
    load(asm)
    first, second = copy(asm, 16), copy(asm, 16)
    record = run(asm, machine(2))
    assert times(record, first) == (1, 1 + 16 + 2 + LATENCY)
    assert times(record, second) == (19, 19 + 16 + 4 + LATENCY)
    assert spent(record, "port_conflict") == 6


def test_a_load_takes_no_longer() -> None:
    asm = Asm()
    mine = load(asm)
    copy(asm, 30)
    for stall in (0, 5):
        assert times(run(asm, machine(stall)), mine) == (0, ANSWERS[-1] + 1)  # and a cycle of path latency


def test_what_arrives_elsewhere_holds_nothing_back() -> None:
    """A stationary tile into the weights' FIFO, and what a store writes into memory."""
    asm = Asm()
    asm.op("ldw", None, asm.d("dram", "fp32", (4, 4), rows=1))
    asm.op("cp", asm.d("dram", "int8", (256,)), asm.d("spm", "int8", (256,)))
    copy(asm, 40)
    record = run(asm, machine(9))
    assert spent(record, "busy") == 40
    assert spent(record, "port_conflict") == 0


def test_only_copies_out_of_that_space_are_held_back() -> None:
    """What arrives in the scratchpad leaves a copy out of the accumulators alone."""
    asm = Asm()
    load(asm)
    mine = copy(asm, 20, "acc")
    record = run(asm, machine(5))
    assert times(record, mine) == (1, 1 + 20)
    assert spent(record, "port_conflict") == 0


def test_a_copy_that_goes_to_memory_is_not_held_back() -> None:
    asm = Asm()
    load(asm)
    store = asm.op("cp", asm.d("dram", "int8", (64,), 512), asm.d("spm", "int8", (64,)))
    assert len({times(run(asm, machine(stall)), store) for stall in (0, 50)}) == 1


def test_each_core_has_its_own_memory() -> None:
    """Core 0 loads, core 1 copies within its scratchpad."""
    asm = Asm()
    asm.put("csr", dst=8, imm=0)
    skip = asm.put("bnz", a=8)
    load(asm)
    asm.put("halt")
    asm.instrs[skip]["imm"] = len(asm.instrs)
    copy(asm, 40)
    record = both(finish(asm, cores=2), machine(9, cores=2))[0]
    assert not record.states[..., CAUSE_ID["port_conflict"]].any()
