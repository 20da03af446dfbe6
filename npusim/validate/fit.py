"""Fitting one constant to measurements, and what it predicts of rows that it was not fitted to.

The constant c minimises the mean of |rest + slope * c - measured| / measured: a weighted median of what each row asks
for, so that no single row drags it. Leave-one-out fits it without each row in turn and judges that row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fit:
    """A constant, its unit, and the mean absolute error in per cent: fitted to all rows, and to all but each."""

    name: str
    unit: str
    value: float
    rows: int
    mape_pct: float
    leave_one_out_pct: float | None

    def as_dict(self) -> dict[str, Any]:
        """The fit for JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        left_out = "" if self.leave_one_out_pct is None else f", {self.leave_one_out_pct:.2f} % left out one by one"
        return f"{self.name}: {self.value:.6g} {self.unit} over {self.rows} rows gives {self.mape_pct:.2f} %{left_out}"


def fit_constant(
    name: str, unit: str, measured: Sequence[float], rest: Sequence[float], slopes: Sequence[float] | None = None
) -> Fit:
    """Fit c >= 0 in rest + slope * c = measured (slopes: 1 by default); all three of one length, measured > 0."""
    target, base = np.asarray(measured, float), np.asarray(rest, float)
    slope = np.ones_like(target) if slopes is None else np.asarray(slopes, float)
    wanted, weight = (target - base) / slope, slope / target
    value = max(0.0, _median(wanted, weight))
    errors = np.abs(base + slope * value - target) / target
    left_out = None
    if len(target) > 1:
        values = np.maximum(0.0, _medians_without_each(wanted, weight))
        left_out = float(100 * np.mean(np.abs(base + slope * values - target) / target))
    return Fit(name, unit, value, len(target), float(100 * errors.mean()), left_out)


def _median(values: Array, weights: Array) -> float:
    """The weighted median: the least value with half of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _medians_without_each(values: Array, weights: Array) -> Array:
    """The weighted median of all but row i, for every i; at least two rows."""
    order = np.argsort(values, kind="stable")
    ordered, weight = values[order], weights[order]
    total = np.cumsum(weight)
    half = (total[-1] - weight) / 2
    place = np.searchsorted(total, half)  # in the order with row i present ...
    behind = np.searchsorted(total, half + weight)  # ... and where its own weight is not counted
    own = np.arange(len(values))
    chosen = np.where(place < own, place, np.maximum(behind, own + 1))
    chosen = np.where(chosen >= len(values), own - 1, chosen)
    result = np.empty_like(ordered)
    result[order] = ordered[chosen]
    return result
