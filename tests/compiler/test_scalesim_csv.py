"""SCALE-Sim topologies: both forms, lazy seeded weights, and faults named by line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.frontend import load_model
from compiler.frontend.scalesim_csv import import_scalesim
from compiler.ops import op_def, run_graph
from isa.errors import ModelError

CONV = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
GEMM = "Layer, M, N, K,\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "net.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_convolutions(tmp_path: Path) -> None:
    graph = import_scalesim(write(tmp_path, CONV + "Conv1, 11, 9, 3, 2, 4, 8, 2,\n\nFC, 1, 1, 1, 1, 16, 10, 1,\n"))
    assert [n.op for n in graph.nodes] == ["Conv", "Conv"]
    assert graph.tensors["Conv1"].shape == (1, 8, (11 - 3) // 2 + 1, (9 - 2) // 2 + 1)
    node = graph.nodes[0]
    work = op_def("Conv").work(node, [graph.tensors[n] for n in node.inputs], [graph.tensors["Conv1"]])
    assert work.macs == 8 * 5 * 4 * 4 * 3 * 2
    assert graph.inputs == ("Conv1.ifmap", "FC.ifmap")


def test_gemms_run(tmp_path: Path) -> None:
    graph = load_model(str(write(tmp_path, GEMM + "a, 3, 4, 500,\na, 1, 2, 5,\n")))
    assert [t.shape for t in (graph.tensors[n] for n in graph.outputs)] == [(3, 4), (1, 2)]
    feeds = {n: np.ones(graph.tensors[n].shape, np.float32) for n in graph.inputs}
    result = run_graph(graph, feeds)[graph.outputs[0]]
    np.testing.assert_allclose(result[0], graph.constants["a.b"].value().sum(axis=0), rtol=1e-4, atol=1e-4)


def test_weights_are_he_normal_and_repeatable(tmp_path: Path) -> None:
    path = write(tmp_path, GEMM + "a, 3, 400, 500\n")
    first, second = (import_scalesim(path).constants["a.b"] for _ in range(2))
    np.testing.assert_array_equal(first.value(), second.value())
    assert first.value().std() == pytest.approx((2 / 500) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (GEMM, "no layers"),
        ("a, b\nx, 1\n", ":1: header"),
        (GEMM + "a, 3, 4\n", ":2: 3 columns"),
        (GEMM + "a, 3, 4, x\n", ":2: K is 'x'"),
        (GEMM + "a, 3, 0, 4\n", ":2: N is '0'"),
        (GEMM + "a, 3, 4, 4\nb, -1, 2, 2\n", ":3: M is '-1'"),
        (GEMM + "a, 999999999999, 999999999999, 4\n", ":2: .*elements at most"),
        (CONV + "c, 3, 3, 5, 3, 1, 1, 1\n", ":2: .*larger than the padded input"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        import_scalesim(write(tmp_path, text))


def test_batch_does_not_apply(tmp_path: Path) -> None:
    path = str(write(tmp_path, GEMM + "a, 1, 2, 3\n"))
    assert load_model(path, batch=1).outputs == ("a",)
    with pytest.raises(ModelError, match="--batch 4"):
        load_model(path, batch=4)
