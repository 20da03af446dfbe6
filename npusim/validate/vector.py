"""Kind `vector`: measured times of element-wise operators, activations, normalisations and softmax."""

from __future__ import annotations

from collections.abc import Callable

from compiler.graph import Graph
from compiler.zoo.net import Net
from isa.dtypes import dtype as dtype_of
from npusim.validate.bench import Bench, product, shape_of
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

NEEDS_HW = True
COLUMNS = (
    Column("op"),
    Column("rows", ("shape",)),  # a shape stands for both
    Column("cols", ("shape",)),
    Column("dtype", ("dtype_in",)),
    Column("time_us", ("kernel_median_us", "module_median_us")),
)
Builder = Callable[[Net, str], str]
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "max": "Max", "min": "Min"}
UNARY = {
    "relu": "Relu", "elu": "Elu", "leaky_relu": "LeakyRelu", "selu": "Selu", "sigmoid": "Sigmoid", "tanh": "Tanh",
    "gelu": "Gelu", "exp": "Exp", "sqrt": "Sqrt", "softplus": "Softplus", "hardswish": "HardSwish",
}  # fmt: skip


def _scaled(net: Net, x: str) -> str:
    return net.op("y", "Mul", x, net.value("factor", 2.0))  # not a copy, which the compiler would remove


def _step(net: Net, x: str) -> str:
    positive = net.op("positive", "Greater", x, net.value("zero", 0.0))
    return net.op("y", "Where", positive, net.value("high", 1.0), net.value("low", 0.0))


def _prelu(net: Net, x: str) -> str:
    return net.op("y", "PRelu", x, net.uniform("slope", net.shape(x)[-1], 0.1, 0.3))


def _softmax(net: Net, x: str) -> str:
    return net.op("y", "Softmax", x, axis=-1)


def _layer_norm(net: Net, x: str) -> str:
    return net.layer_norm(x, "y", 1e-5)


def _rms_norm(net: Net, x: str) -> str:
    weight = net.uniform("weight", net.shape(x)[-1], 0.5, 1.5)
    return net.op("y", "RMSNormalization", x, weight, axis=-1, epsilon=1e-5)


def _batch_norm(net: Net, x: str) -> str:
    """At inference: one factor and one shift a channel, channels last."""
    width = net.shape(x)[-1]
    scaled = net.op("scaled", "Mul", x, net.uniform("factor", width, 0.5, 1.5))
    return net.op("y", "Add", scaled, net.normal("shift", (width,), 0.1))


# fmt: off
OTHER: dict[str, Builder] = {
    "linear": _scaled, "binary_step": _step, "parametric_relu": _prelu, "prelu": _prelu, "softmax": _softmax,
    "layer_norm": _layer_norm, "layernorm": _layer_norm, "rms_norm": _rms_norm, "rmsnorm": _rms_norm,
    "batch_norm_inference": _batch_norm,
}
# fmt: on


def name_of(row: Row) -> str:
    """The row in words."""
    return f"{row.text('op')} {'x'.join(map(str, _shape(row)))} {row.text('dtype')}"


def _shape(row: Row) -> tuple[int, ...]:
    if row.headers["rows"] == row.headers["cols"] or "x" in row.text("rows"):
        return shape_of(row.text("rows"), "shape")
    return (row.integer("rows"), row.integer("cols"))


def vector_graph(op: str, shape: tuple[int, ...]) -> Graph:
    """One operator on tensors of `shape`; raises TableError for an operator that this kind does not know."""
    net = Net(f"{op}-{'x'.join(map(str, shape))}")
    x = net.input("x", shape)
    if op in BINARY:
        return net.finish(net.op("y", BINARY[op], x, net.input("b", shape)))
    if op in UNARY:
        return net.finish(net.op("y", UNARY[op], x))
    if op in OTHER:
        return net.finish(OTHER[op](net, x))
    raise TableError(f"column op: {op!r} is not one of {', '.join(sorted((*BINARY, *UNARY, *OTHER)))}")


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the operator; its roofline moves every tensor once."""
    op, shape, dtype = row.text("op").lower(), _shape(row), bench.dtype_of(row)
    measured = row.positive("time_us")
    tensors = 3 if op in BINARY else 2
    size = tensors * product(shape) * dtype_of(dtype).size_bytes
    return bench.outcome_us(measured, bench.run(vector_graph(op, shape), dtype), row, 0, size)
