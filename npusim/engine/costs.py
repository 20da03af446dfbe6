"""How long an instruction occupies its pipe and when its results are complete, in core cycles.

The same forms as `isa.cost`, on integers; tests hold the two together.
"""

from __future__ import annotations

from isa.params import INDEX, MILLI, PATH_LATENCY, PATH_RATE_MILLI
from npusim.engine.layout import (
    D_DIMS,
    D_DTYPE,
    D_ROWS,
    D_STRIDE,
    I_A,
    I_B,
    I_DST,
    I_FLAGS,
    I_OP,
    LANES_ID,
    V_DEPTH,
    V_DTYPE_BYTES,
    V_OP_MILLI,
    V_PACK,
    V_PATHS,
    V_UNPACK,
)
from npusim.engine.resolve import elements, extent
from npusim.jit import kernel

ROWS, COLS, DATAFLOW = INDEX["rows"], INDEX["cols"], INDEX["dataflow"]
PSUM_HOP, INPUT_REGISTER, DRAIN_COUNTED = INDEX["psum_hop"], INDEX["input_register"], INDEX["drain_counted"]
LANES, SUBLANES, ALUS = INDEX["lanes"], INDEX["sublanes"], INDEX["alus"]
LOADS, STORES, VECTOR_LATENCY = INDEX["load_ports"], INDEX["store_ports"], INDEX["vector_latency"]
CROSS_MILLI, CROSS_REDUCE_MILLI = INDEX["cross_milli"], INDEX["cross_reduce_milli"]
CROSS_LATENCY = INDEX["cross_latency"]
DRAIN_MILLI, DRAIN_LATENCY = INDEX["drain_milli"], INDEX["drain_latency"]
DATAFLOW_OS, DATAFLOW_CUBE = 2, 3
CUBE_LATENCY = INDEX["cube_latency"]
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
        return occupy, v[CUBE_LATENCY]
    if v[DATAFLOW] == DATAFLOW_OS:
        latency = v[INPUT_REGISTER] + v[ROWS] + v[COLS] - 2
        return occupy, latency + (v[ROWS] if v[DRAIN_COUNTED] else 0)
    return occupy, v[INPUT_REGISTER] + v[ROWS] * v[PSUM_HOP] + v[COLS] - 2


@kernel
def registers_of(v, desc, cores, c, d, once):
    """Vector registers that cover an operand: rows of lanes, whole when its elements are contiguous.

    With `once`, dimensions of stride 0 count one element: a reduction stores each result once.
    """
    lanes, whole = v[LANES], v[LANES] * v[SUBLANES]
    size = v[V_DTYPE_BYTES + desc[d, D_DTYPE]]
    run, rows = 1, 1
    contiguous = True
    for i in range(desc[d, D_DIMS] - 1, -1, -1):
        count = extent(desc, cores, c, d, i)
        if count == 1 or (once and desc[d, D_STRIDE + i] == 0):
            continue
        if contiguous and desc[d, D_STRIDE + i] == run * size:
            run *= count
        else:
            contiguous = False
            rows *= count
    if rows == 1 or run >= whole:
        return rows * ceil_div(run, whole)
    return ceil_div(rows * ceil_div(run, lanes), v[SUBLANES])


@kernel
def vector_cycles(v, code, desc, cores, c, pc, lanes_kind):
    """(occupancy, latency) of a vector instruction: the busiest of ALUs, load and store ports."""
    dst = code[pc, I_DST]
    work = registers_of(v, desc, cores, c, code[pc, I_A] if lanes_kind == REDUCE else dst, False)
    loads = lanes_kind if lanes_kind == 2 or lanes_kind == 3 else 1
    stores = registers_of(v, desc, cores, c, dst, lanes_kind == REDUCE)
    milli = v[V_OP_MILLI + code[pc, I_OP]]
    for i in range(loads):
        milli += v[V_UNPACK + desc[code[pc, I_A + i], D_DTYPE]]
    alu = ceil_div(work * milli + stores * v[V_PACK + desc[dst, D_DTYPE]], MILLI * v[ALUS])
    return max(1, alu, ceil_div(work * loads, v[LOADS]), ceil_div(stores, v[STORES])), v[VECTOR_LATENCY]


@kernel
def throughput_cycles(desc, cores, c, d, milli, latency):
    """(occupancy, latency) of a unit with a fixed rate of elements a cycle (cross-lane, drain)."""
    count = elements(desc, cores, c, d, 0, desc[d, D_DIMS])
    return max(1, ceil_div(count * MILLI, milli)), latency
