"""The driver of the engine: it builds every argument, runs launch after launch, and turns statuses into errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isa.disasm import instr_text
from isa.errors import DeadlockError, SimulationError
from isa.params import Params
from isa.program import LAUNCH_KERNEL, SPACE_ID, Program
from isa.table import BY_CODE, SYNC, code
from isa.verify import verify
from npusim.engine import layout as at
from npusim.engine.layout import State, make_state
from npusim.record import CAUSE_ID, CAUSES, EVENT, WAIT, MemoryRecord, PipeInfo, Record, SharedRecord

if TYPE_CHECKING:
    from npusim.memory.backend import Backend
    from npusim.memory.port import MemoryPort

Array = npt.NDArray[Any]
WAIT_CODES = (code("wait"), code("await"))
EVENTS_A_CALL = 2_000_000
MAX_EVENTS = 200_000  # instruction-level events kept; operator level is always complete


def run(
    program: Program,
    params: Params,
    max_events: int = MAX_EVENTS,
    progress: Callable[[int, int], None] | None = None,
    window: tuple[int, int] | None = None,
    skew: float = 0.0,
    caches: str = "cold",
) -> Record:
    """Simulate a program cycle by cycle; `progress(launch, cycle)` is called after each launch.

    `window` (start and end core cycle) keeps only instructions that ran in it as events. Gathers read rows spread over
    their table: evenly, or by a Zipf law of exponent `skew`. A shared cache holds at the start what `caches` says:
    nothing (`cold`), what a run before this one left (`warm`), or the `weights`, in their order, as far as they fit.

    Raises ProgramError for an illegal program, DeadlockError or SimulationError naming launch, cycle, core and
    instruction.
    """
    from npusim.memory.backend import make_backend

    started = time.process_time()
    verify(program, params.machine)
    _refuse_windows(program)
    regions = _regions(program)
    starts = np.array(list(regions), np.int64)
    memory = make_backend(params.machine, starts)
    if caches == "weights":
        memory.preload([(t.address, t.size_bytes) for t in program.tensors if (t.role, t.space) == ("weight", "dram")])
    if caches == "warm":
        _launches(program, params, make_state(params, program.instrs, program.descs, 0), memory, skew, None)
    if caches != "cold":
        memory = make_backend(params.machine, starts, memory)
    state = make_state(params, program.instrs, program.descs, max_events)
    if window is not None:
        state.clock[at.K_FROM], state.clock[at.K_TO] = window
    collected, now = _launches(program, params, state, memory, skew, progress)
    return collected.record(params, state, memory, now, started, list(regions.values()))


def _launches(
    program: Program, params: Params, state: State, memory: Backend, skew: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[_Collector, int]:  # fmt: skip
    """Run all launches; returns what was counted and the cycle of the end."""
    from npusim.memory.port import make_port

    in_flight = int(params.dma[:, 1] @ params.dma[:, 2]) + params["matrix_count"] * params["weight_outstanding"]
    port = make_port(*(2 * params["cores"] * in_flight + 64,) * 2)
    state.values[at.V_SKEW] = round(1000 * skew)
    collected, now = _Collector(program, params), 0
    for index in range(len(program.launches)):
        now = _launch(program, params, state, port, memory, index, now, collected)
        if progress is not None:
            progress(index, now)
    memory.drain(port)
    return collected, now


def _regions(program: Program) -> dict[int, str]:
    """The tensors in DRAM by first byte, ascending; those that take turns at one address are named together."""
    found: dict[int, list[str]] = {}
    for tensor in program.tensors:
        if tensor.space == "dram":
            found.setdefault(tensor.address, []).append(tensor.name)
    return {at: names[0] + (f" (+{len(names) - 1})" if len(names) > 1 else "") for at, names in sorted(found.items())}


def _refuse_windows(program: Program) -> None:
    """Transfers move what a descriptor spans; elements outside of a window would have to be left out."""
    windows = (program.descs["axis"] >= 0).any(axis=1) & (program.descs["space"] == SPACE_ID["dram"])
    for index in np.flatnonzero(windows):
        raise SimulationError(f"descriptor {index}: no windows in dram are simulated; copy, then read them on chip")


class _Collector:
    """Results of the launches so far."""

    def __init__(self, program: Program, params: Params) -> None:
        launches, paths = len(program.launches), len(params.paths)
        self.states = np.zeros((launches, params["cores"], len(params.pipes), len(CAUSES)), np.int64)
        self.span = np.zeros((launches, 2), np.int64)
        self.paths = np.zeros((launches, paths), np.int64)
        self.dram = np.zeros((launches, 2), np.int64)
        self.macs = np.zeros(launches, np.int64)
        self.issued = np.zeros((launches, 8), np.int64)

    def record(
        self, params: Params, state: State, memory: Backend, now: int, started: float, names: list[str]
    ) -> Record:
        """The finished record of a run that began at process time `started`."""
        cycle_fs = 1e12 / params["core_khz"]
        rows = state.events[: int(state.clock[at.K_EVENTS])]
        waited = np.isin(state.code[rows[:, at.E_INSTR], at.I_OP], WAIT_CODES)
        events, waits = _named(rows, ~waited, EVENT), _named(rows, waited, WAIT)
        infos = tuple(PipeInfo(p.index, p.class_name, p.unit, p.label) for p in params.pipes)
        states = self.states * params.present[:, :, None]
        return Record(
            infos, now, states, self.span, self.paths, self.dram, self.macs, self.issued,
            memory.dram.summary(), memory.dram.series.astype(np.float64), memory.dram.series_bin_fs / cycle_fs,
            events, int(state.clock[at.K_DROPPED]), time.process_time() - started, waits,
            _memory_record(params, memory, now, names),
        )


def _memory_record(params: Params, memory: Backend, now: int, names: list[str]) -> MemoryRecord | None:
    """What the DRAM did, and the shared cache before it; None for the ideal model."""
    from npusim.memory.state import BUCKETS, C_HISTOGRAM

    dram = memory.dram
    channels, totals = dram.channel_counters(), dram.summary()
    if not channels:
        return None
    requests = max(1, totals["reads"] + totals["writes"])
    regions = tuple((name, int(row[1]), int(row[2]), int(row[3])) for name, row in zip(names, dram.regions))
    return MemoryRecord(
        channels, totals["latency_fs"] / requests * 1e-6, totals["wait_fs"] / requests * 1e-6,
        dram.counters[C_HISTOGRAM : C_HISTOGRAM + BUCKETS].copy(), regions,
        dram.refresh_fs(params.machine.memory.dram), _shared_record(params, memory, now),
    )  # fmt: skip


def _shared_record(params: Params, memory: Backend, now: int) -> SharedRecord | None:
    """What the shared cache did until core cycle `now`; None without one."""
    shared = memory.shared
    if shared is None:
        return None
    end_fs = now * 10**12 // params["core_khz"]
    described = params.machine.memory.l2
    return SharedRecord(
        described.size_bytes * described.slices if described is not None else 0, shared.summary(),
        shared.slice_counters(), shared.histogram(), memory.dirty_bytes, shared.network_report(end_fs),
    )  # fmt: skip


def _launch(
    program: Program, params: Params, state: State, port: MemoryPort, memory: Backend, index: int, now: int,
    out: _Collector,
) -> int:  # fmt: skip
    """Run one launch; returns the cycle at which it ends."""
    record = program.launches[index]
    gap = params.machine.launch_cycles
    out.span[index, 0] = now
    before = _dram_totals(memory)
    if int(record["kind"]) != LAUNCH_KERNEL:
        end = now + gap + int(record["cycles"])
        out.states[index, :, :, CAUSE_ID["launch"]] = gap
        out.states[index, :, :, CAUSE_ID["host"]] = int(record["cycles"])
        out.span[index, 1] = end
        return end
    state.clock[at.K_NOW] = now + gap
    _prepare(program, params, state, record, now, gap)
    first_event = int(state.clock[at.K_EVENTS])
    _advance(program, params, state, memory, port, index)
    end = int(state.clock[at.K_NOW])
    _leftover_flags(program, params, state, index)
    first_core = params.cores_of(program.kernels[int(record["kernel"])]).start  # the kernel ran on rows from 0 up
    out.states[index] = np.roll(state.pipe[:, :, at.P_STATES : at.P_STATES + at.CAUSE_COUNT], first_core, axis=0)
    out.states[index, :, :, CAUSE_ID["launch"]] += gap
    out.span[index, 1] = end
    traffic = state.clock[at.K_TRAFFIC :]
    out.paths[index] = traffic[: len(params.paths)]
    out.macs[index] = traffic[at.MAX_PATHS] * params["rows"] * params["cols"]
    out.issued[index] = traffic[at.MAX_PATHS + 1 : at.MAX_PATHS + 9]
    out.issued[index, 0] = int(state.core[:, at.C_ISSUED].sum())
    out.dram[index] = _dram_totals(memory) - before
    events = state.events[first_event : int(state.clock[at.K_EVENTS])]
    events[:, at.E_LAUNCH] = index
    events[:, at.E_CORE] += first_core
    events[:, at.E_BY_CORE] += first_core
    return end


def _named(rows: Array, chosen: Array, kind: np.dtype[np.void]) -> Array:
    """The `chosen` event rows as records of EVENT or WAIT, whose fields are in the order of the columns."""
    chosen = np.flatnonzero(chosen)
    out = np.zeros(len(chosen), kind)
    for column, name in enumerate(kind.names or ()):
        out[name] = rows[chosen, column]
    return out


def _dram_totals(memory: Backend) -> Array:
    totals = memory.dram.summary()
    return np.array([totals["read_bytes"], totals["write_bytes"]], np.int64)


def _prepare(program: Program, params: Params, state: State, record: Array, now: int, gap: int) -> None:
    """Reset what belongs to one launch and load the arguments of every core."""
    start = now + gap
    state.core[...] = 0
    state.unit[...] = 0
    state.pipe[:, :, at.P_SNAPSHOT :] = 0
    state.clock[at.K_TRAFFIC :] = 0
    kernel = program.kernels[int(record["kernel"])]
    blocks, cores = _blocks_of(program, record), params.cores_of(kernel)
    active = min(len(blocks), len(cores))
    state.core[:, at.C_PC], state.core[:, at.C_TIME], state.core[:, at.C_SINCE] = kernel.start, start, start
    state.core[:, at.C_START], state.core[:, at.C_BLOCKS] = kernel.start, len(blocks)
    state.core[:, at.C_CAUSE] = at.BUSY
    state.core[active:, at.C_HALTED], state.core[active:, at.C_CAUSE] = 1, at.DRAINED
    state.core[:active, at.C_BLOCK] = np.arange(active)
    state.core[:active, at.C_REGS : at.C_REGS + blocks.shape[1]] = blocks[:active]
    state.clock[at.K_NEXT_BLOCK], state.clock[at.K_STATUS] = active, 0
    own = params["flags"]
    state.core[:, at.C_FLAGS + 2 * own + 1 : at.C_FLAGS + 2 * (own + params["cross_flags"]) : 2] = SYNC
    depths = [min(pipe.queue_depth, at.MAX_QUEUE) for pipe in params.pipes]
    for row, core in enumerate(cores):  # a kind of core has no room for what it lacks
        state.core[row, at.C_KIND] = params.machine.kind_of(core)
        state.pipe[row, :, at.P_DEPTH] = np.where(params.present[core], depths, 0)
    state.pipe[:, :, at.P_ACCOUNTED], state.pipe[:, :, at.P_BUSY_UNTIL] = start, start
    state.pipe[:, :, at.P_IDLE] = 1
    state.pipe[:, :, at.P_REASON] = at.DISPATCH
    state.pipe[:, :, at.P_LAST_WAIT] = at.MEMORY_LATENCY
    state.pipe[:, :, at.P_LAST_DONE] = start


def _blocks_of(program: Program, record: Array) -> Array:
    """Arguments of a launch [blocks, arguments]."""
    grid, nargs, first = int(record["grid"]), int(record["nargs"]), int(record["args"])
    return np.ascontiguousarray(program.args[first : first + grid * nargs].reshape(grid, nargs), np.int64)


def _advance(
    program: Program, params: Params, state: State, memory: Backend, port: MemoryPort, index: int
) -> None:
    """Call the compiled loop until the launch has ended."""
    from npusim.engine.loop import run_launch

    record = program.launches[index]
    blocks = _blocks_of(program, record)
    active = min(len(blocks), len(params.cores_of(program.kernels[int(record["kernel"])])))
    due = np.full(active, int(state.clock[at.K_NOW]), np.int64)
    while True:
        cells = (port.requests, port.ring, port.responses, port.heap_state)
        status = run_launch(*state, memory.arrays, cells, blocks, due, EVENTS_A_CALL)
        if status == at.DONE:
            return
        if status == at.GROW and memory.make_room(port, int(state.clock[at.K_STATUS])):
            continue
        if status == at.BUDGET:
            continue
        core = int(state.clock[at.K_CORE])
        kernel = program.kernels[int(record["kernel"])]
        where = f"launch {index} (kernel {kernel.name}), cycle {int(state.clock[at.K_NOW])}"
        if status == at.DEADLOCK:
            raise DeadlockError(f"{where}: no core can go on: {_blocked_cores(program, params, state, active)}")
        if status == at.CROWDED:
            raise SimulationError(
                f"{where}: more than {at.MAX_SIGNALS} signals are on their way to one core; wait for some of them first"
            )
        if status == at.REFUSED:
            raise SimulationError(f"{where}, {_refused(program, state, memory.dram.params, port)}")
        pc = int(state.core[core, at.C_PC])
        text = instr_text(program, pc)
        why = _bad(program, params, state, core, len(blocks))
        raise SimulationError(f"{where}, core {core}, instruction {pc} `{text}`: {why}")


def _bad(program: Program, params: Params, state: State, core: int, blocks: int) -> str:
    """Why the sequencer of a core cannot execute the instruction at its pc."""
    if state.core[core, at.C_ISSUED] > at.MAX_INSTRUCTIONS:
        return (
            f"the core has executed {at.MAX_INSTRUCTIONS} instructions, the limit of a core in a launch: its loop does "
            "not end, or the work is cut too fine; check trip counts and branches, or give larger tiles (run.tile)"
        )
    instr = program.instrs[int(state.core[core, at.C_PC])]
    name = BY_CODE[int(instr["op"])].name
    key = {"set": "flags", "wait": "flags", "signal": "cross_flags", "await": "cross_flags"}.get(name)
    if key is None:
        return "loops nest too deep, or an endl has no loop, or a flag of its bundle does not exist (core.flags)"
    flag, count = int(instr["imm"]), params[key]
    if instr["a"] >= 0:
        flag += int(state.core[core, at.C_REGS + instr["a"]])
    if not 0 <= flag < count:
        return f"flag {flag} does not exist; there are {count} (core.{key}): check the register, or raise core.{key}"
    target = int(state.core[core, at.C_REGS + instr["b"]])
    return f"block {target} does not exist; there are {blocks} (the grid of the launch): check the register"


def _refused(program: Program, state: State, memory_params: Array, port: MemoryPort) -> str:
    """Name the request that the memory does not take, and who asked."""
    from npusim.memory.port import REQ_ADDRESS, REQ_BYTES, REQ_TAG, RING_HEAD
    from npusim.memory.state import P_CAPACITY

    request = port.requests[port.ring[RING_HEAD] % len(port.requests)]
    owner, slot = divmod(int(request[REQ_TAG]), at.SLOTS)
    core = owner // state.pipe.shape[1]
    pc = int(state.op[core, slot, at.O_INSTR])
    low, high = int(request[REQ_ADDRESS]), int(request[REQ_ADDRESS] + request[REQ_BYTES])
    capacity = int(memory_params[P_CAPACITY])
    return (
        f"core {core}, instruction {pc} `{instr_text(program, pc)}`: a request for bytes [{low}, {high}) of dram, "
        f"which has {capacity} (memory.capacity_bytes); check the operand's base and strides"
    )


def _blocked_cores(program: Program, params: Params, state: State, active: int) -> str:
    rows = []
    for core in range(active):
        if not state.core[core, at.C_HALTED]:
            cause, pc = CAUSES[int(state.core[core, at.C_CAUSE])], int(state.core[core, at.C_PC])
            rows.append(f"core {core} at instruction {pc} `{instr_text(program, pc)}` is in {cause}")
        elif state.core[core, at.C_INFLIGHT]:
            rows.append(f"core {core} has halted with {int(state.core[core, at.C_INFLIGHT])} instructions unfinished")
        for pipe in params.pipes if params["queues"] else ():
            row = state.pipe[core, pipe.index]
            if row[at.P_LENGTH]:
                slot = int(row[at.P_QUEUE + row[at.P_HEAD]])
                pc = int(state.op[core, slot, at.O_INSTR])
                rows.append(f"core {core}: {pipe.label} is held by instruction {pc} `{instr_text(program, pc)}`")
    return "; ".join(rows)


def _leftover_flags(program: Program, params: Params, state: State, index: int) -> None:
    count = params["flags"] + params["cross_flags"]
    flags = state.core[:, at.C_FLAGS : at.C_FLAGS + 2 * count : 2] + 0
    for core in np.flatnonzero(state.core[:, at.C_SIGNALS]).tolist():  # signals that come after the end
        head = int(state.core[core, at.C_SIGNAL_HEAD])
        flags[core, int(state.core[core, at.C_SIGNAL0 + at.SIGNAL_COLUMNS * head + 1])] += 1
    if (params["vliw"] or params["queues"]) and flags.any():
        core, flag = (int(x[0]) for x in np.nonzero(flags))
        own = params["flags"]
        name, pair = f"flag {flag}", "set has no wait"
        if flag >= own:
            name, pair = f"cross-core flag {flag - own}", "signal has no await"
        raise SimulationError(
            f"launch {index}: {name} of core {core} is {int(flags[core, flag])} at the end, not 0: a {pair}"
        )


