"""Operators about shapes and constants; the importer folds nearly all of them away."""

from __future__ import annotations

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, compute, computed, fail, given, ints, no_work, optional, register, want
from isa.dtypes import dtype as dtype_of
from isa.dtypes import from_numpy


def _span(node: Node, rank: int) -> tuple[int, int]:
    start, end = int(node.attrs.get("start", 0)), int(node.attrs.get("end", rank))
    start, end = (min(max(v + rank if v < 0 else v, 0), rank) for v in (start, end))
    return start, max(start, end)


def _infer_shape(node: Node, types: Types, values: Values) -> list[TensorType]:
    start, end = _span(node, len(want(node, types, 0).shape))
    return [TensorType((end - start,), "int64")]


def _shape(node: Node, values: Values) -> list[Array]:
    found = given(node, values, 0).shape
    start, end = _span(node, len(found))
    return [np.asarray(found[start:end], dtype=np.int64)]


def _infer_size(node: Node, types: Types, values: Values) -> list[TensorType]:
    want(node, types, 0)
    return [TensorType((), "int64")]


def _size(node: Node, values: Values) -> list[Array]:
    return [np.asarray(given(node, values, 0).size, dtype=np.int64)]


def _infer_constant(node: Node, types: Types, values: Values) -> list[TensorType]:
    if "value" not in node.attrs:
        raise fail(node, "attribute 'value' is required")
    value = np.asarray(node.attrs["value"])
    return [TensorType(tuple(value.shape), str(node.attrs.get("dtype", from_numpy(value.dtype).name)))]


def _constant(node: Node, values: Values) -> list[Array]:
    return [compute(np.asarray(node.attrs["value"]))]


def _infer_filled(node: Node, types: Types, values: Values) -> list[TensorType]:
    shape = ints(node, "shape")
    if min(shape, default=0) < 0:
        raise fail(node, f"shape {list(shape)} is negative")
    return [TensorType(shape, dtype_of(node.attrs.get("dtype", "fp32")).name)]


def _filled(node: Node, values: Values) -> list[Array]:
    kind = dtype_of(node.attrs.get("dtype", "fp32"))
    storage = np.dtype(np.float32) if kind.is_float and kind.name != "fp64" else kind.numpy
    return [np.full(ints(node, "shape"), node.attrs.get("value", 0), dtype=storage)]


def _infer_range(node: Node, types: Types, values: Values) -> list[TensorType]:
    bounds = [optional(values, i) for i in range(3)]
    if any(b is None for b in bounds):
        raise fail(node, "start, limit and delta must be constants, so that its length is known")
    start, limit, delta = (float(np.asarray(b).reshape(())) for b in bounds)
    if delta == 0.0:
        raise fail(node, "delta is 0")
    return [TensorType((max(0, int(np.ceil((limit - start) / delta))),), want(node, types, 0).dtype)]


def _range(node: Node, values: Values) -> list[Array]:
    start, limit, delta = (np.asarray(v).reshape(()) for v in computed(values))
    count = max(0, int(np.ceil((limit - start) / delta)))
    return [np.asarray(start + delta * np.arange(count).astype(start.dtype)).astype(start.dtype)]


register("Shape", "metadata", _infer_shape, _shape, no_work)
register("Size", "metadata", _infer_size, _size, no_work)
register("Constant", "metadata", _infer_constant, _constant, no_work)
register("ConstantOfShape", "metadata", _infer_filled, _filled, no_work)
register("Range", "metadata", _infer_range, _range, no_work)
