"""Stall accounting: every cycle of every pipe goes into exactly one cause.

A pipe's time is accounted up to `P_ACCOUNTED`. While its queue is empty its cycles take the cause of the sequencer, read
off as the difference of the sequencer's running totals; while an instruction waits at its head they take the reason of
that instruction; while it works they are busy.
"""

from __future__ import annotations

from npusim.engine.layout import (
    BUSY,
    CAUSE_COUNT,
    C_CAUSE,
    C_SINCE,
    C_SPENT,
    DISPATCH,
    P_ACCOUNTED,
    P_SNAPSHOT,
    P_STATES,
)
from npusim.jit import kernel


@kernel
def spend(s, c, now):
    """Bring the sequencer's totals up to `now`."""
    s.core[c, C_SPENT + s.core[c, C_CAUSE]] += now - s.core[c, C_SINCE]
    s.core[c, C_SINCE] = now


@kernel
def sequencer_cause(s, c, cause, now):
    """From `now` on the sequencer is in `cause`."""
    spend(s, c, now)
    s.core[c, C_CAUSE] = cause


@kernel
def account(s, c, p, cause, now):
    """The pipe was in `cause` since its last account."""
    s.pipe[c, p, P_STATES + cause] += now - s.pipe[c, p, P_ACCOUNTED]
    s.pipe[c, p, P_ACCOUNTED] = now


@kernel
def fell_idle(s, c, p, now):
    """The pipe has nothing left: remember the sequencer's totals."""
    spend(s, c, now)
    for cause in range(CAUSE_COUNT):
        s.pipe[c, p, P_SNAPSHOT + cause] = s.core[c, C_SPENT + cause]


@kernel
def was_idle(s, c, p, now):
    """The pipe's empty time ends: it takes what the sequencer spent meanwhile, its own work counting as dispatch."""
    if s.pipe[c, p, P_ACCOUNTED] >= now:
        return
    spend(s, c, now)
    for cause in range(CAUSE_COUNT):
        spent = s.core[c, C_SPENT + cause] - s.pipe[c, p, P_SNAPSHOT + cause]
        s.pipe[c, p, P_STATES + (DISPATCH if cause == BUSY else cause)] += spent
        s.pipe[c, p, P_SNAPSHOT + cause] = s.core[c, C_SPENT + cause]
    s.pipe[c, p, P_ACCOUNTED] = now
