"""Operators whose addresses or sizes are data: gathers, scatters, TopK, OneHot, Trilu, NonZero. All are opaque."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import (
    Types,
    Values,
    axis_of,
    compute,
    computed,
    fail,
    given,
    no_work,
    optional,
    per_input,
    register,
    want,
)


def _checked(node: Node, index: Array, extent: int) -> Array:
    """Return non-negative indices; raises ModelError for one outside [-extent, extent)."""
    if index.size and (index.min() < -extent or index.max() >= extent):
        raise fail(node, f"an index in [{index.min()}, {index.max()}] is outside an axis of extent {extent}")
    return np.where(index < 0, index + extent, index)


def _infer_gather(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, index = want(node, types, 0), want(node, types, 1)
    axis = axis_of(node, len(x.shape), 0)
    return [TensorType((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]), x.dtype)]


def _gather(node: Node, values: Values) -> list[Array]:
    x, index = compute(given(node, values, 0)), given(node, values, 1)
    axis = axis_of(node, x.ndim, 0)
    return [np.take(x, _checked(node, index, x.shape[axis]), axis=axis)]


def _infer_gather_elements(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, index = want(node, types, 0), want(node, types, 1)
    axis_of(node, len(x.shape), 0)
    if len(index.shape) != len(x.shape):
        raise fail(node, f"indices {list(index.shape)} and data {list(x.shape)} must have the same rank")
    return [TensorType(index.shape, x.dtype)]


def _along(node: Node, x: Array, index: Array) -> tuple[Array, ...]:
    """Index arrays that pick x[..., index, ...] along `axis`, other coordinates being the index's own."""
    axis = axis_of(node, x.ndim, 0)
    grids: list[Array] = list(np.indices(index.shape, sparse=True))
    grids[axis] = _checked(node, index, x.shape[axis])
    return tuple(grids)


def _gather_elements(node: Node, values: Values) -> list[Array]:
    x, index = compute(given(node, values, 0)), given(node, values, 1)
    return [x[_along(node, x, index)]]


def _infer_gather_nd(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, index = want(node, types, 0), want(node, types, 1)
    batch = int(node.attrs.get("batch_dims", 0))
    if not index.shape or batch + index.shape[-1] > len(x.shape) or x.shape[:batch] != index.shape[:batch]:
        raise fail(node, f"indices {list(index.shape)} do not fit data {list(x.shape)} with batch_dims {batch}")
    return [TensorType((*index.shape[:-1], *x.shape[batch + index.shape[-1] :]), x.dtype)]


def _nd_index(node: Node, x: Array, index: Array, batch: int) -> tuple[Array, ...]:
    lead = index.shape[:-1]
    grids = [np.arange(n).reshape((1,) * i + (-1,) + (1,) * (len(lead) - i - 1)) for i, n in enumerate(lead[:batch])]
    picks = [_checked(node, index[..., i], x.shape[batch + i]) for i in range(index.shape[-1])]
    return (*(np.broadcast_to(g, lead) for g in grids), *picks)


def _gather_nd(node: Node, values: Values) -> list[Array]:
    x, index = compute(given(node, values, 0)), given(node, values, 1)
    return [np.asarray(x[_nd_index(node, x, index, int(node.attrs.get("batch_dims", 0)))])]


_SCATTER: dict[str, Callable[[Any, Any, Any], None] | None] = {
    "none": None,
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _infer_scatter(node: Node, types: Types, values: Values) -> list[TensorType]:
    if node.attrs.get("reduction", "none") not in _SCATTER:
        raise fail(node, f"reduction {node.attrs['reduction']!r} is not one of {list(_SCATTER)}")
    want(node, types, 2)
    return [want(node, types, 0)]


def _scatter_into(node: Node, x: Array, places: tuple[Array, ...], updates: Array) -> list[Array]:
    result = x.copy()
    join = _SCATTER[node.attrs.get("reduction", "none")]
    if join is None:
        result[places] = updates
    else:
        join(result, places, updates)
    return [result]


def _scatter_elements(node: Node, values: Values) -> list[Array]:
    x, index, updates = computed(values)
    return _scatter_into(node, x, _along(node, x, index), updates)


def _scatter_nd(node: Node, values: Values) -> list[Array]:
    x, index, updates = computed(values)
    return _scatter_into(node, x, _nd_index(node, x, index, 0), updates)


def _infer_top_k(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, count = want(node, types, 0), int(node.attrs.get("k", -1))
    axis = axis_of(node, len(x.shape), -1)
    if not 0 <= count <= x.shape[axis]:
        raise fail(node, f"k {count} is outside [0, {x.shape[axis]}]")
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return [TensorType(shape, x.dtype), TensorType(shape, "int64")]


def _top_k(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    axis = axis_of(node, x.ndim, -1)
    if x.dtype.kind == "f":
        key = -x if node.attrs.get("largest", 1) else x
    else:  # integers by complement, which cannot overflow
        key = ~x if node.attrs.get("largest", 1) else x
    order = np.argsort(key, axis=axis, kind="stable").take(range(int(node.attrs["k"])), axis=axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int64)]


def _infer_one_hot(node: Node, types: Types, values: Values) -> list[TensorType]:
    index, pair, depth = want(node, types, 0), want(node, types, 1), int(node.attrs.get("depth", -1))
    axis = axis_of(node, len(index.shape) + 1, -1)
    if depth < 0 or pair.shape != (2,):
        raise fail(node, f"depth {depth} must be >= 0 and values {list(pair.shape)} must be [2] (off, on)")
    return [TensorType((*index.shape[:axis], depth, *index.shape[axis:]), pair.dtype)]


def _one_hot(node: Node, values: Values) -> list[Array]:
    index, pair = computed(values)
    depth, axis = int(node.attrs["depth"]), axis_of(node, index.ndim + 1, -1)
    wanted = np.where(index < 0, index + depth, index)
    classes = np.arange(depth).reshape((-1,) + (1,) * (index.ndim - axis))
    return [np.where(np.expand_dims(wanted, axis) == classes, pair[1], pair[0]).astype(pair.dtype)]


def _infer_trilu(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    if len(x.shape) < 2:
        raise fail(node, f"input {list(x.shape)} must be a matrix or a stack of them")
    return [x]


def _trilu(node: Node, values: Values) -> list[Array]:
    x, offset = compute(given(node, values, 0)), int(node.attrs.get("k", 0))
    return [np.triu(x, offset) if node.attrs.get("upper", 1) else np.tril(x, offset)]


def _infer_non_zero(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, known = want(node, types, 0), optional(values, 0)
    if known is None:
        raise fail(node, "its output size depends on tensor contents; export the model with a fixed mask instead")
    return [TensorType((len(x.shape), int(np.count_nonzero(known))), "int64")]


def _non_zero(node: Node, values: Values) -> list[Array]:
    return [np.asarray(np.nonzero(compute(given(node, values, 0))), dtype=np.int64)]


register("Gather", "opaque", _infer_gather, _gather, no_work)
register("GatherElements", "opaque", _infer_gather_elements, _gather_elements, no_work)
register("GatherND", "opaque", _infer_gather_nd, _gather_nd, no_work)
register("ScatterElements", "opaque", _infer_scatter, _scatter_elements, no_work)
register("ScatterND", "opaque", _infer_scatter, _scatter_nd, no_work)
register("TopK", "opaque", _infer_top_k, _top_k, per_input(1))
register("OneHot", "opaque", _infer_one_hot, _one_hot, no_work)
register("Trilu", "opaque", _infer_trilu, _trilu, no_work)
register("NonZero", "opaque", _infer_non_zero, _non_zero, per_input(1))
