"""Static counts of a graph, operator by operator: work, parameters, bytes; nothing is known about a machine yet."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.graph import Graph, Node
from compiler.ops import op_def


@dataclass(frozen=True)
class NodeStats:
    """One node: multiply-accumulates, arithmetic operations, parameters (elements) and bytes read and written once."""

    name: str
    op: str
    macs: int
    flops: int
    parameters: int
    read_bytes: int
    write_bytes: int


def stats(graph: Graph) -> list[NodeStats]:
    """Return a row for each node; constants that several nodes read count at each of them."""
    return [_row(graph, node) for node in graph.nodes]


def _row(graph: Graph, node: Node) -> NodeStats:
    inputs = [graph.tensors[n] if n else None for n in node.inputs]
    outputs = [graph.tensors[n] for n in node.outputs if n]
    work = op_def(node.op).work(node, inputs, outputs)
    read = [graph.tensors[n] for n in dict.fromkeys(node.inputs) if n]
    parameters = [graph.tensors[n] for n in dict.fromkeys(node.inputs) if n in graph.constants]
    return NodeStats(
        node.name,
        node.op,
        work.macs,
        work.flops,
        sum(kind.elements for kind in parameters),
        sum(kind.size_bytes for kind in read),
        sum(kind.size_bytes for kind in outputs),
    )
