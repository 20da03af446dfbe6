"""NCHW to NHWC: conversions are as few as possible, weights are turned at compile time, values are equal."""

import pytest
from pass_fixture import apply, assert_same_values, graph_of, ops

from compiler.graph import Graph
from compiler.passes import layout, shapes
from compiler.passes.pipeline import optimised
from compiler.zoo import build


def run(*lines: str, x: str = "fp32[2,3,8,8]", out: str = "y") -> Graph:
    """Lay out a graph whose types are inferred; text types are placeholders."""
    text = "\n".join(['graph "t"', f"input %x : {x}", *lines, f"output %{out}"])
    return apply(layout.run, shapes.run(graph_of(text)))


CONV = ("const %w : fp32[4,3,3,3]", '%c : fp32[1] = Conv(%x, %w) {"pads": [1, 1, 1, 1]}')


def test_chain_of_five_convolutions_has_two_conversions() -> None:
    lines, last = [], "x"
    for index in range(5):
        lines += [
            f"const %w{index} : fp32[3,3,3,3]",
            f'%c{index} : fp32[1] = Conv(%{last}, %w{index}) {{"pads": [1, 1, 1, 1]}}',
        ]
        last = f"c{index}"
    after = run(*lines, out="c4")
    assert ops(after) == {"Conv": 5, "Transpose": 2}
    assert all(node.attrs["layout"] == "NHWC" for node in after.nodes if node.op == "Conv")
    assert after.tensors[after.nodes[1].inputs[1]].shape == (3, 3, 3, 3)


# What stands between two convolutions, and the Transposes in the whole graph (2 = one in, one out).
BETWEEN = {
    "relu": (("%d : fp32[1] = Relu(%c)",), 2),
    "residual": (("%d : fp32[1] = Add(%c, %c)",), 2),
    "channel constant": (("const %k : fp32[4,1,1]", "%d : fp32[1] = Mul(%c, %k)"), 2),
    "row constant": (("const %k : fp32[8]", "%d : fp32[1] = Mul(%c, %k)"), 2),
    "scalar": (("const %k : fp32[] = 2.0", "%d : fp32[1] = Mul(%k, %c)"), 2),
    "prelu": (("const %k : fp32[4,1,1]", "%d : fp32[1] = PRelu(%c, %k)"), 2),
    "max pool": (('%d : fp32[1] = MaxPool(%c) {"kernel_shape": [2, 2], "strides": [2, 2]}',), 2),
    "average pool": (('%d : fp32[1] = AveragePool(%c) {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}',), 2),
    "concat": (('%d : fp32[1] = Concat(%c, %c) {"axis": 1}',), 2),
    "slice": (('%d : fp32[1] = Slice(%c) {"axes": [1], "starts": [1], "ends": [3], "steps": [1]}',), 2),
    "pad": (('%d : fp32[1] = Pad(%c) {"pads": [0, 0, 1, 2, 0, 0, 3, 4], "value": 0.5}',), 2),
    "resize": (('%d : fp32[1] = Resize(%c) {"sizes": [2, 4, 16, 4], "scales": [1.0, 1.0, 2.0, 0.5]}',), 2),
    "batch norm": (
        ("const %k : fp32[4]", "%d : fp32[1] = BatchNormalization(%c, %k, %k, %k, %k)"), 2
    ),
    "squeeze and excite": (
        ('%m : fp32[1] = ReduceMean(%c) {"axes": [2, 3], "keepdims": 1}', "%s : fp32[1] = Sigmoid(%m)",
         "%d : fp32[1] = Mul(%c, %s)"), 2
    ),
    "channel shuffle": (
        ('%a : fp32[1] = Reshape(%c) {"shape": [2, 2, 2, 8, 8]}',
         '%b : fp32[1] = Transpose(%a) {"perm": [0, 2, 1, 3, 4]}',
         '%d : fp32[1] = Reshape(%b) {"shape": [2, 4, 8, 8]}'), 5
    ),
    "own transposes": (
        ('%a : fp32[1] = Transpose(%c) {"perm": [0, 2, 3, 1]}', "%b : fp32[1] = Exp(%a)",
         '%d : fp32[1] = Transpose(%b) {"perm": [0, 3, 1, 2]}'), 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_between_convolutions(name: str) -> None:
    lines, conversions = BETWEEN[name]
    head = shapes.run(graph_of("\n".join(['graph "t"', "input %x : fp32[2,3,8,8]", *CONV, *lines, "output %d"])))
    depth = head.tensors["d"].shape[1]
    after = run(*CONV, *lines, f"const %w2 : fp32[5,{depth},1,1]", "%y : fp32[1] = Conv(%d, %w2)")
    assert ops(after)["Transpose"] == conversions


ENDS = {
    "pooled features": (
        ('%p : fp32[1] = ReduceMean(%c) {"axes": [2, 3], "keepdims": 1}',
         '%y : fp32[1] = Reshape(%p) {"shape": [2, 4]}'), 1
    ),
    "pooled without axes": (('%y : fp32[1] = ReduceMean(%c) {"axes": [2, 3], "keepdims": 0}',), 1),
    "patches": (
        ('%p : fp32[1] = Reshape(%c) {"shape": [2, 4, 64]}', '%y : fp32[1] = Transpose(%p) {"perm": [0, 2, 1]}'), 1
    ),
    "softmax over channels": (('%y : fp32[1] = Softmax(%c) {"axis": 1}',), 2),
    "flattened map": (('%y : fp32[1] = Reshape(%c) {"shape": [2, 256]}',), 2),
    "to NHWC": (('%y : fp32[1] = Transpose(%c) {"perm": [0, 2, 3, 1]}',), 1),
    "to NWHC": (('%y : fp32[1] = Transpose(%c) {"perm": [0, 3, 2, 1]}',), 2),
    "mixed axes": (('%y : fp32[1] = ReduceSum(%c) {"axes": [3], "keepdims": 0}',), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_after_a_convolution(name: str) -> None:
    lines, conversions = ENDS[name]
    assert ops(run(*CONV, *lines))["Transpose"] == conversions


def test_computed_weights_are_turned_at_run_time() -> None:
    after = run("input %w : fp32[4,3,3,3]", "%y : fp32[1] = Conv(%x, %w)")
    assert ops(after) == {"Transpose": 3, "Conv": 1}


def test_one_conversion_serves_two_readers() -> None:
    after = run(
        *CONV,
        "const %v : fp32[4,3,3,3]",
        '%d : fp32[1] = Conv(%x, %v) {"pads": [1, 1, 1, 1]}',
        "%y : fp32[1] = Add(%c, %d)",
    )
    assert ops(after)["Transpose"] == 2


def test_a_tensor_may_exist_in_both_layouts() -> None:
    graph = shapes.run(
        graph_of(
            "\n".join(['graph "t"', "input %x : fp32[2,3,8,8]", *CONV, "%y : fp32[1] = Relu(%c)", "output %c, %y"])
        )
    )
    after = layout.run(graph)
    after.verify()
    assert_same_values(graph, after)


@pytest.mark.parametrize(("name", "conversions"), [("resnet18", 1), ("resnet50", 1), ("mobilenetv2", 1), ("vgg16", 2)])
def test_networks_convert_once_on_the_way_in(name: str, conversions: int) -> None:
    after = optimised(build(name))
    turned = [node for node in after.nodes if node.op == "Transpose"]
    assert len(turned) == conversions
    assert turned[0].inputs == ("image",)
    depthwise = [n for n in after.nodes if n.op == "Conv" and n.attrs["group"] > 1]
    assert all(after.tensors[n.inputs[1]].shape[2] == 1 for n in depthwise)


def test_graphs_without_spatial_operators_are_left_alone() -> None:
    graph = build("bert-block:8,16,2")
    assert layout.run(graph).nodes == graph.nodes
