"""Every model of the zoo on every chip that runs programs: cycles, hazards of the compiled program, values checked.

    python tests/bench/matrix.py [--hw A,B] [--models X,Y] [--write]

`--write` replaces the rows of these chips in docs/matrix.md. A row says what failed, if anything did.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
sys.path.insert(0, str(PAGE.parents[1]))

import npusim  # noqa: E402
from isa.errors import NpuError  # noqa: E402
from isa.loader import list_machines, load_machine  # noqa: E402
from npusim import api  # noqa: E402
from npusim.hazards import check_hazards  # noqa: E402

MODELS = (
    "resnet18", "resnet50", "mobilenetv2", "alexnet", "vgg16", "bert-base:32", "vit-b16", "gpt2:32", "llama-block:32",
    "mlp",
)  # fmt: skip
CHECKED = ("resnet18", "mobilenetv2", "bert-base:32", "mlp")  # executed for their values, too
HEAD = "| chip | model | cycles | time, us | of peak | hazards | values | estimated |\n" + 8 * "|---" + "|"


def row(hw: str, model: str) -> str:
    """One model on one chip."""
    try:
        if model in CHECKED:
            result = npusim.run(model, hw, check=True)
            assert result.check is not None
            hazards = len(result.check.hazards)
            values = "right" if result.check.ok else f"FAILED, error {result.check.max_err:.3g}"
        else:
            machine = load_machine(hw).machine
            compilation = api.compile(model, machine)
            hazards, values = len(check_hazards(compilation.built.program, machine)), ""
            result = api.simulate(compilation, machine)
    except NpuError as error:
        return f"| {hw} | {model} | {str(error).splitlines()[0][:120]} | | | | | |"
    summary = result.summary
    peak = result.machine.macs_per_cycle(result.dtype)
    estimated = sum(o.approximated for o in result.program.operators)
    cells = (
        hw, model, f"{summary['total_cycles']:,}", f"{summary['time_us']:,.0f}",
        f"{100 * summary['macs'] / peak / max(1, summary['total_cycles']):.1f} %", hazards, values, estimated or "",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def rows(chips: list[str], models: list[str]) -> Iterator[tuple[str, str]]:
    """(chip, row) of every pair, with the CPU seconds on stderr."""
    for hw in chips:
        for model in models:
            started = time.process_time()
            yield hw, row(hw, model)
            print(f"{hw} {model}: {time.process_time() - started:.1f} CPU s", file=sys.stderr)


def main() -> None:
    """Print the rows, or put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hw", default=",".join(name for name, _ in list_machines() if name != "tiny"))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    print(HEAD)
    for hw, line in rows(options.hw.split(","), options.models.split(",")):
        print(line, flush=True)
        if options.write:
            write(hw, line)


def write(hw: str, line: str) -> None:
    """Put one row into the page, in the place of an older one of the same chip and model, else at the end."""
    text = PAGE.read_text(encoding="utf-8")
    key = re.escape("|".join(line.split("|")[:3]))
    found = re.search(f"^{key}\\|.*$", text, flags=re.M)
    text = text.replace(found.group(0), line) if found else text.rstrip("\n") + f"\n{line}\n"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
