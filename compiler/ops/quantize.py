"""Linear quantisation: q = saturate(round_half_even(x / scale) + zero_point), x = (q - zero_point) * scale.

Scale and zero point are scalars, vectors along `axis`, or, with `block_size`, one value a block along `axis`. Beyond
ONNX they may have the rank of x and broadcast; `compiler.passes.canonical_quantise` makes that form.
"""

from __future__ import annotations

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import (
    Types,
    Values,
    axis_of,
    compute,
    fail,
    given,
    optional,
    per_output,
    register,
    same_type,
    want,
)
from isa.dtypes import dtype as dtype_of
from isa.dtypes import from_numpy, round_to


def _infer_quantize(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, zero = want(node, types, 0), optional(types, 2)
    _check_scale(node, x, want(node, types, 1))
    target = zero.dtype if zero is not None else str(node.attrs.get("output_dtype", "uint8"))
    return [TensorType(x.shape, dtype_of(target).name)]


def _infer_dequantize(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, scale = want(node, types, 0), want(node, types, 1)
    _check_scale(node, x, scale)
    return [TensorType(x.shape, scale.dtype)]


def _check_scale(node: Node, x: TensorType, scale: TensorType) -> None:
    if scale.elements == 1 or _broadcasts(node, scale.shape, x.shape):
        return
    axis, block = axis_of(node, len(x.shape), 1), int(node.attrs.get("block_size", 0))
    fits = scale.shape == x.shape[axis : axis + 1]
    if block:
        blocks = -(-x.shape[axis] // block)
        fits = scale.shape == (*x.shape[:axis], blocks, *x.shape[axis + 1 :])
    if not fits:
        raise fail(node, f"scale {list(scale.shape)} fits neither axis {axis} nor blocks of {block} of {list(x.shape)}")


def _broadcasts(node: Node, parameter: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """True for parameters of the data's rank that broadcast over it; those of a vector of data are along its axis."""
    same = len(parameter) == len(shape) and all(p in (1, e) for p, e in zip(parameter, shape))
    return same and not node.attrs.get("block_size", 0)


def _spread(node: Node, parameter: Array, shape: tuple[int, ...]) -> Array:
    """Give a scale or zero point a shape that broadcasts over the data."""
    if parameter.size == 1:
        return parameter.reshape(())
    if _broadcasts(node, parameter.shape, shape):
        return parameter
    axis, block = axis_of(node, len(shape), 1), int(node.attrs.get("block_size", 0))
    if block:
        return np.repeat(parameter, block, axis=axis).take(range(shape[axis]), axis=axis)
    return parameter.reshape((-1,) + (1,) * (len(shape) - axis - 1))


def _quantize(node: Node, values: Values) -> list[Array]:
    x, scale, zero = compute(given(node, values, 0)), compute(given(node, values, 1)), optional(values, 2)
    scaled = np.asarray(x / _spread(node, scale, tuple(x.shape)))
    if zero is not None and compute(zero).dtype.kind == "f":  # fp8: no zero point, its type is the target
        limit = 448.0 if zero.dtype.name == "float8_e4m3fn" else 57344.0  # OCP OFP8: largest finite values
        return [compute(np.clip(scaled, -limit, limit).astype(zero.dtype))]
    target = from_numpy(zero.dtype) if zero is not None else dtype_of(str(node.attrs.get("output_dtype", "uint8")))
    offset = 0 if zero is None else _spread(node, compute(zero), tuple(x.shape)).astype(np.int64)
    return [round_to(np.rint(scaled) + offset, target)]


def _dequantize(node: Node, values: Values) -> list[Array]:
    q, scale, zero = compute(given(node, values, 0)), compute(given(node, values, 1)), optional(values, 2)
    real = q.astype(np.int64) if q.dtype.kind in "iu" else q
    if zero is not None and real.dtype.kind == "i":
        real = real - _spread(node, compute(zero), tuple(q.shape)).astype(np.int64)
    return [np.asarray(real.astype(scale.dtype) * _spread(node, scale, tuple(q.shape)))]


def _fake_quantize(node: Node, values: Values) -> list[Array]:
    """Round to a multiple of `scale` from `low` to `high` of them: a QuantizeLinear and its inverse."""
    x, scale = compute(given(node, values, 0)), np.float32(node.attrs["scale"])
    return [np.clip(np.rint(x / scale), node.attrs["low"], node.attrs["high"]).astype(x.dtype) * scale]


def _dynamic_scale(x: Array) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of DynamicQuantizeLinear (uint8, range widened to hold 0)."""
    low, high = min(0.0, float(x.min(initial=0))), max(0.0, float(x.max(initial=0)))
    scale = np.float32((high - low) / 255.0) or np.float32(1.0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def _infer_dynamic(node: Node, types: Types, values: Values) -> list[TensorType]:
    return [TensorType(want(node, types, 0).shape, "uint8"), TensorType((), "fp32"), TensorType((), "uint8")]


def _dynamic(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    scale, zero = _dynamic_scale(x)
    q = round_to(np.rint(x / scale) + float(zero), dtype_of("uint8"))
    return [q, np.asarray(scale), np.asarray(zero)]


register("QuantizeLinear", "elementwise", _infer_quantize, _quantize, per_output(3))
register("DequantizeLinear", "elementwise", _infer_dequantize, _dequantize, per_output(2))
register("FakeQuantize", "elementwise", same_type, _fake_quantize, per_output(5))  # compiler.passes.qdq makes it
register("DynamicQuantizeLinear", "opaque", _infer_dynamic, _dynamic, per_output(5))
