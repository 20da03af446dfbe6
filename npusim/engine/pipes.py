"""Pipes at work: what starts an instruction, what its completion frees, and the systolic arrays' stationary side."""

from __future__ import annotations

from isa.params import INDEX, MAX_SETS
from isa.table import DMA, MATRIX, PIPE_CLASS_NAMES, VECTOR, WEIGHTS
from npusim.engine.account import account, fell_idle
from npusim.engine.costs import DATAFLOW, DATAFLOW_OS
from npusim.engine.dispatch import INTERLOCK, MATRIX_PIPE
from npusim.engine.interlock import release
from npusim.engine.layout import (
    BUSY,
    C_ACTIVE,
    C_FLAGS,
    C_INFLIGHT,
    C_TAKEN,
    DRAINS,
    E_BY_CORE,
    E_BY_INSTR,
    E_BY_PIPE,
    E_BY_START,
    E_CORE,
    E_END,
    E_INSTR,
    E_PIPE,
    E_START,
    EMPTY,
    FAR,
    K_DROPPED,
    K_EVENTS,
    K_FROM,
    K_TO,
    K_TRAFFIC,
    LOADING,
    M_FIFO,
    M_FIFO0,
    M_FIFO_HEAD,
    M_LAST_DONE,
    M_RESERVED,
    M_SHADOW,
    M_SHADOW_END,
    M_STREAM_END,
    MAX_FIFO,
    MAX_PATHS,
    MAX_QUEUE,
    MEMORY,
    MEMORY_LATENCY,
    O_AMOUNT,
    O_BYTES,
    O_CONFLICT,
    O_DEPS,
    O_DONE,
    O_FLAG,
    O_INSTR,
    O_KIND,
    O_LATENCY,
    O_MACS,
    O_NEXT_TILE,
    O_OCCUPY,
    O_PATH,
    O_PIPE,
    O_SEQ,
    O_SET0,
    O_SETS,
    O_SPACES,
    O_START,
    P_ACCOUNTED,
    P_BUSY_UNTIL,
    P_CLASS,
    P_ENGINE,
    P_FLIGHT,
    P_FLIGHT0,
    P_FLIGHT_HEAD,
    P_HEAD,
    P_HELD,
    P_IDLE,
    P_LAST_DONE,
    P_LAST_WAIT,
    P_LENGTH,
    P_QUEUE,
    P_REASON,
    P_SENDING,
    P_STREAMS,
    P_UNIT,
    P_WALK,
    PORT_CONFLICT,
    QUEUE_FULL,
    RAISES,
    READY,
    SLOTS,
    TILE,
    V_DMA,
    V_PORTS,
    WAIT_MATRIX,
    WAIT_SCALAR,
    WAIT_WEIGHTS,
    WAITS,
)
from npusim.engine.signals import raise_flag, raised_at
from npusim.jit import inlined, kernel

DOUBLE_BUFFER, FOLD_OVERLAP = INDEX["double_buffer"], INDEX["fold_overlap"]
LOAD_CYCLES, FIFO_TILES = INDEX["load_cycles"], INDEX["fifo_tiles"]
QUEUES = INDEX["queues"]
TRAFFIC_MACS = 0  # offset behind the paths in State.traffic
FIRST_SCRATCH_SPACE = 2  # dram and host have no ports of a core
assert PIPE_CLASS_NAMES[DMA] == "dma"


@kernel
def cause_of(pipe_class):
    """The cause `wait_<class>`."""
    return WAIT_SCALAR + pipe_class


@inlined
def head(pipes, c, p):
    """Slot at the head of the pipe's queue."""
    return pipes[c, p, P_QUEUE + pipes[c, p, P_HEAD]]


@inlined
def stationary_free(v, pipes, ops, units, c, u, seq, now):
    """True when the next stationary tile may move into the array of unit u."""
    if units[c, u, M_SHADOW] != EMPTY:
        return False
    if v[DOUBLE_BUFFER]:
        return True
    p = v[MATRIX_PIPE] + u
    if pipes[c, p, P_LENGTH] > 0 and ops[c, head(pipes, c, p), O_SEQ] < seq:
        return False
    until = units[c, u, M_STREAM_END] if v[FOLD_OVERLAP] else units[c, u, M_LAST_DONE]
    return until <= now


@kernel
def shift_from_fifo(v, pipes, ops, units, c, u, now):
    """Let a tile from the FIFO move into the array's shadow when it can; finish a move that is over."""
    if units[c, u, M_SHADOW] == LOADING and units[c, u, M_SHADOW_END] <= now:
        units[c, u, M_SHADOW] = READY
    oldest = units[c, u, M_FIFO0 + units[c, u, M_FIFO_HEAD]]
    if units[c, u, M_FIFO] == 0 or not stationary_free(v, pipes, ops, units, c, u, oldest, now):
        return False
    units[c, u, M_FIFO] -= 1
    units[c, u, M_RESERVED] -= 1
    units[c, u, M_FIFO_HEAD] = (units[c, u, M_FIFO_HEAD] + 1) % MAX_FIFO
    units[c, u, M_SHADOW] = LOADING
    units[c, u, M_SHADOW_END] = now + v[LOAD_CYCLES]
    return True


@kernel
def array_drains(v, ops, units, c, u, slot, now):
    """True when a new fold must wait because the last one's results are not out yet: arrays without fold overlap."""
    if v[FOLD_OVERLAP] or units[c, u, M_LAST_DONE] <= now:
        return False
    return ops[c, slot, O_NEXT_TILE] != 0 or v[DATAFLOW] == DATAFLOW_OS


@kernel
def oldest(ops, c, slot):
    """Slot of the oldest instruction that this one waits for; there must be one."""
    found, other, mask = -1, 0, ops[c, slot, O_DEPS]
    while mask:
        if mask & 1 and (found < 0 or ops[c, other, O_SEQ] < ops[c, found, O_SEQ]):
            found = other
        other, mask = other + 1, mask >> 1
    return found


@inlined
def blocked(v, cores, pipes, ops, units, c, p, slot, now):
    """Why the instruction cannot start now: a cause, or -1."""
    if ops[c, slot, O_DEPS] != 0:
        return cause_of(pipes[c, ops[c, oldest(ops, c, slot), O_PIPE], P_CLASS])
    kind = pipes[c, p, P_CLASS]
    u = pipes[c, p, P_UNIT]
    if kind == MATRIX and ops[c, slot, O_NEXT_TILE] and not (
        units[c, u, M_SHADOW] == READY or (units[c, u, M_SHADOW] == LOADING and units[c, u, M_SHADOW_END] <= now)
    ):
        return WAIT_WEIGHTS
    if kind == MATRIX and array_drains(v, ops, units, c, u, slot, now):
        return WAIT_MATRIX
    if kind == WEIGHTS:
        if ops[c, slot, O_KIND] == MEMORY:
            if units[c, u, M_RESERVED] >= v[FIFO_TILES]:
                return WAIT_MATRIX
        # Tiles keep their order: none may still come through the FIFO.
        elif units[c, u, M_RESERVED] or not stationary_free(v, pipes, ops, units, c, u, ops[c, slot, O_SEQ], now):
            return WAIT_MATRIX
    spaces = ops[c, slot, O_SPACES] >> FIRST_SCRATCH_SPACE
    space = FIRST_SCRATCH_SPACE
    while spaces:
        holds = pipes[c, p, P_HELD + space] > 0
        if spaces & 1 and not holds and cores[c, C_ACTIVE + space] >= v[V_PORTS + space]:
            return PORT_CONFLICT
        spaces >>= 1
        space += 1
    return -1


@inlined
def take_ports(cores, pipes, ops, c, p, slot):
    """An instruction starts: its pipe takes a port of every scratchpad that it uses, unless it holds one already."""
    spaces = ops[c, slot, O_SPACES] >> FIRST_SCRATCH_SPACE
    space = FIRST_SCRATCH_SPACE
    while spaces:
        if spaces & 1:
            cores[c, C_ACTIVE + space] += pipes[c, p, P_HELD + space] == 0
            pipes[c, p, P_HELD + space] += 1
        spaces >>= 1
        space += 1


@inlined
def free_ports(cores, pipes, ops, c, p, slot):
    """An instruction is complete: its pipe frees the ports that nothing else of it uses."""
    spaces = ops[c, slot, O_SPACES] >> FIRST_SCRATCH_SPACE
    space = FIRST_SCRATCH_SPACE
    while spaces:
        if spaces & 1:
            pipes[c, p, P_HELD + space] -= 1
            cores[c, C_ACTIVE + space] -= pipes[c, p, P_HELD + space] == 0
        spaces >>= 1
        space += 1


@inlined
def start(v, cores, pipes, ops, units, c, p, now):
    """Start the instruction at the pipe's head; it must not be blocked."""
    slot = head(pipes, c, p)
    pipes[c, p, P_HEAD] = (pipes[c, p, P_HEAD] + 1) % MAX_QUEUE
    pipes[c, p, P_LENGTH] -= 1
    account(pipes, c, p, pipes[c, p, P_REASON], now)
    take_ports(cores, pipes, ops, c, p, slot)
    ops[c, slot, O_START] = now
    if pipes[c, p, P_FLIGHT] == 0:
        pipes[c, p, P_LAST_WAIT] = MEMORY_LATENCY  # until an answer tells otherwise
    pipes[c, p, P_FLIGHT0 + (pipes[c, p, P_FLIGHT_HEAD] + pipes[c, p, P_FLIGHT]) % SLOTS] = slot
    pipes[c, p, P_FLIGHT] += 1
    pipes[c, p, P_IDLE] = 0
    if ops[c, slot, O_KIND] == MEMORY:
        start_memory(v, pipes, ops, units, c, p, slot, now)
        return
    occupied = now + ops[c, slot, O_OCCUPY]
    done = max(occupied + ops[c, slot, O_LATENCY], pipes[c, p, P_LAST_DONE])
    ops[c, slot, O_DONE], pipes[c, p, P_LAST_DONE] = done, done
    pipes[c, p, P_BUSY_UNTIL] = occupied
    if pipes[c, p, P_CLASS] == VECTOR and ops[c, slot, O_CONFLICT]:
        account(pipes, c, p, BUSY, occupied - ops[c, slot, O_CONFLICT])
        account(pipes, c, p, PORT_CONFLICT, occupied)
    account(pipes, c, p, BUSY, occupied)
    u = pipes[c, p, P_UNIT]
    if pipes[c, p, P_CLASS] == MATRIX:
        if ops[c, slot, O_NEXT_TILE]:
            units[c, u, M_SHADOW] = EMPTY
        units[c, u, M_STREAM_END], units[c, u, M_LAST_DONE] = occupied, done
    elif ops[c, slot, O_KIND] == TILE:
        units[c, u, M_SHADOW], units[c, u, M_SHADOW_END] = LOADING, done


@kernel
def start_memory(v, pipes, ops, units, c, p, slot, now):
    """A memory transfer begins to send requests."""
    for i in range(8):
        pipes[c, p, P_WALK + i] = 0
    ops[c, slot, O_DONE] = FAR
    pipes[c, p, P_SENDING] = slot + 1
    startup = 0
    if pipes[c, p, P_CLASS] == WEIGHTS:
        units[c, pipes[c, p, P_UNIT], M_RESERVED] += 1
    else:
        startup = v[V_DMA + 5 * (pipes[c, p, P_ENGINE]) + 4]
    account(pipes, c, p, BUSY, now + startup)
    pipes[c, p, P_BUSY_UNTIL] = now + startup


@kernel
def retire(v, cores, pipes, ops, units, events, clock, c, p, now):
    """Complete the oldest instruction of the pipe: free what it held, set its flags, wake who waits for it."""
    slot = pipes[c, p, P_FLIGHT0 + pipes[c, p, P_FLIGHT_HEAD]]
    pipes[c, p, P_FLIGHT_HEAD] = (pipes[c, p, P_FLIGHT_HEAD] + 1) % SLOTS
    pipes[c, p, P_FLIGHT] -= 1
    cores[c, C_INFLIGHT] -= 1
    free_ports(cores, pipes, ops, c, p, slot)
    if v[INTERLOCK]:
        release(v, cores, pipes, ops, c, slot)
    for i in range(ops[c, slot, O_SETS]):
        flag = ops[c, slot, O_SET0 + i]
        raise_flag(v, cores, clock, c, flag, p, ops[c, slot, O_START], ops[c, slot, O_INSTR], now)
    u = pipes[c, p, P_UNIT]
    if pipes[c, p, P_CLASS] == WEIGHTS and ops[c, slot, O_KIND] == MEMORY:
        units[c, u, M_FIFO0 + (units[c, u, M_FIFO_HEAD] + units[c, u, M_FIFO]) % MAX_FIFO] = ops[c, slot, O_SEQ]
        units[c, u, M_FIFO] += 1
    kind = pipes[c, p, P_CLASS]
    if kind == WEIGHTS or kind == DMA:
        clock[K_TRAFFIC + ops[c, slot, O_PATH]] += ops[c, slot, O_BYTES]
    clock[K_TRAFFIC + MAX_PATHS + TRAFFIC_MACS] += ops[c, slot, O_MACS]
    clock[K_TRAFFIC + MAX_PATHS + 1 + kind] += 1
    log(ops, events, clock, c, p, slot, now)
    cores[c, C_TAKEN] &= ~(1 << slot)
    if pipes[c, p, P_STREAMS] and pipes[c, p, P_FLIGHT] == 0 and pipes[c, p, P_ACCOUNTED] < now:
        account(pipes, c, p, pipes[c, p, P_LAST_WAIT], now)


@kernel
def log(ops, events, clock, c, p, slot, now):
    """Keep the executed instruction as an event while there is room."""
    if now <= clock[K_FROM] or ops[c, slot, O_START] >= clock[K_TO]:
        return
    n = clock[K_EVENTS]
    if n >= events.shape[0]:
        clock[K_DROPPED] += 1
        return
    events[n, E_START], events[n, E_END] = ops[c, slot, O_START], now
    events[n, E_CORE], events[n, E_PIPE] = c, p
    events[n, E_INSTR] = ops[c, slot, O_INSTR]
    clock[K_EVENTS] = n + 1


@kernel
def log_wait(v, cores, events, clock, c, p, pc, flag, since, now):
    """Keep a wait that held pipe p (0: the sequencer) as an event, with the instruction whose completion ended it."""
    if since >= now or now <= clock[K_FROM] or since >= clock[K_TO]:
        return
    n = clock[K_EVENTS]
    if n >= events.shape[0]:
        clock[K_DROPPED] += 1
        return
    raised = raised_at(v, flag)
    events[n, E_START], events[n, E_END], events[n, E_CORE], events[n, E_PIPE] = since, now, c, p
    events[n, E_INSTR], events[n, E_BY_PIPE] = pc, cores[c, raised]
    events[n, E_BY_START], events[n, E_BY_INSTR] = cores[c, raised + 1], cores[c, raised + 2]
    events[n, E_BY_CORE] = cores[c, raised + 3]
    clock[K_EVENTS] = n + 1


@inlined
def hold(pipes, c, p, reason, now):
    """Note why the head of the queue cannot go on."""
    if pipes[c, p, P_REASON] != reason:
        account(pipes, c, p, pipes[c, p, P_REASON], now)
        pipes[c, p, P_REASON] = reason


@kernel
def sync_blocked(cores, pipes, ops, c, p, slot):
    """Why the wait, set or pipe barrier at the head of a queue holds its pipe: a cause, or -1."""
    kind, flag = ops[c, slot, O_KIND], ops[c, slot, O_FLAG]
    if kind == WAITS:
        raised = cores[c, C_FLAGS + 2 * flag] >= ops[c, slot, O_AMOUNT]
        return -1 if raised else WAIT_SCALAR + cores[c, C_FLAGS + 2 * flag + 1]
    if pipes[c, p, P_FLIGHT] == 0:
        return -1
    if kind == DRAINS:
        return cause_of(pipes[c, p, P_CLASS])
    return -1 if ops[c, newest(pipes, c, p), O_SETS] < MAX_SETS else QUEUE_FULL


@inlined
def newest(pipes, c, p):
    """Slot of the instruction that the pipe started last, which is still in flight."""
    return pipes[c, p, P_FLIGHT0 + (pipes[c, p, P_FLIGHT_HEAD] + pipes[c, p, P_FLIGHT] - 1) % SLOTS]


@kernel
def pass_sync(v, cores, pipes, ops, events, clock, c, p, slot, now):
    """Let the wait, set or pipe barrier at the head of a queue do its work, for which it takes no time; or hold."""
    reason = sync_blocked(cores, pipes, ops, c, p, slot)
    if pipes[c, p, P_STREAMS] and pipes[c, p, P_FLIGHT] > 0:
        account(pipes, c, p, pipes[c, p, P_LAST_WAIT], now)
    if reason >= 0:
        hold(pipes, c, p, reason, now)
        if ops[c, slot, O_START] < 0:
            ops[c, slot, O_START] = now
        return False
    account(pipes, c, p, pipes[c, p, P_REASON], now)
    kind, flag = ops[c, slot, O_KIND], ops[c, slot, O_FLAG]
    if kind == WAITS:
        if ops[c, slot, O_START] >= 0:
            log_wait(v, cores, events, clock, c, p, ops[c, slot, O_INSTR], flag, ops[c, slot, O_START], now)
        cores[c, C_FLAGS + 2 * flag] -= ops[c, slot, O_AMOUNT]
    elif kind == RAISES and pipes[c, p, P_FLIGHT] > 0:
        last = newest(pipes, c, p)
        ops[c, last, O_SET0 + ops[c, last, O_SETS]] = flag
        ops[c, last, O_SETS] += 1
    elif kind == RAISES:
        raise_flag(v, cores, clock, c, flag, p, now, ops[c, slot, O_INSTR], now)
    pipes[c, p, P_HEAD] = (pipes[c, p, P_HEAD] + 1) % MAX_QUEUE
    pipes[c, p, P_LENGTH] -= 1
    cores[c, C_INFLIGHT] -= 1
    cores[c, C_TAKEN] &= ~(1 << slot)
    if pipes[c, p, P_LENGTH] == 0 and not (pipes[c, p, P_STREAMS] and pipes[c, p, P_FLIGHT] > 0):
        pipes[c, p, P_IDLE] = 1
        fell_idle(cores, pipes, c, p, now)
    return True


@kernel
def try_start(v, cores, pipes, ops, units, events, clock, c, p, now):
    """Start the head of the queue if the pipe is free and nothing blocks it; else note the reason."""
    if pipes[c, p, P_LENGTH] == 0 or pipes[c, p, P_BUSY_UNTIL] > now or pipes[c, p, P_SENDING] != 0:
        return False
    slot = head(pipes, c, p)
    if v[QUEUES] and ops[c, slot, O_KIND] >= WAITS:
        return pass_sync(v, cores, pipes, ops, events, clock, c, p, slot, now)
    reason = blocked(v, cores, pipes, ops, units, c, p, slot, now)
    if pipes[c, p, P_STREAMS] and pipes[c, p, P_FLIGHT] > 0:  # its transfers are still under way
        account(pipes, c, p, pipes[c, p, P_LAST_WAIT], now)
    if reason >= 0:
        hold(pipes, c, p, reason, now)
        return False
    start(v, cores, pipes, ops, units, c, p, now)
    return True


@kernel
def settle(v, cores, pipes, ops, units, events, clock, c, p, now):
    """Let everything that is due on the pipe happen; returns True when something did."""
    changed = False
    while pipes[c, p, P_FLIGHT] > 0 and ops[c, pipes[c, p, P_FLIGHT0 + pipes[c, p, P_FLIGHT_HEAD]], O_DONE] <= now:
        retire(v, cores, pipes, ops, units, events, clock, c, p, now)
        changed = True
    if pipes[c, p, P_IDLE] or pipes[c, p, P_LENGTH] > 0 or pipes[c, p, P_BUSY_UNTIL] > now:
        return changed
    if pipes[c, p, P_SENDING] == 0 and not (pipes[c, p, P_STREAMS] and pipes[c, p, P_FLIGHT] > 0):
        pipes[c, p, P_IDLE] = 1
        fell_idle(cores, pipes, c, p, now)
    return changed


@kernel
def next_due(pipes, ops, c, p, now):
    """Cycle at which the pipe can change by itself, requests aside."""
    due = FAR
    if pipes[c, p, P_FLIGHT] > 0:
        due = ops[c, pipes[c, p, P_FLIGHT0 + pipes[c, p, P_FLIGHT_HEAD]], O_DONE]
    if pipes[c, p, P_BUSY_UNTIL] > now and pipes[c, p, P_SENDING] == 0:
        due = min(due, pipes[c, p, P_BUSY_UNTIL])
    return due
