"""Rounding to fp32 and 16-bit floats in integer arithmetic, exact for all values; numba has no float16.

NaNs are made alike, as the results of a GPU are (PTX ISA, "Floating-point instructions"): 0x7fffffff, 0x7fff.
"""

from __future__ import annotations

import numpy as np

from npusim.jit import inlined
from npusim.units.warps.layout import Word

NAN, HALF_NAN = 0x7FFFFFFF, 0x7FFF
INFINITY = 0x7F800000
_HALF_FRACTION, _EXPONENT_STEP = 13, 112  # fp32 fraction bits beyond fp16's; difference of the exponents' biases
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
    if error == 0.0 or bits & 1 or (bits >> 52) & 2047 == 2047:
        return s
    toward = 1 if (error > 0.0) == (s > 0.0) else -1
    return np.int64(bits + toward).view(np.float64)


@inlined
def odd_single(x: Word) -> Word:
    """The fp32 bits of a float64 rounded to odd, so that 16-bit floats can be rounded from it once more."""
    y = np.float32(x)
    bits = np.int64(np.float32(y).view(np.uint32))
    if bits & 1 or np.float64(y) == x or x != x:
        return bits
    return bits - 1 if abs(np.float64(y)) > abs(x) else bits + 1


@inlined
def half_of(bits: Word) -> Word:
    """fp16 nearest to an fp32 (its bits), ties to even."""
    sign, a = bits >> 16 & 0x8000, bits & 0x7FFFFFFF
    if a > INFINITY:
        return HALF_NAN
    if a >= _HALF_OVERFLOW:
        return sign | 0x7C00
    if a >= _HALF_NORMAL:
        a -= _EXPONENT_STEP << 23
        return sign | (a + 0xFFF + (a >> _HALF_FRACTION & 1)) >> _HALF_FRACTION
    # A subnormal: the fraction with its leading bit, in units of 2 ** -24.
    drop = min(126 - (a >> 23), 31)
    full = a & 0x7FFFFF | 0x800000
    return sign | (full + (1 << drop - 1) - 1 + (full >> drop & 1)) >> drop


@inlined
def single_of_half(half: Word) -> Word:
    """fp32 bits of an fp16."""
    sign, exponent, fraction = (half & 0x8000) << 16, half >> 10 & 31, half & 0x3FF
    if exponent == 31:
        return NAN if fraction else sign | INFINITY
    if exponent == 0:
        return sign | np.int64(np.float32(fraction * 2.0**-24).view(np.uint32))
    return sign | exponent + _EXPONENT_STEP << 23 | fraction << _HALF_FRACTION


@inlined
def brain_of(bits: Word) -> Word:
    """bf16 nearest to an fp32 (its bits), ties to even."""
    if bits & 0x7FFFFFFF > INFINITY:
        return HALF_NAN
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


@inlined
def single_of_brain(brain: Word) -> Word:
    """fp32 bits of a bf16."""
    return NAN if brain & 0x7FFF > 0x7F80 else brain << 16


@inlined
def tf32_of(bits: Word) -> Word:
    """fp32 bits with a fraction of ten bits, nearest, ties to even as in isa.dtypes."""
    if bits & 0x7FFFFFFF > INFINITY:
        return NAN
    return bits + 0xFFF + (bits >> 13 & 1) & 0xFFFFE000
