"""Window pools in both layouts, with borders, dilation, ceil mode and small scratchpads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_fixture import MACHINES, check, feeds_of, graph_of, lower, machine, run

from compiler.graph import Graph, Node, TensorType
from compiler.lower.context import NoKernel
from compiler.ops import run_graph

CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 28, 28, 16), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((2, 9, 7, 5), {"kernel_shape": (2, 2)}),
    ((1, 13, 13, 3), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "ceil_mode": 1}),
    ((1, 11, 12, 2), {"kernel_shape": (2, 3), "dilations": (2, 3), "pads": (0, 1, 2, 3), "count_include_pad": 1}),
    ((1, 1, 1, 1), {"kernel_shape": (1, 1)}),
    ((3, 21, 4), {"kernel_shape": (5,), "strides": (3,), "pads": (2, 2)}),
]


def pool(op: str, shape: tuple[int, ...], kind: str, attrs: dict[str, Any], layout: str) -> Graph:
    stored = shape if layout == "NHWC" else (shape[0], shape[-1], *shape[1:-1])
    return graph_of([Node("p", op, ("x",), ("o",), {**attrs, "layout": layout})], {"x": TensorType(stored, kind)})


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_max_pool(hw: str, layout: str, case: int) -> None:
    check(pool("MaxPool", CASES[case][0], machine(hw).default_dtype, CASES[case][1], layout), hw, 0)


@pytest.mark.parametrize("hw", ["tiny", "tpu-v3", "tpu-v4"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_average_pool(hw: str, layout: str, case: int) -> None:
    check(pool("AveragePool", CASES[case][0], machine(hw).default_dtype, CASES[case][1], layout), hw, 1, absolute=1e-6)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_average_pool_by_regions(layout: str, case: int) -> None:
    """A machine that multiplies by immediates only: one pool for each rectangle of outputs with equal counts."""
    graph = pool("AveragePool", CASES[case][0], "int8", CASES[case][1], layout)
    feeds = feeds_of(graph) | {"x": np.random.default_rng(0).integers(-99, 99, graph.tensors["x"].shape, np.int8)}
    exact = run_graph(pool("AveragePool", CASES[case][0], "fp32", CASES[case][1], layout), feeds)["o"]
    assert np.abs(run(graph, "gemmini-16x16", feeds)["o"] - exact).max() <= 0.5 + 1e-5
    counts = {(1, 28, 28, 16): 4, (2, 9, 7, 5): 1, (1, 13, 13, 3): 9}
    calls = lower(graph, "gemmini-16x16")[1]
    assert len(calls) == counts.get(CASES[case][0], len(calls))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_window_in_a_small_scratchpad(data: st.DataObject) -> None:
    """Windows reach over tile borders: rows are loaded twice, or not at all where a tile lies in the padding."""
    draw = data.draw
    kernel, strides, dilations = (tuple(draw(st.integers(1, most)) for _ in range(2)) for most in (4, 3, 2))
    pads = tuple(draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    least = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    extents = [draw(st.integers(low, low + 12)) for low in least]
    attrs = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    shape = (draw(st.integers(1, 2)), *extents, draw(st.integers(1, 9)))
    layout, hw = draw(st.sampled_from(["NHWC", "NCHW"])), draw(st.sampled_from(["tiny", "tpu-v3"]))
    check(pool("MaxPool", shape, "fp32", attrs, layout), hw, 0, budget=draw(st.sampled_from([1500, 3000, 8000])))


def test_pads_of_quantised_tensors_are_the_zero_point() -> None:
    types = {"x": TensorType((1, 4, 4, 3), "int8", 0.5, 5), "o": TensorType((1, 4, 4, 3), "int8", 0.5, 5)}
    attrs = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "count_include_pad": 1, "layout": "NHWC"}
    graph = Graph("q", (Node("n", "AveragePool", ("x",), ("o",), attrs),), ("x",), ("o",), types)
    feeds = feeds_of(graph)
    padded = np.pad((feeds["x"] - 5.0) * 0.5, ((0, 0), (1, 1), (1, 1), (0, 0)))
    mean = sum(padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)) / 9
    assert np.abs(run(graph, "tiny", feeds)["o"] - (mean / 0.5 + 5)).max() <= 0.5 + 1e-5


def test_each_row_is_loaded_once_when_everything_fits() -> None:
    (call,) = lower(pool("MaxPool", *_stem(), "NHWC"), "tpu-v4")[1]
    assert all(b.slots == 1 for b in call.build("k").buffers) or any(x.split for x in call.build("k").loops)


def _stem() -> tuple[tuple[int, ...], str, dict[str, Any]]:
    return (1, 8, 8, 4), "bf16", {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}


def test_refusals_name_what_is_missing() -> None:
    cube = {"kernel_shape": (2, 2, 2)}
    with pytest.raises(NoKernel, match="a pool over 3 axes"):
        lower(pool("MaxPool", (1, 4, 4, 4, 2), "fp32", cube, "NHWC"), "tiny")
