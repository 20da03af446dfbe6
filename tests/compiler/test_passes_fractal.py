"""Channels last to NC1HWC0: conversions are as few as possible, values are equal, padding stays zero."""

from collections import Counter

import numpy as np
import pytest
from pass_fixture import apply, feeds_of, graph_of, ops

from compiler import layouts
from compiler.graph import Graph
from compiler.ops import run_graph
from compiler.passes import dce, fractal, layout, shapes

C0 = 16


def run(*lines: str, x: str = "fp32[2,3,8,8]", out: str = "y", least: int = 1) -> Graph:
    """Lay a channels-first graph out in blocks; types of the text are placeholders."""
    text = "\n".join(['graph "t"', f"input %x : {x}", *lines, f"output %{out}"])
    last = layout.run(shapes.run(graph_of(text)))
    return apply(lambda graph: dce.run(fractal.run(graph, C0, least)), last)


def conv(name: str, x: str, shape: str, attrs: str = '"pads": [1, 1, 1, 1]') -> tuple[str, str]:
    """A convolution with constant weights."""
    return f"const %{name}.w : fp32[{shape}]", f"%{name} : fp32[1] = Conv(%{x}, %{name}.w) {{{attrs}}}"


def conversions(graph: Graph) -> Counter[str]:
    """TransData nodes by what they convert to, and other moves."""
    found = Counter(str(n.attrs["dst"]) for n in graph.nodes if n.op == "TransData")
    return found + Counter(n.op for n in graph.nodes if n.op in ("Transpose", "Pad", "Slice"))


def layouts_of(graph: Graph) -> set[str]:
    """Layouts of the convolutions."""
    return {str(n.attrs["layout"]) for n in graph.nodes if n.op == "Conv"}


@pytest.mark.parametrize("channels", [3, 17, 64])
def test_chain_of_five_convolutions_has_two_conversions(channels: int) -> None:
    lines, last = [], "x"
    for i in range(5):
        lines += conv(f"c{i}", last, f"{channels},{channels},3,3")
        last = f"c{i}"
    after = run(*lines, x=f"fp32[2,{channels},8,8]", out=last)
    assert ops(after) == {"Conv": 5, "TransData": 2}
    assert [n.op for n in after.nodes] == ["TransData", *["Conv"] * 5, "TransData"]
    assert conversions(after) == {"NC1HWC0": 1, "NCHW": 1}
    assert after.tensors[after.nodes[2].outputs[0]].shape == (2, -(-channels // C0), 8, 8, C0)


# What stands between two convolutions, and the conversions in the whole graph.
BOTH = {"NC1HWC0": 1, "NCHW": 1}
BETWEEN = {
    "relu": (["%d : fp32[1] = Relu(%c)"], BOTH),
    "residual": (["%d : fp32[1] = Add(%c, %c)"], BOTH),
    "channel constant": (["const %k : fp32[20,1,1]", "%d : fp32[1] = Mul(%c, %k)"], BOTH),
    "row constant": (["const %k : fp32[8]", "%d : fp32[1] = Mul(%c, %k)"], BOTH),
    "scalar": (["const %k : fp32[] = 2.0", "%d : fp32[1] = Mul(%k, %c)"], BOTH),
    "max pool": (['%d : fp32[1] = MaxPool(%c) {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}'], BOTH),
    "average pool": (['%d : fp32[1] = AveragePool(%c) {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}'], BOTH),
    "pad": (['%d : fp32[1] = Pad(%c) {"pads": [0, 0, 1, 2, 0, 0, 3, 4]}'], BOTH),
    "squeeze and excite": (
        ['%m : fp32[1] = ReduceMean(%c) {"axes": [2, 3], "keepdims": 1}', *conv("e", "m", "20,20,1,1", ""),
         "%s : fp32[1] = HardSwish(%e)", "%d : fp32[1] = Mul(%c, %s)"], BOTH),
    "depthwise": (list(conv("d", "c", "20,1,3,3", '"group": 20, "pads": [1, 1, 1, 1]')), BOTH),
    "concat of what has gaps at the end": (["%r : fp32[1] = Relu(%c)", *conv("f", "x", "32,3,3,3"),
                                            '%d : fp32[1] = Concat(%f, %r) {"axis": 1}'], BOTH),
    # Zeros would not stay zeros, or gaps would lie between channels: channels last, there and back.
    "sigmoid over gaps": (["%d : fp32[1] = Sigmoid(%c)"], {"NC1HWC0": 2, "NCHW": 1, "NHWC": 1}),
    "constant added to gaps": (["const %k : fp32[] = 2.0", "%d : fp32[1] = Add(%k, %c)"],
                               {"NC1HWC0": 2, "NCHW": 1, "NHWC": 1}),
    "concat with gaps": (['%d : fp32[1] = Concat(%c, %c) {"axis": 1}'], {"NC1HWC0": 2, "NCHW": 1, "NHWC": 1}),
    "padded with ones": (['%d : fp32[1] = Pad(%c) {"pads": [0, 0, 1, 2, 0, 0, 3, 4], "value": 1.0}'],
                         {"NC1HWC0": 2, "NCHW": 1, "NHWC": 1, "Pad": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_between_convolutions(name: str) -> None:
    lines, expected = BETWEEN[name]
    head = shapes.run(graph_of("\n".join(
        ['graph "t"', "input %x : fp32[2,3,8,8]", *conv("c", "x", "20,3,3,3"), *lines, "output %d"])))  # fmt: skip
    depth = head.tensors["d"].shape[1]
    after = run(*conv("c", "x", "20,3,3,3"), *lines, *conv("y", "d", f"5,{depth},1,1", ""))
    found = conversions(after)
    if name == "pad":
        assert found.pop("Pad") == 1
    assert found == expected
    assert layouts_of(after) == {"NC1HWC0"}


@pytest.mark.parametrize("lines", [["%d : fp32[1] = Sigmoid(%c)"], ['%d : fp32[1] = Concat(%c, %c) {"axis": 1}']])
def test_full_blocks_may_hold_anything(lines: list[str]) -> None:
    head = conv("c", "x", "32,3,3,3")
    depth = 64 if "Concat" in lines[0] else 32
    assert conversions(run(*head, *lines, *conv("y", "d", f"5,{depth},1,1", ""))) == BOTH


# What follows a convolution of 32 channels, and the conversions on the way out.
ENDS = {
    "pooled features": (['%p : fp32[1] = ReduceMean(%c) {"axes": [2, 3], "keepdims": 1}',
                         '%y : fp32[1] = Reshape(%p) {"shape": [2, 32]}'], {}),
    "pooled without axes": (['%y : fp32[1] = ReduceMean(%c) {"axes": [2, 3], "keepdims": 0}'], {}),
    "to NHWC": (['%y : fp32[1] = Transpose(%c) {"perm": [0, 2, 3, 1]}'], {"NHWC": 1}),
    "softmax over channels": (['%y : fp32[1] = Softmax(%c) {"axis": 1}'], {"NHWC": 1, "Transpose": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_after_a_convolution(name: str) -> None:
    lines, expected = ENDS[name]
    assert conversions(run(*conv("c", "x", "32,3,3,3"), *lines)) == {"NC1HWC0": 1, **expected}


def test_a_map_of_one_block_is_channels_last_already() -> None:
    turn = '%y : fp32[1] = Transpose(%c) {"perm": [0, 2, 3, 1]}'
    assert conversions(run(*conv("c", "x", "16,16,3,3"), turn, x="fp32[2,16,8,8]")) == {"Transpose": 1}
    assert conversions(run(*conv("c", "x", "16,17,3,3"), turn, x="fp32[2,17,8,8]")) == {"NC1HWC0": 1}


def test_one_conversion_serves_all_readers() -> None:
    lines = ["%s : fp32[1] = Sigmoid(%x)", *conv("c", "s", "4,3,3,3"), *conv("d", "s", "4,3,3,3")]
    after = run(*lines, "%y : fp32[1] = Add(%c, %d)")
    assert conversions(after) == BOTH


def test_few_channels_may_be_read_last() -> None:
    lines = [*conv("c", "x", "20,3,3,3"), *conv("y", "c", "5,20,3,3")]
    assert conversions(run(*lines, least=3)) == BOTH
    after = run(*lines, least=4)
    assert conversions(after) == {"Transpose": 1, "NCHW": 1}
    first, second = (n for n in after.nodes if n.op == "Conv")
    assert [len(after.tensors[n.inputs[0]].shape) for n in (first, second)] == [4, 5]


UNFIT = {
    "groups that share blocks": (conv("y", "x", "72,24,1,1", '"group": 3'), "fp32[2,72,8,8]"),
    "computed weights": (("%w : fp32[1] = Relu(%x)", "%y : fp32[1] = Conv(%x, %w)"), "fp32[2,2,8,8]"),
    "one axis": (conv("y", "x", "4,3,3", '"pads": [1, 1]'), "fp32[2,3,8]"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_stays_channels_last(name: str) -> None:
    lines, x = UNFIT[name]
    after = run(*lines, x=x)
    assert layouts_of(after) == {"NHWC"}
    assert "TransData" not in ops(after)


@pytest.mark.parametrize("name", BETWEEN)
def test_channels_that_only_fill_a_block_are_zero(name: str) -> None:
    text = ['graph "t"', "input %x : fp32[2,3,8,8]", *conv("c", "x", "20,3,3,3"), *BETWEEN[name][0], "output %d"]
    last = layout.run(shapes.run(graph_of("\n".join(text))))
    after = fractal.run(last, C0)
    values = run_graph(after, feeds_of(after), keep=lambda _: True)
    blocked = [n for node in after.nodes for n in node.outputs if n.endswith(".blocks")]
    assert blocked
    for key in blocked:
        shape = last.tensors[key.removesuffix(".blocks")].shape
        plain = layouts.load("NC1HWC0", values[key], shape, layouts.Fractal(C0))
        assert np.array_equal(layouts.store("NC1HWC0", plain, layouts.Fractal(C0)), values[key]), key
