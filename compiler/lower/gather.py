"""Lowering rules of gathers: whole rows by index; a known single index is a slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compiler.graph import Array, Node
from compiler.kernels.gather import Gather, build
from compiler.lower.context import Call, Context, NoKernel, row_major, rule
from compiler.lower.move import strided
from compiler.lower.views import call, operand
from compiler.ops.base import product


@rule("Gather")
def gather(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Rows along any axis. Where no vector unit can mend them, indices that are computed must not be negative."""
    (node,) = nodes
    table, index = node.inputs[:2]
    out = node.outputs[0]
    shape = context.type_of(table).shape
    axis = node.attrs.get("axis", 0) % len(shape)
    before, rows, behind = product(shape[:axis]), shape[axis], product(shape[axis + 1 :])
    count = context.type_of(index).elements
    if 0 in (before, count, behind):
        return []
    dense = row_major((before, rows, behind))
    held = context.graph.constants.get(index)
    if held is not None and count == 1 and not held.stripped:
        at = int(np.asarray(held.value()).reshape(-1)[0]) % rows
        return strided(context, table, out, (before, behind), (dense[0], 1), (behind, 1), at * behind)
    if held is not None:  # ONNX counts negative indices from the end

        def counted(values: Array) -> Array:
            return np.where(values < 0, values + rows, values).astype(values.dtype)

        index = context.add_constant(f"{node.name}.rows", held.map(held.type, counted))
    kind, result = context.type_of(table), context.type_of(out)
    if (kind.dtype, kind.scale, kind.zero_point) != (result.dtype, result.scale, result.zero_point):
        raise NoKernel(f"{node.name}: a gather does not convert {kind} to {result}")
    extents = (before, count, behind)
    spec = Gather(extents, rows, operand(context, table, dense), operand(context, index, (0, 1, 0)),
                  operand(context, out, row_major(extents)), wraps=held is None)  # fmt: skip
    bind = {"index": (index, 0), "out": (out, 0), "table": (table, 0)}
    try:
        return [call(context, spec, build, bind)]
    except NoKernel:
        return [call(context, replace(spec, wraps=False), build, bind)]
