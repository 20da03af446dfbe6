"""From instruction records to the int64 rows that executors read, checked once so that kernels need not look again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import instr_text
from isa.errors import ProgramError
from isa.flow import meeting_points
from isa.program import NO_OPERAND, Kernel, Program
from isa.simt_machine import SimtMachine
from isa.simt_operands import ACCESS_BYTES, KINDS, LANE_WIDTH, OPTIONAL, SLOTS, has_immediate, immediate_bits
from isa.table import BY_CODE, SCALAR, Op
from isa.table_simt import (
    GUARD,
    GUARD_MASK,
    GUARD_NOT,
    GUARD_SHIFT,
    IMMEDIATE,
    MMA_SHAPES,
    PREDICATES,
    SCALAR_SOURCE,
    SIMT_PIPES,
    UNIFORM,
)
from npusim.units.warps import forms
from npusim.units.warps.layout import (
    ASYNC_COPY,
    BARRIER,
    BRANCH,
    COMMIT,
    CROSS,
    EXIT,
    FENCE,
    GLOBAL_ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    I_A,
    I_B,
    I_BITS,
    I_BYTES,
    I_C,
    I_COLUMNS,
    I_COUNT,
    I_DST,
    I_FORM,
    I_GROUP,
    I_GUARD,
    I_IMM,
    I_KIND,
    I_MEET,
    I_OP,
    I_PIPE,
    LANES,
    MATRIX_LOAD,
    PRODUCT,
    SCALAR_OP,
    SCALARS,
    SHARED_ATOMIC,
    SHARED_LOAD,
    SHARED_STORE,
    WAIT_GROUPS,
)

Array = npt.NDArray[Any]

SPECIAL_SCALARS, SPECIAL_LANES = 7, 3  # numbers that `csr` and `vid` know
_COLUMN = {"dst": I_DST, "a": I_A, "b": I_B, "c": I_C}
# What decides the kind: the name, or the part of it before the first point.
_KINDS = {
    "bra": BRANCH, "exit": EXIT, "halt": EXIT, "bar": BARRIER, "membar": FENCE, "cpa.commit": COMMIT,
    "cpa.wait": WAIT_GROUPS, "ldg": GLOBAL_LOAD, "stg": GLOBAL_STORE, "lds": SHARED_LOAD, "sts": SHARED_STORE,
    "atomg": GLOBAL_ATOMIC, "atoms": SHARED_ATOMIC, "cpa": ASYNC_COPY, "ldsm": MATRIX_LOAD, "mma": PRODUCT,
    "shfl": CROSS, "vote": CROSS, "ballot": CROSS, "first": CROSS,
}  # fmt: skip
_UNGUARDED = (SCALAR_OP, BARRIER, FENCE, COMMIT, WAIT_GROUPS)
_ATOMICS = (GLOBAL_ATOMIC, SHARED_ATOMIC)
_STORES = (GLOBAL_STORE, SHARED_STORE)


def decode(program: Program, kernel: Kernel, machine: SimtMachine) -> Array:
    """Return code int64 [n, I_COLUMNS] of a kernel's instructions; addresses in it count from the kernel's start.

    Raises ProgramError for what an executor could not do: an unknown operation, a register that does not exist, a
    branch out of the kernel, a kernel that may run past its end.
    """
    code = np.full((kernel.end - kernel.start, I_COLUMNS), -1, np.int64)
    for i in range(len(code)):
        address = kernel.start + i
        try:
            _row(code[i], program.instrs[address], kernel, machine)
        except ProgramError as fault:
            where = f"kernel {kernel.name}, instruction {address} `{instr_text(program, address)}`"
            raise ProgramError(f"{where}: {fault}") from None
    if not len(code) or not _ends(program, kernel, code[-1]):
        raise ProgramError(f"kernel {kernel.name} may run past its end: its last instruction must be halt or exit")
    code[:, I_MEET] = len(code)
    if (code[:, I_KIND] == BRANCH).any():
        for address, meet in meeting_points(program, kernel).items():
            code[address - kernel.start, I_MEET] = meet - kernel.start
    return code


def _ends(program: Program, kernel: Kernel, last: Array) -> bool:
    """True when nothing goes on behind the last instruction."""
    name = BY_CODE[int(last[I_OP])].name
    return name == "br" or (last[I_GUARD] == 0 and last[I_KIND] in (BRANCH, EXIT))


def _row(row: Array, record: Any, kernel: Kernel, machine: SimtMachine) -> None:
    op = BY_CODE.get(int(record["op"]))
    if op is None:
        raise ProgramError(f"there is no operation {int(record['op'])}")
    row[I_OP], row[I_PIPE], row[I_KIND] = op.code, _pipe(op, machine), _kind(op)
    row[I_GUARD] = _guard(record, int(row[I_KIND]))
    row[I_GROUP], row[I_FORM] = _form(op, int(row[I_KIND]))
    widths = LANE_WIDTH[op.code]
    row[I_BYTES] = ACCESS_BYTES.get(op.code, 0)
    row[I_COUNT] = widths[SLOTS.index("c" if row[I_KIND] in _STORES else "dst")]
    for slot, letter, optional, width in zip(SLOTS, KINDS[op.code], OPTIONAL[op.code], widths):
        value = int(record[slot])
        if letter and not (optional and value == NO_OPERAND):
            _check_operand(letter, value, int(width), kernel)
            row[_COLUMN[slot]] = value
    row[I_IMM] = _number(op, int(record["imm"]), kernel)
    row[I_BITS] = immediate_bits(record) if has_immediate(op, record) else 0


def _pipe(op: Op, machine: SimtMachine) -> int:
    own = machine.core.operations.get(op.name)
    if own is not None and own.pipe is not None:
        return SIMT_PIPES[own.pipe]
    return UNIFORM if op.pipe == SCALAR else op.pipe


def _kind(op: Op) -> int:
    if op.name in _KINDS:
        return _KINDS[op.name]
    if op.pipe == SCALAR:
        return SCALAR_OP
    stem = op.name.split(".")[0]
    if stem not in _KINDS and op.name not in forms.GROUP_FORM:
        raise ProgramError(f"{op.name} is not an operation of machines with threads")
    return _KINDS.get(stem, LANES)


def _guard(record: Any, kind: int) -> int:
    flags = int(record["flags"])
    if not flags & GUARD:
        return 0
    number = (flags & GUARD_MASK) >> GUARD_SHIFT
    if number >= PREDICATES:
        raise ProgramError(f"predicate p{number} does not exist; there are {PREDICATES}")
    if kind in _UNGUARDED:
        raise ProgramError("a guard has no meaning here: the whole warp executes it")
    return -1 - number if flags & GUARD_NOT else 1 + number


def _form(op: Op, kind: int) -> tuple[int, int]:
    """The group whose kernel makes the values, and the form within it (forms.py)."""
    last = op.name.split(".")[-1]
    if kind == PRODUCT:
        return -1, forms.ELEMENTS[MMA_SHAPES[op.name][3]]
    if kind == MATRIX_LOAD:
        return -1, int(last == "t")
    if kind in _ATOMICS:
        return -1, forms.ATOMS.index(last)
    if kind in (GLOBAL_LOAD, SHARED_LOAD):
        return -1, int(last[0] == "s")
    return forms.GROUP_FORM.get(op.name, (-1, -1))


def _check_operand(letter: str, value: int, width: int, kernel: Kernel) -> None:
    if letter == "v":
        _check("lane register v", value, width, kernel.registers)
    elif letter == "p":
        _check("predicate p", value, 1, PREDICATES)
    elif letter == "r":
        _check("scalar register r", value, 1, SCALARS)
    elif SCALAR_SOURCE <= value < IMMEDIATE:
        _check("scalar register r", value - SCALAR_SOURCE, 1, SCALARS)
    elif value != IMMEDIATE:
        _check("lane register v", value, 1, min(kernel.registers, SCALAR_SOURCE))


def _check(what: str, first: int, count: int, limit: int) -> None:
    if not (first >= 0 and first + count <= limit):
        raise ProgramError(f"{what}{first + count - 1 if first >= 0 else first} does not exist; there are {limit}")


def _number(op: Op, value: int, kernel: Kernel) -> int:
    """What imm means: an address counts from the kernel's start, a product has its k."""
    if "to" in op.fields.split():
        if not kernel.start <= value < kernel.end:
            raise ProgramError(f"address {value} is outside of the kernel, [{kernel.start}, {kernel.end})")
        return value - kernel.start
    if op.name in MMA_SHAPES:
        return MMA_SHAPES[op.name][2]
    if op.name in ("csr", "vid"):
        _check("special register ", value, 1, SPECIAL_SCALARS if op.name == "csr" else SPECIAL_LANES)
    elif op.name in ("divi", "modi") and value == 0:
        raise ProgramError("division by 0")
    return value
