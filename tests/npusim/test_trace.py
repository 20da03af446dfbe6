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
from npusim.record import EVENT, WAIT, Result
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


def _counters(run: Result, name: str) -> list[dict[str, Any]]:
    return [e for e in _trace(run)[0]["traceEvents"] if e["ph"] == "C" and e["name"] == name]


def _moved_bytes(counters: list[dict[str, Any]]) -> float:
    """The integral of the bandwidth counter, each value holding until the next event."""
    return sum(sum(a["args"].values()) * 1e3 * (b["ts"] - a["ts"]) for a, b in itertools.pairwise(counters))


def test_bandwidth_counter_integrates_to_the_recorded_bytes(run: Result) -> None:
    counters = _counters(run, "DRAM GB/s")
    assert _moved_bytes(counters) == pytest.approx(run.record.series.sum(), rel=1e-3)
    assert any(e["args"] == {"acc": 1 << 20, "spm": 3 << 20} for e in _counters(run, "buffer bytes a core"))


@pytest.mark.parametrize("bins", [1, 3, 400, 511.3, 511.7, 512])
def test_counters_end_with_the_run(run: Result, bins: float) -> None:
    """`bins` of the 512 lie before the end of the run; the last one, cut, still holds its bytes."""
    total = run.record.total_cycles
    series = np.zeros((2, 512))
    series[:, : int(np.ceil(bins))] = 1e6 + np.arange(2)[:, None] * 5e5
    changed = replace(run, record=replace(run.record, series=series, series_bin_cycles=total / bins))
    end = total / run.machine.clock_mhz
    for name in ("DRAM GB/s", "buffer bytes a core"):
        counters = _counters(changed, name)
        assert counters[-1]["ts"] == pytest.approx(end, abs=1e-3)
        assert not any(counters[-1]["args"].values())
        assert all(a["args"] != b["args"] and a["ts"] < b["ts"] for a, b in itertools.pairwise(counters))
    counters = _counters(changed, "DRAM GB/s")
    assert len(counters) <= 3
    assert _moved_bytes(counters) == pytest.approx(series.sum(), rel=1e-3)


def test_a_run_without_traffic_has_no_bandwidth_counter_events(run: Result) -> None:
    idle = replace(run, record=replace(run.record, series=np.zeros((2, 512))))
    assert [e["args"] for e in _counters(idle, "DRAM GB/s")] == [{"read": 0.0, "write": 0.0}]


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


def _waiting(run: Result, waits: list[tuple[int, ...]]) -> Result:
    return replace(run, record=replace(run.record, waits=np.array(waits, WAIT)))


def _release(run: Result, index: int) -> tuple[int, ...]:
    """A wait of 5 cycles that the end of event `index` released."""
    e = run.record.events[index]
    return (e["end"] - 5, e["end"], e["core"], 0, e["launch"], 5, e["pipe"], e["start"], e["instr"], e["core"])


def _assert_arrows_bind(trace: dict[str, Any], count: int) -> None:
    """Perfetto's rules: ids pair one start with one finish, no earlier, each strictly inside a slice of its row."""
    slices: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    ends: dict[str, dict[int, tuple[int, int, int]]] = {"s": {}, "f": {}}
    for e in trace["traceEvents"]:
        ts = round(e["ts"] * 1e4)
        if e["ph"] == "X":
            slices[(e["pid"], e["tid"])].append((ts, ts + round(e["dur"] * 1e4)))
        elif e["ph"] in ends:
            assert e["id"] not in ends[e["ph"]] and (e["ph"] == "s" or e["bp"] == "e")
            ends[e["ph"]][e["id"]] = (e["pid"], e["tid"], ts)
    assert ends["s"].keys() == ends["f"].keys() and len(ends["s"]) == count
    assert all(ends["s"][i][2] <= ends["f"][i][2] for i in ends["s"])
    for pid, tid, ts in (*ends["s"].values(), *ends["f"].values()):
        assert any(start <= ts < end for start, end in slices[(pid, tid)])


def test_arrows_lead_from_what_raised_a_flag_to_the_wait(run: Result) -> None:
    pipes = run.record.events["pipe"]
    chosen = [int(np.flatnonzero(pipes == p)[n]) for p in (3, 7) for n in (0, 40)]
    trace, _, _ = _trace(_waiting(run, [_release(run, i) for i in chosen]))
    _assert_arrows_bind(trace, len(chosen))
    starts = sorted((e["pid"], e["tid"]) for e in trace["traceEvents"] if e["ph"] == "s")
    assert starts == sorted((int(run.record.events["core"][i]) + 1, int(pipes[i]) + 1) for i in chosen)


def test_a_wait_whose_release_is_not_in_the_trace_has_no_arrow(run: Result) -> None:
    wait = list(_release(run, 50))
    wait[6:] = [7, -3, 0, 0]
    trace, _, _ = _trace(_waiting(run, [tuple(wait)]))
    _assert_arrows_bind(trace, 0)
    assert sum(e["name"] == "wait" and e.get("cat") == "instr" for e in trace["traceEvents"]) > 0


@pytest.mark.parametrize("limit", [250_000, 300_000, 360_000])
def test_arrows_count_in_the_limit_and_keep_both_ends(run: Result, limit: int) -> None:
    chosen = [i for i in np.flatnonzero(run.record.events["pipe"] == 7).tolist()][::2]
    trace, size_bytes, dropped = _trace(_waiting(run, [_release(run, i) for i in chosen]), max_bytes=limit)
    assert limit - 3000 < size_bytes <= limit and dropped > 0
    arrows = sum(e["ph"] == "s" for e in trace["traceEvents"])
    assert 0 < arrows < len(chosen)
    _assert_arrows_bind(trace, arrows)


def test_overlapping_instructions_of_a_pipe_take_further_rows(run: Result) -> None:
    events = np.array([(0, 50, 0, 7, 0, 0), (10, 60, 0, 7, 0, 0), (20, 30, 0, 7, 0, 0), (50, 70, 0, 7, 0, 0)], EVENT)
    trace, _, _ = _trace(replace(run, record=replace(run.record, events=events)))
    rows = [(e["tid"], round(e["ts"] * 940)) for e in trace["traceEvents"] if e.get("cat") == "instr"]
    assert rows == [(8, 0), (1008, 10), (2008, 20), (8, 50)]
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name" and e["pid"] == 1}
    assert names[8] == "DMA IN" and names[1008] == "DMA IN (2)" and names[2008] == "DMA IN (3)" and 1007 not in names


def test_a_real_run_binds_every_wait() -> None:
    """On a VLIW machine each wait that blocks is released by an instruction, which the trace shows."""
    import npusim

    result = npusim.run("gemm:256x256x256", "tpu-v3")
    assert len(result.record.waits) > 5
    trace, _, _ = _trace(result)
    _assert_arrows_bind(trace, len(result.record.waits))
    tracks: dict[tuple[int, int], float] = {}
    for e in trace["traceEvents"]:
        if e["ph"] == "X":
            key = (e["pid"], e["tid"])
            assert e["ts"] >= tracks.get(key, 0.0) - 1e-6
            tracks[key] = e["ts"] + e["dur"]
    limited = npusim.run("gemm:256x256x256", "tpu-v3", trace_window=(0, 300)).record
    assert 0 < len(limited.waits) < len(result.record.waits) and limited.waits["start"].max() < 300


def test_an_empty_run_is_a_valid_trace() -> None:
    trace, _, dropped = _trace(fixture.result(0))
    assert dropped == 0 and trace["otherData"]["total_cycles"] == 0
