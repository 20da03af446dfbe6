"""shapes, redundant, folding, CSE, DCE: text before and after, values equal, what may not happen does not."""

import numpy as np
import pytest
from pass_fixture import apply, assert_body, assert_same_values, graph_of, ops

from compiler.graph import Constant, TensorType
from compiler.passes import cse, dce, folding, redundant, shapes
from compiler.zoo import build
from isa.errors import ModelError


def must_not_build() -> np.ndarray:
    raise AssertionError("a constant was built that nobody asked for")


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_shapes_are_inferred_again() -> None:
    graph = graph_of('graph "t"\ninput %x : fp32[2,3]\n%y : fp16[9] = Transpose(%x) {"perm": [1, 0]}\noutput %y')
    assert shapes.run(graph).tensors["y"] == TensorType((3, 2), "fp32")


def test_shapes_name_the_node_that_does_not_fit() -> None:
    text = 'graph "t"\ninput %a : fp32[2,3]\ninput %b : fp32[4,5]\n%y : fp32[2,5] = MatMul(%a, %b)\noutput %y'
    graph = graph_of(text)
    with pytest.raises(ModelError, match=r"node 'y'.*inner extents differ"):
        shapes.run(graph)


# --- redundant -------------------------------------------------------------------------------------------------------

REDUNDANT = {
    "identity": ("%a : fp32[2,4] = Identity(%x)",),
    "dropout": ("%a : fp32[2,4], %mask : bool[2,4] = Dropout(%x)",),
    "cast": ('%a : fp32[2,4] = Cast(%x) {"to": "fp32"}',),
    "reshape": ('%a : fp32[2,4] = Reshape(%x) {"shape": [2, 4]}',),
    "views": (
        '%b : fp32[2,1,4] = Unsqueeze(%x) {"axes": [1]}',
        '%c : fp32[2,4,1] = Reshape(%b) {"shape": [2, 4, 1]}',
        '%a : fp32[2,4] = Squeeze(%c) {"axes": [2]}',
    ),
    "transpose": ('%a : fp32[2,4] = Transpose(%x) {"perm": [0, 1]}',),
    "pad": ('%a : fp32[2,4] = Pad(%x) {"pads": [0, 0, 0, 0]}',),
    "slice": ('%a : fp32[2,4] = Slice(%x) {"axes": [1], "ends": [9], "starts": [0], "steps": [1]}',),
    "expand": ('%a : fp32[2,4] = Expand(%x) {"shape": [1, 4]}',),
    "tile": ('%a : fp32[2,4] = Tile(%x) {"repeats": [1, 1]}',),
    "concat of one": ('%a : fp32[2,4] = Concat(%x) {"axis": 0}',),
    "split and concat": (
        '%b : fp32[2,1], %c : fp32[2,3] = Split(%x) {"axis": 1, "split": [1, 3]}',
        '%a : fp32[2,4] = Concat(%b, %c) {"axis": -1}',
    ),
}


@pytest.mark.parametrize("name", REDUNDANT)
def test_redundant_node_goes(name: str) -> None:
    lines = REDUNDANT[name]
    text = "\n".join(['graph "t"', "input %x : fp32[2,4]", *lines, "%y : fp32[2,4] = Relu(%a)", "output %y"])
    after = dce.run(apply(redundant.run, text))
    assert_body(after, "%y : fp32[2,4] = Relu(%x)")
    assert len(graph_of(text).nodes) - len(after.nodes) == len(lines)


KEPT = {
    "reversed slice": '%y : fp32[2,4] = Slice(%x) {"axes": [1], "ends": [-9], "starts": [-1], "steps": [-1]}',
    "other type": '%y : fp16[2,4] = Cast(%x) {"to": "fp16"}',
    "other order": '%y : fp32[4,2] = Transpose(%x) {"perm": [1, 0]}',
    "only to name an output": "%y : fp32[2,4] = Identity(%x)",
}


@pytest.mark.parametrize("name", KEPT)
def test_what_does_something_stays(name: str) -> None:
    assert len(apply(redundant.run, f'graph "t"\ninput %x : fp32[2,4]\n{KEPT[name]}\noutput %y').nodes) == 1


def test_swapped_parts_are_not_put_together() -> None:
    text = """
        graph "t"
        input %x : fp32[2,4]
        %b : fp32[2,2], %c : fp32[2,2] = Split(%x) {"axis": 1, "split": [2, 2]}
        %y : fp32[2,4] = Concat(%c, %b) {"axis": 1}
        output %y
    """
    assert len(apply(redundant.run, text).nodes) == 2


# --- folding ---------------------------------------------------------------------------------------------------------

FOLD = """
    graph "t"
    input %x : fp32[4]
    const %a : fp32[4]
    const %b : fp32[4]
    %c : fp32[4] = Add(%a, %b)
    %d : fp32[4] = Mul(%c, %c)
    %y : fp32[4] = Add(%x, %d)
    output %y
"""


def test_constants_fold_in_one_pass() -> None:
    after = apply(folding.run, FOLD)
    assert_body(after, "%y : fp32[4] = Add(%x, %d)")
    assert set(after.constants) == {"d"}


def test_cap_from_both_sides() -> None:
    assert len(folding.run(graph_of(FOLD), max_elements=4).nodes) == 1
    assert len(folding.run(graph_of(FOLD), max_elements=3).nodes) == 3


def test_folding_builds_nothing_and_moves_weights_of_any_size() -> None:
    graph = graph_of("""
        graph "t"
        input %x : fp32[1,2048]
        const %w : fp32[4096,2048]
        %t : fp32[2048,4096] = Transpose(%w) {"perm": [1, 0]}
        %y : fp32[1,4096] = MatMul(%x, %t)
        output %y
    """)
    lazy = Constant(graph.tensors["w"], must_not_build)
    for constant, stripped in ((lazy, False), (Constant(graph.tensors["w"]), True)):
        after = folding.run(graph.with_nodes(graph.nodes, constants={"w": constant}), max_elements=16)
        assert ops(after) == {"MatMul": 1}
        assert after.constants["t"].stripped == stripped


def test_large_expansion_is_not_folded() -> None:
    text = 'graph "t"\nconst %a : fp32[1]\n%y : fp32[64] = Expand(%a) {"shape": [64]}\noutput %y'
    assert len(folding.run(graph_of(text), max_elements=63).nodes) == 1
    assert len(folding.run(graph_of(text), max_elements=64).nodes) == 0


def test_quantised_weights_become_floats_that_nobody_has_built() -> None:
    text = """
        graph "t"
        const %q : int8[4]
        const %s : fp32[] = 0.5
        %y : fp32[4] = DequantizeLinear(%q, %s)
        output %y
    """
    after = folding.run(graph_of(text), max_elements=1)
    assert not after.nodes and not after.constants["y"]._cache
    assert_same_values(graph_of(text), after)


# --- CSE and DCE -----------------------------------------------------------------------------------------------------


def test_duplicate_branches_merge_with_their_constants() -> None:
    text = """
        graph "t"
        input %x : fp32[4]
        const %a : fp32[] = 2.0
        const %b : fp32[] = 2.0
        %p : fp32[4] = Mul(%x, %a)
        %q : fp32[4] = Mul(%x, %b)
        %r : fp32[4] = Exp(%p)
        %s : fp32[4] = Exp(%q)
        %y : fp32[4] = Add(%r, %s)
        output %y
    """
    after = apply(cse.run, text)
    assert_body(after, "%p : fp32[4] = Mul(%x, %a)\n%r : fp32[4] = Exp(%p)\n%y : fp32[4] = Add(%r, %r)")


def test_attributes_and_random_operators_are_told_apart() -> None:
    text = """
        graph "t"
        input %x : fp32[4]
        %p : fp32[4] = LeakyRelu(%x) {"alpha": 0.1}
        %q : fp32[4] = LeakyRelu(%x) {"alpha": 0.2}
        %r : fp32[4] = Dropout(%p)
        %s : fp32[4] = Dropout(%p)
        %t : fp32[4] = Sub(%r, %s)
        %y : fp32[4] = Add(%t, %q)
        output %y
    """
    assert len(apply(cse.run, text).nodes) == 6


def test_equal_outputs_keep_both_names() -> None:
    text = 'graph "t"\ninput %x : fp32[4]\n%y : fp32[4] = Exp(%x)\n%z : fp32[4] = Exp(%x)\noutput %y, %z'
    after = cse.run(graph_of(text))
    after.verify()
    assert_same_values(graph_of(text), after)
    assert ops(after) == {"Exp": 1, "Identity": 1}


def test_large_constants_are_not_built_to_compare_them() -> None:
    kind = TensorType((2048,), "fp32")
    graph = graph_of("""
        graph "t"
        input %x : fp32[2048]
        const %a : fp32[2048]
        const %b : fp32[2048]
        %p : fp32[2048] = Mul(%x, %a)
        %y : fp32[2048] = Mul(%p, %b)
        output %y
    """)
    same = Constant(kind, must_not_build)
    two = {"a": same, "b": Constant(kind, must_not_build)}
    assert len(cse.run(graph.with_nodes(graph.nodes, constants=two)).constants) == 2
    assert len(cse.run(graph.with_nodes(graph.nodes, constants={"a": same, "b": same})).constants) == 1


def test_dead_nodes_go_and_nothing_removable_stays() -> None:
    text = """
        graph "t"
        input %x : fp32[4]
        input %unused : fp32[4]
        const %w : fp32[4]
        %dead : fp32[4] = Mul(%x, %w)
        %dead2 : fp32[4] = Exp(%dead)
        %top : fp32[2], %at : int64[2] = TopK(%x) {"k": 2}
        %y : fp32[2] = Neg(%top)
        output %y
    """
    after = apply(dce.run, text)
    assert [node.name for node in after.nodes] == ["top", "y"]
    assert after.inputs == ("x", "unused") and not after.constants


def test_nothing_is_dead_in_the_zoo() -> None:
    graph = build("resnet18")
    assert dce.run(graph).nodes == graph.nodes
