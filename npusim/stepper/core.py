"""One core in one cycle: completions, tiles, starts, requests, then the sequencer; again until nothing changes."""

from __future__ import annotations

from collections import Counter, deque
from fractions import Fraction
from math import ceil

from isa.params import MAX_SETS, Params, Pipe
from isa.program import SPACES, Program
from isa.table import DMA, MATRIX, WEIGHTS
from npusim.stepper.job import Job
from npusim.stepper.memory import Port
from npusim.stepper.sequencer import Sequencer
from npusim.stepper.units import Array, PipeState, wait_for

_CHIP = (SPACES.index("dram"), SPACES.index("host"))


class Core:
    """A core's pipes, arrays and sequencer during one launch."""

    def __init__(self, program: Program, params: Params, number: int, kind: int, start: int, blocks: int) -> None:
        self.params, self.number = params, number
        self.peers: list[Core] = [self]
        self.signals: deque[tuple[int, int]] = deque()  # on their way here: (cycle, flag)
        self.pipes = [self._pipe(info) for info in params.pipes]
        self.arrays = [Array(params.machine.core.matrix) for _ in range(params["matrix_count"])]
        self.sequencer = Sequencer(program, self, kind, start, blocks)
        self.in_flight = self.dispatched = 0
        self.path_bytes: Counter[int] = Counter()
        self.completed: Counter[int] = Counter()  # by pipe class
        self.rows = 0
        self.events: list[tuple[int, int, int, int]] = []  # start, end, pipe, pc

    def _pipe(self, info: Pipe) -> PipeState:
        machine = self.params.machine
        if info.pipe_class >= DMA:
            engine = list(machine.core.dma.values())[info.pipe_class - DMA]
            return PipeState(info, True, engine.outstanding, engine.startup_cycles)
        streams = info.pipe_class == WEIGHTS and machine.path("dram", "wfifo") is not None
        return PipeState(info, streams, machine.core.matrix.weight_outstanding, 0)

    @property
    def finished(self) -> bool:
        """True when nothing can happen any more."""
        return self.sequencer.halted and not self.in_flight

    def array_of(self, pipe: PipeState) -> Array | None:
        """The systolic array that a pipe feeds or is."""
        return self.arrays[pipe.info.unit] if pipe.pipe_class in (WEIGHTS, MATRIX) else None

    def streams_of(self, unit: int) -> PipeState:
        """The matrix pipe of an array."""
        return self.pipes[self.params["matrix_pipe"] + unit]

    def dispatch(self, job: Job) -> None:
        """Queue a job; on interlocked machines it notes the older ones that it must follow."""
        self.dispatched += 1
        self.in_flight += 1
        for pipe in self.pipes:
            for older in (*pipe.flight, *pipe.queue):
                own_order = pipe.info.index == job.pipe and pipe.pipe_class != DMA
                if not own_order and job.conflicts(older):
                    job.waits_for.append(older)
        self.pipes[job.pipe].queue.append(job)

    def settle(self, cycle: int, port: Port) -> bool:
        """Do everything that can happen in `cycle`; True when anything did."""
        any_change = False
        while self._round(cycle, port):
            any_change = True
        return any_change

    def hold_readers(self, written: Job, cycle: int) -> None:
        """An answer for a copy arrives: what it is written into keeps copies that are reading there waiting."""
        core = self.params.machine.core
        space = core.spaces.get(core.paths[written.path].dst)
        for pipe in self.pipes:
            reader = pipe.flight[-1] if pipe.flight else None
            if space is None or reader is None or pipe.pipe_class != DMA or reader.requests is not None:
                continue
            if pipe.busy_until > cycle and core.spaces.get(core.paths[reader.path].src) is space:
                pipe.hold_back(reader, space.write_stall_cycles)

    def _round(self, cycle: int, port: Port) -> bool:
        changed = False
        while self.signals and self.signals[0][0] <= cycle:
            self.sequencer.flags[self.signals.popleft()[1]] += 1
            changed = True
        for pipe in self.pipes:
            while pipe.flight and pipe.flight[0].done is not None and pipe.flight[0].done <= cycle:
                self._retire(pipe, cycle)
                changed = True
        for unit, array in enumerate(self.arrays):
            changed |= array.shift(self.streams_of(unit).queue, cycle)
        for pipe in self.pipes:
            changed |= self._try_start(pipe, cycle)
        for pipe in self.pipes:
            changed |= self._send(pipe, cycle, port)
        return self.sequencer.act(cycle) or changed

    def _retire(self, pipe: PipeState, cycle: int) -> None:
        job = pipe.flight.popleft()
        self.in_flight -= 1
        for target, flag in job.flags:
            self.raise_flag(target, flag, cycle)
        for other in self.pipes:
            for waiting in other.queue:
                if job in waiting.waits_for:
                    waiting.waits_for.remove(job)
        array = self.array_of(pipe)
        if array is not None and pipe.pipe_class == WEIGHTS and job.requests is not None:
            array.fifo.append(job)
        if job.path >= 0:
            self.path_bytes[job.path] += job.size_bytes
        self.rows += job.rows
        self.completed[pipe.pipe_class] += 1
        self.events.append((job.started, cycle, job.pipe, job.pc))

    def raise_flag(self, target: int, flag: int, cycle: int) -> None:
        """Raise a flag of this core (target -1), or signal one of another."""
        if target < 0:
            self.sequencer.flags[flag] += 1
        else:
            self.peers[target].signals.append((cycle + self.params["signal_cycles"], flag))

    def _try_start(self, pipe: PipeState, cycle: int) -> bool:
        if not pipe.queue or not pipe.free(cycle):
            return False
        if pipe.queue[0].sync:
            return self._pass_sync(pipe, cycle)
        reason = self._obstacle(pipe, pipe.queue[0], cycle)
        if reason is not None:
            pipe.reason = reason
            return False
        pipe.start(self.array_of(pipe), cycle)
        return True

    def _pass_sync(self, pipe: PipeState, cycle: int) -> bool:
        """Let a set, a wait or a pipe barrier at the head of its queue do its work; it takes no time."""
        job, sequencer = pipe.queue[0], self.sequencer
        reason = None
        if job.sync == "wait" and sequencer.flags[job.flag] < job.amount:
            reason = wait_for(sequencer.flag_class[job.flag])
        elif job.sync == "pbar" and pipe.flight:
            reason = wait_for(pipe.pipe_class)
        elif job.sync == "set" and pipe.flight and len(pipe.flight[-1].flags) >= MAX_SETS:
            reason = "queue_full"
        if reason is not None:
            pipe.reason = reason
            return False
        if job.sync == "wait":
            sequencer.flags[job.flag] -= job.amount
        elif job.sync == "set" and pipe.flight:
            pipe.flight[-1].flags.append((job.target, job.flag))
        elif job.sync == "set":
            self.raise_flag(job.target, job.flag, cycle)
        pipe.queue.popleft()
        self.in_flight -= 1
        return True

    def _obstacle(self, pipe: PipeState, job: Job, cycle: int) -> str | None:
        if job.waits_for:
            oldest = min(job.waits_for, key=lambda other: other.number)
            return wait_for(self.pipes[oldest.pipe].pipe_class)
        array = self.array_of(pipe)
        if array is not None and pipe.pipe_class == MATRIX:
            reason = array.refuses(job, cycle)
            if reason is not None:
                return reason
        if array is not None and pipe.pipe_class == WEIGHTS:
            streams = self.streams_of(pipe.info.unit).queue
            if job.requests is not None:
                room = array.reserved < self.params["fifo_tiles"]
            else:  # tiles keep their order: none may still come through the FIFO
                room = array.reserved == 0 and array.loadable(job, streams, cycle)
            if not room:
                return "wait_matrix"
        for space in job.spaces:
            others = sum(other is not pipe and other.uses(space) for other in self.pipes)
            if space not in _CHIP and not pipe.uses(space) and others >= self.params.space_ports[space]:
                return "port_conflict"
        return None

    def _send(self, pipe: PipeState, cycle: int, port: Port) -> bool:
        job = pipe.sending
        if job is None or not job.requests or pipe.busy_until > cycle or pipe.outstanding >= pipe.outstanding_limit:
            return False
        address, size = job.requests.popleft()
        port.ask(cycle, self.number, address, size, job.write, (self, pipe, job))
        pipe.outstanding += 1
        job.unanswered += 1
        path = self.params.machine.core.paths[job.path]
        since = pipe.path_until if pipe.busy_until == cycle else Fraction(cycle)  # it may be free in mid-cycle
        until = since + Fraction(size * 1000, round(path.bytes_per_cycle * 1000))
        pipe.busy_until = job.sent = max(cycle + 1, ceil(until))
        pipe.path_until = until if until > cycle else Fraction(pipe.busy_until)
        if not job.requests:
            pipe.sending = None
        return True
