"""Trained networks that come with PyPI packages, from file to checked values, against onnxruntime."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import npusim
from compiler.frontend import load_model
from compiler.ops import run_graph
from npusim.inputs import generate

MODELS = {
    "magika": ("magika", "models/standard_v3_3/model.onnx", {"bytes": (1, 2048)}),
    "text direction": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
}


def path_of(name: str) -> Path:
    package, inner, _ = MODELS[name]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the PyPI package {package} is not installed")
    path = Path(found.origin).parent / inner
    if not path.exists():
        pytest.skip(f"{package} ships another model than {inner}")
    return path


@pytest.mark.parametrize("hw", ["tpu-v3", "tpu-v1", "gemmini-16x16"])
@pytest.mark.parametrize("name", MODELS)
def test_check_passes(name: str, hw: str) -> None:
    result = npusim.run(str(path_of(name)), hw, check=True, shapes=MODELS[name][2])
    assert result.check is not None
    assert result.check.ok, [r for r in result.check.rows if not r["ok"]]
    assert result.check.executed_share >= 0.95


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_is_onnxruntime(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = path_of(name)
    graph = load_model(str(path), MODELS[name][2])
    feeds = generate(graph, 0)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    got = run_graph(graph, feeds)
    for name_out, value in zip(graph.outputs, expected):
        assert np.allclose(got[name_out], value, rtol=1e-3, atol=1e-4)
