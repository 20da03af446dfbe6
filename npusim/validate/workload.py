"""Kind `workload`: measured cycles of operators and networks by name, as published with PyTorchSim (MICRO 2025).

Names: gemm_MxNxK, conv_NxHxWxCINxCOUTxKxSTRIDExPAD (channels last, no bias), attention_HxSxD (softmax(K Q^T / sqrt(D))
over the keys, then V^T times it, a head), layernorm_RxC, softmax_RxC, resnet18, resnet50, and bert_base/large/xlarge
(one encoder block of 512 tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from npusim.validate.bench import Bench, stalls_of
from npusim.validate.conv import conv_graph
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

if TYPE_CHECKING:
    from compiler.graph import Graph
    from npusim.record import Result

NEEDS_HW = True
COLUMNS = (Column("workload"), Column("measured", ("*_measured_cycles",)))
MODELS = {
    "resnet18": "resnet18", "resnet50": "resnet50", "bert_base": "bert-block:512x768x12",
    "bert_large": "bert-block:512x1024x16", "bert_xlarge": "bert-block:512x2048x32",
}  # fmt: skip
FORMS = {"gemm": 3, "attention": 3, "layernorm": 2, "softmax": 2, "conv": 8}
MAX_EXTENT = 1 << 20


@dataclass(frozen=True)
class Source:
    """How one source took its cycles: run settings, and what tensors are stored in."""

    settings: tuple[str, ...]
    dtype: str


# By the header of the measured column. One TensorCore; arrays are fp32 in memory, and the matrix units multiply bf16.
SOURCES = {"tpu_v3_measured_cycles": Source(("run.cores=1", "run.matrix_dtype=bf16", "run.rows=reread"), "fp32")}


def name_of(row: Row) -> str:
    """The row in words."""
    return row.text("workload")


def workload_graph(name: str) -> str | Graph:
    """The graph of a workload, or its zoo name; raises TableError for a name that is not known."""
    if name in MODELS:
        return MODELS[name]
    family, _, sizes = name.partition("_")
    numbers = [int(x) for x in sizes.split("x") if x.isdigit()]
    if len(numbers) != FORMS.get(family) or len(sizes.split("x")) != len(numbers) or max(numbers) > MAX_EXTENT:
        known = ", ".join((*(f"{f}_ with {n} numbers" for f, n in FORMS.items()), *MODELS))
        raise TableError(f"workload {name!r} is not known; there are {known}")
    if family == "conv":
        batch, height, width, depth, maps, kernel, stride, pad = numbers
        return conv_graph(batch, height, width, depth, maps, (kernel, kernel), (stride, stride), (pad, pad))
    if family == "attention":
        return _attention(*numbers)
    return f"{family}:{sizes}"


def _attention(heads: int, tokens: int, depth: int) -> Graph:
    """As the source computes it: scores [H, keys, queries], softmax over the keys, V^T times the result."""
    from compiler.zoo.net import Net

    net = Net(f"attention-{heads}x{tokens}x{depth}")
    q, k, v = (net.input(name, (heads, tokens, depth)) for name in "qkv")
    scores = net.op("scores", "MatMul", k, net.op("qt", "Transpose", q, perm=(0, 2, 1)))
    scaled = net.op("scaled", "Mul", scores, net.value("scale", depth**-0.5))
    weights = net.op("weights", "Softmax", scaled, axis=1)
    return net.finish(net.op("y", "MatMul", net.op("vt", "Transpose", v, perm=(0, 2, 1)), weights))


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the workload; the measured cycles are whole runs, launches included."""
    measured = row.integer("measured")
    graph = workload_graph(row.text("workload"))
    result = bench.run(graph, bench.dtype or bench.chip.default_dtype)
    return outcome(measured, result, bench)


def outcome(measured: int, result: Result, bench: Bench) -> Outcome:
    """Judge the cycles of a run; the roofline adds those of its operators."""
    operators = result.program.operators
    roof = sum(bench.roofline(result.dtype, o.macs, o.min_bytes) for o in operators)
    cycles = result.record.total_cycles
    return Outcome(
        measured, cycles, "cycles", measured / bench.chip.clock_mhz, roof, {"cycles": (measured, cycles)},
        len(result.program.launches), float(bench.chip.launch_cycles), stalls_of(result.record),
    )  # fmt: skip


