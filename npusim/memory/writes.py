"""Write queues: one a channel, so that its bus turns from reading to writing once a batch and not once a request.

Policy. A write is answered a tick after all of its runs have places (posted write); a run that finds none gets the
place that falls free first. Reads go first. Queued runs are written
- in a batch, down to the low watermark, when one more takes the queue to the high one: the oldest runs, each followed
  by those of the batch that lie in the same row; so nothing starves, and no two runs of one row swap;
- all of them, before a read of a burst that one of them holds;
- in a gap in which no read waits, as many as surely leave the bus in time to the next run, and when memory is flushed.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.commands import record, refresh, serve_run
from npusim.memory.state import (
    CH_COUNT,
    CH_HEAD,
    CH_LAST_COLUMN,
    CH_LAST_WRITE,
    CH_NEXT_REFRESH,
    CH_PENDING,
    CH_READ_FIRST,
    CH_REFRESH_DONE,
    G_COUNT,
    P_BL,
    P_CCD_L,
    P_CWL,
    P_GROUPS,
    P_IDEAL,
    P_QUEUE_HIGH,
    P_QUEUE_LOW,
    P_QUEUE_RUNS,
    P_TCK_FS,
    P_WRITE_ROOM,
    Q_BANK,
    Q_BURSTS,
    Q_BYTES,
    Q_COLUMN,
    Q_ROW,
    Q_TICK,
    Q_WORDS,
)

Array = npt.NDArray[Any]
_NEVER = 1 << 60  # ticks


@kernel
def memory_flush(params: Array, bank_state: Array, channel_state: Array, counters: Array, series: Array) -> int:
    """Write all that is queued, each channel from its last command on; return the fs of the last write's last data.

    With the ideal model, or if there was no write at all, it returns 0.
    """
    last = 0
    if params[P_IDEAL]:
        return last
    for c in range(channel_state.shape[0]):
        now = channel_state[c, CH_LAST_COLUMN]
        _drain(params, bank_state, channel_state, counters, series, c, channel_state[c, CH_PENDING], now, _NEVER)
        last = max(last, channel_state[c, CH_LAST_WRITE] + params[P_CWL] + params[P_BL])
    return int(last * params[P_TCK_FS])


@kernel
def post_write(
    params: Array,
    banks: Array,
    state: Array,
    counters: Array,
    series: Array,
    c: int,
    arrival: int,
    column: int,
    count: int,
    bank: int,
    row: int,
    size: int,
) -> int:
    """Queue a run of `size` bytes from burst `column` of the row on; return the tick at which it has its place."""
    if state[c, CH_READ_FIRST] < 0:
        use_gap(params, banks, state, counters, series, c, arrival)
    at = _place(params, state, c, state[c, CH_PENDING])
    accepted = max(arrival, state[c, at + Q_TICK])  # places are taken and fall free in the same order
    state[c, at + Q_TICK] = accepted
    state[c, at + Q_COLUMN] = column
    state[c, at + Q_BURSTS] = count
    state[c, at + Q_BANK] = bank
    state[c, at + Q_ROW] = row
    state[c, at + Q_BYTES] = size
    state[c, CH_PENDING] += 1
    if state[c, CH_PENDING] >= params[P_QUEUE_HIGH]:
        batch = state[c, CH_PENDING] - params[P_QUEUE_LOW]
        _drain(params, banks, state, counters, series, c, batch, accepted, _NEVER)
    return int(accepted)


@kernel
def before_read(
    params: Array,
    banks: Array,
    state: Array,
    counters: Array,
    series: Array,
    c: int,
    now: int,
    column: int,
    count: int,
    bank: int,
    row: int,
) -> None:
    """Write all that is queued, from `now` on, if a read is about to read some of it."""
    i, pending = -1, state[c, CH_PENDING]
    while True:
        i = _next_of_row(params, state, c, i + 1, pending, bank, row)
        if i == pending:
            return
        at = _place(params, state, c, i)
        first = state[c, at + Q_COLUMN]
        if first < column + count and column < first + state[c, at + Q_BURSTS]:
            _drain(params, banks, state, counters, series, c, pending, now, _NEVER)
            return


@kernel
def use_gap(
    params: Array, banks: Array, state: Array, counters: Array, series: Array, c: int, arrival: int
) -> None:
    """Write what fits between the last command of a channel without waiting reads and `arrival`."""
    last, pending = state[c, CH_LAST_COLUMN], state[c, CH_PENDING]
    if pending > 0 and arrival - last > params[P_WRITE_ROOM]:
        _drain(params, banks, state, counters, series, c, pending, last, arrival)


@kernel
def _drain(
    params: Array,
    banks: Array,
    state: Array,
    counters: Array,
    series: Array,
    c: int,
    batch: int,
    now: int,
    until: int,
) -> None:
    """Write the `batch` oldest runs, with commands from `now` on; stop at one that might not leave the bus `until`."""
    bank, row = -1, -1
    while batch > 0:
        _choose(params, state, c, batch, bank, row)
        at = _place(params, state, c, 0)
        floor, count = max(now, state[c, at + Q_TICK]), state[c, at + Q_BURSTS]
        if until < _NEVER:
            begin = max(floor, state[c, CH_LAST_COLUMN])
            if begin >= state[c, CH_NEXT_REFRESH]:
                refresh(params, banks, state, counters, c, begin)
            begin = max(begin, state[c, CH_REFRESH_DONE])
            if begin + params[P_WRITE_ROOM] + count * params[P_CCD_L] > until:
                return
        bank, row = state[c, at + Q_BANK], state[c, at + Q_ROW]
        group = state[c, at + Q_COLUMN] & (params[P_GROUPS] - 1)
        last, _ = serve_run(params, banks, state, counters, c, floor, group, count, bank, row, 1)
        record(counters, series, (last + params[P_CWL] + params[P_BL]) * params[P_TCK_FS], state[c, at + Q_BYTES], 1)
        state[c, at + Q_TICK] = last
        state[c, CH_HEAD] = state[c, CH_HEAD] + 1 if state[c, CH_HEAD] + 1 < params[P_QUEUE_RUNS] else 0
        state[c, CH_PENDING] -= 1
        batch -= 1


@kernel
def _choose(params: Array, state: Array, c: int, batch: int, bank: int, row: int) -> None:
    """Move the oldest run of the row, if the batch has one, to the head of the queue; the others keep their order."""
    i = _next_of_row(params, state, c, 0, batch, bank, row)
    if i == batch:
        return
    at = _place(params, state, c, i)
    while i > 0:
        i -= 1
        older = _place(params, state, c, i)
        for word in range(Q_WORDS):
            state[c, at + word], state[c, older + word] = state[c, older + word], state[c, at + word]
        at = older


@kernel
def _next_of_row(params: Array, state: Array, c: int, first: int, end: int, bank: int, row: int) -> int:
    """Return the place, from `first` on, of the oldest queued run of the row; `end` if none lies before it."""
    for i in range(first, end):
        at = _place(params, state, c, i)
        if state[c, at + Q_ROW] == row and state[c, at + Q_BANK] == bank:
            return i
    return end


@kernel
def _place(params: Array, state: Array, c: int, i: int) -> int:
    """Return where place `i` of the channel's queue lies, counted from the oldest run."""
    i += state[c, CH_HEAD]
    if i >= params[P_QUEUE_RUNS]:
        i -= params[P_QUEUE_RUNS]
    return int(CH_COUNT + params[P_GROUPS] * G_COUNT + i * Q_WORDS)
