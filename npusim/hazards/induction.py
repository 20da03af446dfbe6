"""Prove launches by induction on the state of their synchronisation, without walking what has been proved before.

A core's instructions are cut where its program jumps back, so that the iterations of loops are pieces. What a piece can
do wrong depends on the piece, on-chip addresses included, and on the state that it starts from: who knows what of
whom, flags, what queues hold back, accesses that may be in flight, and on-chip bytes that have values. A state is kept
up to what nothing depends on (see `CoreOrder.renumber`), so states recur with the slots of a loop; a pair of state and
piece is proved once and leads to the next state wherever it comes again: in later iterations, on other cores, in other
launches. Addresses in DRAM and host memory are left out of it, as they differ everywhere: they are collected, and no
two accesses to the same bytes between two barriers may include a write. That holds whatever the order.

Whoever finds a doubt gives up; the launch is then walked instruction by instruction.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from isa.errors import SimulationError
from isa.machine import CHIP_SPACES
from isa.params import Params
from isa.program import SPACES, Program
from npusim.functional.control import Step
from npusim.hazards.core import BARRIER, CoreRun
from npusim.hazards.memory import Access, Written
from npusim.hazards.order import renumbered
from npusim.hazards.regions import Shape, Shapes, apart, covers, union

Array = npt.NDArray[Any]
OUTSIDE = frozenset(SPACES.index(name) for name in CHIP_SPACES)
TRACKED = 1 << 50  # addresses from here on stand for memory that a group of cores shares
LENGTH = 32  # instructions of a piece, at least, unless it ends where its loop ends
TRIES = 256  # pieces of a kernel that may be new before fewer of them than were known make it not worth the while

Traffic = dict[int, list[tuple[int, ...]]]  # by instruction: each time its turn and the bases of its operands
Placed = dict[tuple[int, bool], list[tuple[Shape, Array]]]  # by space and write: byte sets and their bases


Core = TypeVar("Core", bound="ProvedCore")


class NotProvedError(Exception):
    """Something is wrong, or cannot be proved in this way."""


class ProvedCore(CoreRun):
    """A state of a core: it may go on only while nothing is wrong.

    Memory outside of the core is not its business, nor are bounds and values of the spaces in `followed`.
    """

    def __init__(self, program: Program, kernel: int, params: Params, shapes: Shapes, users: frozenset[int],
                 sizes: Sequence[int], followed: frozenset[int], place: int = 0, group: int = 1) -> None:  # fmt: skip
        super().__init__(program, kernel, params, shapes, users, place, group)
        self.sizes, self.followed = sizes, followed
        self.written: frozenset[tuple[int, Shape, int]] = frozenset()
        self.read: frozenset[tuple[int, Shape, int]] = frozenset()  # and found to have values

    def report(self, kind: str, instrs: tuple[int, ...], message: str) -> None:
        """A fault ends the proof."""
        raise NotProvedError(message)

    def signal(self, step: Step) -> None:
        """What other cores do is not followed."""
        raise NotProvedError("signals another core")

    def name(self, pipe: int) -> str:
        """A pipe of the group in words, which nobody reads."""
        return super().name(pipe % self.order.count)

    def follow(self, steps: Sequence[Step], piece: Sequence[int]) -> None:
        """The sequencer hands out a piece."""
        for number in piece:
            step = steps[number]
            for ready in self.hand(step) if self.order.queued else (step,):
                if ready is None or not self.execute(ready):
                    raise NotProvedError("the core stops")

    def end(self) -> None:
        """The end of the kernel; raises NotProvedError when flags, tiles or instructions are left over."""
        if any(self.queues.held()):
            raise NotProvedError("instructions are held back")
        self.finish()

    def touch(self, access: Access, letter: str) -> bool:
        """Bounds and values of on-chip memory."""
        space, shape, base = access.space, access.shape, access.base
        if space in OUTSIDE:
            return False
        place = (space, shape, base)
        if space in self.followed or place in self.written:
            return True
        if base + shape.low < 0 or base + shape.high > self.sizes[space]:
            raise NotProvedError("out of bounds")
        if access.write:
            self.written |= {place}
        elif place not in self.read:
            self._need_values(space, shape, base)
            self.read |= {place}
        return True

    def _need_values(self, space: int, shape: Shape, base: int) -> None:
        """Every byte that is read was written before."""
        parts = [(s, b) for where, s, b in self.written if where == space and s.exact]
        if not covers(union(parts), (shape.starts + base, shape.ends + base)):
            raise NotProvedError("reads what nothing has written")

    def copy(self: Core) -> Core:
        """The same state, to go on apart from this one."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.order, other.queues, other.live = self.order.copy(), self.queues.copy(), self.live.copy()
        other.heard = [heard.copy() for heard in self.heard]
        other.waiters = dict(self.waiters)
        other.pairs = {pipes: set(flags) for pipes, flags in self.pairs.items()}
        return other

    def settle(self) -> tuple[Any, ...]:
        """Forget what nothing depends on; states with equal results do the same from here on."""
        found: list[set[int]] = [set() for _ in self.order.dispatched]
        self.live.keep(self.order.known_to_all, found)
        self.order.keep(found)
        live = [sorted(numbers) for numbers in found]
        self.live.renumber(live)
        return self.settled(live)

    def settled(self, live: list[list[int]]) -> tuple[Any, ...]:
        """The state when only instructions of `live` count (by pipe of the group, sorted)."""
        self.order.renumber(live)
        self.heard = [deque(renumbered(clock, live) for clock in clocks) for clocks in self.heard]
        heard = tuple(map(tuple, self.heard))
        waiters = frozenset((flag, step.pipe) for flag, step in self.waiters.items())
        pairs = frozenset((pipes, frozenset(flags)) for pipes, flags in self.pairs.items())
        return (
            self.order.key(), self.live.key(), self.queues.key(), heard, waiters, pairs, self.written, self.read,
        )  # fmt: skip


State = Any  # a core, or a group of cores: copy, settle, follow, end, and what the first one is asked for


class Automaton:
    """The states of one kernel and the pieces of program that lead from one to another."""

    def __init__(self, first: State) -> None:
        self.states: list[State] = [first]
        self.followed, self.shapes = first.followed, first.shapes
        self.unordered = frozenset(range(len(SPACES))) if first.interlocked else OUTSIDE
        self.steps: list[Step] = []  # each instruction with those of its operands that its order depends on, once
        self.traced: list[tuple[tuple[int, Access], ...]] = []  # of each: operand, access whose base is to be kept
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._after: dict[tuple[int, tuple[int, ...]], int] = {}
        self._known: dict[tuple[Any, ...], int] = {first.settle(): 0}
        self._ends: set[int] = set()  # states in which the kernel may end
        self.recurred = 0

    def number(self, step: Step) -> int:
        """The number of an instruction: equal for those that differ in addresses without influence on order alone."""
        free = self.unordered
        operands = tuple(
            [o and ((o.ext, o.windows) if o.space in free and o.base < TRACKED else (o.base, o.ext, o.windows))
             for o in step.operands]
        )  # fmt: skip
        key = (step.pc, step.imm, step.amount, step.accumulate, operands)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.steps)
            self.steps.append(step)
            empty = any(o is not None and 0 in o.ext for o in step.operands)
            self.traced.append(() if empty else tuple(self._traced(step)))
        return found

    def _traced(self, step: Step) -> Iterator[tuple[int, Access]]:
        """Accesses outside of the core or to followed spaces: sources, then the result."""
        for i in (1, 2, 3, 0):
            operand = step.operands[i]
            if operand is None or (operand.space not in OUTSIDE and operand.space not in self.followed):
                continue
            shape = self.shapes.of(operand)
            reads, writes = i > 0 or step.accumulate, i == 0
            for write in [False] * reads + [True] * writes if shape.pieces else []:
                yield i, Access(operand.space, shape, operand.base, write, step.pc, step.pipe, 0)

    def worthwhile(self) -> bool:
        """Whether states recur often enough to be looked for."""
        return len(self._after) < TRIES or len(self._after) < self.recurred

    def known(self, state: int, piece: tuple[int, ...]) -> int | None:
        """The state after a piece that has been proved before."""
        found = self._after.get((state, piece))
        self.recurred += found is not None
        return found

    def enter(self, state: int, piece: tuple[int, ...], core: State) -> int:
        """Keep what a piece led to; return its number."""
        key = core.settle()
        if key not in self._known:
            self._known[key] = len(self.states)
            self.states.append(core)
        self._after[state, piece] = self._known[key]
        return self._known[key]

    def may_end(self, state: int) -> None:
        """The kernel ends in a state; raises NotProvedError when flags, tiles or instructions are left over."""
        if state not in self._ends:
            self.states[state].end()
            self._ends.add(state)


class Course:
    """The way of a core, or of a group, through the states of its kernel."""

    def __init__(self, automaton: Automaton) -> None:
        self.automaton, self.state = automaton, 0
        self.own: State | None = None  # once states are not looked for

    def now(self) -> State:
        """The state that has been reached; not to be changed."""
        return self.automaton.states[self.state] if self.own is None else self.own

    def go(self, piece: tuple[int, ...]) -> None:
        """Prove a piece, unless that has been done."""
        automaton = self.automaton
        if self.own is None:
            after = automaton.known(self.state, piece)
            if after is not None:
                self.state = after
                return
            core = automaton.states[self.state].copy()
            if automaton.worthwhile():
                core.follow(automaton.steps, piece)
                self.state = automaton.enter(self.state, piece, core)
                return
            self.own = core
        self.own.follow(automaton.steps, piece)

    def end(self) -> None:
        """The kernel ends."""
        if self.own is None:
            self.automaton.may_end(self.state)
        else:
            self.own.end()


def cut(numbered: Iterator[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Pieces of instructions, given by address and number: they end where the program jumps back."""
    piece: list[int] = []
    first = last = 0
    for pc, number in numbered:
        if pc <= last and (pc < first or len(piece) >= LENGTH):
            yield tuple(piece)
            piece.clear()
        if not piece:
            first = pc
        last = pc
        piece.append(number)
    yield tuple(piece)


def _follow(automaton: Automaton, steps: Iterator[Step]) -> list[Traffic]:
    """Prove the order of one core; return its traffic between barriers."""
    course, phases = Course(automaton), [defaultdict[int, list[tuple[int, ...]]](list)]
    numbers: dict[int, tuple[Step, int]] = {}  # by instruction: what it was last time

    def numbered() -> Iterator[tuple[int, int]]:
        for turn, step in enumerate(steps):
            pc = step.pc
            before = numbers.get(pc)
            if before is not None and before[0] is step:
                number = before[1]
            else:
                number = automaton.number(step)
                numbers[pc] = (step, number)
            yield pc, number
            if automaton.traced[number]:
                phases[-1][number].append((turn, *[o.base if o is not None else 0 for o in step.operands]))
            if step.op == BARRIER:
                phases.append(defaultdict(list))

    for piece in cut(numbered()):
        course.go(piece)
    course.end()
    return list(phases)


class Prover:
    """Proves launches of one program; what is proved of a kernel serves all its launches."""

    def __init__(self, program: Program, params: Params, shapes: Shapes, written: Written) -> None:
        self.program, self.params, self.shapes, self.written = program, params, shapes, written
        self.interlocked = params.machine.issue == "inorder"
        # On-chip memory that keeps values between launches, or that hardware orders, is followed address by address.
        home = {SPACES.index(params.machine.activation_space)}
        self.followed = frozenset(range(len(SPACES)) if self.interlocked else home) - OUTSIDE
        self.able = not self.followed or not params["queues"]  # they are followed in program order
        self.proved = 0  # launches
        self._automata: dict[int, Automaton] = {}

    def sizes(self, kernel: int) -> list[int]:
        """Bytes of each space that a kernel may touch."""
        declared = self.program.declared_bytes(self.program.kernels[kernel])
        return [min(self.written.size(i), declared.get(space, 1 << 62)) for i, space in enumerate(SPACES)]

    def launch(self, kernel: int, users: frozenset[int], cores: Sequence[Iterator[Step]]) -> bool:
        """Whether a launch, given as the instructions of its cores, is proved to be right.

        Bytes are marked as written once the order of all cores is proved, phase by phase. Whoever walks the launch
        after a doubt about memory makes the same marks, and each before it could matter.
        """
        if not self.able:
            return False
        try:
            self._launch(kernel, users, cores)
        except (NotProvedError, SimulationError, OverflowError):
            return False
        self.proved += 1
        return True

    def _launch(self, kernel: int, users: frozenset[int], cores: Sequence[Iterator[Step]]) -> None:
        if kernel not in self._automata:
            sizes = self.sizes(kernel)
            first = ProvedCore(self.program, kernel, self.params, self.shapes, users, sizes, self.followed)
            self._automata[kernel] = Automaton(first)
        automaton = self._automata[kernel]
        traffic = [_follow(automaton, steps) for steps in cores]
        if len({len(found) for found in traffic}) > 1:
            raise NotProvedError("a core waits at a barrier that another never reaches")
        for phase in zip(*traffic):
            for core, found in enumerate(phase):
                self._followed(automaton, core, found)
            self._between_barriers(automaton, phase)

    def _followed(self, automaton: Automaton, core: int, traffic: Traffic) -> None:
        """Bounds and values of the followed spaces: only the first access to a byte set tells anything new."""
        first: list[tuple[int, bool, Access]] = []
        for number, turns in traffic.items():
            table = None
            for i, access in automaton.traced[number]:
                if access.space in self.followed:
                    table = np.array(turns, np.int64) if table is None else table
                    bases, at = np.unique(table[:, 1 + i], return_index=True)
                    when = table[at, 0].tolist()
                    first += [(t, access.write, access._replace(base=b)) for t, b in zip(when, bases.tolist())]
        for _, write, access in sorted(first, key=lambda item: item[:2]):
            self._need_bounds(automaton, access.space, access.shape, access.base, access.base)
            if write:
                self.written.mark(core, access)
            elif not self.written.covers(core, access):
                raise NotProvedError("reads what nothing has written")

    def _between_barriers(self, automaton: Automaton, cores: Sequence[Traffic]) -> None:
        """Accesses of all cores outside of them: in bounds, defined, and none in conflict with another."""
        placed = _placed(automaton, cores)
        for (space, write), parts in placed.items():
            for shape, bases in parts:
                self._need_bounds(automaton, space, shape, int(bases.min()), int(bases.max()))
            if not write:
                self._need_values(space, parts)
        for space in OUTSIDE if len(cores) > 1 or not self.interlocked else ():
            if not apart(placed.get((space, True), []), placed.get((space, False), [])):
                raise NotProvedError("two accesses meet")
        for (space, write), parts in placed.items():
            if write:
                self._mark(space, parts)

    def _need_bounds(self, automaton: Automaton, space: int, shape: Shape, first: int, last: int) -> None:
        if first + shape.low < 0 or last + shape.high > automaton.states[0].sizes[space]:
            raise NotProvedError("out of bounds")

    def _need_values(self, space: int, parts: list[tuple[Shape, Array]]) -> None:
        """What is read had values when the last barrier was passed."""
        for shape, bases in grouped(parts):
            missing = ~self.written.given(space, bases + shape.low, bases + shape.high)
            for base in bases[missing].tolist():
                if not self.written.covers(0, Access(space, shape, base, False, 0, 0, 0)):
                    raise NotProvedError("reads what nothing has written")

    def _mark(self, space: int, parts: list[tuple[Shape, Array]]) -> None:
        for shape, bases in grouped(parts):
            for base in bases.tolist():
                self.written.mark(0, Access(space, shape, base, True, 0, 0, 0))


def _placed(automaton: Automaton, cores: Sequence[Traffic]) -> Placed:
    """Where the accesses outside of the cores are."""
    placed: Placed = defaultdict(list)
    for traffic in cores:
        for number, turns in traffic.items():
            outside = [(i, access) for i, access in automaton.traced[number] if access.space in OUTSIDE]
            table = np.array(turns if outside else [], np.int64)
            for i, access in outside:
                placed[access.space, access.write].append((access.shape, table[:, 1 + i]))
    return placed


def grouped(parts: list[tuple[Shape, Array]]) -> Iterator[tuple[Shape, Array]]:
    """Each byte set with all its different bases."""
    bases: dict[Shape, list[Array]] = defaultdict(list)
    for shape, found in parts:
        bases[shape].append(found)
    for shape, arrays in bases.items():
        yield shape, np.unique(np.concatenate(arrays))
