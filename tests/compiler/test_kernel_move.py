"""Data movement: every rearrangement is exact, on each kind of machine and in small scratchpads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_fixture import MACHINES, check, feeds_of, graph_of, lower, machine, run

from compiler.graph import Graph, Node, TensorType
from compiler.lower.context import NoKernel
from compiler.nest import Nest, Stmt

CASES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("Transpose", (2, 17, 9, 5), {"perm": (0, 2, 3, 1)}),
    ("Transpose", (1, 20, 30, 65), {"perm": (0, 3, 1, 2)}),
    ("Transpose", (300, 257), {"perm": (1, 0)}),
    ("Transpose", (2, 12, 8, 64), {"perm": (0, 2, 1, 3)}),
    ("Transpose", (3, 4, 5), {}),
    ("Transpose", (1, 1, 7), {"perm": (2, 0, 1)}),
    ("Slice", (3, 11, 70), {"starts": (1, 0), "ends": (9, 100), "axes": (1, 2), "steps": (2, 1)}),
    ("Slice", (3, 11, 7), {"starts": (-1,), "ends": (-100,), "axes": (1,), "steps": (-1,)}),
    ("Slice", (9, 20), {"starts": (1,), "ends": (20,), "axes": (1,), "steps": (3,)}),
    ("Split", (3, 11, 7), {"axis": 1, "split": (3, 8)}),
    ("Expand", (3, 1), {"shape": (4, 3, 70)}),
    ("Tile", (5, 7), {"repeats": (2, 3)}),
    ("DepthToSpace", (2, 8, 5, 6), {"blocksize": 2}),
    ("DepthToSpace", (2, 8, 5, 6), {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", (2, 3, 10, 6), {"blocksize": 2}),
    ("SpaceToDepth", (2, 3, 10, 6), {"blocksize": 2, "mode": "CRD"}),
    ("Resize", (1, 3, 4, 4), {"sizes": (1, 3, 8, 12), "scales": (1.0, 1.0, 2.0, 3.0), "mode": "nearest"}),
    ("Resize", (1, 5, 6, 4), {"sizes": (1, 10, 12, 4), "mode": "nearest", "nearest_mode": "floor",
                              "coordinate_transformation_mode": "asymmetric"}),
    ("Pad", (2, 9, 7, 5), {"pads": (0, 1, 2, 0, 0, 3, 1, 0), "value": 1.0}),
    ("Pad", (2, 9, 7, 5), {"pads": (0, 0, 3, 0, 0, 0, 4, 0)}),
    ("Pad", (4, 5, 6), {"pads": (2, 0, 1, 0, 0, -1)}),
    ("Pad", (4, 3, 5, 2, 3), {"pads": (0, 1, 0, 2, 0, 0, 0, 0, 0, 0)}),
    ("Pad", (40, 600), {"pads": (0, 0, 0, 5)}),
    ("Pad", (3, 4), {"pads": (0, 0, 0, 0)}),
    ("Pad", (3, 4, 5), {"pads": (1, 2, 0, 2, 0, 1), "value": -2.0}),
    ("Pad", (2, 3, 4, 5), {"pads": (1, -1, 2, 3, 0, 2, 1, -2)}),
    ("Pad", (3, 7, 5), {"pads": (0, 6, 2, 0, 3, 4), "mode": "reflect"}),
    ("Pad", (1, 4, 3), {"pads": (0, 9, 0, 0, 0, 7), "mode": "reflect"}),
    ("Pad", (3, 7, 5), {"pads": (1, 0, 2, 0, 3, 1), "mode": "edge"}),
    ("Pad", (3, 5), {"pads": (4, 11, 0, 3), "mode": "wrap"}),
    ("Pad", (4, 9), {"pads": (1, -2, 0, 3), "mode": "edge"}),
    ("Tile", (3, 4, 5, 6), {"repeats": (2, 3, 2, 2)}),
    ("Dilate", (2, 5, 6, 7), {"strides": (2, 2), "layout": "NHWC"}),
    ("Dilate", (2, 5, 6, 7), {"strides": (3, 1)}),
    ("Dilate", (1, 1, 9, 3), {"strides": (2, 3), "layout": "NHWC"}),
]  # fmt: skip


def move(op: str, shape: tuple[int, ...], attrs: dict[str, Any], kind: str) -> Graph:
    outputs = tuple(f"o{i}" for i in range(len(attrs.get("split", (0,)))))
    return graph_of([Node("n", op, ("x",), outputs, attrs)], {"x": TensorType(shape, kind)})


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("budget", [None, 2048])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_one_input(hw: str, budget: int | None, case: int) -> None:
    op, shape, attrs = CASES[case]
    check(move(op, shape, attrs, machine(hw).default_dtype), hw, 0, budget=budget)


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(hw: str, axis: int) -> None:
    shapes = [[2, 3, 5] for _ in range(3)]
    for shape, extent in zip(shapes, (70, 1, 4)):
        shape[axis] = extent
    kind = machine(hw).default_dtype
    types = {name: TensorType(tuple(shape), kind) for name, shape in zip("xyz", shapes)}
    check(graph_of([Node("n", "Concat", ("x", "y", "z"), ("o",), {"axis": axis})], types), hw, 0)


def test_concat_of_quantised_parts_rescales() -> None:
    types = {"x": TensorType((2, 40), "int8", 0.5, 3), "y": TensorType((2, 8), "int8", 1.0, 0),
             "o": TensorType((2, 48), "int8", 1.0, 0)}  # fmt: skip
    graph = Graph("q", (Node("n", "Concat", ("x", "y"), ("o",), {"axis": 1}),), ("x", "y"), ("o",), types)
    feeds = feeds_of(graph)
    real = np.concatenate([np.rint((feeds["x"] - 3.0) * 0.5), feeds["y"]], axis=1)
    assert (run(graph, "tiny", feeds)["o"] == real).all()


@pytest.mark.parametrize("kind", ["bf16", "int8", "int32", "int64", "bool", "fp64"])
def test_every_format_keeps_its_bits(kind: str) -> None:
    check(move("Transpose", (33, 65), {"perm": (1, 0)}, kind), "tpu-v3", 0)
    check(move("Slice", (33, 65), {"starts": (2,), "ends": (31,)}, kind), "tpu-v3", 0)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_transpose(data: st.DataObject) -> None:
    draw = data.draw
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=5)))
    perm = tuple(draw(st.permutations(range(len(shape)))))
    hw, budget = draw(st.sampled_from(["tiny", "tpu-v3", "gemmini-16x16"])), draw(st.sampled_from([600, 5000]))
    check(move("Transpose", shape, {"perm": perm}, machine(hw).default_dtype), hw, 0, budget=budget)


def _copies(nest: Nest) -> list[Stmt]:
    return [p.body for s in nest.stages for p in s.placed if isinstance(p.body, Stmt) and p.body.op == "cp"]


@pytest.mark.parametrize("perm", [(0, 2, 3, 1), (0, 3, 1, 2)])
def test_layout_changes_move_long_runs(perm: tuple[int, ...]) -> None:
    """Both ends of a layout change touch DRAM in runs of at least one burst."""
    (call,) = lower(move("Transpose", (1, 64, 56, 56), {"perm": perm}, "bf16"), "tpu-v3")[1]
    for copy in _copies(call.build("k")):
        far = copy.dst if copy.dst is not None and copy.dst.base == "out" else copy.srcs[0]
        assert far is not None and far.dims[-1].stride == 2 and far.dims[-1].most * 2 >= 64


def test_a_plain_copy_needs_no_vector_unit() -> None:
    (call,) = lower(move("Slice", (64, 64), {"starts": (3,), "ends": (9,)}, "fp32"), "tiny")[1]
    assert [s.name for s in call.build("k").stages] == ["load", "store"]


@pytest.mark.parametrize(
    ("op", "shape", "attrs", "why"),
    [
        ("Pad", (9,) * 5, {"pads": (1,) * 10, "mode": "reflect"}, "more than 128 pieces"),
        ("Tile", (3,) * 7, {"repeats": (2,) * 7}, "14 dimensions"),
        ("Resize", (1, 1, 4, 4), {"sizes": (1, 1, 6, 8), "mode": "nearest"}, "repeat each element"),
        ("Resize", (1, 1, 4, 4), {"sizes": (1, 1, 8, 8), "mode": "linear"}, "repeat each element"),
        ("Resize", (1, 1, 4, 4), {"sizes": (1, 1, 8, 8), "mode": "nearest", "nearest_mode": "ceil",
                                  "coordinate_transformation_mode": "asymmetric"}, "repeat each element"),
    ],
)  # fmt: skip
def test_refusals_say_why(op: str, shape: tuple[int, ...], attrs: dict[str, Any], why: str) -> None:
    with pytest.raises(NoKernel, match=why):
        lower(move(op, shape, attrs, "fp32"), "tiny")
