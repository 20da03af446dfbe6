"""Atomics: lanes in ascending order, each reads the old word and leaves a new one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import kernel
from npusim.units.warps.access import in_bounds
from npusim.units.warps.forms import ATOM_ADD, ATOM_AND, ATOM_FADD, ATOM_MAX, ATOM_MIN, ATOM_OR, ATOM_XOR
from npusim.units.warps.layout import OK, Word
from npusim.units.warps.rounding import NAN

Array = npt.NDArray[Any]

_SIGN, _WORD = 0x80000000, 0xFFFFFFFF


@kernel
def atomic(form: int, lanes: int, n: int, where: Array, operand: Array, old: Array, memory: Array) -> Word:
    """Change the words at `where` by the operands; old[lane] is what the lane found. Integers wrap and are signed."""
    status = in_bounds(where, lanes, n, 4, len(memory))
    if status != OK:
        return status
    words = memory[: len(memory) & ~3].view(np.uint32)
    for i in range(n):
        if lanes >> i & 1:
            at = where[i] >> 2
            old[i] = words[at]
            words[at] = _changed(form, np.int64(words[at]), np.int64(operand[i]))
    return OK


@kernel
def _changed(form: Word, old: Word, b: Word) -> Word:
    if form == ATOM_ADD:
        return old + b & _WORD
    if form == ATOM_FADD:
        total = np.uint32(old).view(np.float32) + np.uint32(b).view(np.float32)
        return np.int64(np.float32(total).view(np.uint32)) if total == total else NAN
    if form == ATOM_MIN:
        return old if old ^ _SIGN < b ^ _SIGN else b
    if form == ATOM_MAX:
        return b if old ^ _SIGN < b ^ _SIGN else old
    if form == ATOM_AND:
        return old & b
    if form == ATOM_OR:
        return old | b
    return old ^ b if form == ATOM_XOR else b
