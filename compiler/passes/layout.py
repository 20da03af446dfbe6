"""NCHW to NHWC: convolutions and pools read channel-last tensors, and so does everything between them.

Valid in: canonical graphs. Valid out: Conv, ConvTranspose, pools and Dilate carry
layout='NHWC', Conv weights are [k..., C/g, M] (constant ones permuted at compile time); graph inputs and outputs keep
their layout, so Transposes stand only where a channel-last tensor meets the outside or an operator that cannot take
it.

Each tensor may exist in either layout; a Transpose is made when a reader first needs the one that is missing. Nothing
is inserted that would have to be cancelled, and Transposes that the model brought itself vanish into views.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from compiler.graph import Graph, Node
from compiler.ops import op_def
from compiler.passes.edit import Editor

_WEIGHTED = ("Conv", "ConvTranspose")
_WINDOWS = ("MaxPool", "AveragePool", "LpPool", "Dilate")


def run(graph: Graph) -> Graph:
    """Lay every spatial operator out channel-last; operators already channel-last are left alone."""
    layout = _Layout(Editor(graph))
    for node in graph.nodes:
        layout.place(node)
    for name in graph.outputs:
        layout.first(name)
    return layout.edit.finish()


def to_last(rank: int) -> tuple[int, ...]:
    """Permutation from [N, C, ...] to [N, ..., C]."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """Permutation from [N, ..., C] to [N, C, ...]."""
    return (0, rank - 1, *range(1, rank - 1))


class _Layout:
    """`_last` holds, for tensors of the old graph, their channel-last version; `_first` those that exist unchanged."""

    def __init__(self, edit: Editor) -> None:
        self.edit = edit
        self.old = edit.graph
        self._last: dict[str, str] = {}
        self._first = {*edit.graph.inputs, *edit.graph.constants}

    def place(self, node: Node) -> None:
        if self._makes_channels_first(node):
            return
        if node.attrs.get("layout", "NCHW") != "NCHW" or not self._channel_last(node):
            for name in node.inputs:
                if name:
                    self.first(name)
            self.edit.keep(node)
            self._first.update(n for n in node.outputs if n)

    def _makes_channels_first(self, node: Node) -> bool:
        """The model's own NHWC to NCHW: its operand is the channel-last version; the Transpose waits for a reader."""
        perm = tuple(node.attrs.get("perm", ()))
        if node.op != "Transpose" or len(perm) < 4 or perm != to_first(len(perm)):
            return False
        self._last[node.outputs[0]] = self.first(node.inputs[0])
        return True

    def first(self, name: str) -> str:
        """The channels-first version, made if it does not exist."""
        if name not in self._first:
            perm = to_first(len(self.old.tensors[name].shape))
            self.edit.emit(f"{name}.to_nchw", "Transpose", (self._last[name],), name, perm=perm)
            self._first.add(name)
        return self.edit.current(name)

    def last(self, name: str) -> str:
        """The channel-last version, made if it does not exist."""
        if name in self._last:
            return self.edit.current(self._last[name])
        perm = to_last(len(self.old.tensors[name].shape))
        if self.edit.constant(name):
            shape = tuple(self.edit.shape(name)[i] for i in perm)
            found = self.edit.mapped(name, "nhwc", shape, lambda v: np.ascontiguousarray(v.transpose(perm)))
        else:
            found = self.edit.emit(f"{name}.to_nhwc", "Transpose", (name,), f"{name}.nhwc", perm=perm)
        self._last[name] = found
        return found

    # --- operators -------------------------------------------------------------------------------------------------

    def _channel_last(self, node: Node) -> bool:
        """Emit the node channel-last; False where it must be channels-first."""
        if node.op in _WEIGHTED or node.op in _WINDOWS:
            return self._spatial(node)
        if not any(name in self._last and name not in self._first for name in node.inputs):
            return False  # nothing is gained
        rule = _RULES.get(node.op)
        if rule is None and op_def(node.op).op_class == "elementwise":
            rule = _Layout._elementwise
        return rule is not None and rule(self, node)

    def _emit(self, node: Node, inputs: list[str], **changes: object) -> bool:
        """Emit the channel-last form of a node with one output."""
        out = node.outputs[0]
        attrs = {**node.attrs, **changes}
        self._last[out] = self.edit.emit(node.name, node.op, inputs, f"{out}.nhwc", **attrs)
        return True

    def _spatial(self, node: Node) -> bool:
        if len(node.outputs) > 1:
            return False
        inputs = [self.last(node.inputs[0]), *(self.first(n) if n else "" for n in node.inputs[1:])]
        if node.op in _WEIGHTED:
            inputs[1] = self._weight(node, inputs[1])
        return self._emit(node, inputs, layout="NHWC")

    def _weight(self, node: Node, name: str) -> str:
        """[M, C/g, k...] -> [k..., C/g, M]; ConvTranspose [C, M/g, k...] -> [k..., C, M/g]."""
        rank = len(self.edit.shape(name))
        perm = (*range(2, rank), 1, 0) if node.op == "Conv" else (*range(2, rank), 0, 1)
        if not self.edit.constant(name):
            return self.edit.emit(f"{name}.to_last", "Transpose", (name,), perm=perm)
        shape = tuple(self.edit.shape(name)[i] for i in perm)
        return self.edit.mapped(name, "last", shape, lambda v: np.ascontiguousarray(v.transpose(perm)))

    def _elementwise(self, node: Node) -> bool:
        rank = len(self.old.tensors[node.outputs[0]].shape)
        if any(n in self._last and len(self.old.tensors[n].shape) != rank for n in node.inputs):
            return False
        return self._emit(node, [self._operand(n, rank) if n else "" for n in node.inputs])

    def _operand(self, name: str, rank: int) -> str:
        """An operand of lower rank broadcasts from the right: give it unit axes, then turn it."""
        shape = self.old.tensors[name].shape
        if len(shape) == rank:
            return self.last(name)
        if prod(shape) == 1 and not shape:
            return self.first(name)
        wide, perm = (1,) * (rank - len(shape)) + shape, to_last(rank)
        turned = tuple(wide[i] for i in perm)
        if self.edit.constant(name):
            return self.edit.mapped(
                name, "nhwc", turned, lambda v: np.ascontiguousarray(v.reshape(wide).transpose(perm))
            )
        spread = self.edit.emit(f"{name}.wide", "Reshape", (self.first(name),), shape=wide)
        return self.edit.emit(f"{name}.wide.to_nhwc", "Transpose", (spread,), perm=perm)

    def _quantise(self, node: Node) -> bool:
        return not node.attrs.get("block_size", 0) and self._elementwise(node)

    def _batch_norm(self, node: Node) -> bool:
        return self._emit(node, [self.last(node.inputs[0]), *map(self.first, node.inputs[1:])], layout="NHWC")

    def _axis(self, node: Node) -> bool:
        """Concat, Softmax, LogSoftmax: one axis, every operand of one rank."""
        rank = len(self.old.tensors[node.outputs[0]].shape)
        default = 0 if node.op == "Concat" else -1
        place = to_last(rank).index(int(node.attrs.get("axis", default)) % rank)
        if node.op != "Concat" and place != rank - 1:
            return False  # kernels take the last axis only
        return self._emit(node, [self.last(n) for n in node.inputs], axis=place)

    def _slice(self, node: Node) -> bool:
        rank = len(self.old.tensors[node.inputs[0]].shape)
        axes = tuple(node.attrs.get("axes", range(len(node.attrs["starts"]))))
        return self._emit(node, [self.last(node.inputs[0])], axes=tuple(to_last(rank).index(a % rank) for a in axes))

    def _pad(self, node: Node) -> bool:
        rank = len(self.old.tensors[node.inputs[0]].shape)
        pads, perm = node.attrs["pads"], to_last(rank)
        return self._emit(
            node, [self.last(node.inputs[0])], pads=(*(pads[i] for i in perm), *(pads[rank + i] for i in perm))
        )

    def _reduce(self, node: Node) -> bool:
        rank, out = len(self.old.tensors[node.inputs[0]].shape), node.outputs[0]
        axes = {int(a) % rank for a in node.attrs.get("axes", range(rank))}
        places = tuple(sorted(to_last(rank).index(a) for a in axes))
        if node.attrs.get("keepdims", 1):
            return self._emit(node, [self.last(node.inputs[0])], axes=places, keepdims=1)
        kept = [i for i in to_last(rank) if i not in axes]
        if kept != sorted(kept):
            return False
        self.edit.emit(node.name, node.op, [self.last(node.inputs[0])], out, axes=places, keepdims=0)
        self._first.add(out)
        return True

    def _resize(self, node: Node) -> bool:
        rank = len(self.old.tensors[node.inputs[0]].shape)
        perm = to_last(rank)
        changes = {k: tuple(node.attrs[k][i] for i in perm) for k in ("sizes", "scales") if node.attrs.get(k)}
        if node.attrs.get("roi"):
            changes["roi"] = tuple(node.attrs["roi"][i + side] for side in (0, rank) for i in perm)
        return self._emit(node, [self.last(node.inputs[0])], **changes)

    def _reshape(self, node: Node) -> bool:
        """Views that a channel-last tensor can take: spatial axes joined or split, or no spatial extent at all."""
        shape, out = self.old.tensors[node.inputs[0]].shape, node.outputs[0]
        target = self.old.tensors[out].shape
        x = self.last(node.inputs[0])
        if len(target) >= 3 and target[:2] == shape[:2]:
            turned = tuple(target[i] for i in to_last(len(target)))
            self._last[out] = self.edit.emit(node.name, "Reshape", (x,), f"{out}.nhwc", shape=turned)
            return True
        if shape[1] == 1 or prod(shape[2:]) == 1:  # both layouts hold the same sequence of elements
            self.edit.emit(node.name, "Reshape", (x,), out, shape=target)
            self._first.add(out)
            return True
        return False

    def _transpose(self, node: Node) -> bool:
        """The model's own Transpose of a channel-last tensor: one permutation of what is stored, or none."""
        rank, out = len(self.old.tensors[node.inputs[0]].shape), node.outputs[0]
        default = tuple(range(rank - 1, -1, -1))
        perm = tuple(to_last(rank).index(int(p)) for p in node.attrs.get("perm", default))
        x = self.last(node.inputs[0])
        if perm == tuple(range(rank)):
            self.edit.replace(out, x)
        else:
            self.edit.emit(node.name, "Transpose", (x,), out, perm=perm)
        self._first.add(out)
        return True


_Rule = Callable[[_Layout, Node], bool]
_RULES: dict[str, _Rule] = {
    "BatchNormalization": _Layout._batch_norm,
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _Layout._quantise),
    **dict.fromkeys(("Concat", "Softmax", "LogSoftmax"), _Layout._axis),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
        _Layout._reduce,
    ),
    "Slice": _Layout._slice,
    "Pad": _Layout._pad,
    "Resize": _Layout._resize,
    "Reshape": _Layout._reshape,
    "Transpose": _Layout._transpose,
}
