"""Builds a Graph node by node: infers types, folds what is small and known, bounds sizes before allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.graph import MAX_TENSOR_ELEMENTS, Array, Constant, Graph, Node, TensorType, free_name, printable
from compiler.ops import op_def
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to
from isa.errors import ModelError

MAX_FOLD_ELEMENTS = 65536  # larger results stay nodes: folding is for shapes, indices and masks
MAX_KNOWN_FLOATS = 1024  # float constants up to here take part in shape arithmetic (scales of Resize, ranges)
MAX_RANK = 32  # numpy 1.x
_NEVER_FOLDED = ("DequantizeLinear", "Custom")  # folding would lose quantised weights; nobody knows the values


def check_size(name: str, shape: Sequence[int]) -> None:
    """Raise ModelError when a tensor has a negative extent, over MAX_RANK axes or MAX_TENSOR_ELEMENTS elements."""
    if len(shape) > MAX_RANK:
        raise ModelError(f"tensor {name!r} has {len(shape)} axes, the limit is {MAX_RANK}")
    elements = 1
    for extent in shape:
        elements *= extent
    if min(shape, default=0) < 0 or elements > MAX_TENSOR_ELEMENTS:
        raise ModelError(
            f"tensor {name!r} has shape {list(shape)}: extents must be >= 0 and the elements at most "
            f"{MAX_TENSOR_ELEMENTS}; check the shapes given for the model's inputs"
        )


class Builder:
    """A graph under construction.

    `known` holds the values that shape arithmetic may use; `batched` names the tensors, and the shape values, that
    follow a batch changed while importing.
    """

    def __init__(self, name: str) -> None:
        """Start an empty graph called `name`; names of graphs and nodes are shown, so they become printable."""
        self.name = printable(name)
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.tensors: dict[str, TensorType] = {}
        self.constants: dict[str, Constant] = {}
        self.known: dict[str, Array] = {}
        self.batched: set[str] = set()
        self._node_names: set[str] = set()

    def input(self, name: str, kind: TensorType) -> str:
        """Declare a graph input."""
        self._declare(name, kind)
        self.inputs.append(name)
        return name

    def constant(self, name: str, constant: Constant) -> str:
        """Add a constant; its values become known when they exist and are small."""
        self._declare(name, constant.type)
        self.constants[name] = constant
        limit = MAX_KNOWN_FLOATS if dtype_of(constant.type.dtype).is_float else MAX_FOLD_ELEMENTS
        if not constant.stripped and constant.type.elements <= limit:
            self.known[name] = constant.value()
        return name

    def array(self, hint: str, value: Any, dtype: str) -> str:
        """Add a constant of known values under a free name that starts with `hint`."""
        rounded = round_to(np.asarray(value), dtype_of(dtype))
        return self.constant(self.fresh(hint), Constant.of(rounded, dtype))

    def fresh(self, hint: str) -> str:
        """Return a tensor name that is not in use: `hint`, or `hint.1`, `hint.2` ..."""
        return free_name(hint, self.tensors)

    def type(self, name: str) -> TensorType:
        """Return the type of a tensor; raises ModelError when nothing has written it."""
        if name not in self.tensors:
            raise ModelError(f"tensor {name!r} is read before anything writes it: the model is not a valid graph")
        return self.tensors[name]

    def value(self, name: str) -> Array | None:
        """Return the values of a tensor if they are known, else None; the empty name is never known."""
        return self.known.get(name)

    def emit(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> str:
        """Add a node (or its folded result) and return its first output; trailing absent operands are dropped."""
        given = _trimmed(inputs)
        written = _trimmed(outputs) if outputs is not None else (self.fresh(f"{name}:out"),)
        node = Node(free_name(printable(name) or op, self._node_names, "_"), op, given, written, attrs or {})
        if not written:
            raise ModelError(f"node {node.name!r} ({op}) writes nothing: remove it from the model")
        if not written[0]:  # every operator has its first output, read or not
            written = (self.fresh(f"{name}:out"), *written[1:])
        row = op_def(op)
        kinds = row.infer(node, [self.type(n) if n else None for n in given], [self.known.get(n) for n in given])
        if len(kinds) < len(written):
            raise ModelError(f"node {node.name!r} ({op}) has {len(written)} outputs, only {len(kinds)} are supported")
        for out, kind in zip(written, kinds):
            check_size(out or op, kind.shape)
        if not self.batched.isdisjoint(given):
            self.batched.update(n for n in written if n)
        if op == "Identity" and given[0] in self.constants:
            return self.constant(written[0], self.constants[given[0]])
        if self._foldable(op, given, kinds):
            values = row.evaluate(node, [self.known[n] if n else None for n in given])
            for out, kind, value in zip(written, kinds, values):
                if out:
                    self.constant(out, Constant.of(round_to(value, dtype_of(kind.dtype)), kind.dtype))
                    self.known[out] = self.constants[out].value()
            return written[0]
        for out, kind in zip(written, kinds):
            if out:
                self._declare(out, kind)
        self.nodes.append(node)
        self._node_names.add(node.name)
        return written[0]

    def finish(self, outputs: Sequence[str]) -> Graph:
        """Return the graph, without the constants and tensors that no node mentions; raises ModelError if invalid."""
        for name in outputs:
            self.type(name)
        graph = Graph(self.name, tuple(self.nodes), tuple(self.inputs), tuple(outputs), self.tensors, self.constants)
        return graph.with_nodes(graph.nodes)

    def _foldable(self, op: str, inputs: Sequence[str], kinds: Sequence[TensorType]) -> bool:
        if op in _NEVER_FOLDED or any(n and n not in self.known for n in inputs):
            return False
        return max(kind.elements for kind in kinds) <= MAX_FOLD_ELEMENTS

    def _declare(self, name: str, kind: TensorType) -> None:
        if name in self.tensors:
            raise ModelError(f"tensor {name!r} is written twice: the model is not in single-assignment form")
        check_size(name, kind.shape)
        self.tensors[name] = kind


def _trimmed(names: Sequence[str]) -> tuple[str, ...]:
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return tuple(kept)
