"""The drawings of report.html: roofline, timeline, stall bars and memory chart, as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from npusim.record import CAUSES
from npusim.report import limits, palette, svg
from npusim.report.profile import OpRow, Profile
from npusim.report.roofs import BADGE_PX, Frame, Point, Roofline, point_labels, radius_px
from npusim.report.stalls import BUSY, percentages
from npusim.report.text import bound_text, duration, percent, shape, si, size

WIDTH = 1120.0
ROOF_COLOURS = ("dark", "purple", "sky", "brown")
ROOF_DASHES = (None, "7 3", "4 3", "1.5 2.5")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def colour(name: str) -> str:
    """A palette colour as the page's CSS variable."""
    return f"var(--{name})"


def describe(row: OpRow, profile: Profile) -> str:
    """The tooltip of an operator."""
    intensity = "" if row.arithmetic_intensity is None else f", {row.arithmetic_intensity:.3g} {profile.operation}/byte"
    peak = "on the host" if row.on_host else f"{percent(row.utilization)} of peak"
    return (
        f"{row.name}\n{row.op_type} {shape(row.shape)} {row.dtype}\n"
        f"{row.cycles:,} cycles ({percent(row.cycles / max(1, profile.total_cycles))} of the run)\n"
        f"{peak}{intensity}\nbound by {bound_text(row)}, top stall {row.top_stall}"
    )


# --- roofline ---------------------------------------------------------------------------------------------------------


def _decade(value: float) -> str:
    exponent = round(float(np.log10(value)))
    return f"{value:g}" if -2 <= exponent <= 3 else "10" + str(exponent).translate(_SUPERSCRIPT)


def _axes(frame: Frame, operation: str) -> Iterator[str]:
    for value in frame.decades("x"):
        x = frame.x(value)
        yield svg.line(x, 0, x, frame.height, class_="grid")
        yield svg.text(x, frame.height + 18, _decade(value), text_anchor="middle", class_="tick")
    for value in frame.decades("y"):
        y = frame.y(value)
        yield svg.line(0, y, frame.width, y, class_="grid")
        yield svg.text(-8, y + 4, si(value).replace(".00", "").replace(".0", ""), text_anchor="end", class_="tick")
    yield svg.path([(0, 0), (0, frame.height), (frame.width, frame.height)], class_="axis")
    across, up = f"Arithmetic intensity ({operation} / byte)", f"Performance ({operation}/s)"
    yield svg.text(frame.width / 2, frame.height + 40, across, text_anchor="middle")
    yield svg.text(-frame.height / 2, -56, up, text_anchor="middle", transform="rotate(-90)")


def _roof_lines(data: Roofline, frame: Frame) -> Iterator[str]:
    low, high = data.x_range
    top, best = data.compute[0].value, max(m.value for m in data.memory)
    for i, roof in enumerate(data.memory):
        ridge = min(high, top / roof.value)
        start = min(ridge, max(low, data.y_range[0] / roof.value))  # not below the frame
        ends = [(frame.x(v), frame.y(v * roof.value)) for v in (start, ridge)]
        yield svg.path(
            ends, fill="none", stroke=colour(ROOF_COLOURS[i % 4]), stroke_width=2 if i == 0 else 1.4,
            stroke_dasharray=ROOF_DASHES[i % 4],
        )  # fmt: skip
    for roof in data.compute:
        x, y = frame.x(max(low, roof.value / best)), frame.y(roof.value)
        yield svg.line(x, y, frame.width, y, stroke=colour("dark"), stroke_width=2)
        label = f"{roof.label}  {si(roof.value, data.operation + '/s')}"
        yield svg.text(frame.width - 4, y - 7, label, text_anchor="end", class_="strong")


def _dot(point: Point, frame: Frame, profile: Profile) -> str:
    return svg.marker(
        palette.FAMILY_MARKERS[point.row.family], frame.x(point.intensity), frame.y(point.flops_per_s),
        radius_px(point.time_share), svg.title(describe(point.row, profile)), class_="dot",
        fill=colour(palette.FAMILY_COLOURS[point.row.family]),
    )  # fmt: skip


def _rings(data: Roofline, frame: Frame) -> Iterator[str]:
    keys = [roof.key for roof in data.memory]
    for point in data.inner:
        index = keys.index(point.level)
        tip = f"{point.row.name}\nagainst {data.memory[index].label}: {point.intensity:.3g} {data.operation}/byte"
        yield svg.marker("o", frame.x(point.intensity), frame.y(point.flops_per_s), 3.2, svg.title(tip), class_="ring",
                         stroke=colour(ROOF_COLOURS[index % 4]))  # fmt: skip


def roofline_chart(profile: Profile, data: Roofline) -> str:
    """The roofline: points against DRAM with tooltips, rings against the on-chip paths for the labelled ones."""
    left, top = 76.0, 16.0
    frame = Frame(WIDTH - left - 12, 430.0, data.x_range, data.y_range)
    body = [*_axes(frame, data.operation), *_roof_lines(data, frame), *_rings(data, frame)]
    body += [_dot(p, frame, profile) for p in reversed(data.points)]  # small ones on top
    for label in point_labels(data, frame):
        x, y = label.centre
        body.append(svg.line(*label.at, x, y, class_="leader"))
        body.append(svg.marker("o", x, y, BADGE_PX / 2, class_="badge-dot"))
        body.append(svg.text(x, y + 3.8, label.text, text_anchor="middle", class_="inside"))
    group = svg.element("g", *body, transform=f"translate({left:g} {top:g})")
    return svg.drawing(WIDTH, top + frame.height + 52, "Roofline of all operators", group)


# --- timeline ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slice:
    start: int
    end: int
    bound: str
    tip: str
    name: str


def _slices(profile: Profile, cycles_per_px: float) -> Iterator[_Slice]:
    """Launches in time order; runs of launches too short to see become one slice coloured by their longest."""
    spans = profile.result.record.launch_span
    owner = profile.result.program.launches["operator"].tolist()
    pending: list[tuple[int, int, OpRow]] = []

    def merged() -> _Slice:
        longest = max(pending, key=lambda p: p[1] - p[0])[2]
        start, end = pending[0][0], pending[-1][1]
        if len(pending) == 1:
            return _Slice(start, end, longest.bound_by, describe(longest, profile), longest.op_type)
        return _Slice(start, end, longest.bound_by, f"{len(pending)} launches, longest: {longest.name}", "")

    for i in np.argsort(spans[:, 0], kind="stable").tolist():
        if not 0 <= owner[i] < len(profile.rows):
            continue
        pending.append((int(spans[i, 0]), int(spans[i, 1]), profile.rows[owner[i]]))
        if pending[-1][1] - pending[0][0] >= 0.7 * cycles_per_px:
            yield merged()
            pending.clear()
    if pending:
        yield merged()


def _time_axis(profile: Profile, left: float, width: float, y: float, top: float) -> Iterator[str]:
    seconds = profile.seconds(profile.total_cycles)
    if not seconds:
        return
    rough = seconds / 8
    unit = 10.0 ** np.floor(np.log10(rough))
    step = next(float(m * unit) for m in (1, 2, 5, 10) if m * unit >= rough)
    for i in range(int(seconds / step) + 1):
        x = left + width * i * step / seconds
        yield svg.line(x, top, x, y, class_="grid")
        yield svg.text(x, y + 17, duration(i * step) if i else "0", text_anchor="middle", class_="tick")


def _steps(values: list[float], edges: list[float], left: float, width: float, base: float, height: float) -> str:
    """The outline of a step function over time; values are shares of the full height, edges shares of the width."""
    points = [(left, base)]
    for value, x0, x1 in zip(values, edges, edges[1:]):
        y = base - height * min(1.0, value)
        points += [(left + width * x0, y), (left + width * x1, y)]
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in [*points, (left + width * edges[-1], base)]) + "Z"


def _array_use(profile: Profile, left: float, width: float, base: float, height: float) -> str:
    """Busy share of the arrays in each launch."""
    arrays = [i for i, g in enumerate(profile.groups) if g.pipe_class == "matrix"]
    spans = profile.result.record.launch_span
    busy = profile.launch_states[:, arrays, BUSY].sum(axis=1)
    count = sum(profile.groups[i].instances for i in arrays) or 1
    values: list[float] = []
    edges = [0.0]
    total = max(1, profile.total_cycles)
    for i in np.argsort(spans[:, 0], kind="stable").tolist():
        if spans[i, 1] > spans[i, 0]:
            values.append(float(busy[i] / (count * (spans[i, 1] - spans[i, 0]))))
            edges.append(float(spans[i, 1] / total))
    d = _steps(values, edges, left, width, base, height)
    return svg.element("path", svg.title("Busy share of the arrays"), d=d, fill=colour("blue"), fill_opacity=0.75)


def _dram_use(profile: Profile, left: float, width: float, base: float, height: float) -> str:
    """DRAM bytes read and, on top, written in each bin, against the peak."""
    record, peak = profile.result.record, profile.levels[0].peak
    starts, moved = record.dram_over_time(peak)
    if not peak or not len(starts):
        return ""
    ends = np.append(starts, record.total_cycles)
    edges = [float(end) / max(1, profile.total_cycles) for end in ends]
    read, written = moved / (np.diff(ends) * peak)
    both = _steps((read + written).tolist(), edges, left, width, base, height)
    lower = _steps(read.tolist(), edges, left, width, base, height)
    above = svg.element("path", svg.title("DRAM written"), d=both, fill=colour("purple"), fill_opacity=0.75)
    return above + svg.element("path", svg.title("DRAM read"), d=lower, fill=colour("orange"))


def timeline_chart(profile: Profile) -> str:
    """Operators over time coloured by what bounds them, the arrays' busy share and DRAM bandwidth on the same axis."""
    left, width = 118.0, WIDTH - 118.0 - 18
    total = max(1, profile.total_cycles)
    lanes = (("Operators", 6.0, 40.0), ("Arrays busy", 62.0, 56.0), ("DRAM rate", 134.0, 72.0))
    bottom = lanes[-1][1] + lanes[-1][2]
    body = list(_time_axis(profile, left, width, bottom, lanes[0][1]))
    peak = si(profile.levels[0].peak * limits.clock_hz(profile.machine), "B/s")
    notes = ("by bound", "of all cycles", f"of {peak}")
    for (name, top, height), note in zip(lanes, notes):
        body.append(svg.text(0, top + height / 2 - 1, name, class_="strong"))
        body.append(svg.text(0, top + height / 2 + 14, note, class_="tick"))
        if name != "Operators":
            body.append(svg.line(left, top, left + width, top, class_="peak"))
            body.append(svg.line(left, top + height, left + width, top + height, class_="axis"))
            body.append(svg.text(left - 6, top + 8, "100 %", text_anchor="end", class_="tick"))
            body.append(svg.text(left - 6, top + height, "0", text_anchor="end", class_="tick"))
    for s in _slices(profile, total / width):
        x, w = left + width * s.start / total, width * (s.end - s.start) / total
        fill = colour(palette.BOUND_COLOURS[s.bound])
        body.append(svg.rect(x, 6, w - (0.6 if w > 2 else 0), 40, svg.title(s.tip), fill=fill, class_="slice"))
        if s.name and w > 6.2 * len(s.name) + 8:
            body.append(svg.text(x + w / 2, 30, s.name, text_anchor="middle", class_="inside"))
    body.append(_array_use(profile, left, width, 118.0, 56.0))
    body.append(_dram_use(profile, left, width, bottom, 72.0))
    return svg.drawing(WIDTH, bottom + 26, "Operators, array use and DRAM bandwidth over time", *body)


# --- stalls -----------------------------------------------------------------------------------------------------------


def stall_chart(profile: Profile) -> str:
    """One bar of 100 % a pipe, split by cause; tooltips name each cause with its exact share."""
    left, right, row_height = 168.0, 66.0, 30.0
    width = WIDTH - left - right
    order = list(palette.CAUSE_GROUP_COLOURS)
    rank = [order.index(palette.CAUSE_GROUPS[cause]) for cause in CAUSES]
    body = []
    for i, group in enumerate(profile.groups):
        y = i * row_height + 4
        states = profile.states[i].tolist()
        chosen = sorted((j for j, n in enumerate(states) if n), key=rank.__getitem__)
        shares = percentages([states[j] for j in chosen])
        body.append(svg.text(left - 34, y + 15, group.label, text_anchor="end", class_="strong"))
        body.append(svg.text(left - 8, y + 15, f"×{group.instances}", text_anchor="end", class_="tick"))
        x, whole = left, sum(states) or 1
        for j, share in zip(chosen, shares):
            w = width * states[j] / whole
            kind = palette.CAUSE_GROUPS[CAUSES[j]]
            tip = svg.title(f"{group.label}: {CAUSES[j]} {share:.1f} %, {states[j]:,} cycles")
            body.append(svg.rect(x, y, max(w - 0.8, 0.3), 21, tip, fill=colour(palette.CAUSE_GROUP_COLOURS[kind]),
                                 class_="quiet" if kind == "drained" else "slice"))  # fmt: skip
            if w > 44:
                body.append(svg.text(x + w / 2, y + 15, f"{share:.0f} %", text_anchor="middle",
                                     class_="label" if kind == "drained" else "inside"))  # fmt: skip
            x += w
        busy = f"{100 * states[BUSY] / whole:.1f} %"
        body.append(svg.text(WIDTH - 4, y + 15, busy, text_anchor="end", class_="strong"))
    height = len(profile.groups) * row_height + 4
    body.append(svg.text(WIDTH - 4, -6, "busy", text_anchor="end", class_="tick"))
    shifted = svg.element("g", *body, transform="translate(0 16)")
    return svg.drawing(WIDTH, height + 18, "Cycles of every pipe by cause", shifted)


# --- memory -----------------------------------------------------------------------------------------------------------


def _spaces(profile: Profile) -> list[str]:
    """The spaces that levels touch, chip first, then in the order of the levels."""
    used = {end for level in profile.levels[1:] for end in (level.src, level.dst)} | {"dram"}
    ordered = dict.fromkeys(["host", "dram", *(end for level in profile.levels[1:] for end in (level.src, level.dst))])
    return [space for space in ordered if space in used]


def _space_note(profile: Profile, space: str) -> str:
    if space == "dram":
        return size(profile.machine.memory.capacity_bytes)
    owned = profile.machine.core.spaces.get(space)
    return f"{size(owned.size_bytes)} a core" if owned else ""


def memory_chart(profile: Profile) -> str:
    """Spaces as columns, every path as an arrow between its two: bytes, rate and share of the path's peak."""
    spaces = _spaces(profile)
    step = min(340.0, (WIDTH - 140) / max(1, len(spaces) - 1))
    first = (WIDTH - step * (len(spaces) - 1)) / 2
    x_of = {s: first + i * step for i, s in enumerate(spaces)}
    seconds = profile.seconds(profile.total_cycles) or 1.0
    bottom = 56.0 + 44 * len(profile.levels[1:])
    body = []
    for space, x in x_of.items():
        body.append(svg.line(x, 46, x, bottom, class_="rail"))
        body.append(svg.rect(x - 66, 2, 132, 44, class_="box", rx=6))
        body.append(svg.text(x, 21, limits.space_label(profile.machine, space), text_anchor="middle", class_="strong"))
        body.append(svg.text(x, 38, _space_note(profile, space), text_anchor="middle", class_="tick"))
    totals = profile.launch_bytes.sum(axis=0).tolist()
    for i, (level, moved) in enumerate(zip(profile.levels[1:], totals[1:])):
        y = 84.0 + 44 * i
        start, end = x_of[level.src], x_of[level.dst]
        share = moved / (level.peak * max(1, profile.total_cycles))
        body += _arrow(start, end, y, 1.5 + 8 * min(1.0, share), moved > 0)
        label = f"{size(moved)} · {si(moved / seconds, 'B/s')} · {percent(share)}" if moved else "unused"
        anchor = max(start, end) if start == end else (start + end) / 2
        peak = si(level.peak * limits.clock_hz(profile.machine), "B/s")
        tip = svg.title(f"{level.label}: {moved:,} bytes, peak {peak}")
        attributes: dict[str, svg.Value] = {"text_anchor": "start" if start == end else "middle", "class_": "halo"}
        x = anchor + 44 if start == end else anchor
        body.append(svg.element("g", tip, svg.text(x, y + 4 if start == end else y - 10, label, **attributes)))
    return svg.drawing(WIDTH, bottom + 8, "Bytes over every path", *body)


def _arrow(start: float, end: float, y: float, thickness: float, used: bool) -> list[str]:
    ink = colour("orange") if used else colour("quiet")
    if start == end:  # a copy inside one space
        loop = svg.element("path", d=f"M{start},{y - 8}h26v16h-18", fill="none", stroke=ink, stroke_width=thickness)
        return [loop, svg.path([(start, y + 8), (start + 9, y + 3), (start + 9, y + 13)], closed=True, fill=ink)]
    way = 1 if end > start else -1
    head = 10 + thickness / 2
    tip = [(end, y), (end - way * head, y - 4 - thickness / 2), (end - way * head, y + 4 + thickness / 2)]
    line = svg.line(start, y, end - way * head, y, stroke=ink, stroke_width=thickness)
    return [line, svg.path(tip, closed=True, fill=ink)]


def charts(profile: Profile, data: Roofline) -> dict[str, str]:
    """All drawings of the page by name, as SVG text."""
    return {
        "roofline": roofline_chart(profile, data),
        "timeline": timeline_chart(profile),
        "stalls": stall_chart(profile),
        "memory": memory_chart(profile),
    }
