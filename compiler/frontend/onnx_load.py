"""Reads an ONNX file into a checked ModelProto, and its tensors into (lazy) constants. The file is not trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compiler.frontend.builder import check_size
from compiler.graph import Array, Constant, TensorType
from isa.dtypes import dtype as dtype_of
from isa.errors import ModelError

MAX_FILE_BYTES = 8 << 30
OPSETS = (7, 24)

# fmt: off
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "fp64",
    TensorProto.FLOAT8E4M3FN: "fp8_e4m3", TensorProto.FLOAT8E5M2: "fp8_e5m2",
    TensorProto.INT4: "int4", TensorProto.INT8: "int8", TensorProto.INT16: "int16", TensorProto.INT32: "int32",
    TensorProto.INT64: "int64", TensorProto.UINT8: "uint8", TensorProto.BOOL: "bool",
}
_FIELDS = {"fp32": "float_data", "fp64": "double_data", "int64": "int64_data"}  # all others: int32_data
# fmt: on


def dtype_name(code: int, what: str) -> str:
    """Return the npusim dtype of an ONNX element type; raises ModelError naming `what` when there is none."""
    if code not in DTYPES:
        known = TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else f"number {code}"
        raise ModelError(
            f"{what} has element type {known}, which is not supported; supported: {', '.join(DTYPES.values())}"
        )
    return DTYPES[code]


def load_proto(path: Path) -> tuple[Any, dict[str, int]]:
    """Return the model with its local functions inlined and its opset by domain.

    Raises ModelError when the file is missing, larger than MAX_FILE_BYTES, truncated, not ONNX, or of an opset outside
    OPSETS.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if size_bytes > MAX_FILE_BYTES:
        raise ModelError(f"{path}: {size_bytes} bytes, the limit is {MAX_FILE_BYTES}: store weights as external data")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own DecodeError, whose class moves between versions
        raise ModelError(f"{path}: not an ONNX model, or truncated ({type(error).__name__}: {error})") from None
    if not model.HasField("graph") or not model.opset_import or not (model.graph.node or model.graph.output):
        raise ModelError(f"{path}: not an ONNX model, or truncated: it has no graph or no opset ({size_bytes} bytes)")
    if not all(isinstance(text, str) for text in _texts(model.graph)):
        raise ModelError(f"{path}: damaged: a name in it is not valid UTF-8")
    if model.functions:
        model = _inlined(model, path)
    opsets = {_domain(entry.domain): int(entry.version) for entry in model.opset_import}
    version = opsets.get("", OPSETS[0])
    if not OPSETS[0] <= version <= OPSETS[1]:
        raise ModelError(
            f"{path}: opset {version} is outside {OPSETS[0]}..{OPSETS[1]}; convert it with onnx.version_converter"
        )
    return model, opsets


def _texts(graph: Any) -> Iterator[Any]:
    """Every name in a graph and its subgraphs; protobuf returns bytes for one that is not UTF-8."""
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            yield from (text for entry in attribute.t.external_data for text in (entry.key, entry.value))
            yield attribute.t.name
            if attribute.HasField("g"):
                yield from _texts(attribute.g)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _inlined(model: Any, path: Path) -> Any:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise ModelError(f"{path}: its local functions cannot be inlined: {error}") from None


def tensor_constant(tensor: Any, folder: Path) -> Constant:
    """Return a TensorProto as a constant whose values are read when asked for; stripped when they do not exist.

    Raises ModelError for unsupported types, sizes beyond the limit, data of the wrong length and unsafe external paths.
    """
    if not isinstance(tensor, TensorProto):
        raise ModelError(f"an attribute holds {type(tensor).__name__} where a tensor is needed: the file is damaged")
    what = f"tensor {tensor.name!r}"
    if tensor.HasField("segment"):
        raise ModelError(f"{what} is stored in segments, which is not supported; store it whole")
    dtype = dtype_name(tensor.data_type, what)
    shape = tuple(int(d) for d in tensor.dims)
    check_size(tensor.name, shape)
    kind = TensorType(shape, dtype)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, kind, folder)
    stored = _stored_count(tensor, kind, what)
    if stored == 0 and kind.elements > 0:
        return Constant(kind, None)
    storage = dtype_of(dtype).numpy
    return Constant(kind, lambda: np.asarray(numpy_helper.to_array(tensor)).astype(storage, copy=False))


def _packed(kind: TensorType) -> int:
    """Stored units of a tensor: int4 packs two elements."""
    return (kind.elements + 1) // 2 if kind.dtype == "int4" else kind.elements


def _stored_count(tensor: Any, kind: TensorType, what: str) -> int:
    """Number of stored values; raises ModelError unless it is right or 0."""
    unit = 1 if kind.dtype == "int4" else dtype_of(kind.dtype).size_bytes
    if tensor.HasField("raw_data"):
        found, wanted, label = len(tensor.raw_data), _packed(kind) * unit, "bytes"
    else:
        field = getattr(tensor, _FIELDS.get(kind.dtype, "int32_data"))
        found, wanted, label = len(field), _packed(kind), "values"
    if found not in (0, wanted):
        raise ModelError(f"{what} ({kind}) holds {found} {label}, {wanted} are needed: the file is damaged")
    return found


def _external(tensor: Any, kind: TensorType, folder: Path) -> Constant:
    what = f"tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(entries.get("location", ""), folder, what)
    if not path.is_file():
        return Constant(kind, None)
    wanted = _packed(kind) * (1 if kind.dtype == "int4" else dtype_of(kind.dtype).size_bytes)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or wanted)
    except ValueError:
        raise ModelError(f"{what}: external offset and length must be integers, not {entries}") from None
    size_bytes = path.stat().st_size
    if length != wanted or offset < 0 or offset + length > size_bytes:
        raise ModelError(
            f"{what} ({kind}) needs {wanted} bytes; {path.name} has {size_bytes}, the model points at {offset}+{length}"
        )
    return Constant(kind, lambda: _read(path, offset, length, kind))


def _read(path: Path, offset: int, length: int, kind: TensorType) -> Array:
    if length == 0:
        return np.zeros(kind.shape, dtype_of(kind.dtype).numpy)
    raw = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
    if kind.dtype == "int4":  # two elements a byte, low nibble first
        nibbles = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[: kind.elements].astype(np.int8)
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype(dtype_of("int4").numpy).reshape(kind.shape)
    return np.asarray(raw.view(dtype_of(kind.dtype).numpy)).reshape(kind.shape)


def _inside(location: str, folder: Path, what: str) -> Path:
    """Return the path of external data; raises ModelError when it leaves the model's folder."""
    parts = location.replace("\\", "/").split("/")
    root = folder.resolve()
    if not location or os.path.isabs(location) or ".." in parts or "\0" in location or ":" in parts[0]:
        raise ModelError(f"{what}: external data {location!r} must be a relative path inside the model's folder")
    path = root / location
    if not path.resolve().is_relative_to(root):
        raise ModelError(f"{what}: external data {location!r} leads outside the model's folder {root}")
    return path
