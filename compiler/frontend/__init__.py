"""Front ends: every way that a model can be given becomes a Graph."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from compiler.graph import Graph
from isa.errors import ModelError

__all__ = ["load_model"]


def load_model(spec: str, shapes: Mapping[str, tuple[int, ...]] | None = None, batch: int | None = None) -> Graph:
    """Return the graph of an `.onnx`, `.npu` or `.yaml` file, a SCALE-Sim `.csv` topology, or a zoo model by name.

    `shapes` and `batch` are those of `npusim run`. Raises ModelError when the file or the name does not exist, or when
    an option does not apply.
    """
    suffix = Path(spec).suffix.lower()
    if suffix == ".onnx":
        from compiler.frontend.onnx_import import import_onnx

        return import_onnx(Path(spec), shapes=dict(shapes or {}), batch=batch)
    if shapes:
        raise ModelError(f"--shape applies to .onnx files only, not to {spec!r}")
    if suffix == ".csv":
        from compiler.frontend.scalesim_csv import import_scalesim

        if batch not in (None, 1):
            raise ModelError(f"--batch {batch} does not apply to {spec!r}: a topology file fixes every extent")
        return import_scalesim(Path(spec))
    if suffix in (".npu", ".yaml", ".yml"):
        from compiler.frontend.native import import_native

        if batch not in (None, 1):
            raise ModelError(f"--batch {batch} does not apply to {spec!r}: the file fixes every extent")
        return import_native(Path(spec))
    # Imported by name: the zoo is built on this package, and only a zoo run needs it.
    graph: Graph = importlib.import_module("compiler.zoo").build(spec, batch)
    return graph
