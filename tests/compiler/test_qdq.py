"""QuantizeLinear and DequantizeLinear: per tensor, channel and block, known and computed scales; models of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pass_fixture import apply, assert_body, graph_of, ops

from compiler.compile import compile_graph
from compiler.graph import Constant, Graph, Node, TensorType
from compiler.ops import op_def
from compiler.passes import canonical, qdq
from compiler.passes.pipeline import optimised
from isa.loader import load_machine
from npusim.check import check

Array = npt.NDArray[Any]
RNG = np.random.default_rng(5)
X = (2, 6, 4)
SCALES = {"tensor": ((), {}), "channel": ((6,), {"axis": 1}), "last": ((4,), {"axis": -1}),
          "block": ((2, 3, 4), {"axis": 1, "block_size": 2})}  # fmt: skip


def graph(nodes: list[Node], inputs: dict[str, Array], constants: dict[str, Array], kinds: dict[str, str]) -> Graph:
    """A graph of nodes one after another; float tensors are fp32 but where `kinds` says otherwise."""
    types = {k: TensorType(v.shape, kinds.get(k, "fp32")) for k, v in {**inputs, **constants}.items()}
    for node in nodes:
        found = op_def(node.op).infer(node, [types[n] for n in node.inputs], [constants.get(n) for n in node.inputs])
        types[node.outputs[0]] = found[0]
    held = {k: Constant.of(v, types[k].dtype) for k, v in constants.items()}
    return Graph("qdq", tuple(nodes), tuple(inputs), nodes[-1].outputs, types, held)


def passes_check(made: Graph, feeds: dict[str, Array], hw: str = "tpu-v3", dtype: str = "fp32") -> list[str]:
    """Compile and check; the operators of the launches. Nothing may be estimated."""
    machine = load_machine(hw).machine
    compilation = compile_graph(made, machine, dtype)
    result = check(compilation, machine, feeds)
    assert not compilation.built.assumptions and not result.hazards
    assert [r for r in result.rows if not r["ok"]] == []
    return [o.op_type for o in compilation.built.program.operators]


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("form", SCALES)
@pytest.mark.parametrize("known", [True, False])
def test_quantised_and_back(kind: str, form: str, known: bool) -> None:
    shape, attrs = SCALES[form]
    low = -20 if kind == "int8" else 100
    scale, zero = RNG.uniform(0.01, 0.05, shape), RNG.integers(low, low + 40, shape)
    held = {"s": scale.astype(np.float32), "z": zero.astype(kind)}
    nodes = [
        Node("q", "QuantizeLinear", ("x", "s", "z"), ("q",), attrs),
        Node("d", "DequantizeLinear", ("q", "s", "z"), ("y",), attrs),
    ]
    feeds = {"x": RNG.standard_normal(X).astype(np.float32)}
    parts = ({}, held) if known else (held, {})
    found = passes_check(graph(nodes, {**feeds, **parts[0]}, parts[1], {"z": kind}), {**feeds, **parts[0]})
    assert found == ["QuantizeLinear+DequantizeLinear"] or form == "block"


def test_both_go_into_one_kernel_with_different_scales() -> None:
    nodes = [Node("q", "QuantizeLinear", ("x", "s"), ("q",), {"output_dtype": "int8"}),
             Node("d", "DequantizeLinear", ("q", "t"), ("y",), {})]  # fmt: skip
    feeds = {"x": RNG.standard_normal(X).astype(np.float32)}
    scales = {"s": np.float32(0.02), "t": np.float32(0.03)}
    assert passes_check(graph(nodes, feeds, scales, {}), feeds) == ["QuantizeLinear+DequantizeLinear"]


def test_scales_get_a_shape_that_broadcasts() -> None:
    text = """
        graph "t"
        input %x : fp32[2,6,4]
        const %s : fp32[6]
        const %t : fp32[2,3,4]
        const %z : int8[2,3,4]
        %q : int8[2,6,4] = QuantizeLinear(%x, %s) {"axis": 1, "output_dtype": "int8"}
        %y : fp32[2,6,4] = DequantizeLinear(%q, %t, %z) {"axis": 1, "block_size": 2}
        output %y
    """
    after = apply(canonical.run, text)
    assert ops(after) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Reshape": 2}
    assert {after.tensors[n].shape for n in after.constants} == {(1, 6, 1), (2, 3, 1, 4)}


def test_weights_are_dequantised_by_the_compiler_whatever_their_size() -> None:
    text = """
        graph "t"
        input %x : fp32[1,600]
        const %w : int8[600,2000]
        const %s : fp32[2000]
        %d : fp32[600,2000] = DequantizeLinear(%w, %s) {"axis": 1}
        %y : fp32[1,2000] = MatMul(%x, %d)
        output %y
    """
    assert ops(optimised(graph_of(text))) == {"MatMul": 1}


@pytest.mark.parametrize("hw", ["tpu-v3", "tpu-v4"])
def test_a_convolution_between_quantised_tensors(hw: str) -> None:
    held: dict[str, Array] = {
        "s": np.float32(0.03), "z": np.int8(3), "ws": RNG.uniform(0.01, 0.02, 5).astype(np.float32),
        "w": RNG.integers(-99, 99, (5, 3, 3, 3)).astype(np.int8), "t": np.float32(0.1),
    }  # fmt: skip
    nodes = [
        Node("q", "QuantizeLinear", ("x", "s", "z"), ("q",), {}),
        Node("d", "DequantizeLinear", ("q", "s", "z"), ("r",), {}),
        Node("dw", "DequantizeLinear", ("w", "ws"), ("v",), {"axis": 0}),
        Node("c", "Conv", ("r", "v"), ("c",), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
        Node("p", "QuantizeLinear", ("c", "t"), ("p",), {"output_dtype": "int8"}),
        Node("e", "DequantizeLinear", ("p", "t"), ("y",), {}),
    ]
    feeds = {"x": RNG.standard_normal((1, 3, 6, 6)).astype(np.float32)}
    found = passes_check(graph(nodes, feeds, held, {"z": "int8", "w": "int8"}), feeds, hw, "bf16")
    assert found.count("QuantizeLinear+DequantizeLinear") == 2 and len(found) == 5  # two turn the layout


NETWORK = """
    graph "qdq"
    input %x : fp32[1,3,8,8]
    const %w : fp32[6,3,3,3]
    const %b : fp32[6]
    const %v : fp32[6,6,1,1]
    const %one : fp32[] = 0.5
    const %two : fp32[] = 0.25
    const %zero : {kind}[] = {zero}
    %q0 : {kind}[1,3,8,8] = QuantizeLinear(%x, %one, %zero)
    %x0 : fp32[1,3,8,8] = DequantizeLinear(%q0, %one, %zero)
    %c : fp32[1,6,8,8] = Conv(%x0, %w, %b) {{"pads": [1, 1, 1, 1]}}
    %r : fp32[1,6,8,8] = Relu(%c)
    %q1 : {kind}[1,6,8,8] = QuantizeLinear(%r, %two, %zero)
    %x1 : fp32[1,6,8,8] = DequantizeLinear(%q1, %two, %zero)
    %d : fp32[1,6,8,8] = Conv(%x1, %v)
    %q2 : {kind}[1,6,8,8] = QuantizeLinear(%d, %one, %zero)
    %x2 : fp32[1,6,8,8] = DequantizeLinear(%q2, %one, %zero)
    %y : fp32[1,6,8,8] = Add(%x2, %x1)
    output %y
"""


@pytest.mark.parametrize("hw", ["tpu-v1", "gemmini-16x16"])
@pytest.mark.parametrize(("kind", "zero", "integer"), [("int8", 0, True), ("uint8", 128, True), ("uint8", 3, False)])
def test_operators_between_pairs_are_integer_kernels(hw: str, kind: str, zero: int, integer: bool) -> None:
    made, machine = graph_of(NETWORK.format(kind=kind, zero=zero)), load_machine(hw).machine
    feeds = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    compilation = compile_graph(made, machine, calibration=feeds)
    result = check(compilation, machine, feeds)
    assert not result.hazards and [r for r in result.rows if not r["ok"]] == []
    found = [o.op_type for o in compilation.built.program.operators if "Transpose" not in o.op_type]
    assert not compilation.built.assumptions
    if integer:
        assert found == ["Conv+Relu", "Conv+Add"]
        results = [n.outputs[0] for n in compilation.graph.nodes if n.op in ("Conv", "Relu")]
        assert [compilation.graph.tensors[name].scale for name in results] == [0.25, 0.25, 0.5]
    else:
        assert found == ["FakeQuantize", "Conv+Relu", "FakeQuantize", "Conv", "FakeQuantize+Add"]


BEFORE = """
    graph "t"
    input %x : fp32[2,3]
    const %s : fp32[] = 0.5
    const %t : fp32[] = 0.5
    const %u : fp32[] = 0.25
    const %z : int8[] = 3
    %q : int8[2,3] = QuantizeLinear(%x, %s, %z)
    %d : fp32[2,3] = DequantizeLinear(%q, %t, %z)
    %e : fp32[2,3] = DequantizeLinear(%q, %u, %z)
    %y : fp32[2,3] = Add(%d, %e)
    output %y
"""


def test_pairs_become_one_operator_where_their_scales_agree() -> None:
    assert_body(
        apply(qdq.run, BEFORE),
        """%q : int8[2,3] = QuantizeLinear(%x, %s, %z)
        %d : fp32[2,3] = FakeQuantize(%x) {"high": 124, "low": -131, "scale": 0.5}
        %e : fp32[2,3] = DequantizeLinear(%q, %u, %z)
        %y : fp32[2,3] = Add(%d, %e)""",
    )
