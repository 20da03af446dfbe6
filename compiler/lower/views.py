"""Tensors as kernel operands, and kernel calls: what lowering rules share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from compiler.kernels.tiles import Operand
from compiler.lower.context import Call, Context, NoKernel, row_major
from compiler.nest import Nest
from isa.machine import Machine

Spec = TypeVar("Spec", bound=Hashable)
Build = Callable[[Spec, Machine, Mapping[str, int], str], Nest]


def operand(context: Context, name: str, strides: Sequence[int]) -> Operand:
    """A graph tensor with element strides by dimension of a kernel's index space."""
    made = context.new_constants.get(name)
    kind = made.type if made is not None else context.type_of(name)
    return Operand(context.space_of(name), kind.dtype, tuple(strides), kind.scale, kind.zero_point)


def broadcast_strides(shape: Sequence[int], over: Sequence[int]) -> tuple[int, ...]:
    """Element strides of a dense tensor of `shape`, numpy-broadcast over `over`: 0 where it repeats."""
    dense = row_major(tuple(shape))
    lead = (0,) * (len(over) - len(shape))
    return lead + tuple(0 if e == 1 else s for e, s in zip(shape, dense))


def call(context: Context, spec: Spec, build: Build[Spec], bind: Mapping[str, tuple[str, int]]) -> Call:
    """A kernel call. The nest is built at once, so that a machine that lacks something is known in the rule."""
    nest = build(spec, context.machine, context.budget, "kernel")
    label = build.__module__.rsplit(".", 1)[-1]
    return Call((label, spec), lambda name: replace(nest, name=name), bind)


def only(context: Context, names: Sequence[str], what: str) -> None:
    """Raise NoKernel unless all of `names` are constants of the graph."""
    missing = [n for n in names if n not in context.graph.constants]
    if missing:
        raise NoKernel(f"{what}: {', '.join(missing)} must be constant")


def near(context: Context, name: str) -> str:
    """The tensor, or for a constant that no copy engine can fetch into the scratchpad, a copy of it that one can."""
    constant = context.graph.constants.get(name)
    space = context.space_of(name)
    path = context.machine.path(space, context.machine.scratch_space)
    if constant is None or space == context.machine.scratch_space or (path is not None and path.pipe != "weights"):
        return name
    return context.add_constant(f"{name}.near", constant)
