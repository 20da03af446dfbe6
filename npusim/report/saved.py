"""A run as read back from its folder, checked: summary.json and ops.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from npusim.report.alike import common_name, group_alike
from npusim.report.console import bounds_table, cell, grid, name_cells, shown, stall_tree
from npusim.report.files import ReportError
from npusim.report.roofs import short_name
from npusim.report.text import bound_text, duration, percent, si, size

MAX_FILE_BYTES = 200_000_000
_NEEDED = (
    "model", "hw", "dtype", "total_cycles", "time_us", "pipes", "utilization", "dram_read_bytes", "dram_write_bytes",
)  # fmt: skip
_NUMBERS = ("total_cycles", "time_us", "dram_read_bytes", "dram_write_bytes")
_COLUMNS = (
    "name", "op_type", "shape", "cycles", "macs", "flops", "dram_bytes", "utilization", "bound_by", "bound_share",
    "top_stall",
)  # fmt: skip


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
    op_type: str = ""
    shape: str = ""
    flops: int = 0
    bound_share: float = 0.0


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
    numbers = all(isinstance(data[k], (int, float)) and math.isfinite(data[k]) for k in _NUMBERS)
    pipes, used = data["pipes"], data["utilization"]
    tables = isinstance(pipes, dict) and all(_is_pipe(p) for p in pipes.values()) and isinstance(used, dict)
    if not numbers or not tables or not all(isinstance(v, (int, float)) for v in used.values()):
        raise ReportError(f"{path} is malformed: {', '.join(_NUMBERS)}, pipes and utilization must hold numbers")
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
                row["op_type"], row["shape"], int(row["flops"]), float(row["bound_share"]),
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


def profile_saved(folder: Path, console: Console) -> None:
    """Print the profiler's view of a run from its folder: utilization, bounds, stall tree, costliest operators.

    Raises ReportError for a folder that is absent or malformed.
    """
    run = load_run(folder)
    s = run.summary
    console.print(Text.assemble(
        (str(s["model"]), "bold"), f" on {s['hw']}, {s['dtype']}: ", (f"{s['total_cycles']:,} cycles", "bold"),
        f" = {duration(s['time_us'] * 1e-6)}",
    ))  # fmt: skip
    moved = s["dram_read_bytes"] + s["dram_write_bytes"]
    rate = si(moved / (s["time_us"] * 1e-6), "B/s") if s["time_us"] else "0 B/s"
    used = percent(s["utilization"].get("work_weighted", 0.0))
    console.print(Text(f"arrays {used} of peak, DRAM {size(moved)} at {rate}"))
    console.print()
    bounds: dict[str, int] = {}
    for operator in run.operators.values():
        bounds[operator.bound_by] = bounds.get(operator.bound_by, 0) + operator.cycles
    console.print(bounds_table(sorted(bounds.items(), key=lambda p: -p[1])))
    console.print()
    console.print(stall_tree(s["pipes"]))
    console.print()
    console.print(_costliest(list(run.operators.values()), max(1, s["total_cycles"]), name_cells(console)))


def _costliest(operators: Sequence[Operator], total_cycles: int, names: int) -> Table:
    """The ten costliest kinds of operators; of those that do the same, sums and what bounds the costliest."""
    kinds = group_alike(operators)
    members = sum(len(kind) for kind in kinds[:10])
    table = grid("Costliest operators", "<operator", ">cycles", ">time", ">of peak", ">DRAM", "<bound by", "<top stall")
    table.caption = shown(min(10, len(kinds)), len(kinds), members, len(operators))
    for kind in kinds[:10]:
        chosen = [operators[i] for i in kind]
        cycles = sum(o.cycles for o in chosen)
        used = sum(o.utilization * o.cycles for o in chosen) / max(1, cycles)
        count = f" (x{len(chosen)})" if len(chosen) > 1 else ""
        name = short_name(common_name([operators[i].name for i in sorted(kind)]), names - len(count)) + count
        table.add_row(
            cell(name), f"{cycles:,}", percent(cycles / total_cycles),
            "–" if chosen[0].bound_by == "host" else percent(used), size(sum(o.dram_bytes for o in chosen)),
            cell(bound_text(chosen[0])), cell(chosen[0].top_stall),
        )  # fmt: skip
    return table
