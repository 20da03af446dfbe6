"""The outer loop: cores and memory take turns in windows that no response can be due in.

Within a cycle everything happens in a fixed order: responses, completions, tiles, starts, requests, then the sequencer;
and again until nothing changes. Between events time jumps.
"""

from __future__ import annotations

from isa.params import INDEX
from isa.table import DMA
from npusim.engine.account import sequencer_cause, spend, was_idle
from npusim.engine.clock import edge_from, edge_fs, next_edge
from npusim.engine.layout import (
    BAD_CODE,
    BUDGET,
    BUSY,
    C_BARRIER,
    C_BLOCK,
    C_BLOCKED,
    C_END,
    C_HALTED,
    C_INFLIGHT,
    C_LOOPS,
    C_NEXT,
    C_PC,
    C_REGS,
    C_SIGNALS,
    C_SPENT,
    C_START,
    C_TIME,
    CAUSE_COUNT,
    CROWDED,
    DEADLOCK,
    DONE,
    DRAINED,
    FAR,
    GROW,
    K_CORE,
    K_F,
    K_MEMORY_UNTIL,
    K_NEXT_BLOCK,
    K_NOW,
    K_Q,
    K_R,
    K_SIGNALLED,
    K_STATUS,
    LAUNCH,
    LOADING,
    M_FIFO,
    M_SHADOW,
    M_SHADOW_END,
    MEMORY_BANDWIDTH,
    O_DONE,
    P_BUSY_UNTIL,
    P_CLASS,
    P_FLIGHT,
    P_FLIGHT0,
    P_FLIGHT_HEAD,
    P_IDLE,
    P_LENGTH,
    P_SENDING,
    P_STATES,
    PIPES,
    REFUSED,
)
from npusim.engine.pipes import next_due, settle, shift_from_fifo, try_start
from npusim.engine.sequencer import BAD, issue, may_issue
from npusim.engine.signals import FULL, signal_due, take_signals
from npusim.engine.transfer import respond, send, send_due, send_only, sends
from npusim.jit import inlined, kernel
from npusim.memory.backend import (
    backend_advance,
    backend_flush,
    backend_quiet_fs,
    backend_settle,
    backend_waiting,
)
from npusim.memory.dram import BAD_REQUEST, OK
from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS, RSP_WAIT_FS, heap_pop

REQUEST_LATENCY, RESPONSE_LATENCY = INDEX["request_latency"], INDEX["response_latency"]
REGISTERS, BLOCK_CYCLES = INDEX["registers"], INDEX["block_cycles"]
SCALAR_BUDGET = 1 << 20  # scalar bundles that one call of the sequencer may run before events are looked at again


# A call hands over every array, which costs more than most of what is done: kernels that are called every cycle are
# inlined, and what has nothing to do is not called.


@inlined
def settles(pipes, ops, c, p, now):
    """True when `settle` has something to do on the pipe."""
    if pipes[c, p, P_IDLE] and pipes[c, p, P_FLIGHT] == 0:
        return False
    if pipes[c, p, P_FLIGHT] > 0 and ops[c, pipes[c, p, P_FLIGHT0 + pipes[c, p, P_FLIGHT_HEAD]], O_DONE] <= now:
        return True
    return pipes[c, p, P_IDLE] == 0 and pipes[c, p, P_LENGTH] == 0 and pipes[c, p, P_BUSY_UNTIL] <= now


@inlined
def core_cycle(v, code, desc, cores, pipes, ops, units, events, clock, c, now, requests, ring):
    """Let everything happen that core c can do in cycle `now`; returns False when its code is bad."""
    changed = cores[c, C_SIGNALS] > 0 and take_signals(v, cores, c, now)
    for p in range(1, v[PIPES]):  # once: nothing that starts in this cycle is over in it
        if settles(pipes, ops, c, p, now):
            changed = settle(v, cores, pipes, ops, units, events, clock, c, p, now) or changed
    again = True
    while again:
        for u in range(units.shape[1]):
            if units[c, u, M_FIFO] > 0 and shift_from_fifo(v, pipes, ops, units, c, u, now):
                changed = True
        for p in range(1, v[PIPES]):
            if pipes[c, p, P_BUSY_UNTIL] > now:
                continue
            if pipes[c, p, P_LENGTH] > 0 and pipes[c, p, P_SENDING] == 0:
                changed = try_start(v, cores, pipes, ops, units, events, clock, c, p, now) or changed
            if sends(v, pipes, c, p, now):
                send(v, pipes, ops, clock, c, p, now, requests, ring)
                changed = True
        again = changed
        if (changed or cores[c, C_BLOCKED] == 0) and may_issue(cores, c, now):
            progress, status = issue(v, code, desc, cores, pipes, ops, events, clock, c, now, SCALAR_BUDGET)
            if status == BAD:
                return False
            again = changed or progress
        changed = False
    return True


@inlined
def plan(v, cores, pipes, ops, units, c, now):
    """Note when core c can change next without a response, requests aside; returns when, with requests."""
    due, request = FAR, FAR
    for p in range(1, v[PIPES]):
        due = min(due, next_due(pipes, ops, c, p, now))
        request = min(request, send_due(v, pipes, c, p, now))
    for u in range(units.shape[1]):
        if units[c, u, M_SHADOW] == LOADING and units[c, u, M_SHADOW_END] > now:
            due = min(due, units[c, u, M_SHADOW_END])
    if not cores[c, C_HALTED] and cores[c, C_TIME] > now:
        due = min(due, cores[c, C_TIME])
    due = min(due, signal_due(cores, c))
    cores[c, C_NEXT] = due
    return min(due, request)


@inlined
def response_due(v, clock, responses, heap_state):
    """The cycle at which the earliest response reaches its core: none is due before State.clock[K_NOW]."""
    if heap_state[HEAP_SIZE] == 0:
        return FAR
    latency = v[RESPONSE_LATENCY]
    known = max(0, clock[K_NOW] - latency)
    return edge_from(known, responses[0, RSP_TIME_FS], clock[K_Q], clock[K_R], clock[K_F]) + latency


@kernel
def finished(cores, c):
    """True when the core has halted and nothing of it is under way."""
    return cores[c, C_HALTED] == 1 and cores[c, C_INFLIGHT] == 0


@kernel
def all_finished(cores, active):
    """True when every core has ended."""
    ended = True
    for c in range(active):
        ended = ended and finished(cores, c)
    return ended


@kernel
def start_block(v, cores, units, clock, blocks, c, now):
    """Core c, which has ended a block, begins the next one of the launch."""
    block = clock[K_NEXT_BLOCK]
    clock[K_NEXT_BLOCK] += 1
    cores[c, C_REGS : C_REGS + v[REGISTERS]] = 0
    for i in range(blocks.shape[1]):
        cores[c, C_REGS + i] = blocks[block, i]
    cores[c, C_BLOCK], cores[c, C_PC], cores[c, C_LOOPS] = block, cores[c, C_START], 0
    cores[c, C_HALTED], cores[c, C_BLOCKED] = 0, 0
    cores[c, C_TIME] = now + v[BLOCK_CYCLES]
    cores[c, C_NEXT] = cores[c, C_TIME]
    units[c] = 0
    sequencer_cause(cores, c, LAUNCH, now)


@kernel
def announce_signals(cores, clock, due):
    """Cores look up when what was signalled in this cycle reaches them."""
    clock[K_SIGNALLED] = 0
    for c in range(due.shape[0]):
        cores[c, C_NEXT] = min(cores[c, C_NEXT], signal_due(cores, c))
        due[c] = min(due[c], cores[c, C_NEXT])


@kernel
def release_barrier(cores, due, active, now):
    """Let all cores go on when each is at the barrier or has ended; returns True when they do."""
    waiting = 0
    for c in range(active):
        if cores[c, C_BARRIER]:
            waiting += 1
        elif not finished(cores, c):
            return False
    if waiting == 0:
        return False
    for c in range(active):
        if cores[c, C_BARRIER]:
            cores[c, C_BARRIER] = 0
            cores[c, C_TIME] = max(cores[c, C_TIME], now)
            cores[c, C_NEXT] = now
            due[c] = now
    return True


@kernel
def close_accounts(v, cores, pipes, now):
    """At the end of a launch every pipe's time is brought up to `now`."""
    for c in range(cores.shape[0]):
        spend(cores, c, now)
        for p in range(1, v[PIPES]):
            was_idle(cores, pipes, c, p, now)
        for cause in range(CAUSE_COUNT):
            pipes[c, 0, P_STATES + cause] = cores[c, C_SPENT + cause]


@kernel
def end_launch(v, cores, pipes, clock, memory, port, now):
    """End the launch at `now`, or when the last write is in memory: pipes that moved data wait for bandwidth."""
    _, _, responses, heap_state = port
    close_accounts(v, cores, pipes, now)
    written_fs = backend_flush(memory, responses, heap_state)
    end = max(now, next_edge(written_fs, clock[K_Q], clock[K_R], clock[K_F]))
    for c in range(cores.shape[0]):
        for p in range(v[PIPES]):
            moved = pipes[c, p, P_CLASS] == DMA and pipes[c, p, P_STATES + BUSY] > 0
            pipes[c, p, P_STATES + (MEMORY_BANDWIDTH if moved else DRAINED)] += end - now
    clock[K_NOW] = end


@inlined
def all_cores(v, code, desc, cores, pipes, ops, units, events, clock, now, blocks, requests, ring, due):
    """Run cycle `now` on every core that has something due; returns (ok, everything has ended)."""
    ended = True
    for c in range(due.shape[0]):
        if due[c] <= now:
            clock[K_CORE] = c
            if cores[c, C_NEXT] > now:
                due[c] = send_only(v, cores, pipes, ops, clock, c, now, requests, ring)
            elif core_cycle(v, code, desc, cores, pipes, ops, units, events, clock, c, now, requests, ring):
                due[c] = plan(v, cores, pipes, ops, units, c, now)
            else:
                return False, False
        if not finished(cores, c):
            ended = False
        elif clock[K_NEXT_BLOCK] < blocks.shape[0]:
            start_block(v, cores, units, clock, blocks, c, now)
            due[c] = cores[c, C_TIME]
            ended = False
        elif cores[c, C_END] == 0:
            cores[c, C_END] = now
    if clock[K_SIGNALLED]:
        announce_signals(cores, clock, due)
    return clock[K_STATUS] != FULL, ended


@kernel
def deliver(v, cores, pipes, ops, clock, now, responses, heap_state, due):
    """Hand over every response that is due at `now`, of which there is one; returns when the next one is."""
    answer = now
    while answer <= now:
        respond(v, cores, pipes, ops, responses[0, RSP_TAG], responses[0, RSP_WAIT_FS], now, due)
        heap_pop(responses, heap_state)
        answer = response_due(v, clock, responses, heap_state)
    return answer


@kernel
def horizon(v, clock, now, memory, requests, ring):
    """The cycle up to which the memory may go: no request that arrives before it can still be made.

    Nothing happens before `now` or the first answer that is not known yet, and that comes no earlier than both the
    memory's present horizon and its next decision or the arrival of the oldest waiting request; a request takes the
    request latency.
    """
    quiet_fs = backend_quiet_fs(memory, requests, ring)
    first = edge_from(clock[K_MEMORY_UNTIL], quiet_fs, clock[K_Q], clock[K_R], clock[K_F])
    return min(now, first) + v[REQUEST_LATENCY]


@kernel
def run_launch(v, code, desc, cores, pipes, ops, units, events, clock, memory, port, blocks, due, budget):
    """Run one launch from State.clock[K_NOW] until every core has ended, a buffer is full or `budget` events passed.

    `blocks` are the arguments of every block, a row each: the first are on the cores, of which `due` has one word each,
    the others follow as cores end.
    """
    active = due.shape[0]
    requests, ring, responses, heap_state = port
    q, r, f = clock[K_Q], clock[K_R], clock[K_F]
    answer = response_due(v, clock, responses, heap_state)
    while budget > 0:
        budget -= 1
        now = answer
        for c in range(active):
            now = min(now, due[c])
        if now >= clock[K_MEMORY_UNTIL] and backend_waiting(memory, ring):
            until = horizon(v, clock, now, memory, requests, ring)
            status = backend_advance(memory, requests, ring, responses, heap_state, edge_fs(until, q, r, f))
            if status != OK:
                clock[K_STATUS] = status
                return REFUSED if status == BAD_REQUEST else GROW
            clock[K_MEMORY_UNTIL] = until
            answer = response_due(v, clock, responses, heap_state)
            continue
        if now >= FAR:
            if not all_finished(cores, active):
                return DEADLOCK
            now = clock[K_NOW]  # the memory wanted room at the end
        clock[K_NOW] = now
        if answer <= now:
            answer = deliver(v, cores, pipes, ops, clock, now, responses, heap_state, due)
        ok, ended = all_cores(v, code, desc, cores, pipes, ops, units, events, clock, now, blocks, requests, ring, due)
        if not ok:
            return CROWDED if clock[K_STATUS] == FULL else BAD_CODE
        if release_barrier(cores, due, active, now):
            continue
        if ended:
            until = max(clock[K_MEMORY_UNTIL], now + v[REQUEST_LATENCY])
            status = backend_settle(memory, requests, ring, responses, heap_state, edge_fs(until, q, r, f))
            if status != OK:
                clock[K_STATUS] = status
                return GROW
            clock[K_MEMORY_UNTIL] = until
            end_launch(v, cores, pipes, clock, memory, port, now)
            return DONE
    return BUDGET
