"""The memory side of the machine description: DRAM parts, channels and how the chip reaches them."""

from __future__ import annotations

import re
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
    organisation = [*_organisation_faults(memory.dram)]
    yield from organisation
    yield from _dram_faults(memory)
    yield from _refresh_faults(memory)
    yield from _controller_faults(memory)
    if not organisation:
        yield from _mapping_faults(memory)
    if memory.l2 is not None:
        yield from cache_faults("memory.l2", memory.l2)
        total = memory.l2.size_bytes * memory.l2.slices
        if total > memory.capacity_bytes:
            yield (
                f"memory.l2.size_bytes: {memory.l2.slices} slices hold {total} bytes, more than memory.capacity_bytes "
                f"{memory.capacity_bytes}: set memory.l2.size_bytes, of a slice, to less"
            )
        sector = memory.l2.sector_bytes
        if memory.capacity_bytes % sector:
            yield (
                f"memory.capacity_bytes: {memory.capacity_bytes} is not a whole number of sectors of {sector} bytes "
                f"(memory.l2.sector_bytes): set it to {max(1, memory.capacity_bytes // sector) * sector}"
            )
    if memory.network is not None:
        slices = memory.l2.slices if memory.l2 is not None else 0
        yield from shared_network_faults(memory.network, cores, slices, memory.channels)


def _interleave_faults(memory: Memory) -> Iterator[str]:
    """Whole bursts, a power of two of them, and a turn of every channel."""
    unit, burst = memory.interleave_bytes, memory.dram.burst_bytes
    share = memory.capacity_bytes // memory.channels
    if share < burst:
        yield (
            f"memory.capacity_bytes: {memory.capacity_bytes} gives each of {memory.channels} channels {share} bytes, "
            f"less than a burst of {burst}: set it to {memory.channels * burst} or more"
        )
    elif unit > share:
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
    total = memory.channels * part.banks * part.rows * part.page_bytes
    if memory.capacity_bytes > total:
        yield (
            f"memory.capacity_bytes: {memory.capacity_bytes} is more than {memory.channels} channels of memory.dram "
            f"hold ({total}): set memory.capacity_bytes to {total} or less (--set memory.capacity_bytes={total}), or "
            "memory.channels to more"
        )


MAX_BANKS, MAX_BY_BANK, MAX_PIECES = 1024, 62, 12  # what npusim.memory.controller keeps
FIELDS = ("Co", "Pc", "Si", "Bg", "Ba", "Ro")
_PIECE = re.compile(rf"({'|'.join(FIELDS)})([0-9]{{0,2}})")


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _organisation_faults(part: DramPart) -> Iterator[str]:
    """Addresses are cut into whole bits, and columns come as fast as bursts leave the bus."""
    for name in ("bank_groups", "banks_per_group", "stack_ids", "pseudo_channels"):
        value: int = getattr(part, name)
        if value & (value - 1):
            yield f"memory.dram.{name}: {value} is not a power of two: set it to {1 << _log2(value)}"
    burst = part.burst_bytes
    if burst & (burst - 1):
        yield (
            f"memory.dram.burst_length: {part.burst_length} transfers of {part.bus_bits} bits are a burst of {burst} "
            "bytes, which is not a power of two: change it or memory.dram.bus_bits"
        )
    elif part.page_bytes % burst == 0 and (pages := part.page_bytes // burst) & (pages - 1):
        yield (
            f"memory.dram.page_bytes: {part.page_bytes} is not a power of two of bursts of {burst} bytes: set it to "
            f"{burst << _log2(pages)}"
        )
    if part.banks > MAX_BANKS:
        yield (
            f"memory.dram: a channel of {part.banks} banks; at most {MAX_BANKS} are simulated: use fewer "
            "pseudo_channels, stack_ids, bank_groups or banks_per_group"
        )
    columns, cycles = part.timing.nCCD_S, part.burst_length / part.data_rate
    if cycles % 1 or cycles < columns:  # the bus would stand still after every burst
        whole = columns * part.data_rate
        ways = [f"memory.dram.burst_length to {whole}"] if whole & (whole - 1) == 0 else []
        ways += [f"memory.dram.timing.nCCD_S to {cycles:g}"] if cycles >= 1 and cycles % 1 == 0 else []
        ways += ["memory.dram.tck_ps, the clock, for another speed of the same part"]
        yield (
            f"memory.dram.data_rate: at {part.data_rate} transfers a cycle a burst of {part.burst_length} holds the "
            f"bus for {cycles:g} cycles, but columns follow each other every nCCD_S = {columns}, so the rate is never "
            f"reached: set {', or '.join(ways)}"
        )


def _refresh_faults(memory: Memory) -> Iterator[str]:
    part, options, timing = memory.dram, memory.controller, memory.dram.timing
    if options.refresh == "per_bank" and not (timing.nRFCpb and part.banks <= MAX_BY_BANK):
        yield (
            f"memory.controller.refresh: per_bank needs memory.dram.timing.nRFCpb and at most {MAX_BY_BANK} banks a "
            f"channel, the part has {part.banks}: set memory.controller.refresh to auto"
        )
    by_bank = options.refresh in ("auto", "per_bank") and timing.nRFCpb is not None and part.banks <= MAX_BY_BANK
    least = {"nRFC + nRP": timing.nRFC + timing.nRP}
    if options.refresh in ("auto", "per_bank") and timing.nRFCpb:
        least["nRFCpb + nRP"] = timing.nRFCpb + timing.nRP
    if by_bank:
        least[f"nRREFD x {part.banks} banks"] = part.banks * timing.nRREFD
    name = max(least, key=lambda key: least[key])
    if timing.nREFI <= least[name]:
        yield (
            f"memory.dram.timing.nREFI: {timing.nREFI} is not more than {name} = {least[name]}: nothing but refreshes "
            f"would run; set it to {least[name] + 1} or more"
            + (", or memory.controller.refresh to all_bank" if "banks" in name else "")
        )


def _controller_faults(memory: Memory) -> Iterator[str]:
    options = memory.controller
    if options.write_low > options.write_high:
        yield (
            f"memory.controller.write_low: {options.write_low} is above write_high {options.write_high}: set it to "
            f"{options.write_high} or less"
        )
    if not options.write_when_idle and options.age_limit_ns is None:
        yield (
            "memory.controller.age_limit_ns: without it, and with write_when_idle false, the last writes would never "
            "be written: set it to 2000 or so"
        )
    span, unit = options.granule_bytes // memory.interleave_bytes, memory.interleave_bytes
    if options.hashing == "random" and (
        options.granule_bytes % unit or span & (span - 1) or memory.channels % max(1, span)
    ):
        yield (
            f"memory.controller.granule_bytes: {options.granule_bytes} is not a power of two of "
            f"memory.interleave_bytes {unit} that divides the {memory.channels} channels: set it to {unit}"
        )


def _mapping_faults(memory: Memory) -> Iterator[str]:
    """A map names every field of the part's addresses, whole, and the row first."""
    mapping, part = memory.controller.mapping, memory.dram
    if mapping == "auto":
        return
    sizes = {"Co": max(1, part.page_bytes // part.burst_bytes), "Pc": part.pseudo_channels, "Si": part.stack_ids,
             "Bg": part.bank_groups, "Ba": part.banks_per_group}  # fmt: skip
    left = {**{name: _log2(size) for name, size in sizes.items()}, "Ro": 62}
    example = "Ro" + "".join(name for name in ("Pc", "Si", "Ba", "Bg", "Co") if left[name])
    remedy = f"set it to {example}, or to auto"
    found = list(_PIECE.finditer(mapping))
    if "".join(m.group(0) for m in found) != mapping or not found:
        yield (
            f"memory.controller.mapping: {mapping!r:.80} is not a row of {', '.join(FIELDS)} (with a number of bits, "
            f"or none for all that are left), highest first: {remedy}"
        )
        return
    pieces = []
    for match in reversed(found):
        name, count = match.group(1), match.group(2)
        size = int(count) if count else left[name]
        if size > left[name]:
            yield f"memory.controller.mapping: {mapping!r:.80} takes {size} of {left[name]} bits of {name}: {remedy}"
            return
        left[name] -= size
        pieces += [name] if size else []
    missing = [name for name, bits in left.items() if bits and name != "Ro"]
    if missing:
        yield f"memory.controller.mapping: {mapping!r:.80} leaves out bits of {', '.join(missing)}: {remedy}"
    elif not pieces or pieces[-1] != "Ro":
        yield f"memory.controller.mapping: {mapping!r:.80} does not begin with Ro, the row: {remedy}"
    elif len(pieces) > MAX_PIECES:
        yield f"memory.controller.mapping: {mapping!r:.80} has more than {MAX_PIECES} pieces: {remedy}"


def idle_reason(memory: Memory, key: str) -> tuple[str, str] | None:
    """The switch (a key path) because of which the figure at a key path (`memory.controller.granule_bytes`) changes
    nothing, and what to do; None where it does change something."""
    options = memory.controller
    if key == "memory.ideal_bytes_per_cycle" and memory.model != "ideal":
        return "memory.model", "only memory.model ideal reads it: set that too, or memory.dram.tck_ps instead"
    if key in ("memory.controller.granule_bytes", "memory.controller.window_granules") and options.hashing != "random":
        switch = "memory.controller.hashing"
        return switch, f"{switch} {options.hashing} does not read it: set that to random, or leave it out"
    if key in ("memory.controller.refresh_postpone", "memory.controller.refresh_blocks") and options.refresh == "none":
        switch = "memory.controller.refresh"
        return switch, f"{switch} none does not read it: set that to auto, or leave it out"
    return None
