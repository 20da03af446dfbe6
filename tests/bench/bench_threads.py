"""Measure the engine of threads here: `python tests/bench/bench_threads.py [--write]` (docs/benchmarks.md)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from npusim.kernel import run_kernel  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
SAMPLES = ROOT / "traces" / "simt"
REPEATS = 2
MARK = "## Threads\n"
HEAD = """## Threads

Written by `python tests/bench/bench_threads.py --write`. Warp instructions of hand-written kernels, CPU seconds of the
engine, best of {repeats} warm runs; with all values, and with the control slice alone (`--no-values`).

| kernel | chip | cycles | warp instructions | with values, CPU s | M/s | control slice, CPU s | M/s |
|---|---|---|---|---|---|---|---|
"""
FMA = "\n".join([
    ".kernel fma(y, n)", "  .reg a b c d off", "  vid off, 1", *(f"  vmov {r}, 1065353216" for r in "abcd"),
    "  loop n, done", *(f"    ffma {r}, {r}, 1.5, b" for r in "abcd" * 2), "  endl", "done:", "  ishl off, off, 2",
    "  stg.32 y, off, a", "  exit", ".end", "",
])  # fmt: skip
VECTOR = {"x": "rand:f32[1048576]", "y": "rand:f32[1048576]", "z": "zeros:f32[1048576]", "n": 1 << 20}
PRODUCT = {"a": "rand:f16[1024x1024]", "b": "rand:f16[1024x1024]", "c": "zeros:f32[1024x1024]", "n": 1024, "k": 1024}
# label, file ("" is FMA), kernel, grid, block, arguments
RUNS = (
    ("FMA stream", "", "", 108, 1024, {"y": "zeros:f32[1024]", "n": 200}),
    ("vector add, 1 M elements", "vector_add", "", 4096, 256, VECTOR),
    ("tensor product, 1024 x 1024 x 1024", "matmul", "tensor", (32, 16), 128, PRODUCT),
)  # fmt: skip


def row(
    label: str, source: Path, name: str, grid: int | tuple[int, int], block: int, arguments: dict[str, object]
) -> str:
    """One kernel on an A100, as a line of the table."""
    cells = []
    for values in (True, False):
        found = [
            run_kernel(source, "a100", grid=grid, block=block, arguments=arguments, name=name, values=values).record
            for _ in range(REPEATS + 1)
        ]
        seconds = min(record.engine_cpu_s for record in found[1:])
        instructions = int(found[0].launches[0].issues[:, 0].sum())
        cells += [f"{seconds:.2f}", f"{instructions / seconds / 1e6:.2f}"]
    return f"| {label} | a100 | {found[0].total_cycles:,} | {instructions:,} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stream = Path(folder) / "fma.asm"
        stream.write_text(FMA, encoding="utf-8")
        rows = [row(label, SAMPLES / f"{file}.asm" if file else stream, *rest) for label, file, *rest in RUNS]
    text = HEAD.format(repeats=REPEATS) + "\n".join(rows) + "\n"
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        before, mark, after = page.partition(MARK)
        rest = after.partition("\n## ")[1:] if mark else ("", "")
        PAGE.write_text(f"{before.rstrip()}\n\n{text}{''.join(rest)}", encoding="utf-8")


if __name__ == "__main__":
    main()
