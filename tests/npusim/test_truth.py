"""A check holds the program against the model itself: a pass that changes what it computes is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import npusim
from compiler.graph import Graph
from compiler.passes import bn_fold
from npusim.truth import compare_models


def network(path: Path) -> str:
    """Convolution, batch normalisation, ReLU: one tensor in, one out."""
    rng = np.random.default_rng(1)
    constants = {"w": rng.standard_normal((8, 3, 3, 3)), "s": rng.uniform(0.5, 1.5, 8), "b": rng.standard_normal(8),
                 "m": rng.standard_normal(8), "v": rng.uniform(0.5, 1.5, 8)}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 8])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return str(path)


def test_a_right_model_is_compared_with_an_onnx_runtime(tmp_path: Path) -> None:
    result = npusim.run(network(tmp_path / "m.onnx"), "tpu-v3", check=True)
    assert result.check is not None and result.check.ok
    judges = {row["op"] for row in result.check.rows} - {"Conv", "MatMul"}
    assert {"passes", "onnxruntime"} <= judges or {"passes", "onnx.reference"} <= judges


def test_a_fold_with_another_epsilon_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = bn_fold.affine

    def wrong(*args: object, **kwargs: object) -> object:
        scale, bias = true(*args, **kwargs)  # type: ignore[misc, arg-type]
        return scale.map(scale.type, lambda values: values * np.float32(0.9)), bias

    path = network(tmp_path / "m.onnx")
    monkeypatch.setattr(bn_fold, "affine", wrong)
    result = npusim.run(path, "tpu-v3", dtype="fp32", check=True)
    assert result.check is not None and not result.check.ok
    (bad,) = [row for row in result.check.rows if not row["ok"]]
    assert bad["op"] == "passes" and "y is" in bad["worst"]


def test_an_import_that_misreads_is_refused(tmp_path: Path) -> None:
    """The graph of another model stands in for a wrong import."""
    from compiler.frontend import load_model

    path = network(tmp_path / "m.onnx")
    graph = load_model(path)
    other = Graph(**{**vars(graph), "nodes": graph.nodes[:-1]})
    last = other.nodes[-1]
    renamed = Graph(**{**vars(other), "nodes": (*other.nodes[:-1], type(last)(**{**vars(last), "outputs": ("y",)}))})
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    rows = compare_models(path, renamed, renamed, feeds)
    assert [row["ok"] for row in rows if row["op"] == "passes"] == [True]
    assert [row["ok"] for row in rows if row["op"].startswith("onnx")] == [False]


@pytest.mark.parametrize("factor", [1 - 2.0**-9, 1 + 2.0**-12])
def test_the_limit_from_both_sides(factor: float) -> None:
    from compiler.text import parse_graph

    graph, scaled = (
        parse_graph(f'graph "g"\ninput %x : fp32[4]\nconst %k : fp32[1] = [{k}]\n%y : fp32[4] = Mul(%x, %k)\noutput %y')
        for k in (1.0, factor)
    )
    (row,) = compare_models(None, graph, scaled, {"x": np.float32([1, -2, 3, 4])})
    assert row["ok"] == (abs(factor - 1) < 2.0**-10)
