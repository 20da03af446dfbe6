"""Normalisations, at inference: batch, instance, group, layer and RMS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import (
    Types,
    Values,
    Work,
    axis_of,
    broadcast,
    computed,
    fail,
    optional,
    per_output,
    register,
    want,
)
from compiler.ops.spatial import channel_last, logical_shape


def _channels_first(node: Node, rank: int) -> tuple[int, ...]:
    """Shape that broadcasts a [C] vector over an activation of the node's layout."""
    return (-1,) if channel_last(node) else (-1,) + (1,) * (rank - 2)


def _infer_channelwise(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    channels = logical_shape(node, x.shape)[1]
    for index in range(1, len(types)):
        if want(node, types, index).shape != (channels,):
            raise fail(node, f"input {index} is {want(node, types, index)}, must be [{channels}]")
    return [x]


def _batch_norm(node: Node, values: Values) -> list[Array]:
    x, scale, bias, mean, variance = computed(values)
    shape = _channels_first(node, x.ndim)
    factor = scale / np.sqrt(variance + x.dtype.type(node.attrs.get("epsilon", 1e-5)))
    offset = bias - mean * factor
    return [np.asarray(x * factor.reshape(shape) + offset.reshape(shape))]


def _normalise(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """Return (x - mean) / sqrt(var + epsilon), mean and 1 / sqrt(var + epsilon), statistics in float64."""
    wide = x.astype(np.float64)
    mean = wide.mean(axis=axes, keepdims=True)
    centred = wide - mean
    inverse = 1.0 / np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + epsilon)
    return centred * inverse, mean, inverse


def _instance_norm(node: Node, values: Values) -> list[Array]:
    x, scale, bias = computed(values)
    axes = tuple(range(1, x.ndim - 1)) if channel_last(node) else tuple(range(2, x.ndim))
    shape = _channels_first(node, x.ndim)
    normal, _, _ = _normalise(x, axes, node.attrs.get("epsilon", 1e-5))
    return [np.asarray(normal * scale.reshape(shape) + bias.reshape(shape)).astype(x.dtype)]


def _infer_group(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    groups, channels = int(node.attrs.get("num_groups", 0)), logical_shape(node, x.shape)[1]
    if groups < 1 or channels % groups:
        raise fail(node, f"num_groups {groups} must divide {channels} channels")
    return _infer_channelwise(node, types, values)


def _group_norm(node: Node, values: Values) -> list[Array]:
    x, scale, bias = computed(values)
    first = np.moveaxis(x, -1, 1) if channel_last(node) else x
    split = first.reshape(first.shape[0], int(node.attrs["num_groups"]), -1)
    normal, _, _ = _normalise(split, (2,), node.attrs.get("epsilon", 1e-5))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = normal.reshape(first.shape) * scale.reshape(shape) + bias.reshape(shape)
    return [np.asarray(np.moveaxis(y, 1, -1) if channel_last(node) else y).astype(x.dtype)]


def _infer_layer(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    axis = axis_of(node, len(x.shape), -1)
    for index in range(1, len(types)):
        extra = types[index]
        if extra is not None and broadcast(node, extra.shape, x.shape) != x.shape:
            raise fail(node, f"input {index} {list(extra.shape)} must broadcast to {list(x.shape)}")
    statistics = TensorType((*x.shape[:axis], *(1 for _ in x.shape[axis:])), "fp64" if x.dtype == "fp64" else "fp32")
    return [x, statistics, statistics][: max(1, len(node.outputs))]


def _layer_norm(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    x, scale, bias = operands[0], optional(operands, 1), optional(operands, 2)
    axis = axis_of(node, x.ndim, -1)
    y, mean, inverse = _normalise(x, tuple(range(axis, x.ndim)), node.attrs.get("epsilon", 1e-5))
    y = y if scale is None else y * scale
    y = y if bias is None else y + bias
    results = [np.asarray(a).astype(x.dtype) for a in (y, mean, inverse)]
    return results[: max(1, len(node.outputs))]


def _rms_norm(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    x, scale = operands[0], optional(operands, 1)
    axes = tuple(range(axis_of(node, x.ndim, -1), x.ndim))
    wide = x.astype(np.float64)
    y = wide / np.sqrt(np.mean(wide * wide, axis=axes, keepdims=True) + node.attrs.get("epsilon", 1e-5))
    return [np.asarray(y if scale is None else y * scale).astype(x.dtype)]


def _lrn(node: Node, values: Values) -> list[Array]:
    (x,) = computed(values)
    size = int(node.attrs.get("size", 1))
    alpha, beta, bias = (node.attrs.get(k, d) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    axis = x.ndim - 1 if channel_last(node) else 1
    squares, total = x * x, np.zeros_like(x)
    channels = x.shape[axis]
    for shift in range(-((size - 1) // 2), size // 2 + 1):
        here = [slice(None)] * x.ndim
        there = [slice(None)] * x.ndim
        here[axis] = slice(max(0, -shift), max(0, min(channels, channels - shift)))
        there[axis] = slice(max(0, shift), max(0, min(channels, channels + shift)))
        total[tuple(here)] += squares[tuple(there)]
    return [np.asarray(x / (bias + alpha / size * total) ** beta).astype(x.dtype)]


def _lrn_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    return Work(0, outputs[0].elements * (int(node.attrs.get("size", 1)) + 5))


def _infer_lrn(node: Node, types: Types, values: Values) -> list[TensorType]:
    if int(node.attrs.get("size", 0)) < 1:
        raise fail(node, "attribute 'size' must be at least 1")
    return _infer_channelwise(node, types[:1], values)


register("BatchNormalization", "elementwise", _infer_channelwise, _batch_norm, per_output(2))
# Mean 1, centre 1, square and sum 2, normalise 1, scale and shift 2 operations an element.
register("InstanceNormalization", "reduction", _infer_channelwise, _instance_norm, per_output(7))
register("GroupNormalization", "reduction", _infer_group, _group_norm, per_output(7))
register("LayerNormalization", "reduction", _infer_layer, _layer_norm, per_output(7))
register("RMSNormalization", "reduction", _infer_layer, _rms_norm, per_output(4))
register("LRN", "reduction", _infer_lrn, _lrn, _lrn_work)
