"""The machine description of chips with threads (`issue: simt`): cores that issue warps to pipes of sub-cores.

A chip of which only the memory is described (isa.chip.MemoryChip) becomes one by the fields of its core here; what its
memory sees stays the same, so that it is held against the same measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from isa.chip import MemoryChip, RequestCore, Warps
from isa.schema_types import Count, Natural, Part, Positive
from isa.table import BY_NAME
from isa.table_simt import FMA, LANE_REGISTERS, LSU, MMA_SHAPES, SIMT_PIPES, TENSOR

MAX_RESIDENT = 128  # warps of a core that the engine keeps


class ExecPipe(Part):
    """A pipe of each sub-core: a warp instruction occupies it `interval_cycles`, its result can be used after
    `latency_cycles`. Pipes of sub-cores are all alike."""

    interval_cycles: Count
    latency_cycles: Natural
    label: str = ""


class OpCost(Part):
    """What one operation has of its own: the pipe it takes, how long it occupies it, when its result can be used."""

    pipe: str | None = None
    interval_cycles: Count | None = None
    latency_cycles: Natural | None = None


class Registers(Part):
    """The register file of a core: 32-bit registers of lanes, given to warps in whole units."""

    count: Count
    unit: Count = 256  # registers a warp is given at once
    per_thread: Annotated[int, Field(ge=16, le=LANE_REGISTERS)] = LANE_REGISTERS
    warp_unit: Count = 1  # warps are counted up to a multiple of it: one a scheduler


class SharedMemory(Part):
    """The memory that the threads of a block share.

    With `unified_bytes` it and the L1 share so many: of the `carveouts` (bytes, ascending) the smallest one that holds
    the blocks is set, and the L1 has what is left, at most its own size. An access takes a cycle for each different
    row of `bank_bytes` that some bank is asked for.
    """

    size_bytes: Positive
    block_bytes: Positive  # that one block may have
    reserved_bytes: Natural = 0  # of each block, for the system
    granule_bytes: Count = 128
    banks: Annotated[int, Field(gt=0, le=64)] = 32
    bank_bytes: Annotated[int, Field(gt=0, le=8)] = 4
    latency_cycles: Natural
    unified_bytes: Natural = 0
    carveouts: list[Natural] = Field(default_factory=list)


class Scheduling(Part):
    """How a sub-core chooses among warps that could issue: loose round-robin, or greedy, then the oldest."""

    policy: Literal["lrr", "gto"] = "gto"
    branch_cycles: Count = 4  # from a branch, barrier or exit to the next instruction of the warp
    queue_depth: Count = 8  # memory instructions of a sub-core that wait for the load/store unit


class SimtCore(RequestCore):
    """A core: schedulers, pipes, registers, shared memory, L1."""

    scheduling: Scheduling = Scheduling()
    registers: Registers
    shared: SharedMemory
    pipes: dict[str, ExecPipe]
    operations: dict[str, OpCost] = Field(default_factory=dict)
    mma: dict[str, ExecPipe] = Field(default_factory=dict)  # by operation; what is absent the chip does not have


class SimtMachine(MemoryChip):
    """A chip whose cores run threads."""

    issue: Literal["simt"]
    core: SimtCore
    launch_cycles: Natural = 0

    @model_validator(mode="after")
    def _threads(self) -> SimtMachine:
        faults = list(_faults(self))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def why_no_programs(self) -> str:
        """One line for whoever wants to run a model on this chip."""
        return (
            f"{self.name}: no compiler makes kernels of threads yet; this chip runs hand-written ones: "
            f"`npusim kernel FILE.asm --hw {self.name} --grid G --block B`"
        )

    @property
    def warp_size(self) -> int:
        """Threads of a warp."""
        assert self.core.warps is not None
        return self.core.warps.size

    def has(self, name: str) -> bool:
        """True when the chip can execute the operation called `name`."""
        return name not in MMA_SHAPES or name in self.core.mma


def _faults(chip: SimtMachine) -> Iterator[str]:
    if chip.core.warps is None:
        yield "core.warps: missing; threads come in warps"
        return
    yield from _warp_faults(chip.core.warps)
    yield from _pipe_faults(chip.core)
    yield from _shared_faults(chip.core)


def _warp_faults(warps: Warps) -> Iterator[str]:
    if warps.size not in (32, 64):
        yield f"core.warps.size: {warps.size} is neither 32 nor 64"
    if warps.resident > MAX_RESIDENT:
        yield f"core.warps.resident: {warps.resident} is more than {MAX_RESIDENT}"
    if warps.resident % warps.schedulers:
        yield f"core.warps.resident: {warps.resident} is no multiple of the {warps.schedulers} schedulers"


def _pipe_faults(core: SimtCore) -> Iterator[str]:
    named = set(SIMT_PIPES) - {"tensor"}
    for name in sorted(named - set(core.pipes)):
        yield f"core.pipes.{name}: missing; give interval_cycles and latency_cycles"
    for name in sorted(set(core.pipes) - set(SIMT_PIPES)):
        yield f"core.pipes.{name}: unknown pipe; there are {', '.join(SIMT_PIPES)}"
    for name, cost in core.operations.items():
        op = BY_NAME.get(name)
        if op is None or op.pipe < FMA or op.pipe in (LSU, TENSOR):
            yield f"core.operations.{name}: not an operation of lanes that takes a pipe"
        if cost.pipe is not None and cost.pipe not in core.pipes:
            yield f"core.operations.{name}.pipe: {cost.pipe!r} is not in core.pipes"
    for name in core.mma:
        if name not in MMA_SHAPES:
            yield f"core.mma.{name}: unknown product; there are {', '.join(MMA_SHAPES)}"


def _shared_faults(core: SimtCore) -> Iterator[str]:
    shared, largest = core.shared, max(core.shared.carveouts, default=0)
    if shared.block_bytes + shared.reserved_bytes > shared.size_bytes:
        yield (
            f"core.shared.block_bytes: {shared.block_bytes} and {shared.reserved_bytes} reserved are more than "
            f"core.shared.size_bytes {shared.size_bytes}"
        )
    if shared.carveouts and (shared.carveouts != sorted(set(shared.carveouts)) or largest < shared.size_bytes):
        yield f"core.shared.carveouts: must rise and reach core.shared.size_bytes {shared.size_bytes}"
    if bool(shared.carveouts) != bool(shared.unified_bytes):
        yield "core.shared.carveouts: they and core.shared.unified_bytes belong together"
    if shared.carveouts and shared.carveouts[-1] >= shared.unified_bytes:
        yield (
            f"core.shared.carveouts: {shared.carveouts[-1]} leave nothing of core.shared.unified_bytes "
            f"{shared.unified_bytes} for the L1"
        )
