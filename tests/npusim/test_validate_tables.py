"""Tables of measurements: columns and their aliases, rows, failures, the baseline, the summary and its file."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from isa.errors import NpuError
from npusim.validate import KINDS, TABLES, kind_of, text_lines, validate
from npusim.validate.fit import fit_constant
from npusim.validate.index import table_text
from npusim.validate.summary import HEADER, Line, Outcome, statistics_of, summarise
from npusim.validate.table import Column, TableError, parse_table, spread

HW = "tpu-v4"
GEMM = "m,n,k,dtype,time_us\n"


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# Reading


def test_a_missing_column_is_named_with_its_aliases(tmp_path):
    with pytest.raises(NpuError, match=r"needs a column time_us \(or kernel_median_us, time_us_median\).*has m, n, k"):
        validate("gemm", table(tmp_path, "m,n,k,dtype\n1,2,3,f16\n"), HW)


@pytest.mark.parametrize("header", ["time_us", "kernel_median_us", "time_us_median"])
def test_aliases_mean_the_same(header):
    rows = parse_table(f"m,n,k,dtype_in,{header},other\n1,2,3,f16,4.5,x\n", "t", "gemm", kind_of("gemm").COLUMNS)
    assert (rows[0].positive("time_us"), rows[0].text("dtype"), rows[0].headers["time_us"]) == (4.5, "f16", header)


def test_the_column_itself_wins_over_its_aliases():
    columns = (Column("time", ("t_*",)),)
    assert parse_table("t_b,t_a,time\n1,2,3\n", "t", "k", columns)[0].text("time") == "3"
    assert parse_table("t_b,t_a\n1,2\n", "t", "k", columns)[0].text("time") == "1"


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(TableError, match="column m is there more than once"):
        validate("gemm", table(tmp_path, "m,n,k,m,time_us\n1,2,3,4,5\n"), HW)


def test_busy_shares_are_printed_beside_the_measured_ones(tmp_path):
    path = table(tmp_path, "m,n,k,dtype,time_us,cube_busy_frac,Store_Busy_Frac\n64,64,64,f16,9,0.25,0\n")
    summary = validate("gemm", path, "ascend-310", settings=["memory.model=ideal", "memory.l2=null"])
    shares = summary.lines[0].outcome.compared["cube_busy_frac"]
    text = "\n".join(text_lines(summary))
    assert shares[0] == 0.25 and f"cube 25.0 / {100 * shares[1]:.1f} % ({100 * shares[1] - 25:+.1f} points)" in text
    path = table(tmp_path, "m,n,k,dtype,time_us,cube_busy_frac\n64,64,64,f16,9,1.5\n")
    assert "column cube_busy_frac: 1.5 is no share" in validate("gemm", path, "ascend-310").lines[0].reason


@pytest.mark.parametrize(("text", "reason"), [("", "is empty"), ("\n\n", "is empty"), (GEMM, "no rows")])
def test_empty_files_are_refused(tmp_path, text, reason):
    with pytest.raises(TableError, match=reason):
        validate("gemm", table(tmp_path, text), HW)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(TableError, match="cannot be read"):
        validate("gemm", tmp_path / "none.csv", HW)
    path = tmp_path / "bytes.csv"
    path.write_bytes(b"m,n\xff\xfe")
    with pytest.raises(TableError, match="UTF-8"):
        validate("gemm", path, HW)


EVERY = list(range(1, 11))


@pytest.mark.parametrize(("count", "numbers"), [(1, [1]), (2, [1, 10]), (4, [1, 4, 7, 10]), (10, EVERY), (99, EVERY)])
def test_rows_are_spread_evenly(count, numbers):
    rows = parse_table("m\n" + "\n".join("0123456789"), "t", "k", (Column("m"),))
    assert [r.number for r in spread(rows, count)] == numbers


def test_no_rows_at_all_are_refused():
    with pytest.raises(TableError, match="at least 1"):
        spread(parse_table("m\n1\n", "t", "k", (Column("m"),)), 0)


# Asking


@pytest.mark.parametrize(("arguments", "reason"), [
    ({"kind": "gem", "csv": "t.csv", "hw": HW}, "unknown kind 'gem'"),
    ({"kind": "collective", "csv": "t.csv"}, "not in this version: .*there are systolic"),
    ({"kind": "attention_decode"}, "not in this version"),
    ({"table": "tpu_v9"}, "tpu_v3_pytorchsim_artifact"),
    ({"kind": "gemm", "hw": "tpu-v1"}, "no shipped table of kind gemm for tpu-v1"),
    ({"csv": "t.csv", "hw": HW}, "needs --kind"),
    ({"table": "tpu_v4_matmul_f16", "timing": "wall"}, "kernel, graph, eager"),
    ({"table": "tpu_v4_matmul_f16", "rows": 1, "settings": ["run.core=1"]}, "unknown setting"),
])  # fmt: skip
def test_questions_that_make_no_sense_are_refused(arguments, reason):
    with pytest.raises(NpuError, match=reason):
        validate(**arguments)


def test_a_chip_is_needed_where_one_is(tmp_path):
    with pytest.raises(NpuError, match="--hw"):
        validate("gemm", table(tmp_path, GEMM + "8,8,8,f16,1\n"))


@pytest.mark.parametrize("name", TABLES)
def test_every_shipped_table_is_readable_and_has_a_source(name):
    module = kind_of(TABLES[name].kind)
    rows = parse_table(table_text(name), name, TABLES[name].kind, module.COLUMNS)
    assert all(module.name_of(row) for row in rows)
    from importlib import resources

    assert f"`{name}.csv`" in resources.files("npusim.validate").joinpath("data", "SOURCES.md").read_text()


# Judging


def outcome(measured, simulated, **fields):
    return Outcome(measured, simulated, "us", measured, **fields)


def lines(*outcomes):
    return [Line("t", i, f"row {i}", x, "" if x else "reason") for i, x in enumerate(outcomes, 1)]


def test_statistics_by_hand():
    found = statistics_of(lines(outcome(10, 11), outcome(10, 7), None, outcome(20, 20)))
    assert (found["rows"], found["failed"], found["worst_row"]) == (4, 1, "2: row 2")
    assert found["mape_pct"] == pytest.approx(40 / 3)
    assert (found["median_pct"], found["worst_pct"]) == (pytest.approx(10), pytest.approx(30))


def test_only_rows_with_equal_integers_are_exact():
    same, other = {"cycles": (5, 5), "busy": (0.5, 0.1)}, {"cycles": (5, 5), "folds": (1, 2)}
    found = statistics_of(lines(outcome(5, 5, compared=same), outcome(5, 5, compared=other), outcome(5, 5)))
    assert found["exact"] == 1


def test_listed_rows_are_counted_and_not_judged():
    summary = summarise(lines(outcome(10, 10), outcome(10, 99, listed="FFT"))).as_dict()
    assert (summary["rows"], summary["listed"], summary["failed"], summary["mape_pct"]) == (2, 1, 0, 0)


def test_long_and_short_rows_apart():
    summary = summarise(lines(outcome(20, 22), outcome(20.1, 20.1), None)).as_dict()
    assert (summary["below_20us"]["rows"], summary["below_20us"]["mape_pct"]) == (1, pytest.approx(10))
    assert (summary["above_20us"]["rows"], summary["above_20us"]["mape_pct"]) == (1, 0)


def test_a_summary_without_a_judged_row_has_no_figures():
    summary = summarise(lines(None)).as_dict()
    assert summary["mape_pct"] is summary["worst_row"] is summary["roofline_mape_pct"] is None
    assert json.loads(json.dumps(summary, allow_nan=False))["failures"] == {"reason": 1}


def test_the_baseline_gets_the_constant_that_suits_it_best():
    summary = summarise(lines(*(outcome(r + 3.0, 1.0, roofline=float(r)) for r in (1, 2, 50))))
    assert summary.as_dict()["roofline_mape_pct"] == pytest.approx(0)
    assert summary.fits[0].value == pytest.approx(3) and summary.lines[2].roofline == pytest.approx(53)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 31])
def test_the_fit_is_the_best_one_and_leave_one_out_leaves_out(count):
    rng = np.random.default_rng(count)
    rest, slopes = rng.uniform(1, 9, count), rng.integers(1, 5, count).astype(float)
    measured = rest + slopes * rng.uniform(0.5, 3, count)
    fit = fit_constant("c", "us", measured, rest, slopes)

    def error(c, keep):
        return float(np.mean(100 * np.abs(rest + slopes * c - measured)[keep] / measured[keep]))

    everything = np.ones(count, bool)
    assert fit.mape_pct == pytest.approx(min(error(c, everything) for c in (measured - rest) / slopes))
    if count == 1:
        assert fit.leave_one_out_pct is None
        return
    total = 0.0
    for i in range(count):
        keep = everything.copy()
        keep[i] = False
        total += error(fit_constant("c", "us", measured[keep], rest[keep], slopes[keep]).value, ~keep)
    assert fit.leave_one_out_pct == pytest.approx(total / count)


# Running


def test_a_row_that_cannot_be_simulated_fails_with_its_reason(tmp_path):
    text = GEMM + "8,8,8,f16,1.0\n8,8,8,fp64,1.0\n0,8,8,f16,1.0\n8,8,8,f16,\n8,8\n"
    summary = validate("gemm", table(tmp_path, text), HW)
    assert [line.status for line in summary.lines] == ["ok", "failed", "failed", "failed", "failed"]
    assert summary.failed == summary.as_dict()["failed"] == 4
    assert "fp64" in summary.lines[1].reason and "column m: '0'" in summary.lines[2].reason
    assert "column time_us: ''" in summary.lines[3].reason


def test_the_file_has_a_line_a_row_and_appears_whole(tmp_path):
    source = table(tmp_path, GEMM + "64,64,64,f16,1.5\n8,8,8,fp64,1.0\n")
    summary = validate("gemm", source, HW, out=tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HEADER
    assert [r["status"] for r in rows] == ["ok", "failed"] and rows[1]["reason"] == summary.lines[1].reason
    simulated, measured = float(rows[0]["simulated"]), float(rows[0]["measured"])
    assert float(rows[0]["error_pct"]) == pytest.approx(100 * (simulated - measured) / measured, abs=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "t.csv"]
    assert len([x for x in text_lines(summary) if " fp64: " in x and "failed" in x]) == 1
    with pytest.raises(TableError, match="cannot be written"):
        validate("gemm", source, HW, out=tmp_path / "none" / "out.csv")


def test_ways_of_timing_differ_by_their_cost(tmp_path):
    source = table(tmp_path, GEMM + "64,64,64,f16,1.5\n")
    settings = ["launch_cycles=2100", "host.op_latency_us=7"]
    kernel, graph, eager = (
        validate("gemm", source, HW, settings=settings, timing=t).lines[0].outcome.simulated
        for t in ("kernel", "graph", "eager")
    )
    assert graph - kernel == pytest.approx(2.0) and eager - graph == pytest.approx(7.0)


CONV = "n,c,h,w,k_filters,r,s,stride,pad,dtype,fwd_time_us,fwd_algorithm\n"


def test_winograd_rows_are_listed(tmp_path):
    text = CONV + "1,32,14,14,32,3,3,1,1,fp16,5,WINOGRAD_NONFUSED\n1,32,14,14,32,3,3,1,1,fp16,5,IMPLICIT_GEMM\n"
    summary = validate("conv", table(tmp_path, text), HW)
    assert [line.status for line in summary.lines] == ["listed", "ok"]


def test_a_kernel_larger_than_its_image_fails(tmp_path):
    summary = validate("conv", table(tmp_path, CONV + "1,32,2,2,32,5,5,1,0,fp16,5,GEMM\n"), HW)
    assert "does not fit" in summary.lines[0].reason


def test_maps_in_blocks_are_read_and_written_as_they_are(tmp_path):
    """One kernel, none that converts; and a chip without such layouts says so."""
    source = table(tmp_path, CONV + "1,48,14,14,32,3,3,1,1,fp16,5,GEMM\n")
    blocked = validate("conv", source, "ascend-310", settings=["run.layout=nc1hwc0"]).lines[0]
    assert (blocked.status, blocked.outcome.launches) == ("ok", 1)
    graph = kind_of("conv").conv_graph(1, 14, 14, 40, 32, (3, 3), (2, 2), (1, 1), 16)
    assert [graph.tensors[name].shape for name in (*graph.inputs, *graph.outputs)] == [(1, 3, 14, 14, 16),
                                                                                      (1, 2, 7, 7, 16)]  # fmt: skip
    reason = validate("conv", source, HW, settings=["run.layout=nc1hwc0"]).lines[0].reason
    assert "tpu-v4 has no core.matrix.fractal_bytes" in reason


def test_a_row_may_name_its_tile(tmp_path):
    rows = [f"1,64,16,16,64,3,3,1,1,fp16,5,GEMM,{tile}\n" for tile in ("", "4x16x32x32", "8x8x64x64", "1")]
    source = table(tmp_path, CONV.replace("\n", ",tile\n") + "".join(rows))
    *run, wrong = validate("conv", source, "ascend-310").lines
    assert len({line.outcome.simulated for line in run}) == 3 and "tile" in wrong.reason
    for_all = validate("conv", source, "ascend-310", settings=["run.tile=4x16x32x32"]).lines[:3]
    assert [line.outcome.simulated for line in for_all] == [run[1].outcome.simulated] * 3


VECTOR_OPS = [
    "add", "relu", "linear", "binary_step", "parametric_relu", "softmax", "layer_norm", "rms_norm",
    "batch_norm_inference",
]  # fmt: skip


def test_vector_operators_run_in_both_forms_of_shape(tmp_path):
    text = "op,shape,dtype,kernel_median_us\n" + "".join(f"{op},2x16x64,f16,1.5\n" for op in VECTOR_OPS)
    by_shape = validate("vector", table(tmp_path, text), HW)
    assert [line.reason for line in by_shape.lines] == [""] * len(VECTOR_OPS)
    text = "op,rows,cols,dtype,time_us\nadd,32,64,fp16,1.5\nfoo,1,1,fp16,1\n"
    by_rows = validate("vector", table(tmp_path, text), HW)
    assert by_rows.lines[0].status == "ok" and "'foo' is not one of" in by_rows.lines[1].reason


def test_workloads_by_name(tmp_path):
    names = ["gemm_64x64x64", "conv_1x8x8x16x16x3x1x1", "attention_2x32x16", "layernorm_8x64", "softmax_8x64"]
    bad = ["gemm_64x64", "gemm_axbxc", "lenet"]
    text = "workload,tpu_v3_measured_cycles,other_cycles\n" + "".join(f"{n},5000,1\n" for n in names + bad)
    summary = validate("workload", table(tmp_path, text), "tpu-v3")
    assert [line.status for line in summary.lines] == ["ok"] * len(names) + ["failed"] * len(bad)
    assert "is not known" in summary.lines[-1].reason


def test_tpu_v3_workloads_run_on_one_core_with_fp32_arrays(tmp_path):
    """The header tells the source, which measured one core: two cores would be faster, and so would bf16 arrays."""
    text = "workload,{},other\nsoftmax_512x512,5000,1\n"
    known = validate("workload", table(tmp_path, text.format("tpu_v3_measured_cycles")), "tpu-v3")
    other = validate("workload", table(tmp_path, text.format("x_measured_cycles"), "u.csv"), "tpu-v3")
    assert known.lines[0].outcome.simulated > 1.2 * other.lines[0].outcome.simulated


def test_copies_are_at_most_as_fast_as_dram():
    for line in validate(table="tpu_v4_hbm_to_cmem_copy", rows=4).lines:
        assert line.outcome.simulated > line.outcome.roofline


def test_all_kinds_have_a_module():
    for name in KINDS:
        module = kind_of(name)
        assert module.COLUMNS and isinstance(module.NEEDS_HW, bool)
