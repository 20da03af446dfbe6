"""trace.json: valid events, order on every track, and the limit of its size."""

from __future__ import annotations

import io
import itertools
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import report_fixture as fixture

from isa.program import Kernel
from isa.table import code
from npusim.record import EVENT, Result
from npusim.trace import write_trace


@pytest.fixture(scope="module")
def run() -> Result:
    return fixture.result()


def _trace(run: Result, **options: Any) -> tuple[dict[str, Any], int, int]:
    """The trace as read back, its bytes, and the number of events left out."""
    file = io.StringIO()
    dropped = write_trace(run, file, **options)
    text = file.getvalue()
    return json.loads(text), len(text.encode()), dropped


def test_events_have_the_fields_of_their_phase(run: Result) -> None:
    trace, _, _ = _trace(run)
    assert {e["ph"] for e in trace["traceEvents"]} == {"M", "X", "C"}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] == "C":
            assert event["args"] and all(isinstance(v, (int, float)) for v in event["args"].values())


def test_slices_of_a_track_are_in_order_and_do_not_overlap(run: Result) -> None:
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in _trace(run)[0]["traceEvents"]:
        if event["ph"] == "X":
            tracks[(event["pid"], event["tid"])].append((event["ts"], event["ts"] + event["dur"]))
    assert len(tracks) == 1 + 2 * 6
    for slices in tracks.values():
        for (_, end), (start, _) in itertools.pairwise(slices):
            assert start >= end - 1e-6


def test_operators_and_pipes_are_named(run: Result) -> None:
    events = _trace(run)[0]["traceEvents"]
    operators = [e for e in events if e["ph"] == "X" and e["pid"] == 0]
    assert [e["name"] for e in operators] == [o.name for o in run.program.operators]
    assert operators[-1]["ts"] + operators[-1]["dur"] == pytest.approx(run.record.total_cycles / 940, abs=1e-3)
    rows = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert rows[(2, 4)] == "MXU0" and len(rows) == 1 + 2 * 9
    names = {e["name"] for e in events if e.get("cat") == "instr"}
    assert names == {"cp", "ldw", "mm", "v.add", "wait"} - {"ldw"}


def test_instructions_are_named_by_the_mark_above_them(run: Result) -> None:
    instrs = run.program.instrs.copy()
    instrs["op"][1], instrs["imm"][1] = code("mark"), 1
    kernels = (Kernel("a", 0, 4, ()), Kernel("b", 4, len(instrs), ()))
    program = replace(run.program, instrs=instrs, kernels=kernels, names=("no", 'tile "x"'))
    trace, size_bytes, _ = _trace(replace(run, program=program), max_bytes=300_000)
    names = {e["name"] for e in trace["traceEvents"] if e.get("cat") == "instr"}
    assert names == {"cp", 'mm tile "x"', 'v.add tile "x"', "wait"} and 298_000 < size_bytes <= 300_000


def test_pipes_of_one_label_are_told_apart(run: Result) -> None:
    pipes = tuple(replace(p, label="MXU") if p.pipe_class == "matrix" else p for p in run.record.pipes)
    events = _trace(replace(run, record=replace(run.record, pipes=pipes)))[0]["traceEvents"]
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 1]
    assert names[3:5] == ["MXU 0", "MXU 1"] and names[5] == "VPU"


def test_bandwidth_counter_integrates_to_the_recorded_bytes(run: Result) -> None:
    trace, _, _ = _trace(run)
    counters = [e for e in trace["traceEvents"] if e["name"] == "DRAM GB/s"]
    seconds = run.record.series_bin_cycles / 940e6
    moved = sum(sum(e["args"].values()) for e in counters) * 1e9 * seconds
    assert moved == pytest.approx(run.record.series.sum(), rel=1e-4)
    assert any(e["name"] == "buffer bytes a core" and e["args"] == {"acc": 1 << 20, "spm": 3 << 20}
               for e in trace["traceEvents"])  # fmt: skip


@pytest.mark.parametrize("limit", [250_000, 300_000, 350_000])
def test_the_oldest_instructions_give_way_to_the_limit(run: Result, limit: int) -> None:
    trace, size_bytes, dropped = _trace(run, max_bytes=limit)
    assert limit - 2000 < size_bytes <= limit  # close from below: sizes are exact
    kept = [e for e in trace["traceEvents"] if e.get("cat") == "instr"]
    assert 0 < dropped == len(run.record.events) - len(kept)
    assert trace["otherData"]["instruction_events_dropped"] == dropped
    newest = np.sort(run.record.events["start"])[dropped:]
    assert [e["ts"] for e in kept] == pytest.approx((newest / 940).tolist(), abs=1e-3)


def test_nothing_is_dropped_below_the_limit(run: Result) -> None:
    lost = replace(run, record=replace(run.record, events_dropped=17))
    trace, size_bytes, dropped = _trace(lost)
    assert dropped == 0 and trace["otherData"]["instruction_events_dropped"] == 17 and size_bytes < 100_000_000


def test_operators_stay_when_no_instruction_fits(run: Result) -> None:
    trace, _, dropped = _trace(run, max_bytes=0)
    assert dropped == len(run.record.events)
    assert sum(e.get("cat") == "instr" for e in trace["traceEvents"]) == 0
    assert sum(e["ph"] == "X" for e in trace["traceEvents"]) == 100


@pytest.mark.parametrize("instr", [-1, 99999])
def test_unknown_instructions_do_not_break_the_trace(run: Result, instr: int) -> None:
    events = np.zeros(3, EVENT)
    events["instr"], events["end"] = instr, 5
    trace, _, _ = _trace(replace(run, record=replace(run.record, events=events)))
    assert [e["name"] for e in trace["traceEvents"] if e.get("cat") == "instr"] == ["?"] * 3


def test_an_empty_run_is_a_valid_trace() -> None:
    trace, _, dropped = _trace(fixture.result(0))
    assert dropped == 0 and trace["otherData"]["total_cycles"] == 0
