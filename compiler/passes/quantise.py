"""Symmetric int8: activations with one scale a tensor, weights of Conv and MatMul with one a output channel.

Valid in: canonical float graphs, any layout. Valid out: each float activation is int8 with `TensorType.scale` = largest
magnitude / 127; weights are int8 constants, with the fp32 vector '<weight>.scales' of their channel scales named by the
node's attribute `weight_scales`; biases and other float constants stay as they are. Tensors that operators merely move
(views, slices, concatenations, gathers, maxima of windows) share one scale, because a copy cannot rescale. Where the
model states a symmetric int8 format (FakeQuantize), the tensor has that scale; what states it is gone.

Nothing is built here: int8 weights and their scales are lazy, stripped where the weights are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from compiler.graph import Array, Constant, Graph, Node, TensorType
from compiler.ops import op_def
from compiler.ops.base import is_float
from compiler.ops.interpret import run_graph
from compiler.passes.edit import renamed
from compiler.passes.qdq import symmetric
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to

DEFAULT_SCALE = 1.0 / 16.0  # when only time is asked for: any scale gives the same program
LEVELS = 127.0
_MOVERS = ("Gather", "GatherElements", "GatherND", "MaxPool", "Trilu", "TopK")
_CUTS = ("Relu", "Clip")
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul")


def calibrate(graph: Graph, batches: Iterable[Mapping[str, Array]]) -> dict[str, float]:
    """Return the largest magnitude of every float activation over the given inputs, for `run`."""
    found: dict[str, float] = {}
    for feeds in batches:
        values = {**run_graph(graph, feeds, keep=lambda name: True), **feeds}
        for name, value in values.items():
            if is_float(graph.tensors[name].dtype):
                found[name] = max(found.get(name, 0.0), float(np.abs(value.astype(np.float32)).max(initial=0.0)))
    return found


def run(graph: Graph, ranges: Mapping[str, float] | None = None) -> Graph:
    """Quantise; without `ranges` (from `calibrate`) every activation has the scale DEFAULT_SCALE."""
    joined = _shared_scales(graph)
    stated = _stated(graph, joined)
    leaders = {name: _find(joined, name) for name in joined}
    scales = {**_scales(leaders, ranges), **stated}
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    for name, leader in leaders.items():
        tensors[name] = replace(tensors[name], dtype="int8", scale=scales[leader])
        if name in constants:
            constants[name] = constants[name].map(tensors[name], partial(_quantised, scales[leader]))
    nodes = [_weighted(node, tensors, constants) for node in _without_stated(graph, leaders)]
    named = {n for node in nodes for n in [node.attrs.get("weight_scales")] if n}
    kept = graph.with_nodes(nodes, tensors, constants)
    return replace(
        kept,
        tensors={**kept.tensors, **{n: tensors[n] for n in named}},
        constants={**kept.constants, **{n: constants[n] for n in named}},
    )


def _shared_scales(graph: Graph) -> dict[str, str]:
    """Each tensor to quantise -> a tensor with which it shares its scale, up to a representative (union-find)."""
    leaders = {n: n for n in graph.inputs if is_float(graph.tensors[n].dtype)}
    leaders |= {n: n for node in graph.nodes for n in node.outputs if n and is_float(graph.tensors[n].dtype)}
    for node in graph.nodes:
        if op_def(node.op).op_class != "layout" and node.op not in _MOVERS:
            continue
        moved = [n for n in (*node.inputs, *node.outputs) if n and is_float(graph.tensors[n].dtype)]
        for name in moved:
            leaders.setdefault(name, name)  # constants that are moved, such as embedding tables
        for name in moved[1:]:
            leaders[_find(leaders, name)] = _find(leaders, moved[0])
    return leaders


def _find(leaders: dict[str, str], name: str) -> str:
    """The representative of a tensor; the way there is made shorter."""
    while leaders[name] != name:
        leaders[name] = leaders[leaders[name]]
        name = leaders[name]
    return name


def _stated(graph: Graph, leaders: dict[str, str]) -> dict[str, float]:
    """The scales that the model states, by representative; `leaders` gets what these tensors share.

    A tensor before a FakeQuantize shares its scale unless it has another one, and so does one that a Relu or a Clip
    cuts off before: rounding commutes with that.
    """
    stated: dict[str, float] = {}
    for node in graph.nodes:
        if not symmetric(node):
            continue
        before, after = (_find(leaders, n) for n in (node.inputs[0], node.outputs[0]))
        scale = float(node.attrs["scale"])
        if all(stated.get(n, scale) == scale for n in (before, after)):
            leaders[after] = before
            stated[before] = scale
        else:
            stated.setdefault(after, scale)
    for node in graph.nodes:
        if node.op in _CUTS:
            before, after = (_find(leaders, n) for n in (node.inputs[0], node.outputs[0]))
            if before not in stated and after in stated:
                leaders[before] = after
    return stated


def _without_stated(graph: Graph, leaders: Mapping[str, str]) -> list[Node]:
    """The nodes without each FakeQuantize whose operand is stored in its format already."""
    nodes = list(graph.nodes)
    names: dict[str, str] = {}
    for node in graph.nodes:
        if not symmetric(node) or leaders[node.inputs[0]] != leaders[node.outputs[0]]:
            continue
        before, after = names.get(node.inputs[0], node.inputs[0]), node.outputs[0]
        fixed = before in graph.outputs or before in graph.inputs or before in graph.constants
        if after in graph.outputs and fixed:
            continue
        old, new = (before, after) if after in graph.outputs else (after, before)
        names = {**{k: new if v == old else v for k, v in names.items()}, old: new}
        nodes.remove(node)
    return renamed(nodes, names)


def _scales(leaders: Mapping[str, str], ranges: Mapping[str, float] | None) -> dict[str, float]:
    if ranges is None:
        return dict.fromkeys(leaders.values(), DEFAULT_SCALE)
    largest: dict[str, float] = {}
    for name, leader in leaders.items():
        largest[leader] = max(largest.get(leader, 0.0), ranges.get(name, 0.0))
    # Scales live in fp32 instructions; a tensor of zeros may have any.
    return {leader: float(np.float32(value / LEVELS)) or DEFAULT_SCALE for leader, value in largest.items()}


def _quantised(scale: float, values: Array) -> Array:
    return round_to(values.astype(np.float64) / scale, dtype_of("int8"))


def _weighted(node: Node, tensors: dict[str, TensorType], constants: dict[str, Constant]) -> Node:
    """Give a node its int8 weights; several nodes may share them."""
    weight = node.inputs[1] if node.op in _WEIGHTED and len(node.inputs) > 1 else ""
    if weight not in constants or not is_float(constants[weight].type.dtype):
        return node
    axis = _channel_axis(node, len(tensors[weight].shape))
    name, scales = f"{weight}.int8", f"{weight}.scales"
    if name not in constants:
        source = constants[weight]
        shape = source.type.shape
        vector = TensorType((shape[axis],), "fp32")
        constants[scales] = source.map(vector, partial(_channel_scales, axis))
        constants[name] = source.map(TensorType(shape, "int8"), partial(_by_channel, axis))
        tensors[scales], tensors[name] = vector, constants[name].type
    inputs = (node.inputs[0], name, *node.inputs[2:])
    return replace(node, inputs=inputs, attrs={**node.attrs, "weight_scales": scales})


def _channel_axis(node: Node, rank: int) -> int:
    """Axis of the output channels in a weight."""
    if node.op == "MatMul":
        return rank - 2 if node.attrs.get("transB", 0) else rank - 1
    if node.attrs.get("layout", "NCHW") != "NCHW":
        return rank - 1
    return 0 if node.op == "Conv" else 1


def _channel_scales(axis: int, values: Array) -> Array:
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values.astype(np.float32)).max(axis=others, initial=0.0)
    return np.where(largest > 0, largest / np.float32(LEVELS), np.float32(1.0)).astype(np.float32)


def _by_channel(axis: int, values: Array) -> Array:
    spread = tuple(-1 if i == axis else 1 for i in range(values.ndim))
    scaled = values.astype(np.float64) / _channel_scales(axis, values).reshape(spread)
    return round_to(scaled, dtype_of("int8"))
