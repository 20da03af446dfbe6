"""Execute a program for its values: launches in order, the cores of a launch one after another.

Synchronisation is not modelled: npusim.hazards proves that program order and any legal order give the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import instr_text
from isa.errors import SimulationError
from isa.machine import Machine
from isa.params import resolve
from isa.program import LAUNCH_KERNEL, HostOp, Program, Tensor
from isa.table import BY_CODE, SYNC
from npusim.functional.control import Step, Walker
from npusim.functional.instructions import MEANING
from npusim.functional.machine_state import CoreState, State
from npusim.functional.queues import Queues

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
        if not 1 <= grid <= len(cores):
            available = f"there are {len(self.program.kernels)} kernels, {len(cores)} cores"
            raise SimulationError(f"launch {index}: kernel {kernel} on {grid} cores; {available}")
        count = macs = 0
        for core in range(grid):
            first = int(launch["args"]) + core * nargs
            args = [int(v) for v in self.program.args[first : first + nargs]]
            done, products = self._core(index, kernel, core, grid, args, self.state.cores[cores[core]])
            count, macs = count + done, macs + products
        return LaunchWork(count, macs, dict(self.state.read_bytes), dict(self.state.written_bytes))

    def _core(self, index: int, kernel: int, core: int, grid: int, args: list[int], own: CoreState) -> tuple[int, int]:
        own.fifo.clear()
        own.tile.clear()
        count = macs = 0
        steps = self.walker.steps(kernel, core, grid, args)
        for step in Queues(self.params).in_order(steps) if self.params["queues"] else steps:
            if self.observer is not None:
                self.observer(index, core, step)
            op = BY_CODE[step.op]
            if op.pipe == SYNC:
                continue
            count += 1
            if any(o is not None and 0 in o.ext for o in step.operands):
                continue
            try:
                macs += MEANING[op.name](self.state, own, step)
            except SimulationError as error:
                raise SimulationError(
                    f"launch {index}, kernel {self.program.kernels[kernel].name}, core {core}, instruction {step.pc} "
                    f"`{instr_text(self.program, step.pc)}`: {error}"
                ) from None
        return count, macs

    def _host(self, work: HostOp) -> None:
        tensors = [_known(self.program, name) for name in work.inputs]
        results = self.host_op(work, [(t, self.state.tensor(t)) for t in tensors])
        if len(results) != len(work.outputs):
            raise SimulationError(f"host operator {work.node_names} gave {len(results)} of {len(work.outputs)} outputs")
        for name, values in zip(work.outputs, results):
            self.state.put(_known(self.program, name), values)
