"""Prove launches whose blocks signal each other: induction on the joint state of each group of blocks.

As `induction`, with the states of a group's cores in place of one core's. Who goes on with its next piece is chosen as
the state stands: a core whose queues hold nothing back, so that the others' signals come before more is held. What the
blocks of a group hand to each other through memory is tracked as on-chip memory is: addresses that are both written and
read in the launch are part of a piece, counted from where the group's own part of them begins, so that all groups have
the same pieces. What is not tracked meets nothing, and tracked bytes of different groups are apart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import SimulationError
from isa.params import Params
from isa.program import Program
from npusim.functional.control import Step
from npusim.hazards.core import BARRIER, SET, SIGNAL
from npusim.hazards.induction import OUTSIDE, TRACKED, Automaton, Course, NotProvedError, ProvedCore, Prover, cut
from npusim.hazards.memory import Access, Clash, LiveAccesses, Owned, groups_apart, owned
from npusim.hazards.order import CoreOrder, FlagSet
from npusim.hazards.regions import Shape, Shapes, apart, common, covers, merge, union

Array = npt.NDArray[Any]
Runs = tuple[Array, Array]
Block = Callable[[], Iterator[Step]]  # the instructions of a block, from the first on each time
Touch = tuple[int, bool, Shape, int]  # space, write, byte set and its base
KEPT = 1 << 18  # instructions of a launch that are kept for their second use; others are executed again
FAR = 1 << 44  # between tracked parts of a group that do not touch
NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))


class _Member(ProvedCore):
    """A core of a group."""

    team: ProvedGroup

    def signal(self, step: Step) -> None:
        """A flag of another core of the group is raised; `amount` is its place."""
        other = self.team.cores[step.amount]
        other.raised(self.order.proof(step.pc, step.pipe), step.imm)
        other.queues.signal(step.imm)

    def _sync(self, step: Step) -> bool:
        if step.op in (SET, SIGNAL):
            target = self.team.cores[step.amount] if step.op == SIGNAL else self
            self.team.pairing.raised(target.order.base, step.imm, self.order.proof(step.pc, step.pipe), step.op == SET)
        return super()._sync(step)

    def _count_pairs(self, step: Step, taken: list[FlagSet]) -> None:
        super()._count_pairs(step, taken)
        own, pipe = step.imm < self.params["flags"], step.pipe + self.order.base
        number = self.order.dispatched[pipe] + 1 if step.pipe > 0 else 0
        self.team.pairing.waited(self.order.base, step.imm, taken, own, (pipe, number))

    def touch(self, access: Access, letter: str) -> bool:
        """Tracked memory is the group's."""
        if access.space not in OUTSIDE:
            return super().touch(access, letter)
        return access.base >= TRACKED and self.team.touch(access)

    def record(self, access: Access) -> Clash | None:
        """Accesses to tracked memory are compared with those of the whole group."""
        if access.space not in OUTSIDE:
            return self.live.add(access, self.order)
        return self.team.live.add(access, self.order, self.team.orders)


class _Pairing:
    """Which set or signal a wait takes must not depend on how far each core has run ahead of the others.

    So a flag of a core's own is set again only by whom it was set before, who knows that the wait has passed: that an
    instruction behind it has completed. Of a flag that several cores signal, a wait takes one signal of each, and each
    signals again under the same condition.
    """

    def __init__(self) -> None:
        self.setters: dict[tuple[int, int], frozenset[int]] = {}  # by core and flag: pipes of the group
        self.closed: frozenset[tuple[int, int]] = frozenset()  # flags that have been waited for
        self.passed: dict[tuple[int, int, int], tuple[int, int]] = {}  # and by setter: pipe and number behind the wait

    def raised(self, core: int, flag: int, item: FlagSet, own: bool) -> None:
        """A flag is raised; raises NotProvedError where that may come too early."""
        setters = self.setters.get((core, flag), frozenset())
        if item.pipe not in setters:
            if (core, flag) in self.closed or (own and setters):
                raise NotProvedError("a flag of several pipes")
            self.setters[core, flag] = setters | {item.pipe}
            return
        pipe, number = self.passed.get((core, flag, item.pipe), (0, -1))
        if number == 0 or (number > 0 and item.knows[pipe] < number):
            raise NotProvedError("a flag may be raised before its last wait has passed")

    def waited(self, core: int, flag: int, taken: list[FlagSet], own: bool, behind: tuple[int, int]) -> None:
        """A wait has passed; `behind` it stands an instruction, of number 0 where there is none that could be known."""
        setters = self.setters[core, flag]
        self.closed |= {(core, flag)}
        if len(setters) > 1 and sorted(item.pipe for item in taken) != sorted(setters):
            raise NotProvedError("a wait takes some of the signals of several cores")
        if own or len(setters) > 1:
            for item in taken:
                self.passed[core, flag, item.pipe] = behind

    def copy(self) -> _Pairing:
        """The same, to go on apart from this one."""
        other = _Pairing()
        other.setters, other.closed, other.passed = dict(self.setters), self.closed, dict(self.passed)
        return other

    def keep(self, found: list[set[int]]) -> None:
        """Numbers that are asked for again."""
        for pipe, number in self.passed.values():
            found[pipe] |= {number} - {0}

    def renumber(self, live: list[list[int]]) -> None:
        """Count instructions as `LiveAccesses.renumber` does."""
        for key, (pipe, number) in self.passed.items():
            self.passed[key] = pipe, bisect_right(live[pipe], number)

    def key(self) -> tuple[Any, ...]:
        """Equal for the same pairing."""
        return frozenset(self.setters.items()), self.closed, frozenset(self.passed.items())


class ProvedGroup:
    """A state of a group of cores: they may go on only while nothing is wrong."""

    def __init__(self, program: Program, kernel: int, params: Params, shapes: Shapes, users: frozenset[int],
                 sizes: Sequence[int], count: int) -> None:  # fmt: skip
        self.cores: list[_Member] = [
            _Member(program, kernel, params, shapes, users, sizes, frozenset(), place, count) for place in range(count)
        ]
        self.live, self.shapes, self.sizes = LiveAccesses(shapes), shapes, sizes
        self.followed: frozenset[int] = frozenset()
        self.interlocked = False
        self.written: frozenset[tuple[int, Shape, int]] = frozenset()  # of what is tracked
        self.pairing = _Pairing()
        self._join()

    def _join(self) -> None:
        for core in self.cores:
            core.team = self
        self.orders: list[CoreOrder] = [core.order for core in self.cores]

    def touch(self, access: Access) -> bool:
        """What is read of tracked memory was written by the group before."""
        place = (access.space, access.shape, access.base)
        if access.write:
            if place not in self.written:
                self.written |= {place}
        elif place not in self.written:
            parts = [(s, b) for space, s, b in self.written if space == access.space and s.exact]
            if not covers(union(parts), (access.shape.starts + access.base, access.shape.ends + access.base)):
                raise NotProvedError("reads what the group has not written")
        return True

    def follow(self, steps: Sequence[Step], piece: Sequence[int]) -> None:
        """The core of place piece[0] goes on with a piece, and all with what its signals set free."""
        core = self.cores[piece[0]]
        for number in piece[1:]:
            for ready in core.hand(steps[number]):
                if ready is None:
                    if not self._release():
                        raise NotProvedError("the sequencer waits for another core")
                elif not core.execute(ready):
                    raise NotProvedError("the core stops")
        self._release()

    def _release(self) -> bool:
        """Execute what is not held back any more; True when there was anything."""
        moved, again = False, True
        while again:
            again = False
            for core in self.cores:
                for ready in core.queues.released():
                    again = moved = True
                    if not core.execute(ready):
                        raise NotProvedError("the core stops")
        return moved

    def end(self) -> None:
        """The end of the kernel on all cores; raises NotProvedError when anything is left over."""
        for core in self.cores:
            core.end()

    def held(self) -> tuple[bool, ...]:
        """Which cores' queues hold something back."""
        return tuple(any(core.queues.held()) for core in self.cores)

    def copy(self) -> ProvedGroup:
        """The same state, to go on apart from this one."""
        other = ProvedGroup.__new__(ProvedGroup)
        other.__dict__.update(self.__dict__)
        other.cores, other.live = [core.copy() for core in self.cores], self.live.copy()
        other.pairing = self.pairing.copy()
        other._join()
        return other

    def settle(self) -> tuple[Any, ...]:
        """Forget what nothing depends on; states with equal results do the same from here on."""
        found: list[set[int]] = [set() for _ in self.orders[0].dispatched]
        for core in self.cores:
            core.live.keep(core.order.known_to_all, found)
            core.order.keep(found)
        self.live.keep(lambda pipe: min([order.known_to_all(pipe) for order in self.orders]), found)
        self.pairing.keep(found)
        numbers = [sorted(kept) for kept in found]
        self.pairing.renumber(numbers)
        for live in (self.live, *(core.live for core in self.cores)):
            live.renumber(numbers)
        return (*(core.settled(numbers) for core in self.cores), self.live.key(), self.written, self.pairing.key())


class Launch:
    """A launch as its blocks' instructions: who signals whom, and what it does to shared memory."""

    def __init__(self, shapes: Shapes, blocks: Sequence[Block]) -> None:
        self.shapes = shapes
        self.blocks: list[Block] = []
        count = 0
        self.touched: list[set[Touch]] = [set() for _ in blocks]
        self.written: Counter[Touch] = Counter()  # how often
        self._tracked: dict[Touch, bool] = {}
        leader = list(range(len(blocks)))
        for block, again in enumerate(blocks):
            kept: list[Step] = []
            before = count
            for step in again():
                count += 1
                if count <= KEPT:
                    kept.append(step)
                if step.op == BARRIER:
                    raise NotProvedError("barriers and signals in one kernel")
                if step.op == SIGNAL:
                    if not 0 <= step.amount < len(blocks):
                        raise NotProvedError("signals a block that does not exist")
                    _unite(leader, step.amount, block)
                self._note(step, self.touched[block])
            self.blocks.append(kept.__iter__ if len(kept) == count - before else again)
        members: dict[int, list[int]] = defaultdict(list)
        for block in range(len(blocks)):
            members[_find(leader, block)].append(block)
        self.groups = list(members.values())
        self.met = {space: self._met(space) for space in OUTSIDE}

    def _note(self, step: Step, touched: set[Touch]) -> None:
        if any(o is not None and 0 in o.ext for o in step.operands):
            return
        for i, operand in enumerate(step.operands):
            if operand is not None and operand.space in OUTSIDE:
                shape = self.shapes.of(operand)
                if not shape.pieces:
                    continue
                touched.add((operand.space, i == 0, shape, operand.base))
                if i == 0:
                    self.written[operand.space, True, shape, operand.base] += 1
                    if step.accumulate:
                        touched.add((operand.space, False, shape, operand.base))

    def boxes(self, space: int, write: bool, blocks: Sequence[int]) -> Runs:
        """Enclosing ranges of what some blocks write or read."""
        touches = set().union(*(self.touched[i] for i in blocks))
        found = {(b + s.low, b + s.high) for sp, w, s, b in touches if (sp, w) == (space, write)}
        return _merged(found)

    def _met(self, space: int) -> Runs:
        """Bytes in boxes of writes as well as of reads."""
        everyone = range(len(self.blocks))
        return both(self.boxes(space, True, everyone), self.boxes(space, False, everyone))

    def tracked(self, touch: Touch) -> bool:
        """Whether an access is tracked."""
        found = self._tracked.get(touch)
        if found is None:
            space, _, shape, base = touch
            box = (np.array([base + shape.low]), np.array([base + shape.high]))
            found = self._tracked[touch] = common(self.met[space], box) is not None
        return found

    def twice(self) -> bool:
        """Whether something untracked is written more than once, so that order would matter."""
        return any(count > 1 and not self.tracked(touch) for touch, count in self.written.items())


class GroupProver:
    """Proves launches with signals of one program, beside those without."""

    def __init__(self, prover: Prover) -> None:
        self.prover, self.proved = prover, 0  # launches
        order = CoreOrder(prover.params, frozenset())
        self.able = order.queued and not prover.followed and not order.weights  # tiles of a FIFO have no group
        self._automata: dict[tuple[int, int], Automaton] = {}

    def launch(self, kernel: int, users: frozenset[int], blocks: Sequence[Block]) -> bool:
        """Whether a launch is proved to be right; as `Prover.launch`."""
        if not self.able:
            return False
        try:
            self._launch(kernel, users, Launch(self.prover.shapes, blocks))
        except (NotProvedError, SimulationError, OverflowError):
            return False
        self.proved += 1
        return True

    def _launch(self, kernel: int, users: frozenset[int], launch: Launch) -> None:
        prover, sizes = self.prover, self.prover.sizes(kernel)
        for blocks in launch.groups:
            key = (kernel, len(blocks))
            if key not in self._automata:
                first = ProvedGroup(prover.program, kernel, prover.params, prover.shapes, users, sizes, len(blocks))
                self._automata[key] = Automaton(first)
            prove_group(self._automata[key], launch, blocks)
        if not memory_apart(launch):
            raise NotProvedError("two accesses meet")
        touched = set().union(*launch.touched)
        for space, write, shape, base in touched:
            if base + shape.low < 0 or base + shape.high > sizes[space]:
                raise NotProvedError("out of bounds")
            before = Access(space, shape, base, False, 0, 0, 0)
            if not write and not launch.tracked((space, write, shape, base)) and not prover.written.covers(0, before):
                raise NotProvedError("reads what nothing has written")
        for space, write, shape, base in touched:
            if write:
                prover.written.mark(0, Access(space, shape, base, True, 0, 0, 0))


def _find(leader: list[int], block: int) -> int:
    while leader[block] != block:
        block = leader[block]
    return block


def _unite(leader: list[int], a: int, b: int) -> None:
    leader[_find(leader, a)] = _find(leader, b)


def _merged(ranges: set[tuple[int, int]]) -> Runs:
    """Sorted runs of some ranges; those that touch are one."""
    if not ranges:
        return NOTHING
    ends = np.array(list(ranges), np.int64)
    return merge([(ends[:, 0], ends[:, 1])])


def both(a: Runs, b: Runs) -> Runs:
    """Bytes that lie in runs of both of two sorted lists."""
    if not len(a[0]) or not len(b[0]):
        return NOTHING
    edges = np.unique(np.concatenate([*a, *b]))
    low, high = edges[:-1], edges[1:]
    inside = np.ones(len(low), bool)
    for starts, ends in (a, b):
        at = np.searchsorted(starts, low, side="right") - 1
        inside &= (at >= 0) & (high <= ends[np.maximum(at, 0)])
    return merge([(low[inside], high[inside])]) if inside.any() else NOTHING


def prove_group(automaton: Automaton, launch: Launch, blocks: list[int]) -> None:
    """Prove the order within a group of a launch; raises NotProvedError."""
    parts = {space: _parts(launch, space, blocks) for space in OUTSIDE}
    place = {block: i for i, block in enumerate(blocks)}

    def moved(operand: Any) -> Any:
        """An operand of tracked memory, counted from where the group's part begins."""
        if operand is None or operand.space not in OUTSIDE or not len(parts[operand.space][0]):
            return operand
        starts, ends = parts[operand.space]
        low = operand.base + launch.shapes.of(operand).low
        at = int(np.searchsorted(starts, low, side="right")) - 1
        if at < 0 or low >= ends[at]:
            return operand
        return operand._replace(base=TRACKED + FAR * at + operand.base - int(starts[at]))

    def numbered(block: int) -> Iterator[tuple[int, int]]:
        numbers: dict[int, tuple[Step, int]] = {}  # by instruction: what it was last time
        for step in launch.blocks[block]():
            before = numbers.get(step.pc)
            if before is None or before[0] is not step:
                amount = place[step.amount] if step.op == SIGNAL else step.amount
                operands = tuple([moved(operand) for operand in step.operands])
                before = step, automaton.number(step._replace(amount=amount, operands=operands))
                numbers[step.pc] = before
            yield step.pc, before[1]

    pieces = [cut(numbered(block)) for block in blocks]
    following = [next(piece, None) for piece in pieces]
    course, turn = Course(automaton), 0
    while True:
        order = [(turn + i) % len(blocks) for i in range(len(blocks))]
        waiting = [i for i in order if following[i] is not None]
        if not waiting:
            break
        held = course.now().held()
        chosen = next((i for i in waiting if not held[i]), waiting[0])
        course.go((chosen, *(following[chosen] or ())))
        following[chosen], turn = next(pieces[chosen], None), chosen + 1
    course.end()


def _parts(launch: Launch, space: int, blocks: list[int]) -> Runs:
    """Parts of tracked memory that a group touches, apart from each other."""
    touches = set().union(*(launch.touched[i] for i in blocks))
    return _merged({(t[3] + t[2].low, t[3] + t[2].high) for t in touches if t[0] == space and launch.tracked(t)})


def memory_apart(launch: Launch) -> bool:
    """True when untracked accesses meet nothing that is written, and tracked ones nothing of another group."""
    if launch.twice():
        return False
    for space in OUTSIDE:
        placed: dict[tuple[bool, bool], list[tuple[Shape, Array]]] = {}
        tracked: dict[bool, list[tuple[int, Runs]]] = {True: [], False: []}
        found: dict[tuple[bool, bool, Shape], set[int]] = defaultdict(set)
        for group, blocks in enumerate(launch.groups):
            own: dict[bool, list[tuple[Shape, int]]] = {True: [], False: []}
            for touch in set().union(*(launch.touched[block] for block in blocks)):
                where, write, shape, base = touch
                if where == space:
                    near = launch.tracked(touch)
                    found[near, write, shape].add(base)
                    if near:
                        own[write].append((shape, base))
            for write, parts in own.items():
                tracked[write].append((group, union(parts)))
        for (near, write, shape), bases in found.items():
            placed.setdefault((near, write), []).append((shape, np.array(sorted(bases), np.int64)))
        reads = [*placed.get((False, False), []), *placed.get((True, False), [])]
        if not apart(placed.get((False, True), []), reads):
            return False
        writes: list[Owned] = [owned(tracked[write]) for write in (True, False)]
        if not groups_apart(writes[0], writes[1]):
            return False
        alone = union([(s, int(b)) for s, bases in placed.get((False, True), []) for b in bases])
        if common(alone, (writes[0][0], writes[0][1])) is not None:
            return False
    return True

