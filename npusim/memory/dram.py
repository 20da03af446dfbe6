"""The DRAM behind the port: channels, bank groups, banks and rows with JEDEC timing, advanced request by request.

Policy. A request is cut at interleave units and pages into *runs*: bursts of one channel that rotate through its bank
groups and stay in one row of each. A channel serves its runs in arrival order, so data come back in order, but PRE and
ACT of a later run go out as soon as it has arrived (bank-level parallelism); pages stay open. A refresh of all banks is
due every REFI and is done before the first run that begins at or after it (JESD79-4 allows up to eight postponed).
Address map, low to high: burst, bank group, column, channel above the interleave unit, bank, row; the bank is rotated
by the row (permutation-based interleaving, Zhang et al., MICRO 2000). Because a channel's commands depend only on
earlier requests, each run is settled when it is consumed; nothing is simulated between requests. Not modelled:
reordering of requests (FR-FCFS), command-bus slots, per-bank refresh, ranks.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
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
from npusim.memory.state import (
    B_ACT_READY,
    B_PRE_READY,
    B_ROW,
    C_CONFLICTS,
    C_HITS,
    C_LATENCY_FS,
    C_MISSES,
    C_READ_BURSTS,
    C_READ_BYTES,
    C_READS,
    C_REFRESHES,
    C_SERIES_BIN_FS,
    C_WAIT_FS,
    CH_BUSY,
    CH_COUNT,
    CH_FAW,
    CH_FAW_SLOT,
    CH_FREE_FS,
    CH_FREE_NUM,
    CH_LAST_ACT,
    CH_LAST_COLUMN,
    CH_LAST_READ,
    CH_LAST_WRITE,
    CH_NEXT_REFRESH,
    CH_REFRESH_DONE,
    G_COUNT,
    G_LAST_ACT,
    G_LAST_COLUMN,
    G_LAST_WRITE,
    MAX_REQUEST_BYTES,
    P_BANK_BITS,
    P_BANKS,
    P_BL,
    P_BURST_BITS,
    P_CAPACITY,
    P_CCD_L,
    P_CCD_S,
    P_CHANNELS,
    P_CL,
    P_CWL,
    P_FAW,
    P_GROUPS,
    P_IDEAL,
    P_IDEAL_DEN,
    P_IDEAL_FS,
    P_IDEAL_LATENCY_FS,
    P_IDEAL_NUM,
    P_RAS,
    P_RC,
    P_RCDRD,
    P_RCDWR,
    P_REFI,
    P_RFC,
    P_ROTATE,
    P_RP,
    P_RRD_L,
    P_RRD_S,
    P_RTP,
    P_RTW,
    P_SPAN_BITS,
    P_STEADY,
    P_TCK_FS,
    P_UNIT_BITS,
    P_WTP,
    P_WTR_L,
    P_WTR_S,
    MemoryState,
)

Array = npt.NDArray[Any]

# Status of memory_advance.
OK = 0
FULL = 1  # no room for a response: drain or grow the heap, then call again
BAD_REQUEST = 2  # row `head` of the ring: size not in 1..MAX_REQUEST_BYTES, or outside the memory


@kernel
def memory_advance(
    params: Array,
    bank_state: Array,
    channel_state: Array,
    counters: Array,
    series: Array,
    requests: Array,
    ring: Array,
    responses: Array,
    heap_state: Array,
    until_fs: int,
) -> int:
    """Serve every request that arrives before `until_fs`, one response each; return OK, FULL or BAD_REQUEST."""
    row = ring[RING_HEAD] % requests.shape[0]
    while ring[RING_HEAD] < ring[RING_TAIL]:
        arrival_fs = requests[row, REQ_TIME_FS]
        if arrival_fs >= until_fs:
            return OK
        if heap_state[HEAP_SIZE] >= responses.shape[0]:
            return FULL
        address, size, write = requests[row, REQ_ADDRESS], requests[row, REQ_BYTES], requests[row, REQ_WRITE]
        if size <= 0 or size > MAX_REQUEST_BYTES or address < 0 or address + size > params[P_CAPACITY]:
            return BAD_REQUEST
        if params[P_IDEAL]:
            finish_fs, wait_fs = _serve_ideal(params, channel_state[0], arrival_fs, size)
        else:
            finish_fs, wait_fs = _serve(params, bank_state, channel_state, counters, arrival_fs, address, size, write)
        heap_push(responses, heap_state, finish_fs, requests[row, REQ_TAG], wait_fs)
        ring[RING_HEAD] += 1
        row = row + 1 if row + 1 < requests.shape[0] else 0
        counters[C_READS + write] += 1
        counters[C_READ_BYTES + write] += size
        counters[C_WAIT_FS] += wait_fs
        counters[C_LATENCY_FS] += finish_fs - arrival_fs
        _record(counters, series, finish_fs, size, write)
    return OK


@kernel
def _record(counters: Array, series: Array, time_fs: int, size: int, write: int) -> None:
    """Add bytes to the time series; when the time lies beyond the last bin, bins merge in pairs."""
    bins = series.shape[1]
    while time_fs >= counters[C_SERIES_BIN_FS] * bins:
        for kind in range(2):
            for i in range(bins // 2):
                series[kind, i] = series[kind, 2 * i] + series[kind, 2 * i + 1]
            series[kind, bins // 2 :] = 0
        counters[C_SERIES_BIN_FS] *= 2
    series[write, time_fs // counters[C_SERIES_BIN_FS]] += size


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
    arrival_fs: int,
    address: int,
    size: int,
    write: int,
) -> tuple[int, int]:
    """Serve one request; return the time of its last data and how much of it an idle memory would have saved."""
    channels, tck_fs = params[P_CHANNELS], params[P_TCK_FS]
    unit_bits, span_bits, bank_bits = params[P_UNIT_BITS], params[P_SPAN_BITS], params[P_BANK_BITS]
    unit_bursts, span = 1 << unit_bits, 1 << span_bits
    arrival = (arrival_fs + tck_fs - 1) // tck_fs
    burst, end = address >> params[P_BURST_BITS], ((address + size - 1) >> params[P_BURST_BITS]) + 1
    counters[C_READ_BURSTS + write] += end - burst
    unit, offset = burst >> unit_bits, burst & (unit_bursts - 1)
    first_unit, first_offset = unit, offset
    finish, unloaded = arrival, arrival
    while burst < end:
        upper = unit // channels
        channel = unit - upper * channels
        if params[P_ROTATE]:
            channel = (channel + upper) % channels
        local = (upper << unit_bits) + offset
        page, column = local >> span_bits, local & (span - 1)
        count = min(min(end - burst, unit_bursts - offset), span - column)
        row = page >> bank_bits
        # With two banks the rotation would put neighbouring pages into the same one.
        bank = (page + (row if bank_bits > 1 else 0)) & ((1 << bank_bits) - 1)
        group = column & (params[P_GROUPS] - 1)
        last, extra = _serve_run(
            params, bank_state, channel_state, counters, channel, arrival, group, count, bank, row, write
        )
        finish = max(finish, last)
        burst += count
        offset += count
        # Without others in the way this run would wait only for the request's own earlier bursts in the channel.
        rounds = (unit - first_unit) // channels if unit - first_unit >= channels else 0
        own = rounds * unit_bursts + offset - (first_offset if unit - first_unit == rounds * channels else 0)
        unloaded = max(unloaded, arrival + extra + (own - 1) * params[P_CCD_S])
        if offset == unit_bursts:
            unit += 1
            offset = 0
    latency = (params[P_CWL] if write else params[P_CL]) + params[P_BL]
    return (finish + latency) * tck_fs, max(0, finish - unloaded) * tck_fs


@kernel
def _serve_run(
    params: Array,
    banks: Array,
    state: Array,
    counters: Array,
    c: int,
    arrival: int,
    group: int,
    count: int,
    bank: int,
    row: int,
    write: int,
) -> tuple[int, int]:
    """Serve `count` bursts from bank group `group` on; return the last column command and the unloaded row cost."""
    now = max(arrival, state[c, CH_LAST_COLUMN])
    if now >= state[c, CH_NEXT_REFRESH]:
        _refresh(params, banks, state, counters, c, now)
    groups = params[P_GROUPS]
    rcd = params[P_RCDWR] if write else params[P_RCDRD]
    to_pre = params[P_WTP] if write else params[P_RTP]
    last, row_cost, activations = 0, 0, 0
    opened = min(count, groups)
    for _ in range(opened):
        index = group * params[P_BANKS] + bank
        ready = arrival
        if banks[c, index, B_ROW] != row:
            row_cost = max(row_cost, rcd if banks[c, index, B_ROW] < 0 else params[P_RP] + rcd)
            activations += 1
            ready = _activate(params, banks, state, counters, c, arrival, group, index, row) + rcd
        last = _column(params, state, c, ready, group, write)
        banks[c, index, B_PRE_READY] = max(banks[c, index, B_PRE_READY], last + to_pre)
        group = group + 1 if group + 1 < groups else 0
    rest = count - opened
    if rest > 0 and params[P_STEADY]:
        last = _hit_run(params, banks, state, c, last, group, rest, bank, write)
    else:
        for _ in range(rest):
            last = _column(params, state, c, 0, group, write)
            index = group * params[P_BANKS] + bank
            banks[c, index, B_PRE_READY] = max(banks[c, index, B_PRE_READY], last + to_pre)
            group = group + 1 if group + 1 < groups else 0
    counters[C_HITS] += count - activations
    state[c, CH_BUSY] += count * params[P_BL]
    return last, row_cost + max(0, activations - 1) * max(0, params[P_RRD_S] - params[P_CCD_S])


@kernel
def _hit_run(
    params: Array, banks: Array, state: Array, c: int, last: int, group: int, rest: int, bank: int, write: int
) -> int:
    """Issue `rest` row hits from bank group `group` on, one every CCD_S after `last`; return the last one's time."""
    groups = params[P_GROUPS]
    time = last + rest * params[P_CCD_S]
    state[c, CH_LAST_COLUMN] = time
    state[c, CH_LAST_WRITE if write else CH_LAST_READ] = time
    to_pre = params[P_WTP] if write else params[P_RTP]
    traces = min(rest, groups)  # only the last burst of each group is remembered
    group = (group + rest - traces) & (groups - 1)
    time -= (traces - 1) * params[P_CCD_S]
    for _ in range(traces):
        words = CH_COUNT + group * G_COUNT
        state[c, words + G_LAST_COLUMN] = time
        if write:
            state[c, words + G_LAST_WRITE] = time
        index = group * params[P_BANKS] + bank
        banks[c, index, B_PRE_READY] = max(banks[c, index, B_PRE_READY], time + to_pre)
        time += params[P_CCD_S]
        group = group + 1 if group + 1 < groups else 0
    return int(state[c, CH_LAST_COLUMN])


@kernel
def _activate(
    params: Array, banks: Array, state: Array, counters: Array, c: int, arrival: int, group: int, index: int, row: int
) -> int:
    """Open `row` in bank `index`, precharging first when another row is open; return the time of the ACT."""
    act = max(arrival, banks[c, index, B_ACT_READY])
    if banks[c, index, B_ROW] >= 0:
        counters[C_CONFLICTS] += 1
        act = max(act, max(arrival, banks[c, index, B_PRE_READY]) + params[P_RP])
    else:
        counters[C_MISSES] += 1
    words = CH_COUNT + group * G_COUNT
    slot = CH_FAW + state[c, CH_FAW_SLOT]  # the fourth last ACT
    act = max(act, state[c, slot] + params[P_FAW])
    act = max(act, state[c, CH_LAST_ACT] + params[P_RRD_S])
    act = max(act, state[c, words + G_LAST_ACT] + params[P_RRD_L])
    state[c, slot] = act
    state[c, CH_FAW_SLOT] = (state[c, CH_FAW_SLOT] + 1) & 3
    state[c, CH_LAST_ACT] = act
    state[c, words + G_LAST_ACT] = act
    banks[c, index, B_ROW] = row
    banks[c, index, B_ACT_READY] = act + params[P_RC]
    banks[c, index, B_PRE_READY] = act + params[P_RAS]
    return int(act)


@kernel
def _column(params: Array, state: Array, c: int, ready: int, group: int, write: int) -> int:
    """Issue one column command at or after `ready`; return its time."""
    words = CH_COUNT + group * G_COUNT
    time = max(ready, state[c, CH_LAST_COLUMN] + params[P_CCD_S])
    time = max(time, state[c, words + G_LAST_COLUMN] + params[P_CCD_L])
    if write:
        time = max(time, state[c, CH_LAST_READ] + params[P_RTW])
        state[c, CH_LAST_WRITE] = time
        state[c, words + G_LAST_WRITE] = time
    else:
        time = max(time, state[c, CH_LAST_WRITE] + params[P_WTR_S])
        time = max(time, state[c, words + G_LAST_WRITE] + params[P_WTR_L])
        state[c, CH_LAST_READ] = time
    state[c, CH_LAST_COLUMN] = time
    state[c, words + G_LAST_COLUMN] = time
    return int(time)


@kernel
def _refresh(params: Array, banks: Array, state: Array, counters: Array, c: int, now: int) -> None:
    """Catch up with every all-bank refresh that is due at `now`; all rows are closed afterwards."""
    due = state[c, CH_NEXT_REFRESH]
    missed = (now - due) // params[P_REFI]
    start = due
    any_open = False
    for i in range(banks.shape[1]):
        if banks[c, i, B_ROW] >= 0:
            any_open = True
            start = max(start, banks[c, i, B_PRE_READY])
            banks[c, i, B_ROW] = -1
    if any_open:
        start += params[P_RP]
    start = max(start, state[c, CH_REFRESH_DONE])
    # The first may be late; the others come on time, or back to back until they have caught up.
    start = max(due + missed * params[P_REFI], start + missed * params[P_RFC])
    done = start + params[P_RFC]
    for i in range(banks.shape[1]):
        banks[c, i, B_ACT_READY] = max(banks[c, i, B_ACT_READY], done)
    state[c, CH_REFRESH_DONE] = done
    state[c, CH_NEXT_REFRESH] = due + (missed + 1) * params[P_REFI]
    counters[C_REFRESHES] += missed + 1


def advance(state: MemoryState, port: MemoryPort, until_fs: int) -> int:
    """Call `memory_advance` until it no longer needs room, growing the response heap; return OK or BAD_REQUEST."""
    while True:
        status = memory_advance(
            state.params, state.bank_state, state.channel_state, state.counters, state.series,
            port.requests, port.ring, port.responses, port.heap_state, until_fs,
        )  # fmt: skip
        if status != FULL:
            return int(status)
        port.grow_responses()
