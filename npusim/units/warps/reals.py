"""fp32 values of lanes: a, b, c and d are rows of uint32 that hold fp32 bits, n lanes of each; every lane is computed.

Sums, products and roots are rounded to nearest even, subnormals are kept. Of the special functions the values are those
of float64 functions rounded once to fp32; a chip's lie within some 2 ulp of them. NaNs that are made are all alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import kernel
from npusim.units.warps.forms import (
    F2B2,
    F2H2,
    F2I,
    FABS,
    FADD,
    FCOS,
    FEX2,
    FMIN,
    FMUL,
    FRCP,
    FRSQ,
    FSIN,
    FSQRT,
    FSUB,
    I2F,
    U2F,
)
from npusim.units.warps.rounding import NAN, brain_of, half_of, odd_sum, tf32_of

Array = npt.NDArray[Any]

WORD = 0xFFFFFFFF
LOWEST, HIGHEST = -(2.0**31), 2.0**31 - 1


@kernel
def real(form: int, a: Array, b: Array, c: Array, d: Array, n: int) -> None:
    """Sums, products, and a product and sum rounded once."""
    x, y, z, result = a.view(np.float32), b.view(np.float32), c.view(np.float32), d.view(np.float32)
    if form == FADD:
        for i in range(n):
            result[i] = x[i] + y[i]
    elif form == FSUB:
        for i in range(n):
            result[i] = x[i] - y[i]
    elif form == FMUL:
        for i in range(n):
            result[i] = x[i] * y[i]
    else:
        for i in range(n):  # the product of two fp32 is exact in float64
            result[i] = np.float32(odd_sum(np.float64(x[i]) * np.float64(y[i]), np.float64(z[i])))
    alike(d, n)


@kernel
def alike(d: Array, n: int) -> None:
    """Give all NaNs the same bits."""
    values = d.view(np.float32)
    for i in range(n):
        d[i] = NAN if values[i] != values[i] else d[i]


@kernel
def choose(form: int, a: Array, b: Array, d: Array, n: int) -> None:
    """The smaller or larger one, where -0 < 0 and a NaN gives way; the magnitude."""
    if form == FABS:
        for i in range(n):
            d[i] = a[i] & 0x7FFFFFFF
        return
    x, y = a.view(np.float32), b.view(np.float32)
    least = form == FMIN
    for i in range(n):
        # Of equal numbers bits differ at most in the sign: or gives -0, and gives 0.
        same = a[i] | b[i] if least else a[i] & b[i]
        first = (x[i] < y[i]) == least
        d[i] = b[i] if x[i] != x[i] else a[i] if y[i] != y[i] else same if x[i] == y[i] else a[i] if first else b[i]
    alike(d, n)


@kernel
def roots(form: int, a: Array, d: Array, n: int) -> None:
    """1 / x, 1 / sqrt(x), sqrt(x), 2 ** x, log2(x)."""
    x, result = a.view(np.float32), d.view(np.float32)
    if form == FRCP:
        for i in range(n):
            result[i] = np.float32(1.0) / x[i]
    elif form == FRSQ:
        for i in range(n):
            result[i] = np.float32(np.float64(1.0) / np.sqrt(np.float64(x[i])))
    elif form == FSQRT:
        for i in range(n):
            result[i] = np.sqrt(x[i])
    elif form == FEX2:
        for i in range(n):
            result[i] = np.float32(np.exp2(np.float64(x[i])))
    else:
        for i in range(n):
            result[i] = np.float32(np.log2(np.float64(x[i])))
    alike(d, n)


@kernel
def curves(form: int, a: Array, d: Array, n: int) -> None:
    """sin, cos, tanh."""
    x, result = a.view(np.float32), d.view(np.float32)
    if form == FSIN:
        for i in range(n):
            result[i] = np.float32(np.sin(np.float64(x[i])))
    elif form == FCOS:
        for i in range(n):
            result[i] = np.float32(np.cos(np.float64(x[i])))
    else:
        for i in range(n):
            result[i] = np.float32(np.tanh(np.float64(x[i])))
    alike(d, n)


@kernel
def to_real(form: int, a: Array, d: Array, n: int) -> None:
    """Between fp32 and integers; a NaN becomes 0."""
    x, result = a.view(np.float32), d.view(np.float32)
    if form == I2F:
        signed = a.view(np.int32)
        for i in range(n):
            result[i] = np.float32(np.float64(signed[i]))
    elif form == U2F:
        for i in range(n):
            result[i] = np.float32(np.float64(a[i]))
    else:
        for i in range(n):
            exact = np.float64(x[i])
            value = 0.0 if exact != exact else exact if form == F2I else np.rint(exact)
            d[i] = np.int64(min(max(value, LOWEST), HIGHEST)) & WORD


@kernel
def narrow(form: int, a: Array, b: Array, d: Array, n: int) -> None:
    """fp32 to pairs of 16-bit floats, or to a fraction of ten bits."""
    if form == F2H2:
        for i in range(n):
            d[i] = half_of(np.int64(a[i])) | half_of(np.int64(b[i])) << 16
    elif form == F2B2:
        for i in range(n):
            d[i] = brain_of(np.int64(a[i])) | brain_of(np.int64(b[i])) << 16
    else:
        for i in range(n):
            d[i] = tf32_of(np.int64(a[i])) & WORD
