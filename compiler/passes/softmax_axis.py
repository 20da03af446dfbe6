"""Softmax between two products: computed transposed, so that its reductions do not run across lanes.

softmax(A B) C, rows along the last axis, equals (softmax(B^T A^T) along the axis before it)^T C; the products read
transposed operands in place, so nothing moves. Worth it where the cross-lane unit is slower than the vector unit.

Valid in: canonical graphs after `matmul_fuse`. Valid out: the same values, scores stored transposed.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Graph, Node, TensorType
from compiler.ops import op_def


def run(graph: Graph) -> Graph:
    """Transpose every chain product -> scalar element-wise operators -> Softmax -> product that nothing else reads."""
    readers, producers = graph.consumers(), graph.producers()
    changed: dict[str, Node] = {}
    tensors: dict[str, TensorType] = {}
    for node in graph.nodes:
        if node.op != "Softmax" or node.attrs.get("axis", -1) != -1 or node.outputs[0] in graph.outputs:
            continue
        chain = _chain(graph, node, producers, readers)
        after = readers.get(node.outputs[0], [])
        if not chain or len(after) != 1 or after[0].op != "MatMul" or after[0].inputs[0] != node.outputs[0]:
            continue
        if node.outputs[0] in after[0].inputs[1:]:
            continue
        product, last = chain[0], after[0]
        left, right, *rest = product.inputs
        turned = {"transA": 1 - int(product.attrs.get("transB", 0)), "transB": 1 - int(product.attrs.get("transA", 0))}
        changed[product.name] = replace(product, inputs=(right, left, *rest), attrs={**product.attrs, **turned})
        changed[node.name] = replace(node, attrs={**node.attrs, "axis": -2})
        before = changed.get(last.name, last)
        changed[last.name] = replace(before, attrs={**before.attrs, "transA": 1 - int(before.attrs.get("transA", 0))})
        for step in (*chain, node):
            kind = graph.tensors[step.outputs[0]]
            tensors[step.outputs[0]] = replace(kind, shape=(*kind.shape[:-2], kind.shape[-1], kind.shape[-2]))
    if not changed:
        return graph
    return graph.with_nodes((changed.get(n.name, n) for n in graph.nodes), tensors=tensors)


def _chain(graph: Graph, softmax: Node, producers: dict[str, Node], readers: dict[str, list[Node]]) -> list[Node]:
    """The product and the scalar operators between it and the softmax, in order; empty when something else is there."""
    found: list[Node] = []
    name = softmax.inputs[0]
    while True:
        node = producers.get(name)
        if node is None or len(readers.get(name, [])) != 1 or name in graph.outputs:
            return []
        found.insert(0, node)
        if node.op == "MatMul":
            ranks = [len(graph.tensors[i].shape) for i in node.inputs[:2]]
            bias = len(node.inputs) > 2 and bool(node.inputs[2])
            return [] if bias or min(ranks) < 2 or "perm" in node.attrs else found
        data = [i for i in node.inputs if i and graph.tensors[i].elements > 1]
        if op_def(node.op).op_class != "elementwise" or len(data) != 1 or len(node.outputs) != 1:
            return []
        name = data[0]
