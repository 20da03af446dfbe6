"""What a model means without this compiler: its outputs as imported, before any pass, and from an ONNX runtime.

The operators of a program are checked one by one against the graph that the passes left (npusim.check). Here that graph
is held against the model itself, end to end in the model's own formats: a pass that changes what a model computes, or
an import that misread it, fails the check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.graph import Graph
from compiler.ops import run_graph
from isa.dtypes import dtype

Array = npt.NDArray[Any]
# Of the largest magnitude of an output: what other orders of summation and folded constants may cost.
FLOAT_TOLERANCE = 2.0**-10
NARROW_TOLERANCE = 2.0**-4  # the model itself has 16-bit floats or quantisation steps, which may fall either way
INTEGER_SHARE = 1e-3  # of integer outputs (indices of maxima, comparisons) that may differ: near ties
QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "DynamicQuantizeLinear")


def compare_models(
    model: str | None, graph: Graph, optimised: Graph, feeds: Mapping[str, Array]
) -> list[dict[str, Any]]:
    """Rows for `CheckResult.rows`: the optimised graph against the imported one, and that against an ONNX runtime.

    `model` is the path of an ONNX file, None for models built otherwise. `feeds` are real-valued inputs.
    """
    imported = run_graph(graph, feeds)
    tolerance = NARROW_TOLERANCE if _is_coarse(graph) else FLOAT_TOLERANCE
    rows = _rows(graph, run_graph(optimised, feeds), imported, tolerance, "passes")
    if model is None:
        return rows
    judged: list[dict[str, Any]] = []
    for name, run in (("onnxruntime", _onnxruntime), ("onnx.reference", _onnx_reference)):
        outputs = run(Path(model), graph, feeds)
        if outputs is None:
            continue
        found = _rows(graph, imported, outputs, tolerance, name)
        if all(row["ok"] for row in found):  # where runtimes deviate from the specification, the reference decides
            return [*rows, *found]
        judged = found
    return [*rows, *judged]


def _is_coarse(graph: Graph) -> bool:
    kinds = {kind.dtype for kind in graph.tensors.values() if dtype(kind.dtype).is_float}
    return any(dtype(kind).bits < 32 for kind in kinds) or any(node.op in QUANTISERS for node in graph.nodes)


def _rows(
    graph: Graph, got: Mapping[str, Array], truth: Mapping[str, Array], tolerance: float, by: str
) -> list[dict[str, Any]]:
    rows = []
    for name in graph.outputs:
        a, b = np.asarray(got[name]), np.asarray(truth[name]).reshape(graph.tensors[name].shape)
        if not a.size:
            continue
        if dtype(graph.tensors[name].dtype).is_float:
            error, bound = _float_error(a.astype(np.float64), b.astype(np.float64), tolerance)
        else:
            error, bound = float(np.mean(a != b)), INTEGER_SHARE
        ok = error <= bound
        worst = "" if ok else f"{name} is {error:.3g} away from {by}, at most {bound:.3g} may be"
        rows.append({"name": name, "op": by, "ok": ok, "max_err": error, "bound": bound, "worst": worst})
    return rows


def _float_error(a: Array, b: Array, tolerance: float) -> tuple[float, float]:
    """(largest distance, what is allowed); infinities and NaN must stand in the same places."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(a - b))
    error = float(np.max(np.where(np.isnan(distance), np.inf, distance), initial=0.0))
    largest = float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0))
    return error, tolerance * max(largest, 2.0**-20)


def _typed(feeds: Mapping[str, Array], inputs: Any) -> dict[str, Array]:
    from onnx.helper import tensor_dtype_to_np_dtype

    kinds = {i.name: tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in inputs}
    return {name: np.asarray(value).astype(kinds[name]) for name, value in feeds.items() if name in kinds}


def _onnxruntime(path: Path, graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    """Outputs by onnxruntime, None when it is not installed or cannot run the model (or not in these shapes)."""
    try:
        import onnxruntime
    except ImportError:
        return None
    import onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        typed = _typed(feeds, onnx.load(str(path), load_external_data=False).graph.input)
        return dict(zip(graph.outputs, session.run(list(graph.outputs), typed)))
    except Exception:  # its errors have no common class; the other runtime, or none, judges
        return None


def _onnx_reference(path: Path, graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    """Outputs by onnx.reference, None when it cannot run the model."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        model = onnx.load(str(path))
        outputs = ReferenceEvaluator(model).run(list(graph.outputs), _typed(feeds, model.graph.input))
        return {name: np.asarray(value) for name, value in zip(graph.outputs, outputs)}
    except Exception:  # operators or shapes that it does not know
        return None
