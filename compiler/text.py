"""The graph as text, and back: what passes are tested by and `--dump` writes; also the project's model format (.npu).

    graph "name"
    input %x : fp32[1,3,8,8]
    const %w : fp32[4,3,3,3]
    const %b : fp32[4] = [0.5, -1.0, 0.25, 2.0]
    %y : fp32[1,4,6,6] = Conv(%x, %w, %b) {"group": 1, "strides": [1, 1]} as "conv" in "group"
    output %y

One statement a line; '#' starts a comment. Names and groups that are not plain words are quoted. Constants of at most
`inline` elements carry their values; the others carry none: they parse as stripped unless given to `parse_graph`. An
absent operand is '-'. Types may end in ' x scale - zero_point'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.graph import MAX_TENSOR_ELEMENTS, Array, Constant, Graph, Node, TensorType
from isa.dtypes import DTYPES, round_to
from isa.dtypes import dtype as dtype_of
from isa.errors import ModelError, NpuError

INLINE_ELEMENTS = 64
MAX_LINE_CHARS = 1 << 20
_WORD = re.compile(r"[A-Za-z0-9_./:+$~@-]+")
_TYPE = re.compile(r"([a-z][a-z0-9_]*)\[([0-9, ]*)\](?: x ([-+0-9.eE]+))?(?: - (-?[0-9]+))?")
_DECODER = json.JSONDecoder()


def print_graph(graph: Graph, inline: int = INLINE_ELEMENTS) -> str:
    """Return the graph as text; constants of at most `inline` elements that exist keep their values."""
    lines = [f"graph {json.dumps(graph.name)}"]
    lines += [f"input {_tensor(graph, name)}" for name in graph.inputs]
    for name, constant in graph.constants.items():
        lines.append(f"const {_tensor(graph, name)}{_values(constant, inline)}")
    for node in graph.nodes:
        lines.append(_node_text(graph, node))
    lines.append("output " + ", ".join(_name(name) for name in graph.outputs))
    return "\n".join(lines) + "\n"


def parse_graph(text: str, constants: Mapping[str, Constant] | None = None) -> Graph:
    """Read a graph; `constants` supplies values for those without any. Raises ModelError naming line and fault."""
    parser = _Parser(dict(constants or {}))
    for number, line in enumerate(text.splitlines(), start=1):
        parser.line(number, line)
    return parser.graph()


def parse_type(text: str) -> TensorType:
    """Read a type such as `fp32[1,3]` or `int8[4] x 0.5 - 3`; raises ModelError."""
    return _type_of(_TYPE.fullmatch(text.strip()))


def _type_of(found: re.Match[str] | None) -> TensorType:
    if found is None or found[1] not in DTYPES:
        raise ModelError(f"expected a type such as fp32[1,3], dtypes are {', '.join(DTYPES)}")
    try:
        shape = tuple(int(part) for part in found[2].split(",")) if found[2].strip() else ()
        kind = TensorType(shape, found[1], float(found[3] or 1.0), int(found[4] or 0))
    except ValueError:
        raise ModelError(f"{found[0]!r} is not a type") from None
    if kind.elements > MAX_TENSOR_ELEMENTS:
        raise ModelError(f"{kind.elements} elements, the limit is {MAX_TENSOR_ELEMENTS}")
    return kind


# --- printing --------------------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    return text if _WORD.fullmatch(text) else json.dumps(text)


def _name(name: str) -> str:
    return "%" + _quoted(name) if name else "-"


def _tensor(graph: Graph, name: str) -> str:
    return f"{_name(name)} : {graph.tensors[name]}"


def _values(constant: Constant, inline: int) -> str:
    if constant.stripped or constant.type.elements > inline:
        return ""
    kind = dtype_of(constant.type.dtype)
    wide = np.asarray(constant.value()).astype(np.float64 if kind.is_float else np.int64)
    return f" = {json.dumps(wide.tolist())}"


def _node_text(graph: Graph, node: Node) -> str:
    outputs = ", ".join(_tensor(graph, name) if name else "-" for name in node.outputs)
    attrs = f" {json.dumps(_plain(dict(node.attrs)))}" if node.attrs else ""
    alone = node.outputs[:1] == (node.name,)  # the usual case: a node is called after what it makes
    label = "" if alone else f" as {_quoted(node.name)}"
    group = f" in {_quoted(node.group)}" if node.group else ""
    return f"{outputs} = {node.op}({', '.join(map(_name, node.inputs))}){attrs}{label}{group}"


def _plain(value: Any) -> Any:
    """Attributes as JSON knows them; numpy scalars and arrays become numbers and lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


# --- parsing ---------------------------------------------------------------------------------------------------------


@dataclass
class _Parser:
    """Statements seen so far, and a cursor over the present line."""

    given: dict[str, Constant]
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    number: int = 0
    text: str = ""
    at: int = 0

    def graph(self) -> Graph:
        if not self.outputs:
            raise ModelError("a graph needs a line 'output %name'")
        found = Graph(
            self.name, tuple(self.nodes), tuple(self.inputs), tuple(self.outputs), self.tensors, self.constants
        )
        try:
            found.verify()
        except NpuError as error:
            raise ModelError(f"not a valid graph: {error}") from None
        return found

    def line(self, number: int, text: str) -> None:
        self.number, self.text, self.at = number, text, 0
        if len(text) > MAX_LINE_CHARS:
            raise self.fail(f"the line has {len(text)} characters, the limit is {MAX_LINE_CHARS}")
        self.space()
        if self.done():
            return
        keyword = re.match(r"(graph|input|const|output)\b", text[self.at :])
        if keyword is None:
            self.node()
        else:
            self.at += keyword.end()
            {"graph": self.title, "input": self.input, "const": self.const, "output": self.output}[keyword[1]]()
        self.space()
        if not self.done():
            raise self.fail(f"unexpected {self.text[self.at : self.at + 20]!r}")

    def title(self) -> None:
        self.name = self.word()

    def input(self) -> None:
        self.inputs.append(self.typed())

    def output(self) -> None:
        self.outputs.append(self.tensor())
        while self.eat(","):
            self.outputs.append(self.tensor())

    def const(self) -> None:
        name = self.typed()
        kind = self.tensors[name]
        if self.eat("="):
            self.constants[name] = self.inline(name, kind, self.json())
        elif name in self.given and self.given[name].type != kind:
            raise self.fail(f"constant {name!r} is {kind} here, {self.given[name].type} where its values are")
        else:
            self.constants[name] = self.given.get(name, Constant(kind))

    def inline(self, name: str, kind: TensorType, values: Any) -> Constant:
        try:
            wide = np.asarray(values, dtype=np.float64 if dtype_of(kind.dtype).is_float else np.int64)
        except (ValueError, TypeError, OverflowError):
            raise self.fail(
                f"the values of {name!r} are not {kind.dtype} numbers of shape {list(kind.shape)}"
            ) from None
        if wide.size == 0 and kind.elements == 0:
            wide = wide.reshape(kind.shape)
        if wide.shape != kind.shape:
            raise self.fail(f"the values of {name!r} have shape {list(wide.shape)}, declared {list(kind.shape)}")
        stored = round_to(wide, dtype_of(kind.dtype))
        return Constant(kind, lambda: stored)

    def node(self) -> None:
        outputs = [self.typed(optional=True)]
        while self.eat(","):
            outputs.append(self.typed(optional=True))
        self.expect("=")
        op = self.word()
        self.expect("(")
        inputs: list[str] = []
        if not self.eat(")"):
            inputs.append(self.tensor(optional=True))
            while self.eat(","):
                inputs.append(self.tensor(optional=True))
            self.expect(")")
        self.space()
        attrs = self.json() if self.text[self.at : self.at + 1] == "{" else {}
        name = self.word() if self.eat("as ") else outputs[0]
        group = self.word() if self.eat("in ") else ""
        self.nodes.append(Node(name, op, tuple(inputs), tuple(outputs), _frozen(attrs), group))

    # --- words -----------------------------------------------------------------------------------------------------

    def typed(self, optional: bool = False) -> str:
        name = self.tensor(optional)
        if not name:
            return name
        self.expect(":")
        if name in self.tensors:
            raise self.fail(f"tensor {name!r} is declared twice")
        self.tensors[name] = self.type()
        return name

    def type(self) -> TensorType:
        self.space()
        found = _TYPE.match(self.text, self.at)
        try:
            kind = _type_of(found)
        except ModelError as error:
            raise self.fail(str(error)) from None
        self.at = found.end() if found else self.at
        return kind

    def tensor(self, optional: bool = False) -> str:
        if optional and self.eat("-"):
            return ""
        self.expect("%")
        return self.word()

    def word(self) -> str:
        self.space()
        if self.text[self.at : self.at + 1] == '"':
            found = self.json()
            return str(found)
        match = _WORD.match(self.text, self.at)
        if match is None:
            raise self.fail("expected a name")
        self.at = match.end()
        return match[0]

    def json(self) -> Any:
        self.space()
        try:
            value, self.at = _DECODER.raw_decode(self.text, self.at)
        except (ValueError, RecursionError) as error:
            raise self.fail(f"not a JSON value: {error}") from None
        return value

    def space(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def done(self) -> bool:
        return self.at >= len(self.text) or self.text[self.at] == "#"

    def eat(self, mark: str) -> bool:
        self.space()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def expect(self, mark: str) -> None:
        if not self.eat(mark):
            raise self.fail(f"expected {mark!r}, found {self.text[self.at : self.at + 20]!r}")

    def fail(self, reason: str) -> ModelError:
        return ModelError(f"line {self.number}, column {self.at + 1}: {reason}")


def _frozen(value: Any) -> Any:
    """JSON lists as the tuples that attributes are made of."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list) else value


def same_graph(a: Graph, b: Graph) -> bool:
    """True when names, nodes, types and the values of constants that both have agree."""
    shallow = [(g.name, g.nodes, g.inputs, g.outputs, dict(g.tensors), tuple(g.constants)) for g in (a, b)]
    return shallow[0] == shallow[1] and _same_values(list(a.constants.values()), list(b.constants.values()))


def _same_values(left: Sequence[Constant], right: Sequence[Constant]) -> bool:
    return all(x is y or x.stripped or y.stripped or _equal(x.value(), y.value()) for x, y in zip(left, right))


def _equal(x: Array, y: Array) -> bool:
    """Equal values; NaN equals NaN."""
    floats = x.dtype.kind not in "iub"
    wide = [v.astype(np.float64 if floats else np.int64) for v in (x, y)]
    return np.array_equal(wide[0], wide[1], equal_nan=floats)
