"""Products of a warp and loads of their fragments.

Where elements lie in the registers of lanes is that of the PTX ISA ("Matrix fragments for mma.m16n8k8", m16n8k16,
m16n8k32, and "ldmatrix"). With g = lane / 4, t = lane % 4 and e elements in a register (2 of 16 bits, 1 of tf32, 4 of
8 bits), element j of register r is
  of A: row g + 8 (r % 2), column e t + j + 4 e (r / 2);
  of B: row e t + j + 4 e r, column g;
  of C and D, one a register: row g + 8 (r / 2), column 2 t + r % 2.

Sums: D = C, then the products in ascending k are added one by one in fp32, each product exact but for fp32's range.
Chips add groups of products at once and cut low bits off, so their last bits differ. int32 sums wrap.
"""

# ruff: noqa: SIM109  (compiled code: a comparison is cheaper than a search in a tuple)

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.units.warps.access import in_bounds
from npusim.units.warps.flow import first_lanes
from npusim.units.warps.forms import MMA_BRAIN, MMA_HALF, MMA_INT8
from npusim.units.warps.layout import (
    I_A,
    I_B,
    I_C,
    I_COUNT,
    I_DST,
    I_FORM,
    I_IMM,
    OK,
    WORK_D,
    WORK_LEFT,
    WORK_RIGHT,
    WORK_SUM,
    Word,
)
from npusim.units.warps.reals import alike
from npusim.units.warps.rounding import single_of_brain, single_of_half

Array = npt.NDArray[Any]

_ROWS, _COLUMNS = 16, 8  # of every product
_THREADS = 32  # lanes that hold fragments


@kernel
def product(code: Array, pc: int, w: int, regs: Array, work: Array) -> None:
    """D = A B + C of the whole warp; in scratch the matrices stand row by row."""
    form, depth, target = code[pc, I_FORM], code[pc, I_IMM], code[pc, I_DST]
    left, right = work[WORK_LEFT:].view(np.uint32), work[WORK_RIGHT:].view(np.uint32)
    sums, parts = work[WORK_SUM:].view(np.uint32), work[WORK_D:].view(np.uint32)
    per = 4 if form == MMA_INT8 else 2 if form == MMA_HALF or form == MMA_BRAIN else 1
    for r in range(depth // (2 * per)):
        _spread_left(regs[w, code[pc, I_A] + r], r, per, form, depth, left, parts)
    for r in range(depth // (4 * per)):
        _spread_right(regs[w, code[pc, I_B] + r], r, per, form, right, parts)
    for r in range(4):
        row = regs[w, code[pc, I_C] + r]
        for lane in range(_THREADS):
            sums[_place(lane, r)] = row[lane]
    if form == MMA_INT8:
        _add_integers(left.view(np.int32), right.view(np.int32), sums, depth)
    else:
        _add_reals(left.view(np.float32), right.view(np.float32), sums.view(np.float32), depth)
        alike(sums, _ROWS * _COLUMNS)
    for r in range(4):
        row = regs[w, target + r]
        for lane in range(_THREADS):
            row[lane] = sums[_place(lane, r)]


@inlined
def _place(lane: int, r: int) -> Word:
    """Where register r of a lane of C or D stands."""
    return _COLUMNS * ((lane >> 2) + 8 * (r >> 1)) + 2 * (lane & 3) + (r & 1)


@kernel
def _spread_left(row: Array, r: int, per: int, form: int, depth: int, left: Array, parts: Array) -> None:
    for j in range(per):
        _elements(row, j, form, parts)
        for lane in range(_THREADS):
            left[((lane >> 2) + 8 * (r & 1)) * depth + per * (lane & 3) + j + 4 * per * (r >> 1)] = parts[lane]


@kernel
def _spread_right(row: Array, r: int, per: int, form: int, right: Array, parts: Array) -> None:
    for j in range(per):
        _elements(row, j, form, parts)
        for lane in range(_THREADS):
            right[_COLUMNS * (per * (lane & 3) + j + 4 * per * r) + (lane >> 2)] = parts[lane]


@kernel
def _elements(row: Array, j: int, form: int, parts: Array) -> None:
    """Element j of a register in each lane, as fp32 bits or the bits of an int32."""
    if form == MMA_INT8:
        for i in range(_THREADS):
            parts[i] = ((np.int64(row[i]) >> 8 * j & 0xFF ^ 0x80) - 0x80) & 0xFFFFFFFF
    elif form == MMA_HALF:
        for i in range(_THREADS):
            parts[i] = single_of_half(np.int64(row[i]) >> 16 * j & 0xFFFF)
    elif form == MMA_BRAIN:
        for i in range(_THREADS):
            parts[i] = single_of_brain(np.int64(row[i]) >> 16 * j & 0xFFFF)
    else:
        for i in range(_THREADS):
            parts[i] = row[i] & 0xFFFFE000


@kernel
def _add_reals(left: Array, right: Array, sums: Array, depth: int) -> None:
    """A row of sums at a time, its eight columns written out: they stay in registers."""
    for i in range(_ROWS):
        at = _COLUMNS * i
        s, t, u, v = sums[at], sums[at + 1], sums[at + 2], sums[at + 3]
        w, x, y, z = sums[at + 4], sums[at + 5], sums[at + 6], sums[at + 7]
        for k in range(depth):
            a, b = left[i * depth + k], _COLUMNS * k
            s += a * right[b]
            t += a * right[b + 1]
            u += a * right[b + 2]
            v += a * right[b + 3]
            w += a * right[b + 4]
            x += a * right[b + 5]
            y += a * right[b + 6]
            z += a * right[b + 7]
        sums[at], sums[at + 1], sums[at + 2], sums[at + 3] = s, t, u, v
        sums[at + 4], sums[at + 5], sums[at + 6], sums[at + 7] = w, x, y, z


@kernel
def _add_integers(left: Array, right: Array, sums: Array, depth: int) -> None:
    for i in range(_ROWS):
        for j in range(_COLUMNS):
            total = np.int64(sums[_COLUMNS * i + j])
            for k in range(depth):
                total += np.int64(left[i * depth + k]) * np.int64(right[_COLUMNS * k + j])
            sums[_COLUMNS * i + j] = total & 0xFFFFFFFF


@kernel
def load_fragments(code: Array, pc: int, w: int, regs: Array, where: Array, own: Array) -> Word:
    """8 x 8 matrices of two-byte elements; row i of matrix m begins at the address of lane 8 m + i."""
    count = code[pc, I_COUNT]
    status = in_bounds(where, first_lanes(8 * count), 8 * count, 16, len(own))
    if status != OK:
        return status
    for m in range(count):
        row = regs[w, code[pc, I_DST] + m]
        for lane in range(_THREADS):
            group, t = lane >> 2, lane & 3
            if code[pc, I_FORM]:
                low, high = where[8 * m + 2 * t] + 2 * group, where[8 * m + 2 * t + 1] + 2 * group
            else:
                low = where[8 * m + group] + 4 * t
                high = low + 2
            row[lane] = _two_bytes(own, low) | _two_bytes(own, high) << 16
    return OK


@inlined
def _two_bytes(own: Array, at: Word) -> Word:
    return np.int64(own[at]) | np.int64(own[at + 1]) << 8
