"""The network between cores, L2 slices and controllers: latencies hop by hop, nothing lost, nothing early."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hierarchy_fixture import (
    CORES,
    CYCLE_FS,
    FILL,
    HIT,
    IDEAL,
    MISS,
    PARTS,
    TINY,
    bench,
    chip,
    idle_dram,
    traffic,
)
from hierarchy_network_fixture import (
    ALL,
    FLIT,
    HOP,
    MESH,
    NEAR,
    PLACES,
    XBAR,
    by_slice,
    counted,
    flits,
    network,
    networks,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from npusim.memory.controller.mapping import channel_of
from npusim.memory.hierarchy import clock, layout, run
from npusim.memory.noc.packet import flits_of, idle_cycles
from npusim.memory.noc.state import CT_FLITS, CT_PACKETS, CT_WAIT
from npusim.memory.port import MemoryPort, make_port, ring_push

# ---- light load


@pytest.mark.parametrize("size", [4, 32, 128])
def test_a_hit_through_a_crossbar_takes_a_hop_and_its_flits_each_way(size: int) -> None:
    found, address = bench(*IDEAL, XBAR), 512
    found.latency(10**9, 0, address, 128)
    data = -(-size // 32) * 32  # whole sectors come back, exactly what is written goes out
    read = HOP + flits(0) - 1 + HIT + HOP + flits(data) - 1
    written = HOP + flits(size) - 1 + HIT + HOP + flits(0) - 1
    assert found.latency(10**10, 1, address, size) == read * CYCLE_FS
    assert found.latency(10**11, 2, address, size, 1) == written * CYCLE_FS
    assert sum(int(state.counters[:, CT_WAIT].sum()) for state in networks(found)) == 0


@pytest.mark.parametrize("fixed", [{}, {"request_cycles": 7, "response_cycles": 5}])
def test_a_hit_through_a_mesh_takes_its_hops_each_way(fixed: dict[str, int]) -> None:
    found, time_fs = bench(*IDEAL, NEAR, **fixed), 10**9
    for s, address in by_slice(found).items():
        found.latency(time_fs, 0, address, 128)
        for core in range(CORES):
            time_fs += 10**9
            a, b = PLACES["core_nodes"][core], PLACES["slice_nodes"][s]
            hops = 1 + abs(a % 4 - b % 4) + abs(a // 4 - b // 4)
            expected = 2 * hops * HOP + flits(0) - 1 + flits(128) - 1 + HIT + sum(fixed.values())
            assert found.latency(time_fs, core, address, 128) == expected * CYCLE_FS


@pytest.mark.parametrize(("model", "cores"), [((), 1), (IDEAL, CORES)])  # once: the row would be open
def test_a_miss_goes_on_to_its_controller_and_back(model: tuple[str, ...], cores: int) -> None:
    found, machine, time_fs = bench(MESH, *model), chip(*model), 10**9
    for s, address in by_slice(found).items():
        channel, _ = channel_of(found.state.memory.where, address // machine.memory.interleave_bytes)
        for core in range(cores):
            time_fs += 10**9
            ends = [PLACES["core_nodes"][core], PLACES["slice_nodes"][s], PLACES["channel_nodes"][channel]]
            near, far = (1 + abs(a % 4 - b % 4) + abs(a // 4 - b // 4) for a, b in itertools.pairwise(ends))
            asked = time_fs + (near * HOP + flits(0) - 1 + far * HOP + flits(0) - 1 + MISS) * CYCLE_FS
            answered = idle_dram(machine, asked, address, 32)
            back = FILL + far * HOP + flits(32) - 1 + HIT + near * HOP + flits(32) - 1
            cycle = -(-answered // CYCLE_FS) + back
            assert found.latency(time_fs, core, address) == cycle * CYCLE_FS - time_fs
            address += 32  # the next sector of the line


@pytest.mark.parametrize("clock_mhz", [500, 1000, 1410, 5000])
def test_cycles_of_another_clock_are_rounded_up_on_the_way_in_and_out(clock_mhz: int) -> None:
    found, address = bench(*IDEAL, network("crossbar", clock_mhz=clock_mhz)), 512
    found.latency(10**9, 0, address)
    params, (asks, answers) = found.state.params, networks(found)
    q, r = int(params[layout.H_NET_Q]), int(params[layout.H_NET_R])
    assert q * 2**20 + r == round(10**9 * 2**20 / clock_mhz)
    for time_fs in range(10**10, 10**10 + 2000 * CYCLE_FS, 200_777_777):
        cycle = clock.cycle_of(params, time_fs)
        for state, source, target, data, served in ((asks, 0, CORES, 0, HIT), (answers, CORES, 0, 32, 0)):
            start = clock.edge_after(q, r, clock.fs_of(params, cycle))
            count = flits_of(state.params, data)
            there = start + idle_cycles(state.params, state.links, state.routes, source, target, count)
            assert there == start + HOP + flits(data) - 1
            arrival = clock.cycle_of(params, clock.edge_fs(q, r, there))
            assert 0 <= (arrival - cycle) - (there - start) * 1000 / clock_mhz < 1 + 1000 / clock_mhz
            cycle = arrival + served
        assert found.latency(time_fs, 0, address) == clock.fs_of(params, cycle) - time_fs


# ---- nothing lost, nothing early


@pytest.mark.parametrize("changes", [(), PARTS, ("memory.l2.write=through",)], ids=str)
@pytest.mark.parametrize("net", ALL, ids=lambda text: text[16:40])
def test_each_request_is_answered_once_and_flits_are_conserved(net: str, changes: tuple[str, ...]) -> None:
    found, rows = bench(*TINY, net, *changes), traffic(7, 800, 40_000, 200_000)
    answers = found.ask(rows)
    for i, row in enumerate(rows):
        assert answers[i][0] >= row[0] + (HIT - 1) * CYCLE_FS
    assert run.advance(found.state, found.port, max(a for a, _ in answers.values()) + 10**11) == layout.OK
    counts, below = found.state.summary(), found.state.memory.summary()
    assert counts["reads"] + counts["writes"] == len(rows)
    assert (counts["dram_read_bytes"], counts["dram_written_bytes"]) == (below["read_bytes"], below["write_bytes"])
    assert found.state.now[layout.N_WRITES] == 0 and found.state.now[layout.N_EVENTS] == 0

    pieces = [
        (write, min(a + n, line * 128 + 128) - max(a, line * 128), (min(a + n - 1, line * 128 + 127) // 32
         - max(a, line * 128) // 32 + 1) * 32)
        for _, _, a, n, write in rows for line in range(a // 128, (a + n - 1) // 128 + 1)
    ]  # fmt: skip
    asks, back = networks(found)
    for state, read, written in ((asks, 0, 1), (back, 2, 0)):
        packets, moved = counted(state, CT_PACKETS), counted(state, CT_FLITS)
        ends = ("core", "> slice") if state is asks else ("> core", "slice")
        expected = sum(flits((piece[written] if piece[0] else piece[read]) if (piece[0], state is back) in
                             ((1, False), (0, True)) else 0) for piece in pieces)  # fmt: skip
        assert packets[ends[0]] == len(pieces) and moved[ends[0]] == expected
        if "channel" not in packets:
            assert packets[ends[1]] == len(pieces) and moved[ends[1]] == expected
            continue
        more = packets["channel"] + packets["> channel"]
        assert more > 0 and packets[ends[1]] == len(pieces)
        inner = ("slice", "> channel") if state is asks else ("channel", "> slice")
        assert packets[inner[0]] == packets[inner[1]] and moved[inner[0]] == moved[inner[1]]
    if "channel" in counted(asks, CT_PACKETS):  # every request of the DRAM has gone there and been answered
        assert counted(asks, CT_PACKETS)["> channel"] == counted(back, CT_PACKETS)["channel"]
        assert counted(back, CT_FLITS)["channel"] * FLIT >= below["read_bytes"]
        assert counted(asks, CT_FLITS)["> channel"] * FLIT >= below["write_bytes"]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), step_fs=st.integers(100_001, 40_000_000), window=st.integers(1, 80),
    gap_fs=st.sampled_from([300_000, 3_000_000, 100_000_000]), parts=st.sampled_from([(), PARTS]),
    net=st.sampled_from(ALL),
)  # fmt: skip
def test_no_cut_of_time_changes_an_answer(
    seed: int, step_fs: int, window: int, gap_fs: int, parts: Any, net: str
) -> None:
    rows = traffic(seed, 150, 20_000, gap_fs)
    whole, cut = bench(*TINY, *parts, net), bench(*TINY, *parts, net, window_cycles=window)
    assert whole.ask(rows) == cut.ask(rows, step_fs)
    for found in (whole, cut):  # what is still on its way to the DRAM
        assert run.advance(found.state, found.port, 10**11) == layout.OK
    assert whole.state.summary() == cut.state.summary()
    for one, other in zip(networks(whole), networks(cut)):
        assert (one.counters == other.counters).all()


@pytest.mark.parametrize(("changes", "expected"), [
    ((), [15429663061720, 15321343125000, 76239, 178528, 97248]),
    (PARTS, [17577730061720, 17435283000000, 84829, 180672, 99840]),
    (("memory.l2.write=through",), [15626747061720, 15518446500000, 77085, 178656, 104800]),
], ids=str)  # fmt: skip
def test_without_a_network_nothing_has_changed(changes: tuple[str, ...], expected: list[int]) -> None:
    """Figures as first measured; taken anew when a slice began to send its bytes one after the other (2026-11-29)."""
    found = bench(*TINY, *IDEAL, *changes)
    found.ask(traffic(7, 1500, 40_000, 200_000))
    counts = found.state.summary()
    names = ("latency_fs", "wait_fs", "stall_cycles", "dram_read_bytes", "dram_written_bytes")
    assert [counts[name] for name in names] == expected
    assert found.state.networks is None and found.state.network_report(1) is None
    assert sum(table.size for table in found.state.net) < 64


@pytest.mark.parametrize("net", [XBAR, MESH], ids=lambda text: text[16:40])
def test_a_flush_writes_every_dirty_sector_once(net: str) -> None:
    found = bench(net)
    for i in range(600):
        while not ring_push(found.port.requests, found.port.ring, 10**9 + i * CYCLE_FS, i % CORES, i * 128, 128, 1, 0):
            found.port.grow_requests()
    run.hierarchy_flush(found.state, found.port, write_back=True)
    assert found.state.summary()["dram_written_bytes"] == 600 * 128 == found.state.memory.summary()["write_bytes"]


def test_many_writes_that_wait_for_one_sector_all_reach_the_dram() -> None:
    found = bench("memory.l2.write=through", "memory.l2.mshr_targets=256", "memory.l2.miss_latency_cycles=400", *IDEAL)
    small = make_port(200, 4096)
    found.state.port = MemoryPort(small.requests, small.ring, small.responses, small.heap_state)
    found.ask([(10**9 + i, i % CORES, 512 + i % 7, 1, 1) for i in range(250)])
    assert run.advance(found.state, found.port, 10**11) == layout.OK
    assert found.state.memory.summary()["write_bytes"] == found.state.summary()["dram_written_bytes"]


@pytest.mark.kernels
@pytest.mark.parametrize("net", [XBAR, MESH], ids=lambda text: text[16:40])
def test_a_few_requests_as_plain_python(net: str) -> None:
    found = bench(*TINY, net)
    assert len(found.ask(traffic(3, 40, 2_000, 2_000_000), step_fs=200_000_000)) == 40
