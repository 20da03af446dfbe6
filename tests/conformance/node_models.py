"""The node models that the `onnx` package ships: loading them, and judging one on a machine."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compiler.frontend import load_model
from compiler.frontend.onnx_load import OPSETS
from compiler.graph import Graph
from compiler.ops import run_graph
from isa.errors import NpuError
from isa.loader import load_machine
from isa.machine import Machine
from isa.program import LAUNCH_ESTIMATE
from npusim.api import compile as compile_model
from npusim.check import check

# Inputs that a static compiler must know while it imports.
CONSTANT_INPUTS: dict[str, tuple[int, ...]] = {
    "CenterCropPad": (1,), "ConstantOfShape": (0,), "CumSum": (1,), "Dropout": (1, 2), "Expand": (1,), "OneHot": (1,),
    "Pad": (1, 2, 3), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4), "Split": (1,),
    "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,),
    **{f"Reduce{kind}": (1,) for kind in (
        "Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")},
}  # fmt: skip


@dataclass(frozen=True)
class NodeModel:
    """A model of one node (or of a function written out), its feeds and the outputs that ONNX expects."""

    name: str
    op: str
    model: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@cache
def node_models() -> dict[str, NodeModel]:
    """Every node model by name, without its 'test_'; loading takes some seconds."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    found = dict(_cases(cases))
    return {name: found[name] for name in sorted(found)}


def _cases(cases: list[Any]) -> Iterator[tuple[str, NodeModel]]:
    ops = {c.name: c.model.graph.node[0].op_type for c in cases if c.model and c.model.graph.node}
    for case in cases:
        if not case.model or not case.data_sets or not case.model.graph.node:
            continue
        name = case.name.removeprefix("test_")
        op = ops[case.name.split("_expanded")[0]] if "_expanded" in name else ops[case.name]
        given, expected = case.data_sets[0]
        yield name, NodeModel(name, op, case.model, tuple(map(_array, given)), tuple(map(_array, expected)))


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def imported(found: NodeModel) -> tuple[Graph, dict[str, Any]]:
    """The graph and its feeds, with the inputs of CONSTANT_INPUTS as initialisers."""
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    for entry in model.opset_import:
        entry.version = min(entry.version, OPSETS[1]) if entry.domain in ("", "ai.onnx") else entry.version
    fixed = _fixed_names(found)
    feeds = dict(zip((i.name for i in model.graph.input), found.inputs))
    for name in fixed & feeds.keys():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(feeds.pop(name)), name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{found.name}.onnx"
        onnx.save(model, str(path))
        return load_model(str(path)), feeds


def _fixed_names(found: NodeModel) -> set[str]:
    """Names of the inputs that become constants; a function written out has its node's input names."""
    names = [i.name for i in found.model.graph.input]
    base = node_models().get(found.name.split("_expanded")[0]) if "_expanded" in found.name else found
    order = base.model.graph.node[0].input if base is not None else names
    return {order[i] for i in CONSTANT_INPUTS.get(found.op, ()) if i < len(order)}


@cache
def machine(name: str) -> Machine:
    """A preset, loaded once."""
    return load_machine(name).machine


def verdict(found: NodeModel, hw: str) -> str:
    """'' when the model passes on a machine, else the stage that fails and why."""
    try:
        graph, feeds = imported(found)
    except NpuError as error:
        return f"import: {error}"
    wrong = _reference(graph, feeds, found)
    if wrong:
        return f"reference: {wrong}"
    try:
        return program_faults(graph, feeds, hw)
    except NpuError as error:
        return f"compile: {type(error).__name__}: {error}"


def _reference(graph: Graph, feeds: Mapping[str, Any], found: NodeModel) -> str:
    """What differs between our reference and the expected outputs."""
    got = run_graph(graph, feeds)
    names = [o.name for o in found.model.graph.output]
    for name, wanted in zip(names, found.outputs):
        mine, theirs = np.asarray(got[name]), np.asarray(wanted)
        if mine.shape != theirs.shape:
            return f"{name} has shape {list(mine.shape)}, not {list(theirs.shape)}"
        close = 2e-2 if theirs.dtype.itemsize < 4 and theirs.dtype.kind not in "iub" else 1e-3
        a, b = mine.astype(np.float64), theirs.astype(np.float64)
        if not np.allclose(a, b, rtol=close, atol=1e-5, equal_nan=True):
            return f"{name} differs by up to {np.nanmax(np.abs(a - b))}"
    return ""


def _rewritten(graph: Graph, after: Graph, feeds: Mapping[str, Any]) -> str:
    """What the passes changed in the values of a graph."""
    wanted, got = run_graph(graph, feeds), run_graph(after, feeds)
    for name in graph.outputs:
        a, b = (np.asarray(v[name]).astype(np.float64) for v in (wanted, got))
        close = 2e-2 if np.asarray(wanted[name]).dtype.itemsize < 4 else 1e-3
        if a.shape != b.shape or not np.allclose(a, b, rtol=close, atol=1e-4, equal_nan=True):
            return f"passes: {name} is not what the graph says"
    return ""


def program_faults(graph: Graph, feeds: dict[str, Any], hw: str) -> str:
    """What is wrong with the program: approximated operators, wrong values, hazards."""
    compilation = compile_model(graph, machine(hw))
    program = compilation.built.program
    launches = zip(program.launches, program.operators)
    estimated = [o.op_type for x, o in launches if int(x["kind"]) == LAUNCH_ESTIMATE]
    if estimated:
        reasons = "; ".join(compilation.built.assumptions)
        return f"approximated: {', '.join(estimated)} ({reasons})"
    rewritten = _rewritten(graph, compilation.reference, feeds)
    if rewritten:
        return rewritten
    result = check(compilation, machine(hw), feeds)
    if result.hazards:
        return f"hazard: {result.hazards[0]}"
    bad = [r for r in result.rows if not r["ok"]]
    return f"values: {bad[0]['op']} {bad[0]['worst']} (bound {bad[0]['bound']:.3g})" if bad else ""
