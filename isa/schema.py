"""What a machine file may say: valid keys at every path, errors in plain words, and the JSON Schema for editors."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from isa.chip import MEMORY_ONLY, MemoryChip
from isa.machine import Machine
from isa.simt_machine import SimtMachine
from isa.yaml12 import Branch, Items, Leaf, Tree

CONFIDENCES = ("specified", "measured", "inferred")
_UNITS = {
    "bytes_per_second": "bytes per second", "flops_per_second": "operations per second",
    "bytes_per_cycle": "bytes per cycle", "mhz": "MHz", "ps": "picoseconds", "us": "microseconds", "bytes": "bytes",
    "cycles": "clock cycles", "bits": "bits", "pj": "picojoules",
}  # fmt: skip
_LIMITS = {
    "greater_than": ("gt", "more than"), "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"), "less_than_equal": ("le", "at most"),
}  # fmt: skip
_TYPES = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number", "string_type": "text",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}  # fmt: skip


def root_of(tree: Tree) -> type[Machine] | type[MemoryChip]:
    """What a file describes: a machine that runs programs, or, for some kinds of `issue`, a chip known by its memory.

    A machine with queues names the spaces of its core, one with threads its pipes; a chip that is known by its memory
    has neither.
    """
    entries = tree.entries if isinstance(tree, Branch) else {}
    issue, core = entries.get("issue"), entries.get("core")
    if not isinstance(issue, Leaf) or issue.value not in MEMORY_ONLY:
        return Machine
    known = core.entries if isinstance(core, Branch) else {}
    if issue.value == "simt":
        return SimtMachine if "pipes" in known else MemoryChip
    return Machine if "spaces" in known else MemoryChip


def valid_keys(path: Sequence[str], root: type[Machine] | type[MemoryChip] = Machine) -> list[str] | None:
    """Keys that the tree of `root` has at `path`; None where any key is free (a dict or a list), [] at a value."""
    kind: Any = root
    for key in path:
        kind = _bare(kind)
        if _is_model(kind):
            if key not in kind.model_fields:
                return []
            kind = kind.model_fields[key].annotation
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
        else:
            return []
    kind = _bare(kind)
    if _is_model(kind):
        return sorted(kind.model_fields)
    return None if get_origin(kind) in (dict, list) else []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _bare(kind: Any) -> Any:
    """Strip Annotated and `| None`."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = next(arg for arg in get_args(kind) if arg is not type(None))
    return kind


def close_match(name: str, known: Sequence[str]) -> str | None:
    """The known name that `name` most resembles, or None."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return near[0] if near else None


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say that `key` is unknown and name the nearest valid one, or all."""
    near = close_match(key, known)
    return f"unknown key, did you mean {near!r}?" if near else f"unknown key; valid here: {', '.join(known)}"


def describe(tree: Tree) -> str:
    """Name the kind of a node for a message."""
    if isinstance(tree, Branch):
        return "a mapping"
    return "a list" if isinstance(tree, Items) else f"{tree.value!r:.80}"


def error_text(error: Any, key: str) -> str:
    """Say one pydantic error (of a field called `key`) in plain words: the value, and what is allowed."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    shown = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else f"{value!r:.80}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"{shown} is out of range; must be {words} {context[name]}"
    if kind in _TYPES:
        return f"{shown} is not {_TYPES[kind]}{_unit_hint(value, key)}"
    if kind == "literal_error":
        return f"{shown} is not allowed; one of {context['expected']}"
    if kind == "finite_number":
        return f"{shown} is not a finite number"
    return f"{error['msg']} (value {shown})"


def _unit_hint(value: object, key: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\s*[-+]?[0-9][0-9.,_eE+-]*\s*[A-Za-z/%]*\s*", value):
        return ""
    unit = next((words for suffix, words in _UNITS.items() if key == suffix or key.endswith("_" + suffix)), None)
    return f"; the unit is in the key ({unit}), write a plain number" if unit else "; write a plain number"


def machine_schema(root: type[Machine] | type[MemoryChip] = Machine) -> dict[str, Any]:
    """JSON Schema of a machine file, for editors: figures may state their source, `parent` and parts are allowed.

    Nothing is `required`, because a file with a parent gives only what differs; the loader checks the whole.
    """
    schema = root.model_json_schema()
    stated = {"source": {"type": "string"}, "confidence": {"enum": list(CONFIDENCES)}}
    result: dict[str, Any] = _with_provenance(schema, stated)
    result["properties"]["parent"] = {"type": "string", "description": "the machine on which this file is a delta"}
    dram = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/DramPart"}], "description": "a part's name, or its figures"}
    result["$defs"]["Memory"]["properties"]["dram"] = dram
    result["$defs"]["DramPart"]["properties"]["part"] = {"type": "string", "description": "the part to start from"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}


def _with_provenance(node: Any, stated: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_with_provenance(item, stated) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("integer", "number"):
        figure = {"type": "object", "required": ["value"], "additionalProperties": False,
                  "properties": {"value": node, **stated}}  # fmt: skip
        return {"anyOf": [node, figure]}
    # The keys of `properties` and `$defs` are names, not schema words.
    result = {
        key: {name: _with_provenance(child, stated) for name, child in value.items()}
        if key in ("properties", "$defs")
        else _with_provenance(value, stated)
        for key, value in node.items()
        if key != "required"
    }
    if node.get("type") == "object":
        result["properties"] = {**result.get("properties", {}), **stated}
    return result
