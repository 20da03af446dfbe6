"""Vertical fusion by operator class: labels `Node.group`, one kernel a group (TVM's rule table, Chen et al. 2018).

Valid in: canonical graphs. Valid out: every node has a group; the nodes of a group are neighbours in the order, and the
groups form a DAG in that order. Only the last node's output leaves a group of several nodes.

    complex       anchor; takes the elementwise nodes after it as its epilogue
    attention     product, scalar Mul, Softmax over the last axis, product: one kernel, where asked for
    elementwise   chains of up to MAX_CHAIN nodes
    reduction, layout, opaque   alone
    Reshape       alone, in a group called 'view:...': an alias, no kernel

A follower joins when it is the only reader of the value so far, keeps its shape, and its other operands fit.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Graph, Node
from compiler.ops import op_def
from compiler.passes.qdq import symmetric

MAX_CHAIN = 8
VIEW = "view:"
# Elementwise operators that a kernel cannot apply to the result of another one, or whose parameters are not pointwise.
_ALONE = ("BatchNormalization",)
_FIRST = ("QuantizeLinear",)  # may begin a chain only: a value next to a tie must be the one that is stored
# What may follow a matrix product in its kernel: activations, and arithmetic with a residual or a vector.
_UNARY_EPILOGUE = (
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "HardSwish", "HardSigmoid", "Mish", "Elu", "Softplus",
    "Swish", "Erf", "Exp", "Sqrt", "Neg", "Abs",
)  # fmt: skip
_SCALAR_EPILOGUE = ("Add", "Mul", "Min", "Max")
_BINARY_EPILOGUE = (*_SCALAR_EPILOGUE, "Sub", "Div")


def run(graph: Graph, fusion: bool = True, attention: bool = False) -> Graph:
    """Label groups and bring the nodes of each together; with `fusion=False` every node is its own group."""
    readers = graph.consumers()
    group: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in group:
            continue
        if node.op == "Reshape":
            group[node.name] = VIEW + node.name
            continue
        members = _attention(graph, node, readers, group) if fusion and attention else []
        members = members or (_grow(graph, node, readers, group) if fusion else [node])
        group.update((member.name, node.name) for member in members)
    last = {group[node.name]: index for index, node in enumerate(graph.nodes)}
    # Ordering groups by their last node keeps the order topological: values leave a group through that node only.
    order = sorted(graph.nodes, key=lambda node: last[group[node.name]])
    return graph.with_nodes(replace(node, group=group[node.name]) for node in order)


def groups(graph: Graph) -> dict[str, tuple[Node, ...]]:
    """Nodes by group, in execution order."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        found.setdefault(node.group or node.name, []).append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}


def activation_bytes(graph: Graph) -> int:
    """Bytes of activations that kernels read and write if nothing stays on chip between groups; views are free."""
    total = 0
    for name, nodes in groups(graph).items():
        if name.startswith(VIEW):
            continue
        inside = {n for node in nodes for n in node.outputs if n}
        readers = graph.consumers()
        members = {node.name for node in nodes}
        reads = {n for node in nodes for n in node.inputs if n and n not in inside and n not in graph.constants}
        writes = {
            n
            for n in inside
            if n in graph.outputs or n not in readers or any(r.name not in members for r in readers[n])
        }
        total += sum(graph.tensors[n].size_bytes for n in reads | writes)
    return total


def _grow(graph: Graph, node: Node, readers: dict[str, list[Node]], group: dict[str, str]) -> list[Node]:
    """The node and the followers that join it."""
    op_class = op_def(node.op).op_class
    members = [node]
    if op_class not in ("complex", "elementwise") or node.op in _ALONE or len(node.outputs) != 1:
        return members
    while len(members) < MAX_CHAIN:
        value = members[-1].outputs[0]
        followers = readers.get(value, [])
        if len(followers) != 1 or value in graph.outputs or followers[0].name in group:
            break
        follower = followers[0]
        if not _joins(graph, follower, value, node if op_class == "complex" else None):
            break
        members.append(follower)
    return members


def _attention(graph: Graph, node: Node, readers: dict[str, list[Node]], group: dict[str, str]) -> list[Node]:
    """The nodes of softmax(scale x y) z from its first product on, each the only reader of the one before; or none."""
    members = [node]
    for wanted in ("MatMul", "Mul", "Softmax", "MatMul"):
        last = members[-1]
        if wanted == "MatMul" and len(members) == 1:
            if node.op != "MatMul":
                return []
            continue
        value = last.outputs[0]
        followers = readers.get(value, [])
        if len(followers) != 1 or value in graph.outputs or followers[0].name in group:
            return []
        follower = followers[0]
        if wanted == "Mul" and follower.op != "Mul":
            continue
        rank = len(graph.tensors[value].shape)
        scalar = wanted != "Mul" or (follower.inputs[0] == value and _fits_scalar(graph, follower.inputs[1]))
        rows = wanted != "Softmax" or int(follower.attrs.get("axis", -1)) in (-1, rank - 1)
        first = wanted != "MatMul" or (follower.inputs[0] == value and follower.inputs[1] != value)
        if follower.op != wanted or not (scalar and rows and first):
            return []
        members.append(follower)
    return members


def _fits_scalar(graph: Graph, name: str) -> bool:
    constant = graph.constants.get(name)
    return constant is not None and constant.type.elements == 1 and not constant.stripped


def _joins(graph: Graph, node: Node, value: str, product: Node | None) -> bool:
    """Whether a node may follow `value` in its kernel: in the epilogue of a product, or in a chain."""
    if op_def(node.op).op_class != "elementwise" or node.op in (*_ALONE, *_FIRST) or len(node.outputs) != 1:
        return False
    before, after = graph.tensors[value], graph.tensors[node.outputs[0]]
    if before.shape != after.shape:
        return False
    others = [n for n in node.inputs if n and n != value]
    if product is None:
        return True
    if len(node.inputs) == 1:
        return node.op in _UNARY_EPILOGUE or symmetric(node)  # the latter costs nothing: compiler.passes.quantise
    if node.op not in _BINARY_EPILOGUE or len(others) != 1 or len(node.inputs) != 2:
        return False
    if node.op not in _SCALAR_EPILOGUE and node.inputs[0] != value:
        return False
    blocks = product.attrs.get("layout") == "NC1HWC0"
    return _fits(graph, node, others[0], after.shape, (1, 4) if blocks else (len(after.shape) - 1,))


def _fits(graph: Graph, node: Node, name: str, shape: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """True for a residual of the whole shape, a known scalar, or a constant vector along the `channels` axes."""
    found, constant = graph.tensors[name].shape, graph.constants.get(name)
    if found == shape:
        return True
    if constant is None:
        return False
    if constant.type.elements == 1 and not constant.stripped:
        return node.op in _SCALAR_EPILOGUE
    wide = (1,) * (len(shape) - len(found)) + found
    return bool(found) and wide == tuple(d if i in channels else 1 for i, d in enumerate(shape))
