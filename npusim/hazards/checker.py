"""The hazard checker: walks every launch on addresses alone and reports what synchronisation does not order.

Per core it keeps the accesses that the sequencer does not yet know to be complete and compares each new access with
them. Cores share DRAM and host memory and meet only at barriers: between two barriers, accesses of different cores to
the same bytes are a race unless all are reads. Blocks that signal each other are a group, whose accesses to the shared
memories are compared one by one, as those of a core are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from isa.disasm import instr_text
from isa.errors import SimulationError
from isa.machine import CHIP_SPACES, Machine
from isa.params import Params, resolve
from isa.program import LAUNCH_KERNEL, SPACES, Program
from isa.table import BY_NAME
from npusim.functional.control import Step, Walker
from npusim.functional.operand import undeclared
from npusim.functional.queues import StuckError
from npusim.hazards.core import BARRIER, SIGNAL, CoreRun, kept
from npusim.hazards.groups import GroupProver
from npusim.hazards.induction import Prover
from npusim.hazards.memory import Access, Clash, Footprint, LiveAccesses, Written, meeting
from npusim.hazards.order import CoreOrder
from npusim.hazards.regions import Shapes

_AWAIT = BY_NAME["await"].code


@dataclass(frozen=True)
class Finding:
    """One fault. `instrs` are indices.

    `kind`: RAW, WAR, WAW, deadlock, ambiguous, twice, flags, core, bounds, uninitialised, leftover, signal.
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
    induction: bool = True,
) -> list[Finding]:
    """Return at most `max_findings` faults of a program, each pair of instructions once; an empty list is a proof.

    On machines that issue in order the hardware orders byte ranges: only bounds, reads of unwritten bytes, deadlock
    and leftover flags are checked. `skip` leaves out waits, sets and signals, as (instruction index, occurrence on its
    core from 0), `without` all occurrences of an instruction. Without `induction` every launch is walked: slower, and
    the same findings. Raises SimulationError when the control flow itself is broken.
    """
    check = _Check(program, machine, max_findings, skip, without, induction)
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
        without: frozenset[int], induction: bool,
    ) -> None:  # fmt: skip
        self.program = program
        self.machine = machine
        self.params: Params = resolve(machine)
        self.walker = Walker(program, self.params)
        self.shapes = Shapes()
        self.written = Written(program, self.params)
        self.skip, self.without = skip, without
        self.prover = Prover(program, self.params, self.shapes, self.written) if induction else None
        self.group_prover = GroupProver(self.prover) if self.prover else None
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
        """Prove a launch, or walk all its blocks from barrier to barrier."""
        launch = self.program.launches[index]
        grid, kernel = int(launch["grid"]), int(launch["kernel"])
        known = 0 <= kernel < len(self.program.kernels)
        cores = self.params.cores_of(self.program.kernels[kernel]) if known else range(0)
        if not cores or grid < 1:
            available = f"there are {len(self.program.kernels)} kernels, {len(cores)} cores"
            raise SimulationError(f"launch {index}: kernel {kernel} of {grid} blocks; {available}")
        self.written.new_launch(self.machine.activation_space)
        users = self.walker.pipes(kernel)
        if self._proved(index, kernel, users, grid):
            return
        if not self._uses(kernel, SIGNAL, _AWAIT, BARRIER):
            self._walk_apart(index, users, grid)
            return
        runs: list[_WalkedCore] = []
        for blocks in self._groups(index):
            group = _Group(self.shapes, blocks)
            runs += [_WalkedCore(self, index, block, users, self._kept(index, block), group) for block in blocks]
        runs.sort(key=lambda run: run.core)
        for run in runs:
            run.blocks = runs
        self._walk(index, runs)

    def _proved(self, index: int, kernel: int, users: frozenset[int], grid: int) -> bool:
        if self.prover is None or self.group_prover is None:
            return False
        if not self._uses(kernel, SIGNAL, _AWAIT):
            return self.prover.launch(kernel, users, [self._kept(index, block) for block in range(grid)])
        return self.group_prover.launch(kernel, users, [partial(self._kept, index, block) for block in range(grid)])

    def _walk_apart(self, index: int, users: frozenset[int], grid: int) -> None:
        """Walk blocks that never wait for each other one after another; only what they did to shared memory is kept."""
        done: list[Footprint] = []
        for block in range(grid):
            run = _WalkedCore(self, index, block, users, self._kept(index, block), _Group(self.shapes, [block]))
            _advance([run])
            run.finish()
            self.written.leave(block, self.machine.activation_space)
            done.append(run.footprint)
        self._between_cores(index, list(range(grid)), list(range(grid)), done)

    def _uses(self, kernel: int, *codes: int) -> bool:
        """Whether a kernel has one of some instructions."""
        code = self.program.kernels[kernel]
        return bool(np.isin(self.program.instrs["op"][code.start : code.end], codes).any())

    def _steps(self, index: int, block: int) -> Iterator[Step]:
        """What the sequencer of a core hands out for a block of a launch."""
        launch = self.program.launches[index]
        grid, nargs, kernel = int(launch["grid"]), int(launch["nargs"]), int(launch["kernel"])
        first = int(launch["args"]) + block * nargs
        args = [int(v) for v in self.program.args[first : first + nargs]]
        cores = self.params.cores_of(self.program.kernels[kernel])
        return self.walker.steps(kernel, block, grid, args, self.machine.kind_of(cores[block % len(cores)]))

    def _kept(self, index: int, block: int) -> Iterator[Step]:
        steps = kept(self._steps(index, block), self.skip, self.without)
        cores = self.params.cores_of(self.program.kernels[int(self.program.launches[index]["kernel"])])
        one_kind = self.machine.kind_of(cores[0]) == self.machine.kind_of(cores[-1])
        return steps if one_kind else self._placed(index, cores[block % len(cores)], steps)

    def _placed(self, index: int, core: int, steps: Iterator[Step]) -> Iterator[Step]:
        """The same instructions; those that the core has no pipe for are reported."""
        lacking = {pipe.index for pipe in self.params.pipes if not self.params.present[core, pipe.index]}
        for step in steps:
            if step.pipe in lacking:
                kinds = [name for name in self.machine.other_cores]
                which = "the chip's `cores`" if (kind := self.machine.kind_of(core)) == 0 else f"`{kinds[kind - 1]}`"
                why = f"core {core}, one of {which}, has no {self.params.pipes[step.pipe].label}; a kernel for several "
                why += "kinds of cores learns by csr 2 which it runs on, and branches"
                self.report("core", index, core, (step.pc,), why)
            yield step

    def _groups(self, index: int) -> list[list[int]]:
        """The blocks of a launch, those together that signal each other, directly or through others."""
        grid = int(self.program.launches[index]["grid"])
        if not self._uses(int(self.program.launches[index]["kernel"]), SIGNAL):
            return [[block] for block in range(grid)]
        leader = list(range(grid))

        def find(block: int) -> int:
            while leader[block] != block:
                block = leader[block]
            return block

        for block in range(grid):
            for target in {step.amount for step in self._steps(index, block) if step.op == SIGNAL}:
                if 0 <= target < grid:
                    leader[find(target)] = find(block)
        members: dict[int, list[int]] = {}
        for block in range(grid):
            members.setdefault(find(block), []).append(block)
        return list(members.values())

    def _walk(self, index: int, runs: list[_WalkedCore]) -> None:
        while True:
            _advance(runs)
            cores, groups = [run.core for run in runs], [run.group.blocks[0] for run in runs]
            self._between_cores(index, cores, groups, [run.footprint for run in runs])
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

    def _between_cores(self, index: int, cores: list[int], groups: list[int], done: list[Footprint]) -> None:
        """Compare what cores of different groups did to shared memory since the last barrier."""
        for i, j in meeting(done, groups):
            clash = done[i].clash(done[j])
            if clash is not None:
                kind, space, (low, high), mine, theirs = clash
                why = f"bytes [{low}, {high}) of {SPACES[space]} are also touched by core {cores[j]}"
                self.report(kind, index, cores[i], (mine, theirs), f"{why}; no barrier lies between")
        for footprint in done:
            footprint.clear()


def _advance(runs: list[_WalkedCore]) -> None:
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

    def __init__(self, shapes: Shapes, blocks: list[int]) -> None:
        self.blocks = blocks
        self.orders: list[CoreOrder] = []
        self.live = LiveAccesses(shapes)


class _WalkedCore(CoreRun):
    """One block of a launch, walked instruction by instruction; blocks of a group are made in order."""

    def __init__(
        self, check: _Check, launch: int, core: int, users: frozenset[int], steps: Iterator[Step], group: _Group
    ) -> None:  # fmt: skip
        row, place, size = check.program.launches[launch], len(group.orders), len(group.blocks)
        super().__init__(check.program, int(row["kernel"]), check.params, check.shapes, users, place, size)
        group.orders.append(self.order)
        self.check, self.launch, self.core, self.group = check, launch, core, group
        self.alone = size == 1
        self.blocks: list[_WalkedCore] = []  # of the launch
        self.steps = self._in_turn(steps) if self.order.queued or not self.alone else steps
        self.footprint = Footprint(check.shapes)
        self.shared = int(row["grid"]) > 1
        self.ended = False
        self.barrier: int | None = None  # the instruction at which it waits

    def _in_turn(self, steps: Iterator[Step]) -> Iterator[Step | None]:
        """Instructions when they may execute; None where only a signal helps."""
        for step in steps:
            yield from self.hand(step)
        yield from self.queues.end()

    def advance(self) -> bool:
        """Run to the next barrier, the end, a deadlock, or where only a signal helps; True when anything was done."""
        moved = False
        try:
            for step in self.steps:
                if step is None:
                    return moved
                moved = True
                if not self.execute(step):
                    break
                if step.op == BARRIER:
                    self.barrier = step.pc
                    return True
            else:
                self.ended = True
                return True
        except StuckError as error:
            self.stuck(error)
        self._stop()
        return True

    def give_up(self) -> None:
        """Nobody can go on: report what this block waits for."""
        self.stuck(self.queues.stuck())
        self._stop()

    def _stop(self) -> None:
        self.ended = True
        for step in self.queues.steps(SIGNAL):  # a deadlock must not hide who would never be reached
            self._target(step)
        self.order.flags.clear()  # a deadlock is reported once, not again as leftovers
        self.order.pushed.clear()

    def name(self, pipe: int) -> str:
        """A pipe of the group in words."""
        place, own = divmod(max(pipe, 0), self.order.count)
        label = super().name(own)
        return label if place * self.order.count == self.order.base else f"{label} of core {self.group.blocks[place]}"

    def signal(self, step: Step) -> None:
        """A flag of a block of the group is raised."""
        other = self._target(step)
        if other is None:
            return
        other.raised(self.order.proof(step.pc, step.pipe), step.imm)
        other.queues.signal(step.imm)

    def _target(self, step: Step) -> _WalkedCore | None:
        """The block that a signal goes to; one that does not exist is a fault."""
        if 0 <= step.amount < len(self.blocks):
            return self.blocks[step.amount]
        self.report("signal", (step.pc,), f"block {step.amount} does not exist; there are {len(self.blocks)}")
        return None

    def record(self, access: Access) -> Clash | None:
        """Accesses to the chip's memories are the group's."""
        if self.alone or SPACES[access.space] not in CHIP_SPACES:
            return self.live.add(access, self.order)
        return self.group.live.add(access, self.order, self.group.orders)

    def report(self, kind: str, instrs: tuple[int, ...], message: str) -> None:
        """A fault becomes a finding."""
        self.check.report(kind, self.launch, self.core, instrs, message)

    def touch(self, access: Access, letter: str) -> bool:
        """Bounds and values are checked at once, other cores at the next barrier."""
        written, space = self.check.written, access.space
        low, high = access.base + access.shape.low, access.base + access.shape.high
        if low < 0 or high > written.size(space):
            why = f"operand {letter} touches bytes [{low}, {high}) of {SPACES[space]}, which has {written.size(space)}"
            self.report("bounds", (access.pc,), why)
            return False
        if high > self.declared.get(space, high):
            why = f"operand {letter} {undeclared(space, low, high, self.declared[space])}"
            self.report("bounds", (access.pc,), why)
        if access.write:
            written.mark(self.core, access)
        elif not written.covers(self.core, access):
            why = f"operand {letter} reads bytes of [{low}, {high}) of {SPACES[space]} that nothing has written"
            self.report("uninitialised", (access.pc,), why)
        if self.shared and SPACES[space] in CHIP_SPACES:
            self.footprint.add(access)
        return True
