"""Lowering rules of pools: windows in either layout. Global pools are reductions (compiler.lower.rows)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from compiler.graph import Array, Constant, Node, TensorType
from compiler.kernels.pool import Pool, build
from compiler.lower.context import Call, Context, NoKernel, alone, row_major, rule
from compiler.lower.views import call, operand
from compiler.ops.spatial import channel_last, logical_shape, window_of

Bind = Mapping[str, tuple[str, int]]


@rule("MaxPool", "AveragePool")
def pool(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Pools over one or two spatial axes."""
    node = alone(nodes)
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
    kind, maximum = context.type_of(source), node.op == "MaxPool"
    x = operand(context, source, row_major((b, h, w, c)))
    spec = Pool(
        (b, h, w, c), (oh, ow), two(window.kernel, 1), two(window.strides, 1), two(window.dilations, 1),
        two(window.begins, 0), "max" if maximum else "sum", x, operand(context, result, row_major((b, oh, ow, c))),
        float("-inf") if maximum else float(kind.zero_point),
    )  # fmt: skip
    bind = {"x": (source, 0), "out": (result, 0)}
    if maximum:
        return [call(context, spec, build, bind)]
    table = _counts(node, window.kernel, extents, outputs)
    if (table == table.flat[0]).all():
        return [call(context, replace(spec, factor=1.0 / float(table.flat[0])), build, bind)]
    try:
        return [_scaled(context, node.name, spec, table, bind)]
    except NoKernel:  # the machine multiplies by immediates only
        return _regions(context, spec, table.reshape(oh, ow), bind)


def _scaled(context: Context, name: str, spec: Pool, table: Array, bind: Bind) -> Call:
    """Sums times one over their counts, as a tensor."""
    inverse = Constant(TensorType(table.shape, "fp32"), lambda: np.float32(1) / table)
    counts = context.add_constant(f"{name}.counts", inverse)
    spec = replace(spec, counts=operand(context, counts, (0, spec.outputs[1], 1, 0)))
    return call(context, spec, build, {**bind, "counts": (counts, 0)})


def _regions(context: Context, spec: Pool, table: Array, bind: Bind) -> list[Call]:
    """A pool for every rectangle of outputs whose counts are equal: the middle, the borders and the corners."""
    calls = []
    for top, high in _runs(table):
        for left, wide in _runs(table.T):
            place = top * spec.out.strides[1] + left * spec.out.strides[2]
            begins = (spec.begins[0] - top * spec.strides[0], spec.begins[1] - left * spec.strides[1])
            part = replace(spec, outputs=(high, wide), begins=begins, factor=1.0 / float(table[top, left]))
            calls.append(call(context, part, build, {**bind, "out": (bind["out"][0], place * spec.out.size_bytes)}))
    return calls


def _runs(table: Array) -> list[tuple[int, int]]:
    """First row and number of rows of every run of equal rows."""
    starts = [i for i in range(len(table)) if i == 0 or (table[i] != table[i - 1]).any()]
    return [(a, b - a) for a, b in zip(starts, [*starts[1:], len(table)])]


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
