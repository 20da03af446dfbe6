"""Chips of which only the memory is described so far: what stands at a core's place is a generator of requests.

Such a chip validates the memory system (`npusim validate --kind stream`); it cannot run a program. When its issue model
arrives, the preset gains the fields of `isa.machine.Machine` and its issue leaves `MEMORY_ONLY`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from isa.cache import Cache, cache_faults
from isa.dtypes import DTYPES
from isa.machine import Machine
from isa.memory import Memory, memory_faults
from isa.schema_types import Count, Natural, Part, Positive, Rate

MemoryOnly = Literal["simt", "queues"]
MEMORY_ONLY: tuple[str, ...] = get_args(MemoryOnly)  # kinds of issue without a model of their own yet
KINDS = ("pointer_chase", "cache_bandwidth", "stream")  # of measurements that its memory can be held against
REQUEST_LIMIT = 512  # bytes of one request to the memory port


class LoadStore(Part):
    """How the memory instructions of a core reach its L1 and the port to the chip's memory.

    An instruction occupies the unit for `issue_cycles`, or as long as its bytes take at `bytes_per_cycle`. A result
    can be used `use_cycles` after its data are back in the core. `stores` are written sectors without an answer yet;
    the lines that loads may have in flight are `mshrs` of the L1.
    """

    bytes_per_cycle: Positive
    issue_cycles: Positive = 1
    use_cycles: Natural = 0
    port_bytes_per_cycle: Positive  # answers into the core; written data out of it
    stores: Count = 1024


class Warps(Part):
    """The threads of a core: how many there is room for, and what it costs to replace a block that has ended.

    `block_cycles` pass from the last instruction of a block to the first memory instruction of the block that takes
    its place: launch, special registers and index arithmetic, exit. The warps of a block start `warp_cycles` apart.
    """

    size: Annotated[int, Field(ge=1, le=128)]
    resident: Count
    blocks: Count
    schedulers: Count = 4
    block_cycles: Natural
    warp_cycles: Natural = 1


class Copier(Part):
    """An engine that copies between the chip's memory and a memory of the core, `outstanding` requests in flight."""

    count: Count = 1
    request_bytes: Annotated[int, Field(ge=8, le=REQUEST_LIMIT)]
    outstanding: Count
    startup_cycles: Natural = 0
    bytes_per_cycle: Rate
    direction: Literal["read", "write"]
    label: str = ""


class RequestCore(Part):
    """What a generator of requests needs of a core: threads with loads and stores (`warps`), or copy engines."""

    warps: Warps | None = None
    load_store: LoadStore | None = None
    l1: Cache | None = None
    copiers: dict[str, Copier] = Field(default_factory=dict)
    label: str = "CORE"


class CoreGroup(RequestCore):
    """Further cores of another kind."""

    count: Count


class MemoryChip(Part):
    """A chip as its memory sees it."""

    name: str
    description: str = ""
    issue: MemoryOnly
    default_dtype: str
    clock_mhz: Annotated[float, Field(ge=1, le=1e5)]  # core clock
    cores: Annotated[int, Field(gt=0, le=4096)]
    core: RequestCore
    other_cores: dict[str, CoreGroup] = Field(default_factory=dict)
    memory: Memory
    page_bytes: Positive | None = None  # arrays lie in pages, each anywhere in the memory; none: one behind the other

    @model_validator(mode="after")
    def _consistent(self) -> MemoryChip:
        faults = [*_core_faults(self), *_page_faults(self), *memory_faults(self.memory, self.all_cores)]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def all_cores(self) -> int:
        """Cores of all kinds: those of `cores`, then the other groups in their order."""
        return self.cores + sum(group.count for group in self.other_cores.values())

    @property
    def dram_bytes_per_second(self) -> float:
        """Peak DRAM bandwidth of the chip."""
        return self.memory.channels * self.memory.dram.channel_bytes_per_second

    @property
    def why_no_programs(self) -> str:
        """One line for whoever wants to run a model on this chip."""
        kinds = "" if self.core.warps is None else f"`npusim validate --hw {self.name} --kind {'|'.join(KINDS)}` and "
        return (
            f"{self.name}: only the memory of this chip is modelled so far; it serves {kinds}"
            f"`npusim chips show {self.name}`, but runs no program"
        )


def memory_chip(machine: Machine) -> MemoryChip:
    """A described machine as its memory sees it: the copy engines of its cores that reach DRAM, for generators."""
    groups = {"": machine.cores_with([])} | {
        name: machine.cores_with(group.spaces) for name, group in machine.other_cores.items()}
    found = {name: _copiers(machine, cores) for name, cores in groups.items()}
    others = {
        name: {"count": len(groups[name]), "copiers": found[name], "label": group.label}
        for name, group in machine.other_cores.items()
    }
    return MemoryChip.model_validate({
        "name": machine.name, "description": machine.description, "issue": "queues",
        "default_dtype": machine.default_dtype, "clock_mhz": machine.clock_mhz, "cores": machine.cores,
        "core": {"copiers": found[""]}, "other_cores": others, "memory": machine.memory,
    })  # fmt: skip


def _copiers(machine: Machine, cores: range) -> dict[str, Copier]:
    """The engines of some cores by name, each at the fastest of its paths from or to DRAM."""
    found: dict[str, Copier] = {}
    for path in sorted(machine.core.paths, key=lambda p: p.bytes_per_cycle):
        engine = machine.core.dma.get(path.pipe)
        if engine is None or "dram" not in (path.src, path.dst) or machine.cores_with([path.src, path.dst]) != cores:
            continue
        direction = "read" if path.src == "dram" else "write"
        found[f"{path.pipe}_{direction}"] = Copier.model_validate({
            "request_bytes": engine.request_bytes, "outstanding": engine.outstanding, "label": engine.label,
            "startup_cycles": engine.startup_cycles, "bytes_per_cycle": path.bytes_per_cycle, "direction": direction,
        })  # fmt: skip
    return found


def _core_faults(chip: MemoryChip) -> Iterator[str]:
    if chip.default_dtype not in DTYPES:
        yield f"default_dtype: unknown name {chip.default_dtype!r}; one of {', '.join(DTYPES)}"
    kinds = [("core", chip.core), *((f"other_cores.{name}", core) for name, core in chip.other_cores.items())]
    for key, core in kinds:
        if core.warps is None and not core.copiers:
            yield f"{key}: has neither warps nor copiers, so it asks the memory for nothing"
        if (core.warps is None) != (core.load_store is None):
            yield f"{key}.load_store: warps and a load_store unit belong together"
        if core.warps is not None and core.l1 is None:
            yield f"{key}.l1: missing; the loads of warps go through an L1"
        if core.warps is not None and core.warps.blocks > core.warps.resident:
            yield f"{key}.warps.blocks: {core.warps.blocks} is more than the {core.warps.resident} resident warps"
        if core.l1 is not None:
            yield from cache_faults(f"{key}.l1", core.l1)


def _page_faults(chip: MemoryChip) -> Iterator[str]:
    page, capacity = chip.page_bytes, chip.memory.capacity_bytes
    if page is not None and (page & (page - 1) or page > capacity):
        yield f"page_bytes: {page} is not a power of two of at most memory.capacity_bytes {capacity}: use 2097152"
