"""Swish: found in what exporters write, one operation of a chain and of an epilogue, apart where the host does it."""

from __future__ import annotations

import numpy as np
import pytest
from pass_fixture import apply, assert_body, graph_of, ops

from compiler.compile import compile_graph
from compiler.passes import composites
from compiler.zoo import build
from isa.loader import load_machine
from npusim.check import check

TEXT = """
    graph "t"
    input %x : fp32[1,12,9,9]
    const %w : fp32[20,12,3,3]
    const %b : fp32[20]
    const %v : fp32[8,20,1,1]
    const %alpha : fp32[] = 1.7
    %c : fp32[1,20,9,9] = Conv(%x, %w, %b) {"pads": [1, 1, 1, 1]}
    ...
    %y : fp32[1,8,9,9] = Conv(%s, %v)
    output %y
"""
PLAIN = "%g : fp32[1,20,9,9] = Sigmoid(%c)\n    %s : fp32[1,20,9,9] = Mul(%g, %c)"
SCALED = "%a : fp32[1,20,9,9] = Mul(%c, %alpha)\n    %g : fp32[1,20,9,9] = Sigmoid(%a)\n    " \
         "%s : fp32[1,20,9,9] = Mul(%c, %g)"  # fmt: skip
FORMS = {"plain": (PLAIN, ""), "scaled": (SCALED, ' {"alpha": 1.7000000476837158}')}


@pytest.mark.parametrize("form", FORMS)
def test_found_but_where_the_host_has_the_sigmoid(form: str) -> None:
    lines, attrs = FORMS[form]
    text = TEXT.replace("...", lines)
    after = apply(composites.run, text)
    assert_body(
        after.with_nodes([n for n in after.nodes if n.op == "Swish"]), f"%s : fp32[1,20,9,9] = Swish(%c){attrs}"
    )
    assert "Swish" not in ops(composites.run(graph_of(text), frozenset({"Sigmoid"})))


def test_a_gate_that_something_else_reads_stays() -> None:
    text = TEXT.replace("...", PLAIN).replace("output %y", "output %y\n    output %g")
    assert "Swish" not in ops(apply(composites.run, text))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("hw", "dtype"), [("tpu-v3", "bf16"), ("tpu-v3", "fp32"), ("tpu-v4", "bf16"), ("tpu-v1", "int8")]
)
def test_in_the_epilogue_of_a_convolution(form: str, hw: str, dtype: str) -> None:
    graph, machine = graph_of(TEXT.replace("...", FORMS[form][0])), load_machine(hw).machine
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 12, 9, 9)).astype(np.float32)}
    compilation = compile_graph(graph, machine, dtype, feeds)
    assert "Conv+Swish" in [o.op_type for o in compilation.built.program.operators]
    result = check(compilation, machine, feeds)
    assert not result.hazards and [r for r in result.rows if not r["ok"]] == []


def test_language_models_gate_in_one_kernel() -> None:
    compilation = compile_graph(build("llama-block"), load_machine("tpu-v3").machine)
    found = [o.op_type for o in compilation.built.program.operators]
    assert any("Swish" in op for op in found) and not any("Sigmoid" in op for op in found)
