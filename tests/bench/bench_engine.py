"""Measure the engine on this machine and write docs/benchmarks.md: `python tests/bench/bench_engine.py [--write]`."""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import programs  # noqa: E402

from isa.loader import load_machine  # noqa: E402
from isa.params import resolve  # noqa: E402
from npusim import api  # noqa: E402
from npusim.engine.run import run  # noqa: E402
from npusim.record import Record  # noqa: E402

REPEATS = 3
STREAMS = (("scalar_loop", 400_000), ("tile_loop", 80_000), ("copy_loop", 20_000))
MODELS = (
    ("gemm:2048x2048x2048", "tpu-v3"), ("resnet50", "tpu-v3"), ("bert-base", "tpu-v3"), ("resnet50", "gemmini-16x16"),
    ("resnet50", "tpu-v1"),
)  # fmt: skip
HEAD = """# Benchmarks

Written by `python tests/bench/bench_engine.py --write`. One thread of: {cpu}.
Best of {repeats} warm runs; kernels are compiled once (`npusim warmup`) and cached. *Instructions* counts everything
that a sequencer executes; *dispatched* leaves out scalar code and synchronisation. A memory request costs more than an
instruction, so programs that move much data show fewer instructions a second.
"""


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def best(program: Any, params: Any) -> tuple[Record, float]:
    """The record and the least CPU seconds of the engine, warm."""
    runs = [run(program, params) for _ in range(REPEATS + 1)]
    return runs[0], min(record.engine_cpu_s for record in runs[1:])


def row(name: str, chip: str, record: Record, seconds: float) -> list[str]:
    """One line of a table."""
    every, dispatched = int(record.issued[:, 0].sum()), int(record.issued[:, 1:].sum())
    requests = record.dram_counters["reads"] + record.dram_counters["writes"]
    return [
        name, chip, f"{record.total_cycles:,}", f"{every:,}", f"{requests:,}", f"{seconds:.3f}",
        *(f"{count / seconds / 1e6:.2f}" for count in (every, dispatched, record.total_cycles)),
    ]  # fmt: skip


COLUMNS = ["program", "chip", "cycles", "instructions", "requests", "engine CPU s", "M instructions/s",
           "M dispatched/s", "M cycles/s"]  # fmt: skip


def table(rows: list[list[str]], columns: list[str]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in rows)])


def streams() -> list[list[str]]:
    """Instruction streams that load one part each."""
    rows = []
    for chip in ("tpu-v3", "gemmini-16x16"):
        machine = load_machine(chip).machine
        for name, trips in STREAMS:
            record, seconds = best(getattr(programs, name)(machine, trips), resolve(machine))
            rows.append(row(name, chip, record, seconds))
    return rows


def models() -> list[list[str]]:
    """Compiled models."""
    rows = []
    for model, chip in MODELS:
        machine, _ = api.machine_for(chip)
        program = api.compile(model, machine).built.program
        rows.append(row(model, chip, *best(program, resolve(machine))))
    return rows


def peak_bytes(trips: int) -> tuple[int, int]:
    """(simulated cycles, peak resident bytes) of a tile loop, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(trips)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cycles, size = done.stdout.split()
    return int(cycles), int(size)


def memory() -> list[list[str]]:
    """Peak memory at 1 and 8 times the simulated time."""
    return [[f"{cycles:,}", f"{size / 2**20:.0f}"] for cycles, size in map(peak_bytes, (20_000, 160_000))]


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        machine = load_machine("tpu-v3").machine
        record = run(programs.tile_loop(machine, options.memory), resolve(machine))
        print(record.total_cycles, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    started = time.perf_counter()
    text = "\n".join([
        HEAD.format(cpu=cpu_model(), repeats=REPEATS),
        "## Instruction streams\n", table(streams(), COLUMNS), "",
        "`scalar_loop` is register arithmetic; `tile_loop` loads an array tile, streams 8 rows and adds vectors, with",
        "address arithmetic and, on vliw machines, flags; `copy_loop` moves 4 KiB from and to DRAM, one at a time.\n",
        "## Models\n", table(models(), COLUMNS), "",
        "## Memory\n", "Peak resident memory does not grow with simulated time (`tile_loop`, tpu-v3):\n",
        table(memory(), ["simulated cycles", "peak MiB"]), "",
    ])  # fmt: skip
    if options.write:
        (ROOT / "docs" / "benchmarks.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
