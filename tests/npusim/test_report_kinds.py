"""What bounds operators, what the host does, and operators that do the same, on a synthetic Result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import report_fixture as fixture

from isa.program import LAUNCH_HOST, HostOp, Tensor
from npusim.record import CAUSE_ID, Result
from npusim.report import operator_rows, summary
from npusim.report.alike import common_name, group_alike
from npusim.report.page import render
from npusim.report.profile import Profile
from npusim.report.roofs import roofline, titled


@pytest.fixture(scope="module")
def run() -> Result:
    return fixture.result()


def _only(busy: dict[str, int], causes: dict[str, str]) -> Result:
    """A run of one operator of 1000 cycles: busy cycles and the one stall cause of each pipe class."""
    run = fixture.result(1)
    states = np.zeros_like(run.record.states)
    for pipe in run.record.pipes:
        used = busy.get(pipe.pipe_class, 0)
        states[0, :, pipe.index, 0] = used
        states[0, :, pipe.index, CAUSE_ID[causes.get(pipe.pipe_class, "drained")]] += 1000 - used
    record = replace(
        run.record, total_cycles=1000, launch_span=np.array([[0, 1000]]), states=states,
        path_bytes=np.zeros_like(run.record.path_bytes), dram_bytes=np.zeros_like(run.record.dram_bytes),
    )  # fmt: skip
    return replace(run, record=record)


@pytest.mark.parametrize(
    ("busy", "causes", "bound", "share", "stall"),
    [
        ({"matrix": 600}, {"matrix": "wait_dma"}, "compute", 0.6, "wait_dma"),
        ({"matrix": 599}, {"matrix": "wait_dma"}, "latency", 0.0, "wait_dma"),
        ({"vector": 700, "matrix": 800}, {"matrix": "wait_weights"}, "compute", 0.8, "wait_weights"),
        ({"matrix": 599, "dma": 300}, {"matrix": "wait_dma", "dma": "memory_bandwidth"}, "memory", 1.0, "wait_dma"),
        ({"matrix": 400, "dma": 700}, {"dma": "memory_latency"}, "memory", 0.7, "memory_latency"),
        ({"weights": 700}, {"weights": "wait_matrix"}, "on-chip", 0.7, "wait_matrix"),
        ({"vector": 400}, {"vector": "port_conflict"}, "latency", 0.0, "port_conflict"),
        ({"scalar": 400, "vector": 10}, {"scalar": "barrier", "vector": "dispatch"}, "sync", 0.6, "dispatch"),
        ({"scalar": 300}, {"scalar": "launch"}, "launch", 0.7, "launch"),
        ({"scalar": 600, "dma": 1}, {"scalar": "queue_full", "dma": "dispatch"}, "dispatch", 0.6, "dispatch"),
        ({"scalar": 500}, {"scalar": "queue_full"}, "latency", 0.0, "queue_full"),
    ],
)  # fmt: skip
def test_bound_is_the_resource_in_use_for_most_of_the_time_else_latency(
    busy: dict[str, int], causes: dict[str, str], bound: str, share: float, stall: str
) -> None:
    row = operator_rows(_only(busy, causes))[0]
    assert (row.bound_by, row.bound_share, row.top_stall) == (bound, pytest.approx(share), stall)


@pytest.mark.parametrize(("share", "bound"), [(0.71, "memory"), (0.69, "compute")])
def test_memory_bound_from_dram_bytes(share: float, bound: str) -> None:
    run = _only({"matrix": 700}, {})
    moved = int(share * run.machine.dram_bytes_per_second / 940e6 * 1000)
    row = operator_rows(replace(run, record=replace(run.record, dram_bytes=np.array([[moved, 0]]))))[0]
    assert row.bound_by == bound


def test_host_operator_is_bound_by_the_host(run: Result) -> None:
    rows = [r for r in operator_rows(run) if r.op_type == "MaxPool"]
    assert rows and all(r.bound_by == "host" and r.utilization == 0 for r in rows)


def _linked(paths: bool) -> Result:
    """The run whose pooling sends 3000 bytes to the host and gets 1000 back; with or without paths to the host."""
    run = fixture.result()
    core = run.machine.core.model_dump()
    if paths:
        core["paths"] += [{"src": "host", "dst": "spm", "pipe": "in", "bytes_per_cycle": 16.0},
                          {"src": "spm", "dst": "host", "pipe": "out", "bytes_per_cycle": 16.0}]  # fmt: skip
    launches = run.program.launches.copy()
    host = launches["kind"] == LAUNCH_HOST
    launches["link_bytes"][host], launches["host_op"][host] = 4000, 0
    tensors = (Tensor("x", "dram", 0, (1500,), "bf16", "temp"), Tensor("y", "dram", 0, (500,), "bf16", "temp"))
    program = replace(run.program, launches=launches, tensors=tensors, host_ops=(HostOp(("pool",), ("x",), ("y",)),))
    more = np.zeros((100, 2 * paths), np.int64)
    record = replace(run.record, path_bytes=np.concatenate([run.record.path_bytes, more], axis=1))
    return replace(run, machine=fixture.machine(core=core), program=program, record=record)


def test_bytes_of_host_operators_count_on_the_paths_to_the_host() -> None:
    run = _linked(paths=True)
    pool = next(r for r in operator_rows(run) if r.op_type == "MaxPool")
    assert (pool.level_bytes["spm_to_host"], pool.level_bytes["host_to_spm"]) == (3000, 1000)
    assert summary(run)["host_bytes"] == 4000
    assert not any(r.level_bytes["spm_to_host"] for r in operator_rows(run) if r.op_type != "MaxPool")


def test_without_such_a_path_the_link_of_the_host_is_a_level_of_its_own() -> None:
    run = _linked(paths=False)
    pool = next(r for r in operator_rows(run) if r.op_type == "MaxPool")
    assert pool.level_bytes["host_link"] == 4000
    assert "host_link" not in next(iter(operator_rows(fixture.result()))).level_bytes
    assert [s.label for s in Profile(run).speed_of_light][-1] == "HBM ↔ host"
    assert "host_link" not in [r.key for r in roofline(Profile(run)).memory]  # no roof for what no kernel uses
    assert "↔ host" in render(Profile(run))


@pytest.mark.parametrize(("share", "bound"), [(0.61, "host link"), (0.59, "latency")])
def test_a_kernel_that_fills_the_link_is_bound_by_it(share: float, bound: str) -> None:
    run = _only({"matrix": 300}, {})
    core = run.machine.core.model_dump()
    core["paths"] += [{"src": "host", "dst": "spm", "pipe": "in", "bytes_per_cycle": 16.0}]
    moved = np.concatenate([run.record.path_bytes, [[int(share * 32 * 1000)]]], axis=1)  # 16 bytes a cycle and core
    run = replace(run, machine=fixture.machine(core=core), record=replace(run.record, path_bytes=moved))
    assert operator_rows(run)[0].bound_by == bound
    assert roofline(Profile(run)).memory[1].label == "host → VMEM"


def test_macs_of_the_host_are_not_the_chips() -> None:
    run = fixture.result()
    operators, launches = list(run.program.operators), run.program.launches.copy()
    gemm = next(i for i, o in enumerate(operators) if o.op_type == "Gemm")
    launches["kind"][gemm] = LAUNCH_HOST
    moved = replace(run, program=replace(run.program, launches=launches))
    before, after = summary(run), summary(moved)
    assert (before["host_macs"], after["host_macs"]) == (0, operators[gemm].macs)
    assert after["macs"] == before["macs"]
    lost = operators[gemm].macs / (65536 * run.record.total_cycles)
    assert after["utilization"]["bf16"] == pytest.approx(before["utilization"]["bf16"] - lost)


# --- operators that do the same ---------------------------------------------------------------------------------------


def test_kinds_hold_every_operator_once_and_sum_up(run: Result) -> None:
    found = Profile(run)
    assert sorted(i for members in found.kinds for i in members) == list(range(100))
    assert sum(r.cycles for r in found.kind_rows) == sum(r.cycles for r in found.rows)
    assert [r.cycles for r in found.kind_rows] == sorted((r.cycles for r in found.kind_rows), reverse=True)
    assert len(found.kinds) < 60
    for members, row in zip(found.kinds, found.kind_rows):
        rows = [found.rows[i] for i in members]
        assert {(r.op_type, r.shape, r.macs) for r in rows} == {(row.op_type, row.shape, rows[0].macs)}
        assert row.count == len(rows) and row.macs == sum(r.macs for r in rows)
        assert row.dram_bytes == sum(r.dram_bytes for r in rows)
        assert min(r.utilization for r in rows) <= row.utilization * 1.0001
        assert row.utilization <= max(r.utilization for r in rows) * 1.0001


@pytest.mark.parametrize(("cycles", "kinds"), [(76, 1), (74, 2)])
def test_operators_of_one_kind_take_about_as_long(run: Result, cycles: int, kinds: int) -> None:
    row = operator_rows(run)[0]
    assert len(group_alike([replace(row, cycles=100), replace(row, cycles=cycles)])) == kinds
    assert len(group_alike([row, replace(row, shape=(1,))])) == 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a.0.b", "a.1.b"], "a.*.b"), (["l.0.q.mm", "l.1.k.mm"], "l.*.*.mm"), (["x.norm", "l.0.norm"], "*.norm"),
     (["one"], "one"), (["conv_1", "conv_2"], "conv_*"), (["a", "b.c"], "a"), (["a", "a"], "a")],
)  # fmt: skip
def test_names_of_kinds(names: list[str], expected: str) -> None:
    assert common_name(names) == expected


def test_each_kind_has_one_label(run: Result) -> None:
    named = roofline(Profile(run)).named
    names = [titled(kind.row) for kind in named]
    assert len(named) == 8 and len({(k.row.op_type, k.row.shape, k.row.cycles) for k in named}) == 8
    assert any("(x" in name for name in names) and all(len(name) <= 26 for name in names)
    assert all(kind.time_share >= kind.point.time_share for kind in named)


@pytest.mark.parametrize(("dtype", "unit"), [("int8", "TOP/s"), ("bf16", "TFLOP/s")])
def test_rates_of_integers_are_operations_not_flops(dtype: str, unit: str) -> None:
    run = fixture.result(8)
    core = run.machine.core.model_dump()
    core["matrix"] |= {"passes": {dtype: 1}, "accumulate": {dtype: "int32" if dtype == "int8" else "fp32"}}
    operators = tuple(replace(o, dtype=dtype) for o in run.program.operators)
    run = replace(run, dtype=dtype, machine=fixture.machine(core=core, default_dtype=dtype),
                  program=replace(run.program, operators=operators))  # fmt: skip
    assert Profile(run).speed_of_light[0].unit == unit
    text = render(Profile(run))
    assert unit in text and ("FLOP" in text) == (dtype == "bf16")
