"""Element-wise groups: every operator against its numpy meaning, chains, broadcasts, quantised operands, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_fixture import MACHINES, check, feeds_of, graph_of, lower, machine, run

from compiler.graph import Constant, Graph, Node, TensorType
from compiler.kernels.pointwise import Pointwise, Step, build
from compiler.kernels.tiles import Operand
from compiler.lower.context import NoKernel
from compiler.ops import run_graph
from isa.errors import CapacityError

FLOAT = ("tiny", "tpu-v3", "tpu-v4")
UNARY: list[tuple[str, dict[str, Any]]] = [
    *((op, {}) for op in ("Neg", "Abs", "Reciprocal", "Exp", "Sqrt", "Log", "Relu", "Sigmoid", "HardSwish", "Mish",
                          "Softplus", "Tanh", "Erf", "Gelu", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "IsNaN",
                          "LeakyRelu", "Elu", "HardSigmoid", "Selu", "Softsign", "Identity", "Celu", "ThresholdedRelu",
                          "Tan", "Cosh", "Sinh", "Swish")), ("Swish", {"alpha": 1.702}),
    ("Celu", {"alpha": 0.7}), ("ThresholdedRelu", {"alpha": 0.3}),
    ("Gelu", {"approximate": "tanh"}), ("Elu", {"alpha": 0.5}), ("LeakyRelu", {"alpha": 0.25}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.1}), ("Clip", {"min": -0.5, "max": 1.0}), ("Clip", {"min": 0.0}),
    ("Clip", {"max": 0.25}), ("Clip", {}),
    *(("Cast", {"to": kind}) for kind in ("int32", "int8", "bool")),
]  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Mod", "Equal", "Less", "LessOrEqual", "Greater",
          "GreaterOrEqual", "PRelu")  # fmt: skip


def unary(op: str, dtype: str, shape: tuple[int, ...] = (3, 37), **attrs: Any) -> Graph:
    return graph_of([Node("n", op, ("x",), ("o",), attrs)], {"x": TensorType(shape, dtype)})


@pytest.mark.parametrize(("op", "attrs"), UNARY)
@pytest.mark.parametrize("hw", FLOAT[:2])
def test_unary(op: str, attrs: dict[str, Any], hw: str) -> None:
    # the reference computes erf and sums of exponentials in float32: a few of its own ulps at fp32
    check(unary(op, machine(hw).default_dtype, **attrs), hw, ulps=4 if hw == "tiny" else 1, absolute=4e-7)


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("hw", FLOAT)
def test_binary_broadcast(op: str, hw: str) -> None:
    kind = machine(hw).default_dtype
    types = {"x": TensorType((4, 3, 9), kind), "y": TensorType((3, 1), kind)}
    check(graph_of([Node("n", op, ("x", "y"), ("o",))], types), hw)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow"])
@pytest.mark.parametrize("value", [2.0, 0.5, 3.0, -1.0, 1.0])
@pytest.mark.parametrize("left", [False, True])
def test_scalar_constants(op: str, value: float, left: bool) -> None:
    names = ("c", "x") if left else ("x", "c")
    graph = graph_of([Node("n", op, names, ("o",))], {"x": TensorType((5, 7), "fp32")},
                     {"c": (np.full((1,), value, np.float32), "fp32")})  # fmt: skip
    check(graph, "tiny")


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_infinities(positive: int, negative: int) -> None:
    graph = unary("IsInf", "fp32", (6,), detect_positive=positive, detect_negative=negative)
    x = np.float32([np.inf, -np.inf, 3.4e38, -3.4e38, np.nan, 0])
    assert run(graph, "tiny", {"x": x})["o"].tolist() == [bool(positive), bool(negative), False, False, False, False]


@pytest.mark.parametrize("op", ["Mean", "Sum", "Max", "Min"])
def test_variadic(op: str) -> None:
    types = {n: TensorType((4, 33), "bf16") for n in "xyz"}
    check(graph_of([Node("n", op, ("x", "y", "z"), ("o",))], types), "tpu-v3", absolute=1e-6)


def test_a_scalar_is_an_immediate() -> None:
    graph = graph_of([Node("n", "Mul", ("x", "c"), ("o",))], {"x": TensorType((5, 7), "fp32")},
                     {"c": (np.float32(3), "fp32")})  # fmt: skip
    (call,) = lower(graph, "tiny")[1]
    assert "c" not in {name for name, _ in call.bind.values()}


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logical(op: str) -> None:
    kind = TensorType((4, 9), "bool")
    check(graph_of([Node("n", op, ("x", "y"), ("o",))], {"x": kind, "y": kind}), "tiny", 0)
    check(graph_of([Node("n", "Not", ("x",), ("o",))], {"x": kind}), "tiny", 0)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int32", "int64"])
def test_where(kind: str) -> None:
    types = {"c": TensorType((4, 1), "bool"), "x": TensorType((4, 9), kind), "y": TensorType((), kind)}
    check(graph_of([Node("n", "Where", ("c", "x", "y"), ("o",))], types), "tpu-v3", 0)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max"])
def test_integers_stay_exact(op: str) -> None:
    graph = graph_of([Node("n", op, ("x", "c"), ("o",))], {"x": TensorType((40,), "int64")},
                     {"c": (np.int64((1 << 40) + 1), "int64")})  # fmt: skip
    check(graph, "tiny", 0)


def test_integer_division_truncates() -> None:
    kind = TensorType((64,), "int8")
    graph = graph_of([Node("n", "Div", ("x", "y"), ("o",))], {"x": kind, "y": kind})
    feeds = {"x": np.arange(-32, 32).astype(np.int8), "y": np.resize([3, -3, 1, -7], 64).astype(np.int8)}
    assert (run(graph, "tiny", feeds)["o"] == np.trunc(feeds["x"] / feeds["y"])).all()


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize(("op", "attrs"), [("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1})])
def test_wide_integers_divide_exactly(kind: str, op: str, attrs: dict[str, int]) -> None:
    """Beyond what fp32 holds: large sizes, quotients next to a whole number, all signs."""
    big = 2**31 - 1 if kind == "int32" else 2**52 - 1
    b = np.resize([1, 3, -7, 10, -1000, 65537, big, -big], 512).astype(kind)
    rng = np.random.default_rng(0)
    near = (big // np.abs(b[256:].astype(np.int64))) * np.abs(b[256:]).astype(np.int64) - rng.integers(0, 2, 256)
    a = np.concatenate([rng.integers(-big, big, 256), near])
    whole = TensorType((512,), kind)
    graph = graph_of([Node("n", op, ("x", "y"), ("o",), attrs)], {"x": whole, "y": whole})
    feeds = {"x": a.astype(kind), "y": b}
    assert (run(graph, "tiny", feeds)["o"] == run_graph(graph, feeds)["o"]).all()


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize(
    "shapes",
    [((2, 5, 7, 3), (3,)), ((1, 56, 56, 16), (1, 56, 56, 16)), ((3, 1, 130), (3, 17, 130)), ((1,), (1,)),
     ((20011,), (20011,)), ((7, 1, 5, 1), (1, 4, 1, 6))],
)  # fmt: skip
def test_residual_chain(hw: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    kind = machine(hw).default_dtype
    nodes = [Node("a", "Add", ("x", "y"), ("s",)), Node("r", "Relu", ("s",), ("o",))]
    check(graph_of(nodes, {"x": TensorType(shapes[0], kind), "y": TensorType(shapes[1], kind)}), hw, 0)


@pytest.mark.parametrize("hw", FLOAT)
def test_long_chain_rounds_every_result(hw: str) -> None:
    """SwiGLU-like: temporaries are shared, a value is read twice, two results leave."""
    kind = TensorType((6, 300), machine(hw).default_dtype)
    nodes = [
        Node("1", "Sigmoid", ("x",), ("a",)), Node("2", "Mul", ("a", "x"), ("b",)),
        Node("3", "Mul", ("b", "y"), ("c",)), Node("4", "Add", ("c", "a"), ("d",)),
        Node("5", "Tanh", ("d",), ("e",)), Node("6", "Sub", ("e", "b"), ("o",)),
    ]  # fmt: skip
    graph = graph_of(nodes, {"x": kind, "y": kind})
    check(graph, hw, 2, absolute=1e-6)
    both = Graph("two", graph.nodes, graph.inputs, ("b", "o"), graph.tensors, graph.constants)
    check(both, hw, 2, absolute=1e-6)
    (call,) = lower(graph, hw)[1]
    assert sum(b.name.startswith("T") for b in call.build("k").buffers) <= 3


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_batch_normalisation(layout: str) -> None:
    shape = (2, 6, 5, 4) if layout == "NCHW" else (2, 5, 4, 6)
    rng = np.random.default_rng(2)
    vectors = {n: (rng.random(6).astype(np.float32) + 0.5, "fp32") for n in "gbmv"}
    node = Node("n", "BatchNormalization", ("x", "g", "b", "m", "v"), ("o",), {"layout": layout})
    check(graph_of([node], {"x": TensorType(shape, "fp32")}, vectors), "tiny", 0)
    types = {"x": TensorType(shape, "fp32"), **{n: TensorType((6,), "fp32") for n in "gbmv"}}
    with pytest.raises(NoKernel, match="must be constant"):
        lower(graph_of([node], types), "tiny")


def test_stripped_constants_lower_without_values() -> None:
    vectors = {n: Constant(TensorType((6,), "fp32"), None) for n in "gbmv"}
    node = Node("n", "BatchNormalization", ("x", "g", "b", "m", "v"), ("o",))
    context, calls = lower(graph_of([node], {"x": TensorType((2, 6, 5), "fp32")}, vectors), "tiny")
    assert len(calls) == 1 and all(c.stripped for c in context.new_constants.values())


def test_quantised_operands() -> None:
    """Real numbers inside, stored integers outside: q = round(x / scale) + zero point."""
    types = {"x": TensorType((4, 40), "int8", 0.5, 3), "y": TensorType((40,), "int8", 0.25, -1),
             "o": TensorType((4, 40), "int8", 1.5, 2)}  # fmt: skip
    graph = Graph("q", (Node("n", "Add", ("x", "y"), ("o",)),), ("x", "y"), ("o",), types)
    feeds = feeds_of(graph)
    real = (feeds["x"] - 3.0) * 0.5 + (feeds["y"] + 1.0) * 0.25
    assert (run(graph, "tiny", feeds)["o"] == np.clip(np.rint(real / 1.5) + 2, -128, 127)).all()


def test_quantize_and_dequantize() -> None:
    scale, zero = (np.float32(0.25), "fp32"), (np.uint8(7), "uint8")
    to = graph_of([Node("n", "QuantizeLinear", ("x", "s", "z"), ("o",))], {"x": TensorType((9, 9), "fp32")},
                  {"s": scale, "z": zero})  # fmt: skip
    check(to, "tiny", 0)
    back = graph_of([Node("n", "DequantizeLinear", ("x", "s", "z"), ("o",))], {"x": TensorType((9, 9), "uint8")},
                    {"s": scale, "z": zero})  # fmt: skip
    check(back, "tiny", 0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 31), st.sampled_from(FLOAT), st.integers(1, 4)
)  # fmt: skip
def test_any_broadcast(shape: list[int], mask: int, hw: str, rank: int) -> None:
    kind = machine(hw).default_dtype
    other = [1 if mask >> i & 1 else e for i, e in enumerate(shape)][-rank:]
    types = {"x": TensorType(tuple(shape), kind), "y": TensorType(tuple(other), kind)}
    check(graph_of([Node("n", "Sub", ("y", "x"), ("o",))], types), hw, 0, budget=4096)


@pytest.mark.parametrize(("op", "hw"), [("Exp", "gemmini-16x16"), ("Mul", "gemmini-16x16"), ("Exp", "tpu-v1")])
def test_a_missing_operation_is_named(op: str, hw: str) -> None:
    names = ("x",) if op == "Exp" else ("x", "x")
    with pytest.raises(NoKernel, match=f"{hw} lacks operation {op.lower()}"):
        lower(graph_of([Node("n", op, names, ("o",))], {"x": TensorType((4,), "int8")}), hw)


@pytest.mark.parametrize("hw", ["tiny", "tpu-v3"])
def test_operands_of_a_chain_are_limited(hw: str) -> None:
    """Nine tensors in and one out still have registers and flags; a chain with more is refused, to be cut."""
    types = {f"x{i}": TensorType((6, 7, 300) if i % 2 else (6, 1, 300), "fp32") for i in range(10)}

    def chain(count: int) -> Graph:
        nodes = [Node("0", "Add", ("x0", "x1"), ("t1",))]
        nodes += [Node(f"{i}", "Add", (f"t{i - 1}", f"x{i}"), (f"t{i}",)) for i in range(2, count)]
        return graph_of(nodes, {k: v for k, v in types.items() if int(k[1:]) < count})

    check(chain(9), hw, 0, budget=16384)
    with pytest.raises(NoKernel, match="11 operands in one chain, at most 10"):
        lower(chain(10), hw)


def test_second_outputs_are_refused_when_read() -> None:
    node = Node("n", "Dropout", ("x",), ("o", "mask"))
    read = graph_of([node], {"x": TensorType((4,), "fp32")})
    with pytest.raises(NoKernel, match="mask is read too"):
        lower(read, "tiny")
    check(Graph("unread", read.nodes, read.inputs, ("o",), read.tensors), "tiny", 0)


def test_capacity_from_both_sides() -> None:
    operand = Operand("dram", "fp32", (1,))
    spec = Pointwise((1,), (operand,), (Step("relu", (0,), "fp32"),), ((0, operand),))
    assert build(spec, machine("tiny"), {"spm": 128}, "k").buffers
    with pytest.raises(CapacityError, match="needs 128 bytes of spm, 127 are free"):
        build(spec, machine("tiny"), {"spm": 127}, "k")


@pytest.mark.parametrize("budget", [1024, 4096, 16384])
def test_tiles_stay_within_the_budget(budget: int) -> None:
    operand = Operand("dram", "fp32", (1,))
    spec = Pointwise((100_000,), (operand,), (Step("relu", (0,), "fp32"),), ((0, operand),))
    nest = build(spec, machine("tiny"), {"spm": budget}, "k")
    used = sum(-(-b.size_bytes // 64) * 64 * b.slots for b in nest.buffers)
    assert budget // 2 < used <= budget or nest.loops[0].count > 1
    assert all(b.slots == 2 for b in nest.buffers)
