"""What a kernel declares, against what its instructions need: on-chip bytes, and cores that have their units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.machine import CHIP_SPACES, Machine
from isa.params import PATH_DMA, WEIGHTS_PORT, Params, Pipe
from isa.program import NO_OPERAND, SPACES, Kernel, Program
from isa.table import BY_CODE, DMA, DRAIN, SCALAR, SYNC, TABLE, WEIGHTS
from isa.verify_operands import static_bytes

Array = npt.NDArray[Any]
_SCALAR = [op.code for op in TABLE if op.pipe == SCALAR]


def kernel_faults(program: Program, kernel: Kernel, sound: Array, params: Params) -> Iterator[tuple[int, str]]:
    """Instructions that touch more than their kernel declares, or that no core which may run it can execute."""
    limits, cores = program.declared_bytes(kernel), params.cores_of(kernel)
    placed = bool(cores) and bool(params.machine.other_cores)
    part = program.instrs[kernel.start : kernel.end]
    asked = np.flatnonzero(sound[kernel.start : kernel.end] & ~np.isin(part["op"], _SCALAR))
    columns = [part[name][asked].tolist() for name in ("op", "unit", "dst", "a", "b", "c")]
    verdicts: dict[tuple[int, ...], list[str]] = {}
    for index, key in zip((kernel.start + asked).tolist(), zip(*columns)):
        if key not in verdicts:
            instr = program.instrs[index]
            verdicts[key] = list(_undeclared(program, kernel, instr, limits))
            if placed:
                verdicts[key] += _misplaced(program, kernel, instr, params)
        for reason in verdicts[key]:
            yield index, reason


def data_pipe(program: Program, instr: Any, params: Params) -> Pipe | None:
    """The pipe into whose queue a sound instruction goes; None for what the sequencer executes, or without a path."""
    pipe_class, unit = BY_CODE[int(instr["op"])].pipe, int(instr["unit"])
    if pipe_class in (SCALAR, SYNC):
        return None
    if pipe_class == DMA or (pipe_class == DRAIN and params.machine.drain_engine is not None):
        source, target = (int(program.descs[int(instr[name])]["space"]) for name in ("a", "dst"))
        path = int(params.path_of[source, target])
        engine = int(params.paths[path, PATH_DMA]) if path >= 0 else WEIGHTS_PORT
        if engine == WEIGHTS_PORT:
            return None
        return params.pipes[int(params.dma[engine, 0]) + unit % int(params.dma[engine, 1])]
    index = params.pipe_index(pipe_class, unit)
    return params.pipes[index] if index >= 0 else None


def _named_pipe(instr: Any, params: Params) -> Pipe | None:
    """The pipe that a set, a wait or a pipe barrier names."""
    pipe_class, unit = int(instr["dst"]), int(instr["unit"])
    if pipe_class <= SCALAR:
        return None
    if pipe_class >= DMA:
        first, count = (int(v) for v in params.dma[pipe_class - DMA, :2])
        return params.pipes[first + unit % count]
    index = params.pipe_index(pipe_class, unit if pipe_class <= WEIGHTS + 1 else 0)
    return params.pipes[index] if index >= 0 else None


def _operands(program: Program, instr: Any) -> Iterator[tuple[str, Any]]:
    """Letter and descriptor of each operand."""
    fields = [word.rstrip("?") for word in BY_CODE[int(instr["op"])].fields.split()]
    for letter, name in zip("DABC", ("dst", "a", "b", "c")):
        if f"D{letter.lower()}" in fields and instr[name] != NO_OPERAND:
            yield letter, program.descs[int(instr[name])]


def _undeclared(program: Program, kernel: Kernel, instr: Any, limits: Mapping[str, int]) -> Iterator[str]:
    """Operands that no register moves must lie in what the kernel declares of their space."""
    for letter, record in _operands(program, instr) if limits else ():
        space = SPACES[int(record["space"])]
        touched = static_bytes(record) if space in limits else None
        if touched is not None and touched[1] > limits[space]:
            low, high = touched
            yield (
                f"operand {letter} covers bytes [{low}, {high}) of {space}, of which kernel {kernel.name!r} declares "
                f"{limits[space]}: let .kernel say {space}={high} or more, or move the operand"
            )


def _misplaced(program: Program, kernel: Kernel, instr: Any, params: Params) -> Iterator[str]:
    """The kernel's cores must have the pipe and the spaces of an instruction."""
    machine, op, cores = params.machine, BY_CODE[int(instr["op"])], params.cores_of(kernel)
    kinds = range(machine.kind_of(cores[0]), machine.kind_of(cores[-1]) + 1)
    owned = {space for kind in kinds for space in machine.spaces_of(kind)}
    needed = sorted({SPACES[int(record["space"])] for _, record in _operands(program, instr)} - set(CHIP_SPACES))
    pipe = _named_pipe(instr, params) if op.pipe == SYNC else data_pipe(program, instr, params)
    lacked = [space for space in needed if space not in owned]
    if pipe is not None and not params.present[cores.start : cores.stop, pipe.index].any():
        lacked.insert(0, pipe.label)
    if not lacked:
        return
    able = [
        kind for kind in range(1 + len(machine.other_cores))
        if (pipe is None or params.present[machine.kind_cores(kind).start, pipe.index])
        and set(needed) <= machine.spaces_of(kind)
    ]  # fmt: skip
    declared = " and ".join(kernel.scratch_bytes) or "no space of a core"
    yield (
        f"{op.name} needs {' and '.join(lacked)}, which {_names(machine, kinds)} do not have; kernel {kernel.name!r} "
        f"runs there because it declares {declared}{_remedy(machine, able)}"
    )


def _names(machine: Machine, kinds: range | list[int]) -> str:
    """Kinds of cores by the key that describes them."""
    keys = ["`cores`", *(f"`other_cores.{name}`" for name in machine.other_cores)]
    return "the cores of " + " and ".join(keys[kind] for kind in kinds)


def _remedy(machine: Machine, able: list[int]) -> str:
    if not able:
        return ""
    spaces = " or ".join(sorted(machine.spaces_of(able[0])))
    return f"; {_names(machine, able[:1])} have it: declare what it uses of {spaces} (.kernel NAME SPACE=BYTES)"
