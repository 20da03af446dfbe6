"""The quick fidelities: their figures by hand, the invariants of every record, and their order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.errors import ConfigError
from isa.loader import load_machine
from npusim import api
from npusim.closed_form import access_cycles, dram_efficiency, estimate
from npusim.record import CAUSE_ID

CHIPS = ["tpu-v3", "tpu-v1", "gemmini-16x16"]


@pytest.fixture(scope="module")
def compiled():
    cache = {}

    def build(model, hw, options=()):
        key = (model, hw, tuple(options))
        if key not in cache:
            machine, _ = api.machine_for(hw, options)
            cache[key] = api.compile(model, machine).built.program, machine
        return cache[key]

    return build


def check_invariants(record, machine):
    states = record.states
    assert (states >= 0).all()
    lengths = record.launch_span[:, 1] - record.launch_span[:, 0]
    assert (states.sum(axis=3) == lengths[:, None, None]).all()
    assert lengths.sum() == record.total_cycles
    assert (record.launch_span[1:, 0] == record.launch_span[:-1, 1]).all()
    to_dram = [p.dst == "dram" for p in machine.core.paths]
    from_dram = [p.src == "dram" for p in machine.core.paths]
    assert (record.path_bytes[:, from_dram].sum(axis=1) == record.dram_bytes[:, 0]).all()
    assert (record.path_bytes[:, to_dram].sum(axis=1) == record.dram_bytes[:, 1]).all()


@pytest.mark.parametrize("hw", CHIPS)
@pytest.mark.parametrize("model", ["gemm:100x70x300", "mlp", "conv:1x14x14x32x48x3x1x1"])
@pytest.mark.parametrize("fidelity", ["roofline", "analytic"])
def test_records_add_up(compiled, hw, model, fidelity):
    program, machine = compiled(model, hw)
    record = estimate(program, machine, fidelity)
    check_invariants(record, machine)
    assert record.states.shape[0] == len(program.launches)
    assert record.macs.sum() >= sum(o.macs for o in program.operators)


def test_reports_work_on_an_estimate(compiled, tmp_path):
    from npusim.report import write_reports

    program, machine = compiled("mlp", "tpu-v3")
    result = api.simulate_program(program, machine, "bf16", fidelity="analytic")
    assert (tmp_path / "summary.json") in write_reports(result, tmp_path)


def test_roofline_by_hand():
    machine = load_machine("tpu-v3", ["launch_cycles=1000"]).machine
    program = api.compile("gemm:1024x1024x1024", machine).built.program
    record = estimate(program, machine, "roofline")
    compute = 1024**3 // (2 * 2 * 128 * 128)
    memory = math.ceil(3 * 2 * 1024**2 / (machine.dram_bytes_per_second / 940e6))
    assert record.total_cycles == 1000 + max(compute, memory)
    assert record.dram_bytes.tolist() == [[4 * 1024**2, 2 * 1024**2]]
    array = record.pipes[[p.pipe_class for p in record.pipes].index("matrix")]
    assert record.states[0, 0, array.index, CAUSE_ID["busy"]] == compute


def test_analytic_pays_padding_and_refresh():
    machine = load_machine("tpu-v3", ["launch_cycles=0"]).machine
    exact, padded = (
        estimate(api.compile(f"gemm:{m}x128x4096", machine).built.program, machine, "analytic") for m in (2048, 2049)
    )
    assert padded.macs[0] > exact.macs[0] == 2048 * 128 * 4096
    assert 0.9 < dram_efficiency(machine, 1, 1) < dram_efficiency(machine) < 1  # the bus turns between both
    assert access_cycles(machine) > 2 * machine.memory.request_latency_cycles


def test_analytic_asks_the_memory_as_the_copy_engines_do():
    """Little's law: requests in flight over the time of one; turns of channels that few requests reach at once."""
    few = load_machine("tpu-v3", ["core.dma.dma_in.outstanding=4"]).machine
    per_core = 4 * 512 / (access_cycles(few) / 940e6)
    assert float(dram_efficiency(few)) == pytest.approx(2 * per_core / few.dram_bytes_per_second, rel=0.1)
    assert float(dram_efficiency(few, cores=1)) == pytest.approx(per_core / few.dram_bytes_per_second, rel=0.1)
    coarse = load_machine("tpu-v3", ["memory.interleave_bytes=65536"]).machine
    assert dram_efficiency(coarse) < 0.3 < 0.95 < dram_efficiency(load_machine("tpu-v3").machine)
    posted, unposted = (
        dram_efficiency(load_machine("tiny", [f"memory.controller.posted_writes={word}"]).machine, 2, 1)
        for word in ("true", "false")
    )
    assert unposted < 0.9 * posted


@pytest.mark.parametrize("hw", ["tpu-v3", "gemmini-16x16", "tiny"])
def test_analytic_streams_as_the_engine_does(compiled, hw):
    program, machine = compiled("add:1024x1024", hw)
    found = estimate(program, machine, "analytic").total_cycles
    cycle = api.simulate_program(program, machine, machine.default_dtype).record
    assert found == pytest.approx(cycle.total_cycles, rel=0.05)


def test_ideal_memory_is_fully_efficient():
    machine = load_machine("tpu-v3", ["memory.model=ideal"]).machine
    assert dram_efficiency(machine) == 1
    assert access_cycles(machine) == machine.memory.request_latency_cycles + machine.memory.response_latency_cycles


def test_unknown_fidelity_is_refused(compiled):
    program, machine = compiled("mlp", "tpu-v3")
    with pytest.raises(ConfigError, match="roofline, analytic"):
        estimate(program, machine, "cycle")


SIZES = st.sampled_from([1, 7, 16, 100, 128, 129, 300])


@settings(max_examples=20, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from(CHIPS))
def test_roofline_never_exceeds_analytic(m, n, k, hw):
    machine, _ = api.machine_for(hw)
    program = api.compile(f"gemm:{m}x{n}x{k}", machine).built.program
    roofline, analytic = (estimate(program, machine, f) for f in ("roofline", "analytic"))
    check_invariants(analytic, machine)
    lengths = [np.diff(r.launch_span, axis=1) for r in (roofline, analytic)]
    assert (lengths[0] <= lengths[1]).all()


@pytest.mark.parametrize("hw", CHIPS)
@pytest.mark.parametrize("model", ["gemm:256x256x256", "gemm:33x70x300", "mlp", "conv:1x14x14x32x48x3x1x1"])
def test_roofline_never_exceeds_the_engine(compiled, hw, model):
    program, machine = compiled(model, hw)
    roofline = estimate(program, machine, "roofline")
    cycle = api.simulate_program(program, machine, machine.default_dtype).record
    lengths = [np.diff(r.launch_span, axis=1) for r in (roofline, cycle)]
    assert (lengths[0] <= lengths[1]).all()
    assert (roofline.dram_bytes <= cycle.dram_bytes).all()


@pytest.mark.parametrize("fidelity", ["roofline", "analytic"])
def test_bytes_over_the_host_link_take_their_time(compiled, fidelity):
    program, machine = compiled("gemm:4096x4096x256", "tpu-v1")  # 1 MiB in, 16 MiB out at 20 bytes a cycle
    record = estimate(program, machine, fidelity)
    keys = [(p.src, p.dst) for p in machine.core.paths]
    moved = record.path_bytes.sum(axis=0)
    assert moved[keys.index(("host", "spm"))] == 2**20 and moved[keys.index(("spm", "host"))] == 2**24
    link = math.ceil(2**24 / 20)
    assert link <= record.total_cycles - machine.launch_cycles < 1.01 * link
    from npusim.report import operator_rows

    rows = operator_rows(api.simulate_program(program, machine, "int8", fidelity=fidelity))
    assert [r.bound_by for r in rows] == ["host link"]


def test_a_product_whose_result_goes_to_the_host_is_bound_by_the_link():
    from npusim.report import operator_rows

    row = operator_rows(api.run("gemm:2048x2048x256", "tpu-v1"))[0]
    assert row.bound_by == "host link" and 0.7 < row.bound_share <= 1
    assert row.level_bytes["spm_to_host"] == 2**22


@pytest.mark.parametrize("hw", ["ascend-310", "ascend-910b2", "cambricon-mlu"])
def test_a_cube_has_its_depth_in_every_fidelity(hw: str) -> None:
    """A product that compute bounds: MACs over the peak of the chip, which no fidelity is faster than.

    A tiling may leave a third of the cores idle, and be the faster for it.
    """
    free = ["memory.model=ideal", "memory.ideal_bytes_per_cycle=100000", "launch_cycles=0"]
    ends = [api.run("gemm:1024x512x1024", hw, fidelity=f, settings=free).record.total_cycles
            for f in ("roofline", "analytic", "cycle")]  # fmt: skip
    machine = load_machine(hw).machine
    assert ends[0] >= 1024 * 512 * 1024 / machine.macs_per_cycle("fp16")
    assert ends[0] <= ends[1] <= 1.75 * ends[0] and ends[0] <= ends[2] <= 4 * ends[0]
