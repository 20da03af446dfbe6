"""Two runs side by side: what moved, by how much, and why. Reads only their summary.json and ops.csv."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from npusim.report.console import grid
from npusim.report.roofs import short_name
from npusim.report.saved import Operator, Run, load_run
from npusim.report.text import duration, energy, percent, size


def _change(before: float, after: float) -> str:
    if before == after:
        return "="
    return f"{100 * (after / before - 1):+.1f} %" if before else "new"


def _clock_mhz(summary: Mapping[str, Any]) -> float:
    return float(summary["total_cycles"] / summary["time_us"]) if summary["time_us"] else 0.0


def _totals(a: Run, b: Run) -> list[tuple[str, str, str, str]]:
    def both(label: str, get: Any, show: Any) -> tuple[str, str, str, str]:
        before, after = get(a.summary), get(b.summary)
        return label, show(before), show(after), _change(before, after)

    rows = [
        both("total cycles", lambda s: s["total_cycles"], lambda v: f"{v:,}"),
        both("time", lambda s: s["time_us"], lambda v: duration(v * 1e-6)),
        both("core clock", _clock_mhz, lambda v: f"{v:,.0f} MHz"),
        both("array utilization", lambda s: s["utilization"].get("work_weighted", 0.0), percent),
        both("DRAM read", lambda s: s["dram_read_bytes"], size),
        both("DRAM written", lambda s: s["dram_write_bytes"], size),
        both("instructions", lambda s: s.get("instructions", 0), lambda v: f"{v:,}"),
    ]
    if "energy_j" in a.summary and "energy_j" in b.summary:
        rows.append(both("energy", lambda s: s["energy_j"], energy))
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
    return ", ".join(reasons) or f"same work, still {b.bound_by}"


def cause_times_us(summary: Mapping[str, Any]) -> dict[str, float]:
    """Time by cause in us, averaged over all pipes of a run: sums to the run's time, so differences do as well."""
    totals: dict[str, int] = {}
    for pipe in summary["pipes"].values():
        for cause, cycles in pipe.items():
            if cause != "instances":
                totals[cause] = totals.get(cause, 0) + cycles
    whole = sum(totals.values()) or 1
    return {cause: summary["time_us"] * cycles / whole for cause, cycles in totals.items() if cycles}


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
    before, after = cause_times_us(a.summary), cause_times_us(b.summary)
    table = grid("Time of a pipe by cause (mean)", "<cause", ">A", ">B", ">difference")
    causes = sorted({*before, *after}, key=lambda c: (-abs(after.get(c, 0.0) - before.get(c, 0.0)), c))
    for cause in causes:
        x, y = before.get(cause, 0.0), after.get(cause, 0.0)
        table.add_row(escape(cause), duration(x * 1e-6), duration(y * 1e-6), _difference(y - x))
    console.print(table)


def _difference(time_us: float) -> str:
    if abs(time_us) < 5e-5:  # below 0.05 ns, what duration() shows
        return "="
    return f"{'+' if time_us > 0 else '−'}{duration(abs(time_us) * 1e-6)}"


def _headline(a: Run, b: Run) -> str:
    """Which run is faster, by how much, and the cause that moved most."""
    x, y = a.summary["time_us"], b.summary["time_us"]
    if x == y:
        return "Both runs take the same time."
    before, after = cause_times_us(a.summary), cause_times_us(b.summary)
    moved = {c: after.get(c, 0.0) - before.get(c, 0.0) for c in {*before, *after}}
    # Of the causes that moved the same way as the total, the largest explains it best.
    same_way = {c: d for c, d in moved.items() if (d > 0) == (y > x)}
    slower = f"B takes {_change(x, y).lstrip('+')} longer than A"
    verdict = f"B is {x / y:.2f} times as fast as A" if 0 < y < x else slower
    if not same_way:
        return f"{verdict}."
    top = min(same_way, key=lambda c: (-abs(same_way[c]), c))
    return f"{verdict} ({_difference(y - x)}); most of it is {top} ({_difference(same_way[top])} a pipe)."


def compare(a_dir: Path, b_dir: Path, console: Console) -> None:
    """Print what moved from run A to run B: totals, operators matched by name, stall causes.

    Both are folders written by `write_reports`; raises ReportError for one that is absent or malformed.
    """
    a, b = load_run(Path(a_dir)), load_run(Path(b_dir))
    for label, run in (("A", a), ("B", b)):
        s = run.summary
        console.print(Text.assemble((label, "bold"), f"  {run.folder}: {s['model']} on {s['hw']}, {s['dtype']}"))
    console.print(Text(_headline(a, b)))
    console.print()
    table = grid("Totals", "<", ">A", ">B", ">change")
    for row in _totals(a, b):
        table.add_row(*row)
    console.print(table)
    console.print()
    _print_operators(a, b, console)
    console.print()
    _print_causes(a, b, console)
