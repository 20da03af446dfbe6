"""Textbook figures of systolic machines, read off the engine with ideal memory."""

from __future__ import annotations

import pytest

from isa.params import resolve
from npusim.engine.run import run
from npusim.record import CAUSE_ID
from npusim.validate.array import SCALE_SIM, Product, array_machine, gemm_program, run_array

PIPELINED = {**SCALE_SIM, "fold_overlap": True, "weight_double_buffer": True}


def test_256_rows_cross_a_256_array_in_766_cycles():
    """05TPU1: B + R + C - 2 clocks; the tile is loaded before."""
    size = Product(256, 256, 256)
    counted = run_array(256, 256, "ws", size, SCALE_SIM)
    assert (counted.folds, counted.cycles - 256) == (1, 766)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100])
def test_double_buffered_tiles_cost_the_longer_of_stream_and_load(rows):
    """Back to back: max(B, load) with a shadow tile, B + load without; the wait shows in the counters."""
    few, many = Product(rows, 16, 16 * 10), Product(rows, 16, 16 * 20)
    single = {**PIPELINED, "weight_double_buffer": False}
    periods, waits = [], []
    for options in (PIPELINED, single):
        longer, shorter = (run_array(16, 16, "ws", size, options).cycles for size in (many, few))
        periods.append((longer - shorter) / 10)
        machine = array_machine(16, 16, "ws", many, options)
        params = resolve(machine)
        states = run(gemm_program(machine, many), params).states[0, 0, params["matrix_pipe"]]
        waits.append(int(states[CAUSE_ID["wait_weights"]]))
    assert periods == [max(rows, 16), rows + 16]
    assert waits == [16 + 19 * max(0, 16 - rows), 16 * 20]


@pytest.mark.parametrize("tiles", [1, 2, 7, 40])
def test_n_tiles_take_n_plus_1_steps_when_load_and_stream_overlap(tiles):
    """t = 16 cycles each: 2 n t one after the other, (n + 1) t overlapped; the last tile's results come after."""
    size, traverse = Product(16, 16, 16 * tiles), 16 + 16 - 2
    serial = {**PIPELINED, "weight_double_buffer": False}
    assert run_array(16, 16, "ws", size, serial).cycles - traverse == 2 * tiles * 16
    assert run_array(16, 16, "ws", size, PIPELINED).cycles - traverse == (tiles + 1) * 16
