"""Pairs of 16-bit floats in a lane register, and single ones taken out of it. Every lane is computed.

Each operation is exact in float64, rounded to odd there and in fp32, and to nearest even at last: one rounding in all.
"""

# ruff: noqa: SIM109  (compiled code: a comparison is cheaper than a search in a tuple)

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.units.warps.forms import B2F_LOW, BRAIN, H2F_HIGH, H2F_LOW, PAIR_ADD, PAIR_MAX, PAIR_MUL
from npusim.units.warps.layout import Word
from npusim.units.warps.rounding import (
    brain_of,
    half_of,
    odd_single,
    odd_sum,
    single_of_brain,
    single_of_half,
)

Array = npt.NDArray[Any]


@kernel
def pairs(form: int, a: Array, b: Array, c: Array, d: Array, n: int) -> None:
    """Both halves of each lane; forms from BRAIN on are of bf16."""
    x, y, z, result = a.view(np.uint16), b.view(np.uint16), c.view(np.uint16), d.view(np.uint16)
    if form < BRAIN:
        for i in range(2 * n):
            u, v = _half(x[i]), _half(y[i])
            result[i] = half_of(odd_single(_value(form, u, v, _half(z[i]))))
    else:
        for i in range(2 * n):
            u, v = _brain(x[i]), _brain(y[i])
            result[i] = brain_of(odd_single(_value(form - BRAIN, u, v, _brain(z[i]))))


@inlined
def _half(bits: Word) -> Word:
    return np.float64(np.uint32(single_of_half(np.int64(bits))).view(np.float32))


@inlined
def _brain(bits: Word) -> Word:
    return np.float64(np.uint32(single_of_brain(np.int64(bits))).view(np.float32))


@inlined
def _value(form: Word, x: Word, y: Word, z: Word) -> Word:
    """The result, exact or rounded to odd."""
    if form == PAIR_MAX:
        larger = x if x > y else y if y > x or (x == 0.0 and 1.0 / x < 0.0) else x
        return y if x != x else x if y != y else larger
    product = x * y
    return product if form == PAIR_MUL else odd_sum(x if form == PAIR_ADD else product, y if form == PAIR_ADD else z)


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
