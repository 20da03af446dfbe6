"""Gathers: rows by index along any axis, constant indices, single indices as slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_fixture import check, feeds_of, graph_of, lower, machine, run

from compiler.graph import Graph, Node, TensorType
from compiler.lower.context import RULES, NoKernel

CASES = [((50, 24), (3, 5), 0), ((1000, 130), (77,), 0), ((4, 9, 6), (5,), 1), ((6, 7), (1,), 1), ((8, 3000), (4,), 0)]


def gather(
    shape: tuple[int, ...], axis: int, kind: str, index: tuple[int, ...], held: npt.NDArray[Any] | None = None
) -> Graph:
    types = {"t": TensorType(shape, kind)} | ({} if held is not None else {"i": TensorType(index, "int64")})
    constants = {} if held is None else {"i": (held, "int64")}
    return graph_of([Node("n", "Gather", ("t", "i"), ("o",), {"axis": axis})], types, constants)


@pytest.mark.parametrize("hw", ["tiny", "tpu-v3", "tpu-v4", "gemmini-16x16"])
@pytest.mark.parametrize(("shape", "index", "axis"), CASES)
def test_rows(hw: str, shape: tuple[int, ...], index: tuple[int, ...], axis: int) -> None:
    graph = gather(shape, axis, machine(hw).default_dtype, index)
    feeds = feeds_of(graph)
    feeds["i"] = np.random.default_rng(1).integers(0, shape[axis], index)
    for budget in (None, 2048):
        found = run(graph, hw, feeds, budget)["o"]
        assert (found == np.take(feeds["t"], feeds["i"], axis=axis)).all()


@pytest.mark.parametrize("hw", ["tiny", "tpu-v3"])
@pytest.mark.parametrize("axis", [0, 1])
def test_computed_indices_may_be_negative(hw: str, axis: int) -> None:
    graph = gather((5, 7, 40), axis, machine(hw).default_dtype, (6,))
    feeds = feeds_of(graph) | {"i": np.array([-1, 0, -5, 4, -2, 3])}
    assert (run(graph, hw, feeds)["o"] == np.take(feeds["t"], feeds["i"], axis=axis)).all()


@pytest.mark.parametrize("index", [np.array(-2), np.array([-2]), np.array([0, -1, 3]), np.array(1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_constant_indices_may_be_negative(index: npt.NDArray[Any], axis: int) -> None:
    check(gather((5, 6, 7), axis, "fp32", (), index.astype(np.int64)), "tiny", 0)


def test_one_known_index_is_a_slice() -> None:
    (call,) = lower(gather((5, 64), 0, "fp32", (), np.array(3)), "tiny")[1]
    assert call.bind == {"x": ("t", 3 * 64 * 4), "out": ("o", 0)}


def test_refusals() -> None:
    with pytest.raises(NoKernel, match="no path spm -> spm"):
        lower(gather((5, 64), 0, "int8", (3,)), "tpu-v1")
    assert "GatherElements" not in RULES and "GatherND" not in RULES
