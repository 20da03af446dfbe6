"""QuantizeLinear and DequantizeLinear: scales and zero points of channels or blocks get a shape that broadcasts.

A vector along an axis becomes [.., c, .., 1]; blocks split their axis in two. What is per tensor stays as it is, and so
do blocks that do not divide their axis.
"""

from __future__ import annotations

from compiler.graph import Node
from compiler.passes.edit import Editor


def _quantise(edit: Editor, node: Node) -> bool:
    x, *parameters = (edit.current(n) for n in node.inputs)
    shape, block = edit.shape(x), int(node.attrs.get("block_size", 0))
    if edit.tensors[parameters[0]].elements == 1 or (len(edit.shape(parameters[0])) == len(shape) != 1 and not block):
        return False
    axis = int(node.attrs.get("axis", 1)) % len(shape)
    attrs = {k: v for k, v in node.attrs.items() if k not in ("axis", "block_size")}
    if not block:
        spread = tuple(e if i == axis else 1 for i, e in enumerate(shape))
        turned = [_shaped(edit, n, spread) if n else "" for n in parameters]
        edit.emit(node.name, node.op, (x, *turned), node.outputs[0], **attrs)
        return True
    if shape[axis] % block:
        return False
    split = (*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])
    spread = (*split[: axis + 1], 1, *split[axis + 2 :])
    turned = [_shaped(edit, n, spread) if n else "" for n in parameters]
    y = edit.emit(f"{node.name}.blocks", "Reshape", (x,), shape=split)
    y = edit.emit(node.name, node.op, (y, *turned), **attrs)
    edit.emit(f"{node.name}.whole", "Reshape", (y,), node.outputs[0], shape=shape)
    return True


def _shaped(edit: Editor, name: str, shape: tuple[int, ...]) -> str:
    """A parameter with another shape."""
    if edit.constant(name):
        return edit.mapped(name, "spread", shape, lambda v: v.reshape(shape))
    return edit.emit(f"{name}.spread", "Reshape", (name,), shape=shape)


RULES = dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantise)
