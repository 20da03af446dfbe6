"""Rules of `canonical` for operators on positions: they become comparisons with counted indices, and gathers of rows.

Indices are int32 or int64 throughout, which the vector unit adds, multiplies, compares and selects exactly.
"""

from __future__ import annotations

from math import prod

import numpy as np

from compiler.graph import Node
from compiler.passes.edit import Editor


def _count(edit: Editor, name: str, shape: tuple[int, ...], axis: int, dtype: str, step: int = 1) -> str:
    """The constant 0, step, 2 step, ... along one axis of `shape`, which it broadcasts to."""
    column = tuple(e if i == axis else 1 for i, e in enumerate(shape))
    return edit.add_array(name, np.arange(shape[axis]).reshape(column) * step, dtype)


def _extreme_index(edit: Editor, node: Node) -> bool:
    """ArgMax, ArgMin: the smallest (or largest) index at which the extreme stands."""
    x = edit.current(node.inputs[0])
    shape = edit.shape(x)
    axis, last = int(node.attrs.get("axis", 0)) % len(shape), int(node.attrs.get("select_last_index", 0))
    largest = edit.emit(f"{node.name}.value", "Reduce" + node.op[3:], (x,), axes=(axis,), keepdims=1)
    here = edit.emit(f"{node.name}.here", "Equal", (x, largest))
    index = _count(edit, f"{node.name}.index", shape, axis, "int32")
    none = edit.add_array(f"{node.name}.none", -1 if last else shape[axis], "int32")
    found = edit.emit(f"{node.name}.where", "Where", (here, index, none))
    keep = int(node.attrs.get("keepdims", 1))
    found = edit.emit(f"{node.name}.first", "ReduceMax" if last else "ReduceMin", (found,), axes=(axis,), keepdims=keep)
    edit.emit(node.name, "Cast", (found,), node.outputs[0], to="int64")
    return True


def _hardmax(edit: Editor, node: Node) -> bool:
    """1 at the first place of the largest element, else 0."""
    x = edit.current(node.inputs[0])
    shape, dtype = edit.shape(x), edit.tensors[x].dtype
    axis = int(node.attrs.get("axis", -1)) % len(shape)
    largest = edit.emit(f"{node.name}.value", "ReduceMax", (x,), axes=(axis,), keepdims=1)
    here = edit.emit(f"{node.name}.here", "Equal", (x, largest))
    index = _count(edit, f"{node.name}.index", shape, axis, "int32")
    none = edit.add_array(f"{node.name}.none", shape[axis], "int32")
    found = edit.emit(f"{node.name}.where", "Where", (here, index, none))
    found = edit.emit(f"{node.name}.first", "ReduceMin", (found,), axes=(axis,), keepdims=1)
    edit.emit(node.name, "Cast", (edit.emit(f"{node.name}.is", "Equal", (index, found)),), node.outputs[0], to=dtype)
    return True


def _one_hot(edit: Editor, node: Node) -> bool:
    """The counted depth is compared with the indices, and the two values are chosen from."""
    index, values = (edit.current(n) for n in node.inputs)
    shape, depth = edit.shape(index), int(node.attrs["depth"])
    axis = int(node.attrs.get("axis", -1)) % (len(shape) + 1)
    wide = (*shape[:axis], 1, *shape[axis:])
    if edit.tensors[index].dtype not in ("int32", "int64"):
        index = edit.emit(f"{node.name}.whole", "Cast", (index,), to="int32")
    index = edit.emit(f"{node.name}.wide", "Reshape", (index,), shape=wide)
    index = _from_start(edit, f"{node.name}.index", index, depth)
    final = (*shape[:axis], depth, *shape[axis:])
    places = _count(edit, f"{node.name}.count", final, axis, edit.tensors[index].dtype)
    off, on = (
        edit.emit(f"{node.name}.{k}", "Slice", (values,), starts=(i,), ends=(i + 1,), axes=(0,), steps=(1,))
        for i, k in enumerate(("off", "on"))
    )
    edit.emit(node.name, "Where", (edit.emit(f"{node.name}.is", "Equal", (index, places)), on, off), node.outputs[0])
    return True


def _running_sum(edit: Editor, node: Node) -> bool:
    """CumSum by doubling: each step adds the sums that end 1, 2, 4, ... elements before (Hillis and Steele 1986)."""
    x = edit.current(node.inputs[0])
    shape = edit.shape(x)
    axis, back = int(node.attrs.get("axis", 0)) % len(shape), bool(node.attrs.get("reverse", 0))

    def moved(name: str, source: str, by: int) -> str:
        pads = [0] * (2 * len(shape))
        pads[axis], pads[axis + len(shape)] = (-by, by) if back else (by, -by)
        return edit.emit(name, "Pad", (source,), pads=tuple(pads), mode="constant", value=0.0)

    if node.attrs.get("exclusive", 0):
        x = moved(f"{node.name}.exclusive", x, 1)
    by = 1
    while by < shape[axis]:
        x = edit.emit(f"{node.name}.sum{by}", "Add", (x, moved(f"{node.name}.by{by}", x, by)))
        by *= 2
    edit.emit(node.name, "Identity", (x,), node.outputs[0])
    return True


def _from_start(edit: Editor, name: str, index: str, extent: int) -> str:
    """Indices counted from the start of an axis."""
    dtype = edit.tensors[index].dtype
    zero, whole = (edit.add_array(f"{name}.{label}", v, dtype) for label, v in (("zero", 0), ("extent", extent)))
    negative = edit.emit(f"{name}.negative", "Less", (index, zero))
    return edit.emit(f"{name}.wrapped", "Where", (negative, edit.emit(f"{name}.end", "Add", (index, whole)), index))


def _gather_elements(edit: Editor, node: Node) -> bool:
    """Elements of the flat tensor, by indices that hold the place along the other axes."""
    x, index = (edit.current(n) for n in node.inputs)
    shape, wanted = edit.shape(x), edit.shape(index)
    dtype = edit.tensors[index].dtype
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
    place = _from_start(edit, f"{node.name}.index", index, shape[axis])
    if strides[axis] > 1:
        stride = edit.add_array(f"{node.name}.stride", strides[axis], dtype)
        place = edit.emit(f"{node.name}.axis", "Mul", (place, stride))
    for i in range(len(wanted)):
        if i != axis and wanted[i] > 1:
            offset = _count(edit, f"{node.name}.count{i}", wanted, i, dtype, strides[i])
            place = edit.emit(f"{node.name}.place{i}", "Add", (place, offset))
    flat = edit.emit(f"{node.name}.flat", "Reshape", (x,), shape=(prod(shape),))
    edit.emit(node.name, "Gather", (flat, place), node.outputs[0], axis=0)
    return True


def _gather_nd(edit: Editor, node: Node) -> bool:
    """Rows of the tensor with its indexed axes joined."""
    x, index = (edit.current(n) for n in node.inputs)
    shape, wanted = edit.shape(x), edit.shape(index)
    dtype, batch, depth = edit.tensors[index].dtype, int(node.attrs.get("batch_dims", 0)), wanted[-1]
    joined = shape[: batch + depth]
    strides = [prod(joined[i + 1 :]) for i in range(len(joined))]
    place = ""
    for j in range(depth):
        name = f"{node.name}.index{j}"
        last = (len(wanted) - 1,)
        column = edit.emit(name, "Slice", (index,), starts=(j,), ends=(j + 1,), axes=last, steps=(1,))
        column = edit.emit(f"{name}.flat", "Reshape", (column,), shape=wanted[:-1])
        column = _from_start(edit, name, column, shape[batch + j])
        stride = edit.add_array(f"{name}.stride", strides[batch + j], dtype)
        column = edit.emit(f"{name}.rows", "Mul", (column, stride))
        place = edit.emit(f"{name}.sum", "Add", (place, column)) if place else column
    for i in range(batch):
        offset = _count(edit, f"{node.name}.batch{i}", wanted[:-1], i, dtype, strides[i])
        place = edit.emit(f"{node.name}.place{i}", "Add", (place, offset))
    rows = edit.emit(f"{node.name}.table", "Reshape", (x,), shape=(prod(joined), *shape[batch + depth :]))
    edit.emit(node.name, "Gather", (rows, place), node.outputs[0], axis=0)
    return True


def _triangle(edit: Editor, node: Node) -> bool:
    """Trilu: a constant mask chooses between the elements and zeros."""
    x = edit.current(node.inputs[0])
    rows, cols = edit.shape(x)[-2:]
    offset, upper = int(node.attrs.get("k", 0)), int(node.attrs.get("upper", 1))
    below = np.tri(rows, cols, offset - 1 if upper else offset, dtype=bool)
    mask = edit.add_array(f"{node.name}.mask", ~below if upper else below, "bool")
    zero = edit.add_array(f"{node.name}.zero", 0, edit.tensors[x].dtype)
    edit.emit(node.name, "Where", (mask, x, zero), node.outputs[0])
    return True


RULES = {
    **dict.fromkeys(("ArgMax", "ArgMin"), _extreme_index),
    "CumSum": _running_sum,
    "Hardmax": _hardmax,
    "OneHot": _one_hot,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Trilu": _triangle,
}
