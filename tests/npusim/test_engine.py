"""What holds for every run of the engine: bounds, monotony, determinism, and errors that name the place."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_fixture import assert_conserved, finish, small_machine
from engine_programs import cases
from functional_fixture import Asm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import npusim.engine.layout as layout
import npusim.engine.run as driver
from isa import assemble
from isa.cost import dram_bytes_per_cycle, macs_per_cycle, systolic_gemm_cycles, vector_cycles
from isa.dtypes import dtype
from isa.errors import DeadlockError, ProgramError, SimulationError
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import resolve
from isa.program import Program
from isa.table import NEXT_TILE, VECTOR
from npusim.engine.run import run
from npusim.jit import specialisations
from npusim.record import Record

ROOT = Path(__file__).resolve().parent.parent.parent
CALM = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SAMPLES = {"gemm_4x4": "inorder", "triangle": "inorder", "vector_add": "vliw"}


def sample(name: str) -> Program:
    return assemble((ROOT / "traces" / f"{name}.asm").read_text(encoding="utf-8"), name)


def digest(record: Record) -> str:
    """Everything that a run leaves, as one word."""
    hashed = hashlib.sha256()
    for name in ("states", "launch_span", "path_bytes", "dram_bytes", "macs", "issued", "series", "events"):
        hashed.update(np.ascontiguousarray(getattr(record, name)).tobytes())
    hashed.update(repr((record.total_cycles, sorted(record.dram_counters.items()))).encode())
    return hashed.hexdigest()


def all_digests() -> list[str]:
    """Of the samples with both memory models."""
    found = []
    for name, issue in SAMPLES.items():
        for model in ("ideal", "cycle"):
            found.append(digest(run(sample(name), resolve(small_machine(issue, **{"memory.model": model})))))
    return found


def in_another_process(**environment: str) -> list[str]:
    code = "from test_engine import all_digests; print(*all_digests())"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths, **environment}, check=True,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.stdout.split()


def test_another_process_gives_the_same_bits() -> None:
    assert in_another_process(PYTHONHASHSEED="7") == all_digests()


@pytest.mark.kernels
def test_plain_python_gives_the_same_bits() -> None:
    assert in_another_process(NUMBA_DISABLE_JIT="1") == all_digests()


@pytest.mark.parametrize("budget", [1, 7])
def test_calls_may_be_cut_anywhere(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = all_digests()
    monkeypatch.setattr(driver, "EVENTS_A_CALL", budget)
    assert all_digests() == expected


def test_one_specialisation() -> None:
    """One for the channels alone, and one with a shared cache before them, if an earlier test had such a chip."""
    from npusim.engine.loop import run_launch

    found = set()
    for name, issue in SAMPLES.items():
        run(sample(name), resolve(small_machine(issue)))
        found.add(specialisations(run_launch))
    assert found in ({1}, {2})


@CALM
@given(cases("vliw"))
def test_bounds(case: tuple[Program, Machine]) -> None:
    """No faster than the arrays' peak or the memory's; states are complete."""
    program, machine = case
    record = run(program, resolve(machine))
    assert_conserved(record)
    worked = record.total_cycles - len(program.launches) * machine.launch_cycles
    assert worked >= Fraction(int(record.macs.sum())) / macs_per_cycle(machine, "int8")
    assert worked >= int(record.dram_bytes.sum()) / dram_bytes_per_cycle(machine) - 1


BETTER = {
    "bandwidth": {"memory.ideal_bytes_per_cycle": 100.0},
    "outstanding": {"core.dma.load.outstanding": 12},
    "vector queue": {"core.vector.queue_depth": 8},
    "array queue": {"core.matrix.queue_depth": 8},
    "fifo": {"core.matrix.weight_fifo_tiles": 6},
    "window": {"core.window": 40},
    "latency": {"memory.request_latency_cycles": 2},
}


@pytest.mark.parametrize("what", BETTER)
@pytest.mark.parametrize("name", SAMPLES)
def test_more_is_never_slower(name: str, what: str) -> None:
    """On a fixed program, exactly so with ideal memory."""
    base, better = (run(sample(name), resolve(small_machine(SAMPLES[name], **c))) for c in ({}, BETTER[what]))
    assert better.total_cycles <= base.total_cycles


@pytest.mark.parametrize("hw", ["gemmini-16x16", "tpu-v3", "tpu-v4"])
@pytest.mark.parametrize(("rows", "folds"), [(1, 1), (1, 5), (40, 4), (300, 3)])
def test_array_of_a_preset_is_the_closed_form(hw: str, rows: int, folds: int) -> None:
    """Tiles and rows on chip, one launch: the first tile's load to the last result is isa.cost's figure."""
    machine = load_machine(hw, ["core.window=62", "core.matrix.queue_depth=32"]).machine
    matrix = machine.core.matrix
    kind = machine.default_dtype
    asm = Asm()
    for _ in range(folds):
        asm.op("ldw", None, asm.d(matrix.operand_space, kind, (matrix.rows, matrix.cols), rows=1))
        a = asm.d(matrix.operand_space, kind, (rows, matrix.rows), 1 << 16, rows=1)
        d = asm.d(matrix.acc_space, matrix.accumulate[kind], (rows, matrix.cols), rows=1)
        asm.op("mm", d, a, flags=NEXT_TILE)
    record = run(finish(asm, machine.issue == "vliw"), resolve(machine))
    path = machine.path(matrix.operand_space, "wfifo")
    assert path is not None
    tile = -(-matrix.rows * matrix.cols * {"int8": 1, "bf16": 2}[kind] // path.bytes_per_cycle)
    load = (matrix.weight_load_cycles or matrix.rows) + path.latency_cycles
    if tile > load:
        pytest.skip("the path is slower than the array's load")
    found = int(record.events["end"].max()) - int(record.events["start"].min())
    whole = systolic_gemm_cycles(matrix, rows, matrix.cols, folds * matrix.rows, matrix.passes[kind])
    assert found == whole + path.latency_cycles


@pytest.mark.parametrize("size_bytes", [64, 6400])
def test_a_copy_from_ideal_memory_is_the_closed_form(size_bytes: int) -> None:
    """Latency there and back, and the bytes at the bus's rate, which is slower than the path."""
    machine = small_machine(**{"memory.ideal_bytes_per_cycle": 4, "clock_mhz": 1000, "core.dma.load": {
        "outstanding": 100, "request_bytes": 64, "startup_cycles": 5}})  # fmt: skip
    asm = Asm()
    asm.op("cp", asm.d("spm", "int8", (size_bytes,)), asm.d("dram", "int8", (size_bytes,)))
    record = run(finish(asm), resolve(machine))
    assert record.total_cycles == machine.launch_cycles + 5 + 4 + size_bytes // 4 + 3 + 1


def faulty(asm: Asm, **changes: Any) -> None:
    run(finish(asm), resolve(small_machine(**changes)))


def test_deadlock_names_core_instruction_and_cause() -> None:
    asm = Asm()
    asm.put("set", dst=VECTOR, imm=2)
    asm.put("wait", imm=2, b=2)
    with pytest.raises(DeadlockError, match=r"launch 0 \(kernel k\).*core 0 at instruction 1 `wait.*wait_vector"):
        faulty(asm)


def test_leftover_flags_are_an_error() -> None:
    asm = Asm()
    asm.put("set", dst=0, imm=5)
    with pytest.raises(SimulationError, match="flag 5 of core 0 is 1"):
        faulty(asm)


def test_flags_that_do_not_exist_are_an_error() -> None:
    asm = Asm()
    asm.put("li", dst=1, imm=16)
    asm.put("set", dst=0, imm=0, a=1)
    with pytest.raises(SimulationError, match=r"core 0, instruction 1 `set.*flag"):
        faulty(asm)


@pytest.mark.parametrize(("base", "legal"), [((1 << 20) - 64, True), ((1 << 20) - 63, False), (-1, False)])
def test_addresses_outside_of_dram_are_an_error(base: int, legal: bool) -> None:
    asm = Asm()
    asm.put("li", dst=1, imm=base)
    asm.op("cp", asm.d("spm", "int8", (64,)), asm.d("dram", "int8", (64,), base_reg=1))
    if legal:
        faulty(asm)
        return
    with pytest.raises(SimulationError, match=r"launch 0 .*core 0, instruction 1 `cp.*of dram, which has 1048576"):
        faulty(asm)


@pytest.mark.parametrize("cycles", [0, 1])
def test_a_loop_without_end_is_an_error(cycles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_INSTRUCTIONS", 10_000)
    asm = Asm()
    asm.put("br", imm=0)
    with pytest.raises(SimulationError, match=r"core 0, instruction 0 `br.*10000 inst.*limit.*not end.*run.tile"):
        faulty(asm, **{"core.scalar.cycles": cycles})


def test_code_that_runs_away_is_refused() -> None:
    asm = Asm()
    asm.put("addi", dst=1, a=1, imm=1)
    program = asm.program()  # no bundle has its stop
    with pytest.raises(ProgramError, match="no stop"):
        run(program, resolve(small_machine()))
    program.instrs["op"][-1] = program.instrs["op"][0]
    with pytest.raises(ProgramError, match="halt"):
        run(program, resolve(small_machine("inorder")))


def test_windows_in_dram_are_refused() -> None:
    asm = Asm()
    fields = {"axis": [0], "coef": [1], "axis_stride": [4], "limit": [4]}
    asm.op("cp", asm.d("spm", "fp32", (4,)), asm.d("dram", "fp32", (4,), stride=(0,), **fields))
    with pytest.raises(SimulationError, match="descriptor 1: no windows in dram"):
        faulty(asm)


def test_events_are_bounded() -> None:
    record = run(sample("vector_add"), resolve(small_machine()), max_events=4)
    whole = run(sample("vector_add"), resolve(small_machine()))
    assert len(record.events) + len(record.waits) == 4
    assert record.events_dropped == len(whole.events) + len(whole.waits) - 4
    assert record.total_cycles == whole.total_cycles


@CALM
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.sampled_from(["v.copy", "v.add", "v.exp", "v.div"]),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.tuples(*(st.integers(1, 5) for _ in range(2)), *(st.integers(1, 3) for _ in range(3))),
)  # fmt: skip
def test_vector_instructions_take_the_closed_form(
    rows: int, cols: int, gap: int, name: str, kind: str, shape: tuple[int, ...]
) -> None:
    """Rows that lie `gap` elements apart; without a gap they are one run."""
    names = ("lanes", "sublanes", "alus", "load_ports", "store_ports")
    unit = {**dict(zip(names, shape)), "latency_cycles": 3, "op_cycles": {"exp": 2.5, "div": 0.4},
            "unpack_ops": {"fp16": 1.5}, "pack_ops": {"fp16": 2, "int8": 1}}  # fmt: skip
    machine = small_machine(**{"core.vector": unit, "core.spaces.spm": {"size_bytes": 1 << 20}})
    asm = Asm()
    size = dtype(kind).size_bytes
    d = asm.d("spm", kind, (rows, cols), stride=((cols + gap) * size, size))
    sources = [d] if name in ("v.copy", "v.exp") else [d, d]
    asm.op(name, d, *sources)
    event = run(finish(asm), resolve(machine)).events[0]
    assert machine.core.vector is not None
    expected = vector_cycles(machine.core.vector, rows, cols, len(sources), 1, name[2:], gap == 0, kind)
    assert int(event["end"] - event["start"]) == expected


@CALM
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 4),
    st.tuples(st.booleans(), st.booleans(), st.integers(1, 2), st.integers(0, 1), st.sampled_from([1, 1.5])),
)  # fmt: skip
def test_any_array_is_the_closed_form(
    rows: int, cols: int, stream: int, folds: int, wires: tuple[bool, bool, int, int, float]
) -> None:
    """Folds of `stream` rows each on arrays of every size and wiring; the PE-level model has the same closed form."""
    overlap, double, hop, register, passes = wires
    machine = small_machine(**{
        "core.window": 60, "core.scalar.cycles": 0, "core.matrix.queue_depth": 16, "core.matrix.rows": rows,
        "core.matrix.cols": cols, "core.matrix.fold_overlap": overlap, "core.matrix.weight_double_buffer": double,
        "core.matrix.psum_hop_cycles": hop, "core.matrix.input_register_cycles": register,
        "core.matrix.passes": {"int8": passes, "fp32": 1}, "core.matrix.accumulate": {"int8": "int32", "fp32": "fp32"},
        "core.paths": [
            {"src": s, "dst": d, "pipe": p, "bytes_per_cycle": 1e6}
            for s, d, p in (("dram", "spm", "load"), ("spm", "dram", "store"), ("spm", "wfifo", "weights"))
        ],
    })  # fmt: skip
    asm = Asm()
    for _ in range(folds):
        asm.op("ldw", None, asm.d("spm", "int8", (rows, cols), rows=1))
        a = asm.d("spm", "int8", (stream, rows), 1024, rows=1)
        asm.op("mm", asm.d("acc", "int32", (stream, cols), rows=1), a, flags=NEXT_TILE)
    events = run(finish(asm), resolve(machine)).events
    found = int(events["end"].max() - events["start"].min())
    assert found == systolic_gemm_cycles(machine.core.matrix, stream, cols, folds * rows, passes)
