"""Programs as one file: magic, version, a JSON header, then the arrays as raw little-endian bytes.

    offset 0   b"NPUPROG" and one byte of version
           8   u4 bytes of header, u4 CRC-32 of everything that follows these 16 bytes
          16   header: JSON with names, tables, counts of the arrays
           ..  instrs, descs, launches, args

Version 1 had no blocks of threads; what it lacks is 0. Files may come from anywhere: every size is checked against the
file's before anything is allocated, and whatever is wrong raises ProgramError.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

from isa.errors import ProgramError
from isa.program import DESC, INSTR, LAUNCH, HostOp, Kernel, Operator, Program, Tensor

Array = npt.NDArray[Any]
T = TypeVar("T")

MAGIC = b"NPUPROG"
VERSION = 2
MAX_FILE_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 28
_PREFIX = struct.Struct("<7sBII")
Layout = tuple[tuple[str, np.dtype[Any]], ...]
_ARRAYS: Layout = (
    ("instrs", INSTR), ("descs", DESC), ("launches", LAUNCH), ("args", np.dtype("i8")),
)  # fmt: skip
# What version 1 did not have: the last fields of a launch, and a field of a kernel.
_NEW_IN_2 = ("block", "columns")
_LAUNCH_1 = np.dtype([(name, LAUNCH[name]) for name in LAUNCH.names or () if name not in _NEW_IN_2], align=True)
_ARRAYS_1 = tuple((name, _LAUNCH_1 if kind is LAUNCH else kind) for name, kind in _ARRAYS)
_KERNEL_1 = {"registers": 0}
_TABLES: tuple[tuple[str, type], ...] = (
    ("kernels", Kernel), ("tensors", Tensor), ("operators", Operator), ("host_ops", HostOp),
)  # fmt: skip


def save(program: Program, path: str | os.PathLike[str]) -> None:
    """Write a program to `path`, beside it first and then renamed; raises ProgramError above MAX_FILE_BYTES."""
    data = to_bytes(program)
    target = Path(path)
    handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, target)
    except BaseException:
        os.unlink(beside)
        raise


def load(path: str | os.PathLike[str]) -> Program:
    """Read a program written by `save`; raises ProgramError for anything that is not one."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise ProgramError(f"{path}: {size} bytes; a program file has at most {MAX_FILE_BYTES}")
            data = file.read(size + 1)
    except OSError as error:
        raise ProgramError(f"{path}: {error.strerror or error}") from None
    try:
        return from_bytes(data)
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from None


def to_bytes(program: Program) -> bytes:
    """Return the file content of a program."""
    header: dict[str, Any] = {
        "name": program.name,
        "machine": program.machine,
        "names": program.names,
        "memory_bytes": dict(program.memory_bytes),
        "counts": {name: len(getattr(program, name)) for name, _ in _ARRAYS},
    }
    for name, _ in _TABLES:
        header[name] = [_row(entry) for entry in getattr(program, name)]
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    arrays = [np.ascontiguousarray(getattr(program, name), kind.newbyteorder("<")) for name, kind in _ARRAYS]
    size = _PREFIX.size + len(text) + sum(array.nbytes for array in arrays)
    if size > MAX_FILE_BYTES or len(text) > MAX_HEADER_BYTES:
        raise ProgramError(f"program {program.name} takes {size} bytes; a file has at most {MAX_FILE_BYTES}")
    body = b"".join([text, *(array.tobytes() for array in arrays)])
    return _PREFIX.pack(MAGIC, VERSION, len(text), zlib.crc32(body)) + body


def from_bytes(data: bytes) -> Program:
    """Return the program of a file's content; raises ProgramError."""
    if len(data) < _PREFIX.size or data[: len(MAGIC)] != MAGIC:
        raise ProgramError("not a program file: it does not begin with NPUPROG")
    _, version, header_bytes, checksum = _PREFIX.unpack_from(data)
    if not 1 <= version <= VERSION:
        known = f"this release reads versions 1 to {VERSION}"
        raise ProgramError(f"program file version {version}; {known}: compile it again")
    if header_bytes > min(MAX_HEADER_BYTES, len(data) - _PREFIX.size):
        raise ProgramError(f"truncated: a header of {header_bytes} bytes in a file of {len(data)}")
    body = memoryview(data)[_PREFIX.size :]
    if zlib.crc32(body) != checksum:
        raise ProgramError("damaged: the checksum does not match; the file was truncated or changed")
    header = _header(bytes(body[:header_bytes]))
    fields: dict[str, Any] = {name: _value(header.get(name), hint, name) for name, hint in _HEADER_TYPES.items()}
    counts, old = fields.pop("counts"), version == 1
    arrays: dict[str, Any] = _split(body[header_bytes:], counts, _ARRAYS_1 if old else _ARRAYS)
    if old:
        arrays["launches"] = _widened(arrays["launches"])
    for name, kind in _TABLES:
        added = _KERNEL_1 if old and kind is Kernel else {}
        fields[name] = tuple(_entry(row, kind, f"{name}[{i}]", added) for i, row in enumerate(fields[name]))
    return Program(**arrays, **fields)


_HEADER_TYPES: dict[str, Any] = {
    "name": str, "machine": str, "names": tuple[str, ...], "memory_bytes": Mapping[str, int],
    "counts": Mapping[str, int], **{name: list for name, _ in _TABLES},
}  # fmt: skip
_HINTS = {kind: get_type_hints(kind) for _, kind in _TABLES}


def _row(entry: Any) -> dict[str, Any]:
    row = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in row.items()}


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"damaged header: {error}") from None
    if not isinstance(header, dict):
        raise ProgramError("damaged header: it is not an object")
    return header


def _split(body: memoryview, counts: Mapping[str, int], kinds: Layout) -> dict[str, Array]:
    """Cut the arrays out of the file's rest, whose size must be exactly theirs."""
    needed = {name: counts.get(name, -1) * kind.itemsize for name, kind in kinds}
    if min(needed.values()) < 0 or sum(needed.values()) != len(body):
        raise ProgramError(f"the arrays should take {sum(needed.values())} bytes, the file holds {len(body)}")
    arrays, position = {}, 0
    for name, kind in kinds:
        part = body[position : position + needed[name]]
        arrays[name] = np.frombuffer(part, kind.newbyteorder("<")).astype(kind)
        position += needed[name]
    return arrays


def _widened(launches: Array) -> Array:
    """Launches of version 1 as they are now."""
    found: Array = np.zeros(len(launches), LAUNCH)
    for name in _LAUNCH_1.names or ():
        found[name] = launches[name]
    return found


def _entry(row: Any, kind: type[T], where: str, added: Mapping[str, Any]) -> T:
    """Build a Kernel, Tensor, Operator or HostOp from its JSON object, which lacks the fields in `added`."""
    hints = {name: hint for name, hint in _HINTS[kind].items() if name not in added}
    if not isinstance(row, dict) or set(row) != set(hints):
        raise ProgramError(f"damaged header: {where} does not hold exactly {', '.join(hints)}")
    return kind(**{name: _value(row[name], hint, f"{where}.{name}") for name, hint in hints.items()}, **added)


def _value(value: Any, hint: Any, where: str) -> Any:
    """Check a JSON value against a type: a scalar, tuple[T, ...], Mapping[str, int] or list."""
    origin = getattr(hint, "__origin__", None)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(item, hint.__args__[0], where) for item in value)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: _value(item, int, where) for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is hint and not (hint is int and not -(1 << 63) <= value < 1 << 63):
        return value
    raise ProgramError(f"damaged header: {where} is {str(value)[:40]!r}, expected {getattr(hint, '__name__', hint)}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
