"""What a course on AI systems says of such machines, seen in the engine's counters."""

from __future__ import annotations

import numpy as np
import pytest

import npusim
from compiler.graph import Graph
from compiler.text import parse_graph
from isa.cost import macs_per_cycle
from isa.loader import load_machine
from isa.params import resolve
from isa.table import BY_CODE, STOP
from npusim.report import summary


def separable(n: int, hw: str) -> tuple[float, float]:
    """Shares of the dense convolution's MACs and cycles that depthwise 3x3 and pointwise take, n maps of 28 x 28."""

    def net(body: str) -> Graph:
        return parse_graph(f'graph "g"\ninput %x : fp32[1,{n},28,28]\n{body}\noutput %y')

    kind = f"fp32[1,{n},28,28]"
    pads = '"pads": [1, 1, 1, 1]'
    dense = net(f"const %w : fp32[{n},{n},3,3]\n%y : {kind} = Conv(%x, %w) {{{pads}}}")
    split = net(
        f"const %d : fp32[{n},1,3,3]\nconst %p : fp32[{n},{n},1,1]\n"
        f'%t : {kind} = Conv(%x, %d) {{{pads}, "group": {n}}}\n%y : {kind} = Conv(%t, %p)'
    )
    one, two = (summary(npusim.run(graph, hw, settings=["memory.model=ideal"])) for graph in (dense, split))
    return two["macs"] / one["macs"], two["total_cycles"] / one["total_cycles"]


@pytest.mark.parametrize("hw", ["tpu-v3", "gemmini-16x16"])
def test_depthwise_convolutions_gain_less_time_than_macs(hw: str) -> None:
    """1/N + 1/9 of the MACs (0.1150 for 256 maps), but a matrix unit is fed one column at a time by depthwise ones."""
    macs, cycles = separable(256, hw)
    assert macs == pytest.approx(0.1150, abs=5e-5)
    assert cycles > 1.3 * macs


def test_narrower_operands_run_at_the_rates_of_the_preset() -> None:
    machine = load_machine("tpu-v4").machine
    rates = {kind: macs_per_cycle(machine, kind) for kind in ("int8", "bf16", "fp32")}
    assert rates["int8"] == rates["bf16"] == 6 * rates["fp32"]
    cycles = {
        kind: npusim.run("gemm:2048x1024x1024", "tpu-v4", dtype=kind, settings=["memory.model=ideal"])
        .record.total_cycles for kind in ("bf16", "fp32")
    }  # fmt: skip
    assert 3.5 < cycles["fp32"] / cycles["bf16"] < 6


def test_weights_are_fetched_while_the_array_works_on_earlier_ones() -> None:
    """Read_Weights returns before its data arrives (decoupled access): fetches start before the product before ends."""
    result = npusim.run("mlp", "tpu-v1", check=True)
    assert result.check is not None and result.check.ok
    params = resolve(result.machine)
    events = result.record.events
    fetch = np.sort(events[events["pipe"] == params["weights_pipe"]], order="start")
    product = np.sort(events[events["pipe"] == params["matrix_pipe"]], order="start")
    assert len(fetch) == len(product) > 4
    ahead = fetch["start"][1:] < product["end"][:-1]
    assert ahead.mean() > 0.8


def test_bundles_are_fewer_than_instructions_and_no_fewer_than_slots_allow() -> None:
    result = npusim.run("gemm:512x512x512", "tpu-v3", check=True)
    assert result.check is not None and result.check.ok  # the packed code computes what the sequence does
    instrs = result.program.instrs
    bundles = int((instrs["flags"] & STOP != 0).sum())
    slots = result.machine.core.bundle
    assert slots is not None
    scalars = sum(BY_CODE[int(op)].group in ("scalar", "loop") for op in instrs["op"])
    assert scalars / slots["scalar"] <= bundles < 0.8 * len(instrs)


def test_a_second_accumulator_bank_hides_the_drain() -> None:
    """TPU v1's 4096 accumulators are two banks of 2048: with half of them, products wait for the drain."""
    cycles = [
        npusim.run(
            "gemm:4096x2048x2048", "tpu-v1", settings=["memory.model=ideal", f"core.spaces.acc.size_bytes={size}"]
        ).record.total_cycles
        for size in (4 << 20, 256 << 10)
    ]
    assert cycles[0] < 0.97 * cycles[1]
