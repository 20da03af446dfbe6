"""Operators on positions and sums of products, through a program on a TPU v3 and in the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from node_models import program_faults

from compiler.graph import Constant, Graph, Node, TensorType
from compiler.ops import op_def, run_graph

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)


def ran(op: str, feeds: dict[str, Array], kinds: dict[str, str], **attrs: Any) -> Array:
    """The reference's result, after the program has been found to give the same."""
    types = {k: TensorType(v.shape, kinds.get(k, "fp32")) for k, v in feeds.items()}
    node = Node("n", op, tuple(feeds), ("y",), attrs)
    types["y"] = op_def(op).infer(node, list(types.values()), [None] * len(feeds))[0]
    graph = Graph("g", (node,), tuple(feeds), ("y",), types)
    assert program_faults(graph, feeds, "tpu-v3") == ""
    return run_graph(graph, feeds)["y"]


@pytest.mark.parametrize("shape", [(700,), (3, 5), (2, 300, 9), (2, 3, 4, 130)])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("last", [0, 1])
def test_extreme_index(shape: tuple[int, ...], axis: int, last: int) -> None:
    x = RNG.integers(-9, 9, shape).astype(np.float32)  # many equal ones
    found = ran("ArgMax", {"x": x}, {}, axis=axis, keepdims=0, select_last_index=last)
    flipped = x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis)
    assert (found == (flipped if last else np.argmax(x, axis))).all()


@pytest.mark.parametrize("kind", ["fp32", "int32", "int64"])
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_running_sum(kind: str, exclusive: int, reverse: int) -> None:
    x = RNG.integers(-9, 9, (3, 37, 5)).astype({"fp32": np.float32}.get(kind, kind))
    found = ran("CumSum", {"x": x}, {"x": kind}, axis=1, exclusive=exclusive, reverse=reverse)
    turned = np.flip(x, 1) if reverse else x
    wanted = np.cumsum(turned, 1) - turned * exclusive
    assert (found == (np.flip(wanted, 1) if reverse else wanted)).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_elements(axis: int) -> None:
    x = RNG.integers(-99, 99, (4, 7, 6)).astype(np.float32)
    index = RNG.integers(-x.shape[axis], x.shape[axis], (3, 5, 4))
    found = ran("GatherElements", {"x": x, "i": index}, {"i": "int64"}, axis=axis)
    part = x[tuple(slice(None) if i == axis else slice(e) for i, e in enumerate(index.shape))]
    assert (found == np.take_along_axis(part, index, axis)).all()


@pytest.mark.parametrize(("depth", "batch"), [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)])
def test_gather_nd(depth: int, batch: int) -> None:
    x = RNG.integers(-99, 99, (3, 4, 5)).astype(np.float32)
    lead = x.shape[:batch]
    index = np.stack([RNG.integers(-x.shape[batch + j], x.shape[batch + j], (*lead, 6)) for j in range(depth)], -1)
    found = ran("GatherND", {"x": x, "i": index}, {"i": "int64"}, batch_dims=batch)
    places = [np.arange(e).reshape((1,) * i + (-1,) + (1,) * (batch - i)) for i, e in enumerate(lead)]
    assert (found == x[(*places, *np.moveaxis(index, -1, 0))]).all()


@pytest.mark.parametrize("equation", ["ab,bc,cd->ad", "ab,cb,b->", "abc,ad,d,cb->dc", "abc->c", "abc->cab", "ab,c->b"])
def test_einsum_of_any_number(equation: str) -> None:
    extents = dict(zip("abcd", (3, 5, 4, 6)))
    terms = equation.split("->")[0].split(",")
    feeds = {f"x{i}": RNG.standard_normal([extents[c] for c in t]).astype(np.float32) for i, t in enumerate(terms)}
    assert np.allclose(ran("Einsum", feeds, {}, equation=equation), np.einsum(equation, *feeds.values()), atol=1e-4)


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_gru(late: int, bias: bool, state: bool, direction: str) -> None:
    steps, batch, width, hidden, count = 3, 2, 5, 4, 1 + (direction == "bidirectional")
    extents = {"x": (steps, batch, width), "w": (count, 3 * hidden, width), "r": (count, 3 * hidden, hidden)}
    extents |= {"b": (count, 6 * hidden)} if bias else {}
    extents |= {"h": (count, batch, hidden)} if state else {}
    feeds = {k: RNG.standard_normal(v).astype(np.float32) for k, v in extents.items()}
    names = ("x", "w", "r", "b" if bias else "", "", *(["h"] * state))
    kinds = {k: TensorType(v.shape, "fp32") for k, v in feeds.items()}
    outs = {"y": TensorType((steps, count, batch, hidden), "fp32"), "last": TensorType((count, batch, hidden), "fp32")}
    node = Node("n", "GRU", names, tuple(outs), {"linear_before_reset": late, "direction": direction})
    graph = Graph("g", (node,), tuple(feeds), tuple(outs), kinds | outs)
    assert program_faults(graph, feeds, "tpu-v3") == ""


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot_of_wrapped_and_foreign_indices(axis: int) -> None:
    index = np.array([[0, 3, -1], [-4, 4, -5]], np.int64)  # of the depth 4, the last two are outside
    feeds = {"i": index, "v": np.array([-2.0, 5.0], np.float32)}
    found = ran("OneHot", feeds, {"i": "int64"}, depth=4, axis=axis)
    hot = np.stack([np.isin(index, (j, j - 4)) for j in range(4)], axis)
    assert (found == np.where(hot, 5.0, -2.0)).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_hardmax_marks_the_first_of_equal_ones(axis: int) -> None:
    x = RNG.integers(-3, 3, (3, 5, 7)).astype(np.float32)
    wanted = np.zeros_like(x)
    np.put_along_axis(wanted, np.expand_dims(np.argmax(x, axis), axis), 1.0, axis)
    assert (ran("Hardmax", {"x": x}, {}, axis=axis) == wanted).all()


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("powers", [(13, 5, 2, 1, 0, 3, 9), (13.0, 5.0, 2.0, 1.0, 0.0, 3.0, 0.5)])
def test_integers_are_raised_exactly(kind: str, powers: tuple[float, ...]) -> None:
    bases = [4, 19, -46340, 2**31 - 1, -7, -1001, 9]  # results above 2^24, where fp32 has gaps
    exponents = np.array(powers, np.float32 if isinstance(powers[0], float) else kind)
    feeds = {"x": np.array(bases, kind), "e": exponents}
    found = ran("Pow", feeds, {"x": kind, "e": "fp32" if isinstance(powers[0], float) else kind})
    assert [int(v) for v in found] == [int(b**e) for b, e in zip(bases, powers)]


@pytest.mark.parametrize("exponent", [2, 3, 5, 13])
def test_known_powers_of_integers_are_exact(exponent: int) -> None:
    bases = np.array([-5, 4, 3, 0, 1], np.int64)
    node = Node("n", "Pow", ("x", "e"), ("y",))
    types = {"x": TensorType((5,), "int64"), "e": TensorType((), "int64"), "y": TensorType((5,), "int64")}
    graph = Graph("g", (node,), ("x",), ("y",), types, {"e": Constant.of(np.array(exponent), "int64")})
    assert program_faults(graph, {"x": bases}, "tpu-v3") == ""
    assert [int(v) for v in run_graph(graph, {"x": bases})["y"]] == [int(b) ** exponent for b in bases]


def test_negative_powers_of_integers() -> None:
    feeds = {"x": np.array([-1, -1, 1, 2, -9], np.int64), "e": np.array([-3, -2, -5, -1, -2], np.int64)}
    assert [int(v) for v in ran("Pow", feeds, {"x": "int64", "e": "int64"})] == [-1, 1, 1, 0, 0]
