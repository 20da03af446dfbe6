"""Happens-before on one core: what is known to have completed when an instruction starts.

Knowledge is a vector clock with one component a pipe: how many of its instructions have completed, counted from the
launch's start. Completion is only ever learnt as a prefix (set, fence, barrier, the next instruction of a serial
pipe), so one number a pipe is exact. The depth of a queue is not relied on: the proof holds for any depth. Cores that
signal each other are a group; pipes are then numbered through the group, and a signal carries what its sender knows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from isa.params import Params
from isa.table import DMA, MATRIX, SCALAR, WEIGHTS


@dataclass(frozen=True)
class FlagSet:
    """One increment of a flag: its instruction, its pipe, what it proves, and the tile pops that it depends on."""

    pc: int
    pipe: int
    knows: list[int]
    pops_needed: int


class CoreOrder:
    """Vector clocks of one core, the `place`-th of a group of `group` cores, during one launch."""

    def __init__(self, params: Params, place: int = 0, group: int = 1) -> None:
        self.count = len(params.pipes)
        self.base, total = place * self.count, group * self.count  # the core's pipes are numbered from base on
        self.serial = [p.pipe_class < DMA for p in params.pipes]
        self.scalar = self.base + next(p.index for p in params.pipes if p.pipe_class == SCALAR)
        self.dispatched = [0] * total
        self.sequencer = [0] * total
        self.queued = bool(params["queues"])
        self._knows = [[0] * total for _ in range(self.count)]  # with queues: what each pipe learnt from its waits
        self._extra = [[0] * total for _ in range(self.count)]  # what a pipe learnt through the weight FIFO
        self.flags: dict[int, deque[FlagSet]] = {}
        self.depth = params["fifo_tiles"]
        self.queue = params.machine.core.matrix.queue_depth
        self.pushed: dict[int, deque[int]] = {}  # by unit: numbers of the ldw instructions whose tiles wait
        self.pushes: dict[int, int] = {}
        self.pops: dict[int, list[int]] = {}  # by unit: mm instructions completed before each pop
        self.weights = {p.unit: self.base + p.index for p in params.pipes if p.pipe_class == WEIGHTS}
        self.matrix = {p.unit: self.base + p.index for p in params.pipes if p.pipe_class == MATRIX}
        self.unit_of = {index: unit for unit, index in self.weights.items()}

    def known(self, pipe: int, other: int) -> int:
        """How many instructions of `other` have completed for certain when the next one of `pipe` starts."""
        if other == pipe and self.serial[pipe - self.base]:
            return self.dispatched[pipe]
        learnt = self._knows[pipe - self.base] if self.queued else self.sequencer
        return max(learnt[other], self._extra[pipe - self.base][other])

    def is_serial(self, pipe: int) -> bool:
        """Whether a pipe of this core completes its instructions in their order."""
        return 0 <= pipe - self.base < self.count and self.serial[pipe - self.base]

    def known_to_all(self, other: int) -> int:
        """How many instructions of `other` have completed for certain when any later instruction starts."""
        if not self.queued:
            return self.sequencer[other]
        own = other if self.is_serial(other) else -1
        pipes = enumerate(self._knows, self.base)
        return min(known[other] for pipe, known in pipes if pipe not in (own, self.scalar))

    def hear(self, pipe: int, sequencer: list[int]) -> None:
        """With queues: what the sequencer knew when it put the next instruction into the queue of `pipe`."""
        at = pipe - self.base
        self._knows[at] = [max(a, b) for a, b in zip(self._knows[at], sequencer)]

    def pipe_barrier(self, pipe: int) -> None:
        """All earlier instructions of a pipe have completed when its next one starts."""
        self._knows[pipe - self.base][pipe] = self.dispatched[pipe]

    def dispatch(self, pipe: int) -> int:
        """Count an instruction of `pipe`; return its number (from 1)."""
        self.dispatched[pipe] += 1
        return self.dispatched[pipe]

    def push(self, unit: int) -> bool:
        """An ldw about to be dispatched; False when FIFO and queue are full and no mm before it makes room."""
        pipe, waiting = self.weights[unit], self.pushed.setdefault(unit, deque())
        if len(waiting) >= self.depth + self.queue + 1:
            return False
        waiting.append(self.dispatched[pipe] + 1)
        number = self.pushes[unit] = self.pushes.get(unit, 0) + 1
        freed = self.pops.get(unit, [])
        if self.depth < number <= self.depth + len(freed):
            matrix, extra = self.matrix[unit], self._extra[pipe - self.base]
            extra[matrix] = max(extra[matrix], freed[number - self.depth - 1])
        return True

    def pop(self, unit: int) -> bool:
        """An mm about to be dispatched that takes the next tile; False when no earlier ldw pushed one."""
        waiting = self.pushed.get(unit)
        if not waiting:
            return False
        matrix, weights = self.matrix[unit], self.weights[unit]
        to, source = matrix - self.base, weights - self.base
        self._extra[to] = [max(a, b) for a, b in zip(self._extra[to], self._extra[source])]
        self._extra[to][weights] = max(self._extra[to][weights], waiting.popleft())
        self.pops.setdefault(unit, []).append(self.dispatched[matrix])
        return True

    def proof(self, pc: int, pipe: int) -> FlagSet:
        """What a set or a signal on `pipe` proves: all its earlier instructions have completed."""
        learnt = self._knows[pipe - self.base] if self.queued and pipe != self.scalar else self.sequencer
        knows = [max(a, b) for a, b in zip(learnt, self._extra[pipe - self.base])]
        knows[pipe] = self.dispatched[pipe]
        unit = self.unit_of.get(pipe)
        needed = self.pushes.get(unit, 0) - self.depth if unit is not None else 0
        return FlagSet(pc, pipe, knows, needed)

    def set_flag(self, item: FlagSet, flag: int) -> None:
        """A flag of this core is raised, by itself or by another core of its group."""
        pending = self.flags.setdefault(flag, deque())
        if item.pipe == self.scalar:  # the sequencer sets at once, so before whatever is still queued
            pending.appendleft(item)
        else:
            pending.append(item)

    def ambiguous(self, flag: int, count: int) -> bool:
        """True when a wait takes some of the sets that several pipes race to make."""
        pending = self.flags.get(flag, ())
        queued = [item.pipe for item in pending if item.pipe != self.scalar]
        return len(pending) > count > len(pending) - len(queued) and len(set(queued)) > 1

    def wait(self, pipe: int, flag: int, count: int) -> list[FlagSet] | None:
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
                self.sequencer = [max(a, b) for a, b in zip(self.sequencer, item.knows)]
        return taken

    def blocked(self, item: FlagSet) -> bool:
        """True when a set waits behind an ldw whose room only a later mm would make."""
        unit = self.unit_of.get(item.pipe)
        return unit is not None and item.pops_needed > len(self.pops.get(unit, []))

    def drain(self) -> None:
        """A fence: everything dispatched has completed."""
        self.sequencer = [max(a, b) for a, b in zip(self.sequencer, self.dispatched)]
