"""What a run prints, and the comparison of two runs."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import report_fixture as fixture
from rich.console import Console

from isa.errors import NpuError
from npusim.record import Result
from npusim.report import compare, profile_saved, profile_view, terminal, write_reports
from npusim.report.compare import cause_times_us, why
from npusim.report.profile import Profile
from npusim.report.saved import load_run


def _console(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, color_system=None)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def run() -> Result:
    return fixture.result()


@pytest.fixture(scope="module")
def dirs(run: Result, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("two")
    write_reports(run, root / "a")
    faster = fixture.result(100, clock_mhz=1880.0)
    write_reports(faster, root / "b")
    return root / "a", root / "b"


def test_terminal_shows_speed_operators_stalls_and_files(run: Result) -> None:
    console = _console()
    terminal(run, console, [Path("out/summary.json")])
    text = _text(console)
    for part in ("Speed of light", "Compute (bf16)", "HBM bandwidth", "VMEM → wfifo", "Costliest operators",
                 "Stall tree", "out/summary.json", "check: passed", "assumed: gather", "approximated: 1"):  # fmt: skip
        assert part in text, part
    table = text.split("Costliest operators")[1].split("Stall tree")[0]
    kinds = Profile(run).kind_rows
    assert f"10 of {len(kinds)} kinds, {sum(r.count for r in kinds[:10])} of 100 operators" in table
    assert [f"{r.cycles:,}" for r in kinds[:10]] == re.findall(r"^\S.*?(\d[\d,]+) +[\d.]+ %", table, re.M)
    assert table.count("(x") == sum(r.count > 1 for r in kinds[:10]) > 0


@pytest.mark.parametrize("view", [terminal, profile_view])
@pytest.mark.parametrize("width", [80, 120])
def test_stall_tree_sums_to_one_hundred(run: Result, view: object, width: int) -> None:
    console = _console(width)
    view(run, console)  # type: ignore[operator]
    text = _text(console)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    tree = text.split("Stall tree")[1]
    branches = re.split(r"instances\n", tree)[1:]
    assert len(branches) == 7
    for branch in branches:
        shares = re.findall(r"── +([\d.]+) %", branch.split("instances")[0])
        assert round(sum(10 * float(s) for s in shares)) == 1000


def test_profile_view_shows_memory_and_hot_spots(run: Result) -> None:
    console = _console()
    profile_view(run, console)
    text = _text(console)
    assert "Memory chart" in text and "Hot spots" in text and "What bounds" in text
    assert "row hits" in text and "_fs" not in text


def test_a_saved_run_shows_the_same_figures(dirs: tuple[Path, Path], run: Result) -> None:
    live, saved = _console(), _console()
    profile_view(run, live)
    profile_saved(dirs[0], saved)
    tree = _text(live).split("Stall tree")[1].split("Memory chart")[0]
    assert tree in _text(saved)
    bounds = _text(live).split("What bounds")[1].split("Stall tree")[0]
    assert bounds in _text(saved)
    assert "wait_dma" in _text(saved).split("Costliest operators")[1]
    shown = [f"{r.cycles:,}" for r in Profile(run).kind_rows[:10]]
    assert all(cycles in _text(saved).split("Costliest operators")[1] for cycles in shown)


def test_markup_in_names_is_printed_as_it_is() -> None:
    console = _console()
    terminal(fixture.renamed(fixture.result(8, model="[red]m[/x]"), 5, "[bold]op[/nope]"), console)
    assert "[red]m[/x]" in _text(console) and "[bold]op[/nope]" in _text(console)


def test_compare_names_totals_operators_and_causes(dirs: tuple[Path, Path]) -> None:
    console = _console(130)
    compare(*dirs, console)
    text = _text(console)
    assert "total cycles" in text and "Operators that moved most" in text and "Time of a pipe by cause" in text
    a, b = (json.loads((d / "summary.json").read_text()) for d in dirs)
    assert f"{100 * (b['time_us'] / a['time_us'] - 1):+.1f} %" in text


def test_a_run_compared_with_itself_does_not_move(dirs: tuple[Path, Path]) -> None:
    console = _console()
    compare(dirs[0], dirs[0], console)
    text = _text(console)
    assert "No operator moved." in text and "total cycles" in text
    assert re.search(r"total cycles.*=\s*$", text, re.M)


def test_operators_are_matched_by_name_and_occurrence(dirs: tuple[Path, Path]) -> None:
    run = load_run(dirs[0])
    assert len(run.operators) == 100
    key = next(iter(run.operators))
    before = run.operators[key]
    after = replace(before, dram_bytes=before.dram_bytes * 2, bound_by="latency", macs=before.macs + 1)
    reason = why(before, after)
    assert "DRAM +100.0 %" in reason and f"bound {before.bound_by} → latency" in reason and "MACs" in reason
    assert why(before, before) == f"same work, still {before.bound_by}"


def test_operators_of_one_run_only_are_listed(run: Result, dirs: tuple[Path, Path], tmp_path: Path) -> None:
    write_reports(fixture.renamed(run, 5, "renamed\nin two lines"), tmp_path)
    console = _console()
    compare(dirs[0], tmp_path, console)
    assert "1 operator(s) only in A" in _text(console) and "1 operator(s) only in B: renamed" in _text(console)


def test_times_by_cause_sum_to_the_time_of_the_run(dirs: tuple[Path, Path]) -> None:
    summary = load_run(dirs[0]).summary
    times = cause_times_us(summary)
    assert sum(times.values()) == pytest.approx(summary["time_us"]) and "instances" not in times


def test_the_headline_names_the_cause(run: Result, tmp_path: Path) -> None:
    write_reports(run, tmp_path / "a")
    write_reports(fixture.result(100, launch_cycles=9000), tmp_path / "b")
    there, back = _console(120), _console(120)
    compare(tmp_path / "a", tmp_path / "b", there)
    compare(tmp_path / "b", tmp_path / "a", back)
    assert "B takes 16.9 % longer than A" in _text(there) and "most of it is launch (+" in _text(there)
    assert "B is 1.17 times as fast as A" in _text(back) and "most of it is launch (−" in _text(back)


def test_numbers_are_whole_on_a_narrow_terminal(run: Result) -> None:
    console = _console(80)
    terminal(run, console)
    assert f"{Profile(run).kind_rows[0].cycles:,}" in _text(console)
    assert not re.search(r"\d…", _text(console).split("Costliest operators")[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{", "not JSON"),
        ("summary.json", "[1]", "lacks model"),
        ("summary.json", '{"model": 1}', "lacks hw"),
        ("summary.json", "NUMBERS", "malformed"),
        ("summary.json", "PIPES", "malformed"),
        ("ops.csv", "a,b\n1,2\n", "lacks the columns name"),
        ("ops.csv", "ROW", "line 2"),
        ("ops.csv", "BYTES", "cannot read"),
    ],
)
def test_malformed_folders_are_errors_of_the_user(
    dirs: tuple[Path, Path], tmp_path: Path, name: str, content: str, message: str
) -> None:
    for file in ("summary.json", "ops.csv"):
        (tmp_path / file).write_bytes((dirs[0] / file).read_bytes())
    text = (tmp_path / name).read_text()
    if content == "NUMBERS":
        content = json.dumps({**json.loads(text), "time_us": "soon"})
    elif content == "PIPES":
        content = json.dumps({**json.loads(text), "pipes": {"MXU": 3}})
    elif content == "ROW":
        content = text.splitlines()[0] + "\nonly,three,cells\n"
    data = b"\xff\xfe" if content == "BYTES" else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NpuError, match=message):
        compare(dirs[0], tmp_path, _console())


def test_an_absent_folder_is_an_error_of_the_user(dirs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(NpuError, match="No such file"):
        compare(dirs[0], tmp_path / "nowhere", _console())
