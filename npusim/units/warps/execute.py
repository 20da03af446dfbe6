"""What an instruction does to the registers, predicates and memories of a warp, in the lanes of a mask.

Everything but control: branches, exits and scalar instructions are flow.py's, barriers the caller's. Copies of `cpa`
are made at once, so that groups and waits have nothing left to do here. An instruction that fails has done nothing.
"""

# ruff: noqa: SIM109  (compiled code: a comparison is cheaper than a search in a tuple)

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.table_simt import IMMEDIATE, LANE_ID, SCALAR_SOURCE, THREAD_ID
from npusim.jit import inlined, kernel
from npusim.units.warps.access import addresses, copy_across, load, shared_addresses, store
from npusim.units.warps.atomics import atomic
from npusim.units.warps.flow import first_lanes
from npusim.units.warps.forms import (
    ALL,
    ANY,
    ARITHMETIC,
    CHOOSE,
    COMPARE_REAL,
    COMPARE_UNSIGNED,
    CURVES,
    FIRST,
    LOGIC,
    MOVE,
    NARROW,
    PAIR,
    PAND,
    PNOT,
    PREDICATE,
    REAL,
    ROOTS,
    SEL,
    SHIFT,
    SHUFFLE,
    SHUFFLE_DOWN,
    SHUFFLE_INDEX,
    SHUFFLE_UP,
    TO_REAL,
    VID,
)
from npusim.units.warps.integers import arithmetic, logic, shift
from npusim.units.warps.layout import (
    ASYNC_COPY,
    CROSS,
    GLOBAL_ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    I_A,
    I_B,
    I_BITS,
    I_C,
    I_DST,
    I_FORM,
    I_GROUP,
    I_IMM,
    I_KIND,
    LANES,
    MATRIX_LOAD,
    OK,
    PART_OF_WARP,
    PRODUCT,
    SHARED_ATOMIC,
    SHARED_LOAD,
    SHARED_STORE,
    W_INDEX,
    W_SHARED,
    WORK_A,
    WORK_ADDRESS,
    WORK_B,
    WORK_C,
    WORK_D,
    WORK_SHARED,
    Word,
)
from npusim.units.warps.matrix import load_fragments, product
from npusim.units.warps.packed import pairs, widen
from npusim.units.warps.reals import choose, curves, narrow, real, roots, to_real

Array = npt.NDArray[Any]

_WORD, _SIGN = 0xFFFFFFFF, 0x80000000
_LESS, _EQUAL, _GREATER, _UNORDERED = range(4)  # bits of a comparison's form


@kernel
def execute(
    code: Array, pc: int, w: int, lanes: int, warps: Array, regs: Array, scalars: Array, preds: Array, shared: Array,
    memory: Array, work: Array,
) -> Word:  # fmt: skip
    """Execute instruction `pc` of warp `w` in `lanes` (flow.guard) and return a status.

    It is OK, BAD_ADDRESS, MISALIGNED or PART_OF_WARP. W_PC stays. Control and synchronisation do
    nothing. `memory` is global memory, bytes from address 0 on; `work` is scratch.
    """
    kind = code[pc, I_KIND]
    if kind == PRODUCT or kind == MATRIX_LOAD:
        return _matrix(code, pc, w, lanes, warps, regs, scalars, shared, work)
    if lanes == 0:
        return OK
    if kind == LANES:
        _lanes(code, pc, w, lanes, warps, regs, scalars, preds, work)
        return OK
    if kind == CROSS:
        _cross(code, pc, w, lanes, regs, scalars, preds, work)
        return OK
    return _access(code, pc, w, lanes, warps, regs, scalars, shared, memory, work)


@kernel
def _access(
    code: Array, pc: int, w: int, lanes: int, warps: Array, regs: Array, scalars: Array, shared: Array, memory: Array,
    work: Array,
) -> Word:  # fmt: skip
    kind, where = code[pc, I_KIND], work[WORK_ADDRESS:]
    if kind == GLOBAL_LOAD:
        addresses(code, pc, w, lanes, regs, scalars, where)
        return load(code, pc, w, lanes, regs, where, memory)
    if kind == GLOBAL_STORE:
        addresses(code, pc, w, lanes, regs, scalars, where)
        return store(code, pc, w, lanes, regs, where, memory)
    if kind == SHARED_LOAD:
        addresses(code, pc, w, lanes, regs, scalars, where)
        return load(code, pc, w, lanes, regs, where, shared[warps[w, W_SHARED]])
    if kind == SHARED_STORE:
        addresses(code, pc, w, lanes, regs, scalars, where)
        return store(code, pc, w, lanes, regs, where, shared[warps[w, W_SHARED]])
    if kind == ASYNC_COPY:
        addresses(code, pc, w, lanes, regs, scalars, where)
        target, own = work[WORK_SHARED:], shared[warps[w, W_SHARED]]
        shared_addresses(code, pc, w, lanes, regs, target)
        return copy_across(code, pc, lanes, regs.shape[2], where, target, memory, own)
    if kind == GLOBAL_ATOMIC:
        return _atomic(code, pc, w, lanes, regs, scalars, memory, work)
    if kind == SHARED_ATOMIC:
        return _atomic(code, pc, w, lanes, regs, scalars, shared[warps[w, W_SHARED]], work)
    return OK


@kernel
def _atomic(code: Array, pc: int, w: int, lanes: int, regs: Array, scalars: Array, memory: Array, work: Array) -> Word:
    n, where, old = regs.shape[2], work[WORK_ADDRESS:], work[WORK_D:].view(np.uint32)
    addresses(code, pc, w, lanes, regs, scalars, where)
    c = code[pc, I_C]
    broadcast(code, pc, c, w, scalars, work[WORK_C:], n)
    operand = regs[w, c] if 0 <= c < SCALAR_SOURCE else work[WORK_C:].view(np.uint32)
    status = atomic(code[pc, I_FORM], lanes, n, where, operand, old, memory)
    if status == OK and code[pc, I_DST] >= 0:
        put(old, regs[w, code[pc, I_DST]], lanes, n)
    return status


@kernel
def _matrix(
    code: Array, pc: int, w: int, lanes: int, warps: Array, regs: Array, scalars: Array, shared: Array, work: Array
) -> Word:
    """Products and loads of fragments, which a warp executes as a whole."""
    if lanes != first_lanes(regs.shape[2]):
        return PART_OF_WARP
    if code[pc, I_KIND] == PRODUCT:
        product(code, pc, w, regs, work)
        return OK
    where = work[WORK_ADDRESS:]
    addresses(code, pc, w, lanes, regs, scalars, where)
    return load_fragments(code, pc, w, regs, where, shared[warps[w, W_SHARED]])


@inlined
def broadcast(code: Array, pc: int, source: int, w: int, scalars: Array, row: Array, n: int) -> None:
    """Fill a row of scratch with a source that is not a lane register: a scalar register, the immediate, or 0."""
    if source < 0 or source >= SCALAR_SOURCE:
        value = np.int64(0)
        if source >= IMMEDIATE:
            value = code[pc, I_BITS]
        elif source >= 0:
            value = scalars[w, source - SCALAR_SOURCE] & _WORD
        words = row.view(np.uint32)
        for i in range(n):
            words[i] = value


@inlined
def put(values: Array, row: Array, lanes: int, n: int) -> None:
    """Put the values of the lanes of the mask in a register."""
    if lanes == first_lanes(n):
        for i in range(n):
            row[i] = values[i]
        return
    for i in range(n):
        row[i] = values[i] if lanes >> i & 1 else row[i]


@inlined
def _lanes(
    code: Array, pc: int, w: int, lanes: int, warps: Array, regs: Array, scalars: Array, preds: Array, work: Array
) -> None:
    """Operations of each lane alone: operands, the group's kernel over all lanes, the result in those of the mask."""
    group, n = code[pc, I_GROUP], regs.shape[2]
    if group == PREDICATE:
        _predicate(code, pc, w, lanes, preds)
        return
    a, b, c = code[pc, I_A], code[pc, I_B], code[pc, I_C]
    broadcast(code, pc, a, w, scalars, work[WORK_A:], n)
    broadcast(code, pc, b, w, scalars, work[WORK_B:], n)
    x = regs[w, a] if 0 <= a < SCALAR_SOURCE else work[WORK_A:].view(np.uint32)
    y = regs[w, b] if 0 <= b < SCALAR_SOURCE else work[WORK_B:].view(np.uint32)
    if COMPARE_REAL >= group > MOVE:
        _compare(code, pc, w, lanes, preds, x, y, n)
        return
    result = work[WORK_D:].view(np.uint32)
    if group == MOVE:
        _move(code, pc, w, warps, preds, x, y, result, n)
    else:
        broadcast(code, pc, c, w, scalars, work[WORK_C:], n)
        z = regs[w, c] if 0 <= c < SCALAR_SOURCE else work[WORK_C:].view(np.uint32)
        _values(group, code[pc, I_FORM], x, y, z, result, n)
    put(result, regs[w, code[pc, I_DST]], lanes, n)


@inlined
def _values(group: int, form: int, x: Array, y: Array, z: Array, d: Array, n: int) -> None:
    if group == ARITHMETIC:
        arithmetic(form, x, y, z, d, n)
    elif group == REAL:
        real(form, x, y, z, d, n)
    elif group == LOGIC:
        logic(form, x, y, d, n)
    elif group == SHIFT:
        shift(form, x, y, d, n)
    elif group == PAIR:
        pairs(form, x, y, z, d, n)
    elif group == CHOOSE:
        choose(form, x, y, d, n)
    elif group == ROOTS:
        roots(form, x, d, n)
    elif group == CURVES:
        curves(form, x, d, n)
    elif group == TO_REAL:
        to_real(form, x, d, n)
    elif group == NARROW:
        narrow(form, x, y, d, n)
    else:
        widen(form, x, d, n)


@kernel
def _move(code: Array, pc: int, w: int, warps: Array, preds: Array, x: Array, y: Array, d: Array, n: int) -> None:
    form = code[pc, I_FORM]
    if form == SEL:
        held = preds[w, code[pc, I_C]]
        for i in range(n):
            d[i] = x[i] if held >> i & 1 else y[i]
    elif form == VID:
        special, index = code[pc, I_IMM], warps[w, W_INDEX]
        first = 0 if special == LANE_ID else index * n if special == THREAD_ID else index
        step = 1 if special == LANE_ID or special == THREAD_ID else 0
        for i in range(n):
            d[i] = first + step * i
    else:
        for i in range(n):
            d[i] = x[i]


@kernel
def _predicate(code: Array, pc: int, w: int, lanes: int, preds: Array) -> None:
    form, held = code[pc, I_FORM], preds[w, code[pc, I_A]]
    if form == PNOT:
        held = ~held
    elif form == PAND:
        held &= preds[w, code[pc, I_B]]
    else:
        held |= preds[w, code[pc, I_B]]
    _set(preds, w, code[pc, I_DST], held, lanes)


@inlined
def _set(preds: Array, w: Word, number: Word, held: Word, lanes: Word) -> None:
    """Write the bits of a predicate that the mask has."""
    preds[w, number] = preds[w, number] & ~lanes | held & lanes


@kernel
def _compare(code: Array, pc: int, w: int, lanes: int, preds: Array, a: Array, b: Array, n: int) -> None:
    group, form, held = code[pc, I_GROUP], code[pc, I_FORM], np.int64(0)
    if group == COMPARE_REAL:
        x, y = a.view(np.float32), b.view(np.float32)
        for i in range(n):
            outcome = _LESS if x[i] < y[i] else _EQUAL if x[i] == y[i] else _GREATER if x[i] > y[i] else _UNORDERED
            held |= np.int64(form >> outcome & 1) << i
    else:
        flip = 0 if group == COMPARE_UNSIGNED else _SIGN
        for i in range(n):
            u, v = np.int64(a[i]) ^ flip, np.int64(b[i]) ^ flip
            outcome = _LESS if u < v else _EQUAL if u == v else _GREATER
            held |= np.int64(form >> outcome & 1) << i
    _set(preds, w, code[pc, I_DST], held, lanes)


@kernel
def _cross(
    code: Array, pc: int, w: int, lanes: int, regs: Array, scalars: Array, preds: Array, work: Array
) -> None:
    """Operations across lanes."""
    group, form, n = code[pc, I_GROUP], code[pc, I_FORM], regs.shape[2]
    a, b = code[pc, I_A], code[pc, I_B]
    if group == SHUFFLE or group == FIRST:
        broadcast(code, pc, a, w, scalars, work[WORK_A:], n)
        broadcast(code, pc, b, w, scalars, work[WORK_B:], n)
        x = regs[w, a] if 0 <= a < SCALAR_SOURCE else work[WORK_A:].view(np.uint32)
        y = regs[w, b] if 0 <= b < SCALAR_SOURCE else work[WORK_B:].view(np.uint32)
        if group == FIRST:
            scalars[w, code[pc, I_DST]] = _first(x, lanes)
            return
        result = work[WORK_D:].view(np.uint32)
        _shuffle(form, x, y, result, n)
        put(result, regs[w, code[pc, I_DST]], lanes, n)
        return
    held = preds[w, a] & lanes
    if form == ANY:
        _set(preds, w, code[pc, I_DST], -1 if held else 0, lanes)
    elif form == ALL:
        _set(preds, w, code[pc, I_DST], -1 if held == lanes else 0, lanes)
    else:
        row = regs[w, code[pc, I_DST]]
        for i in range(n):
            row[i] = held & _WORD if lanes >> i & 1 else row[i]


@kernel
def _first(x: Array, lanes: Word) -> Word:
    lane = 0
    while not lanes >> lane & 1:
        lane += 1
    return (np.int64(x[lane]) ^ _SIGN) - _SIGN


@kernel
def _shuffle(form: int, x: Array, y: Array, d: Array, n: int) -> None:
    """Lanes that are not active have their registers read all the same; `bfly` wraps in the size of the warp."""
    for i in range(n):
        source: Word = np.int64(y[i])
        if form == SHUFFLE_UP:
            source = i - source if source <= i else i
        elif form == SHUFFLE_DOWN:
            source = i + source if i + source < n else i
        elif form != SHUFFLE_INDEX:
            source ^= i
        d[i] = x[source & (n - 1)]
