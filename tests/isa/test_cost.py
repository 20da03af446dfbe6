"""Closed-form costs against golden counts of other simulators and figures worked by hand."""

from __future__ import annotations

import pytest

from isa.cost import (
    dram_bytes_per_cycle,
    gemm_traffic_elements,
    latency_cycles,
    macs_per_cycle,
    pipelined_cycles,
    ridge,
    roofline_cycles,
    stream_cycles,
    systolic_fold_cycles,
    systolic_gemm_cycles,
    vector_cycles,
)
from isa.loader import load_machine
from isa.machine import MatrixUnit, VectorUnit

SEQUENTIAL = {"fold_overlap": False, "weight_double_buffer": False}
RTL = {"psum_hop_cycles": 2, "input_register_cycles": 1, "drain_counted": True}


def array(rows, cols, dataflow, **options) -> MatrixUnit:
    types = {"passes": {"int8": 1}, "accumulate": {"int8": "int32"}}
    return MatrixUnit(rows=rows, cols=cols, dataflow=dataflow, **types, **options)


# SCALE-Sim 3.0.0, GEMM layers, no memory stall: rows, cols, dataflow, m, n, k, compute cycles.
SCALE_SIM = [
    (128, 128, "ws", 358, 196, 158, 2960), (16, 16, "ws", 16, 16, 16, 62), (32, 64, "ws", 33, 65, 33, 636),
    (64, 16, "ws", 216, 66, 8, 1790), (128, 128, "is", 42, 20, 5, 402), (16, 16, "is", 90, 62, 37, 1944),
    (32, 64, "is", 33, 65, 33, 382), (64, 16, "is", 7, 193, 372, 2010), (128, 128, "os", 129, 129, 129, 1532),
    (16, 16, "os", 16, 16, 16, 46), (32, 64, "os", 15, 23, 85, 179), (64, 16, "os", 1, 34, 70, 444),
]  # fmt: skip
# SCALE-Sim's Verilog datapath under Verilator 5.006, every output word checked: the same, cycles to the last word out.
DATAPATH = [
    (4, 4, "ws", 1, 4, 4, 16), (8, 8, "ws", 100, 64, 64, 8384), (16, 8, "ws", 16, 8, 16, 71),
    (32, 16, "ws", 1, 16, 32, 112), (4, 4, "is", 1, 4, 4, 19), (8, 8, "is", 100, 64, 64, 9880),
    (16, 8, "is", 15, 7, 5, 124), (32, 16, "is", 1, 16, 32, 127), (4, 4, "os", 1, 4, 4, 15),
    (8, 8, "os", 1, 8, 8, 31), (8, 16, "os", 7, 15, 5, 36), (16, 8, "os", 128, 96, 80, 11424),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "cols", "dataflow", "m", "n", "k", "cycles"), SCALE_SIM)
def test_scale_sim_compute_cycles(rows, cols, dataflow, m, n, k, cycles):
    assert systolic_gemm_cycles(array(rows, cols, dataflow, **SEQUENTIAL), m, n, k) == cycles


@pytest.mark.parametrize(("rows", "cols", "dataflow", "m", "n", "k", "cycles"), DATAPATH)
def test_datapath_cycles(rows, cols, dataflow, m, n, k, cycles):
    assert systolic_gemm_cycles(array(rows, cols, dataflow, **SEQUENTIAL, **RTL), m, n, k) == cycles


@pytest.mark.parametrize(("rows", "cols", "m", "n", "k", "cycles"), [
    (4, 4, 1, 4, 4, 11), (8, 8, 1, 8, 8, 23), (8, 16, 7, 15, 5, 28), (16, 8, 128, 96, 80, 9888),
])  # fmt: skip
def test_datapath_cycles_to_the_last_accumulate(rows, cols, m, n, k, cycles):
    unit = array(rows, cols, "os", **SEQUENTIAL, input_register_cycles=1)
    assert systolic_gemm_cycles(unit, m, n, k) == cycles


def test_256_rows_on_a_256_array_take_766_cycles_without_the_load():
    fold = systolic_fold_cycles(array(256, 256, "ws"), 256)
    assert (fold.load, fold.stream, fold.stream + fold.latency) == (256, 256, 766)


@pytest.mark.parametrize("stream", [1, 7, 8, 9, 100])
def test_double_buffered_overlapping_folds_cost_the_longer_of_load_and_stream(stream):
    unit = array(8, 8, "ws")  # 8 cycles of load
    expected = 8 + 3 * max(stream, 8) + stream + latency_cycles(unit)
    assert systolic_gemm_cycles(unit, stream, 16, 16) == expected


def test_overlap_never_costs_and_empty_products_are_free():
    for m, n, k in [(3, 20, 20), (50, 9, 17)]:
        slow = systolic_gemm_cycles(array(8, 8, "ws", **SEQUENTIAL), m, n, k)
        half = systolic_gemm_cycles(array(8, 8, "ws", weight_double_buffer=False), m, n, k)
        assert systolic_gemm_cycles(array(8, 8, "ws"), m, n, k) < half < slow
    assert systolic_gemm_cycles(array(8, 8, "ws"), 0, 5, 5) == systolic_gemm_cycles(array(8, 8, "os"), 5, 5, 0) == 0


@pytest.mark.parametrize(("rows", "passes", "cycles"), [(3, 1, 3), (3, 0.5, 2), (4, 0.5, 2), (5, 6, 30), (1, 0.25, 1)])
def test_passes_stretch_the_stream_and_round_up(rows, passes, cycles):
    assert stream_cycles(rows, passes) == cycles


UNIT = VectorUnit(
    lanes=128, sublanes=8, alus=2, load_ports=1, store_ports=1, latency_cycles=2, op_cycles={"exp": 4, "muls": 0.5}
)


@pytest.mark.parametrize(("rows", "cols", "loads", "stores", "name", "contiguous", "cycles"), [
    (8, 128, 1, 1, "add", False, 2 + 1),  # one register
    (8, 128, 2, 1, "add", False, 2 + 2),  # the load port decides
    (64, 128, 1, 1, "exp", False, 2 + 16),  # 8 registers x 4 cycles on 2 ALUs
    (9, 129, 1, 1, "add", False, 2 + 3),  # 18 rows of lanes, partial ones whole, in registers of 8
    (9, 1025, 1, 1, "add", False, 2 + 18),  # rows that fill a register start a new one
    (64, 16, 1, 1, "add", False, 2 + 8),  # short rows waste lanes
    (64, 16, 1, 1, "add", True, 2 + 1),  # packed densely they do not
    (65, 16, 1, 1, "add", True, 2 + 2),
    (16, 128, 0, 0, "muls", False, 2 + 1),  # half a cycle each, two ALUs, rounded up
    (0, 128, 1, 1, "add", False, 0),
])  # fmt: skip
def test_vector_cycles(rows, cols, loads, stores, name, contiguous, cycles):
    assert vector_cycles(UNIT, rows, cols, loads, stores, name, contiguous) == cycles


@pytest.mark.parametrize(
    ("amount", "rate", "cycles"), [(0, 8, 0), (1, 8, 6), (8, 8, 6), (9, 8, 7), (10, 0.5, 25), (427, 42.7, 15)]
)
def test_pipelined_cycles(amount, rate, cycles):
    assert pipelined_cycles(amount, rate, 5) == cycles


@pytest.mark.parametrize(("block", "gigabytes"), [(16, 17.21), (64, 4.33), (128, 2.18), (256, 1.11)])
def test_gemm_traffic_of_4096_cubed_fp16(block, gigabytes):
    """The textbook row: 2 bytes x (MNK/bn + MNK/bm + MN)."""
    assert gemm_traffic_elements(4096, 4096, 4096, block, block) * 2 / 1e9 == pytest.approx(gigabytes, abs=0.005)


def test_gemm_traffic_counts_partial_blocks_whole():
    assert gemm_traffic_elements(5, 7, 3, 4, 4) == 15 * 2 + 21 * 2 + 35


def test_roofline_meets_at_the_ridge():
    machine = load_machine("tpu-v3").machine
    assert macs_per_cycle(machine, "bf16") == 2 * 2 * 128 * 128
    assert float(dram_bytes_per_cycle(machine)) == pytest.approx(machine.dram_bytes_per_second / 940e6)
    point = ridge(machine, "bf16")
    assert point == pytest.approx(2 * 65536 * 940e6 / machine.dram_bytes_per_second)
    macs = 10**9
    below, above = int(2 * macs / (point * 0.99)), int(2 * macs / (point * 1.01))  # more bytes: memory-bound
    compute = -(-macs // 65536)
    assert roofline_cycles(machine, macs, above, "bf16") == compute < roofline_cycles(machine, macs, below, "bf16")
    assert roofline_cycles(machine, macs, 0, "fp32") == -(-macs * 6 // 65536)


def test_pseudo_channels_count():
    one, two = (load_machine("tpu-v3", [f"memory.dram.pseudo_channels={n}"]).machine for n in (1, 2))
    assert dram_bytes_per_cycle(two) == 2 * dram_bytes_per_cycle(one)
    assert float(dram_bytes_per_cycle(two)) == pytest.approx(two.dram_bytes_per_second / 940e6)


def test_ideal_memory_sets_its_own_roof():
    machine = load_machine("tpu-v3", ["memory.model=ideal", "memory.ideal_bytes_per_cycle=42.5"]).machine
    assert dram_bytes_per_cycle(machine) == 42.5
    assert [roofline_cycles(machine, 0, size, "bf16") for size in (85, 86)] == [2, 3]
