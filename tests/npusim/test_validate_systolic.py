"""Golden cycle counts of systolic arrays: the engine, running real programs, reproduces every one of them."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from isa.cost import systolic_folds, systolic_gemm_cycles
from npusim.functional import execute
from npusim.units.pe_array import run_gemm
from npusim.validate import validate
from npusim.validate.array import RTL, SCALE_SIM, Product, array_machine, gemm_program, run_array
from npusim.validate.index import table_text
from npusim.validate.systolic import measure
from npusim.validate.table import TableError, parse_table

TABLES = ["scalesim_gemm", "scalesim_conv", "systolic_rtl"]


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_exact(table):
    summary = validate(table=table).as_dict()
    assert summary["rows"] == summary["exact"] > 0
    assert summary["failed"] == 0 and summary["worst_pct"] == 0


def test_all_integers_of_a_row_are_compared():
    line = validate(table="systolic_rtl", rows=1).lines[0]
    assert set(line.outcome.compared) == {"cycles", "cycles_per_fold", "folds", "last_accumulate"}
    assert all(isinstance(x, int) for pair in line.outcome.compared.values() for x in pair)


@pytest.mark.parametrize(("table", "change"), [
    ("scalesim_gemm", {"psum_hop_cycles": 2}),
    ("scalesim_gemm", {"input_register_cycles": 1}),
    ("scalesim_gemm", {"drain_counted": True}),
    ("scalesim_conv", {"fold_overlap": True}),
    ("scalesim_conv", {"weight_double_buffer": True}),
    ("systolic_rtl", {"psum_hop_cycles": 1}),
    ("systolic_rtl", {"input_register_cycles": 0}),
    ("systolic_rtl", {"drain_counted": False}),
])  # fmt: skip
def test_each_option_matters(table, change, monkeypatch):
    options = RTL if table == "systolic_rtl" else SCALE_SIM
    monkeypatch.setattr("npusim.validate.systolic." + ("RTL" if options is RTL else "SCALE_SIM"), {**options, **change})
    summary = validate(table=table).as_dict()
    assert summary["failed"] == 0 and summary["exact"] < summary["rows"]


def test_the_name_of_the_cycle_column_is_the_convention():
    """The same product, counted both ways, differs by rows + 1 a fold."""
    header = "array_rows,array_cols,dataflow,m,n,k,"
    line = "4,4,os,20,4,8,{}\n"
    for column, cycles in (("rtl_cycles", 95), ("compute_cycles", 70)):
        text = header + column + "\n" + line.format(cycles)
        import npusim.validate.systolic as kind

        row = parse_table(text, "t", "systolic", kind.COLUMNS)[0]
        assert measure(row, None).exact


def test_a_wrong_golden_number_is_seen(tmp_path):
    rows = list(csv.reader(io.StringIO(table_text("scalesim_gemm"))))
    rows[3][8] = str(int(rows[3][8]) + 1)
    rows[3][7] = str(int(rows[3][7]) + 1)
    path = tmp_path / "t.csv"
    path.write_text("\n".join(",".join(r) for r in rows[:8]), encoding="utf-8")
    summary = validate("systolic", path)
    assert summary.as_dict()["exact"] == 6 and summary.as_dict()["rows"] == 7
    assert [line.number for line in summary.lines if not line.outcome.exact] == [3]


@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (5, 3, 9), (8, 8, 8), (9, 17, 4), (16, 5, 11)])
def test_the_programs_compute_the_product(dataflow, m, n, k):
    size = Product(m, n, k)
    machine = array_machine(4, 3, dataflow, size, RTL)
    rng = np.random.default_rng(m + n + k)
    a, b = (rng.integers(-128, 128, s).astype(np.int8) for s in ((m, k), (k, n)))
    values = execute(gemm_program(machine, size), machine, {"a": a, "b": b}, lambda *_: [])
    assert np.array_equal(values.tensors["c"], a.astype(np.int64) @ b.astype(np.int64))


OVERLAPS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
@pytest.mark.parametrize("wires", [SCALE_SIM, RTL, {"psum_hop_cycles": 3, "input_register_cycles": 2}])
@pytest.mark.parametrize(("overlap", "double"), OVERLAPS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 3), (3, 2), (4, 4)])
def test_pe_model_closed_form_and_engine_agree(dataflow, wires, overlap, double, rows, cols):
    options = {**wires, "fold_overlap": overlap, "weight_double_buffer": double}
    for m, n, k in [(1, 1, 1), (4, 4, 4), (5, 3, 4), (2, 7, 9), (9, 1, 8)]:
        size = Product(m, n, k)
        unit = array_machine(rows, cols, dataflow, size, options).core.matrix
        counted = run_array(rows, cols, dataflow, size, options)
        assert counted.cycles == systolic_gemm_cycles(unit, m, n, k)
        assert counted.folds == systolic_folds(unit, m, n, k)[0]
        assert counted.cycles == run_gemm(unit, np.ones((m, k), np.int64), np.ones((k, n), np.int64)).cycles


@pytest.mark.parametrize("kind", ["systolic", "dram", "textbook"])
def test_kinds_with_machines_of_their_own_take_no_settings(kind: str) -> None:
    with pytest.raises(TableError, match=rf"kind {kind} brings machines of its own.*leave --set memory.channels=4 out"):
        validate(kind, rows=1, settings=["memory.channels=4"])
