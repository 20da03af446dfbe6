"""ONNX model -> Graph: reads the file, gives every input a static shape, and imports the nodes by rule.

Shapes are resolved while importing: small tensors with known values are evaluated on the way (Shape, Gather, Concat,
Reshape chains), so that the graph that comes out is static and free of shape arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper, shape_inference

from compiler.frontend import onnx_composites, onnx_rules, onnx_windows  # noqa: F401  (they fill RULES)
from compiler.frontend.builder import Builder
from compiler.frontend.call import RULES, Call
from compiler.frontend.onnx_load import DTYPES, dtype_name, load_proto, tensor_constant
from compiler.graph import Graph, TensorType, printable
from compiler.ops import OPS, nearest
from compiler.ops.custom import custom_attributes
from isa.dtypes import dtype as dtype_of
from isa.errors import CompileError, ModelError, NpuError

MAX_NESTING = 64
IR_VERSION = 10  # of the messages that shape inference is given


def import_onnx(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, batch: int | None = None) -> Graph:
    """Import an ONNX file of opset 7..24 as a Graph of canonical operators.

    `shapes` fixes the shape of inputs by name; `batch` sets the first symbolic extent of each input, or the first one
    where it is the model's batch. Raises ModelError that names node, operator, opset and remedy.
    """
    file = Path(path)
    model, opsets = load_proto(file)
    importer = _Importer(Builder(file.stem), opsets, file.resolve().parent)
    graph = model.graph
    for tensor in graph.initializer:
        importer.builder.constant(tensor.name, tensor_constant(tensor, importer.folder))
    if graph.sparse_initializer:
        raise ModelError(f"{file}: {len(graph.sparse_initializer)} sparse initialisers; store them densely")
    importer.ratio = declare_inputs(importer.builder, graph, shapes or {}, batch)
    importer.declare(graph)
    importer.nodes(graph.node, {}, "")
    outputs = [importer.output(value.name) for value in graph.output]
    result = importer.builder.finish(outputs)
    try:
        result.verify()
    except CompileError as error:
        raise ModelError(f"{file}: not a valid graph: {error}") from None
    return result


def declare_inputs(b: Builder, graph: Any, shapes: Mapping[str, tuple[int, ...]], batch: int | None) -> tuple[int, int]:
    """Declare the graph's inputs with static shapes; return (new batch, exported batch), (1, 1) if unchanged.

    Raises ModelError that lists every input with an extent still unknown, and an example of how to give it.
    """
    inputs = [v for v in graph.input if v.name not in b.tensors]
    names = [v.name for v in inputs]
    for name in shapes:
        if name not in names:
            raise ModelError(f"--shape names input {name!r}; the model's inputs are {', '.join(names) or 'none'}")
    if batch is not None and batch < 1:
        raise ModelError(f"--batch {batch}: the batch must be at least 1")
    declared, read = {v.name: _declared(v) for v in inputs}, set(_read(graph))
    first = next((dims[0] for name, dims in declared.items() if dims and name in read), None)
    exported = first if isinstance(first, int) and batch is not None else None
    missing = []
    for value in inputs:
        dims = declared[value.name]
        found = list(dims) if dims is not None else None
        if value.name in shapes:
            found = _overridden(value.name, shapes[value.name], dims)
        elif batch is not None and found:
            found = _batched(found, batch, exported)
        if found is None or not all(isinstance(d, int) for d in found):
            if value.name in read:
                missing.append((value.name, dims))
            continue  # one that nobody reads may stay unknown: it takes no part
        dtype = dtype_name(value.type.tensor_type.elem_type, f"input {value.name!r}")
        b.input(value.name, TensorType(tuple(int(d) for d in found), dtype))
        if exported and found != declared[value.name]:
            b.batched.add(value.name)
    if missing:
        raise ModelError(_unknown_text(missing))
    return (batch, exported) if batch is not None and exported else (1, 1)


def _read(graph: Any) -> Iterator[str]:
    """Names that nodes of a graph or of its subgraphs read, or that it gives back."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _read(attribute.g)


def _declared(value: Any) -> list[int | str] | None:
    """Extents of an input: integers, names where symbolic; None when even the rank is unknown."""
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"input {value.name!r} is not a tensor (sequence, map or optional): not supported")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    known = [int(d.dim_value) if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    return [n if n >= 0 else (d.dim_param or "?") for n, d in zip(known, tensor.shape.dim)]


def _overridden(name: str, wanted: Iterable[int], dims: list[int | str] | None) -> list[int | str]:
    found: list[int | str] = [int(d) for d in wanted]
    if dims is not None and len(found) != len(dims):
        text = "x".join(map(str, found))
        raise ModelError(f"--shape {name}={text} has {len(found)} extents, the input has {len(dims)}")
    return found


def _batched(dims: list[int | str], batch: int, exported: int | None) -> list[int | str]:
    dims = list(dims)
    symbolic = [i for i, d in enumerate(dims) if isinstance(d, str)]
    if symbolic:
        dims[symbolic[0]] = batch
    elif dims[0] == exported:  # an input whose first extent is something else (a weight, a table) keeps it
        dims[0] = batch
    return dims


def _unknown_text(missing: list[tuple[str, list[int | str] | None]]) -> str:
    known = [(name, "rank unknown" if dims is None else ",".join(map(str, dims))) for name, dims in missing]
    listed = "; ".join(f"{name}[{text}]" for name, text in known)
    name, dims = missing[0]
    usual = [1, 3, 224, 224]
    example = "x".join(
        str(d) if isinstance(d, int) and d > 0 else str(usual[i] if len(dims or usual) == 4 else (1, 128)[min(i, 1)])
        for i, d in enumerate(dims or usual)
    )
    text = f"inputs have unknown extents: {listed}; give them, for example --shape {name}={example} (or --batch N)"
    return printable(text)


class _Importer:
    """Imports nodes in order; `scope` maps names of inlined subgraphs to tensors of the graph."""

    def __init__(self, builder: Builder, opsets: dict[str, int], folder: Path) -> None:
        self.builder = builder
        self.opsets = opsets
        self.folder = folder
        self.ratio = (1, 1)
        self.aliases: dict[str, str] = {}
        self.types: dict[str, Any] = {}  # what the model states of tensors: ValueInfoProto by name
        self.extents: dict[str, int] = {}  # of the inputs' symbolic dimensions

    def declare(self, graph: Any) -> None:
        """Take up the types that a graph states, and what its symbolic dimensions are by now."""
        self.types |= {v.name: v for v in (*graph.value_info, *graph.output)}
        for value in graph.input:
            dims = _declared(value) if value.type.HasField("tensor_type") else None
            if dims is not None and value.name in self.builder.tensors:
                found = self.builder.type(value.name).shape
                self.extents |= {d: n for d, n in zip(dims, found) if isinstance(d, str) and d != "?"}

    def nodes(self, protos: Iterable[Any], scope: dict[str, str], prefix: str) -> None:
        for index, proto in enumerate(protos):
            self.node(proto, scope, prefix, index)

    def node(self, proto: Any, scope: dict[str, str], prefix: str, index: int) -> None:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        name = prefix + (proto.name or f"{proto.op_type}_{index}")
        inputs = [self.resolve(n, scope) for n in proto.input]
        outputs = []
        for out in proto.output:
            outputs.append(prefix + out if out else "")
            if prefix and out:
                scope[out] = prefix + out
        version = self.opsets.get(domain, 1)
        call = Call(name, proto.op_type, domain, version, inputs, outputs, batch_ratio=self.ratio, folder=self.folder)
        call.attrs = self.attributes(proto, call)
        if not domain and call.op == "If":
            self.branch(call, list(proto.output), scope, prefix)
            return
        try:
            self.dispatch(call, proto)
        except NpuError:
            raise
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:  # too few inputs, bad attributes
            raise call.fail(f"malformed: {type(error).__name__}: {error}") from error

    def dispatch(self, call: Call, proto: Any) -> None:
        found = RULES.get((call.domain, call.op))
        if found is not None:
            found(self.builder, call)
            return
        if call.domain or call.op not in OPS or call.op == "Custom":
            self.unknown(call, proto)
            return
        for label, value in call.attrs.items():
            if not isinstance(value, (int, float, str, tuple)):
                raise call.fail(f"attribute {label!r} is a tensor or a graph, which this operator does not take")
        self.builder.emit(call.name, call.op, call.inputs, call.outputs, call.attrs)

    def unknown(self, call: Call, proto: Any) -> None:
        """An operator that no rule knows: it stays as its types, if those can be found."""
        types = [self.stated(name) if name else None for name in proto.output]
        if not all(t or not name for t, name in zip(types, proto.output)):
            types = inferred(self.builder, call, proto)
        if not all(t or not name for t, name in zip(types, proto.output)):
            known = sorted({*OPS, *(op for _, op in RULES)} - {"Custom"})
            raise call.fail(
                f"operator is not supported (nearest supported: {nearest(call.op, known)}), and the shapes of its "
                "outputs, from which it could be estimated, are not known: add them to the model as value_info, or run "
                "onnx.shape_inference with the schema of the custom operator"
            )
        found = [t or TensorType((0,), "fp32") for t in types]
        operator = f"{call.domain}::{call.op}" if call.domain else call.op
        self.builder.emit(call.name, "Custom", call.inputs, call.outputs, custom_attributes(operator, found))

    def stated(self, name: str) -> TensorType | None:
        """The type that the model states of a tensor, if it is a static one; a changed batch is followed."""
        value = self.types.get(name)
        if value is None or not value.type.HasField("tensor_type"):
            return None
        dims = _declared(value)
        if dims is None:
            return None
        shape = [self.extents.get(d, -1) if isinstance(d, str) else d for d in dims]
        new, old = self.ratio
        if shape and new != old and dims[0] == old:
            shape[0] = new
        if min(shape, default=0) < 0:
            return None
        return TensorType(tuple(shape), dtype_name(value.type.tensor_type.elem_type, f"tensor {name!r}"))

    def resolve(self, name: str, scope: dict[str, str]) -> str:
        name = scope.get(name, name)
        return self.aliases.get(name, name)

    def output(self, name: str) -> str:
        """Return a graph output under its own name."""
        found = self.aliases.get(name)
        if found is None:
            return name
        return self.builder.emit(f"{name}/output", "Identity", [found], [name])

    def attributes(self, proto: Any, call: Call) -> dict[str, Any]:
        """Attributes as ints, floats, strings, tuples; tensors and graphs stay as they are."""
        found: dict[str, Any] = {}
        for a in proto.attribute:
            if a.type == AttributeProto.INT:
                found[a.name] = int(a.i)
            elif a.type == AttributeProto.FLOAT:
                found[a.name] = float(a.f)
            elif a.type == AttributeProto.STRING:
                found[a.name] = a.s.decode("utf-8", "replace")
            elif a.type == AttributeProto.INTS:
                found[a.name] = tuple(int(v) for v in a.ints)
            elif a.type == AttributeProto.FLOATS:
                found[a.name] = tuple(float(v) for v in a.floats)
            elif a.type == AttributeProto.STRINGS:
                found[a.name] = tuple(v.decode("utf-8", "replace") for v in a.strings)
            elif a.type in (AttributeProto.TENSOR, AttributeProto.GRAPH):
                found[a.name] = a.t if a.type == AttributeProto.TENSOR else a.g
            else:
                found[a.name] = a  # of a kind that no operator here takes
        return found

    def branch(self, call: Call, written: list[str], scope: dict[str, str], prefix: str) -> None:
        """Inline the branch of an If whose condition is known."""
        condition = call.fixed(self.builder, 0, "the condition of If")
        if prefix.count("/") > MAX_NESTING:
            raise call.fail(f"subgraphs are nested deeper than {MAX_NESTING}")
        if condition is None or condition.size != 1:
            raise call.fail("the condition of If must be one boolean")
        body = call.attrs["then_branch" if bool(condition.reshape(())) else "else_branch"]
        inner, inside = dict(scope), f"{call.name}/"
        self.types |= {v.name: v for v in (*body.value_info, *body.output)}
        for tensor in body.initializer:
            inner[tensor.name] = inside + tensor.name
            self.builder.constant(inside + tensor.name, tensor_constant(tensor, self.folder))
        self.nodes(body.node, inner, inside)
        for name, result in zip(written, body.output):
            self.aliases[prefix + name] = self.resolve(result.name, inner)


def inferred(b: Builder, call: Call, proto: Any) -> list[TensorType | None]:
    """Output types of a standard operator by the shape inference of ONNX; None where it finds none."""
    nothing: list[TensorType | None] = [None] * len(proto.output)
    codes = {name: code for code, name in DTYPES.items()}
    if call.domain or not onnx.defs.has(call.op, call.version, ""):
        return nothing
    types, values = {}, {}
    for name, source in zip(proto.input, call.inputs):
        if not source:
            continue
        kind, known = b.type(source), b.value(source)
        types[name] = helper.make_tensor_type_proto(codes[kind.dtype], kind.shape)
        if known is not None and not dtype_of(kind.dtype).is_float:
            values[name] = numpy_helper.from_array(np.asarray(known), name)
    schema = onnx.defs.get_schema(call.op, call.version, "")
    try:
        found = shape_inference.infer_node_outputs(
            schema, proto, types, values, opset_imports=[helper.make_opsetid("", call.version)], ir_version=IR_VERSION
        )
    except (onnx.checker.ValidationError, shape_inference.InferenceError, RuntimeError):
        return nothing
    return [_static(found.get(name)) for name in proto.output]


def _static(found: Any) -> TensorType | None:
    """A TypeProto as a type, if it is a tensor whose shape is static."""
    if found is None or not found.HasField("tensor_type") or found.tensor_type.elem_type not in DTYPES:
        return None
    tensor = found.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return TensorType(tuple(int(d.dim_value) for d in tensor.shape.dim), DTYPES[tensor.elem_type])


# Constants read only by these may hold infinities: masks, limits and fill values.
_MASKING = ("Add", "Sub", "Where", "Max", "Min", "Clip", "Expand", "Concat", "Slice", "Gather", "Reshape", "Unsqueeze",
            "Squeeze", "Transpose", "Cast", "Identity", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
            "IsInf", "Mul", "Tile", "Trilu")  # fmt: skip


def check_finite(graph: Graph) -> None:
    """Raise ModelError naming the tensor and the count when a constant holds NaN, or infinity other than in a mask.

    Stripped constants have no values and are skipped.
    """
    readers = graph.consumers()
    for name, constant in graph.constants.items():
        if constant.stripped or not dtype_of(constant.type.dtype).is_float:
            continue
        values = constant.value().astype(np.float32, copy=False)
        nan = int(np.count_nonzero(np.isnan(values)))
        infinite = int(np.count_nonzero(np.isinf(values)))
        masking = all(node.op in _MASKING for node in readers.get(name, []))
        if nan or (infinite and not masking):
            raise ModelError(
                f"tensor {name!r} ({constant.type}) holds {nan} NaN and {infinite} infinite values; "
                "repair the weights before simulating values"
            )
