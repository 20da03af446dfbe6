"""Happens-before on one core: what is known to have completed when an instruction starts.

Knowledge is a vector clock with one component a pipe: how many of its instructions have completed, counted from the
launch's start. Completion is only ever learnt as a prefix (set, fence, barrier, the next instruction of a serial
pipe), so one number a pipe is exact. The depth of a queue is not relied on: the proof holds for any depth. Cores that
signal each other are a group: clocks and numbers of pipes then run through the group (`base` + a core's own number),
and a signal carries what its sender knows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from isa.params import Params
from isa.table import DMA, MATRIX, SCALAR, WEIGHTS

Clock = tuple[int, ...]  # by pipe of the group: how many of its instructions have completed


@dataclass(frozen=True)
class FlagSet:
    """One increment of a flag: its instruction, its pipe (of the group), what it proves, and the tile pops it needs."""

    pc: int
    pipe: int
    knows: Clock
    pops_needed: int


@dataclass(frozen=True)
class Passed:
    """The last wait for a flag: its instruction, its pipe (of the group) and its number there; a wait counts as one."""

    pc: int
    pipe: int
    number: int


class CoreOrder:
    """Vector clocks of one core, the `place`-th of `group`, during one launch.

    `users` are the pipes that its kernel has instructions for. Methods take a core's own numbers of pipes; only `other`
    pipes are any of the group.
    """

    def __init__(self, params: Params, users: frozenset[int], place: int = 0, group: int = 1) -> None:
        self.count = len(params.pipes)
        self.base, total = place * self.count, group * self.count
        self.serial = [p.pipe_class < DMA for p in params.pipes]
        self.scalar = next(p.index for p in params.pipes if p.pipe_class == SCALAR)
        self.dispatched = [0] * total
        self.sequencer: Clock = (0,) * total
        self.queued = bool(params["queues"])
        self.users = sorted(pipe for pipe in users if pipe >= 0 and pipe != self.scalar)
        self.learners = [  # by pipe: who does not know of itself what it has completed
            [user for user in self.users if user != pipe or not self.serial[pipe]] for pipe in range(self.count)
        ]
        self.knows: list[Clock] = [(0,) * total] * self.count  # with queues: what each pipe learnt from its own waits
        self.extra = [[0] * total for _ in range(self.count)]  # what a pipe learnt through the weight FIFO
        self.flags: dict[int, deque[FlagSet]] = {}
        self.counting = params["flags"]  # flags from here on count what other cores signal; others hold one set
        self.passed: dict[int, Passed] = {}  # by flag, with queues
        self.setters: dict[int, frozenset[int]] = {}  # by flag: pipes of the group
        self.depth = params["fifo_tiles"]
        self.queue = params.machine.core.matrix.queue_depth
        self.pushed: dict[int, deque[int]] = {}  # by unit: numbers of the ldw instructions whose tiles wait
        self.pushes: dict[int, int] = {}
        self.pops: dict[int, list[int]] = {}  # by unit: mm instructions completed before each pop
        self.weights = {p.unit: p.index for p in params.pipes if p.pipe_class == WEIGHTS}
        self.matrix = {p.unit: p.index for p in params.pipes if p.pipe_class == MATRIX}
        self.unit_of = {index: unit for unit, index in self.weights.items()}

    def known(self, pipe: int, other: int) -> int:
        """How many instructions of `other` have completed for certain when the next one of `pipe` starts."""
        if other == pipe + self.base and self.serial[pipe]:
            return self.dispatched[other]
        learnt = self.knows[pipe] if self.queued else self.sequencer
        return max(learnt[other], self.extra[pipe][other])

    def is_serial(self, other: int) -> bool:
        """Whether a pipe is of this core and completes its instructions in their order."""
        return 0 <= other - self.base < self.count and self.serial[other - self.base]

    def known_to_all(self, other: int) -> int:
        """How many instructions of `other` have completed for certain when any later one of this core starts."""
        if not self.queued:
            return self.sequencer[other]
        at = other - self.base
        pipes = self.learners[at] if 0 <= at < self.count else self.users
        return min([self.knows[pipe][other] for pipe in pipes]) if pipes else self.dispatched[other]

    def hear(self, pipe: int, clock: Clock) -> None:
        """With queues: a pipe learns what a set proves, or what the sequencer knew when it put in what comes next."""
        if clock != self.knows[pipe]:
            self.knows[pipe] = later(self.knows[pipe], clock)

    def pipe_barrier(self, pipe: int) -> None:
        """All earlier instructions of a pipe have completed when its next one starts."""
        at = pipe + self.base
        self.knows[pipe] = with_own(self.knows[pipe], at, self.dispatched[at])

    def dispatch(self, pipe: int) -> int:
        """Count an instruction of `pipe`; return its number (from 1)."""
        self.dispatched[pipe + self.base] += 1
        return self.dispatched[pipe + self.base]

    def push(self, unit: int) -> bool:
        """An ldw about to be dispatched; False when FIFO and queue are full and no mm before it makes room."""
        pipe, waiting = self.weights[unit], self.pushed.setdefault(unit, deque())
        if len(waiting) >= self.depth + self.queue + 1:
            return False
        waiting.append(self.dispatched[pipe + self.base] + 1)
        number = self.pushes[unit] = self.pushes.get(unit, 0) + 1
        freed = self.pops.get(unit, [])
        if self.depth < number <= self.depth + len(freed):
            extra, at = self.extra[pipe], self.matrix[unit] + self.base
            extra[at] = max(extra[at], freed[number - self.depth - 1])
        return True

    def pop(self, unit: int) -> bool:
        """An mm about to be dispatched that takes the next tile; False when no earlier ldw pushed one."""
        waiting = self.pushed.get(unit)
        if not waiting:
            return False
        matrix, weights = self.matrix[unit], self.weights[unit]
        at = weights + self.base
        extra = self.extra[matrix] = list(later(self.extra[matrix], self.extra[weights]))
        extra[at] = max(extra[at], waiting.popleft())
        self.pops.setdefault(unit, []).append(self.dispatched[matrix + self.base])
        return True

    def proof(self, pc: int, pipe: int) -> FlagSet:
        """What a set or a signal on `pipe` proves: all its earlier instructions have completed."""
        learnt, at = self.knows[pipe] if self.queued and pipe != self.scalar else self.sequencer, pipe + self.base
        knows = with_own(later(learnt, self.extra[pipe]), at, self.dispatched[at])
        unit = self.unit_of.get(pipe)
        needed = self.pushes.get(unit, 0) - self.depth if unit is not None else 0
        return FlagSet(pc, at, knows, needed)

    def overtaken(self, item: FlagSet, flag: int) -> Passed | None:
        """The wait that a set may come before although an earlier set was for it; to be asked before `set_flag`.

        With queues a pipe may run ahead of the others as far as nothing holds it back. So whoever sets a flag again
        must know that the last wait for it has passed; but signals of one pipe are counted, and come in their order.
        """
        last = self.passed.get(flag)
        alone = flag >= self.counting and self.setters.get(flag, frozenset()) <= {item.pipe}
        return last if last is not None and not alone and item.knows[last.pipe] < last.number else None

    def set_flag(self, item: FlagSet, flag: int) -> None:
        """A flag of this core is raised, by itself or by another core of its group."""
        if self.queued and item.pipe not in self.setters.get(flag, ()):
            self.setters[flag] = self.setters.get(flag, frozenset()) | {item.pipe}
        pending = self.flags.setdefault(flag, deque())
        if item.pipe == self.scalar + self.base:  # the sequencer sets at once, so before whatever is still queued
            pending.appendleft(item)
        else:
            pending.append(item)

    def ambiguous(self, flag: int, count: int) -> bool:
        """True when a wait takes some of the sets that several pipes race to make."""
        pending = self.flags.get(flag, ())
        queued = [item.pipe for item in pending if item.pipe != self.scalar + self.base]
        return len(pending) > count > len(pending) - len(queued) and len(set(queued)) > 1

    def wait(self, pc: int, pipe: int, flag: int, count: int) -> list[FlagSet] | None:
        """Take the `count` oldest sets of a flag and learn what they prove, for a pipe or (-1) for the sequencer.

        None when there are not so many.
        """
        pending = self.flags.get(flag, deque())
        if len(pending) < count:
            return None
        taken = [pending.popleft() for _ in range(count)]
        for item in taken:
            if pipe > 0:
                self.hear(pipe, item.knows)
            else:
                self.sequencer = later(self.sequencer, item.knows)
        if self.queued:
            waiter = pipe if pipe > 0 else self.scalar
            self.passed[flag] = Passed(pc, waiter + self.base, self.dispatch(waiter))
            if waiter == self.scalar:
                self.sequencer = with_own(self.sequencer, waiter + self.base, self.passed[flag].number)
        return taken

    def blocked(self, item: FlagSet) -> bool:
        """True when a set waits behind an ldw whose room only a later mm would make."""
        unit = self.unit_of.get(item.pipe - self.base)
        return unit is not None and item.pops_needed > len(self.pops.get(unit, []))

    def drain(self) -> None:
        """A fence: everything dispatched has completed."""
        self.sequencer = tuple(self.dispatched)

    def copy(self) -> CoreOrder:
        """The same knowledge, to go on apart from this one."""
        other = CoreOrder.__new__(CoreOrder)
        other.__dict__.update(self.__dict__)
        other.dispatched = list(self.dispatched)
        other.knows = list(self.knows)
        other.extra = [list(known) for known in self.extra]
        other.flags = {flag: deque(pending) for flag, pending in self.flags.items()}
        other.passed, other.setters = dict(self.passed), dict(self.setters)
        other.pushed = {unit: deque(waiting) for unit, waiting in self.pushed.items()}
        other.pushes = dict(self.pushes)
        other.pops = {unit: list(freed) for unit, freed in self.pops.items()}
        return other

    def keep(self, found: list[set[int]]) -> None:
        """Numbers that are asked for again, by pipe of the group."""
        for last in self.passed.values():
            found[last.pipe].add(last.number)

    def renumber(self, live: list[list[int]]) -> None:
        """Count instructions anew: only those of `live` (by pipe of the group, sorted), as 1, 2, ...

        Clocks are compared with numbers of live instructions and of later ones alone, and joined by maximum; both give
        the same after a monotone change of numbers that keeps them on their side of every live number.
        """
        own = range(self.base, self.base + self.count)
        self.dispatched = [
            bisect_right(live[pipe], number) if pipe in own else 0 for pipe, number in enumerate(self.dispatched)
        ]
        self.sequencer = renumbered(self.sequencer, live)
        self.knows = [renumbered(known, live) for known in self.knows]
        self.extra = [list(renumbered(known, live)) for known in self.extra]
        for unit in self.weights:
            self._renumber_tiles(unit, live)
        self.flags = {
            flag: deque(replace(item, knows=renumbered(item.knows, live)) for item in pending)
            for flag, pending in self.flags.items() if pending
        }  # fmt: skip
        self.passed = {
            flag: replace(last, number=bisect_right(live[last.pipe], last.number)) for flag, last in self.passed.items()
        }

    def _renumber_tiles(self, unit: int, live: list[list[int]]) -> None:
        """Forget the pops that made room for tiles which are in the FIFO already, and count from there (no group)."""
        weights, matrix = self.weights[unit], self.matrix.get(unit, -1)
        freed, pushes = self.pops.get(unit, []), self.pushes.get(unit, 0)
        past = max(0, min(pushes - self.depth, len(freed)))
        if unit in self.pushed:
            self.pushed[unit] = deque(bisect_right(live[weights], number) for number in self.pushed[unit])
        if freed:
            self.pops[unit] = [bisect_right(live[matrix], number) for number in freed[past:]]
        if past:
            self.pushes[unit] = pushes - past
            for flag, pending in self.flags.items():
                self.flags[flag] = deque(
                    replace(item, pops_needed=max(0, item.pops_needed - past)) if item.pipe == weights else item
                    for item in pending
                )

    def key(self) -> tuple[Any, ...]:
        """Equal for states (renumbered) from which the same happens."""
        flags = tuple(
            (flag, tuple((item.pipe, item.knows, item.pops_needed) for item in pending))
            for flag, pending in sorted(self.flags.items()) if pending
        )  # fmt: skip
        tiles = tuple(
            (unit, tuple(self.pushed.get(unit, ())), self.pushes.get(unit, 0), tuple(self.pops.get(unit, ())))
            for unit in sorted(self.weights)
        )
        clocks = (tuple(self.dispatched), self.sequencer, *self.knows, *map(tuple, self.extra))
        passed = tuple((flag, last.pipe, last.number) for flag, last in sorted(self.passed.items()))
        return clocks, flags, tiles, passed, tuple(sorted((flag, *sorted(s)) for flag, s in self.setters.items()))


def later(a: Sequence[int], b: Sequence[int]) -> Clock:
    """What is known after two clocks have met."""
    return tuple([x if x > y else y for x, y in zip(a, b)])


def with_own(clock: Clock, pipe: int, number: int) -> Clock:
    """A clock in which `number` instructions of one pipe have completed."""
    return (*clock[:pipe], number, *clock[pipe + 1 :])


def renumbered(clock: Sequence[int], live: list[list[int]]) -> Clock:
    """A clock in which only the `live` instructions of each pipe count."""
    return tuple([bisect_right(numbers, known) if known else 0 for numbers, known in zip(live, clock)])
