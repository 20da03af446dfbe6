"""Windows of any geometry, between operators that want another layout, through a program on a TPU v3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_models import program_faults

from compiler.graph import Constant, Graph, Node, TensorType
from compiler.ops import op_def

Draw = Any


def chain(shape: tuple[int, ...], nodes: list[Node], constants: dict[str, tuple[int, ...]]) -> Graph:
    """Nodes one after another, from x; constants are random."""
    rng = np.random.default_rng(0)
    held = {k: Constant.of(rng.standard_normal(s).astype(np.float32), "fp32") for k, s in constants.items()}
    types = {"x": TensorType(shape, "fp32")} | {k: v.type for k, v in held.items()}
    for node in nodes:
        types[node.outputs[0]] = op_def(node.op).infer(node, [types[n] for n in node.inputs], [None] * 3)[0]
    return Graph("chain", tuple(nodes), ("x",), nodes[-1].outputs, types, held)


def faults(graph: Graph, hw: str = "tpu-v3") -> str:
    feeds = {"x": np.random.default_rng(1).standard_normal(graph.tensors["x"].shape).astype(np.float32)}
    return program_faults(graph, feeds, hw)


def window(draw: Draw, rank: int, most: int = 3) -> dict[str, tuple[int, ...]]:
    """Random window attributes for `rank` axes."""
    kernel = tuple(draw(st.integers(1, most)) for _ in range(rank))
    return {
        "kernel_shape": kernel,
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "dilations": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        "pads": tuple(draw(st.integers(0, kernel[i % rank] - 1 + (most > 3))) for i in range(2 * rank)),
    }


def extents(draw: Draw, attrs: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Spatial extents that the window fits into."""
    reach = [(k - 1) * d + 1 for k, d in zip(attrs["kernel_shape"], attrs["dilations"])]
    return tuple(draw(st.integers(r, r + 4)) for r in reach)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    draw = data.draw
    attrs = window(draw, draw(st.sampled_from([1, 2, 2, 3])), 4)
    group, depth, maps = (draw(st.integers(1, 3)) for _ in range(3))
    shape = (draw(st.integers(1, 2)), group * depth, *extents(draw, attrs))
    node = Node("conv", "Conv", ("x", "w", "b"), ("y",), {**attrs, "group": group})
    constants = {"w": (group * maps, depth, *attrs["kernel_shape"]), "b": (group * maps,)}
    assert faults(chain(shape, [node], constants)) == ""


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_transposed_convolutions(data: st.DataObject) -> None:
    draw = data.draw
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    attrs = window(draw, rank, 4)
    reach = [(k - 1) * d + 1 for k, d in zip(attrs["kernel_shape"], attrs["dilations"])]
    attrs["pads"] = tuple(min(p, r // 2) for p, r in zip(attrs["pads"], reach * 2))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(attrs["strides"], attrs["dilations"]))
    group, depth, maps = (draw(st.integers(1, 3)) for _ in range(3))
    shape = (draw(st.integers(1, 2)), group * depth, *extents(draw, attrs))
    node = Node("conv", "ConvTranspose", ("x", "w"), ("y",), {**attrs, "group": group, "output_padding": extra})
    assert faults(chain(shape, [node], {"w": (group * depth, maps, *attrs["kernel_shape"])})) == ""


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pools_between_convolutions(data: st.DataObject) -> None:
    draw = data.draw
    rank, op = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))
    attrs: dict[str, Any] = window(draw, rank)
    shape = (1, 2, *extents(draw, attrs))
    attrs["ceil_mode"] = draw(st.integers(0, 1))
    if op == "AveragePool":
        attrs["count_include_pad"] = draw(st.integers(0, 1))
    if op == "LpPool":
        attrs["p"] = draw(st.integers(1, 3))
    ones = (1,) * rank
    nodes = [
        Node("first", "Conv", ("x", "w"), ("a",), {"kernel_shape": ones}),
        Node("pool", op, ("a",), ("b",), attrs),
        Node("last", "Conv", ("b", "v"), ("y",), {"kernel_shape": ones}),
    ]
    assert faults(chain(shape, nodes, {"w": (3, 2, *ones), "v": (2, 3, *ones)})) == ""


CASES: list[tuple[str, dict[str, Any]]] = [
    ("Resize", {"sizes": (1, 3, 10, 7), "scales": (1.0, 1.0, 2.0, 1.0), "mode": "linear"}),
    ("Resize", {"sizes": (1, 3, 8, 9), "scales": (1.0, 1.0, 1.6, 9 / 7), "mode": "cubic"}),
    ("Resize", {"sizes": (1, 3, 3, 5), "scales": (1.0, 1.0, 0.6, 5 / 7), "mode": "linear", "antialias": 1}),
    ("Resize", {"sizes": (1, 3, 3, 9), "scales": (1.0, 1.0, 0.6, 9 / 7), "mode": "nearest"}),
    ("Resize", {"sizes": (1, 3, 4, 6), "scales": (1.0, 1.0, 0.8, 6 / 7), "mode": "linear", "extrapolation_value": 3.0,
                "coordinate_transformation_mode": "tf_crop_and_resize",
                "roi": (0.0, 0.0, -0.2, 0.3, 1.0, 1.0, 0.9, 1.4)}),
    ("Pad", {"pads": (0, 0, 2, 3, 0, 0, 1, 4), "mode": "reflect"}),
    ("Pad", {"pads": (0, 0, 2, 9, 0, 0, 7, 4), "mode": "edge"}),
    ("Pad", {"pads": (1, 2, 2, 0, 0, 1, 3, 1), "value": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_resampling_inside_and_between_convolutions(case: int, outside: bool) -> None:
    op, attrs = CASES[case]
    if outside:
        assert faults(chain((1, 3, 5, 7), [Node("n", op, ("x",), ("y",), attrs)], {})) == ""
        return
    nodes = [
        Node("first", "Conv", ("x", "w"), ("a",), {"kernel_shape": (1, 1)}),
        Node("n", op, ("a",), ("b",), attrs),
        Node("last", "Conv", ("b", "v"), ("y",), {"kernel_shape": (1, 1)}),
    ]
    channels = 3 + sum(attrs["pads"][i] for i in (1, 5)) if op == "Pad" else 3
    assert faults(chain((1, 2, 5, 7), nodes, {"w": (3, 2, 1, 1), "v": (2, channels, 1, 1)})) == ""


def test_products_of_batches_with_a_bias() -> None:
    for left, right in (((4, 1, 6), (6, 5)), ((3, 2, 6), (3, 6, 5)), ((2, 3, 1, 6), (6, 5)), ((6,), (6, 5))):
        node = Node("m", "MatMul", ("x", "w", "b"), ("y",))
        assert faults(chain(left, [node], {"w": right, "b": (5,)})) == ""
