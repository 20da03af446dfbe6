"""Figures of papers and courses: every printed digit with ideal memory, and at cycle level what DRAM leaves of them."""

from __future__ import annotations

import pytest

from npusim.validate import TableError, text_lines, validate
from npusim.validate.index import table_text
from npusim.validate.textbook import FIGURES

LONG = "gemm_traffic,16,"  # 33 million requests: `npusim validate --kind textbook` runs it


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    table = tmp_path_factory.mktemp("textbook") / "textbook.csv"
    rows = [row for row in table_text("textbook").splitlines() if not row.startswith(LONG)]
    table.write_text("\n".join(rows))
    result = validate(kind="textbook", csv=table)
    assert result.failed == 0
    return result


def test_every_digit_is_right_with_ideal_memory(lines):
    assert [line.name for line in lines.lines if not line.outcome.exact] == []
    assert len(lines.lines) == 17


def test_dram_costs_what_is_printed_beside_the_figure(lines):
    """Shares of time fall with DRAM's efficiency; bytes and cycles on chip do not change at all."""
    for line in lines.lines:
        value, real = line.outcome.compared["cycle_level"]
        efficiency = line.outcome.compared.get("dram_efficiency", (1.0, 1.0))[1]
        if line.name.startswith("tpu_v1"):
            assert 0.9 < efficiency < 1 and value * efficiency == pytest.approx(real, rel=0.015, abs=0.06), line.name
        elif line.name.startswith("three_stages"):
            assert value <= real <= 1.45 * value / efficiency, line.name  # one DRAM serves both directions
        else:
            assert real == line.outcome.simulated, line.name


def test_efficiency_stands_beside_each_figure_that_dram_has_a_part_in(lines):
    shown = [text for text in text_lines(lines) if "tpu_v1" in text or "gemm" in text]
    assert len(shown) == 9 and all("DRAM at" in text for text in shown)


@pytest.mark.parametrize(("rows", "share"), [(1348, 99.91), (2000, 100.0)])
def test_the_ridge_of_tpu_v1(rows, share):
    assert FIGURES["tpu_v1_busy"](rows, "ideal").value == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("row", "message"), [
    ("speed,1,1,x", "'speed' is not one of"), ("stream_cycles,9999999,1,x", "more than 1048576"),
])  # fmt: skip
def test_rows_that_name_no_figure_fail_with_the_reason(tmp_path, row, message):
    table = tmp_path / "t.csv"
    table.write_text(f"figure,argument,value,unit\n{row}\n")
    (line,) = validate(kind="textbook", csv=table).lines
    assert message in line.reason
    with pytest.raises(TableError, match="figure"):
        table.write_text("argument,value,unit\n1,1,x\n")
        validate(kind="textbook", csv=table)
