"""A Program: kernels, a launch list, descriptors and a tensor table, as plain arrays.

Instructions are one C-contiguous structured array, descriptors another: what the compiler writes is, byte for byte,
what the engine, the functional executor and the hazard checker read. Layouts are declared here, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import dtype

Array = npt.NDArray[Any]

MAX_DIMS = 6
NO_OPERAND = -1

# Memory spaces by id. dram and host belong to the chip, the rest to each core.
SPACES = ("dram", "host", "spm", "acc", "wfifo", "l1", "l0a", "l0b", "l0c", "ub", "smem", "bt")
SPACE_ID = {name: i for i, name in enumerate(SPACES)}

# fmt: off
INSTR = np.dtype([
    ("op", "u2"), ("flags", "u2"), ("unit", "i2"), ("pad", "i2"),
    ("dst", "i4"), ("a", "i4"), ("b", "i4"), ("c", "i4"),  # registers or descriptors, by the operation's fields
    ("imm", "i8"), ("f0", "f8"), ("f1", "f8"),
], align=True)

# Element (i0..i5) of an operand lies at base + regs[base_reg] + sum(stride[d] * i_d) + sum over axes of
# axis_stride * coordinate, where coordinate = origin + regs[origin_reg] + sum of coef[d] * i_d over the dimensions
# with that axis; it must lie in [0, limit), else the element reads as pad_value (a convolution's border).
DESC = np.dtype([
    ("space", "i4"), ("dtype", "i4"), ("ndim", "i4"), ("rows", "i4"),  # rows: leading dimensions that are matrix rows
    ("base", "i8"), ("base_reg", "i4"), ("pad0", "i4"),
    ("ext", "i8", MAX_DIMS), ("stride", "i8", MAX_DIMS),
    ("ext_reg", "i4", MAX_DIMS), ("axis", "i4", MAX_DIMS), ("coef", "i4", MAX_DIMS),
    ("origin", "i8", 2), ("limit", "i8", 2), ("axis_stride", "i8", 2),
    ("origin_reg", "i4", 2), ("limit_reg", "i4", 2),
    ("pad_value", "f8"), ("scale", "f8"), ("zero_point", "i8"),
], align=True)

LAUNCH = np.dtype([
    ("kind", "i4"), ("kernel", "i4"), ("grid", "i4"), ("nargs", "i4"), ("args", "i8"),
    ("operator", "i4"), ("host_op", "i4"), ("cycles", "i8"), ("link_bytes", "i8"),
    ("block", "i4"), ("columns", "i4"),  # threads of a block (0: it is one core's code), blocks of a row of the grid
], align=True)
# fmt: on

# Launch kinds: code on the cores; an operator left to the host; an operator with no kernel, estimated in closed form.
LAUNCH_KERNEL, LAUNCH_HOST, LAUNCH_ESTIMATE = range(3)


@dataclass(frozen=True)
class Kernel:
    """A range of instructions [start, end) with its parameters: argument i arrives in register i.

    A kernel of threads says how many lane `registers` a thread has; what a block shares is `scratch_bytes["smem"]`.
    Its launches have `block` threads a block and one row of arguments for all blocks.
    """

    name: str
    start: int
    end: int
    params: tuple[str, ...]
    scratch_bytes: Mapping[str, int] = field(default_factory=dict)  # by space
    registers: int = 0  # lane registers of a thread; 0: no threads


@dataclass(frozen=True)
class Tensor:
    """A tensor with a home: space, byte address, shape, dtype; `role` is input, output, weight or temp.

    `source` names the graph tensor whose values it holds. Storage is row-major in `shape`. Quantised tensors have
    real value = (stored - zero_point) * scale.
    """

    name: str
    space: str
    address: int
    shape: tuple[int, ...]
    dtype: str
    role: str
    scale: float = 1.0
    zero_point: int = 0
    scales: tuple[float, ...] = ()  # per channel of the last axis; empty: `scale` holds for all

    @property
    def size_bytes(self) -> int:
        """Bytes that it occupies in its space."""
        return math.prod(self.shape) * dtype(self.dtype).size_bytes


@dataclass(frozen=True)
class Operator:
    """What a launch computes, for reports: the operators fused in it and their closed-form work."""

    name: str
    op_type: str
    shape: tuple[int, ...]
    nodes: tuple[str, ...]
    dtype: str
    macs: int
    flops: int
    min_bytes: int  # inputs + outputs once
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    approximated: bool = False
    padded_macs: int = 0  # MACs that the array executes, with padding; 0 when it is not used


@dataclass(frozen=True)
class HostOp:
    """An operator that no kernel executes: the reference computes its values from tensors and puts them back."""

    node_names: tuple[str, ...]
    inputs: tuple[str, ...]  # Tensor names
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """Everything that the simulator needs: nothing outside of it and the Machine changes values or cycles."""

    name: str
    machine: str
    instrs: Array
    descs: Array
    kernels: tuple[Kernel, ...]
    launches: Array
    args: Array  # int64; launch.args + core * nargs is the first argument of a core
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    host_ops: tuple[HostOp, ...] = ()
    names: tuple[str, ...] = ()
    memory_bytes: Mapping[str, int] = field(default_factory=dict)  # peak use of dram, host and activation spaces

    def tensor(self, name: str) -> Tensor:
        """Return the tensor called `name`; raises KeyError."""
        for candidate in self.tensors:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def declared_bytes(self, kernel: Kernel) -> dict[str, int]:
        """Bytes of on-chip spaces that a kernel says it uses; spaces where tensors live are not its scratch alone."""
        homes = {tensor.space for tensor in self.tensors} | set(self.memory_bytes)
        return {space: size for space, size in kernel.scratch_bytes.items() if space not in homes}


def instruction(op: int, **fields: Any) -> Array:
    """Return one INSTR record: operands absent (-1) unless given."""
    record = np.zeros((), INSTR)
    for name in ("dst", "a", "b", "c"):
        record[name] = NO_OPERAND
    record["op"] = op
    for name, value in fields.items():
        record[name] = value
    return record


def descriptor(space: str, dtype_code: int, ext: tuple[int, ...], stride: tuple[int, ...], **fields: Any) -> Array:
    """Return one DESC record with registers and axes absent (-1), scale 1, unless given; strides in bytes."""
    record = np.zeros((), DESC)
    record["space"], record["dtype"], record["ndim"] = SPACE_ID[space], dtype_code, len(ext)
    record["ext"] = 1
    record["ext"][: len(ext)], record["stride"][: len(stride)] = ext, stride
    for name in ("base_reg", "ext_reg", "axis", "origin_reg", "limit_reg"):
        record[name] = NO_OPERAND
    record["scale"] = 1.0
    for name, value in fields.items():
        if isinstance(value, (tuple, list)):
            record[name][: len(value)] = value
        else:
            record[name] = value
    return record
