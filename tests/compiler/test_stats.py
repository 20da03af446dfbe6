"""Operator counts against closed forms: C/g x K^2 x output elements for convolutions, M x N x K for products."""

import pytest
from pass_fixture import graph_of

from compiler.stats import stats
from compiler.zoo import build


@pytest.mark.parametrize(("group", "depth"), [(1, 8), (4, 2), (8, 1)])
def test_convolution(group: int, depth: int) -> None:
    graph = graph_of(f"""
        graph "t"
        input %x : fp16[2,8,10,12]
        const %w : fp16[16,{depth},3,3]
        const %b : fp16[16]
        %y : fp16[2,16,8,10] = Conv(%x, %w, %b) {{"group": {group}}}
        output %y
    """)
    (row,) = stats(graph)
    outputs = 2 * 16 * 8 * 10
    assert row.macs == outputs * depth * 9
    assert row.flops == 2 * row.macs + outputs
    assert row.parameters == 16 * depth * 9 + 16
    assert (row.read_bytes, row.write_bytes) == (2 * (2 * 8 * 10 * 12 + row.parameters), 2 * outputs)


def test_fully_connected_layer() -> None:
    rows = {row.name: row for row in stats(build("mlp", 3))}
    assert rows["fc0"].macs == 3 * 784 * 512
    assert rows["fc0"].parameters == 784 * 512 + 512
    assert rows["relu0"].macs == rows["relu0"].parameters == 0


def test_an_operand_read_twice_is_read_once() -> None:
    (row,) = stats(graph_of('graph "t"\ninput %x : fp32[4]\n%y : fp32[4] = Mul(%x, %x)\noutput %y'))
    assert (row.read_bytes, row.write_bytes, row.flops) == (16, 16, 4)


@pytest.mark.parametrize(("name", "macs"), [("vgg16", 15.47e9), ("mobilenetv2", 0.300e9)])
def test_networks_within_one_percent_of_published(name: str, macs: float) -> None:
    assert sum(row.macs for row in stats(build(name))) == pytest.approx(macs, rel=0.01)
