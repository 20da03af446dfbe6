"""Reductions over axes, positions of extremes, running sums. `axes` absent means all; `keepdims` defaults to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, axes_of, axis_of, compute, given, per_input, register, same_type, want

Reduce = Callable[[Array, tuple[int, ...], bool], Array]


def _axes(node: Node, rank: int) -> tuple[int, ...]:
    return axes_of(node, rank, range(rank))


def _infer(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    axes, keep = _axes(node, len(x.shape)), bool(node.attrs.get("keepdims", 1))
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes)
    return [TensorType(shape, x.dtype)]


def _reduction(name: str, function: Reduce, flops: int = 1) -> None:
    def evaluate(node: Node, values: Values) -> list[Array]:
        x = compute(given(node, values, 0))
        with np.errstate(all="ignore"):
            y = function(x, _axes(node, x.ndim), bool(node.attrs.get("keepdims", 1)))
        return [np.asarray(y).astype(x.dtype, copy=False)]

    register(name, "reduction", _infer, evaluate, per_input(flops))


def _mean(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    if x.dtype.kind in "iu":
        total = x.sum(axis=axes, keepdims=keep, dtype=np.int64)
        return np.asarray(np.trunc(total / max(1, x.size // max(1, total.size))))
    return np.asarray(x.mean(axis=axes, keepdims=keep))


def _log_sum_exp(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    top = x.max(axis=axes, keepdims=True, initial=-np.inf)
    safe = np.where(np.isfinite(top), top, 0)
    total = np.log(np.exp(x - safe).sum(axis=axes, keepdims=True)) + safe
    return np.asarray(total if keep else np.squeeze(total, axis=axes))


_reduction("ReduceSum", lambda x, axes, keep: x.sum(axis=axes, keepdims=keep))
_reduction("ReduceMean", _mean)
def _limit(x: Array, sign: int) -> Any:
    """What a maximum (-1) or minimum (1) over no elements yields: the infinity or the end of the integer range."""
    if x.dtype.kind == "f":
        return sign * np.inf
    if x.dtype.kind == "b":
        return sign > 0
    return np.iinfo(x.dtype).max if sign > 0 else np.iinfo(x.dtype).min


_reduction("ReduceMax", lambda x, axes, keep: x.max(axis=axes, keepdims=keep, initial=_limit(x, -1)))
_reduction("ReduceMin", lambda x, axes, keep: x.min(axis=axes, keepdims=keep, initial=_limit(x, 1)))
_reduction("ReduceProd", lambda x, axes, keep: x.prod(axis=axes, keepdims=keep))
_reduction("ReduceL1", lambda x, axes, keep: np.abs(x).sum(axis=axes, keepdims=keep), 2)
_reduction("ReduceL2", lambda x, axes, keep: np.sqrt((x * x).sum(axis=axes, keepdims=keep)), 2)
_reduction("ReduceSumSquare", lambda x, axes, keep: (x * x).sum(axis=axes, keepdims=keep), 2)
_reduction("ReduceLogSum", lambda x, axes, keep: np.log(x.sum(axis=axes, keepdims=keep)))
_reduction("ReduceLogSumExp", _log_sum_exp, 3)


def _infer_arg(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    axis, keep = axis_of(node, len(x.shape), 0), bool(node.attrs.get("keepdims", 1))
    return [TensorType((*x.shape[:axis], *((1,) if keep else ()), *x.shape[axis + 1 :]), "int64")]


def _arg(pick: Callable[[Array, int], Array]) -> Callable[[Node, Values], list[Array]]:
    def evaluate(node: Node, values: Values) -> list[Array]:
        x = compute(given(node, values, 0))
        axis = axis_of(node, x.ndim, 0)
        if node.attrs.get("select_last_index", 0):
            found = x.shape[axis] - 1 - pick(np.flip(x, axis), axis)
        else:
            found = pick(x, axis)
        return [np.expand_dims(found, axis) if node.attrs.get("keepdims", 1) else np.asarray(found)]

    return evaluate


def _infer_running(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    axis_of(node, len(x.shape), 0)
    return [x]


def _running_sum(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    axis = axis_of(node, x.ndim, 0)
    source = np.flip(x, axis) if node.attrs.get("reverse", 0) else x
    total = np.cumsum(source, axis=axis, dtype=x.dtype)
    if node.attrs.get("exclusive", 0):
        total = total - source
    return [np.ascontiguousarray(np.flip(total, axis) if node.attrs.get("reverse", 0) else total)]


def _hardmax(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    axis = axis_of(node, x.ndim, -1)
    y = np.zeros_like(x)
    np.put_along_axis(y, np.expand_dims(x.argmax(axis), axis), 1, axis)
    return [y]


register("ArgMax", "reduction", _infer_arg, _arg(lambda x, axis: np.argmax(x, axis=axis)), per_input(1))
register("ArgMin", "reduction", _infer_arg, _arg(lambda x, axis: np.argmin(x, axis=axis)), per_input(1))
register("CumSum", "opaque", _infer_running, _running_sum, per_input(1))
register("Hardmax", "reduction", same_type, _hardmax, per_input(1))
