"""What a comparison yields: an outcome a row, the baseline beside it, and one summary."""

from __future__ import annotations

import csv
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npusim.validate.fit import Fit, fit_constant
from npusim.validate.table import TableError

SPLIT_US = 20.0
JUDGED, FAILED, LISTED = "ok", "failed", "listed"


@dataclass(frozen=True)
class Outcome:
    """One row simulated: `measured`, `simulated` and `roofline` (without its constant) in `unit` (us or cycles).

    `compared` holds integers that must be equal and shares that are shown, by name, as (measured, simulated).
    `launches` kernels were launched, each adding the machine's launch cost; `stalls` names where the time went.
    """

    measured: float
    simulated: float
    unit: str
    measured_us: float | None = None
    roofline: float | None = None
    compared: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    launches: int = 0
    launch_cost: float = 0.0  # of one launch, in `unit`, as contained in `simulated`
    stalls: str = ""
    listed: str = ""  # the reason why the row is shown and not judged
    note: str = ""  # what else a reader wants to see of the row

    @property
    def error_pct(self) -> float:
        """Signed error of the simulation in per cent of the measurement."""
        return 100.0 * (self.simulated - self.measured) / self.measured

    @property
    def exact(self) -> bool:
        """True when integers were compared and all are equal."""
        integers = [pair for pair in self.compared.values() if all(isinstance(x, int) for x in pair)]
        return bool(integers) and all(measured == simulated for measured, simulated in integers)


@dataclass(frozen=True)
class Line:
    """One row of the result: its number in the table and either an outcome or the reason for which there is none."""

    table: str
    number: int
    name: str
    outcome: Outcome | None
    reason: str = ""
    roofline: float | None = None  # with the constant

    @property
    def status(self) -> str:
        """`ok`, `failed`, or `listed` (shown, not judged)."""
        if self.outcome is None:
            return FAILED
        return LISTED if self.outcome.listed else JUDGED

    @property
    def roofline_error_pct(self) -> float | None:
        """Signed error of the roofline with its constant, in per cent."""
        if self.outcome is None or self.roofline is None:
            return None
        return 100.0 * (self.roofline - self.outcome.measured) / self.outcome.measured


@dataclass(frozen=True)
class Summary:
    """The result of a comparison; `lines` in the order of the table, `fits` what constants the measurements suggest."""

    lines: tuple[Line, ...]
    fits: tuple[Fit, ...] = ()
    tables: Mapping[str, Summary] = field(default_factory=dict)  # one each when several were run
    others: Mapping[str, int] = field(default_factory=dict)  # rows of other devices, by device: neither run nor judged

    @property
    def failed(self) -> int:
        """Rows that could not be simulated."""
        return sum(line.status == FAILED for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """The summary as one JSON object; figures without a row behind them are None."""
        result = statistics_of(self.lines)
        result["above_20us"] = statistics_of([x for x in self.lines if _is_long(x) is True])
        result["below_20us"] = statistics_of([x for x in self.lines if _is_long(x) is False])
        result["listed"] = sum(line.status == LISTED for line in self.lines)
        result["failures"] = dict(Counter(line.reason for line in self.lines if line.status == FAILED))
        result["fits"] = [fit.as_dict() for fit in self.fits]
        if self.others:
            result["other_devices"] = dict(self.others)
        if self.tables:
            result["tables"] = {name: part.as_dict() for name, part in self.tables.items()}
        return result


def _is_long(line: Line) -> bool | None:
    if line.outcome is None or line.outcome.measured_us is None:
        return None
    return line.outcome.measured_us > SPLIT_US


def statistics_of(lines: Sequence[Line]) -> dict[str, Any]:
    """Rows, failures and error statistics of some rows; the worst row is named as in the result's file."""
    judged = [line for line in lines if line.status == JUDGED]
    outcomes = [line.outcome for line in judged if line.outcome is not None]
    errors = [abs(outcome.error_pct) for outcome in outcomes]
    baseline = [abs(e) for line in judged if (e := line.roofline_error_pct) is not None]
    worst = max(range(len(errors)), key=errors.__getitem__) if errors else -1
    return {
        "rows": len(lines),
        "failed": sum(line.status == FAILED for line in lines),
        "exact": sum(outcome.exact for outcome in outcomes),
        "mape_pct": statistics.fmean(errors) if errors else None,
        "median_pct": statistics.median(errors) if errors else None,
        "worst_pct": errors[worst] if errors else None,
        "worst_row": f"{judged[worst].number}: {judged[worst].name}" if errors else None,
        "roofline_mape_pct": statistics.fmean(baseline) if baseline else None,
    }


def summarise(lines: Sequence[Line]) -> Summary:
    """Fit the constants of one table's rows and put the baseline beside every row."""
    judged = [line.outcome for line in lines if line.status == JUDGED and line.outcome is not None]
    fits = []
    constant = None
    roofs = [x for x in judged if x.roofline is not None]
    if roofs:
        measured = [x.measured for x in roofs]
        if roofs[0].unit.endswith("/s"):
            constant = 0.0  # of a rate the roofline is what it is
        else:
            fit = fit_constant("roofline constant", roofs[0].unit, measured, [x.roofline or 0.0 for x in roofs])
            constant = fit.value
            fits.append(fit)
    launched = [x for x in judged if x.launches > 0 and x.launch_cost > 0]
    if launched:
        rest = [x.simulated - x.launches * x.launch_cost for x in launched]
        slopes = [float(x.launches) for x in launched]
        fits.append(fit_constant("launch cost", launched[0].unit, [x.measured for x in launched], rest, slopes))
    return Summary(tuple(_with_roofline(line, constant) for line in lines), tuple(fits))


def _with_roofline(line: Line, constant: float | None) -> Line:
    if constant is None or line.outcome is None or line.outcome.roofline is None:
        return line
    return Line(line.table, line.number, line.name, line.outcome, line.reason, line.outcome.roofline + constant)


BUSY_SUFFIX = "_busy_frac"  # of columns that are compared with the busy share of a pipe
HEADER = (
    "table", "row", "name", "status", "measured", "simulated", "unit", "error_pct", "roofline", "roofline_error_pct",
    "compared", "stalls", "reason",
)  # fmt: skip


def cells(line: Line) -> list[str]:
    """One row of the result's file, as HEADER names it."""
    outcome = line.outcome
    if outcome is None:
        return [line.table, str(line.number), line.name, line.status, *[""] * 8, line.reason]
    pairs = "; ".join(f"{name} {a:.6g} {b:.6g}" for name, (a, b) in outcome.compared.items())
    return [
        line.table, str(line.number), line.name, line.status, f"{outcome.measured:.10g}", f"{outcome.simulated:.10g}",
        outcome.unit, f"{outcome.error_pct:.3f}", _number(line.roofline, "{:.6g}"),
        _number(line.roofline_error_pct, "{:.3f}"), pairs, outcome.stalls, outcome.listed or outcome.note,
    ]  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def text_lines(summary: Summary) -> Iterator[str]:
    """The comparison as plain text: a line a row, then the constants that the rows suggest."""
    yield f"{'row':>5} {'measured':>12} {'simulated':>12} {'error %':>9} {'roofline %':>10}  name"
    for line in summary.lines:
        row = cells(line)
        if line.outcome is None:
            yield f"{line.number:>5} {'failed':>12} {'':>12} {'':>9} {'':>10}  {line.name}: {line.reason}"
            continue
        said = f"listed: {line.outcome.listed}" if line.outcome.listed else line.outcome.note
        note = f" ({said})" if said else ""
        measured, simulated, error = f"{line.outcome.measured:.6g}", f"{line.outcome.simulated:.6g}", row[7]
        yield f"{line.number:>5} {measured:>12} {simulated:>12} {error:>9} {row[9]:>10}  {line.name}{note}"
        shares = [
            f"{name[:-len(BUSY_SUFFIX)]} {100 * a:.1f} / {100 * b:.1f} % ({100 * (b - a):+.1f} points)"
            for name, (a, b) in line.outcome.compared.items() if name.lower().endswith(BUSY_SUFFIX)
        ]  # fmt: skip
        if shares:
            yield f"{'':>5} busy, measured / simulated: {', '.join(shares)}"
    for fit in summary.fits:
        yield str(fit)
    if summary.others:
        named = ", ".join(f"{device} {count}" for device, count in summary.others.items())
        yield f"rows of other devices, neither run nor judged: {named}"


def write_csv(summary: Summary, path: Path) -> None:
    """Write the rows to `path`, whole or not at all; raises TableError when it cannot be written."""
    staged = ""
    try:
        handle, staged = tempfile.mkstemp(prefix=".npusim-", suffix=".csv", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows(cells(line) for line in summary.lines)
        os.replace(staged, path)
    except OSError as error:
        if staged:
            Path(staged).unlink(missing_ok=True)
        raise TableError(f"{path}: cannot be written: {error.strerror}; name a file in a writable folder") from None
