"""The queues of a core without time: in which order flags let instructions execute (machines with `issue: queues`).

The sequencer puts instructions, waits, sets and pipe barriers into the queue of their pipe; a wait at the head of a
queue holds that pipe alone. Queues have no depth here: whatever order a real depth allows, this allows too. Cores that
signal each other take turns: where all of a core's queues are held, and a flag that another core raises would free one,
`in_order` yields None.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from isa.errors import DeadlockError
from isa.params import Params
from isa.table import BY_NAME
from npusim.functional.control import Step

SET, WAIT, SIGNAL = (BY_NAME[name].code for name in ("set", "wait", "signal"))


class StuckError(DeadlockError):
    """No queue can go on; `steps` are what holds each of them, `cycle` those that wait for each other."""

    def __init__(self, steps: list[Step], cycle: list[tuple[Step, Step]]) -> None:
        names = ", ".join(f"instruction {step.pc} for flag {step.imm}" for step in steps)
        super().__init__(f"no pipe can go on: waiting are {names}")
        self.steps, self.cycle = steps, cycle


class Queues:
    """One core's queues during one launch."""

    def __init__(self, params: Params) -> None:
        self._queues: list[deque[tuple[int, Step]]] = [deque() for _ in params.pipes]
        self._queued = bool(params["queues"])
        self._own_flags = params["flags"]
        self._flags: Counter[int] = Counter()
        self._seen = 0
        self._held: Step | None = None

    def signal(self, flag: int) -> None:
        """Another core has raised a flag of this one."""
        self._flags[flag] += 1

    def in_order(self, steps: Iterable[Step]) -> Iterator[Step | None]:
        """Yield all steps, also those that synchronise, each when its flags let it: in program order where they do.

        Yields None where only a signal can help. Raises StuckError when what is left waits for ever.
        """
        for step in steps:
            yield from self.put(step)
        yield from self.end()

    def put(self, step: Step) -> Iterator[Step | None]:
        """Yield what may go once `step` is handed out, as `in_order`."""
        self._seen += 1
        if step.pipe > 0 and self._queued:
            queue = self._queues[step.pipe]
            queue.append((self._seen, step))
            if len(queue) == 1:
                yield from self._run()
        else:
            yield from self._sequencer(step)

    def end(self) -> Iterator[Step | None]:
        """Yield what is left at the end of the kernel, as `in_order`."""
        while any(self._queues):
            yield from self._without(None)

    def released(self) -> Iterator[Step]:
        """Yield what a signal has let go."""
        yield from self._run()

    def held(self) -> list[list[Step]]:
        """By pipe, the instructions that its queue holds back."""
        return [[step for _, step in queue] for queue in self._queues]

    def steps(self, op: int) -> list[Step]:
        """The instructions of one operation that the queues hold back."""
        return [step for queue in self._queues for _, step in queue if step.op == op]

    def lost(self, blocks: int) -> str:
        """Signals that wait in the queues and that no block would get, in words; empty when there are none."""
        bad = [f"{s.pc} signals block {s.amount}" for s in self.steps(SIGNAL) if not 0 <= s.amount < blocks]
        return f"instruction {', '.join(bad)}, which does not exist; there are {blocks}" if bad else ""

    def copy(self) -> Queues:
        """Queues in the same state that go on apart from these."""
        other = Queues.__new__(Queues)
        other.__dict__.update(self.__dict__)
        other._queues, other._flags = [deque(queue) for queue in self._queues], Counter(self._flags)
        return other

    def key(self) -> tuple[Any, ...]:
        """Equal for states from which the same happens: what is held back in which order, and the flags."""
        order = {seen: i for i, seen in enumerate(sorted(seen for queue in self._queues for seen, _ in queue))}
        held = tuple(tuple((order[seen], step) for seen, step in queue) for queue in self._queues)
        return held, tuple(sorted((flag, count) for flag, count in self._flags.items() if count))

    def stuck(self) -> StuckError:
        """What holds the queues, when no signal comes any more."""
        return self._stuck(self._held)

    def _without(self, step: Step | None) -> Iterator[Step | None]:
        """Nothing can go on but by a signal, which the caller lets come; raises StuckError where none is waited for."""
        self._held = step
        heads = [queue[0][1] for queue in self._queues if queue] + ([step] if step is not None else [])
        if not any(head.op == WAIT and head.imm >= self._own_flags for head in heads):
            raise self._stuck(step)
        yield None
        yield from self._run()

    def _sequencer(self, step: Step) -> Iterator[Step | None]:
        if step.op == WAIT:
            while self._flags[step.imm] < step.amount:
                yield from self._without(step)
            self._flags[step.imm] -= step.amount
        elif step.op == SET:
            self._flags[step.imm] += 1
        elif step.op != SIGNAL:
            while any(self._queues):
                yield from self._without(step)
        yield step
        if step.op == SET:
            yield from self._run()

    def _passes(self, step: Step) -> bool:
        return step.op != WAIT or self._flags[step.imm] >= step.amount

    def _run(self) -> Iterator[Step]:
        """Let the oldest instruction go whose queue is not held, until all are."""
        while True:
            free = [q for q in self._queues if q and self._passes(q[0][1])]
            if not free:
                return
            _, step = min(free, key=lambda q: q[0][0]).popleft()
            if step.op == WAIT:
                self._flags[step.imm] -= step.amount
            elif step.op == SET:
                self._flags[step.imm] += 1
            yield step

    def _stuck(self, sequencer: Step | None) -> StuckError:
        """What holds each queue, and a ring of waits: each with the set that it waits for, behind the next wait."""
        held = [q[0][1] for q in self._queues if q] + ([sequencer] if sequencer is not None else [])
        setter = {s.imm: (s, q[0][1]) for q in self._queues for _, s in reversed(q) if s.op == SET}
        for first in held:
            ring: list[tuple[Step, Step]] = []
            step = first
            while step.op == WAIT and step.imm in setter:
                made_by, step_before = setter[step.imm]
                ring.append((step, made_by))
                step = step_before
                if step is first:
                    return StuckError(held, ring)
                if len(ring) > len(held):
                    break
        return StuckError(held, [])
