"""Fusion: the rule table, convex groups on random DAGs, and the traffic that disappears."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_fixture import assert_same_values, feeds_of, graph_of

from compiler.graph import Graph, Node, TensorType
from compiler.ops import op_def, run_graph
from compiler.passes import bn_fold, fusion
from compiler.passes.fusion import MAX_CHAIN, VIEW, activation_bytes, groups
from compiler.passes.pipeline import optimised
from compiler.zoo import build

T = "fp32[2,8,8,4]"
CONV = 'const %w : fp32[1,1,4,4]\n%c : fp32[2,8,8,4] = Conv(%x, %w) {"layout": "NHWC"}'


def group_lists(*lines: str, out: str = "y") -> list[list[str]]:
    text = "\n".join(['graph "t"', f"input %x : {T}", f"input %r : {T}", *lines, f"output %{out}"])
    graph = graph_of(text)
    after = fusion.run(graph)
    after.verify()
    assert_same_values(graph, after)
    return [[node.op for node in nodes] for nodes in groups(after).values()]


TABLE = {
    "activation": ((CONV, f"%y : {T} = Relu(%c)"), [["Conv", "Relu"]]),
    "residual": ((CONV, f"%a : {T} = Add(%c, %r)", f"%y : {T} = Relu(%a)"), [["Conv", "Add", "Relu"]]),
    "vector": ((CONV, "const %v : fp32[4]", f"%y : {T} = Mul(%v, %c)"), [["Conv", "Mul"]]),
    "scalar": ((CONV, "const %v : fp32[] = 2.0", f"%y : {T} = Mul(%c, %v)"), [["Conv", "Mul"]]),
    "divided by the result": ((CONV, f"%y : {T} = Div(%r, %c)"), [["Conv"], ["Div"]]),
    "divided by a residual": ((CONV, f"%y : {T} = Div(%c, %r)"), [["Conv", "Div"]]),
    "with itself": ((CONV, f"%y : {T} = Mul(%c, %c)"), [["Conv"], ["Mul"]]),
    "row, not channel": ((CONV, "const %v : fp32[8,1]", f"%y : {T} = Mul(%v, %c)"), [["Conv"], ["Mul"]]),
    "grows by broadcast": (
        (CONV, "const %v : fp32[3,1,1,1,1]", "%y : fp32[3,2,8,8,4] = Mul(%v, %c)"), [["Conv"], ["Mul"]],
    ),
    "no vector instruction": ((CONV, f"%y : {T} = Selu(%c)"), [["Conv"], ["Selu"]]),
    "read twice": (
        (CONV, f"%a : {T} = Relu(%c)", f"%b : {T} = Exp(%c)", f"%y : {T} = Add(%a, %b)"),
        [["Conv"], ["Relu", "Add"], ["Exp"]],
    ),
    "chain": ((f"%a : {T} = Exp(%x)", f"%b : {T} = Selu(%a)", f"%y : {T} = Mul(%b, %b)"), [["Exp", "Selu", "Mul"]]),
    "reduction": (
        (f"%a : {T} = Exp(%x)", f'%b : {T} = Softmax(%a) {{"axis": -1}}', f"%y : {T} = Neg(%b)"),
        [["Exp"], ["Softmax"], ["Neg"]],
    ),
    "layout": ((f'%a : {T} = Transpose(%x) {{"perm": [0, 2, 1, 3]}}', f"%y : {T} = Neg(%a)"), [["Transpose"], ["Neg"]]),
    "view": (('%a : fp32[512] = Reshape(%x) {"shape": [512]}', "%y : fp32[512] = Neg(%a)"), [["Reshape"], ["Neg"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_rule_table(name: str) -> None:
    lines, expected = TABLE[name]
    assert sorted(group_lists(*lines)) == sorted(expected)


def test_graph_outputs_leave_their_group() -> None:
    text = f'graph "t"\ninput %x : {T}\n{CONV}\n%y : {T} = Relu(%c)\noutput %c, %y'
    assert len(groups(fusion.run(graph_of(text)))) == 2


def test_chain_limit_from_both_sides() -> None:
    for length, expected in ((MAX_CHAIN, 1), (MAX_CHAIN + 1, 2)):
        names = ["x", *(f"t{i}" for i in range(length - 1)), "y"]
        lines = [f"%{b} : {T} = Neg(%{a})" for a, b in pairwise(names)]
        assert len(group_lists(*lines)) == expected


def test_without_fusion_each_node_is_a_group() -> None:
    graph = optimised(build("resnet18"))
    alone = fusion.run(graph, fusion=False)
    assert len(groups(alone)) == len(alone.nodes)
    assert sum(name.startswith(VIEW) for name in groups(alone)) == 1


def test_resnet18_is_one_kernel_a_layer() -> None:
    found = groups(optimised(build("resnet18")))
    # 20 convolutions and the classifier anchor all arithmetic; pool, mean, one conversion and one view remain.
    assert sorted(nodes[0].op for nodes in found.values()) == sorted(
        ["Conv"] * 20 + ["MatMul", "MaxPool", "ReduceMean", "Transpose", "Reshape"]
    )


def test_activation_traffic_of_conv_bn_relu() -> None:
    """56 x 56 x 256 in fp16 is 1.606 MB: unfused in + 5 maps, fused in + 1 map (seed row 3.3)."""
    text = """
        graph "t"
        input %x : fp16[1,64,56,56]
        const %w : fp16[256,64,1,1]
        const %g : fp16[256]
        %c : fp16[1,256,56,56] = Conv(%x, %w)
        %n : fp16[1,256,56,56] = BatchNormalization(%c, %g, %g, %g, %g)
        %y : fp16[1,256,56,56] = Relu(%n)
        output %y
    """
    graph, source, maps = graph_of(text), 64 * 56 * 56 * 2, 256 * 56 * 56 * 2
    assert maps == 1_605_632
    assert activation_bytes(fusion.run(graph, fusion=False)) == source + 5 * maps
    assert activation_bytes(fusion.run(bn_fold.run(graph))) == source + maps


# --- random graphs ---------------------------------------------------------------------------------------------------

UNARY, BINARY = ("Relu", "Tanh", "Neg", "Selu"), ("Add", "Mul", "Sub", "Max")
KIND = TensorType((4, 4), "fp32")


@st.composite
def dags(draw: st.DrawFn) -> Graph:
    nodes: list[Node] = []
    names = ["x", "z"]
    for index in range(draw(st.integers(1, 14))):
        op = draw(st.sampled_from([*UNARY, *BINARY, "MatMul", "Softmax", "Transpose", "Reshape"]))
        count = 2 if op in (*BINARY, "MatMul") else 1
        inputs = tuple(draw(st.sampled_from(names[-5:])) for _ in range(count))
        attrs = {"Transpose": {"perm": (1, 0)}, "Reshape": {"shape": (4, 4)}}.get(op, {})
        nodes.append(Node(f"n{index}", op, inputs, (f"t{index}",), attrs))
        names.append(f"t{index}")
    outputs = tuple(dict.fromkeys([names[-1], draw(st.sampled_from(names[2:]))]))
    return Graph("random", tuple(nodes), ("x", "z"), outputs, dict.fromkeys(names, KIND))


@settings(max_examples=150, deadline=None)
@given(dags())
def test_groups_of_random_graphs(graph: Graph) -> None:
    after = fusion.run(graph)
    after.verify()
    grouped = groups(after)
    assert sorted(n.name for nodes in grouped.values() for n in nodes) == sorted(n.name for n in graph.nodes)
    assert [n.name for n in after.nodes] == [n.name for nodes in grouped.values() for n in nodes], (
        "groups are contiguous"
    )
    for name, nodes in grouped.items():
        assert len(nodes) <= MAX_CHAIN
        assert name.startswith(VIEW) == (nodes[0].op == "Reshape")
        if len(nodes) > 1:
            assert op_def(nodes[0].op).op_class in ("complex", "elementwise")
            assert all(op_def(node.op).op_class == "elementwise" for node in nodes[1:])
    assert_convex(after)
    if graph.nodes:
        feeds = feeds_of(graph)
        wanted, got = run_graph(graph, feeds), run_graph(after, feeds)
        assert all((wanted[n] == got[n]).all() or wanted[n].dtype.kind == "f" for n in graph.outputs)


def assert_convex(graph: Graph) -> None:
    """No path leaves a group and comes back."""
    producers, home = graph.producers(), {node.name: node.group for node in graph.nodes}
    above: dict[str, set[str]] = defaultdict(set)  # groups on some path into a node, its own included
    for node in graph.nodes:
        for name in node.inputs:
            source = producers.get(name)
            if source is None:
                continue
            if home[source.name] != node.group:
                assert node.group not in above[source.name], f"{node.name} is reached from its own group {node.group}"
            above[node.name] |= above[source.name] | {home[source.name]}
