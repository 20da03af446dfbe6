"""The quick fidelities: a Record of a program from closed forms, without running its instructions.

`roofline`: a launch takes the longest of MACs at peak, bytes at DRAM peak and bytes over the host link at the peak of
its path, plus the launch cost. `analytic` adds what the hardware cannot avoid: MACs of padding, the cores a launch
really uses, vector work, what DRAM loses on streams of the cores' requests (read off the cycle level,
npusim.memory.efficiency), the rate of the copy paths, and once a launch the fill and drain (latency of the first bytes,
of the array, of the last write).
Units overlap perfectly: a launch is as long as its busiest unit. Bytes are each tensor once; what tiling reads again is
seen only by `cycle`. A shared cache, which is empty at the start, carries all bytes, the DRAM behind it what surely is
not there: weights and inputs of the model where they are first read, else what is read or written beyond what it holds.
A network carries all bytes over the links of its ends. Nothing waits for another unit or a port: what is written into
an on-chip memory holds back no copy (`write_stall_cycles`). Sources: Williams et al., CACM 2009 (roofline); isa.cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cost import (
    ceil_div,
    dram_bytes_per_cycle,
    latency_cycles,
    load_cycles,
    network_bytes_per_cycle,
    shared_bytes_per_cycle,
)
from isa.errors import ConfigError
from isa.machine import Machine, Path
from isa.params import Params, Pipe, resolve
from isa.program import LAUNCH_KERNEL, Operator, Program, Tensor
from isa.table import DMA
from npusim.record import CAUSE_ID, CAUSES, EVENT, PipeInfo, Record

Array = npt.NDArray[Any]
FIDELITIES = ("roofline", "analytic")
# Operators that read of their inputs no more than they write: a table is not read whole to look up rows.
SELECTING = frozenset({"Gather", "GatherElements", "GatherND", "Slice", "Split"})


@dataclass(frozen=True)
class Work:
    """What one launch must do: MACs and the array rows they stream, vector FLOP, bytes that the cores read and write,
    cores, bytes from and to the host, and of those read and written the ones that get to the DRAM."""

    macs: int
    streams: int
    passes: Fraction
    vector_flops: int
    read_bytes: int
    write_bytes: int
    cores: int
    host_bytes: tuple[int, int] = (0, 0)
    dram_bytes: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Busy:
    """Core cycles of each kind of unit in one launch, of all its instances in parallel; `fill` is added once."""

    matrix: int
    vector: int
    dma: int
    fill: int = 0

    @property
    def total(self) -> int:
        """Cycles of the launch: its busiest unit, and the fill."""
        return max(self.matrix, self.vector, self.dma) + self.fill

    @property
    def bound(self) -> str:
        """The class of the busiest unit."""
        return max(("dma", "matrix", "vector"), key=lambda name: int(getattr(self, name)))


def estimate(program: Program, machine: Machine, fidelity: str) -> Record:
    """Return the record of a program at fidelity `roofline` or `analytic`; raises ConfigError for another one."""
    if fidelity not in FIDELITIES:
        raise ConfigError(f"unknown fidelity {fidelity!r} of closed forms; there are {', '.join(FIDELITIES)}")
    launches = len(program.launches)
    params = resolve(machine)
    infos = tuple(PipeInfo(p.index, p.class_name, p.unit, p.label) for p in params.pipes)
    states = np.zeros((launches, machine.all_cores, len(infos), len(CAUSES)), np.int64)
    span, dram = np.zeros((launches, 2), np.int64), np.zeros((launches, 2), np.int64)
    paths, macs = np.zeros((launches, len(machine.core.paths)), np.int64), np.zeros(launches, np.int64)
    tensors = {t.name: t for t in program.tensors}
    seen: set[str] = set()
    now = 0
    for i, launch in enumerate(program.launches):
        gap = machine.launch_cycles
        span[i, 0] = now
        states[i, :, :, CAUSE_ID["launch"]] = gap
        if int(launch["kind"]) != LAUNCH_KERNEL:
            body = int(launch["cycles"])
            states[i, :, :, CAUSE_ID["host"]] = body
        else:
            work = work_of(program, launch, machine, tensors, seen, padded=fidelity == "analytic")
            busy = analytic_cycles(work, machine) if fidelity == "analytic" else roofline_cycles(work, machine)
            body = busy.total
            dram[i], macs[i] = work.dram_bytes, work.macs
            _count_paths(paths[i], machine, work)
            first = params.cores_of(program.kernels[int(launch["kernel"])]).start
            _fill_states(states[i], params, busy, work, first)
        now += gap + body
        span[i, 1] = now
    counters = {"read_bytes": int(dram[:, 0].sum()), "write_bytes": int(dram[:, 1].sum())}
    issued = np.zeros((launches, 8), np.int64)
    states *= params.present[:, :, None]
    return Record(
        infos, now, states, span, paths, dram, macs, issued, counters, np.zeros((2, 0)), 1.0, np.zeros(0, EVENT), 0, 0.0
    )


def work_of(
    program: Program, launch: Array, machine: Machine, tensors: Mapping[str, Tensor], seen: set[str], padded: bool
) -> Work:
    """The work of one kernel launch; without an operator there is nothing to go by, and so none. `seen` are the tensors
    that earlier launches have read, to which it adds its own."""
    matrix = machine.core.matrix
    kernel = program.kernels[int(launch["kernel"])]
    cores = min(int(launch["grid"]), len(machine.cores_for(kernel.scratch_bytes)))
    if matrix.acc_space in kernel.scratch_bytes:
        cores = min(cores, machine.cores)  # others in the launch have no array
    index = int(launch["operator"])
    if not 0 <= index < len(program.operators):
        return Work(0, 0, Fraction(1), 0, 0, 0, cores)
    operator = program.operators[index]
    macs = max(operator.macs, operator.padded_macs) if padded else operator.macs
    # An operand type that the array does not know is converted first, at best to its fastest one.
    kind = operator.dtype if operator.dtype in matrix.passes else min(matrix.passes, key=lambda k: matrix.passes[k])
    passes = Fraction(str(matrix.passes[kind])) / matrix.depth(kind)  # a cube does a depth of products at once
    read, written, fresh = _dram_bytes(operator, tensors, seen)
    flops = max(0, operator.flops - 2 * operator.macs)
    names = (operator.inputs, operator.outputs)
    sides = [[t for n in side if (t := tensors.get(n)) is not None and t.space == "host"] for side in names]
    once = operator.min_bytes > 0
    sent, returned = (sum(t.size_bytes for t in side) if once else 0 for side in sides)
    streams = ceil_div(macs, matrix.rows * matrix.cols)
    behind = _behind(machine, read, written, fresh)
    return Work(macs, streams, passes, flops, read, written, cores, (sent, returned), behind)


def _behind(machine: Machine, read_bytes: int, write_bytes: int, fresh_bytes: int) -> tuple[int, int]:
    """Bytes that the DRAM behind a shared cache must deliver and take of those that the cores read and write, of which
    `fresh_bytes` are read for the first time; all without a cache."""
    shared = machine.memory.l2
    if shared is None:
        return read_bytes, write_bytes
    room = shared.size_bytes * shared.slices
    kept = 0 if shared.write == "through" else room
    return max(fresh_bytes, read_bytes - room, 0), max(0, write_bytes - kept)


def _dram_bytes(operator: Operator, tensors: Mapping[str, Tensor], seen: set[str]) -> tuple[int, int, int]:
    """Bytes that the operator must read from DRAM and write there, each tensor once, and of those read the weights and
    inputs of the model that nobody has `seen`."""
    if operator.min_bytes == 0:  # a further launch of an operator that was counted before
        return 0, 0, 0
    sides = [[tensors[n] for n in names if n in tensors] for names in (operator.inputs, operator.outputs)]
    known = sum(t.size_bytes for side in sides for t in side)
    read, written = (sum(t.size_bytes for t in side if t.space == "dram") for side in sides)
    first = [t for t in sides[0] if t.name not in seen and t.space == "dram" and t.role in ("weight", "input")]
    fresh = sum(t.size_bytes for t in first)
    for name in operator.inputs:
        if name not in tensors:  # a constant in a form of the compiler's own, whose name begins with the old one
            stored = sum(t.size_bytes for t in tensors.values() if t.name.startswith(f"{name}.") and t.space == "dram")
            read += min(stored, max(0, operator.min_bytes - known))
            fresh += 0 if name in seen else min(stored, max(0, operator.min_bytes - known))
            known += stored
    if SELECTING & set(operator.op_type.split("+")):
        read = min(read, sum(t.size_bytes for t in sides[1]))
        fresh = 0  # rows of a table may have been read before
    seen.update(operator.inputs)
    return read, written, min(read, fresh)


def roofline_cycles(work: Work, machine: Machine) -> Busy:
    """The launch on the whole chip at its peaks."""
    matrix = machine.core.matrix
    pes = machine.cores * matrix.count * matrix.rows * matrix.cols
    dma = math.ceil(sum(work.dram_bytes) / dram_bytes_per_cycle(machine))
    dma = max(dma, _shared_cycles(work, machine), _host_cycles(work, machine))
    return Busy(math.ceil(work.macs * work.passes / pes), 0, dma)


def _shared_cycles(work: Work, machine: Machine) -> int:
    """Cycles in which the shared cache carries all bytes at its peak, and the network the busier way; 0 without."""
    peak, links = shared_bytes_per_cycle(machine), network_bytes_per_cycle(machine)
    cycles = math.ceil((work.read_bytes + work.write_bytes) / peak) if peak else 0
    return max(cycles, math.ceil(max(work.read_bytes, work.write_bytes) / links) if links else 0)


def dram_efficiency(machine: Machine, read_bytes: int = 1, write_bytes: int = 0, cores: int = 0) -> Fraction:
    """The share of DRAM peak that streams of these sizes on so many cores (0: all) reach at once, as the cycle level
    measures it: requests of the size of the copy engines', as many in flight as they may have.

    Behind a shared cache, which holds requests of its own in flight, they come as fast as the DRAM can take them.
    """
    from npusim.memory.efficiency import Pattern, efficiency

    read, write = (_engine(machine, path) for path in _dram_paths(machine))
    request = max(read[0], write[0])
    share = read_bytes / max(1, read_bytes + write_bytes)
    pattern = Pattern("stream", request, share)
    if machine.memory.l2 is None:
        most = [max(1, in_flight * size // request) for size, in_flight in (read, write)]
        pattern = replace(pattern, streams=cores or machine.cores, reads=most[0], writes=most[1])
    return Fraction(efficiency(machine, pattern)).limit_denominator(10**6)


def _engine(machine: Machine, path: Path | None) -> tuple[int, int]:
    """Bytes a request, and the requests that all engines of a path and core may have in flight."""
    matrix = machine.core.matrix
    if path is None:
        return 1, 1
    if path.pipe == "weights":
        return matrix.weight_request_bytes, matrix.weight_outstanding * matrix.count
    engine = machine.core.dma[path.pipe]
    return engine.request_bytes, engine.outstanding * engine.count


def access_cycles(machine: Machine) -> int:
    """Core cycles from a request to its first bytes: the way there and back, through a shared cache if there is one,
    activation, column access, burst."""
    memory, dram, timing = machine.memory, machine.memory.dram, machine.memory.dram.timing
    way = memory.request_latency_cycles + memory.response_latency_cycles
    if memory.l2 is not None:
        missed = memory.l2.hit_latency_cycles + memory.l2.miss_latency_cycles + memory.l2.fill_latency_cycles
        way += math.ceil(missed * machine.clock_mhz / (memory.l2.clock_mhz or machine.clock_mhz))
    if memory.model == "ideal":
        return way
    ticks = timing.nRCDRD + timing.nCL + dram.burst_length // dram.data_rate
    return way + math.ceil(ticks * dram.tck_ps * machine.clock_mhz / 1e6)


def analytic_cycles(work: Work, machine: Machine) -> Busy:
    """The launch on the cores that it uses, with what the hardware cannot avoid."""
    core, matrix, vector = machine.core, machine.core.matrix, machine.core.vector
    streams = ceil_div(work.streams, work.cores * matrix.count)
    lanes = vector.register_elements() * vector.alus * work.cores if vector else work.cores
    reached = dram_efficiency(machine, *work.dram_bytes, work.cores)
    dma = math.ceil(sum(work.dram_bytes) / (dram_bytes_per_cycle(machine) * reached))
    dma = max(dma, _shared_cycles(work, machine), _host_cycles(work, machine))
    fill = 0
    for path, moved in zip(_dram_paths(machine), (work.read_bytes, work.write_bytes)):
        if path is not None and moved:
            dma = max(dma, math.ceil(moved / (Fraction(str(path.bytes_per_cycle)) * work.cores)))
            startup = core.dma[path.pipe].startup_cycles if path.pipe in core.dma else 0
            fill += startup + path.latency_cycles + access_cycles(machine)
    if work.macs:
        fill += load_cycles(matrix) + latency_cycles(matrix)
    return Busy(math.ceil(streams * work.passes), ceil_div(work.vector_flops, lanes), dma, fill)


def _dram_paths(machine: Machine) -> tuple[Path | None, Path | None]:
    """The paths that carry what a launch reads from DRAM and writes there."""
    wanted = machine.core.matrix.operand_space
    reads = sorted((p for p in machine.core.paths if p.src == "dram"), key=lambda p: p.dst != wanted)
    writes = [p for p in machine.core.paths if p.dst == "dram"]
    return (reads[0] if reads else None), (writes[0] if writes else None)


def _host_paths(machine: Machine) -> tuple[Path | None, Path | None]:
    """The paths from and to the host."""
    paths = machine.core.paths
    return next((p for p in paths if p.src == "host"), None), next((p for p in paths if p.dst == "host"), None)


def _host_cycles(work: Work, machine: Machine) -> int:
    """Cycles of the busier direction of the host link."""
    moved = zip(_host_paths(machine), work.host_bytes)
    return max(math.ceil(n / (Fraction(str(p.bytes_per_cycle)) * work.cores)) if p and n else 0 for p, n in moved)


def _count_paths(row: Array, machine: Machine, work: Work) -> None:
    paths = (*_dram_paths(machine), *_host_paths(machine))
    for path, moved in zip(paths, (work.read_bytes, work.write_bytes, *work.host_bytes)):
        if path is not None:
            row[machine.core.paths.index(path)] += moved


def _fill_states(states: Array, params: Params, busy: Busy, work: Work, first: int) -> None:
    """Account for every cycle of every pipe: at work, waiting for the busiest unit, or with nothing to do.

    The launch runs on `work.cores` cores from `first` up.
    """
    waiting = CAUSE_ID[f"wait_{busy.bound}"]
    linked = 0 < busy.dma <= _host_cycles(work, params.machine)  # the engine of the host link holds up all others
    here = slice(first, first + work.cores)
    for idle in (slice(0, first), slice(here.stop, None)):
        states[idle, :, CAUSE_ID["drained"]] += busy.total
    for pipe in params.pipes:
        rows = states[here, pipe.index]
        mine = min(busy.total, _pipe_cycles(params.machine, pipe, busy, work))
        if mine == 0 and pipe.class_name != "scalar":
            rows[:, CAUSE_ID["drained"]] += busy.total
            continue
        cause = waiting
        if pipe.class_name in ("dma", "weights") and busy.bound == "dma" and not linked:
            cause = CAUSE_ID["memory_bandwidth"]
        elif pipe.class_name == busy.bound:  # nobody else to wait for: the fill
            cause = CAUSE_ID["memory_latency"]
        rows[:, CAUSE_ID["busy"]] += mine
        rows[:, cause] += busy.total - mine


def _pipe_cycles(machine: Machine, pipe: Pipe, busy: Busy, work: Work) -> int:
    """Cycles that one pipe works; copy engines share what their path carries."""
    if pipe.class_name in ("matrix", "vector"):
        return int(getattr(busy, pipe.class_name))
    engine = list(machine.core.dma)[pipe.pipe_class - DMA] if pipe.class_name == "dma" else pipe.class_name
    instances = machine.core.dma[engine].count if engine in machine.core.dma else machine.core.matrix.count
    total = Fraction(0)
    paths = (*_dram_paths(machine), *_host_paths(machine))
    for path, moved in zip(paths, (work.read_bytes, work.write_bytes, *work.host_bytes)):
        if path is not None and path.pipe == engine:
            total += moved / (Fraction(str(path.bytes_per_cycle)) * work.cores * instances)
    return math.ceil(total)
