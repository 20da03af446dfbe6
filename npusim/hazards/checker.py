"""The hazard checker: walks every launch on addresses alone and reports what synchronisation does not order.

Per core it keeps the accesses that the sequencer does not yet know to be complete and compares each new access with
them. Cores share DRAM and host memory and meet only at barriers: between two barriers, accesses of different cores to
the same bytes are a race unless all are reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isa.disasm import instr_text
from isa.errors import SimulationError
from isa.machine import CHIP_SPACES, Machine
from isa.params import Params, resolve
from isa.program import LAUNCH_KERNEL, SPACES, Program
from npusim.functional.control import Step, Walker
from npusim.hazards.core import BARRIER, CoreRun, kept
from npusim.hazards.induction import Prover
from npusim.hazards.memory import Access, Footprint, Written
from npusim.hazards.regions import Shapes


@dataclass(frozen=True)
class Finding:
    """One fault. `instrs` are indices.

    `kind`: RAW, WAR, WAW, deadlock, ambiguous, twice, flags, bounds, uninitialised, leftover.
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
    and leftover flags are checked. `skip` leaves out waits and sets, as (instruction index, occurrence on its core from
    0), `without` all occurrences of an instruction. Without `induction` every launch is walked: slower, and the same
    findings. Raises SimulationError when the control flow itself is broken.
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
        """Prove a launch, or walk all its cores from barrier to barrier."""
        launch = self.program.launches[index]
        grid, kernel = int(launch["grid"]), int(launch["kernel"])
        known = 0 <= kernel < len(self.program.kernels)
        cores = len(self.params.cores_of(self.program.kernels[kernel])) if known else 0
        if not 1 <= grid <= cores:
            available = f"there are {len(self.program.kernels)} kernels, {cores} cores"
            raise SimulationError(f"launch {index}: kernel {kernel} on {grid} cores; {available}")
        self.written.new_launch(self.machine.activation_space)
        users = self.walker.pipes(kernel)
        if self.prover and self.prover.launch(kernel, users, [self._steps(index, core) for core in range(grid)]):
            return
        self._walk(index, [_WalkedCore(self, index, core, users, self._steps(index, core)) for core in range(grid)])

    def _steps(self, index: int, core: int) -> Iterator[Step]:
        """What the sequencer of a core hands out in a launch."""
        launch = self.program.launches[index]
        grid, nargs, first = int(launch["grid"]), int(launch["nargs"]), int(launch["args"])
        args = [int(v) for v in self.program.args[first + core * nargs : first + (core + 1) * nargs]]
        return kept(self.walker.steps(int(launch["kernel"]), core, grid, args), self.skip, self.without)

    def _walk(self, index: int, runs: list[_WalkedCore]) -> None:
        while True:
            at_barrier = [run.advance() for run in runs]
            self._between_cores(index, runs)
            if not any(pc is not None for pc in at_barrier):
                break
            missing = [core for core, pc in enumerate(at_barrier) if pc is None]
            if missing:
                stuck = next((core, pc) for core, pc in enumerate(at_barrier) if pc is not None)
                why = f"waits at a barrier that core {missing[0]} never reaches"
                self.report("deadlock", index, stuck[0], (stuck[1],), why)
                return
        for run in runs:
            run.finish()

    def _between_cores(self, index: int, runs: list[_WalkedCore]) -> None:
        for i, run in enumerate(runs):
            for other in runs[i + 1 :]:
                clash = run.footprint.clash(other.footprint)
                if clash is not None:
                    kind, space, (low, high), mine, theirs = clash
                    why = f"bytes [{low}, {high}) of {SPACES[space]} are also touched by core {other.core}"
                    self.report(kind, index, run.core, (mine, theirs), f"{why}; no barrier lies between")
        for run in runs:
            run.footprint.clear()


class _WalkedCore(CoreRun):
    """One core in one launch, walked instruction by instruction."""

    def __init__(self, check: _Check, launch: int, core: int, users: frozenset[int], steps: Iterator[Step]) -> None:
        row = check.program.launches[launch]
        super().__init__(check.program, int(row["kernel"]), check.params, check.shapes, users)
        self.check, self.launch, self.core = check, launch, core
        self.steps = steps
        self.footprint = Footprint(check.shapes)
        self.shared = int(row["grid"]) > 1
        self.ended = False

    def advance(self) -> int | None:
        """Run to the next barrier and return its index; None at the end of the kernel or at a deadlock."""
        if self.ended:
            return None
        for step in self.steps:
            if not self.offer(step):
                break
            if step.op == BARRIER:
                return step.pc
        else:
            self.ended = True
            if self.end():
                return None
        self.ended = True
        self.order.flags.clear()  # a deadlock is reported once, not again as leftovers
        self.order.pushed.clear()
        return None

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
        if access.write:
            written.mark(self.core, access)
        elif not written.covers(self.core, access):
            why = f"operand {letter} reads bytes of [{low}, {high}) of {SPACES[space]} that nothing has written"
            self.report("uninitialised", (access.pc,), why)
        if self.shared and SPACES[space] in CHIP_SPACES:
            self.footprint.add(access)
        return True
