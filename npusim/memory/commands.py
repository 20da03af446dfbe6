"""Commands of one DRAM channel under JEDEC timing: runs of bursts, activations, refreshes.

A run is a number of bursts of one channel that rotate through its bank groups and stay in one row of each. PRE and ACT
go out as soon as the run's cause allows, the columns in the order of the calls; pages stay open. A refresh of all banks
is due every REFI and is done before the first run that begins at or after it (JESD79-4 allows up to eight postponed).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.state import (
    B_ACT_READY,
    B_PRE_READY,
    B_ROW,
    C_CONFLICTS,
    C_HITS,
    C_MISSES,
    C_REFRESHES,
    C_SERIES_BIN_FS,
    CH_BUSY,
    CH_COUNT,
    CH_FAW,
    CH_FAW_SLOT,
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
    P_BANKS,
    P_BL,
    P_CCD_L,
    P_CCD_S,
    P_FAW,
    P_GROUPS,
    P_RAS,
    P_RC,
    P_RCDRD,
    P_RCDWR,
    P_REFI,
    P_RFC,
    P_RP,
    P_RRD_L,
    P_RRD_S,
    P_RTP,
    P_RTW,
    P_STEADY,
    P_WTP,
    P_WTR_L,
    P_WTR_S,
)

Array = npt.NDArray[Any]


@kernel
def record(counters: Array, series: Array, time_fs: int, size: int, write: int) -> None:
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
def serve_run(
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
        refresh(params, banks, state, counters, c, now)
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
def refresh(params: Array, banks: Array, state: Array, counters: Array, c: int, now: int) -> None:
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
