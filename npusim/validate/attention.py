"""Kind `attention`: measured times of softmax(Q K^T / sqrt(D)) V, a head at a time, not causal.

What is simulated is what the compiler makes of it: one kernel where it has one (cores of cube and vector units), else
products, softmax and product as kernels of their own. Of rows with over MOST_SCORES scores a share of the queries is
simulated, halved as often as it takes, and the time beyond the launch is scaled; the row says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from isa.dtypes import dtype as dtype_of
from npusim.validate.bench import Bench
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

if TYPE_CHECKING:
    from compiler.graph import Graph

NEEDS_HW = True
COLUMNS = (
    Column("q_len"),
    Column("kv_len"),
    Column("head_dim"),
    Column("heads"),
    Column("time_us"),
    Column("cores_used", required=False),
    Column("dtype", required=False),
    Column("implementation", required=False),
)
MAX_EXTENT = 1 << 20
MOST_SCORES = 1 << 29


def name_of(row: Row) -> str:
    """The row in words."""
    size = "x".join(row.text(name) for name in ("heads", "q_len", "kv_len", "head_dim"))
    return f"attention {size}, {row.text('cores_used', 'all')} cores, {row.text('implementation')}".rstrip(", ")


def attention_graph(heads: int, queries: int, keys: int, depth: int) -> Graph:
    """The operator written out; the mask-free attention of one layer."""
    from compiler.zoo.net import Net

    net = Net(f"attention-{heads}x{queries}x{keys}x{depth}")
    q = net.input("q", (heads, queries, depth))
    k, v = (net.input(name, (heads, keys, depth)) for name in "kv")
    scores = net.op("scores", "MatMul", q, net.op("kt", "Transpose", k, perm=(0, 2, 1)))
    weights = net.op("weights", "Softmax", net.op("scaled", "Mul", scores, net.value("scale", depth**-0.5)), axis=-1)
    return net.finish(net.op("y", "MatMul", weights, v))


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the attention on as many cores as were used."""
    from npusim.api import with_cores

    heads, queries, keys, depth = (row.integer(name) for name in ("heads", "q_len", "kv_len", "head_dim"))
    if max(heads, queries, keys, depth) > MAX_EXTENT:
        raise TableError(f"an extent is over {MAX_EXTENT}")
    measured, dtype, cores = row.positive("time_us"), bench.dtype_of(row), row.text("cores_used", "all")
    used = bench if cores == "all" else replace(bench, machine=with_cores(bench.chip, cores))
    size = heads * (2 * queries + 2 * keys) * depth * dtype_of(dtype).size_bytes
    simulated = queries
    while heads * simulated * keys > MOST_SCORES and simulated % 2 == 0:
        simulated //= 2
    result = used.run(attention_graph(heads, simulated, keys, depth), dtype)
    outcome = used.outcome_us(measured, result, row, 2 * heads * queries * keys * depth, size)
    if simulated == queries:
        return outcome
    fixed, scale = outcome.launches * outcome.launch_cost, queries / simulated
    note = f"{simulated} of {queries} queries simulated, the rest extrapolated"
    return replace(outcome, simulated=fixed + scale * (outcome.simulated - fixed), note=note)
