"""Kind `gemm`: measured times of matrix products, y[M, N] = x[M, K] w[K, N], or B of them (op `bmm`)."""

from __future__ import annotations

from isa.dtypes import dtype as dtype_of
from npusim.validate.bench import Bench
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row

NEEDS_HW = True
COLUMNS = (
    Column("m"),
    Column("n"),
    Column("k"),
    Column("dtype", ("dtype_in",)),
    Column("time_us", ("kernel_median_us", "time_us_median")),
    Column("batch", required=False),
    Column("op", required=False),
)


def name_of(row: Row) -> str:
    """The row in words."""
    batch = row.text("batch", "1")
    size = f"{row.text('m')}x{row.text('n')}x{row.text('k')}"
    return f"bmm {batch}x{size} {row.text('dtype')}" if batch != "1" else f"gemm {size} {row.text('dtype')}"


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the product."""
    m, n, k = (row.integer(name) for name in ("m", "n", "k"))
    batch = row.integer("batch", 1)
    measured, dtype = row.positive("time_us"), bench.dtype_of(row)
    model = f"bmm:{batch}x{m}x{n}x{k}" if batch > 1 or row.text("op") == "bmm" else f"gemm:{m}x{n}x{k}"
    size = batch * (m * k + k * n + m * n) * dtype_of(dtype).size_bytes
    return bench.outcome_us(measured, bench.run(model, dtype), row, batch * m * n * k, size)
