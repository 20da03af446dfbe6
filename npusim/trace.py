"""trace.json: the run in the Chrome trace event format, which Perfetto and chrome://tracing open.

Process 0 holds the operators, counters and buffer use; each core is a process with a row for every pipe. Written as a
stream; when the file would pass its limit, the oldest instruction events are left out and their number is stated.
Source: "Trace Event Format", Google, sections on complete, counter and metadata events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from isa.table import BY_CODE
from npusim.record import Result

Array = npt.NDArray[Any]

MAX_TRACE_BYTES = 100_000_000
CHIP_PID = 0
_POWERS = 10 ** np.arange(1, 19, dtype=np.int64)
# Fixed text of an instruction event, without its prefix and its numbers.
_TAIL = len(',"ts":.0000,"dur":.0000,"args":{"launch":,"instr":}},\n')


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


def _metadata(result: Result) -> Iterator[str]:
    def name(kind: str, pid: int, tid: int, text: str) -> str:
        return json.dumps({"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": {"name": text}})

    labels = [pipe.label for pipe in result.record.pipes]
    yield name("process_name", CHIP_PID, 0, f"{result.model} on {result.hw}")
    yield name("thread_name", CHIP_PID, 0, "operators")
    for core in range(result.record.states.shape[1]):
        yield name("process_name", core + 1, 0, f"core {core}")
        for pipe in result.record.pipes:
            label = pipe.label if labels.count(pipe.label) == 1 else f"{pipe.label} {pipe.unit}"
            yield name("thread_name", core + 1, pipe.index + 1, label)
            yield json.dumps({
                "ph": "M", "name": "thread_sort_index", "pid": core + 1, "tid": pipe.index + 1, "ts": 0,
                "args": {"sort_index": pipe.index},
            })  # fmt: skip


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
    """DRAM bandwidth in GB/s a bin, then bytes reserved in each space of a core by the running kernel."""
    bin_cycles = result.record.series_bin_cycles
    if bin_cycles > 0:
        to_gb_per_s = result.machine.clock_mhz * 1e6 / bin_cycles / 1e9
        rates = (result.record.series * to_gb_per_s).T.round(3).tolist()
        for i, (read, written) in enumerate(rates):
            yield (
                f'{{"ph":"C","name":"DRAM GB/s","pid":{CHIP_PID},"tid":0,"ts":{clock.text(i * bin_cycles)},'
                f'"args":{{"read":{read},"write":{written}}}}}'
            )
    kernels, launches = result.program.kernels, result.program.launches
    spaces = sorted({space for kernel in kernels for space in kernel.scratch_bytes})
    if not spaces:
        return
    starts = result.record.launch_span[:, 0]
    for i in np.argsort(starts, kind="stable").tolist():
        kernel = int(launches["kernel"][i])
        used = kernels[kernel].scratch_bytes if 0 <= kernel < len(kernels) else {}
        args = json.dumps({space: int(used.get(space, 0)) for space in spaces})
        ts = clock.text(int(starts[i]))
        yield f'{{"ph":"C","name":"buffer bytes a core","pid":{CHIP_PID},"tid":0,"ts":{ts},"args":{args}}}'


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


class _Instructions:
    """Instruction slices in time order, and how many of the newest fit into a number of bytes."""

    def __init__(self, result: Result, clock: _Clock) -> None:
        events = result.record.events
        self.events = events[np.argsort(events["start"], kind="stable")]
        self.start = clock.ticks(self.events["start"])
        self.length = clock.ticks(self.events["end"]) - self.start
        self.names = [json.dumps(name) for name in _instruction_names(result)] or ['"?"']

    def _prefix(self, instr: int, core: int, pipe: int) -> str:
        name = self.names[instr] if 0 <= instr < len(self.names) else '"?"'
        return f'{{"ph":"X","name":{name},"cat":"instr","pid":{core + 1},"tid":{pipe + 1}'

    def first_that_fits(self, budget_bytes: int) -> int:
        """Index of the oldest event to keep: sizes are exact, summed from the newest backwards."""
        if not len(self.events):
            return 0
        e = self.events
        name_bytes = np.array([len(n) for n in self.names])[np.clip(e["instr"], 0, len(self.names) - 1)]
        size = name_bytes + len(self._prefix(-1, 0, 0)) - len('"?"') + _TAIL
        size = size + _digits(e["core"] + 1) - 1 + _digits(e["pipe"] + 1) - 1
        size = size + _digits(self.start // 10000) + _digits(self.length // 10000)
        size = size + _digits(e["launch"]) + _digits(e["instr"])
        kept = np.searchsorted(np.cumsum(size[::-1]), budget_bytes, side="right")
        return int(len(e) - kept)

    def lines(self, first: int) -> Iterator[str]:
        """The events from index `first` on."""
        e = self.events[first:]
        columns = [e[name].tolist() for name in ("core", "pipe", "launch", "instr")]
        times = self.start[first:].tolist(), self.length[first:].tolist()
        for core, pipe, launch, instr, ts, dur in zip(*columns, *times):
            yield (
                f'{self._prefix(instr, core, pipe)},"ts":{_fixed(ts)},"dur":{_fixed(dur)},'
                f'"args":{{"launch":{launch},"instr":{instr}}}}}'
            )


def write_trace(result: Result, file: TextIO, max_bytes: int = MAX_TRACE_BYTES) -> int:
    """Write the Chrome trace of a run to an open text file; return the number of instruction events left out.

    Times are in us of simulated time, at 0.1 ns. At most `max_bytes` are written as long as the operators themselves
    fit; instruction events give way, oldest first, and `otherData.instruction_events_dropped` counts them together
    with those that the engine's ring has lost.
    """
    clock = _Clock(result.machine.clock_mhz)
    head = '{"displayTimeUnit":"ns","traceEvents":[\n'
    file.write(head)
    size = len(head) + 1000  # the tail, and slack for its numbers
    separator = ""
    for part in (_metadata(result), _operators(result, clock), _counters(result, clock)):
        for line in part:
            file.write(separator + line)
            separator = ",\n"
            size += len(line) + 2
    instructions = _Instructions(result, clock)
    first = instructions.first_that_fits(max_bytes - size)
    for line in instructions.lines(first):
        file.write(separator + line)
    other = {
        "model": result.model, "hw": result.hw, "clock_mhz": result.machine.clock_mhz,
        "total_cycles": int(result.record.total_cycles),
        "instruction_events_dropped": first + int(result.record.events_dropped),
    }  # fmt: skip
    file.write(f'\n],"otherData":{json.dumps(other)}}}\n')
    return first
