"""The outer loop: cores and memory take turns in windows that no response can be due in.

Within a cycle everything happens in a fixed order: responses, completions, starts, requests, then the sequencer; and
again until nothing changes. Between events time jumps.
"""

from __future__ import annotations

from isa.params import INDEX
from npusim.engine.account import spend, was_idle
from npusim.engine.clock import edge_fs, next_edge
from npusim.engine.dispatch import MATRIX_PIPE
from npusim.engine.layout import (
    BAD_CODE,
    BUDGET,
    CAUSE_COUNT,
    C_BARRIER,
    C_END,
    C_HALTED,
    C_INFLIGHT,
    C_SPENT,
    C_TIME,
    DEADLOCK,
    DONE,
    FAR,
    FULL,
    K_CORE,
    K_F,
    K_MEMORY_UNTIL,
    K_NOW,
    K_Q,
    K_R,
    LOADING,
    M_SHADOW,
    M_SHADOW_END,
    PIPES,
    P_SENDING,
    P_STATES,
)
from npusim.engine.pipes import next_due, settle, shift_from_fifo, try_start
from npusim.engine.sequencer import BAD, issue
from npusim.engine.transfer import respond, send
from npusim.jit import kernel
from npusim.memory.dram import memory_advance
from npusim.memory.port import (
    HEAP_SIZE,
    REQ_TIME_FS,
    RING_HEAD,
    RING_TAIL,
    RSP_TAG,
    RSP_TIME_FS,
    RSP_WAIT_FS,
    heap_pop,
)

REQUEST_LATENCY, RESPONSE_LATENCY = INDEX["request_latency"], INDEX["response_latency"]
SCALAR_BUDGET = 1 << 20  # scalar bundles that one call of the sequencer may run before events are looked at again


@kernel
def core_cycle(s, c, now, grid, requests, ring):
    """Let everything happen that core c can do in cycle `now`; returns False when its code is bad."""
    changed = True
    while changed:
        changed = False
        for u in range(s.unit.shape[1]):
            if shift_from_fifo(s, c, u, now):
                changed = True
        for p in range(1, s.values[PIPES]):
            if settle(s, c, p, now):
                changed = True
            if try_start(s, c, p, now):
                changed = True
            if s.pipe[c, p, P_SENDING]:
                while send(s, c, p, now, requests, ring):
                    changed = True
        progress, status = issue(s, c, now, grid, SCALAR_BUDGET)
        if status == BAD:
            return False
        changed = changed or progress
    return True


@kernel
def core_due(s, c, now):
    """The next cycle in which core c can change without a response."""
    due = FAR
    for p in range(1, s.values[PIPES]):
        due = min(due, next_due(s, c, p, now))
    for u in range(s.unit.shape[1]):
        if s.unit[c, u, M_SHADOW] == LOADING and s.unit[c, u, M_SHADOW_END] > now:
            due = min(due, s.unit[c, u, M_SHADOW_END])
    if not s.core[c, C_HALTED] and s.core[c, C_TIME] > now:
        due = min(due, s.core[c, C_TIME])
    return due


@kernel
def response_due(s, responses, heap_state):
    """The cycle at which the earliest response reaches its core."""
    if heap_state[HEAP_SIZE] == 0:
        return FAR
    edge = next_edge(responses[0, RSP_TIME_FS], s.clock[K_Q], s.clock[K_R], s.clock[K_F])
    return edge + s.values[RESPONSE_LATENCY]


@kernel
def finished(s, c):
    """True when the core has halted and nothing of it is under way."""
    return s.core[c, C_HALTED] == 1 and s.core[c, C_INFLIGHT] == 0


@kernel
def release_barrier(s, grid, now):
    """Let all cores go on when each is at the barrier or has ended; returns True when they do."""
    waiting = 0
    for c in range(grid):
        if s.core[c, C_BARRIER]:
            waiting += 1
        elif not finished(s, c):
            return False
    if waiting == 0:
        return False
    for c in range(grid):
        if s.core[c, C_BARRIER]:
            s.core[c, C_BARRIER] = 0
            s.core[c, C_TIME] = max(s.core[c, C_TIME], now)
    return True


@kernel
def close_accounts(s, now):
    """At the end of a launch every pipe's time is brought up to `now`."""
    for c in range(s.core.shape[0]):
        spend(s, c, now)
        for p in range(1, s.values[PIPES]):
            was_idle(s, c, p, now)
        for cause in range(CAUSE_COUNT):
            s.pipe[c, 0, P_STATES + cause] = s.core[c, C_SPENT + cause]


@kernel
def all_cores(s, now, grid, requests, ring, due):
    """Run cycle `now` on every core that has something due; returns (ok, everything has ended)."""
    ended = True
    for c in range(grid):
        if due[c] <= now:
            s.clock[K_CORE] = c
            if not core_cycle(s, c, now, grid, requests, ring):
                return False, False
            due[c] = core_due(s, c, now)
        if finished(s, c):
            if s.core[c, C_END] == 0:
                s.core[c, C_END] = now
        else:
            ended = False
    return True, ended


@kernel
def deliver(s, now, responses, heap_state, due):
    """Hand over every response that is due at `now`."""
    while heap_state[HEAP_SIZE] > 0 and response_due(s, responses, heap_state) <= now:
        c = respond(s, responses[0, RSP_TAG], responses[0, RSP_WAIT_FS], now)
        due[c] = now
        heap_pop(responses, heap_state)


@kernel
def horizon(s, now, requests, ring):
    """The cycle up to which the memory may go: no request that arrives before it can still be made.

    Nothing happens before `now` or the first answer that is not known yet, and that comes no earlier than both the
    memory's present horizon and the arrival of the oldest waiting request; a request takes the request latency.
    """
    head = requests[ring[RING_HEAD] % requests.shape[0], REQ_TIME_FS]
    arrival = next_edge(head, s.clock[K_Q], s.clock[K_R], s.clock[K_F])
    return min(now, max(s.clock[K_MEMORY_UNTIL], arrival)) + s.values[REQUEST_LATENCY]


@kernel
def run_launch(s, memory, port, grid, due, budget):
    """Run one launch from State.clock[K_NOW] until every core has ended, a buffer is full, or `budget` events passed."""
    params, banks, channels, counters, series = memory
    requests, ring, responses, heap_state = port
    q, r, f = s.clock[K_Q], s.clock[K_R], s.clock[K_F]
    while budget > 0:
        budget -= 1
        now = response_due(s, responses, heap_state)
        for c in range(grid):
            now = min(now, due[c])
        if ring[RING_HEAD] != ring[RING_TAIL] and now >= s.clock[K_MEMORY_UNTIL]:
            until = horizon(s, now, requests, ring)
            status = memory_advance(
                params, banks, channels, counters, series, requests, ring, responses, heap_state, edge_fs(until, q, r, f)
            )
            if status != 0:
                return FULL
            s.clock[K_MEMORY_UNTIL] = until
            continue
        if now >= FAR:
            return DEADLOCK
        s.clock[K_NOW] = now
        deliver(s, now, responses, heap_state, due)
        ok, ended = all_cores(s, now, grid, requests, ring, due)
        if not ok:
            return BAD_CODE
        if release_barrier(s, grid, now):
            for c in range(grid):
                due[c] = now
            continue
        if ended:
            close_accounts(s, now)
            return DONE
    return BUDGET


