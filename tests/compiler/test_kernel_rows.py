"""Reductions, softmax and normalisations: against their numpy meaning, in one pass and in several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_fixture import MACHINES, check, feeds_of, graph_of, lower, machine, run

from compiler.graph import Graph, Node, TensorType
from compiler.lower.context import NoKernel
from compiler.nest import Nest
from isa.errors import CapacityError

FLOAT = ("tiny", "tpu-v3")
REDUCE: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("ReduceMean", (2, 7, 7, 130), (1, 2)), ("ReduceMean", (2, 13, 7, 7), (2, 3)), ("ReduceMean", (1, 40), (0,)),
    ("ReduceSum", (300, 40), (0,)), ("ReduceSum", (70, 300), (0, 1)), ("ReduceMax", (4, 5, 6), (0, 2)),
    ("ReduceMin", (4, 500, 3), (1,)), ("ReduceL2", (4, 600), (-1,)), ("ReduceL1", (4, 6), (-1,)),
    ("ReduceSumSquare", (40, 6), (0,)), ("ReduceProd", (4, 3), (1,)), ("ReduceLogSumExp", (4, 30), (1,)),
    ("ReduceLogSumExp", (3, 3000), (1,)), ("ReduceMax", (1, 1), (0,)),
]  # fmt: skip


def rows(op: str, shape: tuple[int, ...], kind: str, **attrs: Any) -> Graph:
    return graph_of([Node("n", op, ("x",), ("o",), attrs)], {"x": TensorType(shape, kind)})


def norm(op: str, shape: tuple[int, ...], size: int, kind: str, inputs: str = "xsb", **attrs: Any) -> Graph:
    vectors = {"s": np.linspace(0.5, 2, size), "b": np.linspace(-1, 2, size)}
    held = {k: (v.astype(np.float32), "fp32") for k, v in vectors.items() if k in inputs}
    return graph_of([Node("n", op, tuple(inputs), ("o",), attrs)], {"x": TensorType(shape, kind)}, held)


def close(graph: Graph, hw: str, count: int = 1, budget: int | None = None) -> None:
    """Sums of `count` numbers of size up to about 8 come in another order than numpy's."""
    check(graph, hw, ulps=1 if hw != "tiny" else 8, absolute=1e-6 * max(2, count**0.5), budget=budget)


def passes(graph: Graph, hw: str, budget: int | None = None) -> int:
    return _passes(lower(graph, hw, budget)[1][0].build("k"))


def _passes(nest: Nest) -> int:
    """Trip count of the loop over passes: the one beyond the dimensions of x, if there."""
    rank = len(nest.stages[0].placed[0].body.srcs[0].dims)  # type: ignore[union-attr]
    return next((x.total for x in nest.loops if x.name == f"d{rank - 1}" and x.tile == 1 and x.total in (2, 3)), 1)


@pytest.mark.parametrize("hw", FLOAT)
@pytest.mark.parametrize("budget", [None, 4096])
@pytest.mark.parametrize(("op", "shape", "axes"), REDUCE)
def test_reductions(hw: str, budget: int | None, op: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    count = int(np.prod([shape[a] for a in axes])) if op != "ReduceLogSumExp" else 1
    for keep in (0, 1):
        close(rows(op, shape, machine(hw).default_dtype, axes=axes, keepdims=keep), hw, count, budget)


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_integer_sums_are_exact(kind: str) -> None:
    graph = rows("ReduceSum", (9, 400), kind, axes=(1,))
    big = np.full((9, 400), 16777217, dtype=kind)  # 2^24 + 1: not a float32
    big[:, ::2] *= -1
    big[:, 0] += 5
    assert (run(graph, "tiny", {"x": big}, budget=2048)["o"] == 5).all()
    with pytest.raises(NoKernel, match="truncates"):
        lower(rows("ReduceMean", (4, 4), kind, axes=(1,)), "tiny")


@pytest.mark.parametrize("hw", FLOAT)
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 33), -1), ((2, 3, 130), 2), ((2, 9, 70), 1), ((8, 1000), 1), ((2, 5000), 1), ((1,), 0)]
)
def test_softmax(hw: str, op: str, shape: tuple[int, ...], axis: int) -> None:
    close(rows(op, shape, machine(hw).default_dtype, axis=axis), hw, 4)


def test_softmax_of_large_logits_does_not_overflow() -> None:
    graph = rows("Softmax", (2, 8), "fp32")
    found = run(graph, "tiny", {"x": np.float32([[1e4] * 8, [-1e4] * 7 + [1e4]])})["o"]
    assert np.allclose(found[0], 0.125) and np.allclose(found[1], [0] * 7 + [1])


@pytest.mark.parametrize("hw", FLOAT)
@pytest.mark.parametrize("width", [1, 96, 768, 5000])
def test_layer_and_rms_norm(hw: str, width: int) -> None:
    kind = machine(hw).default_dtype
    close(norm("LayerNormalization", (3, width), width, kind), hw, 16)
    close(norm("LayerNormalization", (3, width), width, kind, "xs", epsilon=0.1), hw, 16)
    close(norm("RMSNormalization", (3, width), width, kind, "xs"), hw, 16)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("hw", FLOAT)
@pytest.mark.parametrize("groups", [0, 3, 6])
def test_instance_and_group_norm(layout: str, hw: str, groups: int) -> None:
    op = "GroupNormalization" if groups else "InstanceNormalization"
    shape = (2, 6, 5, 9) if layout == "NCHW" else (2, 5, 9, 6)
    attrs = {"layout": layout} | ({"num_groups": groups} if groups else {})
    close(norm(op, shape, 6, machine(hw).default_dtype, **attrs), hw, 16)


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(hw: str, layout: str, op: str) -> None:
    shape = (2, 33, 7, 7) if layout == "NCHW" else (2, 7, 7, 33)
    kind = machine(hw).default_dtype
    exact = kind == "int8"
    types = {"x": TensorType(shape, kind, 0.5, 3) if exact else TensorType(shape, kind)}
    final = (2, 33, 1, 1) if layout == "NCHW" else (2, 1, 1, 33)
    if exact:  # real mean, rounded to the scale of the output
        graph = Graph("q", (Node("n", op, ("x",), ("o",), {"layout": layout}),), ("x",), ("o",),
                      types | {"o": TensorType(final, kind, 0.25, -2)})  # fmt: skip
        feeds = feeds_of(graph)
        real = (feeds["x"] - 3.0) * 0.5
        axes = (2, 3) if layout == "NCHW" else (1, 2)
        wanted = (real.mean(axes) if op == "GlobalAveragePool" else real.max(axes)) / 0.25 - 2
        assert np.abs(run(graph, hw, feeds)["o"].reshape(2, 33) - wanted).max() <= 0.5 + 1e-4
        return
    close(graph_of([Node("n", op, ("x",), ("o",), {"layout": layout})], types), hw, 49)


def test_rows_that_do_not_fit_are_read_several_times() -> None:
    short, long = (rows("Softmax", (4, n), "fp32") for n in (100, 5000))
    assert passes(short, "tiny") == 1 and passes(long, "tiny") == 3
    assert passes(long, "tpu-v3") == 1 and passes(long, "tpu-v3", 20000) == 3
    assert passes(norm("RMSNormalization", (2, 5000), 5000, "fp32", "xs"), "tiny") == 2
    assert passes(rows("ReduceSum", (2, 50000), "fp32", axes=(1,)), "tiny") == 1


def test_reductions_across_lanes_overlap() -> None:
    """On a machine with a cross-lane unit each reduction of a row is a stage of its own."""
    (call,) = lower(rows("Softmax", (64, 128), "bf16"), "tpu-v3")[1]
    names = [s.name.rstrip("0123456789") for s in call.build("k").stages]
    assert names == ["load", "across", "compute", "across", "compute", "store"]
    (call,) = lower(rows("Softmax", (64, 128), "bf16", axis=0), "tpu-v3")[1]
    assert [s.name.rstrip("0123456789") for s in call.build("k").stages] == ["load", "compute", "store"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_reduction(data: st.DataObject) -> None:
    draw = data.draw
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    op, hw = draw(st.sampled_from(["ReduceMax", "ReduceMin"])), draw(st.sampled_from(FLOAT))
    kind = machine(hw).default_dtype
    check(rows(op, shape, kind, axes=axes), hw, 0, budget=draw(st.sampled_from([700, 4096])))
    close(rows("Softmax", shape, kind, axis=axes[0]), hw, 4, budget=draw(st.sampled_from([1500, 4096])))


def test_refusals() -> None:
    with pytest.raises(NoKernel, match="gemmini-16x16 lacks operation exp"):
        lower(rows("Softmax", (4, 4), "int8"), "gemmini-16x16")
    both = graph_of([Node("n", "LayerNormalization", ("x", "x"), ("o", "mean"))], {"x": TensorType((4,), "fp32")})
    with pytest.raises(NoKernel, match="mean and deviation are read"):
        lower(both, "tiny")
    with pytest.raises(CapacityError, match="smallest tile"):
        lower(rows("Softmax", (4, 4000), "fp32"), "tiny", budget=256)
