"""Program -> assembly text, and the text of one instruction for messages and traces.

The text holds everything of a Program: `isa.asm.assemble` gives back equal arrays, bit for bit. docs/isa.md describes
the syntax. What this module prints by rule (`OPERAND_FIELD`, the default values) the assembler reads by the same rule.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import BY_CODE as DTYPE
from isa.errors import ProgramError
from isa.program import LAUNCH_KERNEL, MAX_DIMS, NO_OPERAND, SPACES, Kernel, Program, descriptor, instruction
from isa.simt_operands import (
    GUARD_BITS,
    RESERVED,
    THREAD_CODES,
    guard_text,
    has_immediate,
    immediate_field,
    operand_text,
)
from isa.table import ACTIVATIONS, BY_CODE, BY_NAME, DMA, FLAG_NAMES, MATRIX, PIPE_CLASS_NAMES, STOP, WEIGHTS, Op

Array = npt.NDArray[Any]

# The record field in which an operand of `Op.fields` is held.
OPERAND_FIELD = {
    **{f"{kind}{letter}": name for kind in "rDvps" for letter, name in zip("dabc", ("dst", "a", "b", "c"))},
    "imm": "imm", "to": "imm", "act": "imm", "count": "b", "pipe": "dst", "unit": "unit", "f0": "f0", "f1": "f1",
}  # fmt: skip
TARGET_CODES = frozenset(op.code for op in BY_NAME.values() if "to" in op.fields.split())
LAUNCH_KIND_NAMES = ("kernel", "host", "estimate")
# What a field holds when the text does not mention it.
INSTR_DEFAULT = instruction(0)
DESC_DEFAULT = descriptor("dram", 0, (), ())
DESC_REGISTER_FIELDS = ("base_reg", "ext_reg", "origin_reg", "limit_reg")
LAUNCH_DEFAULT: dict[str, int] = {
    "kind": LAUNCH_KERNEL, "kernel": -1, "grid": 1, "operator": -1, "host_op": -1, "cycles": 0, "link_bytes": 0,
    "block": 0, "columns": 0,
}  # fmt: skip
# A word that needs no quotes, and a parameter that can stand for its register (unless it is RESERVED).
WORD = re.compile(r"[A-Za-z_][\w.+$-]*\Z", re.ASCII)
ALIAS = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)


def disassemble(program: Program) -> str:
    """Return the assembly text of a program; raises ProgramError when kernels overlap or are out of order."""
    _check_kernels(program)
    lines = [f".program {text_of(program.name)}", f".machine {text_of(program.machine)}"]
    lines += [f".memory {_pairs(program.memory_bytes)}"] if program.memory_bytes else []
    lines += [f".name {json.dumps(name)}" for name in program.names]
    for directive, rows in (("tensor", program.tensors), ("operator", program.operators), ("hostop", program.host_ops)):
        lines += ["", *(_record_line(directive, row) for row in rows)] if rows else []
    lines += [""] if len(program.descs) else []
    lines += [f".desc %d{i} {descriptor_text(record)}" for i, record in enumerate(program.descs)]
    position = 0
    for kernel in program.kernels:
        lines += ["", *_code(program, position, kernel.start, None)]
        threads = bool(np.isin(program.instrs["op"][kernel.start : kernel.end], list(THREAD_CODES)).any())
        lines += [_kernel_line(kernel, threads), *_code(program, kernel.start, kernel.end, kernel), ".end"]
        position = kernel.end
    lines += [*_code(program, position, len(program.instrs), None), ""]
    lines += _launch_lines(program)
    return "\n".join(lines).rstrip("\n") + "\n"


def instr_text(program: Program, index: int) -> str:
    """Return the text of instruction `index` of a program: code addresses as `@N`, parameters by name; never fails."""
    if not 0 <= index < len(program.instrs):
        return f"instruction {index} of {len(program.instrs)}"
    kernel = next((k for k in program.kernels if k.start <= index < k.end), None)
    return record_text(program.instrs[index], _register_names(kernel), lambda address: f"@{address}")


def record_text(record: Any, registers: Mapping[int, str], target: Callable[[int], str]) -> str:
    """Return the text of one INSTR record, without a bundle's stop; `target` names code addresses."""
    op = BY_CODE.get(int(record["op"]))
    flags = int(record["flags"]) & ~STOP
    suffix = "".join(f".{name}" for bit, name in FLAG_NAMES.items() if flags & bit)
    guard = guard_text(flags) if op and op.code in THREAD_CODES else ""
    unknown_flags = flags & ~(sum(FLAG_NAMES) | (GUARD_BITS if guard else 0))
    fields = op.fields.split() if op else []
    words = _operands(record, op, fields, registers, target) if op else []
    shown = {OPERAND_FIELD[f.rstrip("?")] for f in fields} | {"op", "flags"}
    shown |= {"unit"} if {"pipe", "pipe?"} & set(fields) else set()
    if op and op.code in THREAD_CODES and has_immediate(op, record):
        shown.add(immediate_field(op))
    if unknown_flags:
        words.append(f"flags={unknown_flags}")
    for name in record.dtype.names:
        if name not in shown and not _same(record[name], INSTR_DEFAULT[name]):
            words.append(f"{name}={text_of(record[name].item())}")
    return f"{guard}{op.name if op else 'op' + str(record['op'])}{suffix} {', '.join(words)}".rstrip()


def pipe_text(pipe_class: int, unit: int) -> str:
    """Return the name of a pipe: `vector`, `weights0`, `matrix1`, `dma0.1` (engine 0 of core.dma, unit 1)."""
    if pipe_class >= DMA:
        return f"dma{pipe_class - DMA}.{unit}"
    if not 0 <= pipe_class < DMA:
        return f"pipe{pipe_class}.{unit}"
    always = pipe_class in (WEIGHTS, MATRIX)
    return PIPE_CLASS_NAMES[pipe_class] + (str(unit) if unit or always else "")


def args_rows(launch: Any) -> int:
    """Return how many rows of arguments a LAUNCH record has: one a core, or one for all blocks of threads."""
    return 1 if launch["block"] > 0 else int(launch["grid"])


def descriptor_text(record: Any) -> str:
    """Return the `key=value` text of one DESC record; fields at their default are left out."""
    space, kind, ndim = int(record["space"]), int(record["dtype"]), int(record["ndim"])
    words = [
        f"space={SPACES[space] if 0 <= space < len(SPACES) else space}",
        f"dtype={DTYPE[kind].name if kind in DTYPE else kind}",
    ]
    extents = max(0, min(ndim, MAX_DIMS), _significant("ext", record["ext"]))
    words += [f"ndim={ndim}"] if extents != ndim else []
    words += [f"ext={text_of(record['ext'][:extents].tolist())}"]
    words += [f"stride={text_of(record['stride'][: max(extents, _significant('stride', record['stride']))].tolist())}"]
    for name in record.dtype.names:
        if name in ("space", "dtype", "ndim", "ext", "stride") or _same(record[name], DESC_DEFAULT[name]):
            continue
        value = record[name].tolist()
        if isinstance(value, list):
            value = value[: _significant(name, record[name])]
        words.append(f"{name}={_register_list(value) if name in DESC_REGISTER_FIELDS else text_of(value)}")
    return " ".join(words)


def text_of(value: Any) -> str:
    """Return a value as directives write it: numbers, words, quoted strings and lists."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if WORD.match(value) else json.dumps(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(text_of, value))}]"
    return repr(value)


def _same(a: Any, b: Any) -> bool:
    """Equal bit for bit (0.0 and -0.0 differ)."""
    return bool(a.tobytes() == b.tobytes())


def _significant(name: str, values: Any) -> int:
    """Number of entries up to the last one that is not at its default."""
    default = DESC_DEFAULT[name]
    return max((i + 1 for i in range(len(values)) if values[i] != default[i]), default=0)


def _register_list(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_register_list, value))}]"
    return "_" if value == NO_OPERAND else f"r{value}" if value >= 0 else str(value)


def _register_names(kernel: Kernel | None) -> dict[int, str]:
    """Parameters that can be written in place of their register."""
    if kernel is None:
        return {}
    names = kernel.params

    def usable(name: str) -> bool:
        known = ALIAS.match(name) and not RESERVED.match(name)
        return bool(known) and names.count(name) == 1 and name not in ACTIVATIONS

    return {i: name for i, name in enumerate(names) if usable(name)}


def _operands(
    record: Any, op: Op, fields: list[str], registers: Mapping[int, str], target: Callable[[int], str]
) -> list[str]:
    """The operands in the order of the table; an absent optional one is left out where that is unambiguous."""
    words = []
    for i, field in enumerate(fields):
        name = field.rstrip("?")
        value = record[OPERAND_FIELD[name]].item()
        if name[0] in "vps" and len(name) == 2:
            words.append(operand_text(op, name, record, registers))
        elif field.endswith("?") and value == NO_OPERAND:
            # A later operand of the same kind would be taken for this one.
            if any(f[0] == field[0] and record[OPERAND_FIELD[f.rstrip("?")]] != NO_OPERAND for f in fields[i + 1 :]):
                words.append("_")
        elif name == "pipe":
            words.append(pipe_text(value, int(record["unit"])))
        elif name == "unit":
            words.append(pipe_text(op.pipe, value))
        elif name == "to":
            words.append(target(value))
        elif name == "act":
            words.append(ACTIVATIONS[value] if 0 <= value < len(ACTIVATIONS) else str(value))
        elif name[0] in "Dr" and len(name) == 2:
            words.append(_operand(value, "%d" if name[0] == "D" else "r", registers if name[0] == "r" else {}))
        else:
            words.append(text_of(value))
    return words


def _operand(value: int, prefix: str, names: Mapping[int, str]) -> str:
    return "_" if value == NO_OPERAND else names.get(value, f"{prefix}{value}")


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{text_of(k)}={text_of(v)}" for k, v in values.items())


def _record_line(directive: str, row: Any) -> str:
    """`.directive name key=value ...` of a Tensor, Operator or HostOp; defaults are left out."""
    words = [f".{directive}"]
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if field.name == "name":
            words.append(text_of(value))
        elif value != field.default:
            words.append(f"{field.name}={text_of(value)}")
    return " ".join(words)


def _kernel_line(kernel: Kernel, threads: bool) -> str:
    params = ", ".join(json.dumps(name) if RESERVED.match(name) else text_of(name) for name in kernel.params)
    stated = dict(kernel.scratch_bytes)
    if kernel.registers or threads:
        stated["registers"] = kernel.registers
    return f".kernel {text_of(kernel.name)}({params}) {_pairs(stated)}".rstrip()


def _code(program: Program, start: int, end: int, kernel: Kernel | None) -> Iterable[str]:
    """Instruction lines of [start, end), with labels at the targets that lie in a kernel."""
    instrs = program.instrs[start:end]
    targets = instrs["imm"][np.isin(instrs["op"], list(TARGET_CODES))]
    labels = {int(t): f"L{int(t) - start}" for t in targets if kernel is not None and start <= t <= end}
    names = _register_names(kernel)
    for address in range(start, end):
        if address in labels:
            yield f"{labels[address]}:"
        record = program.instrs[address]
        text = record_text(record, names, lambda to: labels.get(to, f"@{to}"))
        yield f"  {text}{' ;;' if record['flags'] & STOP else ''}"
    if end in labels:
        yield f"{labels[end]}:"


def _launch_lines(program: Program) -> Iterable[str]:
    """`.launch` lines; arguments stand in the line while blocks follow one another, the rest in `.args`."""
    names = [kernel.name for kernel in program.kernels]
    cursor = 0
    for row in program.launches:
        index, start, nargs, grid = int(row["kernel"]), int(row["args"]), int(row["nargs"]), args_rows(row)
        fields = {name: int(row[name]) for name, default in LAUNCH_DEFAULT.items() if row[name] != default}
        words = [".launch"]
        if row["kind"] == LAUNCH_KERNEL and 0 <= index < len(names) and names.count(names[index]) == 1:
            words.append(text_of(names[index]))
            fields.pop("kernel", None)
        words += [f"{k}={_kind_text(v) if k == 'kind' else v}" for k, v in fields.items()]
        size = nargs * grid
        if start == cursor and nargs >= 0 and 0 <= size <= len(program.args) - cursor and (nargs == 0 or grid > 0):
            blocks = program.args[cursor : cursor + size].reshape(grid, nargs).tolist() if size else []
            words += [f"args={text_of(blocks[0] if blocks == blocks[:1] * grid else blocks)}"] if size else []
            cursor += size
        else:
            words += [f"args=@{start}", f"nargs={nargs}"]
        yield " ".join(words)
    for first in range(cursor, len(program.args), 16):
        yield f".args {text_of(program.args[first : first + 16].tolist())}"


def _kind_text(kind: int) -> str:
    return LAUNCH_KIND_NAMES[kind] if 0 <= kind < len(LAUNCH_KIND_NAMES) else str(kind)


def _check_kernels(program: Program) -> None:
    position = 0
    for i, kernel in enumerate(program.kernels):
        if not position <= kernel.start <= kernel.end <= len(program.instrs):
            raise ProgramError(
                f"kernel {i} ({kernel.name}) is [{kernel.start}, {kernel.end}); it must follow address {position} and "
                f"end within the {len(program.instrs)} instructions: list kernels in the order of their code"
            )
        position = kernel.end
