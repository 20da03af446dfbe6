"""The project's own model files: text and YAML give the same graph; faults name file and line."""

from pathlib import Path

import numpy as np
import pytest
from pass_fixture import feeds_of

from compiler.frontend import load_model
from compiler.ops import run_graph
from compiler.text import print_graph
from compiler.zoo import build
from isa.errors import ModelError

YAML = """
name: net
inputs: {x: "fp32[1,3,8,8]"}
constants:
  w: fp32[4,3,3,3]
  b: {type: "fp32[4]", values: [0.0, 0.5, 1.0, 1.5]}
nodes:
  - {op: Conv, inputs: [x, w, b], outputs: [c], attrs: {pads: [1, 1, 1, 1], group: 1}}
  - {op: LeakyRelu, name: act, inputs: [c], outputs: [y], attrs: {alpha: 0.1}}
outputs: [y]
"""
TEXT = """graph net
input %x : fp32[1,3,8,8]
const %w : fp32[4,3,3,3]
const %b : fp32[4] = [0.0, 0.5, 1.0, 1.5]
%c : fp32[1,4,8,8] = Conv(%x, %w, %b) {"group": 1, "pads": [1, 1, 1, 1]}
%y : fp32[1,4,8,8] = LeakyRelu(%c) {"alpha": 0.1} as act
output %y
"""


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_yaml_and_text_are_one_model(tmp_path: Path) -> None:
    from_yaml = load_model(written(tmp_path, "a.yaml", YAML))
    from_text = load_model(written(tmp_path, "a.npu", TEXT))
    assert print_graph(from_yaml) == print_graph(from_text)
    feeds = feeds_of(from_yaml)
    np.testing.assert_array_equal(run_graph(from_yaml, feeds)["y"], run_graph(from_text, feeds)["y"])


def test_weights_are_seeded_by_name_and_of_he_variance(tmp_path: Path) -> None:
    text = "input %x : fp16[64,512]\nconst %w : fp16[512,512]\n%y : fp16[64,512] = MatMul(%x, %w)\noutput %y"
    path = written(tmp_path, "a.npu", text)
    weight = load_model(path).constants["w"].value()
    assert weight.dtype == np.float16
    assert weight.astype(np.float64).std() == pytest.approx((2 / 512) ** 0.5, rel=0.01)
    np.testing.assert_array_equal(weight, load_model(path).constants["w"].value())


def test_printed_zoo_models_load(tmp_path: Path) -> None:
    graph = build("mobilenetv2")
    loaded = load_model(written(tmp_path, "m.npu", print_graph(graph)))
    assert loaded.nodes == graph.nodes and dict(loaded.tensors) == dict(graph.tensors)


FAULTS = {
    "unknown key": (YAML.replace("nodes:", "node:"), r"a.yaml:7:1: the model has no key 'node'; nearest: nodes"),
    "missing key": ("inputs: {}\nnodes: []\n", "key 'outputs' is missing"),
    "unknown operator": (YAML.replace("LeakyRelu", "LeakyRelo"), r"a.yaml:9:5: .*nearest supported: LeakyRelu"),
    "attribute of the wrong kind": (YAML.replace("pads: [1, 1, 1, 1]", "pads: [a, b]"), r"node 'c'.*malformed"),
    "shapes": (YAML.replace("fp32[4,3,3,3]", "fp32[4,2,3,3]"), r"a.yaml:8:5: node 'c' \(Conv\): 3 input channels"),
    "type": (YAML.replace("fp32[4,3,3,3]", "float[4]"), "expected a type such as"),
    "values": (YAML.replace("1.0, 1.5]", "1.0]"), r"have shape \[3\], not fp32\[4\]"),
    "not numbers": (YAML.replace("[0.0, 0.5, 1.0, 1.5]", "[a, b, c, d]"), "are not numbers"),
    "name like a number": (YAML.replace("outputs: [y]\n", "outputs: [7]\n"), "quote it"),
    "never written": (YAML.replace("outputs: [y]\n", "outputs: [z]\n"), "'z' is read before"),
    "malformed": ("inputs: [", "malformed YAML"),
    "twice": (YAML + "name: other\n", "duplicate key"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_yaml(tmp_path: Path, name: str) -> None:
    text, reason = FAULTS[name]
    with pytest.raises(ModelError, match=reason):
        load_model(written(tmp_path, "a.yaml", text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace("%c : fp32[1,4,8,8]", "%c : fp32[1,4,6,6]"), r"a.npu: node 'c' makes fp32\[1,4,8,8\]"),
        (TEXT.replace("LeakyRelu", "Leaky"), "unknown operator 'Leaky'; nearest supported: LeakyRelu"),
        (TEXT.replace("output %y", ""), "needs a line 'output"),
        (TEXT.replace('"pads": [1, 1, 1, 1]', '"pads": "many"'), "node 'c': malformed"),
        (TEXT.replace("%x, %w, %b", "%x"), r"node 'c'.*input 1 is required"),
    ],
)
def test_faults_of_text(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        load_model(written(tmp_path, "a.npu", text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(str(tmp_path / "absent.yaml"))
    with pytest.raises(ModelError, match="--batch 2 does not apply"):
        load_model(written(tmp_path, "a.npu", TEXT), batch=2)
