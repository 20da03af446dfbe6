"""Controller options: rows kept open or not, refresh and how long it may wait, address maps and their hashes."""

from __future__ import annotations

import numpy as np
import pytest
from dram_fixture import (
    CAPACITY,
    PARTS,
    Row,
    changed,
    conflicting,
    kept,
    make,
    memory,
    part,
    peak,
    serve,
    tick_fs,
    where,
)
from dram_twin import Twin

from isa.errors import ConfigError
from isa.memory import Controller, Memory
from npusim.memory.controller import layout as at
from npusim.memory.controller.mapping import (
    FIELDS,
    M_BURST_BITS,
    M_UNIT_BITS,
    channel_of,
    default_mapping,
    locate,
    make_map,
)
from npusim.memory.dram import OK, advance
from npusim.memory.port import make_port
from npusim.validate.dram import ramulator2

TICK = 1_000_000  # of hbm2-2000


def share(described: Memory, rows: list[Row]) -> float:
    return sum(row[2] for row in rows) / peak(described) / serve(described, rows).last


def streams(count: int, ways: int, distance: int, size: int = 512) -> list[Row]:
    """All at once: sequential streams that take turns."""
    return [(0, i // ways * size + i % ways * distance, size, 0) for i in range(count)]


# ---- rows


@pytest.mark.kernels
@pytest.mark.parametrize(("protect", "hits_at", "kept_open"), [
    ("none", 49, False), ("older", 49, True), ("all", 49, True), ("none", 51, False), ("older", 51, False),
    ("older", 50, True), ("all", 51, True),
])  # fmt: skip
def test_a_row_is_kept_open_for_nobody_for_older_ones_or_for_all(protect, hits_at, kept_open):
    """A write opens a row in tick 0, then a train of reads fills the data bus; in 50 comes a read of another row.

    The precharge could go nRAS = 52 ticks after the activation. Hits of the row, which wait for the bus, hold it back:
    with `older` those that came no later (of the same tick: too), with `all` every one.
    """
    described = memory("ddr4-3200", refresh="none", protect_hits=protect, age_limit_ns=None)
    tick, other = tick_fs(described), conflicting(described)
    rows = [(0, 0, 64, 1), (10 * tick, 4 * 8192, 8192, 0), (50 * tick, other, 64, 0), (hits_at * tick, 128, 64, 0)]
    log = kept(serve(described, sorted(rows), kept_commands=400).state, described.dram)
    opened = next(c for c in log if c.kind == "ACT")
    closed = next(c for c in log if c.kind == "PRE" and c.place == opened.place)
    assert opened.tick == 0 and (closed.tick > 500) == kept_open
    assert kept_open or closed.tick in (52, 53)  # 53: a burst of the train has the command bus


def test_closed_rows_make_a_conflict_a_miss_and_a_hit_a_miss():
    results = {}
    for policy in ("open", "closed"):
        described = memory("ddr4-3200", refresh="none", row_policy=policy)
        tick = tick_fs(described)
        rows = [(i * 500 * tick, a, 64, 0) for i, a in enumerate((0, conflicting(described), conflicting(described)))]
        found = serve(described, rows)
        names = ("row_hits", "row_misses", "row_conflicts")
        latencies = [(time - row[0]) // tick for time, row in zip(found.times, rows)]
        results[policy] = latencies, [found.counts[name] for name in names]
    assert results == {"open": ([48, 70, 26], [1, 1, 1]), "closed": ([48, 48, 48], [0, 3, 0])}


@pytest.mark.kernels
def test_closed_rows_stay_open_for_those_that_want_them():
    described = memory("ddr4-3200", refresh="none", row_policy="closed")
    found = serve(described, [(i * tick_fs(described), i * 64, 64, 0) for i in range(8)], kept_commands=60)
    log = kept(found.state, described.dram)
    assert [c.kind for c in log].count("ACT") == 2 and [c.kind for c in log].count("RD") == 8
    assert found.counts["row_misses"] + found.counts["row_hits"] == 8


def test_the_reference_controller_works_behind_the_port():
    """Every burst an entry of its own; fewer row hits than the default keeps."""
    described = memory("hbm2-1760", 2)
    reference = described.model_copy(update={"controller": ramulator2()})
    rows = streams(1000, 4, 1 << 20)
    mine, theirs = serve(described, rows), serve(reference, rows)
    assert theirs.counts["row_hits"] + theirs.counts["row_misses"] + theirs.counts["row_conflicts"] == 1000 * 16
    assert theirs.counts["read_bytes"] == mine.counts["read_bytes"]
    assert mine.last < theirs.last


def test_without_trains_bursts_are_chosen_one_by_one():
    """A stream alone takes the same time to 2 %, and has as many row commands."""
    found = [serve(memory("hbm2-1760", 2, trains=on), streams(600, 1, 0)) for on in (True, False)]
    assert found[0].last == pytest.approx(found[1].last, rel=0.02)
    assert found[0].counts["activations"] == pytest.approx(found[1].counts["activations"], rel=0.02)


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_streams_that_share_channels_keep_their_bandwidth_if_there_is_a_choice(count):
    """In order they close each other's rows; among 64 places there are enough of one row to pay for opening it."""
    described, blind = memory("hbm2-1760", 8), memory("hbm2-1760", 8, read_queue=1, protect_hits="none")
    alone = share(described, streams(1024, 1, 0))
    rows = streams(1024, count, 40503 * 512)
    assert share(described, rows) > 0.85 * alone
    assert share(blind, rows) < 0.8 * share(described, rows)


@pytest.mark.kernels
def test_a_queue_of_one_place_serves_in_order():
    rows = [(0, a, 64, 0) for a in (0, conflicting(memory("ddr4-3200")), 64, 4096, 128)]
    options = {"refresh": "none", "read_queue": 1, "entry_bytes": 64}
    in_order = serve(memory("ddr4-3200", **options), rows).times
    assert in_order == sorted(in_order)
    assert serve(memory("ddr4-3200", refresh="none"), rows).times != in_order


# ---- refresh


def refresh_ticks(described: Memory, rows: list[Row]) -> list[int]:
    log = kept(serve(described, rows, kept_commands=20_000).state, described.dram)
    return [c.tick for c in log if c.kind in ("REFA", "REFB")]


@pytest.mark.kernels
def test_a_refresh_that_may_not_wait_stops_an_idle_bank_for_nrfc():
    described = memory("hbm2-2000", refresh="all_bank", refresh_postpone=0)
    t = described.dram.timing
    ticks = [serve(described, [(a * TICK, 0, 32, 0)]).times[0] // TICK for a in (t.nREFI - 40, t.nREFI)]
    alone = t.nRCDRD + 1 + t.nCL + 2
    assert ticks[0] == t.nREFI - 40 + alone
    assert ticks[1] == t.nREFI + t.nRFC + t.nRCDRD + 1 + t.nCL + 2 - 1  # the rule counts to the end of an activation


@pytest.mark.parametrize("postpone", [0, 1, 2, 8])
def test_a_refresh_of_all_banks_waits_while_there_is_work_but_not_longer_than_it_may(postpone):
    """A stream that never ends: the first refresh is made when one more than `postpone` is owed, the others keep up."""
    dram = changed(part("hbm2-2000"), nREFI=800)
    described = memory(dram, refresh="all_bank", refresh_postpone=postpone)
    rows = [(0, i * 512, 512, 0) for i in range(600)]
    found = refresh_ticks(described, rows)
    for n, tick in enumerate(found[: (600 * 32 // 800) - 10]):
        due = (n + 1 + postpone) * 800
        assert due <= tick <= due + 60
    assert len(found) > 8


@pytest.mark.kernels
def test_idle_time_makes_up_for_what_was_postponed():
    dram = changed(part("hbm2-2000"), nREFI=800)
    described = memory(dram, refresh="all_bank")
    rows = [(0, i * 512, 512, 0) for i in range(60)]  # 1920 ticks: two are owed
    found = refresh_ticks(described, [*rows, (5000 * TICK, 0, 32, 0)])
    assert found[0] > 1920 and found[1] == found[0] + dram.timing.nRFC < 2700


def test_a_refresh_bank_by_bank_keeps_a_stream_going():
    """hbm2-1760: above 94 % of the peak; refreshing all banks at once loses nRFC of every nREFI."""
    rows = [(0, i * 512, 512, 0) for i in range(6000)]
    kinds = ("per_bank", "all_bank", "none", "auto")
    shares = {kind: share(memory("hbm2-1760", 2, refresh=kind), rows) for kind in kinds}
    t = part("hbm2-1760").timing
    assert 0.94 < shares["per_bank"] == shares["auto"] <= shares["none"]
    assert shares["all_bank"] / shares["none"] == pytest.approx(1 - t.nRFC / t.nREFI, abs=0.03)
    assert shares["all_bank"] < 0.94


def test_every_bank_is_refreshed_as_often_as_any_other():
    """Bank by bank, under load: in every round of as many refreshes as there are banks each has its turn."""
    dram = changed(part("hbm2-1760"), nREFI=800)
    described = memory(dram, refresh="per_bank")
    found = serve(described, [(0, i * 512, 512, i % 5 == 0) for i in range(1500)], kept_commands=60_000)
    places = [c.place for c in kept(found.state, dram) if c.kind == "REFB"]
    rounds = [places[i : i + dram.banks] for i in range(0, len(places) - dram.banks + 1, dram.banks)]
    assert len(rounds) > 20 and all(len(set(r)) == dram.banks for r in rounds)
    assert len(places) >= (found.last // tick_fs(described)) // (800 // dram.banks) - 9 * dram.banks


def test_blocking_refreshes_cost_a_stream_more_than_those_that_may_wait():
    rows = [(0, i * 512, 512, 0) for i in range(3000)]
    blocking = memory("ddr4-3200", refresh_blocks=True)
    waiting = memory("ddr4-3200")
    assert share(blocking, rows) <= share(waiting, rows)
    ticks = refresh_ticks(blocking, rows)
    assert all(tick - (n + 1) * part("ddr4-3200").timing.nREFI < 100 for n, tick in enumerate(ticks)) and len(ticks) > 3


@pytest.mark.parametrize("name", ["hbm2-1760", "ddr4-3200", "hbm3-6400", "lpddr5-6400", "gddr6-14000"])
@pytest.mark.parametrize("refresh", ["auto", "all_bank"])
def test_idle_time_that_is_skipped_leaves_what_stepping_through_it_leaves(name, refresh):
    """One advance to a far time, many small ones: the same state to the last word, and every refresh counted."""
    described = memory(name, 2, refresh=refresh)
    interval = part(name).timing.nREFI * (2 if part(name).half_cycle_commands else 1) * tick_fs(described)
    far, states = 40 * interval, []
    for steps in (1, 400):
        state, port = make(described), make_port(1, 1)
        for i in range(steps):
            assert advance(state, port, far * (i + 1) // steps) == OK
        states.append(state)
    banks = part(name).banks if states[0].control[at.P_REFRESH] == at.PER_BANK else 1
    due = far // tick_fs(described) // int(states[0].control[at.P_REFI]) * 2
    assert due - 2 * banks <= states[0].summary()["refreshes"] == states[1].summary()["refreshes"] <= due
    assert due >= 80 * banks
    assert states[0].state.tolist() == states[1].state.tolist()


def test_a_million_intervals_are_skipped_at_once_and_counted():
    described = memory("ddr4-3200")
    interval = part("ddr4-3200").timing.nREFI
    rows = [((10**6 * interval + 5000) * tick_fs(described), 0, 64, 0)]
    found = serve(described, [(0, 0, 64, 0), *rows])
    assert found.times[1] - rows[0][0] == found.times[0]  # its row was closed
    state, port = make(described), make_port(1, 1)
    advance(state, port, rows[0][0])
    assert state.summary()["refreshes"] == 10**6


def test_no_refresh_is_none():
    assert serve(memory("ddr4-3200", refresh="none"), [(10**12, 0, 64, 0)]).counts["refreshes"] == 0


# ---- address maps


MAPPINGS = ("auto", "RoBaBgSiPcCo", "RoCoBaBgSiPcCo2", "RoBgBaPcSiCo", "RoCoBgBaSiPc")


ORGANISATIONS = list({
    (d.burst_bytes, d.page_bytes, d.bank_groups, d.banks_per_group, d.stack_ids, d.pseudo_channels): name
    for name in PARTS for d in [part(name)]
}.values())  # fmt: skip


@pytest.mark.parametrize("name", ORGANISATIONS)
@pytest.mark.parametrize("hashing", ["none", "rotate", "xor", "random"])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_every_burst_has_a_place_of_its_own(name, mapping, hashing):
    """Neighbours, random bursts and powers of two all lie in different (channel, bank, row, column)."""
    dram, random = part(name), np.random.default_rng(4)
    columns = dram.page_bytes // dram.burst_bytes
    for channels, interleave in ((3, 1024), (8, 256)):
        unit = max(interleave, dram.burst_bytes)
        bits = make_map(dram, channels, unit, Controller(mapping=mapping, hashing=hashing, granule_bytes=unit))
        bursts = {*range(1500), *random.integers(0, 1 << 20, 1500).tolist(), *(1 << i for i in range(22))}
        places = {place(bits, burst * dram.burst_bytes) for burst in bursts}
        assert len(places) == len(bursts)
        assert all(0 <= b < dram.banks and 0 <= c < channels and 0 <= col < columns for c, b, _, col in places)
        assert {c for c, *_ in places} == set(range(channels)) and {b for _, b, *_ in places} == set(range(dram.banks))


def place(bits: np.ndarray, address: int) -> tuple[int, int, int, int]:
    """Channel, bank, row and column, as the kernels find them."""
    burst = address >> int(bits[M_BURST_BITS])
    c, upper = channel_of(bits, burst >> int(bits[M_UNIT_BITS]))
    return (c, *locate(bits, (upper << int(bits[M_UNIT_BITS])) + (burst & ((1 << int(bits[M_UNIT_BITS])) - 1))))


@pytest.mark.parametrize("name", PARTS)
def test_the_default_map_is_that_of_the_twin(name):
    """Which writes it down once more, with divisions."""
    for channels in (1, 3, 8):
        described = memory(name, channels)
        twin, dram = Twin(described), part(name)
        address = np.random.default_rng(2).integers(0, CAPACITY, 300)
        found = where(make(described), address)
        for a, (c, bank, row) in zip(address, found.T):
            theirs = twin.locate(int(a) // dram.burst_bytes)
            p, s, g, b = theirs[2]
            number = ((p * dram.stack_ids + s) * dram.bank_groups + g) * dram.banks_per_group + b
            assert (theirs[0], number, theirs[3]) == (c, bank, row)


@pytest.mark.parametrize(("mapping", "message"), [
    ("RoBaCo", "leaves out Bg"), ("BaBgCoRo", "leaves out .*Ro is the first"), ("RoBaBgCoX", "is not a row of"),
    ("", "is not a row of"), ("RoBaBgCo9", r"takes 9 of \d bits of Co"), ("RoBaBgCo3", "leaves out Co"),
    ("RoBaBgCoCo", ""), ("ro", "is not a row of"),
])  # fmt: skip
def test_maps_that_lose_or_repeat_bits_are_refused(mapping, message):
    """A field twice is harmless when the first takes all: it has no bits left."""
    described = memory("hbm2-1760", 2, mapping=mapping)
    if not message:
        make(described)
        return
    with pytest.raises(ConfigError, match=message):
        make(described)


def test_refreshes_by_bank_need_time_for_all_banks():
    dram = part("lpddr5-6400")
    least = dram.banks * dram.timing.nRREFD
    make(memory(changed(dram, nREFI=least + 1)))
    make(memory(changed(dram, nREFI=least), refresh="all_bank"))
    with pytest.raises(ConfigError, match="nREFI 1152 leaves no time for 16 refreshes by bank"):
        make(memory(changed(dram, nREFI=least)))


@pytest.mark.parametrize("name", ["hbm2-1760", "hbm3-6400"])
def test_64_bytes_open_one_row_and_whole_rounds_alternate(name):
    """Two bursts of 32 bytes lie in one bank; the bursts of 256 bytes go round the bank groups one by one."""
    dram = part(name)
    for size, banks in ((64, 1), (256, 2)):
        described = memory(dram, refresh="none")
        log = kept(serve(described, [(0, 0, size, 0)], kept_commands=40).state, dram)
        columns = [c.place for c in log if c.kind == "RD"]
        assert len(columns) == size // 32 and len({c.place for c in log if c.kind == "ACT"}) == banks
        if banks > 1:
            assert all(a != b for a, b in zip(columns[-4:], columns[-3:]))


@pytest.mark.parametrize("name", PARTS)
def test_the_default_map_goes_round_as_few_groups_as_fill_the_bus(name):
    dram = part(name)
    mapping = default_mapping(dram, dram.burst_bytes)
    assert all(field in mapping for field in FIELDS if field not in ("Pc", "Si")) and mapping.startswith("Ro")
    turn = 1 << int(mapping[-1]) if mapping[-1].isdigit() else 1
    t, burst = dram.timing, -(-dram.burst_length // dram.data_rate)
    short, long = max(t.nCCD_S, burst), max(t.nCCD_L, t.nCCD_L_WR or 0, burst)
    assert turn == dram.bank_groups or turn * short >= long
    assert turn == 1 or turn // 2 * short < long


@pytest.mark.parametrize("distance_bits", range(17, 27))
def test_two_streams_at_a_power_of_two_distance_do_not_meet_in_one_bank(distance_bits):
    described = memory("hbm2-1760", 8)
    alone = serve(described, streams(512, 1, 0)).last
    assert serve(described, streams(512, 2, 1 << distance_bits)).last < 1.35 * alone


@pytest.mark.parametrize("pitch_bits", range(11, 19))
def test_power_of_two_pitches_spread_over_channels(pitch_bits):
    """8 channels x 256 bytes are the least that meet in one channel without a hash."""
    rows = [(0, i << pitch_bits, 256, 0) for i in range(512)]
    rotated, plain = (serve(memory("hbm2-1760", 8, hashing=h), rows) for h in ("rotate", "none"))
    busy = rotated.state.channel_busy_fs()
    assert busy.min() > 0.5 * busy.mean() and busy.max() < 2 * busy.mean()
    assert np.count_nonzero(plain.state.channel_busy_fs()) == 1
    assert rotated.last * 2.5 < plain.last
