"""Writes a Resize that is no plain repetition out along its axes, one operator an axis.

Interpolation along an axis is a product with a constant matrix [size, extent], as jax.image.resize has it on TPUs; the
nearest neighbour is a Slice where its indices step evenly, else a Gather. Axes that shrink go first.

Valid in: graphs after `layout`, so that the channels are where they will be. Valid out: each Resize repeats elements.
"""

from __future__ import annotations

from math import prod

import numpy as np

from compiler.graph import Array, Graph, Node
from compiler.ops.base import is_float
from compiler.ops.resize import Line, lines
from compiler.passes.edit import Editor


def run(graph: Graph) -> Graph:
    """Rewrite every such Resize."""
    edit = Editor(graph)
    for node in graph.nodes:
        if node.op == "Resize":
            _resize(edit, node)
        else:
            edit.keep(node)
    return edit.finish()


def repeats(node: Node, shape: tuple[int, ...]) -> bool:
    """True when a Resize of a tensor of `shape` repeats every element a whole number of times."""
    return all(_repeats(line, shape[line.axis]) for line in lines(node, shape))


def _repeats(line: Line, extent: int) -> bool:
    times, rest = divmod(len(line.outside), extent)
    index = _index(line)
    return not rest and index is not None and np.array_equal(index, np.repeat(np.arange(extent), times))


def _index(line: Line) -> Array | None:
    """The element that each output takes whole, or None where several are mixed."""
    return line.taps[0][0] if len(line.taps) == 1 and not line.outside.any() else None


def _resize(edit: Editor, node: Node) -> None:
    x = edit.current(node.inputs[0])
    shape = edit.shape(x)
    steps = lines(node, shape)
    if all(_repeats(line, shape[line.axis]) for line in steps):
        edit.keep(node)
        return
    kind = edit.tensors[x].dtype
    mixed = not is_float(kind) and any(_index(line) is None for line in steps)
    if mixed:
        x = edit.emit(f"{node.name}.real", "Cast", (x,), to="fp32")
    for line in sorted(steps, key=lambda s: len(s.outside) / shape[s.axis]):
        x = _along(edit, f"{node.name}.axis{line.axis}", x, line)
    x = _outside(edit, node, x, steps)
    if mixed:
        x = edit.emit(f"{node.name}.whole", "Cast", (x,), to=kind)
    edit.emit(node.name, "Identity", (x,), node.outputs[0])


def _along(edit: Editor, name: str, x: str, line: Line) -> str:
    """Resample one axis."""
    shape, axis = edit.shape(x), line.axis
    index = _index(line)
    if index is not None:
        step = int(index[1] - index[0]) if len(index) > 1 else 1
        if step > 0 and (np.diff(index) == step).all():
            start, end = int(index[0]), int(index[-1]) + 1
            return edit.emit(name, "Slice", (x,), starts=(start,), ends=(end,), axes=(axis,), steps=(step,))
        return edit.emit(name, "Gather", (x, edit.add_array(f"{name}.index", index, "int32")), axis=axis)
    weights = edit.add_array(f"{name}.weights", line.matrix(shape[axis]), edit.tensors[x].dtype)
    before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
    flat = (before, shape[axis]) if after == 1 else (before, shape[axis], after)
    x = edit.emit(f"{name}.rows", "Reshape", (x,), shape=flat)
    if after == 1:
        turned = edit.mapped(weights, "t", edit.shape(weights)[::-1], lambda v: np.ascontiguousarray(v.T))
        x = edit.emit(name, "MatMul", (x, turned))
    else:
        x = edit.emit(name, "MatMul", (weights, x))
    return edit.emit(f"{name}.back", "Reshape", (x,), shape=(*shape[:axis], len(line.outside), *shape[axis + 1 :]))


def _outside(edit: Editor, node: Node, x: str, steps: list[Line]) -> str:
    """Give outputs beyond the input, where all weights are 0, the extrapolation value."""
    value = float(node.attrs.get("extrapolation_value", 0.0))
    rank = len(edit.shape(x))
    outside = np.zeros((1,) * rank, bool)
    for line in steps:
        outside = outside | line.outside.reshape((-1,) + (1,) * (rank - line.axis - 1))
    if not value or not outside.any():
        return x
    fill = edit.add_array(f"{node.name}.fill", np.where(outside, value, 0.0), edit.tensors[x].dtype)
    return edit.emit(f"{node.name}.filled", "Add", (x, fill))
