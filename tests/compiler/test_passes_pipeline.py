"""The pipeline: named steps in order, checked between; whole models keep their values; small passes around it."""

import pytest
from pass_fixture import apply, assert_same_values, graph_of, ops

from compiler.graph import Graph
from compiler.passes import canonical, pad_fold, pipeline, shapes, simplify
from compiler.passes.fusion import groups
from compiler.passes.pipeline import Options, optimise, optimised
from compiler.zoo import build
from isa.errors import CompileError


def test_steps_are_named_and_first_is_the_import() -> None:
    graph = build("mlp")
    stages = list(optimise(graph))
    assert stages[0] == ("import", graph)
    names = [name for name, _ in stages]
    assert names[-1] == "fusion" and len(set(names)) == len(names)
    assert names.index("bn_fold") < names.index("canonical") < names.index("layout") < names.index("fusion")


def test_options_leave_steps_out() -> None:
    names = [name for name, _ in optimise(build("mlp"), Options(channel_last=False))]
    assert "layout" not in names
    alone = optimised(build("mlp"), Options(fusion=False))
    assert len(groups(alone)) == len(alone.nodes)


def test_a_faulty_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(graph: Graph) -> Graph:
        return graph.with_nodes(graph.nodes[1:])

    monkeypatch.setattr(pipeline.cse, "run", lose)
    with pytest.raises(CompileError, match=r"pass cse: .*before it is written"):
        optimised(build("mlp"))


@pytest.mark.parametrize("fast_math", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "bert-block:8,16,2", "llama-block:4", "attention:2x8x4"])
def test_models_keep_their_values(name: str, fast_math: bool) -> None:
    graph = build(name)
    after = optimised(graph, Options(fast_math=fast_math))
    assert all(node.group for node in after.nodes)
    assert_same_values(graph, after, tolerance=1e-4)


def test_the_pipeline_is_idempotent_up_to_names() -> None:
    once = optimised(build("resnet18"))
    twice = optimised(once)
    assert [n.op for n in once.nodes] == [n.op for n in twice.nodes]


def test_node_names_survive() -> None:
    before, after = build("resnet50"), optimised(build("resnet50"))
    convs = [n.name for n in before.nodes if n.op == "Conv"]
    assert [n.name for n in after.nodes if n.op == "Conv"] == sorted(convs, key=[n.name for n in after.nodes].index)
    assert len(convs) == 53


# --- Pad into Conv ---------------------------------------------------------------------------------------------------

PADS = {
    "spatial zeros": ('{"pads": [0, 0, 1, 2, 0, 0, 3, 4]}', '{"pads": [1, 0, 0, 0]}', 0),
    "channels": ('{"pads": [0, 0, 1, 1, 0, 1, 0, 0]}', "", 1),
    "another value": ('{"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 1.0}', "", 1),
    "mirrored": ('{"pads": [0, 0, 1, 1, 0, 0, 1, 1], "mode": "reflect"}', "", 1),
    "cropped": ('{"pads": [0, 0, -1, 1, 0, 0, 1, 1]}', "", 1),
}


@pytest.mark.parametrize("name", PADS)
def test_pad_into_convolution(name: str) -> None:
    attrs, conv, remaining = PADS[name]
    depth = 4 if name == "channels" else 3
    text = f"""
        graph "t"
        input %x : fp32[1,3,5,6]
        const %w : fp32[2,{depth},2,2]
        %p : fp32[1] = Pad(%x) {attrs}
        %y : fp32[1] = Conv(%p, %w) {conv}
        output %y
    """
    after = apply(pad_fold.run, shapes.run(graph_of(text)))
    assert ops(after)["Pad"] == remaining
    if not remaining:
        assert after.nodes[0].attrs["pads"] == (2, 2, 3, 4)


# --- Einsum ----------------------------------------------------------------------------------------------------------

EQUATIONS = {
    "ij,jk->ik": ("[2,3]", "[3,4]", True),
    "bij,bkj->bik": ("[2,3,4]", "[2,5,4]", True),
    "bhqd,bkhd->bqhk": ("[2,3,4,5]", "[2,6,3,5]", True),
    "te,efd->tfd": ("[2,3]", "[3,4,5]", True),
    "i,j->ij": ("[2]", "[3]", True),
    "...ij,jk->...ik": ("[2,3,4]", "[4,5]", True),
    "ij,jk->i": ("[2,3]", "[3,4]", True),
    "ij,ij->ij": ("[2,3]", "[2,3]", True),
    "bij,bjk->bik": ("[1,3,4]", "[2,4,5]", False),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str) -> None:
    left, right, product = EQUATIONS[equation]
    text = f"""
        graph "t"
        input %a : fp32{left}
        input %b : fp32{right}
        %y : fp32[1] = Einsum(%a, %b) {{"equation": "{equation}"}}
        output %y
    """
    after = apply(canonical.run, shapes.run(graph_of(text)))
    assert (ops(after)["MatMul"], ops(after)["Einsum"]) == ((1, 0) if product else (0, 1))


@pytest.mark.parametrize(("masked", "left"), [(False, 0), (True, 1)])
def test_guard_goes_where_there_is_no_mask(masked: bool, left: int) -> None:
    text = f"""
        graph "t"
        input %q : fp32[2,4]
        input %k : fp32[4,3]
        input %m : fp32[2,3]
        const %zero : fp32[] = 0.0
        const %c : fp32[] = 0.5
        %p : fp32[2,3] = MatMul(%q, %k)
        %x : fp32[2,3] = {"Add(%p, %m)" if masked else "Mul(%p, %c)"}
        %s : fp32[2,3] = Softmax(%x) {{"axis": -1}}
        %n : bool[2,3] = IsNaN(%s)
        %y : fp32[2,3] = Where(%n, %zero, %s)
        output %y
    """
    assert ops(apply(simplify.run, text))["IsNaN"] == left


def test_guard_against_hidden_rows_needs_fast_math() -> None:
    text = """
        graph "t"
        input %x : fp32[2,4]
        const %zero : fp32[] = 0.0
        %s : fp32[2,4] = Softmax(%x) {"axis": -1}
        %n : bool[2,4] = IsNaN(%s)
        %y : fp32[2,4] = Where(%n, %zero, %s)
        output %y
    """
    assert len(apply(simplify.run, text).nodes) == 3
    assert ops(apply(lambda g: simplify.run(g, fast_math=True), text)) == {"Softmax": 1}
