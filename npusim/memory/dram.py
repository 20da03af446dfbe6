"""The DRAM behind the port: channels, bank groups, banks and rows with JEDEC timing, advanced request by request.

Policy. A request is cut at interleave units and pages into *runs* (npusim.memory.commands). A channel chooses among
waiting reads (npusim.memory.reads) and collects writes in a queue (npusim.memory.writes), or serves both in arrival
order if it has none.
Address map, low to high: burst, bank group, column, channel above the interleave unit, bank, row; bank and channel are
rotated by all address bits above them (permutation-based interleaving, Zhang et al., MICRO 2000), so that neither
pitches nor distances of a power of two meet in one bank. Decisions are made for whole runs; nothing is simulated
between them. Not modelled: command-bus slots, per-bank refresh, ranks.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.commands import record, serve_run
from npusim.memory.port import (
    HEAP_SIZE,
    REQ_ADDRESS,
    REQ_BYTES,
    REQ_TAG,
    REQ_TIME_FS,
    REQ_WRITE,
    RING_HEAD,
    RING_TAIL,
    MemoryPort,
    heap_push,
)
from npusim.memory.reads import FAR_FS, close, open_request, queue_read, serve_all, serve_reads
from npusim.memory.state import (
    C_LATENCY_FS,
    C_READ_BURSTS,
    C_READ_BYTES,
    C_READS,
    C_WAIT_FS,
    CH_FREE_FS,
    CH_FREE_NUM,
    MAX_REQUEST_BYTES,
    P_BANK_BITS,
    P_BL,
    P_BURST_BITS,
    P_CAPACITY,
    P_CCD_S,
    P_CHANNELS,
    P_CL,
    P_CWL,
    P_GROUPS,
    P_IDEAL,
    P_IDEAL_DEN,
    P_IDEAL_FS,
    P_IDEAL_LATENCY_FS,
    P_IDEAL_NUM,
    P_QUEUE_RUNS,
    P_ROTATE,
    P_SPAN_BITS,
    P_TCK_FS,
    P_UNIT_BITS,
    R_REQUESTS,
    MemoryState,
)
from npusim.memory.writes import post_write

Array = npt.NDArray[Any]

# Status of memory_advance.
OK = 0
FULL = 1  # no room for the answers of all that was asked: drain or grow the heap, then call again
BAD_REQUEST = 2  # row `head` of the ring: size not in 1..MAX_REQUEST_BYTES, or outside the memory


@kernel
def memory_advance(
    params: Array,
    bank_state: Array,
    channel_state: Array,
    counters: Array,
    series: Array,
    reads: Array,
    requests: Array,
    ring: Array,
    responses: Array,
    heap_state: Array,
    until_fs: int,
) -> int:
    """Take in every request that arrives before `until_fs` and make the decisions due before it.

    Each request gets one response. Returns OK, FULL or BAD_REQUEST.
    """
    row = ring[RING_HEAD] % requests.shape[0]
    queued = params[P_QUEUE_RUNS] > 0 and not params[P_IDEAL]
    while ring[RING_HEAD] < ring[RING_TAIL]:
        arrival_fs = requests[row, REQ_TIME_FS]
        if arrival_fs >= until_fs:
            break
        if heap_state[HEAP_SIZE] + reads[0, R_REQUESTS] >= responses.shape[0]:
            return FULL
        address, size, write = requests[row, REQ_ADDRESS], requests[row, REQ_BYTES], requests[row, REQ_WRITE]
        if size <= 0 or size > MAX_REQUEST_BYTES or address < 0 or address + size > params[P_CAPACITY]:
            return BAD_REQUEST
        tag = requests[row, REQ_TAG]
        ring[RING_HEAD] += 1
        row = row + 1 if row + 1 < requests.shape[0] else 0
        counters[C_READS + write] += 1
        counters[C_READ_BYTES + write] += size
        if queued and not write:
            _queue(
                params, bank_state, channel_state, counters, series, reads, responses, heap_state,
                arrival_fs, address, size, tag,
            )  # fmt: skip
            continue
        if params[P_IDEAL]:
            finish_fs, wait_fs = _serve_ideal(params, channel_state[0], arrival_fs, size)
        else:
            finish_fs, wait_fs = _serve(
                params, bank_state, channel_state, counters, series, reads, responses, heap_state,
                arrival_fs, address, size, write,
            )  # fmt: skip
        heap_push(responses, heap_state, finish_fs, tag, wait_fs)
        counters[C_WAIT_FS] += wait_fs
        counters[C_LATENCY_FS] += finish_fs - arrival_fs
        if not queued:  # a queued write counts when it is written
            record(counters, series, finish_fs, size, write)
    if queued:
        until = (until_fs + params[P_TCK_FS] - 1) // params[P_TCK_FS]
        serve_all(params, bank_state, channel_state, counters, series, reads, responses, heap_state, until)
    return OK


@kernel
def _serve_ideal(params: Array, bus: Array, arrival_fs: int, size: int) -> tuple[int, int]:
    """One shared bus of constant rate; the fraction of a femtosecond is kept, so a long stream does not drift."""
    if arrival_fs > bus[CH_FREE_FS]:
        bus[CH_FREE_FS] = arrival_fs
        bus[CH_FREE_NUM] = 0
    wait_fs = bus[CH_FREE_FS] - arrival_fs
    parts = bus[CH_FREE_NUM] + size * params[P_IDEAL_NUM]
    bus[CH_FREE_FS] += size * params[P_IDEAL_FS] + parts // params[P_IDEAL_DEN]
    bus[CH_FREE_NUM] = parts % params[P_IDEAL_DEN]
    finish_fs = bus[CH_FREE_FS] + params[P_IDEAL_LATENCY_FS]
    return finish_fs + (1 if bus[CH_FREE_NUM] > 0 else 0), wait_fs


@kernel
def _serve(
    params: Array,
    bank_state: Array,
    channel_state: Array,
    counters: Array,
    series: Array,
    reads: Array,
    responses: Array,
    heap: Array,
    arrival_fs: int,
    address: int,
    size: int,
    write: int,
) -> tuple[int, int]:
    """Post a write, or serve a request in strict order.

    Returns the time of its answer and how much of it an idle memory would have saved.
    """
    channels, tck_fs, burst_bits = params[P_CHANNELS], params[P_TCK_FS], params[P_BURST_BITS]
    unit_bursts, span = 1 << params[P_UNIT_BITS], 1 << params[P_SPAN_BITS]
    posted = write and params[P_QUEUE_RUNS] > 0
    arrival = (arrival_fs + tck_fs - 1) // tck_fs
    burst, end = address >> burst_bits, ((address + size - 1) >> burst_bits) + 1
    counters[C_READ_BURSTS + write] += end - burst
    unit, offset = burst >> params[P_UNIT_BITS], burst & (unit_bursts - 1)
    first_unit, first_offset = unit, offset
    finish, unloaded = arrival, arrival
    while burst < end:
        c, bank, row, column = _locate(params, unit, offset)
        count = min(min(end - burst, unit_bursts - offset), span - column)
        burst += count
        offset += count
        if posted:
            serve_reads(params, bank_state, channel_state, counters, series, reads, responses, heap, c, arrival)
            piece = min(address + size, burst << burst_bits) - max(address, (burst - count) << burst_bits)
            placed = post_write(
                params, bank_state, channel_state, counters, series, c, arrival, column, count, bank, row, piece
            )
            finish = max(finish, placed)
        else:
            group = column & (params[P_GROUPS] - 1)
            last, extra = serve_run(
                params, bank_state, channel_state, counters, c, arrival, group, count, bank, row, write
            )
            finish = max(finish, last)
            # Without others in the way this run would wait only for the request's own earlier bursts in the channel.
            own = _bursts_before(unit - first_unit, offset, first_offset, channels, unit_bursts)
            unloaded = max(unloaded, arrival + extra + (own - 1) * params[P_CCD_S])
        if offset == unit_bursts:
            unit += 1
            offset = 0
    if posted:  # the port wants at least a tick between question and answer
        return (finish + 1) * tck_fs, (finish - arrival) * tck_fs
    latency = (params[P_CWL] if write else params[P_CL]) + params[P_BL]
    return (finish + latency) * tck_fs, max(0, finish - unloaded) * tck_fs


@kernel
def _queue(
    params: Array,
    bank_state: Array,
    channel_state: Array,
    counters: Array,
    series: Array,
    reads: Array,
    responses: Array,
    heap: Array,
    arrival_fs: int,
    address: int,
    size: int,
    tag: int,
) -> None:
    """Queue the runs of a read; when the table of reads is full, what waits is served without looking further."""
    channels, tck_fs, burst_bits = params[P_CHANNELS], params[P_TCK_FS], params[P_BURST_BITS]
    unit_bursts, span = 1 << params[P_UNIT_BITS], 1 << params[P_SPAN_BITS]
    arrival = (arrival_fs + tck_fs - 1) // tck_fs
    burst, end = address >> burst_bits, ((address + size - 1) >> burst_bits) + 1
    counters[C_READ_BURSTS] += end - burst
    unit, offset = burst >> params[P_UNIT_BITS], burst & (unit_bursts - 1)
    first_unit, first_offset = unit, offset
    request = open_request(reads, arrival_fs, arrival, tag, size)
    if request < 0:
        serve_all(params, bank_state, channel_state, counters, series, reads, responses, heap, FAR_FS)
        request = open_request(reads, arrival_fs, arrival, tag, size)
    while burst < end:
        c, bank, row, column = _locate(params, unit, offset)
        count = min(min(end - burst, unit_bursts - offset), span - column)
        own = _bursts_before(unit - first_unit, offset + count, first_offset, channels, unit_bursts)
        if not queue_read(
            params, bank_state, channel_state, counters, series, reads, responses, heap,
            c, arrival, column, count, bank, row, own, request,
        ):  # fmt: skip
            serve_all(params, bank_state, channel_state, counters, series, reads, responses, heap, FAR_FS)
            continue
        burst += count
        offset += count
        if offset == unit_bursts:
            unit += 1
            offset = 0
    close(params, counters, series, reads, responses, heap, request)


@kernel
def _locate(params: Array, unit: int, offset: int) -> tuple[int, int, int, int]:
    """Return channel, bank, row and column (a burst of the row of all bank groups) of a burst in a unit."""
    channels, span_bits, bank_bits = params[P_CHANNELS], params[P_SPAN_BITS], params[P_BANK_BITS]
    upper = unit // channels
    c = unit - upper * channels
    if params[P_ROTATE]:
        c = (c + _folded(upper, params[P_ROTATE])) % channels
    local = (upper << params[P_UNIT_BITS]) + offset
    page, column = local >> span_bits, local & ((1 << span_bits) - 1)
    row = page >> bank_bits
    # With two banks the rotation would put neighbouring pages into the same one.
    bank = (page + (_folded(row, bank_bits) if bank_bits > 1 else 0)) & ((1 << bank_bits) - 1)
    return c, bank, row, column


@kernel
def _folded(value: int, bits: int) -> int:
    """Return the sum of `value` and of what is left of it each time that `bits` low bits are dropped."""
    total = 0
    while value > 0:
        total += value
        value >>= bits
    return total


@kernel
def _bursts_before(units: int, offset: int, first_offset: int, channels: int, unit_bursts: int) -> int:
    """Return the bursts in one channel of a request's first `units` units and of `offset` bursts after them."""
    rounds = units // channels if units >= channels else 0
    return int(rounds * unit_bursts + offset - (first_offset if units == rounds * channels else 0))


def advance(state: MemoryState, port: MemoryPort, until_fs: int) -> int:
    """Call `memory_advance` until it no longer needs room, growing the response heap; return OK or BAD_REQUEST."""
    while True:
        status = memory_advance(
            state.params, state.bank_state, state.channel_state, state.counters, state.series, state.reads,
            port.requests, port.ring, port.responses, port.heap_state, until_fs,
        )  # fmt: skip
        if status != FULL:
            return int(status)
        port.grow_responses()
