"""Kind `systolic`: cycle counts of one array from other simulators and RTL, against the engine running a real program.

The name of the cycle column tells how the source counts: `compute_cycles` as SCALE-Sim, `rtl_cycles` as its Verilog.
"""

from __future__ import annotations

from isa.cost import ceil_div
from npusim.validate.array import RTL, SCALE_SIM, Product, run_array
from npusim.validate.bench import Bench
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

NEEDS_HW = False
COLUMNS = (
    Column("array_rows"),
    Column("array_cols"),
    Column("dataflow"),
    Column("m"),
    Column("n"),
    Column("k"),
    Column("cycles", ("compute_cycles", "rtl_cycles")),
    Column("cycles_per_fold", ("rtl_cycles_per_fold",), required=False),
    Column("folds", required=False),
    Column("last_accumulate", ("rtl_cycles_to_last_accumulate",), required=False),
)
MAX_ARRAY = 4096
CLOCK_MHZ = 1000  # data/array.yaml


def name_of(row: Row) -> str:
    """The row in words."""
    size = f"{row.text('array_rows')}x{row.text('array_cols')} {row.text('dataflow')}"
    return f"{size} {row.text('m')}x{row.text('n')}x{row.text('k')}"


def measure(row: Row, bench: Bench) -> Outcome:
    """Run the row's product on the engine; every integer column of the row is compared."""
    dataflow = row.text("dataflow")
    if dataflow not in ("ws", "os", "is"):
        raise TableError(f"column dataflow: {dataflow!r} is not one of ws, os, is")
    rows, cols = _extent(row, "array_rows"), _extent(row, "array_cols")
    product = Product(row.integer("m"), row.integer("n"), row.integer("k"))
    options = RTL if row.headers["cycles"].lower() == "rtl_cycles" else SCALE_SIM
    counted = run_array(rows, cols, dataflow, product, options)
    cycles = row.integer("cycles")
    compared: dict[str, tuple[float, float]] = {"cycles": (cycles, counted.cycles)}
    for name, simulated in (("cycles_per_fold", counted.cycles_per_fold), ("folds", counted.folds)):
        if row.text(name):
            compared[name] = (row.integer(name), simulated)
    if row.text("last_accumulate"):  # the same without shifting results out
        undrained = run_array(rows, cols, dataflow, product, {**options, "drain_counted": False})
        compared["last_accumulate"] = (row.integer("last_accumulate"), undrained.cycles)
    roofline = ceil_div(product.size("mnk"), rows * cols)
    return Outcome(cycles, counted.cycles, "cycles", cycles / CLOCK_MHZ, roofline, compared)


def _extent(row: Row, name: str) -> int:
    value = row.integer(name)
    if value > MAX_ARRAY:
        raise TableError(f"column {name}: {value} is more than {MAX_ARRAY}")
    return value
