"""The numbers of a run and the files that hold them, on a synthetic Result."""

from __future__ import annotations

import csv
import errno
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_fixture as fixture

from isa.errors import NpuError, SimulationError
from npusim.record import CAUSE_ID, CAUSES, PipeInfo, Result
from npusim.report import ReportError, files, operator_rows, palette, summary, write_reports
from npusim.report.bounds import BOUNDS
from npusim.report.page import render
from npusim.report.profile import FAMILIES, Profile, family
from npusim.report.roofs import Frame, point_labels, roofline, short_name
from npusim.report.stalls import percentages, pipe_groups
from npusim.report.text import counter, duration, energy, figure, percent, shape, si, size

KEYS = {
    "schema_version", "npusim_version", "model", "hw", "dtype", "fidelity", "clocks_ghz", "total_cycles", "time_us",
    "throughput", "macs", "flops", "dram_read_bytes", "dram_write_bytes", "memory_peak_bytes", "memory_capacity_bytes",
    "peak_flops", "utilization", "pipes", "warps", "launches", "host_us", "instructions", "extrapolated_share",
    "assumptions", "approximated_ops", "check", "wall_s", "engine_cpu_s", "host_macs", "host_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def run() -> Result:
    return fixture.result()


@pytest.fixture(scope="module")
def drawn(run: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    assert [p.name for p in write_reports(run, folder)] == list(files.NAMES)
    return folder


def test_importing_reports_loads_no_drawing_library() -> None:
    """Start-up of the command line must not pay for matplotlib, jinja2 or numba."""
    code = "import sys, npusim.report; print([m for m in ('matplotlib', 'jinja2', 'numba') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "[]"


# --- summary ----------------------------------------------------------------------------------------------------------


def test_summary_has_exactly_the_keys_of_the_interface(run: Result) -> None:
    assert set(summary(run)) == KEYS
    assert set(summary(fixture.result(8, energy_pj={"mac_bf16": 0.6}))) == KEYS | {"energy_j"}


def test_pipe_states_sum_to_cycles_times_instances(run: Result) -> None:
    out = summary(run)
    assert {label: p["instances"] for label, p in out["pipes"].items()} == {
        "SCALAR": 2, "WLOAD": 4, "MXU": 4, "VPU": 2, "XLU": 2, "DMA IN": 2, "DMA OUT": 2,
    }  # fmt: skip
    for pipe in out["pipes"].values():
        assert sum(n for cause, n in pipe.items() if cause != "instances") == out["total_cycles"] * pipe["instances"]
        assert set(pipe) <= {"instances", *CAUSES}


@pytest.mark.parametrize("amount", [1, -1])
def test_states_that_do_not_sum_are_refused(run: Result, amount: int) -> None:
    states = run.record.states.copy()
    states[3, 1, 4, CAUSE_ID["busy"]] += amount
    broken = replace(run, record=replace(run.record, states=states))
    with pytest.raises(SimulationError, match=r"core 1, pipe MXU1.*1 pipe"):
        summary(broken)


def test_summary_figures_follow_from_the_record(run: Result) -> None:
    out = summary(run)
    assert out["time_us"] == pytest.approx(run.record.total_cycles / 940)
    assert out["dram_read_bytes"] + out["dram_write_bytes"] == run.record.dram_bytes.sum()
    assert out["peak_flops"]["bf16"] == pytest.approx(123.2e12, rel=1e-3)
    macs = sum(o.macs for o in run.program.operators)
    assert out["utilization"]["bf16"] == pytest.approx(macs / (65536 * run.record.total_cycles))
    assert 0 < out["utilization"]["work_weighted"] <= 1
    assert out["approximated_ops"][0]["op"] == "Gather" and out["approximated_ops"][0]["count"] == 1
    assert out["check"]["ok"] is True and "rows" not in out["check"]
    assert summary(replace(run, extra={"batch": 8}))["throughput"] == pytest.approx(8 * out["throughput"])


def test_work_weighted_utilization_counts_each_dtype_at_its_own_peak(run: Result) -> None:
    operators = list(run.program.operators)
    operators[5] = replace(operators[5], dtype="fp32")
    mixed = replace(run, program=replace(run.program, operators=tuple(operators)))
    used, before = summary(mixed)["utilization"], summary(run)["utilization"]
    assert used["fp32"] == pytest.approx(operators[5].macs * 6 / 65536 / run.record.total_cycles)
    assert used["work_weighted"] == pytest.approx(before["work_weighted"] + used["fp32"] * 5 / 6)


def test_energy_is_a_dot_product_of_counts() -> None:
    run = fixture.result(8, energy_pj={"mac_bf16": 0.5, "dram_byte": 30.0, "spm_byte": 1.0, "unheard_of": 9.0})
    paths = run.record.path_bytes.sum(axis=0)
    spm = paths[0] + paths[1] + paths[2] + paths[3]  # every path of the fixture touches spm once
    expected = 0.5 * run.record.macs.sum() + 30.0 * run.record.dram_bytes.sum() + 1.0 * spm
    assert summary(run)["energy_j"] == pytest.approx(expected * 1e-12)


# --- operators --------------------------------------------------------------------------------------------------------


def test_operator_rows_follow_from_the_record(run: Result) -> None:
    rows = operator_rows(run)
    assert len(rows) == 100
    assert sum(r.cycles for r in rows) == run.record.total_cycles
    assert sum(r.dram_bytes for r in rows) == run.record.dram_bytes.sum()
    assert [sum(r.level_bytes[k] for r in rows) for k in rows[0].level_bytes] == run.record.path_bytes.sum(0).tolist()
    gemm = next(r for r in rows if r.op_type == "Gemm")
    assert gemm.utilization == pytest.approx(gemm.macs / (65536 * gemm.cycles))
    assert gemm.arithmetic_intensity == pytest.approx(2 * gemm.macs / gemm.dram_bytes)
    assert all(0 <= r.utilization <= 1 and r.bound_by in BOUNDS for r in rows)


def test_an_operator_with_two_launches_is_one_row(run: Result) -> None:
    launches = run.program.launches.copy()
    launches["operator"][7] = 6
    merged = operator_rows(replace(run, program=replace(run.program, launches=launches)))
    single = operator_rows(run)
    assert merged[6].cycles == single[6].cycles + single[7].cycles
    assert (merged[6].start_cycle, merged[6].end_cycle) == (single[6].start_cycle, single[7].end_cycle)
    assert merged[7].cycles == 0 and merged[7].bound_by == "none" and merged[7].utilization == 0


# --- stalls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1, 1, 1], [0, 5], [999999, 1, 1], list(range(17)), [3], [1] * 7])
def test_percentages_sum_to_exactly_one_hundred(values: list[int]) -> None:
    shares = percentages(values)
    assert round(sum(round(10 * s) for s in shares)) == 1000
    assert all(abs(s - 100 * v / sum(values)) <= 0.1 for s, v in zip(shares, values))


def test_percentages_of_nothing_are_zero() -> None:
    assert percentages([0, 0]) == [0.0, 0.0] and percentages([]) == []


def test_pipes_group_by_label_without_the_unit_number() -> None:
    def labels(*pipes: tuple[str, int, str]) -> list[tuple[str, int]]:
        infos = [PipeInfo(i, kind, unit, label) for i, (kind, unit, label) in enumerate(pipes)]
        return [(g.label, g.instances) for g in pipe_groups(infos, [3] * len(infos))]

    assert labels(("matrix", 0, "MXU0"), ("matrix", 1, "MXU1")) == [("MXU", 6)]
    assert labels(("matrix", 0, "MXU"), ("matrix", 1, "MXU")) == [("MXU", 6)]
    assert labels(("dma", 0, "MTE1"), ("dma", 0, "MTE2")) == [("MTE1", 3), ("MTE2", 3)]
    assert labels(("matrix", 0, "MXU0")) == [("MXU0", 3)]
    assert labels(("vector", 0, "V"), ("drain", 0, "V")) == [("V (vector)", 3), ("V (drain)", 3)]


# --- roofline ---------------------------------------------------------------------------------------------------------


def test_no_point_lies_above_its_roof(run: Result) -> None:
    data = roofline(Profile(run))
    assert len(data.points) + data.omitted == 100 and len(data.points) > 80 and data.inner
    for point in (*data.points, *data.inner):
        assert point.flops_per_s <= point.attainable * (1 + 1e-9)


def test_every_point_lies_inside_the_frame(run: Result) -> None:
    data = roofline(Profile(run))
    frame = Frame(800, 500, data.x_range, data.y_range)
    for point in (*data.points, *data.inner):
        assert 0 < frame.x(point.intensity) < 800 and 0 < frame.y(point.flops_per_s) < 500


def test_labels_do_not_overlap(run: Result) -> None:
    data = roofline(Profile(run))
    labels = point_labels(data, Frame(800, 500, data.x_range, data.y_range))
    assert sorted(int(label.text) for label in labels) == list(range(1, len(data.named) + 1))
    for i, a in enumerate(labels):
        assert a.box[0] >= 0 and a.box[1] >= 0 and a.box[2] <= 800 and a.box[3] <= 500
        for b in labels[:i]:
            apart = a.box[2] <= b.box[0] or b.box[2] <= a.box[0] or a.box[3] <= b.box[1] or b.box[3] <= a.box[1]
            assert apart, (a, b)


def test_there_is_a_roof_for_each_dtype_and_each_level_in_use(run: Result) -> None:
    operators = list(run.program.operators)
    operators[5] = replace(operators[5], dtype="fp32")
    data = roofline(Profile(replace(run, program=replace(run.program, operators=tuple(operators)))))
    assert [r.key for r in data.compute] == ["bf16", "fp32", "vector"]
    assert [r.key for r in data.memory] == ["dram", "acc_to_spm", "spm_to_wfifo"]
    assert data.memory[0].value == pytest.approx(run.machine.dram_bytes_per_second)


def test_short_names_keep_the_end_within_the_limit() -> None:
    assert short_name("/a/b/c", 3) == "b/c"
    assert short_name("x" * 50, 20).count("x") == 19 and len(short_name("x" * 50, 20)) == 20
    assert short_name("/very/long/" + "y" * 26) == "y" * 26


# --- tables of the reports --------------------------------------------------------------------------------------------


def test_every_bound_cause_and_family_has_a_colour() -> None:
    assert set(palette.BOUND_COLOURS) == set(BOUNDS)
    assert set(palette.CAUSE_GROUPS) == set(CAUSES)
    assert set(palette.CAUSE_GROUPS.values()) == set(palette.CAUSE_GROUP_COLOURS)
    assert set(palette.FAMILY_COLOURS) == set(palette.FAMILY_MARKERS) == set(FAMILIES)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("scheme", "index"), [("light", 0), ("dark", 1)])
def test_colours_stand_out_from_the_background(scheme: str, index: int) -> None:
    """WCAG 2.1, criterion 1.4.11: graphical objects need a contrast of 3 : 1."""
    ground = _luminance(palette.BACKGROUND[scheme])
    for name, pair in palette.COLOURS.items():
        high, low = max(ground, _luminance(pair[index])), min(ground, _luminance(pair[index]))
        assert (high + 0.05) / (low + 0.05) >= 3.0, name


@pytest.mark.parametrize(
    ("op_type", "expected"),
    [("Conv", "convolution"), ("ConvTranspose", "convolution"), ("MatMul", "matrix product"),
     ("QGemm", "matrix product"),
     ("LayerNormalization", "normalise, reduce"), ("MaxPool", "normalise, reduce"), ("Add", "element-wise"),
     ("Transpose", "data movement"), ("GroupQueryAttention", "attention")],
)  # fmt: skip
def test_families(op_type: str, expected: str) -> None:
    assert family(op_type) == expected


@pytest.mark.parametrize(
    ("got", "expected"),
    [(si(0), "0"), (si(999), "999"), (si(1234, "B/s"), "1.23 kB/s"), (si(99.96e9, "B"), "100 GB"), (si(0.5), "0.50"),
     (size(0), "0 B"), (size(1536), "1.50 KiB"), (size(1 << 30), "1.00 GiB"), (percent(0.12345), "12.3 %"),
     (duration(5e-3), "5 ms"), (duration(1.5e-6), "1.50 µs"), (duration(3e-9), "3.0 ns"), (duration(0), "0.0 ns"),
     (energy(5.0), "5 J"), (energy(0.0123), "12.3 mJ"), (energy(0), "0 nJ"), (energy(2.5e-6), "2.50 µJ"),
     (figure(0.512), "0.512"), (figure(0.0537), "0.0537"), (figure(13.84), "13.8"), (figure(1925.1), "1,925"),
     (figure(0), "0"), (figure(5.25), "5.25"),
     (" ".join(counter("wait_fs", 10**12)), "wait, sum 1 ms"), (counter("read_bytes", 2048)[1], "2.00 KiB"),
     (counter("row_hits", 1234)[1], "1,234"), (shape((8, 3)), "8x3"), (shape(()), "scalar")],
)  # fmt: skip
def test_numbers_as_text(got: str, expected: str) -> None:
    assert got == expected


# --- files ------------------------------------------------------------------------------------------------------------


def test_summary_json_and_csv_hold_the_numbers(run: Result, drawn: Path) -> None:
    assert json.loads((drawn / "summary.json").read_text()) == json.loads(json.dumps(summary(run)))
    rows = list(csv.DictReader((drawn / "ops.csv").open()))
    assert list(rows[0]) == [
        "name", "op_type", "shape", "dtype", "start_cycle", "end_cycle", "cycles", "macs", "flops", "dram_bytes",
        "dram_to_spm_bytes", "spm_to_dram_bytes", "spm_to_wfifo_bytes", "acc_to_spm_bytes", "arithmetic_intensity",
        "utilization", "bound_by", "bound_share", "top_stall",
    ]  # fmt: skip
    expected = operator_rows(run)
    assert [r["name"] for r in rows] == [o.name for o in expected]
    for row, operator in zip(rows, expected):
        assert int(row["cycles"]) == operator.cycles and row["bound_by"] == operator.bound_by
        assert float(row["utilization"]) == pytest.approx(operator.utilization, rel=1e-5)


def test_pictures_are_whole(drawn: Path) -> None:
    assert (drawn / "roofline.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert ElementTree.parse(drawn / "roofline.svg").getroot().tag.endswith("svg")


def test_level_peaks_count_every_engine_of_every_core(run: Result) -> None:
    peaks = {level.key: level.peak for level in Profile(run).levels}
    assert peaks.pop("dram") == pytest.approx(run.machine.dram_bytes_per_second / 940e6)
    # 2 cores, one copy engine each, two weight ports each
    assert peaks == {"dram_to_spm": 1024, "spm_to_dram": 1024, "spm_to_wfifo": 256 * 2 * 2, "acc_to_spm": 2048}
    ideal = run.machine.memory.model_dump() | {"model": "ideal", "ideal_bytes_per_cycle": 100.0}
    assert Profile(fixture.result(4, memory=ideal)).levels[0].peak == 100.0


def test_the_same_run_gives_the_same_bytes(run: Result, drawn: Path, tmp_path: Path) -> None:
    write_reports(run, tmp_path)
    for name in files.NAMES:
        assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes(), name


def test_files_of_an_earlier_run_are_replaced_and_others_stay(run: Result, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    write_reports(run, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["model"] == "bert-stem"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*files.NAMES, "mine.txt"])


def _full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _third_rename_fails() -> Callable[[Any, Any], None]:
    calls, real = [0], files.os.replace

    def replace_file(source: Any, target: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            _full_disk()
        real(source, target)

    return replace_file


@pytest.mark.parametrize("where", ["draw", "rename"])
@pytest.mark.parametrize("existed", [False, True])
def test_nothing_is_left_after_a_full_disk(
    run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, existed: bool
) -> None:
    out = tmp_path / "a" / "b"
    if existed:
        out.mkdir(parents=True)
        (out / "summary.json").write_text("old")
        (out / "ops.csv").write_text("old")
    if where == "draw":
        monkeypatch.setattr(files, "write_trace", _full_disk)
    else:
        monkeypatch.setattr(files.os, "replace", _third_rename_fails())
    with pytest.raises(NpuError, match=r"cannot write the report to .*b: No space left"):
        write_reports(run, out)
    monkeypatch.undo()
    if not existed:
        assert list(tmp_path.iterdir()) == []
        return
    assert sorted(p.name for p in out.iterdir()) == ["ops.csv", "summary.json"]
    assert {(out / name).read_text() for name in ("ops.csv", "summary.json")} == {"old"}


def test_a_file_in_the_way_is_an_error_of_the_user(run: Result, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("mine")
    with pytest.raises(ReportError, match="cannot write"):
        write_reports(run, target)
    assert target.read_text() == "mine"


def test_a_record_that_does_not_add_up_leaves_nothing(run: Result, tmp_path: Path) -> None:
    broken = replace(run, record=replace(run.record, total_cycles=run.record.total_cycles + 1))
    with pytest.raises(SimulationError):
        write_reports(broken, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


# --- the page ---------------------------------------------------------------------------------------------------------

HOSTILE = "</title><script>alert(1)</script>\"'&\x00 onload=$x^{$"


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    run = fixture.renamed(fixture.result(12, model=HOSTILE), 5, HOSTILE)
    run = replace(run, assumptions=(HOSTILE,), check=replace(run.check, outputs={HOSTILE: 0.0}, hazards=(HOSTILE,)))
    write_reports(run, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<script>") == 1 and "alert(1)" in text and "<script>alert" not in text
    assert "<script" not in (tmp_path / "roofline.svg").read_text()
    assert json.loads((tmp_path / "trace.json").read_text())["otherData"]["model"] == HOSTILE


def test_labels_of_the_machine_are_escaped() -> None:
    run = fixture.result(8)
    core = run.machine.core.model_dump()
    core["spaces"]["spm"]["label"] = "<i>VM</i>"
    pipes = tuple(replace(p, label=f"<b>{p.label}") for p in run.record.pipes)
    run = replace(run, machine=fixture.machine(core=core), record=replace(run.record, pipes=pipes))
    text = render(Profile(run))
    assert "<b>MXU" not in text and "<i>VM" not in text and "&lt;b&gt;MXU" in text and "&lt;i&gt;VM" in text


def test_the_page_needs_no_network(drawn: Path) -> None:
    text = (drawn / "report.html").read_text()
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"src=|href=|@import|url\(", text)


def test_the_page_shows_every_operator_and_its_drawings_are_well_formed(run: Result, drawn: Path) -> None:
    text = (drawn / "report.html").read_text()
    table = re.findall(r'<tr class="([a-z]+)"><td class="name"', text)
    kinds = Profile(run).kind_rows
    assert len(table) - table.count("kind") == 100 and table.count("kind") == sum(r.count > 1 for r in kinds)
    assert "(x" in text and f"100 operators of {len(kinds)} kinds" in text
    drawings = re.findall(r'<svg viewBox.*?</svg>', text, re.S)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    data = roofline(Profile(run))
    assert text.count('class="dot"') == len(data.points) and text.count('class="ring"') == len(data.inner)
    for name in re.findall(r"var\(--([a-z]+)\)", text):
        assert f"--{name}:" in text


def test_energy_is_shown_only_with_energies(run: Result) -> None:
    assert "W on average" not in render(Profile(run))
    assert "W on average" in render(Profile(fixture.result(8, energy_pj={"dram_byte": 30.0})))


@pytest.mark.parametrize("count", [0, 1])
def test_tiny_runs_draw(count: int, tmp_path: Path) -> None:
    run = fixture.result(count)
    write_reports(replace(run, check=None, assumptions=()), tmp_path)
    assert "not checked in this run" in (tmp_path / "report.html").read_text()


def test_many_launches_stay_small() -> None:
    assert len(render(Profile(fixture.result(4000, events_per_launch=0)))) < 4_000_000
