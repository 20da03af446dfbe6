"""Lowering rules of reductions, softmax, normalisations and global pools."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.graph import Node
from compiler.kernels import rows
from compiler.kernels.rows import RowOp, Rows, build
from compiler.kernels.tiles import collapse
from compiler.lower.context import Call, Context, NoKernel, alone, row_major, rule
from compiler.lower.views import broadcast_strides, call, near, operand
from compiler.ops.base import op_def, product
from compiler.ops.spatial import channel_last, logical_shape
from isa.dtypes import dtype as dtype_of

INTEGERS = ("int32", "int64")
_GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


def _call(
    context: Context, node: Node, program: Sequence[RowOp], shape: Sequence[int], axes: Sequence[int], whole: bool,
    extras: Sequence[tuple[str, str, Sequence[int]]] = (),
) -> list[Call]:
    """A row program over `shape`, rows along `axes`; `extras` are ("scale" or "bias", tensor, strides over shape)."""
    if 0 in shape:
        return []
    source, result = node.inputs[0], node.outputs[0]
    single = tuple(1 if i in axes else e for i, e in enumerate(shape))
    marker = broadcast_strides(single, shape)
    dense = row_major(tuple(shape))
    extents, steps = collapse(shape, marker, dense, dense if whole else marker, *(s for _, _, s in extras))
    reduced = tuple(s == 0 for s in steps[0])
    if not any(reduced):  # rows of one element
        extents, reduced = (*extents, 1), (*reduced, True)
        steps = [(*row, 1 if i == 1 else 0) for i, row in enumerate(steps)]
    bind = {"x": (source, 0), "out": (result, 0)}
    operands = {}
    for (letter, tensor, _), strides in zip(extras, steps[3:]):
        held = near(context, tensor)
        bind[letter] = (held, 0)
        operands[letter] = operand(context, held, strides)
    kind = context.type_of(source)
    plain = kind.dtype in INTEGERS and kind.scale == 1.0 and kind.zero_point == 0
    if plain and {o.op for o in program} - {*rows.REDUCTIONS, "copy"}:
        raise NoKernel(f"{node.name}: {node.op} of {kind.dtype} is not exact on the vector unit")
    spec = Rows(
        tuple(program), extents, reduced, operand(context, source, steps[1]), operand(context, result, steps[2]),
        operands.get("scale"), operands.get("bias"), kind.dtype if plain else "fp32",
        context.choices.reread_rows and not _after_product(context, source),
    )  # fmt: skip
    return [call(context, spec, build, bind)]


def _after_product(context: Context, source: str) -> bool:
    """True when the kernel that makes `source` computes a product: it may go on to the first reduction."""
    made = context.graph.producers()
    node = made.get(source)
    while node is not None and node.op in ("Reshape", "Transpose"):
        node = made.get(node.inputs[0])
    if node is None:
        return False
    return any(op_def(n.op).op_class == "complex" for n in context.graph.nodes if n.group == node.group)


def _axes(node: Node, rank: int) -> tuple[int, ...]:
    return tuple(sorted(a % rank for a in node.attrs.get("axes", range(rank))))


@rule("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
      "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
def reduce(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Reductions over any axes."""
    node = alone(nodes)
    kind = context.type_of(node.inputs[0])
    axes = _axes(node, len(kind.shape))
    if node.op == "ReduceLogSumExp":
        return _call(context, node, rows.LOG_SUM_EXP, kind.shape, axes, whole=False)
    quantised = (kind.scale, kind.zero_point) != (1.0, 0)
    if node.op not in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd") and not (
        quantised or dtype_of(kind.dtype).is_float
    ):
        raise NoKernel(f"{node.name}: {node.op} of {kind.dtype} truncates, which the vector unit does not")
    count = product([kind.shape[a] for a in axes])
    return _call(context, node, rows.reduction(node.op, count), kind.shape, axes, whole=False)


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """A reduction over the spatial axes."""
    node = alone(nodes)
    shape = context.type_of(node.inputs[0]).shape
    axes = range(1, len(shape) - 1) if channel_last(node) else range(2, len(shape))
    program = rows.reduction(_GLOBAL[node.op], product([shape[a] for a in axes]))
    return _call(context, node, program, shape, tuple(axes), whole=False)


@rule("Softmax", "LogSoftmax")
def softmax(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Softmax along one axis, shifted by the row's maximum."""
    node = alone(nodes)
    shape = context.type_of(node.inputs[0]).shape
    program = rows.SOFTMAX if node.op == "Softmax" else rows.LOG_SOFTMAX
    return _call(context, node, program, shape, [node.attrs.get("axis", -1) % len(shape)], whole=True)


@rule("LayerNormalization", "RMSNormalization")
def layer_norm(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Normalisation over the last axes; the statistics themselves may not be asked for."""
    node = alone(nodes)
    if any(name and _read(context, name) for name in node.outputs[1:]):
        raise NoKernel(f"{node.name}: its mean and deviation are read; only the normalised tensor is computed")
    shape = context.type_of(node.inputs[0]).shape
    axes = range(node.attrs.get("axis", -1) % len(shape), len(shape))
    count, epsilon = product([shape[a] for a in axes]), float(node.attrs.get("epsilon", 1e-5))
    given = [(letter, name) for letter, name in zip(("scale", "bias"), node.inputs[1:]) if name]
    extras = [(letter, n, broadcast_strides(context.type_of(n).shape, shape)) for letter, n in given]
    letters = [letter for letter, _ in given]
    if node.op == "RMSNormalization":
        program = rows.rms_norm(count, epsilon, "scale" in letters)
    else:
        program = rows.layer_norm(count, epsilon, "scale" in letters, "bias" in letters)
    return _call(context, node, program, shape, tuple(axes), True, extras)


def _read(context: Context, name: str) -> bool:
    return name in context.graph.outputs or any(name in n.inputs for n in context.graph.nodes)


@rule("InstanceNormalization", "GroupNormalization")
def group_norm(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Normalisation over the pixels of one channel, or of a group of channels."""
    node = alone(nodes)
    n, c, *spatial = logical_shape(node, context.type_of(node.inputs[0]).shape)
    groups = c if node.op == "InstanceNormalization" else int(node.attrs["num_groups"])
    pixels, each = product(spatial), c // groups
    if channel_last(node):
        shape, axes, strides = (n, pixels, groups, each), (1, 3), (0, 0, each, 1)
    else:
        shape, axes, strides = (n, groups, each, pixels), (2, 3), (0, each, 1, 0)
    steps = tuple(0 if e == 1 else s for e, s in zip(shape, strides))
    program = rows.layer_norm(pixels * each, float(node.attrs.get("epsilon", 1e-5)), True, True)
    extras = [(letter, name, steps) for letter, name in zip(("scale", "bias"), node.inputs[1:])]
    return _call(context, node, program, shape, axes, True, extras)
