"""Kind `textbook`: figures that papers and courses print, read off the engine with ideal memory and at cycle level.

With `memory.model: ideal` a figure must come out in every digit that is printed. With the chip's DRAM it may differ by
what DRAM loses to rows, refresh and latency; the efficiency that the run had stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isa.dtypes import dtype
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import resolve
from isa.program import DESC, INSTR, LAUNCH, Kernel, Program, descriptor, instruction
from isa.table import NEXT_TILE, STOP, code
from isa.verify import verify
from npusim.record import CAUSE_ID, Record
from npusim.validate.bench import Bench
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

if TYPE_CHECKING:
    import numpy.typing as npt

    from compiler.graph import Graph

NEEDS_HW = False
COLUMNS = (
    Column("figure"),
    Column("argument"),
    Column("value"),
    Column("unit"),
    Column("memory", required=False),
)
V1_CLOCK_HZ, V1_DRAM_BYTES_PER_SECOND, V1_ARRAY = 700e6, 34e9, 256  # Jouppi et al., ISCA 2017
MAX_ARGUMENT = 1 << 20


@dataclass(frozen=True)
class Reading:
    """A figure as the engine has it, and the share of DRAM's peak that the run reached (None: DRAM plays no part)."""

    value: float
    dram_efficiency: float | None = None


Figure = Callable[[int, str], Reading]  # argument, memory model
FIGURES: dict[str, Figure] = {}


def figure(function: Figure) -> Figure:
    """Register a figure under its function's name."""
    FIGURES[function.__name__] = function
    return function


def name_of(row: Row) -> str:
    """The row in words."""
    return f"{row.text('figure')} {row.text('argument')} [{row.text('unit')}]"


def measure(row: Row, bench: Bench) -> Outcome:
    """Read the figure with ideal memory (compared, digit by digit) and at cycle level (noted)."""
    name, argument, printed = row.text("figure"), row.integer("argument"), row.text("value")
    if name not in FIGURES:
        raise TableError(f"column figure: {name!r} is not one of {', '.join(FIGURES)}")
    if argument > MAX_ARGUMENT:
        raise TableError(f"column argument: {argument} is more than {MAX_ARGUMENT}")
    value, scale = row.positive("value"), 10 ** len(printed.partition(".")[2])
    ideal, real = FIGURES[name](argument, "ideal"), FIGURES[name](argument, "cycle")
    compared: dict[str, tuple[float, float]] = {
        "digits": (round(value * scale), round(ideal.value * scale)), "cycle_level": (value, real.value),
    }  # fmt: skip
    note = f"cycle level {real.value:.6g}"
    if real.dram_efficiency is not None:
        compared["dram_efficiency"] = (1.0, real.dram_efficiency)
        note += f", DRAM at {100 * real.dram_efficiency:.1f} %"
    return Outcome(value, ideal.value, row.text("unit"), compared=compared, note=note)


def _machine(hw: str, memory: str, *settings: str) -> Machine:
    return load_machine(hw, [f"memory.model={memory}", *settings]).machine


def _v1(memory: str) -> Machine:
    rate = V1_DRAM_BYTES_PER_SECOND / V1_CLOCK_HZ
    return _machine("tpu-v1", memory, *([f"memory.ideal_bytes_per_cycle={rate}"] if memory == "ideal" else []))


def _simulate(
    machine: Machine, lines: Sequence[npt.NDArray[np.void]], descs: Sequence[npt.NDArray[np.void]], trips: int = 0
) -> Record:
    """Run one kernel on one core; r0 holds the trip count, r1 starts at 0."""
    from npusim.engine.run import run

    launch = np.zeros(1, LAUNCH)
    launch["grid"], launch["nargs"], launch["operator"] = 1, 2, -1
    kernel = Kernel("textbook", 0, len(lines), ("trips", "address"))
    program = Program(
        "textbook", machine.name, np.array(lines, INSTR), np.array(descs, DESC), (kernel,), launch,
        np.array([trips, 0], np.int64), (), (),
    )  # fmt: skip
    verify(program, machine)
    return run(program, resolve(machine))


def _v1_layer(memory: str, rows: int, tiles: int) -> Record:
    """`tiles` weight tiles of 64 KiB stream from DRAM through the FIFO, each used for `rows` rows."""
    kind, size = dtype("int8").code, V1_ARRAY * V1_ARRAY
    descs = [
        descriptor("dram", kind, (V1_ARRAY, V1_ARRAY), (V1_ARRAY, 1), rows=1, base_reg=1),
        descriptor("spm", kind, (rows, V1_ARRAY), (V1_ARRAY, 1), rows=1),
        descriptor("acc", dtype("int32").code, (rows, V1_ARRAY), (4 * V1_ARRAY, 4), rows=1),
    ]
    lines = [
        instruction(code("loop"), a=0, imm=5),
        instruction(code("ldw"), a=0),
        instruction(code("mm"), dst=2, a=1, flags=NEXT_TILE),
        instruction(code("addi"), dst=1, a=1, imm=size),
        instruction(code("endl")),
        instruction(code("halt")),
    ]
    return _simulate(_v1(memory), lines, descs, tiles)


@figure
def stream_cycles(argument: int, memory: str) -> Reading:
    """Cycles from the first row to the last result of `argument` rows on a 256 x 256 array: B + R + C - 2."""
    record = _v1_layer(memory, argument, 1)
    streams = record.events[record.events["pipe"] == resolve(_v1(memory))["matrix_pipe"]]
    return Reading(float(streams["end"].max() - streams["start"].min()))


@figure
def tpu_v1_busy(argument: int, memory: str) -> Reading:
    """Busy per cent of the array with `argument` rows a weight tile: rows / max(rows, 256, tile bytes / bandwidth)."""
    few, many = (_v1_layer(memory, argument, tiles) for tiles in (20, 60))  # the difference has no fill
    pipe = resolve(_v1(memory))["matrix_pipe"]
    busy = [int(r.states[0, 0, pipe, CAUSE_ID["busy"]]) for r in (few, many)]
    cycles = many.total_cycles - few.total_cycles
    rate = 40 * V1_ARRAY * V1_ARRAY * V1_CLOCK_HZ / cycles
    return Reading(100 * (busy[1] - busy[0]) / cycles, rate / V1_DRAM_BYTES_PER_SECOND)


@figure
def tpu_v1_tops(argument: int, memory: str) -> Reading:
    """10^12 operations a second of the array with `argument` rows a weight tile, two a multiply-accumulate."""
    busy = tpu_v1_busy(argument, memory)
    return Reading(busy.value / 100 * 2 * V1_ARRAY * V1_ARRAY * V1_CLOCK_HZ / 1e12, busy.dram_efficiency)


@figure
def three_stages(argument: int, memory: str) -> Reading:
    """Steps of `argument` tiles through copy-in, compute and copy-out with two buffers each: n + 2."""
    latencies = ("launch_cycles=0", "memory.request_latency_cycles=1", "memory.response_latency_cycles=0")
    engines = ("core.dma.dma_in.startup_cycles=0", "core.dma.dma_out.startup_cycles=0")
    machine = _machine("gemmini-16x16", memory, "memory.ideal_bytes_per_cycle=4096", *latencies, *engines)
    step, buffers, tiles, kind = 1024, 2, argument, dtype("int8").code
    size = step * 16  # LOAD and STORE move 16 bytes a cycle, the vector unit 16 elements
    descs = [descriptor("dram", kind, (size,), (1,), base_reg=1), descriptor("dram", kind, (size,), (1,), base_reg=1)]
    descs += [descriptor("spm", kind, (size,), (1,), base=slot * size) for slot in range(2 * buffers)]
    lines = []
    for tile in range(tiles):
        taken, made = 2 + tile % buffers, 2 + buffers + tile % buffers
        lines.append(instruction(code("li"), dst=1, imm=tile * size))
        lines.append(instruction(code("cp"), dst=taken, a=0))
        lines.append(instruction(code("v.relu"), dst=made, a=taken))
        lines.append(instruction(code("li"), dst=1, imm=(tiles + tile) * size))
        lines.append(instruction(code("cp"), dst=1, a=made))
    record = _simulate(machine, [*lines, instruction(code("halt"))], descs)
    rate = 2 * tiles * size / record.total_cycles * machine.clock_mhz * 1e6
    return Reading(record.total_cycles / step, rate / machine.dram_bytes_per_second)


def _moved(model: str | Graph, memory: str, *settings: str, hw: str = "tpu-v3-core") -> tuple[dict[str, float], float]:
    """Summary of a compiled model and the DRAM efficiency of the whole run."""
    from npusim import api
    from npusim.report import summary

    shown = summary(api.run(model, hw, settings=[f"memory.model={memory}", *settings]))
    moved = shown["dram_read_bytes"] + shown["dram_write_bytes"]
    peak = load_machine(hw).machine.dram_bytes_per_second
    return {**shown, "moved": moved}, moved / (shown["time_us"] * 1e-6 * peak)


@figure
def gemm_traffic(argument: int, memory: str) -> Reading:
    """GB that a 4096^3 product of 2-byte elements moves in blocks of `argument`: (2 MNK / b + MN) elements."""
    shown, efficiency = _moved("gemm:4096x4096x4096", memory, f"run.tile={argument}x{argument}x512")
    return Reading(shown["moved"] / 1e9, efficiency)


@figure
def gemm_intensity(argument: int, memory: str) -> Reading:
    """FLOP a DRAM byte of an 8192 x 8192 product over K = `argument` in 2-byte elements, each tensor moved once."""
    shown, efficiency = _moved(f"gemm:8192x8192x{argument}", memory, f"run.tile=8192x128x{argument}")
    return Reading(shown["flops"] / shown["moved"], efficiency)


@figure
def vector_cycles(argument: int, memory: str) -> Reading:
    """Busy cycles of an 8 x 128 vector unit for one operation on `argument` x 1024 elements: one register a cycle."""
    machine = _machine("tpu-v3-core", memory)
    descs = [descriptor("spm", dtype("fp32").code, (argument, 1024), (4096, 4), base=side << 22) for side in (0, 1)]
    lines = [instruction(code("v.relu"), dst=1, a=0, flags=STOP), instruction(code("halt"), flags=STOP)]
    record = _simulate(machine, lines, descs)
    return Reading(float(record.states[0, 0, resolve(machine)["vector_pipe"], CAUSE_ID["busy"]]))


def _graph(text: str) -> Graph:
    from compiler.text import parse_graph

    return parse_graph(text)


def _block_bytes(layer: str, weights: str, memory: str, *settings: str) -> tuple[dict[str, float], float]:
    """Traffic that one more block of a chain adds; maps come in and go out channels last, as between the layers."""
    found = []
    for blocks in (2, 3):
        shape = layer.partition(" = ")[0].rpartition(" : ")[2]
        lines = [f"const {line.strip()}" for line in weights.splitlines()]
        lines = [f'graph "chain"\ninput %x0 : {shape}', *lines]
        for i in range(blocks):
            lines.append(layer.replace("IN", f"%x{i}").replace("OUT", f"%x{i + 1}").replace("#", str(i)))
        found.append(_moved(_graph("\n".join([*lines, f"output %x{blocks}"])), memory, *settings))
    (fewer, _), (more, efficiency) = found
    return {key: more[key] - fewer[key] for key in ("moved", "dram_read_bytes")}, efficiency


@figure
def conv_relu_maps(argument: int, memory: str) -> Reading:
    """Feature maps of 56 x 56 x 256 that a convolution and two element-wise operators move in `argument` kernels.

    One kernel reads a map and writes one; three kernels read and write three each.
    """
    kind = "fp32[1,256,56,56]"
    layer = f"%c# : {kind} = Conv(IN, %w)\n%n# : {kind} = Sigmoid(%c#)\nOUT : {kind} = Relu(%n#)"
    fused = f"run.fusion={'true' if argument == 1 else 'false'}"
    moved, efficiency = _block_bytes(layer, "%w : fp32[256,256,1,1]", memory, fused)
    return Reading((moved["moved"] - 2 * 256 * 256) / (2 * 56 * 56 * 256), efficiency)


@figure
def conv_input_megabytes(argument: int, memory: str) -> Reading:
    """MB read of a 56 x 56 x 64 map of 2-byte elements by an `argument` x `argument` convolution without im2col."""
    pad, weights = ",".join([str(argument // 2)] * 4), f"fp32[64,64,{argument},{argument}]"
    layer = f'OUT : fp32[1,64,56,56] = Conv(IN, %w) {{"pads": [{pad}]}}'
    moved, efficiency = _block_bytes(layer, f"%w : {weights}", memory, "run.tile=56x64x64")  # whole: no rows twice
    return Reading((moved["dram_read_bytes"] - 2 * 64 * 64 * argument**2) / 1e6, efficiency)


@figure
def layer_norm_reads(argument: int, memory: str) -> Reading:
    """How often LayerNormalization of `argument` rows of 1024 elements reads its input from DRAM: once."""
    graph = _graph(f"""
        graph "layernorm"
        input %x : fp32[{argument},1024]
        const %g : fp32[1024]
        const %b : fp32[1024]
        %y : fp32[{argument},1024] = LayerNormalization(%x, %g, %b)
        output %y
    """)
    shown, efficiency = _moved(graph, memory)
    return Reading(shown["dram_read_bytes"] / (2 * argument * 1024), efficiency)
