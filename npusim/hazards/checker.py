"""The hazard checker: walks every launch on addresses alone and reports what synchronisation does not order.

Per core it keeps the accesses that the sequencer does not yet know to be complete and compares each new access with
them. Cores share DRAM and host memory and meet only at barriers: between two barriers, accesses of different cores to
the same bytes are a race unless all are reads. Blocks that signal each other are a group, whose accesses to the shared
memories are compared one by one, as those of a core are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from isa.disasm import instr_text
from isa.errors import SimulationError
from isa.machine import CHIP_SPACES, Machine
from isa.params import Params, resolve
from isa.program import LAUNCH_KERNEL, SPACES, Program
from isa.table import BY_NAME, NEXT_TILE
from npusim.functional.control import Step, Walker
from npusim.functional.operand import Operand
from npusim.functional.queues import Queues, StuckError
from npusim.hazards.memory import Access, Footprint, LiveAccesses, Written
from npusim.hazards.order import CoreOrder, FlagSet
from npusim.hazards.regions import Shapes

_SET, _WAIT, _BARRIER, _FENCE, _PBAR = (BY_NAME[n].code for n in ("set", "wait", "barrier", "fence", "pbar"))
_SIGNAL = BY_NAME["signal"].code
_HELD = (_SET, _WAIT, _PBAR, _SIGNAL)  # may be in the queue of a pipe
_LDW, _MM = BY_NAME["ldw"].code, BY_NAME["mm"].code


@dataclass(frozen=True)
class Finding:
    """One fault. `instrs` are indices.

    `kind`: RAW, WAR, WAW, deadlock, ambiguous, twice, flags, bounds, uninitialised, leftover, signal.
    """

    kind: str
    message: str
    launch: int
    core: int
    instrs: tuple[int, ...]


def check_hazards(
    program: Program,
    machine: Machine,
    max_findings: int = 20,
    skip: frozenset[tuple[int, int]] = frozenset(),
    without: frozenset[int] = frozenset(),
) -> list[Finding]:
    """Return at most `max_findings` faults of a program, each pair of instructions once; an empty list is a proof.

    On machines that issue in order the hardware orders byte ranges: only bounds, reads of unwritten bytes, deadlock
    and leftover flags are checked. `skip` leaves out waits, sets and signals, as (instruction index, occurrence on its
    core from 0), `without` all occurrences of an instruction. Raises SimulationError when the control flow itself is
    broken.
    """
    check = _Check(program, machine, max_findings, skip, without)
    seen: set[tuple[int, int, bytes]] = set()
    for index, launch in enumerate(program.launches):
        if launch["kind"] != LAUNCH_KERNEL:
            check.host(program.host_ops[launch["host_op"]].outputs)
            continue
        first, size = int(launch["args"]), int(launch["nargs"]) * int(launch["grid"])
        key = (int(launch["kernel"]), int(launch["grid"]), program.args[first : first + size].tobytes())
        if key not in seen and len(check.findings) < max_findings:
            check.launch(index)
            seen.add(key)
    return check.findings[:max_findings]


class _Check:
    """State that lasts over launches: which bytes are written, and the findings."""

    def __init__(
        self, program: Program, machine: Machine, max_findings: int, skip: frozenset[tuple[int, int]],
        without: frozenset[int],
    ) -> None:  # fmt: skip
        self.program = program
        self.machine = machine
        self.params: Params = resolve(machine)
        self.walker = Walker(program, self.params)
        self.shapes = Shapes()
        self.written = Written(program, self.params)
        self.skip, self.without = skip, without
        self.limit = max_findings
        self.findings: list[Finding] = []
        self._reported: set[tuple[str, tuple[int, ...]]] = set()

    def report(self, kind: str, launch: int, core: int, instrs: tuple[int, ...], message: str) -> None:
        """Add a finding unless the same instructions were reported for the same reason."""
        if (kind, instrs) in self._reported or len(self.findings) >= self.limit:
            return
        self._reported.add((kind, instrs))
        kernel = self.program.kernels[int(self.program.launches[launch]["kernel"])].name
        text = "".join(f", instruction {pc} `{instr_text(self.program, pc)}`" for pc in instrs)
        message = f"{kind}: launch {launch}, kernel {kernel}, core {core}{text}: {message}"
        self.findings.append(Finding(kind, message, launch, core, instrs))

    def host(self, outputs: tuple[str, ...]) -> None:
        """A host operator writes its outputs."""
        for name in outputs:
            self.written.tensor(self.program.tensor(name))

    def launch(self, index: int) -> None:
        """Walk all cores of a launch from barrier to barrier."""
        launch = self.program.launches[index]
        grid, nargs, kernel = int(launch["grid"]), int(launch["nargs"]), int(launch["kernel"])
        known = 0 <= kernel < len(self.program.kernels)
        cores = self.params.cores_of(self.program.kernels[kernel]) if known else range(0)
        if not cores or grid < 1:
            available = f"there are {len(self.program.kernels)} kernels, {len(cores)} cores"
            raise SimulationError(f"launch {index}: kernel {kernel} of {grid} blocks; {available}")
        self.written.new_launch(self.machine.activation_space)

        def steps(block: int) -> Iterator[Step]:
            first = int(launch["args"]) + block * nargs
            args = [int(v) for v in self.program.args[first : first + nargs]]
            return self.walker.steps(kernel, block, grid, args, self.machine.kind_of(cores[block % len(cores)]))

        runs: list[_CoreRun] = []
        for blocks in self._groups(kernel, grid, steps):
            group = _Group(self.shapes)
            runs += [_CoreRun(self, index, block, steps(block), group, len(blocks)) for block in blocks]
        runs.sort(key=lambda run: run.core)
        for run in runs:
            run.blocks = runs
        while True:
            _advance(runs)
            self._between_cores(index, runs)
            at_barrier = [run for run in runs if run.barrier is not None]
            missing = [run for run in runs if run.barrier is None]
            if not at_barrier:
                break
            if missing:
                why = f"waits at a barrier that core {missing[0].core} never reaches"
                self.report("deadlock", index, at_barrier[0].core, (at_barrier[0].barrier or 0,), why)
                return
        for run in runs:
            run.finish()

    def _groups(self, kernel: int, grid: int, steps: Callable[[int], Iterator[Step]]) -> list[list[int]]:
        """The blocks of a launch, those together that signal each other, directly or through others."""
        code = self.program.kernels[kernel]
        if not (self.program.instrs["op"][code.start : code.end] == _SIGNAL).any():
            return [[block] for block in range(grid)]
        leader = list(range(grid))

        def find(block: int) -> int:
            while leader[block] != block:
                block = leader[block]
            return block

        for block in range(grid):
            for target in {step.amount for step in steps(block) if step.op == _SIGNAL}:
                if 0 <= target < grid:
                    leader[find(target)] = find(block)
        members: dict[int, list[int]] = {}
        for block in range(grid):
            members.setdefault(find(block), []).append(block)
        return list(members.values())

    def _between_cores(self, index: int, runs: list[_CoreRun]) -> None:
        for i, run in enumerate(runs):
            for other in (r for r in runs[i + 1 :] if r.group is not run.group):
                clash = run.footprint.clash(other.footprint)
                if clash is not None:
                    kind, space, (low, high), mine, theirs = clash
                    why = f"bytes [{low}, {high}) of {SPACES[space]} are also touched by core {other.core}"
                    self.report(kind, index, run.core, (mine, theirs), f"{why}; no barrier lies between")
        for run in runs:
            run.footprint.clear()


def _advance(runs: list[_CoreRun]) -> None:
    """Run all blocks to their next barrier, their end or a deadlock; they take turns where they wait for signals."""
    going = [run for run in runs if not run.ended]
    for run in going:
        run.barrier = None
    while going:
        moved = [run.advance() for run in going]
        if not any(moved):
            for run in going:
                run.give_up()
        going = [run for run in going if not run.ended and run.barrier is None]


class _Group:
    """Blocks that signal each other: their clocks, and what they have in flight in the chip's memories."""

    def __init__(self, shapes: Shapes) -> None:
        self.orders: list[CoreOrder] = []
        self.cores: list[int] = []
        self.live = LiveAccesses(shapes)


class _CoreRun:
    """One core in one launch, of a group of `group_size`."""

    def __init__(
        self, check: _Check, launch: int, core: int, steps: Iterator[Step], group: _Group, group_size: int
    ) -> None:  # fmt: skip
        self.check, self.launch, self.core = check, launch, core
        self.order = CoreOrder(check.params, len(group.orders), group_size)
        self.group, self.alone = group, group_size == 1
        group.orders.append(self.order)
        group.cores.append(core)
        self.blocks: list[_CoreRun] = []
        self.heard: list[deque[list[int]]] = [deque() for _ in check.params.pipes]
        self.queues = Queues(check.params)
        waits = self.order.queued or not self.alone
        self.steps = self.queues.in_order(self._kept(steps)) if waits else self._kept(steps)
        self.live = LiveAccesses(check.shapes)
        self.footprint = Footprint(check.shapes)
        self.interlocked = check.machine.issue == "inorder"
        self.shared = int(check.program.launches[launch]["grid"]) > 1
        self.occurrences: dict[int, int] = {}
        self.waiters: dict[int, Step] = {}  # by flag, the first wait for it
        self.pairs: dict[tuple[int, int], set[int]] = {}  # flags by who sets and who waits
        self.ended = False
        self.barrier: int | None = None  # the instruction at which it waits

    def advance(self) -> bool:
        """Run to the next barrier, the end, a deadlock, or where only a signal helps; True when anything was done."""
        moved = False
        try:
            for step in self.steps:
                if step is None:
                    return moved
                moved = True
                if step.op == _BARRIER:
                    self.order.drain()
                    self.barrier = step.pc
                    return True
                if self.order.queued and step.pipe > 0:
                    self.order.hear(self._global(step.pipe), self.heard[step.pipe].popleft())
                if not (self._sync(step) if step.pipe < 0 or step.op in _HELD else self._data(step)):
                    break
            else:
                self.ended = True
                return True
        except StuckError as error:
            self._stuck(error)
        self._stop()
        return True

    def give_up(self) -> None:
        """Nobody can go on: report what this block waits for."""
        self._stuck(self.queues.stuck())
        self._stop()

    def _stop(self) -> None:
        self.ended = True
        self.order.flags.clear()  # a deadlock is reported once, not again as leftovers
        self.order.pushed.clear()

    def _global(self, pipe: int) -> int:
        """The number of a pipe of this core in its group; -1 for the sequencer."""
        return pipe + self.order.base if pipe >= 0 else pipe

    def _name(self, pipe: int) -> str:
        """A pipe of the group in words."""
        place, own = divmod(max(pipe, 0), self.order.count)
        label = self.check.params.pipes[own].label
        return label if self.alone or place * self.order.count == self.order.base else (
            f"{label} of core {self.group.cores[place]}")

    def _kept(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps without what is left out; with queues, note what the sequencer knows at each."""
        for step in steps:
            if step.op in (_WAIT, _SET, _SIGNAL):
                seen = self.occurrences[step.pc] = self.occurrences.get(step.pc, -1) + 1
                if step.pc in self.check.without or (step.pc, seen) in self.check.skip:
                    continue
            if self.order.queued and step.pipe > 0:
                self.heard[step.pipe].append(self.order.sequencer)
            yield step

    def _stuck(self, error: StuckError) -> None:
        """Queues that wait for each other, or for a flag that nobody sets."""
        pipes = self.check.params.pipes
        if error.cycle:
            program = self.check.program
            ring = "; ".join(
                f"{pipes[max(wait.pipe, 0)].label} waits at {wait.pc} `{instr_text(program, wait.pc)}` "
                f"for flag {wait.imm}, which {pipes[made.pipe].label} would set at {made.pc} "
                f"`{instr_text(program, made.pc)}`"
                for wait, made in error.cycle
            )
            self._report("deadlock", tuple(wait.pc for wait, _ in error.cycle), f"{ring}: each is behind the other's")
            return
        for step in error.steps:
            if step.op == _WAIT:
                why = f"{pipes[max(step.pipe, 0)].label} waits for flag {step.imm}; {self._setters(step.imm)}"
                self._report("deadlock", (step.pc,), why)

    def finish(self) -> None:
        """The end of the launch: flags must be 0 and the weight FIFOs empty."""
        for flag, pending in self.order.flags.items():
            if pending:
                pcs = tuple(dict.fromkeys(item.pc for item in pending))
                why = f"flag {flag} is {len(pending)} when the launch ends; each set needs its wait"
                self._report("leftover", pcs[:2], why)
        for unit, tiles in self.order.pushed.items():
            if tiles:
                self._report("leftover", (), f"{len(tiles)} tiles stay in the weight FIFO of unit {unit}")

    def _report(self, kind: str, instrs: tuple[int, ...], message: str) -> None:
        self.check.report(kind, self.launch, self.core, instrs, message)

    def _sync(self, step: Step) -> bool:
        """Execute set, wait, fence; False at a deadlock."""
        if step.op == _SET:
            pending = self.order.flags.get(step.imm)
            if pending and self.order.queued:
                why = f"flag {step.imm} is set already and nobody has waited for it since: the hardware keeps one set"
                self._report("twice", (pending[-1].pc, step.pc), why)
            self.order.set_flag(self.order.proof(step.pc, self._global(step.pipe)), step.imm)
        elif step.op == _SIGNAL:
            self._signal(step)
        elif step.op == _PBAR:
            self.order.pipe_barrier(self._global(step.pipe))
        elif step.op == _FENCE:
            self.order.drain()
        else:
            return self._wait(step)
        return True

    def _signal(self, step: Step) -> None:
        if not 0 <= step.amount < len(self.blocks):
            why = f"block {step.amount} does not exist; there are {len(self.blocks)}"
            self._report("signal", (step.pc,), why)
            return
        other = self.blocks[step.amount]
        other.order.set_flag(self.order.proof(step.pc, self._global(step.pipe)), step.imm)
        other.queues.signal(step.imm)

    def _wait(self, step: Step) -> bool:
        flag, count = step.imm, step.amount
        other = self.waiters.setdefault(flag, step)
        if self.order.queued and other.pipe != step.pipe:
            names = [self.check.params.pipes[max(pipe, 0)].label for pipe in (other.pipe, step.pipe)]
            why = f"{names[0]} and {names[1]} wait for flag {flag}: either may take a set; give each a flag of its own"
            self._report("ambiguous", (other.pc, step.pc), why)
        pending = self.order.flags.get(flag, ())
        have = len(pending)
        if self.order.ambiguous(flag, count):
            why = f"flag {flag} has {have} sets from several pipes and {count} are waited for: any may be first"
            self._report("ambiguous", (step.pc, *dict.fromkeys(item.pc for item in pending)), why)
        taken = self.order.wait(self._global(step.pipe), flag, count)
        if taken is None:
            why = f"flag {flag} is {have}, {count} needed, and nothing is dispatched past this wait; "
            self._report("deadlock", (step.pc,), why + self._setters(flag))
            return False
        self._count_pairs(step, taken)
        stuck = next((item for item in taken if self.order.blocked(item)), None)
        if stuck is not None:
            why = "the set is queued behind an ldw for which the weight FIFO has no room until a later mm pops a tile"
            self._report("deadlock", (step.pc, stuck.pc), why)
        return stuck is None

    def _count_pairs(self, step: Step, taken: list[FlagSet]) -> None:
        """The hardware has so many flags from one pipe to another (core.flags_per_pair)."""
        limit = self.check.machine.core.flags_per_pair
        own = step.imm < self.check.params["flags"]
        for item in taken if limit and own else ():
            used = self.pairs.setdefault((item.pipe, step.pipe), set())
            used.add(step.imm)
            if len(used) > limit:
                names = [self._name(pipe) for pipe in (item.pipe, self._global(step.pipe))]
                why = f"{len(used)} flags from {names[0]} to {names[1]}; there are {limit} (core.flags_per_pair)"
                self._report("flags", (step.pc,), why)

    def _setters(self, flag: int) -> str:
        """Who could set a flag: instructions of the kernel, by index."""
        program = self.check.program
        kernel = program.kernels[int(program.launches[self.launch]["kernel"])]
        found = [
            pc
            for pc in range(kernel.start, kernel.end)
            if program.instrs[pc]["op"] == _SET and (program.instrs[pc]["imm"] == flag or program.instrs[pc]["a"] >= 0)
        ]
        if not found:
            return "no instruction of the kernel sets it"
        return "it can be set by " + ", ".join(f"{pc} `{instr_text(program, pc)}`" for pc in found[:4])

    def _data(self, step: Step) -> bool:
        if any(o is not None and 0 in o.ext for o in step.operands):
            self.order.dispatch(self._global(step.pipe))  # a no-op that keeps its place: it neither pushes nor pops
            return True
        if not self._fifo(step):
            return False
        number = self.order.dispatch(self._global(step.pipe))
        dst, *sources = step.operands
        for letter, operand in zip("ABC", sources):
            if operand is not None:
                self._access(step, number, operand, letter, False)
        if dst is not None:
            if step.accumulate:
                self._access(step, number, dst, "D", False)
            self._access(step, number, dst, "D", True)
        return True

    def _fifo(self, step: Step) -> bool:
        if step.op == _LDW and not self.order.push(step.unit):
            why = "the weight FIFO and its queue are full and no mm before this ldw pops a tile"
            self._report("deadlock", (step.pc,), why)
            return False
        if step.op == _MM and step.flags & NEXT_TILE and not self.order.pop(step.unit):
            self._report("deadlock", (step.pc,), f"no earlier ldw pushes a tile into the FIFO of unit {step.unit}")
            return False
        return True

    def _access(self, step: Step, number: int, operand: Operand, letter: str, write: bool) -> None:
        shape = self.check.shapes.of(operand)
        if not shape.pieces:
            return
        access = Access(operand.space, shape, operand.base, write, step.pc, self._global(step.pipe), number)
        size = self.check.written.size(operand.space)
        low, high = operand.base + shape.low, operand.base + shape.high
        if low < 0 or high > size:
            why = f"operand {letter} touches bytes [{low}, {high}) of {SPACES[operand.space]}, which has {size}"
            self._report("bounds", (step.pc,), why)
            return
        if write:
            self.check.written.mark(self.core, access)
        elif not self.check.written.covers(self.core, access):
            why = f"operand {letter} reads bytes of [{low}, {high}) of {SPACES[operand.space]} that nothing has written"
            self._report("uninitialised", (step.pc,), why)
        if not self.interlocked:
            self._conflict(access)
        if self.shared and operand.space < 2:
            self.footprint.add(access)

    def _conflict(self, access: Access) -> None:
        if self.alone or SPACES[access.space] not in CHIP_SPACES:
            clash = self.live.add(access, self.order, [self.order])
        else:
            clash = self.group.live.add(access, self.order, self.group.orders)
        if clash is None:
            return
        kind, pc, pipe, (low, high) = clash
        earlier, later = self._name(pipe), self._name(access.pipe)
        near = pipe // self.order.count == access.pipe // self.order.count
        missing = f"a {'set' if near else 'signal'} on {earlier} after {pc} and its {'wait' if near else 'await'}"
        why = (
            f"bytes [{low}, {high}) of {SPACES[access.space]}: {later} may start {access.pc} before {earlier} has "
            f"completed {pc}; missing: {missing} before {access.pc}"
        )
        self._report(kind, (pc, access.pc), why)
