"""An operator whose meaning nobody gave: only its types are known.

Attributes: `operator` (domain::name), and for each output its rank and dtype (`ranks`, `dtypes`) and the extents of all
outputs in one list (`extents`). It is never executed: programs estimate it from its bytes, and zeros stand in for its
values, so that a check of a model with such an operator always fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.graph import Array, Node, TensorType, printable
from compiler.ops.base import Types, Values, ints, no_work, register
from isa.dtypes import dtype as dtype_of


def custom_attributes(operator: str, types: Sequence[TensorType]) -> dict[str, Any]:
    """The attributes of a Custom node with these output types."""
    return {
        "operator": printable(operator),
        "ranks": tuple(len(t.shape) for t in types),
        "extents": tuple(e for t in types for e in t.shape),
        "dtypes": tuple(t.dtype for t in types),
    }


def label(node: Node) -> str:
    """The operator of a node as the model calls it."""
    return str(node.attrs.get("operator", node.op)) if node.op == "Custom" else node.op


def _infer(node: Node, types: Types, values: Values) -> list[TensorType]:
    extents, found = list(ints(node, "extents")), []
    for rank, dtype in zip(ints(node, "ranks"), node.attrs["dtypes"]):
        found.append(TensorType(tuple(extents[:rank]), str(dtype)))
        del extents[:rank]
    return found


def _zeros(node: Node, values: Values) -> list[Array]:
    return [np.zeros(t.shape, dtype_of(t.dtype).numpy) for t in _infer(node, [], [])]


register("Custom", "unknown", _infer, _zeros, no_work)
