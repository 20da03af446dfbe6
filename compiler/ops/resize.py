"""Resize: separable interpolation along each axis whose extent changes.

Canonical attributes: `sizes` (output shape, every axis), `scales` (one factor an axis), `mode` ('nearest', 'linear',
'cubic'), `coordinate_transformation_mode`, `nearest_mode`, `cubic_coeff_a`, `exclude_outside`, `antialias`; for
tf_crop_and_resize also `roi` (a begin, then an end for every axis) and `extrapolation_value`. Formulas as in the ONNX
operator text and its reference implementation: where `scales` make a length that is not whole, align_corners and
tf_crop_and_resize count with that length. onnxruntime takes the whole one, and its values differ there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, Work, compute, fail, given, ints, register, want

_MODES = ("nearest", "linear", "cubic")
_CROP = "tf_crop_and_resize"
_COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", _CROP)
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


@dataclass(frozen=True)
class Line:
    """Interpolation along one axis: pairs (index, weight) for every output, and the outputs that lie outside."""

    axis: int
    taps: tuple[tuple[Array, Array], ...]
    outside: Array

    def matrix(self, extent: int) -> Array:
        """The weights as a matrix [size, extent], float32; a row of zeros where the output lies outside."""
        rows = np.arange(len(self.outside))
        found = np.zeros((len(rows), extent))
        for index, weight in self.taps:
            np.add.at(found, (rows, index), weight)
        return np.where(self.outside[:, None], 0.0, found).astype(np.float32)


def lines(node: Node, shape: tuple[int, ...]) -> list[Line]:
    """How a Resize of a tensor of `shape` interpolates, for each axis that it changes."""
    sizes = ints(node, "sizes")
    scales = node.attrs.get("scales") or [s / max(1, d) for s, d in zip(sizes, shape)]
    kind = str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    roi = tuple(node.attrs.get("roi") or (0.0,) * len(shape) + (1.0,) * len(shape))
    found = []
    for axis, (extent, size, scale) in enumerate(zip(shape, sizes, scales)):
        begin, end = float(roi[axis]), float(roi[axis + len(shape)])
        if size == extent and scale == 1.0 and (kind != _CROP or (begin, end) == (0.0, 1.0)):
            continue
        position = _coordinates(kind, extent, size, float(scale), begin, end)
        outside = (position < 0) | (position > extent - 1) if kind == _CROP else np.zeros(size, bool)
        found.append(Line(axis, tuple(_taps(node, position, extent, float(scale))), outside))
    return found


def _coordinates(kind: str, extent: int, size: int, factor: float, begin: float, end: float) -> Array:
    """Position in the input of every output element along one axis, in float32, so that ties fall as in onnxruntime."""
    out, scale = np.arange(size, dtype=np.float32), np.float32(factor)
    length = factor * extent  # of the resized axis, before it is rounded down
    if kind == "align_corners":
        return out * np.float32((extent - 1) / (length - 1)) if size > 1 and length != 1 else out * 0
    if kind == _CROP:
        if size == 1 or length == 1:
            return np.full(size, 0.5 * (begin + end) * (extent - 1), np.float32)
        return np.asarray(begin * (extent - 1) + out * np.float32((end - begin) * (extent - 1) / (length - 1)))
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


def _linear(d: Array, a: float) -> Array:
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(d)))


def _cubic(d: Array, a: float) -> Array:
    """Keys' cubic of distance d."""
    d = np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _taps(node: Node, position: Array, extent: int, scale: float) -> Iterator[tuple[Array, Array]]:
    """Pairs (index, weight) that interpolate one axis; indices outside are clamped to the edge."""
    mode = str(node.attrs.get("mode", "nearest"))
    if mode == "nearest":
        index = _nearest(position, str(node.attrs.get("nearest_mode", "round_prefer_floor")))
        yield np.clip(index, 0, extent - 1).astype(np.int64), np.ones(len(position))
        return
    # With antialiasing the filter of a smaller result is as much wider.
    shrink = min(scale, 1.0) if node.attrs.get("antialias", 0) else 1.0
    filter_of, support = (_linear, 1) if mode == "linear" else (_cubic, 2)
    base = np.ceil(position) - 1
    first = int(np.floor(-support / shrink)) + 1
    indices = [base + i for i in range(first, 2 - first)]
    weights = [filter_of((i - position) * shrink, float(node.attrs.get("cubic_coeff_a", -0.75))) for i in indices]
    if node.attrs.get("exclude_outside", 0):
        weights = [np.where((i >= 0) & (i < extent), w, 0.0) for i, w in zip(indices, weights)]
    total = np.sum(weights, axis=0)
    for i, w in zip(indices, weights):
        yield np.clip(i, 0, extent - 1).astype(np.int64), w / total


def _resize(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    y, outside = x, np.zeros((1,) * x.ndim, bool)
    for line in lines(node, x.shape):
        shape = (-1,) + (1,) * (x.ndim - line.axis - 1)
        outside = outside | line.outside.reshape(shape)
        if len(line.taps) == 1:
            y = np.take(y, line.taps[0][0], axis=line.axis)
        else:
            y = sum((np.take(y, i, axis=line.axis) * w.reshape(shape) for i, w in line.taps), start=np.zeros(1))
    if outside.any():
        y = np.where(outside, float(node.attrs.get("extrapolation_value", 0.0)), y)
    return [np.asarray(y).astype(x.dtype, copy=False)]


def _work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    taps = _TAPS.get(str(node.attrs.get("mode", "nearest")), 1)
    changed = sum(a != b for a, b in zip(want(node, inputs, 0).shape, outputs[0].shape))
    return Work(0, 0 if taps == 1 else outputs[0].elements * 2 * taps**changed)


register("Resize", "opaque", _infer, _resize, _work)
