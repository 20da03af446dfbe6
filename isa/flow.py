"""The ways through a kernel: loops, legal targets, and where the lanes of a branch meet again.

Lanes that part at a `bra` meet at its immediate post-dominator: the first address through which every way from the
branch to the end of the kernel leads. A guarded `exit` is no way of its own, for the lanes that it ends meet nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import TARGET_CODES
from isa.program import Kernel, Program
from isa.table import code
from isa.table_simt import GUARD

Array = npt.NDArray[Any]
Located = tuple[int, str]  # address, what is wrong there

_BR, _BRA, _EXIT, _HALT = code("br"), code("bra"), code("exit"), code("halt")
_LOOP, _ENDL = code("loop"), code("endl")
_EITHER = (code("bz"), code("bnz"), _LOOP)  # go on, or to their target


def meeting_points(program: Program, kernel: Kernel) -> dict[int, int]:
    """Return, for each `bra` with a guard, the address where its lanes meet again; the kernel's end if they never do.

    A branch from which no way leads to the end has none to be judged by: the kernel's end as well.
    """
    instrs = program.instrs[kernel.start : kernel.end]
    after = _post_dominators(ways(program, kernel))
    parting = np.flatnonzero((instrs["op"] == _BRA) & (instrs["flags"] & GUARD != 0))
    return {kernel.start + int(i): kernel.start + after[int(i)] for i in parting}


def ways(program: Program, kernel: Kernel) -> list[tuple[int, ...]]:
    """Return where each instruction of a kernel may go on, counted from its start; its length stands for the end."""
    instrs = program.instrs[kernel.start : kernel.end]
    size = kernel.end - kernel.start
    ops, guards = instrs["op"].tolist(), (instrs["flags"] & GUARD).tolist()
    targets = instrs["imm"].tolist()
    body = {last: first + 1 for first, last in _pairs(ops)[0]}
    found: list[tuple[int, ...]] = []
    for i, op in enumerate(ops):
        to = targets[i] - kernel.start
        to = to if 0 <= to < size else size  # a target outside is refused elsewhere
        if op in _EITHER or (op == _BRA and guards[i]):
            found.append((i + 1, to))
        elif op in (_BR, _BRA):
            found.append((to,))
        elif op == _HALT or (op == _EXIT and not guards[i]):
            found.append((size,))
        elif i in body:
            found.append((i + 1, body[i]))
        else:
            found.append((i + 1,))
    return found


def loop_bodies(program: Program, kernel: Kernel, deepest: int) -> tuple[Array, list[Located]]:
    """Return the innermost loop around each instruction, and what is wrong with loops and targets.

    Loops are counted from the kernel's start, -1 is none; an `endl` belongs to the body, its `loop` does not.
    """
    start, end = kernel.start, kernel.end
    ops, imm = program.instrs["op"][start:end], program.instrs["imm"][start:end]
    pairs, loose = _pairs(ops.tolist(), deepest)
    faults = [(start + i, reason) for i, reason in loose]
    body = np.full(end - start, -1)
    for first, last in sorted(pairs):
        body[first + 1 : last + 1] = first
        if imm[first] != start + last + 1:
            wanted = f"it must lead to @{start + last + 1}, after its endl"
            faults.append((start + first, f"loop leads to @{imm[first]}; {wanted}"))
    return body, [*faults, *_target_faults(kernel, ops, imm, body)]


def _target_faults(kernel: Kernel, ops: Array, imm: Array, body: Array) -> Iterator[Located]:
    start, end = kernel.start, kernel.end
    for i in np.flatnonzero(np.isin(ops, list(TARGET_CODES)) & (ops != _LOOP)):
        to = int(imm[i]) - start
        if not 0 <= to < end - start:
            yield start + int(i), f"target @{imm[i]} lies outside of kernel {kernel.name} [{start}, {end})"
        elif body[to] != body[i]:
            remedy = "leave loops through their endl"
            if ops[i] == _BRA:
                remedy += " (let a predicate guard the rest of their rounds), or write the loop with bra"
            yield start + int(i), f"target @{imm[i]} lies in another loop body; {remedy}"


def _pairs(ops: list[int], deepest: int | None = None) -> tuple[list[tuple[int, int]], list[Located]]:
    """Pairs (loop, endl) of a kernel, and what does not nest."""
    pairs, faults, stack = [], [], []
    for i, op in enumerate(ops):
        if op == _LOOP:
            stack.append(i)
            if deepest is not None and len(stack) == deepest + 1:
                faults.append((i, f"loops nest deeper than {deepest}"))
        elif op == _ENDL:
            if stack:
                pairs.append((stack.pop(), i))
            else:
                faults.append((i, "endl without loop"))
    return pairs, [*faults, *((i, "loop without endl in its kernel") for i in stack)]


def _post_dominators(leads: list[tuple[int, ...]]) -> list[int]:
    """The immediate post-dominator of each node; the end (their number) where there is none.

    Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm (2001), on the reversed graph.
    """
    end = len(leads)
    order = _backwards(leads)
    place = {node: i for i, node in enumerate(order)}
    after = dict.fromkeys(order[:1], end)
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            found = -1
            for way in leads[node]:
                if way in after:
                    found = way if found < 0 else _common(found, way, after, place)
            if after.get(node) != found:
                after[node], changed = found, True
    return [after.get(node, end) for node in range(end)]


def _common(a: int, b: int, after: dict[int, int], place: dict[int, int]) -> int:
    while a != b:
        while place[a] > place[b]:
            a = after[a]
        while place[b] > place[a]:
            b = after[b]
    return a


def _backwards(leads: list[tuple[int, ...]]) -> list[int]:
    """The nodes that lead to the end, in reverse postorder of the reversed graph: the end comes first."""
    end = len(leads)
    comes: list[list[int]] = [[] for _ in range(end + 1)]
    for node, targets in enumerate(leads):
        for target in targets:
            comes[target].append(node)
    finished, seen = [], {end}
    stack = [(end, iter(comes[end]))]
    while stack:
        node, before = stack[-1]
        for earlier in before:
            if earlier not in seen:
                seen.add(earlier)
                stack.append((earlier, iter(comes[earlier])))
                break
        else:
            finished.append(node)
            stack.pop()
    return finished[::-1]
