"""Words, values and `key=value` directives of assembly text: the layer below `isa.asm`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from isa.program import MAX_DIMS

MAX_LIST_ITEMS = 1 << 24
_STRING = r'"(?:\\.|[^"\\])*"'
_COMMENT = re.compile(rf"({_STRING})|#.*|//.*")
_TOKEN = re.compile(rf'\s*(?:({_STRING})|([\[\](),=])|([^\s\[\](),="]+))')
_PIECE = re.compile(rf"({_STRING}|;;|[;{{}}])")
T = TypeVar("T")


class Fault(Exception):
    """One line cannot be read; the assembler adds its number and text."""


class Quoted(str):
    """A string that stood in quotes, and so is neither a number nor a keyword."""

    __slots__ = ()


Value = Any  # str, Quoted, or a list of values


def without_comment(line: str) -> str:
    """Return the line up to a `#` or `//` outside of quotes."""
    return _COMMENT.sub(lambda m: m.group(1) or "", line) if "#" in line or "//" in line else line


def pieces(line: str) -> Iterator[str]:
    """Yield statements and the bundle marks `;;`, `{`, `}` of a code line, in order."""
    statement = ""
    for piece in _PIECE.split(line):
        if piece not in (";", ";;", "{", "}"):
            statement += piece
            continue
        if statement.strip():
            yield statement.strip()
        statement = ""
        if piece != ";":
            yield piece
    if statement.strip():
        yield statement.strip()


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the known names when they are few, or nothing."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; one of {', '.join(names)}" if 0 < len(names) <= 24 else ""


def choose(word: str, table: dict[str, T], what: str) -> T:
    """Look `word` up; raises Fault that names the nearest valid one."""
    if word not in table:
        raise Fault(f"unknown {what} {word!r}{nearest(word, table)}")
    return table[word]


class Tokens:
    """The rest of a directive, read from left to right."""

    def __init__(self, text: str) -> None:
        self._items: list[tuple[str, bool]] = []  # text, in quotes
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise Fault(f"cannot read {text[position:].strip()[:20]!r}: a quote is not closed")
            position = match.end()
            self._items.append((match.group(match.lastindex or 0), match.lastindex == 1))
        self._next = 0

    def peek(self, ahead: int = 0) -> str:
        """The coming token, '' at the end; a quoted one begins with its quote."""
        i = self._next + ahead
        return self._items[i][0] if i < len(self._items) else ""

    def take(self, wanted: str = "") -> str:
        """Consume one token, which must be `wanted` unless that is empty."""
        token = self.peek()
        if (wanted and token != wanted) or not token:
            raise Fault(f"expected {wanted or 'a value'}, found {token or 'the end of the line'}")
        self._next += 1
        return token

    def word(self) -> str:
        """Consume a bare or quoted word."""
        token = self.take()
        if token[0] == '"':
            return _unquoted(token)
        if token in "[](),=":
            raise Fault(f"expected a name, found {token!r}")
        return token

    def value(self, depth: int = 0) -> Value:
        """Consume a word, a quoted string or a list (lists of lists at most)."""
        if self.peek() != "[":
            quoted = self.peek().startswith('"')
            word = self.word()
            return Quoted(word) if quoted else word
        if depth == 2:
            raise Fault("lists nest at most twice")
        self.take("[")
        items: list[Value] = []
        while self.peek() != "]":
            items.append(self.value(depth + 1))
            if self.peek() != "]":
                self.take(",")
        self.take("]")
        return items

    def pairs(self) -> dict[str, Value]:
        """Consume `key=value ...` up to the end of the line."""
        found: dict[str, Value] = {}
        while self.peek():
            key = self.word()
            if self.peek() != "=":
                raise Fault(f"expected key=value, found {key!r}")
            self.take("=")
            if key in found:
                raise Fault(f"{key} is given twice")
            found[key] = self.value()
        return found

    def name(self) -> str | None:
        """Consume a leading word that is not a key."""
        return None if not self.peek() or self.peek(1) == "=" else self.word()


def _unquoted(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError as error:
        raise Fault(f"string {token[:40]}: {error}") from None


def integer(value: Value) -> int:
    """Return a decimal or 0x value; raises Fault."""
    if isinstance(value, str) and not isinstance(value, Quoted):
        try:
            return int(value, 0)
        except ValueError:
            pass
    raise Fault(f"expected an integer, found {_shown(value)}")


def real(value: Value) -> float:
    """Return a real number (also inf, nan); raises Fault."""
    if isinstance(value, str) and not isinstance(value, Quoted):
        try:
            return float(value)
        except ValueError:
            pass
    raise Fault(f"expected a number, found {_shown(value)}")


def string(value: Value) -> str:
    """Return a bare or quoted word; raises Fault for a list."""
    if isinstance(value, str):
        return str(value)
    raise Fault(f"expected a name, found {_shown(value)}")


def boolean(value: Value) -> bool:
    """Return `true` or `false`; raises Fault."""
    if value not in ("true", "false"):
        raise Fault(f"expected true or false, found {_shown(value)}")
    return bool(value == "true")


def items(convert: Callable[[Value], T]) -> Callable[[Value], tuple[T, ...]]:
    """Return the converter of a list of such values."""

    def converter(value: Value) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise Fault(f"expected a list in [ ], found {_shown(value)}")
        return tuple(convert(item) for item in value)

    return converter


def _shown(value: Value) -> str:
    return "a list" if isinstance(value, list) else repr(str(value)[:40])


def bounded(key: str, value: int, limits: Any) -> int:
    """Return the value if a numpy iinfo admits it; raises Fault."""
    if not limits.min <= value <= limits.max:
        raise Fault(f"{key} is {value}; it must be in {limits.min}..{limits.max}")
    return value


def put(row: Any, key: str, value: Any) -> None:
    """Store a value, or a list of at most the field's length, in a record; raises Fault beyond the field's range."""
    kind = row.dtype[key]
    values = value if isinstance(value, (list, tuple)) else [value]
    if kind.shape and len(values) > kind.shape[0]:
        raise Fault(f"{key} holds {len(values)} values; at most {kind.shape[0]} ({MAX_DIMS} dimensions, 2 axes)")
    if kind.base.kind in "iu":
        for one in values:
            bounded(key, one, np.iinfo(kind.base))
    if kind.shape:
        row[key][: len(values)] = values
    else:
        row[key] = value


_CONVERTERS: dict[str, Callable[[Value], Any]] = {
    "str": string, "int": integer, "float": real, "bool": boolean,
    "tuple[str, ...]": items(string), "tuple[int, ...]": items(integer), "tuple[float, ...]": items(real),
}  # fmt: skip


def record(kind: type[T], text: str) -> T:
    """Read a Tensor, Operator or HostOp from `name key=value ...`; raises Fault."""
    tokens = Tokens(text)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    if "name" in fields:
        name = tokens.name()
        if name is None:
            raise Fault("expected a name first")
        found["name"] = name
    for key, value in tokens.pairs().items():
        field = choose(key, fields, "key")
        if key == "name" and "name" in found:
            raise Fault("name is given twice")
        try:
            found[key] = _CONVERTERS[str(field.type)](value)
        except Fault as fault:
            raise Fault(f"{key}: {fault}") from None
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in found]
    if missing:
        raise Fault(f"missing {', '.join(missing)}")
    return kind(**found)
