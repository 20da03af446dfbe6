"""Brings operators to the few forms that kernels take.

Valid in: any graph of `compiler.ops`. Valid out: no Gemm, Flatten, Squeeze, Unsqueeze, Split, GlobalPool, Sum, Mean,
DepthToSpace, SpaceToDepth, ArgMax, ArgMin, CumSum, GatherElements, GatherND, Trilu, OneHot, Hardmax, LRN, LSTM, GRU,
InstanceNormalization or GroupNormalization (but for indices, LRN, LSTM and GRU that the machine leaves to its host);
Min and Max take two operands; Conv and pools have two spatial axes where they had one to three; ConvTranspose is Dilate
+ Conv, LpPool an AveragePool of powers; Conv groups have constant weights; Einsum without repeated letters is MatMul;
MatMul takes no vectors; Softmax, LogSoftmax, LayerNormalization and RMSNormalization work on the last axis only;
LayerNormalization has one output; Transpose states its permutation; limits of Clip are attributes; scales of
QuantizeLinear and DequantizeLinear are one a tensor or broadcast (but for blocks that do not divide their axis).
"""

from __future__ import annotations

from collections.abc import Callable

from compiler.graph import Graph, Node
from compiler.passes import (
    canonical_index,
    canonical_norm,
    canonical_quantise,
    canonical_recurrent,
    canonical_window,
    einsum,
)
from compiler.passes.edit import Editor, spatial_axes

Rule = Callable[[Editor, Node], bool]


def run(graph: Graph, host: frozenset[str] = frozenset()) -> Graph:
    """Apply every rule once; rules emit canonical operators only. `host` names what the machine leaves to its host."""
    edit = Editor(graph)
    for node in graph.nodes:
        rule = None if node.op in host and node.op in _WHOLE else _RULES.get(node.op)
        if rule is None or not rule(edit, node):
            edit.keep(node)
    return edit.finish()


def _reshape(edit: Editor, node: Node) -> bool:
    """Flatten, Squeeze, Unsqueeze."""
    edit.emit(node.name, "Reshape", node.inputs[:1], node.outputs[0], shape=edit.shape(node.outputs[0]))
    return True


def _gemm(edit: Editor, node: Node) -> bool:
    """alpha and beta go into constants where they can; a constant weight is transposed at compile time."""
    a, b, c = (*map(edit.current, node.inputs), "")[:3]
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    flags = {name: int(node.attrs.get(name, 0)) for name in ("transA", "transB")}
    if edit.constant(b) and flags["transB"]:
        b, flags["transB"] = edit.mapped(b, "t", edit.shape(b)[::-1], lambda v: v.T), 0
    if edit.constant(b) and alpha != 1.0:
        factor, alpha = alpha, 1.0
        b = edit.mapped(b, f"x{factor!r}", edit.shape(b), lambda v: (v * factor).astype(v.dtype))
    if c and edit.constant(c) and beta not in (0.0, 1.0):
        scale, beta = beta, 1.0
        c = edit.mapped(c, f"x{scale!r}", edit.shape(c), lambda v: (v * scale).astype(v.dtype))
    c = "" if beta == 0.0 else c
    attrs = {k: v for k, v in flags.items() if v}
    cols = edit.shape(node.outputs[0])[1]
    if c and alpha == beta == 1.0 and edit.constant(c) and edit.shape(c) in ((cols,), (1, cols)):
        bias = c if edit.shape(c) == (cols,) else edit.mapped(c, "flat", (cols,), lambda v: v.reshape(-1))
        edit.emit(node.name, "MatMul", (a, b, bias), node.outputs[0], **attrs)
        return True
    dtype = edit.tensors[node.outputs[0]].dtype
    y = edit.emit(node.name, "MatMul", (a, b), "" if c or alpha != 1.0 else node.outputs[0], **attrs)
    if alpha != 1.0:
        factor_name = edit.add_array(f"{node.name}.alpha", alpha, dtype)
        y = edit.emit(f"{node.name}.alpha", "Mul", (y, factor_name), "" if c else node.outputs[0])
    if c and beta != 1.0:
        c = edit.emit(f"{node.name}.beta", "Mul", (c, edit.add_array(f"{node.name}.beta", beta, dtype)))
    if c:
        edit.emit(f"{node.name}.add", "Add", (y, c), node.outputs[0])
    return True


def _global_pool(edit: Editor, node: Node) -> bool:
    op = "ReduceMean" if node.op == "GlobalAveragePool" else "ReduceMax"
    rank = len(edit.shape(edit.current(node.inputs[0])))
    if node.attrs.get("layout", "NCHW") != "NCHW":
        return False
    edit.emit(node.name, op, node.inputs, node.outputs[0], axes=spatial_axes(rank), keepdims=1)
    return True


def _split(edit: Editor, node: Node) -> bool:
    rank, start = len(edit.shape(edit.current(node.inputs[0]))), 0
    axis = int(node.attrs.get("axis", 0)) % rank
    for index, (size, out) in enumerate(zip(node.attrs["split"], node.outputs)):
        if out:
            attrs = {"starts": (start,), "ends": (start + size,), "axes": (axis,), "steps": (1,)}
            edit.emit(f"{node.name}.{index}", "Slice", node.inputs[:1], out, **attrs)
        start += size
    return True


def _clip(edit: Editor, node: Node) -> bool:
    limits = dict(node.attrs)
    for index, label in ((1, "min"), (2, "max")):
        name = edit.current(node.inputs[index]) if index < len(node.inputs) else ""
        if not name:
            continue
        value = edit.scalar(name)
        if value is None:
            return _clip_by_tensors(edit, node)
        limits[label] = value
    edit.emit(node.name, "Clip", node.inputs[:1], node.outputs[0], **limits)
    return True


def _clip_by_tensors(edit: Editor, node: Node) -> bool:
    """Limits that are computed: min(max(x, low), high)."""
    x, *limits = (*node.inputs, "", "")[:3]
    dtype = edit.tensors[node.outputs[0]].dtype
    for op, label, name in zip(("Max", "Min"), ("min", "max"), limits):
        if not name and label in node.attrs:
            name = edit.add_array(f"{node.name}.{label}", node.attrs[label], dtype)
        x = edit.emit(f"{node.name}.{label}", op, (x, name)) if name else x
    edit.emit(node.name, "Identity", (x,), node.outputs[0])
    return True


def _matmul(edit: Editor, node: Node) -> bool:
    """A product with a vector: a row on the left, a column on the right."""
    left, right, *rest = (edit.current(n) for n in node.inputs)
    shapes = [edit.shape(left), edit.shape(right)]
    if min(map(len, shapes)) > 1:
        return False
    if len(shapes[0]) == 1:
        left = edit.emit(f"{node.name}.row", "Reshape", (left,), shape=(1, *shapes[0]))
    if len(shapes[1]) == 1:
        right = edit.emit(f"{node.name}.column", "Reshape", (right,), shape=(*shapes[1], 1))
    y = edit.emit(node.name, "MatMul", (left, right, *rest), **node.attrs)
    edit.emit(f"{node.name}.flat", "Reshape", (y,), node.outputs[0], shape=edit.shape(node.outputs[0]))
    return True


def _variadic(edit: Editor, node: Node) -> bool:
    """Sum, Mean, Min, Max of any number of operands become operators of two."""
    op = {"Sum": "Add", "Mean": "Add"}.get(node.op, node.op)
    scaled = node.op == "Mean" and len(node.inputs) > 1
    if len(node.inputs) == 1:
        edit.emit(node.name, "Identity", node.inputs, node.outputs[0])
        return True
    total = node.inputs[0]
    for index, other in enumerate(node.inputs[1:], start=1):
        last = index == len(node.inputs) - 1 and not scaled
        total = edit.emit(
            node.name if last else f"{node.name}.{index}", op, (total, other), node.outputs[0] if last else ""
        )
    if scaled:
        share = edit.add_array(f"{node.name}.share", 1.0 / len(node.inputs), edit.tensors[node.outputs[0]].dtype)
        edit.emit(node.name, "Mul", (total, share), node.outputs[0])
    return True


def _transpose(edit: Editor, node: Node) -> bool:
    rank = len(edit.shape(edit.current(node.inputs[0])))
    edit.keep(node, attrs={"perm": tuple(node.attrs.get("perm") or reversed(range(rank)))})
    return True


def _depth_to_space(edit: Editor, node: Node) -> bool:
    (n, c, h, w), s = edit.shape(edit.current(node.inputs[0])), int(node.attrs["blocksize"])
    crd = node.attrs.get("mode", "DCR") == "CRD"
    if node.op == "SpaceToDepth":
        split, perm = (n, c, h // s, s, w // s, s), (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)
    elif crd:
        split, perm = (n, c // s**2, s, s, h, w), (0, 1, 4, 2, 5, 3)
    else:
        split, perm = (n, s, s, c // s**2, h, w), (0, 3, 4, 1, 5, 2)
    x = edit.emit(f"{node.name}.split", "Reshape", node.inputs, shape=split)
    x = edit.emit(f"{node.name}.turn", "Transpose", (x,), perm=perm)
    edit.emit(node.name, "Reshape", (x,), node.outputs[0], shape=edit.shape(node.outputs[0]))
    return True


_WHOLE = (*canonical_index.RULES, "LRN", "LSTM", "GRU")  # operators that would become many on a host
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Einsum": einsum.rule,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    "Split": _split,
    "Clip": _clip,
    **dict.fromkeys(("Sum", "Mean", "Min", "Max"), _variadic),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space),
    **canonical_index.RULES,
    **canonical_quantise.RULES,
    **canonical_recurrent.RULES,
    **canonical_window.RULES,
    **canonical_norm.RULES,
}
