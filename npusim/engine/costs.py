"""How long an instruction occupies its pipe and when its results are complete, in core cycles.

The same forms as `isa.cost`, on integers; tests hold the two together.
"""

from __future__ import annotations

from isa.params import INDEX, MILLI, PATH_LATENCY, PATH_RATE_MILLI
from npusim.engine.layout import (
    C_BANK,
    C_READS,
    D_DIMS,
    D_DTYPE,
    D_ROWS,
    D_SPACE,
    D_STRIDE,
    I_A,
    I_B,
    I_DST,
    I_FLAGS,
    I_OP,
    LANES_ID,
    V_BANKS,
    V_DEPTH,
    V_DTYPE_BYTES,
    V_OP_MILLI,
    V_PACK,
    V_PATHS,
    V_UNPACK,
)
from npusim.engine.resolve import elements, extent, first_byte
from npusim.jit import kernel

ROWS, COLS, DATAFLOW = INDEX["rows"], INDEX["cols"], INDEX["dataflow"]
PSUM_HOP, INPUT_REGISTER, DRAIN_COUNTED = INDEX["psum_hop"], INDEX["input_register"], INDEX["drain_counted"]
LANES, SUBLANES, ALUS, LANE_BYTES = INDEX["lanes"], INDEX["sublanes"], INDEX["alus"], INDEX["lane_bytes"]
LOADS, STORES, VECTOR_LATENCY = INDEX["load_ports"], INDEX["store_ports"], INDEX["vector_latency"]
CROSS_MILLI, CROSS_REDUCE_MILLI = INDEX["cross_milli"], INDEX["cross_reduce_milli"]
CROSS_LATENCY = INDEX["cross_latency"]
DRAIN_MILLI, DRAIN_LATENCY = INDEX["drain_milli"], INDEX["drain_latency"]
DATAFLOW_OS, DATAFLOW_CUBE = 2, 3
CUBE_STARTUP, CUBE_LATENCY = INDEX["cube_startup"], INDEX["cube_latency"]
REDUCE = LANES_ID["reduce"]


@kernel
def ceil_div(a, b):
    """ceil(a / b) for b > 0."""
    return -((-a) // b)


@kernel
def path_cycles(v, path, size_bytes):
    """Cycles that `size_bytes` occupy a path."""
    return ceil_div(size_bytes * MILLI, v[V_PATHS + 3 * path + PATH_RATE_MILLI])


@kernel
def path_latency(v, path):
    """Latency of a path."""
    return v[V_PATHS + 3 * path + PATH_LATENCY]


@kernel
def stream_length(code, desc, cores, c, pc):
    """Rows that an mm streams: rows of A; the columns of A when A is B's role (is); K when both stream (os)."""
    a, b, dst = code[pc, I_A], code[pc, I_B], code[pc, I_DST]
    rows = desc[a, D_ROWS]
    n = desc[a, D_DIMS]
    if b >= 0:
        return elements(desc, cores, c, a, rows, n)
    if code[pc, I_FLAGS] & 4:
        return elements(desc, cores, c, dst, desc[dst, D_ROWS], desc[dst, D_DIMS])
    return elements(desc, cores, c, a, 0, rows)


@kernel
def cube_blocks(v, code, desc, cores, c, pc):
    """Blocks of a product on a cube, as isa.cost.cube_blocks."""
    a, b = code[pc, I_A], code[pc, I_B]
    rows, depth = desc[a, D_ROWS], v[V_DEPTH + desc[a, D_DTYPE]]
    m = elements(desc, cores, c, a, 0, rows)
    k = elements(desc, cores, c, a, rows, desc[a, D_DIMS])
    n = elements(desc, cores, c, b, desc[b, D_ROWS], desc[b, D_DIMS])
    return ceil_div(m, v[ROWS]) * ceil_div(n, v[COLS]) * ceil_div(k, depth)


@kernel
def matrix_cycles(v, stream, passes_milli):
    """(occupancy, latency after it) of one stream: see isa.cost.systolic_fold_cycles."""
    occupy = ceil_div(stream * passes_milli, MILLI)
    if v[DATAFLOW] == DATAFLOW_CUBE:
        return occupy + (v[CUBE_STARTUP] if stream else 0), v[CUBE_LATENCY]
    if v[DATAFLOW] == DATAFLOW_OS:
        latency = v[INPUT_REGISTER] + v[ROWS] + v[COLS] - 2
        return occupy, latency + (v[ROWS] if v[DRAIN_COUNTED] else 0)
    return occupy, v[INPUT_REGISTER] + v[ROWS] * v[PSUM_HOP] + v[COLS] - 2


@kernel
def row_elements(v, code, desc, pc, loads):
    """Elements in a row of lanes, which the widest operand sets where lanes are bytes."""
    if v[LANE_BYTES] == 0:
        return v[LANES]
    widest = v[V_DTYPE_BYTES + desc[code[pc, I_DST], D_DTYPE]]
    for i in range(loads):
        widest = max(widest, v[V_DTYPE_BYTES + desc[code[pc, I_A + i], D_DTYPE]])
    return max(1, v[LANES] * v[LANE_BYTES] // widest)


@kernel
def bank_ways(blocks, rows, stride_bytes, groups, block_bytes):
    """Cycles in which banks give a register its blocks, as isa.cost.bank_ways."""
    if groups == 0:
        return 1
    around, rest = blocks // groups, blocks % groups
    most = 0
    for group in range(groups):
        count = rows * around
        for row in range(rows):
            count += (group - row * stride_bytes // block_bytes) % groups < rest
        most = max(most, count)
    return most


@kernel
def count_blocks(cores, c, column, first, blocks, rows, stride_bytes, groups, block_bytes):
    """Add, by bank group, the blocks of an operand's first register to the counts from `column` on."""
    around, rest = blocks // groups, blocks % groups
    for row in range(rows):
        start = (first + row * stride_bytes) // block_bytes
        for group in range(groups):
            cores[c, column + group] += around + ((group - start) % groups < rest)


@kernel
def registers_of(v, desc, cores, c, d, once, row):
    """(registers that cover an operand, cycles in which its banks give one, blocks of a row of it, rows, stride).

    Registers are rows of lanes of `row` elements, whole when its elements are contiguous. With `once`, dimensions of
    stride 0 count one element: a reduction stores each result once, and what is broadcast is read once.
    """
    whole = row * v[SUBLANES]
    size = v[V_DTYPE_BYTES + desc[d, D_DTYPE]]
    run, rows, stride, near = 1, 1, 0, 1
    contiguous = True
    for i in range(desc[d, D_DIMS] - 1, -1, -1):
        count = extent(desc, cores, c, d, i)
        if count == 1 or (once and desc[d, D_STRIDE + i] == 0):
            continue
        if contiguous and desc[d, D_STRIDE + i] == run * size:
            run *= count
        else:
            if contiguous:
                stride, near = desc[d, D_STRIDE + i], count
            contiguous = False
            rows *= count
    groups, block = v[V_BANKS + 3 * desc[d, D_SPACE]], v[V_BANKS + 3 * desc[d, D_SPACE] + 1]
    registers, together = rows * ceil_div(run, whole), 1
    if rows > 1 and run < whole:
        registers = ceil_div(rows * ceil_div(run, row), v[SUBLANES])
        together = min(near, max(1, v[SUBLANES] // ceil_div(run, row)))
    blocks = ceil_div(min(run, whole) * size, block)
    return registers, bank_ways(blocks, together, stride, groups, block), blocks, together, stride


@kernel
def vector_cycles(v, code, desc, cores, c, pc, lanes_kind):
    """(occupancy, cycles of it for conflicts of banks) of a vector instruction: the busiest of ALUs, ports and banks.

    Operands of as many registers as there is work use the banks in the same cycles; the first registers stand for all.
    """
    dst, near = code[pc, I_DST], desc[code[pc, I_A], D_SPACE]
    loads = lanes_kind if lanes_kind == 2 or lanes_kind == 3 else 1
    row = row_elements(v, code, desc, pc, loads)
    milli = v[V_OP_MILLI + code[pc, I_OP]]
    groups, block, bank = v[V_BANKS + 3 * near], v[V_BANKS + 3 * near + 1], v[V_BANKS + 3 * near + 2]
    for group in range(groups):
        cores[c, C_READS + group], cores[c, C_BANK + group] = 0, 0
    work, stores, load_conflicts, store_conflicts, written = 0, 0, 0, 0, -1
    for i in range(loads + 2):  # the work, what is stored, each source: one call, of which compilers make few copies
        d = dst
        if i == 0:
            d = code[pc, I_A] if lanes_kind == REDUCE else dst
        elif i > 1:
            d = code[pc, I_A + i - 2]
            milli += v[V_UNPACK + desc[d, D_DTYPE]]
            if v[V_BANKS + 3 * desc[d, D_SPACE]] == 0:
                continue
        once = i > 1 or (i == 1 and lanes_kind == REDUCE)
        registers, ways, blocks, together, stride = registers_of(v, desc, cores, c, d, once, row)
        if i == 0:
            work = registers
            continue
        if i == 1:
            stores, store_conflicts = registers, registers * (ways - 1)
        else:
            load_conflicts += registers * (ways - 1)
        if groups == 0 or desc[d, D_SPACE] != near or registers < work:
            continue
        first = first_byte(desc, cores, c, d)
        around = first // (groups * bank) if bank else 0
        if i == 1:
            written = around
        else:
            count_blocks(cores, c, C_READS, first, blocks, together, stride, groups, block)
        if i == 1 or (bank and around == written):
            count_blocks(cores, c, C_BANK, first, blocks, together, stride, groups, block)
    most = 1
    for group in range(groups):
        most = max(most, cores[c, C_READS + group], cores[c, C_BANK + group])
    alu = ceil_div(work * milli + stores * v[V_PACK + desc[dst, D_DTYPE]], MILLI * v[ALUS])
    plain = max(1, alu, ceil_div(work * loads, v[LOADS]), ceil_div(stores, v[STORES]))
    load, store = ceil_div(work * loads + load_conflicts, v[LOADS]), ceil_div(stores + store_conflicts, v[STORES])
    cycles = max(plain, load, store, work * most if most > 1 else 0)
    return cycles, cycles - plain


@kernel
def throughput_cycles(desc, cores, c, d, milli, latency):
    """(occupancy, latency) of a unit with a fixed rate of elements a cycle (cross-lane, drain)."""
    count = elements(desc, cores, c, d, 0, desc[d, D_DIMS])
    return max(1, ceil_div(count * MILLI, milli)), latency
