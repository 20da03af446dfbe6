"""The PE-by-PE systolic model: its values, its wavefront, and the closed forms it must equal."""

from __future__ import annotations

import numpy as np
import pytest

from isa.cost import systolic_fold_cycles, systolic_folds, systolic_gemm_cycles
from isa.machine import MatrixUnit
from npusim.units.pe_array import run_gemm


def array(rows, cols, dataflow, **options) -> MatrixUnit:
    types = {"passes": {"int8": 1}, "accumulate": {"int8": "int32"}}
    return MatrixUnit(rows=rows, cols=cols, dataflow=dataflow, **types, **options)


def operands(m, n, k):
    rng = np.random.default_rng(m * 10007 + n * 101 + k)
    return rng.integers(-128, 128, (m, k)), rng.integers(-128, 128, (k, n))


def test_wavefront_of_a_3x3x3_output_stationary_product():
    run = run_gemm(array(3, 3, "os"), *operands(3, 3, 3))
    assert run.active == (1, 3, 6, 7, 6, 3, 1)
    assert run.cycles == 7


def test_wavefront_of_a_weight_stationary_tile():
    run = run_gemm(array(2, 2, "ws"), *operands(3, 2, 2))
    assert run.active == (0, 0, 1, 3, 4, 3, 1)  # two cycles of loading, then three rows cross 2 x 2 PEs


WIRES = [
    {},
    {"psum_hop_cycles": 2, "input_register_cycles": 1, "drain_counted": True},
    {"psum_hop_cycles": 3, "input_register_cycles": 2, "weight_load_cycles": 2},
    {"weight_load_cycles": 0},
]
OVERLAPS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize(("overlap", "double"), OVERLAPS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 3), (3, 2), (4, 4)])
def test_closed_form_equals_the_pes(dataflow, wires, overlap, double, rows, cols):
    unit = array(rows, cols, dataflow, fold_overlap=overlap, weight_double_buffer=double, **wires)
    for m, n, k in [(1, 1, 1), (4, 4, 4), (5, 3, 4), (2, 7, 9), (9, 1, 8)]:
        a, b = operands(m, n, k)
        run = run_gemm(unit, a, b)
        assert np.array_equal(run.product, a @ b)
        assert run.cycles == systolic_gemm_cycles(unit, m, n, k)
        assert sum(run.active) == m * n * k  # padding does no MACs
        assert max(run.active) <= rows * cols


def test_partial_folds_pay_the_whole_array():
    unit = array(4, 4, "ws", fold_overlap=False, weight_double_buffer=False)
    one = systolic_fold_cycles(unit, 5).total
    for n, k, folds in [(4, 4, 1), (1, 1, 1), (5, 4, 2), (4, 5, 2), (5, 5, 4)]:
        assert systolic_folds(unit, 5, n, k) == (folds, 5)
        assert run_gemm(unit, *operands(5, n, k)).cycles == folds * one


def test_real_operands_keep_their_dtype():
    a, b = np.ones((3, 2), np.float32) / 3, np.ones((2, 5), np.float32)
    run = run_gemm(array(2, 2, "is"), a, b)
    assert run.product.dtype == np.float32
    assert np.allclose(run.product, a @ b)
