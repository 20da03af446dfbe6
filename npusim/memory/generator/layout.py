"""The arrays of the request generator: their columns, and the record that holds them between calls. All are int64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

# Parameters, int64[P_COUNT].
(
    P_CORES, P_WARPS, P_COPIERS, P_SLOTS, P_SLOT_WARPS, P_BLOCK_CYCLES, P_WARP_CYCLES, P_ISSUE_CYCLES, P_LOAD_RATE,
    P_PORT_RATE, P_LINE, P_SECTOR, P_HIT_CYCLES, P_SEND_CYCLES, P_RETURN_CYCLES, P_STORES, P_LOADS, P_BLOCK_LIMIT,
    P_CHAIN_BYTES, P_Q, P_R, P_F, P_SCHEDULERS, P_CORE_WARPS, P_COUNT,
) = range(25)  # fmt: skip

# A warp.
(
    W_STATE, W_PC, W_BLOCK, W_INDEX, W_SLOT, W_CORE, W_LOADS, W_DATA, W_LOOPS, W_REP, W_SCHEDULER, W_BIT, W_ADDRESS,
    W_LEFT, W_CHAIN, W_SINCE, W_USED, W_USE, W_FLIGHT,
) = range(19)  # fmt: skip
# W_SINCE: when the present access came to the unit. W_USED: accesses of the present row whose data the warp has used,
# W_USE: when it used the last. From W_FLIGHT on, two words for each access of a row with a window, in turn: pieces that
# are on their way, and when its data are there.
FLIGHT_WORDS = 2
# W_STATE: no work, has an event, in the load/store unit, for its loads; for the oldest of a full window, has an event
# to go on in its row.
IDLE, RUNNING, QUEUED, WAITING, HELD, FREED = range(6)

# A core: its load/store unit; from C_WAITING on a word a scheduler, a bit (W_BIT) for each of its warps that waits.
C_TURN, C_STATE, C_FREE, C_IN_FREE, C_LOADS, C_STORES, C_WAITING = range(7)
WAITING_BITS = 62  # of such a word
UNIT_IDLE, UNIT_BUSY, UNIT_BLOCKED = 0, 1, 2  # C_STATE: nobody waits, has an event, waits for an answer

# A request in flight; its row is the tag at the port.
F_CORE, F_KIND, F_ADDRESS, F_BYTES, F_NEXT, F_COLUMNS = range(6)  # F_CORE of a copy is the copier
LOAD, STORE, COPY = 0, 1, 2
# A target of the L1's misses (npusim.memory.caches.mshr): T_NEXT, T_NEED, then the warp and its words in the warp's
# window (0: none); row 0 is nobody.
N_WARP, N_FLIGHT, N_COLUMNS = 2, 3, 4
NONE = -1

# A copy engine.
(
    E_CORE, E_ADDRESS, E_STEP, E_LEFT, E_BYTES, E_WRITE, E_FLIGHT, E_LIMIT, E_MILLI, E_PHASE, E_STATE, E_COLUMNS,
) = range(12)  # fmt: skip

# Free lists and what is next, int64[X_COUNT].
X_FREE_FLIGHT, X_FREE_TARGET, X_BLOCK, X_NOW, X_COUNT = range(5)

# Counters, int64[K_COUNT].
(
    K_BLOCKS, K_WARPS, K_LOAD_BYTES, K_STORE_BYTES, K_CHASES, K_HITS, K_MISSES, K_MERGED, K_STALLS, K_READS, K_WRITES,
    K_COPIED, K_WAIT_CYCLES, K_COUNT,
) = range(14)  # fmt: skip

# Status of generator_advance.
OK, FULL = 0, 1


@dataclass
class GeneratorState:
    """The arrays of a generator, in the order in which its kernels take them."""

    params: Array
    pages: Array  # where each lies in memory (npusim.memory.generator.physical)
    program: Array
    chain: Array
    warps: Array
    cores: Array
    slots: Array  # warps that a resident block still has, by slot
    copiers: Array
    flights: Array
    targets: Array
    events: Array
    size: Array  # of the heap of events
    other: Array
    counters: Array
