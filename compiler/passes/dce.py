"""Dead code elimination: nodes from which no output of the graph can be reached are dropped.

Valid in: any graph. Valid out: every node contributes to an output. Graph inputs stay even when nothing reads them.
"""

from __future__ import annotations

from compiler.graph import Graph, Node


def run(graph: Graph) -> Graph:
    """Drop dead nodes, and the tensors and constants that only they mentioned."""
    live = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if live.intersection(node.outputs):
            kept.append(node)
            live.update(n for n in node.inputs if n)
    return graph.with_nodes(reversed(kept))
