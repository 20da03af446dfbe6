"""The sequencer: it runs scalar code, resolves and dispatches bundles, and waits for flags, queues and barriers."""

from __future__ import annotations

from isa.params import INDEX
from isa.table import DMA, STOP, SYNC, code
from npusim.engine.account import sequencer_cause
from npusim.engine.dispatch import dispatch, is_empty, pipe_of, room
from npusim.engine.layout import (
    BARRIER,
    BUSY,
    C_BARRIER,
    C_CAUSE,
    C_FLAGS,
    C_HALTED,
    C_INFLIGHT,
    C_ISSUED,
    C_PC,
    C_REGS,
    C_TIME,
    DRAINED,
    I_A,
    I_B,
    I_DST,
    I_FLAGS,
    I_IMM,
    I_OP,
    I_UNIT,
    MAX_QUEUE,
    MAX_SETS,
    O_SET0,
    O_SETS,
    P_ENGINE,
    P_FLIGHT,
    P_FLIGHT0,
    P_FLIGHT_HEAD,
    P_HEAD,
    P_LENGTH,
    P_QUEUE,
    P_UNIT,
    QUEUE_FULL,
    SLOTS,
    V_DMA,
    V_OP_PIPE,
    WAIT_SCALAR,
)
from npusim.engine.scalar import FIRST, LAST, step_scalar
from npusim.jit import kernel

SET, WAIT, BARRIER_OP, FENCE = (code(n) for n in ("set", "wait", "barrier", "fence"))
NOP, HALT, MARK = code("nop"), code("halt"), code("mark")
VLIW, SCALAR_CYCLES, WINDOW = INDEX["vliw"], INDEX["scalar_cycles"], INDEX["window"]
CLASS_PIPES = INDEX["weights_pipe"]
MATRIX_CLASS_LIMIT = DMA
BAD = -2
NOT_YET = -1  # and otherwise the cause that blocks, or GO
GO = 1 << 20


@kernel
def flag_of(s, c, pc):
    """The flag that a set or wait names."""
    reg = s.code[pc, I_A]
    return s.code[pc, I_IMM] + (s.core[c, C_REGS + reg] if reg >= 0 else 0)


@kernel
def named_pipe(s, pc):
    """Pipe index that a `set` names, or -1 for the sequencer itself."""
    wanted, unit = s.code[pc, I_DST], s.code[pc, I_UNIT]
    if wanted == 0:
        return -1
    if wanted >= DMA:
        return s.values[V_DMA + 5 * (wanted - DMA) + 0] + unit % s.values[V_DMA + 5 * (wanted - DMA) + 1]
    return s.values[CLASS_PIPES + wanted - 1] + (unit if wanted <= 2 else 0)


@kernel
def youngest(s, c, p):
    """Slot of the youngest instruction of a pipe that has not completed, or -1."""
    if s.pipe[c, p, P_LENGTH] > 0:
        return s.pipe[c, p, P_QUEUE + (s.pipe[c, p, P_HEAD] + s.pipe[c, p, P_LENGTH] - 1) % MAX_QUEUE]
    if s.pipe[c, p, P_FLIGHT] > 0:
        return s.pipe[c, p, P_FLIGHT0 + (s.pipe[c, p, P_FLIGHT_HEAD] + s.pipe[c, p, P_FLIGHT] - 1) % SLOTS]
    return -1


@kernel
def sync_ready(s, c, pc):
    """GO, or the cause for which a synchronisation instruction must wait."""
    op = s.code[pc, I_OP]
    if op == WAIT:
        flag = flag_of(s, c, pc)
        if s.core[c, C_FLAGS + 2 * flag + 0] >= s.code[pc, I_B]:
            return GO
        return WAIT_SCALAR + s.core[c, C_FLAGS + 2 * flag + 1]
    if op == SET:
        p = named_pipe(s, pc)
        if p >= 0:
            slot = youngest(s, c, p)
            if slot >= 0 and s.op[c, slot, O_SETS] >= MAX_SETS:
                return QUEUE_FULL
        return GO
    return GO if s.core[c, C_INFLIGHT] == 0 else BARRIER


@kernel
def sync_execute(s, c, pc):
    """Execute a synchronisation instruction that is ready; returns False at a barrier, where the core stays."""
    op = s.code[pc, I_OP]
    if op == WAIT:
        s.core[c, C_FLAGS + 2 * (flag_of(s, c, pc)) + 0] -= s.code[pc, I_B]
    elif op == SET:
        flag, p = flag_of(s, c, pc), named_pipe(s, pc)
        s.core[c, C_FLAGS + 2 * flag + 1] = min(s.code[pc, I_DST], DMA)
        slot = youngest(s, c, p) if p >= 0 else -1
        if slot < 0:
            s.core[c, C_FLAGS + 2 * flag + 0] += 1
        else:
            s.op[c, slot, O_SET0 + s.op[c, slot, O_SETS]] = flag
            s.op[c, slot, O_SETS] += 1
    elif op == BARRIER_OP:
        s.core[c, C_BARRIER] = 1
        return False
    return True


@kernel
def bundle_ready(s, c):
    """GO, or the first cause for which the bundle at pc cannot issue; (cause, address after the bundle)."""
    pc = s.core[c, C_PC]
    count = 0
    while True:
        op = s.code[pc, I_OP]
        wanted = s.values[V_OP_PIPE + op]
        if wanted == SYNC:
            cause = sync_ready(s, c, pc)
            if cause != GO:
                return cause, pc
        elif wanted > 0:
            p = pipe_of(s, pc)
            count += 1
            if not room(s, c, p) or s.core[c, C_INFLIGHT] + count > s.values[WINDOW]:
                return QUEUE_FULL, pc
        if s.values[VLIW] == 0 or s.code[pc, I_FLAGS] & STOP:
            return GO, pc + 1
        pc += 1


@kernel
def execute_bundle(s, c, after, now, grid):
    """Execute all instructions up to address `after`; returns BAD for bad code, NOT_YET at a barrier, else GO."""
    while True:
        pc = s.core[c, C_PC]
        op = s.code[pc, I_OP]
        last = pc + 1 == after
        if FIRST <= op <= LAST:
            if not step_scalar(s, c, grid):
                return BAD
        elif op == HALT:
            s.core[c, C_HALTED] = 1
            return GO
        else:
            if s.values[V_OP_PIPE + op] == SYNC:
                s.core[c, C_PC] = pc + 1
                if not sync_execute(s, c, pc):
                    return NOT_YET
            elif s.values[V_OP_PIPE + op] > 0 and not is_empty(s, c, pc):
                dispatch(s, c, pc, pipe_of(s, pc), now)
            s.core[c, C_PC] = pc + 1
        s.core[c, C_ISSUED] += 1
        if last:
            return GO


@kernel
def is_scalar(s, pc):
    """True when the bundle at pc only runs on the sequencer and changes nothing outside of it."""
    while True:
        op = s.code[pc, I_OP]
        if not (FIRST <= op <= LAST or op == NOP or op == MARK):
            return False
        if s.values[VLIW] == 0 or s.code[pc, I_FLAGS] & STOP:
            return True
        pc += 1


@kernel
def issue(s, c, now, grid, budget):
    """Let the core's sequencer go on; returns (progress, status): status BAD for bad code."""
    if s.core[c, C_HALTED] or s.core[c, C_BARRIER] or s.core[c, C_TIME] > now:
        return False, 0
    cause, after = bundle_ready(s, c)
    if cause != GO:
        if s.core[c, C_CAUSE] != cause:
            sequencer_cause(s, c, cause, now)
        return False, 0
    if s.core[c, C_CAUSE] != BUSY:
        sequencer_cause(s, c, BUSY, now)
    time = now
    left = budget
    while True:
        outcome = execute_bundle(s, c, after, now, grid)
        if outcome == BAD:
            return True, BAD
        time += s.values[SCALAR_CYCLES]
        left -= 1
        if outcome == NOT_YET or s.core[c, C_HALTED] or left == 0 or not is_scalar(s, s.core[c, C_PC]):
            break
        cause, after = bundle_ready(s, c)
    s.core[c, C_TIME] = time
    if s.core[c, C_HALTED]:
        sequencer_cause(s, c, DRAINED, now)
    elif s.core[c, C_BARRIER]:
        sequencer_cause(s, c, BARRIER, now)
    return True, 0
