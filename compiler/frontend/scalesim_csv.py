"""SCALE-Sim topology files: one layer a row, as in scalesim-v2 `topologies/`.

Convolution form: Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides.
GEMM form: Layer, M, N, K. Rows are independent: each layer has its own input. No padding, as SCALE-Sim has none
(its IFMAP extents include it). Weights are lazy He-normal values seeded by the layer's name.
"""

from __future__ import annotations

import csv
import math
import re
import zlib
from pathlib import Path

import numpy as np

from compiler.frontend.builder import Builder
from compiler.graph import Array, Constant, Graph, TensorType
from isa.errors import ModelError

MAX_ROWS = 10_000
MAX_FILE_BYTES = 16 << 20
_GEMM = ("M", "N", "K")
_CONV = ("IFMAP Height", "IFMAP Width", "Filter Height", "Filter Width", "Channels", "Num Filter", "Strides")


def import_scalesim(path: Path) -> Graph:
    """Import a topology CSV; raises ModelError naming line, column and value of the first fault."""
    file = Path(path)
    rows = _rows(file)
    if not rows:
        raise ModelError(f"{file}: empty; expected a header line and one layer a line")
    (_, header), *layers = rows
    form = _form(file, header)
    builder, outputs = Builder(file.stem), []
    for line, row in layers:
        numbers = _numbers(file, line, row, form)
        name = builder.fresh(re.sub(r"[^\w.-]", "_", row[0]) or f"layer{line}")
        add = _gemm if form is _GEMM else _conv
        try:
            outputs.append(add(builder, name, numbers))
        except ModelError as error:
            raise ModelError(f"{file}:{line}: {error}") from None
    if not outputs:
        raise ModelError(f"{file}: no layers below the header")
    return builder.finish(outputs)


def _rows(file: Path) -> list[tuple[int, list[str]]]:
    """Non-empty rows with their line numbers, cells stripped, the customary trailing comma removed."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{file}: larger than {MAX_FILE_BYTES} bytes, not a topology file")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from None
    rows = []
    for line, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            rows.append((line, cells))
    if len(rows) > MAX_ROWS:
        raise ModelError(f"{file}: {len(rows)} rows, the limit is {MAX_ROWS}")
    return rows


def _form(file: Path, header: list[str]) -> tuple[str, ...]:
    titles = [title.lower() for title in header[1:]]
    if titles[:3] == ["m", "n", "k"]:
        return _GEMM
    if len(titles) >= 7 and "filter" in " ".join(titles):
        return _CONV
    raise ModelError(f"{file}:1: header {header} is neither Layer,{','.join(_GEMM)} nor Layer name,{','.join(_CONV)}")


def _numbers(file: Path, line: int, row: list[str], form: tuple[str, ...]) -> list[int]:
    if len(row) < len(form) + 1:
        raise ModelError(f"{file}:{line}: {len(row)} columns, {len(form) + 1} are needed: name, {', '.join(form)}")
    found = []
    for label, text in zip(form, row[1:]):
        if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) < 1:
            raise ModelError(f"{file}:{line}: {label} is {text!r}, must be a positive integer")
        found.append(int(text))
    return found


def _he_normal(name: str, shape: tuple[int, ...], fan_in: int) -> Constant:
    """Weights of variance 2 / fan_in (He et al. 2015), seeded by the name, built when asked for."""

    def build() -> Array:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        values = random.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2.0 / fan_in))
        return np.asarray(values, dtype=np.float32)

    return Constant(TensorType(shape, "fp32"), build)


def _conv(b: Builder, name: str, numbers: list[int]) -> str:
    height, width, kernel_h, kernel_w, channels, maps, stride = numbers
    x = b.input(f"{name}.ifmap", TensorType((1, channels, height, width), "fp32"))
    weight = _he_normal(name, (maps, channels, kernel_h, kernel_w), channels * kernel_h * kernel_w)
    w = b.constant(f"{name}.filter", weight)
    attrs = {
        "kernel_shape": (kernel_h, kernel_w),
        "strides": (stride, stride),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "group": 1,
    }
    return b.emit(name, "Conv", [x, w], [name], attrs)


def _gemm(b: Builder, name: str, numbers: list[int]) -> str:
    rows, cols, inner = numbers
    a = b.input(f"{name}.a", TensorType((rows, inner), "fp32"))
    w = b.constant(f"{name}.b", _he_normal(name, (inner, cols), inner))
    return b.emit(name, "MatMul", [a, w], [name])
