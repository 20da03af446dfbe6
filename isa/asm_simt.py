"""Assembly of threads: operands and guards of instructions, and the directives that name registers of a kernel."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isa.asm_syntax import Fault, integer, nearest, real
from isa.program import NO_OPERAND
from isa.simt_operands import (
    RESERVED,
    SLOT_OF,
    guard_bits,
    immediate_field,
    is_real,
    moves_bits,
    real_bits,
)
from isa.table import Op
from isa.table_simt import GUARD_MASK, GUARD_SHIFT, IMMEDIATE, LANE_REGISTERS, PREDICATES, SCALAR_SOURCE

# Of an integer that is held in f0, where the offset takes imm: beyond, f0 might not hold it exactly.
_EXACT = 1 << 53
_REGISTER = re.compile(r"([rvp])(\d+)\Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_OPTIONAL_NUMBER = ("lane_memory", "async", "warp")  # groups in which `imm` is 0 when it is left out
_SHARED_ALIGN = 16
Spans = dict[str, tuple[int, int]]  # name -> first, count


@dataclass
class LaneNames:
    """The names that a kernel gives to lane registers, predicates and shared memory: first one and count of each."""

    registers: Spans = field(default_factory=dict)
    predicates: Spans = field(default_factory=dict)
    shared: Spans = field(default_factory=dict)

    def all(self) -> list[str]:
        """Every name."""
        return [*self.registers, *self.predicates, *self.shared]


# Directives


def name_registers(names: LaneNames, params: Sequence[str], rest: str) -> None:
    """`.reg NAME NAME:COUNT ...`: the next free lane registers, aligned to 2 or 4 where COUNT is a multiple of it."""
    for word in _words(rest):
        name, _, number = word.partition(":")
        count = integer(number) if number else 1
        if count < 1:
            raise Fault(f"{word}: a name stands for at least one register")
        align = math.gcd(count, 4)
        first = -(-_end(names.registers) // align) * align
        if first + count > LANE_REGISTERS:
            raise Fault(f"{word}: would take v{first}..v{first + count - 1}; there are {LANE_REGISTERS} lane registers")
        _define(names, params, name, names.registers, (first, count))


def name_predicates(names: LaneNames, params: Sequence[str], rest: str) -> None:
    """`.preg NAME ...`: the next free predicates."""
    for name in _words(rest):
        if _end(names.predicates) == PREDICATES:
            raise Fault(f"{name}: there are {PREDICATES} predicates, and all have names")
        _define(names, params, name, names.predicates, (_end(names.predicates), 1))


def reserve_shared(names: LaneNames, params: Sequence[str], rest: str, used_bytes: int) -> int:
    """`.shared NAME BYTES [ALIGN]`: shared memory behind `used_bytes`; returns the bytes that are used with it."""
    words = _words(rest)
    if len(words) not in (2, 3):
        raise Fault("expected .shared NAME BYTES [ALIGN]")
    size, align = integer(words[1]), integer(words[2]) if len(words) == 3 else _SHARED_ALIGN
    if size < 1 or align < 1 or align & (align - 1):
        raise Fault(f"{words[0]}: {size} bytes aligned to {align}; give at least 1 byte and a power of two")
    first = -(-used_bytes // align) * align
    _define(names, params, words[0], names.shared, (first, size))
    return first + size


def add_params(names: LaneNames, params: Sequence[str], rest: str) -> tuple[str, ...]:
    """`.param NAME ...`: returns the kernel's parameters with these behind."""
    found = list(params)
    for name in _words(rest):
        _define(names, found, name, {}, (0, 1))
        found.append(name)
    return tuple(found)


def _words(rest: str) -> list[str]:
    words = rest.replace(",", " ").split()
    if not words:
        raise Fault("expected a name")
    return words


def _end(spans: Spans) -> int:
    return max((first + count for first, count in spans.values()), default=0)


def _define(names: LaneNames, params: Sequence[str], name: str, spans: Spans, span: tuple[int, int]) -> None:
    if not _NAME.match(name) or RESERVED.match(name):
        raise Fault(f"{name!r} cannot be a name: it is a register or a number, or has other characters than a-z 0-9 _")
    if name in names.all() or name in params:
        raise Fault(f"{name!r} is the name of something else in this kernel already")
    spans[name] = span


# Operands


def split_guard(text: str, names: LaneNames | None) -> tuple[int, str]:
    """Return the flags of a leading `@p0` or `@!p0`, and what follows it."""
    if not text.startswith("@"):
        return 0, text
    word, _, rest = text[1:].replace("\t", " ").partition(" ")
    negated, word = word.startswith("!"), word.removeprefix("!")
    predicate = _predicate(word, names or LaneNames())
    if predicate > GUARD_MASK >> GUARD_SHIFT:
        raise Fault(f"guard {word!r}: there are p0..p{PREDICATES - 1}")
    return guard_bits(predicate, negated), rest.strip()


def may_be_left_out(op: Op, kind: str) -> bool:
    """True when an operand without `?` may be absent: an offset, groups under way, a barrier's number; then 0."""
    return kind == "imm" and op.group in _OPTIONAL_NUMBER


def fits(kind: str, word: str, names: LaneNames) -> bool:
    """True when the word can be an operand of the (optional) kind: `v.`, or `imm`."""
    if kind == "imm":
        return _number(word, names) is not None
    match = _REGISTER.match(word)
    return word == "_" or (match is not None and match.group(1) == "v") or _span_name(word) in names.registers


def constant(word: str, names: LaneNames) -> int:
    """Return an integer, or the address of a name of shared memory (`NAME` or `NAME+BYTES`)."""
    value = _number(word, names)
    return integer(word) if value is None else value


def put_operand(op: Op, kind: str, word: str, names: LaneNames, params: Sequence[str], values: dict[str, Any]) -> None:
    """Store an operand of kind `v.`, `p.` or `s.`; raises Fault."""
    slot = SLOT_OF[kind[1]]
    if word == "_":
        values[slot] = NO_OPERAND
    elif kind[0] == "v":
        values[slot] = _lane(word, names)
    elif kind[0] == "p":
        values[slot] = _predicate(word, names)
    else:
        values[slot] = _source(op, word, names, params, values)


def _lane(word: str, names: LaneNames) -> int:
    match = _REGISTER.match(word)
    if match and match.group(1) == "v":
        return int(match.group(2))
    place = _place(word, names.registers, "registers")
    if place is None:
        raise Fault(f"expected a lane register (v0, v1, .., or a name of .reg), found {word!r}{_near(word, names)}")
    return place


def _predicate(word: str, names: LaneNames) -> int:
    match = _REGISTER.match(word)
    if match and match.group(1) == "p":
        return int(match.group(2))
    if word not in names.predicates:
        raise Fault(f"expected a predicate (p0, p1, .., or a name of .preg), found {word!r}{_near(word, names)}")
    return names.predicates[word][0]


def _source(op: Op, word: str, names: LaneNames, params: Sequence[str], values: dict[str, Any]) -> int:
    match = _REGISTER.match(word)
    if match and match.group(1) in "rv":
        kind, number = match.group(1), int(match.group(2))
        if number >= SCALAR_SOURCE:
            raise Fault(f"{word}: a source is at most {kind}{SCALAR_SOURCE - 1}")
        return number + (SCALAR_SOURCE if kind == "r" else 0)
    place = _place(word, names.registers, "registers")
    if place is not None:
        return place
    if word in params and not RESERVED.match(word):
        return SCALAR_SOURCE + list(params).index(word)
    if _number(word, names) is None and _real(word) is None:
        kinds = "a lane register, a scalar register, a parameter or a number"
        raise Fault(f"expected {kinds}, found {word!r}{_near(word, names, params)}")
    _put_immediate(op, word, names, values)
    return IMMEDIATE


def _put_immediate(op: Op, word: str, names: LaneNames, values: dict[str, Any]) -> None:
    sources = [SLOT_OF[f[1]] for f in op.fields.split() if f[0] == "s"]
    if any(values[slot] == IMMEDIATE for slot in sources):
        raise Fault(f"{word!r} is a second immediate; an instruction has one: put the other in a register (vmov)")
    whole, place = _number(word, names), immediate_field(op)
    if is_real(op):
        if whole is not None:
            raise Fault(f"{op.name} takes real numbers, and {word!r} is an integer: write {float(whole)}")
        values["f0"] = real(word)
        return
    if whole is None and not moves_bits(op):
        raise Fault(f"{op.name} takes integers, and {word!r} is a real number")
    number = real_bits(real(word)) if whole is None else whole
    if place == "f0" and abs(number) > _EXACT:
        raise Fault(f"{word}: a source has 32 bits")
    values[place] = float(number) if place == "f0" else number


def _number(word: str, names: LaneNames) -> int | None:
    """An integer, or an address in shared memory; None for any other word."""
    place = _place(word, names.shared, "bytes")
    if place is not None:
        return place
    try:
        return integer(word)
    except Fault:
        return None


def _real(word: str) -> float | None:
    try:
        return real(word)
    except Fault:
        return None


def _span_name(word: str) -> str:
    return word.partition("+")[0].strip()


def _place(word: str, spans: Mapping[str, tuple[int, int]], what: str) -> int | None:
    """`NAME` or `NAME+N` of a table; None when it has no such name."""
    name, plus, more = word.partition("+")
    if name.strip() not in spans:
        return None
    first, count = spans[name.strip()]
    step = integer(more.strip()) if plus else 0
    if not 0 <= step < count:
        raise Fault(f"{word!r}: {name.strip()} has {count} {what}, +0 to +{count - 1}")
    return first + step


def _near(word: str, names: LaneNames, params: Sequence[str] = ()) -> str:
    known = [*names.all(), *params]
    return nearest(word, known) if known else ""
