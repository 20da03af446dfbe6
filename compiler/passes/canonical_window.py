"""Rules of `canonical` for windows: two spatial axes, ConvTranspose as Dilate + Conv, LpPool as an AveragePool.

One spatial axis gets a unit axis before it. A pool over three is one over planes and one across them, since maxima and
the counts of averages separate; a convolution over three has its taps along the first as channels.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from compiler.graph import Array, Node
from compiler.ops.spatial import window_of
from compiler.passes.edit import Editor

Attrs = dict[str, Any]
_POOLS = ("MaxPool", "AveragePool", "LpPool")
_WINDOW = ("kernel_shape", "strides", "dilations", "output_padding", "pads")


def _windows(edit: Editor, node: Node) -> bool:
    inputs = [edit.current(n) if n else "" for n in node.inputs]
    rank, attrs, out = len(edit.shape(inputs[0])) - 2, dict(node.attrs), node.outputs[0]
    if node.attrs.get("layout", "NCHW") != "NCHW" or len(node.outputs) > 1 or rank > 3:
        return False
    if len(inputs) > 2 and inputs[2] and not edit.constant(inputs[2]):  # a bias that is computed is a sum of its own
        column = edit.shape(inputs[2]) + (1,) * rank
        column_name = edit.emit(f"{node.name}.column", "Reshape", (inputs.pop(),), shape=column)
        total, out = out, edit.fresh(f"{node.name}.product")
        edit.tensors[out] = edit.tensors[total]
        _one(edit, node, inputs, attrs, out)
        edit.emit(f"{node.name}.bias", "Add", (out, column_name), total)
        return True
    _one(edit, node, inputs, attrs, out)
    return True


def _one(edit: Editor, node: Node, inputs: list[str], attrs: Attrs, out: str) -> None:
    """The window operator itself."""
    if node.op == "LpPool":
        _lp_pool(edit, node, inputs[0])
    elif node.op in _POOLS:
        _pool(edit, node.name, node.op, inputs[0], attrs, out)
    elif node.op == "ConvTranspose":
        _transposed(edit, node.name, inputs, attrs, out)
    else:
        _conv(edit, node.name, inputs, attrs, out)


def _axes(attrs: Attrs, rank: int, first: int, last: int) -> Attrs:
    """The window attributes of spatial axes first .. last - 1 of `rank`."""
    part = dict(attrs)
    for label in _WINDOW:
        if label in part:
            values = tuple(part[label])
            part[label] = values[first:last] + (values[rank + first : rank + last] if label == "pads" else ())
    return part


def _with_unit(attrs: Attrs, at: int) -> Attrs:
    """Window attributes of one axis as those of two, a unit axis before (`at` 0) or behind (1)."""
    wide = dict(attrs)
    for label in _WINDOW:
        if label not in wide:
            continue
        unit = 0 if label in ("output_padding", "pads") else 1
        rows = [wide[label][:1], wide[label][1:]] if label == "pads" else [wide[label]]
        wide[label] = tuple(v for row in rows for v in ((unit, *row) if at == 0 else (*row, unit)))
    return wide


# --- pools -------------------------------------------------------------------------------------------------------


def _pool(edit: Editor, name: str, op: str, x: str, attrs: Attrs, out: str = "") -> str:
    """MaxPool or AveragePool over one, two or three axes."""
    n, c, *extents = edit.shape(x)
    if len(extents) == 2:
        return edit.emit(name, op, (x,), out, **attrs)
    if len(extents) == 1:
        x = edit.emit(f"{name}.rows", "Reshape", (x,), shape=(n, c, 1, *extents))
        x = edit.emit(name, op, (x,), **_with_unit(attrs, 0))
        return edit.emit(f"{name}.flat", "Reshape", (x,), out, shape=(n, c, edit.shape(x)[3]))
    depth = extents[0]
    x = edit.emit(f"{name}.planes", "Reshape", (x,), shape=(n, c * depth, *extents[1:]))
    x = edit.emit(f"{name}.plane", op, (x,), **_axes(attrs, 3, 1, 3))
    height, width = edit.shape(x)[2:]
    x = edit.emit(f"{name}.depth", "Reshape", (x,), shape=(n, c, depth, height * width))
    x = edit.emit(name, op, (x,), **_with_unit(_axes(attrs, 3, 0, 1), 1))
    return edit.emit(f"{name}.volume", "Reshape", (x,), out, shape=(n, c, edit.shape(x)[2], height, width))


def _lp_pool(edit: Editor, node: Node, x: str) -> None:
    """The p-th root of the sum of |x|^p: an average over whole windows, times their size."""
    extents = tuple(edit.shape(x)[2:])
    window = window_of(node, tuple(node.attrs["kernel_shape"]), extents)
    reached = zip(extents, window.outputs(extents), window.strides, window.reach, window.begins)
    ends = tuple(max(0, (o - 1) * s + r - e - b) for e, o, s, r, b in reached)  # ceil_mode made explicit
    order, dtype = int(node.attrs.get("p", 2)), edit.tensors[x].dtype
    attrs = {k: v for k, v in node.attrs.items() if k not in ("p", "ceil_mode")}
    attrs |= {"pads": (*window.begins, *ends), "count_include_pad": 1}

    def number(label: str, value: float) -> str:
        return edit.add_array(f"{node.name}.{label}", value, dtype)

    y = edit.emit(f"{node.name}.abs", "Abs", (x,))
    if order != 1:
        y = edit.emit(f"{node.name}.power", "Pow", (y, number("p", order)))
    y = _pool(edit, f"{node.name}.mean", "AveragePool", y, attrs)
    y = edit.emit(f"{node.name}.sum", "Mul", (y, number("size", prod(window.kernel))))
    edit.emit(node.name, "Pow", (y, number("root", 1.0 / order)), node.outputs[0])


# --- convolutions ------------------------------------------------------------------------------------------------


def _conv(edit: Editor, name: str, inputs: list[str], attrs: Attrs, out: str) -> None:
    """Conv over one, two or three axes."""
    x, w = inputs[:2]
    n, c, *extents = edit.shape(x)
    maps, per_group, *kernel = edit.shape(w)
    if len(extents) == 3:
        _volume(edit, name, inputs, attrs, out)
        return
    if len(extents) == 1:
        x = edit.emit(f"{name}.rows", "Reshape", (x,), shape=(n, c, 1, *extents))
        w = _weight(edit, name, w, (maps, per_group, 1, *kernel))
        attrs = _with_unit(attrs, 0)
    flat = edit.fresh(f"{name}.wide") if len(extents) == 1 else out
    if int(attrs.get("group", 1)) > 1 and not edit.constant(w):
        _grouped(edit, name, [x, w, *inputs[2:]], attrs, flat)
    else:
        edit.emit(name, "Conv", (x, w, *inputs[2:]), flat, **attrs)
    if flat != out:
        edit.emit(f"{name}.flat", "Reshape", (flat,), out, shape=edit.shape(out))


def _weight(edit: Editor, name: str, w: str, shape: tuple[int, ...], perm: tuple[int, ...] = ()) -> str:
    """A weight permuted and reshaped, at compile time where its values are known."""

    def change(values: Array) -> Array:
        return np.ascontiguousarray(values.transpose(perm) if perm else values).reshape(shape)

    if edit.constant(w):
        return edit.mapped(w, f"as{'x'.join(map(str, shape))}", shape, change)
    w = edit.emit(f"{name}.weight.turn", "Transpose", (w,), perm=perm) if perm else w
    return edit.emit(f"{name}.weight", "Reshape", (w,), shape=shape)


def _slice(edit: Editor, name: str, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
    return edit.emit(name, "Slice", (x,), starts=(start,), ends=(end,), axes=(axis,), steps=(step,))


def _volume(edit: Editor, name: str, inputs: list[str], attrs: Attrs, out: str) -> None:
    """Conv over three axes: planes at the taps along the first one, side by side as channels of a Conv over two."""
    x, w, *bias = inputs
    (n, c, *_), (maps, per_group, *kernel) = edit.shape(x), edit.shape(w)
    _, _, *outputs = edit.shape(out)
    group, depth = int(attrs.get("group", 1)), _axes(attrs, 3, 0, 1)
    step, dilation, pads = (depth.get(k, d) for k, d in (("strides", (1,)), ("dilations", (1,)), ("pads", (0, 0))))
    if any(pads):
        borders = (0, 0, pads[0], 0, 0, 0, 0, pads[1], 0, 0)
        x = edit.emit(f"{name}.pad", "Pad", (x,), pads=borders, mode="constant", value=0.0)
    x = edit.emit(f"{name}.planes", "Transpose", (x,), perm=(0, 2, 1, 3, 4))
    _, planes, _, height, width = edit.shape(x)
    x = edit.emit(f"{name}.groups", "Reshape", (x,), shape=(n, planes, group, c // group, height, width))
    reach = (outputs[0] - 1) * step[0] + 1
    taps = [
        _slice(edit, f"{name}.tap{t}", x, 1, t * dilation[0], t * dilation[0] + reach, step[0])
        for t in range(kernel[0])
    ]
    x = edit.emit(f"{name}.taps", "Concat", taps, axis=3)
    x = edit.emit(f"{name}.images", "Reshape", (x,), shape=(n * outputs[0], kernel[0] * c, height, width))
    w = _weight(edit, name, w, (maps, kernel[0] * per_group, *kernel[1:]), (0, 2, 1, 3, 4))
    y = edit.fresh(f"{name}.image")
    _conv(edit, name, [x, w, *bias], {**_axes(attrs, 3, 1, 3), "group": group}, y)
    y = edit.emit(f"{name}.stack", "Reshape", (y,), shape=(n, outputs[0], maps, outputs[1] * outputs[2]))
    y = edit.emit(f"{name}.turn", "Transpose", (y,), perm=(0, 2, 1, 3))
    edit.emit(f"{name}.volume", "Reshape", (y,), out, shape=(n, maps, *outputs))


def _grouped(edit: Editor, name: str, inputs: list[str], attrs: Attrs, out: str) -> None:
    """Groups with computed weights, which no compiler can pack: one Conv a group."""
    x, w, *bias = inputs
    group = int(attrs["group"])
    depth, maps = edit.shape(x)[1] // group, edit.shape(w)[0] // group
    parts = []
    for g in range(group):
        part = [_slice(edit, f"{name}.x{g}", x, 1, g * depth, (g + 1) * depth)]
        part += [_slice(edit, f"{name}.w{g}", t, 0, g * maps, (g + 1) * maps) for t in (w, *bias) if t]
        parts.append(edit.emit(f"{name}.{g}", "Conv", part, **{**attrs, "group": 1}))
    edit.emit(name, "Concat", parts, out, axis=1)


def _transposed(edit: Editor, name: str, inputs: list[str], attrs: Attrs, out: str) -> None:
    """ConvTranspose as a convolution of the dilated input with flipped weights."""
    x, w = inputs[0], inputs[1]
    rank = len(edit.shape(x)) - 2
    kernel = edit.shape(w)[2:]
    group = int(attrs.get("group", 1))
    strides, dilations = (tuple(attrs.get(label, (1,) * rank)) for label in ("strides", "dilations"))
    pads, extra = tuple(attrs.get("pads", (0,) * 2 * rank)), tuple(attrs.get("output_padding", (0,) * rank))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    begins = [r - p for r, p in zip(reach, pads[:rank])]
    ends = [r - p + e for r, p, e in zip(reach, pads[rank:], extra)]
    if max(strides) > 1:
        x = _dilated(edit, f"{name}.dilate", x, strides)
    cut = [i for i in range(rank) if min(begins[i], ends[i]) < 0]
    if cut:  # padding beyond the kernel's reach takes away from the input
        starts, stops = (tuple(-min(0, side[i]) for i in cut) for side in (begins, ends))
        stops = tuple(edit.shape(x)[i + 2] - s for i, s in zip(cut, stops))
        axes = tuple(i + 2 for i in cut)
        x = edit.emit(f"{name}.cut", "Slice", (x,), starts=starts, ends=stops, axes=axes, steps=(1,) * len(cut))
    window = {"kernel_shape": tuple(kernel), "strides": (1,) * rank, "dilations": dilations, "group": group}
    window["pads"] = tuple(max(0, v) for v in (*begins, *ends))
    _conv(edit, name, [x, _flipped(edit, name, w, group), *inputs[2:]], window, out)


def _dilated(edit: Editor, name: str, x: str, strides: tuple[int, ...]) -> str:
    """Zero insertion; of three axes the first goes first, with the other two as one."""
    n, c, *extents = edit.shape(x)
    if len(extents) == 3:
        flat = edit.emit(f"{name}.depth", "Reshape", (x,), shape=(n, c, extents[0], extents[1] * extents[2]))
        flat = edit.emit(f"{name}.planes", "Dilate", (flat,), strides=(strides[0], 1))
        depth = edit.shape(flat)[2]
        flat = edit.emit(f"{name}.split", "Reshape", (flat,), shape=(n, c * depth, *extents[1:]))
        flat = edit.emit(name, "Dilate", (flat,), strides=strides[1:])
        return edit.emit(f"{name}.volume", "Reshape", (flat,), shape=(n, c, depth, *edit.shape(flat)[2:]))
    return edit.emit(name, "Dilate", (x,), strides=strides)


def _flipped(edit: Editor, name: str, w: str, group: int) -> str:
    """[C, M/g, k...] -> [M, C/g, k...] with the taps in reverse order."""
    depth, maps, *kernel = edit.shape(w)
    rank = len(kernel)
    perm = (0, 2, 1, *range(3, rank + 3))
    axes, shape = tuple(range(2, rank + 2)), (group * maps, depth // group, *kernel)

    def flip(values: Array) -> Array:
        turned = values.reshape(group, depth // group, maps, *kernel).transpose(perm).reshape(shape)
        return np.ascontiguousarray(np.flip(turned, axis=axes))

    if edit.constant(w):
        return edit.mapped(w, "flipped", shape, flip)
    w = edit.emit(f"{name}.groups", "Reshape", (w,), shape=(group, depth // group, maps, *kernel))
    w = edit.emit(f"{name}.swap", "Transpose", (w,), perm=perm)
    w = edit.emit(f"{name}.maps", "Reshape", (w,), shape=shape)
    first, last = tuple(k - 1 for k in kernel), tuple(-k - 1 for k in kernel)
    return edit.emit(f"{name}.flip", "Slice", (w,), starts=first, ends=last, axes=axes, steps=(-1,) * rank)


RULES = dict.fromkeys(("Conv", "ConvTranspose", *_POOLS), _windows)
