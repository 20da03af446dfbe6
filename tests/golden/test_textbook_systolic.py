"""Textbook figures of systolic machines, read off the engine with ideal memory."""

from __future__ import annotations

import numpy as np
import pytest

from isa.dtypes import dtype
from isa.loader import load_machine
from isa.params import resolve
from isa.program import DESC, INSTR, LAUNCH, Kernel, Program, descriptor, instruction
from isa.table import NEXT_TILE, code
from isa.verify import verify
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


def tpu_v1_layer(machine, rows, tiles):
    """`tiles` weight tiles of 64 KiB stream from DRAM through the FIFO, each used for `rows` rows."""
    kind, size = dtype("int8").code, 256 * 256
    descs = [
        descriptor("dram", kind, (256, 256), (256, 1), rows=1, base_reg=1),
        descriptor("spm", kind, (rows, 256), (256, 1), rows=1),
        descriptor("acc", dtype("int32").code, (rows, 256), (1024, 4), rows=1),
    ]
    lines = [
        instruction(code("loop"), a=0, imm=5),
        instruction(code("ldw"), a=0),
        instruction(code("mm"), dst=2, a=1, flags=NEXT_TILE),
        instruction(code("addi"), dst=1, a=1, imm=size),
        instruction(code("endl")),
        instruction(code("halt")),
    ]
    launch = np.zeros(1, LAUNCH)
    launch["grid"], launch["nargs"], launch["operator"] = 1, 2, -1
    kernel = Kernel("layer", 0, len(lines), ("tiles", "address"))
    program = Program(
        "layer", machine.name, np.array(lines, INSTR), np.array(descs, DESC), (kernel,), launch,
        np.array([tiles, 0], np.int64), (), (),
    )  # fmt: skip
    verify(program, machine)
    return program


@pytest.mark.parametrize(("rows", "busy_pct"), [(8, 0.6), (256, 19.0), (512, 38.0), (1349, 100.0), (2000, 100.0)])
def test_tpu_v1_is_busy_only_with_about_1350_rows_a_weight_tile(rows, busy_pct):
    """34 GB/s at 700 MHz bring a 64 KiB tile in 1349 cycles: 17.4 TOPS of 92 at 256 rows (05TPU1)."""
    machine = load_machine("tpu-v1", ["memory.model=ideal", f"memory.ideal_bytes_per_cycle={34e9 / 700e6}"]).machine
    params = resolve(machine)
    records = [run(tpu_v1_layer(machine, rows, tiles), params) for tiles in (20, 60)]  # the difference has no fill
    busy = [int(r.states[0, 0, params["matrix_pipe"], CAUSE_ID["busy"]]) for r in records]
    share = (busy[1] - busy[0]) / (records[1].total_cycles - records[0].total_cycles)
    assert 100 * share == pytest.approx(busy_pct, abs=0.06)
    if rows == 256:
        assert round(share * 2 * 256 * 256 * 700e6 / 1e12, 1) == 17.4
