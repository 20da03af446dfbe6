"""Comparison with measurements of real chips and with golden cycle counts.

A table of measurements has a *kind*: which columns it needs, and what is simulated for a row. `validate` runs a shipped
table, all of them, or any CSV file of a kind, and returns a Summary.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from isa.errors import NpuError
from npusim.validate.bench import TIMINGS, Bench
from npusim.validate.devices import FAMILY, split
from npusim.validate.index import TABLES, find, table_text
from npusim.validate.summary import Line, Outcome, Summary, summarise, text_lines, write_csv
from npusim.validate.table import Column, Row, TableError, parse_table, read_table, spread

__all__ = ["KINDS", "TABLES", "Outcome", "Summary", "TableError", "text_lines", "validate"]

MEMORY_KINDS = ("pointer_chase", "cache_bandwidth", "stream")  # run on chips of which only the memory is described
KINDS = ("systolic", "dram", "textbook", "gemm", "conv", "vector", "copy", "workload", "attention", *MEMORY_KINDS)
LATER = {
    "attention_prefill": "attention kernels", "attention_decode": "attention kernels", "collective": "several devices",
}  # fmt: skip
Progress = Callable[[str, int, int], None]  # what, rows done, rows in all


class Kind(Protocol):
    """What every module of a kind offers."""

    NEEDS_HW: bool
    COLUMNS: tuple[Column, ...]

    def name_of(self, row: Row) -> str:
        """The row in words."""
        ...

    def measure(self, row: Row, bench: Bench) -> Outcome:
        """Simulate a row; raises NpuError when it cannot."""
        ...


@dataclass(frozen=True)
class _Options:
    """What the caller, or the index of shipped tables, says of how rows are run; as in `validate`."""

    settings: tuple[str, ...]
    dtype: str
    timing: str
    caches: str


@dataclass(frozen=True)
class _Job:
    """One table to run: its label, text rows and machine; `others` counts rows of other devices, which are not run."""

    label: str
    kind: str
    rows: list[Row]
    bench: Bench
    others: Mapping[str, int]


def kind_of(name: str) -> Kind:
    """The module of a kind; raises TableError for one that is unknown or not in this version."""
    if name in LATER:
        known = ", ".join(KINDS)
        raise TableError(f"kind {name!r} is not in this version: it comes with {LATER[name]}; there are {known}")
    if name not in KINDS:
        raise TableError(f"unknown kind {name!r}; there are {', '.join(KINDS)}")
    module: Kind = importlib.import_module(f"npusim.validate.{name}")  # type: ignore[assignment]
    return module


def validate(
    kind: str | None = None,
    csv: str | Path | None = None,
    hw: str | None = None,
    table: str | None = None,
    rows: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    timing: str = "",
    caches: str = "",
    progress: Progress | None = None,
) -> Summary:
    """Compare simulated with measured times, row by row.

    With `csv` the file is read as `kind` and simulated on `hw`. Without, the shipped `table` is run, or all shipped
    tables (those of `kind` and `hw`, when given). `rows` takes that many rows of a table, spread evenly. `timing` says
    what the times of a file cover (kernel, graph, eager), `caches` what a shared cache holds at the start, as in
    `npusim.run`. `out` receives a line a row. Raises NpuError for a file,
    kind, chip or setting that cannot be used; a row that cannot be simulated is counted as failed, with its reason.
    """
    if timing and timing not in TIMINGS:
        raise TableError(f"timing {timing!r} is not one of {', '.join(TIMINGS)}")
    if csv is not None:
        if kind is None or table is not None:
            raise TableError(f"a file of measurements needs --kind, one of {', '.join(KINDS)}, and no --table")
        jobs = [_file_job(kind, Path(csv), hw, rows, _Options(tuple(settings), "", timing, caches))]
    else:
        names = [table] if table is not None else _chosen(kind, hw)
        jobs = [_table_job(name, hw, rows, _Options(tuple(settings), "", timing, caches)) for name in names]
    total = sum(len(job.rows) for job in jobs)
    done = 0
    parts: dict[str, Summary] = {}
    for job in jobs:
        lines = []
        for line in _run(job):
            lines.append(line)
            done += 1
            if progress is not None:
                progress(f"validate {job.label}", done, total)
        parts[job.label] = replace(summarise(lines), others=job.others)
    result = next(iter(parts.values()))
    if len(parts) > 1:
        result = Summary(tuple(line for part in parts.values() for line in part.lines), (), parts)
    if out is not None:
        write_csv(result, Path(out))
    return result


def _chosen(kind: str | None, hw: str | None) -> list[str]:
    if kind is not None:
        kind_of(kind)
    shapes = (hw, *FAMILY.get(hw or "", ()))
    names = [n for n, t in TABLES.items() if kind in (None, t.kind) and (hw is None or t.hw in shapes)]
    if not names:
        shipped = ", ".join(f"{n} ({t.kind}{', ' + t.hw if t.hw else ''})" for n, t in TABLES.items())
        raise TableError(f"no shipped table of kind {kind or 'any'} for {hw or 'any chip'}; there are {shipped}")
    return names


def _file_job(
    kind: str, path: Path, hw: str | None, count: int | None, options: _Options
) -> _Job:  # fmt: skip
    module = kind_of(kind)
    found = read_table(path, kind, module.COLUMNS)
    bench = _bench(kind, module, found[0], hw, options)
    own, others = _own_rows(kind, found, bench.hw, path.name)
    return _Job(path.name, kind, spread(own, count), bench, others)


def _table_job(name: str, hw: str | None, count: int | None, options: _Options) -> _Job:
    entry = find(name)
    module = kind_of(entry.kind)
    found = parse_table(table_text(name), f"{name}.csv", entry.kind, module.COLUMNS)
    both = _Options((*entry.settings, *options.settings), entry.dtype, options.timing or entry.timing,
                    options.caches or entry.caches)  # fmt: skip
    bench = _bench(entry.kind, module, found[0], hw or entry.hw, both)
    own, others = _own_rows(entry.kind, found, bench.hw, f"{name}.csv")
    return _Job(name, entry.kind, spread(own, count), bench, others)


def _own_rows(kind: str, rows: list[Row], hw: str, label: str) -> tuple[list[Row], Mapping[str, int]]:
    """The rows that were measured on the chip under test, and how many there are of other devices."""
    if kind not in MEMORY_KINDS:
        return rows, {}
    own, others = split(rows, hw)
    if not own:
        found = ", ".join(others)
        raise TableError(f"{label}: no row was measured on {hw}; the devices are {found}: give --hw for one of them")
    return own, others


def _bench(kind: str, module: Kind, row: Row, hw: str | None, options: _Options) -> Bench:
    """The machine under test; a source that is known by its header brings its own run settings, given ones win."""
    settings, dtype = options.settings, options.dtype
    if not hw:
        if module.NEEDS_HW:
            raise TableError(f"kind {kind} needs a chip: give --hw")
        if settings or options.caches:
            given = "".join(f" --set {setting}" for setting in settings) or f" the flag for {options.caches} caches"
            raise TableError(f"kind {kind} brings machines of its own, of which nothing can be set: leave{given} out")
        return Bench(None)
    if options.caches and kind in MEMORY_KINDS:
        raise TableError(f"kind {kind} fills the caches as its benchmark does: leave that flag out")
    if kind in MEMORY_KINDS:
        return _memory_bench(hw, settings)
    from npusim.api import machine_for

    if kind == "workload":
        from npusim.validate.workload import SOURCES

        source = SOURCES.get(row.headers["measured"].lower())
        if source is not None:
            settings, dtype = (*source.settings, *settings), dtype or source.dtype
    machine, rest = machine_for(hw, settings)
    return Bench(machine, tuple(f"run.{k}={v}" for k, v in rest.items()), dtype, options.timing or "kernel",
                 options.caches)  # fmt: skip


def _memory_bench(hw: str, settings: Sequence[str]) -> Bench:
    """The bench of a kind that needs no programs; the chip is loaded once, so that its faults are told before a row."""
    from isa.loader import load_chip

    run = [s for s in settings if s.startswith("run.")]
    if run:
        raise TableError(f"setting {run[0]}: this kind runs no program, so it has no run.* settings")
    load_chip(hw, settings)
    return Bench(None, hw=hw, chip_settings=tuple(settings))


def _run(job: _Job) -> Iterator[Line]:
    module = kind_of(job.kind)
    for row in job.rows:
        name, outcome, reason = f"row {row.number}", None, ""
        try:
            name = module.name_of(row)
            outcome = module.measure(row, job.bench)
        except NpuError as error:
            reason = " ".join(str(error).split())
        except Exception as error:  # one row must not cost the others theirs; the reason says that it is a bug
            reason = f"internal error, please report: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield Line(job.label, row.number, name, outcome, reason)


class _Callable(ModuleType):
    """This module: importing it puts it in the place of the function `npusim.validate`, so it answers as that."""

    def __call__(self, *args: Any, **options: Any) -> Summary:
        return validate(*args, **options)


sys.modules[__name__].__class__ = _Callable
