"""Convolutions: im2col and BLAS per group, shifted adds where each group has one channel.

Weights are ONNX's [M, C/g, k...] (Conv) and [C, M/g, k...] (ConvTranspose); with layout 'NHWC' they are
[k..., C/g, M] and [k..., C, M/g]. A 2-D Conv with layout 'NC1HWC0' (compiler.layouts) gives blocks of `c0` channels and
takes such, or a map with channels last; its weights are as with 'NHWC'. Channels that only fill a block are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from compiler import layouts
from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, Work, computed, fail, ints, optional, product, register, want
from compiler.ops.matmul import accumulator_dtype, exact_matmul
from compiler.ops.spatial import Window, channel_last, logical_shape, stored_shape, to_logical, to_stored, window_of

BLOCKED = "NC1HWC0"

def in_blocks(node: Node) -> bool:
    """True for layout 'NC1HWC0'."""
    return bool(node.attrs.get("layout", "NCHW") == BLOCKED)


def _weight_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Conv weight shape as (M, C/g, k...)."""
    return (shape[-1], shape[-2], *shape[:-2]) if in_blocks(node) or channel_last(node) else tuple(shape)


def _last(node: Node, x: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...]:
    """[N, H, W, C] or [N, C1, H, W, C0] as [N, H, W, C], with as many channels as the weights read."""
    if len(x) not in (4, 5) or len(weight) != 4:
        raise fail(node, f"layout {BLOCKED} needs an input [N, C1, H, W, C0] and 2-D weights, not {list(x)}")
    return x if len(x) == 4 else (x[0], x[2], x[3], weight[-2] * int(node.attrs.get("group", 1)))


def _block(node: Node) -> layouts.Fractal:
    return layouts.Fractal(int(node.attrs["c0"]))


def _infer_blocked(node: Node, types: Types, values: Values) -> list[TensorType]:
    """The output of the same convolution with channels last, in blocks."""
    x, w = want(node, types, 0), want(node, types, 1)
    last = _last(node, x.shape, w.shape)
    if x.shape not in (last, layouts.stored_shape(BLOCKED, last, _block(node))):
        raise fail(node, f"{list(x.shape)} is not {list(last)} in blocks of {_block(node).cols} channels")
    plain = replace(node, attrs={**node.attrs, "layout": "NHWC"})
    (out,) = _infer_conv(plain, [TensorType(last, x.dtype), *types[1:]], values)
    return [TensorType(layouts.stored_shape(BLOCKED, out.shape, _block(node)), out.dtype)]


def _infer_conv(node: Node, types: Types, values: Values) -> list[TensorType]:
    if in_blocks(node):
        return _infer_blocked(node, types, values)
    x, w = want(node, types, 0), want(node, types, 1)
    if len(w.shape) != len(x.shape) or len(x.shape) < 3:
        raise fail(node, f"input {list(x.shape)} and weight {list(w.shape)} must have the same rank, at least 3")
    (batch, channels, *extents), (maps, depth, *kernel) = logical_shape(node, x.shape), _weight_shape(node, w.shape)
    group = int(node.attrs.get("group", 1))
    if group < 1 or channels != depth * group or maps % group:
        raise fail(node, f"{channels} input channels, group {group} and weight {list(w.shape)} do not agree")
    bias = optional(types, 2)
    if bias is not None and bias.shape != (maps,):
        raise fail(node, f"bias {list(bias.shape)} must be [{maps}]")
    window = window_of(node, tuple(kernel), tuple(extents))
    shape = stored_shape(node, (batch, maps, *window.outputs(tuple(extents))))
    return [TensorType(shape, accumulator_dtype(x.dtype))]


def _depthwise(x: Array, w: Array, window: Window, outputs: tuple[int, ...]) -> Array:
    """Each output channel reads one input channel: a shifted multiply-add a tap."""
    repeat = w.shape[0] // x.shape[1]
    source = np.repeat(x, repeat, axis=1) if repeat > 1 else x
    total = np.zeros((x.shape[0], w.shape[0], *outputs), dtype=np.result_type(x, w))
    scale_shape = (1, -1) + (1,) * len(outputs)
    by_tap = w.reshape(w.shape[0], -1)
    for index, tap in enumerate(window.taps()):
        total += source[window.slices(tap, outputs)] * by_tap[:, index].reshape(scale_shape)
    return total


def _im2col(x: Array, w: Array, window: Window, outputs: tuple[int, ...]) -> Array:
    """One image [C, ...] against weights [M, C, k...]: a matrix product over unfolded windows."""
    rank = len(outputs)
    views = sliding_window_view(x, window.reach, axis=tuple(range(1, rank + 1)))
    positions = tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(outputs, window.strides))
    inside = tuple(slice(None, None, d) for d in window.dilations)
    picked = views[(slice(None), *positions, *inside)]  # [C, out..., k...]
    order = (0, *range(rank + 1, 2 * rank + 1), *range(1, rank + 1))
    columns = picked.transpose(order).reshape(product((x.shape[0], *window.kernel)), -1)
    return exact_matmul(w.reshape(w.shape[0], -1), columns).reshape(w.shape[0], *outputs)


def _blocked(node: Node, values: Values) -> list[Array]:
    """The convolution with channels last, between conversions."""
    x, w, *bias = computed(values)
    last = x if x.ndim == 4 else layouts.load(BLOCKED, x, _last(node, x.shape, w.shape), _block(node))
    plain = replace(node, attrs={**node.attrs, "layout": "NHWC"})
    return [layouts.store(BLOCKED, _conv(plain, [last, w, *bias])[0], _block(node))]


def _conv(node: Node, values: Values) -> list[Array]:
    if in_blocks(node):
        return _blocked(node, values)
    operands = computed(values)
    x, w, bias = to_logical(node, operands[0]), operands[1], optional(operands, 2)
    w = np.moveaxis(w, (-1, -2), (0, 1)) if channel_last(node) else w
    if x.dtype.kind in "iu":
        x, w = x.astype(np.int64), w.astype(np.int64)
    group = int(node.attrs.get("group", 1))
    window = window_of(node, tuple(w.shape[2:]), tuple(x.shape[2:]))
    outputs = window.outputs(tuple(x.shape[2:]))
    padded = window.pad(x, outputs)
    if group > 1 and w.shape[1] == 1:
        y = _depthwise(padded, w, window, outputs)
    else:
        y = np.empty((x.shape[0], w.shape[0], *outputs), dtype=np.result_type(x, w))
        depth, maps = w.shape[1], w.shape[0] // group
        for image in range(x.shape[0]):
            for g in range(group):
                part = w[g * maps : (g + 1) * maps]
                source = padded[image, g * depth : (g + 1) * depth]
                y[image, g * maps : (g + 1) * maps] = _im2col(source, part, window, outputs)
    if bias is not None:
        y = y + bias.reshape((1, -1) + (1,) * len(outputs))
    return [to_stored(node, y.astype(np.int32) if y.dtype == np.int64 else y)]


def _conv_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    maps, depth, *kernel = _weight_shape(node, want(node, inputs, 1).shape)
    shape = outputs[0].shape
    made = shape[0] * maps * shape[2] * shape[3] if in_blocks(node) else outputs[0].elements
    macs = made * depth * product(kernel)
    return Work(macs, 2 * macs + (made if optional(inputs, 2) is not None else 0))


def _transpose_weight(node: Node, w: tuple[int, ...]) -> tuple[int, ...]:
    """ConvTranspose weight shape as (C, M/g, k...)."""
    return (w[-2], w[-1], *w[:-2]) if channel_last(node) else tuple(w)


def _transpose_geometry(
    node: Node, extents: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[Window, tuple[int, ...]]:
    """Window of the scatter and the output extents: (x - 1) * stride + reach + output_padding - pads."""
    rank = len(extents)
    ones = (1,) * rank
    pads, extra = ints(node, "pads", (0,) * 2 * rank), ints(node, "output_padding", (0,) * rank)
    window = Window(kernel, ints(node, "strides", ones), ints(node, "dilations", ones), pads[:rank], pads[rank:])
    if min((*window.strides, *window.dilations, *extents), default=1) < 1 or not len(extra) == len(window.ends) == rank:
        raise fail(node, f"strides {window.strides}, dilations {window.dilations}, pads {pads} do not fit {extents}")
    zipped = zip(extents, window.strides, window.reach, extra, window.begins, window.ends)
    outputs = tuple((x - 1) * s + r + e - b - t for x, s, r, e, b, t in zipped)
    if min(outputs, default=1) < 1:
        raise fail(node, f"pads {list(pads)} leave no output")
    return window, outputs


def _infer_transpose(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, w = want(node, types, 0), want(node, types, 1)
    if len(w.shape) != len(x.shape) or len(x.shape) < 3:
        raise fail(node, f"input {list(x.shape)} and weight {list(w.shape)} must have the same rank, at least 3")
    batch, channels, *extents = logical_shape(node, x.shape)
    depth, maps, *kernel = _transpose_weight(node, w.shape)
    group = int(node.attrs.get("group", 1))
    if group < 1 or channels != depth or channels % group:
        raise fail(node, f"{channels} input channels, group {group} and weight {list(w.shape)} do not agree")
    _, outputs = _transpose_geometry(node, tuple(extents), tuple(kernel))
    return [TensorType(stored_shape(node, (batch, maps * group, *outputs)), accumulator_dtype(x.dtype))]


def _conv_transpose(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    x, w, bias = to_logical(node, operands[0]), operands[1], optional(operands, 2)
    w = np.moveaxis(w, (-2, -1), (0, 1)) if channel_last(node) else w
    extents, kernel, group = tuple(x.shape[2:]), tuple(w.shape[2:]), int(node.attrs.get("group", 1))
    window, outputs = _transpose_geometry(node, extents, kernel)
    depth, maps = x.shape[1] // group, w.shape[1]
    needed = tuple((n - 1) * s + r for n, s, r in zip(extents, window.strides, window.reach))
    full = tuple(max(n, o + b) for n, o, b in zip(needed, outputs, window.begins))
    y = np.zeros((x.shape[0], maps * group, *full), dtype=np.result_type(x, w))
    flat = np.ascontiguousarray(x).reshape(x.shape[0], group, depth, -1)
    for g in range(group):
        for tap in window.taps():
            part = w[(slice(g * depth, (g + 1) * depth), slice(None), *tap)]  # [depth, maps]
            values_here = exact_matmul(part.T, flat[:, g]).reshape(x.shape[0], maps, *extents)
            batch, _, *places = window.slices(tap, extents)
            y[(batch, slice(g * maps, (g + 1) * maps), *places)] += values_here
    crop = tuple(slice(b, b + o) for b, o in zip(window.begins, outputs))
    y = y[(slice(None), slice(None), *crop)]
    if bias is not None:
        y = y + bias.reshape((1, -1) + (1,) * len(outputs))
    return [to_stored(node, y)]


def _transpose_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    _, maps, *kernel = _transpose_weight(node, want(node, inputs, 1).shape)
    macs = want(node, inputs, 0).elements * maps * product(kernel)
    return Work(macs, 2 * macs + (outputs[0].elements if optional(inputs, 2) is not None else 0))


register("Conv", "complex", _infer_conv, _conv, _conv_work)
register("ConvTranspose", "complex", _infer_transpose, _conv_transpose, _transpose_work)
