"""Folds BatchNormalization into the operator before it.

w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta, by output channel.
Valid in: any graph. Valid out: no BatchNormalization reads a Conv, ConvTranspose, Gemm or MatMul with constant weights
that has no other reader. New constants are lazy; where any source is stripped they are stripped too.
"""

from __future__ import annotations

import numpy as np

from compiler.graph import Array, Constant, Graph, Node, TensorType
from compiler.passes.canonical_norm import affine
from compiler.passes.edit import Editor

_FOLDABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def run(graph: Graph) -> Graph:
    """Fold every BatchNormalization that can be folded."""
    readers = graph.consumers()
    edit, folded = Editor(graph), set()
    for node in graph.nodes:
        if node.name in folded:
            continue
        norm = _only_reader(graph, readers, node)
        if norm is None or not _fold(edit, node, norm):
            edit.keep(node)
        else:
            folded.add(norm.name)
    return edit.finish()


def _only_reader(graph: Graph, readers: dict[str, list[Node]], node: Node) -> Node | None:
    """The BatchNormalization that alone reads the node's result, or None."""
    out = node.outputs[0]
    following = readers.get(out, [])
    if node.op not in _FOLDABLE or out in graph.outputs or len(following) != 1:
        return None
    norm = following[0]
    fits = norm.op == "BatchNormalization" and norm.inputs[0] == out and len(norm.outputs) == 1
    same_layout = norm.attrs.get("layout", "NCHW") == node.attrs.get("layout", "NCHW")
    matrix = node.op in ("Gemm", "MatMul")
    if not fits or (not matrix and not same_layout) or (matrix and len(graph.tensors[out].shape) != 2):
        return None
    return norm


def _fold(edit: Editor, node: Node, norm: Node) -> bool:
    x, weight, bias = (*map(edit.current, node.inputs), "")[:3]
    parameters = [edit.current(n) for n in norm.inputs[1:]]
    shape = edit.shape(weight)
    if not all(edit.constant(n) for n in (weight, *parameters)) or len(shape) < 2:
        return False
    channels = edit.shape(parameters[0])[0]
    if bias and (not edit.constant(bias) or edit.shape(bias) != (channels,)):
        return False
    factor, offset = affine(edit, parameters, float(norm.attrs.get("epsilon", 1e-5)))
    spread = _factor_shape(node, shape)
    new_weight = _scaled(edit.constants[weight], factor, spread)
    beta = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    new_bias = _shifted(edit.constants[bias] if bias else None, factor, offset, beta)
    names = edit.add_constant(f"{weight}.bn", new_weight), edit.add_constant(f"{norm.name}.bias", new_bias)
    attrs = {k: v for k, v in node.attrs.items() if k != "beta"}
    edit.put(Node(node.name, node.op, (x, *names), norm.outputs, attrs))
    return True


def _factor_shape(node: Node, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape that the weight is viewed in, shape that the factor is viewed in) so that both broadcast by channel."""
    group, last = int(node.attrs.get("group", 1)), node.attrs.get("layout", "NCHW") == "NHWC"
    if node.op in ("Gemm", "MatMul"):
        return shape, (-1, 1) if node.attrs.get("transB", 0) else (1, -1)
    if node.op == "Conv":
        return shape, (-1,) if last else (-1,) + (1,) * (len(shape) - 1)
    # ConvTranspose: input channels of group g meet output channels of group g only.
    if last:
        *kernel, depth, maps = shape
        return (*kernel, group, depth // group, maps), (group, 1, maps)
    depth, maps, *kernel = shape
    return (group, depth // group, maps, *kernel), (group, 1, maps, *(1 for _ in kernel))


def _scaled(weight: Constant, factor: Constant, views: tuple[tuple[int, ...], tuple[int, ...]]) -> Constant:
    if weight.stripped or factor.stripped:
        return Constant(weight.type)
    viewed, spread = views

    def build() -> Array:
        wide = weight.value().reshape(viewed) * factor.value().reshape(spread)
        return np.asarray(wide.reshape(weight.type.shape), dtype=np.float32)

    return Constant(TensorType(weight.type.shape, "fp32"), build)


def _shifted(bias: Constant | None, factor: Constant, offset: Constant, beta: float) -> Constant:
    if bias is None:
        return offset
    if bias.stripped or factor.stripped:
        return Constant(offset.type)
    return offset.map(offset.type, lambda v: np.asarray(v + beta * bias.value() * factor.value(), dtype=np.float32))
