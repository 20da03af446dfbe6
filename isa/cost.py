"""Closed-form costs, once: for the compiler's search, the `analytic` fidelity and the tests of the engine.

Everything is exact integer arithmetic in core cycles; rates are taken in thousandths, as isa.params resolves them, so
that a closed form and the engine round the same way. Sources: SCALE-Sim 3.0.0 (Samajdar et al., ISPASS 2020) for the
systolic forms with one cycle a hop, its Verilog datapath for two; Hong & Kung (STOC 1981) style blocking for traffic;
Williams et al. (CACM 2009) for the roofline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from isa.dtypes import DTYPES
from isa.machine import Machine, MatrixUnit, VectorUnit

_MILLI = 1000


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up; b > 0."""
    return -(-a // b)


@dataclass(frozen=True)
class FoldCycles:
    """One fold of a systolic array in cycles: tile load, row stream, traverse of the last row."""

    load: int
    stream: int
    latency: int

    @property
    def total(self) -> int:
        """Cycles of the fold alone, nothing overlapped."""
        return self.load + self.stream + self.latency


def load_cycles(matrix: MatrixUnit) -> int:
    """Return the cycles to shift one stationary tile in; 0 for output-stationary arrays, which have none."""
    if matrix.streams_both:
        return 0
    return matrix.rows if matrix.weight_load_cycles is None else matrix.weight_load_cycles


def stream_cycles(stream: int, passes: float = 1) -> int:
    """Return the cycles that `stream` rows occupy the array at `passes` cycles a row."""
    return ceil_div(stream * round(passes * _MILLI), _MILLI)


def latency_cycles(matrix: MatrixUnit) -> int:
    """Return the cycles from the end of a stream to its last result.

    ws, is: the last row crosses rows x psum_hop and cols - 1 more PEs after its input register, of which its own
    cycle in the stream is one. os: the wavefront crosses rows + cols - 2 PEs; shifting results out takes rows more.
    """
    if matrix.dataflow == "cube":
        return matrix.latency_cycles
    if matrix.dataflow == "os":
        drain = matrix.rows if matrix.drain_counted else 0
        return matrix.input_register_cycles + matrix.rows + matrix.cols - 2 + drain
    return matrix.input_register_cycles + matrix.rows * matrix.psum_hop_cycles + matrix.cols - 2


def systolic_fold_cycles(matrix: MatrixUnit, stream: int, passes: float = 1) -> FoldCycles:
    """Return the cost of one fold that streams `stream` rows (ws: M, is: N, os: K)."""
    return FoldCycles(load_cycles(matrix), stream_cycles(stream, passes), latency_cycles(matrix))


def systolic_folds(matrix: MatrixUnit, m: int, n: int, k: int) -> tuple[int, int]:
    """Return (folds, rows streamed a fold) of an m x n x k product; partial folds pay the whole array."""
    if matrix.dataflow == "ws":
        return ceil_div(k, matrix.rows) * ceil_div(n, matrix.cols), m
    if matrix.dataflow == "is":
        return ceil_div(k, matrix.rows) * ceil_div(m, matrix.cols), n
    return ceil_div(m, matrix.rows) * ceil_div(n, matrix.cols), k


def systolic_gemm_cycles(matrix: MatrixUnit, m: int, n: int, k: int, passes: float = 1) -> int:
    """Return the cycles of an m x n x k product on one array whose operands are always there.

    A stream starts when the array is free (the last stream left, or without `fold_overlap` its results did) and its
    tile is loaded. With `weight_double_buffer` a tile starts to load when its predecessor becomes active, otherwise
    when the array is free. So every fold after the first starts one `period` after the one before.
    """
    folds, stream = systolic_folds(matrix, m, n, k)
    if folds == 0 or stream == 0:
        return 0
    fold = systolic_fold_cycles(matrix, stream, passes)
    occupied = fold.stream if matrix.fold_overlap else fold.stream + fold.latency
    period = max(occupied, fold.load) if matrix.weight_double_buffer else occupied + fold.load
    return fold.total + (folds - 1) * period


def cube_blocks(matrix: MatrixUnit, m: int, n: int, k: int, dtype: str) -> int:
    """Return the blocks of an m x n x k product on a cube; each takes `passes` cycles and partial ones a whole one."""
    return ceil_div(m, matrix.rows) * ceil_div(n, matrix.cols) * ceil_div(k, matrix.depth(dtype))


def vector_registers(vector: VectorUnit, rows: int, run: int, widest_bytes: int) -> int:
    """Return the vector registers of `rows` runs of contiguous elements: each run starts a new row of lanes, or a new
    register if it fills one."""
    row = vector.row_elements(widest_bytes)
    whole = row * vector.sublanes
    if rows == 1 or run >= whole:
        return rows * ceil_div(run, whole)
    return ceil_div(rows * ceil_div(run, row), vector.sublanes)


def bank_ways(blocks: int, rows: int, stride_bytes: int, groups: int, block_bytes: int) -> int:
    """Return the cycles in which the banks give a register its `rows` of so many adjacent blocks, `stride_bytes` apart:
    the most blocks in one of `groups` groups, to which blocks of `block_bytes` go in turn (0: no conflicts)."""
    if groups == 0:
        return 1
    found = [0] * groups
    for row in range(rows):
        for block in range(blocks):
            found[(row * stride_bytes // block_bytes + block) % groups] += 1
    return max(found)


def vector_cycles(
    vector: VectorUnit, rows: int, cols: int, loads: int, stores: int, op_name: str, contiguous: bool = False,
    dtype: str = "fp32",
) -> int:
    """Return the cycles of one vector instruction over rows x cols elements with `loads` and `stores` operands.

    `op_name` is without its `v.`. A contiguous operand packs vector registers densely; otherwise each row of `cols`
    starts a new row of lanes, or a new register if it fills one. Operands of `dtype` may cost the ALUs conversions. The
    slowest of the ALUs, the load ports and the store ports sets the pace.
    """
    if rows <= 0 or cols <= 0:
        return 0
    if contiguous:
        rows, cols = 1, rows * cols
    registers = vector_registers(vector, rows, cols, DTYPES[dtype].size_bytes)
    op_milli = round(vector.op_cycles.get(op_name, 1) * _MILLI)
    op_milli += loads * round(vector.unpack_ops.get(dtype, 0) * _MILLI)
    op_milli += stores * round(vector.pack_ops.get(dtype, 0) * _MILLI)
    return vector.latency_cycles + max(
        1,
        ceil_div(registers * op_milli, _MILLI * vector.alus),
        ceil_div(registers * loads, vector.load_ports),
        ceil_div(registers * stores, vector.store_ports),
    )


def pipelined_cycles(amount: int, per_cycle: float, latency: int) -> int:
    """Return the cycles of a unit that takes `per_cycle` elements or bytes a cycle: cross-lane, drain, copy path."""
    if amount <= 0:
        return 0
    return ceil_div(amount * _MILLI, round(per_cycle * _MILLI)) + latency


def gemm_traffic_elements(m: int, n: int, k: int, bm: int, bn: int) -> int:
    """Return the elements that an m x n x k product moves with output blocks of bm x bn kept on chip.

    A is read once a column of blocks, B once a row of blocks, C written once: MNK/bn + MNK/bm + MN.
    """
    return m * k * ceil_div(n, bn) + k * n * ceil_div(m, bm) + m * n


def macs_per_cycle(machine: Machine, dtype: str) -> Fraction:
    """Return the exact peak MACs a core cycle of the chip; raises KeyError when the array has no such dtype."""
    matrix = machine.core.matrix
    pes = machine.cores * matrix.count * matrix.rows * matrix.cols * matrix.depth(dtype)
    return Fraction(pes * _MILLI, round(matrix.passes[dtype] * _MILLI))


def dram_bytes_per_cycle(machine: Machine) -> Fraction:
    """Return the exact peak DRAM bytes a core cycle of the chip, of the memory model in use."""
    memory, dram = machine.memory, machine.memory.dram
    if memory.model == "ideal" and memory.ideal_bytes_per_cycle is not None:
        return Fraction(str(memory.ideal_bytes_per_cycle))
    bytes_per_tick = Fraction(memory.channels * dram.pseudo_channels * dram.bus_bits * dram.data_rate, 8)
    ticks_per_cycle = Fraction(10**12, round(machine.clock_mhz * 1000)) / round(dram.tck_ps * 1000)
    return bytes_per_tick * ticks_per_cycle


def shared_bytes_per_cycle(machine: Machine) -> Fraction:
    """Return the bytes a core cycle that all slices of the shared cache deliver together; 0 without one."""
    shared = machine.memory.l2
    if shared is None:
        return Fraction(0)
    clock = Fraction(round((shared.clock_mhz or machine.clock_mhz) * 1000), round(machine.clock_mhz * 1000))
    return shared.slices * shared.bytes_per_cycle * clock


def network_bytes_per_cycle(machine: Machine) -> Fraction:
    """Return the bytes a core cycle that the links of cores and slices carry one way; 0 without a network.

    All cores of a crossbar, ring, mesh or torus have a link of their own, and so have all slices.
    """
    network, shared = machine.memory.network, machine.memory.l2
    if network is None or shared is None:
        return Fraction(0)
    clock = network.clock_mhz or shared.clock_mhz or machine.clock_mhz
    ratio = Fraction(round(clock * 1000), round(machine.clock_mhz * 1000))
    return min(machine.all_cores, shared.slices) * network.flit_bytes * ratio


def ridge(machine: Machine, dtype: str) -> float:
    """Return the arithmetic intensity, FLOP a DRAM byte (two a MAC), at which the two roofs meet."""
    return float(2 * macs_per_cycle(machine, dtype) / dram_bytes_per_cycle(machine))


def roofline_cycles(machine: Machine, macs: int, size_bytes: int, dtype: str) -> int:
    """Return the fewest core cycles for `macs` at peak and `size_bytes` at DRAM peak, whichever is more."""
    return max(math.ceil(macs / macs_per_cycle(machine, dtype)), math.ceil(size_bytes / dram_bytes_per_cycle(machine)))
