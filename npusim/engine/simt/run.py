"""The driver of the engine of threads: it builds every argument, runs launches, turns statuses into errors."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import instr_text
from isa.errors import CapacityError, ConfigError, DeadlockError, SimulationError
from isa.occupancy import Occupancy, occupancy
from isa.program import LAUNCH_KERNEL, Kernel, Program
from isa.simt_machine import SimtMachine
from npusim.engine.simt import layout as at
from npusim.engine.simt.blocks import start_block
from npusim.engine.simt.loop import advance_threads
from npusim.engine.simt.slices import control_slice
from npusim.engine.simt.tables import cost_table, l1_of, uses_table
from npusim.memory.caches.mshr import T_NEXT
from npusim.memory.generator.backend import Hierarchy, make_backend
from npusim.memory.generator.l1 import L1State, make_l1
from npusim.memory.generator.physical import make_pages
from npusim.memory.generator.setup import clock_of
from npusim.record_simt import SIMT_COUNTERS, WARP_CAUSES, LaunchRecord, SimtRecord
from npusim.units.warps import layout as warp_at
from npusim.units.warps.decode import decode
from npusim.units.warps.layout import WarpState
from npusim.units.warps.state import make_warps

Array = npt.NDArray[Any]
PATIENCE = 100_000  # cycles in which nothing happens and nothing is in flight: a deadlock


def run_simt(
    program: Program, machine: SimtMachine, memory: Array | None = None, window_cycles: int = 0
) -> SimtRecord:
    """Simulate the launches of a program of threads cycle by cycle, on the values of `memory`, which they change.

    `memory` uint8: byte i is the byte at address i. Without it only what decides time is executed, the control slice.
    `window_cycles` above 0 shortens the windows in which cores and memory take turns, which changes no result.
    Raises SimulationError (also when time depends on values that there are not), DeadlockError, CapacityError.
    """
    started = time.process_time()
    backend = make_backend(machine)
    now, found = 0, []
    for index in range(len(program.launches)):
        record = _launch(program, machine, memory, backend, index, now, window_cycles)
        found.append(record)
        now = record.end
    return SimtRecord(machine, program, tuple(found), now, time.process_time() - started)


def _launch(
    program: Program, machine: SimtMachine, memory: Array | None, backend: Hierarchy, index: int, now: int,
    window_cycles: int,
) -> LaunchRecord:  # fmt: skip
    row = program.launches[index]
    if int(row["kind"]) != LAUNCH_KERNEL:
        raise SimulationError(f"launch {index}: only kernels run on {machine.name}")
    kernel, grid, block = program.kernels[int(row["kernel"])], int(row["grid"]), int(row["block"])
    smem = kernel.scratch_bytes.get("smem", 0)
    fit = occupancy(machine, block, kernel.registers, smem)
    if fit.blocks == 0:
        raise CapacityError(
            f"launch {index}: a block of {block} threads of kernel {kernel.name} ({kernel.registers} registers a "
            f"thread, {smem} bytes of shared memory) does not fit a core of {machine.name}: its {fit.limiter} allow "
            "none; give smaller blocks"
        )
    args = program.args[int(row["args"]) : int(row["args"]) + int(row["nargs"])].astype(np.int64)
    first = now + machine.launch_cycles
    params = _params(machine, fit, grid, block, len(args), backend)
    params[at.P_COLUMNS] = int(row["columns"]) or grid
    warps, state = _arrays(program, kernel, machine, params, fit, smem, args)
    code = decode(program, kernel, machine)
    state.uses[...] = uses_table(program, kernel, code)
    if memory is None:
        state.cost[:, 3], memory = _needed(program, kernel, code), np.zeros(0, np.uint8)
    l1 = make_l1(l1_of(machine, fit.carveout_bytes), machine.cores)
    before = _memory_totals(backend)
    state.other[at.O_NOW] = first
    for slot in range(fit.blocks):
        for c in range(machine.cores):
            start_block(
                params, state.uses, warps.warps, warps.regs, warps.scalars, warps.preds, warps.shared, state.timing,
                state.ready, state.by, state.subs, state.cores, state.slots, state.args, state.other, c, slot, first,
            )  # fmt: skip
    end = _advance(program, kernel, machine, code, warps, state, l1, memory, backend, index, first, window_cycles)
    after = _memory_totals(backend)
    schedulers = int(params[at.P_SCHEDULERS])
    subs = state.subs.reshape(machine.cores, schedulers, -1)
    return LaunchRecord(
        kernel.name, grid, block, now, end, fit, state.stalls, state.issues,
        subs[:, :, at.S_PIPES + at.PIPES : at.S_PIPES + 2 * at.PIPES].copy(), subs[:, :, at.S_ISSUED].copy(),
        dict(zip(SIMT_COUNTERS, state.counters.tolist())),
        (after[0]["read_bytes"] - before[0]["read_bytes"], after[0]["write_bytes"] - before[0]["write_bytes"]),
        {name: value - before[1][name] for name, value in after[1].items()},
    )  # fmt: skip


def _needed(program: Program, kernel: Kernel, code: Array) -> Array:
    """Which instructions are executed when there are no values."""
    needed, load = control_slice(program, kernel, code)
    if load >= 0:
        raise SimulationError(
            f"kernel {kernel.name}, instruction {load} `{instr_text(program, load)}`: what it reads decides branches "
            "or addresses, so its time cannot be told without values; give the arrays"
        )
    return needed


def _memory_totals(backend: Hierarchy) -> tuple[dict[str, int], dict[str, int]]:
    """Counters of the DRAM, and of the shared cache."""
    return backend.state.memory.summary(), backend.state.summary()


def _params(machine: SimtMachine, fit: Occupancy, grid: int, block: int, nargs: int, backend: Hierarchy) -> Array:
    core = machine.core
    assert core.warps is not None and core.load_store is not None and core.l1 is not None
    unit, threads, shared = core.load_store, core.warps, core.shared
    if unit.stores < core.l1.line_bytes // core.l1.sector_bytes:
        raise ConfigError(
            f"{machine.name}: core.load_store.stores {unit.stores} is less than the sectors of a line of the L1 "
            f"({core.l1.line_bytes // core.l1.sector_bytes}), so no store of a whole line could leave"
        )
    params = np.zeros(at.P_COUNT, np.int64)
    figures = {
        at.P_CORES: machine.cores, at.P_SCHEDULERS: threads.schedulers,
        at.P_CORE_WARPS: fit.blocks * fit.block_warps, at.P_SLOTS: fit.blocks, at.P_BLOCK_WARPS: fit.block_warps,
        at.P_WARP_SIZE: threads.size, at.P_GTO: core.scheduling.policy == "gto",
        at.P_BRANCH: core.scheduling.branch_cycles, at.P_QUEUE: core.scheduling.queue_depth,
        at.P_BLOCK_CYCLES: threads.block_cycles, at.P_WARP_CYCLES: threads.warp_cycles,
        at.P_LOAD_RATE: unit.bytes_per_cycle, at.P_PORT_RATE: unit.port_bytes_per_cycle, at.P_ISSUE: unit.issue_cycles,
        at.P_STORES: unit.stores, at.P_LINE: core.l1.line_bytes, at.P_SECTOR: core.l1.sector_bytes,
        at.P_HIT: core.l1.hit_latency_cycles, at.P_SHARED_LATENCY: shared.latency_cycles, at.P_BANKS: shared.banks,
        at.P_BANK_BYTES: shared.bank_bytes, at.P_SEND: core.l1.hit_latency_cycles + backend.send_cycles,
        at.P_RETURN: backend.return_cycles, at.P_RUNS: (core.l1.line_bytes // core.l1.sector_bytes + 1) // 2,
        at.P_GRID: grid, at.P_THREADS: block, at.P_NARGS: nargs,
    }  # fmt: skip
    for word, value in figures.items():
        params[word] = value
    params[at.P_Q], params[at.P_R], params[at.P_F] = clock_of(machine)
    return params


def _arrays(
    program: Program, kernel: Kernel, machine: SimtMachine, params: Array, fit: Occupancy, smem: int, args: Array
) -> tuple[WarpState, at.SimtState]:
    cores, schedulers = machine.cores, int(params[at.P_SCHEDULERS])
    count, slots = cores * int(params[at.P_CORE_WARPS]), cores * fit.blocks
    core = machine.core
    assert core.l1 is not None and core.load_store is not None
    # As many as can be under way: no core ever finds none because others have them.
    sectors = core.l1.line_bytes // core.l1.sector_bytes
    flights = cores * (core.l1.mshrs * sectors + core.load_store.stores)
    targets = 2 + cores * min(core.l1.mshrs * core.l1.mshr_targets, at.ACCESSES * at.PIECES)
    n = kernel.end - kernel.start
    warps = make_warps(count, max(1, kernel.registers), machine.warp_size, slots, smem)
    state = at.SimtState(
        params, cost_table(program, kernel, machine), np.zeros((n, 2 * at.USES), np.int64),
        np.zeros((count, at.X_COLUMNS), np.int64), np.zeros((count, at.SCOREBOARD), np.int64),
        np.zeros((count, at.SCOREBOARD), np.int64), np.zeros((cores * schedulers, at.S_COLUMNS), np.int64),
        np.zeros((cores, at.C_COLUMNS), np.int64), np.zeros((cores, at.ACCESSES + 1), np.int64),
        np.zeros((slots, at.B_COLUMNS), np.int64), np.zeros((cores * at.ACCESSES, at.A_COLUMNS), np.int64),
        np.zeros((cores * at.ACCESSES, at.PIECES, 2), np.int64), np.zeros((flights, at.F_COLUMNS), np.int64),
        np.zeros((targets, at.N_COLUMNS), np.int64), make_pages(machine), np.append(args, 0).astype(np.int64),
        np.zeros(at.O_COUNT, np.int64), np.zeros(at.K_COUNT, np.int64),
        np.zeros((n + 1, len(WARP_CAUSES)), np.int64), np.zeros((n + 1, 2), np.int64), np.zeros(256, np.int64),
    )  # fmt: skip
    state.subs[:, at.S_DUE] = at.FAR
    state.subs[:, at.S_LAST] = at.NONE
    state.cores[:, at.C_DUE] = state.cores[:, at.C_UNIT] = at.FAR
    state.timing[:, at.X_CAUSE] = at.UNKNOWN
    rows = np.arange(cores * at.ACCESSES).reshape(cores, at.ACCESSES)
    state.accesses[:, at.A_NEXT] = np.concatenate([rows[:, 1:], np.full((cores, 1), at.NONE)], axis=1).reshape(-1)
    state.cores[:, at.C_FREE_ACCESS] = rows[:, 0]
    state.flights[:, at.F_NEXT] = np.append(np.arange(1, flights), at.NONE)
    state.targets[1:-1, T_NEXT] = np.arange(2, targets)
    state.other[at.O_FREE_TARGET] = 1
    return warps, state


def _advance(
    program: Program, kernel: Kernel, machine: SimtMachine, code: Array, warps: WarpState, state: at.SimtState,
    l1: L1State, memory: Array, backend: Hierarchy, index: int, first: int, window_cycles: int,
) -> int:  # fmt: skip
    """Window by window until the grid has ended; returns the cycle of the end."""
    params, cycle, quiet = state.params, first, 0
    window = max(1, int(params[at.P_SEND] + params[at.P_RETURN]) - 1)
    window = min(window, window_cycles or window)
    while True:
        seen = (int(state.other[at.O_NOW]), int(state.counters[at.K_PIECES]))
        until = cycle + window
        status = _window(code, warps, state, l1, memory, backend, until)
        if status == at.FAULT:
            raise SimulationError(_fault(program, kernel, machine, warps, state, index, len(memory)))
        if status == at.DONE:
            return max(first, int(state.other[at.O_LAST]) + 1)
        backend.advance(_fs(params, until + int(params[at.P_SEND])))
        cycle = until
        moved = (int(state.other[at.O_NOW]), int(state.counters[at.K_PIECES])) != seen
        quiet = 0 if moved else quiet + window
        if quiet > PATIENCE:
            raise DeadlockError(_stuck(program, kernel, warps, state, index))


def _window(
    code: Array, warps: WarpState, state: at.SimtState, l1: L1State, memory: Array, backend: Hierarchy, until: int
) -> int:
    port = backend.port
    while True:
        status = advance_threads(  # type: ignore[call-arg]
            state.params, code, state.cost, state.uses, warps.warps, warps.stack, warps.loops, warps.regs,
            warps.scalars, warps.preds, warps.shared, warps.work, memory, state.timing, state.ready, state.by,
            state.subs, state.cores, state.queue, state.slots, state.accesses, state.pieces, state.flights,
            state.targets, state.pages, state.args, state.other, state.counters, state.stalls, state.issues,
            state.scratch, *l1.arrays, port.requests, port.ring, port.responses, port.heap_state, until,
        )  # fmt: skip
        if status != at.FULL:
            return int(status)
        port.grow_requests()


def _fs(params: Array, cycle: int) -> int:
    q, r, f = int(params[at.P_Q]), int(params[at.P_R]), int(params[at.P_F])
    return cycle * q + (cycle * r) // f


def _fault(
    program: Program, kernel: Kernel, machine: SimtMachine, warps: WarpState, state: at.SimtState, index: int,
    size: int,
) -> str:  # fmt: skip
    """What an executor refused, and where."""
    w, pc = int(state.other[at.O_FAULT_WARP]), int(state.other[at.O_FAULT_PC])
    reasons = {
        warp_at.BAD_ADDRESS: f"an address lies outside of memory ({size} bytes), or of the block's shared memory",
        warp_at.MISALIGNED: "an address is no multiple of the bytes of the access",
        warp_at.TOO_DEEP: f"more than {warp_at.STACK_DEPTH} divergent branches inside one another",
        warp_at.BAD_LOOP: f"an endl without a loop, or more than {warp_at.LOOP_DEPTH} loops inside one another",
        warp_at.BAD_REGISTER: "a register does not exist",
        warp_at.PART_OF_WARP: "all lanes of the warp must execute it together",
    }
    row, status, cycle = warps.warps[w], int(state.other[at.O_FAULT]), int(state.other[at.O_NOW])
    text = instr_text(program, kernel.start + pc)
    return (
        f"launch {index} (kernel {kernel.name}), cycle {cycle}, block {int(row[warp_at.W_BLOCK])}, warp "
        f"{int(row[warp_at.W_INDEX])}, instruction {kernel.start + pc} `{text}`: "
        f"{reasons.get(status, f'status {status}')}"
    )


def _stuck(program: Program, kernel: Kernel, warps: WarpState, state: at.SimtState, index: int) -> str:
    """Where warps wait that nothing will let go on."""
    words = []
    for w in np.flatnonzero(state.timing[:, at.X_STATE] != at.IDLE)[:4].tolist():
        place = int(state.timing[w, at.X_PLACE])
        pc = kernel.start + (int(warps.warps[w, warp_at.W_PC]) if place == at.NONE else place)
        kind = "is at the barrier" if state.timing[w, at.X_STATE] == at.AT_BARRIER else "waits at"
        words.append(
            f"block {int(warps.warps[w, warp_at.W_BLOCK])} warp {int(warps.warps[w, warp_at.W_INDEX])} {kind}, "
            f"instruction {pc} `{instr_text(program, pc)}`"
        )
    return f"launch {index} (kernel {kernel.name}): no warp can go on: {'; '.join(words)}"
