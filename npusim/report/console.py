"""What a run prints: speed of light, costliest operators, stall tree; and the profiler's longer view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from npusim.record import Result
from npusim.report.memory import memory_rows, memory_summary
from npusim.report.profile import OpRow, Profile, Share
from npusim.report.roofs import short_name, titled
from npusim.report.stalls import percentages
from npusim.report.summary import pipes
from npusim.report.text import bound_text, counter, duration, figure, percent, shape, si, size

BAR_CELLS = 24
_BOUND_STYLE = {
    "compute": "blue", "memory": "dark_orange", "host link": "red", "on-chip": "magenta", "latency": "yellow",
}  # fmt: skip


def grid(title: str, *columns: str) -> Table:
    """A plain table; a heading starts with `<` (text, may be cut on a narrow terminal) or `>` (numbers, never cut)."""
    table = Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left", caption_style="dim",
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in columns:
        number = column[0] == ">"
        table.add_column(column[1:], justify="right" if number else "left", no_wrap=number, overflow="ellipsis")
    return table


def cell(text: str, style: str = "") -> Text:
    """Text of one line, as it is; where the terminal is narrow it ends in an ellipsis."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def shown(kinds: int, all_kinds: int, operators: int, all_operators: int) -> str | None:
    """The line below a table that does not show everything, or takes operators together."""
    if kinds == all_kinds == all_operators:
        return None
    return f"{kinds} of {all_kinds} kinds, {operators} of {all_operators} operators"


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of block characters, `cells` wide at a share of 1."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    return ("█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])).ljust(cells, "·")


def _head(profile: Profile) -> Text:
    result = profile.result
    seconds = profile.seconds(profile.total_cycles)
    return Text.assemble(
        (result.model, "bold"), f" on {result.hw}, {result.dtype}, {result.fidelity}: ",
        (f"{profile.total_cycles:,} cycles", "bold"), f" = {duration(seconds)} at {profile.machine.clock_mhz:g} MHz",
    )  # fmt: skip


def _speed_of_light(shares: Sequence[Share]) -> Table:
    table = grid("Speed of light", "<", "<", ">of peak", ">achieved", ">peak", "<")
    for s in shares:
        table.add_row(escape(s.label), bar(s.share), percent(s.share), figure(s.achieved), figure(s.peak), s.unit)
    return table


def name_cells(console: Console) -> int:
    """Characters that a table has for the names of operators."""
    return 34 if console.width >= 115 else 24


def _operators(profile: Profile, console: Console) -> Table:
    rows, names = top_rows(profile, 10), name_cells(console)
    members, total_cycles = sum(r.count for r in rows), profile.total_cycles
    stalls = ["<top stall"] if console.width >= 100 else []
    table = grid("Costliest operators", "<operator", "<type", ">cycles", ">time", ">of peak", ">DRAM", "<bound by",
                 *stalls)  # fmt: skip
    table.caption = shown(len(rows), len(profile.kind_rows), members, len(profile.rows))
    for row in rows:
        style = _BOUND_STYLE.get(row.bound_by, "")
        table.add_row(
            cell(titled(row, names)), cell(short_name(row.op_type, 12)), f"{row.cycles:,}",
            percent(row.cycles / max(1, total_cycles)), "–" if row.on_host else percent(row.utilization),
            size(row.dram_bytes), cell(bound_text(row), style), *([cell(row.top_stall)] if stalls else []),
        )  # fmt: skip
    return table


def memory_table(memory: Mapping[str, Any]) -> Table:
    """The memory in words, from the key `memory` of summary.json."""
    table = grid("Memory", "<", "<")
    for what, figures in memory_rows(memory, len(memory["channels"]["utilization"])):
        table.add_row(what, Text(figures))
    return table


def stall_tree(pipes: Mapping[str, Mapping[str, int]], floor_percent: float = 0.0) -> Tree:
    """The stall tree: under each pipe its causes in % of its cycles, which sum to exactly 100.0.

    `pipes` is as in summary.json. Causes below `floor_percent` are joined in one line that names them.
    """
    tree = Tree(Text("Stall tree (% of each pipe's cycles)", "bold"), guide_style="dim")
    for label, pipe in pipes.items():
        branch = tree.add(Text.assemble((label, "bold"), (f"  {pipe['instances']} instances", "dim")))
        causes = [(cause, n) for cause, n in pipe.items() if cause != "instances" and (n or cause == "busy")]
        lines = list(zip([cause for cause, _ in causes], percentages([n for _, n in causes])))
        small = [line for line in lines if line[0] != "busy" and line[1] < floor_percent]
        if len(small) > 1:
            lines = [line for line in lines if line not in small]
            lines.append((", ".join(cause for cause, _ in small), sum(share for _, share in small)))
        for cause, share in lines:
            style = "blue" if cause == "busy" else "dim" if cause == "drained" else ""
            branch.add(Text(f"{share:5.1f} %  {bar(share / 100, 16)}  {cause}", style))
    return tree


def _notes(profile: Profile, console: Console) -> None:
    result = profile.result
    for assumption in result.assumptions:
        console.print(Text(f"assumed: {assumption}"))
    approximated = [r for r in profile.rows if r.approximated]
    if approximated:
        kinds = ", ".join(sorted({r.op_type for r in approximated}))
        console.print(Text(f"approximated: {len(approximated)} operator(s) in closed form ({kinds})"))
    if profile.overfetch:
        console.print(Text(f"DRAM bus: {profile.overfetch}"))
    if profile.host_macs:
        share = percent(profile.host_macs / max(1, result.graph_macs))
        console.print(Text(f"host: {si(profile.host_macs, 'MAC')} ({share} of the model) run there, not on the arrays"))
    if result.extrapolated_share:
        console.print(Text(f"extrapolated: {percent(result.extrapolated_share)} of the time"))
    if result.check is not None:
        check = result.check
        verdict = ("check: passed", "green") if check.ok else ("check: FAILED", "bold red")
        if check.ok and not check.rows and not check.outputs:  # nothing to compare with
            remedy = ": --inputs gives no expected outputs" if check.executed_share else ""
            console.print(Text(f"check: no values compared{remedy}; {len(check.hazards)} hazard(s)", "yellow"))
            return
        console.print(Text.assemble(
            verdict, f", max error {check.max_err:.3g} (bound {check.bound:.3g}), {percent(check.executed_share)} of "
            f"the work executed, {len(check.hazards)} hazard(s)",
        ))  # fmt: skip


def top_rows(profile: Profile, count: int) -> list[OpRow]:
    """The `count` costliest kinds of operators that took any time."""
    return [r for r in profile.kind_rows[:count] if r.cycles]


def _print_all(console: Console, *parts: RenderableType) -> None:
    for part in parts:
        console.print(part)
        console.print()


def terminal(result: Result, console: Console, files: Sequence[Path] = ()) -> None:
    """Print a run: speed of light, the ten costliest operators with their bound, the stall tree, the files written."""
    profile = Profile(result)
    _print_all(
        console,
        _head(profile),
        _speed_of_light(profile.speed_of_light),
        _operators(profile, console),
        stall_tree(pipes(profile), floor_percent=1.0),
        *([memory_table(memory)] if (memory := memory_summary(profile)) else []),
    )
    _notes(profile, console)
    if files:
        console.print(Text("Files", "bold"))
        for path in files:
            console.print(Text(f"  {path}"))


def _memory_chart(profile: Profile) -> Table:
    seconds = profile.seconds(profile.total_cycles) or 1.0
    table = grid("Memory chart", "<path", ">moved", ">rate", ">of peak", "<")
    for level, moved in zip(profile.levels, profile.launch_bytes.sum(axis=0).tolist()):
        share = moved / (level.peak * max(1, profile.total_cycles))
        table.add_row(escape(level.label), size(moved), si(moved / seconds, "B/s"), percent(share), bar(share))
    return table


def bounds_table(pairs: Sequence[tuple[str, int]]) -> Table:
    """Cycles of the operators by bound, with shares that sum to 100.0 %."""
    table = grid("What bounds the operators", "<bound by", ">cycles", ">", "<")
    for (bound, cycles), share in zip(pairs, percentages([n for _, n in pairs])):
        table.add_row(Text(bound, _BOUND_STYLE.get(bound, "")), f"{cycles:,}", f"{share:.1f} %", bar(share / 100))
    return table


def _hot_spots(profile: Profile, names: int) -> Table:
    """Where the most cycles would be won: cycles of an operator above what its own roofs allow."""
    table = grid("Hot spots (cycles above the operator's roofline)", "<operator", "<shape",
                   ">cycles", ">above roof", "<waits for")  # fmt: skip
    excess = [(row.cycles - profile.roof_cycles(row), row) for row in profile.kind_rows if row.cycles]
    for above, row in sorted(excess, key=lambda p: -p[0])[:10]:
        table.add_row(
            cell(titled(row, names)), cell(shape(row.shape)), f"{row.cycles:,}", f"{above:,.0f}", cell(row.top_stall)
        )
    return table


def _dram_counters(profile: Profile) -> Table | None:
    counters = profile.result.record.dram_counters
    if not counters:
        return None
    table = grid("DRAM counters", "<counter", ">count")
    for name, count in counters.items():
        table.add_row(*map(escape, counter(str(name), int(count))))
    return table


def profile_view(result: Result, console: Console) -> None:
    """Print the profiler's view of a run: speed of light, bounds, stall tree, memory chart, hot spots."""
    profile = Profile(result)
    parts = [
        _head(profile), _speed_of_light(profile.speed_of_light), bounds_table(profile.bound_cycles()),
        stall_tree(pipes(profile)), _memory_chart(profile),
        memory_table(memory) if (memory := memory_summary(profile)) else None, _dram_counters(profile),
        _hot_spots(profile, name_cells(console)),
    ]  # fmt: skip
    _print_all(console, *(p for p in parts if p is not None))
    _notes(profile, console)
