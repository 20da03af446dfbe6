"""The pipes and systolic arrays of a core, as objects that do what is due in one cycle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction

from isa.cost import load_cycles
from isa.machine import MatrixUnit
from isa.params import Pipe
from isa.table import DMA, MATRIX, PIPE_CLASS_NAMES, SYNC, WEIGHTS
from npusim.stepper.job import Job

NEVER = 1 << 62  # a cycle that does not come


@dataclass(eq=False)
class Array:
    """The stationary side of one systolic array: FIFO of tiles from DRAM, and the shadow that a tile shifts into."""

    matrix: MatrixUnit
    fifo: deque[Job] = field(default_factory=deque)
    reserved: int = 0  # tiles in the FIFO or on their way to it
    shadow_ready: int | None = None  # cycle in which the tile in the shadow is complete; None: empty
    stream_end: int = 0
    results_end: int = 0

    def loadable(self, tile: Job, streams: deque[Job], cycle: int) -> bool:
        """True when `tile` may begin to shift into the array."""
        if self.shadow_ready is not None:
            return False
        if self.matrix.weight_double_buffer:
            return True
        if streams and streams[0].number < tile.number:
            return False
        return (self.stream_end if self.matrix.fold_overlap else self.results_end) <= cycle

    def shift(self, streams: deque[Job], cycle: int) -> bool:
        """Let the oldest tile of the FIFO into the shadow if it can go; True when it does."""
        if not self.fifo or not self.loadable(self.fifo[0], streams, cycle):
            return False
        self.fifo.popleft()
        self.reserved -= 1
        self.shadow_ready = cycle + load_cycles(self.matrix)
        return True

    def refuses(self, stream: Job, cycle: int) -> str | None:
        """Why a stream cannot start."""
        if stream.next_tile and (self.shadow_ready is None or self.shadow_ready > cycle):
            return "wait_weights"
        new_fold = stream.next_tile or self.matrix.dataflow == "os"
        if new_fold and not self.matrix.fold_overlap and self.results_end > cycle:
            return "wait_matrix"
        return None


@dataclass(eq=False)
class PipeState:
    """One pipe: its queue, what it has started, and what it waits for."""

    info: Pipe
    streaming: bool  # its transfers go on after the pipe has sent them
    outstanding_limit: int
    startup: int
    queue: deque[Job] = field(default_factory=deque)
    flight: deque[Job] = field(default_factory=deque)
    sending: Job | None = None
    outstanding: int = 0
    busy_until: int = 0
    path_until: Fraction = Fraction(0)  # to the part of a cycle, how long the last request keeps the path
    conflict_from: int = 0
    last_done: int = 0
    reason: str = "dispatch"
    last_wait: str = "memory_latency"

    @property
    def pipe_class(self) -> int:
        """Class of isa.table; all DMA engines are DMA."""
        return min(self.info.pipe_class, DMA)

    def youngest(self) -> Job | None:
        """The last instruction that has not completed."""
        return self.queue[-1] if self.queue else self.flight[-1] if self.flight else None

    def uses(self, space: int) -> bool:
        """True when the pipe holds its port of a space: something that it has started uses the space."""
        return any(space in job.spaces for job in self.flight)

    def free(self, cycle: int) -> bool:
        """True when the next instruction may start as far as this pipe is concerned."""
        return self.busy_until <= cycle and self.sending is None

    def start(self, array: Array | None, cycle: int) -> Job:
        """Start the head of the queue."""
        job = self.queue.popleft()
        job.started = cycle
        if not self.flight:
            self.last_wait = "memory_latency"
        self.flight.append(job)
        if job.requests is not None:
            self.sending, self.busy_until, self.conflict_from = job, cycle + self.startup, NEVER
            self.path_until = Fraction(self.busy_until)
            if self.pipe_class == WEIGHTS and array is not None:
                array.reserved += 1
            return job
        self.busy_until, self.conflict_from = cycle + job.occupy, cycle + job.occupy - job.conflict
        job.done = self.last_done = max(self.busy_until + job.latency, self.last_done)
        if array is not None and self.pipe_class == MATRIX:
            array.stream_end, array.results_end = self.busy_until, job.done
            if job.next_tile:
                array.shadow_ready = None
        elif array is not None and job.tile:
            array.shadow_ready = job.done
        return job

    def answered(self, job: Job, waited: bool, cycle: int) -> None:
        """An answer for one of this pipe's transfers."""
        self.outstanding -= 1
        job.unanswered -= 1
        self.last_wait = "memory_bandwidth" if waited else "memory_latency"
        if not job.requests and not job.unanswered:
            job.done = max(cycle, job.sent) + job.latency

    def hold_back(self, job: Job, cycles: int) -> None:
        """The job that occupies the pipe takes so many cycles more."""
        self.busy_until += cycles
        job.done = self.last_done = max(job.done or 0, self.busy_until + job.latency)

    def state(self, cycle: int, sequencer_cause: str) -> str:
        """The one state of this pipe in `cycle`."""
        if self.busy_until > cycle:
            return "port_conflict" if self.conflict_from <= cycle else "busy"
        if self.streaming and self.flight:
            return self.last_wait
        if self.queue:
            return self.reason
        return "dispatch" if sequencer_cause == "busy" else sequencer_cause


def wait_for(pipe_class: int) -> str:
    """The cause of waiting for a pipe of a class; SYNC: for another core."""
    return "wait_core" if pipe_class == SYNC else f"wait_{PIPE_CLASS_NAMES[pipe_class]}"
