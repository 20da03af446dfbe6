"""The hierarchical roofline as data: roofs, points, a log-log frame and labels that do not overlap.

Two drawers share it: matplotlib for the files, inline SVG for the HTML page. Attainable performance is
min(peak, bandwidth x intensity), one diagonal a memory level (Williams et al., CACM 2009; Yang et al., PMBS 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from npusim.report import limits
from npusim.report.profile import OpRow, Profile

LABELLED = 8
MAX_INNER_ROOFS = 3
BADGE_PX = 15.0  # diameter of a label
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Spot = tuple[float, float]


@dataclass(frozen=True)
class Roof:
    """One roof: FLOP/s of a compute roof, bytes/s of a memory roof."""

    label: str
    value: float
    key: str = ""


@dataclass(frozen=True)
class Point:
    """One operator against one memory level: FLOP/byte, FLOP/s, its share of the run, and the roofs above it."""

    row: OpRow
    level: str
    intensity: float
    flops_per_s: float
    time_share: float
    compute_roof: float
    bandwidth: float

    @property
    def attainable(self) -> float:
        """min(peak, bandwidth x intensity) in FLOP/s."""
        return min(self.compute_roof, self.bandwidth * self.intensity)


@dataclass(frozen=True)
class Named:
    """A labelled kind of operator: the point of its costliest member, the row of all, and their share of the run."""

    point: Point
    row: OpRow
    time_share: float


@dataclass(frozen=True)
class Roofline:
    """Roofs and points of a run: `points` against DRAM, costliest last; `named` the costliest kinds, costliest first;
    `inner` their points against the other memory levels; `operation` what the rates count."""

    compute: tuple[Roof, ...]
    memory: tuple[Roof, ...]
    points: tuple[Point, ...]
    named: tuple[Named, ...]
    inner: tuple[Point, ...]
    operation: str
    omitted: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def _compute_roofs(profile: Profile) -> list[Roof]:
    machine, hertz = profile.machine, limits.clock_hz(profile.machine)
    dtypes = profile.dtypes or [machine.default_dtype]
    roofs = [Roof(f"{d} array", limits.flops_per_cycle(machine, d) * hertz, d) for d in dtypes]
    vector = limits.vector_flops_per_cycle(machine) * hertz
    if vector and any(row.work_flops and not row.macs for row in profile.rows):
        roofs.append(Roof("vector", vector, "vector"))
    return sorted(roofs, key=lambda r: -r.value)


def _memory_roofs(profile: Profile) -> list[Roof]:
    """DRAM, the shared cache, the host link and the on-chip paths that carried most for operators of the chip; a level
    without such traffic has no roof to show."""
    hertz = limits.clock_hz(profile.machine)
    moved = [0, *(sum(r.level_bytes[lv.key] for r in profile.rows if not r.on_host) for lv in profile.levels[1:])]
    used = [i for i, lv in enumerate(profile.levels) if lv.kind != "memory" and moved[i]]
    used.sort(key=lambda i: (profile.levels[i].kind != "host link", -moved[i]))
    links = [i for i in used if profile.levels[i].kind == "host link"]
    shared = [i for i, lv in enumerate(profile.levels) if lv.key == limits.SHARED and moved[i]]
    chosen = [0, *[i for i in (*shared, *used) if i not in links[1:]][:MAX_INNER_ROOFS]]
    return [Roof(profile.levels[i].label, profile.levels[i].peak * hertz, profile.levels[i].key) for i in chosen]


def _point(profile: Profile, row: OpRow, roof: Roof, size_bytes: int) -> Point:
    hertz = limits.clock_hz(profile.machine)
    peak = limits.roof_flops_per_cycle(profile.machine, row.dtype, bool(row.macs)) * hertz
    rate = row.work_flops / profile.seconds(row.cycles)
    share = row.cycles / max(1, profile.total_cycles)
    return Point(row, roof.key, row.work_flops / size_bytes, rate, share, peak, roof.value)


def _named(profile: Profile, points: Sequence[Point]) -> list[Named]:
    """The costliest kinds of operators that are drawn."""
    of_row = {id(point.row): point for point in points}
    found = []
    for members, row in zip(profile.kinds, profile.kind_rows):
        drawn = [of_row[id(profile.rows[i])] for i in members if id(profile.rows[i]) in of_row]
        if drawn:
            found.append(Named(drawn[0], row, row.cycles / max(1, profile.total_cycles)))
    return found[:LABELLED]


def roofline(profile: Profile) -> Roofline:
    """Collect roofs and points; operators without arithmetic, DRAM traffic or on the host are counted as omitted."""
    compute, memory = _compute_roofs(profile), _memory_roofs(profile)
    drawn = [r for r in profile.rows if r.cycles and r.work_flops and r.dram_bytes and not r.on_host]
    drawn.sort(key=lambda r: r.cycles)
    points = [_point(profile, r, memory[0], r.dram_bytes) for r in drawn]
    named = _named(profile, points)
    inner = [
        _point(profile, kind.point.row, roof, kind.point.row.level_bytes[roof.key])
        for kind in named
        for roof in memory[1:]
        if kind.point.row.level_bytes[roof.key]
    ]
    ridge = compute[0].value / memory[0].value
    xs = [p.intensity for p in (*points, *inner)] + [ridge, ridge / 8, ridge * 4]
    ys = [p.flops_per_s for p in points] + [compute[0].value * 1.1, compute[-1].value / 8]
    top = max(ys) * 1.6
    return Roofline(
        tuple(compute), tuple(memory), tuple(points), tuple(named), tuple(inner), profile.operation,
        len(profile.rows) - len(drawn),
        (min(xs) / 1.7, max(xs) * 1.7), (max(min(ys) / 1.8, top / 1e7), top),
    )  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """A log-log drawing area of width x height pixels, origin at the top left."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Pixels from the left for a positive x value."""
        low, high = (math.log10(v) for v in self.x_range)
        return self.width * (math.log10(max(value, 1e-300)) - low) / (high - low)

    def y(self, value: float) -> float:
        """Pixels from the top for a positive y value."""
        low, high = (math.log10(v) for v in self.y_range)
        return self.height * (1 - (math.log10(max(value, 1e-300)) - low) / (high - low))

    def decades(self, axis: str) -> list[float]:
        """The powers of ten inside the range of axis `x` or `y`."""
        low, high = self.x_range if axis == "x" else self.y_range
        return [10.0**e for e in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def radius_px(time_share: float) -> float:
    """Radius of a point in pixels: area grows with its share of time."""
    return min(13.0, 3.0 + 30.0 * math.sqrt(time_share) * 0.6)


def short_name(name: str, limit: int = 26) -> str:
    """The last parts of an operator's path that fit into `limit` characters."""
    text = name.rsplit("/", 1)[-1] or name
    for part in reversed(name.split("/")[:-1]):
        if not part or len(text) + len(part) + 1 > limit:
            break
        text = f"{part}/{text}"
    return text if len(text) <= limit else text[: limit // 2 - 1] + "…" + text[-(limit - limit // 2) :]


def titled(row: OpRow, limit: int = 26) -> str:
    """The short name of an operator; of several that do the same, with their number: layer.*.gelu (x12)."""
    count = f" (x{row.count})" if row.count > 1 else ""
    return short_name(row.name, limit - len(count)) + count


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(box: Box, width: float, height: float) -> bool:
    return box[0] >= 2 and box[1] >= 2 and box[2] <= width - 2 and box[3] <= height - 2


def _crosses(a: tuple[Spot, Spot], b: tuple[Spot, Spot]) -> bool:
    """Whether two line segments cross."""

    def side(p: Spot, q: Spot, r: Spot) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(*a, b[0]) * side(*a, b[1]) < 0 and side(*b, a[0]) * side(*b, a[1]) < 0


@dataclass(frozen=True)
class Label:
    """A placed label: its text and box, the point it belongs to, and the centre of the box, where its leader ends."""

    text: str
    box: Box
    at: Spot
    centre: Spot


def _candidates(text: str, at: Spot) -> Iterator[tuple[float, Label]]:
    """Places right and left of a point, near ones first, each with its distance; the leader meets the near side."""
    half = BADGE_PX / 2 + 1
    for dx in (14, 24, 36, 52, 72, 96):
        for row in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5):
            for side in (1, -1):
                x, y = at[0] + side * (dx + half), at[1] + row * half
                yield math.hypot(dx, row * half), Label(text, (x - half, y - half, x + half, y + half), at, (x, y))


def _cost(distance: float, label: Label, obstacles: Sequence[Box], placed: Sequence[Label]) -> float:
    """How ugly a place is: far, on top of points and lines, its leader through other labels or leaders."""
    leader = (label.at, label.centre)
    cost = distance / 8 + 8 * sum(_overlap(label.box, obstacle) for obstacle in obstacles)
    for other in placed:
        cost += 12 * _crosses(leader, (other.at, other.centre))
        cost += 25 * (_through(leader, other.box) + _through((other.at, other.centre), label.box))
    return cost


def _through(segment: tuple[Spot, Spot], box: Box) -> bool:
    """Whether a line segment runs through a box (crosses one of its diagonals)."""
    left, top, right, bottom = box
    return _crosses(segment, ((left, top), (right, bottom))) or _crosses(segment, ((left, bottom), (right, top)))


def place_labels(
    anchors: Sequence[tuple[str, float, float]],
    obstacles: Sequence[Box],
    taken: Sequence[Box],
    width: float,
    height: float,
) -> list[Label]:
    """Place each (text, x, y) beside its point, off all other labels and `taken`; one that finds no room is left out.

    Among the free places the cheapest wins: near, covering few `obstacles`, its leader line crossing nothing.
    """
    placed: list[Label] = []
    for text, x, y in anchors:
        best: tuple[float, Label] | None = None
        for distance, label in _candidates(text, (x, y)):
            blocked = [*taken, *(other.box for other in placed)]
            if not _inside(label.box, width, height) or any(_overlap(label.box, box) for box in blocked):
                continue
            if best is not None and distance / 8 >= best[0]:
                continue
            cost = _cost(distance, label, obstacles, placed)
            if best is None or cost < best[0]:
                best = (cost, label)
        if best:
            placed.append(best[1])
    return placed


def _roof_obstacles(data: Roofline, frame: Frame) -> Iterator[Box]:
    """Small boxes along every roof, so that labels keep off the lines."""
    best = max(r.value for r in data.memory)
    top = data.compute[0].value
    for x in range(0, int(frame.width), 16):
        low, high = (math.log10(v) for v in data.x_range)
        intensity = 10 ** (low + (high - low) * x / frame.width)
        values = [r.value * intensity for r in data.memory if r.value * intensity < top]
        values += [r.value for r in data.compute if best * intensity >= r.value]
        for y in map(frame.y, values):
            yield (x, y - 2, x + 16, y + 2)


def point_labels(data: Roofline, frame: Frame) -> list[Label]:
    """The numbers of the costliest kinds, as badges beside their points."""
    spots = [(frame.x(p.intensity), frame.y(p.flops_per_s)) for p in (*data.points, *data.inner)]
    obstacles = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    obstacles += _roof_obstacles(data, frame)
    # The names of the compute roofs stand above their lines at the right edge.
    names = [(frame.width - 200, frame.y(r.value) - 22, frame.width, frame.y(r.value) + 2) for r in data.compute]
    anchors = [
        (str(i), frame.x(kind.point.intensity), frame.y(kind.point.flops_per_s)) for i, kind in enumerate(data.named, 1)
    ]
    anchors.sort(key=lambda anchor: anchor[2])  # from top to bottom: leaders cross less
    return place_labels(anchors, obstacles, names, frame.width, frame.height)
