"""Constant folding: what depends on constants alone becomes a constant, itself lazy.

Valid in: any graph. Valid out: no node has constant operands only, except where results or operands exceed the cap.
Operators that move data or dequantise fold at any size: their result has no more elements than their operand, and no
kernel should do at run time what the compiler can do once. A tensor without elements is a constant. Nothing is
evaluated here: a folded constant is built when first asked for, and is stripped when one of its sources is, so that a
model without weights gives the same graph.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from compiler.graph import Array, Constant, Graph, Node, TensorType
from compiler.ops import op_def
from compiler.passes.edit import Editor
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to

MAX_ELEMENTS = 1 << 20
_NEVER = ("Dropout", "Custom")


def run(graph: Graph, max_elements: int = MAX_ELEMENTS) -> Graph:
    """Fold nodes whose results and operands have at most `max_elements` elements."""
    edit = Editor(graph)
    for name in graph.inputs:
        if graph.tensors[name].elements == 0:
            edit.replace(name, edit.add_constant(f"{name}.empty", _empty(graph.tensors[name])))
    for node in graph.nodes:
        inputs = [edit.current(n) for n in node.inputs]
        if not _foldable(edit, node, inputs, max_elements):
            edit.keep(node)
            continue
        kinds = [edit.tensors[n] if n else None for n in node.outputs]
        sources = [edit.constants.get(n) for n in inputs]
        for index, (name, kind) in enumerate(zip(node.outputs, kinds)):
            if name and kind is not None and kind.elements == 0:
                edit.constants[name] = _empty(kind)
            elif name and kind is not None:
                edit.constants[name] = _folded(node, sources, index, kind)
    return edit.finish()


def _empty(kind: TensorType) -> Constant:
    return Constant(kind, lambda: np.zeros(kind.shape, dtype_of(kind.dtype).numpy))


def _foldable(edit: Editor, node: Node, inputs: list[str], max_elements: int) -> bool:
    if all(edit.tensors[n].elements == 0 for n in node.outputs if n):
        return True
    if node.op in _NEVER or not all(edit.constant(n) for n in inputs if n):
        return False
    largest = max((edit.tensors[n].elements for n in node.outputs if n), default=0)
    read = max((edit.tensors[n].elements for n in inputs if n), default=0)
    moves = op_def(node.op).op_class == "layout" or node.op == "DequantizeLinear"
    if moves and largest <= read:
        return True
    return max(largest, read) <= max_elements


def _folded(node: Node, sources: list[Constant | None], index: int, kind: TensorType) -> Constant:
    if any(source is not None and source.stripped for source in sources):
        return Constant(kind)
    return Constant(kind, partial(_evaluate, node, sources, index, kind))


def _evaluate(node: Node, sources: list[Constant | None], index: int, kind: TensorType) -> Array:
    values = [source.value() if source is not None else None for source in sources]
    return round_to(op_def(node.op).evaluate(node, values)[index], dtype_of(kind.dtype))
