"""The verifier of chips with threads: refuse an illegal program before anything runs.

It checks fields, registers, immediates, memory offsets, control flow, kernels and launches. What depends on values of
registers (addresses of lanes, whether all warps reach a barrier) is left to the executors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import INSTR_DEFAULT
from isa.flow import loop_bodies, meeting_points
from isa.program import NO_OPERAND, Kernel, Program
from isa.simt_limits import launch_of_threads_faults
from isa.simt_machine import SimtMachine
from isa.simt_operands import (
    ACCESS_BYTES,
    GUARD_BITS,
    KINDS,
    LANE_ALIGN,
    LANE_WIDTH,
    OPTIONAL,
    SLOT_OF,
    SLOTS,
    THREAD_CODES,
    has_immediate,
    immediate_field,
    is_real,
)
from isa.table import BY_CODE, BY_NAME, FLAG_NAMES, MAX_CODE, PIPE_CLASS_NAMES, SCALAR, STOP, TABLE, Op, code
from isa.table_simt import (
    GUARD,
    GUARD_MASK,
    GUARD_SHIFT,
    IMMEDIATE,
    LANE_REGISTERS,
    MMA_SHAPES,
    PREDICATES,
    SCALAR_SOURCE,
)
from isa.verify_tables import instruction_lines, launch_faults, refuse, space_faults, table_faults

Array = npt.NDArray[Any]
Located = tuple[int, str]  # index of an instruction, what is wrong with it

SCALARS = 64  # scalar registers of a warp
MAX_LOOP_DEPTH = 8
BARRIERS = 16  # of a block (PTX ISA, bar: barriers 0 to 15)

# What does the work of an operation of tiles here, by its group.
_INSTEAD = {
    "copy": "ldg, stg and cpa move data", "weights": "products are mma.*, of fragments in lane registers",
    "matrix": "products are mma.*, of fragments in lane registers", "drain": "lanes compute with ffma, fmax, ..",
    "vector": "lanes compute with fadd, ffma, fmax, ..", "sync": "warps of a block meet at `bar`",
}  # fmt: skip
# Numbers that an immediate names: how many there are (0: any from 0 on), and what they are.
_NUMBERED = {
    "vid": (3, "special register {} does not exist"), "csr": (7, "special register {} does not exist"),
    "bar": (BARRIERS, "barrier {} does not exist"), "cpa.wait": (0, "{} groups under way; give 0 or more"),
}  # fmt: skip
_HERE = [op.code for op in TABLE if op.code in THREAD_CODES or op.pipe == SCALAR]
_DIVISIONS, _ENDS = [code("divi"), code("modi")], [code(name) for name in ("exit", "halt", "br", "bra")]
_SHARED_BYTES = np.zeros(MAX_CODE, np.int64)  # that a lane moves from or to shared memory
for _number, _size in ACCESS_BYTES.items():
    if BY_CODE[_number].name.partition(".")[0] in ("lds", "sts", "atoms", "ldsm"):
        _SHARED_BYTES[_number] = _size
_WHOLE_WARP = [code(name) for name in ("bar", "membar", "cpa.commit", "cpa.wait")]
_LEAST = -(1 << 31)  # integer of 32 bits


def verify_simt(program: Program, machine: SimtMachine) -> None:
    """Raise ProgramError, with up to MAX_FAULTS faults, when `program` may not run on a chip with threads."""
    refuse(program, machine.name, simt_faults(program, machine))


def simt_faults(program: Program, machine: SimtMachine) -> list[str]:
    """Return all that is illegal in `program` on `machine`: tables first, then instructions by index and text."""
    found = [
        *table_faults(program, machine.name, {"dram": machine.memory.capacity_bytes}),
        *(fault for kernel in program.kernels for fault in _kernel_faults(program, kernel, machine)),
        *launch_faults(program, lambda row: launch_of_threads_faults(program, machine, row)),
    ]
    return [*found, *instruction_lines(program, _instruction_faults(program, machine))]


def _kernel_faults(program: Program, kernel: Kernel, machine: SimtMachine) -> Iterator[str]:
    where, most = f"kernel {kernel.name!r}", machine.core.registers.per_thread
    if len(kernel.params) > SCALARS:
        yield f"{where}: {len(kernel.params)} parameters; there are {SCALARS} scalar registers"
    if not 0 <= kernel.registers <= most:
        yield f"{where}: registers={kernel.registers}; a thread has at most {most} (core.registers.per_thread)"
    shared = {"smem": machine.core.shared.block_bytes}
    yield from space_faults(where, kernel.scratch_bytes, shared, f"{machine.name} (core.shared.block_bytes)")


def _instruction_faults(program: Program, machine: SimtMachine) -> Iterator[Located]:
    instrs = program.instrs
    known = np.isin(instrs["op"], _HERE)
    for index in np.flatnonzero(~known):
        yield int(index), _foreign(int(instrs["op"][index]), machine)
    ops = np.where(known, instrs["op"], 0)
    yield from _operand_faults(instrs, ops, known)
    yield from _flag_faults(instrs, known)
    for index in np.flatnonzero(known):
        op, record = BY_CODE[int(ops[index])], instrs[index]
        for reason in (*_immediate_faults(op, record), *_number_faults(op, record, program, machine)):
            yield int(index), reason
    for kernel in program.kernels:
        if 0 <= kernel.start < kernel.end <= len(instrs):
            yield from _register_faults(instrs, ops, kernel)
            yield from _shared_faults(instrs, ops, kernel)
            yield from _flow_faults(program, kernel)


def _foreign(number: int, machine: SimtMachine) -> str:
    op = BY_CODE.get(number)
    if op is None:
        return f"opcode {number} does not exist"
    work = f"{op.name} is an operation of tiles ({PIPE_CLASS_NAMES[op.pipe]})"
    return f"{work}; the cores of {machine.name} run threads: {_INSTEAD[op.group]}"


# Fields


def _operand_faults(instrs: Array, ops: Array, known: Array) -> Iterator[Located]:
    """References that the operation does not use, lacks, or that name nothing."""
    for column, name in enumerate(SLOTS):
        kind, value = KINDS[ops, column], instrs[name].astype(np.int64)
        given = value != NO_OPERAND
        lanes = LANE_REGISTERS - np.maximum(LANE_WIDTH[ops, column], 1)
        align = LANE_ALIGN[ops, column]
        source, register = kind == "s", kind == "v"
        checks = [
            ((kind == "") & given, "operand {name} = {value} is not used by this operation"),
            ((kind != "") & ~given & ~OPTIONAL[ops, column], "operand {name} is missing"),
            ((kind == "r") & given & ((value < 0) | (value >= SCALARS)),
             f"scalar register {{value}} ({{name}}) does not exist; there are r0..r{SCALARS - 1}"),
            ((kind == "p") & given & ((value < 0) | (value >= PREDICATES)),
             f"predicate {{value}} ({{name}}) does not exist; there are p0..p{PREDICATES - 1}"),
            (register & given & ((value < 0) | (value > lanes)),
             f"lane register {{value}} ({{name}}) does not exist, or not all that follow it; there are "
             f"v0..v{LANE_REGISTERS - 1}"),
            (register & given & (value % align != 0),
             "v{value} ({name}) holds a value of {align} registers; its number must be a multiple of {align}"),
            (source & given & ~_is_source(value), "source {value} ({name}) names nothing: lane registers are "
             f"v0..v{LANE_REGISTERS - 1}, scalar registers r0..r{SCALARS - 1}"),
        ]  # fmt: skip
        for mask, text in checks:
            for index in np.flatnonzero(mask & known):
                yield int(index), text.format(name=name, value=int(value[index]), align=int(align[index]))


def _is_source(value: Array) -> Array:
    lane = (value >= 0) & (value < LANE_REGISTERS)
    scalar = (value >= SCALAR_SOURCE) & (value < SCALAR_SOURCE + SCALARS)
    found: Array = lane | scalar | (value == IMMEDIATE)
    return found


def _flag_faults(instrs: Array, known: Array) -> Iterator[Located]:
    flags = instrs["flags"]
    guarded, threads = flags & GUARD != 0, np.isin(instrs["op"], list(THREAD_CODES))
    number = (flags & GUARD_MASK) >> GUARD_SHIFT
    allowed = np.where(guarded, sum(FLAG_NAMES) | GUARD_BITS, sum(FLAG_NAMES))
    suffixes = flags & (sum(FLAG_NAMES) & ~STOP)
    warp = ~threads | np.isin(instrs["op"], _WHOLE_WARP)
    checks = [
        (guarded & warp, "a guard, but the operation acts once for the whole warp"),
        (guarded & (number >= PREDICATES), f"the guard's predicate does not exist; there are p0..p{PREDICATES - 1}"),
        (suffixes != 0, "suffixes .next and .sta belong to mm and ldw"),
        (flags & ~allowed != 0, "flags have unknown bits"),
        (instrs["pad"] != 0, "pad is not 0"),
        (instrs["unit"] != 0, "a unit is given, but the operation has no choice of unit"),
    ]
    for mask, text in checks:
        for index in np.flatnonzero(mask & known):
            yield int(index), text


def _immediate_faults(op: Op, record: Any) -> Iterator[str]:
    """Immediates that the operation does not use, that are two, or that do not have 32 bits."""
    fields = op.fields.split()
    sources = [SLOT_OF[word[1]] for word in fields if word[0] == "s"]
    count = sum(int(record[slot]) == IMMEDIATE for slot in sources)
    place = immediate_field(op) if has_immediate(op, record) else ""
    used = {place, "imm" if {"imm", "to"} & set(fields) else ""}
    for name in ("imm", "f0", "f1"):
        if name not in used and record[name].tobytes() != INSTR_DEFAULT[name].tobytes():
            yield f"{name} = {record[name]} is not used by this instruction"
    if count > 1:
        yield "two immediates; an instruction has one: put the other in a register (vmov)"
    if not place:
        return
    value = record[place].item()
    if isinstance(value, float) and value != value:
        yield f"{place} is not a number"
    elif not is_real(op) and not (_LEAST <= value < 1 << 32 and value == int(value)):
        yield f"immediate {value} is no integer of 32 bits, signed or not"


def _number_faults(op: Op, record: Any, program: Program, machine: SimtMachine) -> Iterator[str]:
    """Immediates that are numbers of something, offsets, and operations that not every chip has."""
    imm = int(record["imm"])
    if op.name in _NUMBERED:
        count, words = _NUMBERED[op.name]
        if imm < 0 or (count and imm >= count):
            yield words.format(imm) + (f"; there are {count}" if count else "")
    elif op.name == "mark" and not 0 <= imm < len(program.names):
        yield f"row {imm} of the name table does not exist; there are {len(program.names)}"
    elif op.code in _DIVISIONS and imm == 0:
        yield "division by 0"
    elif op.name in MMA_SHAPES and not machine.has(op.name):
        offered = ", ".join(machine.core.mma) or "nothing"
        yield f"{machine.name} has no {op.name}; core.mma has {offered}"
    size = ACCESS_BYTES.get(op.code, 0)
    if size and imm % size:
        yield f"offset {imm} is no multiple of the {size} bytes that a lane moves"
    if size and not _LEAST <= imm < -_LEAST:
        yield f"offset {imm} is no signed integer of 32 bits"


# Kernels


def _register_faults(instrs: Array, ops: Array, kernel: Kernel) -> Iterator[Located]:
    """Lane registers beyond those that the kernel states."""
    part, codes = instrs[kernel.start : kernel.end], ops[kernel.start : kernel.end]
    for column, name in enumerate(SLOTS):
        value, kind = part[name].astype(np.int64), KINDS[codes, column]
        width = np.where(kind == "s", 1, LANE_WIDTH[codes, column])
        lane = ((kind == "v") | (kind == "s")) & (value >= 0) & (value + width <= LANE_REGISTERS)
        for index in np.flatnonzero(lane & (value + width > kernel.registers)):
            last = int(value[index] + width[index])
            has = f"kernel {kernel.name!r} has {kernel.registers} registers"
            yield (
                kernel.start + int(index),
                f"v{last - 1} ({name}): {has}; let .kernel say registers={last} or more",
            )


def _shared_faults(instrs: Array, ops: Array, kernel: Kernel) -> Iterator[Located]:
    """Places in shared memory that no register moves must lie in what the kernel declares."""
    part, codes = instrs[kernel.start : kernel.end], ops[kernel.start : kernel.end]
    declared, imm = kernel.scratch_bytes.get("smem", 0), part["imm"]
    end = imm + _SHARED_BYTES[codes]
    fixed = (_SHARED_BYTES[codes] > 0) & (part["b"] == NO_OPERAND)
    for index in np.flatnonzero(fixed & ((imm < 0) | (end > declared))):
        covers = f"bytes [{imm[index]}, {end[index]}) of shared memory"
        remedy = f": let .kernel say smem={end[index]} or more" if imm[index] >= 0 else ""
        yield kernel.start + int(index), f"{covers}, of which kernel {kernel.name!r} declares {declared}{remedy}"


def _flow_faults(program: Program, kernel: Kernel) -> Iterator[Located]:
    last = program.instrs[kernel.end - 1]
    if int(last["op"]) not in _ENDS or int(last["flags"]) & GUARD:
        yield kernel.end - 1, f"kernel {kernel.name} runs on past its end: let it end with an exit that has no guard"
    body, faults = loop_bodies(program, kernel, MAX_LOOP_DEPTH)
    yield from faults
    wrong = {index for index, _ in faults}
    for index, meet in meeting_points(program, kernel).items():
        around = int(body[index - kernel.start])
        there = int(body[meet - kernel.start]) if meet < kernel.end else -1
        if index not in wrong and there != around:
            yield index, (
                f"lanes that part here, in a loop, meet again at @{meet}, outside of its body; let all ways lead to "
                "its endl (a guarded exit ends lanes without a branch), or write the loop with bra"
            )


assert all(name in BY_NAME for name in _NUMBERED)
