"""Gives every floating-point tensor the dtype of the run.

Valid in: any graph. Valid out: each float tensor has that dtype, constants rounded when their values are asked for;
integers, indices and bools are untouched, and so is what a model stores in 8 bits (its values are rounded to that) and
the scales that it quantises with (which every value is a multiple of). A Cast between floats becomes one to the run
dtype, for `redundant` to drop.
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
_PRODUCTS = ("MatMul", "Conv")  # which accumulate in more than they take
_QUANTISES = ("QuantizeLinear", "DequantizeLinear")


def run(graph: Graph, dtype: str, outputs: str = "") -> Graph:
    """Convert floats to `dtype`, results of products that leave the graph to `outputs` (default: the same).

    Raises CompileError when one is not a float format.
    """
    target = dtype_of(dtype)
    for name in (dtype, outputs or dtype):
        if not dtype_of(name).is_float:
            raise CompileError(f"dtype {name!r} is not a float format: use the quantise pass for integers")
    kept = {n.inputs[1] for n in graph.nodes if n.op in _QUANTISES and n.inputs[1] in graph.constants}
    tensors = {name: kind if name in kept else _converted(kind, dtype) for name, kind in graph.tensors.items()}
    constants = {n: constant if n in kept else _rounded(constant, target) for n, constant in graph.constants.items()}
    nodes = [_node(node, dtype) for node in graph.nodes]
    if outputs:
        wide = [n.outputs[0] for n in nodes if n.op in _PRODUCTS and n.outputs[0] in graph.outputs]
        tensors |= {name: _converted(tensors[name], outputs) for name in wide}
    return replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants)


def _converted(kind: TensorType, dtype: str) -> TensorType:
    return replace(kind, dtype=dtype) if _wide(kind.dtype) else kind


def _wide(dtype: str) -> bool:
    """True for the float formats that a run replaces."""
    return is_float(dtype) and dtype_of(dtype).bits > 8


def _rounded(constant: Constant, target: DType) -> Constant:
    kind = constant.type
    if not _wide(kind.dtype) or kind.dtype == target.name:
        return constant
    return constant.map(_converted(kind, target.name), partial(_round, target))


def _round(target: DType, values: Array) -> Array:
    with np.errstate(over="ignore"):  # masks such as -3.4e38 become -inf in fp16, which masks as well
        return round_to(values, target)


def _node(node: Node, dtype: str) -> Node:
    changes = {k: dtype for k in _DTYPE_ATTRIBUTES if isinstance(node.attrs.get(k), str) and _wide(node.attrs[k])}
    return replace(node, attrs={**node.attrs, **changes}) if changes else node
