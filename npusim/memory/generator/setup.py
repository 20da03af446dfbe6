"""From a chip and a pattern to the arrays of the generator. The only place of the package where units convert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cache import Cache
from isa.chip import Copier, MemoryChip, RequestCore
from isa.errors import ConfigError
from npusim.memory.caches.mshr import T_NEXT
from npusim.memory.generator.events import EV_COLUMNS, event_push
from npusim.memory.generator.l1 import L1State, make_l1
from npusim.memory.generator.layout import (
    C_WAITING,
    E_ADDRESS,
    E_BYTES,
    E_COLUMNS,
    E_CORE,
    E_LEFT,
    E_LIMIT,
    E_MILLI,
    E_STATE,
    E_STEP,
    E_WRITE,
    F_COLUMNS,
    F_NEXT,
    FLIGHT_WORDS,
    FREED,
    K_COUNT,
    N_COLUMNS,
    NONE,
    P_BLOCK_CYCLES,
    P_BLOCK_LIMIT,
    P_CHAIN_BYTES,
    P_COPIERS,
    P_CORE_WARPS,
    P_CORES,
    P_COUNT,
    P_F,
    P_HIT_CYCLES,
    P_ISSUE_CYCLES,
    P_LINE,
    P_LOAD_RATE,
    P_LOADS,
    P_PORT_RATE,
    P_Q,
    P_R,
    P_RETURN_CYCLES,
    P_SCHEDULERS,
    P_SECTOR,
    P_SEND_CYCLES,
    P_SLOT_WARPS,
    P_SLOTS,
    P_STORES,
    P_WARP_CYCLES,
    P_WARPS,
    UNIT_BUSY,
    W_BIT,
    W_BLOCK,
    W_CORE,
    W_FLIGHT,
    W_INDEX,
    W_REP,
    W_SCHEDULER,
    W_SLOT,
    W_STATE,
    W_USED,
    WAITING_BITS,
    X_COUNT,
    X_FREE_FLIGHT,
    X_FREE_TARGET,
    X_NOW,
    GeneratorState,
)
from npusim.memory.generator.patterns import ROW_COLUMNS, ROW_WINDOW, Pattern
from npusim.memory.generator.physical import make_pages
from npusim.memory.generator.warps import start_block

Array = npt.NDArray[Any]
FS_PER_KHZ_PERIOD = 10**12
MAX_WARPS = 1 << 20


@dataclass(frozen=True)
class Copy:
    """A stream of one copy engine: engine `engine` of core `core` moves `size_bytes` from (or to) `address` on.

    Reads of a group of cores (backend.make_backend) go to all of its cores at once.
    """

    core: int
    engine: Copier
    address: int
    size_bytes: int


def clock_of(chip: MemoryChip) -> tuple[int, int, int]:
    """(q, r, f) of the core clock: edge k lies at k q + k r // f femtoseconds."""
    khz = round(chip.clock_mhz * 1000)
    return FS_PER_KHZ_PERIOD // khz, FS_PER_KHZ_PERIOD % khz, khz


def make_generator(
    chip: MemoryChip,
    pattern: Pattern,
    *,
    block_limit: int = 0,
    send_cycles: int = 0,
    return_cycles: int = 0,
    first_cycle: int = 0,
) -> tuple[GeneratorState, L1State]:
    """The arrays of a generator whose cores all run `pattern` from `first_cycle` on, and its L1s, empty.

    `send_cycles` pass between a request's cycle and its time at the port, `return_cycles` between the time of its
    answer and the core. Blocks are given out until `block_limit` of them (0: for ever). Raises ConfigError.
    """
    core = chip.core
    if core.warps is None or core.load_store is None or core.l1 is None:
        raise ConfigError(f"{chip.name}: its cores have no warps, so no benchmark of threads runs on it")
    cores = pattern.cores or chip.cores
    warps = pattern.warps_per_block * pattern.blocks_per_core
    if warps > core.warps.resident or pattern.blocks_per_core > core.warps.blocks or cores > chip.cores:
        raise ConfigError(
            f"{chip.name}: {pattern.blocks_per_core} blocks of {pattern.warps_per_block} warps on {cores} cores; a "
            f"core has room for {core.warps.blocks} blocks and {core.warps.resident} warps, and there are {chip.cores} "
            "cores: give fewer or smaller blocks"
        )
    params = _params(chip, core, cores, warps, pattern)
    params[P_BLOCK_LIMIT], params[P_SEND_CYCLES] = block_limit, params[P_HIT_CYCLES] + send_cycles
    params[P_RETURN_CYCLES] = return_cycles
    state = _arrays(params, make_pages(chip), pattern, (), (core.l1.mshrs + core.load_store.stores) * cores)
    _start_warps(state, pattern, cores, first_cycle)
    return state, make_l1(core.l1, cores)


def make_copiers(
    chip: MemoryChip, copies: Sequence[Copy], *, send_cycles: int = 0, return_cycles: int = 0, first_cycle: int = 0
) -> tuple[GeneratorState, L1State]:
    """The arrays of a generator of copy engines alone, all of which start at `first_cycle`, and an L1 not in use."""
    params = np.zeros(P_COUNT, np.int64)
    params[P_Q], params[P_R], params[P_F] = clock_of(chip)
    params[P_COPIERS] = len(copies)
    params[P_LINE] = params[P_SECTOR] = params[P_LOAD_RATE] = params[P_PORT_RATE] = 1
    params[P_SEND_CYCLES], params[P_RETURN_CYCLES] = send_cycles, return_cycles
    flights = sum(copy.engine.outstanding for copy in copies)
    state = _arrays(params, make_pages(chip), Pattern(np.zeros((1, ROW_COLUMNS), np.int64), 1, 0), copies, flights)
    for e, copy in enumerate(copies):
        event_push(state.events, state.size, first_cycle + copy.engine.startup_cycles, e)
    return state, make_l1(Cache(size_bytes=128, ways=1, hit_latency_cycles=1, bytes_per_cycle=1, mshrs=1), 1)


def engines_of(chip: MemoryChip, direction: str) -> Iterator[tuple[int, Copier]]:
    """(core, engine) of every copy engine of a direction, over all kinds of cores."""
    first = 0
    others = ((group.count, group) for group in chip.other_cores.values())
    groups: list[tuple[int, RequestCore]] = [(chip.cores, chip.core), *others]
    for count, core in groups:
        for c in range(first, first + count):
            for engine in core.copiers.values():
                if engine.direction == direction:
                    yield from ((c, engine) for _ in range(engine.count))
        first += count


def _params(chip: MemoryChip, core: RequestCore, cores: int, warps: int, pattern: Pattern) -> Array:
    unit, threads, l1 = core.load_store, core.warps, core.l1
    assert unit is not None and threads is not None and l1 is not None  # make_generator has looked
    if cores * warps > MAX_WARPS:
        raise ConfigError(f"{chip.name}: {cores * warps} warps; at most {MAX_WARPS}")
    params = np.zeros(P_COUNT, np.int64)
    params[P_CORES], params[P_WARPS] = cores, cores * warps
    if warps > WAITING_BITS * threads.schedulers:
        raise ConfigError(
            f"{chip.name}: {warps} warps on a core of {threads.schedulers} schedulers; at most {WAITING_BITS} each: "
            "give more schedulers (core.warps.schedulers) or smaller blocks"
        )
    params[P_SCHEDULERS], params[P_CORE_WARPS] = threads.schedulers, warps
    params[P_SLOTS], params[P_SLOT_WARPS] = cores * pattern.blocks_per_core, pattern.warps_per_block
    params[P_BLOCK_CYCLES], params[P_WARP_CYCLES] = threads.block_cycles, threads.warp_cycles
    params[P_ISSUE_CYCLES], params[P_LOAD_RATE] = unit.issue_cycles, unit.bytes_per_cycle
    params[P_PORT_RATE], params[P_LINE], params[P_SECTOR] = unit.port_bytes_per_cycle, l1.line_bytes, l1.sector_bytes
    params[P_HIT_CYCLES], params[P_STORES], params[P_LOADS] = l1.hit_latency_cycles, unit.stores, l1.mshrs
    params[P_CHAIN_BYTES] = pattern.chain_bytes
    params[P_Q], params[P_R], params[P_F] = clock_of(chip)
    return params


def _arrays(params: Array, pages: Array, pattern: Pattern, copies: Sequence[Copy], flights: int) -> GeneratorState:
    warps, cores = int(params[P_WARPS]), int(params[P_CORES])
    targets = 2 + 5 * max(1, flights)  # row 0 is nobody
    columns = W_FLIGHT + FLIGHT_WORDS * int(pattern.rows[:, ROW_WINDOW].max())
    state = GeneratorState(
        params=params,
        pages=pages,
        program=np.ascontiguousarray(pattern.rows),
        chain=np.ascontiguousarray(pattern.chain),
        warps=np.zeros((max(1, warps), columns), np.int64),
        cores=np.zeros((max(1, cores), C_WAITING + int(params[P_SCHEDULERS])), np.int64),
        slots=np.zeros(max(1, int(params[P_SLOTS])), np.int64),
        copiers=np.zeros((max(1, len(copies)), E_COLUMNS), np.int64),
        flights=np.zeros((max(1, flights), F_COLUMNS), np.int64),
        targets=np.zeros((targets, N_COLUMNS), np.int64),
        events=np.zeros((warps + cores + len(copies) + 1, EV_COLUMNS), np.int64),
        size=np.zeros(1, np.int64),
        other=np.zeros(X_COUNT, np.int64),
        counters=np.zeros(K_COUNT, np.int64),
    )
    state.flights[:, F_NEXT] = np.append(np.arange(1, len(state.flights)), NONE)
    state.targets[1:-1, T_NEXT] = np.arange(2, targets)
    state.other[X_FREE_FLIGHT], state.other[X_FREE_TARGET] = 0, 1
    for e, copy in enumerate(copies):
        row, engine = state.copiers[e], copy.engine
        row[E_CORE], row[E_ADDRESS], row[E_LEFT] = copy.core, copy.address, copy.size_bytes
        row[E_BYTES] = row[E_STEP] = engine.request_bytes
        row[E_WRITE] = engine.direction == "write"
        row[E_LIMIT], row[E_MILLI] = engine.outstanding, round(1000 * engine.request_bytes / engine.bytes_per_cycle)
        row[E_STATE] = UNIT_BUSY
    return state


def _start_warps(state: GeneratorState, pattern: Pattern, cores: int, cycle: int) -> None:
    """Fill the slots of all cores with blocks, the first slot of every core first."""
    per_core = pattern.blocks_per_core
    number = np.arange(len(state.warps))
    state.warps[:, W_SLOT] = number // pattern.warps_per_block
    state.warps[:, W_INDEX] = number % pattern.warps_per_block
    state.warps[:, W_CORE] = number // (pattern.warps_per_block * per_core)
    schedulers = max(1, int(state.params[P_SCHEDULERS]))
    in_core = number % (pattern.warps_per_block * per_core)
    state.warps[:, W_SCHEDULER], state.warps[:, W_BIT] = in_core % schedulers, 1 << in_core // schedulers
    state.other[X_NOW] = cycle
    for slot in range(per_core):
        for c in range(cores):
            at = c * per_core + slot
            start_block(state.params, state.warps, state.slots, state.events, state.size, state.other, at, cycle)
    blocks = cores * per_core
    if pattern.phases > 1:
        passed = (blocks - 1 - state.warps[:, W_BLOCK]) * pattern.phases // blocks
        state.warps[:, W_REP] = state.warps[:, W_USED] = passed
        state.warps[:, W_STATE] = FREED
