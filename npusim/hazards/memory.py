"""Memory as the hazard checker sees it: accesses in flight, bytes written, footprints of cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isa.machine import CHIP_SPACES
from isa.params import Params
from isa.program import SPACES, Program, Tensor
from npusim.functional.machine_state import used_bytes
from npusim.functional.operand import view
from npusim.hazards.order import CoreOrder
from npusim.hazards.regions import Shape, Shapes, common, merge, union

Array = npt.NDArray[Any]
MAX_PAIRS = 4096  # of cores that meet in memory, which are looked at for findings
MANY_ENTRIES = 32  # of a bucket, before it is searched for stale ones
_RAW = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
_ONES = {size: int.from_bytes(b"\1" * size, "little") for size in _RAW}


class Access(NamedTuple):
    """One operand of one instruction: its bytes, and its `number` on its pipe (of the group)."""

    space: int
    shape: Shape
    base: int
    write: bool
    pc: int
    pipe: int
    number: int


Entry = tuple[int, int, int, int]  # number and instruction of the youngest write, and of the youngest read
NONE: Entry = (0, 0, 0, 0)
NOWHERE = (0, 0)


class _Bucket:
    """Accesses of one pipe to one space: per byte set, the youngest write and the youngest read."""

    __slots__ = ("entries", "reads", "writes", "youngest")

    def __init__(self) -> None:
        self.entries: dict[tuple[Shape, int], Entry] = {}
        self.youngest = 0
        self.reads = self.writes = NOWHERE  # bytes between which all of them lie

    def note(self, access: Access) -> None:
        """Record an access."""
        shape, base = access.shape, access.base
        low, high = base + shape.low, base + shape.high
        wrote, write_pc, read, read_pc = self.entries.get((shape, base), NONE)
        if access.write:
            self.entries[shape, base] = (access.number, access.pc, read, read_pc)
            start, end = self.writes
            self.writes = (min(start, low), max(end, high)) if end else (low, high)
        else:
            self.entries[shape, base] = (wrote, write_pc, access.number, access.pc)
            start, end = self.reads
            self.reads = (min(start, low), max(end, high)) if end else (low, high)
        self.youngest = access.number

    def meets(self, access: Access) -> bool:
        """Whether an access may touch bytes that one of these does, either writing."""
        low, high = access.base + access.shape.low, access.base + access.shape.high
        start, end = self.writes
        if low < end and start < high:
            return True
        start, end = self.reads
        return access.write and low < end and start < high

    def forget(self, completed: int) -> None:
        """Drop what is known to be complete: everything that follows is ordered after it."""
        if completed >= self.youngest:
            self.entries.clear()
            self.reads = self.writes = NOWHERE
        elif len(self.entries) > MANY_ENTRIES:
            self.entries = {k: e for k, e in self.entries.items() if e[0] > completed or e[2] > completed}

    def copy(self) -> _Bucket:
        """The same accesses, to go on apart from these."""
        other = _Bucket()
        other.entries, other.youngest = dict(self.entries), self.youngest
        other.reads, other.writes = self.reads, self.writes
        return other

    def keep(self, completed: int) -> set[int]:
        """Drop what is known to be complete, entry by entry; return the numbers of the rest."""
        if completed >= self.youngest:
            self.entries = {}
            self.reads = self.writes = NOWHERE
            return set()
        kept, numbers = {}, set()
        for key, (wrote, write_pc, read, read_pc) in self.entries.items():
            wrote, read = wrote * (wrote > completed), read * (read > completed)
            if wrote or read:
                kept[key] = (wrote, write_pc, read, read_pc)
                numbers |= {wrote, read}
        self.entries = kept
        return numbers - {0}

    def renumber(self, numbers: dict[int, int]) -> None:
        """Give the accesses new numbers, in the same order."""
        for key, (wrote, write_pc, read, read_pc) in self.entries.items():
            self.entries[key] = (numbers.get(wrote, 0), write_pc, numbers.get(read, 0), read_pc)
        self.youngest = max((max(entry[0], entry[2]) for entry in self.entries.values()), default=0)


Clash = tuple[str, int, int, tuple[int, int]]  # kind, instruction, pipe, bytes


class LiveAccesses:
    """Accesses of one core, or of a group in the chip's memories, that may still be in flight.

    Only the youngest access of a pipe to a byte set is kept: completion is learnt as a prefix, so whoever is ordered
    after the youngest is ordered after the older ones too.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._spaces: dict[int, dict[int, _Bucket]] = {}

    def add(self, access: Access, order: CoreOrder, everyone: Sequence[CoreOrder] = ()) -> Clash | None:
        """Record an access; return an earlier one that conflicts without order, of another pipe if there is one.

        What its core knows to be complete is forgotten, in a group what `everyone` knows.
        """
        pipes = self._spaces.setdefault(access.space, {})
        clash: Clash | None = None
        for other, bucket in pipes.items():
            if other == access.pipe and order.is_serial(other):
                continue
            known = order.known(access.pipe - order.base, other)
            if known < bucket.youngest and (clash is None or clash[2] == access.pipe) and bucket.meets(access):
                own = access.number if other == access.pipe else 0
                clash = self._scan(access, other, bucket, known, own) or clash
            if bucket.entries:
                everywhere = min([o.known_to_all(other) for o in everyone]) if everyone else order.known_to_all(other)
                bucket.forget(everywhere)
        own_bucket = pipes.get(access.pipe)
        if own_bucket is None:
            own_bucket = pipes[access.pipe] = _Bucket()
        own_bucket.note(access)
        return clash

    def copy(self) -> LiveAccesses:
        """The same accesses, to go on apart from these."""
        other = LiveAccesses(self._shapes)
        for space, pipes in self._spaces.items():
            other._spaces[space] = {pipe: bucket.copy() for pipe, bucket in pipes.items()}
        return other

    def keep(self, known_to_all: Callable[[int], int], found: list[set[int]]) -> None:
        """Keep what somebody may not know to be complete; add its numbers to `found`, by pipe."""
        for pipes in self._spaces.values():
            for pipe, bucket in pipes.items():
                found[pipe] |= bucket.keep(known_to_all(pipe))

    def renumber(self, live: list[list[int]]) -> None:
        """Count the instructions of `live` (by pipe, sorted) as 1, 2, ..."""
        for pipes in self._spaces.values():
            for pipe, bucket in pipes.items():
                bucket.renumber({number: i + 1 for i, number in enumerate(live[pipe])})

    def key(self) -> frozenset[tuple[Any, ...]]:
        """Equal for the same accesses with the same numbers."""
        return frozenset(
            (space, pipe, shape, base, entry[0], entry[2])
            for space, pipes in self._spaces.items()
            for pipe, bucket in pipes.items()
            for (shape, base), entry in bucket.entries.items()
        )

    def _scan(self, access: Access, other: int, bucket: _Bucket, known: int, own: int) -> Clash | None:
        """Compare with one pipe's accesses; those of instruction number `own` are the instruction itself."""
        for (shape, base), (wrote, write_pc, read, read_pc) in bucket.entries.items():
            after_write = wrote > known and wrote != own
            after_read = access.write and read > known and read != own
            if not after_write and not after_read:
                continue
            shared = self._shapes.overlap(shape, base, access.shape, access.base)
            if shared is None:
                continue
            if after_write:
                return "WAW" if access.write else "RAW", write_pc, other, shared
            return "WAR", read_pc, other, shared
        return None


class Written:
    """Which bytes hold defined values, per space and core.

    Inputs and weights are defined from the start, on-chip memory is undefined when a launch starts unless tensors
    live there between launches.
    """

    def __init__(self, program: Program, params: Params) -> None:
        self._sizes = [int(v) for v in params.space_bytes]
        for name in CHIP_SPACES:
            self._sizes[SPACES.index(name)] = used_bytes(program, params, name)
        self._maps: dict[tuple[int, int], Array] = {}
        self._done: dict[tuple[int, int], set[tuple[Shape, int, bool]]] = {}
        self._given: dict[int, tuple[Array, Array]] = {}
        for tensor in program.tensors:
            if tensor.role in ("input", "weight"):
                self.tensor(tensor)

    def size(self, space: int) -> int:
        """Bytes of a space; of dram and host, what the program uses."""
        return self._sizes[space]

    def tensor(self, tensor: Tensor) -> None:
        """A tensor gets values from outside of the kernels."""
        space = SPACES.index(tensor.space)
        starts, ends = self._given.get(space, (np.zeros(0, np.int64), np.zeros(0, np.int64)))
        new = (np.append(starts, tensor.address), np.append(ends, tensor.address + tensor.size_bytes))
        self._given[space] = merge([new])

    def new_launch(self, activation_space: str) -> None:
        """On-chip memory becomes undefined, except where tensors live between launches."""
        kept = {SPACES.index(name) for name in (*CHIP_SPACES, activation_space)}
        for key in [k for k in self._maps if k[0] not in kept]:
            del self._maps[key], self._done[key]

    def leave(self, core: int, activation_space: str) -> None:
        """A core is done with a launch: what it alone has is no longer asked for, except where tensors live."""
        kept = {SPACES.index(name) for name in (*CHIP_SPACES, activation_space)}
        for space in range(len(SPACES)):
            if space not in kept and (space, core) in self._maps:
                del self._maps[space, core], self._done[space, core]

    def given(self, space: int, low: Array, high: Array) -> Array:
        """Which of the ranges [low, high) have had values from outside of the kernels since before."""
        if space not in self._given:
            return np.zeros(len(low), bool)
        starts, ends = self._given[space]
        at = np.searchsorted(starts, low, side="right") - 1
        return np.asarray((at >= 0) & (high <= ends[at]))

    def _map(self, core: int, space: int) -> tuple[Array, set[tuple[Shape, int, bool]]]:
        key = (space, 0 if SPACES[space] in CHIP_SPACES else core)
        if key not in self._maps:
            self._maps[key], self._done[key] = np.zeros(self._sizes[space], np.uint8), set()
        return self._maps[key], self._done[key]

    def mark(self, core: int, access: Access) -> None:
        """The bytes of an access within bounds become defined."""
        bytes_, done = self._map(core, access.space)
        key = (access.shape, access.base, True)
        if key not in done:
            done.add(key)
            size = access.shape.size
            for piece in access.shape.pieces:
                view(bytes_, piece._replace(base=piece.base + access.base), _RAW[size])[...] = _ONES[size]

    def covers(self, core: int, access: Access) -> bool:
        """True when every byte that an access reads is defined."""
        bytes_, done = self._map(core, access.space)
        shape, base = access.shape, access.base
        if (shape, base, True) in done or (shape, base, False) in done:
            return True
        low, high = base + shape.low, base + shape.high
        if access.space in self._given:
            starts, ends = self._given[access.space]
            at = int(np.searchsorted(starts, low, side="right")) - 1
            if at >= 0 and high <= ends[at]:
                return True
        size = shape.size
        moved = (piece._replace(base=piece.base + base) for piece in shape.pieces)
        if not all((view(bytes_, piece, _RAW[size]) == _ONES[size]).all() for piece in moved):
            return False
        done.add((shape, base, False))
        return True


class Footprint:
    """What one core reads and writes in the chip's memories between two barriers."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._parts: dict[tuple[int, bool], dict[tuple[Shape, int], int]] = {}
        self._runs: dict[tuple[int, bool], tuple[Array, Array]] = {}

    def clear(self) -> None:
        """Forget everything: a barrier orders it before what follows."""
        self._parts.clear()
        self._runs.clear()

    def add(self, access: Access) -> None:
        """Record an access."""
        parts = self._parts.setdefault((access.space, access.write), {})
        parts.setdefault((access.shape, access.base), access.pc)

    def runs(self, space: int, write: bool) -> tuple[Array, Array]:
        """Byte runs read or written in a space."""
        key = (space, write)
        if key not in self._runs:
            self._runs[key] = union(list(self._parts.get(key, {})))
        return self._runs[key]

    def clash(self, other: Footprint) -> tuple[str, int, tuple[int, int], int, int] | None:
        """The first conflict with another core: kind, space, bytes, both instructions."""
        for space in range(len(CHIP_SPACES)):
            for kind, mine, theirs in (("WAW", True, True), ("RAW", True, False), ("WAR", False, True)):
                shared = common(self.runs(space, mine), other.runs(space, theirs))
                if shared is not None:
                    return kind, space, shared, self._who(space, mine, shared), other._who(space, theirs, shared)
        return None

    def _who(self, space: int, write: bool, span: tuple[int, int]) -> int:
        for (shape, base), pc in self._parts[space, write].items():
            at = (np.array([span[0] - base]), np.array([span[1] - base]))
            if common((shape.starts, shape.ends), at) is not None:
                return pc
        raise AssertionError("a run of the union belongs to one of its parts")


def meeting(footprints: Sequence[Footprint], groups: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of footprints of different groups that share bytes, one writing; in order, MAX_PAIRS at most.

    Whether there are any is found on all runs at once, so launches of many blocks take a time that grows as they do.
    """
    found: set[tuple[int, int]] = set()
    for space in range(len(CHIP_SPACES)):
        if not groups_apart(*(_by_group(footprints, groups, space, write) for write in (True, False))):
            found |= _pairs(footprints, groups, space, MAX_PAIRS - len(found))
    return sorted(found)


Owned = tuple[Array, Array, Array]  # sorted runs [starts, ends), and of whom each is


def owned(parts: Sequence[tuple[int, tuple[Array, Array]]]) -> Owned:
    """Runs of groups, each given by its number and disjoint within it."""
    empty = np.zeros(0, np.int64)
    starts = np.concatenate([empty, *(starts for _, (starts, _) in parts)])
    ends = np.concatenate([empty, *(ends for _, (_, ends) in parts)])
    owners = np.concatenate([empty, *(np.full(len(starts), group) for group, (starts, _) in parts)])
    order = np.argsort(starts, kind="stable")
    return starts[order], ends[order], owners[order]


def _by_group(footprints: Sequence[Footprint], groups: Sequence[int], space: int, write: bool) -> Owned:
    """Runs of all groups."""
    runs: dict[int, list[tuple[Array, Array]]] = {}
    for footprint, group in zip(footprints, groups):
        own = footprint.runs(space, write)
        if len(own[0]):
            runs.setdefault(group, []).append(own)
    return owned([(group, parts[0] if len(parts) == 1 else merge(parts)) for group, parts in runs.items()])


def groups_apart(writes: Owned, reads: Owned) -> bool:
    """True when nothing that a group writes is written or read by another."""
    starts, ends, owners = writes
    if (ends[:-1] > starts[1:]).any():
        return False
    first, last = np.searchsorted(ends, reads[0], side="right"), np.searchsorted(starts, reads[1], side="left")
    met = last > first
    first, last = first[met], last[met] - 1
    changes = np.cumsum(np.concatenate([[0], owners[1:] != owners[:-1]]))
    return bool(((owners[first] == reads[2][met]) & (changes[first] == changes[last])).all()) if met.any() else True


def _pairs(
    footprints: Sequence[Footprint], groups: Sequence[int], space: int, at_most: int
) -> set[tuple[int, int]]:  # fmt: skip
    """Pairs that meet, by address: each run is compared with those that have begun and not ended."""
    runs = [
        (start, end, i, write)
        for i, footprint in enumerate(footprints) for write in (True, False)
        for start, end in zip(*(array.tolist() for array in footprint.runs(space, write)))
    ]  # fmt: skip
    found: set[tuple[int, int]] = set()
    begun: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # heaps of (end, whose), by whether they write
    for start, end, i, write in sorted(runs):
        for other in (True, False) if write else (True,):
            heap = begun[other]
            while heap and heap[0][0] <= start:
                heappop(heap)
            for _, j in heap:
                if groups[i] != groups[j]:
                    found.add((min(i, j), max(i, j)))
                    if len(found) >= at_most:
                        return found
        heappush(begun[write], (end, i))
    return found
