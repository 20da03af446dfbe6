"""Rules of `canonical` for LSTM and GRU: one product for the inputs of all steps, then the steps one after another.

The gates of ONNX stand in the order input, output, forget, cell; those of GRU in the order update, reset, hidden.
Sequences of more than MAX_STEPS stay whole.
"""

from __future__ import annotations

import numpy as np

from compiler.graph import Node
from compiler.passes.edit import Editor

MAX_STEPS = 256


def _recurrent(edit: Editor, node: Node) -> bool:
    x, w, r, *rest = (edit.current(n) if n else "" for n in node.inputs)
    bias, _, *states = (*rest, "", "", "", "")[:4]
    (steps, batch, width), (directions, _, hidden) = edit.shape(x), edit.shape(r)
    if steps * directions > MAX_STEPS or not steps:
        return False
    flat = edit.emit(f"{node.name}.rows", "Reshape", (x,), shape=(steps * batch, width))
    outputs, finals = [], []
    for d in range(directions):
        layer = _Layer(edit, f"{node.name}.{d}", d, hidden, batch)
        inputs = edit.emit(f"{layer.name}.inputs", "MatMul", (flat, layer.weight("w", w)), transB=1)
        late = node.op == "GRU" and bool(node.attrs.get("linear_before_reset", 0))
        if bias:
            inputs = edit.emit(f"{layer.name}.biased", "Add", (inputs, layer.bias(bias, late)))
        h, c = (layer.state(label, s) if s else "" for label, s in zip("hc", states))
        recurrent = layer.weight("r", r)
        inner = layer.late_bias(bias) if bias and late else ""
        halves = layer.halves(recurrent) if node.op == "GRU" else ("", "")
        order = range(steps)
        backwards = d == 1 or node.attrs.get("direction", "forward") == "reverse"
        found = {}
        for t in reversed(order) if backwards else order:
            if node.op == "GRU":
                h = layer.gru_step(t, inputs, halves, h, (late, inner))
            else:
                h, c = layer.step(t, inputs, recurrent, h, c)
            found[t] = edit.emit(f"{layer.name}.out{t}", "Reshape", (h,), shape=(1, 1, batch, hidden))
        outputs.append([found[t] for t in order])
        finals.append([edit.emit(f"{layer.name}.last", "Reshape", (s,), shape=(1, batch, hidden)) for s in (h, c) if s])
    rows = [_joined(edit, f"{node.name}.at{t}", parts, 1) for t, parts in enumerate(zip(*outputs))]
    _joined(edit, node.name, rows, 0, node.outputs[0])
    for name, label, parts in zip(node.outputs[1:], ("hidden", "cell"), zip(*finals)):
        if name:
            _joined(edit, f"{node.name}.{label}", parts, 0, name)
    return True


def _joined(edit: Editor, name: str, parts: list[str] | tuple[str, ...], axis: int, output: str = "") -> str:
    if len(parts) == 1:
        return edit.emit(name, "Identity", parts, output) if output else parts[0]
    return edit.emit(name, "Concat", parts, output, axis=axis)


class _Layer:
    """One direction of a layer: its parts of the parameters, and its steps."""

    def __init__(self, edit: Editor, name: str, direction: int, hidden: int, batch: int) -> None:
        self.edit, self.name, self.direction, self.hidden, self.batch = edit, name, direction, hidden, batch

    def cut(self, label: str, source: str, axis: int, start: int, size: int) -> str:
        if self.edit.shape(source)[axis] == size:
            return source
        end = start + size
        name = f"{self.name}.{label}"
        return self.edit.emit(name, "Slice", (source,), starts=(start,), ends=(end,), axes=(axis,), steps=(1,))

    def mine(self, label: str, source: str, shape: tuple[int, ...]) -> str:
        part = self.cut(label, source, 0, self.direction, 1)
        return self.edit.emit(f"{self.name}.{label}.flat", "Reshape", (part,), shape=shape)

    def weight(self, label: str, source: str) -> str:
        return self.mine(label, source, self.edit.shape(source)[1:])

    def state(self, label: str, source: str) -> str:
        return self.mine(label, source, (self.batch, self.hidden))

    def bias(self, source: str, late: bool) -> str:
        """The bias of the inputs and that of the state; the last gate's of a `late` reset stays with the state."""
        edit, size = self.edit, self.edit.shape(source)[1] // 2
        both = self.mine("b", source, (2, size))
        if not late:
            return edit.emit(f"{self.name}.bias", "ReduceSum", (both,), axes=(0,), keepdims=0)
        keep = edit.add_array(f"{self.name}.keep", np.arange(size) < 2 * self.hidden, edit.tensors[source].dtype)
        first, second = (self.cut(f"b{i}", both, 0, i, 1) for i in range(2))
        total = edit.emit(f"{self.name}.bias", "Add", (first, edit.emit(f"{self.name}.early", "Mul", (second, keep))))
        return edit.emit(f"{self.name}.bias.flat", "Reshape", (total,), shape=(size,))

    def late_bias(self, source: str) -> str:
        """The bias of the last gate's state of a GRU."""
        return self.cut("b.inner", self.mine("b", source, (6 * self.hidden,)), 0, 5 * self.hidden, self.hidden)

    def halves(self, recurrent: str) -> tuple[str, str]:
        """The state's weights of update and reset, and those of the hidden gate."""
        size = self.hidden
        return self.cut("r.gates", recurrent, 0, 0, 2 * size), self.cut("r.hidden", recurrent, 0, 2 * size, size)

    def gru_step(self, t: int, inputs: str, weights: tuple[str, str], h: str, reset: tuple[bool, str]) -> str:
        """State after step t; `reset`: whether it comes after the state's product, and the bias of that."""
        edit, size, name = self.edit, self.hidden, f"{self.name}.step{t}"
        given = self.cut(f"step{t}.inputs", inputs, 0, t * self.batch, self.batch)
        gates = self.cut(f"step{t}.zr", given, 1, 0, 2 * size)
        new = self.cut(f"step{t}.n", given, 1, 2 * size, size)
        if h:
            product = edit.emit(f"{name}.recurrent", "MatMul", (h, weights[0]), transB=1)
            gates = edit.emit(f"{name}.gates", "Add", (product, gates))
        gates = edit.emit(f"{name}.open", "Sigmoid", (gates,))
        update, shut = (self.cut(f"step{t}.{k}", gates, 1, i * size, size) for i, k in enumerate("zr"))
        inner = self._inner(name, weights[1], h, shut, reset)
        new = edit.emit(f"{name}.new", "Tanh", (edit.emit(f"{name}.sum", "Add", (new, inner)) if inner else new,))
        fresh = edit.emit(f"{name}.fresh", "Sub", (new, edit.emit(f"{name}.old", "Mul", (update, new))))
        return edit.emit(name, "Add", (fresh, edit.emit(f"{name}.kept", "Mul", (update, h)))) if h else fresh

    def _inner(self, name: str, weight: str, h: str, shut: str, reset: tuple[bool, str]) -> str:
        """What the state gives to the hidden gate; '' for nothing."""
        edit, (late, bias) = self.edit, reset
        if not late:
            open_ = edit.emit(f"{name}.reset", "Mul", (shut, h)) if h else ""
            return edit.emit(f"{name}.inner", "MatMul", (open_, weight), transB=1) if h else ""
        inner = edit.emit(f"{name}.inner", "MatMul", (h, weight), transB=1) if h else bias
        if h and bias:
            inner = edit.emit(f"{name}.inner.biased", "Add", (inner, bias))
        return edit.emit(f"{name}.reset", "Mul", (shut, inner)) if inner else ""

    def step(self, t: int, inputs: str, recurrent: str, h: str, c: str) -> tuple[str, str]:
        """Hidden and cell state after step t; empty names stand for zeros."""
        edit, size, name = self.edit, self.hidden, f"{self.name}.step{t}"
        gates = self.cut(f"step{t}.inputs", inputs, 0, t * self.batch, self.batch)
        if h:
            product = edit.emit(f"{name}.recurrent", "MatMul", (h, recurrent), transB=1)
            gates = edit.emit(f"{name}.gates", "Add", (product, gates))
        open_ = edit.emit(f"{name}.open", "Sigmoid", (self.cut(f"step{t}.iof", gates, 1, 0, 3 * size),))
        new = edit.emit(f"{name}.new", "Tanh", (self.cut(f"step{t}.c", gates, 1, 3 * size, size),))
        i, o, f = (self.cut(f"step{t}.{k}", open_, 1, j * size, size) for j, k in enumerate("iof"))
        cell = edit.emit(f"{name}.in", "Mul", (i, new))
        if c:
            cell = edit.emit(f"{name}.cell", "Add", (edit.emit(f"{name}.kept", "Mul", (f, c)), cell))
        return edit.emit(name, "Mul", (o, edit.emit(f"{name}.tanh", "Tanh", (cell,)))), cell


RULES = dict.fromkeys(("LSTM", "GRU"), _recurrent)
