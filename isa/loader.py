"""From YAML to Machine: files, parents, parts, overrides, and the source of every figure.

A mapping may carry `source` and `confidence`; they cover every figure inside it. A nested mapping, or a figure written
`{value, source, confidence}`, states its own. `parent: NAME` makes a file a delta on another (mappings merge, lists and
scalars replace); `memory.dram` and `memory.controller` are the name of a part, or a mapping with `part: NAME` and
figures changed.
All faults of a file are reported at once, each with file:line:column and key path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from isa.chip import MemoryChip
from isa.errors import ConfigError
from isa.machine import Machine
from isa.memory import Memory, idle_reason
from isa.schema import CONFIDENCES, close_match, describe, error_text, machine_schema, root_of, unknown_key, valid_keys
from isa.simt_machine import SimtMachine
from isa.yaml12 import MAX_BYTES, Branch, Fault, Items, Leaf, Position, Tree, parse, plain

__all__ = [
    "LoadedChip", "LoadedMachine", "Provenance", "list_chips", "list_machines", "load_chip", "load_machine",
    "load_simt", "machine_schema",
]  # fmt: skip

NOT_STATED = "not stated"
MISSING = "missing; this key is required"
SCHEMA_DEFAULT = "default of isa.machine"
_COVER_KEYS = ("source", "confidence")
_BARE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_MAX_PARENTS = 16


@dataclass(frozen=True)
class Provenance:
    """Where one figure comes from; `confidence` is specified, measured, inferred or 'not stated'."""

    value: int | float
    source: str
    confidence: str
    file: str
    line: int


@dataclass(frozen=True)
class LoadedMachine:
    """A validated machine and the provenance of every numeric figure in it, by key path (`core.matrix.rows`)."""

    machine: Machine
    provenance: Mapping[str, Provenance]


@dataclass(frozen=True)
class LoadedChip:
    """A validated chip, programmable or not, and the provenance of every numeric figure in it."""

    chip: Machine | MemoryChip
    provenance: Mapping[str, Provenance]


def load_machine(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedMachine:
    """Load a machine that runs programs: a shipped one by name, or a YAML file by path; see `load_chip`.

    Raises ConfigError, which lists every fault found, one a line, or says that the chip runs no programs.
    """
    loaded = load_chip(name_or_path, overrides)
    if isinstance(loaded.chip, MemoryChip):
        raise ConfigError(loaded.chip.why_no_programs)
    return LoadedMachine(loaded.chip, loaded.provenance)


def load_simt(name_or_path: str, overrides: Sequence[str] = ()) -> SimtMachine:
    """Load a chip whose cores run threads; see `load_chip`. Raises ConfigError for any other."""
    chip = load_chip(name_or_path, overrides).chip
    if not isinstance(chip, SimtMachine):
        known = ", ".join(name for name, _, root in _presets() if root is SimtMachine)
        raise ConfigError(f"{chip.name}: its cores run no threads; chips that do: {known}")
    return chip


def load_chip(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedChip:
    """Load a chip of any kind and apply `key.path=value` overrides in order.

    Raises ConfigError, which lists every fault found, one a line.
    """
    faults: list[Fault] = []
    tree = _resolve(_open(name_or_path), (), faults)
    base = tree if overrides else None
    for text in overrides:
        tree = _override(tree, text, faults)
    loaded = _validate(tree, faults, base, overrides)
    if idle := _idle(loaded.chip.memory, overrides):
        raise _combined(idle)
    return loaded


def list_machines() -> list[tuple[str, str]]:
    """Return (name, one-line description) of every shipped machine that runs programs, sorted by name."""
    return [(name, line) for name, line, root in _presets() if root is Machine]


def list_chips() -> list[tuple[str, str]]:
    """Return (name, one-line description) of every shipped chip, sorted by name."""
    return [(name, line) for name, line, _ in _presets()]


def _presets() -> Iterator[tuple[str, str, type[Machine] | type[MemoryChip]]]:
    for name in _shipped_names():
        tree, _ = parse(_preset(name).text, name)
        entries = tree.entries if isinstance(tree, Branch) else {}
        line = entries.get("description")
        # `issue` may stand in a parent, the description never does.
        root = root_of(tree) if "issue" in entries else root_of(_resolve(_preset(name), (), []))
        yield name, str(line.value) if isinstance(line, Leaf) else "", root


# ---- files


@dataclass(frozen=True)
class _Source:
    """The text of one file. `folder` is None for a shipped file, which must state the source of every figure."""

    label: str
    text: str
    folder: FilePath | None


def _shipped(*parts: str) -> Any:
    return resources.files("configs").joinpath(*parts)


def _shipped_names(*folder: str) -> list[str]:
    return sorted(f.name.removesuffix(".yaml") for f in _shipped(*folder).iterdir() if f.name.endswith(".yaml"))


def _preset(name: str, *folder: str) -> _Source:
    label = "/".join(("configs", *folder, f"{name}.yaml"))
    return _Source(label, _shipped(*folder, f"{name}.yaml").read_text(encoding="utf-8"), None)


def _open(name_or_path: str) -> _Source:
    if name_or_path in _shipped_names():
        return _preset(name_or_path)
    looks_like_file = name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path or "\\" in name_or_path
    if "\0" in name_or_path or not (looks_like_file or os.path.isfile(name_or_path)):
        known = _suggest(name_or_path, _shipped_names())
        raise ConfigError(f"unknown chip {name_or_path!r}{known}; or give the path of a YAML file")
    return _read(FilePath(name_or_path))


def _read(path: FilePath) -> _Source:
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory; give the YAML file of a machine, or the name of a preset")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:  # a name that the file system cannot encode
        raise ConfigError(f"{str(path)!r}: is not a file name") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than the limit of {MAX_BYTES} bytes")
    try:
        return _Source(str(path), data.decode("utf-8-sig"), path.parent)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _suggest(name: str, known: Sequence[str]) -> str:
    near = close_match(name, known)
    return (f", did you mean {near!r}?" if near else ";") + f" known: {', '.join(known)}"


def _referred(leaf: Tree, key: str, kind: tuple[str, ...], base: _Source | None, faults: list[Fault]) -> _Source | None:
    """Open the file that `parent` or `part` names: a shipped one, or one beside the file that names it."""
    name = leaf.value if isinstance(leaf, Leaf) else None
    if not isinstance(name, str) or not _BARE_NAME.fullmatch(name):
        message = f"{describe(leaf)} is not a name; give a shipped one, or a file in the same folder"
        faults.append(Fault(leaf.position, key, message))
        return None
    if name in _shipped_names(*kind):
        return _preset(name, *kind)
    folder = base.folder if base else None
    if folder is None or not name.endswith((".yaml", ".yml")):
        message = f"unknown {'part' if kind else 'chip'} {name!r}{_suggest(name, _shipped_names(*kind))}"
        faults.append(Fault(leaf.position, key, message))
        return None
    try:
        if (folder / name).resolve().parent != folder.resolve():
            raise ConfigError(f"{name} leads out of the folder of {base.label if base else ''}")
        return _read(folder / name)
    except ConfigError as error:
        faults.append(Fault(leaf.position, key, str(error)))
        return None


# ---- trees


def _resolve(source: _Source, chain: tuple[str, ...], faults: list[Fault]) -> Tree:
    """Parse a machine file, state its provenance, expand its part, and lay it over its parent."""
    tree, found = parse(source.text, source.label)
    faults += found
    if not isinstance(tree, Branch):
        raise ConfigError(f"{tree.position}: a machine is a mapping of keys, this is {describe(tree)}")
    entries = dict(tree.entries)
    parent = entries.pop("parent", None)
    tree = _expand_parts(_cover(replace(tree, entries=entries), "", source, faults), source, faults)
    if parent is None:
        return tree
    if source.label in chain or len(chain) >= _MAX_PARENTS:
        cycle = " -> ".join((*chain, source.label))
        raise ConfigError(f"{parent.position}: parent: a machine cannot be its own ancestor: {cycle}")
    below = _referred(parent, "parent", (), source, faults)
    return tree if below is None else _merge(_resolve(below, (*chain, source.label), faults), tree)


def _expand_parts(tree: Tree, source: _Source | None, faults: list[Fault]) -> Tree:
    """Replace `memory.dram` and `memory.controller` (a name, or a mapping with `part`) by the figures of the part."""
    for kind in ("dram", "controller"):
        tree = _expand_part(tree, kind, source, faults)
    return tree


def _expand_part(tree: Tree, kind: str, source: _Source | None, faults: list[Fault]) -> Tree:
    memory = tree.entries.get("memory") if isinstance(tree, Branch) else None
    given = memory.entries.get(kind) if isinstance(memory, Branch) else None
    if not isinstance(tree, Branch) or not isinstance(memory, Branch) or given is None:
        return tree
    changes = Branch({}, given.position)
    name: Tree = given
    if isinstance(given, Branch):
        if "part" not in given.entries:
            return tree
        changes = replace(given, entries={k: v for k, v in given.entries.items() if k != "part"})
        name = given.entries["part"]
    part = _referred(name, f"memory.{kind}", ("parts", kind), source, faults)
    if part is None:
        return _with(tree, "memory", _without(memory, kind))
    found, more = parse(part.text, part.label)
    faults += more
    merged = _merge(_cover(found, f"memory.{kind}", part, faults), changes)
    if isinstance(merged, Branch):  # nothing of another part that a parent names may shine through
        merged = replace(merged, whole=True)
    return _with(tree, "memory", _with(memory, kind, merged))


def _with(branch: Branch, key: str, value: Tree) -> Branch:
    return replace(branch, entries={**branch.entries, key: value})


def _without(branch: Branch, key: str) -> Branch:
    return replace(branch, entries={k: v for k, v in branch.entries.items() if k != key})


def _merge(base: Tree, delta: Tree) -> Tree:
    """Lay `delta` over `base`: mappings merge, a mapping of indices changes items of a list, anything else replaces."""
    if not isinstance(delta, Branch) or isinstance(base, Leaf) or delta.whole:
        return delta
    if isinstance(base, Items):
        numbered = {str(i): item for i, item in enumerate(base.items)}
        if not delta.entries.keys() <= numbered.keys():
            return delta
        numbered |= {i: _merge(numbered[i], change) for i, change in delta.entries.items()}
        return replace(base, items=list(numbered.values()))
    entries = dict(base.entries)
    for key, value in delta.entries.items():
        entries[key] = _merge(entries[key], value) if key in entries else value
    return Branch(entries, delta.position)


def _cover(tree: Tree, key: str, source: _Source, faults: list[Fault], cover: tuple[str, str] = ("", "")) -> Tree:
    """Return `tree` with the provenance on its leaves and without the keys that stated it."""
    if isinstance(tree, Items):
        items = [_cover(item, f"{key}.{i}", source, faults, cover) for i, item in enumerate(tree.items)]
        return replace(tree, items=items)
    if isinstance(tree, Leaf):
        if _is_number(tree.value) and source.folder is None and not all(cover):
            faults.append(Fault(tree.position, key, "a shipped figure must state its source and its confidence"))
        return replace(tree, source=cover[0] or NOT_STATED, confidence=cover[1] or NOT_STATED)
    cover = _stated(tree, key, cover, faults)
    entries = {k: v for k, v in tree.entries.items() if k not in _COVER_KEYS}
    if "value" in entries:
        for extra in sorted(set(entries) - {"value"}):
            message = "unknown key; beside 'value' only source and confidence may stand"
            faults.append(Fault(entries[extra].position, f"{key}.{extra}", message))
        return _cover(replace(entries["value"], position=tree.position), key, source, faults, cover)
    covered = {k: _cover(v, f"{key}.{k}" if key else k, source, faults, cover) for k, v in entries.items()}
    return replace(tree, entries=covered)


def _stated(tree: Branch, key: str, cover: tuple[str, str], faults: list[Fault]) -> tuple[str, str]:
    stated = list(cover)
    for i, name in enumerate(_COVER_KEYS):
        leaf = tree.entries.get(name)
        if leaf is None:
            continue
        value = leaf.value if isinstance(leaf, Leaf) else None
        path = f"{key}.{name}" if key else name
        if not isinstance(value, str) or not value.strip():
            faults.append(Fault(leaf.position, path, f"must be text, not {describe(leaf)}"))
        elif name == "confidence" and value not in CONFIDENCES:
            faults.append(Fault(leaf.position, path, f"{value!r} is not one of {', '.join(CONFIDENCES)}"))
        else:
            stated[i] = value
    return stated[0], stated[1]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ---- overrides


def _override(tree: Tree, text: str, faults: list[Fault]) -> Tree:
    """Apply one `key.path=value`; the value is YAML, and a number in the path is the index of a list item."""
    place = Position(f"override {text!r}")
    path, equals, value_text = text.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not value_text.strip() or not all(keys):
        faults.append(Fault(place, "", "is not key.path=value, as in core.matrix.rows=64"))
        return tree
    try:
        value, found = parse(value_text, "value")
    except ConfigError as error:
        faults.append(Fault(place, "", f"the value cannot be read: {error}"))
        return tree
    wrong = [replace(fault, position=place) for fault in found] or _wrong_key(tree, keys, place)
    if wrong:
        faults += wrong
        return tree
    delta = _placed(value, place)
    for key in reversed(keys):
        delta = Branch({key: delta}, place)
    return _merge(tree, _expand_parts(delta, None, faults))


def _idle(memory: Memory, overrides: Sequence[str]) -> list[Fault]:
    """The figures of overrides that change nothing, unless the switch because of which they do not is an override too:
    whoever states it toggles it. A file may hold figures for another choice."""
    given: dict[str, str] = {}  # the last override of each key path
    for text in overrides:
        path, _, value = text.partition("=")
        for key, leaf in _leaves(parse(value, "value")[0], ".".join(part.strip() for part in path.split("."))):
            if leaf.value is not None:
                given[key] = text
    found = [(key, text, idle_reason(memory, key)) for key, text in given.items()]
    return [
        Fault(Position(f"override {text!r}"), key, f"does nothing: {idle[1]}")
        for key, text, idle in found if idle is not None and idle[0] not in given
    ]  # fmt: skip


def _wrong_key(tree: Tree, keys: Sequence[str], place: Position) -> list[Fault]:
    """The first key on the way along `keys` that the machine tree cannot have."""
    here: Tree | None = tree
    for depth, key in enumerate(keys):
        path, known = ".".join(keys[: depth + 1]), valid_keys(keys[:depth], root_of(tree))
        if known == []:
            return [Fault(place, path, f"{'.'.join(keys[:depth])} is a value, it has no keys")]
        if known is not None and key not in known:
            return [Fault(place, path, unknown_key(key, known))]
        if isinstance(here, Items) and key not in map(str, range(len(here.items))):
            return [Fault(place, path, f"there is no item {key!r}; the items are 0 to {len(here.items) - 1}")]
        here = _child(here, key)
    return []


def _placed(tree: Tree, place: Position) -> Tree:
    """Return `tree` with the override as its place and its source."""
    if isinstance(tree, Branch):
        return Branch({k: _placed(v, place) for k, v in tree.entries.items()}, place)
    if isinstance(tree, Items):
        return Items([_placed(item, place) for item in tree.items], place)
    return Leaf(tree.value, place, "override", NOT_STATED)


# ---- validation


def _validate(tree: Tree, faults: list[Fault], base: Tree | None, overrides: Sequence[str]) -> LoadedChip:
    """Build the chip; raise ConfigError with `faults` and those found here.

    Faults of a machine that is sound without its overrides (`base`) are theirs, wherever the figure stands.
    """
    try:
        chip = root_of(tree).model_validate(plain(tree), strict=True)
    except ValidationError as error:
        found = [fault for one in error.errors() for fault in _faults_of(one, tree)]
        if base is not None and not faults and _is_sound(base):
            found = [_blamed(fault, overrides) for fault in found]
        # A parent or part that could not be read leaves keys missing: its own fault says enough.
        faults = faults + [fault for fault in found if not faults or fault.message != MISSING]
        raise _combined(faults) from None
    if faults:
        raise _combined(faults)
    stated = {
        key: Provenance(leaf.value, leaf.source, leaf.confidence, leaf.position.file, leaf.position.line)
        for key, leaf in _leaves(tree, "")
        if isinstance(leaf.value, (int, float)) and not isinstance(leaf.value, bool)
    }
    for key, value in _numbers(chip.model_dump(), ""):
        stated.setdefault(key, Provenance(value, SCHEMA_DEFAULT, "inferred", "isa/machine.py", 0))
    return LoadedChip(chip, MappingProxyType(stated))


def _is_sound(tree: Tree) -> bool:
    try:
        root_of(tree).model_validate(plain(tree), strict=True)
    except ValidationError:
        return False
    return True


def _blamed(fault: Fault, overrides: Sequence[str]) -> Fault:
    """The fault at the overrides that share most of its key path, instead of at a line of a file."""
    if fault.position.file.startswith("override "):
        return fault

    def shared(text: str) -> int:
        keys = (text.partition("=")[0].split("."), fault.key.split("."))
        return next((i for i, pair in enumerate(zip(*keys)) if pair[0] != pair[1]), min(map(len, keys)))

    most = max(map(shared, overrides))
    named = ", ".join(repr(text) for text in overrides if shared(text) == most)
    return replace(fault, position=Position(f"override {named}"))


def _leaves(tree: Tree, key: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(tree, Leaf):
        yield key, tree
        return
    pairs = tree.entries.items() if isinstance(tree, Branch) else ((str(i), t) for i, t in enumerate(tree.items))
    for name, child in pairs:
        yield from _leaves(child, f"{key}.{name}" if key else name)


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int | float]]:
    if _is_number(value):
        yield key, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in pairs:
        yield from _numbers(child, f"{key}.{name}" if key else str(name))


def _faults_of(error: Any, tree: Tree) -> list[Fault]:
    """Say one pydantic error in our words; a validator of the whole machine reports `key.path: what` a line."""
    if error["type"] == "value_error" and not error["loc"]:
        lines = [line.partition(": ") for line in str(error["ctx"]["error"]).splitlines()]
        return [Fault(_place(tree, key.split(".")), key, message) for key, _, message in lines]
    keys = [str(key) for key in error["loc"] if key != "[key]"]
    if error["type"] == "extra_forbidden":
        message = unknown_key(keys[-1], valid_keys(tuple(keys[:-1]), root_of(tree)) or [])
    elif error["type"] == "missing":
        message = MISSING
    else:
        message = error_text(error, keys[-1] if keys else "")
    return [Fault(_place(tree, keys), ".".join(keys), message)]


def _child(tree: Tree | None, key: str) -> Tree | None:
    if isinstance(tree, Branch):
        return tree.entries.get(key)
    if isinstance(tree, Items) and key in map(str, range(len(tree.items))):
        return tree.items[int(key)]
    return None


def _place(tree: Tree, keys: Sequence[str]) -> Position:
    """The position of the deepest node on the way along `keys`."""
    for key in keys:
        child = _child(tree, key)
        if child is None:
            break
        tree = child
    return tree.position


def _combined(faults: Sequence[Fault]) -> ConfigError:
    ordered = sorted(set(faults), key=lambda fault: (fault.position, fault.key))
    return ConfigError("\n".join(map(str, ordered)))
