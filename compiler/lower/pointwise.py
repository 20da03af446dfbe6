"""Lowering rules of element-wise operators: a group of them becomes one chain of vector operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from compiler.graph import Array, Constant, Node, TensorType
from compiler.kernels.pointwise import Pointwise, Step, build
from compiler.kernels.tiles import Operand, collapse
from compiler.lower.context import Call, Context, NoKernel, is_real, narrows, row_major, rule, scalar_value
from compiler.lower.views import broadcast_strides, call, near, only, operand
from compiler.ops.spatial import channel_last
from isa.dtypes import DType
from isa.dtypes import dtype as dtype_of

FP32 = TensorType((), "fp32")
EXACT = ("int32", "int64")  # pairs of these are computed as integers, immediates would not be
LARGEST = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}  # OCP OFP8: finite values, at which quantisation saturates
POWER_BITS, MOST_POWER = 6, 63  # bits of an exponent whose power of 2 fits 64 bits, and the largest of those

_UNARY = {
    "Neg": "neg", "Abs": "abs", "Reciprocal": "recip", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Relu": "relu",
    "Sigmoid": "sigmoid", "HardSwish": "hardswish", "Mish": "mish", "Softplus": "softplus", "Tanh": "tanh",
    "Erf": "erf", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sign": "sign", "Sin": "sin", "Cos": "cos",
    "Not": "not", "IsNaN": "isnan", "Identity": "copy", "Dropout": "copy",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sum": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Min": "min", "Max": "max", "Pow": "pow",
    "Mod": "mod", "And": "and", "Or": "or", "Xor": "xor", "Equal": "eq", "Less": "lt", "LessOrEqual": "le",
    "Greater": "gt", "GreaterOrEqual": "ge", "PRelu": "prelu",
}  # fmt: skip
_IMMEDIATE = {"Add": "adds", "Sum": "adds", "Mul": "muls", "Min": "mins", "Max": "maxs"}


class Chain:
    """Vector operations under construction: graph tensors become inputs, results are kept by name."""

    def __init__(self, context: Context, shape: tuple[int, ...]) -> None:
        self.context, self.shape = context, shape
        self.inputs: dict[str, Operand] = {}
        self.steps: list[Step] = []
        self.results: dict[str, int] = {}  # tensor -> index of its step

    def read(self, name: str) -> int:
        """Operand number of a graph tensor: the result of an earlier node of the group, or an input."""
        if name in self.results:
            step, kind = self.steps[self.results[name]], self.context.type_of(name)
            if (step.scale, step.zero_point) != (kind.scale, kind.zero_point):
                raise NoKernel(f"{name} is quantised and read as plain integers in one group")
            return -1 - self.results[name]
        held = near(self.context, name)
        if held not in self.inputs:
            strides = broadcast_strides(self.context.type_of(name).shape, self.shape)
            self.inputs[held] = operand(self.context, held, strides)
        return list(self.inputs).index(held)

    def read_as(self, name: str, value: Operand) -> int:
        """Operand number of a tensor seen otherwise than its type says (strides, scale)."""
        self.inputs[f"{name}\n"] = value
        return list(self.inputs).index(f"{name}\n")

    def put(self, op: str, *srcs: int, to: TensorType = FP32, f0: float = 0.0, f1: float = 0.0) -> int:
        """Append an operation whose result is rounded to the format of `to`; returns its operand number."""
        self.steps.append(Step(op, srcs, to.dtype, to.scale, to.zero_point, f0, f1))
        return -len(self.steps)


Emit = Callable[[Chain, Node, TensorType], int]
EMIT: dict[str, Emit] = {}


def _emits(*names: str) -> Callable[[Emit], Emit]:
    def register(function: Emit) -> Emit:
        EMIT.update(dict.fromkeys(names, function))
        return function

    return register


@_emits(*_UNARY)
def _unary(chain: Chain, node: Node, to: TensorType) -> int:
    return chain.put(_UNARY[node.op], chain.read(node.inputs[0]), to=to)


@_emits("And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "PRelu")
def _plain_binary(chain: Chain, node: Node, to: TensorType) -> int:
    return chain.put(_BINARY[node.op], *(chain.read(n) for n in node.inputs), to=to)


@_emits("Add", "Sum", "Mul", "Min", "Max")
def _variadic(chain: Chain, node: Node, to: TensorType) -> int:
    """Left to right in fp32 (integers in their own type); a scalar constant is an immediate."""
    kept = list(node.inputs)
    scalars: list[float] = []
    if to.dtype not in EXACT:
        for name in node.inputs:
            value = scalar_value(chain.context, name)
            if value is not None and len(kept) > 1:
                kept.remove(name)
                scalars.append(value)
    middle = TensorType((), to.dtype) if to.dtype in EXACT else FP32
    work: list[tuple[str, int | None, float]] = [(_BINARY[node.op], chain.read(n), 0.0) for n in kept[1:]]
    work += [(_IMMEDIATE[node.op], None, v) for v in scalars]
    value_now = chain.read(kept[0])
    for i, (op, other, f0) in enumerate(work):
        target = to if i == len(work) - 1 else middle
        value_now = chain.put(op, value_now, *([] if other is None else [other]), to=target, f0=f0)
    return value_now if work else chain.put("copy", value_now, to=to)


@_emits("Sub")
def _sub(chain: Chain, node: Node, to: TensorType) -> int:
    a, b = node.inputs
    left, right = (None if to.dtype in EXACT else scalar_value(chain.context, n) for n in (a, b))
    if right is not None:
        return chain.put("adds", chain.read(a), to=to, f0=-right)
    if left is not None:
        return chain.put("affine", chain.read(b), to=to, f0=-1.0, f1=left)
    return chain.put("sub", chain.read(a), chain.read(b), to=to)


@_emits("Div")
def _div(chain: Chain, node: Node, to: TensorType) -> int:
    """Integers truncate toward zero; those of up to 16 bits are divided as reals, which is exact below 2^24."""
    a, b = node.inputs
    if not dtype_of(to.dtype).is_float and to.scale == 1.0 and to.zero_point == 0:
        if to.dtype in EXACT:
            return chain.put("copy", _quotient(chain, chain.read(a), chain.read(b), to), to=to)
        return _truncate(chain, chain.put("div", chain.read(a), chain.read(b)), to)
    left, right = scalar_value(chain.context, a), scalar_value(chain.context, b)
    if right and math.isfinite(right) and math.frexp(abs(right))[0] == 0.5:  # a power of two: its reciprocal is exact
        return chain.put("muls", chain.read(a), to=to, f0=1.0 / right)
    if left == 1.0:
        return chain.put("recip", chain.read(b), to=to)
    return chain.put("div", chain.read(a), chain.read(b), to=to)


def _quotient(chain: Chain, a: int, b: int, to: TensorType) -> int:
    """Integer division toward zero: sizes are divided as reals, and the remainder, exact, corrects the quotient.

    A real quotient is wrong by 3/2^24 of itself at most; made smaller by 2^-21 it never exceeds the true one, so that
    remainders stay positive, each round gains 20 bits, and what is left at the end is less than two divisors.
    """
    signs = [chain.put("sign", v, to=to) for v in (a, b)]
    rest, size = (chain.put("mul", v, s, to=to) for v, s in zip((a, b), signs))
    total = 0
    for i in range(2 if to.dtype == "int32" else 4):
        part = chain.put("floor", chain.put("muls", chain.put("div", rest, size), f0=1.0 - 2.0**-21), to=to)
        rest = chain.put("sub", rest, chain.put("mul", part, size, to=to), to=to)
        total = part if i == 0 else chain.put("add", total, part, to=to)
    total = chain.put("add", total, chain.put("ge", rest, size, to=to), to=to)
    return chain.put("mul", total, chain.put("mul", *signs, to=to), to=to)


def _truncate(chain: Chain, value: int, to: TensorType) -> int:
    """Round toward zero: sign(x) * floor(|x|)."""
    sign = chain.put("sign", value)
    size = chain.put("floor", chain.put("abs", value))
    return chain.put("mul", size, sign, to=to)


@_emits("Pow")
def _pow(chain: Chain, node: Node, to: TensorType) -> int:
    """Reals by the unit's own operation; integers by squaring, which is exact as far as they reach."""
    exponent = scalar_value(chain.context, node.inputs[1])
    base = chain.read(node.inputs[0])
    if to.dtype in EXACT:
        if exponent is not None and exponent.is_integer() and 0 < exponent <= MOST_POWER:
            return _whole_power(chain, base, int(exponent), to)
        return _integer_power(chain, base, chain.read(node.inputs[1]), to)
    if exponent is None:
        return chain.put("pow", base, chain.read(node.inputs[1]), to=to)
    simple = {2.0: "square", 0.5: "sqrt", -1.0: "recip"}.get(exponent)
    return chain.put(simple, base, to=to) if simple else chain.put("pows", base, to=to, f0=exponent)


def _whole_power(chain: Chain, base: int, exponent: int, to: TensorType) -> int:
    """A known power: by squares and products of them."""
    found: int | None = None
    while exponent:
        if exponent & 1:
            found = base if found is None else chain.put("mul", found, base, to=to)
        exponent >>= 1
        base = chain.put("mul", base, base, to=to) if exponent else base
    return chain.put("copy", base if found is None else found, to=to)


def _integer_power(chain: Chain, base: int, exponent: int, to: TensorType) -> int:
    """Computed powers: the square of each bit of the exponent joins where the bit is set.

    Six bits cover what an integer holds; of larger exponents (below 2^24) only -1, 0 and 1 have powers, those of
    negative ones are 0 but for -1 and 1. Exponents that are not whole are taken as reals.
    """
    rest = chain.put("floor", exponent)
    whole, negative = chain.put("eq", exponent, rest), chain.put("lt", rest, chain.put("muls", rest, f0=0.0))
    power = chain.put("affine", rest, to=to, f1=1.0)
    unit = chain.put("eq", chain.put("square", base), power, to=to)
    square = base
    for _ in range(POWER_BITS):
        half = chain.put("floor", chain.put("muls", rest, f0=0.5))
        bit = chain.put("sub", rest, chain.put("muls", half, f0=2.0))
        power = chain.put("select", bit, chain.put("mul", power, square, to=to), power, to=to)
        square, rest = chain.put("mul", square, square, to=to), half
    power = chain.put("select", rest, chain.put("mul", power, square, to=to), power, to=to)
    power = chain.put("select", negative, chain.put("mul", power, unit, to=to), power, to=to)
    real = _truncate(chain, chain.put("pow", base, exponent), to)
    return chain.put("select", whole, power, real, to=to)


@_emits("Mod")
def _mod(chain: Chain, node: Node, to: TensorType) -> int:
    """The remainder has the divisor's sign, with `fmod` the dividend's."""
    a, b = (chain.read(n) for n in node.inputs)
    truncates = bool(node.attrs.get("fmod", 0))
    if to.dtype in EXACT:
        rest = chain.put("sub", a, chain.put("mul", _quotient(chain, a, b, to), b, to=to), to=to)
        if truncates:
            return chain.put("copy", rest, to=to)
        apart = chain.put("mins", chain.put("mul", chain.put("sign", rest), chain.put("sign", b)), to=to)
        return chain.put("sub", rest, chain.put("mul", apart, b, to=to), to=to)  # apart is -1 where signs differ
    if not truncates:
        return chain.put("mod", a, b, to=to)
    rest = chain.put("mod", chain.put("abs", a), chain.put("abs", b))
    return chain.put("mul", rest, chain.put("sign", a), to=to)


@_emits("LeakyRelu", "Elu", "HardSigmoid", "Selu")
def _with_attributes(chain: Chain, node: Node, to: TensorType) -> int:
    x, get = chain.read(node.inputs[0]), node.attrs.get
    if node.op == "LeakyRelu":
        return chain.put("leaky_relu", x, to=to, f0=get("alpha", 0.01))
    if node.op == "Elu":
        return chain.put("elu", x, to=to, f0=get("alpha", 1.0))
    if node.op == "Selu":
        value = chain.put("elu", x, f0=get("alpha", 1.67326319217681884765625))
        return chain.put("muls", value, to=to, f0=get("gamma", 1.05070102214813232421875))
    return chain.put("hard_sigmoid", x, to=to, f0=get("alpha", 0.2), f1=get("beta", 0.5))


@_emits("Swish")
def _swish(chain: Chain, node: Node, to: TensorType) -> int:
    x, alpha = chain.read(node.inputs[0]), float(node.attrs.get("alpha", 1.0))
    gate = chain.put("sigmoid", x if alpha == 1.0 else chain.put("muls", x, f0=alpha))
    return chain.put("mul", x, gate, to=to)


@_emits("Gelu")
def _gelu(chain: Chain, node: Node, to: TensorType) -> int:
    tanh = node.attrs.get("approximate", "none") == "tanh"
    return chain.put("gelu_tanh" if tanh else "gelu", chain.read(node.inputs[0]), to=to)


@_emits("Mean")
def _mean(chain: Chain, node: Node, to: TensorType) -> int:
    total = chain.read(node.inputs[0])
    for name in node.inputs[1:]:
        total = chain.put("add", total, chain.read(name))
    return chain.put("muls", total, to=to, f0=1.0 / len(node.inputs))


@_emits("Celu", "ThresholdedRelu")
def _by_sign(chain: Chain, node: Node, to: TensorType) -> int:
    x, alpha = chain.read(node.inputs[0]), float(node.attrs.get("alpha", 1.0))
    if node.op == "Celu":  # max(x, 0) + alpha (exp(min(x, 0) / alpha) - 1)
        below = chain.put("elu", chain.put("muls", chain.put("mins", x), f0=1.0 / alpha), f0=alpha)
        return chain.put("add", chain.put("maxs", x), below, to=to)
    above = chain.put("relu", chain.put("sign", chain.put("adds", x, f0=-alpha)))
    return chain.put("select", above, x, above, to=to)


@_emits("IsInf")
def _is_inf(chain: Chain, node: Node, to: TensorType) -> int:
    """Larger than the largest float32, in the directions that are asked for."""
    value = chain.read(node.inputs[0])
    up, down = (node.attrs.get(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    if down:
        value = chain.put("abs" if up else "neg", value)
    elif not up:
        value = chain.put("muls", value)
    return chain.put("lt", chain.put("mins", value, f0=float(np.finfo(np.float32).max)), value, to=to)


@_emits("Tan", "Cosh", "Sinh")
def _trigonometric(chain: Chain, node: Node, to: TensorType) -> int:
    x = chain.read(node.inputs[0])
    if node.op == "Tan":
        return chain.put("div", chain.put("sin", x), chain.put("cos", x), to=to)
    both = chain.put("add", chain.put("exp", x), chain.put("exp", chain.put("neg", x)))
    if node.op == "Cosh":
        return chain.put("muls", both, to=to, f0=0.5)
    return chain.put("mul", chain.put("tanh", x), chain.put("muls", both, f0=0.5), to=to)  # exact next to 0, too


@_emits("Softsign")
def _softsign(chain: Chain, node: Node, to: TensorType) -> int:
    x = chain.read(node.inputs[0])
    return chain.put("div", x, chain.put("adds", chain.put("abs", x), f0=1.0), to=to)


@_emits("Clip")
def _clip(chain: Chain, node: Node, to: TensorType) -> int:
    """Limits are attributes or constant inputs; either may be absent."""
    limits: list[float | None] = []
    for index, name in ((1, "min"), (2, "max")):
        given = node.attrs.get(name)
        if index < len(node.inputs) and node.inputs[index]:
            given = scalar_value(chain.context, node.inputs[index])
            if given is None:
                raise NoKernel(f"{node.name}: limit {node.inputs[index]!r} must be constant")
        limits.append(None if given is None else float(given))
    x = chain.read(node.inputs[0])
    low, high = limits
    if low is not None and high is not None:
        return chain.put("clip", x, to=to, f0=low, f1=high)
    if low is None and high is None:
        return chain.put("copy", x, to=to)
    return chain.put("maxs", x, to=to, f0=low) if low is not None else chain.put("mins", x, to=to, f0=high or 0.0)


@_emits("Where")
def _where(chain: Chain, node: Node, to: TensorType) -> int:
    return chain.put("select", *(chain.read(n) for n in node.inputs), to=to)


@_emits("Cast")
def _cast(chain: Chain, node: Node, to: TensorType) -> int:
    x = chain.read(node.inputs[0])
    kind = chain.context.type_of(node.inputs[0])
    source = dtype_of(kind.dtype)
    if to.dtype in LARGEST and source.bits > 8:
        if node.attrs.get("saturate", 1):
            return chain.put("clip", x, to=to, f0=-LARGEST[to.dtype], f1=LARGEST[to.dtype])
        if to.dtype == "fp8_e4m3":
            raise NoKernel(f"{node.name}: stores saturate fp8_e4m3, which has no infinity")
    if not narrows(kind, to):
        return chain.put("copy", x, to=to)
    return _truncate(chain, x, to) if is_real(kind) else _low_bits(chain, x, source, to)


def _low_bits(chain: Chain, value: int, source: DType, to: TensorType) -> int:
    """An integer without the high bits that `to` has no room for, as ONNX asks: x - floor((x + half) / size) size.

    Quotients are reals, the difference is exact. All rounds but the last take 20 bits off, with quotients that are
    made smaller so that no product overflows; what is left is below 2^24, and its quotient exact.
    """
    bits = dtype_of(to.dtype).bits
    half = 0.0 if to.dtype == "uint8" else 2.0 ** (bits - 1)
    whole = TensorType((), "int64" if source.bits == 64 else "int32")
    size = chain.put("affine", value, to=whole, f1=2.0**bits)
    rest = chain.put("copy", value, to=whole)
    for left in reversed(range(-(-source.bits // 24))):
        share = 2.0**-bits * (1.0 - 2.0**-20 if left else 1.0)
        high = chain.put("floor", chain.put("muls", chain.put("adds", rest, f0=half), f0=share), to=whole)
        rest = chain.put("sub", rest, chain.put("mul", high, size, to=whole), to=whole)
    return chain.put("copy", rest, to=to)


@_emits("QuantizeLinear")
def _quantize(chain: Chain, node: Node, to: TensorType) -> int:
    """A division, rounded before the zero point is added; one scale a tensor is the format of a machine without div."""
    one, x, whole = _one_scale(chain, node), chain.read(node.inputs[0]), not dtype_of(to.dtype).is_float
    vector = chain.context.machine.core.vector
    divides = vector is not None and (not vector.operations or "div" in vector.operations)
    if one is not None and whole and not divides:
        return chain.put("copy", x, to=TensorType((), to.dtype, *one))
    plain = whole and (len(node.inputs) < 3 or (one is not None and not one[1]))
    scaled = chain.put("div", x, chain.read(node.inputs[1]), to=to if plain else FP32)
    if plain:
        return scaled
    if not whole:
        return chain.put("clip", scaled, to=to, f0=-LARGEST[to.dtype], f1=LARGEST[to.dtype])
    return _offset(chain, node, chain.put("round", scaled), one, to, 1)


@_emits("DequantizeLinear")
def _dequantize(chain: Chain, node: Node, to: TensorType) -> int:
    """One scale of a tensor in memory is its operand's format; all others are arithmetic."""
    name, one = node.inputs[0], _one_scale(chain, node)
    kind = chain.context.type_of(name)
    if one is not None and not dtype_of(kind.dtype).is_float and name not in chain.results:
        held = near(chain.context, name)
        strides = broadcast_strides(kind.shape, chain.shape)
        stored = Operand(chain.context.space_of(held), kind.dtype, strides, *one)
        return chain.put("copy", chain.read_as(held, stored), to=to)
    value = chain.read(name)
    if len(node.inputs) > 2 and not dtype_of(kind.dtype).is_float and (one is None or one[1]):
        centred = TensorType((), kind.dtype) if kind.dtype in EXACT else FP32
        value = _offset(chain, node, value, one, centred, -1)
    if one is not None:
        return chain.put("muls", value, to=to, f0=one[0])
    return chain.put("mul", value, chain.read(node.inputs[1]), to=to)


@_emits("FakeQuantize")
def _fake_quantize(chain: Chain, node: Node, to: TensorType) -> int:
    """There and back through a tile of the format that the model states, in 8 or 16 bits."""
    scale, low, high = (node.attrs[k] for k in ("scale", "low", "high"))
    kind = "int8" if high - low < 256 else "int16"
    least = -128 if kind == "int8" else -32768
    stored = chain.put("copy", chain.read(node.inputs[0]), to=TensorType((), kind, scale, least - low))
    return chain.put("copy", stored, to=to)


def _offset(chain: Chain, node: Node, value: int, one: tuple[float, int] | None, to: TensorType, sign: int) -> int:
    """Add (sign 1) or subtract (-1) the zero point."""
    if one is not None and to.dtype not in EXACT:
        return chain.put("adds", value, to=to, f0=float(sign * one[1]))
    return chain.put("add" if sign > 0 else "sub", value, chain.read(node.inputs[2]), to=to)


def _one_scale(chain: Chain, node: Node) -> tuple[float, int] | None:
    """Scale and zero point of the whole tensor, where both are known; raises NoKernel when blocks remain."""
    if node.attrs.get("block_size", 0):
        raise NoKernel(f"{node.name}: its blocks do not divide their axis")
    scale = scalar_value(chain.context, node.inputs[1])
    zero = scalar_value(chain.context, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else 0.0
    return None if scale is None or zero is None else (scale, int(zero))


@_emits("BatchNormalization")
def _batch_norm(chain: Chain, node: Node, to: TensorType) -> int:
    """x * factor + offset, one of each a channel, computed from the statistics when their values are asked for."""
    context = chain.context
    names = node.inputs[1:5]
    only(context, names, node.name)
    held = [context.graph.constants[n] for n in names]
    shape = context.type_of(node.inputs[0]).shape
    channels = held[0].type.shape[0]
    stripped = any(c.stripped for c in held)

    def factor() -> Array:
        scale, _, _, variance = (np.asarray(c.value(), np.float32) for c in held)
        return np.asarray(scale / np.sqrt(variance + np.float32(node.attrs.get("epsilon", 1e-5))))

    def offset() -> Array:
        _, bias, mean, _ = (np.asarray(c.value(), np.float32) for c in held)
        return np.asarray(bias - mean * factor())

    axis = len(shape) - 1 if channel_last(node) else 1
    strides = broadcast_strides(tuple(channels if i == axis else 1 for i in range(len(shape))), chain.shape)
    vectors = []
    for suffix, values in (("factor", factor), ("offset", offset)):
        name = f"{node.name}.{suffix}"
        constant = Constant(TensorType((channels,), "fp32"), None if stripped else values)
        context.add_constant(name, constant)
        chain.inputs[name] = Operand(context.space_of(name), "fp32", strides)
        vectors.append(list(chain.inputs).index(name))
    return chain.put("add", chain.put("mul", chain.read(node.inputs[0]), vectors[0]), vectors[1], to=to)


def _outputs(context: Context, nodes: Sequence[Node]) -> list[str]:
    """Tensors of a group that someone outside of it reads."""
    inside = {n.name for n in nodes}
    wanted = {name for n in context.graph.nodes if n.name not in inside for name in n.inputs}
    wanted |= set(context.graph.outputs)
    second = [name for n in nodes for name in n.outputs[1:] if name and name in wanted]
    if second:
        raise NoKernel(f"{nodes[0].name}: only first outputs are computed, {second[0]} is read too")
    return [name for n in nodes for name in n.outputs[:1] if name in wanted]


@rule(*EMIT)
def pointwise(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """A group of element-wise nodes, in topological order."""
    results = [context.type_of(n.outputs[0]).shape for n in nodes]
    shape = tuple(int(d) for d in np.broadcast_shapes(*results))
    if 0 in shape:
        return []
    chain = Chain(context, shape)
    for node in nodes:
        if node.op not in EMIT:
            raise NoKernel(f"{node.name}: {node.op} is not an element-wise operation of the vector unit")
        EMIT[node.op](chain, node, context.type_of(node.outputs[0]))
        chain.results[node.outputs[0]] = len(chain.steps) - 1
    names = _outputs(context, nodes)
    if any(context.type_of(n).shape != shape for n in names):
        raise NoKernel(f"{nodes[0].name}: results of different shapes leave one group")
    outs = [operand(context, n, row_major(shape)) for n in names]
    extents, strides = collapse(shape, *(o.strides for o in (*chain.inputs.values(), *outs)))
    placed = [_restrided(o, s) for o, s in zip((*chain.inputs.values(), *outs), strides)]
    count = len(chain.inputs)
    spec = Pointwise(
        extents, tuple(placed[:count]), tuple(chain.steps),
        tuple((chain.results[n], o) for n, o in zip(names, placed[count:])),
    )  # fmt: skip
    bind = {f"in{i}": (n.rstrip("\n"), 0) for i, n in enumerate(chain.inputs)}
    bind |= {f"out{i}": (n, 0) for i, n in enumerate(names)}
    return [call(context, spec, build, bind)]


def _restrided(value: Operand, strides: tuple[int, ...]) -> Operand:
    return Operand(value.space, value.dtype, strides, value.scale, value.zero_point)
