"""A Machine resolved once to integers: the pipe list, the path table and one cost table.

This is the only place where units convert; the engine's kernels read these arrays and nothing else of a chip.
Rates are kept in thousandths (`_milli`) so that 0.5 passes or 42.7 bytes a cycle stay exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import DTYPES
from isa.machine import Machine
from isa.program import SPACE_ID, SPACES, Kernel
from isa.table import (
    CROSS_LANE,
    DMA,
    DRAIN,
    MATRIX,
    MAX_CODE,
    PIPE_CLASS_NAMES,
    SCALAR,
    TABLE,
    VECTOR,
    WEIGHTS,
)

Array = npt.NDArray[Any]
MILLI = 1000
MAX_SETS = 6  # flags that the completion of one instruction can raise
DATAFLOW_ID = {"ws": 0, "is": 1, "os": 2, "cube": 3}

# Index of every scalar parameter in Params.values, in one list so that kernels and Python agree.
# fmt: off
NAMES = (
    "cores", "pipes", "vliw", "interlock", "queues", "scalar_cycles", "scalar_slots", "registers", "window", "flags",
    "cross_flags", "signal_cycles", "block_cycles",
    "weights_pipe", "matrix_pipe", "vector_pipe", "cross_lane_pipe", "drain_pipe", "drain_engine", "dma_pipe",
    "matrix_count",
    "rows", "cols", "dataflow", "load_cycles", "double_buffer", "fold_overlap", "psum_hop", "input_register",
    "drain_counted", "cube_startup", "cube_latency", "fifo_tiles", "weight_request", "weight_outstanding",
    "operand_space", "acc_space",
    "lanes", "sublanes", "lane_bytes", "alus", "load_ports", "store_ports", "vector_latency",
    "cross_milli", "cross_reduce_milli", "cross_latency", "drain_milli", "drain_latency",
    "request_latency", "response_latency", "core_khz", "write_stalls",
)
# fmt: on
INDEX = {name: i for i, name in enumerate(NAMES)}

# Columns of Params.paths.
PATH_DMA, PATH_RATE_MILLI, PATH_LATENCY = range(3)
WEIGHTS_PORT = -1  # PATH_DMA of a path that ends in the array's weight port


@dataclass(frozen=True)
class Pipe:
    """One pipe of a core: its class (isa.table), unit number, queue depth and display label."""

    index: int
    pipe_class: int
    unit: int
    queue_depth: int
    label: str

    @property
    def class_name(self) -> str:
        """The class in words; every DMA engine is `dma`."""
        return PIPE_CLASS_NAMES[min(self.pipe_class, DMA)]


@dataclass(frozen=True)
class Params:
    """Everything a kernel needs of a machine.

    `values` int64 by INDEX; `path_of` int64 [spaces, spaces] row of `paths` or -1; `paths` int64 [n, 3];
    `path_ends` int64 [n, 2]: the spaces that a path leads from and to;
    `dma` int64 [engines, 5]: first pipe, count, outstanding, request_bytes, startup_cycles;
    `passes_milli` int64 by dtype code (0: not offered); `op_milli` int64 by opcode, vector cost factor;
    `convert_milli` int64 [2, dtypes]: ALU operations to unpack a source register, to pack a destination register;
    `space_ports`, `space_bytes` int64 by space id (0: absent; dram and host: unbounded);
    `space_banks` int64 [spaces, 3]: bank groups (0: none), bytes of a block, bytes of a bank (0: not known);
    `space_stalls` int64 by space id: cycles by which a request that is written there holds back copies from there.
    `present` bool [cores, pipes]: a core has the pipes that work on its spaces.
    """

    machine: Machine
    pipes: tuple[Pipe, ...]
    values: Array
    path_of: Array
    paths: Array
    path_ends: Array
    dma: Array
    passes_milli: Array
    depth: Array
    op_milli: Array
    convert_milli: Array
    space_ports: Array
    space_bytes: Array
    space_banks: Array
    space_stalls: Array
    dtype_bytes: Array
    present: Array

    def __getitem__(self, name: str) -> int:
        return int(self.values[INDEX[name]])

    def cores_of(self, kernel: Kernel) -> range:
        """Numbers of the cores that a kernel may run on."""
        return self.machine.cores_for(kernel.scratch_bytes)

    def pipe_index(self, pipe_class: int, unit: int) -> int:
        """Index of a pipe; classes the machine lacks fall back to the vector unit."""
        for pipe in self.pipes:
            if pipe.pipe_class == pipe_class and pipe.unit == unit:
                return pipe.index
        return self["vector_pipe"]


def pipe_list(machine: Machine) -> tuple[Pipe, ...]:
    """The pipes of one core in their fixed order (docs/architecture.md)."""
    core = machine.core
    matrix = core.matrix
    rows: list[tuple[int, int, int, str]] = [(SCALAR, 0, 1, core.scalar.label)]

    def labelled(label: str, unit: int, count: int) -> str:
        return f"{label}{unit}" if count > 1 else label

    if not matrix.streams_both:
        name, count = matrix.weights_label, matrix.count
        rows += [(WEIGHTS, u, matrix.queue_depth, labelled(name, u, count)) for u in range(count)]
    rows += [(MATRIX, u, matrix.queue_depth, labelled(matrix.label, u, matrix.count)) for u in range(matrix.count)]
    for pipe_class, unit in ((VECTOR, core.vector), (CROSS_LANE, core.cross_lane), (DRAIN, core.drain)):
        if unit is not None:
            rows.append((pipe_class, 0, unit.queue_depth, unit.label))
    for i, (name, engine) in enumerate(core.dma.items()):
        label = engine.label if engine.label != "DMA" else name.upper()
        rows += [(DMA + i, u, engine.queue_depth, labelled(label, u, engine.count)) for u in range(engine.count)]
    return tuple(Pipe(i, *row) for i, row in enumerate(rows))


def resolve(machine: Machine) -> Params:
    """Resolve a Machine to Params."""
    pipes = pipe_list(machine)
    core, matrix = machine.core, machine.core.matrix
    first = {c: next((p.index for p in pipes if p.pipe_class == c), -1) for c in range(DMA + 1)}
    vector, cross, drain = core.vector, core.cross_lane, core.drain
    figures: dict[str, int] = {
        "cores": machine.all_cores, "pipes": len(pipes), "vliw": int(machine.issue == "vliw"),
        "interlock": int(machine.issue == "inorder"), "queues": int(machine.issue == "queues"),
        "scalar_cycles": core.scalar.cycles, "scalar_slots": core.scalar.slots, "registers": core.scalar.registers,
        "window": core.window, "flags": max(1, core.flags), "cross_flags": core.cross_flags,
        "signal_cycles": core.signal_cycles, "block_cycles": machine.block_cycles,
        "weights_pipe": first[WEIGHTS], "matrix_pipe": first[MATRIX], "vector_pipe": first[VECTOR],
        "cross_lane_pipe": first[CROSS_LANE] if cross else first[VECTOR],
        "drain_pipe": first[DRAIN] if drain else first[VECTOR],
        "drain_engine": int(machine.drain_engine is not None), "dma_pipe": first[DMA], "matrix_count": matrix.count,
        "rows": matrix.rows, "cols": matrix.cols, "dataflow": DATAFLOW_ID[matrix.dataflow],
        "load_cycles": matrix.rows if matrix.weight_load_cycles is None else matrix.weight_load_cycles,
        "double_buffer": int(matrix.weight_double_buffer), "fold_overlap": int(matrix.fold_overlap),
        "psum_hop": matrix.psum_hop_cycles, "input_register": matrix.input_register_cycles,
        "drain_counted": int(matrix.drain_counted),
        "cube_startup": matrix.startup_cycles, "cube_latency": matrix.latency_cycles,
        "fifo_tiles": matrix.weight_fifo_tiles, "weight_request": matrix.weight_request_bytes,
        "weight_outstanding": matrix.weight_outstanding,
        "operand_space": SPACE_ID[matrix.operand_space], "acc_space": SPACE_ID[matrix.acc_space],
        "request_latency": machine.memory.request_latency_cycles,
        "response_latency": machine.memory.response_latency_cycles,
        "core_khz": round(machine.clock_mhz * 1000),
        "write_stalls": int(any(space.write_stall_cycles for space in core.spaces.values())),
    }
    if vector is not None:
        figures |= {"lanes": vector.lanes, "sublanes": vector.sublanes, "lane_bytes": vector.lane_bytes,
                    "alus": vector.alus, "load_ports": vector.load_ports,
                    "store_ports": vector.store_ports, "vector_latency": vector.latency_cycles}
    if cross is not None:
        reduce_rate = cross.reduce_elements_per_cycle or cross.elements_per_cycle
        figures |= {"cross_milli": round(cross.elements_per_cycle * MILLI), "cross_latency": cross.latency_cycles,
                    "cross_reduce_milli": round(reduce_rate * MILLI)}
    if drain is not None:
        figures |= {"drain_milli": round(drain.elements_per_cycle * MILLI), "drain_latency": drain.latency_cycles}
    values = np.array([figures.get(name, 0) for name in NAMES], np.int64)
    present = _present(machine, pipes)
    return Params(machine, pipes, values, *_paths(machine, pipes), *_costs(machine), *_spaces(machine), present)


def _present(machine: Machine, pipes: tuple[Pipe, ...]) -> Array:
    """Which core has which pipe."""
    found = np.zeros((machine.all_cores, len(pipes)), bool)
    matrix, engines = machine.core.matrix, list(machine.core.dma)
    for pipe in pipes:
        spaces: list[tuple[str, ...]] = [()]
        if pipe.pipe_class >= DMA:
            paths = [p for p in machine.core.paths if p.pipe == engines[pipe.pipe_class - DMA]]
            spaces = [(p.src, p.dst) for p in paths]
        elif pipe.pipe_class in (WEIGHTS, MATRIX):
            spaces = [(matrix.operand_space,)]
        elif pipe.pipe_class == DRAIN:
            spaces = [(matrix.acc_space,)]
        elif pipe.pipe_class != SCALAR:
            spaces = [(machine.scratch_space,)]
        for wanted in spaces:
            found[list(machine.cores_with(wanted)), pipe.index] = True
        if pipe.pipe_class == SCALAR or not any(spaces):
            found[:, pipe.index] = True
    return found


def _paths(machine: Machine, pipes: tuple[Pipe, ...]) -> tuple[Array, Array, Array, Array]:
    names = list(machine.core.dma)
    path_of = np.full((len(SPACES), len(SPACES)), -1, np.int64)
    rows = []
    for i, path in enumerate(machine.core.paths):
        path_of[SPACE_ID[path.src], SPACE_ID[path.dst]] = i
        engine = WEIGHTS_PORT if path.pipe == "weights" else names.index(path.pipe)
        rows.append((engine, round(path.bytes_per_cycle * MILLI), path.latency_cycles))
    engines = [
        (next(p.index for p in pipes if p.pipe_class == DMA + i), e.count, e.outstanding, e.request_bytes,
         e.startup_cycles)
        for i, e in enumerate(machine.core.dma.values())
    ]
    ends = np.array([(SPACE_ID[path.src], SPACE_ID[path.dst]) for path in machine.core.paths], np.int64)
    table = np.array(rows, np.int64)
    return path_of, table.reshape(-1, 3), ends.reshape(-1, 2), np.array(engines, np.int64).reshape(-1, 5)


def _costs(machine: Machine) -> tuple[Array, Array, Array, Array]:
    passes, depth = np.zeros(len(DTYPES), np.int64), np.ones(len(DTYPES), np.int64)
    for name, value in machine.core.matrix.passes.items():
        passes[DTYPES[name].code] = round(value * MILLI)
        depth[DTYPES[name].code] = machine.core.matrix.depth(name)
    factors = np.full(MAX_CODE, MILLI, np.int64)
    vector = machine.core.vector
    slow = vector.op_cycles if vector else {}
    for op in TABLE:
        if op.name.startswith("v."):
            factors[op.code] = round(slow.get(op.name[2:], 1) * MILLI)
    convert = np.zeros((2, len(DTYPES)), np.int64)
    for row, table in enumerate((vector.unpack_ops, vector.pack_ops) if vector else ()):
        for name, value in table.items():
            convert[row, DTYPES[name].code] = round(value * MILLI)
    return passes, depth, factors, convert


def _spaces(machine: Machine) -> tuple[Array, Array, Array, Array, Array]:
    ports, sizes, stalls = (np.zeros(len(SPACES), np.int64) for _ in range(3))
    banks = np.zeros((len(SPACES), 3), np.int64)
    for name, space in machine.core.spaces.items():
        ports[SPACE_ID[name]], sizes[SPACE_ID[name]] = space.ports, space.size_bytes
        stalls[SPACE_ID[name]] = space.write_stall_cycles
        banks[SPACE_ID[name]] = space.bank_groups, space.bank_bytes, space.bank_size_bytes
    sizes[SPACE_ID["dram"]] = machine.memory.capacity_bytes
    sizes[SPACE_ID["host"]] = 1 << 46
    widths = np.array([d.size_bytes for d in sorted(DTYPES.values(), key=lambda d: d.code)], np.int64)
    return ports, sizes, banks, stalls, widths
