"""Products of the matrix unit: floats in float32, integers exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import DType

Array = npt.NDArray[Any]
_FLOAT32_EXACT, _FLOAT64_EXACT = 1 << 24, 1 << 53


def product(left: Array, left_type: DType, right: Array, right_type: DType) -> Array:
    """Return left [m, k] x right [k, n]: float32 for float operands, int64 when both are integers.

    Integer sums stay exact because they run in the narrowest float type whose mantissa holds k times the largest
    product, which lets BLAS do them.
    """
    if left_type.is_float or right_type.is_float:
        result: Array = np.matmul(left.astype(np.float32), right.astype(np.float32))
        return result
    largest = left.shape[1] << (left_type.bits + right_type.bits - 2)
    if left_type.name.startswith("u") or right_type.name.startswith("u"):
        largest <<= 2
    if largest > _FLOAT64_EXACT:
        wide: Array = np.matmul(left.astype(np.int64), right.astype(np.int64))
        return wide
    kind = np.float32 if largest <= _FLOAT32_EXACT else np.float64
    exact: Array = np.matmul(left.astype(kind), right.astype(kind)).astype(np.int64)
    return exact


def add_to(old: Array | None, result: Array, target: DType) -> Array:
    """Return old + result in the accumulator type; int32 wraps around as a 32-bit adder does."""
    if target.is_float:
        total: Array = result if old is None else old.astype(np.float32) + result.astype(np.float32)
        return total
    exact = np.rint(result).astype(np.int64) if result.dtype.kind == "f" else result
    wrapped: Array = (exact if old is None else old.astype(np.int64) + exact).astype(target.numpy)
    return wrapped
