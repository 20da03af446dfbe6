"""Ramulator 2.1 to the tick: every golden run, and when each of the first requests was accepted and done.

`ramulator2_first_ticks.csv` has, of 17 of the 107 runs (all DRAM kinds and streams), the first 96 requests and every
eighth up to the 512th. Rows and figures are from the same runs as npusim/validate/data/ramulator2_dram.csv.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isa.memory import DramPart
from isa.yaml12 import load_plain
from npusim.validate import validate
from npusim.validate.dram import MAPPINGS, SCHEDULERS, ramulator2, run_stream
from npusim.validate.dram_streams import make_stream
from npusim.validate.index import table_text

DATA = files("npusim.validate").joinpath("data")
PARTS = {k: DramPart.model_validate(v) for k, v in load_plain(DATA.joinpath("ramulator2.yaml").read_text()).items()}
FIRST = Path(__file__).parent / "ramulator2_first_ticks.csv"
REQUESTS = 2048  # so many of a stream decide when the first 512 are done


@cache
def first_ticks() -> dict[str, np.ndarray]:
    """By run: int64 [n, 3], request, tick of acceptance, tick of completion."""
    found: dict[str, list[list[int]]] = {}
    with FIRST.open(encoding="utf-8", newline="") as file:
        for run, *ticks in list(csv.reader(file))[1:]:
            found.setdefault(run, []).append([int(x) for x in ticks])
    return {run: np.array(rows) for run, rows in found.items()}


@cache
def rows() -> dict[str, dict[str, str]]:
    """The shipped table by run."""
    return {row["run_id"]: row for row in csv.DictReader(table_text("ramulator2_dram").splitlines())}


def run(run_id: str, **changes: Any) -> np.ndarray:
    """As first_ticks, simulated, with changed controller options."""
    row = rows()[run_id]
    mapping, hashing = MAPPINGS[row["mapper"]]
    options = {
        "read_queue": int(row["read_queue"]), "write_queue": int(row["write_queue"]),
        "mapping": mapping, "hashing": hashing, "protect_hits": SCHEDULERS[row["scheduler"]],
        "refresh": "all_bank" if row["refresh"] == "1" else "none", **changes,
    }  # fmt: skip
    params = ";".join(f"N={REQUESTS}" if p.startswith("N=") else p for p in row["stream_params"].split(";"))
    inject = int(row["inject_k"]), int(row["inject_group"])
    channels = int(row["channels"])
    stream = make_stream(row["stream_id"], params, int(row["bytes_per_request"]), channels, inject)
    interleave = int(row["channel_interleave_bytes"])
    found = run_stream(PARTS[row["dram"]], ramulator2(**options), channels, interleave, stream)
    request = first_ticks()[run_id][:, 0]
    return np.stack([request, found["accepted"][request], found["done"][request]], axis=1)


def test_every_golden_run_is_exact() -> None:
    """Ticks, mean read latency to its last digit, row hits, misses and conflicts of 107 runs."""
    summary = validate(table="ramulator2_dram").as_dict()
    assert (summary["rows"], summary["exact"], summary["failed"]) == (107, 107, 0)


def test_the_first_ticks_are_of_all_kinds_and_streams() -> None:
    chosen = [rows()[run_id] for run_id in first_ticks()]
    for column in ("dram", "stream_id", "mapper", "scheduler", "refresh"):
        assert {row[column] for row in chosen} == {row[column] for row in rows().values()}
    assert all(len(ticks) == 148 for ticks in first_ticks().values())


@pytest.mark.parametrize("run_id", sorted(first_ticks(), key=int))
def test_first_requests_are_accepted_and_done_in_the_golden_ticks(run_id: str) -> None:
    np.testing.assert_array_equal(run(run_id), first_ticks()[run_id])


@pytest.mark.parametrize(("run_id", "change"), [
    ("88", {"protect_hits": "all"}), ("27", {"protect_hits": "none"}), ("109", {"columns_first": True}),
    ("151", {"columns_first": True}), ("100", {"opened_leave_queue": False}), ("132", {"opened_leave_queue": False}),
    ("135", {"write_done": "data"}), ("31", {"write_done": "data"}), ("3", {"refresh": "none"}),
    ("3", {"refresh_blocks": False, "refresh_postpone": 8}), ("100", {"refresh_blocks": False, "refresh_postpone": 8}),
    ("151", {"write_high": 0.7}), ("88", {"write_low": 0.3}), ("151", {"write_queue": 33}), ("100", {"read_queue": 33}),
    ("0", {"mapping": "RoBaBgSiCoPc"}), ("151", {"hashing": "none"}),
])  # fmt: skip
def test_a_controller_that_differs_in_one_option_is_not_exact(run_id: str, change: dict[str, Any]) -> None:
    assert not np.array_equal(run(run_id, **change), first_ticks()[run_id])


def test_the_order_of_columns_and_rows_is_nothing_to_buses_of_their_own() -> None:
    """On a shared command bus it is (above); HBM has two."""
    for run_id in ("31", "40"):
        np.testing.assert_array_equal(run(run_id, columns_first=True), first_ticks()[run_id])
