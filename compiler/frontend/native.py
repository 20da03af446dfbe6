"""The project's own model files: `.npu`, the text form of a graph, and `.yaml`, the same with less to write.

    name: net
    inputs: {x: "fp32[1,3,8,8]"}
    constants:
      w: fp32[4,3,3,3]
      b: {type: "fp32[4]", values: [0.0, 0.5, 1.0, 1.5]}
    nodes:
      - {op: Conv, inputs: [x, w, b], outputs: [c], attrs: {pads: [1, 1, 1, 1]}}
      - {op: Relu, name: act, inputs: [c], outputs: [y]}
    outputs: [y]

Operators and attributes are those of `compiler.ops`. Types of results are inferred in YAML, checked in text. Constants
without values get lazy He-normal ones, seeded by their names.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from compiler.frontend.builder import Builder
from compiler.graph import Array, Constant, Graph, Node, TensorType
from compiler.ops import nearest, op_def
from compiler.text import parse_graph, parse_type
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to
from isa.errors import ConfigError, ModelError
from isa.yaml12 import Branch, Items, Leaf, Tree, parse

MAX_FILE_BYTES = 16 << 20
_MALFORMED = (IndexError, KeyError, ValueError, TypeError)  # what attributes of the wrong kind raise in type rules
_KEYS = ("name", "inputs", "constants", "nodes", "outputs")
_NODE_KEYS = ("op", "name", "inputs", "outputs", "attrs")


def import_native(path: Path) -> Graph:
    """Read a `.npu`, `.yaml` or `.yml` model; raises ModelError naming file, line and fault."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a model description")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if path.suffix.lower() == ".npu":
        return _from_text(path, text)
    try:
        tree, faults = parse(text, str(path))
    except ConfigError as error:
        raise ModelError(str(error)) from None
    if faults:
        raise ModelError("\n".join(map(str, faults)))
    return _from_yaml(path.stem, tree)


def _from_text(path: Path, text: str) -> Graph:
    try:
        graph = parse_graph(text)
        seeded = {n: _he_normal(n, c.type) for n, c in graph.constants.items() if c.stripped}
        graph = graph.with_nodes(graph.nodes, constants=seeded)
        for node in graph.nodes:
            for name, kind in zip(node.outputs, _inferred(graph, node)):
                if name and graph.tensors[name] != kind:
                    raise ModelError(f"node {node.name!r} makes {kind}, but {name!r} is declared {graph.tensors[name]}")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return graph


def _inferred(graph: Graph, node: Node) -> list[TensorType]:
    values = [graph.constants[n].value() if _small(graph, n) else None for n in node.inputs]
    types = [graph.tensors[n] if n else None for n in node.inputs]
    try:
        return op_def(node.op).infer(node, types, values)
    except _MALFORMED as error:
        raise ModelError(f"node {node.name!r}: malformed: {type(error).__name__}: {error}") from None


def _small(graph: Graph, name: str) -> bool:
    constant = graph.constants.get(name)
    return constant is not None and constant.type.elements <= 1024 and not dtype_of(constant.type.dtype).is_float


def _he_normal(name: str, kind: TensorType) -> Constant:
    """Values of variance 2 / fan-in, where fan-in is what one slice of the longest axis holds."""
    fan_in = max(1, kind.elements // max(kind.shape, default=1))

    def build() -> Array:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        values = random.standard_normal(kind.shape, dtype=np.float32) * np.float32(math.sqrt(2.0 / fan_in))
        return round_to(np.asarray(values), dtype_of(kind.dtype))

    return Constant(kind, build)


# --- YAML ------------------------------------------------------------------------------------------------------------


def _from_yaml(stem: str, tree: Tree) -> Graph:
    top = _branch(tree, "the model", _KEYS)
    builder = Builder(_word(top["name"], "name") if "name" in top else stem)
    for name, value in _branch(_needed(tree, top, "inputs"), "inputs").items():
        builder.input(name, _type(value))
    for name, value in _branch(top["constants"], "constants").items() if "constants" in top else ():
        builder.constant(name, _constant(name, value))
    for item in _items(_needed(tree, top, "nodes"), "nodes"):
        _node(builder, item)
    outputs = [_word(item, "outputs") for item in _items(_needed(tree, top, "outputs"), "outputs")]
    if not outputs:
        raise ModelError(f"{tree.position}: outputs: at least one tensor is needed")
    return builder.finish(outputs)


def _node(builder: Builder, item: Tree) -> None:
    found = _branch(item, "a node", _NODE_KEYS)
    inputs, outputs = (
        [_word(name, key) for name in _items(_needed(item, found, key), key)] for key in ("inputs", "outputs")
    )
    attrs = {k: _plain(v) for k, v in _branch(found["attrs"], "attrs").items()} if "attrs" in found else {}
    op = _word(_needed(item, found, "op"), "op")
    name = _word(found["name"], "name") if "name" in found else next(iter(outputs), op)
    try:
        builder.emit(name, op, inputs, outputs, attrs)
    except ModelError as error:
        raise ModelError(f"{item.position}: {error}") from None
    except _MALFORMED as error:
        raise ModelError(f"{item.position}: node {name!r}: malformed: {type(error).__name__}: {error}") from None


def _constant(name: str, value: Tree) -> Constant:
    if not isinstance(value, Branch):
        return _he_normal(name, _type(value))
    found = _branch(value, f"constant {name!r}", ("type", "values"))
    kind = _type(_needed(value, found, "type"))
    if "values" not in found:
        return _he_normal(name, kind)
    try:
        array = np.asarray(_plain(found["values"]), dtype=np.float64)
    except (ValueError, TypeError):
        raise ModelError(f"{value.position}: the values of {name!r} are not numbers of one shape") from None
    if array.shape != kind.shape:
        raise ModelError(f"{value.position}: the values of {name!r} have shape {list(array.shape)}, not {kind}")
    return Constant.of(round_to(array, dtype_of(kind.dtype)), kind.dtype)


def _needed(parent: Tree, entries: dict[str, Tree], key: str) -> Tree:
    if key not in entries:
        raise ModelError(f"{parent.position}: key {key!r} is missing")
    return entries[key]


def _branch(tree: Tree, what: str, keys: tuple[str, ...] = ()) -> dict[str, Tree]:
    if not isinstance(tree, Branch):
        raise ModelError(f"{tree.position}: {what} must be a mapping")
    for key, value in tree.entries.items():
        if keys and key not in keys:
            raise ModelError(
                f"{value.position}: {what} has no key {key!r}; nearest: {nearest(key, keys)}; known: {', '.join(keys)}"
            )
    return tree.entries


def _items(tree: Tree, what: str) -> list[Tree]:
    if not isinstance(tree, Items):
        raise ModelError(f"{tree.position}: {what} must be a sequence")
    return tree.items


def _word(tree: Tree, what: str) -> str:
    if not isinstance(tree, Leaf) or not isinstance(tree.value, str):
        raise ModelError(f"{tree.position}: {what} must be a name (quote it if it looks like a number)")
    return tree.value


def _type(tree: Tree) -> TensorType:
    text = _word(tree, "a type")
    try:
        return parse_type(text)
    except ModelError as error:
        raise ModelError(f"{tree.position}: {error}") from None


def _plain(tree: Tree) -> Any:
    """Leaves and sequences as attributes are made of: numbers, strings, tuples."""
    if isinstance(tree, Leaf):
        return int(tree.value) if isinstance(tree.value, bool) else tree.value
    if isinstance(tree, Items):
        return tuple(_plain(item) for item in tree.items)
    raise ModelError(f"{tree.position}: an attribute is a number, a string or a sequence of them")
