"""Pointwise operators: unary functions, broadcasting arithmetic, comparisons, selection and conversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import (
    Types,
    Values,
    Work,
    broadcast,
    compute,
    computed,
    fail,
    given,
    no_work,
    optional,
    per_output,
    register,
    same_type,
    want,
)
from isa.dtypes import DType, round_to
from isa.dtypes import dtype as dtype_of

# Rational Chebyshev approximations of erf and erfc in float64, highest power first: W. J. Cody, Mathematics of
# Computation 23 (1969), pp. 631-637; coefficients as in his CALERF (SPECFUN, netlib).
_ERF_P = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
          3.20937758913846947e3)  # fmt: skip
_ERF_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_ERFC_P = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
           2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
           1.23033935479799725e3)  # fmt: skip
_ERFC_Q = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
           3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip


def erf(x: Array) -> Array:
    """Error function in float64, |error| below 1e-15."""
    value = np.asarray(x, np.float64)
    size, square = np.minimum(np.abs(value), 6.0), np.minimum(value * value, 1.0)  # beyond 6 it is 1
    small = value * np.polyval(_ERF_P, square) / np.polyval(_ERF_Q, square)
    tail = np.exp(-size * size) * np.polyval(_ERFC_P, size) / np.polyval(_ERFC_Q, size)
    return np.asarray(np.where(size <= 0.46875, small, np.copysign(1.0 - tail, value)))


def _round(x: Array) -> Array:
    return np.asarray(np.rint(x))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    quotient = np.abs(a) // np.abs(b)  # integers truncate toward zero, as in C
    return np.asarray(quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _power(a: Array, b: Array) -> Array:
    """Integers are raised exactly where the exponent is whole; a negative one leaves only -1 and 1 something."""
    if a.dtype.kind not in "iu":
        return np.asarray(np.power(a, b.astype(np.float64 if a.dtype == np.float64 else np.float32)))
    real = np.power(a.astype(np.float64), b.astype(np.float64))
    base, exponent = a.astype(np.int64), np.floor(b).astype(np.int64)
    exact = np.power(base, np.where(exponent < 0, exponent & 1, exponent))
    exact = np.where((exponent < 0) & (base * base != 1), 0, exact)
    return np.asarray(np.where(exponent == b, exact, np.nan_to_num(real).astype(np.int64))).astype(a.dtype)


def _unary(name: str, function: Callable[[Array], Any], flops: int = 1) -> None:
    def evaluate(node: Node, values: Values) -> list[Array]:
        with np.errstate(all="ignore"):
            x = compute(given(node, values, 0))
            return [np.asarray(function(x))]

    register(name, "elementwise", same_type, evaluate, per_output(flops))


def _infer_binary(node: Node, types: Types, values: Values) -> list[TensorType]:
    shapes = [want(node, types, i).shape for i in range(len(types))]
    return [TensorType(broadcast(node, *shapes), want(node, types, 0).dtype)]


def _infer_compare(node: Node, types: Types, values: Values) -> list[TensorType]:
    return [TensorType(_infer_binary(node, types, values)[0].shape, "bool")]


def _variadic_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    return Work(0, max(1, len(inputs) - 1) * outputs[0].elements)


def _binary(name: str, function: Callable[[Array, Array], Any], compares: bool = False) -> None:
    def evaluate(node: Node, values: Values) -> list[Array]:
        operands = computed(values)
        with np.errstate(all="ignore"):
            result = operands[0]
            for other in operands[1:]:
                result = function(result, other)
        return [np.asarray(result)]

    register(name, "elementwise", _infer_compare if compares else _infer_binary, evaluate, _variadic_work)


def _mean(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    total = operands[0]
    for other in operands[1:]:
        total = total + other
    return [np.asarray(total / len(operands)).astype(operands[0].dtype)]


def _modulo(node: Node, values: Values) -> list[Array]:
    a, b = computed(values)
    with np.errstate(all="ignore"):
        return [np.asarray(np.fmod(a, b) if node.attrs.get("fmod", 0) else np.mod(a, b))]


def _infer_where(node: Node, types: Types, values: Values) -> list[TensorType]:
    shapes = [want(node, types, i).shape for i in range(3)]
    return [TensorType(broadcast(node, *shapes), want(node, types, 1).dtype)]


def _where(node: Node, values: Values) -> list[Array]:
    condition, a, b = computed(values)
    return [np.where(condition.astype(bool), a, b)]


def _infer_bool(node: Node, types: Types, values: Values) -> list[TensorType]:
    return [TensorType(want(node, types, 0).shape, "bool")]


def _is_nan(node: Node, values: Values) -> list[Array]:
    return [np.isnan(compute(given(node, values, 0)))]


def _is_inf(node: Node, values: Values) -> list[Array]:
    x = compute(given(node, values, 0))
    positive = np.isposinf(x) & bool(node.attrs.get("detect_positive", 1))
    return [np.asarray(positive | (np.isneginf(x) & bool(node.attrs.get("detect_negative", 1))))]


def _infer_cast(node: Node, types: Types, values: Values) -> list[TensorType]:
    if "to" not in node.attrs:
        raise fail(node, "attribute 'to' (an npusim dtype name) is required")
    return [TensorType(want(node, types, 0).shape, dtype_of(node.attrs["to"]).name)]


def _to_float(x: Array, target: DType, saturate: bool) -> Array:
    """A float that the caller rounds to `target`; of fp8 only, what is too large saturates (ONNX Cast) or does not."""
    wide = x.astype(np.float64 if target.name == "fp64" else np.float32)
    if target.name not in ("fp8_e4m3", "fp8_e5m2"):
        return wide
    with np.errstate(all="ignore"):
        plain = wide.astype(target.numpy).astype(np.float32)  # infinite, or NaN where there is no infinity
    largest = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}[target.name]
    return np.where(np.isnan(wide) | np.isfinite(plain), plain, np.copysign(largest, wide)) if saturate else plain


def _cast(node: Node, values: Values) -> list[Array]:
    x, target = given(node, values, 0), dtype_of(node.attrs["to"])
    if target.is_float:
        return [_to_float(x, target, bool(node.attrs.get("saturate", 1)))]
    x = compute(x)
    if target.name == "bool":
        return [x != 0]
    if x.dtype.kind not in "iub":  # truncates toward zero; beyond the range, which ONNX leaves open, it saturates
        with np.errstate(all="ignore"):
            return [round_to(np.trunc(x), target)]
    return [x.astype(np.int64).astype(target.numpy)]


def _clip(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    x, low, high = operands[0], optional(operands, 1), optional(operands, 2)
    low = node.attrs.get("min") if low is None else low
    high = node.attrs.get("max") if high is None else high
    kind: npt.DTypeLike = x.dtype
    if low is not None:
        x = np.maximum(x, np.asarray(low).astype(kind))
    if high is not None:
        x = np.minimum(x, np.asarray(high).astype(kind))
    return [np.asarray(x)]


def _logical(function: Callable[[Any, Any], Any]) -> Callable[[Array, Array], Any]:
    return lambda a, b: function(a.astype(bool), b.astype(bool))


_unary("Erf", lambda x: erf(x).astype(x.dtype), 8)
_unary("Exp", np.exp)
_unary("Log", np.log)
_unary("Sqrt", np.sqrt)
_unary("Neg", np.negative)
_unary("Abs", np.abs)
_unary("Reciprocal", lambda x: (1.0 / x).astype(x.dtype))
_unary("Floor", np.floor)
_unary("Ceil", np.ceil)
_unary("Round", _round)
_unary("Sign", np.sign)
_unary("Sin", np.sin)
_unary("Cos", np.cos)
_unary("Tan", np.tan)
_unary("Atan", np.arctan)
_unary("Sinh", np.sinh)
_unary("Cosh", np.cosh)
_unary("Tanh", np.tanh)
_unary("Sigmoid", _sigmoid, 4)
_unary("Not", np.logical_not)

_binary("Add", np.add)
_binary("Sub", np.subtract)
_binary("Mul", np.multiply)
_binary("Div", _divide)
_binary("Pow", _power)
_binary("Min", np.minimum)
_binary("Max", np.maximum)
_binary("Sum", np.add)
_binary("And", _logical(np.logical_and), compares=True)
_binary("Or", _logical(np.logical_or), compares=True)
_binary("Xor", _logical(np.logical_xor), compares=True)
_binary("Equal", np.equal, compares=True)
_binary("Less", np.less, compares=True)
_binary("LessOrEqual", np.less_equal, compares=True)
_binary("Greater", np.greater, compares=True)
_binary("GreaterOrEqual", np.greater_equal, compares=True)

register("Mean", "elementwise", _infer_binary, _mean, _variadic_work)
register("Mod", "elementwise", _infer_binary, _modulo, per_output(1))
register("Where", "elementwise", _infer_where, _where, per_output(1))
register("IsNaN", "elementwise", _infer_bool, _is_nan, per_output(1))
register("IsInf", "elementwise", _infer_bool, _is_inf, per_output(1))
register("Cast", "elementwise", _infer_cast, _cast, no_work)
register("Clip", "elementwise", same_type, _clip, per_output(2))
