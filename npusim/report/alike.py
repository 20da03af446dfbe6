"""Operators that do the same, such as those of repeated layers, taken together so that tables show kinds of work."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, Protocol

SIMILAR = 0.75  # operators of one kind take at least this share of the cycles of its costliest one


class Operation(Protocol):
    """What two operators are compared by."""

    @property
    def op_type(self) -> str: ...
    @property
    def shape(self) -> Any: ...
    @property
    def macs(self) -> int: ...
    @property
    def flops(self) -> int: ...
    @property
    def cycles(self) -> int: ...


def group_alike(rows: Sequence[Operation]) -> list[list[int]]:
    """Indices of rows by kind: same type, shape and work, cycles within SIMILAR of the costliest; by falling sum.

    The costliest member of a kind comes first.
    """
    groups: list[list[int]] = []
    open_groups: dict[tuple[Any, ...], list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: -rows[i].cycles):
        row = rows[i]
        key = (row.op_type, row.shape, row.macs, row.flops)
        members = open_groups.get(key)
        if members is not None and row.cycles >= SIMILAR * rows[members[0]].cycles:
            members.append(i)
            continue
        open_groups[key] = [i]
        groups.append(open_groups[key])
    return sorted(groups, key=lambda members: -sum(rows[i].cycles for i in members))


def common_name(names: Sequence[str]) -> str:
    """A name for all: one or two parts that differ become `*` (layer.*.gelu), else a common end (*.norm), else any."""
    parts = [re.split(r"([./_#])", name) for name in names]
    if len({len(p) for p in parts}) == 1:
        columns = list(zip(*parts))
        if sum(len(set(column)) > 1 for column in columns) <= 2:
            return "".join(column[0] if len(set(column)) == 1 else "*" for column in columns)
    ends = list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*(reversed(p) for p in parts))))
    suffix = "".join(column[0] for column in reversed(ends))
    return f"*{suffix}" if suffix.strip("./_#") else names[0]
