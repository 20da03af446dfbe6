"""Which instructions of a kernel decide what happens when: the control slice.

Branches, guards of what issues, addresses, and whatever feeds them, followed backwards from use to definition. The rest
makes values alone and takes its time without being executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.flow import ways
from isa.program import Kernel, Program
from isa.table import BY_CODE, SCALAR, Op
from isa.table_simt import GUARD, GUARD_MASK, GUARD_SHIFT, IMMEDIATE, MMA_SHAPES, SCALAR_SOURCE
from npusim.units.warps.layout import (
    ASYNC_COPY,
    BRANCH,
    EXIT,
    GLOBAL_ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    I_COUNT,
    I_KIND,
    MATRIX_LOAD,
    SHARED_ATOMIC,
    SHARED_LOAD,
    SHARED_STORE,
)

Array = npt.NDArray[Any]
Register = tuple[str, int]  # kind (v, p, r) and number

_FIELD = {"d": "dst", "a": "a", "b": "b", "c": "c"}
_ACCESSES = (GLOBAL_LOAD, GLOBAL_STORE, SHARED_LOAD, SHARED_STORE, GLOBAL_ATOMIC, SHARED_ATOMIC, ASYNC_COPY,
             MATRIX_LOAD)  # fmt: skip
_LOADS = (GLOBAL_LOAD, SHARED_LOAD, GLOBAL_ATOMIC, SHARED_ATOMIC, MATRIX_LOAD)
# Fields of accesses that are addresses; the others are data, but for the shared address of a copy.
_ADDRESS = {"ra", "vb"}


def control_slice(program: Program, kernel: Kernel, code: Array) -> tuple[Array, int]:
    """(needed bool [n], loads): instructions to execute for time's sake, and the address of one that reads memory, or
    -1: then time depends on values."""
    rows = program.instrs[kernel.start : kernel.end]
    facts = [_facts(row, BY_CODE[int(row["op"])], code[i]) for i, row in enumerate(rows)]
    leads = ways(program, kernel)
    live: list[frozenset[Register]] = [frozenset()] * (len(rows) + 1)  # what matters before each instruction
    comes: list[list[int]] = [[] for _ in range(len(rows) + 1)]
    for i, following in enumerate(leads):
        for to in following:
            comes[to].append(i)
    work = set(range(len(rows)))
    while work:
        i = max(work)
        work.discard(i)
        before = _before(facts[i], frozenset().union(*(live[to] for to in leads[i])))
        if before != live[i]:
            live[i] = before
            work.update(comes[i])
    needed = np.array([
        bool(fact.writes & frozenset().union(*(live[to] for to in leads[i]))) for i, fact in enumerate(facts)
    ], bool)  # fmt: skip
    loads = [i for i in np.flatnonzero(needed).tolist() if int(code[i, I_KIND]) in _LOADS]
    return needed, kernel.start + loads[0] if loads else -1


@dataclass(frozen=True)
class _Facts:
    """What an instruction writes and reads, which of it decides time, and whether all of what it writes is new."""

    writes: frozenset[Register]
    reads: frozenset[Register]
    seeds: frozenset[Register]
    whole: bool


def _facts(row: Any, op: Op, code: Array) -> _Facts:
    count = int(code[I_COUNT])
    writes = frozenset() if op.pipe == SCALAR else frozenset(_writes(row, op, count))
    # What a guard leaves out, and lanes that are elsewhere, keep their old values.
    return _Facts(
        writes, frozenset(_reads(row, op, count)), frozenset(_seeds(row, op, int(code[I_KIND]))),
        not int(row["flags"]) & GUARD,
    )  # fmt: skip


def _before(fact: _Facts, after: frozenset[Register]) -> frozenset[Register]:
    """What matters before an instruction, given what does after it."""
    if not fact.writes & after:
        return after | fact.seeds
    return (after - fact.writes if fact.whole else after) | fact.reads | fact.seeds


def _guard(row: Any) -> Iterator[Register]:
    if int(row["flags"]) & GUARD:
        yield "p", (int(row["flags"]) & GUARD_MASK) >> GUARD_SHIFT


def _seeds(row: Any, op: Op, kind: int) -> Iterator[Register]:
    """Registers whose values decide what an instruction does in time."""
    if kind in (BRANCH, EXIT) or kind in _ACCESSES:
        yield from _guard(row)
    if kind in _ACCESSES:
        for word in op.fields.split():
            name = word.rstrip("?")
            if name in _ADDRESS or (name == "vc" and kind == ASYNC_COPY):
                yield from _register(row, name)
    if op.name == "first":  # a scalar register, which may be an address or decide a branch
        yield from _register(row, "sa")
        yield from _guard(row)


def _register(row: Any, field: str) -> Iterator[Register]:
    value = int(row[_FIELD[field[1]]])
    if value < 0 or (field[0] == "s" and value >= IMMEDIATE):
        return
    if field[0] == "s":
        yield ("r", value - SCALAR_SOURCE) if value >= SCALAR_SOURCE else ("v", value)
    else:
        yield field[0], value


def _writes(row: Any, op: Op, count: int) -> Iterator[Register]:
    for field in ("vd", "pd"):
        if field in (word.rstrip("?") for word in op.fields.split()) and row["dst"] >= 0:
            length = MMA_SHAPES[op.name][7] if op.name in MMA_SHAPES else max(1, count) if field == "vd" else 1
            for i in range(length):
                yield field[0], int(row["dst"]) + i


def _reads(row: Any, op: Op, count: int) -> Iterator[Register]:
    yield from _guard(row)
    for word in op.fields.split():
        name = word.rstrip("?")
        if len(name) != 2 or name[0] not in "vps" or name[1] not in "abc":
            continue
        wide = int(MMA_SHAPES[op.name][{"a": 5, "b": 6, "c": 7}[name[1]]]) if op.name in MMA_SHAPES else 1
        wide = max(1, count) if name == "vc" and op.name not in MMA_SHAPES else wide
        for kind, number in _register(row, name):
            for i in range(wide):
                yield kind, number + i
