"""What the proof of synchronisation costs beside the functional run: `python tests/bench/bench_hazards.py [--hw A,B]`.

CPU seconds of one process, each measured once: a functional run computes every value, a check reads no value at all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from npusim import api  # noqa: E402
from npusim.check import _host_function  # noqa: E402
from npusim.functional import execute  # noqa: E402
from npusim.hazards import check_hazards  # noqa: E402
from npusim.inputs import generate, initial  # noqa: E402

MODELS = ("mlp", "resnet18", "bert-base:32")
CHIPS = ("ascend-910b2", "ascend-310", "tpu-v3", "gemmini-16x16")
HEAD = "| program | chip | steps | functional run, CPU s | check, CPU s | ratio | findings |\n" + 7 * "|---" + "|"


def seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work returns, and its CPU seconds."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def row(model: str, chip: str, values: bool) -> str:
    """One model on one chip; without `values` only the check is measured."""
    machine, _ = api.machine_for(chip)
    built = api.compile(model, machine).built
    program, cells = built.program, ["", "", ""]
    if values:
        start = initial(built, generate(built.graph, 0))
        host = _host_function(built, built.graph, machine)
        done, functional_s = seconds(lambda: execute(program, machine, start, host, keep=lambda t: t.role == "output"))
        cells[:2] = f"{sum(work.instructions for work in done.launches):,}", f"{functional_s:.2f}"
    found, check_s = seconds(lambda: check_hazards(program, machine))
    cells[2:] = f"{check_s:.2f}", f"{check_s / functional_s:.2f}" if values else "", str(len(found))
    return f"| {' | '.join([model, chip, *cells])} |"


def rows(chips: list[str], models: list[str], values: bool) -> Iterator[str]:
    """All pairs."""
    for chip in chips:
        for model in models:
            yield row(model, chip, values)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hw", default=",".join(CHIPS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--check-only", action="store_true", help="leave out the functional run")
    options = parser.parse_args()
    print(HEAD)
    for line in rows(options.hw.split(","), options.models.split(","), not options.check_only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
