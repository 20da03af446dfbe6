"""One systolic array alone: a machine around it, a program that computes a product on it, and what the engine counts.

Nothing here knows a formula of the array's timing: a product becomes a small program (two hardware loops around a tile
load and a stream), the engine runs it with its operands at hand, and its counters are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cost import ceil_div
from isa.dtypes import dtype
from isa.errors import ConfigError
from isa.loader import load_machine
from isa.machine import Machine, MatrixUnit
from isa.params import resolve
from isa.program import DESC, INSTR, LAUNCH, Kernel, Program, Tensor, descriptor, instruction
from isa.table import MATRIX, NEXT_TILE, STATIONARY_A, code
from isa.verify import verify

Array = npt.NDArray[Any]

# How each source counts. Both run one fold after the other, from the first row of the load to the last result out.
SEQUENTIAL = {"fold_overlap": False, "weight_double_buffer": False}
SCALE_SIM = {**SEQUENTIAL, "psum_hop_cycles": 1, "input_register_cycles": 0, "drain_counted": False}
RTL = {**SEQUENTIAL, "psum_hop_cycles": 2, "input_register_cycles": 1, "drain_counted": True}
OPERAND, SUM = "int8", "int32"
MAX_EXTENT = 1 << 20  # of m, n and k: together with MAX_BYTES it bounds a run
MAX_BYTES = 1 << 32
MAX_FOLDS = 1 << 20


@dataclass(frozen=True)
class Product:
    """The product C [m, n] = A [m, k] B [k, n]."""

    m: int
    n: int
    k: int

    def size(self, dims: str) -> int:
        """Elements of the matrix with these dimensions, as `mk`."""
        return int(np.prod([getattr(self, d) for d in dims], dtype=object))


@dataclass(frozen=True)
class ArrayCycles:
    """What the engine counted: cycles to the last result, of the first fold alone, and folds run."""

    cycles: int
    cycles_per_fold: int
    folds: int


@cache
def _template() -> Machine:
    with resources.as_file(resources.files("npusim.validate").joinpath("data", "array.yaml")) as path:
        return load_machine(str(path)).machine


def array_machine(rows: int, cols: int, dataflow: str, product: Product, options: Mapping[str, Any]) -> Machine:
    """Return a machine with one array of that size and room for the product; raises ConfigError beyond the limits."""
    operands = (product.size("mk") + product.size("kn")) * dtype(OPERAND).size_bytes
    sums = product.size("mn") * dtype(SUM).size_bytes
    if max(operands, sums) > MAX_BYTES or max(product.m, product.n, product.k) > MAX_EXTENT:
        raise ConfigError(
            f"product {product.m} x {product.n} x {product.k} needs {max(operands, sums)} bytes; at most {MAX_BYTES}, "
            f"and {MAX_EXTENT} an extent"
        )
    base = _template()
    unit = {**base.core.matrix.model_dump(), "rows": rows, "cols": cols, "dataflow": dataflow, **options}
    spaces = {"spm": operands, "acc": sums, "wfifo": rows * cols * dtype(OPERAND).size_bytes}
    tree = base.model_dump()
    tree["core"]["matrix"] = unit
    for name, size in spaces.items():
        tree["core"]["spaces"][name]["size_bytes"] = size
    return Machine.model_validate(tree)


class _Writer:
    """Code of one kernel: registers by name, descriptors, two loops."""

    def __init__(self, product: Product, tiles: Mapping[str, int]) -> None:
        self.product, self.tiles = product, tiles
        self.code: list[Array] = []
        self.descs: list[Array] = []
        self.registers: dict[str, int] = {}

    def put(self, name: str, **fields: Any) -> int:
        self.code.append(instruction(code(name), **fields))
        return len(self.code) - 1

    def register(self, name: str) -> int:
        return self.registers.setdefault(name, len(self.registers))

    def open(self, dim: str) -> int:
        """Begin the loop over the tiles of a dimension; `pos_X` is its first element, `left_X` what remains."""
        whole = getattr(self.product, dim)
        self.put("li", dst=self.register(f"pos_{dim}"), imm=0)
        self.put("li", dst=self.register(f"left_{dim}"), imm=whole)
        self.put("li", dst=self.register(f"trips_{dim}"), imm=ceil_div(whole, self.tiles[dim]))
        return self.put("loop", a=self.register(f"trips_{dim}"))

    def close(self, dim: str, loop: int) -> None:
        tile = self.tiles[dim]
        for name, step in ((f"pos_{dim}", tile), (f"left_{dim}", -tile)):
            self.put("addi", dst=self.register(name), a=self.register(name), imm=step)
        self.code[loop]["imm"] = self.put("endl") + 1

    def operand(self, space: str, kind: str, base: int, dims: str) -> int:
        """The present tile of a row-major matrix; a register of what is left cuts the last tile of a dimension."""
        size = dtype(kind).size_bytes
        strides = (getattr(self.product, dims[1]) * size, size)
        offset = self.register("offset_" + dims)
        self.put("li", dst=offset, imm=0)
        for dim, stride in zip(dims, strides):
            if dim in self.tiles:
                scaled = self.register("scaled")
                self.put("muli", dst=scaled, a=self.register(f"pos_{dim}"), imm=stride)
                self.put("add", dst=offset, a=offset, b=scaled)
        left = [self.register(f"left_{dim}") if dim in self.tiles else -1 for dim in dims]
        extents = tuple(self.tiles.get(dim, getattr(self.product, dim)) for dim in dims)
        fields = {"base": base, "base_reg": offset, "ext_reg": left, "rows": 1}
        self.descs.append(descriptor(space, dtype(kind).code, extents, strides, **fields))
        return len(self.descs) - 1


def gemm_program(machine: Machine, product: Product) -> Program:
    """Return the program that computes the product fold after fold; tensors `a`, `b` and `c` lie on chip."""
    unit = machine.core.matrix
    tiles = {"ws": {"n": unit.cols, "k": unit.rows}, "is": {"m": unit.cols, "k": unit.rows},
             "os": {"m": unit.rows, "n": unit.cols}}[unit.dataflow]  # fmt: skip
    outer, inner = tiles
    b_base = product.size("mk") * dtype(OPERAND).size_bytes
    write = _Writer(product, tiles)
    loops = [write.open(outer), write.open(inner)]
    a, b = write.operand("spm", OPERAND, 0, "mk"), write.operand("spm", OPERAND, b_base, "kn")
    c = write.operand("acc", SUM, 0, "mn")
    if unit.dataflow == "os":
        write.put("mm", dst=c, a=a, b=b)
    else:
        held, streamed, side = (b, a, 0) if unit.dataflow == "ws" else (a, b, STATIONARY_A)
        write.put("ldw", a=held, flags=side)
        # Slices of K after the first add to what is there: their position is not 0.
        write.put("mm", dst=c, a=streamed, c=write.register("pos_k"), flags=side | NEXT_TILE)
    write.close(inner, loops[1])
    write.close(outer, loops[0])
    write.put("halt")
    tensors = (
        Tensor("a", "spm", 0, (product.m, product.k), OPERAND, "input"),
        Tensor("b", "spm", b_base, (product.k, product.n), OPERAND, "input"),
        Tensor("c", "acc", 0, (product.m, product.n), SUM, "output"),
    )
    launch = np.zeros(1, LAUNCH)
    launch["grid"], launch["operator"] = 1, -1
    kernel = Kernel("gemm", 0, len(write.code), ())
    return Program(
        "gemm", machine.name, np.array(write.code, INSTR), np.array(write.descs, DESC), (kernel,), launch,
        np.zeros(0, np.int64), tensors, (),
    )  # fmt: skip


def run_array(rows: int, cols: int, dataflow: str, product: Product, options: Mapping[str, Any]) -> ArrayCycles:
    """Run the product on an array with these MatrixUnit options and return what the engine counted."""
    from npusim.engine.run import run

    machine = array_machine(rows, cols, dataflow, product, options)
    if _folds_bound(machine.core.matrix, product) > MAX_FOLDS:
        raise ConfigError(f"more than {MAX_FOLDS} tiles of {rows} x {cols}; give a larger array or a smaller product")
    program = gemm_program(machine, product)
    verify(program, machine)
    params = resolve(machine)
    record = run(program, params)
    streams = record.events[record.events["pipe"] == params["matrix_pipe"]]
    # The first instruction starts in cycle 0: launches and instructions cost nothing on this machine.
    return ArrayCycles(record.total_cycles, int(streams["end"].min()), int(record.issued[0, MATRIX]))


def _folds_bound(unit: MatrixUnit, product: Product) -> int:
    extents = {"ws": (product.k, product.n), "is": (product.k, product.m), "os": (product.m, product.n)}[unit.dataflow]
    return ceil_div(extents[0], unit.rows) * ceil_div(extents[1], unit.cols)
