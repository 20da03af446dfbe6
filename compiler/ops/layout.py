"""Operators that only move data, by addresses known before anything runs."""

from __future__ import annotations

import numpy as np

from compiler import layouts
from compiler.graph import Array, Node, TensorType
from compiler.ops.base import (
    Types,
    Values,
    axes_of,
    axis_of,
    broadcast,
    compute,
    computed,
    fail,
    given,
    ints,
    no_work,
    product,
    register,
    same_type,
    want,
)


def _infer_reshape(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, shape = want(node, types, 0), ints(node, "shape")
    if min(shape, default=0) < 0 or product(shape) != x.elements:
        raise fail(node, f"{list(x.shape)} ({x.elements} elements) cannot be reshaped to {list(shape)}")
    return [TensorType(shape, x.dtype)]


def _reshape(node: Node, values: Values) -> list[Array]:
    return [compute(given(node, values, 0)).reshape(ints(node, "shape"))]


def _flat_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    axis = axis_of(node, len(shape), 1, extra=1)
    return product(shape[:axis]), product(shape[axis:])


def _infer_flatten(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    return [TensorType(_flat_shape(node, x.shape), x.dtype)]


def _flatten(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    return [x.reshape(_flat_shape(node, tuple(x.shape)))]


def _squeezed(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = axes_of(node, len(shape), [i for i, d in enumerate(shape) if d == 1])
    for axis in axes:
        if shape[axis] != 1:
            raise fail(node, f"axis {axis} of {list(shape)} has extent {shape[axis]}, only 1 can be squeezed")
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def _unsqueezed(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(shape) + len(ints(node, "axes"))
    axes, rest = axes_of(node, rank), iter(shape)
    return tuple(1 if i in axes else next(rest) for i in range(rank))


def _infer_squeeze(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    change = _squeezed if node.op == "Squeeze" else _unsqueezed
    return [TensorType(change(node, x.shape), x.dtype)]


def _squeeze(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    change = _squeezed if node.op == "Squeeze" else _unsqueezed
    return [x.reshape(change(node, tuple(x.shape)))]


def _permutation(node: Node, rank: int) -> tuple[int, ...]:
    perm = ints(node, "perm", range(rank - 1, -1, -1))
    if sorted(perm) != list(range(rank)):
        raise fail(node, f"perm {list(perm)} is not a permutation of {rank} axes")
    return perm


def _infer_transpose(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    return [TensorType(tuple(x.shape[i] for i in _permutation(node, len(x.shape))), x.dtype)]


def _transpose(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    return [np.ascontiguousarray(x.transpose(_permutation(node, x.ndim)))]


def _infer_concat(node: Node, types: Types, values: Values) -> list[TensorType]:
    first = want(node, types, 0)
    axis, total = axis_of(node, len(first.shape), 0), 0
    for index in range(len(types)):
        part = want(node, types, index)
        if len(part.shape) != len(first.shape) or any(
            a != b for i, (a, b) in enumerate(zip(part.shape, first.shape)) if i != axis
        ):
            raise fail(node, f"{list(part.shape)} and {list(first.shape)} differ outside axis {axis}")
        total += part.shape[axis]
    return [TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)]


def _concat(node: Node, values: Values) -> list[Array]:
    parts = computed(values)
    return [np.concatenate(parts, axis=int(node.attrs.get("axis", 0)))]


def _infer_split(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    axis, sizes = axis_of(node, len(x.shape), 0), ints(node, "split")
    if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0 or len(sizes) != len(node.outputs):
        raise fail(node, f"split {list(sizes)} does not divide extent {x.shape[axis]} into {len(node.outputs)} outputs")
    return [TensorType((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype) for size in sizes]


def _split(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    places = np.cumsum(ints(node, "split"))[:-1]
    return list(np.split(x, [int(p) for p in places], axis=axis_of(node, x.ndim, 0)))


def _slices(node: Node, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Python slices of an ONNX Slice; bounds are clamped as ONNX says."""
    starts, ends = ints(node, "starts"), ints(node, "ends")
    axes, steps = ints(node, "axes", range(len(starts))), ints(node, "steps", (1,) * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise fail(node, "starts, ends, axes and steps have different lengths")
    found = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        if not -len(shape) <= axis < len(shape) or step == 0:
            raise fail(node, f"axis {axis} or step {step} is not possible for {list(shape)}")
        extent = shape[axis]
        start, end = (v + extent if v < 0 else v for v in (start, end))
        if step > 0:
            found[axis] = slice(min(max(start, 0), extent), min(max(end, 0), extent), step)
        else:
            last = min(max(end, -1), extent - 1)
            found[axis] = slice(min(max(start, 0), extent - 1), None if last < 0 else last, step)
    return tuple(found)


def _infer_slice(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    places = _slices(node, x.shape)
    return [TensorType(tuple(len(range(*s.indices(d))) for s, d in zip(places, x.shape)), x.dtype)]


def _slice(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    return [np.ascontiguousarray(x[_slices(node, tuple(x.shape))])]


def _pads(node: Node, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    pads, rank = ints(node, "pads"), len(shape)
    if len(pads) != 2 * rank:
        raise fail(node, f"pads {list(pads)} must have {2 * rank} entries")
    widths = list(zip(pads[:rank], pads[rank:]))
    for extent, (begin, end) in zip(shape, widths):
        if extent + begin + end < 0 or -begin > extent or -end > extent:
            raise fail(node, f"pads {list(pads)} remove more than {list(shape)} has")
    return widths


def _infer_pad(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    mode = node.attrs.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise fail(node, f"mode {mode!r} is not constant, reflect, edge or wrap")
    widths = _pads(node, x.shape)
    for extent, (begin, end) in zip(x.shape, widths):
        if mode != "constant" and max(begin, end) > 0 and extent < 1 + (mode == "reflect"):
            raise fail(node, f"mode {mode} cannot pad an axis of extent {extent}")
    return [TensorType(tuple(d + b + e for d, (b, e) in zip(x.shape, widths)), x.dtype)]


def _pad(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    widths = _pads(node, tuple(x.shape))
    crop = tuple(slice(max(0, -b), d - max(0, -e)) for d, (b, e) in zip(x.shape, widths))
    grow = [(max(0, b), max(0, e)) for b, e in widths]
    mode = node.attrs.get("mode", "constant")
    if mode == "constant":
        return [np.pad(x[crop], grow, constant_values=node.attrs.get("value", 0))]
    return [np.pad(x[crop], grow, mode=mode)]


def _infer_expand(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    return [TensorType(broadcast(node, x.shape, ints(node, "shape")), x.dtype)]


def _expand(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    return [np.ascontiguousarray(np.broadcast_to(x, broadcast(node, tuple(x.shape), ints(node, "shape"))))]


def _infer_tile(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, repeats = want(node, types, 0), ints(node, "repeats")
    if len(repeats) != len(x.shape) or min(repeats, default=0) < 0:
        raise fail(node, f"repeats {list(repeats)} do not fit {list(x.shape)}")
    return [TensorType(tuple(d * r for d, r in zip(x.shape, repeats)), x.dtype)]


def _tile(node: Node, values: Values) -> list[Array]:
    return [np.tile(compute(given(node, values, 0)), ints(node, "repeats"))]


def _identity(node: Node, values: Values) -> list[Array]:
    return [compute(given(node, values, 0))]


def _infer_dropout(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    return [x, TensorType(x.shape, "bool")][: max(1, len(node.outputs))]


def _dropout(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    return [x, np.ones(x.shape, dtype=bool)][: max(1, len(node.outputs))]


def _block(node: Node, shape: tuple[int, ...]) -> int:
    block = int(node.attrs.get("blocksize", 0))
    if len(shape) != 4 or block < 1:
        raise fail(node, f"input {list(shape)} must be 4-D and blocksize {block} at least 1")
    return block


def _infer_depth_to_space(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    block = _block(node, x.shape)
    n, c, h, w = x.shape
    if c % (block * block):
        raise fail(node, f"{c} channels cannot be divided by blocksize {block} squared")
    return [TensorType((n, c // (block * block), h * block, w * block), x.dtype)]


def _depth_to_space(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    block = _block(node, tuple(x.shape))
    n, c, h, w = x.shape
    if node.attrs.get("mode", "DCR") == "CRD":
        y = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        y = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return [np.ascontiguousarray(y).reshape(n, c // block**2, h * block, w * block)]


def _infer_space_to_depth(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    block = _block(node, x.shape)
    n, c, h, w = x.shape
    if h % block or w % block:
        raise fail(node, f"image {h} x {w} cannot be divided by blocksize {block}")
    return [TensorType((n, c * block * block, h // block, w // block), x.dtype)]


def _space_to_depth(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    block = _block(node, tuple(x.shape))
    n, c, h, w = x.shape
    channels_first = node.attrs.get("mode", "DCR") == "CRD"
    perm = (0, 1, 3, 5, 2, 4) if channels_first else (0, 3, 5, 1, 2, 4)
    y = x.reshape(n, c, h // block, block, w // block, block).transpose(perm)
    return [np.ascontiguousarray(y).reshape(n, c * block**2, h // block, w // block)]


def _plan(node: Node, x: tuple[int, ...]) -> tuple[tuple[int, ...], layouts.Fractal]:
    """(shape with channels last, block) of a TransData between [N, C, H, W] or [N, H, W, C] and blocks of channels."""
    src, dst = str(node.attrs["src"]), str(node.attrs["dst"])
    channels, block = int(node.attrs["channels"]), layouts.Fractal(int(node.attrs["c0"]))
    plain = src if dst == "NC1HWC0" else dst
    blocked = "NC1HWC0" in (src, dst)
    if not blocked or plain not in ("NCHW", "NHWC") or len(x) != (5 if src == "NC1HWC0" else 4):
        raise fail(node, f"{src} to {dst} of {list(x)} is not between NCHW or NHWC and NC1HWC0")
    if src == "NC1HWC0":
        return (x[0], x[2], x[3], channels), block
    return (x[0], *x[2:], x[1]) if src == "NCHW" else x, block


def _infer_trans_data(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    last, block = _plan(node, x.shape)
    if node.attrs["dst"] == "NC1HWC0":
        return [TensorType(layouts.stored_shape("NC1HWC0", last, block), x.dtype)]
    if layouts.stored_shape("NC1HWC0", last, block) != x.shape:
        raise fail(node, f"{list(x.shape)} is not {list(last)} in blocks of {block.cols} channels")
    return [TensorType((last[0], last[3], *last[1:3]) if node.attrs["dst"] == "NCHW" else last, x.dtype)]


def _trans_data(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    last, block = _plan(node, x.shape)
    if node.attrs["dst"] == "NC1HWC0":
        return [layouts.store("NC1HWC0", np.moveaxis(x, 1, -1) if node.attrs["src"] == "NCHW" else x, block)]
    plain = layouts.load("NC1HWC0", x, last, block)
    return [np.ascontiguousarray(np.moveaxis(plain, -1, 1)) if node.attrs["dst"] == "NCHW" else plain]


register("Reshape", "layout", _infer_reshape, _reshape, no_work)
register("Flatten", "layout", _infer_flatten, _flatten, no_work)
register("Squeeze", "layout", _infer_squeeze, _squeeze, no_work)
register("Unsqueeze", "layout", _infer_squeeze, _squeeze, no_work)
register("Transpose", "layout", _infer_transpose, _transpose, no_work)
register("TransData", "layout", _infer_trans_data, _trans_data, no_work)
register("Concat", "layout", _infer_concat, _concat, no_work)
register("Split", "layout", _infer_split, _split, no_work)
register("Slice", "layout", _infer_slice, _slice, no_work)
register("Pad", "layout", _infer_pad, _pad, no_work)
register("Expand", "layout", _infer_expand, _expand, no_work)
register("Tile", "layout", _infer_tile, _tile, no_work)
register("Identity", "layout", same_type, _identity, no_work)
register("Dropout", "layout", _infer_dropout, _dropout, no_work)
register("DepthToSpace", "layout", _infer_depth_to_space, _depth_to_space, no_work)
register("SpaceToDepth", "layout", _infer_space_to_depth, _space_to_depth, no_work)
