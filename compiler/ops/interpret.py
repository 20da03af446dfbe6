"""Runs a graph in numpy, operator by operator: the reference that compiled programs are checked against."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.graph import Array, Graph
from compiler.ops.base import op_def
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to
from isa.errors import ModelError


def run_graph(
    graph: Graph,
    feeds: Mapping[str, Array],
    keep: Callable[[str], bool] | None = None,
) -> dict[str, Array]:
    """Return the values of the graph's outputs and of every tensor that `keep` accepts, by name.

    Each result is rounded to its tensor's dtype; tensors are freed after their last reader. Raises ModelError when an
    input is missing or has the wrong shape, CompileError when a constant was stripped.
    """
    values: dict[str, Array] = {}
    for name in graph.inputs:
        kind = graph.tensors[name]
        if name not in feeds or tuple(feeds[name].shape) != kind.shape:
            got = list(feeds[name].shape) if name in feeds else "nothing"
            raise ModelError(f"input {name!r} needs a value of shape {list(kind.shape)}, got {got}")
        values[name] = round_to(feeds[name], dtype_of(kind.dtype))
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    kept: dict[str, Array] = {}
    for index, node in enumerate(graph.nodes):
        given = [_value(graph, values, name) if name else None for name in node.inputs]
        results = op_def(node.op).evaluate(node, given)
        for name, result in zip(node.outputs, results):
            if name:
                values[name] = round_to(result, dtype_of(graph.tensors[name].dtype))
                if keep is not None and keep(name):
                    kept[name] = values[name]
        for name in {*node.inputs, *node.outputs}:
            if last.get(name, -1) <= index and name not in graph.outputs:
                values.pop(name, None)
    return kept | {name: _value(graph, values, name) for name in graph.outputs}


def _value(graph: Graph, values: Mapping[str, Array], name: str) -> Array:
    return values[name] if name in values else graph.constants[name].value()
