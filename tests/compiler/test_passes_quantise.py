"""Number formats: floats of the run, symmetric int8 with channel scales, nothing built before it is asked for."""

import numpy as np
import pytest
from pass_fixture import feeds_of, graph_of

from compiler.graph import Constant, Graph
from compiler.ops import run_graph
from compiler.passes import dtype, quantise
from compiler.passes.pipeline import optimised
from compiler.zoo import build
from isa.errors import CompileError

TEXT = """
    graph "t"
    input %x : fp32[1,4,4,3]
    input %ids : int64[2]
    const %w : fp32[1,1,3,5]
    const %b : fp32[5]
    const %table : fp32[7,5]
    %c : fp32[1,4,4,5] = Conv(%x, %w, %b) {"layout": "NHWC"}
    %r : fp32[1,4,4,5] = Relu(%c)
    %v : fp32[16,5] = Reshape(%r) {"shape": [16, 5]}
    %g : fp32[2,5] = Gather(%table, %ids)
    %y : fp32[18,5] = Concat(%v, %g) {"axis": 0}
    output %y
"""


def must_not_build() -> np.ndarray:
    raise AssertionError("a constant was built that nobody asked for")


def lazy(graph: Graph) -> Graph:
    constants = {n: Constant(c.type, must_not_build) for n, c in graph.constants.items()}
    return graph.with_nodes(graph.nodes, constants=constants)


# --- floats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tolerance"), [("fp16", 2e-3), ("bf16", 2e-2), ("fp32", 0.0)])
def test_floats_take_the_dtype_of_the_run(name: str, tolerance: float) -> None:
    graph = graph_of(TEXT)
    after = dtype.run(graph, name)
    after.verify()
    assert {k.dtype for n, k in after.tensors.items() if n != "ids"} == {name}
    assert after.tensors["ids"].dtype == "int64"
    feeds = feeds_of(graph)
    wanted, got = (run_graph(g, feeds)["y"].astype(np.float64) for g in (graph, after))
    assert np.abs(wanted - got).max() <= tolerance * np.abs(wanted).max()


def test_conversion_builds_nothing_and_keeps_stripped_weights() -> None:
    dtype.run(lazy(graph_of(TEXT)), "bf16")
    graph = graph_of(TEXT)
    stripped = graph.with_nodes(graph.nodes, constants={n: Constant(c.type) for n, c in graph.constants.items()})
    assert all(c.stripped for c in dtype.run(stripped, "fp16").constants.values())


def test_casts_between_floats_follow() -> None:
    text = """
        graph "t"
        input %x : fp32[2]
        %a : fp16[2] = Cast(%x) {"to": "fp16"}
        %y : int32[2] = Cast(%a) {"to": "int32"}
        output %y
    """
    after = dtype.run(graph_of(text), "bf16")
    assert [node.attrs["to"] for node in after.nodes] == ["bf16", "int32"]


def test_a_mask_below_the_range_becomes_infinite_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    graph = graph_of('graph "t"\nconst %m : fp32[1] = [-3.4e38]\n%y : fp32[1] = Neg(%m)\noutput %y')
    assert np.isneginf(dtype.run(graph, "fp16").constants["m"].value().astype(np.float32)).all()
    assert not recwarn.list


def test_integer_formats_are_refused() -> None:
    with pytest.raises(CompileError, match="'int8' is not a float format"):
        dtype.run(graph_of(TEXT), "int8")


# --- int8 ------------------------------------------------------------------------------------------------------------


def test_types_scales_and_weights() -> None:
    graph = graph_of(TEXT)
    ranges = {"x": 1.27, "c": 2.54, "r": 2.54, "v": 2.54, "g": 5.08, "y": 5.08}
    after = quantise.run(graph, ranges)
    after.verify()
    scale = {name: after.tensors[name].scale for name in ("x", "c", "r", "v", "g", "y", "table")}
    assert scale["x"] == pytest.approx(0.01) and scale["c"] == pytest.approx(0.02)
    # Relu rescales; view, table, gather and concat only move, so they share the largest range among them.
    assert scale["r"] == scale["v"] == scale["g"] == scale["y"] == scale["table"] == pytest.approx(0.04)
    assert after.tensors["ids"].dtype == "int64" and after.tensors["b"].dtype == "fp32"
    node = after.nodes[0]
    assert node.inputs == ("x", "w.int8", "b") and node.attrs["weight_scales"] == "w.scales"
    assert "w" not in after.constants


def test_weights_use_the_whole_range_of_every_channel() -> None:
    after = quantise.run(graph_of(TEXT))
    stored, scales = after.constants["w.int8"].value(), after.constants["w.scales"].value()
    original = graph_of(TEXT).constants["w"].value()
    assert stored.dtype == np.int8 and (np.abs(stored).max(axis=(0, 1, 2)) == 127).all()
    assert (np.abs(stored * scales - original) <= scales / 2 * 1.0001).all()


@pytest.mark.parametrize(
    ("line", "weight", "channels"),
    [
        ("Conv(%x, %w)", "[5,4,3]", 5),
        ('Conv(%x, %w) {"layout": "NHWC"}', "[3,6,5]", 5),
        ('ConvTranspose(%x, %w)', "[4,5,3]", 5),
        ("MatMul(%x, %w)", "[6,5]", 5),
        ('MatMul(%x, %w) {"transB": 1}', "[5,6]", 5),
    ],
)  # fmt: skip
def test_channel_axis(line: str, weight: str, channels: int) -> None:
    graph = graph_of(f'graph "t"\ninput %x : fp32[2,4,6]\nconst %w : fp32{weight}\n%y : fp32[1] = {line}\noutput %y')
    after = quantise.run(graph)
    assert after.constants["w.scales"].value().shape == (channels,)
    assert np.abs(after.constants["w.int8"].value()).max() == 127


def test_calibration_sees_every_batch() -> None:
    graph = graph_of(TEXT)
    feeds = feeds_of(graph)
    larger = {**feeds, "x": feeds["x"] * 10}
    one, both = quantise.calibrate(graph, [feeds]), quantise.calibrate(graph, [feeds, larger])
    assert both["x"] == pytest.approx(10 * one["x"])
    assert "ids" not in both and set(both) == {"x", "c", "r", "v", "g", "y"}


def test_quantised_values_are_near() -> None:
    """Dequantised weights and rounded activations, layer by layer, stay within a few levels of the float network."""
    graph = optimised(build("mlp"))
    feeds = feeds_of(graph)
    after = quantise.run(graph, quantise.calibrate(graph, [feeds]))
    value = feeds["x"]
    for node in after.nodes:
        kind = after.tensors[node.outputs[0]]
        if node.op == "MatMul":
            weight = after.constants[node.inputs[1]].value() * after.constants[node.attrs["weight_scales"]].value()
            value = value @ weight + after.constants[node.inputs[2]].value()
        value = np.maximum(value, 0) if node.op == "Relu" else value
        value = np.clip(np.rint(value / kind.scale), -128, 127) * kind.scale
    wanted = run_graph(graph, feeds)[graph.outputs[0]]
    assert np.abs(value - wanted).max() < 0.05 * np.abs(wanted).max()


def test_without_ranges_nothing_is_built() -> None:
    after = quantise.run(lazy(optimised(build("resnet18"))))
    after.verify()
    assert {k.scale for k in after.tensors.values() if k.dtype == "int8"} == {1.0, 1 / 16}  # 1.0: weights by channel


def test_stripped_weights_stay_stripped() -> None:
    graph = graph_of(TEXT)
    stripped = graph.with_nodes(graph.nodes, constants={n: Constant(c.type) for n, c in graph.constants.items()})
    assert all(c.stripped for c in quantise.run(stripped).constants.values())


def test_tensors_of_zeros_get_a_scale() -> None:
    graph = graph_of('graph "t"\ninput %x : fp32[2]\n%y : fp32[2] = Relu(%x)\noutput %y')
    assert quantise.run(graph, {"x": 0.0, "y": 0.0}).tensors["x"].scale > 0
