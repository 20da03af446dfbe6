"""Pipes at work: what starts an instruction, what its completion frees, and the systolic arrays' stationary side."""

from __future__ import annotations

from isa.params import INDEX
from isa.table import DMA, MATRIX, PIPE_CLASS_NAMES, WEIGHTS
from npusim.engine.account import account, fell_idle
from npusim.engine.dispatch import MATRIX_PIPE, WEIGHTS_PIPE
from npusim.engine.layout import (
    BUSY,
    C_ACTIVE,
    C_CAUSE,
    C_FLAGS,
    C_INFLIGHT,
    C_TIME,
    EMPTY,
    E_CORE,
    E_END,
    E_INSTR,
    E_PIPE,
    E_START,
    FAR,
    FLYING,
    FREE,
    K_CORE,
    K_DROPPED,
    K_EVENTS,
    K_TRAFFIC,
    LOADING,
    MAX_FIFO,
    MAX_PATHS,
    MAX_QUEUE,
    MAX_SETS,
    MEMORY,
    M_FIFO,
    M_FIFO0,
    M_FIFO_HEAD,
    M_LAST_DONE,
    M_RESERVED,
    M_SHADOW,
    M_SHADOW_END,
    M_STREAM_END,
    O_ALL_SENT,
    O_BYTES,
    O_CAUSE,
    O_DEPS,
    O_DONE,
    O_INSTR,
    O_KIND,
    O_LATENCY,
    O_MACS,
    O_NEXT_TILE,
    O_OCCUPY,
    O_PATH,
    O_PIPE,
    O_REMAIN,
    O_SEQ,
    O_SET0,
    O_SETS,
    O_SPACES,
    O_START,
    O_STATE,
    PORT_CONFLICT,
    P_ACCOUNTED,
    P_BUSY_UNTIL,
    P_CLASS,
    P_ENGINE,
    P_FLIGHT,
    P_FLIGHT0,
    P_FLIGHT_HEAD,
    P_HEAD,
    P_IDLE,
    P_LAST_DONE,
    P_LAST_WAIT,
    P_LENGTH,
    P_OUTSTANDING,
    P_QUEUE,
    P_REASON,
    P_SENDING,
    P_STREAMS,
    P_UNIT,
    P_WALK,
    READY,
    SLOTS,
    TILE,
    V_DMA,
    V_PORTS,
    WAIT_MATRIX,
    WAIT_SCALAR,
    WAIT_WEIGHTS,
)
from npusim.jit import kernel

DOUBLE_BUFFER, FOLD_OVERLAP = INDEX["double_buffer"], INDEX["fold_overlap"]
LOAD_CYCLES, FIFO_TILES = INDEX["load_cycles"], INDEX["fifo_tiles"]
TRAFFIC_MACS = 0  # offset behind the paths in State.traffic
FIRST_SCRATCH_SPACE = 2  # dram and host have no ports of a core
assert PIPE_CLASS_NAMES[DMA] == "dma"


@kernel
def cause_of(pipe_class):
    """The cause `wait_<class>`."""
    return WAIT_SCALAR + pipe_class


@kernel
def head(s, c, p):
    """Slot at the head of the pipe's queue."""
    return s.pipe[c, p, P_QUEUE + s.pipe[c, p, P_HEAD]]


@kernel
def stationary_free(s, c, u, seq, now):
    """True when the next stationary tile may move into the array of unit u."""
    if s.unit[c, u, M_SHADOW] != EMPTY:
        return False
    if s.values[DOUBLE_BUFFER]:
        return True
    p = s.values[MATRIX_PIPE] + u
    if s.pipe[c, p, P_LENGTH] > 0 and s.op[c, head(s, c, p), O_SEQ] < seq:
        return False
    until = s.unit[c, u, M_STREAM_END] if s.values[FOLD_OVERLAP] else s.unit[c, u, M_LAST_DONE]
    return until <= now


@kernel
def shift_from_fifo(s, c, u, now):
    """Let a tile from the FIFO move into the array's shadow when it can; finish a move that is over."""
    if s.unit[c, u, M_SHADOW] == LOADING and s.unit[c, u, M_SHADOW_END] <= now:
        s.unit[c, u, M_SHADOW] = READY
    if s.unit[c, u, M_FIFO] == 0 or not stationary_free(s, c, u, s.unit[c, u, M_FIFO0 + s.unit[c, u, M_FIFO_HEAD]], now):
        return False
    s.unit[c, u, M_FIFO] -= 1
    s.unit[c, u, M_RESERVED] -= 1
    s.unit[c, u, M_FIFO_HEAD] = (s.unit[c, u, M_FIFO_HEAD] + 1) % MAX_FIFO
    s.unit[c, u, M_SHADOW] = LOADING
    s.unit[c, u, M_SHADOW_END] = now + s.values[LOAD_CYCLES]
    return True


@kernel
def blocked(s, c, p, slot, now):
    """Why the instruction cannot start now: a cause, or -1."""
    if s.op[c, slot, O_DEPS] != 0:
        other = 0
        while not (s.op[c, slot, O_DEPS] >> other) & 1:
            other += 1
        return cause_of(s.pipe[c, s.op[c, other, O_PIPE], P_CLASS])
    kind = s.pipe[c, p, P_CLASS]
    u = s.pipe[c, p, P_UNIT]
    if kind == MATRIX and s.op[c, slot, O_NEXT_TILE] and not (
        s.unit[c, u, M_SHADOW] == READY or (s.unit[c, u, M_SHADOW] == LOADING and s.unit[c, u, M_SHADOW_END] <= now)
    ):
        return WAIT_WEIGHTS
    if kind == WEIGHTS:
        if s.op[c, slot, O_KIND] == MEMORY:
            if s.unit[c, u, M_RESERVED] >= s.values[FIFO_TILES]:
                return WAIT_MATRIX
        elif not stationary_free(s, c, u, s.op[c, slot, O_SEQ], now):
            return WAIT_MATRIX
    spaces = s.op[c, slot, O_SPACES] >> FIRST_SCRATCH_SPACE
    space = FIRST_SCRATCH_SPACE
    while spaces:
        if spaces & 1 and s.core[c, C_ACTIVE + space] >= s.values[V_PORTS + space]:
            return PORT_CONFLICT
        spaces >>= 1
        space += 1
    return -1


@kernel
def hold_ports(s, c, slot, change):
    """Take or give back one port of every scratchpad that the instruction uses."""
    spaces = s.op[c, slot, O_SPACES] >> FIRST_SCRATCH_SPACE
    space = FIRST_SCRATCH_SPACE
    while spaces:
        if spaces & 1:
            s.core[c, C_ACTIVE + space] += change
        spaces >>= 1
        space += 1


@kernel
def start(s, c, p, now):
    """Start the instruction at the pipe's head; it must not be blocked."""
    slot = head(s, c, p)
    s.pipe[c, p, P_HEAD] = (s.pipe[c, p, P_HEAD] + 1) % MAX_QUEUE
    s.pipe[c, p, P_LENGTH] -= 1
    account(s, c, p, s.pipe[c, p, P_REASON], now)
    hold_ports(s, c, slot, 1)
    s.op[c, slot, O_STATE], s.op[c, slot, O_START] = FLYING, now
    s.pipe[c, p, P_FLIGHT0 + (s.pipe[c, p, P_FLIGHT_HEAD] + s.pipe[c, p, P_FLIGHT]) % SLOTS] = slot
    s.pipe[c, p, P_FLIGHT] += 1
    s.pipe[c, p, P_IDLE] = 0
    if s.op[c, slot, O_KIND] == MEMORY:
        start_memory(s, c, p, slot, now)
        return
    occupied = now + s.op[c, slot, O_OCCUPY]
    done = max(occupied + s.op[c, slot, O_LATENCY], s.pipe[c, p, P_LAST_DONE])
    s.op[c, slot, O_DONE], s.pipe[c, p, P_LAST_DONE] = done, done
    s.pipe[c, p, P_BUSY_UNTIL] = occupied
    account(s, c, p, BUSY, occupied)
    u = s.pipe[c, p, P_UNIT]
    if s.pipe[c, p, P_CLASS] == MATRIX:
        if s.op[c, slot, O_NEXT_TILE]:
            s.unit[c, u, M_SHADOW] = EMPTY
        s.unit[c, u, M_STREAM_END], s.unit[c, u, M_LAST_DONE] = occupied, done
    elif s.op[c, slot, O_KIND] == TILE:
        s.unit[c, u, M_SHADOW], s.unit[c, u, M_SHADOW_END] = LOADING, done


@kernel
def start_memory(s, c, p, slot, now):
    """A memory transfer begins to send requests."""
    for i in range(7):
        s.pipe[c, p, P_WALK + i] = 0
    s.op[c, slot, O_DONE] = FAR
    s.pipe[c, p, P_SENDING] = slot + 1
    startup = 0
    if s.pipe[c, p, P_CLASS] == WEIGHTS:
        s.unit[c, s.pipe[c, p, P_UNIT], M_RESERVED] += 1
    else:
        startup = s.values[V_DMA + 5 * (s.pipe[c, p, P_ENGINE]) + 4]
    account(s, c, p, BUSY, now + startup)
    s.pipe[c, p, P_BUSY_UNTIL] = now + startup


@kernel
def retire(s, c, p, now):
    """Complete the oldest instruction of the pipe: free what it held, set its flags, wake who waits for it."""
    slot = s.pipe[c, p, P_FLIGHT0 + s.pipe[c, p, P_FLIGHT_HEAD]]
    s.pipe[c, p, P_FLIGHT_HEAD] = (s.pipe[c, p, P_FLIGHT_HEAD] + 1) % SLOTS
    s.pipe[c, p, P_FLIGHT] -= 1
    s.core[c, C_INFLIGHT] -= 1
    hold_ports(s, c, slot, -1)
    mask = ~(1 << slot)
    for other in range(SLOTS):
        s.op[c, other, O_DEPS] &= mask
    for i in range(s.op[c, slot, O_SETS]):
        s.core[c, C_FLAGS + 2 * (s.op[c, slot, O_SET0 + i]) + 0] += 1
    u = s.pipe[c, p, P_UNIT]
    if s.pipe[c, p, P_CLASS] == WEIGHTS and s.op[c, slot, O_KIND] == MEMORY:
        s.unit[c, u, M_FIFO0 + (s.unit[c, u, M_FIFO_HEAD] + s.unit[c, u, M_FIFO]) % MAX_FIFO] = s.op[c, slot, O_SEQ]
        s.unit[c, u, M_FIFO] += 1
    kind = s.pipe[c, p, P_CLASS]
    if kind == WEIGHTS or kind == DMA:
        s.clock[K_TRAFFIC + s.op[c, slot, O_PATH]] += s.op[c, slot, O_BYTES]
    s.clock[K_TRAFFIC + MAX_PATHS + TRAFFIC_MACS] += s.op[c, slot, O_MACS]
    s.clock[K_TRAFFIC + MAX_PATHS + 1 + kind] += 1
    log(s, c, p, slot, now)
    s.op[c, slot, O_STATE] = FREE
    if s.pipe[c, p, P_STREAMS] and s.pipe[c, p, P_FLIGHT] == 0 and s.pipe[c, p, P_ACCOUNTED] < now:
        account(s, c, p, s.pipe[c, p, P_LAST_WAIT], now)


@kernel
def log(s, c, p, slot, now):
    """Keep the executed instruction as an event while there is room."""
    n = s.clock[K_EVENTS]
    if n >= s.events.shape[0]:
        s.clock[K_DROPPED] += 1
        return
    s.events[n, E_START], s.events[n, E_END] = s.op[c, slot, O_START], now
    s.events[n, E_CORE], s.events[n, E_PIPE] = c, p
    s.events[n, E_INSTR] = s.op[c, slot, O_INSTR]
    s.clock[K_EVENTS] = n + 1


@kernel
def try_start(s, c, p, now):
    """Start the head of the queue if the pipe is free and nothing blocks it; else note the reason."""
    if s.pipe[c, p, P_LENGTH] == 0 or s.pipe[c, p, P_BUSY_UNTIL] > now or s.pipe[c, p, P_SENDING] != 0:
        return False
    slot = head(s, c, p)
    reason = blocked(s, c, p, slot, now)
    if s.pipe[c, p, P_STREAMS] and s.pipe[c, p, P_FLIGHT] > 0:  # its transfers are still under way
        account(s, c, p, s.pipe[c, p, P_LAST_WAIT], now)
    if reason >= 0:
        if s.pipe[c, p, P_REASON] != reason:
            account(s, c, p, s.pipe[c, p, P_REASON], now)
            s.pipe[c, p, P_REASON] = reason
        return False
    start(s, c, p, now)
    return True


@kernel
def settle(s, c, p, now):
    """Let everything that is due on the pipe happen; returns True when something did."""
    changed = False
    while s.pipe[c, p, P_FLIGHT] > 0 and s.op[c, s.pipe[c, p, P_FLIGHT0 + s.pipe[c, p, P_FLIGHT_HEAD]], O_DONE] <= now:
        retire(s, c, p, now)
        changed = True
    if s.pipe[c, p, P_IDLE] or s.pipe[c, p, P_LENGTH] > 0 or s.pipe[c, p, P_BUSY_UNTIL] > now:
        return changed
    if s.pipe[c, p, P_SENDING] == 0 and not (s.pipe[c, p, P_STREAMS] and s.pipe[c, p, P_FLIGHT] > 0):
        s.pipe[c, p, P_IDLE] = 1
        fell_idle(s, c, p, now)
    return changed


@kernel
def next_due(s, c, p, now):
    """Cycle at which the pipe can change by itself."""
    due = FAR
    if s.pipe[c, p, P_FLIGHT] > 0:
        due = s.op[c, s.pipe[c, p, P_FLIGHT0 + s.pipe[c, p, P_FLIGHT_HEAD]], O_DONE]
    if s.pipe[c, p, P_BUSY_UNTIL] > now:
        due = min(due, s.pipe[c, p, P_BUSY_UNTIL])
    return due
