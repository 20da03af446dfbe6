"""Rules of `canonical` for windows: one spatial axis becomes two, ConvTranspose becomes Dilate + Conv."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.graph import Array, Node
from compiler.passes.edit import Editor

_SPATIAL = ("kernel_shape", "strides", "dilations", "output_padding")


def _windows(edit: Editor, node: Node) -> bool:
    if node.attrs.get("layout", "NCHW") != "NCHW" or len(node.outputs) > 1:
        return False
    x = edit.current(node.inputs[0])
    flat = len(edit.shape(x)) == 3
    if not flat and node.op != "ConvTranspose":
        return False
    inputs, attrs, out = [x, *map(edit.current, node.inputs[1:])], dict(node.attrs), node.outputs[0]
    if flat:
        n, c, length = edit.shape(x)
        inputs[0] = edit.emit(f"{node.name}.rows", "Reshape", (x,), shape=(n, c, 1, length))
        attrs = _two_axes(attrs)
        if node.op in ("Conv", "ConvTranspose"):
            inputs[1] = _two_axis_weight(edit, node, inputs[1])
        out = edit.fresh(f"{node.name}.wide")
    if node.op != "ConvTranspose" or not _transposed(edit, node.name, inputs, attrs, out):
        edit.emit(node.name, node.op, inputs, out, **attrs)
    if flat:
        edit.emit(f"{node.name}.flat", "Reshape", (out,), node.outputs[0], shape=edit.shape(node.outputs[0]))
    return True


def _two_axes(attrs: dict[str, Any]) -> dict[str, Any]:
    """Window attributes with a unit axis in front of the only spatial one."""
    wide = dict(attrs)
    for label in _SPATIAL:
        if label in wide:
            wide[label] = (0 if label == "output_padding" else 1, *wide[label])
    if "pads" in wide:
        wide["pads"] = (0, wide["pads"][0], 0, wide["pads"][1])
    return wide


def _two_axis_weight(edit: Editor, node: Node, name: str) -> str:
    a, b, k = edit.shape(name)
    if edit.constant(name):
        return edit.mapped(name, "2d", (a, b, 1, k), lambda v: v.reshape(a, b, 1, k))
    return edit.emit(f"{node.name}.weight", "Reshape", (name,), shape=(a, b, 1, k))


def _transposed(edit: Editor, name: str, inputs: list[str], attrs: dict[str, Any], out: str) -> bool:
    """ConvTranspose as a convolution of the dilated input with flipped weights; False where that cannot be."""
    x, w = inputs[0], inputs[1]
    rank = len(edit.shape(x)) - 2
    depth, maps, *kernel = edit.shape(w)
    group = int(attrs.get("group", 1))
    strides, dilations = (tuple(attrs.get(label, (1,) * rank)) for label in ("strides", "dilations"))
    pads, extra = tuple(attrs.get("pads", (0,) * 2 * rank)), tuple(attrs.get("output_padding", (0,) * rank))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    begins = [r - p for r, p in zip(reach, pads[:rank])]
    ends = [r - p + e for r, p, e in zip(reach, pads[rank:], extra)]
    if edit.constant(w) is None or min(begins + ends) < 0:
        return False

    def flip(values: Array) -> Array:
        split = values.reshape(group, depth // group, maps, *kernel)
        turned = np.swapaxes(split, 1, 2).reshape(group * maps, depth // group, *kernel)
        return np.ascontiguousarray(np.flip(turned, axis=tuple(range(2, rank + 2))))

    flipped = edit.mapped(w, "flipped", (group * maps, depth // group, *kernel), flip)
    if max(strides) > 1:
        x = edit.emit(f"{name}.dilate", "Dilate", (x,), strides=strides)
    window = {"kernel_shape": tuple(kernel), "strides": (1,) * rank, "dilations": dilations, "group": group}
    edit.emit(name, "Conv", (x, flipped, *inputs[2:]), out, pads=(*begins, *ends), **window)
    return True


RULES = dict.fromkeys(("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"), _windows)
