"""Step a program cycle by cycle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import DeadlockError, SimulationError
from isa.params import Params
from isa.program import LAUNCH_KERNEL, Program
from isa.table import DMA
from npusim.record import CAUSE_ID, CAUSES
from npusim.stepper.core import Core
from npusim.stepper.memory import Port

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stepped:
    """The same counters as npusim.record.Record, with the same shapes; `events` are sorted rows of its EVENT fields."""

    total_cycles: int
    states: Array
    launch_span: Array
    path_bytes: Array
    dram_bytes: Array
    macs: Array
    issued: Array
    events: list[tuple[int, int, int, int, int, int]]


def step(program: Program, params: Params, max_cycles: int = 1_000_000) -> Stepped:
    """Run a small legal program; raises DeadlockError or SimulationError, the latter also after `max_cycles`."""
    launches, cores, pipes = len(program.launches), params["cores"], len(params.pipes)
    result = Stepped(
        0, np.zeros((launches, cores, pipes, len(CAUSES)), np.int64), np.zeros((launches, 2), np.int64),
        np.zeros((launches, len(params.paths)), np.int64), np.zeros((launches, 2), np.int64),
        np.zeros(launches, np.int64), np.zeros((launches, 8), np.int64), [],
    )  # fmt: skip
    port, now, gap = Port(params.machine), 0, params.machine.launch_cycles
    for index, launch in enumerate(program.launches):
        result.launch_span[index, 0] = now
        result.states[index, :, :, CAUSE_ID["launch"]] = gap
        now += gap
        if int(launch["kind"]) != LAUNCH_KERNEL:
            result.states[index, :, :, CAUSE_ID["host"]] = int(launch["cycles"])
            now += int(launch["cycles"])
        else:
            moved = port.moved_bytes()
            now = _launch(program, params, index, now, port, result, max_cycles)
            result.dram_bytes[index] = np.subtract(port.moved_bytes(), moved)
        result.launch_span[index, 1] = now
    result.events.sort()
    result.states[...] *= params.present[:, :, None]
    return Stepped(now, *list(vars(result).values())[1:])


def _cores(program: Program, params: Params, launch: Any) -> list[Core]:
    kernel, blocks = program.kernels[int(launch["kernel"])], int(launch["grid"])
    usable = params.cores_of(kernel)
    cores = []
    for number in range(params["cores"]):
        kind = params.machine.kind_of(usable[number]) if number < len(usable) else 0
        cores.append(Core(program, params, number, kind, kernel.start, blocks))
    for core in cores:
        core.peers = cores
    return cores


class _Blocks:
    """The blocks of a launch that no core has taken yet."""

    def __init__(self, program: Program, params: Params, launch: Any) -> None:
        grid, nargs, first = (int(launch[name]) for name in ("grid", "nargs", "args"))
        self._cores = len(params.cores_of(program.kernels[int(launch["kernel"])]))
        self._gap = params.machine.block_cycles
        args = [int(x) for x in program.args[first : first + grid * nargs]]
        self.left = deque((i, args[i * nargs : (i + 1) * nargs]) for i in range(grid))

    def start(self, cores: list[Core]) -> None:
        """The first blocks are on their cores when the launch begins."""
        for core in cores[: self._cores]:
            if self.left:
                core.sequencer.begin(*self.left.popleft(), 0)
                core.sequencer.cause = "busy"

    def hand_out(self, cores: list[Core], now: int) -> bool:
        """Give blocks to cores that have ended theirs; True when any was left for one."""
        given = False
        for core in cores[: self._cores]:
            if self.left and core.finished:
                core.sequencer.begin(*self.left.popleft(), now + self._gap)
                core.sequencer.cause = "launch"
                given = True
        return given


def _launch(
    program: Program, params: Params, index: int, now: int, port: Port, result: Stepped, max_cycles: int
) -> int:
    """Step one launch from cycle `now` to its end, which is returned."""
    cores = _cores(program, params, program.launches[index])
    blocks = _Blocks(program, params, program.launches[index])
    blocks.start(cores)
    for _ in range(max_cycles):
        for (core, pipe, job), waited in port.answers(now):
            core.hold_readers(job, now)
            pipe.answered(job, waited, now)
        while any([core.settle(now, port) for core in cores]) | _release_barrier(cores, now):
            pass
        while blocks.hand_out(cores, now):
            any([core.settle(now, port) for core in cores])
        if all(core.finished for core in cores):
            first = params.cores_of(program.kernels[int(program.launches[index]["kernel"])]).start
            _collect(params, index, cores, result, first)
            end = _written(params, port, now, result.states[index])
            result.states[index] = np.roll(result.states[index], first, axis=0)
            return end
        for c, core in enumerate(cores):
            for p, pipe in enumerate(core.pipes):
                cause = core.sequencer.cause
                state = cause if p == 0 else pipe.state(now, cause)
                result.states[index, c, p, CAUSE_ID[state]] += 1
        if _stuck(cores, now):
            raise DeadlockError(f"launch {index}, cycle {now}: no core can go on")
        now += 1
    raise SimulationError(f"launch {index} has not ended after {max_cycles} cycles")


def _written(params: Params, port: Port, now: int, states: Array) -> int:
    """The end of a launch whose cores have ended at `now`: when its writes are in memory."""
    end = max(now, port.flushed(now))
    for pipe in params.pipes:
        for core_states in states[:, pipe.index]:
            moved = pipe.pipe_class >= DMA and core_states[CAUSE_ID["busy"]] > 0
            core_states[CAUSE_ID["memory_bandwidth" if moved else "drained"]] += end - now
    return end


def _release_barrier(cores: list[Core], now: int) -> bool:
    waiting = [core.sequencer for core in cores if core.sequencer.at_barrier]
    if not waiting or not all(core.sequencer.at_barrier or core.finished for core in cores):
        return False
    for sequencer in waiting:
        sequencer.at_barrier = False
        sequencer.next_cycle = max(sequencer.next_cycle, now)
    return True


def _stuck(cores: list[Core], now: int) -> bool:
    """True when nothing will ever change: no pipe or sequencer is at work, nothing is under way."""
    for core in cores:
        sequencer = core.sequencer
        if (sequencer.next_cycle > now and not sequencer.halted) or core.signals:
            return False
        if any(pipe.flight or pipe.busy_until > now for pipe in core.pipes):
            return False
        if any((array.shadow_ready or 0) > now for array in core.arrays):
            return False
    return True


def _collect(params: Params, index: int, cores: list[Core], result: Stepped, first: int) -> None:
    for c, core in enumerate(cores):
        for path, size in core.path_bytes.items():
            result.path_bytes[index, path] += size
        for pipe_class, count in core.completed.items():
            result.issued[index, pipe_class] += count
        result.issued[index, 0] += core.sequencer.issued
        result.macs[index] += core.rows * params["rows"] * params["cols"]
        result.events.extend((start, end, first + c, pipe, index, pc) for start, end, pipe, pc in core.events)
        core.sequencer.flags.update(flag for _, flag in core.signals)
        flags = {flag: count for flag, count in core.sequencer.flags.items() if count}
        if (params["vliw"] or params["queues"]) and flags:
            raise SimulationError(f"launch {index}: core {c} leaves flags {flags}")
