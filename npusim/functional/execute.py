"""Execute a program for its values: launches in order, the blocks of a launch one after another.

Blocks take turns only where they must: at barriers, and where one waits for a signal of another. Other synchronisation
is not modelled: npusim.hazards proves that program order and any legal order give the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import instr_text
from isa.errors import DeadlockError, SimulationError
from isa.machine import Machine
from isa.params import resolve
from isa.program import LAUNCH_KERNEL, SPACES, HostOp, Program, Tensor
from isa.table import BY_CODE, SYNC
from isa.table import code as opcode
from npusim.functional.control import Step, Walker
from npusim.functional.instructions import MEANING
from npusim.functional.machine_state import CoreState, State
from npusim.functional.queues import SIGNAL, Queues

BARRIER = opcode("barrier")
Array = npt.NDArray[Any]
HostFunction = Callable[[HostOp, list[tuple[Tensor, Array]]], list[Array]]
Observer = Callable[[int, int, Step], None]  # launch, core, instruction (before it executes)


@dataclass(frozen=True)
class LaunchWork:
    """What the instructions of one launch did: data instructions, MACs, bytes read and written by space."""

    instructions: int
    macs: int
    read_bytes: Mapping[str, int]
    written_bytes: Mapping[str, int]


@dataclass(frozen=True)
class Values:
    """Tensors by name after the run, in storage type and shape, and the work of each launch."""

    tensors: dict[str, Array]
    launches: tuple[LaunchWork, ...]


def execute(
    program: Program,
    machine: Machine,
    initial: Mapping[str, Array],
    host_op: HostFunction,
    keep: Callable[[Tensor], bool] | None = None,
    observer: Observer | None = None,
) -> Values:
    """Run `program` and return the tensors for which `keep` is true (default: role output).

    `initial` holds the tensors of role input and weight in storage form. `host_op` computes an operator left to the
    host from (Tensor, stored values) pairs and returns stored values. A kept tensor is copied right after the launch
    whose operator outputs it, because its address may be used again. Raises SimulationError on any illegal access.
    """
    run = _Run(program, machine, host_op, observer)
    for name, values in initial.items():
        run.state.put(_known(program, name), values)
    wanted = [t for t in program.tensors if (keep(t) if keep else t.role == "output")]
    found: dict[str, Array] = {}
    works = []
    with np.errstate(all="ignore"):
        for index in range(len(program.launches)):
            works.append(run.launch(index))
            outputs = run.outputs(index)
            found.update({t.name: run.state.tensor(t).copy() for t in wanted if t.name in outputs})
    found.update({t.name: run.state.tensor(t).copy() for t in wanted if t.name not in found})
    return Values(found, tuple(works))


def _known(program: Program, name: str) -> Tensor:
    try:
        return program.tensor(name)
    except KeyError:
        raise SimulationError(f"initial value {name!r} names no tensor of program {program.name}") from None


class _Run:
    """One execution: state, control slice, and the launch that is running."""

    def __init__(self, program: Program, machine: Machine, host_op: HostFunction, observer: Observer | None) -> None:
        self.program = program
        self.params = resolve(machine)
        self.state = State(program, self.params)
        self.walker = Walker(program, self.params)
        self.host_op = host_op
        self.observer = observer

    def outputs(self, index: int) -> set[str]:
        """Names of the tensors that a launch completes."""
        launch = self.program.launches[index]
        names: set[str] = set()
        if 0 <= launch["operator"] < len(self.program.operators):
            names |= set(self.program.operators[launch["operator"]].outputs)
        if launch["kind"] != LAUNCH_KERNEL:
            names |= set(self.program.host_ops[launch["host_op"]].outputs)
        return names

    def launch(self, index: int) -> LaunchWork:
        """Run one launch to its end."""
        launch = self.program.launches[index]
        self.state.read_bytes.clear()
        self.state.written_bytes.clear()
        if launch["kind"] != LAUNCH_KERNEL:
            self._host(self.program.host_ops[launch["host_op"]])
            return LaunchWork(0, 0, {}, {})
        kernel, grid, nargs = int(launch["kernel"]), int(launch["grid"]), int(launch["nargs"])
        known = 0 <= kernel < len(self.program.kernels)
        cores = self.params.cores_of(self.program.kernels[kernel]) if known else range(0)
        if not cores or grid < 1:
            available = f"there are {len(self.program.kernels)} kernels, {len(cores)} cores"
            raise SimulationError(f"launch {index}: kernel {kernel} of {grid} blocks; {available}")
        declared = self.program.declared_bytes(self.program.kernels[kernel])
        limits = {SPACES.index(space): size for space, size in declared.items()}
        for core in cores:
            self.state.cores[core].declared_bytes = limits
        blocks: list[_Block] = []
        for number in range(grid):
            first, core = int(launch["args"]) + number * nargs, cores[number % len(cores)]
            args = [int(v) for v in self.program.args[first : first + nargs]]
            kind = self.params.machine.kind_of(core)
            steps = self.walker.steps(kernel, number, grid, args, kind)
            blocks.append(_Block(self, index, number, blocks, self.state.cores[core], steps))
        _take_turns(index, list(blocks))
        count, macs = sum(b.count for b in blocks), sum(b.macs for b in blocks)
        return LaunchWork(count, macs, dict(self.state.read_bytes), dict(self.state.written_bytes))

    def _host(self, work: HostOp) -> None:
        tensors = [_known(self.program, name) for name in work.inputs]
        results = self.host_op(work, [(t, self.state.tensor(t)) for t in tensors])
        if len(results) != len(work.outputs):
            raise SimulationError(f"host operator {work.node_names} gave {len(results)} of {len(work.outputs)} outputs")
        for name, values in zip(work.outputs, results):
            self.state.put(_known(self.program, name), values)


class _Block:
    """A block of a launch, as far as it has come."""

    def __init__(
        self, run: _Run, launch: int, number: int, blocks: list[_Block], own: CoreState, steps: Iterator[Step]
    ) -> None:
        self.run, self.launch, self.number, self.blocks, self.own = run, launch, number, blocks, own
        self.queues = Queues(run.params)
        modelled = run.params["queues"] or run.params["cross_flags"]
        self.steps: Iterator[Step | None] = self.queues.in_order(steps) if modelled else steps
        self.count = self.macs = 0
        self.begun = self.ended = self.at_barrier = False

    def advance(self) -> bool:
        """Go on to the end, to a barrier, or to where only a signal can help; True when anything was done."""
        if not self.begun:
            self.own.fifo.clear()
            self.own.tile.clear()
            self.begun = True
        moved = False
        for step in self.steps:
            if step is None:
                return moved
            moved = True
            self._execute(step)
            if step.op == BARRIER:
                self.at_barrier = True
                return True
        self.ended = True
        return True

    def _execute(self, step: Step) -> None:
        run = self.run
        if run.observer is not None:
            run.observer(self.launch, self.number, step)
        op = BY_CODE[step.op]
        try:
            if step.op == SIGNAL:
                if not 0 <= step.amount < len(self.blocks):
                    raise SimulationError(f"block {step.amount} does not exist; there are {len(self.blocks)}")
                self.blocks[step.amount].queues.signal(step.imm)
            if op.pipe == SYNC:
                return
            self.count += 1
            if not any(o is not None and 0 in o.ext for o in step.operands):
                self.macs += MEANING[op.name](run.state, self.own, step)
        except SimulationError as error:
            kernel = run.program.kernels[int(run.program.launches[self.launch]["kernel"])].name
            raise SimulationError(
                f"launch {self.launch}, kernel {kernel}, core {self.number}, instruction {step.pc} "
                f"`{instr_text(run.program, step.pc)}`: {error}"
            ) from None


def _take_turns(launch: int, blocks: list[_Block]) -> None:
    """Let blocks go on in turn until all have ended; raises DeadlockError when none can."""
    while blocks:
        moved = False
        for block in blocks:
            moved = (not block.at_barrier and block.advance()) or moved
        blocks = [block for block in blocks if not block.ended]
        if all(block.at_barrier for block in blocks):
            for block in blocks:
                block.at_barrier = False
        elif not moved:
            held = next(block for block in blocks if not block.at_barrier)
            lost = [f"core {b.number}: {why}" for b in blocks if (why := b.queues.lost(len(b.blocks)))]
            more = "".join(f"; behind it, {why}" for why in lost[:4])
            raise DeadlockError(f"launch {launch}, core {held.number}: {held.queues.stuck()}{more}")
