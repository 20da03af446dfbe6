"""QuantizeLinear -> DequantizeLinear becomes FakeQuantize: what the model says of a tensor's format, for integer runs.

`quantise` then stores the tensor in that very format, so that an operator between two such pairs is one integer kernel:
it reads int8, accumulates in int32 and rescales once on its way out.

Valid in: graphs with folded constants (dequantised weights are constants). Valid out: no DequantizeLinear reads a
QuantizeLinear of the same scale and zero point, known and one a tensor.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes

from compiler.graph import Graph, Node
from compiler.passes.edit import Editor
from compiler.passes.pattern import Match, Rule, rewrite
from isa.dtypes import dtype as dtype_of


def run(graph: Graph) -> Graph:
    """Replace every such pair."""
    return rewrite(graph, RULES)


def symmetric(node: Node) -> bool:
    """True for a FakeQuantize to int8 around 0, the format that integer runs store."""
    return node.op == "FakeQuantize" and (node.attrs["low"], node.attrs["high"]) == (-128, 127)


def _fake(edit: Editor, match: Match) -> bool:
    quantised = edit.tensors[match.node("QuantizeLinear").outputs[0]].dtype
    if dtype_of(quantised).is_float:
        return False
    found = [edit.scalar(match.bound[n]) if n in match.bound else 0.0 for n in ("S", "T", "Y", "Z")]
    scale, again, zero, same = found
    if scale is None or zero is None or (scale, zero) != (again, same):
        return False
    limits: Any = ml_dtypes.iinfo(dtype_of(quantised).numpy)  # type: ignore[no-untyped-call]
    attrs = {"scale": scale, "low": int(limits.min - zero), "high": int(limits.max - zero)}
    edit.emit(match.root.name, "FakeQuantize", (match.bound["x"],), match.root.outputs[0], **attrs)
    return True


RULES = [
    Rule("pair", ("DequantizeLinear", ("QuantizeLinear", "x", "S", "Y"), "T", "Z"), _fake, shared=True),
    Rule("pair without zero point", ("DequantizeLinear", ("QuantizeLinear", "x", "S"), "T"), _fake, shared=True),
]
