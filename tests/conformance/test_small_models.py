"""Models of a few nodes that users tried: each runs on every kind of machine, with the values that ONNX asks for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from node_models import machine, program_faults
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from rich.console import Console

from compiler.frontend import load_model
from compiler.graph import Graph
from compiler.ops import run_graph
from isa.dtypes import dtype
from isa.program import LAUNCH_HOST
from npusim.api import compile as compile_model
from npusim.api import run
from npusim.report.console import terminal
from npusim.report.files import write_ops_csv
from npusim.report.profile import Profile

MACHINES = ("tiny", "tpu-v3", "tpu-v1", "gemmini-16x16")
FLOAT = TensorProto.FLOAT
RANDOM = np.random.default_rng(7)


def model(
    folder: Path, nodes: Sequence[Any], inputs: Mapping[str, tuple[int, Sequence[Any]]], output: int = FLOAT,
    constants: Mapping[str, Any] | None = None,
) -> Graph:  # fmt: skip
    """An imported graph; its output is called y."""
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )  # fmt: skip
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return load_model(str(path))


def feeds(graph: Graph) -> dict[str, Any]:
    """Random values for the inputs of a graph."""
    kinds = {n: graph.tensors[n] for n in graph.inputs}
    return {n: (RANDOM.normal(size=k.shape) * 3).astype(dtype(k.dtype).numpy) for n, k in kinds.items()}


def on_host(graph: Graph, hw: str) -> list[str]:
    """Operators that the program leaves to the host."""
    program = compile_model(graph, machine(hw)).built.program
    return [o.op_type for x, o in zip(program.launches, program.operators) if int(x["kind"]) == LAUNCH_HOST]


def cast(folder: Path, source: str, target: str) -> Graph:
    """One Cast of eight values."""
    kind = getattr(TensorProto, target)
    node = helper.make_node("Cast", ["x"], ["y"], to=kind)
    return model(folder, [node], {"x": (getattr(TensorProto, source), [8])}, kind)


REALS = np.array([0.64, -0.64, -3.7, 2.5, -2.5, 300.4, -300.4, 127.9], np.float32)


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("target", ["INT64", "INT32", "INT16", "INT8", "UINT8"])
def test_reals_truncate_toward_zero_and_saturate(tmp_path: Path, hw: str, target: str) -> None:
    graph = cast(tmp_path, "FLOAT", target)
    limits = np.iinfo(np.dtype(target.lower()))
    wanted = np.clip(np.trunc(REALS), limits.min, limits.max)
    np.testing.assert_array_equal(run_graph(graph, {"x": REALS})["y"], wanted)
    assert program_faults(graph, {"x": REALS}, hw) == ""
    assert on_host(graph, hw) == ([] if hw in ("tiny", "tpu-v3") else ["Cast"])


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize(
    ("source", "target"),
    [("INT64", "INT8"), ("INT64", "INT16"), ("INT32", "INT8"), ("INT32", "UINT8"), ("INT8", "UINT8"),
     ("UINT8", "INT8")],
)  # fmt: skip
def test_integers_lose_their_high_bits(tmp_path: Path, hw: str, source: str, target: str) -> None:
    graph = cast(tmp_path, source, target)
    values = np.array([1, -1, 200, -200, 300, 2**31 - 1, -(2**31), 8388735]).astype(np.dtype(source.lower()))
    if source == "INT64":
        values[:2] = [2**62 + 129, -(2**60) - 129]
    np.testing.assert_array_equal(run_graph(graph, {"x": values})["y"], values.astype(np.dtype(target.lower())))
    assert program_faults(graph, {"x": values}, hw) == ""


@pytest.mark.parametrize("hw", ["tpu-v1", "gemmini-16x16"])
@pytest.mark.parametrize(("source", "target"), [("INT8", "INT32"), ("UINT8", "INT16"), ("INT64", "INT32")])
def test_casts_that_lose_nothing_stay_on_the_chip(tmp_path: Path, hw: str, source: str, target: str) -> None:
    graph = cast(tmp_path, source, target)
    assert on_host(graph, hw) == []
    assert program_faults(graph, {"x": np.arange(8).astype(np.dtype(source.lower()))}, hw) == ""


CONVS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ("Conv", (1, 3, 8, 8), (4, 3, 3, 3), {}), "one axis": ("Conv", (1, 3, 8), (4, 3, 3), {}),
    "volume": ("Conv", (1, 2, 4, 4, 4), (4, 2, 3, 3, 3), {}),
    "groups": ("Conv", (1, 4, 6, 6), (4, 2, 3, 3), {"group": 2}),
    "transposed": ("ConvTranspose", (1, 3, 5, 5), (3, 4, 3, 3), {"strides": [2, 2]}),
}  # fmt: skip


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("label", CONVS)
@pytest.mark.parametrize("known", [(), ("w",), ("w", "b"), ("b",)], ids="-".join)
def test_weights_and_bias_may_be_inputs(tmp_path: Path, hw: str, label: str, known: tuple[str, ...]) -> None:
    op, *shapes, attrs = CONVS[label]
    given = {"x": shapes[0], "w": shapes[1], "b": (4,)}
    fixed = {n: RANDOM.normal(size=given[n]).astype(np.float32) for n in known}
    inputs = {n: (FLOAT, s) for n, s in given.items() if n not in known}
    graph = model(tmp_path, [helper.make_node(op, ["x", "w", "b"], ["y"], **attrs)], inputs, constants=fixed)
    assert program_faults(graph, feeds(graph), hw) == ""
    assert bool(on_host(graph, hw)) == (hw == "tpu-v1" and "w" not in known)


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("op", ["ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin"])
def test_reductions_of_a_small_matrix(tmp_path: Path, hw: str, op: str) -> None:
    kind = TensorProto.INT64 if op.startswith("Arg") else FLOAT
    graph = model(tmp_path, [helper.make_node(op, ["x"], ["y"], keepdims=1)], {"x": (FLOAT, [4, 6])}, kind)
    assert program_faults(graph, {n: np.abs(v) for n, v in feeds(graph).items()}, hw) == ""


KINDS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")


@pytest.mark.parametrize("kind", KINDS)
def test_a_reduction_over_no_axes_still_does_what_it_does_to_elements(tmp_path: Path, kind: str) -> None:
    node = helper.make_node(f"Reduce{kind}", ["x"], ["y"], noop_with_empty_axes=1)
    graph = model(tmp_path, [node], {"x": (FLOAT, [2, 3])})
    x = np.array([[0.5, 2, 3], [4, 5, 1]], np.float32) * (1 if "Log" in kind else np.float32([[1], [-1]]))
    assert_as_reference(tmp_path, graph, x)
    assert program_faults(graph, {"x": x}, "tiny") == ""


@pytest.mark.parametrize("scale", [0.6, 1.7, 2.0])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_align_corners_counts_with_lengths_that_are_not_whole(tmp_path: Path, mode: str, scale: float) -> None:
    attrs = {"mode": mode, "coordinate_transformation_mode": "align_corners"}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], **attrs)
    graph = model(tmp_path, [node], {"x": (FLOAT, [1, 1, 5, 4])}, constants={"s": np.float32([1, 1, scale, scale])})
    assert_as_reference(tmp_path, graph, RANDOM.normal(size=(1, 1, 5, 4)).astype(np.float32))


def assert_as_reference(folder: Path, graph: Graph, x: Any) -> None:
    """Compare our values with those of the reference implementation of ONNX."""
    wanted = ReferenceEvaluator(str(folder / "small.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(run_graph(graph, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-5)


BATCHES = [
    ([2, 1, 2, 3, 4], [1, 3, 1, 4, 2]), ([2, 1, 2, 1, 3, 4], [1, 3, 1, 2, 4, 5]), ([3, 1, 2, 1, 4], [1, 2, 1, 4, 3]),
]  # fmt: skip


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("shapes", BATCHES, ids=str)
@pytest.mark.parametrize("known", [False, True])
def test_batches_that_broadcast_in_turns(tmp_path: Path, hw: str, shapes: tuple[list[int], ...], known: bool) -> None:
    a, b = shapes
    out = [*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]]
    weights = {"b": RANDOM.normal(size=b).astype(np.float32)} if known else {}
    inputs = {"a": (FLOAT, a), "c": (FLOAT, out)} | ({} if known else {"b": (FLOAT, b)})
    nodes = [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Add", ["m", "c"], ["y"])]
    graph = model(tmp_path, nodes, inputs, constants=weights)
    assert program_faults(graph, feeds(graph), hw) == ""


@pytest.mark.parametrize("count", [16, 17])
def test_a_product_has_a_limit_of_launches(tmp_path: Path, count: int) -> None:
    a, b = [16, 1, 17, 1, 2, 2], [1, count, 1, 17, 2, 2]
    graph = model(tmp_path, [helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": (FLOAT, a), "b": (FLOAT, b)})
    program = compile_model(graph, machine("tiny")).built.program
    assert len(program.launches) == (16 * count if count == 16 else 1)
    assert all(o.approximated == (count == 17) for o in program.operators)


def test_reports_show_names_on_one_line(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="a\nb\t\x1b[31mc\r")
    result = run(model(tmp_path, [node], {"x": (FLOAT, [4])}), "tiny")
    table = io.StringIO()
    write_ops_csv(Profile(result), table)
    assert [line.split(",")[0] for line in table.getvalue().split("\n")] == ["name", r"a\nb\t\x1b[31mc\r", ""]
    screen = io.StringIO()
    terminal(result, Console(file=screen, width=120))
    assert r"a\nb\t\x1b[31mc\r" in screen.getvalue()
    assert not set(screen.getvalue()) & set("\x1b\t\r")
