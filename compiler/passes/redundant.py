"""Removes operators that change nothing.

Valid in: any graph. Valid out: no Identity or Dropout (but one to name a graph output that is an input or has two
names), no Cast to the same type, no Reshape, Squeeze, Unsqueeze, Expand, Tile, Transpose, Pad or Slice that returns its
operand, no pair of views that cancel, no Concat of one, no Concat that puts a Split together again.
"""

from __future__ import annotations

from collections.abc import Callable

from compiler.graph import Graph, Node
from compiler.passes.edit import Editor

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def run(graph: Graph) -> Graph:
    """Remove every redundant node; readers take the operand instead."""
    edit, producers, readers = Editor(graph), graph.producers(), graph.consumers()
    for node in graph.nodes:
        unused = [n for n in node.outputs[1:] if n and (n in readers or n in graph.outputs)]
        source = None if unused else _source(graph, producers, node)
        if source is None:
            edit.keep(node)
        else:
            edit.replace(node.outputs[0], source)
    return edit.finish()


def _source(graph: Graph, producers: dict[str, Node], node: Node) -> str | None:
    """The tensor that the node merely repeats, or None."""
    if node.op in _VIEWS:
        return _same_view(graph, producers, node)
    if node.op == "Concat":
        return _rejoined(graph, producers, node)
    test = _REDUNDANT.get(node.op)
    return node.inputs[0] if test is not None and test(graph, node) else None


def _same_view(graph: Graph, producers: dict[str, Node], node: Node) -> str | None:
    """The first tensor of a chain of views that already had this shape."""
    wanted, name = graph.tensors[node.outputs[0]], node.inputs[0]
    while graph.tensors[name] != wanted:
        before = producers.get(name)
        if before is None or before.op not in _VIEWS:
            return None
        name = before.inputs[0]
    return name


def _rejoined(graph: Graph, producers: dict[str, Node], node: Node) -> str | None:
    if len(node.inputs) == 1:
        return node.inputs[0]
    split = producers.get(node.inputs[0])
    if split is None or split.op != "Split" or split.outputs != node.inputs:
        return None
    rank = len(graph.tensors[node.outputs[0]].shape)
    same_axis = int(split.attrs.get("axis", 0)) % rank == int(node.attrs.get("axis", 0)) % rank
    return split.inputs[0] if same_axis else None


def _same_type(graph: Graph, node: Node) -> bool:
    return graph.tensors[node.inputs[0]] == graph.tensors[node.outputs[0]]


def _same_order(graph: Graph, node: Node) -> bool:
    rank = len(graph.tensors[node.inputs[0]].shape)
    return tuple(node.attrs.get("perm", range(rank - 1, -1, -1))) == tuple(range(rank))


def _whole_slice(graph: Graph, node: Node) -> bool:
    forward = all(step == 1 for step in node.attrs.get("steps", ()))
    return forward and _same_type(graph, node)


def _no_pads(graph: Graph, node: Node) -> bool:
    return not any(node.attrs["pads"])


_REDUNDANT: dict[str, Callable[[Graph, Node], bool]] = {
    **dict.fromkeys(("Identity", "Dropout"), lambda graph, node: True),
    **dict.fromkeys(("Cast", "Expand", "Tile"), _same_type),
    "Transpose": _same_order,
    "Pad": _no_pads,
    "Slice": _whole_slice,
}
