"""The arrays of the engine of threads: their columns, and the record that holds them between calls. All are int64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from npusim.record_simt import WARP_CAUSES

Array = npt.NDArray[Any]

FAR = 1 << 60  # a cycle that does not come

# Parameters, int64[P_COUNT]. P_RUNS: the most requests of a piece.
(
    P_CORES, P_SCHEDULERS, P_CORE_WARPS, P_SLOTS, P_BLOCK_WARPS, P_WARP_SIZE, P_GTO, P_BRANCH, P_QUEUE,
    P_BLOCK_CYCLES, P_WARP_CYCLES, P_LOAD_RATE, P_PORT_RATE, P_ISSUE, P_STORES, P_LINE, P_SECTOR, P_HIT,
    P_SHARED_LATENCY, P_BANKS, P_BANK_BYTES, P_SEND, P_RETURN, P_Q, P_R, P_F, P_GRID, P_THREADS, P_NARGS, P_COLUMNS,
    P_RUNS, P_COUNT,
) = range(32)  # fmt: skip

# Causes of npusim.record_simt.WARP_CAUSES by number.
(
    SELECTED, NOT_SELECTED, LONG, SHORT, DEPENDENCY, PIPE_BUSY, LSU_FULL, BARRIER_WAIT, FENCE_WAIT, BRANCHING,
    LAUNCHING,
) = range(len(WARP_CAUSES))  # fmt: skip
UNKNOWN = -1

# What a warp is to the schedulers, timing[w]. X_READY: when control lets it go on, X_READY_CAUSE why not before;
# X_DEP, X_DEP_CAUSE: the same for the registers of its next instruction. X_SINCE, X_CAUSE, X_AT: its state, since when,
# and the instruction for which it counts; X_PLACE: the barrier, membar or cpa.wait that it has issued and waits at, or
# NONE. X_WRITES: sectors of its stores, from their issue until they are answered. Of asynchronous copies: groups
# committed, groups of which no answer is missing; X_COPIES + group % GROUPS: copies of the group under way,
# X_THERE + group % GROUPS: when their data are there, and those of the groups before; X_COPIED: of all complete ones.
(
    X_STATE, X_READY, X_READY_CAUSE, X_DEP, X_DEP_CAUSE, X_SINCE, X_CAUSE, X_AT, X_PLACE, X_AGE, X_BARRIER, X_WRITES,
    X_COMMITTED, X_COMPLETE, X_WANTED, X_COPIED, X_COPIES,
) = range(17)  # fmt: skip
GROUPS = 16
X_THERE = X_COPIES + GROUPS
X_COLUMNS = X_THERE + GROUPS
# X_STATE: without a block, may issue, at a barrier, waits for its writes, for groups of copies.
IDLE, RUNNING, AT_BARRIER, AT_FENCE, AT_GROUPS = range(5)

# The scoreboard of a warp, ready[w] (when a register may be used) and by[w] (what cause it is to wait for it).
LANE_ROW, SCALAR_ROW, PRED_ROW, SCOREBOARD = 0, 256, 320, 328
USES = 6  # runs of registers that an instruction reads or writes: (first, count) each

# A sub-core, subs[c * schedulers + s]: when it acts next, memory instructions in the queue, the warp that it chose
# last, instructions issued; from S_PIPES on when each pipe is free and cycles that it was busy.
S_DUE, S_QUEUED, S_LAST, S_ISSUED, S_PIPES = range(5)
PIPES = 8
S_COLUMNS = S_PIPES + 2 * PIPES

# A core, cores[c]: when anything of it acts next, when its load/store unit does (FAR: nothing to do, or no room), the
# first and the number of accesses in its queue, whether the unit waits for room, when answers may follow, fills and
# sectors of stores and atomics in flight, free access, resident blocks; when the idle unit may start again.
(
    C_DUE, C_UNIT, C_HEAD, C_LENGTH, C_BLOCKED, C_IN_FREE, C_LOADS, C_STORES, C_FREE_ACCESS, C_RESIDENT, C_IDLE_FROM,
    C_COLUMNS,
) = range(12)  # fmt: skip

# A slot of a core for a block, slots[c * P_SLOTS + b]: warps that still run (0: empty), the block, warps at a barrier.
B_LEFT, B_BLOCK, B_ARRIVED, B_COLUMNS = range(4)

# A memory instruction under way, accesses[a]: its warp and address, what it is (warps.layout.I_KIND), pieces, pieces
# that the unit has taken, pieces that are on their way, when its data are there, the sub-core whose queue it is in,
# its group of copies; A_AGE: the X_AGE of the warp, for its place may be another's by then; A_NEXT: free list. A piece
# of global memory is (line, mask of sectors), one of shared memory (cycles, 0).
(
    A_WARP, A_PC, A_KIND, A_PIECES, A_TAKEN, A_LEFT, A_DATA, A_SUB, A_GROUP, A_AGE, A_NEXT, A_COLUMNS,
) = range(12)  # fmt: skip
PIECES = 64
ACCESSES = 128  # of a core at once

# A request in flight; its row is the tag at the port. F_OWNER: the access, or the warp of a store with X_AGE F_AGE.
F_CORE, F_KIND, F_ADDRESS, F_BYTES, F_OWNER, F_AGE, F_NEXT, F_COLUMNS = range(8)
FILL, WRITE, PASS = 0, 1, 2  # F_KIND: of a line of the L1, a store, a read past the L1
# A target of the L1's misses (npusim.memory.caches.mshr): T_NEXT, T_NEED, then the access; row 0 is nobody.
N_ACCESS, N_COLUMNS = 2, 3
NONE = -1

# Free lists and what is next, other[O_COUNT]. O_NOW: the cycle that was looked at last; O_LAST: that in which a block
# ended, the unit took a piece or an answer came. O_FAULT*: what an executor refused.
(
    O_FREE_FLIGHT, O_FREE_TARGET, O_BLOCK, O_NOW, O_LAST, O_DONE, O_AGE, O_FAULT, O_FAULT_WARP, O_FAULT_PC, O_COUNT,
) = range(11)  # fmt: skip

# Counters, counters[K_COUNT].
(
    K_LOAD_SECTORS, K_STORE_SECTORS, K_HITS, K_MISSES, K_MERGED, K_STALLS, K_READ_BYTES, K_WRITE_BYTES, K_REQUESTS,
    K_PIECES, K_SHARED_ACCESSES, K_SHARED_CYCLES, K_ATOMICS, K_COUNT,
) = range(14)  # fmt: skip

# Status of advance_threads.
OK, FULL, FAULT, STUCK, DONE = range(5)


@dataclass
class SimtState:
    """The arrays of the engine, in the order in which its kernels take them (after those of `WarpState`).

    `cost` int64 [n, 4]: cycles an instruction occupies its pipe, and until its result, the row of its destination in
    the scoreboard, and whether it is executed for its values; `uses` int64 [n, 2 USES]; `stalls` int64 [n, causes]
    warp-cycles by the instruction that a warp was at; `issues` int64 [n, 2] times issued, lanes.
    """

    params: Array
    cost: Array
    uses: Array
    timing: Array
    ready: Array
    by: Array
    subs: Array
    cores: Array
    queue: Array
    slots: Array
    accesses: Array
    pieces: Array
    flights: Array
    targets: Array
    pages: Array
    args: Array
    other: Array
    counters: Array
    stalls: Array
    issues: Array
    scratch: Array
