"""Rules of `canonical` for normalisations: trailing axes become one; a lone BatchNormalization is x*a + b."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compiler.graph import Array, Constant, Node, TensorType
from compiler.passes.edit import Editor
from isa.dtypes import dtype as dtype_of


def _last_axis(edit: Editor, node: Node) -> bool:
    """Softmax and LogSoftmax: the axis counted from the end (their kernel takes any)."""
    rank = len(edit.shape(edit.current(node.inputs[0])))
    edit.keep(node, attrs={**node.attrs, "axis": int(node.attrs.get("axis", -1)) % rank - rank})
    return True


def _layer(edit: Editor, node: Node) -> bool:
    """LayerNormalization and RMSNormalization over several trailing axes: flatten them into one."""
    x, *rest = (edit.current(n) for n in node.inputs)
    shape = edit.shape(x)
    axis = int(node.attrs.get("axis", -1)) % len(shape)
    if len(node.outputs) > 1:
        _statistics(edit, node, x, tuple(range(axis, len(shape))))
        node = replace(node, outputs=node.outputs[:1])
    width = int(np.prod(shape[axis:], dtype=np.int64))
    if axis == len(shape) - 1:
        edit.keep(node, attrs={**node.attrs, "axis": -1})
        return True
    if any(not edit.constant(n) or edit.shape(n) != shape[axis:] for n in rest if n):
        edit.keep(node)
        return True
    flat = [edit.mapped(n, "flat", (width,), lambda v: v.reshape(-1)) if n else "" for n in rest]
    y = edit.emit(f"{node.name}.flat", "Reshape", (x,), shape=(*shape[:axis], width))
    y = edit.emit(node.name, node.op, (y, *flat), **{**node.attrs, "axis": -1})
    edit.emit(f"{node.name}.back", "Reshape", (y,), node.outputs[0], shape=shape)
    return True


def _statistics(edit: Editor, node: Node, x: str, axes: tuple[int, ...]) -> None:
    """Mean and inverse deviation of a LayerNormalization, where they are read."""
    wanted = set(edit.graph.outputs) | {n for other in edit.graph.nodes for n in other.inputs}
    mean, inverse = (n if n in wanted else "" for n in (*node.outputs[1:], "")[:2])
    if not mean and not inverse:
        return
    average = edit.emit(f"{node.name}.mean", "ReduceMean", (x,), mean, axes=axes, keepdims=1)
    if inverse:
        centred = edit.emit(f"{node.name}.centre", "Sub", (x, average))
        square = edit.emit(f"{node.name}.square", "Mul", (centred, centred))
        variance = edit.emit(f"{node.name}.variance", "ReduceMean", (square,), axes=axes, keepdims=1)
        epsilon = edit.add_array(f"{node.name}.epsilon", node.attrs.get("epsilon", 1e-5), edit.tensors[variance].dtype)
        deviation = edit.emit(f"{node.name}.shift", "Add", (variance, epsilon))
        deviation = edit.emit(f"{node.name}.deviation", "Sqrt", (deviation,))
        edit.emit(f"{node.name}.inverse", "Reciprocal", (deviation,), inverse)


def _grouped(edit: Editor, node: Node) -> bool:
    """InstanceNormalization and GroupNormalization: a LayerNormalization of rows, then scale and shift by channel."""
    x, scale, bias = (edit.current(n) for n in node.inputs)
    shape = edit.shape(x)
    channels = shape[1]
    groups = int(node.attrs.get("num_groups", channels))
    known = edit.constant(scale) and edit.constant(bias)
    if not known or len(node.outputs) > 1 or node.attrs.get("layout", "NCHW") != "NCHW":
        return False
    width = int(np.prod(shape[2:], dtype=np.int64)) * channels // groups
    dtype = edit.tensors[scale].dtype
    one, zero = (
        edit.add_constant(f"{node.name}.{label}", _filled(width, value, dtype))
        for label, value in (("one", 1.0), ("zero", 0.0))
    )
    y = edit.emit(f"{node.name}.rows", "Reshape", (x,), shape=(shape[0] * groups, width))
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    y = edit.emit(f"{node.name}.normal", "LayerNormalization", (y, one, zero), axis=-1, epsilon=epsilon)
    y = edit.emit(f"{node.name}.back", "Reshape", (y,), shape=shape)
    column = (channels,) + (1,) * (len(shape) - 2)
    scale, bias = (edit.mapped(n, "column", column, lambda v: v.reshape(column)) for n in (scale, bias))
    y = edit.emit(f"{node.name}.scale", "Mul", (y, scale))
    edit.emit(node.name, "Add", (y, bias), node.outputs[0])
    return True


def _filled(width: int, value: float, dtype: str) -> Constant:
    return Constant(TensorType((width,), dtype), lambda: np.full((width,), value, dtype_of(dtype).numpy))


def _batch_norm(edit: Editor, node: Node) -> bool:
    """What `bn_fold` could not fold: one multiply and one add by channel, the constants made lazily."""
    x, *parameters = (edit.current(n) for n in node.inputs)
    if node.attrs.get("layout", "NCHW") != "NCHW":
        return False
    column = (edit.shape(x)[1],) + (1,) * (len(edit.shape(x)) - 2)
    if not all(edit.constant(n) for n in parameters):
        _computed_batch_norm(edit, node, x, parameters, column)
        return True
    scale, shift = affine(edit, parameters, float(node.attrs.get("epsilon", 1e-5)))
    kind = TensorType(column, "fp32")
    factor = edit.add_constant(f"{node.name}.factor", scale.map(kind, lambda v: v.reshape(column)))
    offset = edit.add_constant(f"{node.name}.offset", shift.map(kind, lambda v: v.reshape(column)))
    y = edit.emit(f"{node.name}.scale", "Mul", (x, factor))
    edit.emit(node.name, "Add", (y, offset), node.outputs[0])
    return True


def _computed_batch_norm(edit: Editor, node: Node, x: str, parameters: list[str], column: tuple[int, ...]) -> None:
    """Statistics or parameters that are no constants: the formula, on columns of channels."""
    labels = ("scale", "bias", "mean", "variance")
    scale, bias, mean, variance = (
        edit.emit(f"{node.name}.{label}", "Reshape", (n,), shape=column) for label, n in zip(labels, parameters)
    )
    epsilon = edit.add_array(f"{node.name}.epsilon", node.attrs.get("epsilon", 1e-5), edit.tensors[variance].dtype)
    deviation = edit.emit(f"{node.name}.shift", "Add", (variance, epsilon))
    deviation = edit.emit(f"{node.name}.deviation", "Sqrt", (deviation,))
    factor = edit.emit(f"{node.name}.factor", "Div", (scale, deviation))
    y = edit.emit(f"{node.name}.centre", "Sub", (x, mean))
    y = edit.emit(f"{node.name}.times", "Mul", (y, factor))
    edit.emit(node.name, "Add", (y, bias), node.outputs[0])


def _local_response(edit: Editor, node: Node) -> bool:
    """LRN: x / (bias + alpha mean of the squares of `size` channels) ^ beta, the mean an AveragePool over channels."""
    x = edit.current(node.inputs[0])
    shape, size = edit.shape(x), int(node.attrs["size"])
    if node.attrs.get("layout", "NCHW") != "NCHW":
        return False
    alpha, beta, bias = (
        edit.add_array(f"{node.name}.{label}", node.attrs.get(label, value), edit.tensors[x].dtype)
        for label, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    y = edit.emit(f"{node.name}.square", "Mul", (x, x))
    rows = (shape[0], 1, shape[1], int(np.prod(shape[2:], dtype=np.int64)))
    y = edit.emit(f"{node.name}.rows", "Reshape", (y,), shape=rows)
    pads = ((size - 1) // 2, 0, size // 2, 0)
    y = edit.emit(f"{node.name}.mean", "AveragePool", (y,), kernel_shape=(size, 1), pads=pads, count_include_pad=1)
    y = edit.emit(f"{node.name}.back", "Reshape", (y,), shape=shape)
    y = edit.emit(f"{node.name}.scale", "Add", (edit.emit(f"{node.name}.times", "Mul", (y, alpha)), bias))
    y = edit.emit(f"{node.name}.power", "Pow", (y, beta))
    edit.emit(node.name, "Div", (x, y), node.outputs[0])
    return True


def affine(edit: Editor, parameters: list[str], epsilon: float) -> tuple[Constant, Constant]:
    """Batch normalisation as x * factor + offset, both lazy fp32 [C]; stripped where a parameter is.

    factor = scale / sqrt(variance + epsilon), offset = bias - mean * factor (Ioffe and Szegedy 2015).
    """
    constants = [edit.constants[n] for n in parameters]
    kind = TensorType(constants[0].type.shape, "fp32")
    if any(c.stripped for c in constants):
        return Constant(kind), Constant(kind)
    scale, bias, mean, variance = constants

    def factor() -> Array:
        wide = scale.value().astype(np.float64) / np.sqrt(variance.value().astype(np.float64) + epsilon)
        return wide.astype(np.float32)

    def offset() -> Array:
        wide = scale.value().astype(np.float64) / np.sqrt(variance.value().astype(np.float64) + epsilon)
        return (bias.value() - mean.value() * wide).astype(np.float32)

    return Constant(kind, factor), Constant(kind, offset)


RULES = {
    **dict.fromkeys(("Softmax", "LogSoftmax"), _last_axis),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _grouped),
    "BatchNormalization": _batch_norm,
    "LRN": _local_response,
}
