"""Composite ONNX and com.microsoft operators, written out in the operators of `compiler.ops`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.frontend.builder import Builder
from compiler.frontend.call import RULES, Call, rule
from compiler.frontend.onnx_load import dtype_name

_MS = "com.microsoft"


# --- attention ---------------------------------------------------------------------------------------------------


@rule("Attention")
def attention(b: Builder, call: Call) -> None:
    """ONNX Attention (opset 23): scaled dot product, heads grouped by views; cache, masks, window and softcap."""
    if call.operand(6) or (len(call.outputs) > 3 and call.outputs[3]):
        raise call.fail("nonpad_kv_seqlen and the qk_matmul_output are not supported; use a mask, drop the output")
    query, key, value = (_heads(b, call, i, "q_num_heads" if i == 0 else "kv_num_heads") for i in range(3))
    past = b.type(call.operand(4)).shape[2] if call.operand(4) else 0
    key, value = _cache(b, call, key, 4, 1), _cache(b, call, value, 5, 2)
    batch, heads, rows, depth = b.type(query).shape
    kv_heads, columns = b.type(key).shape[1:3]
    if kv_heads < 1 or heads % kv_heads:
        raise call.fail(f"{heads} query heads are not a multiple of {kv_heads} key heads")
    dtype = b.type(query).dtype
    scale = call.attrs.get("scale") or 1.0 / math.sqrt(depth)
    query = _binary(b, call, "Mul", "scale", query, b.array(f"{call.name}/scale", scale, dtype))
    stacked = (batch, kv_heads, heads // kv_heads * rows)
    grouped = _reshape(b, call, "group", query, (*stacked, depth))
    turned = b.emit(f"{call.name}/key_t", "Transpose", [key], attrs={"perm": (0, 1, 3, 2)})
    scores = b.emit(f"{call.name}/scores", "MatMul", [grouped, turned])
    scores = _reshape(b, call, "heads", scores, (batch, heads, rows, columns))
    weights = _softmax(b, call, _masked(b, call, scores, past))
    if _hides_rows(b, call, scores, past):
        none = b.array(f"{call.name}/none", 0.0, dtype)
        unseen = b.emit(f"{call.name}/unseen", "IsNaN", [weights])
        weights = b.emit(f"{call.name}/guard", "Where", [unseen, none, weights])
    weights = _reshape(b, call, "regroup", weights, (*stacked, columns))
    mixed = b.emit(f"{call.name}/mix", "MatMul", [weights, value])
    width = b.type(value).shape[3]
    if len(b.type(call.inputs[0]).shape) == 4:
        b.emit(call.name, "Reshape", [mixed], call.outputs[:1], {"shape": (batch, heads, rows, width)})
        return
    mixed = _reshape(b, call, "ungroup", mixed, (batch, heads, rows, width))
    mixed = b.emit(f"{call.name}/merge", "Transpose", [mixed], attrs={"perm": (0, 2, 1, 3)})
    b.emit(call.name, "Reshape", [mixed], call.outputs[:1], {"shape": (batch, rows, heads * width)})


def _reshape(b: Builder, call: Call, label: str, source: str, shape: tuple[int, ...]) -> str:
    if b.type(source).shape == shape:
        return source
    return b.emit(f"{call.name}/{label}", "Reshape", [source], attrs={"shape": shape})


def _binary(b: Builder, call: Call, op: str, label: str, left: str, right: str) -> str:
    return b.emit(f"{call.name}/{label}", op, [left, right])


def _heads(b: Builder, call: Call, index: int, attr: str) -> str:
    """Return Q, K or V as [batch, heads, length, depth]."""
    name = call.inputs[index]
    shape = b.type(name).shape
    if len(shape) == 4:
        return name
    heads = int(call.attrs.get(attr, 0))
    if len(shape) != 3 or heads < 1 or shape[2] % heads:
        raise call.fail(f"input {index} {list(shape)} must be 4-D, or 3-D with {attr} dividing its last extent")
    split = _reshape(b, call, f"split{index}", name, (shape[0], shape[1], heads, shape[2] // heads))
    return b.emit(f"{call.name}/turn{index}", "Transpose", [split], attrs={"perm": (0, 2, 1, 3)})


def _cache(b: Builder, call: Call, new: str, past: int, output: int) -> str:
    """Append to the cached keys or values, and write the present ones out."""
    written = call.outputs[output] if output < len(call.outputs) else ""
    if call.operand(past):
        return b.emit(
            f"{call.name}/cache{output}",
            "Concat",
            [call.operand(past), new],
            [written] if written else None,
            {"axis": 2},
        )
    if written:
        b.emit(f"{call.name}/present{output}", "Identity", [new], [written])
    return new


def _masked(b: Builder, call: Call, scores: str, past: int) -> str:
    """Apply softcap, the mask of positions and the given mask (the order of the ONNX function body)."""
    dtype = b.type(scores).dtype
    cap = float(call.attrs.get("softcap", 0.0))
    if cap:
        limit = b.array(f"{call.name}/softcap", cap, dtype)
        scaled = _binary(b, call, "Div", "cap_in", scores, limit)
        scores = _binary(b, call, "Mul", "cap_out", b.emit(f"{call.name}/cap", "Tanh", [scaled]), limit)
    allowed = _positions(b, call, scores, past)
    if not allowed.all():
        reach = b.array(f"{call.name}/positions", np.where(allowed, 0.0, -np.inf), dtype)
        scores = _binary(b, call, "Add", "position_mask", scores, reach)
    mask = call.operand(3)
    if mask and b.type(mask).dtype == "bool":
        zero, minus = (b.array(f"{call.name}/{k}", v, dtype) for k, v in (("zero", 0.0), ("minus_inf", -np.inf)))
        mask = b.emit(f"{call.name}/mask", "Where", [mask, zero, minus])
    return _binary(b, call, "Add", "add_mask", scores, mask) if mask else scores


def _positions(b: Builder, call: Call, scores: str, past: int) -> npt.NDArray[np.bool_]:
    """The keys [rows, columns] that a query may see by position: is_causal and the window, both relative to `past`."""
    rows, columns = b.type(scores).shape[2:]
    ahead = np.arange(columns)[None, :] - (past + np.arange(rows)[:, None])
    left, right = (int(call.attrs.get(f"{side}_window_size", -1)) for side in ("left", "right"))
    allowed = np.ones(ahead.shape, bool)
    if call.attrs.get("is_causal", 0):
        allowed &= ahead <= 0
    if left >= 0:
        allowed &= ahead >= -left
    return allowed & (ahead <= right) if right >= 0 else allowed


def _hides_rows(b: Builder, call: Call, scores: str, past: int) -> bool:
    """True when masks may leave a query without any key, which makes its output 0 (ONNX Attention)."""
    return bool(call.operand(3)) or not _positions(b, call, scores, past).any(axis=1).all()


def _softmax(b: Builder, call: Call, scores: str) -> str:
    """Softmax over keys, in `softmax_precision` if that differs."""
    dtype, code = b.type(scores).dtype, int(call.attrs.get("softmax_precision", 0))
    wanted = dtype_name(code, f"softmax_precision of node {call.name!r}") if code else dtype
    if wanted == dtype:
        return b.emit(f"{call.name}/softmax", "Softmax", [scores], attrs={"axis": 3})
    wide = b.emit(f"{call.name}/widen", "Cast", [scores], attrs={"to": wanted})
    wide = b.emit(f"{call.name}/softmax", "Softmax", [wide], attrs={"axis": 3})
    return b.emit(f"{call.name}/narrow", "Cast", [wide], attrs={"to": dtype})


# --- quantised operators: written as DequantizeLinear, operator, QuantizeLinear ------------------------------------


def _real(b: Builder, call: Call, first: int, label: str, axis: int | None = None) -> str:
    """DequantizeLinear of the operand at input `first` (followed by its scale and zero point)."""
    inputs = [call.inputs[first], call.operand(first + 1), call.operand(first + 2)]
    attrs = {} if axis is None else {"axis": axis}
    return b.emit(f"{call.name}/dequantize_{label}", "DequantizeLinear", inputs, attrs=attrs)


def _quantised(b: Builder, call: Call, real: str, scale: int) -> None:
    """QuantizeLinear with the scale and zero point at inputs `scale`, `scale` + 1, into the node's output."""
    inputs = [real, call.operand(scale), call.operand(scale + 1)]
    attrs: dict[str, Any] = {}
    if not inputs[2]:
        attrs["output_dtype"] = b.type(call.inputs[0]).dtype
    b.emit(f"{call.name}/quantize", "QuantizeLinear", inputs, call.outputs, attrs)


def _again(b: Builder, call: Call, op: str, inputs: list[str], attrs: dict[str, Any] | None = None) -> str:
    """Import `op` on real operands by its own rule, and return its output."""
    out = b.fresh(f"{call.name}:real")
    version = call.version if not call.domain else 13
    inner = Call(call.name, op, "", version, inputs, [out], attrs or {}, call.batch_ratio)
    found = RULES.get(("", op))
    if found is None:
        b.emit(call.name, op, inputs, [out], attrs)
    else:
        found(b, inner)
    return out


@rule("QLinearConv")
def qlinear_conv(b: Builder, call: Call) -> None:
    """x, w, y with their scales; the bias is int32 with scale x_scale * w_scale."""
    inputs = [_real(b, call, 0, "x"), _real(b, call, 3, "w", axis=0)]
    if call.operand(8):
        scales = [call.fixed(b, i, "the scale") for i in (1, 4)]
        joint = np.asarray(scales[0], np.float32) * np.asarray(scales[1], np.float32)
        scale = b.array(f"{call.name}/bias_scale", joint.reshape(-1) if joint.size > 1 else joint.reshape(()), "fp32")
        pair = [call.operand(8), scale]
        inputs.append(b.emit(f"{call.name}/dequantize_bias", "DequantizeLinear", pair, attrs={"axis": 0}))
    _quantised(b, call, _again(b, call, "Conv", inputs, call.attrs), 6)


@rule("QLinearMatMul")
def qlinear_matmul(b: Builder, call: Call) -> None:
    """a, b, y with their scales; those of b may be one a column."""
    _quantised(b, call, _again(b, call, "MatMul", [_real(b, call, 0, "a"), _real(b, call, 3, "b", axis=-1)]), 6)


@rule("QLinearAdd", "QLinearMul", domain=_MS)
def qlinear_binary(b: Builder, call: Call) -> None:
    """Add and Mul on quantised operands."""
    op = call.op.removeprefix("QLinear")
    _quantised(b, call, _again(b, call, op, [_real(b, call, 0, "a"), _real(b, call, 3, "b")]), 6)


_QLINEAR_UNARY = ("GlobalAveragePool", "AveragePool", "LeakyRelu", "Sigmoid", "Softmax")


@rule(*(f"QLinear{op}" for op in _QLINEAR_UNARY), domain=_MS)
def qlinear_unary(b: Builder, call: Call) -> None:
    """Operators of one quantised operand."""
    if call.attrs.get("channels_last", 0):
        raise call.fail("channels_last is not supported; export channels first")
    attrs = call.kept("channels_last")
    op = call.op.removeprefix("QLinear")
    x = _real(b, call, 0, "x")
    version = int(attrs.pop("opset", 13))
    if op == "Softmax" and version < 13:
        shape = b.type(x).shape
        axis = int(attrs.get("axis", -1)) % len(shape)  # the default of the com.microsoft schema, at every opset
        flat = _reshape(b, call, "flatten", x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
        real = _reshape(b, call, "restore", _again(b, call, op, [flat], {"axis": 1}), shape)
    else:
        real = _again(b, call, op, [x], attrs)
    _quantised(b, call, real, 3)


@rule("QLinearConcat", domain=_MS)
def qlinear_concat(b: Builder, call: Call) -> None:
    """Inputs: y scale, y zero point, then (x, scale, zero point) a part."""
    parts = [_real(b, call, i, str(i // 3)) for i in range(2, len(call.inputs), 3)]
    _quantised(b, call, _again(b, call, "Concat", parts, call.attrs), 0)


@rule("MatMulInteger", "ConvInteger")
def integer_product(b: Builder, call: Call) -> None:
    """Integer operands; non-zero zero points are subtracted in int32 first."""
    op = call.op.removesuffix("Integer")
    names = []
    for index, label in ((0, "a"), (1, "b")):
        name, zero = call.inputs[index], call.operand(index + 2)
        value = b.value(zero)
        if zero and (value is None or np.any(value)):
            name, zero = (b.emit(f"{call.name}/{label}_wide", "Cast", [n], attrs={"to": "int32"}) for n in (name, zero))
            if len(b.type(zero).shape) == 1 and op == "Conv" and index == 1:
                rank = len(b.type(name).shape)
                zero = _reshape(b, call, "w_zero", zero, (b.type(zero).elements, *(1,) * (rank - 1)))
            elif len(b.type(zero).shape) == 1 and index == 0 and b.type(zero).elements > 1:
                zero = _reshape(b, call, "a_zero", zero, (b.type(zero).elements, 1))
            name = _binary(b, call, "Sub", f"{label}_centred", name, zero)
        names.append(name)
    result = _again(b, call, op, names, call.attrs if op == "Conv" else {})
    b.emit(f"{call.name}/sum", "Identity", [result], call.outputs)


# --- com.microsoft -------------------------------------------------------------------------------------------------


@rule("Gelu", "BiasGelu", "FastGelu", domain=_MS)
def gelu(b: Builder, call: Call) -> None:
    """Gelu with an optional bias; FastGelu is the tanh form."""
    name = call.inputs[0]
    if call.operand(1):
        name = _binary(b, call, "Add", "bias", name, call.operand(1))
    form = "tanh" if call.op == "FastGelu" else "none"
    b.emit(call.name, "Gelu", [name], call.outputs, {"approximate": form})


@rule("QuickGelu", domain=_MS)
def quick_gelu(b: Builder, call: Call) -> None:
    """x * sigmoid(alpha * x)."""
    x = call.inputs[0]
    alpha = b.array(f"{call.name}/alpha", float(call.attrs.get("alpha", 1.702)), b.type(x).dtype)
    gate = b.emit(f"{call.name}/sigmoid", "Sigmoid", [_binary(b, call, "Mul", "scaled", x, alpha)])
    b.emit(call.name, "Mul", [x, gate], call.outputs)


@rule("FusedMatMul", domain=_MS)
def fused_matmul(b: Builder, call: Call) -> None:
    """MatMul with transposed last axes and a factor."""
    names = []
    for index, attr in ((0, "transA"), (1, "transB")):
        name = call.inputs[index]
        rank = len(b.type(name).shape)
        if call.attrs.get(attr, 0) and rank > 1:
            perm = (*range(rank - 2), rank - 1, rank - 2)
            name = b.emit(f"{call.name}/{attr}", "Transpose", [name], attrs={"perm": perm})
        names.append(name)
    if call.attrs.get("transBatchA", 0) or call.attrs.get("transBatchB", 0):
        raise call.fail("transBatchA and transBatchB are not supported; disable that optimisation in onnxruntime")
    alpha = float(call.attrs.get("alpha", 1.0))
    if alpha == 1.0:
        b.emit(call.name, "MatMul", names, call.outputs)
        return
    product = b.emit(call.name, "MatMul", names)
    factor = b.array(f"{call.name}/alpha", alpha, b.type(product).dtype)
    b.emit(f"{call.name}/scale", "Mul", [product, factor], call.outputs)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_MS)
def skip_norm(b: Builder, call: Call) -> None:
    """Add the residual (and bias), then LayerNormalization or RMSNormalization; output 3 is the sum."""
    simple = call.op == "SkipSimplifiedLayerNormalization"
    bias = call.operand(3 if simple else 4)
    if any(call.outputs[1:3]):
        raise call.fail("the statistics outputs are not supported")
    wanted = call.outputs[3] if len(call.outputs) > 3 else ""
    x = call.inputs[0]
    if bias:
        x = _binary(b, call, "Add", "bias", x, bias)
    total = b.emit(f"{call.name}/skip", "Add", [x, call.inputs[1]], [wanted] if wanted else None)
    inputs = [total, call.inputs[2], *([] if simple else [call.operand(3)])]
    attrs = {"axis": -1, "epsilon": float(call.attrs.get("epsilon", 1e-12))}
    b.emit(call.name, "RMSNormalization" if simple else "LayerNormalization", inputs, call.outputs[:1], attrs)


@rule("SimplifiedLayerNormalization", domain=_MS)
@rule("SimplifiedLayerNormalization")
def simplified_norm(b: Builder, call: Call) -> None:
    """onnxruntime's name of RMSNormalization."""
    b.emit(call.name, "RMSNormalization", call.inputs[:2], call.outputs[:1], call.kept("stash_type"))


@rule("LayerNormalization", "RMSNormalization")
def layer_norm(b: Builder, call: Call) -> None:
    """Statistics are always computed in fp32 or wider."""
    b.emit(call.name, call.op, call.inputs, call.outputs, call.kept("stash_type"))
