"""Two runs side by side: what moved, by how much, and why. Reads only summary.json and ops.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from npusim.record import CAUSES
from npusim.report.console import grid
from npusim.report.files import ReportError
from npusim.report.roofs import short_name
from npusim.report.text import duration, percent, si, size

MAX_FILE_BYTES = 200_000_000
_NEEDED = (
    "model", "hw", "dtype", "total_cycles", "time_us", "pipes", "utilization", "dram_read_bytes", "dram_write_bytes",
)  # fmt: skip
_COLUMNS = ("name", "cycles", "macs", "dram_bytes", "utilization", "bound_by", "top_stall")


@dataclass(frozen=True)
class Operator:
    """One row of ops.csv as far as a comparison needs it; `time_us` at the run's core clock."""

    name: str
    cycles: int
    time_us: float
    macs: int
    dram_bytes: int
    utilization: float
    bound_by: str
    top_stall: str


@dataclass(frozen=True)
class Run:
    """One run as read back from its folder; operators by (name, occurrence)."""

    folder: Path
    summary: Mapping[str, Any]
    operators: Mapping[tuple[str, int], Operator]


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ReportError(f"{path} is larger than {MAX_FILE_BYTES} bytes: not a file of npusim")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ReportError(f"cannot read {path}: {reason}; expected a folder written by `npusim run -o`") from error


def _summary(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}") from error
    missing = [key for key in _NEEDED if key not in data] if isinstance(data, dict) else list(_NEEDED)
    if missing:
        raise ReportError(f"{path} is not a summary of npusim: it lacks {', '.join(missing)}")
    numbers = all(isinstance(data[k], (int, float)) and math.isfinite(data[k]) for k in ("total_cycles", "time_us"))
    pipes = data["pipes"]
    if not numbers or not isinstance(pipes, dict) or not all(_is_pipe(p) for p in pipes.values()):
        raise ReportError(f"{path} is malformed: total_cycles, time_us and pipes must hold numbers")
    return dict(data)


def _is_pipe(pipe: Any) -> bool:
    return isinstance(pipe, dict) and "instances" in pipe and all(isinstance(v, int) for v in pipe.values())


def _operators(path: Path, us_per_cycle: float) -> dict[tuple[str, int], Operator]:
    rows = csv.DictReader(io.StringIO(_read(path), newline=""))
    missing = [c for c in _COLUMNS if c not in (rows.fieldnames or ())]
    if missing:
        raise ReportError(f"{path} is not an ops.csv of npusim: it lacks the columns {', '.join(missing)}")
    out: dict[tuple[str, int], Operator] = {}
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        try:
            cycles = int(row["cycles"])
            operator = Operator(
                row["name"], cycles, cycles * us_per_cycle, int(row["macs"]), int(row["dram_bytes"]),
                float(row["utilization"]), row["bound_by"], row["top_stall"],
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise ReportError(f"{path}, line {number}: {error}") from error
        seen[operator.name] = seen.get(operator.name, -1) + 1
        out[(operator.name, seen[operator.name])] = operator
    return out


def load_run(folder: Path) -> Run:
    """Read a folder written by `write_reports`; raises ReportError when it is absent or malformed."""
    folder = Path(folder)
    summary = _summary(folder / "summary.json")
    us_per_cycle = summary["time_us"] / summary["total_cycles"] if summary["total_cycles"] else 0.0
    return Run(folder, summary, _operators(folder / "ops.csv", us_per_cycle))


def _change(before: float, after: float) -> str:
    if before == after:
        return "="
    return f"{100 * (after / before - 1):+.1f} %" if before else "new"


def _totals(a: Run, b: Run) -> list[tuple[str, str, str, str]]:
    def both(label: str, get: Any, show: Any) -> tuple[str, str, str, str]:
        before, after = get(a.summary), get(b.summary)
        return label, show(before), show(after), _change(before, after)

    rows = [
        both("total cycles", lambda s: s["total_cycles"], lambda v: f"{v:,}"),
        both("time", lambda s: s["time_us"], lambda v: duration(v * 1e-6)),
        both("array utilization", lambda s: s["utilization"].get("work_weighted", 0.0), percent),
        both("DRAM read", lambda s: s["dram_read_bytes"], size),
        both("DRAM written", lambda s: s["dram_write_bytes"], size),
        both("instructions", lambda s: s.get("instructions", 0), lambda v: f"{v:,}"),
    ]
    if "energy_j" in a.summary and "energy_j" in b.summary:
        rows.append(both("energy", lambda s: s["energy_j"], lambda v: si(v * 1e6, "J").replace(" ", " µ", 1)))
    return rows


def why(a: Operator, b: Operator) -> str:
    """The reason for an operator's change that its recorded counts show, most telling first."""
    reasons = []
    if a.bound_by != b.bound_by:
        reasons.append(f"bound {a.bound_by} → {b.bound_by}")
    if abs(b.dram_bytes - a.dram_bytes) > 0.02 * max(a.dram_bytes, 1):
        reasons.append(f"DRAM {_change(a.dram_bytes, b.dram_bytes)}")
    if a.macs != b.macs:
        reasons.append(f"MACs {_change(a.macs, b.macs)}")
    if a.top_stall != b.top_stall:
        reasons.append(f"stall {a.top_stall} → {b.top_stall}")
    if not reasons and abs(a.utilization - b.utilization) > 0.005:
        reasons.append(f"utilization {percent(a.utilization)} → {percent(b.utilization)}")
    return ", ".join(reasons) or f"same work, still {b.bound_by}"


def cause_shares(summary: Mapping[str, Any]) -> dict[str, float]:
    """Share of all pipe-cycles of a run by cause; sums to 1."""
    totals = dict.fromkeys(CAUSES, 0)
    for pipe in summary["pipes"].values():
        for cause, cycles in pipe.items():
            if cause != "instances":
                totals[cause] = totals.get(cause, 0) + cycles
    whole = sum(totals.values()) or 1
    return {cause: cycles / whole for cause, cycles in totals.items() if cycles}


def _print_operators(a: Run, b: Run, console: Console) -> None:
    shared = [(a.operators[k], b.operators[k]) for k in a.operators if k in b.operators]
    moved = sorted(shared, key=lambda p: -abs(p[1].time_us - p[0].time_us))
    table = grid("Operators that moved most", "<operator", ">A", ">B", ">change", "<why")
    for before, after in moved[:10]:
        if before.time_us != after.time_us:
            table.add_row(
                escape(short_name(before.name, 24)), duration(before.time_us * 1e-6), duration(after.time_us * 1e-6),
                _change(before.time_us, after.time_us), escape(why(before, after)),
            )  # fmt: skip
    if table.row_count:
        console.print(table)
    else:
        console.print(Text("No operator moved."))
    for label, keys in (("A", a.operators.keys() - b.operators.keys()), ("B", b.operators.keys() - a.operators.keys())):
        if keys:
            names = ", ".join(sorted(short_name(name, 24) for name, _ in keys)[:5])
            console.print(Text(f"{len(keys)} operator(s) only in {label}: {names}{' ...' if len(keys) > 5 else ''}"))


def _print_causes(a: Run, b: Run, console: Console) -> None:
    before, after = cause_shares(a.summary), cause_shares(b.summary)
    table = grid("Where the pipes' cycles went", "<cause", ">A", ">B", ">points")
    causes = sorted({*before, *after}, key=lambda c: -abs(after.get(c, 0.0) - before.get(c, 0.0)))
    for cause in causes:
        x, y = before.get(cause, 0.0), after.get(cause, 0.0)
        table.add_row(escape(cause), percent(x), percent(y), f"{100 * (y - x):+.1f}")
    console.print(table)


def compare(a_dir: Path, b_dir: Path, console: Console) -> None:
    """Print what moved from run A to run B: totals, operators matched by name, stall causes.

    Both are folders written by `write_reports`; raises ReportError for one that is absent or malformed.
    """
    a, b = load_run(Path(a_dir)), load_run(Path(b_dir))
    for label, run in (("A", a), ("B", b)):
        s = run.summary
        console.print(Text.assemble((label, "bold"), f"  {run.folder}: {s['model']} on {s['hw']}, {s['dtype']}"))
    console.print()
    table = grid("Totals", "<", ">A", ">B", ">change")
    for row in _totals(a, b):
        table.add_row(*row)
    console.print(table)
    _print_operators(a, b, console)
    console.print()
    _print_causes(a, b, console)
