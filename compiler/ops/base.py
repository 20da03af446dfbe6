"""What every operator family shares: the registry, broadcasting, compute types and attribute access.

An operator is one row: how its output types follow from its input types, what it means in numpy, and how much work it
is. Nothing here knows a machine.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.graph import Array, Node, TensorType
from isa.dtypes import dtype as dtype_of
from isa.errors import ModelError

Types = Sequence["TensorType | None"]
Values = Sequence["Array | None"]
OP_CLASSES = ("elementwise", "reduction", "complex", "layout", "opaque", "metadata", "unknown")


@dataclass(frozen=True)
class Work:
    """Arithmetic of one node: `macs` multiply-accumulates; `flops` = 2 x macs + every other arithmetic operation."""

    macs: int
    flops: int


InferFn = Callable[[Node, Types, Values], list[TensorType]]
EvaluateFn = Callable[[Node, Values], list[Array]]
WorkFn = Callable[[Node, Types, Sequence[TensorType]], Work]


@dataclass(frozen=True)
class OpDef:
    """One operator: its ONNX name, fusion class (one of OP_CLASSES), type rule, numpy meaning and amount of work."""

    name: str
    op_class: str
    infer: InferFn
    evaluate: EvaluateFn
    work: WorkFn


OPS: dict[str, OpDef] = {}


def register(name: str, op_class: str, infer: InferFn, evaluate: EvaluateFn, work: WorkFn) -> None:
    """Add an operator; raises ValueError (a bug, not a user's fault) on a second definition or an unknown class."""
    if name in OPS or op_class not in OP_CLASSES:
        raise ValueError(f"operator {name!r} ({op_class}) is already defined or its class is not one of {OP_CLASSES}")
    OPS[name] = OpDef(name, op_class, infer, evaluate, work)


def op_def(name: str) -> OpDef:
    """Return the operator called `name`; raises ModelError with the nearest names when there is none."""
    if name not in OPS:
        raise ModelError(f"unknown operator {name!r}; nearest supported: {nearest(name, list(OPS))}")
    return OPS[name]


def nearest(name: str, known: Sequence[str]) -> str:
    """Return up to three names of `known` closest to `name`, comma separated ('none' when nothing is close)."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.5)
    return ", ".join(by_lower[f] for f in found) or "none"


def fail(node: Node, reason: str) -> ModelError:
    """Return the ModelError that names the node, its operator and the reason."""
    return ModelError(f"node {node.name!r} ({node.op}): {reason}")


def want(node: Node, types: Types, index: int) -> TensorType:
    """Return the type of input `index`; raises ModelError when the node lacks it."""
    found = types[index] if index < len(types) else None
    if found is None:
        raise fail(node, f"input {index} is required and absent")
    return found


def given(node: Node, values: Values, index: int) -> Array:
    """Return the value of input `index`; raises ModelError when it is absent or unknown."""
    found = values[index] if index < len(values) else None
    if found is None:
        raise fail(node, f"the value of input {index} is required and absent")
    return found


def optional(values: Sequence[Any], index: int) -> Any:
    """Return `values[index]`, or None past the end."""
    return values[index] if index < len(values) else None


def ints(node: Node, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return a list-of-integers attribute; raises ModelError when it is absent and has no default."""
    found = node.attrs.get(name, default)
    if found is None:
        raise fail(node, f"attribute {name!r} is required (see compiler.ops for the canonical form)")
    return tuple(int(v) for v in found)


def is_float(dtype: str) -> bool:
    """Return True for floating-point formats."""
    return dtype_of(dtype).is_float


def compute(value: Array) -> Array:
    """Return floats as float32 (float64 stays), everything else unchanged: the type that `evaluate` computes in."""
    if value.dtype.kind in "iub" or value.dtype in (np.float32, np.float64):
        return value
    if value.dtype.name.startswith(("int", "uint")):  # ml_dtypes int4: kind 'V'
        return value.astype(np.int8)
    return value.astype(np.float32)


def computed(values: Values) -> list[Any]:
    """Return `compute` of every value; floats of different width meet in the widest."""
    found = [None if v is None else compute(v) for v in values]
    if any(v is not None and v.dtype == np.float64 for v in found):
        return [v.astype(np.float64) if v is not None and v.dtype == np.float32 else v for v in found]
    return found


def axis_of(node: Node, rank: int, default: int, name: str = "axis", extra: int = 0) -> int:
    """Return attribute `axis` made non-negative; raises ModelError outside [-rank, rank) (+ `extra` at the top)."""
    axis = int(node.attrs.get(name, default))
    if not -rank <= axis < rank + extra:
        raise fail(node, f"{name} {axis} is outside [-{rank}, {rank + extra})")
    return axis + rank if axis < 0 else axis


def axes_of(node: Node, rank: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return attribute `axes` non-negative, sorted and without repeats allowed; raises ModelError otherwise."""
    found = []
    for axis in ints(node, "axes", default):
        if not -rank <= axis < rank:
            raise fail(node, f"axis {axis} is outside [-{rank}, {rank})")
        found.append(axis % rank)
    if len(set(found)) != len(found):
        raise fail(node, f"axes {tuple(found)} name one axis twice")
    return tuple(sorted(found))


def broadcast(node: Node, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numpy broadcast of shapes; raises ModelError that shows them when they do not fit."""
    try:
        return tuple(int(d) for d in np.broadcast_shapes(*shapes))
    except ValueError:
        text = " and ".join(str(list(s)) for s in shapes)
        raise fail(node, f"shapes {text} cannot be broadcast together") from None


def same_type(node: Node, types: Types, values: Values) -> list[TensorType]:
    """Type rule: one output, equal to the first input."""
    return [want(node, types, 0)]


def no_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    """Work rule: moves data, computes nothing."""
    return Work(0, 0)


def per_output(flops: int) -> WorkFn:
    """Work rule: `flops` operations an output element."""

    def work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
        return Work(0, flops * outputs[0].elements)

    return work


def per_input(flops: int) -> WorkFn:
    """Work rule: `flops` operations an element of the first input."""

    def work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
        return Work(0, flops * want(node, inputs, 0).elements)

    return work


def product(extents: Sequence[int]) -> int:
    """Product of extents as a Python integer (no overflow)."""
    return math.prod(int(e) for e in extents)
