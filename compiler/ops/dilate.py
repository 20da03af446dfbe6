"""Dilate: zeros between elements along the spatial axes; what a ConvTranspose needs before its flipped Conv."""

from __future__ import annotations

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, compute, fail, given, ints, no_work, register, want
from compiler.ops.spatial import channel_last


def _spread(node: Node, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """Output shape, and the places of the input's elements in it; `strides` has one entry a spatial axis."""
    strides = ints(node, "strides")
    if len(strides) != len(shape) - 2 or min(strides, default=1) < 1 or min(shape, default=1) < 1:
        raise fail(node, f"strides {list(strides)} must be one positive number for each spatial axis of {list(shape)}")
    steps = (1, *strides, 1) if channel_last(node) else (1, 1, *strides)
    return tuple((d - 1) * s + 1 for d, s in zip(shape, steps)), tuple(slice(None, None, s) for s in steps)


def _infer(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    return [TensorType(_spread(node, x.shape)[0], x.dtype)]


def _dilate(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    shape, places = _spread(node, tuple(x.shape))
    y = np.zeros(shape, dtype=x.dtype)
    y[places] = x
    return [y]


register("Dilate", "layout", _infer, _dilate, no_work)
