"""Lowering rules of operators that only move data: each is one strided copy, a few, or a window of one element."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.graph import Constant, Node, TensorType
from compiler.kernels.move import Dilate, Move, build, build_dilate
from compiler.kernels.pool import Pool
from compiler.kernels.pool import build as build_window
from compiler.kernels.tiles import collapse
from compiler.lower.context import Call, Context, NoKernel, alone, row_major, rule
from compiler.lower.views import broadcast_strides, call, operand
from compiler.ops.base import product
from compiler.ops.spatial import channel_last, logical_shape
from compiler.passes.resample import repeats
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to
from isa.program import MAX_DIMS

MAX_COPIES = 128  # launches that one operator may become


def strided(
    context: Context, x: str, out: str, extents: Sequence[int], src: Sequence[int], dst: Sequence[int],
    first: int = 0, place: int = 0,
) -> list[Call]:
    """Copy x to out over an index space; strides, `first` (in x) and `place` (in out) in elements."""  # fmt: skip
    if 0 in extents:
        return []
    sizes, (a, b) = collapse(extents, src, dst)
    if len(sizes) > MAX_DIMS:
        return _unrolled(context, x, out, (sizes, a, b), first, place)
    spec = Move(sizes, operand(context, x, a), operand(context, out, b))
    bind = {"x": (x, first * spec.src.size_bytes), "out": (out, place * spec.dst.size_bytes)}
    return [call(context, spec, build, bind)]


def _unrolled(
    context: Context, x: str, out: str, space: tuple[Sequence[int], Sequence[int], Sequence[int]], first: int,
    place: int,
) -> list[Call]:
    """More dimensions than a descriptor has: a copy for each index of the shortest one."""  # fmt: skip
    sizes, a, b = space
    at = min(range(len(sizes)), key=lambda i: sizes[i])
    if product(sorted(sizes)[: len(sizes) - MAX_DIMS]) > MAX_COPIES:
        raise NoKernel(f"{out}: {len(sizes)} dimensions that cannot be merged; a descriptor has {MAX_DIMS}")
    rest = [[v for i, v in enumerate(row) if i != at] for row in space]
    calls: list[Call] = []
    for i in range(sizes[at]):
        calls += strided(context, x, out, rest[0], rest[1], rest[2], first + i * a[at], place + i * b[at])
    return calls


def _dense(context: Context, node: Node, extents: Sequence[int], src: Sequence[int], first: int = 0) -> list[Call]:
    """A copy that fills the node's output in order."""
    return strided(context, node.inputs[0], node.outputs[0], extents, src, row_major(tuple(extents)), first)


@rule("Transpose")
def transpose(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Permuted dimensions."""
    node = alone(nodes)
    shape = context.type_of(node.inputs[0]).shape
    strides = row_major(shape)
    perm = node.attrs.get("perm", tuple(reversed(range(len(shape)))))
    return _dense(context, node, [shape[p] for p in perm], [strides[p] for p in perm])


@rule("Slice")
def slice_(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """A regular part of a tensor; bounds are clamped as ONNX says."""
    node = alone(nodes)
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
    node = alone(nodes)
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
    node = alone(nodes)
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
    node = alone(nodes)
    shape = context.type_of(node.outputs[0]).shape
    return _dense(context, node, shape, broadcast_strides(context.type_of(node.inputs[0]).shape, shape))


@rule("Tile")
def tile(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Repeats: an extra dimension of stride 0 before each."""
    node = alone(nodes)
    shape = context.type_of(node.inputs[0]).shape
    extents = [e for pair in zip(node.attrs["repeats"], shape) for e in pair]
    return _dense(context, node, extents, [s for stride in row_major(shape) for s in (0, stride)])


@rule("DepthToSpace", "SpaceToDepth")
def blocks(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Channels to blocks of pixels and back: a permutation of six dimensions."""
    node = alone(nodes)
    n, c, h, w = context.type_of(node.inputs[0]).shape
    b, crd = int(node.attrs["blocksize"]), node.attrs.get("mode", "DCR") == "CRD"
    if node.op == "SpaceToDepth":
        shape, perm = (n, c, h // b, b, w // b, b), (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)
    elif crd:
        shape, perm = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    else:
        shape, perm = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    strides = row_major(shape)
    return _dense(context, node, [shape[p] for p in perm], [strides[p] for p in perm])


@rule("Resize")
def resize(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Every element repeated; `compiler.passes.resample` writes out all else."""
    node = alone(nodes)
    shape, sizes = context.type_of(node.inputs[0]).shape, context.type_of(node.outputs[0]).shape
    if not repeats(node, shape):
        raise NoKernel(f"{node.name}: its coordinates do not repeat each element a whole number of times")
    extents = [e for d, s in zip(shape, sizes) for e in (d, s // d)]
    return _dense(context, node, extents, [s for stride in row_major(shape) for s in (stride, 0)])


@rule("TransData")
def trans_data(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Channels into blocks or back: a strided copy of the whole blocks, one of the last block if it is not full."""
    node = alone(nodes)
    x, out = node.inputs[0], node.outputs[0]
    inward = node.attrs["dst"] == "NC1HWC0"
    n, blocks, h, w, c0 = context.type_of(out if inward else x).shape
    channels, pixels = int(node.attrs["channels"]), h * w
    full, rest = divmod(channels, c0)
    last = "NHWC" in (node.attrs["src"], node.attrs["dst"])
    channel, pixel = (1, channels) if last else (pixels, 1)  # steps of what is not in blocks
    outer, cut = (channels * pixels, c0 * channel, pixel, channel), (blocks * pixels * c0, pixels * c0, c0, 1)
    src, dst = (outer, cut) if inward else (cut, outer)
    calls = strided(context, x, out, *_by_stride((n, full, pixels, c0), src, dst))
    if not rest:
        return calls
    at = full * c0 * channel, full * pixels * c0
    first, place = at if inward else at[::-1]
    if not inward:
        part = _by_stride((n, pixels, rest), (src[0], *src[2:]), (dst[0], *dst[2:]))
        return [*calls, *strided(context, x, out, *part, first, place)]
    spec = Pool(
        (n, pixels, rest, 1), (pixels, c0), (1, 1), (1, 1), (1, 1), (0, 0), "copy",
        operand(context, x, (src[0], pixel, channel, 1)), operand(context, out, (dst[0], c0, 1, 1)),
        float(context.type_of(x).zero_point),
    )  # fmt: skip
    bind = {"x": (x, first * spec.x.size_bytes), "out": (out, place * spec.out.size_bytes)}
    return [*calls, call(context, spec, build_window, bind)]


def _by_stride(
    extents: Sequence[int], src: Sequence[int], dst: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """The same copy with its dimensions in the order in which they lie in the result."""
    order = sorted(range(len(extents)), key=lambda i: -dst[i])
    return [extents[i] for i in order], [src[i] for i in order], [dst[i] for i in order]


@rule("Pad")
def pad(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Constants along one or two axes are a window of one element; all else is a strided copy a region."""
    node = alone(nodes)
    shape, final = (context.type_of(n).shape for n in (node.inputs[0], node.outputs[0]))
    begins = node.attrs["pads"][: len(shape)]
    if 0 in final:
        return []
    padded = [i for i in range(len(shape)) if (begins[i], final[i]) != (0, shape[i])]
    if not padded:
        return _dense(context, node, shape, row_major(shape))
    mode = node.attrs.get("mode", "constant")
    if mode != "constant":
        return _mirrored(context, node, [_spans(mode, n, b, f) for n, b, f in zip(shape, begins, final)])
    if len(padded) > 2:
        return _bordered(context, node, begins)
    return _window(context, node, padded, begins)


def _window(context: Context, node: Node, padded: Sequence[int], begins: Sequence[int]) -> list[Call]:
    """One or two padded (or cropped) axes, each merged with the unpadded axes behind it."""
    source, out = node.inputs[0], node.outputs[0]
    kind = context.type_of(source)
    shape, final = kind.shape, context.type_of(out).shape
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


@dataclass(frozen=True)
class _Span:
    """Outputs `at`, `at` + 1, ... along one axis; they take the elements `first`, `first` + `step`, ..."""

    at: int
    count: int
    first: int
    step: int = 1


def _spans(mode: str, extent: int, begin: int, final: int) -> list[_Span]:
    """One axis of a padded tensor in runs whose elements step evenly."""
    place = np.arange(final) - begin
    if mode == "edge":
        index = np.clip(place, 0, extent - 1)
    elif mode == "wrap":
        index = place % extent
    else:  # reflect: a triangle wave, whose period leaves out both ends
        period = max(1, 2 * (extent - 1))
        index = np.minimum(place % period, -place % period)
    spans: list[_Span] = []
    at = 0
    while at < final:
        step = int(index[at + 1] - index[at]) if at + 1 < final else 1
        steps = np.diff(index[at:]) == step
        count = 1 + (len(steps) if steps.all() else int(np.argmin(steps)))
        spans.append(_Span(at, count, int(index[at]), step))
        at += count
    return spans


def _mirrored(context: Context, node: Node, axes: Sequence[Sequence[_Span]]) -> list[Call]:
    """A copy for each combination of runs."""
    source, out = node.inputs[0], node.outputs[0]
    src, dst = (row_major(context.type_of(n).shape) for n in (source, out))
    if product([len(spans) for spans in axes]) > MAX_COPIES:
        raise NoKernel(f"{node.name}: {node.attrs['mode']} padding in more than {MAX_COPIES} pieces")
    calls: list[Call] = []
    for spans in itertools.product(*axes):
        calls += strided(
            context, source, out, [s.count for s in spans], [k * s.step for k, s in zip(src, spans)], dst,
            sum(k * s.first for k, s in zip(src, spans)), sum(k * s.at for k, s in zip(dst, spans)),
        )  # fmt: skip
    return calls


def _bordered(context: Context, node: Node, begins: Sequence[int]) -> list[Call]:
    """The kept part of the input, and slabs of the value around it, axis by axis."""
    source, out = node.inputs[0], node.outputs[0]
    kind, final = context.type_of(source), context.type_of(out).shape
    src, dst = row_major(kind.shape), row_major(final)
    low = [max(0, b) for b in begins]
    high = [max(a, min(f, n + b)) for a, f, n, b in zip(low, final, kind.shape, begins)]
    kept = [b - a for a, b in zip(low, high)]
    calls = strided(context, source, out, kept, src, dst, sum(k * (a - b) for k, a, b in zip(src, low, begins)),
                    sum(k * a for k, a in zip(dst, low)))  # fmt: skip
    stored = float(node.attrs.get("value", 0.0)) / kind.scale + kind.zero_point
    single = TensorType((1,), kind.dtype, kind.scale, kind.zero_point)
    value = context.add_constant(f"{node.name}.value", Constant(single, lambda: round_to(
        np.full(1, stored, np.float32), dtype_of(kind.dtype))))  # fmt: skip
    for axis, extent in enumerate(final):
        around = [*kept[:axis], extent, *final[axis + 1 :]]  # slabs of earlier axes lie outside of the kept part
        start = sum(dst[i] * low[i] for i in range(axis))
        for first, last in ((0, low[axis]), (high[axis], extent)):
            around[axis] = last - first
            calls += strided(context, value, out, around, (0,) * len(final), dst, 0, start + first * dst[axis])
    return calls


@rule("Dilate")
def dilate(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Zero insertion between the elements of one or two spatial axes (attribute `strides`)."""
    node = alone(nodes)
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
