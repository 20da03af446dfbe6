"""Formats that the vector unit does not have: what stays inside a kernel, and what it reads over and over, is fp32.

Software unpacks such a value when it comes in and packs it when it goes out; between the operations of a fused chain
compilers keep it wide, as XLA does in its fusions. Constant vectors that repeat along a tensor are stored wide.

Valid in: typed graphs with fusion groups. Valid out: the same graph with wider inner tensors and constants.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from compiler.graph import Array, Graph
from compiler.ops import op_def

WIDE = "fp32"
CLASSES = ("elementwise", "reduction")
REPEATS = 8  # a constant this much smaller than the result is read over and over


def run(graph: Graph, lacking: Collection[str]) -> Graph:
    """Widen inner tensors and small constants whose dtype is one of `lacking`; tensors between kernels stay."""
    readers, group_of = graph.consumers(), {node.name: node.group for node in graph.nodes}
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    for node in graph.nodes:
        for name in node.outputs:
            used = readers.get(name, ())
            inner = used and name not in graph.outputs and all(group_of[r.name] == node.group for r in used)
            if inner and tensors[name].dtype in lacking and op_def(node.op).op_class in CLASSES:
                tensors[name] = replace(tensors[name], dtype=WIDE)
    for name, constant in graph.constants.items():
        used = readers.get(name, ())
        if constant.type.dtype not in lacking or not all(op_def(r.op).op_class in CLASSES for r in used):
            continue
        if all(constant.type.elements * REPEATS <= tensors[r.outputs[0]].elements for r in used):
            kind = replace(constant.type, dtype=WIDE)
            tensors[name], constants[name] = kind, constant.map(kind, _wide)
    return replace(graph, tensors=tensors, constants=constants)


def _wide(values: Array) -> Array:
    return values.astype("float32")
