"""Memory planning: addresses for tensors that live at different times, so that they share storage.

The planner is greedy by decreasing size with best fit among the gaps left by tensors alive at the same time (Pisarchyk
and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"). Always max_live <= peak <= naive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compiler.graph import Graph, Node
from compiler.ops import op_def
from compiler.passes.fusion import VIEW, groups
from isa.errors import CompileError

Lifetime = tuple[str, int, int, int]  # name, size_bytes, first launch that needs it, last launch that needs it


@dataclass(frozen=True)
class Plan:
    """Byte addresses by tensor; peak of the plan, lower bound (most bytes alive at once) and sum without reuse."""

    addresses: Mapping[str, int]
    peak_bytes: int
    max_live_bytes: int
    naive_bytes: int


def plan(tensors: Sequence[Lifetime], align: int = 256, aliases: Mapping[str, str] | None = None) -> Plan:
    """Place tensors at multiples of `align`; `aliases` maps names to the tensor whose storage they are.

    An alias lengthens its owner's life. Raises CompileError for a negative size or life, or an unknown owner.
    """
    merged = _merged(tensors, aliases or {})
    rounded = [(name, -(-max(1, size) // align) * align, first, last) for name, size, first, last in merged]
    placed: list[tuple[int, int, int, int]] = []  # address, size, first, last
    addresses: dict[str, int] = {}
    for name, size, first, last in sorted(rounded, key=lambda t: (-t[1], t[2], t[0])):
        taken = sorted((a, s) for a, s, begin, end in placed if begin <= last and first <= end)
        addresses[name] = _best_gap(taken, size)
        placed.append((addresses[name], size, first, last))
    for name in aliases or {}:
        addresses[name] = addresses[_owner(name, aliases or {})]
    peak = max((address + size for address, size, _, _ in placed), default=0)
    return Plan(addresses, peak, _max_live(rounded), sum(size for _, size, _, _ in rounded))


def lifetimes(graph: Graph, in_place: bool = False) -> tuple[list[Lifetime], dict[str, str]]:
    """Lifetimes of activations that cross groups, in launch indices, and the aliases among them.

    Views alias their operand. With `in_place` an elementwise group writes over an operand of its size that it is the
    last to read. Graph inputs live from launch 0, outputs to the last one.
    """
    grouped = groups(graph)
    aliases: dict[str, str] = {}
    first: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    for index, (name, nodes) in enumerate(grouped.items()):
        inside = {out for node in nodes for out in node.outputs if out}
        for node in nodes:
            for read in node.inputs:
                if read and read not in inside and read not in graph.constants:
                    last[read] = index
        for out in _leaving(graph, nodes, inside):
            first[out] = last[out] = index
            if name.startswith(VIEW) and nodes[0].inputs[0] not in graph.constants:
                aliases[out] = nodes[0].inputs[0]
    last.update((out, len(grouped)) for out in graph.outputs if out in first)
    found = [(name, graph.tensors[name].size_bytes, first[name], last[name]) for name in first]
    if in_place:
        _overwrite(graph, grouped, found, aliases)
    return found, aliases


def _leaving(graph: Graph, nodes: tuple[Node, ...], inside: set[str]) -> list[str]:
    """Tensors of a group that other groups or the user see: all but those that stay inside."""
    used_inside = {name for node in nodes for name in node.inputs} & inside
    return [out for node in nodes for out in node.outputs if out and (out not in used_inside or out in graph.outputs)]


def _overwrite(
    graph: Graph, grouped: Mapping[str, tuple[Node, ...]], found: list[Lifetime], aliases: dict[str, str]
) -> None:
    """Alias results of elementwise groups to operands that die there."""
    ends: dict[str, int] = {}
    for name, _, _, end in found:  # the life of a storage is that of all its names
        owner = _owner(name, aliases)
        ends[owner] = max(ends.get(owner, 0), end)
    for index, (name, nodes) in enumerate(grouped.items()):
        out = nodes[-1].outputs[0]
        if name.startswith(VIEW) or any(op_def(node.op).op_class != "elementwise" for node in nodes):
            continue
        for read in (n for node in nodes for n in node.inputs if n in graph.tensors and n not in graph.constants):
            owner = _owner(read, aliases)
            same = graph.tensors[read].size_bytes == graph.tensors[out].size_bytes
            full = graph.tensors[read].shape == graph.tensors[out].shape
            if same and full and owner not in graph.inputs and ends.get(owner) == index and out not in aliases:
                aliases[out] = owner
                ends[owner] = ends.pop(out, index)


def _owner(name: str, aliases: Mapping[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def _merged(tensors: Sequence[Lifetime], aliases: Mapping[str, str]) -> list[Lifetime]:
    """One lifetime a storage."""
    found: dict[str, Lifetime] = {}
    for name, size, first, last in tensors:
        if size < 0 or first > last:
            raise CompileError(f"tensor {name!r}: size {size} bytes and life [{first}, {last}] are not possible")
        owner = _owner(name, aliases)
        before = found.get(owner, (owner, size, first, last))
        found[owner] = (owner, max(size, before[1]), min(first, before[2]), max(last, before[3]))
    names = {name for name, _, _, _ in tensors}
    unknown = sorted({_owner(name, aliases) for name in aliases} - names)
    if unknown:
        raise CompileError(f"aliases name tensors that are not planned: {', '.join(unknown)}")
    return list(found.values())


def _best_gap(taken: list[tuple[int, int]], size: int) -> int:
    """Address of the smallest gap below the highest taken byte that holds `size`, else that byte."""
    best, best_room, end = -1, 0, 0
    for address, length in taken:
        room = address - end
        if room >= size and (best < 0 or room < best_room):
            best, best_room = end, room
        end = max(end, address + length)
    return end if best < 0 else best


def _max_live(tensors: Sequence[Lifetime]) -> int:
    """Most bytes alive in one launch."""
    steps: dict[int, int] = {}
    for _, size, first, last in tensors:
        steps[first] = steps.get(first, 0) + size
        steps[last + 1] = steps.get(last + 1, 0) - size
    live, most = 0, 0
    for step in sorted(steps):
        live += steps[step]
        most = max(most, live)
    return most
