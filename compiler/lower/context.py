"""What a lowering rule knows and what it returns.

A rule turns the nodes of one group into kernel calls. It sees tensors as views (where they live, how they are strided)
and never an address: those are bound when the program is put together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.graph import Constant, Graph, Node, TensorType
from compiler.nest import Nest
from isa.dtypes import dtype as dtype_of
from isa.errors import CompileError
from isa.machine import Machine

Array = npt.NDArray[Any]


WORKSPACE = "workspace"


class NoKernel(CompileError):
    """The machine (or npusim) has no kernel for the group: it will be estimated, and named in the report."""


@dataclass(frozen=True)
class Call:
    """One kernel to launch: equal `key`s share code; `bind` gives the graph tensor behind each TensorArg of the nest.

    A binding is (tensor name, byte offset into it). `cycles` are those that a tile search expects; 0: nobody has.
    """

    key: Hashable
    build: Callable[[str], Nest]  # kernel name -> nest
    bind: Mapping[str, tuple[str, int]]
    cycles: float = 0.0


@dataclass(frozen=True)
class Choices:
    """What a user may decide instead of the compiler.

    `reread_rows`: softmax and normalisations fetch a row once a reduction, as compilers do that do not keep it on chip
    between fused loops; one that a product makes is reduced as it is made. `tile`: output rows, on a cube perhaps
    pixels of a row, output columns and channels of a tile of products and convolutions. `layout`: of feature maps on
    machines with fractal layouts, `channels_last` or `nc1hwc0`; `auto` leaves it to the compiler.
    """

    reread_rows: bool = False
    tile: tuple[int, ...] | None = None
    layout: str = "auto"


@dataclass
class Context:
    """The compilation of one graph for one machine.

    `homes` gives the space of every tensor between kernels ("dram", "host" or the scratchpad); `new_constants` collects
    tensors that rules make (packed weights, scale vectors), as name -> Constant, and their spaces go into `homes`.
    `budget` is the scratchpad room that a kernel may use, in bytes by space.
    """

    machine: Machine
    graph: Graph
    homes: dict[str, str]
    budget: Mapping[str, int]
    choices: Choices = Choices()
    new_constants: dict[str, Constant] = field(default_factory=dict)
    strided: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # element strides of transposed views
    workspaces: dict[str, TensorType] = field(default_factory=dict)

    def type_of(self, name: str) -> TensorType:
        """Type of a graph tensor."""
        return self.graph.tensors[name]

    def space_of(self, name: str) -> str:
        """Where a tensor lives between kernels."""
        return self.homes[name]

    def strides_of(self, name: str) -> tuple[int, ...]:
        """Element strides of a tensor in its storage: dense, or those of the view that it is."""
        return self.strided.get(name, row_major(self.type_of(name).shape))

    def workspace(self, size_bytes: int) -> str:
        """A piece of DRAM of at least so many bytes, which every kernel may use while it runs; returns its name."""
        before = self.workspaces.get(WORKSPACE, TensorType((0,), "int8"))
        self.workspaces[WORKSPACE] = TensorType((max(size_bytes, before.elements),), "int8")
        self.homes[WORKSPACE] = "dram"
        return WORKSPACE

    def constant_space(self, weight: bool) -> str:
        """Where constants live: weights in DRAM; vectors where a copy engine can fetch them into the scratchpad."""
        return "dram" if weight or self.machine.path("dram", self.machine.scratch_space) else "host"

    def add_constant(self, name: str, value: Constant, weight: bool = False) -> str:
        """Register a constant that the program needs; returns its name."""
        self.new_constants[name] = value
        self.homes[name] = self.constant_space(weight)
        return name


Rule = Callable[[Context, tuple[Node, ...]], list[Call]]
RULES: dict[str, Rule] = {}  # by the operator of a group's anchor


def alone(nodes: tuple[Node, ...]) -> Node:
    """The node of a group of one; raises NoKernel for more, of which the rule that asks fuses nothing."""
    if len(nodes) != 1:
        raise NoKernel(f"{nodes[0].name}: {nodes[0].op} has no kernel together with {nodes[1].op}")
    return nodes[0]


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a lowering rule for groups whose anchor is one of `operators`."""

    def register(function: Rule) -> Rule:
        for name in operators:
            RULES[name] = function
        return function

    return register


def is_real(kind: TensorType) -> bool:
    """True for floats and for integers that stand for reals."""
    return dtype_of(kind.dtype).is_float or (kind.scale, kind.zero_point) != (1.0, 0)


def narrows(source: TensorType, to: TensorType) -> bool:
    """True for a Cast that drops a fraction, or high bits (of 8 or 16 that are left): a copy rounds and saturates.

    64 bits into 32 count as a copy: they hold indices.
    """
    if is_real(to) or to.dtype == "bool":
        return False
    if is_real(source):
        return True
    kind, result = dtype_of(source.dtype), dtype_of(to.dtype)
    fits = kind.name in ("bool", result.name) or (kind.bits < result.bits)
    return not fits and result.bits <= 16


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Element strides of a dense tensor."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def scalar_value(context: Context, name: str) -> float | None:
    """The value of a one-element constant, or None."""
    constant = context.graph.constants.get(name)
    if constant is None or constant.type.elements != 1 or constant.stripped:
        return None
    value = np.asarray(constant.value()).reshape(-1)[0]
    return (float(value) - constant.type.zero_point) * constant.type.scale
