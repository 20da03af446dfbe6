"""Array layouts of the engine's state, declared once beside the constants that name their columns.

Everything that changes during a run is in these arrays: they can be saved, compared and handed to kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isa.dtypes import DTYPES
from isa.errors import ConfigError
from isa.params import INDEX, MAX_SETS, NAMES, Params
from isa.program import SPACE_ID, SPACES
from isa.table import DMA, MAX_CODE, TABLE, WEIGHTS
from npusim.engine.clock import clock_parts
from npusim.record import CAUSE_ID, CAUSES

Array = npt.NDArray[Any]
MAX_INSTRUCTIONS = 500_000_000  # of one core in one launch: more is a loop that does not end
FAR = 1 << 61  # a cycle that never comes
SPACE_COUNT, MAX_PATHS, MAX_ENGINES = len(SPACES), 32, 8
SLOTS = 63  # instructions in flight a core; one bit each in a dependency mask
MAX_QUEUE = 64
MAX_FIFO = 64
MAX_LOOPS = 16

LANES_ID = {"": 0, "unary": 1, "binary": 2, "ternary": 3, "reduce": 4, "move": 5}
CAUSE_COUNT = len(CAUSES)

# Causes by number, for kernels.
BUSY, WAIT_SCALAR, QUEUE_FULL = CAUSE_ID["busy"], CAUSE_ID["wait_scalar"], CAUSE_ID["queue_full"]
WAIT_WEIGHTS, WAIT_MATRIX, WAIT_DMA = CAUSE_ID["wait_weights"], CAUSE_ID["wait_matrix"], CAUSE_ID["wait_dma"]
MEMORY_BANDWIDTH, MEMORY_LATENCY = CAUSE_ID["memory_bandwidth"], CAUSE_ID["memory_latency"]
PORT_CONFLICT, DISPATCH, BARRIER = CAUSE_ID["port_conflict"], CAUSE_ID["dispatch"], CAUSE_ID["barrier"]
DRAINED, LAUNCH = CAUSE_ID["drained"], CAUSE_ID["launch"]

# Columns of `code` [instructions, .]: INSTR without its reals.
(I_OP, I_FLAGS, I_UNIT, I_DST, I_A, I_B, I_C, I_IMM) = range(8)
# Columns of `desc` [descriptors, .]: what the engine needs of DESC, up to MAX_DIMS dimensions and two axes.
(D_SPACE, D_DTYPE, D_DIMS, D_ROWS, D_BASE, D_BASE_REG) = range(6)
D_EXT, D_STRIDE, D_EXT_REG, D_AXIS, D_COEF = (6 + 6 * i for i in range(5))
D_ORIGIN, D_LIMIT, D_AXIS_STRIDE, D_ORIGIN_REG, D_LIMIT_REG = (36 + 2 * i for i in range(5))
# Columns of `core` [cores, .]: the sequencer. C_NEXT: when more than requests is due; C_BLOCKED: until a pipe changes,
# as 1 + the address of the instruction that blocks, since C_BLOCKED_AT; block C_BLOCK of C_BLOCKS runs, from C_START.
(C_PC, C_TIME, C_HALTED, C_LOOPS, C_CAUSE, C_SINCE, C_SEQ, C_INFLIGHT, C_BARRIER, C_END, C_ISSUED,
 C_NEXT, C_BLOCKED, C_BLOCKED_AT, C_BLOCK, C_BLOCKS, C_KIND, C_START, C_SIGNAL_HEAD,
 C_SIGNALS) = range(20)
C_REGS = 20  # 256 registers
C_LOOP0 = C_REGS + 256  # MAX_LOOPS rows of body, after, iterations left
C_TAKEN, C_AWAITED = C_LOOP0 + 3 * MAX_LOOPS, C_LOOP0 + 3 * MAX_LOOPS + 1  # slots in use, and some that others wait for
C_SPENT = C_AWAITED + 1  # cycles of the sequencer by cause, this launch
C_ACTIVE = C_SPENT + CAUSE_COUNT  # pipes that hold a port, by space
C_SIGNAL0 = C_ACTIVE + SPACE_COUNT  # a ring of MAX_SIGNALS signals on their way here: time, flag and who raises it
MAX_SIGNALS = 256
MAX_GROUPS = 64  # of banks of an on-chip memory, as the machine description allows
RAISED_COLUMNS = 4  # pipe, start and address of the instruction whose completion raises a flag, and its core
SIGNAL_COLUMNS = 2 + RAISED_COLUMNS
C_READS = C_SIGNAL0 + MAX_SIGNALS * SIGNAL_COLUMNS  # by bank group, what a vector instruction reads in a cycle
C_BANK = C_READS + MAX_GROUPS  # by bank group, what it writes there, and reads from the bank that it writes
C_FLAGS = C_BANK + MAX_GROUPS  # pairs: value, pipe class that sets it (SYNC: another core), own
# flags and then those of other cores; behind all pairs, RAISED_COLUMNS a flag
# Columns of `op` [cores, SLOTS, .]: an instruction from dispatch to completion.
(O_INSTR, O_PIPE, O_SEQ, O_OCCUPY, O_LATENCY, O_DEPS, O_SETS, O_SPACES, O_KIND, O_NEXT_TILE, O_BYTES, O_PATH, O_REMAIN,
 O_ALL_SENT, O_DONE, O_WRITE, O_BASE, O_RUN, O_DIMS, O_MACS, O_START, O_HASH, O_INTERVALS) = range(23)
O_FLAG, O_AMOUNT = 3, 4  # in the places of O_OCCUPY and O_LATENCY
O_CONFLICT = 9  # of a vector instruction, in the place of O_NEXT_TILE: cycles more for conflicts of banks
O_SET0 = 23  # MAX_SETS flag numbers; of a signal to another core, npusim.engine.signals.away
O_EXT0 = O_SET0 + MAX_SETS  # outer extents of a memory transfer
O_STRIDE0 = O_EXT0 + 6
O_INTERVAL0 = O_STRIDE0 + 6  # up to 4 rows of space, low, high, writes
O_COLUMNS = O_INTERVAL0 + 16
PLAIN, MEMORY, TILE, WAITS, RAISES, DRAINS = range(6)  # O_KIND: fixed duration, memory transfer, stationary tile; and
# what stays in its queue and takes no time: a wait, a set (O_FLAG, O_AMOUNT), a pipe barrier
# Columns of `pipe` [cores, pipes, .].
(P_CLASS, P_UNIT, P_DEPTH, P_HEAD, P_LENGTH, P_FLIGHT_HEAD, P_FLIGHT, P_BUSY_UNTIL, P_ACCOUNTED, P_NEXT, P_REASON,
 P_SENDING, P_OUTSTANDING, P_ENGINE, P_LAST_WAIT, P_LAST_DONE, P_IDLE, P_STREAMS) = range(18)
P_QUEUE = 18  # MAX_QUEUE slots that wait
P_FLIGHT0 = P_QUEUE + MAX_QUEUE  # SLOTS slots that have started
P_WALK = P_FLIGHT0 + SLOTS  # where a memory transfer is: six indices, the offset in the run, what its path can yet take
P_SNAPSHOT = P_WALK + 8  # C_SPENT when the pipe fell idle
P_STATES = P_SNAPSHOT + CAUSE_COUNT  # the result: cycles by cause, this launch
P_HULL = P_STATES + CAUSE_COUNT  # by space, what is in flight lies within: touched from, to, written from, to
P_HELD = P_HULL + 4 * SPACE_COUNT  # by space, how many in flight use the pipe's port
P_COLUMNS = P_HELD + SPACE_COUNT
# Columns of `unit` [cores, arrays, .]: the stationary side of one systolic array.
(M_RESERVED, M_FIFO, M_FIFO_HEAD, M_SHADOW, M_SHADOW_END, M_STREAM_END, M_LAST_DONE) = range(7)
M_FIFO0 = 7  # MAX_FIFO sequence numbers of the tiles in the FIFO
EMPTY, LOADING, READY = range(3)
W_OFFSET, W_SPARE = 6, 7  # P_WALK + 6: offset in the run; + 7: thousandths of bytes left of the last request's cycles
# Columns of `events`: as npusim.record.EVENT; rows of the sequencer are npusim.record.WAIT.
E_START, E_END, E_CORE, E_PIPE, E_LAUNCH, E_INSTR, E_BY_PIPE, E_BY_START, E_BY_INSTR, E_BY_CORE = range(10)
# `values` [.]: Params.values, then the tables of Params, flat.
PIPES = INDEX["pipes"]
V_PATH_OF = len(NAMES)
V_PATHS = V_PATH_OF + SPACE_COUNT * SPACE_COUNT
V_DMA = V_PATHS + 3 * MAX_PATHS
V_PASSES = V_DMA + 5 * MAX_ENGINES
V_PORTS = V_PASSES + len(DTYPES)
V_DTYPE_BYTES = V_PORTS + SPACE_COUNT
V_OP_MILLI = V_DTYPE_BYTES + len(DTYPES)
V_OP_PIPE = V_OP_MILLI + MAX_CODE
V_OP_LANES = V_OP_PIPE + MAX_CODE
V_UNPACK = V_OP_LANES + MAX_CODE
V_PACK = V_UNPACK + len(DTYPES)
V_LIMIT = V_PACK + len(DTYPES)  # MAX_INSTRUCTIONS
V_SKEW = V_LIMIT + 1  # thousandths of the Zipf exponent by which gathers choose rows; 0: evenly
V_DEPTH = V_SKEW + 1  # by dtype, k of a cube's blocks
V_BANKS = V_DEPTH + len(DTYPES)  # by space: bank groups, bytes of a block, bytes of a bank
V_ENDS = V_BANKS + 3 * SPACE_COUNT  # by path: the spaces that it leads from and to
V_STALLS = V_ENDS + 2 * MAX_PATHS  # by space: cycles that a request written there holds back copies from there
V_COUNT = V_STALLS + SPACE_COUNT
# `clock` [.]: the outer loop.
(K_NOW, K_MEMORY_UNTIL, K_EVENTS, K_DROPPED, K_CORE, K_Q, K_R, K_F) = range(8)  # K_Q..K_F: the core clock's edges
K_FROM, K_TO = 8, 9  # instructions that touch these cycles become events
K_STATUS = 10  # what the memory answered when it could not go on
K_NEXT_BLOCK, K_SIGNALLED = 11, 12  # the next block that a free core takes; a signal was sent in this cycle
K_TRAFFIC = 13  # this launch: bytes by path, then array rows streamed, then instructions by pipe class
# Status of a call.
DONE, REFUSED, DEADLOCK, BAD_CODE, BUDGET, GROW, CROWDED = range(7)


class State(NamedTuple):
    """All arrays of a run, int64, in the order in which kernels take those that they need.

    Kernels are handed arrays, never this tuple: taking an array out of a tuple costs an atomic reference count.
    """

    values: Array
    code: Array
    desc: Array
    core: Array
    pipe: Array
    op: Array
    unit: Array
    events: Array
    clock: Array


def code_table(instrs: Array) -> Array:
    """INSTR records as int64 columns I_*."""
    return np.stack([instrs[n].astype(np.int64) for n in ("op", "flags", "unit", "dst", "a", "b", "c", "imm")], axis=1)


def desc_table(descs: Array) -> Array:
    """DESC records as int64 columns D_*; a stride takes in what its dimension moves along a window axis."""
    descs = descs.copy()
    for x in range(2):
        step = descs["axis_stride"][:, x : x + 1] * descs["coef"]
        descs["stride"] += np.where(descs["axis"] == x, step, 0)
    single = [descs[n].reshape(-1, 1) for n in ("space", "dtype", "ndim", "rows", "base", "base_reg")]
    many = [descs[n] for n in ("ext", "stride", "ext_reg", "axis", "coef")]
    pairs = [descs[n] for n in ("origin", "limit", "axis_stride", "origin_reg", "limit_reg")]
    return np.ascontiguousarray(np.concatenate([x.astype(np.int64) for x in (*single, *many, *pairs)], axis=1))


def flat_values(params: Params) -> Array:
    """Params as the one table V_* of a State."""
    values = np.zeros(V_COUNT, np.int64)
    pipe_class, lanes = np.zeros(MAX_CODE, np.int64), np.zeros(MAX_CODE, np.int64)
    for op in TABLE:
        pipe_class[op.code], lanes[op.code] = op.pipe, LANES_ID[op.lanes]
    for start, table in (
        (0, params.values), (V_PATH_OF, params.path_of), (V_PATHS, params.paths), (V_DMA, params.dma),
        (V_PASSES, params.passes_milli), (V_PORTS, params.space_ports), (V_DTYPE_BYTES, params.dtype_bytes),
        (V_OP_MILLI, params.op_milli), (V_OP_PIPE, pipe_class), (V_OP_LANES, lanes),
        (V_UNPACK, params.convert_milli), (V_DEPTH, params.depth), (V_BANKS, params.space_banks),
        (V_ENDS, params.path_ends), (V_STALLS, params.space_stalls),
    ):
        values[start : start + table.size] = table.reshape(-1)
    values[V_LIMIT] = MAX_INSTRUCTIONS
    return values


def make_state(params: Params, instrs: Array, descs: Array, max_events: int) -> State:
    """Allocate the state of a machine for a program; every array is C-contiguous and writable."""
    cores, pipes, units = params["cores"], len(params.pipes), params["matrix_count"]
    if len(params.paths) > MAX_PATHS or len(params.dma) > MAX_ENGINES:
        raise ConfigError(
            f"core.paths has {len(params.paths)} rows (at most {MAX_PATHS}), "
            f"core.dma {len(params.dma)} (at most {MAX_ENGINES})"
        )

    def zeros(*shape: int) -> Array:
        return np.zeros(shape, np.int64)

    state = State(
        flat_values(params), code_table(instrs), desc_table(descs),
        core=zeros(cores, C_FLAGS + (2 + RAISED_COLUMNS) * (params["flags"] + params["cross_flags"])),
        pipe=zeros(cores, pipes, P_COLUMNS), op=zeros(cores, SLOTS, O_COLUMNS),
        unit=zeros(cores, units, M_FIFO0 + MAX_FIFO), events=zeros(max_events, 10),
        clock=zeros(K_TRAFFIC + MAX_PATHS + 16),
    )
    state.clock[K_Q : K_F + 1] = clock_parts(params["core_khz"])
    state.clock[K_TO] = FAR
    for pipe in params.pipes:
        row = state.pipe[:, pipe.index]
        row[:, P_CLASS], row[:, P_UNIT] = min(pipe.pipe_class, DMA), pipe.unit
        row[:, P_DEPTH], row[:, P_ENGINE] = min(pipe.queue_depth, MAX_QUEUE), max(pipe.pipe_class - DMA, -1)
        from_dram = pipe.pipe_class == WEIGHTS and params.path_of[SPACE_ID["dram"], SPACE_ID["wfifo"]] >= 0
        row[:, P_STREAMS] = int(pipe.pipe_class >= DMA or from_dram)
    return state
