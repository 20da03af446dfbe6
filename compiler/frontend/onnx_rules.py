"""Rules that bring ONNX operators of opset 7..24 into the canonical form of `compiler.ops`.

An operator without a rule is passed through unchanged. Here: shapes, axes and everything that ONNX has moved between
attributes and inputs. Windows (convolutions, pools, Resize) are in `onnx_windows`, composites in `onnx_composites`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.frontend.builder import Builder
from compiler.frontend.call import Call, rule
from compiler.frontend.onnx_load import dtype_name, tensor_constant
from compiler.graph import Constant, TensorType
from isa.dtypes import dtype as dtype_of


@rule("Constant")
def constant(b: Builder, call: Call) -> None:
    """Every form of Constant becomes a constant."""
    forms = {"value_float": "fp32", "value_floats": "fp32", "value_int": "int64", "value_ints": "int64"}
    out = call.outputs[0]
    if "value" in call.attrs:
        b.constant(out, tensor_constant(call.attrs["value"], call.folder))
        return
    for form, dtype in forms.items():
        if form in call.attrs:
            b.constant(out, Constant.of(np.asarray(call.attrs[form], dtype_of(dtype).numpy), dtype))
            return
    raise call.fail("only dense numeric values are supported")


@rule("ConstantOfShape")
def constant_of_shape(b: Builder, call: Call) -> None:
    """A filled tensor is a constant, built when asked for."""
    shape = call.int_list(b, "shape", 0)
    fill: Any = 0.0
    dtype = "fp32"
    if "value" in call.attrs:
        source = tensor_constant(call.attrs["value"], call.folder)
        fill, dtype = source.value().reshape(-1)[0], source.type.dtype
    storage = dtype_of(dtype).numpy
    b.constant(call.outputs[0], Constant(TensorType(shape, dtype), lambda: np.full(shape, fill, dtype=storage)))


@rule("Shape")
def shape(b: Builder, call: Call) -> None:
    """Shapes are static, so their values are known."""
    extents = b.type(call.inputs[0]).shape
    found = extents[call.attrs.get("start", 0) : call.attrs.get("end", len(extents))]
    b.constant(call.outputs[0], Constant.of(np.asarray(found, dtype=np.int64), "int64"))
    if call.inputs[0] in b.batched:
        b.batched.add(call.outputs[0])


@rule("Size")
def size(b: Builder, call: Call) -> None:
    """The number of elements is known."""
    count = b.type(call.inputs[0]).elements
    b.constant(call.outputs[0], Constant.of(np.asarray(count, dtype=np.int64), "int64"))


@rule("Reshape")
def reshape(b: Builder, call: Call) -> None:
    """Resolve 0 (copy) and -1 (the rest); a target exported with another batch follows `--batch`."""
    source, target = b.type(call.inputs[0]), list(call.int_list(b, "shape", 1))
    if not call.attrs.get("allowzero", 0):
        for axis, extent in enumerate(target):
            if extent == 0 and axis < len(source.shape):
                target[axis] = source.shape[axis]
    if target.count(-1) > 1 or min(target, default=0) < -1:
        raise call.fail(f"target shape {target} is not valid")
    new, old = call.batch_ratio
    if new != old and call.inputs[0] in b.batched and call.operand(1) not in b.batched:
        target = _rebatched(target, source.shape, new, old)
    fixed = math.prod(d for d in target if d != -1)
    if -1 in target:
        if fixed == 0 or source.elements % fixed:
            raise call.fail(f"{list(source.shape)} cannot be reshaped to {target}")
        target[target.index(-1)] = source.elements // fixed
    if math.prod(target) != source.elements:
        hint = "; the model was exported with a fixed batch: export it with a dynamic one" if new != old else ""
        raise call.fail(f"{list(source.shape)} ({source.elements} elements) cannot be reshaped to {target}{hint}")
    b.emit(call.name, "Reshape", call.inputs[:1], call.outputs, {"shape": tuple(target)})


def _rebatched(target: list[int], source: tuple[int, ...], new: int, old: int) -> list[int]:
    """Return a target exported for batch `old` made for `new`: at the axis where the source has it, else at the first.

    A target that fits as it is, or in which the batch cannot be found, is returned unchanged.
    """
    elements = math.prod(source)
    fixed = math.prod(d for d in target if d != -1)
    if not target or elements * old % new or (-1 not in target and fixed == elements):
        return target
    before = elements * old // new
    exported = [before // fixed if d == -1 else d for d in target] if fixed else target
    same = [i for i, (s, d) in enumerate(zip(source, exported)) if s == new and d == old]
    axis = same[0] if same else 0
    if math.prod(exported) != before or exported[axis] * new % old or (not same and source[0] % new):
        return target
    return [*exported[:axis], exported[axis] * new // old, *exported[axis + 1 :]]


@rule("Concat")
def concat(b: Builder, call: Call) -> None:
    """A part that does not depend on the batch (a class token) is repeated for a batch that `--batch` changed."""
    new, old = call.batch_ratio
    parts, axis = list(call.inputs), int(call.attrs.get("axis", 0))
    if new != old and axis != 0 and any(n in b.batched and b.type(n).shape[:1] == (new,) for n in parts):
        for index, name in enumerate(parts):
            extents = b.type(name).shape
            if name not in b.batched and extents[:1] == (old,) and old == 1:
                attrs = {"shape": (new, *extents[1:])}
                parts[index] = b.emit(f"{call.name}/repeat{index}", "Expand", [name], attrs=attrs)
    b.emit(call.name, "Concat", parts, call.outputs, {"axis": axis})


@rule("GatherElements", "GatherND")
def gather_batch(b: Builder, call: Call) -> None:
    """Constant indices that were exported for a batch of 1 are repeated for the batch of `--batch`."""
    new, old = call.batch_ratio
    data, index = call.inputs[:2]
    if new == old or data not in b.batched or index in b.batched:
        b.emit(call.name, call.op, call.inputs, call.outputs, call.attrs)
        return
    known, extents = b.value(index), b.type(data).shape
    nd = call.op == "GatherND"
    movable = old == 1 and known is not None and known.shape[:1] == (1,) and extents[0] == new
    if known is None or not movable or call.attrs.get("batch_dims", 0) or (nd and known[..., 0].any()):
        raise call.fail("its constant indices were exported for another batch; export the model with a dynamic batch")
    wide = np.repeat(known, new, axis=0)
    if nd:
        wide[..., 0] += np.arange(new).reshape((-1,) + (1,) * (wide.ndim - 2))
    repeated = b.array(f"{call.name}/indices", wide, "int64")
    b.emit(call.name, call.op, [data, repeated], call.outputs, call.attrs)


@rule("Squeeze", "Unsqueeze")
def squeeze(b: Builder, call: Call) -> None:
    """Axes move into the attribute."""
    extents = b.type(call.inputs[0]).shape
    ones = [i for i, d in enumerate(extents) if d == 1]
    axes = call.int_list(b, "axes", 1, ones if call.op == "Squeeze" else None)
    rank = len(extents) + (len(axes) if call.op == "Unsqueeze" else 0)
    wrapped = tuple(sorted(a + rank if a < 0 else a for a in axes))
    b.emit(call.name, call.op, call.inputs[:1], call.outputs, {"axes": wrapped})


_REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
_SINGLE = {"L1": "Abs", "L2": "Abs", "SumSquare": "Mul", "LogSum": "Log"}  # of one element, else the element


@rule(*(f"Reduce{kind}" for kind in _REDUCTIONS))
def reduction(b: Builder, call: Call) -> None:
    """Axes become a non-negative attribute; with noop_with_empty_axes none of them leaves what is done to elements."""
    rank = len(b.type(call.inputs[0]).shape)
    axes = call.int_list(b, "axes", 1, ())
    if not axes and call.attrs.get("noop_with_empty_axes", 0):
        op = _SINGLE.get(call.op.removeprefix("Reduce"), "Identity")
        b.emit(call.name, op, call.inputs[:1] * (2 if op == "Mul" else 1), call.outputs)
        return
    wrapped = tuple(sorted(a + rank if a < 0 else a for a in axes)) or tuple(range(rank))
    attrs = {"axes": wrapped, "keepdims": int(call.attrs.get("keepdims", 1))}
    b.emit(call.name, call.op, call.inputs[:1], call.outputs, attrs)


@rule("Slice")
def slice_(b: Builder, call: Call) -> None:
    """Bounds, axes and steps become attributes, resolved against the input's extents."""
    extents = b.type(call.inputs[0]).shape
    starts, ends = call.int_list(b, "starts", 1), call.int_list(b, "ends", 2)
    axes = call.int_list(b, "axes", 3, range(len(starts)))
    steps = call.int_list(b, "steps", 4, (1,) * len(starts))
    wrapped = tuple(a + len(extents) if a < 0 else a for a in axes)
    attrs = {"starts": starts, "ends": ends, "axes": wrapped, "steps": steps}
    b.emit(call.name, "Slice", call.inputs[:1], call.outputs, attrs)


@rule("Pad")
def pad(b: Builder, call: Call) -> None:
    """Pads become an attribute for every axis, the fill value a number."""
    rank = len(b.type(call.inputs[0]).shape)
    pads, axes = call.int_list(b, "pads", 1), call.int_list(b, "axes", 3, range(rank))
    if len(pads) != 2 * len(axes):
        raise call.fail(f"pads {list(pads)} must have two entries for each of {len(axes)} axes")
    full = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = pads[place], pads[place + len(axes)]
    value = call.scalar(b, "value", 2, 0.0)
    attrs = {"pads": tuple(full), "mode": call.attrs.get("mode", "constant"), "value": value}
    b.emit(call.name, "Pad", call.inputs[:1], call.outputs, attrs)


@rule("Split")
def split(b: Builder, call: Call) -> None:
    """Sizes become an attribute; without them the axis is cut evenly, the last part smaller."""
    extents, axis = b.type(call.inputs[0]).shape, int(call.attrs.get("axis", 0))
    if not -len(extents) <= axis < len(extents):
        raise call.fail(f"axis {axis} is outside {list(extents)}")
    extent, count = extents[axis], len(call.outputs)
    part = -(-extent // count)
    even = [max(0, min(part, extent - i * part)) for i in range(count)]
    sizes = call.int_list(b, "split", 1, even)
    b.emit(call.name, "Split", call.inputs[:1], call.outputs, {"axis": axis % len(extents), "split": sizes})


@rule("Clip")
def clip(b: Builder, call: Call) -> None:
    """Limits become attributes where they are known; else they stay inputs."""
    attrs: dict[str, Any] = {k: float(v) for k, v in call.attrs.items() if k in ("min", "max")}
    inputs = list(call.inputs[:3]) + [""] * (3 - len(call.inputs[:3]))
    for index, label in ((1, "min"), (2, "max")):
        value = b.value(inputs[index])
        if value is not None:
            attrs[label], inputs[index] = value.reshape(-1)[0].item(), ""
    b.emit(call.name, "Clip", inputs, call.outputs, attrs)


@rule("Expand")
def expand(b: Builder, call: Call) -> None:
    """The target becomes an attribute, already broadcast against the input."""
    source, target = b.type(call.inputs[0]).shape, call.int_list(b, "shape", 1)
    new, old = call.batch_ratio
    exported = call.inputs[0] in b.batched and call.operand(1) not in b.batched and len(target) == len(source)
    if new != old and exported and source[:1] == (new,) and target[0] == old:
        target = (new, *target[1:])
    try:
        full = tuple(int(d) for d in np.broadcast_shapes(source, target))
    except ValueError:
        raise call.fail(f"{list(source)} cannot be expanded to {list(target)}") from None
    b.emit(call.name, "Expand", call.inputs[:1], call.outputs, {"shape": full})


@rule("Tile")
def tile(b: Builder, call: Call) -> None:
    """Repeats become an attribute."""
    b.emit(call.name, "Tile", call.inputs[:1], call.outputs, {"repeats": call.int_list(b, "repeats", 1)})


@rule("TopK")
def top_k(b: Builder, call: Call) -> None:
    """K becomes an attribute."""
    count = call.scalar(b, "k", 1, None)
    if count is None:
        raise call.fail("k is required")
    b.emit(call.name, "TopK", call.inputs[:1], _all_outputs(b, call, 2), call.kept("sorted", k=int(count)))


def _all_outputs(b: Builder, call: Call, count: int) -> list[str]:
    """Name outputs that the model leaves out, so that an operator always has all of them."""
    names = list(call.outputs) + [""] * (count - len(call.outputs))
    return [n or b.fresh(f"{call.name}:out{i}") for i, n in enumerate(names)]


@rule("OneHot")
def one_hot(b: Builder, call: Call) -> None:
    """Depth becomes an attribute."""
    depth = call.scalar(b, "depth", 1, None)
    if depth is None:
        raise call.fail("depth is required")
    attrs = {"depth": int(depth), "axis": int(call.attrs.get("axis", -1))}
    b.emit(call.name, "OneHot", [call.inputs[0], call.inputs[2]], call.outputs, attrs)


@rule("CumSum")
def cum_sum(b: Builder, call: Call) -> None:
    """Axis becomes an attribute."""
    axis = call.scalar(b, "axis", 1, 0)
    b.emit(call.name, "CumSum", call.inputs[:1], call.outputs, call.kept(axis=int(axis or 0)))


@rule("Trilu")
def trilu(b: Builder, call: Call) -> None:
    """The diagonal becomes an attribute."""
    offset = call.scalar(b, "k", 1, 0)
    b.emit(call.name, "Trilu", call.inputs[:1], call.outputs, call.kept(k=int(offset or 0)))


@rule("Cast")
def cast(b: Builder, call: Call) -> None:
    """The target type becomes an npusim dtype name; a cast to the present type is an Identity."""
    target = dtype_name(int(call.attrs["to"]), f"the target of node {call.name!r}")
    _cast_to(b, call, target)


@rule("CastLike")
def cast_like(b: Builder, call: Call) -> None:
    """CastLike is Cast to the second input's type."""
    _cast_to(b, call, b.type(call.inputs[1]).dtype)


def _cast_to(b: Builder, call: Call, target: str) -> None:
    if b.type(call.inputs[0]).dtype == target:
        b.emit(call.name, "Identity", call.inputs[:1], call.outputs)
    else:
        saturate = int(call.attrs.get("saturate", 1))
        b.emit(call.name, "Cast", call.inputs[:1], call.outputs, {"to": target} | ({} if saturate else {"saturate": 0}))


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(b: Builder, call: Call) -> None:
    """Before opset 13 every axis from `axis` on was normalised together."""
    extents = b.type(call.inputs[0]).shape
    axis = int(call.attrs.get("axis", -1 if call.version >= 13 else 1))
    axis = axis + len(extents) if axis < 0 else axis
    if call.version >= 13 or math.prod(extents[axis + 1 :]) == 1:
        b.emit(call.name, call.op, call.inputs[:1], call.outputs, {"axis": axis})
        return
    flat = (math.prod(extents[:axis]), math.prod(extents[axis:]))
    matrix = b.emit(f"{call.name}/flatten", "Reshape", call.inputs[:1], attrs={"shape": flat})
    result = b.emit(call.name, call.op, [matrix], attrs={"axis": 1})
    b.emit(f"{call.name}/restore", "Reshape", [result], call.outputs, {"shape": extents})


@rule("Dropout")
def dropout(b: Builder, call: Call) -> None:
    """At inference Dropout is an Identity."""
    training = call.fixed(b, 2, "training_mode")
    if training is not None and bool(training.reshape(-1)[0]):
        raise call.fail("training_mode is on; export the model for inference")
    b.emit(call.name, "Dropout", call.inputs[:1], call.outputs[:1])
    if len(call.outputs) > 1 and call.outputs[1]:  # the mask: everything was kept
        kept = TensorType(b.type(call.inputs[0]).shape, "bool")
        b.constant(call.outputs[1], Constant(kept, lambda: np.ones(kept.shape, bool)))


@rule("Min", "Max", "Sum", "Mean")
def variadic(b: Builder, call: Call) -> None:
    """One operand is an Identity."""
    op = call.op if len(call.inputs) > 1 else "Identity"
    b.emit(call.name, op, call.inputs, call.outputs)


@rule("QuantizeLinear", domain="com.microsoft")
@rule("QuantizeLinear")
def quantize(b: Builder, call: Call) -> None:
    """The output type becomes an npusim dtype name."""
    code = int(call.attrs.get("output_dtype", 0))
    attrs = call.kept("output_dtype", "saturate", "precision")
    if code:
        attrs["output_dtype"] = dtype_name(code, f"the output of node {call.name!r}")
    target = b.type(call.operand(2)).dtype if call.operand(2) else attrs.get("output_dtype", "uint8")
    if not call.attrs.get("saturate", 1) and target.startswith("fp8"):
        raise call.fail("attribute saturate = 0 is not supported: quantisation saturates; export the model with 1")
    b.emit(call.name, "QuantizeLinear", call.inputs, call.outputs, attrs)


@rule("DequantizeLinear", domain="com.microsoft")
@rule("DequantizeLinear")
def dequantize(b: Builder, call: Call) -> None:
    """The output has the scale's type; another one that is asked for takes a Cast."""
    code, scale = int(call.attrs.get("output_dtype", 0)), b.type(call.inputs[1]).dtype
    wanted = dtype_name(code, f"the output of node {call.name!r}") if code else scale
    if wanted == scale:
        b.emit(call.name, "DequantizeLinear", call.inputs, call.outputs, call.kept("output_dtype"))
        return
    real = b.emit(call.name, "DequantizeLinear", call.inputs, attrs=call.kept("output_dtype"))
    b.emit(f"{call.name}/cast", "Cast", [real], call.outputs, {"to": wanted})


@rule("LSTM", "GRU")
def recurrent(b: Builder, call: Call) -> None:
    """Default activations and an absent sequence length are implied."""
    attrs = call.kept()
    defaults = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}[call.op]
    found = tuple(attrs.get("activations", ()))
    if found in (defaults, defaults * 2):
        attrs.pop("activations", None)
    steps = b.value(call.operand(4))
    inputs = list(call.inputs)
    if steps is not None and np.all(steps == b.type(call.inputs[0]).shape[0]):
        inputs[4] = ""
    b.emit(call.name, call.op, inputs, call.outputs, attrs)


@rule("Loop", "Scan")
def loop(b: Builder, call: Call) -> None:
    """Loops are refused."""
    raise call.fail("loops are not supported; unroll it when exporting (a fixed number of steps), or export one step")


@rule("Scatter")
def scatter(b: Builder, call: Call) -> None:
    """Scatter is the old name of ScatterElements."""
    b.emit(call.name, "ScatterElements", call.inputs, call.outputs, call.attrs)
