"""The verifier: refuse an illegal program before anything runs.

`verify` checks fields, operands, control flow, bundles, launches and tensors against the table and the machine. What
depends on register values (addresses, flag counts, happens-before) is left to the executors and the hazard checker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import OPERAND_FIELD, TARGET_CODES
from isa.flow import loop_bodies
from isa.machine import BUNDLE_SLOTS, Machine
from isa.params import MAX_SETS, resolve
from isa.program import NO_OPERAND, Kernel, Program
from isa.simt_machine import SimtMachine
from isa.simt_operands import GUARD_BITS, THREAD_CODES, guard_text
from isa.table import (
    ACTIVATIONS,
    BY_CODE,
    DMA,
    FLAG_NAMES,
    MATRIX,
    MAX_CODE,
    SCALAR,
    STOP,
    SYNC,
    TABLE,
    VECTOR,
    WEIGHTS,
    code,
)
from isa.table_simt import GUARD
from isa.verify_kernels import data_pipe, kernel_faults
from isa.verify_operands import Use, descriptor_faults, operand, space_sizes, use_faults
from isa.verify_simt import verify_simt
from isa.verify_tables import (
    argument_faults,
    instruction_lines,
    launch_faults,
    refuse,
    space_faults,
    table_faults,
)

Array = npt.NDArray[Any]
MAX_LOOP_DEPTH = 16
MAX_BLOCKS = 65535  # of a launch: the range of blockDim (Ascend C guide, kernel launch)

# Of an instruction field: not used, a register, a descriptor, or a number; + OPTIONAL when it may be absent.
_UNUSED, _REGISTER, _DESCRIPTOR, _NUMBER = range(4)
_OPTIONAL = 4
_REFERENCES = ("dst", "a", "b", "c")
_CONTROL = [code(name) for name in ("br", "bz", "bnz", "loop", "endl", "halt")]
_SEQUENCED = [op.code for op in TABLE if op.pipe in (SCALAR, SYNC)]  # executed by the sequencer, in no queue
_TOGETHER = [code(name) for name in ("barrier", "signal", "await")]  # need all blocks of a launch at once
_SETS = [code("set"), code("signal")]
_HALT = code("halt")


def _field_kinds() -> tuple[Array, Array]:
    """kinds [MAX_CODE, 4] of dst, a, b, c, and used [MAX_CODE, 3] of imm, f0, f1."""
    kinds, used = np.zeros((MAX_CODE, 4), np.int8), np.zeros((MAX_CODE, 3), bool)
    for op in TABLE:
        for word in op.fields.split() if op.code not in THREAD_CODES else ():
            name = OPERAND_FIELD[word.rstrip("?")]
            if name in _REFERENCES:
                number = word in ("count", "pipe")
                kind = _NUMBER if number else _DESCRIPTOR if word[0] == "D" else _REGISTER
                kinds[op.code, _REFERENCES.index(name)] = kind + (_OPTIONAL if word.endswith("?") else 0)
            elif name != "unit":
                used[op.code, ("imm", "f0", "f1").index(name)] = True
    return kinds, used


_KINDS, _USED = _field_kinds()


def verify(program: Program, machine: Machine | SimtMachine) -> None:
    """Raise ProgramError when `program` may not run on `machine`.

    The message lists up to MAX_FAULTS faults: instructions by index and assembly text, the rest by name.
    """
    if isinstance(machine, SimtMachine):
        verify_simt(program, machine)
        return
    faults = [*_table_faults(program, machine), *launch_faults(program, lambda row: _launch(program, machine, row))]
    refuse(program, machine.name, [*faults, *instruction_lines(program, _instruction_faults(program, machine))])


def slot_of(pipe_class: int, machine: Machine) -> str:
    """Return the bundle slot that an operation of a pipe class takes; classes without a slot of their own: `misc`."""
    bundle = machine.core.bundle or {}
    name = {SCALAR: "scalar", WEIGHTS: "matrix", MATRIX: "matrix", VECTOR: "vector", DMA: "dma"}.get(pipe_class, "misc")
    return name if name in bundle else "misc"


def slot_limits(machine: Machine) -> dict[str, int]:
    """Return how many instructions of each slot a bundle may hold; `misc` is 1 unless the machine says otherwise."""
    return {"misc": 1, **(machine.core.bundle or {})}


# Instructions


def _instruction_faults(program: Program, machine: Machine) -> Iterator[tuple[int, str]]:
    instrs = program.instrs
    known = np.isin(instrs["op"], [op.code for op in TABLE if op.code not in THREAD_CODES])
    lacks = f"the cores of {machine.name} run no threads (issue: {machine.issue})"
    for index in np.flatnonzero(~known):
        op = int(instrs["op"][index])
        yield int(index), f"{BY_CODE[op].name}: {lacks}" if op in BY_CODE else f"opcode {op} does not exist"
    for index in np.flatnonzero(known & (instrs["flags"] & GUARD != 0)):
        yield int(index), f"a guard ({guard_text(int(instrs['flags'][index])).strip()}): {lacks}"
    sound = known.copy()
    for position, reason in _field_faults(instrs, known, len(program.descs), machine):
        sound[position] = False
        yield position, reason
    yield from _immediate_faults(program, machine, known)
    bad = set()
    for position, reason in _operand_faults(program, machine, sound):
        bad.add(position)
        yield position, reason
    sound[list(bad)] = False
    params = resolve(machine)
    for number, kernel in enumerate(program.kernels):
        if not 0 <= kernel.start < kernel.end <= len(instrs):
            continue
        yield from _flow_faults(program, number)
        yield from kernel_faults(program, kernel, sound, params)
        if machine.issue == "vliw":
            yield from _bundle_faults(instrs, kernel, known, machine)
            yield from _queue_faults(program, kernel, sound, machine)


def _field_faults(instrs: Array, known: Array, descs: int, machine: Machine) -> Iterator[tuple[int, str]]:
    """Fields that the operation does not use, lacks, or that name nothing."""
    ops = np.where(known, instrs["op"], 0)
    registers = machine.core.scalar.registers
    for column, name in enumerate(_REFERENCES):
        kind, value = _KINDS[ops, column], instrs[name]
        base, absent = kind % _OPTIONAL, value == NO_OPERAND
        may_be_absent = (kind >= _OPTIONAL) | (base == _NUMBER)
        checks = [
            ((base == _UNUSED) & ~absent, "operand {name} = {value} is not used by this operation"),
            ((base != _UNUSED) & absent & ~may_be_absent, "operand {name} is missing"),
            ((base == _REGISTER) & ~absent & ((value < 0) | (value >= registers)),
             f"register {{value}} ({{name}}) does not exist; there are r0..r{registers - 1} (core.scalar.registers)"),
            ((base == _DESCRIPTOR) & ~absent & ((value < 0) | (value >= descs)),
             f"descriptor {{value}} ({{name}}) does not exist; there are {descs}"),
        ]  # fmt: skip
        for mask, text in checks:
            for index in np.flatnonzero(mask & known):
                yield int(index), text.format(name=name, value=int(value[index]))
    for column, name in enumerate(("imm", "f0", "f1")):
        extra = ~_USED[ops, column] & (instrs[name] != 0) & known
        for index in np.flatnonzero(extra):
            yield int(index), f"{name} = {instrs[name][index]} is not used by this operation"
    for name in ("f0", "f1"):
        for index in np.flatnonzero(np.isnan(instrs[name])):
            yield int(index), f"{name} is not a number"
    bits = np.where(instrs["flags"] & GUARD, sum(FLAG_NAMES) | GUARD_BITS, sum(FLAG_NAMES))
    for index in np.flatnonzero(((instrs["flags"] & ~bits) != 0) | (instrs["pad"] != 0)):
        yield int(index), f"flags {instrs['flags'][index]:#x} or pad {instrs['pad'][index]} has unknown bits"


def _immediate_faults(program: Program, machine: Machine, known: Array) -> Iterator[tuple[int, str]]:
    """Immediates that are numbers of something."""
    ops, imm = np.where(known, program.instrs["op"], 0), program.instrs["imm"]

    def outside(names: tuple[str, ...], count: int, what: str, remedy: str = "") -> Iterator[tuple[int, str]]:
        wrong = np.isin(ops, [code(n) for n in names]) & ((imm < 0) | (imm >= count))
        for index in np.flatnonzero(wrong):
            yield int(index), f"{what.format(imm[index])}; there are {count}{remedy}"

    again = ": use one again whose waits have all passed, or raise {}"
    flags = again.format("core.flags")
    yield from outside(("set", "wait"), machine.core.flags, "flag {} does not exist (core.flags)", flags)
    cross = "cross-core flag {} does not exist (core.cross_flags)"
    yield from outside(("signal", "await"), machine.core.cross_flags, cross, again.format("core.cross_flags"))
    yield from outside(("csr",), 3, "special register {} does not exist")
    yield from outside(("mark",), len(program.names), "row {} of the name table does not exist")
    yield from outside(("fix",), len(ACTIVATIONS), "activation {} does not exist")
    for index in np.flatnonzero(np.isin(ops, [code("divi"), code("modi")]) & (imm == 0)):
        yield int(index), "division by 0"
    for index in np.flatnonzero(np.isin(ops, [code("wait"), code("await")]) & (program.instrs["b"] < 1)):
        yield int(index), f"count is {program.instrs['b'][index]}; a wait takes at least 1"


def _operand_faults(program: Program, machine: Machine, sound: Array) -> Iterator[tuple[int, str]]:
    """Rules of the operation groups; instructions with equal operands are judged once."""
    bad = descriptor_faults(program, machine)
    instrs = program.instrs
    columns = [instrs[name].tolist() for name in ("op", "flags", "unit", "dst", "a", "b", "c", "imm")]
    verdicts: dict[tuple[int, ...], list[str]] = {}
    scalar = {op.code for op in TABLE if op.pipe == SCALAR}
    fix = code("fix")
    for index, (op, flags, unit, *references, imm) in enumerate(zip(*columns)):
        if not sound[index] or (op in scalar and not flags & ~STOP and unit == 0):
            continue
        key = (op, flags & ~STOP, unit, *references, imm if op == fix else 0)
        if key not in verdicts:
            verdicts[key] = _judge(program, machine, bad, key)
        for reason in verdicts[key]:
            yield index, reason


def _judge(program: Program, machine: Machine, bad: Mapping[int, list[str]], key: tuple[int, ...]) -> list[str]:
    op = BY_CODE[key[0]]
    fields = [word.rstrip("?") for word in op.fields.split()]
    references = dict(zip("DABC", key[3:7]))
    indices = {x: i for x, i in references.items() if f"D{x.lower()}" in fields and i != NO_OPERAND}
    faults = [f"operand {x} (%d{i}) {reason}" for x, i in indices.items() for reason in bad.get(i, ())]
    if faults or (op.name == "fix" and not 0 <= key[7] < len(ACTIVATIONS)):
        return faults
    operands = {x: operand(program, i, x) for x, i in indices.items()}
    return list(use_faults(Use(op, key[1], key[2], key[7], references["D"], operands), machine))


# Control flow and bundles


def _flow_faults(program: Program, kernel_index: int) -> Iterator[tuple[int, str]]:
    kernel = program.kernels[kernel_index]
    if program.instrs["op"][kernel.end - 1] != _HALT:
        yield kernel.end - 1, f"kernel {kernel.name} does not end with halt"
    yield from loop_bodies(program, kernel, MAX_LOOP_DEPTH)[1]


def _bundle_faults(instrs: Array, kernel: Kernel, known: Array, machine: Machine) -> Iterator[tuple[int, str]]:
    part, start = instrs[kernel.start : kernel.end], kernel.start
    stop = (part["flags"] & STOP) != 0
    if not stop[-1]:
        yield kernel.end - 1, f"the last bundle of kernel {kernel.name} has no stop (;;)"
    for i in np.flatnonzero(np.isin(part["op"], _CONTROL) & ~stop):
        yield start + int(i), "a control instruction must be the last of its bundle: put a stop (;;) after it"
    begins = np.concatenate(([True], stop[:-1]))
    targets = np.isin(part["op"], list(TARGET_CODES)) & (part["imm"] >= start) & (part["imm"] < kernel.end)
    for i in np.flatnonzero(targets):
        if not begins[part["imm"][i] - start]:
            yield start + int(i), f"target @{part['imm'][i]} is in the middle of a bundle"
    limits = slot_limits(machine)
    slot_row = np.zeros(MAX_CODE, np.int64)
    for op in TABLE:
        slot_row[op.code] = BUNDLE_SLOTS.index(slot_of(op.pipe, machine))
    bundle = np.cumsum(begins) - 1
    slots = slot_row[np.where(known[start : kernel.end], part["op"], 0)]
    counts = np.zeros((bundle[-1] + 1, len(BUNDLE_SLOTS)), np.int64)
    np.add.at(counts, (bundle, slots), 1)
    first = np.flatnonzero(begins)
    most = np.array([limits.get(name, 0) for name in BUNDLE_SLOTS])
    for row, slot in np.argwhere(counts > most):
        held = f"{counts[row, slot]} {BUNDLE_SLOTS[slot]} operations"
        yield start + int(first[row]), f"{held} in a bundle; core.bundle allows {most[slot]}"


def _queue_faults(program: Program, kernel: Kernel, sound: Array, machine: Machine) -> Iterator[tuple[int, str]]:
    """Bundles that can never issue: a bundle goes into its queues whole, and its instructions are in flight at once."""
    params = resolve(machine)
    instrs, start = program.instrs, kernel.start
    part = instrs[start : kernel.end]
    bounds = np.concatenate(([0], 1 + np.flatnonzero(part["flags"][:-1] & STOP), [len(part)]))
    # What cannot be too much for any queue is passed over at one look.
    most = min(machine.core.window, MAX_SETS, *(pipe.queue_depth for pipe in params.pipes[1:]))
    counted = np.concatenate(([0], np.cumsum(~np.isin(part["op"], _SEQUENCED) | np.isin(part["op"], _SETS))))
    many = counted[bounds[1:]] - counted[bounds[:-1]] > most
    for first, end in zip((start + bounds[:-1][many]).tolist(), (start + bounds[1:][many]).tolist()):
        if not sound[first:end].all():
            continue
        held = Counter(pipe for i in range(first, end) if (pipe := data_pipe(program, instrs[i], params)) is not None)
        for pipe, count in held.items():
            if count > pipe.queue_depth:
                depth = f"the queue of {pipe.label} holds {pipe.queue_depth} (queue_depth)"
                yield first, f"{count} instructions of {pipe.label} in a bundle; {depth}: split the bundle"
        sets = int(np.isin(instrs["op"][first:end], _SETS).sum())
        if sets > MAX_SETS:
            yield first, f"{sets} sets in a bundle; an instruction raises at most {MAX_SETS} flags: split the bundle"
        if held.total() > machine.core.window:
            total = held.total()
            yield first, f"{total} instructions in a bundle; core.window is {machine.core.window}: split the bundle"


# Tables


def _table_faults(program: Program, machine: Machine) -> Iterator[str]:
    sizes = space_sizes(machine)
    registers = machine.core.scalar.registers
    yield from table_faults(program, machine.name, sizes)
    for kernel in program.kernels:
        where = f"kernel {kernel.name!r}"
        if len(kernel.params) > registers:
            yield f"{where}: {len(kernel.params)} parameters; there are {registers} registers (core.scalar.registers)"
        if kernel.registers:
            yield f"{where}: registers={kernel.registers}, but the cores of {machine.name} have no lane registers"
        yield from space_faults(where, kernel.scratch_bytes, sizes, machine.name)


def _launch(program: Program, machine: Machine, row: Any) -> Iterator[str]:
    kernel, grid = program.kernels[int(row["kernel"])], int(row["grid"])
    if row["block"] != 0:
        remedy = f"the cores of {machine.name} run no threads (issue: {machine.issue}); leave out block="
        yield f"block {row['block']} of kernel {kernel.name!r}: {remedy}"
        return
    cores = len(machine.cores_for(kernel.scratch_bytes))
    if not cores:
        spaces = ", ".join(kernel.scratch_bytes)
        yield f"kernel {kernel.name!r} uses {spaces}, which the cores of {machine.name} do not have"
    elif not 1 <= grid <= MAX_BLOCKS:
        yield f"grid {grid} of kernel {kernel.name!r}; a launch has 1 to {MAX_BLOCKS} blocks"
    elif grid > cores and np.isin(program.instrs["op"][kernel.start : kernel.end], _TOGETHER).any():
        yield (
            f"grid {grid} of kernel {kernel.name!r}, whose blocks wait for each other; {machine.name} has {cores} "
            "cores for it, and a block that has no core yet would be waited for without end"
        )
    yield from argument_faults(program, row, grid)
