"""What must stay true of compiled programs on each issue style: conservation, bounds, order, monotony, sameness."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isa.cost import dram_bytes_per_cycle, macs_per_cycle
from isa.dtypes import BY_CODE as DTYPE
from isa.machine import Machine
from isa.params import Params, resolve
from isa.program import LAUNCH_KERNEL, SPACE_ID, Program
from isa.table import BY_CODE, DMA, WEIGHTS
from npusim import api
from npusim.engine.run import run
from npusim.functional.control import Step, Walker
from npusim.hazards.regions import Shapes
from npusim.record import CAUSE_ID, Record

CHIPS = ["tpu-v3", "tpu-v1", "gemmini-16x16"]  # bundles and flags; tiles from DRAM, interlocked; interlocked
MODELS = [
    "gemm:200x96x300", "gemm:33x500x40", "conv:1x14x14x32x48x3x1x1", "mlp", "attention:2x64x32", "layernorm:100x200",
]  # fmt: skip
DRAM, FIFO = SPACE_ID["dram"], SPACE_ID["wfifo"]
FEW = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@cache
def compiled(model: str, hw: str, memory: str = "cycle") -> tuple[Program, Machine]:
    machine, _ = api.machine_for(hw, [f"memory.model={memory}"])
    return api.compile(model, machine).built.program, machine


@cache
def simulated(model: str, hw: str, memory: str = "cycle") -> tuple[Program, Params, Record]:
    program, machine = compiled(model, hw, memory)
    params = resolve(machine)
    return program, params, run(program, params)


def steps(program: Program, params: Params) -> Iterator[tuple[int, int, Step]]:
    """(launch, core, instruction) of everything dispatched that has elements, in program order of each core."""
    walker = Walker(program, params)
    for index, launch in enumerate(program.launches):
        if launch["kind"] != LAUNCH_KERNEL:
            continue
        grid, nargs, first = (int(launch[name]) for name in ("grid", "nargs", "args"))
        for core in range(grid):
            args = [int(x) for x in program.args[first + core * nargs : first + (core + 1) * nargs]]
            for step in walker.steps(int(launch["kernel"]), core, grid, args):
                if any(step.operands) and not any(o is not None and 0 in o.ext for o in step.operands):
                    yield index, core, step


everywhere = pytest.mark.parametrize("hw", CHIPS)
every_model = pytest.mark.parametrize("model", MODELS)


# Conservation


def check_states(record: Record) -> None:
    spans = record.launch_span[:, 1] - record.launch_span[:, 0]
    assert (record.states >= 0).all()
    assert (record.states.sum(axis=3) == spans[:, None, None]).all()
    assert (record.launch_span[1:, 0] == record.launch_span[:-1, 1]).all()
    assert spans.sum() == record.total_cycles


def check_macs(program: Program, params: Params, record: Record) -> None:
    """What the arrays' operands multiply is the graph's MACs; what the arrays execute is that plus stated padding."""
    useful, executed = Counter[int](), Counter[int]()
    for launch, _, step in steps(program, params):
        if BY_CODE[step.op].name == "mm":
            d, a = step.operands[0], step.operands[1]
            assert d is not None and a is not None
            m, k, n = prod(a.ext[: a.rows]), prod(a.ext[a.rows :]), prod(d.ext[d.rows :])
            assert k <= params["rows"] and n <= params["cols"]
            useful[launch] += m * k * n
            executed[launch] += m * params["rows"] * params["cols"]
    for i, launch in enumerate(program.launches):
        operator = program.operators[int(launch["operator"])]
        if launch["kind"] == LAUNCH_KERNEL:
            assert useful[i] == operator.macs
            assert executed[i] == operator.padded_macs == record.macs[i]


def check_bytes(program: Program, params: Params, record: Record) -> None:
    """Copies take in as many elements as they give out, and every path carried the bytes of its copies."""
    expected = np.zeros_like(record.path_bytes)
    for launch, _, step in steps(program, params):
        kind = BY_CODE[step.op]
        d, a = step.operands[:2]
        assert a is not None
        if kind.pipe == WEIGHTS:
            expected[launch, params.path_of[a.space, FIFO]] += prod(a.ext) * DTYPE[a.dtype].size_bytes
        elif kind.pipe == DMA:
            assert d is not None
            gathers = kind.name == "cpg"
            assert gathers or prod(d.ext) == prod(a.ext)
            far = d if d.space == DRAM else a
            count = prod(d.ext if gathers else far.ext)
            expected[launch, params.path_of[a.space, d.space]] += count * DTYPE[far.dtype].size_bytes
    np.testing.assert_array_equal(record.path_bytes, expected)
    paths = params.machine.core.paths
    for column, end in enumerate(("src", "dst")):
        moved = record.path_bytes[:, [getattr(path, end) == "dram" for path in paths]].sum(axis=1)
        np.testing.assert_array_equal(record.dram_bytes[:, column], moved)


def check_bounds(params: Params, record: Record, kind: str) -> None:
    """Each launch: no point above the roof, no unit used for longer than the launch lasts."""
    machine = params.machine
    spans = record.launch_span[:, 1] - record.launch_span[:, 0]
    for i, span in enumerate(spans.tolist()):
        worked = span - machine.launch_cycles
        assert worked >= Fraction(int(record.macs[i])) / macs_per_cycle(machine, kind)
        assert worked + 1 >= int(record.dram_bytes[i].sum()) / dram_bytes_per_cycle(machine)  # in whole cycles
        assert (record.states[i, :, :, CAUSE_ID["busy"]] <= worked).all()
    if record.total_cycles:
        assert Fraction(int(record.macs.sum())) / (macs_per_cycle(machine, kind) * record.total_cycles) <= 1


def check_everything(program: Program, params: Params, record: Record) -> None:
    check_states(record)
    check_macs(program, params, record)
    check_bytes(program, params, record)
    check_bounds(params, record, params.machine.default_dtype)


@everywhere
@every_model
@pytest.mark.parametrize("memory", ["ideal", "cycle"])
def test_conservation_and_bounds(model: str, hw: str, memory: str) -> None:
    check_everything(*simulated(model, hw, memory))


@everywhere
@pytest.mark.parametrize("model", ["resnet50", "bert-base"])
def test_bounds_of_networks(model: str, hw: str) -> None:
    program, params, record = simulated(model, hw)
    check_states(record)
    check_bounds(params, record, params.machine.default_dtype)
    on_chip = [program.operators[int(x["operator"])] for x in program.launches if x["kind"] == LAUNCH_KERNEL]
    assert record.macs.sum() == sum(operator.padded_macs for operator in on_chip)


@FEW
@pytest.mark.parametrize("hw", CHIPS)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_conservation_and_bounds_of_any_product(hw: str, m: int, n: int, k: int) -> None:
    machine, _ = api.machine_for(hw)
    program = api.compile(f"gemm:{m}x{n}x{k}", machine).built.program
    params = resolve(machine)
    check_everything(program, params, run(program, params))


def test_the_checks_see_what_is_missing() -> None:
    """One row of one stream less, one byte less on a path, one cycle in no state: each is found."""
    program, params, record = simulated("gemm:33x500x40", "gemmini-16x16")
    for name, check in (("macs", check_macs), ("path_bytes", check_bytes), ("dram_bytes", check_bytes)):
        kept = getattr(record, name).copy()
        getattr(record, name).reshape(-1)[np.flatnonzero(kept)[0]] -= 1
        with pytest.raises(AssertionError):
            check(program, params, record)
        getattr(record, name)[...] = kept
    record.states[0, 0, 0, 0] += 1
    with pytest.raises(AssertionError):
        check_states(record)
    record.states[0, 0, 0, 0] -= 1
    check_everything(program, params, record)


# Order


def ordered_pairs(program: Program, params: Params, record: Record) -> Iterator[tuple[Any, Any]]:
    """(earlier, later) events of a core that touch the same on-chip bytes, one of them writing, on different pipes."""
    shapes = Shapes()
    times: dict[tuple[int, int, int], list[Any]] = defaultdict(list)
    for event in np.sort(record.events, order=["start"]):
        times[int(event["launch"]), int(event["core"]), int(event["instr"])].append(event)
    seen: Counter[tuple[int, int, int]] = Counter()
    touched: dict[tuple[int, int, int], list[Any]] = defaultdict(list)
    for launch, core, step in steps(program, params):
        if BY_CODE[step.op].name == "set":
            continue
        key = (launch, core, step.pc)
        event = times[key][seen[key]]
        seen[key] += 1
        for i, operand in enumerate(step.operands):
            if operand is None or operand.space <= SPACE_ID["host"]:
                continue
            shape, here = shapes.of(operand), touched[launch, core, operand.space]
            for other, other_shape, base, wrote in here[-400:]:
                if other["pipe"] == event["pipe"] or not (wrote or i == 0):
                    continue
                if shapes.overlap(other_shape, base, shape, operand.base) is not None:
                    yield other, event
            here.append((event, shape, operand.base, i == 0))


@everywhere
@pytest.mark.parametrize("model", ["gemm:33x500x40", "conv:1x14x14x32x48x3x1x1", "attention:2x64x32"])
def test_dependences_hold_in_time(model: str, hw: str) -> None:
    """What touches a byte on chip that another wrote starts after it has completed: no run is shorter than a chain."""
    pairs = 0
    for earlier, later in ordered_pairs(*simulated(model, hw)):
        assert earlier["end"] <= later["start"], (earlier, later)
        pairs += 1
    assert pairs > 0 or not simulated(model, hw)[2].macs.any()


# Sameness


def digest(record: Record) -> str:
    hashed = hashlib.sha256()
    for name in ("states", "launch_span", "path_bytes", "dram_bytes", "macs", "issued", "series", "events", "waits"):
        hashed.update(np.ascontiguousarray(getattr(record, name)).tobytes())
    hashed.update(repr((record.total_cycles, sorted(record.dram_counters.items()))).encode())
    return hashed.hexdigest()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_gives_the_same_bits(workers: int) -> None:
    """Kernels run without the GIL, on state of their own: runs side by side do not see each other."""
    cases = [(model, hw) for model in ("mlp", "gemm:200x96x300") for hw in CHIPS] * 2
    for model, hw in cases:
        compiled(model, hw)

    def one(case: tuple[str, str]) -> str:
        program, machine = compiled(*case)
        return digest(run(program, resolve(machine)))

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, cases))
    assert found == [digest(simulated(*case)[2]) for case in cases]


# Monotony: a better machine never slows a fixed program


def _double(part: Any, *names: str, top: int = 1 << 20) -> None:
    for name in names:
        part[name] = min(top, 2 * part[name])


def _bandwidth(tree: Any) -> None:
    if tree["memory"]["model"] == "ideal":
        tree["memory"]["ideal_bytes_per_cycle"] = 2 * float(dram_bytes_per_cycle(Machine.model_validate(tree)))
    else:
        tree["memory"]["dram"]["tck_ps"] /= 2


def _paths(tree: Any) -> None:
    for path in tree["core"]["paths"]:
        path["bytes_per_cycle"] *= 2


def _queues(tree: Any) -> None:
    units = [tree["core"][name] for name in ("matrix", "vector", "cross_lane", "drain")]
    for unit in (*filter(None, units), *tree["core"]["dma"].values()):
        _double(unit, "queue_depth")


def _outstanding(tree: Any) -> None:
    _double(tree["core"]["matrix"], "weight_outstanding")
    for engine in tree["core"]["dma"].values():
        _double(engine, "outstanding")


def _spaces(tree: Any) -> None:
    for space in tree["core"]["spaces"].values():
        _double(space, "ports", "size_bytes", top=1 << 32)


def _latency(tree: Any) -> None:
    memory = tree["memory"]
    memory["request_latency_cycles"] = max(1, memory["request_latency_cycles"] // 2)
    memory["response_latency_cycles"] //= 2


BETTER: dict[str, Callable[[Any], None]] = {
    "bandwidth": _bandwidth, "paths": _paths, "queues": _queues, "outstanding": _outstanding, "latency": _latency,
    "buffers and ports": _spaces,
    "fifo": lambda tree: _double(tree["core"]["matrix"], "weight_fifo_tiles", top=64),
    "window": lambda tree: _double(tree["core"], "window", top=62),
    "write queue": lambda tree: _double(tree["memory"]["controller"], "write_queue", top=1024),
    "read queue": lambda tree: _double(tree["memory"]["controller"], "read_queue", top=1024),
}  # fmt: skip
ALLOWED = {"ideal": Fraction(1), "cycle": Fraction(103, 100)}  # DRAM: the order of rows and of turns changes
# (memory, model, chip, what): more than that, and how much.
EXCEPTIONS: dict[tuple[str, str, str, str], Fraction] = {
    # Scratchpad ports go to who asks first: with deeper queues a store asks before a load that matters more.
    ("ideal", "conv:1x14x14x32x48x3x1x1", "gemmini-16x16", "queues"): Fraction(1001, 1000),
}


@everywhere
@every_model
@pytest.mark.parametrize("memory", ["ideal", "cycle"])
def test_better_is_never_slower(model: str, hw: str, memory: str) -> None:
    program, params, base = simulated(model, hw, memory)
    for what, change in BETTER.items():
        tree = params.machine.model_dump()
        change(tree)
        cycles = run(program, resolve(Machine.model_validate(tree))).total_cycles
        allowed = EXCEPTIONS.get((memory, model, hw, what), ALLOWED[memory])
        assert cycles <= base.total_cycles * allowed, (what, cycles, base.total_cycles)


@everywhere
@pytest.mark.parametrize("what", ["bandwidth", "latency"])
def test_better_is_faster_somewhere(hw: str, what: str) -> None:
    """The other side: a change that did nothing at all would pass the test above."""
    gains = 0
    for model in MODELS:
        program, params, base = simulated(model, hw)
        tree = params.machine.model_dump()
        BETTER[what](tree)
        gains += base.total_cycles - run(program, resolve(Machine.model_validate(tree))).total_cycles
    assert gains > 0
