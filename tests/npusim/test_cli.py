"""The commands, on small models: what they print, write and return."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from isa.loader import list_machines
from npusim.report.files import NAMES

Cli = Callable[..., Result]
GEMM = "gemm:64x64x64"
SUMMARY_KEYS = {
    "schema_version", "model", "hw", "dtype", "fidelity", "total_cycles", "time_us", "pipes", "check", "wall_s",
}  # fmt: skip


def summary_of(result: Result) -> Any:
    """The JSON on stdout; anything beside it would not parse."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --- run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chip", "dtype"), [("tiny", "fp32"), ("tpu-v3", "bf16")])
def test_run_writes_every_file_and_prints_the_report(cli: Cli, tmp_path: Path, chip: str, dtype: str) -> None:
    out = tmp_path / "a" / "out"
    result = cli("run", GEMM, "--hw", chip, "--check", "-o", out)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == sorted(NAMES)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["model"], summary["hw"], summary["dtype"], summary["macs"]) == (GEMM, chip, dtype, 64**3)
    assert summary["check"]["ok"] and summary["check"]["executed_share"] == 1.0
    for text in ("Speed of light", "Costliest operators", "Stall tree", "check: passed", "summary.json"):
        assert text in result.stdout


def test_json_is_the_summary_alone_and_runs_repeat(cli: Cli, tmp_path: Path) -> None:
    first = summary_of(cli("run", GEMM, "--hw", "tiny", "--json", "-o", tmp_path))
    assert first.keys() >= SUMMARY_KEYS
    saved = json.loads((tmp_path / "summary.json").read_text())
    again = summary_of(cli("run", GEMM, "--hw", "tiny", "--json", "--exact"))
    for summary in (first, saved, again):
        del summary["wall_s"], summary["engine_cpu_s"]
    assert first == saved == again


def test_options_reach_the_run(cli: Cli) -> None:
    base = summary_of(cli("run", GEMM, "--hw", "tiny", "--json"))
    quantised = summary_of(cli("run", GEMM, "--hw", "tiny", "--json", "--dtype", "int8"))
    changes = ("--set", "core.matrix.rows=8", "--set", "clock_mhz=500")
    wider = summary_of(cli("run", GEMM, "--hw", "tiny", "--json", *changes))
    assert quantised["dtype"] == "int8" and quantised["dram_read_bytes"] < base["dram_read_bytes"]
    assert wider["clocks_ghz"]["core"] == 0.5 and wider["peak_flops"]["fp32"] == base["peak_flops"]["fp32"]
    one = summary_of(cli("run", "mlp", "--hw", "tpu-v3", "--json", "--set", "run.cores=1"))
    batch = summary_of(cli("run", "mlp", "--hw", "tpu-v3", "--json", "--batch", 4))
    assert batch["macs"] == 4 * one["macs"]
    assert one["memory_capacity_bytes"] * 2 == batch["memory_capacity_bytes"]


def test_quiet_prints_nothing(cli: Cli) -> None:
    result = cli("run", "gemm:8x8x8", "--hw", "tiny", "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_trace_window_keeps_only_its_instructions(cli: Cli, tmp_path: Path) -> None:
    def spans(*window: str) -> list[tuple[float, float]]:
        assert cli("run", "gemm:16x16x16", "--hw", "tiny", "-q", "-o", tmp_path, *window).exit_code == 0
        events = json.loads((tmp_path / "trace.json").read_text())
        rows = events["traceEvents"] if isinstance(events, dict) else events
        return [(e["ts"], e["ts"] + e["dur"]) for e in rows if e.get("cat") == "instr"]

    everything, part = spans(), spans("--trace-window", "100:200")
    # At 1 GHz the trace's microsecond is 1000 cycles.
    assert part == [s for s in everything if s[1] > 0.1 and s[0] < 0.2]
    assert 0 < len(part) < len(everything)


def test_a_failed_check_exits_1_and_names_the_worst_element(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from npusim import check

    honest = check.execute

    def damaged(*args: Any, **kwargs: Any) -> Any:
        values = honest(*args, **kwargs)
        values.tensors["y"].flat[70] += 1000
        return values

    monkeypatch.setattr(check, "execute", damaged)
    result = cli("run", GEMM, "--hw", "tiny", "--check", "-q")
    assert result.exit_code == 1 and result.stdout == ""
    assert "1 of 2 comparisons differ" in result.stderr and "y[1, 6]" in result.stderr


def test_an_estimated_operator_fails_the_check_unless_allowed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler.lower.context import RULES

    monkeypatch.delitem(RULES, "Relu")
    strict = cli("run", "relu:8x8", "--hw", "tiny", "--check", "-q")
    assert strict.exit_code == 1 and "--allow-approx" in strict.stderr
    assert cli("run", "relu:8x8", "--hw", "tiny", "--check", "--allow-approx", "-q").exit_code == 0


# --- compile, sim, asm, disasm -----------------------------------------------------------------------------------


def test_a_program_takes_every_form_and_the_same_cycles(cli: Cli, tmp_path: Path) -> None:
    binary, text, again = tmp_path / "p.prog", tmp_path / "p.asm", tmp_path / "q.prog"
    dump = tmp_path / "dump"
    assert cli("compile", GEMM, "--hw", "tpu-v3", "-o", binary, "--dump", dump).exit_code == 0
    assert cli("compile", GEMM, "--hw", "tpu-v3", "-o", text, "-q").output == ""
    assert cli("disasm", binary).stdout == text.read_text() == (dump / "program.asm").read_text()
    assert cli("asm", text, "-o", again, "--hw", "tpu-v3").exit_code == 0
    assert again.read_bytes() == binary.read_bytes()
    whole = summary_of(cli("run", GEMM, "--hw", "tpu-v3", "--json"))
    for form in (binary, text):
        assert summary_of(cli("sim", form, "--json"))["total_cycles"] == whole["total_cycles"]
    stages = sorted(p.name for p in dump.glob("*.npu"))
    assert stages[0] == "00_import.npu" and stages[-1].endswith("_bf16.npu") and len(stages) > 5
    assert (dump / "tiles.txt").read_text().strip()
    assert summary_of(cli("run", dump / "00_import.npu", "--hw", "tpu-v3", "--json"))["macs"] == whole["macs"]


def test_sim_compares_the_outputs_that_it_is_given(cli: Cli, tmp_path: Path) -> None:
    program, values = tmp_path / "p.prog", tmp_path / "x.npz"
    assert cli("compile", "add:4x8", "--hw", "tiny", "-o", program, "-q").exit_code == 0
    a, b = np.ones((4, 8), np.float32), np.arange(32, dtype=np.float32).reshape(4, 8)
    names = {"a": a, "b": b, "y": a + b}
    np.savez(values, **names)
    passed = cli("sim", program, "--inputs", values, "--check", "-o", tmp_path / "out")
    assert passed.exit_code == 0 and "check: passed" in passed.stdout, passed.output
    np.savez(values, **{**names, "y": a + b + (b == 9)})
    failed = cli("sim", program, "--inputs", values, "--check", "-q")
    assert failed.exit_code == 1 and "y[1, 1]" in failed.stderr
    assert cli("sim", program, "--check-hazards", "-q").exit_code == 0
    nothing = cli("sim", program, "--check")
    assert nothing.exit_code == 0 and "no values compared" in nothing.stdout
    assert nothing.stderr.startswith("NOTHING WAS COMPARED") and nothing.stderr.rstrip().endswith("values of y")
    assert json.loads(cli("sim", program, "--check", "--json").stdout)["check"]["not_compared"] == ["y"]
    np.savez(values, **names)
    assert "compared with the values that --inputs gives: y\n" in cli(
        "sim", program, "--inputs", values, "--check").stderr  # fmt: skip


def test_the_sample_of_the_guide_compares_its_values(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[2]
    guide = (root / "docs" / "user-guide.md").read_text(encoding="utf-8")
    found = re.search(r'\$ python -c "\n(.*?)"\n\$ npusim (sim [^\n]*)\n', guide, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", found[1]], check=True)
    args = [str(root / word) if word.startswith("traces/") else word for word in found[2].split()]
    passed = cli(*args)
    assert passed.exit_code == 0 and "compared with the values that --inputs gives: c\n" in passed.stderr
    with np.load("gemm.npz") as arrays:
        values = dict(arrays)
    assert len(np.unique(values["c"])) > 3
    values["c"][7, 5] += 2  # beyond 1 ulp
    np.savez("gemm.npz", **values)
    failed = cli(*args)
    assert failed.exit_code == 1 and re.search(r"c\[7, 5\]: [-0-9.]+ instead of", failed.stderr)
    without = cli("sim", args[1], "--check", "-o", "out")
    assert without.exit_code == 0 and "NOTHING WAS COMPARED" in without.stderr
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "nothing compared" in page and "heck passed" not in page


@pytest.mark.parametrize("option", ["--check", "--check-hazards"])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("wait 2, r4, 1 ;;", "nop ;;", "flag 2 is"),  # flags left over
        ("  wait 3, 1 ;;", "  wait 3, 2 ;;", "deadlock"),
        ("    wait 0, r6, 1 ;;", "    nop ;;", "hazard"),
    ],
    ids=["left over", "deadlock", "race"],
)
def test_faulty_synchronisation_fails_the_check(cli: Cli, tmp_path: Path, option: str, old: str, new: str,
                                                words: str) -> None:  # fmt: skip
    text = resources.files("traces").joinpath("vector_add.asm").read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "p.asm"
    path.write_text(text.replace(old, new), encoding="utf-8")
    failed = cli("sim", path, option, "-q")
    assert failed.exit_code == 1 and words in failed.stderr and failed.stdout == ""
    path.write_text(text, encoding="utf-8")
    assert cli("sim", path, option, "-q").exit_code == 0


def test_without_a_check_a_program_that_stops_is_an_error(fails: Callable[..., str], tmp_path: Path) -> None:
    text = resources.files("traces").joinpath("vector_add.asm").read_text(encoding="utf-8")
    path = tmp_path / "p.asm"
    path.write_text(text.replace("  wait 3, 1 ;;", "  wait 3, 2 ;;"), encoding="utf-8")
    assert "no core can go on" in fails("sim", path, "-q")


def test_sim_refuses_wrong_inputs(cli: Cli, fails: Callable[..., str], tmp_path: Path) -> None:
    program, values = tmp_path / "p.prog", tmp_path / "x.npz"
    assert cli("compile", "add:4x8", "--hw", "tiny", "-o", program, "-q").exit_code == 0
    for arrays, words in (
        ({"a": np.ones((8, 4), np.float32)}, "expected [4, 8]"),
        ({"nope": np.ones(3)}, "names no tensor"),
        ({"a": np.zeros((999, 999))}, "unpacks to"),
        ({"a": np.array([None])}, "not an .npz file of plain arrays"),
    ):
        np.savez(values, **arrays)
        assert words in fails("sim", program, "--inputs", values, "--check")
    values.write_bytes(b"PK\x03\x04 no zip")
    assert "not an .npz file" in fails("sim", program, "--inputs", values)
    assert "cannot be read" in fails("sim", program, "--inputs", tmp_path / "missing.npz")


# --- looking at runs and at what there is ------------------------------------------------------------------------


def test_profile_and_compare_read_saved_runs(cli: Cli, tmp_path: Path) -> None:
    for chip in ("tiny", "tpu-v3"):
        assert cli("run", GEMM, "--hw", chip, "-q", "-o", tmp_path / chip).exit_code == 0
    saved = cli("profile", tmp_path / "tiny")
    fresh = cli("profile", GEMM, "--hw", "tiny")
    assert saved.exit_code == fresh.exit_code == 0
    assert "Stall tree" in saved.stdout and "Memory chart" in fresh.stdout
    compared = cli("compare", tmp_path / "tiny", tmp_path / "tpu-v3")
    assert compared.exit_code == 0 and "total cycles" in compared.stdout


def test_chips_list_show_schema(cli: Cli) -> None:
    listed = cli("chips").stdout
    assert listed == cli("chips", "list").stdout
    assert all(name in listed for name, _ in list_machines())
    shown = cli("chips", "show", "tpu-v3", "--set", "core.matrix.rows=64").stdout
    assert "core.matrix.rows" in shown and "override" in shown and "specified" in shown
    assert json.loads(cli("chips", "show", "tiny", "--json").stdout)["core"]["matrix"]["rows"] == 4
    assert "properties" in json.loads(cli("chips", "schema").stdout)


def test_ops_and_models(cli: Cli) -> None:
    assert "MatMul" in cli("ops").stdout
    models = cli("models").stdout
    assert "resnet50" in models and "gemm:MxNxK" in models


def test_warmup_names_each_machine_and_seconds(cli: Cli) -> None:
    lines = cli("warmup").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["tiny", "tpu-v3", "gpu-tiny"]
    assert all(line.endswith(" s") for line in lines)


def test_validate_prints_rows_and_one_json_object(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    result = cli("validate", "--table", "systolic_rtl", "--rows", 3, "--json", "-o", out)
    assert summary_of(result)["rows"] == 3 and len(out.read_text().splitlines()) == 4
    assert "rows: 3" in cli("validate", "--table", "systolic_rtl", "--rows", 3).stdout


# --- the program itself ------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_only_what_exists(cli: Cli) -> None:
    from npusim.cli import main

    assert set(main.commands) == {
        "run", "compile", "sim", "kernel", "profile", "compare", "asm", "disasm", "chips", "ops", "models", "validate",
        "warmup",
    }  # fmt: skip
    for name in main.commands:
        assert cli(name, "--help").exit_code == 0
    assert "--sample-waves" not in cli("run", "--help").stdout


def test_fidelities_are_those_of_the_library() -> None:
    from npusim import api, cli

    assert cli.FIDELITIES == api.FIDELITIES


def test_starting_imports_nothing_heavy() -> None:
    """`import npusim` and `--help` leave numba, onnx and matplotlib alone."""
    code = (
        "import sys, npusim, npusim.cli\n"
        "try: npusim.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numba', 'onnx', 'matplotlib', 'numpy', 'pydantic') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_interrupt_exits_130_with_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from npusim import api

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run", interrupted)
    result = cli("run", GEMM, "--hw", "tiny")
    assert result.exit_code == 130 and result.output == "npusim: interrupted\n"


def test_progress_speaks_after_its_delay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from npusim import cli_support

    monkeypatch.setattr(cli_support, "FILE_PERIOD_S", 0.01)
    with cli_support.Progress(quiet=False) as progress:
        time.sleep(0.05)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli_support, "AFTER_S", 0.01)
    monkeypatch.setattr(cli_support, "kernels_are_cold", lambda: True)
    with cli_support.Progress(quiet=False) as progress:
        time.sleep(0.05)
        progress("simulating", 0, 4)
        time.sleep(0.05)
        progress("simulating", 1, 4)
        time.sleep(0.05)
    said = capsys.readouterr().err
    assert "compiling, 0 s" in said
    assert "compiling kernels (first run only)" in said
    assert "simulating 1/4" in said and "left" in said
