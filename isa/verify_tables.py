"""What every verifier asks of a program's tables, whatever its instructions are, and how faults are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from isa.disasm import instr_text
from isa.dtypes import DTYPES
from isa.errors import ProgramError
from isa.program import LAUNCH_ESTIMATE, LAUNCH_HOST, LAUNCH_KERNEL, NO_OPERAND, Program, Tensor

MAX_FAULTS = 20
ROLES = ("input", "output", "weight", "temp")


def instruction_lines(program: Program, found: Iterable[tuple[int, str]]) -> list[str]:
    """Return faults (index, reason) in the order of the code, each with its instruction's text."""
    by_instruction: dict[int, list[str]] = {}
    for index, reason in found:
        by_instruction.setdefault(index, []).append(reason)
    lines = []
    for index in sorted(by_instruction):
        text = instr_text(program, index)
        lines += [f"instruction {index} `{text}`: {reason}" for reason in by_instruction[index]]
    return lines


def refuse(program: Program, chip: str, faults: list[str]) -> None:
    """Raise ProgramError with up to MAX_FAULTS faults, if there are any."""
    if faults:
        more = [f"... and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        head = f"program {program.name!r} is illegal on {chip}: {len(faults)} fault{'s'[: len(faults) > 1]}"
        raise ProgramError("\n  ".join([head, *faults[:MAX_FAULTS], *more]))


def table_faults(program: Program, chip: str, sizes: Mapping[str, int]) -> Iterator[str]:
    """Kernel ranges, tensors, memory use and host operations; `sizes` are the chip's spaces in bytes."""
    position = 0
    for kernel in program.kernels:
        if not position <= kernel.start < kernel.end <= len(program.instrs):
            span, total = f"[{kernel.start}, {kernel.end})", len(program.instrs)
            yield f"kernel {kernel.name!r}: {span} must be code within [{position}, {total}), in program order"
        position = max(position, kernel.end)
    yield from space_faults("memory_bytes", program.memory_bytes, sizes, chip)
    names: set[str] = set()
    for tensor in program.tensors:
        if tensor.name in names:
            yield f"tensor {tensor.name!r}: a second one of this name"
        names.add(tensor.name)
        yield from (f"tensor {tensor.name!r}: {reason}" for reason in _tensor_faults(tensor, sizes, chip))
    for i, host_op in enumerate(program.host_ops):
        for name in (*host_op.inputs, *host_op.outputs):
            if name not in names:
                yield f"host operation {i}: tensor {name!r} does not exist"


def space_faults(where: str, used: Mapping[str, int], sizes: Mapping[str, int], chip: str) -> Iterator[str]:
    """Bytes of spaces that do not exist, or beyond their size."""
    for space, size in used.items():
        if space not in sizes:
            yield f"{where}: space {space!r} does not exist on {chip}; there are {', '.join(sorted(sizes))}"
        elif not 0 <= size <= sizes[space]:
            yield f"{where}: {size} bytes of {space}, which has {sizes[space]}"


def _tensor_faults(tensor: Tensor, sizes: Mapping[str, int], chip: str) -> Iterable[str]:
    if tensor.space not in sizes:
        return [f"space {tensor.space!r} does not exist on {chip}; there are {', '.join(sorted(sizes))}"]
    if tensor.dtype not in DTYPES:
        return [f"dtype {tensor.dtype!r} does not exist; known: {', '.join(DTYPES)}"]
    if any(extent < 0 for extent in tensor.shape):
        return [f"shape {list(tensor.shape)} has a negative extent"]
    faults = []
    size = DTYPES[tensor.dtype].size_bytes
    for extent in tensor.shape:
        size *= extent
    if tensor.address < 0 or tensor.address + size > sizes[tensor.space]:
        end = tensor.address + size
        faults.append(f"bytes [{tensor.address}, {end}) lie outside of {tensor.space}, which has {sizes[tensor.space]}")
    if tensor.role not in ROLES:
        faults.append(f"role {tensor.role!r} is not one of {', '.join(ROLES)}")
    if tensor.scales and len(tensor.scales) != (tensor.shape or (1,))[-1]:
        faults.append(f"{len(tensor.scales)} scales for a last axis of {(tensor.shape or (1,))[-1]}")
    return faults


def launch_faults(program: Program, of_kernel: Callable[[Any], Iterable[str]]) -> Iterator[str]:
    """Faults of the launch list; `of_kernel` judges the launch of a kernel that exists."""
    for i, row in enumerate(program.launches):
        yield from (f"launch {i}: {reason}" for reason in _launch(program, row, of_kernel))


def _launch(program: Program, row: Any, of_kernel: Callable[[Any], Iterable[str]]) -> Iterator[str]:
    kind, operator = int(row["kind"]), int(row["operator"])
    if not NO_OPERAND <= operator < len(program.operators):
        yield f"operator {operator} does not exist; there are {len(program.operators)}"
    if row["cycles"] < 0 or row["link_bytes"] < 0:
        yield f"cycles {row['cycles']} and link_bytes {row['link_bytes']} must not be negative"
    if row["columns"] < 0 or (row["columns"] and row["grid"] % row["columns"]):
        yield f"columns {row['columns']} do not divide the {row['grid']} blocks of the grid"
    if kind == LAUNCH_KERNEL:
        if 0 <= row["kernel"] < len(program.kernels):
            yield from of_kernel(row)
        else:
            yield f"kernel {row['kernel']} does not exist; there are {len(program.kernels)}"
    elif kind == LAUNCH_HOST:
        if not 0 <= row["host_op"] < len(program.host_ops):
            yield f"host operation {row['host_op']} does not exist; there are {len(program.host_ops)}"
    elif kind != LAUNCH_ESTIMATE:
        yield f"kind {kind} does not exist; kinds are 0 kernel, 1 host, 2 estimate"


def argument_faults(program: Program, row: Any, rows: int) -> Iterator[str]:
    """Arguments of a launch against its kernel's parameters; `rows` of them are stored."""
    kernel = program.kernels[int(row["kernel"])]
    nargs, first = int(row["nargs"]), int(row["args"])
    if nargs != len(kernel.params):
        yield f"{nargs} arguments for kernel {kernel.name!r}, which has {len(kernel.params)} parameters"
    if nargs and not 0 <= first <= len(program.args) - rows * nargs:
        yield f"arguments [{first}, {first + rows * nargs}) lie outside of the {len(program.args)} stored"
