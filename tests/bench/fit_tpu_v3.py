"""Leave-one-out error of the constants of `tpu-v3` that the TPU v3 table chose: python tests/bench/fit_tpu_v3.py

Every combination of the fitted figures is simulated; each row is then judged at the combination that suits the other
rows best. Prints the error of the shipped preset, the best fit, and the leave-one-out error.
"""

from __future__ import annotations

from itertools import product

from npusim.validate import validate

TABLE = "tpu_v3_pytorchsim_artifact"
FIGURES = {
    "core.matrix.share_rows": ("false", "true"),
}


def errors(settings: tuple[str, ...]) -> list[float]:
    """Absolute error of every row in per cent."""
    outcomes = [line.outcome for line in validate(table=TABLE, settings=settings).lines]
    return [abs(o.simulated / o.measured - 1) * 100 for o in outcomes if o is not None]


def main() -> None:
    """Simulate the grid and print the three errors."""
    grid = {}
    for values in product(*FIGURES.values()):
        settings = tuple(f"{key}={value}" for key, value in zip(FIGURES, values))
        grid[settings] = errors(settings)
    rows = range(len(next(iter(grid.values()))))
    best = min(grid, key=lambda s: sum(grid[s]))
    left_out = [grid[min(grid, key=lambda s: sum(grid[s]) - grid[s][i])][i] for i in rows]
    print(f"preset {sum(errors(())) / len(rows):.2f} %, best of the grid {sum(grid[best]) / len(rows):.2f} % at {best}")
    print(f"left out one by one {sum(left_out) / len(rows):.2f} %")


if __name__ == "__main__":
    main()
