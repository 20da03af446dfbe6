"""The tool that passes rewrite graphs with: nodes are emitted again in order, new ones between them, types inferred.

Names of graph outputs survive every rewrite, because users compare tensors by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.graph import Array, Constant, Graph, Node, TensorType, free_name
from compiler.ops import op_def
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to

SMALL_ELEMENTS = 65536  # constants up to here are looked at by type inference and by scalar tests


class Editor:
    """A graph being rewritten into another one; tensor and constant tables grow, `finish` drops what is unused."""

    def __init__(self, graph: Graph) -> None:
        """Start with no nodes and every tensor of `graph`."""
        self.graph = graph
        self.nodes: list[Node] = []
        self.tensors: dict[str, TensorType] = dict(graph.tensors)
        self.constants: dict[str, Constant] = dict(graph.constants)
        self._renamed: dict[str, str] = {}
        self._node_names: set[str] = set()

    # --- reading ---------------------------------------------------------------------------------------------------

    def current(self, name: str) -> str:
        """Name under which a tensor of the old graph is to be read now."""
        while name in self._renamed:
            name = self._renamed[name]
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, in elements."""
        return self.tensors[name].shape

    def constant(self, name: str) -> Constant | None:
        """The constant called `name`, or None."""
        return self.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element, or None."""
        found = self.constants.get(name)
        if found is None or found.stripped or found.type.elements != 1:
            return None
        return float(np.asarray(found.value()).astype(np.float64).reshape(()))

    # --- writing ---------------------------------------------------------------------------------------------------

    def keep(self, node: Node, **changes: Any) -> Node:
        """Emit an old node, reading what replaced its inputs; `changes` are fields of Node."""
        inputs = tuple(self.current(n) for n in changes.pop("inputs", node.inputs))
        return self.put(replace(node, inputs=inputs, **changes))

    def put(self, node: Node) -> Node:
        """Emit a node with inferred output types; its name gets a number when another node has taken it."""
        node = replace(node, name=free_name(node.name, self._node_names))
        types = [self.tensors[n] if n else None for n in node.inputs]
        kinds = op_def(node.op).infer(node, types, [small_value(self.constants.get(n)) for n in node.inputs])
        for name, kind in zip(node.outputs, kinds):
            if name:
                self.tensors[name] = kind
        self.nodes.append(node)
        self._node_names.add(node.name)
        return node

    def emit(self, name: str, op: str, inputs: Sequence[str], output: str = "", **attrs: Any) -> str:
        """Emit a new node and return its output: `output`, or a fresh tensor called after the node."""
        given = [self.current(n) for n in inputs]
        while given and not given[-1]:
            given.pop()
        written = output or self.fresh(name)
        self.put(Node(name, op, tuple(given), (written,), attrs))
        return written

    def replace(self, old: str, new: str) -> None:
        """Let every later reader of `old` read `new`."""
        if self.current(new) != old:
            self._renamed[old] = self.current(new)

    def add_constant(self, hint: str, value: Constant) -> str:
        """Add a constant under a free name that starts with `hint`."""
        name = self.fresh(hint)
        self.tensors[name], self.constants[name] = value.type, value
        return name

    def add_array(self, hint: str, value: Any, dtype: str) -> str:
        """Add a constant of known values."""
        return self.add_constant(hint, Constant.of(round_to(np.asarray(value), dtype_of(dtype)), dtype))

    def mapped(self, name: str, suffix: str, shape: tuple[int, ...], change: Callable[[Array], Array]) -> str:
        """Add a constant derived lazily from constant `name`; equal (name, suffix, shape) are made once."""
        found, hint = self.constants[name], f"{name}.{suffix}"
        if hint in self.constants and self.constants[hint].type.shape == shape:
            return hint
        return self.add_constant(hint, found.map(replace(found.type, shape=shape), change))

    def fresh(self, hint: str) -> str:
        """A tensor name that is not in use: `hint`, or `hint.1`, `hint.2` ..."""
        return free_name(hint, self.tensors)

    def finish(self) -> Graph:
        """Return the new graph; each output keeps its name (an Identity where its tensor has another duty)."""
        swap: dict[str, str] = {}
        written = {n for node in self.nodes for n in node.outputs}
        for out in self.graph.outputs:
            found = self.current(out)
            if found == out:
                continue
            if found in written and found not in self.graph.outputs and found not in swap:
                swap[found] = out
                self.tensors[out] = self.tensors[found]
            else:
                self.put(Node(f"{out}.copy", "Identity", (swap.get(found, found),), (out,)))
        return self.graph.with_nodes(renamed(self.nodes, swap), self.tensors, self.constants)


def renamed(nodes: Iterable[Node], names: Mapping[str, str]) -> list[Node]:
    """Nodes with tensor names replaced."""
    if not names:
        return list(nodes)
    return [
        replace(
            node,
            inputs=tuple(names.get(n, n) for n in node.inputs),
            outputs=tuple(names.get(n, n) for n in node.outputs),
        )
        for node in nodes
    ]


def small_value(constant: Constant | None) -> Array | None:
    """Values of an integer or bool constant that is small enough to be looked at, else None."""
    if constant is None or constant.stripped or dtype_of(constant.type.dtype).is_float:
        return None
    return constant.value() if constant.type.elements <= SMALL_ELEMENTS else None


def spatial_axes(rank: int) -> tuple[int, ...]:
    """Spatial axes of a channels-first activation."""
    return tuple(range(2, rank))
