"""Activations: pointwise functions with parameters, and the normalising ones along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import (
    Types,
    Values,
    axis_of,
    broadcast,
    compute,
    computed,
    fail,
    given,
    per_output,
    register,
    same_type,
    want,
)
from compiler.ops.elementwise import erf


def _pointwise(name: str, function: Callable[[Array, Node], Any], flops: int) -> None:
    def evaluate(node: Node, values: Values) -> list[Array]:
        x = compute(given(node, values, 0))
        with np.errstate(all="ignore"):
            return [np.asarray(function(x, node)).astype(x.dtype, copy=False)]

    register(name, "elementwise", same_type, evaluate, per_output(flops))


def _gelu(x: Array, node: Node) -> Array:
    """Gelu in float64, since its terms cancel; `approximate` is 'none' (erf) or 'tanh' (ONNX Gelu, opset 20)."""
    x = x.astype(np.float64)
    if node.attrs.get("approximate", "none") == "tanh":
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
        return np.asarray(0.5 * x * (1.0 + np.tanh(inner)))
    return np.asarray(0.5 * x * (1.0 + erf(x * math.sqrt(0.5))))


def _elu(x: Array, node: Node) -> Any:
    return np.where(x < 0, node.attrs.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x)


def _selu(x: Array, node: Node) -> Any:
    alpha = node.attrs.get("alpha", 1.67326319217681884765625)
    gamma = node.attrs.get("gamma", 1.05070102214813232421875)
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _celu(x: Array, node: Node) -> Any:
    alpha = node.attrs.get("alpha", 1.0)
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _hard_sigmoid(x: Array, node: Node) -> Any:
    return np.clip(node.attrs.get("alpha", 0.2) * x + node.attrs.get("beta", 0.5), 0.0, 1.0)


def _softplus(x: Array, node: Node) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _swish(x: Array, node: Node) -> Any:
    """x * sigmoid(alpha x), ONNX Swish (opset 24); alpha = 1 is SiLU."""
    wide = x.astype(np.float64)
    return wide / (1.0 + np.exp(-node.attrs.get("alpha", 1.0) * wide))


def _thresholded(x: Array, node: Node) -> Any:
    return np.where(x > node.attrs.get("alpha", 1.0), x, 0)


_pointwise("Relu", lambda x, node: np.maximum(x, 0), 1)
_pointwise("LeakyRelu", lambda x, node: np.where(x < 0, node.attrs.get("alpha", 0.01) * x, x), 2)
_pointwise("Elu", _elu, 3)
_pointwise("Selu", _selu, 4)
_pointwise("Celu", _celu, 5)
_pointwise("HardSigmoid", _hard_sigmoid, 4)
_pointwise("HardSwish", lambda x, node: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0), 5)
_pointwise("Mish", lambda x, node: x * np.tanh(_softplus(x, node)), 5)
_pointwise("Swish", _swish, 5)
_pointwise("Softplus", _softplus, 4)
_pointwise("Softsign", lambda x, node: x / (1.0 + np.abs(x)), 3)
_pointwise("ThresholdedRelu", _thresholded, 1)
_pointwise("Gelu", _gelu, 8)


def _infer_prelu(node: Node, types: Types, values: Values) -> list[TensorType]:
    x, slope = want(node, types, 0), want(node, types, 1)
    if broadcast(node, x.shape, slope.shape) != x.shape:
        raise fail(node, f"slope {list(slope.shape)} must broadcast to the input {list(x.shape)}")
    return [x]


def _prelu(node: Node, values: Values) -> list[Array]:
    x, slope = computed(values)
    return [np.where(x < 0, x * slope, x)]


def _infer_softmax(node: Node, types: Types, values: Values) -> list[TensorType]:
    x = want(node, types, 0)
    axis_of(node, len(x.shape), -1)
    return [x]


def _shifted(node: Node, values: Values) -> tuple[Array, int]:
    x = compute(given(node, values, 0))
    axis = axis_of(node, x.ndim, -1)
    with np.errstate(invalid="ignore"):
        return np.asarray(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)), axis


def _softmax(node: Node, values: Values) -> list[Array]:
    shifted, axis = _shifted(node, values)
    power = np.exp(shifted)
    return [np.asarray(power / np.sum(power, axis=axis, keepdims=True))]


def _log_softmax(node: Node, values: Values) -> list[Array]:
    shifted, axis = _shifted(node, values)
    return [np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True)))]


register("PRelu", "elementwise", _infer_prelu, _prelu, per_output(2))
# Maximum, subtract, exponential, sum, divide: five operations an element.
register("Softmax", "reduction", _infer_softmax, _softmax, per_output(5))
register("LogSoftmax", "reduction", _infer_softmax, _log_softmax, per_output(5))
