"""Micro-benchmarks as kernels of threads: what published ones measure, on the presets of the chips.

Latencies of pointer chases are those of gpu-benches (RRZE-HPC, gpu-latency), rates and latencies of products those of
Sun et al. 2022, "Dissecting Tensor Cores via Microbenchmarks", occupancies those of NVIDIA's occupancy calculator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from isa.asm import assemble
from isa.loader import load_simt
from isa.occupancy import occupancy
from isa.program import LAUNCH, Program
from isa.simt_machine import SimtMachine
from npusim.engine.simt.run import run_simt
from npusim.memory.generator import patterns
from npusim.memory.generator.layout import K_CHASES
from npusim.memory.generator.patterns import CHASE_BYTES
from npusim.record_simt import LaunchRecord
from npusim.validate.memory_run import start, steady

BASE = 1 << 20  # of the buffers
FEW, MANY = 600, 1600  # steps of a chase

CHASE = """
.kernel warm(a, rounds)
  .reg at x
  vid at, 1
  ishl at, at, 6
  loop rounds, done
    ldg.32 x, a, at
    iadd at, at, 16384
  endl
done:
  exit
.end
.kernel chase(a, steps)
  .reg at
  vmov at, 0
  loop steps, done
    ldg.32 at, a, at
  endl
done:
  exit
.end
"""


def launches(text: str, chip: SimtMachine, rows: list[tuple[int, int, int, list[int]]]) -> Program:
    """A program of several launches: (kernel, grid, block, arguments) each."""
    found, table, words = assemble(text, "micro"), np.zeros(len(rows), LAUNCH), []
    table["operator"], table["host_op"] = -1, -1
    for row, (kernel, grid, block, args) in zip(table, rows):
        row["kernel"], row["grid"], row["block"], row["columns"] = kernel, grid, block, grid
        row["args"], row["nargs"] = len(words), len(args)
        words += args
    return replace(found, machine=chip.name, launches=table, args=np.array(words, np.int64))


def run(text: str, chip: SimtMachine, grid: int, block: int, args: list[int] | None = None) -> LaunchRecord:
    """One launch of the only kernel of a text, on a page of zeros."""
    made = launches(text, chip, [(0, grid, block, args or [])])
    return run_simt(made, chip, np.zeros(1 << 16, np.uint8)).launches[0]


def kernel(body: str, shared: int = 0) -> str:
    """The text of a kernel without arguments."""
    space = f"  .shared space {shared} 16\n" if shared else ""
    return f".kernel k(a)\n{space}{body}\nexit\n.end\n"


# Pointer chases


def chase_cycles(chip: SimtMachine, size: int) -> float:
    """Cycles a step of a cycle through a buffer of elements 64 bytes apart, by one warp on one core.

    A buffer that the caches can hold is read before, by the same core, and the first steps are left out; the cycle
    through a larger one has as many elements as there are steps.
    """
    elements, random = size // CHASE_BYTES, np.random.default_rng(1)
    fits = elements < 1 << 20
    chain = random.permutation(elements) if fits else random.choice(elements, MANY + 1, replace=False)
    chain = np.append(0, chain[chain > 0])
    memory = np.zeros(BASE + size, np.uint8)
    memory.view(np.uint32)[(BASE + chain * CHASE_BYTES) // 4] = np.roll(chain, -1) * CHASE_BYTES
    warm = [(0, 1, 256, [BASE, size // 16384])] if fits else []
    few, many = (
        run_simt(launches(CHASE, chip, [*warm, (1, 1, 32, [BASE, steps])]), chip, memory).launches[-1].cycles
        for steps in (FEW, MANY)
    )
    return (many - few) / (MANY - FEW)


@pytest.mark.parametrize(
    ("name", "kib", "measured"),
    [("v100-pcie", 32, 30), ("v100-pcie", 2048, 215), ("a100-80-pcie", 32, 36), ("a100-80-pcie", 8192, 211),
     ("h100-pcie", 32, 34), ("h100-pcie", 2048, 265)],
)  # fmt: skip
def test_a_chase_through_a_cache(name: str, kib: int, measured: float) -> None:
    assert chase_cycles(load_simt(name), kib << 10) == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("name", ["v100-pcie", "a100-80-pcie", "h100-pcie"])
def test_a_chase_through_memory_takes_as_long_as_that_of_the_generator(name: str) -> None:
    chip, size = load_simt(name), 1 << 30
    pattern = patterns.chase(size, 32, 1, 1 << 14)
    single = replace(pattern, warps_per_block=1)
    run_of = start(chip, single)
    chases, cycles = steady(run_of, K_CHASES, least=1500, cycles=(1000, 1 << 40))
    assert chase_cycles(chip, size) == pytest.approx(cycles / chases, rel=0.03)


# Coalescing and banks


@pytest.mark.parametrize(("stride", "sectors"), [(4, 4), (8, 8), (16, 16), (32, 32)])
def test_sectors_a_request(stride: int, sectors: int) -> None:
    text = kernel(f"vid v0, 0\nimul v0, v0, {stride}\nldg.32 v1, a, v0")
    found = run(text, load_simt("a100"), 1, 32, [4096]).counters
    assert (found["load_sectors"], found["read_bytes"]) == (sectors, 32 * sectors)


@pytest.mark.parametrize(("words", "ways"), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (33, 1)])
def test_bank_conflicts(words: int, ways: int) -> None:
    few, many = (
        run(kernel(f"vid v0, 0\nimul v0, v0, {4 * words}\n" + "".join(
            f"lds.32 v{n}, v0\n" for n in range(1, count + 1)), 8192), load_simt("a100"), 1, 32, [0])
        for count in (20, 60)
    )  # fmt: skip
    assert many.counters["shared_cycles"] - few.counters["shared_cycles"] == 40 * ways
    assert many.cycles - few.cycles == 40 * max(2, ways)  # a sub-core issues one every 2 cycles


# Pipes


def rate(chip: SimtMachine, warps: int, count: int, before: Callable[[int], str]) -> float:
    """Instructions a cycle and sub-core of `count` instructions a warp, without what surrounds them."""
    assert chip.core.warps is not None
    few, many = (run(kernel(before(n)), chip, 1, 32 * warps, [0]).cycles for n in (count, 3 * count))
    return 2 * count * warps / chip.core.warps.schedulers / (many - few)


@pytest.mark.parametrize(("warps", "expected"), [(1, 0.25), (2, 0.5), (4, 0.5), (8, 0.5)])
@pytest.mark.parametrize("name", ["v100-pcie", "a100-80-pcie"])
def test_dependent_fused_products_reach_the_rate_where_latency_is_hidden(
    name: str, warps: int, expected: float
) -> None:
    """Little's law: latency 4, one every 2 cycles, so two warps a sub-core are enough."""
    found = rate(load_simt(name), 4 * warps, 100, lambda n: "ffma v0, v0, v0, v0\n" * n)
    assert found == pytest.approx(expected, rel=0.02)


def test_independent_fused_products_need_one_warp() -> None:
    found = rate(load_simt("a100-80-pcie"), 4, 100, lambda n: "ffma v0, v9, v9, v9\nffma v1, v9, v9, v9\n" * (n // 2))
    assert found == pytest.approx(0.5, rel=0.02)


MMA = "mma.m16n8k16.f32.f16 v{0}, v20, v24, v{0}\n"
MACS = 16 * 8 * 16


def test_a_stream_of_products_reaches_the_peak() -> None:
    chip = load_simt("a100")
    found = rate(chip, 8, 64, lambda n: "".join(MMA.format(4 * (i % 4)) for i in range(n)))
    assert found * 4 * MACS == pytest.approx(1024, rel=0.03)


def test_a_lone_product_takes_its_latency() -> None:
    found = rate(load_simt("a100"), 4, 20, lambda n: MMA.format(0) * n)
    assert 1 / found == pytest.approx(25)


# Occupancy


@pytest.mark.parametrize(
    ("name", "registers", "shared_kib", "blocks"),
    [("a100", 32, 0, 8), ("a100", 33, 0, 6), ("a100", 40, 0, 6), ("a100", 64, 0, 4), ("a100", 65, 0, 3),
     ("a100", 128, 0, 2), ("a100", 255, 0, 1), ("a100", 32, 16, 8), ("a100", 32, 32, 4), ("a100", 32, 48, 3),
     ("a100", 32, 100, 1), ("v100", 32, 0, 8), ("v100", 33, 0, 6), ("v100", 64, 0, 4), ("v100", 65, 0, 3),
     ("v100", 128, 0, 2), ("v100", 32, 12, 8), ("v100", 32, 32, 3), ("v100", 32, 48, 2), ("h100", 32, 0, 8),
     ("h100", 128, 0, 2), ("h100", 32, 48, 4), ("h100", 32, 100, 2)],
)  # fmt: skip
def test_blocks_of_256_threads_a_core(name: str, registers: int, shared_kib: int, blocks: int) -> None:
    assert occupancy(load_simt(name), 256, registers, shared_kib << 10).blocks == blocks


def test_a_last_block_costs_a_whole_wave() -> None:
    """A chain of dependent products in each warp: what a wave takes does not depend on how full it is."""
    chip = load_simt("v100", ["cores=4", "launch_cycles=0", "core.warps.blocks=2"])
    text = kernel("ffma v0, v0, v0, v0\n" * 300)
    capacity = 4 * 2
    one, two, more, three = (run(text, chip, grid, 32, [0]).cycles for grid in (
        capacity, 2 * capacity, 2 * capacity + 1, 3 * capacity))  # fmt: skip
    assert two - one == pytest.approx(three - two, rel=0.01)
    assert more == three and more > 1.4 * two
