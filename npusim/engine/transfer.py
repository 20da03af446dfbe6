"""Memory transfers: requests leave at the path's rate, a bounded number in flight, and responses complete them."""

from __future__ import annotations

from isa.params import INDEX
from isa.table import WEIGHTS
from npusim.engine.account import account
from npusim.engine.clock import edge_fs
from npusim.engine.costs import path_cycles
from npusim.engine.layout import (
    BUSY,
    FAR,
    K_F,
    K_Q,
    K_R,
    MEMORY_BANDWIDTH,
    MEMORY_LATENCY,
    O_ALL_SENT,
    O_BASE,
    O_DIMS,
    O_DONE,
    O_EXT0,
    O_HASH,
    O_LATENCY,
    O_PATH,
    O_REMAIN,
    O_RUN,
    O_STRIDE0,
    O_WRITE,
    PIPES,
    P_BUSY_UNTIL,
    P_CLASS,
    P_ENGINE,
    P_LAST_WAIT,
    P_OUTSTANDING,
    P_SENDING,
    P_WALK,
    SLOTS,
    V_DMA,
    W_OFFSET,
)
from npusim.jit import kernel
from npusim.memory.port import ring_push

WEIGHT_REQUEST, WEIGHT_OUTSTANDING = INDEX["weight_request"], INDEX["weight_outstanding"]
REQUEST_LATENCY = INDEX["request_latency"]
SPREAD = 2654435761  # Knuth's multiplicative hash: which rows a gather reads is not known without values


@kernel
def run_address(s, c, p, slot):
    """First byte of the present run."""
    if s.op[c, slot, O_HASH]:
        row = (s.pipe[c, p, P_WALK + 0] * SPREAD) % s.op[c, slot, O_HASH]
        return s.op[c, slot, O_BASE] + row * s.op[c, slot, O_STRIDE0]
    at = s.op[c, slot, O_BASE]
    for i in range(s.op[c, slot, O_DIMS]):
        at += s.pipe[c, p, P_WALK + i] * s.op[c, slot, O_STRIDE0 + i]
    return at


@kernel
def next_run(s, c, p, slot):
    """Go to the next run, innermost dimension first; returns False after the last."""
    i = s.op[c, slot, O_DIMS] - 1
    while i >= 0:
        s.pipe[c, p, P_WALK + i] += 1
        if s.pipe[c, p, P_WALK + i] < s.op[c, slot, O_EXT0 + i]:
            return True
        s.pipe[c, p, P_WALK + i] = 0
        i -= 1
    return False


@kernel
def limits(s, c, p):
    """(bytes a request, requests in flight) of the pipe's engine."""
    if s.pipe[c, p, P_CLASS] == WEIGHTS:
        return s.values[WEIGHT_REQUEST], s.values[WEIGHT_OUTSTANDING]
    engine = s.pipe[c, p, P_ENGINE]
    return s.values[V_DMA + 5 * engine + 3], s.values[V_DMA + 5 * engine + 2]


@kernel
def send(s, c, p, now, requests, ring):
    """Send the next request of the pipe's transfer if one may leave now; returns True when it did."""
    if s.pipe[c, p, P_SENDING] == 0 or s.pipe[c, p, P_BUSY_UNTIL] > now:
        return False
    request_bytes, outstanding = limits(s, c, p)
    if s.pipe[c, p, P_OUTSTANDING] >= outstanding:
        return False
    slot = s.pipe[c, p, P_SENDING] - 1
    account(s, c, p, s.pipe[c, p, P_LAST_WAIT], now)
    at = run_address(s, c, p, slot) + s.pipe[c, p, P_WALK + W_OFFSET]
    size = min(request_bytes - at % request_bytes, s.op[c, slot, O_RUN] - s.pipe[c, p, P_WALK + W_OFFSET])
    time_fs = edge_fs(now + s.values[REQUEST_LATENCY], s.clock[K_Q], s.clock[K_R], s.clock[K_F])
    tag = (c * s.values[PIPES] + p) * SLOTS + slot
    ring_push(requests, ring, time_fs, p, at, size, s.op[c, slot, O_WRITE], tag)
    s.pipe[c, p, P_OUTSTANDING] += 1
    s.op[c, slot, O_REMAIN] += 1
    s.pipe[c, p, P_BUSY_UNTIL] = now + path_cycles(s, s.op[c, slot, O_PATH], size)
    account(s, c, p, BUSY, s.pipe[c, p, P_BUSY_UNTIL])
    s.pipe[c, p, P_WALK + W_OFFSET] += size
    if s.pipe[c, p, P_WALK + W_OFFSET] >= s.op[c, slot, O_RUN]:
        s.pipe[c, p, P_WALK + W_OFFSET] = 0
        if not next_run(s, c, p, slot):
            s.op[c, slot, O_ALL_SENT] = 1
            s.pipe[c, p, P_SENDING] = 0
    return True


@kernel
def respond(s, tag, wait_fs, now):
    """A response arrives: the transfer is one request nearer to its end."""
    slot = tag % SLOTS
    p = (tag // SLOTS) % s.values[PIPES]
    c = tag // SLOTS // s.values[PIPES]
    s.pipe[c, p, P_OUTSTANDING] -= 1
    s.op[c, slot, O_REMAIN] -= 1
    s.pipe[c, p, P_LAST_WAIT] = MEMORY_BANDWIDTH if wait_fs > 0 else MEMORY_LATENCY
    if s.op[c, slot, O_ALL_SENT] and s.op[c, slot, O_REMAIN] == 0 and s.op[c, slot, O_DONE] == FAR:
        s.op[c, slot, O_DONE] = now + s.op[c, slot, O_LATENCY]
    return c
