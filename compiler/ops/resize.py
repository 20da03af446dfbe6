"""Resize: separable interpolation along each axis whose extent changes.

Canonical attributes: `sizes` (output shape, every axis), `scales` (one factor an axis), `mode` ('nearest', 'linear',
'cubic'), `coordinate_transformation_mode`, `nearest_mode`, `cubic_coeff_a`, `exclude_outside`;
formulas as in the ONNX operator text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, Work, compute, fail, given, ints, register, want

_MODES = ("nearest", "linear", "cubic")
_COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}


def _choice(node: Node, name: str, default: str, known: Sequence[str]) -> str:
    found = str(node.attrs.get(name, default))
    if found not in known:
        raise fail(node, f"{name} {found!r} is not supported; supported: {', '.join(known)}")
    return found


def _infer(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, sizes = want(node, types, 0), ints(node, "sizes")
    if len(sizes) != len(x.shape) or len(node.attrs.get("scales", sizes)) != len(sizes) or min(sizes, default=1) < 0:
        raise fail(node, f"sizes {list(sizes)} and scales must have one entry for each axis of {list(x.shape)}")
    _choice(node, "mode", "nearest", _MODES)
    _choice(node, "coordinate_transformation_mode", "half_pixel", _COORDINATES)
    _choice(node, "nearest_mode", "round_prefer_floor", _NEAREST)
    return [TensorType(sizes, x.dtype)]


def _coordinates(kind: str, extent: int, size: int, factor: float) -> Array:
    """Position in the input of every output element along one axis, in float32 as onnxruntime: ties fall alike."""
    out, scale = np.arange(size, dtype=np.float32), np.float32(factor)
    if kind == "align_corners":
        return out * (extent - 1) / (size - 1) if size > 1 else out * 0
    if kind == "asymmetric":
        return out / scale
    if kind == "pytorch_half_pixel" and size == 1:
        return out * 0
    if kind == "half_pixel_symmetric":
        adjustment = size / (scale * extent)
        return extent / 2 * (1 - adjustment) + (out + 0.5) / scale - 0.5
    return (out + 0.5) / scale - 0.5


def _nearest(position: Array, kind: str) -> Array:
    if kind == "floor":
        return np.asarray(np.floor(position))
    if kind == "ceil":
        return np.asarray(np.ceil(position))
    if kind == "round_prefer_ceil":
        return np.asarray(np.floor(position + 0.5))
    return np.asarray(np.ceil(position - 0.5))


def _cubic(t: Array, a: float) -> list[Array]:
    """Keys' cubic weights of the four neighbours at distance t from the second."""

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _taps(node: Node, mode: str, position: Array, extent: int) -> list[tuple[Array, Array]]:
    """Pairs (index, weight) that interpolate one axis; indices outside are clamped to the edge."""
    if mode == "nearest":
        index = _nearest(position, str(node.attrs.get("nearest_mode", "round_prefer_floor")))
        return [(np.clip(index, 0, extent - 1).astype(np.int64), np.ones(len(position)))]
    if mode == "linear":
        position = np.clip(position, 0, extent - 1)
    base = np.floor(position)
    t = position - base
    weights = [1 - t, t] if mode == "linear" else _cubic(t, float(node.attrs.get("cubic_coeff_a", -0.75)))
    first = 0 if mode == "linear" else -1
    indices = [base + first + i for i in range(len(weights))]
    if node.attrs.get("exclude_outside", 0):
        weights = [np.where((i >= 0) & (i < extent), w, 0.0) for i, w in zip(indices, weights)]
        total = np.sum(weights, axis=0)
        weights = [w / total for w in weights]
    return [(np.clip(i, 0, extent - 1).astype(np.int64), w) for i, w in zip(indices, weights)]


def _resize(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    sizes, mode = ints(node, "sizes"), str(node.attrs.get("mode", "nearest"))
    kind = str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    scales = node.attrs.get("scales") or [s / max(1, d) for s, d in zip(sizes, x.shape)]
    y = x
    for axis, (size, scale) in enumerate(zip(sizes, scales)):
        extent = x.shape[axis]
        if size == extent and scale == 1.0:
            continue
        taps = _taps(node, mode, _coordinates(kind, extent, size, float(scale)), extent)
        if mode == "nearest":
            y = np.take(y, taps[0][0], axis=axis)
            continue
        shape = (-1,) + (1,) * (x.ndim - axis - 1)
        y = sum((np.take(y, i, axis=axis) * w.reshape(shape) for i, w in taps), start=np.zeros(1))
    return [np.asarray(y).astype(x.dtype, copy=False)]


def _work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    taps = _TAPS.get(str(node.attrs.get("mode", "nearest")), 1)
    changed = sum(a != b for a, b in zip(want(node, inputs, 0).shape, outputs[0].shape))
    return Work(0, 0 if taps == 1 else outputs[0].elements * 2 * taps**changed)


register("Resize", "opaque", _infer, _resize, _work)
