"""Stall accounting: every cycle of every pipe goes into exactly one cause.

A pipe's time is accounted up to `P_ACCOUNTED`. While its queue is empty its cycles take the cause of the sequencer,
read off as the difference of the sequencer's running totals; while an instruction waits at its head they take the
reason of that instruction; while it works they are busy.
"""

from __future__ import annotations

from npusim.engine.layout import (
    BUSY,
    C_CAUSE,
    C_SINCE,
    C_SPENT,
    CAUSE_COUNT,
    DISPATCH,
    P_ACCOUNTED,
    P_SNAPSHOT,
    P_STATES,
)
from npusim.jit import kernel


@kernel
def spend(cores, c, now):
    """Bring the sequencer's totals up to `now`."""
    cores[c, C_SPENT + cores[c, C_CAUSE]] += now - cores[c, C_SINCE]
    cores[c, C_SINCE] = now


@kernel
def sequencer_cause(cores, c, cause, now):
    """From `now` on the sequencer is in `cause`."""
    spend(cores, c, now)
    cores[c, C_CAUSE] = cause


@kernel
def account(pipes, c, p, cause, now):
    """The pipe was in `cause` since its last account."""
    pipes[c, p, P_STATES + cause] += now - pipes[c, p, P_ACCOUNTED]
    pipes[c, p, P_ACCOUNTED] = now


@kernel
def fell_idle(cores, pipes, c, p, now):
    """The pipe has nothing left: remember the sequencer's totals."""
    spend(cores, c, now)
    for cause in range(CAUSE_COUNT):
        pipes[c, p, P_SNAPSHOT + cause] = cores[c, C_SPENT + cause]


@kernel
def was_idle(cores, pipes, c, p, now):
    """The pipe's empty time ends: it takes what the sequencer spent meanwhile, its own work counting as dispatch."""
    if pipes[c, p, P_ACCOUNTED] >= now:
        return
    spend(cores, c, now)
    for cause in range(CAUSE_COUNT):
        spent = cores[c, C_SPENT + cause] - pipes[c, p, P_SNAPSHOT + cause]
        pipes[c, p, P_STATES + (DISPATCH if cause == BUSY else cause)] += spent
        pipes[c, p, P_SNAPSHOT + cause] = cores[c, C_SPENT + cause]
    pipes[c, p, P_ACCOUNTED] = now
