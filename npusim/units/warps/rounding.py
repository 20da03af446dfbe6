"""Rounding to fp32 and 16-bit floats in integer arithmetic, exact for all values; numba has no float16.

NaNs are made alike, as the results of a GPU are (PTX ISA, "Floating-point instructions"): 0x7fffffff, 0x7fff.
"""

from __future__ import annotations

import numpy as np

from npusim.jit import inlined
from npusim.units.warps.layout import Word

NAN, HALF_NAN = 0x7FFFFFFF, 0x7FFF
INFINITY = 0x7F800000
_ONE_HALF = 0x3F000000
_EXPONENT = 0x7FF0000000000000  # of a float64
_FRACTION_STEP, _EXPONENT_STEP = 13, 112  # of fp32 and fp16: more bits of fraction, difference of the biases
_HALF_OVERFLOW = 0x477FF000  # 65520: halfway from the largest fp16 to the next power of two
_HALF_NORMAL = 0x38800000  # 2 ** -14


@inlined
def odd_sum(x: Word, y: Word) -> Word:
    """x + y in float64 rounded to odd: where it is inexact, the last bit is set.

    A second rounding to at most 51 bits then gives what one rounding of the exact sum gives (Boldo and Melquiond,
    "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", IEEE TC 57(4), 2008). The
    error of the sum is Knuth's TwoSum.
    """
    s = x + y
    t = s - x
    error = (x - (s - t)) + (y - t)
    bits = np.float64(s).view(np.int64)
    exact = error == 0.0 or bits & 1 or bits & _EXPONENT == _EXPONENT
    toward = 0 if exact else 1 if (error > 0.0) == (s > 0.0) else -1
    return np.int64(bits + toward).view(np.float64)


@inlined
def odd_single(x: Word) -> Word:
    """The fp32 bits of a float64 rounded to odd, so that 16-bit floats can be rounded from it once more."""
    y = np.float32(x)
    bits, wide = np.int64(np.float32(y).view(np.uint32)), np.float64(y)
    exact = bits & 1 or wide == x or x != x
    return bits + (0 if exact else -1 if abs(wide) > abs(x) else 1)


@inlined
def half_of(bits: Word) -> Word:
    """fp16 nearest to an fp32 (its bits), ties to even."""
    a = bits & 0x7FFFFFFF
    normal = a - (_EXPONENT_STEP << 23) + 0xFFF + (a >> _FRACTION_STEP & 1) >> _FRACTION_STEP
    # The last bit of a sum with 0.5 is worth 2 ** -24, as that of a subnormal: the sum rounds.
    tiny = np.int64(np.float32(np.uint32(a).view(np.float32) + np.float32(0.5)).view(np.uint32)) - _ONE_HALF
    finite = tiny if a < _HALF_NORMAL else normal if a < _HALF_OVERFLOW else 0x7C00
    return HALF_NAN if a > INFINITY else bits >> 16 & 0x8000 | finite


@inlined
def single_of_half(half: Word) -> Word:
    """fp32 bits of an fp16."""
    a = half & 0x7FFF
    scaled = np.float32(np.uint32(a << _FRACTION_STEP).view(np.float32) * np.float32(2.0**_EXPONENT_STEP))
    finite = np.int64(np.float32(scaled).view(np.uint32))
    return NAN if a > 0x7C00 else (half & 0x8000) << 16 | (finite if a < 0x7C00 else INFINITY)


@inlined
def brain_of(bits: Word) -> Word:
    """bf16 nearest to an fp32 (its bits), ties to even."""
    return HALF_NAN if bits & 0x7FFFFFFF > INFINITY else bits + 0x7FFF + (bits >> 16 & 1) >> 16


@inlined
def single_of_brain(brain: Word) -> Word:
    """fp32 bits of a bf16."""
    return NAN if brain & 0x7FFF > 0x7F80 else brain << 16


@inlined
def tf32_of(bits: Word) -> Word:
    """fp32 bits with a fraction of ten bits, nearest, ties to even as in isa.dtypes."""
    return NAN if bits & 0x7FFFFFFF > INFINITY else bits + 0xFFF + (bits >> 13 & 1) & 0xFFFFE000
