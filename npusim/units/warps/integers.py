"""Integer values of lanes: a, b, c and d are rows of uint32, n lanes of each; every lane is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.units.warps.forms import (
    FFS,
    IADD,
    IAND,
    IMIN,
    IMUL,
    IMULHI,
    IOR,
    ISHL,
    ISHR,
    ISUB,
    IXOR,
    POPC,
)
from npusim.units.warps.layout import Word

Array = npt.NDArray[Any]

WORD = 0xFFFFFFFF


@kernel
def arithmetic(form: int, a: Array, b: Array, c: Array, d: Array, n: int) -> None:
    """Sums and products, modulo 2 ** 32."""
    if form == IADD:
        for i in range(n):
            d[i] = a[i] + b[i]
    elif form == ISUB:
        for i in range(n):
            d[i] = a[i] - b[i]
    elif form == IMUL:
        for i in range(n):
            d[i] = a[i] * b[i]
    elif form == IMULHI:
        for i in range(n):
            d[i] = (np.uint64(a[i]) * np.uint64(b[i])) >> np.uint64(32)
    else:
        for i in range(n):
            d[i] = a[i] * b[i] + c[i]


@kernel
def logic(form: int, a: Array, b: Array, d: Array, n: int) -> None:
    """Bitwise operations, and the smaller or larger of two signed numbers."""
    if form == IAND:
        for i in range(n):
            d[i] = a[i] & b[i]
    elif form == IOR:
        for i in range(n):
            d[i] = a[i] | b[i]
    elif form == IXOR:
        for i in range(n):
            d[i] = a[i] ^ b[i]
    else:
        x, y = a.view(np.int32), b.view(np.int32)
        for i in range(n):
            d[i] = a[i] if (x[i] < y[i]) == (form == IMIN) else b[i]


@kernel
def shift(form: int, a: Array, b: Array, d: Array, n: int) -> None:
    """Shifts, and places and numbers of bits."""
    if form == ISHL:
        for i in range(n):
            d[i] = (np.int64(a[i]) << np.int64(b[i] & 31)) & WORD if b[i] < 32 else 0
    elif form == ISHR:
        for i in range(n):
            d[i] = np.int64(a[i]) >> np.int64(b[i] & 31) if b[i] < 32 else 0
    elif form == POPC:
        for i in range(n):
            d[i] = _bits_set(np.int64(a[i]))
    elif form == FFS:
        for i in range(n):
            d[i] = _lowest_bit(np.int64(a[i]))
    else:
        x = a.view(np.int32)
        for i in range(n):
            d[i] = (np.int64(x[i]) >> min(np.int64(b[i]), np.int64(31))) & WORD


@inlined
def _bits_set(value: Word) -> Word:
    x = value - (value >> 1 & 0x55555555)
    x = (x & 0x33333333) + (x >> 2 & 0x33333333)
    return ((x + (x >> 4) & 0x0F0F0F0F) * 0x01010101 & WORD) >> 24


@inlined
def _lowest_bit(value: Word) -> Word:
    return _bits_set((value & -value) - 1) if value else WORD
