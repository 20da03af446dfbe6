"""Tables of measurements: CSV files with a header whose columns have accepted aliases."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from isa.errors import NpuError

MAX_FILE_BYTES = 64 << 20


class TableError(NpuError):
    """A table of measurements, or a row of it, cannot be used; the message names file or column, value and remedy."""


@dataclass(frozen=True)
class Column:
    """A column by name; `aliases` are other headers of the same meaning (`*` matches anything), best first."""

    name: str
    aliases: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True)
class Row:
    """One row: `number` counts data rows from 1, `cells` by column name, `headers` gives the header each came from,
    `raw` every cell by its header."""

    number: int
    cells: Mapping[str, str]
    headers: Mapping[str, str]
    raw: Mapping[str, str]

    def text(self, name: str, default: str = "") -> str:
        """A cell, or `default` when the file has no such column or the cell is empty."""
        return self.cells.get(name, "").strip() or default

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A cell as an integer; raises TableError when it is none, or below `least`."""
        text = self.text(name)
        if not text and default is not None:
            return default
        if not text.lstrip("-").isdigit() or len(text) > 15 or int(text) < least:
            raise TableError(f"column {self.headers.get(name, name)}: {text!r} is not an integer of at least {least}")
        return int(text)

    def positive(self, name: str) -> float:
        """A cell as a positive number; raises TableError when it is none."""
        text = self.text(name)
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < 1e18:
            raise TableError(f"column {self.headers.get(name, name)}: {text!r} is not a positive number")
        return value


def read_table(path: Path, kind: str, columns: Sequence[Column]) -> list[Row]:
    """Read a CSV file; raises TableError when it cannot be read, is too large, or lacks a column."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TableError(f"{path}: larger than the limit of {MAX_FILE_BYTES} bytes; split it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or a name that the file system cannot hold
        raise TableError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return parse_table(text, str(path), kind, columns)


def parse_table(text: str, label: str, kind: str, columns: Sequence[Column]) -> list[Row]:
    """The rows of a CSV text; raises TableError when a required column is missing or there are no rows."""
    reader = csv.reader(io.StringIO(text))
    try:
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise TableError(f"{label}:{reader.line_num}: not CSV: {error}") from None
    if not lines:
        raise TableError(f"{label}: is empty; kind {kind} needs a header and rows")
    header = [cell.strip() for cell in lines[0]]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise TableError(f"{label}: column {', '.join(twice)} is there more than once: leave one")
    headers = {c.name: found for c in columns if (found := _find(c, header))}
    missing = [c for c in columns if c.required and c.name not in headers]
    if missing:
        wanted = "; ".join(c.name + (f" (or {', '.join(c.aliases)})" if c.aliases else "") for c in missing)
        raise TableError(f"{label}: kind {kind} needs a column {wanted}; the file has {', '.join(header)}")
    if len(lines) == 1:
        raise TableError(f"{label}: has a header and no rows")
    rows = []
    for number, line in enumerate(lines[1:], 1):
        raw = dict(zip(header, line))
        rows.append(Row(number, {name: raw.get(found, "") for name, found in headers.items()}, headers, raw))
    return rows


def _find(column: Column, header: Sequence[str]) -> str:
    """The header that holds a column, in capitals or not, or ''."""
    for pattern in (column.name, *column.aliases):
        for name in header:
            if fnmatchcase(name.lower(), pattern.lower()):
                return name
    return ""


def spread(rows: Sequence[Row], count: int | None) -> list[Row]:
    """`count` rows spread evenly over the table, first and last among them; all of them without a count."""
    if count is None or count >= len(rows):
        return list(rows)
    if count < 1:
        raise TableError(f"--rows {count}: at least 1 row is needed")
    if count == 1:
        return [rows[0]]
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]
