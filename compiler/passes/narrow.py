"""Operand narrowing: a tensor that only arrays read is stored in the format that the arrays round it to.

The values of the run do not change, for rounding earlier gives what the array would have rounded to; traffic halves.
XLA does the same for TPUs (its pass bfloat16_propagation, xla/hlo/transforms).

Valid in: any typed graph. Valid out: the same graph with narrower intermediate tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.graph import Graph

MOVES = ("Reshape", "Transpose")  # keep values as they are: a narrow tensor may pass through


def run(graph: Graph, multiply_as: Mapping[str, str]) -> Graph:
    """Narrow every intermediate tensor whose readers all round it to `multiply_as[its dtype]`."""
    readers = graph.consumers()
    kept = {*graph.inputs, *graph.outputs, *graph.constants}
    tensors = dict(graph.tensors)
    narrow: set[str] = set()
    for node in reversed(graph.nodes):
        for name in node.outputs:
            if not name or name in kept or tensors[name].dtype not in multiply_as:
                continue
            if readers.get(name) and all(_rounds(r.op, r.inputs, r.outputs, name, narrow) for r in readers[name]):
                narrow.add(name)
    for name in _settled(graph, narrow):
        tensors[name] = replace(tensors[name], dtype=multiply_as[tensors[name].dtype])
    return replace(graph, tensors=tensors)


def _rounds(op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], name: str, narrow: set[str]) -> bool:
    if op in ("MatMul", "Conv"):
        return name in inputs[:2] and name not in inputs[2:]
    return op in MOVES and outputs[0] in narrow


def _settled(graph: Graph, narrow: set[str]) -> set[str]:
    """Without the moves whose source stays wide: they copy, and a copy keeps its format."""
    settled = set(narrow)
    for node in graph.nodes:
        if node.op in MOVES and node.outputs[0] in settled and node.inputs[0] not in settled:
            settled.discard(node.outputs[0])
    return settled
