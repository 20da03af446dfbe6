"""Gives every floating-point tensor the dtype of the run.

Valid in: any graph. Valid out: each float tensor has that dtype, constants rounded when their values are asked for;
integers, indices and bools are untouched. A Cast between floats becomes one to the run dtype, for `redundant` to drop.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from compiler.graph import Array, Constant, Graph, Node, TensorType
from compiler.ops.base import is_float
from isa.dtypes import DType, round_to
from isa.dtypes import dtype as dtype_of
from isa.errors import CompileError

_DTYPE_ATTRIBUTES = ("to", "dtype")


def run(graph: Graph, dtype: str) -> Graph:
    """Convert floats to `dtype`; raises CompileError when that is not a float format."""
    target = dtype_of(dtype)
    if not target.is_float:
        raise CompileError(f"dtype {dtype!r} is not a float format: use the quantise pass for integers")
    tensors = {name: _converted(kind, dtype) for name, kind in graph.tensors.items()}
    constants = {name: _rounded(constant, target) for name, constant in graph.constants.items()}
    nodes = [_node(node, dtype) for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants)


def _converted(kind: TensorType, dtype: str) -> TensorType:
    return replace(kind, dtype=dtype) if is_float(kind.dtype) else kind


def _rounded(constant: Constant, target: DType) -> Constant:
    kind = constant.type
    if not is_float(kind.dtype) or kind.dtype == target.name:
        return constant
    return constant.map(_converted(kind, target.name), partial(_round, target))


def _round(target: DType, values: Array) -> Array:
    with np.errstate(over="ignore"):  # masks such as -3.4e38 become -inf in fp16, which masks as well
        return round_to(values, target)


def _node(node: Node, dtype: str) -> Node:
    changes = {k: dtype for k in _DTYPE_ATTRIBUTES if isinstance(node.attrs.get(k), str) and is_float(node.attrs[k])}
    return replace(node, attrs={**node.attrs, **changes}) if changes else node
