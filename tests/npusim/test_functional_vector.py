"""Every vector operation against its definition; quantised operands; reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from functional_fixture import Asm, machine, no_host

from isa.dtypes import DTYPES, dtype, round_to
from isa.errors import SimulationError
from isa.table import ACTIVATIONS, TABLE
from npusim.functional import execute
from npusim.functional.vector import erf

SHAPE = (5, 8)
X = np.random.default_rng(0).uniform(-4, 4, SHAPE).astype(np.float32)
Y = np.random.default_rng(1).uniform(-4, 4, SHAPE).astype(np.float32)
Z = np.random.default_rng(2).uniform(-4, 4, SHAPE).astype(np.float32)
F0, F1 = 0.25, 0.75


def each(function: Callable[[float], float]) -> Callable[[Any], Any]:
    return np.vectorize(function, otypes=[np.float64])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


UNARY: dict[str, Callable[[Any], Any]] = {
    "copy": lambda x: x, "neg": lambda x: -x, "abs": abs, "exp": each(math.exp), "log": each(math.log),
    "sqrt": each(math.sqrt), "rsqrt": each(lambda x: 1 / math.sqrt(x)), "recip": each(lambda x: 1 / x),
    "tanh": each(math.tanh), "sigmoid": each(sigmoid), "erf": each(math.erf),
    "gelu": each(lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
    "gelu_tanh": each(lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "relu": each(lambda x: max(x, 0.0)), "hardswish": each(lambda x: x * min(max(x + 3, 0), 6) / 6),
    "floor": each(math.floor), "ceil": each(math.ceil), "round": each(round), "not": each(lambda x: x == 0),
    "sign": each(lambda x: (x > 0) - (x < 0)), "isnan": each(math.isnan), "sin": each(math.sin), "cos": each(math.cos),
    "softplus": each(softplus), "square": lambda x: x * x, "mish": each(lambda x: x * math.tanh(softplus(x))),
    "leaky_relu": each(lambda x: x if x >= 0 else F0 * x), "clip": each(lambda x: min(max(x, F0), F1)),
    "adds": lambda x: x + F0, "muls": lambda x: x * F0, "maxs": each(lambda x: max(x, F0)),
    "mins": each(lambda x: min(x, F0)), "pows": each(lambda x: x**F0), "affine": lambda x: F0 * x + F1,
    "hard_sigmoid": each(lambda x: min(max(F0 * x + F1, 0), 1)),
    "elu": each(lambda x: x if x > 0 else F0 * (math.exp(x) - 1)),
}  # fmt: skip
POSITIVE = {"log", "sqrt", "rsqrt", "pows"}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "max": np.where, "min": np.where, "pow": lambda a, b: np.abs(a) ** b, "mod": lambda a, b: a - b * np.floor(a / b),
    "eq": lambda a, b: a == b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b, "and": lambda a, b: (a != 0) & (b != 0), "or": lambda a, b: (a != 0) | (b != 0),
    "xor": lambda a, b: (a != 0) ^ (b != 0), "prelu": lambda a, b: np.where(a >= 0, a, a * b),
}  # fmt: skip
BINARY["max"] = lambda a, b: np.where(a > b, a, b)
BINARY["min"] = lambda a, b: np.where(a < b, a, b)
TERNARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "select": lambda a, b, c: np.where(a != 0, b, c), "fma": lambda a, b, c: a * b + c
}  # fmt: skip


def run(name: str, values: list[Any], kinds: list[str], out_kind: str, **more: Any) -> Any:
    """One vector operation; operand strides are those of broadcasting to SHAPE."""
    asm = Asm()
    quantised = more.pop("quantised", [{}] * (len(kinds) + 1))
    descs = []
    for letter, value, kind, fields in zip("abc", values, kinds, quantised[1:]):
        base = asm.tensor(letter, value.shape, kind, "input")
        size = dtype(kind).size_bytes
        steps = tuple(0 if n == 1 else size * int(np.prod(value.shape[i + 1 :])) for i, n in enumerate(value.shape))
        descs.append(asm.d("dram", kind, SHAPE, base, steps, **fields))
    d = asm.d("dram", out_kind, SHAPE, asm.tensor("d", SHAPE, out_kind, "output"), **quantised[0])
    asm.op(name, d, *descs, f0=F0, f1=F1, **more)
    return execute(asm.program(), machine(), dict(zip("abc", values)), no_host).tensors["d"]


def test_every_vector_operation_is_tested() -> None:
    named = {op.name for op in TABLE if op.lanes in ("unary", "binary", "ternary")}
    assert named == {f"v.{n}" for n in (*UNARY, *BINARY, *TERNARY)}


def assert_close(found: Any, expected: Any, ulps: float = 2) -> None:
    expected = np.asarray(expected, np.float64)
    scale = np.maximum(np.abs(expected), 2.0**-126)
    assert (np.abs(found.astype(np.float64) - expected) <= ulps * scale * 2.0**-23).all()


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    x = X.copy()
    x.flat[::7] = np.round(x.flat[::7])
    x = np.abs(x) + np.float32(0.01) if name in POSITIVE else x
    found = run("v." + name, [x], ["fp32"], "fp32")
    # Differences of nearly equal numbers are bounded by their operands, not by the result.
    cancels = 8 if name in ("affine", "elu", "gelu", "gelu_tanh") else 2
    exact = UNARY[name](x.astype(np.float64))
    if name in ("adds", "affine", "elu", "log", "hard_sigmoid"):
        assert np.abs(found - exact).max() <= cancels * 2.0**-22
    else:
        assert_close(found, exact, cancels)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    a, b = X.copy(), Y.copy()
    a[0], b[0, ::2] = b[0], a[0, ::2]
    a[1, :3], b[1, 1:4] = 0, 0
    if name in ("div", "mod", "pow"):
        a, b = np.abs(a), np.where(b == 0, np.float32(1), b)
    found = run("v." + name, [a, b], ["fp32", "fp32"], "fp32")
    exact = BINARY[name](a.astype(np.float64), b.astype(np.float64))
    assert np.abs(found - exact).max() <= 2.0**-22 * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("name", TERNARY)
def test_ternary(name: str) -> None:
    a = np.where(X > 1, 0, X).astype(np.float32)
    found = run("v." + name, [a, Y, Z], ["fp32"] * 3, "fp32")
    exact = TERNARY[name](*(v.astype(np.float64) for v in (a, Y, Z)))
    np.testing.assert_array_equal(found, exact.astype(np.float32))


@pytest.mark.parametrize("shape", [(5, 1), (1, 8), (1, 1)])
def test_broadcast_by_stride_0(shape: tuple[int, int]) -> None:
    b = Y[: shape[0], : shape[1]].copy()
    np.testing.assert_array_equal(run("v.sub", [X, b], ["fp32", "fp32"], "fp32"), X - b)


@pytest.mark.parametrize("kind", ["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8", "bool"])
def test_results_are_rounded_once(kind: str) -> None:
    found = run("v.add", [X, Y], ["fp32", "fp32"], kind)
    np.testing.assert_array_equal(found.astype(np.float32), round_to(X + Y, dtype(kind)).astype(np.float32))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "lt", "eq", "max"])
def test_integers_are_exact(name: str) -> None:
    """int64 pairs beyond 2^53 keep their last bit; narrow results saturate."""
    a = np.full(SHAPE, (1 << 60) + 1, np.int64) if name != "mul" else np.full(SHAPE, (1 << 30) + 1, np.int64)
    b = np.arange(40, dtype=np.int64).reshape(SHAPE)
    exact = BINARY[name](a, b).astype(np.int64)
    np.testing.assert_array_equal(run("v." + name, [a, b], ["int64"] * 2, "int64"), exact)
    narrow = np.clip(exact, -(1 << 31), (1 << 31) - 1)
    np.testing.assert_array_equal(run("v." + name, [a, b], ["int64"] * 2, "int32"), narrow)


@pytest.mark.parametrize("name", ["v.copy", "v.transpose"])
def test_moves_keep_integers(name: str) -> None:
    a = np.arange(40, dtype=np.int64).reshape(SHAPE) + (1 << 55)
    np.testing.assert_array_equal(run(name, [a], ["int64"], "int64"), a)


def test_transpose_by_strides() -> None:
    asm = Asm()
    a, d = asm.tensor("a", SHAPE, "fp32", "input"), asm.tensor("d", SHAPE[::-1], "fp32", "output")
    asm.op("v.transpose", asm.d("dram", "fp32", SHAPE[::-1], d), asm.d("dram", "fp32", SHAPE[::-1], a, (4, 32)))
    np.testing.assert_array_equal(execute(asm.program(), machine(), {"a": X}, no_host).tensors["d"], X.T)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantised_operands(kind: str) -> None:
    """(q - zero) * scale in; saturate(round_half_even(x / scale) + zero) out."""
    rng, info = np.random.default_rng(5), np.iinfo(kind)
    a, b = (rng.integers(info.min, info.max, SHAPE, endpoint=True).astype(kind) for _ in range(2))
    fields = [{"scale": 0.5, "zero_point": 3}, {"scale": 0.25, "zero_point": -7}, {"scale": 0.125, "zero_point": 5}]
    found = run("v.add", [a, b], [kind, kind], kind, quantised=fields)
    real = (a.astype(np.float64) + 7) * 0.25 + (b.astype(np.float64) - 5) * 0.125
    np.testing.assert_array_equal(found, np.clip(np.rint(real / 0.5) + 3, info.min, info.max).astype(kind))


REDUCTIONS = {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod}


@pytest.mark.parametrize("name", [f"v.{lane}{n}" for lane in "rl" for n in REDUCTIONS])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), ()])
@pytest.mark.parametrize("accumulate", [False, True])
def test_reductions(name: str, axes: tuple[int, ...], accumulate: bool) -> None:
    shape = tuple(1 if i in axes else n for i, n in enumerate(SHAPE))
    stride = [4 * shape[1], 4]
    for axis in axes:
        stride[axis] = 0
    asm = Asm()
    a, d = asm.tensor("a", SHAPE, "fp32", "input"), asm.tensor("d", shape, "fp32", "output")
    asm.put("li", dst=1, imm=int(accumulate))
    asm.op(name, asm.d("dram", "fp32", SHAPE, d, tuple(stride)), asm.d("dram", "fp32", SHAPE, a), c=1)
    old = Y[: shape[0], : shape[1]].copy()
    found = execute(asm.program(), machine(), {"a": X, "d": old}, no_host).tensors["d"]
    exact = REDUCTIONS[name[3:]](X.astype(np.float64), axis=axes, keepdims=True) if axes else X.astype(np.float64)
    if accumulate:
        exact = REDUCTIONS[name[3:]](np.stack([exact, old.astype(np.float64)]), axis=0)
    assert np.abs(found - exact).max() <= 40 * 2.0**-23 * np.abs(exact).max()
    if name[3:] in ("max", "min"):
        np.testing.assert_array_equal(found, exact)


def test_integer_sum_is_exact() -> None:
    a = np.full(SHAPE, (1 << 24) + 1, np.int32)
    asm = Asm()
    base, d = asm.tensor("a", SHAPE, "int32", "input"), asm.tensor("d", (5, 1), "int64", "output")
    asm.op("v.rsum", asm.d("dram", "int64", SHAPE, d, (8, 0)), asm.d("dram", "int32", SHAPE, base))
    found = execute(asm.program(), machine(), {"a": a}, no_host).tensors["d"]
    assert (found == 8 * ((1 << 24) + 1)).all()


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_fix_applies_activations(act: str) -> None:
    """fix act(x) equals the vector operation of the same name."""
    found = run("fix", [X], ["fp32"], "fp32", imm=ACTIVATIONS.index(act))
    np.testing.assert_array_equal(found, X if act == "none" else run(f"v.{act}", [X], ["fp32"], "fp32"))


def test_unknown_activation() -> None:
    with pytest.raises(SimulationError, match=f"activation {len(ACTIVATIONS)} does not exist"):
        run("fix", [X], ["fp32"], "fp32", imm=len(ACTIVATIONS))


def test_shapes_must_agree() -> None:
    asm = Asm()
    a = asm.tensor("a", SHAPE, "fp32", "input")
    asm.op("v.add", *(asm.d("dram", "fp32", s, a) for s in (SHAPE, SHAPE, (5, 7))))
    with pytest.raises(SimulationError, match=r"operand B has shape \(5, 7\), D has \(5, 8\)"):
        execute(asm.program(), machine(), {"a": X}, no_host)


@pytest.mark.parametrize("kind", [n for n in DTYPES if n not in ("fp64", "int64", "int32")])
def test_narrow_formats_are_read_as_they_are(kind: str) -> None:
    values = round_to(X * 3, dtype(kind))
    np.testing.assert_array_equal(run("v.copy", [values], [kind], "fp32"), values.astype(np.float32))


def test_erf_to_float64_accuracy() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, -0.46875, 1e-300, np.inf, -np.inf]])
    exact = np.array([math.erf(v) for v in x])
    assert np.abs(erf(x) - exact).max() <= 4e-16
    assert np.isnan(erf(np.array([np.nan]))).all()
