"""The built-in models: published amounts of work, operators of the real exports, lazy weights, clear refusals."""

import numpy as np
import pytest
from pass_fixture import feeds_of, ops

from compiler.graph import Graph
from compiler.ops import op_def, run_graph
from compiler.zoo import build, names
from isa.errors import ModelError


def macs(graph: Graph) -> int:
    """Multiply-accumulates of all nodes."""
    return sum(
        op_def(n.op).work(n, [graph.tensors.get(i) for i in n.inputs], [graph.tensors[o] for o in n.outputs]).macs
        for n in graph.nodes
    )


def parameters(graph: Graph) -> int:
    return sum(c.type.elements for c in graph.constants.values())


# Published: torchvision model cards (GMAC and parameters of the classification weights); BERT: 12 layers x
# (12 H^2 T + 2 T^2 H), H 768, T 128; Llama block: its projections alone have 45.09 M weights.
PUBLISHED = [
    ("resnet18", 1.82e9, 11.69e6),
    ("resnet50", 4.09e9, 25.56e6),
    ("mobilenetv2", 0.300e9, 3.50e6),
    ("alexnet", 0.714e9, 61.1e6),
    ("vgg16", 15.47e9, 138.36e6),
    ("vit-b16", 17.56e9, 86.57e6),
    ("bert-base", 12 * (12 * 768**2 * 128 + 2 * 128**2 * 768), 108.6e6),
    ("llama-block:1", 45.09e6 + 2 * 16 * 128, 45.09e6),
]


@pytest.mark.parametrize(("name", "work", "weights"), PUBLISHED)
def test_work_and_parameters(name: str, work: float, weights: float) -> None:
    graph = build(name)
    graph.verify()
    assert macs(graph) == pytest.approx(work, rel=0.01)
    assert parameters(graph) == pytest.approx(weights, rel=0.015)  # batch-norm statistics are not parameters


def test_operators_of_resnet50() -> None:
    assert ops(build("resnet50")) == {
        "Conv": 53, "BatchNormalization": 53, "Relu": 49, "Add": 16, "MaxPool": 1, "GlobalAveragePool": 1, "Flatten": 1,
        "Gemm": 1,
    }  # fmt: skip


def test_operators_of_bert() -> None:
    found = ops(build("bert-base"))
    assert (found["MatMul"], found["LayerNormalization"], found["Softmax"], found["Gelu"]) == (96, 25, 12, 12)


def test_depthwise_separable_cost() -> None:
    """1/N + 1/K^2 of the dense convolution's MACs (Howard et al. 2017): 0.1150 for N = 256, K = 3."""
    nodes = {n.name: n for n in build("mobilenetv2").nodes}
    assert nodes["features.2.depthwise"].attrs["group"] == 96
    dense, rows = macs(build("conv:1x14x14x256x256x3x1x1")), 14 * 14
    separable = rows * 256 * 9 + rows * 256 * 256
    assert separable / dense == pytest.approx(0.1150, abs=5e-5)


SINGLE = {
    "gemm:3x4x5": ({"x": (3, 5)}, (3, 4), 60),
    "bmm:2x3x4x5": ({"a": (2, 3, 5), "b": (2, 5, 4)}, (2, 3, 4), 120),
    "conv:1x8x6x3x4x3x2x1": ({"x": (1, 3, 8, 6)}, (1, 4, 4, 3), 12 * 4 * 27),
    "conv:1x8x6x3x4x3x1x0": ({"x": (1, 3, 8, 6)}, (1, 4, 6, 4), 24 * 4 * 27),
    "conv:1x8x6x4x8x3x1x0x2": ({"x": (1, 4, 8, 6)}, (1, 8, 6, 4), 24 * 8 * 18),
    "conv:1x8x6x3x4x3x1x0x1x2": ({"x": (1, 3, 8, 6)}, (1, 4, 4, 2), 8 * 4 * 27),
    "attention:2x8x4": ({"q": (2, 8, 4), "k": (2, 8, 4), "v": (2, 8, 4)}, (2, 8, 4), 2 * 2 * 8 * 8 * 4),
    "layernorm:3x8": ({"x": (3, 8)}, (3, 8), 0),
    "softmax:3x8": ({"x": (3, 8)}, (3, 8), 0),
    "add:2x3x4": ({"a": (2, 3, 4), "b": (2, 3, 4)}, (2, 3, 4), 0),
    "gelu:7": ({"x": (7,)}, (7,), 0),
    "bert-block:8,16,2": ({"x": (1, 8, 16)}, (1, 8, 16), 12 * 8 * 256 + 2 * 64 * 16),
}


@pytest.mark.parametrize("name", SINGLE)
def test_single_operators(name: str) -> None:
    inputs, output, work = SINGLE[name]
    graph = build(name)
    assert {n: graph.tensors[n].shape for n in graph.inputs} == inputs
    assert graph.tensors[graph.outputs[0]].shape == output
    assert macs(graph) == work


def test_attention_is_scaled_dot_product() -> None:
    graph = build("attention:2x8x4")
    feeds = feeds_of(graph)
    scores = np.exp(feeds["q"] @ feeds["k"].transpose(0, 2, 1) / 2.0)
    wanted = scores / scores.sum(-1, keepdims=True) @ feeds["v"]
    np.testing.assert_allclose(run_graph(graph, feeds)[graph.outputs[0]], wanted, rtol=1e-5)


def test_a_causal_model_does_not_see_the_future() -> None:
    graph = build("llama-block:6")
    feeds = feeds_of(graph)
    changed = {n: v.copy() for n, v in feeds.items()}
    changed[graph.inputs[0]][:, -1] += 1
    before, after = (run_graph(graph, f)[graph.outputs[0]] for f in (feeds, changed))
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert np.abs(before[:, -1] - after[:, -1]).max() > 0


def test_batch_scales_inputs_and_work() -> None:
    assert build("resnet18", 4).tensors["image"].shape == (4, 3, 224, 224)
    assert macs(build("mobilenetv2", 3)) == 3 * macs(build("mobilenetv2"))


def test_weights_are_lazy_seeded_and_of_he_variance() -> None:
    graph = build("vgg16")
    assert sum(bool(c._cache) for c in graph.constants.values() if c.type.elements > 1024) == 0
    name = "conv5.weight"
    weight = graph.constants[name].value()
    assert weight.std() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    np.testing.assert_array_equal(weight, build("vgg16").constants[name].value())
    assert not np.array_equal(weight, graph.constants["conv6.weight"].value())


def test_activations_of_a_network_neither_die_nor_explode() -> None:
    graph = build("resnet18")
    logits = run_graph(graph, feeds_of(graph))["fc"]
    assert np.isfinite(logits).all() and 0.01 < logits.std() < 1000


def test_names_lists_every_model_with_its_form() -> None:
    listed = dict(names())
    assert "gemm:MxNxK" in listed and "resnet50" in listed and "bert-base[:TOKENS]" in listed
    assert all(listed.values())


FAULTS = {
    "resnet5O": "nearest: resnet50",
    "no/such/file": "npusim models",
    "gemm": "needs its extents: gemm:MxNxK",
    "gemm:3x4": "takes gemm:MxNxK",
    "gemm:3x4x5x6": "takes gemm:MxNxK",
    "gemm:3x4xfive": "positive integers",
    "gemm:3x4x-5": "positive integers",
    "gemm:0x4x5": r"must lie in \[1,",
    "gemm:1x1x999999999": r"must lie in \[1,",
    "conv:1x0x8x3x4x3x1x1": r"must lie in \[1,",
    "conv:1x8x8x3x4x3x1x1x0": r"must lie in \[1,",
    "conv:1x8x8x3x4x3x1x1x2": "GROUP 2 must divide CIN 3 and COUT 4",
    "conv:1x8x6x3x4x3x1x0x1x3": "the window spans 7, the padded image 6",
    "conv:1x8x6x3x4x3x1x0x1x2x1": "takes conv:",
    "resnet50:7": "takes no numbers",
    "bert-base:1,2": "takes bert-base:TOKENS",
    "bert-base:513": "513 tokens, the model takes at most 512",
    "bert-block:8,10,3": "width 10 is not a multiple of 3 heads",
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name: str) -> None:
    with pytest.raises(ModelError, match=FAULTS[name]):
        build(name)


@pytest.mark.parametrize(("name", "batch", "reason"), [("gemm:1x2x3", 2, "does not apply"), ("mlp", 0, "at least 1")])
def test_batches_that_cannot_be(name: str, batch: int, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        build(name, batch)
