"""Array layouts of the engine's state, declared once beside the constants that name their columns.

Everything that changes during a run is in these arrays: they can be saved, compared and handed to kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isa.params import Params
from isa.program import SPACE_ID
from isa.table import DMA, WEIGHTS
from npusim.engine.clock import clock_parts
from npusim.record import CAUSE_ID, CAUSES, EVENT

Array = npt.NDArray[Any]
FAR = 1 << 61  # a cycle that never comes
SLOTS = 63  # instructions in flight a core; one bit each in a dependency mask
MAX_QUEUE = 64
MAX_FIFO = 64
MAX_LOOPS = 16
MAX_SETS = 6  # flags that one instruction's completion may set

# Causes by number, for kernels.
BUSY, WAIT_SCALAR, QUEUE_FULL = CAUSE_ID["busy"], CAUSE_ID["wait_scalar"], CAUSE_ID["queue_full"]
WAIT_WEIGHTS, WAIT_MATRIX, WAIT_DMA = CAUSE_ID["wait_weights"], CAUSE_ID["wait_matrix"], CAUSE_ID["wait_dma"]
MEMORY_BANDWIDTH, MEMORY_LATENCY = CAUSE_ID["memory_bandwidth"], CAUSE_ID["memory_latency"]
PORT_CONFLICT, DISPATCH, BARRIER = CAUSE_ID["port_conflict"], CAUSE_ID["dispatch"], CAUSE_ID["barrier"]
LAUNCH_CAUSE, HOST, DRAINED = CAUSE_ID["launch"], CAUSE_ID["host"], CAUSE_ID["drained"]
CAUSE_COUNT = len(CAUSES)

# Columns of `core` [cores, .]: the sequencer.
(C_PC, C_TIME, C_HALTED, C_LOOPS, C_CAUSE, C_SINCE, C_SEQ, C_INFLIGHT, C_BARRIER, C_END, C_ISSUED) = range(11)
# Columns of `op` [cores, SLOTS, .]: an instruction from dispatch to completion.
(O_STATE, O_INSTR, O_PIPE, O_SEQ, O_OCCUPY, O_LATENCY, O_DEPS, O_CAUSE, O_SETS, O_SPACES, O_KIND, O_NEXT_TILE, O_BYTES,
 O_PATH, O_REMAIN, O_ALL_SENT, O_DONE, O_WRITE, O_BASE, O_RUN, O_DIMS, O_MACS, O_START, O_HASH, O_INTERVALS) = range(25)
O_SET0 = 25  # MAX_SETS flag numbers
O_EXT0 = O_SET0 + MAX_SETS  # outer extents of a memory transfer
O_STRIDE0 = O_EXT0 + 6
O_INTERVAL0 = O_STRIDE0 + 6  # up to 4 rows of space, low, high, writes
O_COLUMNS = O_INTERVAL0 + 16
FREE, QUEUED, FLYING = range(3)
PLAIN, MEMORY, TILE = range(3)  # O_KIND: fixed duration, memory transfer, stationary tile
# Columns of `pipe` [cores, pipes, .].
(P_CLASS, P_UNIT, P_DEPTH, P_HEAD, P_LENGTH, P_FLIGHT_HEAD, P_FLIGHT, P_BUSY_UNTIL, P_ACCOUNTED, P_NEXT, P_REASON,
 P_SENDING, P_OUTSTANDING, P_ENGINE, P_LAST_WAIT, P_LAST_DONE, P_IDLE, P_STREAMS) = range(18)
# Columns of `unit` [cores, arrays, .]: the stationary side of one systolic array.
(M_RESERVED, M_FIFO, M_FIFO_HEAD, M_SHADOW, M_SHADOW_END, M_STREAM_END, M_LAST_DONE) = range(7)
EMPTY, LOADING, READY = range(3)
# Columns of `walk` [cores, pipes, .]: where a memory transfer is.
W_INDEX0, W_OFFSET = 0, 6
# `clock` [.]: the outer loop.
(K_NOW, K_MEMORY_UNTIL, K_EVENTS, K_DROPPED, K_CORE, K_Q, K_R, K_F) = range(8)  # K_Q..K_F: the core clock's edges
# Status of a call.
DONE, FULL, DEADLOCK, BAD_CODE, BUDGET = range(5)


class State(NamedTuple):
    """All arrays of a run; int64 unless said otherwise."""

    values: Array  # Params.values
    path_of: Array
    paths: Array
    dma: Array
    passes: Array
    op_milli: Array
    ports: Array
    dtype_bytes: Array
    instrs: Array  # INSTR
    descs: Array  # DESC
    op_pipe: Array  # pipe class by opcode
    op_lanes: Array  # 0 none, 1 unary, 2 binary, 3 ternary, 4 reduce, 5 move
    core: Array
    regs: Array
    loops: Array  # [cores, MAX_LOOPS, 3] body, after, left
    flags: Array  # [cores, flags, 2] value, pipe class that sets it
    op: Array
    pipe: Array
    queue: Array  # [cores, pipes, MAX_QUEUE] slots waiting
    flight: Array  # [cores, pipes, SLOTS] slots started
    unit: Array
    fifo: Array  # [cores, arrays, MAX_FIFO] sequence number of each tile in the FIFO
    walk: Array
    active: Array  # [cores, spaces] accessors at work
    spent: Array  # [cores, CAUSE_COUNT] cycles of the sequencer by cause, this launch
    snapshot: Array  # [cores, pipes, CAUSE_COUNT] `spent` when the pipe fell idle
    states: Array  # [cores, pipes, CAUSE_COUNT] result of this launch
    traffic: Array  # [paths] bytes, then MACs and instructions by class
    events: Array  # EVENT
    clock: Array


def make_state(params: Params, instrs: Array, descs: Array, pipe_class: Array, lanes: Array, max_events: int) -> State:
    """Allocate the state of a machine for a program; every array is C-contiguous and writable."""
    cores, pipes = params["cores"], len(params.pipes)

    def zeros(*shape: int) -> Array:
        return np.zeros(shape, np.int64)

    state = State(
        params.values, params.path_of, params.paths, params.dma, params.passes_milli, params.op_milli,
        params.space_ports, params.dtype_bytes, np.ascontiguousarray(instrs), np.ascontiguousarray(descs),
        pipe_class, lanes,
        core=zeros(cores, 11), regs=zeros(cores, 256), loops=zeros(cores, MAX_LOOPS, 3),
        flags=zeros(cores, params["flags"], 2), op=zeros(cores, SLOTS, O_COLUMNS), pipe=zeros(cores, pipes, 18),
        queue=zeros(cores, pipes, MAX_QUEUE), flight=zeros(cores, pipes, SLOTS),
        unit=zeros(cores, params["matrix_count"], 7), fifo=zeros(cores, params["matrix_count"], MAX_FIFO),
        walk=zeros(cores, pipes, 7), active=zeros(cores, len(params.space_ports)),
        spent=zeros(cores, CAUSE_COUNT), snapshot=zeros(cores, pipes, CAUSE_COUNT),
        states=zeros(cores, pipes, CAUSE_COUNT), traffic=zeros(len(params.paths) + 16),
        events=np.zeros(max_events, EVENT), clock=zeros(8),
    )
    state.clock[K_Q : K_F + 1] = clock_parts(params["core_khz"])
    for pipe in params.pipes:
        state.pipe[:, pipe.index, P_CLASS] = min(pipe.pipe_class, DMA)
        state.pipe[:, pipe.index, P_UNIT] = pipe.unit
        state.pipe[:, pipe.index, P_DEPTH] = min(pipe.queue_depth, MAX_QUEUE)
        from_dram = pipe.pipe_class == WEIGHTS and params.path_of[SPACE_ID["dram"], SPACE_ID["wfifo"]] >= 0
        state.pipe[:, pipe.index, P_STREAMS] = int(pipe.pipe_class >= DMA or from_dram)
        state.pipe[:, pipe.index, P_ENGINE] = max(pipe.pipe_class - DMA, -1)
    return state
