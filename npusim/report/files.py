"""Writes the files of a run: all of them whole, or none."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from isa.errors import NpuError
from npusim.record import Result
from npusim.report.profile import OpRow, Profile
from npusim.report.summary import summary_of
from npusim.trace import write_trace

NAMES = ("summary.json", "ops.csv", "roofline.png", "roofline.svg", "trace.json", "report.html")
_PLAIN_COLUMNS = (
    "name", "op_type", "shape", "dtype", "start_cycle", "end_cycle", "cycles", "macs", "flops", "dram_bytes",
)  # fmt: skip
_DERIVED_COLUMNS = ("arithmetic_intensity", "utilization", "bound_by", "bound_share", "top_stall")


class ReportError(NpuError):
    """The files of a run cannot be written or read; the message names the file and the reason."""


def columns(level_keys: list[str]) -> list[str]:
    """The header of ops.csv: one `<src>_to_<dst>_bytes` column a path of the machine."""
    return [*_PLAIN_COLUMNS, *(f"{key}_bytes" for key in level_keys), *_DERIVED_COLUMNS]


def _csv_row(row: OpRow, level_keys: list[str]) -> list[object]:
    intensity = "" if row.arithmetic_intensity is None else f"{row.arithmetic_intensity:.6g}"
    return [
        row.name, row.op_type, "x".join(str(d) for d in row.shape), row.dtype, row.start_cycle, row.end_cycle,
        row.cycles, row.macs, row.flops, row.dram_bytes, *(row.level_bytes[key] for key in level_keys),
        intensity, f"{row.utilization:.6g}", row.bound_by, f"{row.bound_share:.4g}", row.top_stall,
    ]  # fmt: skip


def write_ops_csv(profile: Profile, file: TextIO) -> None:
    """Write ops.csv, a row an operator in the program's order; an absent intensity is an empty cell."""
    keys = [level.key for level in profile.levels[1:]]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns(keys))
    writer.writerows(_csv_row(row, keys) for row in profile.rows)


def _write_text(path: Path, write: Callable[[TextIO], object]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write(file)


def _draw_all(result: Result, folder: Path) -> None:
    """Write every file of the run into `folder`."""
    from npusim.report import page, roofline  # jinja2 and matplotlib load only when files are drawn

    profile = Profile(result)
    text = json.dumps(summary_of(profile), indent=2, allow_nan=False) + "\n"
    _write_text(folder / "summary.json", lambda f: f.write(text))
    _write_text(folder / "ops.csv", lambda f: write_ops_csv(profile, f))
    _write_text(folder / "trace.json", lambda f: write_trace(result, f))
    _write_text(folder / "report.html", lambda f: f.write(page.render(profile)))
    roofline.write(profile, folder)


def _publish(staged: Path, out_dir: Path) -> None:
    """Move the staged files into `out_dir`, which exists; on an error put back what was there."""
    backup = staged / "replaced"
    backup.mkdir()
    moved: list[str] = []
    saved: list[str] = []
    try:
        for name in NAMES:
            if (out_dir / name).exists():
                os.replace(out_dir / name, backup / name)
                saved.append(name)
            os.replace(staged / name, out_dir / name)
            moved.append(name)
    except OSError:
        for name in moved:
            (out_dir / name).unlink(missing_ok=True)
        for name in saved:
            os.replace(backup / name, out_dir / name)
        raise


def _new_folders(out_dir: Path) -> list[Path]:
    """The folders that must be made for `out_dir`, innermost first."""
    return [p for p in (out_dir, *out_dir.parents) if not p.exists()]


def write_reports(result: Result, out_dir: str | Path) -> list[Path]:
    """Write all files of a run into `out_dir`, made when absent, and return their paths.

    Files of an earlier run are replaced. They are drawn in a temporary folder inside `out_dir` (so on the same file
    system) and then renamed; on any error nothing is left behind and earlier files stay as they were.
    Raises ReportError when the folder cannot be written, SimulationError when the record does not add up.
    """
    if out_dir == "":
        raise ReportError("'' names no folder for the report; name one ('.' is the current folder)")
    out_dir = Path(out_dir)
    made = _new_folders(out_dir)
    done = False
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".npusim-", dir=out_dir))
        try:
            _draw_all(result, staged)
            _publish(staged, out_dir)
            done = True
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReportError(
            f"cannot write the report to {out_dir}: {reason}. Nothing was changed there; name a writable folder with "
            "enough free space with -o"
        ) from error
    finally:
        if not done:
            for folder in made:
                _remove_empty(folder)
    return [out_dir / name for name in NAMES]


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # never made, or no longer empty
        return
