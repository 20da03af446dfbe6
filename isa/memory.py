"""The memory side of the machine description: DRAM parts, channels and how the chip reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from isa.cache import SharedCache, cache_faults
from isa.network import Network, shared_network_faults
from isa.schema_types import Count, Part, Positive

LONGEST = 1_000_000  # cycles: far beyond any part, and a run still ends
Ticks = Annotated[int, Field(gt=0, le=LONGEST)]
Pause = Annotated[int, Field(ge=0, le=LONGEST)]


class DramTiming(Part):
    """JEDEC-style timing in command-clock cycles (names of JESD235/JESD79 with n for cycles)."""

    nCL: Ticks
    nCWL: Ticks
    nRCDRD: Ticks
    nRCDWR: Ticks
    nRP: Ticks
    nRAS: Ticks
    nRC: Ticks
    nWR: Ticks
    nRTP: Ticks
    nCCD_S: Ticks
    nCCD_L: Ticks
    nRRD_S: Ticks
    nRRD_L: Ticks
    nFAW: Ticks
    nWTR_S: Ticks
    nWTR_L: Ticks
    nRFC: Ticks  # all banks
    nREFI: Ticks
    nRTW: Ticks | None = None  # read command to write command; default: nCL + burst + 2 - nCWL
    nCCD_S_WR: Ticks | None = None  # write to write, where it differs from nCCD_S
    nCCD_L_WR: Ticks | None = None
    nCCD_R: Ticks | None = None  # read to read, between stack ids
    nBL_max: Ticks | None = None  # LPDDR5: a burst as its own bank group sees it, for nWTR_L
    nPPD: Pause = 0  # precharge to precharge
    nRPab: Ticks | None = None  # precharge of all banks; default: nRP
    nRFCpb: Ticks | None = None  # refresh of one bank; none: the part refreshes all banks at once
    nRREFD: Pause = 0  # between refreshes of different banks
    nRREFD_ACT: Pause | None = None  # refresh of a bank to activation of another; default: nRREFD
    nAAD: Pause = 0  # LPDDR5: an activation is two commands, at most so far apart; 0: one
    nWCKPST: Pause = 0  # LPDDR5: the data clock stops so long after a burst and must then be synchronised by CAS


class DramPart(Part):
    """One kind of DRAM: organisation of a channel and its timing.

    The channel is what owns a command bus. Where pseudo-channels share one, `bus_bits`, banks and rows are those of
    one of the `pseudo_channels`; a part that gives each a controller of its own leaves that at 1.
    """

    tck_ps: Annotated[float, Field(ge=10, le=1e6)]
    bus_bits: Count
    data_rate: Count  # transfers a command clock
    burst_length: Count  # transfers a burst
    bank_groups: Annotated[int, Field(gt=0, le=64)]
    banks_per_group: Annotated[int, Field(gt=0, le=64)]
    page_bytes: Positive
    rows: Positive
    pseudo_channels: Annotated[int, Field(gt=0, le=4)] = 1
    stack_ids: Annotated[int, Field(gt=0, le=8)] = 1
    command_buses: Literal[1, 2] = 1  # 2: rows and columns have buses of their own (HBM)
    act_cycles: Annotated[float, Field(ge=1, le=4)] = 1  # of the command bus, for an activation
    half_cycle_commands: bool = False  # HBM3: precharges may go out on falling edges
    wck_sync: bool = False  # LPDDR5: the data clock is synchronised before bursts
    timing: DramTiming

    @property
    def burst_bytes(self) -> int:
        """Bytes of one burst."""
        return self.bus_bits * self.burst_length // 8

    @property
    def channel_bytes_per_second(self) -> float:
        """Peak of one channel."""
        return self.pseudo_channels * self.bus_bits / 8 * self.data_rate / (self.tck_ps * 1e-12)

    @property
    def banks(self) -> int:
        """Banks of one channel."""
        return self.pseudo_channels * self.stack_ids * self.bank_groups * self.banks_per_group


class Controller(Part):
    """How a channel's controller chooses; each field is an option, and the part `ramulator2` is that simulator.

    Reads go first until more than `write_high` of the write queue is taken; then writes, until less than `write_low`.
    """

    read_queue: Annotated[int, Field(ge=1, le=1024)] = 64  # places
    write_queue: Annotated[int, Field(ge=1, le=1024)] = 32
    entry_bytes: Annotated[int, Field(ge=1, le=65536)] = 64  # of a place, at least a burst; long runs take several
    write_high: Annotated[float, Field(gt=0, le=1)] = 0.8
    write_low: Annotated[float, Field(ge=0, le=1)] = 0.2
    write_when_idle: bool = True  # while no read waits; false: they wait for `write_high`, a read or their age
    write_batch: Annotated[float, Field(gt=0, le=1000)] | None = 2  # write queues in a row while reads wait
    protect_hits: Literal["none", "older", "all"] = "all"  # a row stays open for: nobody, older entries, every entry
    age_limit_ns: Annotated[float, Field(gt=0, le=1e9)] | None = 2000  # then no row is kept open against the oldest
    columns_first: bool = True  # on a shared command bus; false: by age alone
    trains: bool = True  # the row hits of one run go out in one piece
    opened_leave_queue: bool = False  # an entry gives up its place when its row is opened
    row_policy: Literal["open", "closed"] = "open"  # closed: rows that no entry wants are precharged
    refresh: Literal["auto", "all_bank", "per_bank", "none"] = "auto"  # auto: by bank where the part can
    refresh_postpone: Annotated[int, Field(ge=0, le=8)] = 8  # refreshes that may be owed while entries wait
    refresh_blocks: bool = False  # a refresh that is due stops all new work of its channel
    posted_writes: bool = True  # a write is answered when it has a place in the queue, not when it is done
    write_done: Literal["data", "command"] = "data"  # when a write counts as done
    mapping: str = "auto"  # fields of a channel's address, highest bit to lowest above a burst, as in RoBaBgCoBg1
    hashing: Literal["none", "rotate", "xor", "random"] = "rotate"
    granule_bytes: Annotated[int, Field(ge=1, le=65536)] = 1024  # random: bytes whose channels are drawn as one
    window_granules: Annotated[int, Field(ge=1, le=1024)] = 64  # random: of each place in a window, which is even


class Memory(Part):
    """The chip's DRAM: `channels` of `dram`; `model: ideal` keeps only bandwidth and latency, for closed-form tests.

    `controller` is the name of a part (`ramulator2`), or options that differ from the default.
    """

    dram: DramPart
    channels: Annotated[int, Field(gt=0, le=4096)]
    capacity_bytes: Positive
    interleave_bytes: Positive = 256
    private_channels: bool = False  # a run on fewer cores (run.cores) has their share of the channels only
    model: Literal["cycle", "ideal"] = "cycle"
    request_latency_cycles: Ticks = 1  # core clock, core to controller; also the engine's lookahead window
    response_latency_cycles: Pause = 0  # core clock, controller to core
    ideal_bytes_per_cycle: Annotated[float, Field(ge=1e-6, le=1e18)] | None = None  # core clock; none: its peak
    controller: Controller = Controller()
    label: str = "HBM"
    l2: SharedCache | None = None  # between the cores and the channels
    network: Network | None = None  # between the cores and the L2 slices, or the channels too; none: latencies alone


def memory_faults(memory: Memory, cores: int) -> Iterator[str]:
    """What one field of the memory of a chip of `cores` alone cannot show: each fault is "key.path: what is wrong"."""
    yield from _dram_faults(memory)
    if memory.l2 is not None:
        yield from cache_faults("memory.l2", memory.l2)
        total = memory.l2.size_bytes * memory.l2.slices
        if total > memory.capacity_bytes:
            yield (
                f"memory.l2.size_bytes: {memory.l2.slices} slices hold {total} bytes, more than memory.capacity_bytes "
                f"{memory.capacity_bytes}: set memory.l2.size_bytes, of a slice, to less"
            )
    if memory.network is not None:
        slices = memory.l2.slices if memory.l2 is not None else 0
        yield from shared_network_faults(memory.network, cores, slices, memory.channels)


def _interleave_faults(memory: Memory) -> Iterator[str]:
    """Whole bursts, a power of two of them, and a turn of every channel."""
    unit, burst = memory.interleave_bytes, memory.dram.burst_bytes
    share = memory.capacity_bytes // memory.channels
    if unit > share:
        yield (
            f"memory.interleave_bytes: {unit} is more than a channel's share of memory.capacity_bytes, {share}: then "
            f"some channels have none of it; set it to {min(4096, share)} or so"
        )
    elif unit < burst or unit % burst or (unit // burst) & (unit // burst - 1):
        near = burst << max(0, (unit // burst).bit_length() - 1)
        yield (
            f"memory.interleave_bytes: {unit} is not a power of two of bursts of {burst} bytes (memory.dram): "
            f"set it to {near}"
        )


def _dram_faults(memory: Memory) -> Iterator[str]:
    part, timing = memory.dram, memory.dram.timing
    if part.bus_bits * part.burst_length % 8:
        yield (
            f"memory.dram.burst_length: a burst of {part.bus_bits * part.burst_length} bits is not whole bytes: "
            "set it to a multiple of 8"
        )
    elif part.page_bytes % part.burst_bytes:
        whole = max(1, part.page_bytes // part.burst_bytes) * part.burst_bytes
        yield (
            f"memory.dram.page_bytes: {part.page_bytes} is not a multiple of a burst ({part.burst_bytes} bytes): "
            f"set it to {whole}"
        )
    else:
        yield from _interleave_faults(memory)
    if timing.nRC < timing.nRAS + timing.nRP:
        least = timing.nRAS + timing.nRP
        yield f"memory.dram.timing.nRC: {timing.nRC} is less than nRAS + nRP = {least}: set it to {least} or more"
    if timing.nREFI <= timing.nRFC:
        yield f"memory.dram.timing.nREFI: {timing.nREFI} is not more than nRFC = {timing.nRFC}: nothing else runs"
    total = memory.channels * part.banks * part.rows * part.page_bytes
    if memory.capacity_bytes > total:
        yield (
            f"memory.capacity_bytes: {memory.capacity_bytes} is more than {memory.channels} channels of memory.dram "
            f"hold ({total}): set memory.capacity_bytes to {total} or less (--set memory.capacity_bytes={total}), or "
            "memory.channels to more"
        )
