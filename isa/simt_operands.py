"""What a row of the TABLE says of the operands of threads: registers, widths, immediates; and how they are written.

Assembler, disassembler, verifier and decoder read these facts here, so that none of them knows operations by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import DTYPES, round_to
from isa.program import INSTR, NO_OPERAND
from isa.table import BY_CODE, BY_NAME, MAX_CODE, TABLE, Op
from isa.table_simt import (
    FMA,
    GUARD,
    GUARD_MASK,
    GUARD_NOT,
    GUARD_SHIFT,
    IMMEDIATE,
    MMA_SHAPES,
    PREDICATES,
    SCALAR_SOURCE,
)

Array = npt.NDArray[Any]

SLOTS = ("dst", "a", "b", "c")
SLOT_OF = dict(zip("dabc", SLOTS))  # the record field of an operand, by the second letter of its kind
GUARD_BITS = GUARD | GUARD_NOT | GUARD_MASK  # of an instruction's flags
# Words that mean something else than a name: registers of any kind, and numbers.
RESERVED = re.compile(r"(?:[rvp]\d+|(?i:inf|infinity|nan)|_)\Z", re.ASCII)

THREAD_CODES = frozenset(op.code for op in TABLE if op.pipe >= FMA)
_ATOMIC = re.compile(r"atom[gs]\.(\w+)\Z")
_PACKED = re.compile(r"([hb])(?:add|mul|fma|max)2\Z")
_BITS = ("vmov", "sel", "exch")  # move 32 bits, whatever they mean
_UNREAL = ("first", "ffs")  # begin with f and take integers


def _takes_real(op: Op) -> bool:
    atomic = _ATOMIC.match(op.name)
    name = atomic.group(1) if atomic else op.name
    return name.startswith("f") and name not in _UNREAL


def _access_bytes(op: Op) -> int:
    family, _, rest = op.name.partition(".")
    if family == "ldsm":
        return 16
    if family in ("atomg", "atoms"):
        return 4
    if family not in ("ldg", "stg", "lds", "sts", "cpa") or not rest.lstrip("us").isdigit():
        return 0
    return int(rest.lstrip("us")) // 8


def _widths(op: Op) -> dict[str, int]:
    """Consecutive lane registers of each operand that is one, by record field."""
    widths = {SLOT_OF[kind[1]]: 1 for word in op.fields.split() if (kind := word.rstrip("?"))[0] == "v"}
    family, _, rest = op.name.partition(".")
    if op.name in MMA_SHAPES:
        *_, a, b, c = MMA_SHAPES[op.name]
        return {"dst": c, "a": a, "b": b, "c": c}
    if family == "ldsm":
        return widths | {"dst": int(rest[1])}
    value = {"ldg": "dst", "lds": "dst", "stg": "c", "sts": "c"}.get(family)
    return widths | {value: max(1, ACCESS_BYTES[op.code] // 4)} if value else widths


REAL_CODES = frozenset(op.code for op in TABLE if op.code in THREAD_CODES and _takes_real(op))  # sources are fp32
HALF_OF = {
    op.code: "fp16" if match.group(1) == "h" else "bf16" for op in TABLE if (match := _PACKED.match(op.name))
}  # sources are two halves of this type
ACCESS_BYTES: dict[int, int] = {op.code: _access_bytes(op) for op in TABLE if op.code in THREAD_CODES}  # of a lane


def _tables() -> tuple[Array, Array, Array, Array]:
    kinds, optional = np.full((MAX_CODE, len(SLOTS)), "", "U1"), np.zeros((MAX_CODE, len(SLOTS)), bool)
    widths, aligns = np.zeros((MAX_CODE, len(SLOTS)), np.int64), np.ones((MAX_CODE, len(SLOTS)), np.int64)
    for op in TABLE:
        for word in op.fields.split():
            kind = word.rstrip("?")
            if len(kind) == 2 and kind[0] in "vpsrD":
                column = SLOTS.index(SLOT_OF[kind[1]])
                kinds[op.code, column], optional[op.code, column] = kind[0], word.endswith("?")
        for slot, width in _widths(op).items() if op.code in THREAD_CODES else ():
            column = SLOTS.index(slot)
            widths[op.code, column] = width
            # Fragments of products are registers of their own, wherever they begin.
            aligns[op.code, column] = width if op.group == "lane_memory" else 1
    return kinds, optional, widths, aligns


# Per operation and field of SLOTS: the letter of its kind ("": not used), may it be absent, consecutive lane registers
# (0: no lane register), and what the first of them must be a multiple of.
KINDS, OPTIONAL, LANE_WIDTH, LANE_ALIGN = _tables()


def is_real(op: Op) -> bool:
    """True when immediate sources of the operation are real numbers: fp32, or a number that stands in both halves."""
    return op.code in REAL_CODES or op.code in HALF_OF


def moves_bits(op: Op) -> bool:
    """True when the operation moves 32 bits: its immediate may be a real, whose fp32 bits are held as an integer."""
    return op.code in THREAD_CODES and op.name.rpartition(".")[2] in _BITS


def immediate_field(op: Op) -> str:
    """Return the record field that holds an immediate source: `imm`, or `f0` of reals and where imm is an offset."""
    return "f0" if is_real(op) or "imm" in op.fields.split() else "imm"


def has_immediate(op: Op, record: Any) -> bool:
    """True when one of an instruction's sources is an immediate."""
    return any(word[0] == "s" and record[SLOT_OF[word[1]]] == IMMEDIATE for word in op.fields.split())


def immediate_bits(record: Any) -> int:
    """Return the 32 bits of an instruction's immediate source, unsigned; the number must be in range (isa.verify)."""
    op = BY_CODE[int(record["op"])]
    value = record[immediate_field(op)].item()
    if op.code in HALF_OF:
        half = int(round_to(np.array([value]), DTYPES[HALF_OF[op.code]]).view(np.uint16)[0])
        return half << 16 | half
    if op.code in REAL_CODES:
        return real_bits(value)
    return int(value) & 0xFFFFFFFF


def real_bits(value: float) -> int:
    """Return the bits of a number rounded to fp32."""
    with np.errstate(over="ignore"):
        return int(np.array([value]).astype(np.float32).view(np.uint32)[0])


def registers_used(instrs: Array) -> int:
    """Return how many lane registers a thread needs for these instructions: the highest one + 1, wide values whole."""
    ops = np.where(instrs["op"] < MAX_CODE, instrs["op"], 0)
    most = 0
    for column, name in enumerate(SLOTS):
        value, width = instrs[name].astype(np.int64), LANE_WIDTH[ops, column]
        lanes = np.where((width > 0) & (value >= 0), value + width, 0)
        sources = np.where((KINDS[ops, column] == "s") & (value >= 0) & (value < SCALAR_SOURCE), value + 1, 0)
        most = max(most, int(np.maximum(lanes, sources).max(initial=0)))
    return most


# Text


def operand_text(op: Op, kind: str, record: Any, registers: Mapping[int, str]) -> str:
    """Return an operand of kind v., p. or s. as the assembly writes it; `registers` names scalar registers."""
    value = int(record[SLOT_OF[kind[1]]])
    if value == NO_OPERAND:
        return "_"
    if kind[0] != "s":
        return f"{kind[0]}{value}"
    if value == IMMEDIATE:
        return _immediate_text(op, record)
    if value >= SCALAR_SOURCE:
        return registers.get(value - SCALAR_SOURCE, f"r{value - SCALAR_SOURCE}")
    return f"v{value}"


def _immediate_text(op: Op, record: Any) -> str:
    value = record[immediate_field(op)].item()
    if is_real(op) or not isinstance(value, float):
        return repr(value)
    # An integer that is held in f0, exact in the range of 32 bits.
    return str(int(value)) if value.is_integer() and str(value) != "-0.0" else repr(value)


def guard_text(flags: int) -> str:
    """Return the guard in an instruction's flags, `@p0 ` or `@!p0 `; nothing without one."""
    if not flags & GUARD:
        return ""
    return f"@{'!' if flags & GUARD_NOT else ''}p{(flags & GUARD_MASK) >> GUARD_SHIFT} "


def guard_bits(predicate: int, negated: bool) -> int:
    """Return the flags of a guard."""
    return GUARD | (GUARD_NOT if negated else 0) | predicate << GUARD_SHIFT


assert PREDICATES <= GUARD_MASK >> GUARD_SHIFT  # every predicate can be a guard
assert all(name in BY_NAME for name in MMA_SHAPES)
assert set(SLOTS) <= set(INSTR.names or ())
