"""trace.json: the run in the Chrome trace event format, which Perfetto and chrome://tracing open.

Process 0 holds the operators, counters and buffer use; each core is a process with a row for every pipe. Instructions
of a pipe that overlap (transfers in flight, streams in an array) take further rows of the same name, because slices of
one row must nest. A wait that held a core is a slice on the row of its sequencer, and a flow arrow leads to it from the
instruction whose completion raised the flag. Written as a stream; when the file would pass its limit, the oldest
instructions and waits are left out and their number is stated.
Source: "Trace Event Format", Google, sections on complete, flow, counter and metadata events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from isa.cost import dram_bytes_per_cycle
from isa.table import BY_CODE
from npusim.record import EVENT, Result

Array = npt.NDArray[Any]

MAX_TRACE_BYTES = 100_000_000
CHIP_PID = 0
_POWERS = 10 ** np.arange(1, 19, dtype=np.int64)
ROW_STEP = 1000  # thread ids of the further rows of a pipe


class _Clock:
    """Core cycles as microseconds with four fixed decimals, so that adjacent slices meet and order is kept."""

    def __init__(self, clock_mhz: float) -> None:
        self._mhz = clock_mhz

    def ticks(self, cycles: Array) -> Array:
        """Cycles in units of 0.1 ns, rounded down."""
        return np.floor(np.asarray(cycles, np.float64) * (1e4 / self._mhz)).astype(np.int64)

    def text(self, cycles: float) -> str:
        """Cycles as the number that JSON shows, in us."""
        return _fixed(int(self.ticks(np.array(cycles))))


def _fixed(ticks: int) -> str:
    return f"{ticks // 10000}.{ticks % 10000:04d}"


def _digits(values: Array) -> Array:
    return np.searchsorted(_POWERS, values, side="right") + 1


def _metadata(result: Result, rows: set[tuple[int, int, int]]) -> Iterator[str]:
    """Names and order of processes and rows; `rows` are the further (core, pipe, row) that instructions need."""
    def name(kind: str, pid: int, tid: int, text: str) -> str:
        return json.dumps({"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": {"name": text}})

    labels = [pipe.label for pipe in result.record.pipes]
    yield name("process_name", CHIP_PID, 0, f"{result.model} on {result.hw}")
    yield name("thread_name", CHIP_PID, 0, "operators")
    for core in range(result.record.states.shape[1]):
        yield name("process_name", core + 1, 0, f"core {core}")
        for pipe in result.record.pipes:
            label = pipe.label if labels.count(pipe.label) == 1 else f"{pipe.label} {pipe.unit}"
            further = sorted(row for c, p, row in rows if (c, p) == (core, pipe.index) and row)
            for row in (0, *further):
                tid = _tid(pipe.index, row)
                yield name("thread_name", core + 1, tid, f"{label} ({row + 1})" if row else label)
                yield json.dumps({
                    "ph": "M", "name": "thread_sort_index", "pid": core + 1, "tid": tid, "ts": 0,
                    "args": {"sort_index": pipe.index * ROW_STEP + row},
                })  # fmt: skip


def _tid(pipe: int, row: int) -> int:
    return pipe + 1 + ROW_STEP * row


def _operators(result: Result, clock: _Clock) -> Iterator[str]:
    """One slice a launch, in time order, with what it computes."""
    operators, launches = result.program.operators, result.program.launches
    edges = clock.ticks(result.record.launch_span)
    for i in np.argsort(edges[:, 0], kind="stable").tolist():
        row = int(launches["operator"][i])
        operator = operators[row] if 0 <= row < len(operators) else None
        args: dict[str, Any] = {"launch": i, "cycles": int(np.diff(result.record.launch_span[i])[0])}
        if operator:
            args |= {"shape": list(operator.shape), "dtype": operator.dtype, "macs": operator.macs}
        args["dram_bytes"] = int(result.record.dram_bytes[i].sum())
        head = json.dumps({
            "ph": "X", "cat": operator.op_type if operator else "launch", "pid": CHIP_PID, "tid": 0, "args": args,
            "name": operator.name if operator else f"launch {i}",
        })  # fmt: skip
        start, end = (int(x) for x in edges[i])
        yield f'{head[:-1]}, "ts":{_fixed(start)},"dur":{_fixed(end - start)}}}'


def _counters(result: Result, clock: _Clock) -> Iterator[str]:
    """DRAM bandwidth in GB/s, then bytes reserved in each space of a core by the running kernel: a line a change, and
    zeros at the end of the run."""
    end = result.record.total_cycles
    starts, rates = _bandwidth(result)
    rows = [(start, {"read": r, "write": w}) for start, (r, w) in zip(starts.tolist(), rates.tolist())]
    yield from _counter("DRAM GB/s", rows, end, clock)
    kernels, launches = result.program.kernels, result.program.launches
    spaces = sorted({space for kernel in kernels for space in kernel.scratch_bytes})
    if not spaces:
        return
    reserved = []
    for i in np.argsort(result.record.launch_span[:, 0], kind="stable").tolist():
        kernel = int(launches["kernel"][i])
        used = kernels[kernel].scratch_bytes if 0 <= kernel < len(kernels) else {}
        reserved.append((float(result.record.launch_span[i, 0]), {space: int(used.get(space, 0)) for space in spaces}))
    yield from _counter("buffer bytes a core", reserved, end, clock)


def _bandwidth(result: Result) -> tuple[Array, Array]:
    """The core cycle at which each bin of the series starts, and GB/s read and written in it [bins, 2]."""
    record = result.record
    starts, moved = record.dram_over_time(float(dram_bytes_per_cycle(result.machine)))
    seconds = np.diff(starts, append=record.total_cycles) / (result.machine.clock_mhz * 1e6)
    return starts, (moved / seconds / 1e9).T.round(3)


def _counter(name: str, rows: list[tuple[float, dict[str, Any]]], end: int, clock: _Clock) -> Iterator[str]:
    """A counter event for every row that differs from the one before it, and zeros at `end`."""
    last: dict[str, Any] = {}
    for cycle, values in rows:
        if values != last:
            yield _counter_line(name, clock.text(cycle), values)
        last = values
    if any(last.values()):
        yield _counter_line(name, clock.text(end), dict.fromkeys(last, 0))


def _counter_line(name: str, ts: str, values: dict[str, Any]) -> str:
    return f'{{"ph":"C","name":{json.dumps(name)},"pid":{CHIP_PID},"tid":0,"ts":{ts},"args":{json.dumps(values)}}}'


def _instruction_names(result: Result) -> list[str]:
    """The slice name of every instruction: its mnemonic and the `mark` above it in the same kernel."""
    program = result.program
    starts = {kernel.start for kernel in program.kernels}
    names, mark = [], ""
    for i, (op, imm) in enumerate(zip(program.instrs["op"].tolist(), program.instrs["imm"].tolist())):
        name = BY_CODE[op].name if op in BY_CODE else f"op {op}"
        if i in starts:
            mark = ""
        if name == "mark" and 0 <= imm < len(program.names):
            mark = f" {program.names[imm]}"
        names.append(name + mark)
    return names


class _Slices:
    """Instructions and waits in time order, the row of each, and the arrows between them.

    A slice is (start, end, core, pipe, launch, instr) of EVENT; `row` is the row of its pipe, `source` the index of the
    slice whose completion ended a wait, or -1; times in ticks of 0.1 ns.
    """

    def __init__(self, result: Result, clock: _Clock) -> None:
        record = result.record
        fields = list(EVENT.names or ())
        both = np.concatenate([record.events, record.waits[fields].astype(EVENT)])
        order = np.argsort(both["start"], kind="stable")
        self.events = both[order]
        self.start = clock.ticks(self.events["start"])
        self.length = clock.ticks(self.events["end"]) - self.start
        self.row = _rows(self.events, self.start, self.start + self.length)
        self.source = self._sources(record.waits, order, len(record.events))
        self.names = [json.dumps(name) for name in _instruction_names(result)] or ['"?"']

    def _sources(self, waits: Array, order: Array, events: int) -> Array:
        """The slice whose completion ended each wait, where both have a length: its core, pipe, instruction, start."""
        found = np.full(len(order), -1, np.int64)
        if not len(waits):
            return found
        columns = [self.events[n].tolist() for n in ("core", "pipe", "instr", "start")]
        index = {key: i for i, key in enumerate(zip(*columns)) if self.length[i] > 0}
        place = np.argsort(order)[events:]
        by = [waits[n].tolist() for n in ("by_core", "by_pipe", "by_instr", "by_start")]
        for at, key in zip(place.tolist(), zip(*by)):
            if self.length[at] > 0:
                found[at] = index.get(key, -1)
        return found

    def _line(self, i: int, core: int, pipe: int, launch: int, instr: int) -> str:
        name = self.names[instr] if 0 <= instr < len(self.names) else '"?"'
        return (
            f'{{"ph":"X","name":{name},"cat":"instr","pid":{core + 1},"tid":{_tid(pipe, int(self.row[i]))},'
            f'"ts":{_fixed(int(self.start[i]))},"dur":{_fixed(int(self.length[i]))},'
            f'"args":{{"launch":{launch},"instr":{instr}}}}}'
        )

    def _arrow(self, i: int) -> str:
        """The two ends of the arrow to wait i, just inside of both slices: an end on the border binds to neither."""
        text = []
        for phase, at in (("s", int(self.source[i])), ("f", i)):
            ts = _fixed(int(self.start[at] + self.length[at] - 1))
            core, tid = int(self.events["core"][at]) + 1, _tid(int(self.events["pipe"][at]), int(self.row[at]))
            bind = ',"bp":"e"' if phase == "f" else ""
            text.append(
                f'{{"ph":"{phase}","id":{i},"name":"flag","cat":"sync","pid":{core},"tid":{tid},"ts":{ts}{bind}}}'
            )
        return ",\n".join(text)

    def _sizes(self) -> Array:
        """Bytes of every slice as written, its separator included."""
        e = self.events
        name_bytes = np.array([len(n) for n in self.names])[np.clip(e["instr"], 0, len(self.names) - 1)]
        fixed = len('{"ph":"X","name":,"cat":"instr","pid":,"tid":,"ts":.0000,"dur":.0000,')
        fixed += len('"args":{"launch":,"instr":}},\n')
        tids = e["pipe"] + 1 + ROW_STEP * self.row
        numbers = (e["core"] + 1, tids, self.start // 10000, self.length // 10000, e["launch"], e["instr"])
        size: Array = name_bytes + fixed + sum(_digits(n) for n in numbers)
        return size

    def first_that_fits(self, budget_bytes: int) -> int:
        """Index of the oldest slice to keep: sizes are exact, summed from the newest backwards, arrows counted too."""
        if not len(self.events):
            return 0
        size = self._sizes()
        for i in np.flatnonzero(self.source >= 0).tolist():
            size[min(i, self.source[i])] += len(self._arrow(i)) + 2  # kept with the older of its ends
        kept = np.searchsorted(np.cumsum(size[::-1]), budget_bytes, side="right")
        return int(len(size) - kept)

    def lines(self, first: int) -> Iterator[str]:
        """The slices from index `first` on, then the arrows between them."""
        columns = [self.events[n][first:].tolist() for n in ("core", "pipe", "launch", "instr")]
        for i, fields in enumerate(zip(*columns), first):
            yield self._line(i, *fields)
        for i in np.flatnonzero(self.source >= first).tolist():
            if i >= first:
                yield self._arrow(i)


def _rows(events: Array, start: Array, end: Array) -> Array:
    """The row of every slice, of slices in order of their start: the first of its pipe that is free by then."""
    free: dict[tuple[int, int], list[int]] = {}
    out = np.zeros(len(events), np.int64)
    columns = zip(events["core"].tolist(), events["pipe"].tolist(), start.tolist(), end.tolist())
    for i, (core, pipe, begin, stop) in enumerate(columns):
        rows = free.setdefault((core, pipe), [])
        row = next((r for r, until in enumerate(rows) if until <= begin), len(rows))
        rows[row : row + 1] = [stop]
        out[i] = row
    return out


def write_trace(result: Result, file: TextIO, max_bytes: int = MAX_TRACE_BYTES) -> int:
    """Write the Chrome trace of a run to an open text file; return the number of instruction events left out.

    Times are in us of simulated time, at 0.1 ns. At most `max_bytes` are written as long as the operators themselves
    fit; instructions and waits give way, oldest first, and `otherData.instruction_events_dropped` counts them together
    with those for which the engine had no room. Arrows need both their ends.
    """
    clock = _Clock(result.machine.clock_mhz)
    head = '{"displayTimeUnit":"ns","traceEvents":[\n'
    file.write(head)
    size = len(head) + 1000  # the tail, and slack for its numbers
    separator = ""
    slices = _Slices(result, clock)
    rows = set(zip(slices.events["core"].tolist(), slices.events["pipe"].tolist(), slices.row.tolist()))
    for part in (_metadata(result, rows), _operators(result, clock), _counters(result, clock)):
        for line in part:
            file.write(separator + line)
            separator = ",\n"
            size += len(line) + 2
    first = slices.first_that_fits(max_bytes - size)
    for line in slices.lines(first):
        file.write(separator + line)
    other = {
        "model": result.model, "hw": result.hw, "clock_mhz": result.machine.clock_mhz,
        "total_cycles": int(result.record.total_cycles),
        "instruction_events_dropped": first + int(result.record.events_dropped),
    }  # fmt: skip
    file.write(f'\n],"otherData":{json.dumps(other)}}}\n')
    return first
