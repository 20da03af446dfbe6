"""Pairs of 16-bit floats in a lane register, and single ones taken out of it. Every lane is computed.

Each operation is exact in float64, rounded to odd there and in fp32, and to nearest even at last: one rounding in all.
"""

# ruff: noqa: SIM109  (compiled code: a comparison is cheaper than a search in a tuple)

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.units.warps.forms import B2F_LOW, H2F_HIGH, H2F_LOW, PAIR_ADD, PAIR_FMA, PAIR_MUL
from npusim.units.warps.layout import Word
from npusim.units.warps.rounding import (
    HALF_NAN,
    brain_of,
    half_of,
    odd_single,
    odd_sum,
    single_of_brain,
    single_of_half,
)

Array = npt.NDArray[Any]


@inlined
def _value(half: Word, brain: Word) -> Word:
    bits = single_of_brain(half) if brain else single_of_half(half)
    return np.float64(np.uint32(bits).view(np.float32))


@inlined
def _rounded(value: Word, brain: Word) -> Word:
    bits = odd_single(value)
    return brain_of(bits) if brain else half_of(bits)


@kernel
def pairs(form: int, brain: int, a: Array, b: Array, c: Array, d: Array, n: int) -> None:
    """Both halves of each lane: fp16, or bf16 with `brain`."""
    for i in range(n):
        x, y, z = np.int64(a[i]), np.int64(b[i]), np.int64(c[i])
        low = _pair_value(form, brain, x & 0xFFFF, y & 0xFFFF, z & 0xFFFF)
        d[i] = low | _pair_value(form, brain, x >> 16, y >> 16, z >> 16) << 16


@kernel
def _pair_value(form: Word, brain: Word, a: Word, b: Word, c: Word) -> Word:
    x, y = _value(a, brain), _value(b, brain)
    if form == PAIR_ADD:
        return _rounded(odd_sum(x, y), brain)
    if form == PAIR_MUL:
        return _rounded(x * y, brain)
    if form == PAIR_FMA:
        return _rounded(odd_sum(x * y, _value(c, brain)), brain)
    if x != x:
        return HALF_NAN if y != y else b
    if y != y or x > y:
        return a
    return a & b if x == y else b  # of zeros, the positive one


@kernel
def widen(form: int, a: Array, d: Array, n: int) -> None:
    """fp32 of one half."""
    if form == H2F_LOW or form == H2F_HIGH:
        place = 0 if form == H2F_LOW else 16
        for i in range(n):
            d[i] = single_of_half(np.int64(a[i]) >> place & 0xFFFF)
    else:
        place = 0 if form == B2F_LOW else 16
        for i in range(n):
            d[i] = single_of_brain(np.int64(a[i]) >> place & 0xFFFF)
