"""Reports: everything that people and scripts read about a run, drawn from its recorded counters alone.

`write_reports` writes the files of a run, `terminal` and `profile_view` print it, `profile_saved` prints it from its
folder, `compare` prints two folders, `summary` and `operator_rows` are the numbers. matplotlib and jinja2 load only
when files are drawn.
"""

from __future__ import annotations

from npusim.record import Result
from npusim.report.compare import compare
from npusim.report.console import profile_view, terminal
from npusim.report.files import ReportError, write_reports
from npusim.report.profile import OpRow, Profile
from npusim.report.saved import profile_saved
from npusim.report.summary import summary

__all__ = [
    "OpRow", "Profile", "ReportError", "compare", "operator_rows", "profile_saved", "profile_view", "summary",
    "terminal", "write_reports",
]  # fmt: skip


def operator_rows(result: Result) -> list[OpRow]:
    """One row an operator of the program, in its order; raises SimulationError when the record does not add up."""
    return Profile(result).rows
