"""Lowering rules of operators that only move data: each is one strided copy, a few, or a window of one element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.graph import Node
from compiler.kernels.move import Dilate, Move, build, build_dilate
from compiler.kernels.pool import Pool
from compiler.kernels.pool import build as build_window
from compiler.kernels.tiles import collapse
from compiler.lower.context import Call, Context, NoKernel, row_major, rule
from compiler.lower.views import broadcast_strides, call, operand
from compiler.ops import op_def
from compiler.ops.base import product
from compiler.ops.spatial import channel_last, logical_shape


def strided(
    context: Context, x: str, out: str, extents: Sequence[int], src: Sequence[int], dst: Sequence[int],
    first: int = 0, place: int = 0,
) -> list[Call]:
    """Copy x to out over an index space; strides, `first` (in x) and `place` (in out) in elements."""  # fmt: skip
    if 0 in extents:
        return []
    sizes, (a, b) = collapse(extents, src, dst)
    spec = Move(sizes, operand(context, x, a), operand(context, out, b))
    bind = {"x": (x, first * spec.src.size_bytes), "out": (out, place * spec.dst.size_bytes)}
    return [call(context, spec, build, bind)]


def _dense(context: Context, node: Node, extents: Sequence[int], src: Sequence[int], first: int = 0) -> list[Call]:
    """A copy that fills the node's output in order."""
    return strided(context, node.inputs[0], node.outputs[0], extents, src, row_major(tuple(extents)), first)


@rule("Transpose")
def transpose(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Permuted dimensions."""
    (node,) = nodes
    shape = context.type_of(node.inputs[0]).shape
    strides = row_major(shape)
    perm = node.attrs.get("perm", tuple(reversed(range(len(shape)))))
    return _dense(context, node, [shape[p] for p in perm], [strides[p] for p in perm])


@rule("Slice")
def slice_(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """A regular part of a tensor; bounds are clamped as ONNX says."""
    (node,) = nodes
    shape = context.type_of(node.inputs[0]).shape
    dense = row_major(shape)
    steps, first = list(dense), 0
    starts = node.attrs["starts"]
    axes = node.attrs.get("axes", tuple(range(len(starts))))
    for start, axis, step in zip(starts, axes, node.attrs.get("steps", (1,) * len(starts))):
        extent = shape[axis]
        begin = start + extent if start < 0 else start
        begin = min(max(begin, 0), extent if step > 0 else extent - 1)
        steps[axis] = dense[axis] * step
        first += begin * dense[axis]
    return _dense(context, node, context.type_of(node.outputs[0]).shape, steps, first)


@rule("Concat")
def concat(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """One copy an input, each to its part of the output."""
    (node,) = nodes
    out = node.outputs[0]
    into = row_major(context.type_of(out).shape)
    axis = node.attrs.get("axis", 0) % len(into)
    calls: list[Call] = []
    place = 0
    for name in node.inputs:
        shape = context.type_of(name).shape
        calls += strided(context, name, out, shape, row_major(shape), into, 0, place * into[axis])
        place += shape[axis]
    return calls


@rule("Split")
def split(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """One copy an output."""
    (node,) = nodes
    source = node.inputs[0]
    dense = row_major(context.type_of(source).shape)
    axis = node.attrs.get("axis", 0) % len(dense)
    calls: list[Call] = []
    first = 0
    for name, size in zip(node.outputs, node.attrs["split"]):
        if name:
            shape = context.type_of(name).shape
            calls += strided(context, source, name, shape, dense, row_major(shape), first * dense[axis])
        first += size
    return calls


@rule("Expand")
def expand(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """A broadcast."""
    (node,) = nodes
    shape = context.type_of(node.outputs[0]).shape
    return _dense(context, node, shape, broadcast_strides(context.type_of(node.inputs[0]).shape, shape))


@rule("Tile")
def tile(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Repeats: an extra dimension of stride 0 before each."""
    (node,) = nodes
    shape = context.type_of(node.inputs[0]).shape
    extents = [e for pair in zip(node.attrs["repeats"], shape) for e in pair]
    return _dense(context, node, extents, [s for stride in row_major(shape) for s in (0, stride)])


@rule("DepthToSpace", "SpaceToDepth")
def blocks(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Channels to blocks of pixels and back: a permutation of six dimensions."""
    (node,) = nodes
    n, c, h, w = context.type_of(node.inputs[0]).shape
    b = int(node.attrs["blocksize"])
    if node.op == "SpaceToDepth":
        shape, perm = (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
    elif node.attrs.get("mode", "DCR") == "CRD":
        shape, perm = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    else:
        shape, perm = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    strides = row_major(shape)
    return _dense(context, node, [shape[p] for p in perm], [strides[p] for p in perm])


@rule("Resize")
def resize(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Nearest neighbour by whole factors: every element repeated."""
    (node,) = nodes
    shape, sizes = context.type_of(node.inputs[0]).shape, context.type_of(node.outputs[0]).shape
    if node.attrs.get("mode", "nearest") != "nearest" or any(not d or s % d for s, d in zip(sizes, shape)):
        raise NoKernel(f"{node.name}: only nearest-neighbour resizing by whole factors is a copy")
    scales = node.attrs.get("scales") or [s / d for s, d in zip(sizes, shape)]
    for extent, size, scale in zip(shape, sizes, scales):
        line = Node("line", "Resize", node.inputs, node.outputs, {**node.attrs, "sizes": (size,), "scales": (scale,)})
        found = op_def("Resize").evaluate(line, [np.arange(extent)])[0]
        if not np.array_equal(found, np.repeat(np.arange(extent), size // extent)):
            raise NoKernel(f"{node.name}: its coordinates do not repeat each element {size // extent} times")
    extents = [e for d, s in zip(shape, sizes) for e in (d, s // d)]
    return _dense(context, node, extents, [s for stride in row_major(shape) for s in (stride, 0)])


@rule("Pad")
def pad(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Constant padding (or cropping) along at most two axes, each merged with the unpadded axes behind it."""
    (node,) = nodes
    source, out = node.inputs[0], node.outputs[0]
    shape, kind = context.type_of(source).shape, context.type_of(source)
    if node.attrs.get("mode", "constant") != "constant":
        raise NoKernel(f"{node.name}: mode {node.attrs['mode']} is not a strided copy")
    begins = node.attrs["pads"][: len(shape)]
    final = context.type_of(out).shape
    if 0 in final:
        return []
    padded = [i for i in range(len(shape)) if (begins[i], final[i]) != (0, shape[i])]
    if len(padded) > 2:
        raise NoKernel(f"{node.name}: padding along {len(padded)} axes; 2 are supported")
    if not padded:
        return _dense(context, node, shape, row_major(shape))
    adjacent = len(padded) == 1 or padded[1] == padded[0] + 1
    tail = product(shape[padded[-1] + 1 :]) if adjacent else 1
    inner = [1] if len(padded) == 1 else [product(shape[padded[0] + 1 : padded[1]]), 1]
    if not adjacent:
        inner[1] = product(shape[padded[1] + 1 :])
    h, w = _pair([shape[i] * k for i, k in zip(padded, inner)], 1)
    oh, ow = _pair([final[i] * k for i, k in zip(padded, inner)], 1)
    top, left = _pair([begins[i] * k for i, k in zip(padded, inner)], 0)
    b = product(shape[: padded[0]])
    spec = Pool(
        (b, h, w, tail), (oh, ow), (1, 1), (1, 1), (1, 1), (top, left), "copy",
        operand(context, source, row_major((b, h, w, tail))), operand(context, out, row_major((b, oh, ow, tail))),
        float(node.attrs.get("value", 0.0)) / kind.scale + kind.zero_point,
    )  # fmt: skip
    return [call(context, spec, build_window, {"x": (source, 0), "out": (out, 0)})]


def _pair(values: Sequence[int], fill: int) -> tuple[int, int]:
    return (values[0], values[1]) if len(values) == 2 else (fill, values[0])


@rule("Dilate")
def dilate(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Zero insertion between the elements of one or two spatial axes (attribute `strides`)."""
    (node,) = nodes
    source, out = node.inputs[0], node.outputs[0]
    n, c, *extents = logical_shape(node, context.type_of(source).shape)
    if len(extents) not in (1, 2):
        raise NoKernel(f"{node.name}: zero insertion along {len(extents)} axes; 1 or 2 are supported")
    b, c = (n, c) if channel_last(node) else (n * c, 1)
    h, w = _pair(extents, 1)
    sh, sw = _pair(node.attrs["strides"], 1)
    wide = (b, (h - 1) * sh + 1, (w - 1) * sw + 1, c)
    spec = Dilate(
        (b, h, w, c), (sh, sw), operand(context, source, row_major((b, h, w, c))),
        operand(context, out, row_major(wide)),
    )  # fmt: skip
    return [call(context, spec, build_dilate, {"x": (source, 0), "out": (out, 0)})]
