"""Number format of the run: every fp32 tensor becomes `dtype`, constants lazily; integers stay.

Valid in: any graph. Valid out: the same graph in another floating-point format.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Constant, Graph, TensorType
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to


def run(graph: Graph, dtype: str) -> Graph:
    """Return the graph with its fp32, fp16, bf16 and fp64 tensors stored in `dtype`."""
    target = dtype_of(dtype)

    def changed(kind: TensorType) -> TensorType:
        return replace(kind, dtype=dtype) if dtype_of(kind.dtype).is_float else kind

    constants: dict[str, Constant] = {}
    for name, constant in graph.constants.items():
        kind = changed(constant.type)
        constants[name] = constant if kind == constant.type else constant.map(kind, lambda v: round_to(v, target))
    nodes = [
        replace(n, attrs={**n.attrs, "to": dtype}) if n.op == "Cast" and dtype_of(str(n.attrs["to"])).is_float else n
        for n in graph.nodes
    ]
    tensors = {name: changed(kind) for name, kind in graph.tensors.items()}
    return replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants)
