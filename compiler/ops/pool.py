"""Pools over windows and over whole images, in either layout; attribute `kernel_shape` is required for windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, Work, compute, fail, given, ints, per_input, product, register, want
from compiler.ops.spatial import Window, logical_shape, stored_shape, to_logical, to_stored, window_of


def _infer_pool(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    if len(node.outputs) > 1:
        raise fail(node, "the second output (Indices) is not supported: only its values can be used")
    batch, channels, *extents = logical_shape(node, x.shape)
    outputs = window_of(node, ints(node, "kernel_shape"), tuple(extents)).outputs(tuple(extents))
    return [TensorType(stored_shape(node, (batch, channels, *outputs)), x.dtype)]


def _prepare(node: Node, values: Values) -> tuple[Array, Window, tuple[int, ...]]:
    x = to_logical(node, compute(given(node, values, 0)))
    extents = tuple(x.shape[2:])
    window = window_of(node, ints(node, "kernel_shape"), extents)
    return x, window, window.outputs(extents)


def _fold(padded: Array, window: Window, outputs: tuple[int, ...], join: Callable[[Array, Array], Array]) -> Array:
    """Combine the elements under every tap, one shifted view at a time."""
    taps = window.taps()
    total = padded[window.slices(next(taps), outputs)].copy()
    for tap in taps:
        total = join(total, padded[window.slices(tap, outputs)])
    return total


def _max_pool(node: Node, values: Values) -> list[Array]:
    x, window, outputs = _prepare(node, values)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return [to_stored(node, _fold(window.pad(x, outputs, lowest), window, outputs, np.maximum))]


def _average_pool(node: Node, values: Values) -> list[Array]:
    x, window, outputs = _prepare(node, values)
    total = _fold(window.pad(x, outputs), window, outputs, np.add)
    # The divisor counts real elements, or those and the stated padding; never what ceil_mode adds beyond it.
    ones = np.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if node.attrs.get("count_include_pad", 0):
        stated = [(b, e) for b, e in zip(window.begins, window.ends)]
        ones = np.pad(ones, [(0, 0), (0, 0), *stated], constant_values=1)
        window = Window(window.kernel, window.strides, window.dilations, (0,) * len(stated), (0,) * len(stated))
    count = _fold(window.pad(ones, outputs), window, outputs, np.add)
    return [to_stored(node, total / np.maximum(count, 1))]


def _lp_pool(node: Node, values: Values) -> list[Array]:
    x, window, outputs = _prepare(node, values)
    order = int(node.attrs.get("p", 2))
    total = _fold(np.abs(window.pad(x, outputs)) ** order, window, outputs, np.add)
    return [to_stored(node, np.asarray(total ** (1.0 / order)).astype(x.dtype))]


def _pool_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    return Work(0, outputs[0].elements * product(ints(node, "kernel_shape")))


def _infer_global(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    batch, channels, *extents = logical_shape(node, x.shape)
    return [TensorType(stored_shape(node, (batch, channels, *(1 for _ in extents))), x.dtype)]


def _global(function: Callable[..., Array]) -> Callable[[Node, Values], list[Array]]:
    def evaluate(node: Node, values: Values) -> list[Array]:
        x = to_logical(node, compute(given(node, values, 0)))
        return [to_stored(node, function(x, axis=tuple(range(2, x.ndim)), keepdims=True))]

    return evaluate


register("MaxPool", "reduction", _infer_pool, _max_pool, _pool_work)
register("AveragePool", "reduction", _infer_pool, _average_pool, _pool_work)
register("LpPool", "reduction", _infer_pool, _lp_pool, _pool_work)
register("GlobalAveragePool", "reduction", _infer_global, _global(np.mean), per_input(1))
register("GlobalMaxPool", "reduction", _infer_global, _global(np.max), per_input(1))
