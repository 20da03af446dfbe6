"""Operators that nobody gave the meaning of: estimated where their shapes are known, refused by name where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend import load_model
from isa.errors import ModelError
from isa.loader import load_machine
from isa.program import LAUNCH_ESTIMATE
from npusim.api import compile as compile_model
from npusim.check import check


def model(folder: Path, stated: bool, op: str = "Mystery", domain: str = "my.ops", batch: int | str = "N") -> Path:
    """Conv -> the operator -> Relu; the type between the last two is given as value_info or not."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
        helper.make_node(op, ["a"], ["b"], name="odd", domain=domain),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    x, b, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, c, 4, 4]) for n, c in zip("xby", (3, 8, 8)))
    weight = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [x], [y], [weight], value_info=[b] * stated)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(folder / "m.onnx"))
    return folder / "m.onnx"


@pytest.mark.parametrize("hw", ["tpu-v3", "gemmini-16x16"])
def test_it_is_estimated_and_named(tmp_path: Path, hw: str) -> None:
    built = compile_model(str(model(tmp_path, True)), hw, batch=2).built
    kinds = [o.op_type for o, x in zip(built.program.operators, built.program.launches) if x["kind"] == LAUNCH_ESTIMATE]
    assert kinds == ["my.ops::Mystery"]
    assert any(a.startswith("my.ops::Mystery is estimated") for a in built.assumptions)
    size = 2 * 8 * 4 * 4
    (row,) = (o for o in built.program.operators if o.op_type == "my.ops::Mystery")
    assert row.min_bytes == 2 * size * np.dtype(built.graph.tensors["b"].dtype.replace("bf16", "f2").replace(
        "fp32", "f4")).itemsize  # fmt: skip


def test_a_check_fails_because_of_it(tmp_path: Path) -> None:
    compilation = compile_model(str(model(tmp_path, True)), "tpu-v3", batch=1)
    machine = load_machine("tpu-v3").machine
    feeds = {"x": np.ones((1, 3, 4, 4), np.float32)}
    assert not check(compilation, machine, feeds).ok
    assert check(compilation, machine, feeds, allow_approx=True).ok


@pytest.mark.parametrize(("batch", "given"), [(1, None), (1, 4), ("N", 4)])
def test_stated_shapes_follow_the_batch(tmp_path: Path, batch: int | str, given: int | None) -> None:
    graph = load_model(str(model(tmp_path, True, batch=batch)), batch=given)
    assert graph.tensors["b"].shape == graph.tensors["y"].shape == (given or 1, 8, 4, 4)


def test_unknown_shapes_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'odd' \(my.ops::Mystery, opset 3\).*value_info.*shape_inference"):
        load_model(str(model(tmp_path, False)), batch=1)


def test_standard_operators_without_a_rule_are_inferred(tmp_path: Path) -> None:
    graph = load_model(str(model(tmp_path, False, "Asinh", "")), batch=2)
    assert [n.op for n in graph.nodes] == ["Conv", "Custom", "Relu"] and graph.tensors["b"].shape == (2, 8, 4, 4)
