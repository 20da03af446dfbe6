"""Graphs print as text that parses back to an equal graph; faults are named by line and column."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.graph import Constant, Graph, Node, TensorType
from compiler.passes.pipeline import optimise
from compiler.text import parse_graph, print_graph, same_graph
from compiler.zoo import build
from isa.errors import ModelError

SMALL = """graph "small net"
input %x : fp32[1,3]
const %w : fp32[3,2]
const %b : fp16[2] = [0.5, -1.0]
const %s : fp32[] = 2.0
%y : fp32[1,2] = MatMul(%x, %w, -) {"transA": 0}
%"odd name" : int8[1,2] x 0.0625 - -3 = Add(%y, %b) as "second node" in group.1
-, %at : int64[1,1] = TopK(%"odd name") {"k": 1, "weights": [1.5, [2, 3]]} as top
output %"odd name", %at
"""


def test_text_is_what_it_parses_from() -> None:
    assert print_graph(parse_graph(SMALL)) == SMALL


def test_every_field_survives() -> None:
    graph = parse_graph(SMALL)
    second = graph.nodes[1]
    assert (second.name, second.group) == ("second node", "group.1")
    assert graph.tensors["odd name"] == TensorType((1, 2), "int8", 0.0625, -3)
    assert graph.nodes[0].inputs == ("x", "w", "") and graph.nodes[2].outputs == ("", "at")
    assert graph.nodes[2].attrs["weights"] == (1.5, (2, 3))
    assert graph.constants["b"].value().dtype == np.float16 and graph.constants["w"].stripped


@pytest.mark.parametrize("name", ["resnet18", "gpt2:8", "llama-block:8", "mlp", "vit-b16"])
def test_zoo_after_every_pass(name: str) -> None:
    for stage, graph in optimise(build(name)):
        again = parse_graph(print_graph(graph), graph.constants)
        assert same_graph(graph, again), stage
        assert all(again.constants[n] is c for n, c in graph.constants.items() if c.type.elements > 64)


def test_values_are_inlined_up_to_the_limit() -> None:
    ones = Constant.of(np.ones(3, np.float32), "fp32")
    graph = Graph("g", (), (), ("c",), {"c": ones.type}, {"c": ones})
    assert "= [1.0, 1.0, 1.0]" in print_graph(graph, inline=3)
    assert " = " not in print_graph(graph, inline=2)


def test_special_numbers_survive() -> None:
    values = np.asarray([np.nan, np.inf, -np.inf, 1e-45], np.float32)
    graph = Graph("g", (), (), ("c",), {"c": TensorType((4,), "fp32")}, {"c": Constant.of(values, "fp32")})
    assert same_graph(parse_graph(print_graph(graph)), graph)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.lists(names, min_size=3, max_size=3, unique=True), names, names)
def test_any_names(tensors: list[str], label: str, group: str) -> None:
    kinds = dict.fromkeys(tensors, TensorType((2,), "fp32"))
    x, y, z = tensors
    nodes = (Node(label, "Relu", (x,), (y,), {label: group}, group), Node(label + "'", "Neg", (y,), (z,)))
    graph = Graph(label, nodes, (x,), (z,), kinds)
    assert same_graph(parse_graph(print_graph(graph)), graph)


FAULTS = {
    "no output": ("input %x : fp32[1]", "needs a line 'output %name'"),
    "unknown dtype": ("input %x : float[1]\noutput %x", r"line 1, column 12: expected a type such as"),
    "no type": ("input %x\noutput %x", "line 1, column 9: expected ':'"),
    "twice": ("input %x : fp32[1]\ninput %x : fp32[1]\noutput %x", "line 2.*declared twice"),
    "undefined": ("input %x : fp32[1]\n%y : fp32[1] = Relu(%z)\noutput %y", "reads 'z' before it is written"),
    "bad attributes": ("input %x : fp32[1]\n%y : fp32[1] = Relu(%x) {1}\noutput %y", "line 2.*not a JSON value"),
    "rest": ("input %x : fp32[1] 7\noutput %x", "line 1.*unexpected '7'"),
    "values": ("const %x : fp32[2] = [1, 2, 3]\noutput %x", r"shape \[3\], declared \[2\]"),
    "words as values": ('const %x : fp32[2] = ["a", "b"]\noutput %x', "not fp32 numbers"),
    "too large": ("input %x : fp32[99999999,99999999]\noutput %x", "the limit is"),
    "not closed": ("input %x : fp32[1]\n%y : fp32[1] = Relu(%x\noutput %y", r"line 2.*expected '\)'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name: str) -> None:
    text, reason = FAULTS[name]
    with pytest.raises(ModelError, match=reason):
        parse_graph(text)


def test_given_constants_must_fit() -> None:
    with pytest.raises(ModelError, match=r"fp32\[3,2\] here, fp32\[2\] where its values are"):
        parse_graph(SMALL, {"w": Constant.of(np.zeros(2, np.float32), "fp32")})


def test_comments_and_blank_lines() -> None:
    assert parse_graph('\n# a net\ngraph "g"  # named\n\ninput %x : fp32[1]\noutput %x\n').name == "g"


def test_different_values_are_not_the_same_graph() -> None:
    assert not same_graph(parse_graph(SMALL), parse_graph(SMALL.replace("-1.0", "1.0")))
