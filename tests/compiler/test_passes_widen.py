"""Widening: inner values and repeated constants of a dtype that the vector unit lacks are fp32; the rest stays."""

from __future__ import annotations

import numpy as np
import pytest
from pass_fixture import feeds_of, graph_of

import npusim
from compiler.ops import run_graph
from compiler.passes import fusion, widen

TEXT = """
    graph "t"
    input %x : fp16[4,64]
    const %s : fp16[64]
    const %big : fp16[4,64]
    %a : fp16[4,64] = Mul(%x, %s)
    %b : fp16[4,64] = Add(%a, %big)
    %y : fp16[4,64] = Relu(%b)
    output %y
"""


def test_inner_values_and_vectors_that_repeat_are_widened() -> None:
    graph = fusion.run(graph_of(TEXT.replace("[4,64]", "[8,64]")))
    wide = widen.run(graph, ["fp16"])
    kinds = {name: kind.dtype for name, kind in wide.tensors.items()}
    assert kinds == {"x": "fp16", "s": "fp32", "big": "fp16", "a": "fp32", "b": "fp32", "y": "fp16"}
    assert wide.constants["s"].type.dtype == "fp32"
    np.testing.assert_array_equal(wide.constants["s"].value(), graph.constants["s"].value())


def test_a_vector_that_repeats_seldom_stays() -> None:
    assert widen.run(fusion.run(graph_of(TEXT)), ["fp16"]).tensors["s"].dtype == "fp16"


def test_values_between_kernels_and_formats_that_the_unit_has_stay() -> None:
    apart = fusion.run(graph_of(TEXT), fusion=False)
    assert {widen.run(apart, ["fp16"]).tensors[n].dtype for n in "aby"} == {"fp16"}
    fused = fusion.run(graph_of(TEXT))
    assert widen.run(fused, ["bf16"]) == fused


def test_wide_values_are_closer_to_fp32() -> None:
    graph = fusion.run(graph_of(TEXT.replace("[4,64]", "[8,64]")))
    feeds = feeds_of(graph)
    exact = run_graph(graph_of(TEXT.replace("[4,64]", "[8,64]").replace("fp16", "fp32")), feeds)["y"]
    errors = [np.abs(run_graph(g, feeds)["y"].astype("f8") - exact).max() for g in (graph, widen.run(graph, ["fp16"]))]
    assert errors[1] <= errors[0]


@pytest.mark.parametrize("settings", [[], ["run.rows=reread"]])
def test_fp16_passes_its_check_where_the_alus_lack_it(settings: list[str]) -> None:
    result = npusim.run("bert-base:16", "tpu-v4", dtype="fp16", settings=settings, check=True)
    assert result.check is not None and result.check.ok


def test_fp16_costs_more_than_bf16_where_the_alus_lack_it() -> None:
    cycles = [npusim.run("mobilenetv2", "tpu-v4", dtype=kind).record.total_cycles for kind in ("bf16", "fp16")]
    assert cycles[0] < cycles[1]
