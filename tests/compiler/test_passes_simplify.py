"""Algebraic rules, one by one: text before and after, values equal, node counts as predicted."""

import pytest
from pass_fixture import apply, assert_body, body, graph_of, ops

from compiler.passes import simplify
from compiler.passes.pattern import Rule, rewrite
from isa.errors import CompileError

X = "fp32[2,3,4]"


def model(*nodes: str, inputs: str = "x", extra: str = "", out: str = "y") -> str:
    declared = "\n".join(f"input %{name} : {X}" for name in inputs)
    return "\n".join(['graph "t"', declared, extra, *nodes, f"output %{out}"])


RULES = {
    "times one": (("%y : {X} = Mul(%x, %one)",), ()),
    "over one": (("%y : {X} = Div(%x, %one)",), ()),
    "plus zero": (("%y : {X} = Add(%zero, %x)",), ()),
    "minus zero": (("%y : {X} = Sub(%x, %zero)",), ()),
    "power one": (("%y : {X} = Pow(%x, %one)",), ()),
    "double negation": (("%a : {X} = Neg(%x)", "%y : {X} = Neg(%a)"), ()),
    "log of exp": (("%a : {X} = Exp(%x)", "%y : {X} = Log(%a)"), ()),
    "relu twice": (("%a : {X} = Relu(%x)", "%y : {X} = Relu(%a)"), ("%y : {X} = Relu(%x)",)),
    "plus negative": (("%a : {X} = Neg(%x)", "%y : {X} = Add(%x, %a)"), ("%y : {X} = Sub(%x, %x)",)),
    "minus negative": (("%a : {X} = Neg(%x)", "%y : {X} = Sub(%x, %a)"), ("%y : {X} = Add(%x, %x)",)),
    "square": (("%y : {X} = Pow(%x, %two)",), ("%y : {X} = Mul(%x, %x)",)),
    "over a power of two": (("%y : {X} = Div(%x, %two)",), ("%y : {X} = Mul(%x, %two.inverse)",)),
    "minus a constant": (("%y : {X} = Sub(%x, %three)",), ("%y : {X} = Add(%x, %three.negated)",)),
    "one over": (("%y : {X} = Div(%one, %x)",), ("%y : {X} = Reciprocal(%x)",)),
    "times a reciprocal": (("%a : {X} = Reciprocal(%x)", "%y : {X} = Mul(%x, %a)"), ("%y : {X} = Div(%x, %x)",)),
    "over three stays": (("%y : {X} = Div(%x, %three)",), ("%y : {X} = Div(%x, %three)",)),
    "almost one stays": (("%y : {X} = Mul(%x, %almost)",), ("%y : {X} = Mul(%x, %almost)",)),
}
NUMBERS = "\n".join(
    f"const %{name} : fp32[] = {value}"
    for name, value in {"zero": 0.0, "one": 1.0, "two": 2.0, "three": 3.0, "almost": 1.00001}.items()
)


@pytest.mark.parametrize("name", RULES)
def test_rule(name: str) -> None:
    before, after = ([line.replace("{X}", X) for line in lines] for lines in RULES[name])
    found = apply(simplify.run, model(*before, f"%z : {X} = Abs(%y)", extra=NUMBERS, out="z"))
    wanted = "\n".join([*after, f"%z : {X} = Abs(%{'y' if after else 'x'})"])
    assert_body(found, wanted)


def test_distributes_and_saves_an_operation() -> None:
    before = model(f"%a : {X} = Mul(%p, %r)", f"%b : {X} = Mul(%q, %r)", f"%y : {X} = Add(%a, %b)", inputs="pqr")
    after = apply(simplify.run, before)
    assert_body(after, f"%y.sum : {X} = Add(%p, %q)\n%y : {X} = Mul(%y.sum, %r)")
    assert len(graph_of(before).nodes) - len(after.nodes) == 1


def test_does_not_distribute_what_others_read() -> None:
    before = model(
        f"%a : {X} = Mul(%p, %r)", f"%b : {X} = Mul(%q, %r)", f"%s : {X} = Add(%a, %b)", f"%y : {X} = Max(%s, %a)",
        inputs="pqr",
    )  # fmt: skip
    assert ops(apply(simplify.run, before)) == {"Mul": 2, "Add": 1, "Max": 1}


def test_product_of_exponentials() -> None:
    before = model(
        f"%a : {X} = Exp(%x)",
        '%p : fp32[2,4] = ReduceProd(%a) {"axes": [1], "keepdims": 0}',
        "%y : fp32[2,4] = Neg(%p)",
    )
    after = apply(simplify.run, before)
    assert_body(
        after,
        """%p.sum : fp32[2,4] = ReduceSum(%x) {"axes": [1], "keepdims": 0}
        %p : fp32[2,4] = Exp(%p.sum)
        %y : fp32[2,4] = Neg(%p)""",
    )


def test_exp_of_log_needs_fast_math() -> None:
    before = model(f"%b : {X} = Abs(%x)", f"%a : {X} = Log(%b)", f"%e : {X} = Exp(%a)", f"%y : {X} = Neg(%e)")
    assert ops(apply(simplify.run, before)) == {"Abs": 1, "Log": 1, "Exp": 1, "Neg": 1}
    assert ops(apply(lambda g: simplify.run(g, fast_math=True), before)) == {"Abs": 1, "Neg": 1}


def test_division_by_any_constant_needs_fast_math() -> None:
    before = model(f"%y : {X} = Div(%x, %three)", extra=NUMBERS)
    assert ops(apply(lambda g: simplify.run(g, fast_math=True), before)) == {"Mul": 1}


def test_transposes_compose_and_cancel() -> None:
    before = model(
        '%a : fp32[4,2,3] = Transpose(%x) {"perm": [2, 0, 1]}',
        '%b : fp32[3,4,2] = Transpose(%a) {"perm": [2, 0, 1]}',
        '%c : fp32[2,3,4] = Transpose(%b) {"perm": [2, 0, 1]}',
        f"%y : {X} = Add(%c, %x)",
    )
    assert_body(apply(simplify.run, before), f"%y : {X} = Add(%x, %x)")
    half = before.replace("%y : fp32[2,3,4] = Add(%c, %x)", "%y : fp32[3,4,2] = Neg(%b)")
    assert_body(
        apply(simplify.run, half), '%b : fp32[3,4,2] = Transpose(%x) {"perm": [1, 2, 0]}\n%y : fp32[3,4,2] = Neg(%b)'
    )


def test_reshapes_compose_and_cancel() -> None:
    before = model(
        '%a : fp32[24] = Reshape(%x) {"shape": [24]}',
        '%b : fp32[6,4] = Reshape(%a) {"shape": [6, 4]}',
        "%y : fp32[6,4] = Neg(%b)",
    )
    assert_body(apply(simplify.run, before), '%b : fp32[6,4] = Reshape(%x) {"shape": [6, 4]}\n%y : fp32[6,4] = Neg(%b)')


def test_small_operands_meet_first() -> None:
    extra = "const %u : fp32[4]\nconst %v : fp32[3,1]"
    before = model(f"%a : {X} = Mul(%x, %u)", f"%y : {X} = Mul(%a, %v)", extra=extra)
    assert body(apply(simplify.run, before))[0] == "%y.small : fp32[3,4] = Mul(%u, %v)"
    # Not where the small ones spread to the size of the big one: nothing would be saved.
    wide = before.replace("%v : fp32[3,1]", "%v : fp32[2,3,1]")
    assert ops(apply(simplify.run, wide)) == {"Mul": 2}


def test_scaled_operands_become_a_scaled_product() -> None:
    before = """
        graph "t"
        input %q : fp32[2,3,4]
        input %k : fp32[2,4,5]
        const %c : fp32[] = 0.5
        %a : fp32[2,3,4] = Mul(%q, %c)
        %b : fp32[2,4,5] = Mul(%c, %k)
        %s : fp32[2,3,5] = MatMul(%a, %b)
        %y : fp32[2,3,5] = Softmax(%s) {"axis": -1}
        output %y
    """
    after = apply(simplify.run, before)
    assert [node.op for node in after.nodes] == ["MatMul", "Mul", "Mul", "Softmax"]
    assert after.nodes[0].inputs == ("q", "k")
    assert after.nodes[1].inputs == ("c", "c")  # folds away
    wide = before.replace("const %c : fp32[] = 0.5", "const %c : fp32[4,1]").replace("Mul(%q, %c)", "Neg(%q)")
    assert [node.op for node in apply(simplify.run, wide).nodes] == ["Neg", "Mul", "MatMul", "Softmax"]


def test_exchange_through_views_is_one_transpose() -> None:
    before = model(
        '%a : fp32[6,4,5] = Reshape(%t) {"shape": [6, 4, 5]}',
        '%b : fp32[6,5,4] = Transpose(%a) {"perm": [0, 2, 1]}',
        '%c : fp32[2,3,5,4] = Reshape(%b) {"shape": [2, 3, 5, 4]}',
        "%y : fp32[2,3,5,4] = Neg(%c)",
        inputs="",
        extra="input %t : fp32[2,3,4,5]",
    )
    assert body(apply(simplify.run, before))[0] == '%c : fp32[2,3,5,4] = Transpose(%t) {"perm": [0, 1, 3, 2]}'
    mixed = before.replace("[2, 3, 5, 4]", "[3, 2, 5, 4]").replace("[2,3,5,4]", "[3,2,5,4]")
    assert ops(apply(simplify.run, mixed)) == {"Reshape": 2, "Transpose": 1, "Neg": 1}


def test_masks_that_mask_nothing_go() -> None:
    mask = "[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, {last}]]"
    for last, left in ((0.0, 1), (-1.0, 2)):
        extra = "const %m : fp32[3,4] = " + mask.format(last=last)
        before = model(f"%a : {X} = Add(%x, %m)", f"%y : {X} = Exp(%a)", extra=extra)
        assert len(apply(simplify.run, before).nodes) == left


def test_integers_keep_their_division() -> None:
    before = """
        graph "t"
        input %x : int32[4]
        const %two : int32[] = 2
        %y : int32[4] = Div(%x, %two)
        output %y
    """
    assert ops(apply(simplify.run, before)) == {"Div": 1}


def test_rules_that_undo_each_other_are_refused() -> None:
    def to(op: str):
        return lambda edit, match: bool(edit.emit(match.root.name, op, match.root.inputs, match.root.outputs[0]))

    rules = [Rule("there", ("Sin", "x"), to("Cos")), Rule("back", ("Cos", "x"), to("Sin"))]
    with pytest.raises(CompileError, match=r"(there|back).*undo"):
        rewrite(graph_of(model(f"%y : {X} = Sin(%x)")), rules)
