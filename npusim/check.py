"""`--check`: the program that was timed is executed for its values and compared, operator by operator, with numpy.

Each operator's reference starts from the program's own inputs to it and rounds where the program rounds, so an error
cannot hide behind an earlier one. The bound is |err| <= 1 ulp of every rounding on the way + 2 K eps sum |a||b| for the
accumulation of a contraction (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import layouts
from compiler.build import VIEWS, Built, Group, groups_of, is_view, strided_views
from compiler.compile import Compilation
from compiler.graph import Graph, Node, TensorType
from compiler.ops import op_def, run_graph
from isa.dtypes import DType, dtype, round_to
from isa.machine import Machine
from isa.program import LAUNCH_HOST, LAUNCH_KERNEL, HostOp, Tensor
from npusim.functional import execute
from npusim.hazards import check_hazards
from npusim.inputs import initial, real, stored
from npusim.record import CheckResult
from npusim.truth import compare_models

Array = npt.NDArray[Any]
CONTRACTIONS = ("Conv", "MatMul")
MUST_EXECUTE = ("complex", "elementwise", "unknown")  # operator classes that may not be approximated
EXECUTED_SHARE = 0.95
GROWTH = 1.2  # bound on the slope of every activation of the ISA (GELU: 1.13)
INTERNAL_EPS = 2.0**-16  # relative error of a normalisation's or softmax's fp32 arithmetic, rows up to 64 K elements


def check(
    compilation: Compilation, machine: Machine, feeds: Mapping[str, Array], allow_approx: bool = False,
    source: tuple[str | None, Graph] | None = None,
) -> CheckResult:  # fmt: skip
    """Execute and compare; see the module's docstring. `feeds` are real-valued graph inputs.

    `source` is what was compiled, the path of its ONNX file (if it came from one) and the graph before any pass: the
    passes' result is compared with it as `npusim.truth` says.
    """
    built, graph = compilation.built, compilation.graph
    start = initial(built, dict(feeds))
    host = _host_function(built, graph, machine)
    values = execute(built.program, machine, start, host, keep=lambda t: t.role in ("temp", "output"))
    tensors = _Tensors(built, start | values.tensors, machine.core.matrix.multiply_as)
    rows = [_compare(graph, group, tensors) for group in groups_of(graph)]
    rows = [r for r in rows if r]
    if source is not None:
        rows += compare_models(*source, compilation.reference, feeds)
    share, refused = executed_share(built, graph)
    outputs = _outputs(compilation, tensors, feeds)
    hazards = tuple(f.message for f in check_hazards(built.program, machine))
    worst = max(rows, key=lambda r: r["max_err"] / max(r["bound"], 1e-30), default={"max_err": 0.0, "bound": 0.0})
    complete = allow_approx or (share >= EXECUTED_SHARE and not refused)
    ok = all(r["ok"] for r in rows) and complete and not hazards
    return CheckResult(ok, float(worst["max_err"]), float(worst["bound"]), share, outputs, hazards, tuple(rows))


class _Tensors:
    """Real values of graph tensors: what the program left in memory, constants, and views of either."""

    def __init__(self, built: Built, found: Mapping[str, Array], multiply_as: Mapping[str, str]) -> None:
        self.built, self.found, self.multiply_as = built, dict(found), multiply_as
        self.views = {n.outputs[0]: n.inputs[0] for n in built.graph.nodes if n.op in VIEWS}
        strided = strided_views(built.graph)
        self.turned = {n.outputs[0]: n for n in built.graph.nodes if n.outputs[0] in strided}

    def __contains__(self, name: str) -> bool:
        return self._root(name) in self.found

    def _root(self, name: str) -> str:
        while name in self.views or name in self.turned:
            name = self.views[name] if name in self.views else self.turned[name].inputs[0]
        return name

    def raw(self, name: str) -> Array:
        """Stored values in the shape of the graph tensor."""
        if name in self.turned:
            turn = self.turned[name]
            return np.transpose(self.raw(turn.inputs[0]), turn.attrs["perm"])
        if name in self.views:
            values = self.raw(self.views[name])
        else:
            values = self.found[name] if name in self.found else self.built.constants[name].value()
        return np.asarray(values).reshape(self.built.graph.tensors[name].shape)

    def real(self, name: str) -> Array:
        """Real values."""
        return real(self.raw(name), self.built.graph.tensors[name])


def _host_function(built: Built, graph: Graph, machine: Machine) -> Any:
    """The callback for operators without a kernel: the reference on stored values."""
    nodes = {n.name: n for n in graph.nodes}

    def compute(op: HostOp, given: list[tuple[Tensor, Array]]) -> list[Array]:
        known = {t.name: np.asarray(v) for t, v in given}
        tensors = _Tensors(built, known, machine.core.matrix.multiply_as)
        made: dict[str, Array] = {}
        for name in op.node_names:
            for out, value, _ in evaluate(graph, nodes[name], tensors, made):
                made[out] = value
        wanted = {built_root(built, out): value for out, value in made.items()}
        return [stored(wanted[o], graph.tensors[o]).reshape(graph.tensors[o].shape) for o in op.outputs]

    return compute


def built_root(built: Built, name: str) -> str:
    """The tensor whose storage `name` shares."""
    return _Tensors(built, {}, {})._root(name)


def evaluate(
    graph: Graph, node: Node, tensors: _Tensors, made: Mapping[str, Array]
) -> list[tuple[str, Array, Array | None]]:
    """(output, rounded real value, sum |a||b| of a contraction or None) of one node; `made` overrides tensors."""
    given = [None if not i else made[i] if i in made else tensors.real(i) for i in node.inputs]
    magnitude = None
    for i in range(2 if node.op in CONTRACTIONS else 0):  # the array rounds its operands first
        seen = tensors.multiply_as.get(graph.tensors[node.inputs[i]].dtype)
        if seen is not None:
            given[i] = real(round_to(np.asarray(given[i]), dtype(seen)), TensorType((), seen))
    if "weight_scales" in node.attrs:
        results = [_quantised(graph, node, tensors, given)]
    else:
        results = op_def(node.op).evaluate(node, given)
        if node.op in CONTRACTIONS:
            sizes = [None if x is None else np.abs(x) for x in given]
            magnitude = np.asarray(op_def(node.op).evaluate(node, sizes)[0])
    rounded = []
    for out, value in zip(node.outputs, results):
        if out:
            kind = graph.tensors[out]
            rounded.append((out, real(stored(np.asarray(value), kind), kind), magnitude))
    return rounded


def _quantised(graph: Graph, node: Node, tensors: _Tensors, given: list[Array | None]) -> Array:
    """A contraction of int8 operands: exact integer accumulation, then one scaling in fp32."""
    kind = graph.tensors[node.inputs[0]]
    data = np.asarray(given[0], np.float64) / kind.scale
    weight = tensors.raw(node.inputs[1]).astype(np.float64)
    exact = op_def(node.op).evaluate(node, [np.rint(data), weight])[0]
    scales = np.asarray(graph.constants[str(node.attrs["weight_scales"])].value(), np.float32).reshape(-1)
    result = np.asarray(exact, np.float64) * _by_channel(node, (scales * np.float32(kind.scale)).astype(np.float64))
    if len(given) > 2 and given[2] is not None:
        result = result + _by_channel(node, np.asarray(given[2], np.float64).reshape(-1))
    return result


def _by_channel(node: Node, values: Array) -> Array:
    """A vector along the output channels, as it broadcasts to the result."""
    if node.attrs.get("layout") != "NC1HWC0":
        return values
    stored: Array = layouts.store("NC1HWC0", values.reshape(1, 1, 1, -1), layouts.Fractal(int(node.attrs["c0"])))[0]
    return stored


def _compare(graph: Graph, group: Group, tensors: _Tensors) -> dict[str, Any]:
    """Compare one group's result with its reference; {} when the group only renames storage."""
    out = group.nodes[-1].outputs[0]
    if out not in tensors or all(is_view(n, tensors.turned) for n in group.nodes):
        return {}
    made: dict[str, Array] = {}
    error: Array | float = 0.0
    for node in group.nodes:
        for name, value, magnitude in evaluate(graph, node, tensors, made):
            error = _propagate(graph, node, made, tensors, error, value, magnitude)
            made[name] = value
    got, expected = np.asarray(tensors.real(out), np.float64), np.asarray(made[out], np.float64)
    bound = np.broadcast_to(error, expected.shape)
    both_infinite = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        distance = np.where(both_infinite, 0.0, np.abs(got - expected))
    if not distance.size:
        return {"name": group.anchor.name, "op": group.anchor.op, "ok": True, "max_err": 0.0, "bound": 0.0, "worst": ""}
    ratio = np.where(np.isnan(distance), np.inf, distance / np.maximum(bound, 1e-300))
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)  # the element nearest to its bound, or farthest beyond
    ok = bool(ratio[at] <= 1.0)
    return {
        "name": group.anchor.name, "op": group.anchor.op, "ok": ok, "max_err": float(distance[at]),
        "bound": float(bound[at]),
        "worst": "" if ok else f"{out}{[int(i) for i in at]}: {got[at]!r} instead of {expected[at]!r}",
    }


def ulp(values: Array, kind: DType, scale: float) -> Array:
    """Distance to the next stored value: a quantisation step, or the spacing of floats of that magnitude."""
    if not kind.is_float:
        return np.full(np.shape(values), scale if scale != 1.0 else 0.0)
    smallest = {"fp16": 2.0**-24, "fp8_e4m3": 2.0**-9, "fp8_e5m2": 2.0**-16}.get(kind.name, 2.0**-133)
    magnitude = np.abs(np.asarray(values, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log2(np.where(magnitude > 0, magnitude, smallest)))
    return np.maximum(2.0 ** (np.nan_to_num(exponent, posinf=0.0) - kind.mantissa_bits), smallest)


def _propagate(graph: Graph, node: Node, made: Mapping[str, Array], tensors: _Tensors, error: Array | float,
               value: Array, magnitude: Array | None) -> Array | float:
    """Error bound of a node's result from that of its input inside the group."""
    kind = graph.tensors[node.outputs[0]]
    step = ulp(value, dtype(kind.dtype), kind.scale)
    if magnitude is not None:
        weight = graph.tensors[node.inputs[1]].shape
        columns = weight[-1] if node.attrs.get("layout") == "NC1HWC0" else kind.shape[-1]
        terms = int(np.prod(weight)) // max(1, columns)
        carried: Array | float = 0.0
        if node.inputs[0] in made:  # the weights of attention, made in the same kernel
            wrong = np.broadcast_to(error, graph.tensors[node.inputs[0]].shape)
            carried = np.asarray(op_def(node.op).evaluate(node, [wrong, np.abs(tensors.real(node.inputs[1]))])[0])
        return step + 2.0 * terms * 2.0**-24 * magnitude + carried
    if node.op == "Softmax" and node.inputs[0] in made:
        off = np.max(np.broadcast_to(error, value.shape), axis=int(node.attrs.get("axis", -1)), keepdims=True)
        return np.asarray(step + INTERNAL_EPS + value * np.expm1(2 * off))
    if op_def(node.op).op_class in ("reduction", "opaque") or "Norm" in node.op or "Softmax" in node.op:
        return step + INTERNAL_EPS * float(np.max(np.abs(np.nan_to_num(value)), initial=0.0)) + INTERNAL_EPS
    if node.op in ("Mul", "Div"):
        other = [i for i in node.inputs if i not in made]
        factor = np.abs(tensors.real(other[0])) if other else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(error * factor if node.op == "Mul" else error / factor) + step
    # fp32 functions of the vector unit and of numpy differ.
    internal = 2.0**-20 * np.abs(np.nan_to_num(np.asarray(value, np.float64)))
    return GROWTH * error + step + internal


def executed_share(built: Built, graph: Graph) -> tuple[float, list[str]]:
    """(smaller share of MACs and of bytes that went through instructions; operators that may not be approximated).

    What the real chip leaves to its host is outside of both.
    """
    done = {"macs": 0, "bytes": 0}
    total = {"macs": 0, "bytes": 0}
    refused = []
    classes = {n.name: op_def(n.op).op_class for n in graph.nodes}
    for launch in built.program.launches:
        operator = built.program.operators[int(launch["operator"])]
        if int(launch["kind"]) == LAUNCH_HOST:
            continue
        executed = int(launch["kind"]) == LAUNCH_KERNEL
        for key, amount in (("macs", operator.macs), ("bytes", operator.min_bytes)):
            total[key] += amount
            done[key] += amount * executed
        if not executed and any(classes[n] in MUST_EXECUTE or "Pool" in operator.op_type for n in operator.nodes):
            refused.append(f"{operator.name} ({operator.op_type})")
    return min((done[k] / total[k] for k in total if total[k]), default=1.0), refused


def _outputs(compilation: Compilation, tensors: _Tensors, feeds: Mapping[str, Array]) -> dict[str, float]:
    """Distance of every graph output to the fp32 reference."""
    exact = run_graph(compilation.reference, feeds)
    found = {}
    for name in compilation.graph.outputs:
        got = np.asarray(tensors.real(name), np.float64)
        found[name] = float(np.max(np.abs(got - np.asarray(exact[name], np.float64)), initial=0.0))
    return found
