"""Recurrent layers as single opaque operators: LSTM and GRU, layout 0 (time, batch, feature), default activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import Types, Values, Work, computed, fail, optional, register, want

_GATES = {"LSTM": 4, "GRU": 3}


def _geometry(node: Node, types: Types) -> tuple[int, int, int, int]:
    """Return (time steps, batch, directions, hidden size) and check the weights."""
    x, w, r = (want(node, types, i) for i in range(3))
    hidden, gates = int(node.attrs.get("hidden_size", r.shape[-1] if r.shape else 0)), _GATES[node.op]
    directions = 2 if node.attrs.get("direction", "forward") == "bidirectional" else 1
    if len(x.shape) != 3 or w.shape != (directions, gates * hidden, x.shape[-1]):
        raise fail(node, f"input {list(x.shape)} and W {list(w.shape)} do not fit hidden_size {hidden}")
    if r.shape != (directions, gates * hidden, hidden):
        raise fail(node, f"R {list(r.shape)} must be [{directions}, {gates * hidden}, {hidden}]")
    for name in ("activations", "clip", "layout", "input_forget"):
        if node.attrs.get(name):
            raise fail(node, f"attribute {name} = {node.attrs[name]!r} is not supported; use the default")
    if optional(types, 4) is not None or optional(types, 7) is not None:
        raise fail(node, "sequence_lens and peepholes are not supported; export without them")
    for index in (5, 6):
        state = optional(types, index)
        if state is not None and state.shape != (directions, x.shape[1], hidden):
            raise fail(node, f"input {index} {list(state.shape)} must be [{directions}, {x.shape[1]}, {hidden}]")
    return x.shape[0], x.shape[1], directions, hidden


def _infer(node: Node, types: Types, values: Values) -> list[TensorType]:
    steps, batch, directions, hidden = _geometry(node, types)
    dtype = want(node, types, 0).dtype
    last = TensorType((directions, batch, hidden), dtype)
    return [TensorType((steps, directions, batch, hidden), dtype), last, last][: max(1, len(node.outputs))]


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1.0)).astype(x.dtype)


def _lstm_step(gates: Array, state: list[Array]) -> list[Array]:
    i, o, f, c = np.split(gates, 4, axis=-1)
    cell = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(c)
    return [_sigmoid(o) * np.tanh(cell), cell]


def _gru_step(given_x: Array, r: Array, bias: Array, hidden: Array, linear_before_reset: bool) -> Array:
    size = hidden.shape[-1]
    recurrent = hidden @ r[: 2 * size].T + bias[: 2 * size]
    update, reset = np.split(_sigmoid(given_x[..., : 2 * size] + recurrent), 2, axis=-1)
    if linear_before_reset:
        inner = reset * (hidden @ r[2 * size :].T + bias[2 * size :])
    else:
        inner = (reset * hidden) @ r[2 * size :].T + bias[2 * size :]
    candidate = np.tanh(given_x[..., 2 * size :] + inner)
    return np.asarray((1 - update) * candidate + update * hidden)


def _evaluate(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    x, w, r, bias = operands[0], operands[1], operands[2], optional(operands, 3)
    types = [None if v is None else TensorType(tuple(v.shape), "fp32") for v in operands]
    steps, batch, directions, hidden = _geometry(node, types)
    size = _GATES[node.op] * hidden
    bias = np.zeros((directions, 2 * size), x.dtype) if bias is None else bias
    outputs = np.zeros((steps, directions, batch, hidden), x.dtype)
    finals = np.zeros((2, directions, batch, hidden), x.dtype)
    for d in range(directions):
        backwards = d == 1 or node.attrs.get("direction", "forward") == "reverse"
        state = [
            np.zeros((batch, hidden), x.dtype) if v is None else v[d]
            for v in (optional(operands, 5), optional(operands, 6))
        ]
        projected = x @ w[d].T + bias[d, :size]
        for t in reversed(range(steps)) if backwards else range(steps):
            if node.op == "LSTM":
                state = _lstm_step(projected[t] + state[0] @ r[d].T + bias[d, size:], state)
            else:
                reset_late = bool(node.attrs.get("linear_before_reset", 0))
                state[0] = _gru_step(projected[t], r[d], bias[d, size:], state[0], reset_late)
            outputs[t, d] = state[0]
        finals[0, d], finals[1, d] = state
    return [outputs, finals[0], finals[1]][: max(1, len(node.outputs))]


def _work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    steps, batch, directions, hidden = _geometry(node, inputs)
    width = want(node, inputs, 0).shape[-1] + hidden
    cells = steps * batch * directions * hidden
    macs = cells * _GATES[node.op] * width
    return Work(macs, 2 * macs + cells * (_GATES[node.op] * 6 + 6))


register("LSTM", "opaque", _infer, _evaluate, _work)
register("GRU", "opaque", _infer, _evaluate, _work)
