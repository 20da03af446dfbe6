"""A declarative pattern matcher and the driver that applies rewrite rules until none fires.

A pattern is a tree: ("Op", operand, ...) matches a node of that operator; a list holds alternatives; a number matches a
constant of one element with that value; 'x' (lower case) binds any tensor, 'C' (upper case) a constant. A name that
occurs twice must bind the same tensor. Operands of commutative operators match in either order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from compiler.graph import Graph, Node
from compiler.passes import dce
from compiler.passes.edit import Editor
from isa.errors import CompileError

COMMUTATIVE = ("Add", "Mul", "Min", "Max")
MAX_SWEEPS = 64


@dataclass(frozen=True)
class Match:
    """Tensors bound by name, and the matched nodes, the root first."""

    bound: dict[str, str]
    nodes: tuple[Node, ...]

    @property
    def root(self) -> Node:
        """The node whose result is replaced."""
        return self.nodes[0]

    def node(self, op: str) -> Node:
        """The first matched node of an operator."""
        return next(node for node in self.nodes if node.op == op)


Build = Callable[[Editor, Match], bool]


@dataclass(frozen=True)
class Rule:
    """Replace what `pattern` matches by what `build` emits as the root's output; `build` returns False to decline.

    `shared` rules fire even when inner results have other readers, because they pay nonetheless.
    """

    name: str
    pattern: Any
    build: Build
    shared: bool = False


@dataclass
class _Matcher:
    graph: Graph
    edit: Editor
    producers: dict[str, Node] = field(init=False)
    readers: dict[str, list[Node]] = field(init=False)

    def __post_init__(self) -> None:
        self.producers, self.readers = self.graph.producers(), self.graph.consumers()

    def find(self, rule: Rule, root: Node) -> Iterator[Match]:
        """Matches of a rule at a root, in every order of commutative operands."""
        for bound, nodes in self._node(rule.pattern, root, {}):
            if rule.shared or self._private(nodes):
                yield Match(bound, nodes)

    def _private(self, nodes: tuple[Node, ...]) -> bool:
        """True when nothing outside the match reads an inner result."""
        names = {node.name for node in nodes}
        inner = [out for node in nodes[1:] for out in node.outputs if out]
        if any(out in self.graph.outputs for out in inner):
            return False
        return all(reader.name in names for out in inner for reader in self.readers.get(out, []))

    def _node(
        self, pattern: Any, node: Node, bound: dict[str, str]
    ) -> Iterator[tuple[dict[str, str], tuple[Node, ...]]]:
        if isinstance(pattern, list):
            for choice in pattern:
                yield from self._node(choice, node, bound)
            return
        op, *operands = pattern
        given = tuple(node.inputs)
        if node.op != op or len(given) != len(operands):
            return
        orders = [given, given[::-1]] if op in COMMUTATIVE and len(given) == 2 else [given]
        for order in orders:
            for inner, nodes in self._operands(operands, order, bound):
                yield inner, (node, *nodes)

    def _operands(
        self, patterns: list[Any], names: tuple[str, ...], bound: dict[str, str]
    ) -> Iterator[tuple[dict[str, str], tuple[Node, ...]]]:
        if not patterns:
            yield bound, ()
            return
        for first, nodes in self._tensor(patterns[0], names[0], bound):
            for rest, more in self._operands(patterns[1:], names[1:], first):
                yield rest, (*nodes, *more)

    def _tensor(
        self, pattern: Any, name: str, bound: dict[str, str]
    ) -> Iterator[tuple[dict[str, str], tuple[Node, ...]]]:
        if isinstance(pattern, str):
            fits = (
                bool(name) and bound.get(pattern, name) == name and (pattern.islower() or name in self.graph.constants)
            )
            if fits:
                yield {**bound, pattern: name}, ()
        elif isinstance(pattern, float):
            value = self.edit.scalar(name) if name else None
            if value is not None and math.isclose(value, pattern, rel_tol=_tolerance(pattern)):
                yield bound, ()
        elif name in self.producers:
            yield from self._node(pattern, self.producers[name], bound)


def _tolerance(value: float) -> float:
    """Relative: whole numbers and halves are exact, while exporters write sqrt(2) with 4 to 8 digits."""
    return 0.0 if (2 * value).is_integer() else 1e-4


def rewrite(graph: Graph, rules: list[Rule]) -> Graph:
    """Apply rules until none fires, dead nodes dropped; raises CompileError when rules keep undoing each other."""
    fired: list[str] = []
    for _ in range(MAX_SWEEPS):
        graph, fired = _sweep(graph, rules)
        if not fired:
            return graph
    raise CompileError(f"rewrite rules {sorted(set(fired))} still fire after {MAX_SWEEPS} sweeps: two undo each other")


def _sweep(graph: Graph, rules: list[Rule]) -> tuple[Graph, list[str]]:
    """One pass over the nodes, matching on the graph as it was: every value keeps its name, so matches may overlap."""
    edit = Editor(graph)
    matcher, fired = _Matcher(graph, edit), []
    for node in graph.nodes:
        found = _first(matcher, rules, node)
        if found is None:
            edit.keep(node)
        else:
            fired.append(found)
    return (dce.run(edit.finish()), fired) if fired else (graph, fired)


def _first(matcher: _Matcher, rules: list[Rule], node: Node) -> str | None:
    for rule in rules:
        for match in matcher.find(rule, node):
            if rule.build(matcher.edit, match):
                return rule.name
    return None
