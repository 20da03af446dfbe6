"""Channels-last to NC1HWC0: on machines with fractal layouts, convolutions and what lies between them stay in blocks.

Valid in: channels-last graphs, as `compiler.passes.layout` leaves them. Valid out: 2-D Convs with constant weights
carry layout='NC1HWC0'; graph inputs and outputs keep their layout. Weights stay as they are: the compiler stores them
in fractal order when it knows their tiles.

Each tensor may exist in either layout. A TransData is made when a reader first needs the one that is missing, so none
is ever undone by the next one; it takes the place of a Transpose where that is all it would convert. Where both layouts
hold the same sequence of elements, a Reshape renames it. Channels that only fill a block are zero: an operator that
would make something else of zeros is left channels-last.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from compiler import layouts
from compiler.graph import Array, Graph, Node
from compiler.ops import op_def
from compiler.passes.edit import Editor
from compiler.passes.layout import to_first, to_last

BLOCKED = "NC1HWC0"
_RANK = 4  # of a feature map with channels last
_WINDOWS = ("MaxPool", "AveragePool", "LpPool", "Dilate")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
               "ReduceSumSquare")  # fmt: skip
_BY_CHANNEL = ("BatchNormalization", "QuantizeLinear", "DequantizeLinear")  # have vectors of their own


def run(graph: Graph, c0: int, least: int = 1) -> Graph:
    """Lay convolutions out in blocks of `c0` channels; those of fewer than `least` read them last."""
    layout = _Layout(Editor(graph), c0, least)
    for node in graph.nodes:
        layout.place(node)
    for name in graph.outputs:
        layout.plain(name)
    return layout.edit.finish()


class _Layout:
    """`_blocked` holds, for tensors of the old graph, their version in blocks; `_plain` those that exist unchanged."""

    def __init__(self, edit: Editor, c0: int, least: int) -> None:
        self.edit, self.c0, self.least = edit, c0, least
        self.old = edit.graph
        self.made = edit.graph.producers()
        self._blocked: dict[str, str] = {}
        self._plain = {*edit.graph.inputs, *edit.graph.constants}

    def place(self, node: Node) -> None:
        """Emit a node in blocks where that is possible and gains something, else as it is."""
        rule = _RULES.get(node.op)
        if rule is None and op_def(node.op).op_class == "elementwise" and node.op not in _BY_CHANNEL:
            rule = _Layout._elementwise
        held = any(n in self._blocked and n not in self._plain for n in node.inputs)
        if (held or node.op == "Conv") and len(node.outputs) == 1 and rule is not None and rule(self, node):
            return
        for name in node.inputs:
            if name:
                self.plain(name)
        self.edit.keep(node)
        self._plain.update(n for n in node.outputs if n)

    # --- versions of a tensor --------------------------------------------------------------------------------------

    def plain(self, name: str) -> str:
        """The channels-last version, made if it does not exist."""
        if name not in self._plain:
            shape, x = self.shape(name), self._blocked[name]
            if self._same_sequence(shape):
                self.edit.emit(f"{name}.to_nhwc", "Reshape", (x,), name, shape=shape)
            else:
                self._convert(f"{name}.to_nhwc", x, name, BLOCKED, "NHWC", shape[-1])
            self._plain.add(name)
        return self.edit.current(name)

    def blocked(self, name: str) -> str:
        """The version in blocks, made if it does not exist; constants are converted by the compiler."""
        if name in self._blocked:
            return self.edit.current(self._blocked[name])
        shape, block = self.shape(name), layouts.Fractal(self.c0)
        stored = layouts.stored_shape(BLOCKED, shape, block)
        turn = self.made.get(name)
        if self.edit.constant(name):
            found = self.edit.mapped(name, "blocks", stored, lambda v: layouts.store(BLOCKED, v, block))
        elif self._same_sequence(shape):
            found = self.edit.emit(f"{name}.to_blocks", "Reshape", (self.plain(name),), shape=stored)
        elif turn is not None and turn.op == "Transpose" and tuple(turn.attrs.get("perm", ())) == to_last(_RANK):
            found = self._convert(f"{name}.to_blocks", self.plain(turn.inputs[0]), "", "NCHW", BLOCKED, shape[-1])
        else:
            found = self._convert(f"{name}.to_blocks", self.plain(name), "", "NHWC", BLOCKED, shape[-1])
        self._blocked[name] = found
        return found

    def _convert(self, name: str, x: str, out: str, src: str, dst: str, channels: int) -> str:
        return self.edit.emit(name, "TransData", (x,), out, src=src, dst=dst, channels=channels, c0=self.c0)

    def _same_sequence(self, shape: tuple[int, ...]) -> bool:
        """True when blocks hold the elements in the order in which channels-last does."""
        return self._whole(shape) and (shape[-1] == self.c0 or shape[1] * shape[2] == 1)

    def _whole(self, shape: tuple[int, ...]) -> bool:
        """True when channels fill their blocks."""
        return shape[-1] % self.c0 == 0

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of the old graph."""
        return self.old.tensors[name].shape

    # --- operators -------------------------------------------------------------------------------------------------

    def _emit(self, node: Node, inputs: list[str], **changes: object) -> bool:
        out = node.outputs[0]
        self._blocked[out] = self.edit.emit(node.name, node.op, inputs, f"{out}.blocks", **{**node.attrs, **changes})
        return True

    def _conv(self, node: Node) -> bool:
        x, w = node.inputs[:2]
        if node.attrs.get("layout") != "NHWC" or len(self.shape(x)) != _RANK or not self.edit.constant(w):
            return False
        groups = int(node.attrs.get("group", 1))
        _, _, per_group, filters = self.shape(w)
        if groups > 1 and not layouts.merged_groups(groups, per_group, filters // groups, self.c0):
            return False
        take = self.plain if groups == 1 and per_group < self.least and x not in self._blocked else self.blocked
        inputs = [take(x), *(n and self.plain(n) for n in node.inputs[1:])]
        return self._emit(node, inputs, layout=BLOCKED, c0=self.c0)

    def _elementwise(self, node: Node) -> bool:
        """Operands are maps, vectors along the channels, or the same for all channels."""
        shape = self.shape(node.outputs[0])
        if len(shape) != _RANK or not (self._whole(shape) or self._keeps_zeros(node)):
            return False
        if any(n and self._place_of(n, shape) is None for n in node.inputs):
            return False
        makers = [self._place_of(n, shape) if n else None for n in node.inputs]
        return self._emit(node, [make() if make else "" for make in makers])

    def _place_of(self, name: str, shape: tuple[int, ...]) -> Callable[[], str] | None:
        """What makes an operand of the operator's blocks; None when it has no place there."""
        own = self.shape(name)
        wide = (1,) * (_RANK - len(own)) + own
        if not own or set(own) == {1}:
            return lambda: self.plain(name)
        if len(own) == _RANK and own[-1] == shape[-1]:
            return lambda: self.blocked(name)
        if not self.edit.constant(name):
            return None
        if wide[-1] == 1:
            turned = (wide[0], 1, wide[1], wide[2], 1)
            return lambda: self.edit.mapped(name, "spread", turned, lambda v: v.reshape(turned))
        block = layouts.Fractal(self.c0)
        stored = layouts.stored_shape(BLOCKED, wide, block)
        turn = partial(_turned, wide, block)
        return lambda: self.edit.mapped(name, "blocks", stored, turn)

    def _keeps_zeros(self, node: Node) -> bool:
        """True when zeros in all operands but one-element constants give zero."""
        values = []
        for name in node.inputs:
            constant = self.edit.constant(name) if name else None
            single = constant is not None and constant.type.elements == 1
            if constant is not None and single and constant.stripped:
                return False
            known = constant is not None and single
            values.append(None if not name else np.asarray(constant.value()).reshape(()) if known and constant
                          else np.zeros((), np.float32))  # fmt: skip
        with np.errstate(all="ignore"):
            return not np.any(op_def(node.op).evaluate(node, values)[0])

    def _planes(self, node: Node, **changes: object) -> bool:
        """What works on each channel's plane alone sees the blocks as images with C0 channels last."""
        x = self.blocked(node.inputs[0])
        n, c1, h, w, c0 = self.edit.shape(x)
        view = self.edit.emit(f"{node.name}.planes", "Reshape", (x,), shape=(n * c1, h, w, c0))
        made = self.edit.emit(node.name, node.op, (view,), **{**node.attrs, **changes})
        _, h, w, _ = self.edit.shape(made)
        out = node.outputs[0]
        self._blocked[out] = self.edit.emit(f"{node.name}.blocks", "Reshape", (made,), f"{out}.blocks",
                                            shape=(n, c1, h, w, c0))  # fmt: skip
        return True

    def _window(self, node: Node) -> bool:
        return node.attrs.get("layout") == "NHWC" and len(self.shape(node.inputs[0])) == _RANK and self._planes(node)

    def _reduce(self, node: Node) -> bool:
        """Means and the like over pixels; a result without its pixels is one without blocks, if they are full."""
        shape, out = self.shape(node.inputs[0]), node.outputs[0]
        axes = {int(a) % _RANK for a in node.attrs.get("axes", range(_RANK))}
        keeps = bool(node.attrs.get("keepdims", 1))
        if len(shape) != _RANK or not axes or axes - {1, 2} or not (keeps or (axes == {1, 2} and self._whole(shape))):
            return False
        self._planes(node, keepdims=1)
        if not keeps:
            self.edit.emit(f"{node.name}.joined", "Reshape", (self._blocked.pop(out),), out, shape=self.shape(out))
            self._plain.add(out)
        return True

    def _pad(self, node: Node) -> bool:
        shape, pads = self.shape(node.inputs[0]), node.attrs["pads"]
        constant = node.attrs.get("mode", "constant") == "constant" and node.attrs.get("value", 0.0) != 0.0
        if len(shape) != _RANK or any(pads[i] for i in (0, 3, 4, 7)) or (constant and not self._whole(shape)):
            return False
        return self._planes(node)

    def _concat(self, node: Node) -> bool:
        """Along channels in full blocks (the last input's may have gaps), or along anything else."""
        axis = int(node.attrs.get("axis", 0)) % _RANK
        shapes = [self.shape(n) for n in node.inputs]
        if any(len(s) != _RANK for s in shapes) or (axis == _RANK - 1 and not all(map(self._whole, shapes[:-1]))):
            return False
        return self._emit(node, [self.blocked(n) for n in node.inputs], axis=(0, 2, 3, 1)[axis])

    def _transpose(self, node: Node) -> bool:
        """Back to channels first at once."""
        x, out = node.inputs[0], node.outputs[0]
        shape = self.shape(x)
        if len(shape) != _RANK or tuple(node.attrs.get("perm", ())) != to_first(_RANK) or self._same_sequence(shape):
            return False
        self._convert(node.name, self._blocked[x], out, BLOCKED, "NCHW", shape[-1])
        self._plain.add(out)
        return True


def _turned(shape: tuple[int, ...], block: layouts.Fractal, values: Array) -> Array:
    return layouts.store(BLOCKED, values.reshape(shape), block)


_Rule = Callable[[_Layout, Node], bool]
_RULES: dict[str, _Rule] = {
    "Conv": _Layout._conv,
    **dict.fromkeys(_WINDOWS, _Layout._window),
    **dict.fromkeys(_REDUCTIONS, _Layout._reduce),
    "Pad": _Layout._pad,
    "Concat": _Layout._concat,
    "Transpose": _Layout._transpose,
}
