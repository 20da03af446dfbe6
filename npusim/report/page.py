"""report.html: one self-contained page, rendered by jinja2 with autoescape; imported only when it is wanted."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from npusim.report import limits, palette
from npusim.report.charts import ROOF_COLOURS, charts
from npusim.report.memory import memory_rows
from npusim.report.profile import FAMILIES, OpRow, Profile
from npusim.report.roofs import roofline, titled
from npusim.report.stalls import percentages
from npusim.report.summary import energy_j, summary_of
from npusim.report.text import bound_text, counter, duration, energy, figure, percent, shape, si, size

MAX_TABLE_ROWS = 2000
CHANNEL_COLUMNS = ("read_bytes", "write_bytes", "utilization", "row_hit_rate")


def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("npusim.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    env.filters.update(si=si, titled=titled, size=size, percent=percent, duration=duration, shape=shape, figure=figure,
                       bound=bound_text)  # fmt: skip
    return env


def _tiles(profile: Profile, summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Key figures: (value, name, note)."""
    used, capacity = summary["memory_peak_bytes"], summary["memory_capacity_bytes"]
    moved = summary["dram_read_bytes"] + summary["dram_write_bytes"]
    read, written = size(summary["dram_read_bytes"]), size(summary["dram_write_bytes"])
    tiles = [
        (duration(summary["time_us"] * 1e-6), "simulated time", f"{summary['total_cycles']:,} cycles"),
        (f"{si(summary['throughput'])}/s", "throughput", "samples a second"),
        (percent(summary["utilization"]["work_weighted"]), "array utilization", _work(summary)),
        (size(moved), "DRAM traffic", f"{read} read, {written} written"),
        (size(used), "peak memory", f"of {size(capacity)}"),
    ]
    if "energy_j" in summary:
        watts = summary["energy_j"] / (summary["time_us"] * 1e-6) if summary["time_us"] else 0.0
        tiles.append((energy(summary["energy_j"]), "energy", f"{watts:.1f} W on average"))
    return tiles


def _work(summary: dict[str, Any]) -> str:
    host = f", {si(summary['host_macs'], 'MAC')} of it on the host" if summary["host_macs"] else ""
    return f"{si(summary['macs'], 'MAC')}{host}"


def _table(profile: Profile) -> list[tuple[str, OpRow]]:
    """The rows of the operator table: a kind ("kind") and its members ("part") below it, or one operator ("one")."""
    rows: list[tuple[str, OpRow]] = []
    shown = 0
    for members, row in zip(profile.kinds, profile.kind_rows):
        if shown + len(members) > MAX_TABLE_ROWS and shown:
            break
        shown += len(members)
        if len(members) == 1:
            rows.append(("one", row))
        else:
            rows += [("kind", row), *(("part", profile.rows[i]) for i in members[:MAX_TABLE_ROWS])]
    return rows


def _legend(pairs: dict[str, str], present: set[str]) -> list[tuple[str, str]]:
    return [(name, colour) for name, colour in pairs.items() if name in present]


def _machine(profile: Profile) -> list[tuple[str, str]]:
    machine, matrix, vector = profile.machine, profile.machine.core.matrix, profile.machine.core.vector
    hertz = limits.clock_hz(machine)
    cores = " + ".join([str(machine.cores), *(f"{g.count} {g.label or k}" for k, g in machine.other_cores.items())])
    rows = [
        ("machine", f"{machine.name}: {machine.description}" if machine.description else machine.name),
        ("issue", machine.issue),
        ("cores", f"{cores} at {machine.clock_mhz:g} MHz"),
        ("arrays", f"{matrix.count} a core, {matrix.rows} x {matrix.cols}, {matrix.dataflow}"),
    ]
    rows += [
        (f"peak {d}", si(limits.flops_per_cycle(machine, d) * hertz, f"{limits.operation(d)}/s")) for d in matrix.passes
    ]
    if vector:
        wide = f" of {vector.lane_bytes} B" if vector.lane_bytes else ""
        lanes = f"{vector.lanes} x {vector.sublanes} lanes{wide}, {vector.alus} ALU"
        rate = si(limits.vector_flops_per_cycle(machine) * hertz, f"{profile.operation}/s")
        rows.append(("vector unit", f"{lanes}, {rate}"))
    for name, space in machine.core.spaces.items():
        rows.append((limits.space_label(machine, name), f"{size(space.size_bytes)} a core"))
    memory = machine.memory
    rate = si(profile.levels[0].peak * hertz, "B/s")
    channels = f"{memory.channels} channels, {rate}, {memory.model} model"
    return [*rows, (memory.label, f"{size(memory.capacity_bytes)}, {channels}")]


def _run_facts(profile: Profile, summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("fidelity", summary["fidelity"]),
        ("instructions", f"{summary['instructions']:,} in {summary['launches']:,} launches"),
        ("extrapolated", percent(summary["extrapolated_share"])),
        ("host", duration(summary["host_us"] * 1e-6)),
        ("simulated in", f"{summary['wall_s']:.2f} s ({summary['engine_cpu_s']:.2f} s CPU in the engine)"),
    ]
    if summary["host_bytes"]:
        rows.append(("host link", size(summary["host_bytes"])))
    if profile.overfetch:
        rows.append(("DRAM bus", profile.overfetch))
    rows += [counter(name, int(n)) for name, n in profile.result.record.dram_counters.items()]
    return rows + [(f"energy, {name}", energy(joules)) for name, joules in energy_j(profile).items()]


def _context(profile: Profile) -> dict[str, Any]:
    summary = summary_of(profile)
    memory = summary.get("memory")
    data = roofline(profile)
    rows = _table(profile)
    bounds = profile.bound_cycles()
    groups = {palette.CAUSE_GROUPS[c] for i in range(len(profile.groups)) for c, _ in profile.causes(i)}
    families = {p.row.family for p in data.points}
    return {
        "result": profile.result,
        "summary": summary,
        "tiles": _tiles(profile, summary),
        "speed_of_light": profile.speed_of_light,
        "charts": {name: Markup(text) for name, text in charts(profile, data).items()},
        "colours": palette.COLOURS,
        "background": palette.BACKGROUND,
        "families": [(f, palette.FAMILY_COLOURS[f], palette.FAMILY_MARKERS[f]) for f in FAMILIES if f in families],
        "roofs": [
            (r.label, si(r.value, "B/s"), ROOF_COLOURS[i % len(ROOF_COLOURS)]) for i, r in enumerate(data.memory)
        ],
        "labelled": [(titled(k.row, 36), k.row.name, k.time_share) for k in data.named],
        "operation": data.operation,
        "omitted": data.omitted,
        "bounds": [
            (name, palette.BOUND_COLOURS[name], share)
            for (name, _), share in zip(bounds, percentages([n for _, n in bounds]))
        ],
        "bound_colours": palette.BOUND_COLOURS,
        "stall_legend": _legend(palette.CAUSE_GROUP_COLOURS, groups),
        "pipes": [
            (group.label, list(zip([c for c, _ in causes], percentages([n for _, n in causes]))))
            for group, causes in ((g, profile.causes(i)) for i, g in enumerate(profile.groups))
        ],
        "rows": rows,
        "operators": len(profile.rows),
        "kinds": len(profile.kinds),
        "absent_rows": len(profile.rows) - sum(kind != "kind" for kind, _ in rows),
        "total_cycles": max(1, profile.total_cycles),
        "machine": _machine(profile),
        "run_facts": _run_facts(profile, summary),
        "memory": memory_rows(memory, len(memory["channels"]["utilization"])) if memory else [],
        "channels": list(zip(*(memory["channels"][k] for k in CHANNEL_COLUMNS))) if memory else [],
        "conflicts": memory["conflicts"] if memory else [],
    }


def render(profile: Profile) -> str:
    """The whole page as text; every name in it is escaped."""
    return _environment().get_template("report.html.j2").render(_context(profile))
