"""The numpy meaning of the vector operations and activations: real values in, real values out.

Values are float32; functions that need guard digits work in float64 and are rounded once. Integer pairs (int64 here)
are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import SimulationError
from isa.table import ACTIVATIONS

Array = npt.NDArray[Any]
Unary = Callable[[Array, float, float], Array]

# Rational Chebyshev approximations of erf and erfc: W. J. Cody, Mathematics of Computation 23 (1969), pp. 631-637,
# coefficients as in his CALERF (SPECFUN, netlib). Highest power first.
# fmt: off
_ERF_P = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
          3.20937758913846947e3)
_ERF_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_ERFC_P = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
           2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
           1.23033935479799725e3)
_ERFC_Q = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
           3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)
# fmt: on
_ERF_SMALL, _ERF_ONE = 0.46875, 6.0  # beyond 6, erf is 1 in float64


def erf(x: Array) -> Array:
    """Error function to float64 accuracy (about 1e-16), element-wise."""
    value = np.asarray(x, np.float64)
    size = np.minimum(np.abs(value), _ERF_ONE)
    square = value * value
    small = value * np.polyval(_ERF_P, np.minimum(square, 1)) / np.polyval(_ERF_Q, np.minimum(square, 1))
    tail = np.exp(-size * size) * np.polyval(_ERFC_P, size) / np.polyval(_ERFC_Q, size)
    result: Array = np.where(size <= _ERF_SMALL, small, np.copysign(1 - tail, value))
    return result


def _wide(function: Callable[[Array], Array]) -> Unary:
    """Evaluate in float64; the caller rounds once."""
    return lambda x, f0, f1: function(np.asarray(x, np.float64))


def _plain(function: Callable[[Array], Array]) -> Unary:
    return lambda x, f0, f1: function(x)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Array) -> Array:
    result: Array = np.logaddexp(0.0, x)
    return result


def _gelu_tanh(x: Array) -> Array:
    inner: Array = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    inner += 1
    inner *= 0.5 * x
    return inner


UNARY: dict[str, Unary] = {
    "copy": _plain(lambda x: x),
    "neg": _plain(np.negative),
    "abs": _plain(np.abs),
    "exp": _plain(np.exp),
    "log": _plain(np.log),
    "sqrt": _plain(np.sqrt),
    "rsqrt": _wide(lambda x: 1 / np.sqrt(x)),
    "recip": _plain(lambda x: np.float32(1) / x),
    "tanh": _wide(np.tanh),
    "sigmoid": _wide(_sigmoid),
    "erf": _wide(erf),
    "gelu": _wide(lambda x: 0.5 * x * (1 + erf(x * np.sqrt(0.5)))),
    "gelu_tanh": _wide(_gelu_tanh),
    "relu": _plain(lambda x: np.maximum(x, 0)),
    "hardswish": _wide(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "floor": _plain(np.floor),
    "ceil": _plain(np.ceil),
    "round": _plain(np.rint),
    "sign": _plain(np.sign),
    "not": _plain(np.logical_not),
    "isnan": _plain(np.isnan),
    "sin": _wide(np.sin),
    "cos": _wide(np.cos),
    "softplus": _wide(_softplus),
    "square": _plain(np.square),
    "mish": _wide(lambda x: x * np.tanh(_softplus(x))),
    "leaky_relu": lambda x, f0, f1: np.where(x >= 0, x, np.float32(f0) * x),
    "clip": lambda x, f0, f1: np.minimum(np.maximum(x, f0), f1),
    "adds": lambda x, f0, f1: x + np.float32(f0),
    "muls": lambda x, f0, f1: x * np.float32(f0),
    "maxs": lambda x, f0, f1: np.maximum(x, f0),
    "mins": lambda x, f0, f1: np.minimum(x, f0),
    "pows": lambda x, f0, f1: np.power(np.asarray(x, np.float64), f0),
    "hard_sigmoid": lambda x, f0, f1: np.clip(np.float32(f0) * x + np.float32(f1), 0, 1),
    "elu": lambda x, f0, f1: np.where(x > 0, x, f0 * np.expm1(np.minimum(np.asarray(x, np.float64), 0))),
    "affine": lambda x, f0, f1: np.float32(f0) * x + np.float32(f1),
}

BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": lambda a, b: np.power(np.asarray(a, np.float64), b),
    "mod": np.mod,
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "prelu": lambda a, b: np.where(a >= 0, a, a * b),
}

TERNARY: dict[str, Callable[[Array, Array, Array], Array]] = {
    "select": lambda a, b, c: np.where(a != 0, b, c),
    "fma": lambda a, b, c: (a.astype(np.float64) * b + c).astype(np.float32),  # the product of float32 is exact
}

REDUCE: dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}

# Operations that are exact on int32 / int64 operands; all others see them as real numbers.
INTEGER_EXACT = frozenset({"add", "sub", "mul", "max", "min", "eq", "lt", "le", "gt", "ge", "copy", "select"})


def activate(number: int, x: Array, f0: float, f1: float) -> Array:
    """Apply the activation whose id is its position in ACTIVATIONS; raises SimulationError when there is none."""
    if not 0 <= number < len(ACTIVATIONS):
        raise SimulationError(f"activation {number} does not exist; there are {len(ACTIVATIONS)}")
    name = ACTIVATIONS[number]
    return x if name == "none" else UNARY[name](x, f0, f1)
