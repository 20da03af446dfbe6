"""Memories of every shipped DRAM part, requests pushed through the port, and the commands that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
from dram_twin import Command, Place

from isa.loader import load_machine
from isa.memory import Controller, DramPart, DramTiming, Memory
from npusim.memory.controller.mapping import locate_all
from npusim.memory.controller.setup import Channels, kept_commands
from npusim.memory.controller.timing import COMMANDS, ticks_a_cycle
from npusim.memory.dram import OK, advance, memory_flush
from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS, RSP_WAIT_FS, MemoryPort, make_port, ring_push
from npusim.memory.state import MemoryState, make_memory

PARTS = sorted(f.name.removesuffix(".yaml") for f in (files("configs") / "parts" / "dram").iterdir())
# nCCD_L is no multiple of nCCD_S, so that runs go round all four groups; two banks each, figures without a pattern.
ODD = DramPart(
    tck_ps=833, bus_bits=64, data_rate=2, burst_length=8, bank_groups=4, banks_per_group=2, page_bytes=1024, rows=4096,
    timing=DramTiming(nCL=9, nCWL=7, nRCDRD=11, nRCDWR=8, nRP=10, nRAS=25, nRC=37, nWR=13, nRTP=6, nCCD_S=4, nCCD_L=11,
                      nRRD_S=5, nRRD_L=9, nFAW=31, nWTR_S=3, nWTR_L=8, nRFC=70, nREFI=400),
)  # fmt: skip
Row = tuple[int, int, int, int]  # time_fs, address, size, write
FAR_FS = 1 << 55
CAPACITY = 1 << 28


@cache
def part(name: str) -> DramPart:
    """A shipped part, or `odd`."""
    if name == "odd":
        return ODD
    return load_machine("tiny", (f"memory.dram={name}", "memory.capacity_bytes=1000000")).machine.memory.dram


def memory(dram: DramPart | str, channels: int = 1, interleave: int = 256, **options: Any) -> Memory:
    """Channels of a part, with controller options; `model`, `ideal_bytes_per_cycle`: of the memory."""
    own = {name: options.pop(name) for name in ("model", "ideal_bytes_per_cycle", "capacity_bytes") if name in options}
    return Memory(
        dram=part(dram) if isinstance(dram, str) else dram, channels=channels, interleave_bytes=interleave,
        controller=Controller(**options), **{"capacity_bytes": CAPACITY, **own},
    )  # fmt: skip


def changed(dram: DramPart, **timing: int) -> DramPart:
    """The part with other timing."""
    return dram.model_copy(update={"timing": dram.timing.model_copy(update=timing)})


def make(described: Memory, **options: Any) -> MemoryState:
    """The idle memory, of a chip at 1 GHz."""
    return make_memory(SimpleNamespace(memory=described, clock_mhz=1000.0), **options)


def tick_fs(described: Memory) -> int:
    return round(described.dram.tck_ps * 1000 / ticks_a_cycle(described.dram))


def peak(described: Memory) -> float:
    """Bytes a femtosecond that the data buses carry at most."""
    return described.channels * described.dram.channel_bytes_per_second * 1e-15


def push(port: MemoryPort, rows: Sequence[Row]) -> None:
    """Append requests; the tag is the number of the row."""
    for tag, (time_fs, address, size, write) in enumerate(rows):
        assert ring_push(port.requests, port.ring, time_fs, 0, address, size, write, tag)


def answers(port: MemoryPort) -> dict[int, tuple[int, int]]:
    """(time, wait) of each answer in the heap, by tag; two of one tag are an error."""
    rows = port.responses[: port.heap_state[HEAP_SIZE]]
    found = {int(r[RSP_TAG]): (int(r[RSP_TIME_FS]), int(r[RSP_WAIT_FS])) for r in rows}
    assert len(found) == len(rows)
    return found


@dataclass
class Served:
    """Answers of all requests in fs, the end of the last write, and the memory afterwards."""

    times: list[int]
    waits: list[int]
    flushed: int
    state: MemoryState
    port: MemoryPort

    @property
    def last(self) -> int:
        """When everything was done."""
        return max(*self.times, self.flushed)

    @property
    def counts(self) -> dict[str, int]:
        return self.state.summary()


def serve(described: Memory, rows: Sequence[Row], **options: Any) -> Served:
    """Serve the rows on an idle memory, then write all that is queued; everyone is answered exactly once."""
    state, port = make(described, **options), make_port(len(rows), len(rows))
    push(port, rows)
    assert advance(state, port, (rows[-1][0] if rows else 0) + FAR_FS // 1000) == OK
    found = answers(port)
    assert sorted(found) == list(range(len(rows)))
    flushed = memory_flush(*state.arrays, port.responses, port.heap_state)
    times, waits = ([found[i][k] for i in range(len(rows))] for k in (0, 1))
    return Served(times, waits, flushed, state, port)


def place_of(dram: DramPart, bank: int) -> Place:
    """Pseudo-channel, stack id, group and bank of a bank's number."""
    group, bank = divmod(bank, dram.banks_per_group)
    stack, group = divmod(group, dram.bank_groups)
    return (*divmod(stack, dram.stack_ids), group, bank)


def kept(state: MemoryState, dram: DramPart, channel: int = 0) -> list[Command]:
    """The kept commands of a channel as the twin writes them."""
    found = []
    for tick, command, bank, row in kept_commands(Channels(state.control, *[state.state] * 3), channel):
        kind, place = COMMANDS[command], place_of(dram, int(bank))
        if kind in ("PREA", "REFA"):
            place = (place[0], -1, -1, -1)
        found.append(Command(int(tick), kind, place, int(row) if kind in ("ACT", "RD", "WR") else -1))
    return found


def where(state: MemoryState, address: Any) -> Any:
    """Channel, bank and row of byte addresses, as the rows of an array."""
    address = np.atleast_1d(np.asarray(address, np.int64))
    found = np.zeros((3, len(address)), np.int64)
    locate_all(state.where, address, found[0], found[1], found[2])
    return found


def conflicting(described: Memory, address: int = 0) -> int:
    """The next address in another row of the same bank."""
    state = make(described)
    step = described.dram.page_bytes
    mine = where(state, address)[:, 0]
    for other in count(address + step, step):
        c, bank, row = where(state, other)[:, 0]
        if c == mine[0] and bank == mine[1] and row != mine[2]:
            return other
    raise AssertionError
