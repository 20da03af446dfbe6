"""The sequencer: it runs scalar code, resolves and dispatches bundles, and waits for flags, queues and barriers."""

from __future__ import annotations

from isa.params import INDEX, MAX_SETS
from isa.table import DMA, STOP, SYNC, code
from npusim.engine.account import sequencer_cause
from npusim.engine.dispatch import dispatch, dispatch_sync, is_empty, pipe_of
from npusim.engine.layout import (
    BARRIER,
    BUSY,
    C_BARRIER,
    C_BLOCKED,
    C_BLOCKED_AT,
    C_BLOCKS,
    C_CAUSE,
    C_FLAGS,
    C_HALTED,
    C_INFLIGHT,
    C_ISSUED,
    C_PC,
    C_REGS,
    C_TIME,
    DRAINED,
    DRAINS,
    I_A,
    I_B,
    I_DST,
    I_FLAGS,
    I_IMM,
    I_OP,
    I_UNIT,
    MAX_QUEUE,
    O_SET0,
    O_SETS,
    P_DEPTH,
    P_FLIGHT,
    P_FLIGHT0,
    P_FLIGHT_HEAD,
    P_HEAD,
    P_LENGTH,
    P_QUEUE,
    QUEUE_FULL,
    RAISES,
    SLOTS,
    V_DMA,
    V_LIMIT,
    V_OP_PIPE,
    WAIT_SCALAR,
    WAITS,
)
from npusim.engine.pipes import log_wait
from npusim.engine.scalar import FIRST, LAST, step_scalar
from npusim.engine.signals import away, raise_flag
from npusim.jit import inlined, kernel

SET, WAIT, BARRIER_OP, FENCE, PIPE_BARRIER = (code(n) for n in ("set", "wait", "barrier", "fence", "pbar"))
SIGNAL, AWAIT = code("signal"), code("await")
NOP, HALT, MARK = code("nop"), code("halt"), code("mark")
VLIW, SCALAR_CYCLES, WINDOW = INDEX["vliw"], INDEX["scalar_cycles"], INDEX["window"]
CLASS_PIPES = INDEX["weights_pipe"]
FLAGS, CROSS_FLAGS, QUEUES = INDEX["flags"], INDEX["cross_flags"], INDEX["queues"]
BAD = -2
NOT_YET = -1  # and otherwise the cause that blocks, or GO
GO = 1 << 20


@inlined
def waits(code, pc):
    """True for what waits for a flag."""
    return code[pc, I_OP] == WAIT or code[pc, I_OP] == AWAIT


@inlined
def raises(code, pc):
    """True for what raises a flag, here or elsewhere."""
    return code[pc, I_OP] == SET or code[pc, I_OP] == SIGNAL


@inlined
def flag_of(v, code, cores, c, pc):
    """The flag that an instruction names: those that other cores signal come after a core's own."""
    reg, op = code[pc, I_A], code[pc, I_OP]
    number = code[pc, I_IMM] + (cores[c, C_REGS + reg] if reg >= 0 else 0)
    return number + v[FLAGS] if op == SIGNAL or op == AWAIT else number


@kernel
def flag_exists(v, code, cores, c, pc):
    """True when the core, or the block that is signalled, has the flag."""
    flag, op = flag_of(v, code, cores, c, pc), code[pc, I_OP]
    if op == SET or op == WAIT:
        return 0 <= flag < v[FLAGS]
    target = cores[c, C_REGS + code[pc, I_B]] if op == SIGNAL else 0
    return v[FLAGS] <= flag < v[FLAGS] + v[CROSS_FLAGS] and 0 <= target < cores[c, C_BLOCKS]


@kernel
def raised_flag(v, code, cores, c, pc):
    """What a set or signal raises, as a slot notes it."""
    flag = flag_of(v, code, cores, c, pc)
    return flag if code[pc, I_OP] == SET else away(v, cores[c, C_REGS + code[pc, I_B]], flag)


@inlined
def wait_count(code, pc):
    """What a wait subtracts: 1 unless it says more."""
    return max(1, code[pc, I_B])


@inlined
def named_pipe(v, code, pc):
    """Pipe index that a set, a wait or a pipe barrier names, or -1 for the sequencer itself."""
    wanted, unit = code[pc, I_DST], code[pc, I_UNIT]
    if wanted <= 0:
        return -1
    if wanted >= DMA:
        return v[V_DMA + 5 * (wanted - DMA) + 0] + unit % v[V_DMA + 5 * (wanted - DMA) + 1]
    return v[CLASS_PIPES + wanted - 1] + (unit if wanted <= 2 else 0)


@inlined
def youngest(pipes, c, p):
    """Slot of the youngest instruction of a pipe that has not completed, or -1."""
    if pipes[c, p, P_LENGTH] > 0:
        return pipes[c, p, P_QUEUE + (pipes[c, p, P_HEAD] + pipes[c, p, P_LENGTH] - 1) % MAX_QUEUE]
    if pipes[c, p, P_FLIGHT] > 0:
        return pipes[c, p, P_FLIGHT0 + (pipes[c, p, P_FLIGHT_HEAD] + pipes[c, p, P_FLIGHT] - 1) % SLOTS]
    return -1


@inlined
def wait_ready(v, code, cores, c, first, pc):
    """GO, or the cause for which the wait at pc blocks its bundle, which begins at `first`."""
    flag = flag_of(v, code, cores, c, pc)
    if not flag_exists(v, code, cores, c, pc):
        return BAD
    needed = 0
    for i in range(first, pc + 1):
        if waits(code, i) and flag_of(v, code, cores, c, i) == flag:
            needed += wait_count(code, i)
    if cores[c, C_FLAGS + 2 * flag + 0] >= needed:
        return GO
    return WAIT_SCALAR + cores[c, C_FLAGS + 2 * flag + 1]


@inlined
def set_ready(v, code, cores, pipes, ops, c, first, pc):
    """GO, or the cause for which the set at pc blocks its bundle: an instruction can raise MAX_SETS flags."""
    if not flag_exists(v, code, cores, c, pc):
        return BAD
    sets = 1
    for i in range(first, pc):
        sets += raises(code, i)
    p = named_pipe(v, code, pc)
    slot = youngest(pipes, c, p) if p >= 0 else -1
    if slot >= 0:
        sets += ops[c, slot, O_SETS]
    return GO if sets <= MAX_SETS else QUEUE_FULL


@kernel
def sync_ready(v, code, cores, pipes, ops, c, first, pc):
    """GO, or the cause for which a synchronisation instruction must wait, or BAD for a flag that does not exist."""
    if waits(code, pc):
        return wait_ready(v, code, cores, c, first, pc)
    if raises(code, pc):
        return set_ready(v, code, cores, pipes, ops, c, first, pc)
    return GO if cores[c, C_INFLIGHT] == 0 else BARRIER


@kernel
def sync_execute(v, code, cores, pipes, ops, clock, c, pc, now):
    """Execute a synchronisation instruction that is ready; returns False at a barrier, where the core stays."""
    if waits(code, pc):
        cores[c, C_FLAGS + 2 * flag_of(v, code, cores, c, pc) + 0] -= wait_count(code, pc)
    elif raises(code, pc):
        flag, p = raised_flag(v, code, cores, c, pc), named_pipe(v, code, pc)
        if flag >= 0:
            cores[c, C_FLAGS + 2 * flag + 1] = min(code[pc, I_DST], DMA)
        slot = youngest(pipes, c, p) if p >= 0 else -1
        if slot < 0:
            raise_flag(v, cores, clock, c, flag, max(p, 0), now, pc, now)
        else:
            ops[c, slot, O_SET0 + ops[c, slot, O_SETS]] = flag
            ops[c, slot, O_SETS] += 1
    elif code[pc, I_OP] == BARRIER_OP:
        cores[c, C_BARRIER] = 1
        return False
    return True


@inlined
def sync_queue_ready(v, code, cores, pipes, c, pc):
    """GO, or the cause for which a set, a wait or a barrier cannot join the queue of its pipe, or BAD."""
    if code[pc, I_OP] != PIPE_BARRIER and not flag_exists(v, code, cores, c, pc):
        return BAD
    p = named_pipe(v, code, pc)
    full = pipes[c, p, P_LENGTH] >= pipes[c, p, P_DEPTH] or cores[c, C_INFLIGHT] >= v[WINDOW]
    return QUEUE_FULL if full else GO


@inlined
def sync_enqueue(v, code, cores, pipes, ops, c, pc, now):
    """Put a set, a wait or a barrier into the queue of its pipe."""
    flag, kind = 0, DRAINS
    if waits(code, pc):
        flag, kind = flag_of(v, code, cores, c, pc), WAITS
    elif raises(code, pc):
        flag, kind = raised_flag(v, code, cores, c, pc), RAISES
        if flag >= 0:
            cores[c, C_FLAGS + 2 * flag + 1] = min(code[pc, I_DST], DMA)
    dispatch_sync(cores, pipes, ops, c, pc, named_pipe(v, code, pc), kind, flag, wait_count(code, pc), now)


@inlined
def queue_ready(v, code, desc, cores, pipes, c, first, pc):
    """GO, or QUEUE_FULL when the instruction at pc and those before it in its bundle do not fit."""
    p = pipe_of(v, code, desc, pc)
    queued, dispatched = 1, 1
    for i in range(first, pc):
        wanted = v[V_OP_PIPE + code[i, I_OP]]
        if wanted > 0 and wanted != SYNC:
            dispatched += 1
            if pipe_of(v, code, desc, i) == p:
                queued += 1
    if pipes[c, p, P_LENGTH] + queued > pipes[c, p, P_DEPTH] or cores[c, C_INFLIGHT] + dispatched > v[WINDOW]:
        return QUEUE_FULL
    return GO


@inlined
def bundle_ready(v, code, desc, cores, pipes, ops, c):
    """GO, or the first cause for which the bundle at pc cannot issue; (cause, address after the bundle)."""
    first = pc = cores[c, C_PC]
    while True:
        wanted = v[V_OP_PIPE + code[pc, I_OP]]
        cause = GO
        if wanted == SYNC and v[QUEUES] and named_pipe(v, code, pc) > 0:
            cause = sync_queue_ready(v, code, cores, pipes, c, pc)
        elif wanted == SYNC:
            cause = sync_ready(v, code, cores, pipes, ops, c, first, pc)
        elif wanted > 0:
            cause = queue_ready(v, code, desc, cores, pipes, c, first, pc)
        if cause != GO:
            return cause, pc
        if v[VLIW] == 0 or code[pc, I_FLAGS] & STOP:
            return GO, pc + 1
        pc += 1


@inlined
def execute_bundle(v, code, desc, cores, pipes, ops, clock, c, after, now):
    """Execute all instructions up to address `after`; returns BAD for bad code, NOT_YET at a barrier, else GO."""
    while True:
        pc = cores[c, C_PC]
        op = code[pc, I_OP]
        wanted = v[V_OP_PIPE + op]
        cores[c, C_ISSUED] += 1
        if FIRST <= op <= LAST:
            if not step_scalar(code, cores, c):
                return BAD
        elif op == HALT:
            cores[c, C_HALTED] = 1
            return GO
        else:
            cores[c, C_PC] = pc + 1
            if wanted == SYNC and v[QUEUES] and named_pipe(v, code, pc) > 0:
                sync_enqueue(v, code, cores, pipes, ops, c, pc, now)
            elif wanted == SYNC:
                if not sync_execute(v, code, cores, pipes, ops, clock, c, pc, now):
                    return NOT_YET
            elif wanted > 0 and not is_empty(v, code, desc, cores, c, pc):
                dispatch(v, code, desc, cores, pipes, ops, c, pc, pipe_of(v, code, desc, pc), now)
        if pc + 1 == after:
            return GO


@inlined
def is_scalar(v, code, pc):
    """True when the bundle at pc only runs on the sequencer and changes nothing outside of it."""
    while True:
        op = code[pc, I_OP]
        if not (FIRST <= op <= LAST or op == NOP or op == MARK):
            return False
        if v[VLIW] == 0 or code[pc, I_FLAGS] & STOP:
            return True
        pc += 1


@inlined
def turn(v, code, cores, events, clock, c, cause, pc, now):
    """Note what the sequencer does from now on: it is busy (GO), or the instruction at pc blocks it."""
    blocks = 0 if cause == GO else pc + 1
    if cores[c, C_BLOCKED] != blocks:
        before = cores[c, C_BLOCKED] - 1
        if before >= 0 and waits(code, before):
            flag = flag_of(v, code, cores, c, before)
            log_wait(v, cores, events, clock, c, 0, before, flag, cores[c, C_BLOCKED_AT], now)
        cores[c, C_BLOCKED], cores[c, C_BLOCKED_AT] = blocks, now
    state = BUSY if cause == GO else cause
    if cores[c, C_CAUSE] != state:
        sequencer_cause(cores, c, state, now)


@inlined
def may_issue(cores, c, now):
    """True when it is time for the core's sequencer to look at its next bundle."""
    return cores[c, C_HALTED] == 0 and cores[c, C_BARRIER] == 0 and cores[c, C_TIME] <= now


@kernel
def issue(v, code, desc, cores, pipes, ops, events, clock, c, now, budget):
    """Let the core's sequencer go on, for which it is time; returns (progress, status): status BAD for bad code."""
    cause, after = bundle_ready(v, code, desc, cores, pipes, ops, c)
    if cause == BAD or cores[c, C_ISSUED] > v[V_LIMIT]:
        return True, BAD
    turn(v, code, cores, events, clock, c, cause, after, now)
    if cause != GO:
        return False, 0
    time = now
    left = budget
    while True:
        outcome = execute_bundle(v, code, desc, cores, pipes, ops, clock, c, after, now)
        if outcome == BAD:
            return True, BAD
        time += v[SCALAR_CYCLES]
        left -= 1
        if outcome == NOT_YET or cores[c, C_HALTED] or left == 0 or not is_scalar(v, code, cores[c, C_PC]):
            break
        cause, after = bundle_ready(v, code, desc, cores, pipes, ops, c)
    cores[c, C_TIME] = time
    if cores[c, C_HALTED]:
        sequencer_cause(cores, c, DRAINED, now)
    elif cores[c, C_BARRIER]:
        sequencer_cause(cores, c, BARRIER, now)
    return True, 0
