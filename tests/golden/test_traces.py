"""Every sample program, run from its preset as a user runs it, leaves the summary that stands beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

TRACES = Path(__file__).resolve().parents[2] / "traces"
SAMPLES = sorted(TRACES.glob("*.asm"))
KEYS = ("hw", "clocks_ghz", "total_cycles", "instructions", "dram_read_bytes", "dram_write_bytes", "pipes")


@pytest.mark.parametrize("path", SAMPLES, ids=[p.stem for p in SAMPLES])
def test_samples_take_the_expected_cycles(
    cli: Callable[..., Result], golden: Callable[[Path, dict[str, Any]], None], path: Path
) -> None:
    result = cli("sim", path, "--check-hazards", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    golden(path.with_suffix(".json"), {key: summary[key] for key in KEYS})


def test_a_golden_file_that_differs_fails(golden: Callable[[Path, dict[str, Any]], None], tmp_path: Path,
                                          request: pytest.FixtureRequest) -> None:  # fmt: skip
    if request.config.getoption("--update-golden"):
        pytest.skip("nothing is compared")
    path = tmp_path / "x.json"
    path.write_text('{"npusim_version": "0", "total_cycles": 5}')
    golden(path, {"total_cycles": 5})
    with pytest.raises(AssertionError, match="--update-golden"):
        golden(path, {"total_cycles": 6})


def test_every_expected_summary_has_its_sample() -> None:
    assert [p.stem for p in sorted(TRACES.glob("*.json"))] == [p.stem for p in SAMPLES]
