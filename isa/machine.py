"""The machine description: what a chip has, as data, before it is resolved to integers.

A figure in YAML is a plain value or `{value, source, confidence}`; `isa.loader` separates the values (validated here)
from their provenance. Units are in the key names. Both the compiler (what fits, what is legal) and the simulator (what
it costs) read this tree and nothing else about a chip.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

# Spaces that a core owns. `dram` and `host` belong to the chip and always exist.
CORE_SPACES = ("spm", "acc", "wfifo", "l1", "l0a", "l0b", "l0c", "ub", "smem")
CHIP_SPACES = ("dram", "host")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scalar(_Part):
    """The sequencer: `slots` scalar instructions a cycle, each `cycles` long (0: the host issues, no time of its own)."""

    slots: Positive = 1
    registers: Annotated[int, Field(ge=16, le=256)] = 64
    cycles: Natural = 1
    label: str = "SCALAR"


class Space(_Part):
    """One on-chip memory of a core. `ports` concurrent accessors are served; more wait."""

    size_bytes: Positive
    banks: Positive = 1
    ports: Positive = 8
    align_bytes: Positive = 1
    label: str = ""


class MatrixUnit(_Part):
    """A systolic array. `passes` gives, per operand dtype, the cycles that one streamed row occupies the array.

    Timing of one fold (isa.cost): load the stationary tile, stream, traverse. `psum_hop_cycles` and
    `input_register_cycles` describe the wires; `drain_counted` (os) counts shifting the results out;
    `fold_overlap` lets the next fold start while the last one drains; `weight_double_buffer` shifts the next
    stationary tile in while the present one works.
    """

    count: Positive = 1
    rows: Annotated[int, Field(gt=0, le=4096)]
    cols: Annotated[int, Field(gt=0, le=4096)]
    dataflow: Literal["ws", "os", "is"] = "ws"
    passes: dict[str, PositiveFloat]
    accumulate: dict[str, str]  # operand dtype -> accumulator dtype
    acc_space: str = "acc"  # where results accumulate
    operand_space: str = "spm"  # where streamed operands are read
    weight_fifo_tiles: Positive = 1
    weight_load_cycles: Natural | None = None  # cycles to shift one tile in; default: rows
    weight_double_buffer: bool = True
    fold_overlap: bool = True
    psum_hop_cycles: Positive = 1
    input_register_cycles: Natural = 0
    drain_counted: bool = False
    queue_depth: Positive = 8
    label: str = "MXU"
    weights_label: str = "WLOAD"


class VectorUnit(_Part):
    """A vector unit of lanes x sublanes elements a cycle an ALU; `op_cycles` multiplies the cost of slow operations."""

    lanes: Positive
    sublanes: Positive = 1
    alus: Positive = 1
    load_ports: Positive = 1
    store_ports: Positive = 1
    latency_cycles: Natural = 1
    op_cycles: dict[str, PositiveFloat] = Field(default_factory=dict)
    operations: list[str] = Field(default_factory=list)  # empty: every vector operation of the ISA
    dtypes: list[str] = Field(default_factory=list)  # empty: every dtype
    queue_depth: Positive = 8
    label: str = "VPU"


class CrossLaneUnit(_Part):
    """Transpose / reduce / permute across lanes: `elements_per_cycle` throughput after `latency_cycles`."""

    elements_per_cycle: PositiveFloat
    latency_cycles: Natural
    queue_depth: Positive = 8
    label: str = "XLU"


class DrainUnit(_Part):
    """The fixed output path of accumulators (activation pipe); absent: the vector unit drains."""

    elements_per_cycle: PositiveFloat
    latency_cycles: Natural
    activations: list[str]
    queue_depth: Positive = 8
    label: str = "ACT"


class DmaEngine(_Part):
    """A copy engine: it splits copies into requests of at most `request_bytes`, `outstanding` of them in flight."""

    count: Positive = 1
    queue_depth: Positive = 8
    outstanding: Positive = 64
    request_bytes: Annotated[int, Field(ge=8, le=65536)] = 512
    startup_cycles: Natural = 0
    label: str = "DMA"


class Path(_Part):
    """A legal way from `src` to `dst`, on engine `pipe` (a key of `dma`, or `weights` for the array's weight port)."""

    src: str
    dst: str
    pipe: str
    bytes_per_cycle: PositiveFloat
    latency_cycles: Natural = 0


class Core(_Part):
    """Everything that one core owns."""

    scalar: Scalar = Scalar()
    bundle: dict[str, Positive] | None = None  # vliw: issue slots a bundle by pipe class
    window: Annotated[int, Field(gt=0, le=62)] = 32  # instructions in flight (inorder: the interlock's reach)
    flags: Natural = 64
    spaces: dict[str, Space]
    matrix: MatrixUnit
    vector: VectorUnit | None = None
    cross_lane: CrossLaneUnit | None = None
    drain: DrainUnit | None = None
    dma: dict[str, DmaEngine]
    paths: list[Path]


class DramTiming(_Part):
    """JEDEC-style timing in command-clock cycles (names of JESD235/JESD79 with n for cycles)."""

    nCL: Positive
    nCWL: Positive
    nRCDRD: Positive
    nRCDWR: Positive
    nRP: Positive
    nRAS: Positive
    nRC: Positive
    nWR: Positive
    nRTP: Positive
    nCCD_S: Positive
    nCCD_L: Positive
    nRRD_S: Positive
    nRRD_L: Positive
    nFAW: Positive
    nWTR_S: Positive
    nWTR_L: Positive
    nRFC: Positive
    nREFI: Positive


class DramPart(_Part):
    """One kind of DRAM: organisation of a (pseudo-)channel and its timing."""

    tck_ps: PositiveFloat
    bus_bits: Positive
    data_rate: Positive  # transfers a command clock
    burst_length: Positive  # transfers a burst
    bank_groups: Positive
    banks_per_group: Positive
    page_bytes: Positive
    rows: Positive
    timing: DramTiming

    @property
    def burst_bytes(self) -> int:
        """Bytes of one burst."""
        return self.bus_bits * self.burst_length // 8

    @property
    def channel_bytes_per_second(self) -> float:
        """Peak of one channel."""
        return self.bus_bits / 8 * self.data_rate / (self.tck_ps * 1e-12)


class Memory(_Part):
    """The chip's DRAM: `channels` of `dram`; `model: ideal` keeps only bandwidth and latency, for closed-form tests."""

    dram: DramPart
    channels: Positive
    capacity_bytes: Positive
    interleave_bytes: Positive = 256
    model: Literal["cycle", "ideal"] = "cycle"
    request_latency_cycles: Positive = 1  # core clock, core to controller; also the engine's lookahead window
    response_latency_cycles: Natural = 0  # core clock, controller to core
    ideal_bytes_per_cycle: PositiveFloat | None = None  # core clock, whole chip; default: the part's peak
    label: str = "HBM"


class Host(_Part):
    """The host: its link and its cost for operators that the chip leaves to it (`ops`, ONNX names)."""

    bytes_per_second: PositiveFloat = 12e9
    op_latency_us: Annotated[float, Field(ge=0)] = 10.0
    flops_per_second: PositiveFloat = 1e11
    ops: list[str] = Field(default_factory=list)


class Machine(_Part):
    """One chip, complete: the only thing the compiler and the simulator know about it."""

    name: str
    description: str = ""
    issue: Literal["inorder", "vliw"]
    default_dtype: str
    clock_mhz: PositiveFloat  # core clock
    cores: Positive = 1
    launch_cycles: Natural = 0  # core cycles between one kernel's end and the next one's start
    activation_space: Literal["dram", "spm"] = "dram"  # where tensors live between kernels
    core: Core
    memory: Memory
    host: Host = Host()
    energy_pj: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _references_exist(self) -> Machine:
        spaces = set(self.core.spaces) | set(CHIP_SPACES)
        unknown = set(self.core.spaces) - set(CORE_SPACES)
        if unknown:
            raise ValueError(f"unknown space {sorted(unknown)}; an ISA space is one of {CORE_SPACES}")
        for path in self.core.paths:
            for end in (path.src, path.dst):
                if end not in spaces:
                    raise ValueError(f"path {path.src}->{path.dst} names space {end!r}; there are {sorted(spaces)}")
            if path.pipe not in self.core.dma and path.pipe != "weights":
                raise ValueError(f"path {path.src}->{path.dst} names pipe {path.pipe!r}, not one of {sorted(self.core.dma)}")
        matrix = self.core.matrix
        if matrix.acc_space not in self.core.spaces or matrix.operand_space not in self.core.spaces:
            raise ValueError("core.matrix.acc_space and operand_space must name spaces of the core")
        if self.default_dtype not in matrix.passes:
            raise ValueError(f"default_dtype {self.default_dtype!r} is not in core.matrix.passes {sorted(matrix.passes)}")
        self._reachable()
        return self

    def _reachable(self) -> None:
        """Operands must be able to get from DRAM (or the host) to the array's operand space and weight port."""
        matrix = self.core.matrix
        sources = {"dram", "host"}
        for _ in self.core.spaces:
            sources |= {p.dst for p in self.core.paths if p.src in sources}
        wanted = {matrix.operand_space} | ({"wfifo"} if matrix.dataflow != "os" else set())
        for space in wanted - sources:
            raise ValueError(f"core.paths gives no legal way from dram or host to {space!r}, which feeds the array")

    @property
    def peak_macs_per_cycle(self) -> float:
        """MACs a core cycle of the whole chip at `default_dtype`."""
        return self.macs_per_cycle(self.default_dtype)

    def macs_per_cycle(self, dtype: str) -> float:
        """MACs a core cycle of the whole chip for operands of `dtype`."""
        matrix = self.core.matrix
        return self.cores * matrix.count * matrix.rows * matrix.cols / matrix.passes[dtype]

    @property
    def dram_bytes_per_second(self) -> float:
        """Peak DRAM bandwidth of the chip."""
        return self.memory.channels * self.memory.dram.channel_bytes_per_second

    def path(self, src: str, dst: str) -> Path | None:
        """The legal path from `src` to `dst`, or None."""
        return next((p for p in self.core.paths if p.src == src and p.dst == dst), None)
