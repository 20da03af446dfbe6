"""`--assume`: the rows that gathers read, in the timing and in generated inputs."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from click.testing import Result

from compiler.frontend import load_model
from isa.errors import ConfigError
from npusim import api
from npusim.engine.transfer import SPREAD, gathered_row
from npusim.inputs import generate, skew_of, zipf_rows
from npusim.report import operator_rows


@pytest.mark.parametrize(("text", "skew"), [("uniform", 0), ("zipf:1.2", 1.2), ("zipf:1", 1), ("zipf:10", 10)])
def test_laws_that_can_be_assumed(text: str, skew: float) -> None:
    assert skew_of(text) == skew


@pytest.mark.parametrize("text", ["zipf", "zipf:", "zipf:0", "zipf:10.001", "zipf:-1", "zipf:1e1", "x.npz", "zipf:x"])
def test_other_laws_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"`uniform` or `zipf:EXPONENT`"):
        skew_of(text)


@pytest.mark.kernels
@pytest.mark.parametrize("rows", [1, 2, 7, 30522])
@pytest.mark.parametrize("skew", [0, 500, 1000, 1200, 3000])
def test_rows_of_the_engine_lie_in_the_table_and_follow_the_law(rows: int, skew: int) -> None:
    found = [gathered_row(i, rows, skew) for i in range(300)]
    if skew == 0:
        assert found == [i * SPREAD % rows for i in range(300)]
        return
    shares = np.array([((i + 1) * SPREAD & 0xFFFFFFFF) / 2.0**32 for i in range(300)])
    assert np.abs(np.array(found) - zipf_rows(shares, rows, skew / 1000)).max() <= 1  # another pow() may round apart
    assert min(found) >= 0 and max(found) < rows


@pytest.mark.parametrize(("skew", "expected"), [(1.0, np.log(2) / np.log(1001)), (2.0, 0.5 / (1 - 1 / 1001))])
def test_the_first_row_is_as_frequent_as_the_law_says(skew: float, expected: float) -> None:
    shares = (np.arange(100_000) + 0.5) / 100_000
    assert np.mean(zipf_rows(shares, 1000, skew) == 0) == pytest.approx(expected, rel=1e-3)


def test_generated_indices_follow_the_law() -> None:
    graph = load_model("bert-base:128", None, None)
    name = next(n for n in graph.inputs if generate(graph, 3)[n].max() > 1000)
    even, skewed = (generate(graph, 3, skew)[name] for skew in (0.0, 1.5))
    assert np.median(even) > 5000 and np.median(skewed) < 50
    assert skewed.max() < 30522 and (generate(graph, 3, 1.5)[name] == skewed).all()


def test_the_law_moves_the_gather_and_is_named(cli: Callable[..., Result]) -> None:
    rows = {law: operator_rows(api.run("bert-base:128", "tpu-v3", assume=law))[0] for law in ("uniform", "zipf:3")}
    assert rows["uniform"].op_type == "Gather" and rows["uniform"].cycles != rows["zipf:3"].cycles
    assert rows["uniform"].dram_bytes == rows["zipf:3"].dram_bytes
    shown = json.loads(cli("run", "bert-block:8,16,2", "--hw", "tpu-v3", "--assume", "zipf:1.2", "--json").stdout)
    assert not any("gathers" in text for text in shown["assumptions"])  # it has none
    program = api.compile("bert-base:8", "tpu-v3").built.program
    from npusim import programs

    told = [a for a in programs.sim(program, assume="zipf:1.2").assumptions if "gathers" in a]
    assert told == ["gathers read rows that are spread over their tables by a Zipf law of exponent 1.2 (--assume)"]


def test_a_law_that_is_none_is_an_error_of_the_user(fails: Callable[..., str]) -> None:
    assert "zipf:EXPONENT" in fails("run", "mlp", "--hw", "tiny", "--assume", "normal")
