"""Address maps: which channel, bank, row and column a burst lies in.

A channel takes `interleave_bytes` at a time. What is left of the address is cut into fields, named from the highest
bits to the lowest: Ro row, Ba bank of a group, Bg bank group, Si stack id, Pc pseudo-channel, Co column; a number takes
only that many bits of the field, lowest first (`RoCoBaBgCo2`). Hashing spreads power-of-two pitches: `rotate` adds all
bits above to channel and bank (permutation-based interleaving, Zhang et al., MICRO 2000); `xor` combines each field
with bits of the column, as the map MOP4CLXOR of Ramulator; `random` rotates banks, and draws the module (some
neighbouring channels) of each granule from a fixed seed. Channels that take turns share any stream evenly; of what a
GPU has in flight some seem to get more than others, so that more than bandwidth times latency keeps all of them busy.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import ConfigError
from isa.memory import Controller, DramPart
from npusim.jit import inlined, kernel
from npusim.memory.controller.timing import burst_cycles

Array = npt.NDArray[Any]
FIELDS = ("Co", "Pc", "Si", "Bg", "Ba", "Ro")
CO, PC, SI, BG, BA, RO = range(6)
# Words of a map: header, then pieces of (field, bits), lowest first.
# M_TURN_BITS: log2 of the bank groups that the bursts of a run go round; M_RUN_BITS: of the bursts of a whole run;
# M_CHUNK_BITS: of the bursts that follow each other in one bank group. A run of whole rounds still goes round burst by
# burst; what is less than a round stays in the bank of its chunk.
(M_BURST_BITS, M_UNIT_BITS, M_CHANNELS, M_CHANNEL_BITS, M_HASH, M_TURN_BITS, M_CHUNK_BITS, M_RUN_BITS, M_PIECES,
 M_BANK_BITS, M_GROUP_BITS, M_STACK_BITS, M_PSEUDO_BITS, M_ROW_BITS, M_SPAN_BITS, M_PERIOD, M_GRANULES,
 M_EVEN, M_PIECE0) = range(19)  # fmt: skip
# M_SPAN_BITS: log2 of the units of a granule, M_PERIOD: granules of a window, whose places lie behind the pieces,
# M_GRANULES: of a module in it. M_EVEN: 1 if the number of channels is a power of two, so that shifts divide by it.
CLIENT_BYTES = 64  # the least that most clients ask for at once: it should open one row
MAX_PIECES = 12
M_TABLE = M_PIECE0 + 2 * MAX_PIECES
SEED = 1
MODULE_BITS = 16  # of a place: the module below, the rank above
MODULE_MASK = (1 << MODULE_BITS) - 1
HASHES = ("none", "rotate", "xor", "random")
ROTATE, XOR, RANDOM = 1, 2, 3
_PIECE = re.compile(r"(Ro|Ba|Bg|Si|Pc|Co)(\d*)")


def make_map(part: DramPart, channels: int, interleave_bytes: int, options: Controller) -> Array:
    """Return the map as int64 words; raises ConfigError for a map that leaves a field out or names one twice."""
    mapping, hashing, granule_bytes = options.mapping, options.hashing, options.granule_bytes
    bits = {
        "Co": _log2(part.page_bytes // part.burst_bytes, "memory.dram.page_bytes over the bytes of a burst"),
        "Bg": _log2(part.bank_groups, "memory.dram.bank_groups"),
        "Ba": _log2(part.banks_per_group, "memory.dram.banks_per_group"),
        "Si": _log2(part.stack_ids, "memory.dram.stack_ids"),
        "Pc": _log2(part.pseudo_channels, "memory.dram.pseudo_channels"), "Ro": 62,
    }  # fmt: skip
    pieces = _pieces(default_mapping(part, interleave_bytes) if mapping == "auto" else mapping, bits)
    words = np.zeros(M_TABLE, np.int64)
    words[M_BURST_BITS] = _log2(part.burst_bytes, "memory.dram: bytes of a burst")
    unit = max(1, interleave_bytes // part.burst_bytes)
    words[M_UNIT_BITS] = _log2(unit, "memory.interleave_bytes over the bytes of a burst")
    words[M_CHANNELS], words[M_CHANNEL_BITS] = channels, max(1, (channels - 1).bit_length())
    words[M_EVEN] = channels > 1 and channels & (channels - 1) == 0
    words[M_HASH] = HASHES.index(hashing)
    words[M_BANK_BITS], words[M_GROUP_BITS] = bits["Ba"], bits["Bg"]
    words[M_STACK_BITS], words[M_PSEUDO_BITS] = bits["Si"], bits["Pc"]
    words[M_ROW_BITS] = max(1, (part.rows - 1).bit_length())
    words[M_PIECES] = len(pieces)
    for i, (name, size) in enumerate(pieces):
        words[M_PIECE0 + 2 * i], words[M_PIECE0 + 2 * i + 1] = FIELDS.index(name), size
    if hashing != "xor":
        words[[M_TURN_BITS, M_CHUNK_BITS, M_RUN_BITS]] = _rounds(pieces, int(words[M_UNIT_BITS]))
    if hashing != "random":
        return words
    span = granule_bytes // interleave_bytes
    if granule_bytes % interleave_bytes or span < 1 or channels % span:
        raise ConfigError(
            f"memory.controller.granule_bytes: {granule_bytes} is not a whole number of memory.interleave_bytes "
            f"{interleave_bytes} that divides the {channels} channels: use {interleave_bytes}"
        )
    table = _places(channels // span, options.window_granules)
    words[M_SPAN_BITS] = _log2(span, "granule_bytes over memory.interleave_bytes")
    words[M_PERIOD], words[M_GRANULES] = len(table), options.window_granules
    return np.concatenate([words, table])


def _places(modules: int, ranks: int) -> Array:
    """Rank and module of each granule of a window; a module keeps their order, so that neighbours share rows."""
    module = np.random.default_rng(SEED).permutation(np.repeat(np.arange(modules), ranks))
    rank = np.empty_like(module)
    rank[np.argsort(module, kind="stable")] = np.tile(np.arange(ranks), modules)
    return np.asarray((rank << MODULE_BITS) + module)


def _rounds(pieces: list[tuple[str, int]], unit_bits: int) -> tuple[int, int, int]:
    """M_TURN_BITS, M_CHUNK_BITS, M_RUN_BITS of a map whose lowest pieces are columns and bank groups."""
    (low, bits), (middle, turn), (high, columns) = [*pieces, ("", 0), ("", 0)][:3]
    if low == "Bg" and middle == "Co":
        return bits, 0, bits + turn
    if low == "Co" and middle == "Bg" and high == "Co" and bits + turn <= unit_bits:
        return turn, bits, bits + turn + columns
    return 0, 0, bits if low == "Co" else 0


def default_mapping(part: DramPart, interleave_bytes: int) -> str:
    """The map whose runs go round as few bank groups as keep the data bus busy: each costs an activation.

    CLIENT_BYTES stay in one bank where an interleave unit holds a whole round of them.
    """
    t, burst = part.timing, burst_cycles(part)
    short, long = max(t.nCCD_S, burst), max(t.nCCD_L, t.nCCD_L_WR or 0, burst)
    groups = 1
    while groups < part.bank_groups and groups * short < long:
        groups *= 2
    turn = f"Bg{groups.bit_length() - 1}" if groups > 1 else ""
    chunk = CLIENT_BYTES // part.burst_bytes
    if turn and chunk > 1 and chunk * groups * part.burst_bytes <= interleave_bytes:
        turn += f"Co{chunk.bit_length() - 1}"
    return f"Ro{'Pc' if part.pseudo_channels > 1 else ''}{'Si' if part.stack_ids > 1 else ''}BaBgCo{turn}"


def _pieces(mapping: str, bits: dict[str, int]) -> list[tuple[str, int]]:
    found = list(_PIECE.finditer(mapping))
    if "".join(m.group(0) for m in found) != mapping or not found:
        raise ConfigError(
            f"memory.controller.mapping: {mapping!r} is not a row of {', '.join(FIELDS)} (with a number of bits, or "
            "none for all that are left), highest first, as in RoBaCoBg"
        )
    left, pieces = dict(bits), []
    for match in reversed(found):
        name, count = match.group(1), match.group(2)
        size = left[name] if not count else int(count)
        if size > left[name]:
            raise ConfigError(f"memory.controller.mapping: {mapping!r} takes {size} of {left[name]} bits of {name}")
        left[name] -= size
        if size:
            pieces.append((name, size))
    missing = [name for name, size in left.items() if size and name != "Ro"] + ["Ro"] * (pieces[-1][0] != "Ro")
    if missing or len(pieces) > MAX_PIECES:
        raise ConfigError(f"memory.controller.mapping: {mapping!r} leaves out {', '.join(missing)}; Ro is the first")
    return pieces


def _log2(value: int, name: str) -> int:
    if value <= 0 or value & (value - 1):
        raise ConfigError(
            f"{name} is {value}: it must be a power of two, such as {1 << max(0, value.bit_length() - 1)}"
        )
    return value.bit_length() - 1


@inlined
def folded(value: int, bits: int) -> int:
    """Return the sum of `value` and of what is left of it each time that `bits` low bits are dropped."""
    total = 0
    while value > 0:
        total += value
        value >>= bits
    return total


@inlined
def _drawn(where: Array, unit: int, channels: int) -> tuple[int, int]:
    """Windows differ by the module that they begin with."""
    bits, period = where[M_SPAN_BITS], where[M_PERIOD]
    modules, granule = channels >> bits, unit >> bits
    window = granule // period
    place = where[M_TABLE + granule - window * period]
    module = (place & MODULE_MASK) + (window & 15)
    while module >= modules:
        module -= modules
    channel = (module << bits) + unit - (granule << bits)
    return int(channel), int(window * where[M_GRANULES] + (place >> MODULE_BITS))


@inlined
def channel_of(where: Array, unit: int) -> tuple[int, int]:
    """Return the channel of an interleave unit, and the unit's number in that channel."""
    channels = where[M_CHANNELS]
    if where[M_HASH] == RANDOM:
        return _drawn(where, unit, channels)
    if where[M_EVEN]:
        upper = unit >> where[M_CHANNEL_BITS]
        c = unit + folded(upper, where[M_CHANNEL_BITS]) if where[M_HASH] == ROTATE else unit
        return int(c & (channels - 1)), int(upper)
    upper = unit // channels
    c = unit - upper * channels
    if where[M_HASH] == ROTATE:
        c = (c + folded(upper, where[M_CHANNEL_BITS])) % channels
    return int(c), int(upper)


@kernel
def locate(where: Array, local: int) -> tuple[int, int, int]:
    """Return bank, row and column of a burst of a channel, counted as if the channel's own were all there is."""
    column, pseudo, stack, group, bank, row = 0, 0, 0, 0, 0, 0
    column_bits, bank_bits, group_bits = 0, 0, 0
    for i in range(where[M_PIECES]):
        field, bits = where[M_PIECE0 + 2 * i], where[M_PIECE0 + 2 * i + 1]
        value = local & ((1 << bits) - 1)
        local >>= bits
        if field == CO:
            column |= value << column_bits
            column_bits += bits
        elif field == BG:
            group |= value << group_bits
            group_bits += bits
        elif field == BA:
            bank |= value << bank_bits
            bank_bits += bits
        elif field == RO:
            row = value
        elif field == PC:
            pseudo = value
        else:
            stack = value
    if where[M_HASH] == ROTATE or where[M_HASH] == RANDOM:
        bank, group = _rotated(where, bank, group, row)
    elif where[M_HASH] == XOR:
        pseudo, stack, group, bank, row = _xored(where, column, pseudo, stack, group, bank, row)
    index = (((pseudo << where[M_STACK_BITS]) + stack) << where[M_GROUP_BITS]) + group
    return (index << where[M_BANK_BITS]) + bank, row, column


@inlined
def _rotated(where: Array, bank: int, group: int, row: int) -> tuple[int, int]:
    """Shift banks, and the groups that runs do not go round, by the row: pages a power of two apart get other banks."""
    turn, bank_bits = where[M_TURN_BITS], where[M_BANK_BITS]
    bits = bank_bits + where[M_GROUP_BITS] - turn
    if bits < 2:  # with two places the rotation would put neighbouring pages into the same one
        return bank, group
    place = ((bank << (bits - bank_bits)) | (group >> turn)) + folded(row, bits)
    place &= (1 << bits) - 1
    low = group & ((1 << turn) - 1)
    return place >> (bits - bank_bits), ((place & ((1 << (bits - bank_bits)) - 1)) << turn) | low


@kernel
def _xored(
    where: Array, column: int, pseudo: int, stack: int, group: int, bank: int, row: int
) -> tuple[int, int, int, int, int]:
    pseudo ^= column & ((1 << where[M_PSEUDO_BITS]) - 1)
    column >>= where[M_PSEUDO_BITS]
    stack ^= column & ((1 << where[M_STACK_BITS]) - 1)
    column >>= where[M_STACK_BITS]
    group ^= column & ((1 << where[M_GROUP_BITS]) - 1)
    column >>= where[M_GROUP_BITS]
    bank ^= column & ((1 << where[M_BANK_BITS]) - 1)
    column >>= where[M_BANK_BITS]
    return pseudo, stack, group, bank, row ^ (column & ((1 << where[M_ROW_BITS]) - 1))


@kernel
def locate_all(where: Array, address: Array, channel: Array, bank: Array, row: Array) -> None:
    """Fill channel, bank and row of each byte address."""
    for i in range(address.shape[0]):
        burst = address[i] >> where[M_BURST_BITS]
        unit = burst >> where[M_UNIT_BITS]
        c, upper = channel_of(where, unit)
        local = (upper << where[M_UNIT_BITS]) + (burst & ((1 << where[M_UNIT_BITS]) - 1))
        channel[i] = c
        bank[i], row[i], _ = locate(where, local)
