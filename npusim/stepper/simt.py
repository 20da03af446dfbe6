"""Step a program of threads cycle by cycle: the rules of docs/architecture.md, "Time of threads", as they are written.

Nothing is remembered that could be found out anew: every cycle each warp is asked what keeps it from issuing. Values
are made by the executors of npusim.units.warps, the memory behind the port is the engine's; everything else is written
twice, and the engine must agree in every number.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cache import Cache
from isa.disasm import instr_text
from isa.errors import DeadlockError, SimulationError
from isa.occupancy import Occupancy, occupancy
from isa.program import Kernel, Program
from isa.simt_machine import ExecPipe, SimtMachine
from isa.simt_operands import KINDS, LANE_WIDTH, SLOTS
from isa.table import BY_CODE
from isa.table_simt import FMA, GUARD, GUARD_MASK, GUARD_SHIFT, IMMEDIATE, SCALAR_SOURCE, SIMT_PIPES
from npusim.memory.generator.backend import Hierarchy, make_backend
from npusim.record_simt import SIMT_COUNTERS, WARP_CAUSES, LaunchRecord, SimtRecord
from npusim.stepper.simt_unit import NEVER, ROWS, Access, Port, Unit, pieces_of
from npusim.units.warps import layout as at
from npusim.units.warps.access import addresses
from npusim.units.warps.decode import decode
from npusim.units.warps.execute import execute
from npusim.units.warps.flow import branch, converge, guard, leave, scalar_step, start_warp
from npusim.units.warps.layout import WarpState
from npusim.units.warps.state import make_warps

Array = npt.NDArray[Any]
PATIENCE = 20_000  # cycles without an issue, a piece or an answer: nothing will ever happen
GROUPS_UNDER_WAY = 15
PIPES = len(SIMT_PIPES)
PIPE_NAMES = {number: name for name, number in SIMT_PIPES.items()}
_SHORT = (at.SHARED_LOAD, at.SHARED_ATOMIC, at.MATRIX_LOAD, at.CROSS)
_LONG = (at.GLOBAL_LOAD, at.GLOBAL_ATOMIC)
_REASONS = {at.BAD_ADDRESS: "out of bounds", at.MISALIGNED: "misaligned", at.PART_OF_WARP: "part of the warp"}
_ACCESSES = (
    at.GLOBAL_LOAD, at.GLOBAL_STORE, at.SHARED_LOAD, at.SHARED_STORE, at.GLOBAL_ATOMIC, at.SHARED_ATOMIC,
    at.ASYNC_COPY, at.MATRIX_LOAD,
)  # fmt: skip


@dataclass(eq=False)
class Warp:
    """A resident warp. `row` is its place in the arrays of values, `number` the one in its core."""

    row: int
    number: int
    age: int
    start: int  # the first cycle at which it may issue
    block: Block
    go: int = 0  # when control lets it go on after a branch
    hold: str = ""  # "barrier", "membar" or "groups": it waits at the instruction that it has issued
    released: int = NEVER  # when its barrier was passed
    writes: int = 0  # sectors of its stores that are not answered yet
    # By register: when it may be used, cause until then.
    ready: dict[int, tuple[int, str]] = field(default_factory=dict)
    copies: list[Access] = field(default_factory=list)  # of no group yet
    groups: list[list[Access]] = field(default_factory=list)  # committed, oldest first

    def under_way(self) -> int:
        """Groups from the first one on of which an answer is missing."""
        missing = [n for n, group in enumerate(self.groups) if any(copy.done == NEVER for copy in group)]
        return len(self.groups) - missing[0] if missing else 0

    def waits(self, now: int, wanted: int) -> bool:
        """True while more than `wanted` groups are under way, or data of the groups before them are not there."""
        if wanted >= GROUPS_UNDER_WAY:
            return False
        return any(copy.done > now for group in self.groups[: max(0, len(self.groups) - wanted)] for copy in group)


@dataclass(eq=False)
class Block:
    """A block in a slot of a core."""

    core: int
    slot: int
    warps: list[Warp] = field(default_factory=list)  # that have not ended


@dataclass(eq=False)
class SubCore:
    """A scheduler with its pipes."""

    pipe_free: list[int] = field(default_factory=lambda: [0] * PIPES)
    last: Warp | None = None
    last_number: int = -1


class Stepper:
    """One launch."""

    def __init__(
        self, program: Program, machine: SimtMachine, memory: Array, backend: Hierarchy, index: int, first: int
    ) -> None:
        row = program.launches[index]
        self.program, self.machine, self.memory, self.backend = program, machine, memory, backend
        self.kernel: Kernel = program.kernels[int(row["kernel"])]
        self.grid, self.threads, self.columns = int(row["grid"]), int(row["block"]), int(row["columns"])
        self.args = program.args[int(row["args"]) : int(row["args"]) + int(row["nargs"])]
        self.index, self.first = index, first
        smem = self.kernel.scratch_bytes.get("smem", 0)
        self.fit: Occupancy = occupancy(machine, self.threads, self.kernel.registers, smem)
        assert machine.core.warps is not None
        self.schedulers, self.warps_spec = machine.core.warps.schedulers, machine.core.warps
        self.code = decode(program, self.kernel, machine)
        self.core_warps = self.fit.blocks * self.fit.block_warps
        self.values: WarpState = make_warps(
            machine.cores * self.core_warps, max(1, self.kernel.registers), machine.warp_size,
            machine.cores * self.fit.blocks, smem,
        )  # fmt: skip
        self.uses = [registers_of(record, self.code[i]) for i, record in enumerate(self._records())]
        self.costs = [cost_of(record, machine) for record in self._records()]
        self.l1 = l1_beside(machine, self.fit.carveout_bytes)
        self.counters: Counter[str] = Counter()
        self.port = Port(machine, backend)
        self.units = [Unit(c, machine, self.l1, self.port, self.counters) for c in range(machine.cores)]
        self.subs = [[SubCore() for _ in range(self.schedulers)] for _ in range(machine.cores)]
        self.slots: list[list[Block | None]] = [[None] * self.fit.blocks for _ in range(machine.cores)]
        self.starting: list[tuple[int, int, int]] = []  # (cycle, core, slot)
        self.next_block = self.age = 0
        n = len(self.code)
        self.stalls = np.zeros((n + 1, len(WARP_CAUSES)), np.int64)
        self.issues = np.zeros((n + 1, 2), np.int64)
        self.pipe_busy = np.zeros((machine.cores, self.schedulers, PIPES), np.int64)
        self.issued = np.zeros((machine.cores, self.schedulers), np.int64)

    def _records(self) -> Array:
        return self.program.instrs[self.kernel.start : self.kernel.end]

    # Cycles

    def run(self) -> int:
        """Step until all blocks have ended and all requests are answered; returns the cycle after."""
        for slot in range(self.fit.blocks):
            for c in range(self.machine.cores):
                self._start_block(c, slot, self.first)
        now, last = self.first, self.first
        while True:
            busy = self._step(now)
            last = now if busy else last
            if self._over():
                return now + 1
            self.port.advance(now)
            if now - last > PATIENCE:
                raise DeadlockError(self._stuck())
            now += 1

    def _over(self) -> bool:
        resident = self.starting or any(block for core in self.slots for block in core)
        return not (resident or self.port.flying or any(unit.queue for unit in self.units))

    def _step(self, now: int) -> bool:
        """One cycle; True when anything happened."""
        before = (self.issued.sum(), self.counters["pieces"], len(self.port.flying))
        for request in self.port.back(now):
            self.units[request.core].answer(request, now)
        for due in [due for due in self.starting if due[0] == now]:
            self.starting.remove(due)
            self._start_block(due[1], due[2], now)
        for c in range(self.machine.cores):
            for s in range(self.schedulers):
                self._step_sub(c, s, now)
            self.units[c].step(now)
        return before != (self.issued.sum(), self.counters["pieces"], len(self.port.flying))

    def _step_sub(self, c: int, s: int, now: int) -> None:
        """Let one warp of a sub-core issue, and count the state of each."""
        sub = self.subs[c][s]
        warps = sorted(
            (warp for block in self.slots[c] if block for warp in block.warps if warp.number % self.schedulers == s),
            key=lambda warp: warp.number,
        )
        states = {warp: self._state(warp, sub, c, s, now) for warp in warps}
        chosen = self._choose(sub, [warp for warp in warps if states[warp] == "not_selected"])
        places = {warp: self._pc(warp) for warp in warps}
        if chosen is not None:
            states[chosen] = "selected"
        for warp in warps:
            self.stalls[places[warp], WARP_CAUSES.index(states[warp])] += 1
        if chosen is not None:
            sub.last, sub.last_number = chosen, chosen.number
            self._issue(chosen, sub, c, s, now)

    def _choose(self, sub: SubCore, ready: list[Warp]) -> Warp | None:
        """The warp that issues, of those that may; they come by number."""
        if not ready:
            return None
        if self.machine.core.scheduling.policy == "gto":
            return sub.last if sub.last in ready else min(ready, key=lambda warp: warp.age)
        return next((warp for warp in ready if warp.number > sub.last_number), ready[0])

    # May a warp issue?

    def _pc(self, warp: Warp) -> int:
        return int(self.values.warps[warp.row, at.W_PC])

    def _state(self, warp: Warp, sub: SubCore, c: int, s: int, now: int) -> str:
        """What keeps a warp from issuing; "not_selected": nothing."""
        if warp.hold:
            held = self._held(warp, now)
            if held:
                return held
        if now < warp.start:
            return "launch"
        if now < warp.go:
            return "branch"
        pc = self._pc(warp)
        ready, cause = max((warp.ready.get(row, (0, "")) for row in self.uses[pc]), default=(0, ""), key=lambda x: x[0])
        if ready > now:
            return cause
        if sub.pipe_free[int(self.code[pc, at.I_PIPE]) - FMA] > now:
            return "pipe_throttle"
        return "lsu_throttle" if self._no_room(warp, pc, c, s, now) else "not_selected"

    def _held(self, warp: Warp, now: int) -> str:
        """The cause while a warp waits at an instruction; "" when it goes on."""
        if warp.hold == "barrier" and now <= warp.released:
            return "barrier"
        if warp.hold == "membar" and warp.writes:
            return "membar"
        if warp.hold == "groups" and warp.waits(now, int(self.code[self._pc(warp), at.I_IMM])):
            return "long_scoreboard"
        self._step_past(warp)
        return ""

    def _step_past(self, warp: Warp) -> None:
        warp.hold = ""
        self.values.warps[warp.row, at.W_PC] += 1
        converge(self.values.warps, self.values.stack, warp.row)

    def _no_room(self, warp: Warp, pc: int, c: int, s: int, now: int) -> bool:
        kind, unit = int(self.code[pc, at.I_KIND]), self.units[c]
        if kind == at.COMMIT:
            return warp.under_way() >= GROUPS_UNDER_WAY
        if kind not in _ACCESSES:
            return False
        return unit.queued(s) >= self.machine.core.scheduling.queue_depth or unit.rows >= ROWS

    # What an instruction does

    def _issue(self, warp: Warp, sub: SubCore, c: int, s: int, now: int) -> None:
        pc, w = self._pc(warp), warp.row
        kind, (interval, latency) = int(self.code[pc, at.I_KIND]), self.costs[pc]
        pipe = int(self.code[pc, at.I_PIPE]) - FMA
        sub.pipe_free[pipe] = now + interval
        self.pipe_busy[c, s, pipe] += interval
        self.issued[c, s] += 1
        lanes = int(guard(self.code, pc, self.values.warps, self.values.preds, w))
        self.issues[pc] += 1, (lanes & (1 << 64) - 1).bit_count()
        if kind in (at.SCALAR_OP, at.BRANCH, at.EXIT):
            self._control(warp, pc, kind, now)
        elif kind == at.BARRIER:
            self._arrive(warp, pc)
        elif kind in (at.FENCE, at.WAIT_GROUPS):
            warp.hold = "membar" if kind == at.FENCE else "groups"
        else:
            self._execute(warp, pc, kind, lanes, c, s, now)
        for row in written_by(self.program.instrs[self.kernel.start + pc], self.code[pc]):
            if kind not in _ACCESSES and lanes:
                warp.ready[row] = now + latency, "short_scoreboard" if kind in _SHORT else "dependency"
        if kind != at.BARRIER and not warp.hold:
            converge(self.values.warps, self.values.stack, w)
        if self.values.warps[w, at.W_ACTIVE] == 0:
            self._end(warp, c, now)
        self._release(warp.block, now)

    def _control(self, warp: Warp, pc: int, kind: int, now: int) -> None:
        v, w = self.values, warp.row
        delay = True
        if kind == at.SCALAR_OP:
            following = int(scalar_step(
                self.code, pc, v.warps, v.loops, v.scalars, self.grid, self.columns or self.grid, w))  # fmt: skip
            if following < 0:
                self._refuse(warp, pc, f"status {-following}")
            v.warps[w, at.W_PC] = following
            delay = following != pc + 1
        elif kind == at.BRANCH:
            status = int(branch(self.code, pc, v.warps, v.stack, v.preds, w))
            if status != at.OK:
                self._refuse(warp, pc, f"status {status}")
        else:
            leave(self.code, pc, v.warps, v.preds, w)
        if delay:
            warp.go = now + self.machine.core.scheduling.branch_cycles

    def _arrive(self, warp: Warp, pc: int) -> None:
        v, w = self.values, warp.row
        whole = v.stack[w, 0, at.T_MASK] if v.warps[w, at.W_DEPTH] else v.warps[w, at.W_ACTIVE]
        if v.warps[w, at.W_ACTIVE] != whole & ~v.warps[w, at.W_EXITED]:
            self._refuse(warp, pc, "only part of the warp is at the barrier")
        warp.hold, warp.released = "barrier", NEVER

    def _release(self, block: Block, now: int) -> None:
        """Let the warps of a block go on when all that have not ended are at the same barrier."""
        if not block.warps or any(warp.hold != "barrier" or warp.released < NEVER for warp in block.warps):
            return
        if len({int(self.code[self._pc(warp), at.I_IMM]) for warp in block.warps}) > 1:
            return
        for warp in block.warps:
            warp.released, warp.go = now, now + self.machine.core.scheduling.branch_cycles

    def _execute(self, warp: Warp, pc: int, kind: int, lanes: int, c: int, s: int, now: int) -> None:
        v, w = self.values, warp.row
        where = np.full(64, -1, np.int64)
        if kind in _ACCESSES:
            addresses(self.code, pc, w, lanes, v.regs, v.scalars, where)
        with np.errstate(all="ignore"):
            status = int(execute(
                self.code, pc, w, lanes, v.warps, v.regs, v.scalars, v.preds, v.shared, self.memory, v.work))
        if status != at.OK:
            self._refuse(warp, pc, _REASONS.get(status, f"status {status}"))
        v.warps[w, at.W_PC] = pc + 1
        if kind == at.COMMIT:
            warp.groups.append(warp.copies)
            warp.copies = []
        if kind in (at.GLOBAL_ATOMIC, at.SHARED_ATOMIC):
            self.counters["atomic_lanes"] += (lanes & (1 << 64) - 1).bit_count()
        if kind in _ACCESSES and lanes:
            self._enqueue(warp, pc, kind, where[: v.regs.shape[2]], c, s)

    def _enqueue(self, warp: Warp, pc: int, kind: int, where: Array, c: int, s: int) -> None:
        registers = written_by(self.program.instrs[self.kernel.start + pc], self.code[pc])
        returns = bool(registers) or kind == at.ASYNC_COPY
        access = Access(warp, pc, kind, s, pieces_of(self.code, pc, where, self.machine, self.l1), returns, registers)
        for row in registers:
            warp.ready[row] = NEVER, "long_scoreboard" if kind in _LONG else "short_scoreboard"
        if kind == at.ASYNC_COPY:
            warp.copies.append(access)
        if kind == at.GLOBAL_STORE or (kind == at.GLOBAL_ATOMIC and not returns):
            warp.writes += sum(sectors.bit_count() for _, sectors in access.pieces)
        unit = self.units[c]
        unit.rows += 1
        unit.queue.append(access)

    # Blocks

    def _start_block(self, c: int, slot: int, now: int) -> None:
        if self.next_block == self.grid:
            return
        v, k = self.values, self.fit.block_warps
        block, row = Block(c, slot), c * self.fit.blocks + slot
        self.slots[c][slot] = block
        v.shared[row] = 0
        for i in range(k):
            number = slot * k + i
            w = c * self.core_warps + number
            start_warp(v.warps, w, i, self.next_block, row, self.threads, self.machine.warp_size)
            v.regs[w], v.scalars[w], v.preds[w] = 0, 0, 0
            v.scalars[w, : len(self.args)] = self.args
            block.warps.append(Warp(w, number, self.age, now + i * self.warps_spec.warp_cycles, block))
            self.age += 1
        self.next_block += 1

    def _end(self, warp: Warp, c: int, now: int) -> None:
        block = warp.block
        block.warps.remove(warp)
        if block.warps:
            return
        self.slots[c][block.slot] = None
        if self.next_block + len(self.starting) < self.grid:
            self.starting.append((now + max(1, self.warps_spec.block_cycles), c, block.slot))

    # Faults

    def _where(self, warp: Warp, pc: int) -> str:
        row, address = self.values.warps[warp.row], self.kernel.start + pc
        return (
            f"block {int(row[at.W_BLOCK])} warp {int(row[at.W_INDEX])} instruction {address} "
            f"`{instr_text(self.program, address)}`"
        )

    def _refuse(self, warp: Warp, pc: int, reason: str) -> None:
        raise SimulationError(f"launch {self.index}, {self._where(warp, pc)}: {reason}")

    def _stuck(self) -> str:
        warps = [warp for core in self.slots for block in core if block for warp in block.warps]
        return f"launch {self.index}: " + "; ".join(self._where(warp, self._pc(warp)) for warp in warps[:4])


def cost_of(record: Any, machine: SimtMachine) -> tuple[int, int]:
    """Cycles that an instruction occupies its pipe, and until its result may be used."""
    op, core = BY_CODE[int(record["op"])], machine.core
    if op.name in core.mma:
        return core.mma[op.name].interval_cycles, core.mma[op.name].latency_cycles
    own = core.operations.get(op.name)
    name = own.pipe if own is not None and own.pipe is not None else PIPE_NAMES.get(op.pipe, "uniform")
    pipe: ExecPipe = core.pipes[name]
    if own is None:
        return pipe.interval_cycles, pipe.latency_cycles
    interval = pipe.interval_cycles if own.interval_cycles is None else own.interval_cycles
    return interval, pipe.latency_cycles if own.latency_cycles is None else own.latency_cycles


def _operand(record: Any, slot: str) -> list[str]:
    """Registers of an operand: v, r and p with their numbers."""
    code, column, value = int(record["op"]), SLOTS.index(slot), int(record[slot])
    kind, width = str(KINDS[code, column]), int(LANE_WIDTH[code, column])
    if value < 0 or not kind or (kind == "s" and value >= IMMEDIATE):
        return []
    if kind == "s":
        return [f"v{value}"] if value < SCALAR_SOURCE else [f"r{value - SCALAR_SOURCE}"]
    return [f"{kind}{value + n}" for n in range(max(1, width))]


def _row(name: str) -> int:
    """A register as a number."""
    return {"v": 0, "r": 1000, "p": 2000}[name[0]] + int(name[1:])


def registers_of(record: Any, code: Array) -> list[int]:
    """Registers that an instruction reads or writes: the guard, then operands in the order of the TABLE's fields."""
    op = BY_CODE[int(record["op"])]
    found = []
    if int(record["flags"]) & GUARD:
        found.append(_row(f"p{(int(record['flags']) & GUARD_MASK) >> GUARD_SHIFT}"))
    for word in op.fields.split():
        kind = word.rstrip("?")
        if len(kind) == 2 and kind[0] in "vrps" and kind[1] in "dabc":
            found += [_row(name) for name in _operand(record, {"d": "dst"}.get(kind[1], kind[1]))]
    return found


def written_by(record: Any, code: Array) -> list[int]:
    """The registers that an instruction writes; of a cpa none."""
    fields = [word.rstrip("?") for word in BY_CODE[int(record["op"])].fields.split()]
    if not {"vd", "rd", "pd"} & set(fields) or code[at.I_KIND] == at.ASYNC_COPY:
        return []
    return [_row(name) for name in _operand(record, "dst")]


def l1_beside(machine: SimtMachine, carveout_bytes: int) -> Cache:
    """The L1 that a carveout for shared memory leaves: whole ways, at least one, at most all."""
    l1, unified = machine.core.l1, machine.core.shared.unified_bytes
    assert l1 is not None
    if unified == 0:
        return l1
    way = l1.size_bytes // l1.ways
    ways = min(l1.ways, max(1, (unified - carveout_bytes) // way))
    return l1.model_copy(update={"ways": ways, "size_bytes": ways * way})


def step_simt(program: Program, machine: SimtMachine, memory: Array) -> SimtRecord:
    """Step all launches of a small legal program on the values of `memory`, which they change.

    Raises SimulationError, DeadlockError.
    """
    started = time.process_time()
    backend, now, found = make_backend(machine), 0, []
    for index in range(len(program.launches)):
        before = backend.state.memory.summary(), backend.state.summary()
        stepper = Stepper(program, machine, memory, backend, index, now + machine.launch_cycles)
        end = stepper.run()
        after = backend.state.memory.summary(), backend.state.summary()
        found.append(LaunchRecord(
            stepper.kernel.name, stepper.grid, stepper.threads, now, end, stepper.fit, stepper.stalls, stepper.issues,
            stepper.pipe_busy, stepper.issued, {name: stepper.counters[name] for name in SIMT_COUNTERS},
            (after[0]["read_bytes"] - before[0]["read_bytes"], after[0]["write_bytes"] - before[0]["write_bytes"]),
            {name: value - before[1][name] for name, value in after[1].items()},
        ))  # fmt: skip
        now = end
    return SimtRecord(machine, program, tuple(found), now, time.process_time() - started)
