"""YAML 1.2 core schema with positions, for files from users: nothing is executed, sizes are bounded, faults are listed.

PyYAML reads YAML 1.1, where `1e9` is a string, `no` is False, `12:30` is 750 and `010` is 8; the scalar rules here are
those of YAML 1.2, chapter 10.3. Every value keeps the line and column of its key, because a message without a place
costs its reader the search.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from isa.errors import ConfigError

MAX_BYTES = 1 << 20  # of one file
MAX_NODES = 20_000  # of one file, aliases expanded: bounds "billion laughs"
MAX_DEPTH = 32
MAX_NUMBER_CHARS = 40  # int() of a long digit string is quadratic

Value = None | bool | int | float | str


@dataclass(frozen=True, order=True)
class Position:
    """A place in a file; line 0 means the whole of it (a command-line override has no lines)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a file: where, at which key path, and what."""

    position: Position
    key: str
    message: str

    def __str__(self) -> str:
        text = f"{self.position}: {self.key}: {self.message}" if self.key else f"{self.position}: {self.message}"
        # Keys are the user's text: no line breaks or terminal control reach the message.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Leaf:
    """A scalar; `source` and `confidence` say where a figure comes from ('' while unknown)."""

    value: Value
    position: Position
    source: str = ""
    confidence: str = ""


@dataclass(frozen=True)
class Branch:
    """A mapping with string keys; one that is `whole` takes the place of a mapping below it instead of merging."""

    entries: dict[str, Tree]
    position: Position
    whole: bool = False


@dataclass(frozen=True)
class Items:
    """A sequence."""

    items: list[Tree]
    position: Position


Tree = Leaf | Branch | Items


class _Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core resolvers and bounds on nodes and depth while composing."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class-level registry)
    nodes = 0
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} values", problem_mark=self._mark())
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=self._mark())
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _mark(self) -> Any:
        parser: Any = self
        return parser.peek_event().start_mark


_CORE = "tag:yaml.org,2002:"
# fmt: off
_RULES = [
    ("null",  r"^(?:null|Null|NULL|~|)$",                                                    ["n", "N", "~", ""]),
    ("bool",  r"^(?:true|True|TRUE|false|False|FALSE)$",                                     list("tTfF")),
    ("int",   r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$",                                  list("-+0123456789")),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
              r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",                                list("-+.0123456789")),
]
# fmt: on
for _name, _pattern, _first in _RULES:
    _Loader.add_implicit_resolver(_CORE + _name, re.compile(_pattern), _first)


def parse(text: str, file: str) -> tuple[Tree, list[Fault]]:
    """Read one YAML document; return its tree and the faults that do not prevent reading on (duplicate keys, tags).

    `file` is the name used in positions. Raises ConfigError for malformed YAML, an empty document, or one that is
    larger than MAX_BYTES, MAX_NODES or MAX_DEPTH.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{file}: larger than the limit of {MAX_BYTES} bytes")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Position(file, mark.line + 1, mark.column + 1) if mark else Position(file)
        raise ConfigError(f"{place}: malformed YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: malformed YAML: {' '.join(str(error).split())}") from None
    if root is None:
        raise ConfigError(f"{file}: the file is empty")
    reader = _Reader(file)
    return reader.tree(root, "", reader.position(root), 0), reader.faults


def load_plain(text: str) -> dict[str, Any]:
    """A shipped file's mapping as plain values; raises ConfigError for the first fault."""
    tree, faults = parse(text, "shipped file")
    if faults or not isinstance(tree, Branch):
        raise ConfigError(str(faults[0]) if faults else "shipped file: not a mapping")
    return {key: plain(value) for key, value in tree.entries.items()}


def plain(tree: Tree) -> Any:
    """A tree as dicts, lists and scalars."""
    if isinstance(tree, Branch):
        return {k: plain(v) for k, v in tree.entries.items()}
    if isinstance(tree, Items):
        return [plain(item) for item in tree.items]
    value = tree.value
    # 32e9 is a whole number of bytes, whatever YAML calls it.
    return int(value) if isinstance(value, float) and abs(value) < 2**63 and value == int(value) else value


class _Reader:
    """Turns PyYAML nodes into Trees, expanding aliases under a bound."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.faults: list[Fault] = []
        self.count = 0

    def position(self, node: Any) -> Position:
        return Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def tree(self, node: Any, key: str, position: Position, depth: int) -> Tree:
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(f"{position}: more than {MAX_NODES} values once aliases are expanded")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{position}: nested deeper than {MAX_DEPTH} levels once aliases are expanded")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (_CORE + "map", _CORE + "seq"):
            self.faults.append(Fault(position, key, f"tag {node.tag!r} is not allowed; a value is plain YAML"))
        if isinstance(node, yaml.MappingNode):
            return self._branch(node, key, position, depth)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.tree(item, f"{key}.{i}" if key else str(i), self.position(item), depth + 1)
                for i, item in enumerate(node.value)
            ]
            return Items(items, position)
        return Leaf(self._scalar(node, key, position), position)

    def _branch(self, node: Any, key: str, position: Position, depth: int) -> Branch:
        entries: dict[str, Tree] = {}
        for key_node, value_node in node.value:
            place = self.position(key_node)
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if name is None or key_node.tag != _CORE + "str":
                self.faults.append(Fault(place, key, f"a key must be a string, not {key_node.value!r:.60}"))
                continue
            path = f"{key}.{name}" if key else name
            if name in entries:
                self.faults.append(Fault(place, path, f"duplicate key, first given at {entries[name].position}"))
                continue
            entries[name] = self.tree(value_node, path, place, depth + 1)
        return Branch(entries, position)

    def _scalar(self, node: Any, key: str, position: Position) -> Value:
        text, kind = node.value, node.tag.removeprefix(_CORE)
        if kind == "null":
            return None
        if kind == "bool":
            return str(text).lower() == "true"
        if kind in ("int", "float"):
            return self._number(text, kind, key, position)
        if kind != "str":
            self.faults.append(Fault(position, key, f"tag {node.tag!r} is not allowed; a value is plain YAML"))
        return str(text)

    def _number(self, text: str, kind: str, key: str, position: Position) -> Value:
        if len(text) > MAX_NUMBER_CHARS:
            self.faults.append(Fault(position, key, f"a number of {len(text)} characters; at most {MAX_NUMBER_CHARS}"))
            return 1
        try:
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)$", r"\1", text, flags=re.IGNORECASE))
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text, base)
        except ValueError:  # an explicit tag, as in `!!int abc`
            self.faults.append(Fault(position, key, f"{text!r} is not a {kind}"))
            return 1
