"""One instruction line -> the fields of an INSTR record: the second pass of the assembler (`isa.asm`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isa.asm_simt import LaneNames, constant, fits, may_be_left_out, put_operand, split_guard
from isa.asm_syntax import Fault, bounded, choose, integer, nearest, real
from isa.disasm import INSTR_DEFAULT, OPERAND_FIELD
from isa.program import INSTR, NO_OPERAND
from isa.simt_operands import THREAD_CODES
from isa.table import ACTIVATIONS, BY_NAME, DMA, FLAG_NAMES, PIPE_CLASS_NAMES, STOP, Op

_REGISTER = re.compile(r"r(\d+)\Z", re.ASCII)
_PIPE = re.compile(r"(scalar|weights|matrix|vector|cross_lane|drain)(\d*)\Z|dma(\d+)(?:\.(\d+))?\Z", re.ASCII)
_EXTRA = re.compile(r"(\w+)=(\S+)\Z", re.ASCII)
_SUFFIXES = {name: bit for bit, name in FLAG_NAMES.items() if bit != STOP}
_ACTIVATION_ID = {name: i for i, name in enumerate(ACTIVATIONS)}
_INSTR_NAMES: tuple[str, ...] = INSTR.names or ()
_INSTR_DEFAULTS = {name: INSTR_DEFAULT[name].item() for name in _INSTR_NAMES}
_LIMITS = {name: np.iinfo(INSTR[name]) for name in _INSTR_NAMES if INSTR[name].kind in "iu"}


@dataclass
class KernelText:
    """A kernel that is being read: its range, and the names that hold inside of it."""

    name: str
    start: int
    params: tuple[str, ...]
    scratch_bytes: dict[str, int]
    line: int
    end: int = -1
    labels: dict[str, int] = field(default_factory=dict)
    lanes: LaneNames = field(default_factory=LaneNames)
    registers: int | None = None  # lane registers of a thread, as far as stated
    clashes: tuple[str, ...] = ()  # parameters that no instruction of threads could name


@dataclass
class Line:
    """An instruction line that waits for the second pass."""

    number: int
    text: str
    kernel: KernelText | None
    stop: bool = False


_NO_KERNEL = KernelText("", 0, (), {}, 0)


def instruction_fields(at: Line, descriptors: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the values of an INSTR record in its order; `descriptors` are numbers by %name. Raises Fault."""
    kernel = at.kernel or _NO_KERNEL
    guard, statement = split_guard(at.text, kernel.lanes)
    mnemonic, _, rest = statement.replace("\t", " ").partition(" ")
    op, flags = _mnemonic(mnemonic)
    if guard and op.code not in THREAD_CODES:
        raise Fault(f"{op.name} cannot have a guard: it acts once for all lanes; only operations of threads have one")
    words = [word.strip() for word in rest.split(",")] if rest.strip() else []
    values = dict(_INSTR_DEFAULTS, op=op.code, flags=guard | flags | (STOP if at.stop else 0))
    while words and (extra := _EXTRA.match(words[-1])):
        key, text = extra.groups()
        if key not in values or key == "op":
            raise Fault(f"unknown field {key!r}{nearest(key, [n for n in values if n != 'op'])}")
        values[key] = real(text) if key in ("f0", "f1") else integer(text) | (values[key] if key == "flags" else 0)
        words.pop()
    given = iter(words)
    word = next(given, None)
    for name in op.fields.split():
        kind, optional = name.rstrip("?"), name.endswith("?")
        if (optional or may_be_left_out(op, kind)) and (word is None or not _fits(kernel, kind, word)):
            continue
        if word is None:
            raise Fault(f"missing operand; {_usage(op)}")
        _operand(kernel, descriptors, op, kind, word, values)
        word = next(given, None)
    if word is not None:
        raise Fault(f"extra operand {word!r}; {_usage(op)}")
    for key, limits in _LIMITS.items():
        bounded(key, values[key], limits)
    return tuple(values[key] for key in _INSTR_NAMES)


def register(kernel: KernelText | None, word: str) -> int:
    """Return the number of a scalar register, a parameter or `_`; raises Fault."""
    if word == "_":
        return NO_OPERAND
    match = _REGISTER.match(word)
    if match:
        return int(match.group(1))
    params = kernel.params if kernel is not None else ()
    if word not in params:
        known = f", or a parameter: {', '.join(params)}" if params else ""
        raise Fault(f"expected a register (r0, r1, ..{known}), found {word!r}")
    return params.index(word)


def _fits(kernel: KernelText, kind: str, word: str) -> bool:
    """True when the word can be an operand of the (optional) kind."""
    if kind == "pipe":
        return bool(_PIPE.match(word))
    if kind[0] == "v" or kind == "imm":
        return fits(kind, word, kernel.lanes)
    if word == "_":
        return True
    if kind[0] == "D":
        return word.startswith("%")
    return bool(_REGISTER.match(word)) or word in kernel.params


def _operand(
    kernel: KernelText, descriptors: Mapping[str, int], op: Op, kind: str, word: str, values: dict[str, Any]
) -> None:
    slot = OPERAND_FIELD[kind]
    if kind == "pipe":
        values["dst"], values["unit"] = _pipe(word)
    elif kind == "unit":
        pipe_class, unit = (op.pipe, int(word)) if word.isascii() and word.isdigit() else _pipe(word)
        if pipe_class != op.pipe:
            raise Fault(f"{op.name} runs on {PIPE_CLASS_NAMES[op.pipe]} units, not on {word!r}")
        values["unit"] = unit
    elif kind == "to":
        values["imm"] = _target(kernel, word)
    elif kind == "act" and not word.lstrip("-").isdigit():
        values["imm"] = choose(word, _ACTIVATION_ID, "activation")
    elif kind in ("f0", "f1"):
        values[slot] = real(word)
    elif kind[0] == "D":
        values[slot] = _descriptor_index(descriptors, word)
    elif kind[0] == "r":
        values[slot] = register(kernel, word)
    elif len(kind) == 2:  # v., p., s.
        put_operand(op, kind, word, kernel.lanes, kernel.params, values)
    else:
        values[slot] = constant(word, kernel.lanes)


def _descriptor_index(descriptors: Mapping[str, int], word: str) -> int:
    if word == "_":
        return NO_OPERAND
    if word in descriptors:
        return descriptors[word]
    if re.match(r"%d\d+\Z", word) and int(word[2:]) < len(descriptors):
        return int(word[2:])
    if not word.startswith("%"):
        raise Fault(f"expected a descriptor (%name), found {word!r}")
    raise Fault(f"unknown descriptor {word!r}{nearest(word, descriptors)}")


def _target(kernel: KernelText, word: str) -> int:
    if word.startswith("@"):
        return integer(word[1:])
    if word not in kernel.labels:
        raise Fault(f"unknown label {word!r} in this kernel{nearest(word, kernel.labels)}")
    return kernel.labels[word]


def _mnemonic(word: str) -> tuple[Op, int]:
    """The operation and the flags of its suffixes."""
    flags, name = 0, word
    while name not in BY_NAME:
        name, _, suffix = name.rpartition(".")
        if suffix not in _SUFFIXES or not name:
            raise Fault(f"unknown instruction {word!r}{nearest(word, BY_NAME)}")
        flags |= _SUFFIXES[suffix]
    return BY_NAME[name], flags


def _usage(op: Op) -> str:
    return f"it is written: {op.name} {', '.join(op.fields.split())}".rstrip()


def _pipe(word: str) -> tuple[int, int]:
    match = _PIPE.match(word)
    if match is None:
        raise Fault(f"expected a pipe (scalar, weights0, matrix0, vector, cross_lane, drain, dma0.0), found {word!r}")
    name, unit, engine, engine_unit = match.groups()
    if engine is not None:
        return DMA + int(engine), int(engine_unit or 0)
    return PIPE_CLASS_NAMES.index(name), int(unit or 0)
