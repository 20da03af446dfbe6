"""Memory transfers: requests leave at the path's rate, a bounded number in flight, and responses complete them."""

from __future__ import annotations

from isa.params import INDEX, MILLI, PATH_RATE_MILLI
from isa.table import DMA, WEIGHTS
from npusim.engine.account import account
from npusim.engine.clock import edge_fs
from npusim.engine.costs import ceil_div
from npusim.engine.layout import (
    BUSY,
    C_NEXT,
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
    O_KIND,
    O_LATENCY,
    O_PATH,
    O_REMAIN,
    O_RUN,
    O_STRIDE0,
    O_WRITE,
    P_ACCOUNTED,
    P_BUSY_UNTIL,
    P_CLASS,
    P_ENGINE,
    P_FLIGHT,
    P_FLIGHT0,
    P_FLIGHT_HEAD,
    P_LAST_DONE,
    P_LAST_WAIT,
    P_OUTSTANDING,
    P_SENDING,
    P_WALK,
    PIPES,
    PLAIN,
    PORT_CONFLICT,
    SLOTS,
    V_DMA,
    V_ENDS,
    V_PATHS,
    V_SKEW,
    V_STALLS,
    W_OFFSET,
    W_SPARE,
)
from npusim.jit import inlined, kernel
from npusim.memory.port import ring_push

WEIGHT_REQUEST, WEIGHT_OUTSTANDING = INDEX["weight_request"], INDEX["weight_outstanding"]
REQUEST_LATENCY, WRITE_STALLS = INDEX["request_latency"], INDEX["write_stalls"]
SPREAD = 2654435761  # Knuth's multiplicative hash: which rows a gather reads is not known without values


@kernel
def gathered_row(i, rows, skew):
    """The row that index i of a gather is taken to select: spread evenly, or by a bounded Zipf law of `skew` / 1000.

    The law is inverted in its continuous form: P(x) ~ x^-s on [1, rows + 1), whose whole part is the row, from 1.
    """
    if skew == 0:
        return (i * SPREAD) % rows
    share = (((i + 1) * SPREAD) & 0xFFFFFFFF) / 4294967296.0
    if skew == 1000:
        x = (rows + 1.0) ** share
    else:
        power = 1.0 - skew / 1000.0
        x = (share * ((rows + 1.0) ** power - 1.0) + 1.0) ** (1.0 / power)
    return min(max(int(x) - 1, 0), rows - 1)


@kernel
def run_address(v, pipes, ops, c, p, slot):
    """First byte of the present run."""
    if ops[c, slot, O_HASH]:
        row = gathered_row(pipes[c, p, P_WALK + 0], ops[c, slot, O_HASH], v[V_SKEW])
        return ops[c, slot, O_BASE] + row * ops[c, slot, O_STRIDE0]
    at = ops[c, slot, O_BASE]
    for i in range(ops[c, slot, O_DIMS]):
        at += pipes[c, p, P_WALK + i] * ops[c, slot, O_STRIDE0 + i]
    return at


@kernel
def next_run(pipes, ops, c, p, slot):
    """Go to the next run, innermost dimension first; returns False after the last."""
    i = ops[c, slot, O_DIMS] - 1
    while i >= 0:
        pipes[c, p, P_WALK + i] += 1
        if pipes[c, p, P_WALK + i] < ops[c, slot, O_EXT0 + i]:
            return True
        pipes[c, p, P_WALK + i] = 0
        i -= 1
    return False


@inlined
def limits(v, pipes, c, p):
    """(bytes a request, requests in flight) of the pipe's engine."""
    if pipes[c, p, P_CLASS] == WEIGHTS:
        return v[WEIGHT_REQUEST], v[WEIGHT_OUTSTANDING]
    engine = pipes[c, p, P_ENGINE]
    return v[V_DMA + 5 * engine + 3], v[V_DMA + 5 * engine + 2]


@inlined
def sends(v, pipes, c, p, now):
    """True when a request of the pipe may leave now."""
    if pipes[c, p, P_SENDING] == 0 or pipes[c, p, P_BUSY_UNTIL] > now:
        return False
    return pipes[c, p, P_OUTSTANDING] < limits(v, pipes, c, p)[1]


@inlined
def occupy(v, pipes, c, p, path, now, size):
    """Keep the path busy with a request; those back to back share a cycle, so that the rate holds over all of them."""
    rate = v[V_PATHS + 3 * path + PATH_RATE_MILLI]
    need = size * MILLI
    if pipes[c, p, P_BUSY_UNTIL] == now:
        need -= pipes[c, p, P_WALK + W_SPARE]
    cycles = max(1, ceil_div(need, rate))
    spare = cycles * rate - need
    pipes[c, p, P_WALK + W_SPARE] = spare if spare < rate else 0
    pipes[c, p, P_BUSY_UNTIL] = now + cycles


@kernel
def send(v, pipes, ops, clock, c, p, now, requests, ring):
    """Send the next request of the pipe's transfer; it must be free to leave."""
    request_bytes = limits(v, pipes, c, p)[0]
    slot = pipes[c, p, P_SENDING] - 1
    account(pipes, c, p, pipes[c, p, P_LAST_WAIT], now)
    at = run_address(v, pipes, ops, c, p, slot) + pipes[c, p, P_WALK + W_OFFSET]
    size = min(request_bytes - at % request_bytes, ops[c, slot, O_RUN] - pipes[c, p, P_WALK + W_OFFSET])
    time_fs = edge_fs(now + v[REQUEST_LATENCY], clock[K_Q], clock[K_R], clock[K_F])
    tag = (c * v[PIPES] + p) * SLOTS + slot
    ring_push(requests, ring, time_fs, c, at, size, ops[c, slot, O_WRITE], tag)
    pipes[c, p, P_OUTSTANDING] += 1
    ops[c, slot, O_REMAIN] += 1
    occupy(v, pipes, c, p, ops[c, slot, O_PATH], now, size)
    account(pipes, c, p, BUSY, pipes[c, p, P_BUSY_UNTIL])
    pipes[c, p, P_WALK + W_OFFSET] += size
    if pipes[c, p, P_WALK + W_OFFSET] >= ops[c, slot, O_RUN]:
        pipes[c, p, P_WALK + W_OFFSET] = 0
        if not next_run(pipes, ops, c, p, slot):
            ops[c, slot, O_ALL_SENT] = pipes[c, p, P_BUSY_UNTIL]
            pipes[c, p, P_SENDING] = 0


@inlined
def send_due(v, pipes, c, p, now):
    """The next cycle in which a request of the pipe may leave."""
    if pipes[c, p, P_SENDING] == 0 or pipes[c, p, P_OUTSTANDING] >= limits(v, pipes, c, p)[1]:
        return FAR
    return max(now, pipes[c, p, P_BUSY_UNTIL])


@inlined
def send_only(v, cores, pipes, ops, clock, c, now, requests, ring):
    """A cycle in which nothing but requests is due on core c; returns when something is due next."""
    due = FAR
    for p in range(1, v[PIPES]):
        if sends(v, pipes, c, p, now):
            send(v, pipes, ops, clock, c, p, now, requests, ring)
            if pipes[c, p, P_SENDING] == 0:
                cores[c, C_NEXT] = min(cores[c, C_NEXT], pipes[c, p, P_BUSY_UNTIL])
        due = min(due, send_due(v, pipes, c, p, now))
    return min(due, cores[c, C_NEXT])


@kernel
def hold_readers(v, pipes, ops, c, space, now):
    """A request is written into a space of core c: the copies that are reading it on their way elsewhere last longer.

    Of a pipe that is the copy that occupies it, started last; what stands behind it starts later by itself.
    """
    if v[V_STALLS + space] == 0:
        return
    for p in range(1, v[PIPES]):
        if pipes[c, p, P_CLASS] != DMA or pipes[c, p, P_BUSY_UNTIL] <= now or pipes[c, p, P_FLIGHT] == 0:
            continue
        slot = pipes[c, p, P_FLIGHT0 + (pipes[c, p, P_FLIGHT_HEAD] + pipes[c, p, P_FLIGHT] - 1) % SLOTS]
        if ops[c, slot, O_KIND] != PLAIN or v[V_ENDS + 2 * ops[c, slot, O_PATH]] != space:
            continue
        until = pipes[c, p, P_BUSY_UNTIL] + v[V_STALLS + space]
        pipes[c, p, P_BUSY_UNTIL] = until
        ops[c, slot, O_DONE] = max(ops[c, slot, O_DONE], until + ops[c, slot, O_LATENCY])
        pipes[c, p, P_LAST_DONE] = ops[c, slot, O_DONE]
        account(pipes, c, p, PORT_CONFLICT, until)


@kernel
def respond(v, cores, pipes, ops, tag, wait_fs, now, due):
    """A response arrives: the transfer is one request nearer to its end."""
    slot = tag % SLOTS
    p = (tag // SLOTS) % v[PIPES]
    c = tag // SLOTS // v[PIPES]
    if v[WRITE_STALLS]:
        hold_readers(v, pipes, ops, c, v[V_ENDS + 2 * ops[c, slot, O_PATH] + 1], now)
    pipes[c, p, P_OUTSTANDING] -= 1
    ops[c, slot, O_REMAIN] -= 1
    if pipes[c, p, P_ACCOUNTED] < now:
        account(pipes, c, p, pipes[c, p, P_LAST_WAIT], now)
    pipes[c, p, P_LAST_WAIT] = MEMORY_BANDWIDTH if wait_fs > 0 else MEMORY_LATENCY
    if ops[c, slot, O_ALL_SENT] and ops[c, slot, O_REMAIN] == 0:  # the path may be slower than the memory
        done = max(now, ops[c, slot, O_ALL_SENT]) + ops[c, slot, O_LATENCY]
        ops[c, slot, O_DONE] = done
        cores[c, C_NEXT] = min(cores[c, C_NEXT], done)
        due[c] = min(due[c], done)
    if pipes[c, p, P_SENDING]:
        due[c] = min(due[c], max(now, pipes[c, p, P_BUSY_UNTIL]))
