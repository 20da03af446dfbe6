"""Common subexpression elimination: equal operators on equal operands are computed once.

Valid in: any graph. Valid out: no two nodes agree in operator, attributes and operands, random operators excepted.
Equal small constants become one first, and so do constants that are the same object.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from compiler.graph import Constant, Graph
from compiler.passes.edit import Editor

SMALL_ELEMENTS = 1024  # constants up to here are compared by value; larger ones are never built for it
_RANDOM = ("Dropout", "RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")


def run(graph: Graph) -> Graph:
    """Merge equal constants and equal nodes."""
    edit = Editor(graph)
    constants: dict[Hashable, str] = {}
    for name, constant in graph.constants.items():
        first = constants.setdefault(_constant_key(constant), name)
        if first != name and name not in graph.outputs:
            edit.replace(name, first)
    seen: dict[Hashable, tuple[str, ...]] = {}
    for node in graph.nodes:
        inputs = tuple(edit.current(n) for n in node.inputs)
        key = (node.op, repr(sorted(node.attrs.items())), inputs, tuple(map(bool, node.outputs)))
        earlier = seen.get(key)
        if earlier is None or node.op in _RANDOM:
            seen[key] = edit.keep(node).outputs
            continue
        for old, new in zip(node.outputs, earlier):
            if old:
                edit.replace(old, new)
    return edit.finish()


def _constant_key(constant: Constant) -> Hashable:
    if constant.stripped or constant.type.elements > SMALL_ELEMENTS:
        return id(constant)
    return (constant.type, np.ascontiguousarray(constant.value()).tobytes())
