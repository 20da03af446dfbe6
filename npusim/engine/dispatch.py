"""Dispatch: an instruction takes a slot, its operands are resolved, and it joins the queue of its pipe."""

from __future__ import annotations

from isa.params import INDEX, PATH_DMA
from isa.program import SPACE_ID
from isa.table import CROSS_LANE, DMA, DRAIN, MATRIX, NEXT_TILE, VECTOR, WEIGHTS, code
from npusim.engine.account import was_idle
from npusim.engine.costs import (
    CROSS_LATENCY,
    CROSS_MILLI,
    CROSS_REDUCE_MILLI,
    DATAFLOW,
    DATAFLOW_CUBE,
    DRAIN_LATENCY,
    DRAIN_MILLI,
    REDUCE,
    VECTOR_LATENCY,
    cube_blocks,
    matrix_cycles,
    path_cycles,
    path_latency,
    stream_length,
    throughput_cycles,
    vector_cycles,
)
from npusim.engine.interlock import interlock
from npusim.engine.layout import (
    C_INFLIGHT,
    C_SEQ,
    C_TAKEN,
    D_DIMS,
    D_DTYPE,
    D_SPACE,
    D_STRIDE,
    I_A,
    I_B,
    I_C,
    I_DST,
    I_FLAGS,
    I_OP,
    I_UNIT,
    MAX_QUEUE,
    MEMORY,
    O_ALL_SENT,
    O_AMOUNT,
    O_BYTES,
    O_CONFLICT,
    O_DEPS,
    O_DIMS,
    O_EXT0,
    O_FLAG,
    O_HASH,
    O_INSTR,
    O_INTERVALS,
    O_KIND,
    O_LATENCY,
    O_MACS,
    O_NEXT_TILE,
    O_OCCUPY,
    O_PATH,
    O_PIPE,
    O_REMAIN,
    O_RUN,
    O_SEQ,
    O_SETS,
    O_SPACES,
    O_START,
    O_STRIDE0,
    O_WRITE,
    P_HEAD,
    P_IDLE,
    P_LENGTH,
    P_QUEUE,
    PLAIN,
    SPACE_COUNT,
    TILE,
    V_DEPTH,
    V_DMA,
    V_DTYPE_BYTES,
    V_OP_LANES,
    V_OP_PIPE,
    V_PASSES,
    V_PATH_OF,
    V_PATHS,
)
from npusim.engine.resolve import elements, extent, note_interval, note_runs
from npusim.jit import inlined, kernel

WEIGHTS_PIPE, MATRIX_PIPE, VECTOR_PIPE = INDEX["weights_pipe"], INDEX["matrix_pipe"], INDEX["vector_pipe"]
LOAD_CYCLES = INDEX["load_cycles"]
CROSS_PIPE, DRAIN_PIPE, INTERLOCK = INDEX["cross_lane_pipe"], INDEX["drain_pipe"], INDEX["interlock"]
DRAIN_ENGINE = INDEX["drain_engine"]  # whether a copy engine drains: fix then goes by its path
FIFO_SPACE, DRAM_SPACE = SPACE_ID["wfifo"], SPACE_ID["dram"]
GATHER, TRANSPOSE = code("cpg"), code("v.transpose")
MISSING = -1


@inlined
def pipe_of(v, code, desc, pc):
    """The pipe that executes the instruction."""
    wanted = v[V_OP_PIPE + code[pc, I_OP]]
    unit = code[pc, I_UNIT]
    if wanted == WEIGHTS:
        return v[WEIGHTS_PIPE] + unit
    if wanted == MATRIX:
        return v[MATRIX_PIPE] + unit
    if wanted == VECTOR:
        return v[VECTOR_PIPE]
    if wanted == CROSS_LANE:
        return v[CROSS_PIPE]
    if wanted == DRAIN and not v[DRAIN_ENGINE]:
        return v[DRAIN_PIPE]
    path = path_of(v, code, desc, pc)
    engine = v[V_PATHS + 3 * path + PATH_DMA]
    return v[V_DMA + 5 * engine + 0] + unit % v[V_DMA + 5 * engine + 1]


@inlined
def path_of(v, code, desc, pc):
    """The path of a copy or a tile load."""
    source = desc[code[pc, I_A], D_SPACE]
    if v[V_OP_PIPE + code[pc, I_OP]] == WEIGHTS:
        return v[V_PATH_OF + SPACE_COUNT * source + FIFO_SPACE]
    return v[V_PATH_OF + SPACE_COUNT * source + desc[code[pc, I_DST], D_SPACE]]


@kernel
def last_operand(v, code, pc):
    """The third source's descriptor or -1; matrix instructions and reductions name a register there."""
    op = code[pc, I_OP]
    return -1 if v[V_OP_PIPE + op] == MATRIX or v[V_OP_LANES + op] == REDUCE else code[pc, I_C]


@inlined
def is_empty(v, code, desc, cores, c, pc):
    """True when an operand has no elements: the instruction then does nothing."""
    for d in (code[pc, I_DST], code[pc, I_A], code[pc, I_B], last_operand(v, code, pc)):
        if d >= 0:
            for i in range(desc[d, D_DIMS]):
                if extent(desc, cores, c, d, i) == 0:
                    return True
    return False


@inlined
def resolve_operands(v, code, desc, cores, ops, c, slot, pc):
    """Spaces that the instruction uses (bit mask), and its byte intervals where hardware interlocks."""
    spaces = 0
    writes = 1
    for d in (code[pc, I_DST], code[pc, I_A], code[pc, I_B], last_operand(v, code, pc)):
        if d >= 0:
            spaces |= 1 << desc[d, D_SPACE]
            if v[INTERLOCK] and desc[d, D_SPACE] > DRAM_SPACE:
                note_interval(v, desc, cores, ops, c, slot, d, writes)
        writes = 0
    ops[c, slot, O_SPACES] = spaces


@kernel
def resolve_timing(v, code, desc, cores, ops, c, slot, pc, p):
    """Occupancy, latency and kind of the instruction."""
    op, wanted = code[pc, I_OP], v[V_OP_PIPE + code[pc, I_OP]]
    occupy, latency, kind = 1, 0, PLAIN
    if wanted == MATRIX:
        cube = v[DATAFLOW] == DATAFLOW_CUBE
        stream = cube_blocks(v, code, desc, cores, c, pc) if cube else stream_length(code, desc, cores, c, pc)
        occupy, latency = matrix_cycles(v, stream, v[V_PASSES + desc[code[pc, I_A], D_DTYPE]])
        ops[c, slot, O_NEXT_TILE] = 1 if code[pc, I_FLAGS] & NEXT_TILE else 0
        ops[c, slot, O_MACS] = stream * v[V_DEPTH + desc[code[pc, I_A], D_DTYPE]] if cube else stream
    elif wanted == WEIGHTS or wanted >= DMA or (wanted == DRAIN and v[DRAIN_ENGINE]):
        return resolve_copy(v, code, desc, cores, ops, c, slot, pc, wanted)
    elif p == v[VECTOR_PIPE]:
        occupy, ops[c, slot, O_CONFLICT] = vector_cycles(v, code, desc, cores, c, pc, v[V_OP_LANES + op])
        latency = v[VECTOR_LATENCY]
    elif wanted == CROSS_LANE:
        rate = v[CROSS_MILLI] if op == TRANSPOSE else v[CROSS_REDUCE_MILLI]
        occupy, latency = throughput_cycles(desc, cores, c, code[pc, I_A], rate, v[CROSS_LATENCY])
    else:
        occupy, latency = throughput_cycles(desc, cores, c, code[pc, I_DST], v[DRAIN_MILLI], v[DRAIN_LATENCY])
    ops[c, slot, O_OCCUPY], ops[c, slot, O_LATENCY], ops[c, slot, O_KIND] = occupy, latency, kind
    return 0


@kernel
def resolve_copy(v, code, desc, cores, ops, c, slot, pc, wanted):
    """A copy or tile load: a memory transfer when one end is DRAM, else a fixed time on its path."""
    path = path_of(v, code, desc, pc)
    a = code[pc, I_A]
    far = a
    writes = 0
    if wanted != WEIGHTS and desc[code[pc, I_DST], D_SPACE] == DRAM_SPACE:
        far, writes = code[pc, I_DST], 1
    size = v[V_DTYPE_BYTES + desc[far, D_DTYPE]]
    gathers = code[pc, I_OP] == GATHER and not writes
    shape = code[pc, I_DST] if gathers else far
    count = elements(desc, cores, c, shape, 0, desc[shape, D_DIMS])
    ops[c, slot, O_BYTES] = count * size
    ops[c, slot, O_PATH] = path
    ops[c, slot, O_LATENCY] = path_latency(v, path)
    ops[c, slot, O_OCCUPY] = path_cycles(v, path, count * size)
    if wanted == WEIGHTS:  # an on-chip tile streams straight into the array
        ops[c, slot, O_OCCUPY] = max(ops[c, slot, O_OCCUPY], v[LOAD_CYCLES])
    else:
        ops[c, slot, O_OCCUPY] += v[V_DMA + 5 * v[V_PATHS + 3 * path + PATH_DMA] + 4]
    ops[c, slot, O_KIND] = TILE if wanted == WEIGHTS else PLAIN
    ops[c, slot, O_WRITE] = writes
    ops[c, slot, O_REMAIN] = 0
    ops[c, slot, O_ALL_SENT] = 0
    if desc[far, D_SPACE] != DRAM_SPACE:
        return 0
    ops[c, slot, O_KIND] = MEMORY
    note_runs(v, desc, cores, ops, c, slot, far)
    if gathers:  # one run an index; which rows is not known here: spread over the table
        ops[c, slot, O_HASH] = extent(desc, cores, c, far, 0)
        ops[c, slot, O_RUN] = count * size // extent(desc, cores, c, code[pc, I_DST], 0)
        ops[c, slot, O_DIMS] = 1
        ops[c, slot, O_EXT0] = extent(desc, cores, c, code[pc, I_DST], 0)
        ops[c, slot, O_STRIDE0] = desc[far, D_STRIDE + 0]
    return 0


@inlined
def take_slot(cores, ops, c, pc, p):
    """A free slot for the instruction at pc, which goes to pipe p."""
    slot, taken = 0, cores[c, C_TAKEN]
    while taken & 1:
        slot, taken = slot + 1, taken >> 1
    cores[c, C_TAKEN] |= 1 << slot
    ops[c, slot, O_INSTR], ops[c, slot, O_PIPE] = pc, p
    cores[c, C_SEQ] += 1
    ops[c, slot, O_SEQ] = cores[c, C_SEQ]
    ops[c, slot, O_INTERVALS], ops[c, slot, O_SETS], ops[c, slot, O_DEPS] = 0, 0, 0
    ops[c, slot, O_NEXT_TILE], ops[c, slot, O_MACS], ops[c, slot, O_BYTES] = 0, 0, 0
    return slot


@inlined
def enqueue(cores, pipes, c, slot, p, now):
    """Put what a slot holds at the end of the queue of pipe p."""
    if pipes[c, p, P_IDLE]:
        pipes[c, p, P_IDLE] = 0
        was_idle(cores, pipes, c, p, now)
    place = (pipes[c, p, P_HEAD] + pipes[c, p, P_LENGTH]) % MAX_QUEUE
    pipes[c, p, P_QUEUE + place] = slot
    pipes[c, p, P_LENGTH] += 1
    cores[c, C_INFLIGHT] += 1


@kernel
def dispatch_sync(cores, pipes, ops, c, pc, p, kind, flag, amount, now):
    """Put a wait, a set or a pipe barrier into the queue of pipe p; there must be room."""
    slot = take_slot(cores, ops, c, pc, p)
    ops[c, slot, O_KIND], ops[c, slot, O_FLAG], ops[c, slot, O_AMOUNT] = kind, flag, amount
    ops[c, slot, O_SPACES], ops[c, slot, O_START] = 0, -1  # it has not waited yet
    enqueue(cores, pipes, c, slot, p, now)


@kernel
def dispatch(v, code, desc, cores, pipes, ops, c, pc, p, now):
    """Put the instruction into the queue of pipe p; there must be room."""
    slot = take_slot(cores, ops, c, pc, p)
    resolve_operands(v, code, desc, cores, ops, c, slot, pc)
    resolve_timing(v, code, desc, cores, ops, c, slot, pc, p)
    if v[INTERLOCK]:
        interlock(v, cores, pipes, ops, c, slot, p)
    enqueue(cores, pipes, c, slot, p, now)
