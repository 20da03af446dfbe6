"""A few functions that write SVG elements as text; everything that comes from users is escaped here.

Colours are CSS variables of the page (`var(--blue)`), so a drawing follows the light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

Value = str | float | int | None


def element(name: str, *children: str, **attributes: Value) -> str:
    """One SVG element; `class_` and the like lose their last underscore, others become dashes; None is left out."""
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(text)}"')
    head = " ".join(parts)
    return f"<{head}>{''.join(children)}</{name}>" if children else f"<{head}/>"


def text(x: float, y: float, content: str, **attributes: Value) -> str:
    """A text element with escaped content."""
    return element("text", escape(content), x=x, y=y, **attributes)


def title(content: str) -> str:
    """The tooltip of the element that it is put into."""
    return element("title", escape(content))


def line(x1: float, y1: float, x2: float, y2: float, **attributes: Value) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def rect(x: float, y: float, width: float, height: float, *children: str, **attributes: Value) -> str:
    """A rectangle; children are tooltips."""
    return element("rect", *children, x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), **attributes)


def path(points: Iterable[tuple[float, float]], closed: bool = False, **attributes: Value) -> str:
    """A polyline, or a polygon when closed."""
    d = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) + ("Z" if closed else "")
    return element("path", d=d, **attributes)


_CORNERS = {"s": (4, 45.0, 1.18), "D": (4, 0.0, 1.3), "^": (3, -90.0, 1.4), "v": (3, 90.0, 1.4), "h": (6, 0.0, 1.12)}


def marker(kind: str, x: float, y: float, radius: float, *children: str, **attributes: Value) -> str:
    """A marker by its matplotlib letter: o circle, s square, D diamond, ^ v triangles, h hexagon."""
    if kind not in _CORNERS:
        return element("circle", *children, cx=x, cy=y, r=radius, **attributes)
    corners, turn, scale = _CORNERS[kind]
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    points = " ".join(f"{x + radius * scale * math.cos(a):.1f},{y + radius * scale * math.sin(a):.1f}" for a in angles)
    return element("polygon", *children, points=points, **attributes)


def drawing(width: float, height: float, label: str, *children: str) -> str:
    """The outer svg element, scaled to the page's width; `label` is for screen readers."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=box, role="img", aria_label=label, xmlns="http://www.w3.org/2000/svg")
