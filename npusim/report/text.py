"""Numbers as people read them: three significant digits and a unit prefix."""

from __future__ import annotations

from typing import Protocol

_PREFIXES = ("", "k", "M", "G", "T", "P")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


class Bounded(Protocol):
    """A row that says what bounds it."""

    @property
    def bound_by(self) -> str: ...
    @property
    def bound_share(self) -> float: ...


def si(value: float, unit: str = "") -> str:
    """A number with a decimal prefix: 1234 -> '1.23 k'."""
    index = 0
    while abs(value) >= 999.5 and index < len(_PREFIXES) - 1:
        value, index = value / 1000, index + 1
    digits = 0 if abs(value) >= 99.95 or (index == 0 and value == int(value)) else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {_PREFIXES[index]}{unit}".rstrip()


def figure(value: float) -> str:
    """A number of three significant digits in the unit that stands beside it: 0.512, 13.8, 1,925."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    if abs(value) >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.3g}"


def counter(name: str, value: int) -> tuple[str, str]:
    """Name and value of a counter as people read them: times (`_fs`) and sizes (`_bytes`) with their unit."""
    if name.endswith("_fs"):
        return name.removesuffix("_fs").replace("_", " ") + ", sum", duration(value * 1e-15)
    if name.endswith("_bytes"):
        return name.replace("_", " "), size(value)
    return name.replace("_", " "), f"{value:,}"


def size(value_bytes: float) -> str:
    """Bytes with a binary prefix: 1536 -> '1.50 KiB'."""
    value, index = float(value_bytes), 0
    while abs(value) >= 1023.5 and index < len(_BINARY) - 1:
        value, index = value / 1024, index + 1
    digits = 0 if index == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {_BINARY[index]}"


def percent(share: float, digits: int = 1) -> str:
    """A share (0 to 1) in percent: 0.5 -> '50.0 %'."""
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float) -> str:
    """Seconds with the prefix that keeps three digits: 0.00123 -> '1.23 ms'."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(seconds) * factor >= 0.9995:
            return si(seconds * factor, unit) if abs(seconds) * factor < 999.5 else f"{seconds * factor:,.0f} {unit}"
    return f"{seconds * 1e9:.1f} ns"


def energy(joules: float) -> str:
    """Joules with the prefix that keeps three digits: 0.0123 -> '12.3 mJ'."""
    for factor, unit in ((1.0, "J"), (1e3, "mJ"), (1e6, "µJ")):
        if abs(joules) * factor >= 0.9995:
            return si(joules * factor, unit)
    return si(joules * 1e9, "nJ")


def bound_text(row: Bounded) -> str:
    """What bounds an operator, with the share of its cycles in which that resource is in use: 'memory 81 %'."""
    return f"{row.bound_by} {percent(row.bound_share, 0)}" if row.bound_share else row.bound_by


def shape(dims: tuple[int, ...]) -> str:
    """A tensor shape: (8, 384) -> '8x384'."""
    return "x".join(str(d) for d in dims) or "scalar"
