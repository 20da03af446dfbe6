"""Words that the command line does not take: exit code 2 and one line with thing, value, limit and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from npusim.cli_usage import LATER_COMMANDS, LATER_OPTIONS
from npusim.validate import KINDS, LATER

Cli = Callable[..., Result]
Fails = Callable[..., str]
RUN = ("run", "gemm:8x8x8", "--hw", "tiny")
GUIDE = (Path(__file__).parents[2] / "docs" / "user-guide.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run", "gemm:8x8x8"), ("--hw is missing", "npusim chips", "npusim run --help")),
        (("run",), ("MODEL is missing", "npusim run --help")),
        (("run", "a", "--hw"), ("--hw", "requires an argument", "npusim run --help")),
        (("run", "a", "b", "--hw", "tiny"), ("(b)", "npusim run --help")),
        ((*RUN, "--bach", "3"), ("'--bach'", "'--batch'")),
        ((*RUN, "--batch", "0"), ("--batch", "'0'", "at least 1")),
        ((*RUN, "--batch", "two"), ("--batch", "'two'", "at least 1")),
        ((*RUN, "--batch", "9" * 5000), ("--batch", "18 digits")),
        ((*RUN, "--seed", "-1"), ("--seed", "'-1'", "at least 0")),
        ((*RUN, "--trace-window", "5:3"), ("--trace-window", "'5:3'", "START below END")),
        ((*RUN, "--fidelity", "exact"), ("--fidelity", "'exact'", "analytic")),
        ((*RUN, "-o", ""), ("--out", "''", "leave it away")),
        (("compile", "gemm:8x8x8", "--hw", "tiny", "-o", ""), ("--out", "''")),
        (("validate", "--rows", "0"), ("--rows", "'0'", "at least 1")),
        (("validate", "-o", ""), ("--out", "''")),
        (("profile", "nope"), ("'nope'", "--hw", "npusim profile --help")),
        (("nope",), ("'nope'", "validate")),
        (("--nope",), ("'--nope'", "npusim --help")),
        (("chips", "nope"), ("'nope'", "schema", "npusim chips --help")),
        (("chips", "show"), ("CHIP is missing", "npusim chips show --help")),
    ],
)
def test_a_line_names_the_thing_and_the_remedy(fails: Fails, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    line = fails(*args)
    assert [w for w in words if w not in line] == []


def test_what_the_limits_allow_is_taken(cli: Cli) -> None:
    assert cli(*RUN, "--seed", "0", "--trace-window", "0:1", "-q").exit_code == 0


def test_an_empty_output_writes_nothing(fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fails(*RUN, "-o", "")
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_can_be_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(*RUN, "-q", "-o", ".").exit_code == 0
    assert (tmp_path / "summary.json").exists()


def test_without_words_the_help_is_shown(cli: Cli) -> None:
    result = cli()
    assert result.exit_code == 2 and "Commands:" in result.output


@pytest.mark.parametrize("option", LATER_OPTIONS)
def test_options_of_a_later_version_say_so(fails: Fails, option: str) -> None:
    line = fails(*RUN, option)
    assert f"{option} is not in this version: it comes with {LATER_OPTIONS[option]}" in line
    assert f"`{option}" in GUIDE


@pytest.mark.parametrize("command", LATER_COMMANDS)
def test_commands_of_a_later_version_say_so(fails: Fails, command: str) -> None:
    assert "not in this version" in fails(command, "x.asm", "--grid", "4")
    assert f"`npusim {command}`" in GUIDE


@pytest.mark.parametrize("kind", LATER)
def test_kinds_of_a_later_version_say_so(fails: Fails, kind: str) -> None:
    assert "not in this version" in fails("validate", "--kind", kind, "--csv", "x.csv")
    assert f"`{kind}`" in GUIDE and kind not in KINDS


# --- settings of the run and of the memory


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("run.fusion=maybe", "true or false"),
        ("run.fusion=True", "true or false"),
        ("run.fusion=", "true or false"),
        ("run.rows=twice", "once or reread"),
        ("run.tile=8x8", "256x256x512"),
        ("run.tile=0x8x8", "256x256x512"),
        ("run.tile=\u00b2x8x8", "256x256x512"),
        ("run.cores=0", "1 to 2"),
        ("run.cores=3", "1 to 2"),
        ("run.cores=\u00b2", "1 to 2"),
        ("run.matrix_dtype=fp99", "bf16"),
        ("run.speed=2", "run.fusion="),
    ],
)
@pytest.mark.parametrize("command", ["run", "compile"])
def test_settings_of_the_run_name_what_they_take(
    fails: Fails, tmp_path: Path, command: str, setting: str, words: str
) -> None:
    more = ("-o", tmp_path / "p.prog") if command == "compile" else ()
    line = fails(command, "gemm:8x8x8", "--hw", "tpu-v3", "--set", setting, *more)
    assert setting in line and words in line


@pytest.mark.parametrize(
    "setting", ["run.fusion=true", "run.fusion=false", "run.rows=once", "run.rows=reread", "run.tile=8x8x8",
                "run.cores=1", "run.cores=2", "run.matrix_dtype=bf16"],
)  # fmt: skip
def test_settings_of_the_run_that_are_taken(cli: Cli, tmp_path: Path, setting: str) -> None:
    args = ("compile", "gemm:16x16x16", "--hw", "tpu-v3", "--set", setting, "-o", tmp_path / "p.prog", "-q")
    assert cli(*args).exit_code == 0


@pytest.mark.parametrize(("extent", "legal"), [(1024, False), (64, True)])
def test_a_tile_too_small_is_refused_before_it_runs(
    cli: Cli, fails: Fails, tmp_path: Path, extent: int, legal: bool
) -> None:
    """Two cores share 1024 x 1024 x 1024 steps; at 20 instructions each a core may take 25,000,000."""
    model = f"gemm:{extent}x{extent}x{extent}"
    args = ("compile", model, "--hw", "tpu-v3", "--set", "run.tile=1x1x1", "-o", tmp_path / "p.prog", "-q")
    if legal:
        assert cli(*args).exit_code == 0
        return
    line = fails(*args)
    assert "run.tile=1x1x1" in line and "536870912 steps" in line and "500000000 instructions" in line
    assert "larger tile" in line


@pytest.mark.parametrize("changed", ["memory.channels=4", "memory.dram=ddr3-2133"])
def test_a_capacity_that_the_parts_lack_names_the_one_that_fits(cli: Cli, fails: Fails, changed: str) -> None:
    args = ("run", "gemm:8x8x8", "--hw", "tpu-v3", "--set", "memory.channels=4", "--set", changed)
    line = fails(*args)
    remedy = line.partition("(--set ")[2].partition(")")[0]
    assert changed in line and remedy.startswith("memory.capacity_bytes=")
    assert cli(*args, "--set", remedy, "-q").exit_code == 0
    key, _, most = remedy.partition("=")
    assert "is more than" in fails(*args, "--set", f"{key}={int(most) + 1}")


# --- tables and bytes


def test_headers_of_measurements_may_be_in_capitals(cli: Cli, tmp_path: Path) -> None:
    found = []
    for header in ("M,N,K,dtype,time_us", "m,n,k,dtype,time_us", "M,n,K,DType,Time_US"):
        table = tmp_path / "t.csv"
        table.write_text(f"{header}\n64,64,64,bf16,5.0\n")
        result = cli("validate", "--kind", "gemm", "--csv", table, "--hw", "tpu-v3", "--json")
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout))
    assert found[0] == found[1] == found[2] and found[0]["rows"] == 1


@pytest.mark.parametrize(("model", "shown"), [("gemm:5x5x5", True), ("gemm:64x64x64", False)])
def test_bytes_of_whole_bursts(cli: Cli, tmp_path: Path, model: str, shown: bool) -> None:
    """5 x 5 tensors of fp32 are 100 bytes: two bursts of 64 bytes each, which is more than 5 % above."""
    result = cli("run", model, "--hw", "tiny", "-o", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not shown or (summary["dram_bus_bytes"], summary["dram_read_bytes"]) == (3 * 128, 200)
    assert summary["dram_bus_bytes"] % 64 == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("DRAM bus: " in result.stdout) == shown == ("DRAM bus" in page)
    assert not shown or "28.0 % more" in page


@pytest.mark.parametrize("options", [("--set", "memory.model=ideal"), ("--fidelity", "analytic")])
def test_no_bursts_no_bytes_of_bursts(cli: Cli, options: tuple[str, ...]) -> None:
    assert "dram_bus_bytes" not in json.loads(cli(*RUN, *options, "--json").stdout)
