"""Dispatch: an instruction takes a slot, its operands are resolved, and it joins the queue of its pipe."""

from __future__ import annotations

from isa.params import INDEX, PATH_DMA
from isa.program import SPACE_ID
from isa.table import CROSS_LANE, DMA, DRAIN, MATRIX, NEXT_TILE, VECTOR, WEIGHTS, code
from npusim.engine.account import was_idle
from npusim.engine.costs import (
    CROSS_LATENCY,
    CROSS_MILLI,
    DRAIN_LATENCY,
    DRAIN_MILLI,
    matrix_cycles,
    path_cycles,
    path_latency,
    stream_length,
    throughput_cycles,
    vector_cycles,
)
from npusim.engine.layout import (
    C_INFLIGHT,
    C_SEQ,
    DISPATCH,
    D_DIMS,
    D_DTYPE,
    D_SPACE,
    D_STRIDE,
    FREE,
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
    O_BYTES,
    O_CAUSE,
    O_DEPS,
    O_DIMS,
    O_EXT0,
    O_HASH,
    O_INSTR,
    O_INTERVAL0,
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
    O_STATE,
    O_STRIDE0,
    O_WRITE,
    PLAIN,
    P_CLASS,
    P_DEPTH,
    P_HEAD,
    P_IDLE,
    P_LENGTH,
    P_QUEUE,
    QUEUED,
    SLOTS,
    SPACE_COUNT,
    TILE,
    V_DMA,
    V_DTYPE_BYTES,
    V_OP_LANES,
    V_OP_PIPE,
    V_PASSES,
    V_PATHS,
    V_PATH_OF,
)
from npusim.engine.resolve import elements, extent, note_interval, note_runs
from npusim.jit import kernel

WEIGHTS_PIPE, MATRIX_PIPE, VECTOR_PIPE = INDEX["weights_pipe"], INDEX["matrix_pipe"], INDEX["vector_pipe"]
LOAD_CYCLES = INDEX["load_cycles"]
CROSS_PIPE, DRAIN_PIPE, VLIW, WINDOW = INDEX["cross_lane_pipe"], INDEX["drain_pipe"], INDEX["vliw"], INDEX["window"]
FIFO_SPACE, DRAM_SPACE = SPACE_ID["wfifo"], SPACE_ID["dram"]
GATHER = code("cpg")
MISSING = -1


@kernel
def pipe_of(s, pc):
    """The pipe that executes the instruction."""
    wanted = s.values[V_OP_PIPE + s.code[pc, I_OP]]
    unit = s.code[pc, I_UNIT]
    if wanted == WEIGHTS:
        return s.values[WEIGHTS_PIPE] + unit
    if wanted == MATRIX:
        return s.values[MATRIX_PIPE] + unit
    if wanted == VECTOR:
        return s.values[VECTOR_PIPE]
    if wanted == CROSS_LANE:
        return s.values[CROSS_PIPE]
    if wanted == DRAIN:
        return s.values[DRAIN_PIPE]
    path = path_of(s, pc)
    engine = s.values[V_PATHS + 3 * path + PATH_DMA]
    return s.values[V_DMA + 5 * engine + 0] + unit % s.values[V_DMA + 5 * engine + 1]


@kernel
def path_of(s, pc):
    """The path of a copy or a tile load."""
    source = s.desc[s.code[pc, I_A], D_SPACE]
    if s.values[V_OP_PIPE + s.code[pc, I_OP]] == WEIGHTS:
        return s.values[V_PATH_OF + SPACE_COUNT * source + FIFO_SPACE]
    return s.values[V_PATH_OF + SPACE_COUNT * source + s.desc[s.code[pc, I_DST], D_SPACE]]


@kernel
def is_empty(s, c, pc):
    """True when an operand has no elements: the instruction then does nothing."""
    for d in (s.code[pc, I_DST], s.code[pc, I_A]):
        if d >= 0:
            for i in range(s.desc[d, D_DIMS]):
                if extent(s, c, d, i) == 0:
                    return True
    return False


@kernel
def room(s, c, p):
    """True when the pipe's queue and the core's window can take one more instruction."""
    return s.pipe[c, p, P_LENGTH] < s.pipe[c, p, P_DEPTH] and s.core[c, C_INFLIGHT] < s.values[WINDOW]


@kernel
def conflicts(s, c, slot, other):
    """True when two instructions touch the same bytes and one of them writes."""
    for i in range(s.op[c, slot, O_INTERVALS]):
        x = O_INTERVAL0 + 4 * i
        for j in range(s.op[c, other, O_INTERVALS]):
            y = O_INTERVAL0 + 4 * j
            if s.op[c, slot, x] != s.op[c, other, y] or not (s.op[c, slot, x + 3] or s.op[c, other, y + 3]):
                continue
            if s.op[c, slot, x + 1] < s.op[c, other, y + 2] and s.op[c, other, y + 1] < s.op[c, slot, x + 2]:
                return True
    return False


@kernel
def interlock(s, c, slot, p):
    """Mask of older instructions that this one must wait for; a serial pipe keeps its own order."""
    mask = 0
    serial = s.pipe[c, p, P_CLASS] != DMA
    for other in range(SLOTS):
        if other == slot or s.op[c, other, O_STATE] == FREE:
            continue
        if serial and s.op[c, other, O_PIPE] == p:
            continue
        if conflicts(s, c, slot, other):
            mask |= 1 << other
    return mask


@kernel
def resolve_operands(s, c, slot, pc):
    """Spaces that the instruction uses (bit mask), and its byte intervals where hardware interlocks."""
    spaces = 0
    dst, a, b, third = s.code[pc, I_DST], s.code[pc, I_A], s.code[pc, I_B], s.code[pc, I_C]
    named = s.values[V_OP_PIPE + s.code[pc, I_OP]] == MATRIX or s.values[V_OP_LANES + s.code[pc, I_OP]] == 4
    for k in range(4):
        d = dst if k == 0 else (a if k == 1 else (b if k == 2 else third))
        if d < 0 or (k == 3 and named):
            continue
        spaces |= 1 << s.desc[d, D_SPACE]
        if s.values[VLIW] == 0 and s.desc[d, D_SPACE] > DRAM_SPACE:
            note_interval(s, c, slot, d, 1 if k == 0 else 0)
    s.op[c, slot, O_SPACES] = spaces


@kernel
def resolve_timing(s, c, slot, pc, p):
    """Occupancy, latency and kind of the instruction."""
    op, wanted = s.code[pc, I_OP], s.values[V_OP_PIPE + s.code[pc, I_OP]]
    occupy, latency, kind = 1, 0, PLAIN
    if wanted == MATRIX:
        stream = stream_length(s, c, pc)
        occupy, latency = matrix_cycles(s, stream, s.values[V_PASSES + s.desc[s.code[pc, I_A], D_DTYPE]])
        s.op[c, slot, O_NEXT_TILE] = 1 if s.code[pc, I_FLAGS] & NEXT_TILE else 0
        s.op[c, slot, O_MACS] = stream
    elif wanted == WEIGHTS or wanted >= DMA:
        return resolve_copy(s, c, slot, pc, wanted)
    elif p == s.values[VECTOR_PIPE]:
        occupy, latency = vector_cycles(s, c, pc, s.values[V_OP_LANES + op])
    elif wanted == CROSS_LANE:
        occupy, latency = throughput_cycles(s, c, s.code[pc, I_A], s.values[CROSS_MILLI], s.values[CROSS_LATENCY])
    else:
        occupy, latency = throughput_cycles(s, c, s.code[pc, I_DST], s.values[DRAIN_MILLI], s.values[DRAIN_LATENCY])
    s.op[c, slot, O_OCCUPY], s.op[c, slot, O_LATENCY], s.op[c, slot, O_KIND] = occupy, latency, kind
    return 0


@kernel
def resolve_copy(s, c, slot, pc, wanted):
    """A copy or tile load: a memory transfer when one end is DRAM, else a fixed time on its path."""
    path = path_of(s, pc)
    a = s.code[pc, I_A]
    far = a
    writes = 0
    if wanted != WEIGHTS and s.desc[s.code[pc, I_DST], D_SPACE] == DRAM_SPACE:
        far, writes = s.code[pc, I_DST], 1
    size = s.values[V_DTYPE_BYTES + s.desc[far, D_DTYPE]]
    shape = s.code[pc, I_DST] if s.code[pc, I_OP] == GATHER else far
    count = elements(s, c, shape, 0, s.desc[shape, D_DIMS])
    s.op[c, slot, O_BYTES] = count * size
    s.op[c, slot, O_PATH] = path
    s.op[c, slot, O_LATENCY] = path_latency(s, path)
    s.op[c, slot, O_OCCUPY] = path_cycles(s, path, count * size)
    if wanted == WEIGHTS:  # an on-chip tile streams straight into the array
        s.op[c, slot, O_OCCUPY] = max(s.op[c, slot, O_OCCUPY], s.values[LOAD_CYCLES])
    s.op[c, slot, O_KIND] = TILE if wanted == WEIGHTS else PLAIN
    s.op[c, slot, O_WRITE] = writes
    s.op[c, slot, O_REMAIN] = 0
    s.op[c, slot, O_ALL_SENT] = 0
    if s.desc[far, D_SPACE] != DRAM_SPACE:
        return 0
    s.op[c, slot, O_KIND] = MEMORY
    note_runs(s, c, slot, far)
    if s.code[pc, I_OP] == GATHER:  # one run an index; which rows is not known here: spread over the table
        s.op[c, slot, O_HASH] = extent(s, c, far, 0)
        s.op[c, slot, O_RUN] = count * size // extent(s, c, s.code[pc, I_DST], 0)
        s.op[c, slot, O_DIMS] = 1
        s.op[c, slot, O_EXT0] = extent(s, c, s.code[pc, I_DST], 0)
        s.op[c, slot, O_STRIDE0] = s.desc[far, D_STRIDE + 0]
    return 0


@kernel
def dispatch(s, c, pc, p, now):
    """Put the instruction into the queue of pipe p; there must be room."""
    slot = 0
    while s.op[c, slot, O_STATE] != FREE:
        slot += 1
    s.op[c, slot, O_STATE] = QUEUED
    s.op[c, slot, O_INSTR], s.op[c, slot, O_PIPE] = pc, p
    s.core[c, C_SEQ] += 1
    s.op[c, slot, O_SEQ] = s.core[c, C_SEQ]
    s.op[c, slot, O_INTERVALS], s.op[c, slot, O_SETS], s.op[c, slot, O_DEPS] = 0, 0, 0
    s.op[c, slot, O_NEXT_TILE], s.op[c, slot, O_MACS], s.op[c, slot, O_BYTES] = 0, 0, 0
    s.op[c, slot, O_CAUSE] = DISPATCH
    resolve_operands(s, c, slot, pc)
    resolve_timing(s, c, slot, pc, p)
    if s.values[VLIW] == 0:
        s.op[c, slot, O_DEPS] = interlock(s, c, slot, p)
    if s.pipe[c, p, P_IDLE]:
        s.pipe[c, p, P_IDLE] = 0
        was_idle(s, c, p, now)
    place = (s.pipe[c, p, P_HEAD] + s.pipe[c, p, P_LENGTH]) % MAX_QUEUE
    s.pipe[c, p, P_QUEUE + place] = slot
    s.pipe[c, p, P_LENGTH] += 1
    s.core[c, C_INFLIGHT] += 1
