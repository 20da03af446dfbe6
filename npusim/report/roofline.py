"""roofline.png and roofline.svg, drawn with matplotlib; imported only when the files are wanted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from npusim.report import palette
from npusim.report.profile import FAMILIES, Profile
from npusim.report.roofs import (
    BADGE_PX,
    Frame,
    Point,
    Roofline,
    point_labels,
    radius_px,
    roofline,
    short_name,
    titled,
)
from npusim.report.text import si

DPI = 100
WIDTH_PX, HEIGHT_PX = 1200, 700
_BOX = (80, 58, 830, 556)  # left, top, width, height of the axes in pixels
_ROOF_COLOURS = ("dark", "purple", "sky", "brown")
_ROOF_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 2)), (0, (1, 1.5)))


def _points_of(pixels: float) -> float:
    return pixels * 72 / DPI


def _plain(text: str) -> str:
    """Text from users for a legend: a dollar sign must not start TeX."""
    return text.replace("$", r"\$")


def _scatter(axes: Any, points: Sequence[Point]) -> None:
    for family in FAMILIES:
        chosen = [p for p in points if p.row.family == family]
        axes.scatter(
            [p.intensity for p in chosen], [p.flops_per_s for p in chosen],
            s=[(2 * _points_of(radius_px(p.time_share))) ** 2 for p in chosen],
            c=palette.COLOURS[palette.FAMILY_COLOURS[family]][0], marker=palette.FAMILY_MARKERS[family],
            alpha=0.72, edgecolors="white", linewidths=0.6, zorder=4,
        )  # fmt: skip


def _roofs(axes: Any, data: Roofline) -> list[Line2D]:
    low, high = data.x_range
    top = data.compute[0].value
    handles = []
    for i, roof in enumerate(data.memory):
        colour = palette.COLOURS[_ROOF_COLOURS[i % len(_ROOF_COLOURS)]][0]
        style = {"color": colour, "linestyle": _ROOF_DASHES[i % len(_ROOF_DASHES)], "linewidth": 1.6 if i == 0 else 1.1}
        ridge = min(high, top / roof.value)
        axes.plot([low, ridge], [low * roof.value, ridge * roof.value], zorder=3, **style)
        handles.append(Line2D([], [], label=f"{_plain(roof.label)}  {si(roof.value, 'B/s')}", **style))
    for roof in data.compute:
        start = roof.value / max(m.value for m in data.memory)
        axes.plot([max(low, start), high], [roof.value] * 2, color=palette.COLOURS["dark"][0], linewidth=1.6, zorder=3)
        axes.annotate(
            f"{_plain(roof.label)}  {si(roof.value, data.operation + '/s')}", (high, roof.value), xytext=(-5, 4),
            textcoords="offset points", ha="right", va="bottom", fontsize=_points_of(12), fontweight="bold",
        )  # fmt: skip
    for point in data.inner:
        keys = [roof.key for roof in data.memory]
        colour = palette.COLOURS[_ROOF_COLOURS[keys.index(point.level) % len(_ROOF_COLOURS)]][0]
        axes.plot([point.intensity], [point.flops_per_s], "o", mfc="white", mec=colour, ms=4.2, mew=1.1, zorder=3.5)
    return handles


def _labels(axes: Any, data: Roofline) -> None:
    width, height = _BOX[2], _BOX[3]
    frame = Frame(width, height, data.x_range, data.y_range)
    labels = point_labels(data, frame)
    for label in labels:
        xs, ys = zip(label.at, label.centre)
        axes.plot([x / width for x in xs], [1 - y / height for y in ys], color="#6b7280", linewidth=0.7, zorder=5,
                  transform=axes.transAxes)  # fmt: skip
        axes.text(label.centre[0] / width, 1 - label.centre[1] / height, label.text, transform=axes.transAxes,
                  ha="center", va="center_baseline", fontsize=_points_of(10.5), color="white", zorder=7)  # fmt: skip
    axes.scatter([label.centre[0] / width for label in labels], [1 - label.centre[1] / height for label in labels],
                 s=_points_of(BADGE_PX) ** 2, c=palette.COLOURS["dark"][0], linewidths=0, zorder=6,
                 transform=axes.transAxes)  # fmt: skip


def _legends(figure: Any, data: Roofline, roofs: list[Line2D]) -> None:
    present = [f for f in FAMILIES if any(p.row.family == f for p in data.points)]
    families = [
        Line2D([], [], linestyle="none", marker=palette.FAMILY_MARKERS[f], markersize=8, label=f,
               color=palette.COLOURS[palette.FAMILY_COLOURS[f]][0])
        for f in present
    ]  # fmt: skip
    sizes = [
        Line2D([], [], linestyle="none", marker="o", markersize=2 * _points_of(radius_px(s)), label=f"{100 * s:g} %",
               color="#6b7280", alpha=0.72)
        for s in (0.01, 0.03, 0.1)
    ]  # fmt: skip
    x = (_BOX[0] + _BOX[2] + 16) / WIDTH_PX
    size = _points_of(12)
    common: dict[str, Any] = {
        "frameon": False, "fontsize": size, "title_fontproperties": {"weight": "bold", "size": size},
        "alignment": "left", "borderaxespad": 0, "borderpad": 0, "labelspacing": 0.65, "loc": "upper left",
    }  # fmt: skip
    y = 1 - _BOX[1] / HEIGHT_PX
    for handles, title in ((families, "Operator"), (sizes, "Share of time"), (roofs, "Memory level")):
        figure.legend(handles=handles, title=title, bbox_to_anchor=(x, y), **common)
        y -= (len(handles) * 22 + 46) / HEIGHT_PX
    figure.text(x, y, "Costliest operators", fontsize=size, fontweight="bold", va="top")
    for i, kind in enumerate(data.named, 1):
        name = f"{i}  {titled(kind.row, 27)}  {100 * kind.time_share:.1f} %"
        figure.text(x, y - (4 + 18 * i) / HEIGHT_PX, name, fontsize=_points_of(11.5), va="top", parse_math=False)
    note = "Solid points are against DRAM; rings show the numbered operators against the other memory levels."
    if data.omitted:
        note += f" Not drawn, without arithmetic or DRAM traffic or on the host: {data.omitted}."
    figure.text(_BOX[0] / WIDTH_PX, 12 / HEIGHT_PX, note, fontsize=_points_of(11), color="#4b5563")


def draw(profile: Profile) -> Any:
    """Return the roofline of a run as a matplotlib Figure with an Agg canvas."""
    data = roofline(profile)
    figure = Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, top, width, height = _BOX
    axes = figure.add_axes((left / WIDTH_PX, 1 - (top + height) / HEIGHT_PX, width / WIDTH_PX, height / HEIGHT_PX))
    axes.set(xscale="log", yscale="log", xlim=data.x_range, ylim=data.y_range)
    axes.set_xlabel(f"Arithmetic intensity ({data.operation} / byte)", fontsize=_points_of(13))
    axes.set_ylabel(f"Performance ({data.operation}/s)", fontsize=_points_of(13))
    axes.tick_params(labelsize=_points_of(12), which="major")
    axes.grid(True, which="major", color="#e3e6ea", linewidth=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    handles = _roofs(axes, data)
    _scatter(axes, data.points)
    _labels(axes, data)
    _legends(figure, data, handles)
    result = profile.result
    heading = f"Roofline: {short_name(result.model, 60)} on {short_name(result.hw, 30)}, {result.dtype}"
    figure.text(left / WIDTH_PX, 1 - 18 / HEIGHT_PX, heading,
                fontsize=_points_of(17), fontweight="bold", va="top", parse_math=False)  # fmt: skip
    return figure


def write(profile: Profile, folder: Path) -> list[Path]:
    """Write roofline.png and roofline.svg into `folder` from one figure; the same run gives the same bytes."""
    figure = draw(profile)
    png, svg = folder / "roofline.png", folder / "roofline.svg"
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "npusim"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script the font lacks
        figure.savefig(png, dpi=150, metadata={"Software": "npusim"})
        figure.savefig(svg, metadata={"Date": None, "Creator": "npusim"})
    return [png, svg]
