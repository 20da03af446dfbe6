"""The machine description: what a chip has, as data, before it is resolved to integers.

A figure in YAML is a plain value or `{value, source, confidence}`; `isa.loader` separates the values (validated here)
from their provenance. Units are in the key names. Both the compiler (what fits, what is legal) and the simulator (what
it costs) read this tree and nothing else about a chip.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from isa.dtypes import DTYPES
from isa.memory import Memory, memory_faults
from isa.schema_types import Count, Natural, Part, PositiveFloat, Rate
from isa.table import ACTIVATIONS, TABLE

# Spaces that a core owns. `dram` and `host` belong to the chip and always exist.
CORE_SPACES = ("spm", "acc", "wfifo", "l1", "l0a", "l0b", "l0c", "ub", "smem", "bt")
CHIP_SPACES = ("dram", "host")
# Issue slots of a vliw bundle. `matrix` counts pushes and pops, `misc` everything without a slot of its own.
BUNDLE_SLOTS = ("scalar", "vector", "load", "store", "matrix", "dma", "misc")


class Scalar(Part):
    """The sequencer: `slots` scalar instructions a cycle, each `cycles` long (0: the host issues at no cost)."""

    slots: Count = 1
    registers: Annotated[int, Field(ge=16, le=256)] = 64
    cycles: Natural = 1
    label: str = "SCALAR"


class Space(Part):
    """One on-chip memory of a core. A pipe takes one of its `ports` while it works on it; more wait.

    Blocks of `bank_bytes` go to `bank_groups` in turn; in a cycle each group gives one block to what a vector
    instruction reads and takes one of what it writes. With `bank_size_bytes` a group consists of banks, each used once
    around the groups before the next, and a bank does one of the two in a cycle.

    `write_stall_cycles`: a request of a transfer that arrives here has the banks to itself for so long, and copies that
    are just reading the space on their way elsewhere in the core last that much longer.
    """

    size_bytes: Annotated[int, Field(gt=0, le=1 << 32)]
    bank_groups: Annotated[int, Field(ge=0, le=64)] = 0  # 0: no two accesses of a register conflict
    bank_bytes: Count = 32
    bank_size_bytes: Annotated[int, Field(ge=0, le=1 << 32)] = 0  # 0: reads and writes do not conflict
    write_stall_cycles: Annotated[int, Field(ge=0, le=65536)] = 0
    ports: Count = 8
    align_bytes: Count = 1
    label: str = ""


class MatrixUnit(Part):
    """A systolic array, or a cube. `passes`: per operand dtype, the cycles that one streamed row occupies the array.

    A cube (`dataflow: cube`) multiplies blocks of rows x k by k x cols, k elements being `depth_bytes`, one in
    `passes` cycles, and takes both operands from memory: A from `operand_space`, B from `operand_b_space`.

    Timing of one fold (isa.cost): load the stationary tile, stream, traverse. `psum_hop_cycles` and
    `input_register_cycles` describe the wires; `drain_counted` (os) counts shifting the results out;
    `fold_overlap` lets the next fold start while the last one drains; `weight_double_buffer` shifts the next
    stationary tile in while the present one works.
    """

    count: Annotated[int, Field(gt=0, le=64)] = 1
    rows: Annotated[int, Field(gt=0, le=4096)]
    cols: Annotated[int, Field(gt=0, le=4096)]
    depth_bytes: Annotated[int, Field(ge=0, le=4096)] = 0  # of a cube: of a row of a block; narrow types go deeper
    fractal_bytes: Annotated[int, Field(ge=0, le=4096)] = 0  # of a cube: C0 of its fractal layouts; 0: it has none
    startup_cycles: Natural = 0  # of a cube, busy before the first block of an instruction
    latency_cycles: Natural = 0  # of a cube, from the last block to its result
    dataflow: Literal["ws", "os", "is", "cube"] = "ws"
    passes: dict[str, Rate]
    accumulate: dict[str, str]  # operand dtype -> accumulator dtype
    multiply_as: dict[str, str] = Field(default_factory=dict)  # operand dtype -> what the array rounds it to first
    acc_space: str = "acc"  # where results accumulate
    operand_space: str = "spm"  # where streamed operands are read
    operand_b_space: str | None = None  # of a cube; default: operand_space
    weight_fifo_tiles: Annotated[int, Field(gt=0, le=64)] = 1  # the engine's ring holds 64
    weight_load_cycles: Natural | None = None  # cycles to shift one tile in; default: rows
    weight_request_bytes: Annotated[int, Field(ge=8, le=65536)] = 256  # tiles that come from DRAM: bytes a request
    weight_outstanding: Count = 64  # and requests in flight
    weight_double_buffer: bool = True
    fold_overlap: bool = True
    tap_merge_channels: Natural = 65536  # convolutions of at most so many channels put several taps into one K block
    share_rows: bool = True  # arrays left over by narrow products split their rows; false: they idle
    psum_hop_cycles: Count = 1
    input_register_cycles: Natural = 0
    drain_counted: bool = False
    queue_depth: Count = 8
    label: str = "MXU"
    weights_label: str = "WLOAD"

    @property
    def streams_both(self) -> bool:
        """Whether mm takes both operands from memory, so that there are no stationary tiles."""
        return self.dataflow in ("os", "cube")

    def depth(self, dtype: str) -> int:
        """MACs of each PE in the time of one pass: the k of a cube's blocks, 1 in a systolic array."""
        return max(1, self.depth_bytes // DTYPES[dtype].size_bytes) if self.dataflow == "cube" else 1


class VectorUnit(Part):
    """A vector unit of lanes x sublanes elements a cycle an ALU; `op_cycles` multiplies the cost of slow operations.

    With `lane_bytes` a lane holds so many bytes, not an element: the widest operand of an instruction sets its elements
    a register. Rows of lanes are what strides address: a register gathers `sublanes` of them from anywhere.
    `unpack_ops` and `pack_ops` are the ALU operations that a register of a dtype costs, on its way in and out, where
    the ALUs do not have that dtype and software widens and narrows it.
    """

    lanes: Count
    sublanes: Count = 1
    lane_bytes: Annotated[int, Field(ge=0, le=64)] = 0
    alus: Count = 1
    load_ports: Count = 1
    store_ports: Count = 1
    latency_cycles: Natural = 1
    op_cycles: dict[str, Rate] = Field(default_factory=dict)  # by name in isa.table, without `v.`
    unpack_ops: dict[str, Rate] = Field(default_factory=dict)  # by dtype, a source register
    pack_ops: dict[str, Rate] = Field(default_factory=dict)  # by dtype, a destination register
    operations: list[str] = Field(default_factory=list)  # the same names; empty: every vector operation of the ISA
    dtypes: list[str] = Field(default_factory=list)  # empty: every dtype
    queue_depth: Count = 8
    label: str = "VPU"

    def row_elements(self, widest_bytes: int) -> int:
        """Elements in a row of lanes, when an instruction's widest operand has elements of `widest_bytes`."""
        return max(1, self.lanes * self.lane_bytes // widest_bytes) if self.lane_bytes else self.lanes

    def register_elements(self, widest_bytes: int = 4) -> int:
        """Elements of a vector register, which an ALU takes in a cycle."""
        return self.row_elements(widest_bytes) * self.sublanes


class CrossLaneUnit(Part):
    """Transpose / reduce / permute across lanes: `elements_per_cycle` throughput after `latency_cycles`.

    `reduce_elements_per_cycle` is that of reductions (v.l*) where it differs.
    """

    elements_per_cycle: Rate
    reduce_elements_per_cycle: Rate | None = None
    latency_cycles: Natural
    queue_depth: Count = 8
    label: str = "XLU"


class DrainUnit(Part):
    """The fixed output path of accumulators (activation pipe); absent: the vector unit drains."""

    elements_per_cycle: Rate
    latency_cycles: Natural
    activations: list[str]
    queue_depth: Count = 8
    label: str = "ACT"


class DmaEngine(Part):
    """A copy engine: it splits copies into requests of at most `request_bytes`, `outstanding` of them in flight.

    With `activations` it also executes `fix` on its paths from the accumulators, rounding and rescaling on the way.
    """

    count: Annotated[int, Field(gt=0, le=64)] = 1
    queue_depth: Count = 8
    outstanding: Count = 64
    request_bytes: Annotated[int, Field(ge=8, le=65536)] = 512
    startup_cycles: Natural = 0
    activations: list[str] = Field(default_factory=list)  # of `fix`, where this engine brings accumulators out
    label: str = "DMA"


class Path(Part):
    """A legal way from `src` to `dst`, on engine `pipe` (a key of `dma`, or `weights` for the array's weight port).

    `converts` is what a copy may change on the way: the format of elements (`cast`), its border (`window`: padding, or
    img2col), which of its dimensions is stored innermost (`transpose`), rows chosen by an index (`gather`). Absent:
    anything.
    """

    src: str
    dst: str
    pipe: str
    bytes_per_cycle: Rate
    latency_cycles: Natural = 0
    converts: list[Literal["cast", "window", "transpose", "gather"]] | None = None


class Core(Part):
    """Everything that one core owns."""

    scalar: Scalar = Scalar()
    bundle: dict[str, Count] | None = None  # vliw: issue slots a bundle by pipe class
    window: Annotated[int, Field(gt=0, le=62)] = 32  # instructions in flight (inorder: the interlock's reach)
    flags: Annotated[int, Field(ge=0, le=65536)] = 64
    flags_per_pair: Natural = 0  # queues: flags from one pipe to another that a kernel may use; 0: any number
    cross_flags: Annotated[int, Field(ge=0, le=1024)] = 0  # of each core, that other cores signal
    signal_cycles: Annotated[int, Field(ge=1, le=65536)] = 1  # until a signal has reached the other core
    spaces: dict[str, Space]
    matrix: MatrixUnit
    vector: VectorUnit | None = None
    cross_lane: CrossLaneUnit | None = None
    drain: DrainUnit | None = None
    dma: dict[str, DmaEngine]
    paths: list[Path]


class OtherCores(Part):
    """Cores of another kind: they own the `spaces`, of those listed under `core`, that the first kind then lacks."""

    count: Count
    spaces: list[str]
    label: str = ""


class Host(Part):
    """The host: its link and its cost for operators that the chip leaves to it (`ops`, ONNX names).

    `MatMul:computed` and `Conv:computed` are products without constant weights, `Cast:narrowing` is a Cast that
    truncates reals or drops high bits of integers.
    """

    bytes_per_second: PositiveFloat = 12e9
    op_latency_us: Annotated[float, Field(ge=0)] = 10.0
    flops_per_second: PositiveFloat = 1e11
    ops: list[str] = Field(default_factory=list)


class Machine(Part):
    """One chip, complete: the only thing the compiler and the simulator know about it."""

    name: str
    description: str = ""
    issue: Literal["inorder", "vliw", "queues"]
    default_dtype: str
    clock_mhz: Annotated[float, Field(ge=1, le=1e5)]  # core clock
    cores: Annotated[int, Field(gt=0, le=4096)] = 1
    launch_cycles: Natural = 0  # core cycles between one kernel's end and the next one's start
    block_cycles: Natural = 0  # core cycles between the end of a block and the start of the next one on that core
    share_from_bytes: Natural = 0  # operators on smaller tensors, products and convolutions apart, run on one core
    activation_space: Literal["dram", "spm"] = "dram"  # where tensors live between kernels
    core: Core
    other_cores: dict[str, OtherCores] = Field(default_factory=dict)
    memory: Memory
    host: Host = Host()
    energy_pj: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Machine:
        faults = [
            *_space_faults(self), *_path_faults(self), *_stall_faults(self), *_name_faults(self),
            *_group_faults(self),
            *memory_faults(self.memory, self.all_cores),
        ]  # fmt: skip
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def all_cores(self) -> int:
        """Cores of all kinds: those of `cores` first, then the other kinds in their order."""
        return self.cores + sum(group.count for group in self.other_cores.values())

    def cores_with(self, spaces: Iterable[str]) -> range:
        """Numbers of the cores that own all of `spaces`; an empty range when no kind of core does."""
        wanted = set(spaces) - set(CHIP_SPACES)
        others = range(1, 1 + len(self.other_cores))
        if not any(wanted & self.spaces_of(kind) for kind in others):
            return self.kind_cores(0)
        return next((self.kind_cores(kind) for kind in others if wanted <= self.spaces_of(kind)), range(0))

    def cores_for(self, spaces: Iterable[str]) -> range:
        """Numbers of the cores that a kernel which uses `spaces` runs on: one kind that has them all, else every kind
        that it takes to have them."""
        wanted = set(spaces)
        alone = self.cores_with(wanted)
        if alone:
            return alone
        kinds = [kind for kind in range(1 + len(self.other_cores)) if wanted & self.spaces_of(kind)]
        return range(self.kind_cores(kinds[0]).start, self.kind_cores(kinds[-1]).stop) if kinds else range(0)

    def spaces_of(self, kind: int) -> set[str]:
        """Spaces that a core of a kind owns: 0 the first kind, then those of `other_cores` in their order."""
        others = [set(group.spaces) for group in self.other_cores.values()]
        return others[kind - 1] if kind else set(self.core.spaces).difference(*others)

    def kind_cores(self, kind: int) -> range:
        """Numbers of the cores of a kind."""
        counts = [self.cores, *(group.count for group in self.other_cores.values())]
        first = sum(counts[:kind])
        return range(first, first + counts[kind])

    def kind_of(self, core: int) -> int:
        """The kind of a core by its number."""
        return next(kind for kind in range(1 + len(self.other_cores)) if core in self.kind_cores(kind))

    @property
    def vector_cores(self) -> int:
        """Cores that vector and copy kernels run on."""
        return len(self.cores_with([self.scratch_space]))

    @property
    def vector_partners(self) -> int:
        """Vector cores beside each core of the first kind; 0 where the second kind is another or does not divide."""
        cores = self.cores_with([self.scratch_space])
        beside = cores.start == self.cores and len(cores) % self.cores == 0
        return len(cores) // self.cores if beside else 0

    @property
    def drain_activations(self) -> list[str] | None:
        """Activations of whatever brings accumulators out, the vector unit's operations; None: it has all."""
        unit = self.core.drain or self.drain_engine
        if unit is not None:
            return list(unit.activations)
        return list(self.core.vector.operations) if self.core.vector and self.core.vector.operations else None

    @property
    def drain_engine(self) -> DmaEngine | None:
        """The copy engine that brings accumulators straight to DRAM; None where a drain or vector unit reads them."""
        path = self.path(self.core.matrix.acc_space, "dram") if self.core.drain is None else None
        engine = self.core.dma.get(path.pipe) if path is not None else None
        return engine if engine is not None and engine.activations else None

    @property
    def peak_macs_per_cycle(self) -> float:
        """MACs a core cycle of the whole chip at `default_dtype`."""
        return self.macs_per_cycle(self.default_dtype)

    def macs_per_cycle(self, dtype: str) -> float:
        """MACs a core cycle of the whole chip for operands of `dtype`."""
        matrix = self.core.matrix
        return self.cores * matrix.count * matrix.rows * matrix.cols * matrix.depth(dtype) / matrix.passes[dtype]

    @property
    def dram_bytes_per_second(self) -> float:
        """Peak DRAM bandwidth of the chip."""
        return self.memory.channels * self.memory.dram.channel_bytes_per_second

    @property
    def scratch_space(self) -> str:
        """The space that vector and copy kernels work in: the scratchpad, or the unified buffer."""
        return "spm" if "spm" in self.core.spaces else "ub"

    @property
    def staging_space(self) -> str:
        """Where tiles of a product wait for the array: before a cube's own buffers L1, else what the array reads."""
        staged = self.core.matrix.dataflow == "cube" and "l1" in self.core.spaces
        return "l1" if staged else self.core.matrix.operand_space

    def path(self, src: str, dst: str) -> Path | None:
        """The legal path from `src` to `dst`, or None."""
        return next((p for p in self.core.paths if p.src == src and p.dst == dst), None)


# What one field alone cannot show. Each fault is "key.path: what is wrong", and the loader adds file and line.


def _space_faults(machine: Machine) -> Iterator[str]:
    spaces = machine.core.spaces
    for name in spaces:
        if name not in CORE_SPACES:
            yield f"core.spaces.{name}: unknown space; a space of a core is one of {', '.join(CORE_SPACES)}"
    yield from _bank_faults(machine)
    matrix = machine.core.matrix
    named = {"acc_space": matrix.acc_space, "operand_space": matrix.operand_space}
    if matrix.operand_b_space is not None:
        named["operand_b_space"] = matrix.operand_b_space
    for field, name in named.items():
        if name not in spaces:
            yield f"core.matrix.{field}: {name!r} is not a space of the core; there are {', '.join(sorted(spaces))}"
    if machine.activation_space == "spm" and "spm" not in spaces:
        yield "activation_space: 'spm' is not a space of the core"


def _bank_faults(machine: Machine) -> Iterator[str]:
    """Addresses are dealt out to banks, and bytes to lanes, by their bits."""
    figures = {} if machine.core.vector is None else {"core.vector.lane_bytes": machine.core.vector.lane_bytes}
    for name, space in machine.core.spaces.items():
        key = f"core.spaces.{name}"
        figures |= {f"{key}.bank_groups": space.bank_groups, f"{key}.bank_bytes": space.bank_bytes}
        if space.bank_size_bytes and not space.bank_groups:
            yield f"{key}.bank_size_bytes: {space.bank_size_bytes}, but bank_groups is 0: give the number of groups too"
        if space.bank_size_bytes % space.bank_bytes:
            yield f"{key}.bank_size_bytes: {space.bank_size_bytes} is no multiple of bank_bytes, {space.bank_bytes}"
        around = space.bank_groups * space.bank_bytes
        if around > space.size_bytes:
            why = f"size_bytes is {space.size_bytes}: give fewer or smaller blocks"
            yield f"{key}.bank_groups: a block of each of {space.bank_groups} groups is {around} bytes, but {why}"
    for key, value in figures.items():
        if value & (value - 1):
            low = 1 << (value.bit_length() - 1)
            yield f"{key}: {value} is not a power of two; {low} and {2 * low} are the nearest"


def _path_faults(machine: Machine) -> Iterator[str]:
    core, matrix = machine.core, machine.core.matrix
    spaces, pipes = {*core.spaces, *CHIP_SPACES}, {*core.dma, "weights"}
    if (matrix.dataflow == "cube") != (matrix.depth_bytes > 0):
        yield "core.matrix.depth_bytes: needed by, and only by, `dataflow: cube`"
    if matrix.fractal_bytes not in (0, matrix.depth_bytes):
        yield "core.matrix.fractal_bytes: a row of a fractal is one of a cube's block: `depth_bytes`, or 0 without them"
    seen: set[tuple[str, str]] = set()
    for i, path in enumerate(core.paths):
        for field, end in (("src", path.src), ("dst", path.dst)):
            if end not in spaces:
                yield f"core.paths.{i}.{field}: {end!r} is not a space; there are {', '.join(sorted(spaces))}"
        if path.pipe not in pipes:
            yield f"core.paths.{i}.pipe: {path.pipe!r} is not an engine; there are {', '.join(sorted(pipes))}"
        if (path.pipe == "weights") != (path.dst == "wfifo"):
            yield f"core.paths.{i}.pipe: the pipe 'weights' and the space 'wfifo' belong together"
        if (path.src, path.dst) in seen:
            yield f"core.paths.{i}: a second path from {path.src} to {path.dst}; one is allowed"
        seen.add((path.src, path.dst))
    # Operands must be able to get from DRAM (or the host) to the array's operand space and weight port.
    reached = set(CHIP_SPACES)
    for _ in core.spaces:
        reached |= {p.dst for p in core.paths if p.src in reached}
    wanted = {matrix.operand_space, matrix.operand_b_space or matrix.operand_space}
    wanted |= set() if matrix.streams_both else {"wfifo"}
    for space in sorted(wanted - reached):
        yield f"core.paths: no legal way from dram or host to {space!r}, which feeds the array"


def _group_faults(machine: Machine) -> Iterator[str]:
    """Spaces of other kinds of cores: each exists, belongs to one kind, and leaves the array with the first."""
    matrix = machine.core.matrix
    owner: dict[str, str] = {}
    for name, group in machine.other_cores.items():
        for space in group.spaces:
            if space not in machine.core.spaces:
                have = ", ".join(sorted(machine.core.spaces))
                yield f"other_cores.{name}.spaces: {space!r} is not a space of core.spaces ({have})"
            if space in owner:
                yield f"other_cores.{name}.spaces: {space!r} belongs to {owner[space]} already"
            owner[space] = name
    for home in (matrix.operand_space, matrix.operand_b_space, matrix.acc_space):
        if home is not None and home in owner:
            yield f"other_cores.{owner[home]}.spaces: {home!r} is the array's, which is on the cores of `cores`"
    for i, path in enumerate(machine.core.paths):
        if not machine.cores_with([path.src, path.dst]):
            yield f"core.paths.{i}: {path.src} and {path.dst} are in different kinds of cores; go through dram"
    if machine.all_cores > 4096:
        yield f"other_cores: {machine.all_cores} cores in all, at most 4096"


def _stall_faults(machine: Machine) -> Iterator[str]:
    """Stalls of writes into spaces where no transfer meets a copy."""
    paths = machine.core.paths
    for name, space in machine.core.spaces.items():
        filled = any(path.dst == name and path.src in ("dram", "host") for path in paths)
        read = any(path.src == name and path.dst not in ("dram", "host") for path in paths)
        if space.write_stall_cycles and not (filled and read):
            yield (
                f"core.spaces.{name}.write_stall_cycles: does nothing, because no path fills {name} from memory while "
                "another copies out of it on the core: leave it at 0"
            )


def _name_faults(machine: Machine) -> Iterator[str]:
    core, matrix = machine.core, machine.core.matrix
    if machine.default_dtype not in matrix.passes:
        yield f"default_dtype: {machine.default_dtype!r} is not in core.matrix.passes ({', '.join(matrix.passes)})"
    operations = {op.name.removeprefix("v.") for op in TABLE if op.group == "vector"}
    wanted: list[tuple[str, Iterable[str], Iterable[str]]] = [
        ("core.matrix.passes", matrix.passes, DTYPES),
        ("core.matrix.accumulate", matrix.accumulate, DTYPES),
        ("core.matrix.accumulate", matrix.accumulate.values(), DTYPES),
        ("core.bundle", core.bundle or (), BUNDLE_SLOTS),
    ]
    if core.vector is not None:
        wanted += [
            ("core.vector.op_cycles", core.vector.op_cycles, operations),
            ("core.vector.operations", core.vector.operations, operations),
            ("core.vector.dtypes", core.vector.dtypes, DTYPES),
            ("core.vector.unpack_ops", core.vector.unpack_ops, DTYPES),
            ("core.vector.pack_ops", core.vector.pack_ops, DTYPES),
        ]
    if core.drain is not None:
        wanted.append(("core.drain.activations", core.drain.activations, ACTIVATIONS))
    wanted += [(f"core.dma.{name}.activations", engine.activations, ACTIVATIONS) for name, engine in core.dma.items()]
    for key, names, known in wanted:
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, list(known), n=1)
                hint = f", did you mean {near[0]!r}?" if near else f"; one of {', '.join(sorted(known))}"
                yield f"{key}: unknown name {name!r}{hint}"
    for name in matrix.passes:
        if name not in matrix.accumulate:
            yield f"core.matrix.accumulate: no accumulator type for operands of {name!r}"
    if (machine.issue == "vliw") != (core.bundle is not None):
        yield "core.bundle: issue slots are needed by, and only by, `issue: vliw`"
