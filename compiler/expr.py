"""Integer expressions over loop positions and kernel parameters: what addresses and extents are made of.

They are built with Python operators, folded as they are built, and turned into scalar instructions by
`compiler.codegen`. Two equal expressions compare equal, so each is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

Value = "Expr | int"


@dataclass(frozen=True)
class Expr:
    """A tree; leaves: `param`, `pos` (first element of a loop's tile), `var` (inner loop), `parity` (buffer slot)."""

    op: str
    args: tuple[Expr | int | str, ...]

    def __add__(self, other: Expr | int) -> Expr:
        if isinstance(other, int):
            if other == 0:
                return self
            if self.op == "add" and isinstance(self.args[1], int):
                return _expr(binary("add", self.args[0], self.args[1] + other))
        return _expr(binary("add", self, other))

    __radd__ = __add__

    def __sub__(self, other: Expr | int) -> Expr:
        return self + (-other) if isinstance(other, int) else _expr(binary("sub", self, other))

    def __rsub__(self, other: int) -> Expr:
        return _expr(binary("rsub", self, other))

    def __mul__(self, other: Expr | int) -> Expr | int:
        return binary("mul", self, other)

    __rmul__ = __mul__

    def __str__(self) -> str:
        if self.op in ("param", "pos", "var", "parity"):
            return str(self.args[0])
        return f"{self.op}({', '.join(map(str, self.args))})"


def _expr(value: Expr | int) -> Expr:
    return value if isinstance(value, Expr) else Expr("const", (value,))


def binary(op: str, a: Expr | int | str, b: Expr | int | str) -> Expr | int:
    """Build `op(a, b)`, folding constants and identities; `rsub` is b - a."""
    if isinstance(a, int) and isinstance(b, int):
        return _FOLD[op](a, b)
    if op in ("add", "mul", "min", "max") and isinstance(a, int):
        a, b = b, a
    if op == "mul" and b == 0:
        return 0
    if (op == "add" and b == 0) or (op in ("mul", "div") and b == 1):
        assert isinstance(a, Expr)
        return a
    return Expr(op, (a, b))


_FOLD: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "rsub": lambda a, b: b - a, "mul": lambda a, b: a * b,
    "min": min, "max": max, "div": lambda a, b: a // b, "lt": lambda a, b: int(a < b), "eq": lambda a, b: int(a == b),
    "and": lambda a, b: a & b,
}  # fmt: skip


def param(name: str) -> Expr:
    """A kernel parameter."""
    return Expr("param", (name,))


def pos(loop: str) -> Expr:
    """First element of the loop's present tile."""
    return Expr("pos", (loop,))


def var(name: str) -> Expr:
    """The variable of an inner loop."""
    return Expr("var", (name,))


def parity(buffer: str) -> Expr:
    """The slot of a buffer that a stage uses now."""
    return Expr("parity", (buffer,))


def emin(a: Expr | int, b: Expr | int) -> Expr | int:
    """The smaller of two values."""
    return binary("min", a, b)


def emax(a: Expr | int, b: Expr | int) -> Expr | int:
    """The larger of two values."""
    return binary("max", a, b)


def ceil_div(a: Expr | int, b: int) -> Expr | int:
    """ceil(a / b) for a >= 0."""
    return binary("div", a + (b - 1), b)


def leaves(value: Expr | int | str) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of every leaf."""
    if not isinstance(value, Expr):
        return
    if value.op in ("param", "pos", "var", "parity"):
        yield value.op, str(value.args[0])
        return
    for arg in value.args:
        yield from leaves(arg)
