"""What the proof of synchronisation costs beside the functional run: `python tests/bench/bench_hazards.py [--write]`.

`--write` replaces its section of docs/benchmarks.md. CPU seconds of one process, best of two: a functional run computes
every value, a check reads none. *Walked* is the check without induction. One thread: idle ones of numpy's library would
count as CPU time of the functional run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from isa.asm import assemble  # noqa: E402
from isa.machine import Machine  # noqa: E402
from isa.program import Program  # noqa: E402
from npusim import api  # noqa: E402
from npusim.check import _host_function  # noqa: E402
from npusim.functional import execute  # noqa: E402
from npusim.hazards import check_hazards  # noqa: E402
from npusim.inputs import generate, initial  # noqa: E402

MODELS = ("mlp", "resnet18", "bert-base:32")
CHIPS = ("ascend-910b2", "ascend-310", "tpu-v3", "gemmini-16x16")
TURNS = (1_000, 20_000)  # of the loop of a kernel written by hand
REPEATS = 2
PAGE = ROOT / "docs" / "benchmarks.md"
COLUMNS = "| program | chip | instructions | functional run, CPU s | walked, CPU s | check, CPU s | of the run |"
HEAD = f"""## Synchronisation

Written by `python tests/bench/bench_hazards.py --write`. The hazard checker beside the functional run of the same
program, CPU seconds of one thread, best of {REPEATS}. *Instructions* are the data instructions that are executed;
*walked* is the check without induction, instruction by instruction. Launches with the same arguments are checked once
and executed each time.

{COLUMNS}
{7 * "|---"}|"""


def best(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work returns, and its least CPU seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        result = work()
        times.append(time.process_time() - started)
    return result, min(times)


def row(name: str, machine: Machine, program: Program, functional: Callable[[], Any]) -> str:
    """One program on one chip."""
    values, functional_s = best(functional)
    walked, walked_s = best(lambda: check_hazards(program, machine, induction=False))
    found, check_s = best(lambda: check_hazards(program, machine))
    if walked or found:
        raise SystemExit(f"{name} on {machine.name}: {(found or walked)[0].message}")
    count = sum(work.instructions for work in values.launches)
    cells = (f"{count:,}", f"{functional_s:.2f}", f"{walked_s:.2f}", f"{check_s:.2f}", f"{check_s / functional_s:.2f}")
    return f"| {' | '.join([name, machine.name, *cells])} |"


def compiled(model: str, chip: str) -> str:
    """A compiled model."""
    machine, _ = api.machine_for(chip)
    built = api.compile(model, machine).built
    start, host = initial(built, generate(built.graph, 0)), _host_function(built, built.graph, machine)
    keep = lambda tensor: tensor.role == "output"  # noqa: E731
    return row(model, machine, built.program, lambda: execute(built.program, machine, start, host, keep=keep))


def loop(turns: int) -> str:
    """The shipped ping-pong kernel over more tiles."""
    machine, _ = api.machine_for("ascend-310")
    text = (ROOT / "traces" / "ascend_pingpong.asm").read_text(encoding="utf-8")
    longer = text.replace("[64, 32]", f"[{8 * turns}, 32]").replace("address=8192", f"address={1024 * turns}")
    program = assemble(longer.replace("&y, 8]", f"&y, {turns}]"))
    start = {"x": np.zeros((8 * turns, 32), np.float32)}
    host = lambda *_: []  # noqa: E731
    return row(f"ping-pong, {turns:,} turns", machine, program, lambda: execute(program, machine, start, host))


def rows(chips: list[str], models: list[str]) -> Iterator[str]:
    """All lines of the table."""
    for chip in chips:
        for model in models:
            yield compiled(model, chip)
    for turns in TURNS:
        yield loop(turns)


def write(section: str) -> None:
    """Replace the section of the page, or append it."""
    text = PAGE.read_text(encoding="utf-8")
    title = re.escape(HEAD.splitlines()[0])
    rest = re.sub(rf"{title}\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    PAGE.write_text(f"{rest.rstrip()}\n\n{section}\n", encoding="utf-8")


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hw", default=",".join(CHIPS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = [HEAD]
    print(HEAD)
    for line in rows(options.hw.split(","), options.models.split(",")):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        write("\n".join(lines))


if __name__ == "__main__":
    main()
