"""Number formats: the one table of names, sizes, rounding and limits that every package shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from isa.errors import ConfigError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DType:
    """One number format: `code` is its id in instructions, `bits` its storage size, `numpy` the type that holds it."""

    name: str
    code: int
    bits: int
    numpy: np.dtype[Any]
    is_float: bool
    mantissa_bits: int  # explicit fraction bits; 0 for integers

    @property
    def size_bytes(self) -> int:
        """Storage of one element in bytes; formats below 8 bits are stored one a byte in npusim's memories."""
        return max(1, self.bits // 8)


# fmt: off
_ROWS = [
    #  name      code bits numpy type                             float  fraction bits
    ("fp32",       0, 32, np.dtype(np.float32),                   True,  23),
    ("fp16",       1, 16, np.dtype(np.float16),                   True,  10),
    ("bf16",       2, 16, np.dtype(ml_dtypes.bfloat16),           True,  7),
    ("tf32",       3, 32, np.dtype(np.float32),                   True,  10),
    ("fp8_e4m3",   4, 8,  np.dtype(ml_dtypes.float8_e4m3fn),      True,  3),
    ("fp8_e5m2",   5, 8,  np.dtype(ml_dtypes.float8_e5m2),        True,  2),
    ("int8",       6, 8,  np.dtype(np.int8),                      False, 0),
    ("int4",       7, 4,  np.dtype(ml_dtypes.int4),               False, 0),
    ("int32",      8, 32, np.dtype(np.int32),                     False, 0),
    ("int64",      9, 64, np.dtype(np.int64),                     False, 0),
    ("uint8",     10, 8,  np.dtype(np.uint8),                     False, 0),
    ("bool",      11, 8,  np.dtype(np.bool_),                     False, 0),
    ("fp64",      12, 64, np.dtype(np.float64),                   True,  52),
    ("int16",     13, 16, np.dtype(np.int16),                     False, 0),
]
# fmt: on

DTYPES: dict[str, DType] = {row[0]: DType(*row) for row in _ROWS}
BY_CODE: dict[int, DType] = {d.code: d for d in DTYPES.values()}


def dtype(name: str) -> DType:
    """Return the format called `name`; raises ConfigError that lists the known names."""
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype {name!r}; known: {', '.join(DTYPES)}")
    return DTYPES[name]


def from_numpy(numpy_type: Any) -> DType:
    """Return the format whose storage type is `numpy_type`; raises ConfigError when there is none."""
    wanted = np.dtype(numpy_type)
    for candidate in DTYPES.values():
        if candidate.numpy == wanted and candidate.name != "tf32":
            return candidate
    raise ConfigError(f"no npusim dtype for numpy type {wanted}")


def round_to(values: Array, target: DType) -> Array:
    """Round real values to `target` and return them in its storage type.

    Floats round to nearest even; fp8_e4m3 saturates at 448 (OCP OFP8, saturating mode); integers round half to even
    and saturate, as in ONNX QuantizeLinear; tf32 keeps 10 fraction bits in fp32 storage.
    """
    if target.name == "tf32":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
        tf32: Array = rounded.view(np.float32)
        return tf32
    if target.name == "bool":
        return np.not_equal(values, 0)
    if target.is_float:
        limited = np.clip(values, -448.0, 448.0) if target.name == "fp8_e4m3" else values
        return np.asarray(limited).astype(target.numpy)
    info: Any = ml_dtypes.iinfo(target.numpy)  # type: ignore[no-untyped-call]
    source = np.asarray(values)
    exact = source if source.dtype.kind in "iub" else np.rint(source.astype(np.float64))
    limited = np.clip(exact, info.min, info.max)
    return np.asarray(limited).astype(target.numpy)
