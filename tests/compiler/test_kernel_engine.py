"""Kernels on the engine: every cycle of every pipe has one state, and memory sees each byte as often as it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_fixture import graph_of, link, lower, params

from compiler.graph import Graph, Node, TensorType
from npusim.engine.run import run

WINDOW = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "layout": "NHWC"}
CASES: list[tuple[str, tuple[int, ...], dict[str, Any], float]] = [  # operator, input, attributes, most reads of a byte
    ("Relu", (3, 40, 50), {}, 1.0),
    ("MaxPool", (1, 28, 28, 16), WINDOW, 1.6),
    ("Transpose", (1, 16, 20, 20), {"perm": (0, 2, 3, 1)}, 1.0),
    ("Softmax", (24, 64), {}, 1.0),
    ("ReduceMean", (1, 7, 7, 64), {"axes": (1, 2)}, 1.0),
]


def graph(op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> Graph:
    return graph_of([Node("n", op, ("x",), ("o",), attrs)], {"x": TensorType(shape, "fp32")})


@pytest.mark.parametrize("hw", ["tiny", "tpu-v3"])
@pytest.mark.parametrize(("op", "shape", "attrs", "again"), CASES)
def test_time_and_traffic(hw: str, op: str, shape: tuple[int, ...], attrs: dict[str, Any], again: float) -> None:
    made = graph(op, shape, attrs)
    context, calls = lower(made, hw)
    program = link(context, calls, hw)
    record = run(program, params(hw))
    assert (record.states.sum(axis=3) == record.total_cycles).all()
    read, written = (int(v) for v in record.dram_bytes.reshape(-1, 2).sum(axis=0))
    size = made.tensors["x"].size_bytes
    assert size <= read <= again * size
    assert written == made.tensors["o"].size_bytes
    chip = context.machine
    fastest = (read + written) / chip.dram_bytes_per_second * chip.clock_mhz * 1e6
    assert record.total_cycles > fastest


def test_tiles_overlap() -> None:
    """Loads of later tiles run while earlier ones are computed and stored: less time than one after the other."""
    made = graph("Sigmoid", (64, 1024), {})
    context, calls = lower(made, "tiny")
    record = run(link(context, calls, "tiny"), params("tiny"))
    busy = {p.label: int(record.states[0, 0, p.index, 0]) for p in record.pipes}
    one_by_one = busy["LOAD"] + busy["VPU"] + busy["STORE"] + _waiting(record)
    assert record.total_cycles - context.machine.launch_cycles < one_by_one


def _waiting(record: Any) -> int:
    """Cycles in which the load engine waits for memory: no overlap can hide these."""
    from npusim.record import CAUSES

    load = next(p.index for p in record.pipes if p.label == "LOAD")
    names = [i for i, c in enumerate(CAUSES) if c.startswith("memory")]
    return int(np.sum(record.states[0, 0, load, names]))
