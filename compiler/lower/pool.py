"""Lowering rules of pools: windows in either layout. Global pools are reductions (compiler.lower.rows)."""

from __future__ import annotations

import numpy as np

from compiler.graph import Array, Constant, Node, TensorType
from compiler.kernels.pool import Pool, build
from compiler.lower.context import Call, Context, NoKernel, row_major, rule
from compiler.lower.views import call, operand
from compiler.ops.spatial import channel_last, logical_shape, window_of


@rule("MaxPool", "AveragePool")
def pool(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Pools over one or two spatial axes."""
    (node,) = nodes
    source, result = node.inputs[0], node.outputs[0]
    batch, channels, *extents = logical_shape(node, context.type_of(source).shape)
    if len(extents) not in (1, 2):
        raise NoKernel(f"{node.name}: a pool over {len(extents)} axes; 1 or 2 are supported")
    window = window_of(node, tuple(node.attrs["kernel_shape"]), tuple(extents))
    outputs = window.outputs(tuple(extents))

    def two(values: tuple[int, ...], fill: int) -> tuple[int, int]:
        return (fill, values[0]) if len(values) == 1 else (values[0], values[1])

    b, c = (batch, channels) if channel_last(node) else (batch * channels, 1)
    h, w = two(tuple(extents), 1)
    oh, ow = two(outputs, 1)
    bind = {"x": (source, 0), "out": (result, 0)}
    maximum = node.op == "MaxPool"
    factor, counts = 1.0, None
    if not maximum:
        table = _counts(node, window.kernel, extents, outputs)
        factor = 1.0 / float(table.flat[0])
        if (table != table.flat[0]).any():
            name = context.add_constant(
                f"{node.name}.counts", Constant(TensorType(table.shape, "fp32"), lambda: np.float32(1) / table)
            )
            bind["counts"] = (name, 0)
            counts = operand(context, name, (0, ow, 1, 0))
    kind = context.type_of(source)
    spec = Pool(
        (b, h, w, c), (oh, ow), two(window.kernel, 1), two(window.strides, 1), two(window.dilations, 1),
        two(window.begins, 0), "max" if maximum else "sum", operand(context, source, row_major((b, h, w, c))),
        operand(context, result, row_major((b, oh, ow, c))), float("-inf") if maximum else float(kind.zero_point),
        factor, counts,
    )  # fmt: skip
    return [call(context, spec, build, bind)]


def _counts(node: Node, kernel: tuple[int, ...], extents: list[int], outputs: tuple[int, ...]) -> Array:
    """Elements that each output averages: real ones, or those and the stated padding; [outputs] fp32."""
    window = window_of(node, kernel, tuple(extents))
    total = np.ones((), np.float32)
    for axis, (extent, out) in enumerate(zip(extents, outputs)):
        taps = np.arange(kernel[axis]) * window.dilations[axis] - window.begins[axis]
        at = np.arange(out)[:, None] * window.strides[axis] + taps
        low, high = 0, extent
        if node.attrs.get("count_include_pad", 0):
            low, high = -window.begins[axis], extent + window.ends[axis]
        inside = ((at >= low) & (at < high)).sum(axis=1)
        total = np.multiply.outer(total, inside)
    return np.maximum(total, 1).astype(np.float32)
