"""Links between cores, L2 slices and controllers bound what they carry; reports, groups of cores, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hierarchy_fixture import (
    CORES,
    CYCLE_FS,
    HIT,
    IDEAL,
    bench,
    chip,
    home,
    rate,
    stream,
    traffic,
)
from hierarchy_network_fixture import (
    ALL,
    CHANNELS,
    FLIT,
    HOP,
    MESH,
    NEAR,
    PLACES,
    RATES,
    RING,
    TORUS,
    XBAR,
    by_slice,
    counted,
    flits,
    networks,
)

from isa.errors import ConfigError
from npusim.memory.hierarchy import layout, run
from npusim.memory.hierarchy.state import make_hierarchy
from npusim.memory.noc.state import CT_FLITS, CT_PACKETS, CT_WAIT
from npusim.memory.port import ring_push

# ---- links that bound


def test_the_port_of_a_core_bounds_what_it_reads() -> None:
    found = bench(XBAR)
    found.ask(stream(256, 32768, per_cycle=1))
    rows = [(t + 10**11, *rest) for t, *rest in stream(4000, 32768, cores=1)]
    bound = 128 / flits(128)
    assert 0.95 * bound < rate(found, rows) <= bound
    assert found.state.network_report(10**12)["busiest"][0].startswith("answers, router 0 > core 0: ")  # type: ignore


def test_the_port_of_a_core_bounds_what_it_writes() -> None:
    found = bench(XBAR)
    bound = 128 / flits(128)
    assert 0.95 * bound < rate(found, stream(4000, 32768, cores=1, write=1)) <= bound


def test_the_port_of_a_slice_bounds_all_who_read_there() -> None:
    found = bench(XBAR, "memory.l2.bytes_per_cycle=128")
    lines = [a for a in range(0, 1 << 16, 128) if home(found.state, a) == 2][:64]
    found.ask([(10**9 + i * 10 * CYCLE_FS, 0, a, 128, 0) for i, a in enumerate(lines)])
    rows = [(10**11 + i * CYCLE_FS // 2, i % CORES, lines[i % 64], 128, 0) for i in range(4000)]
    bound = 128 / flits(128)
    assert 0.95 * bound < rate(found, rows) <= bound
    _, answers = networks(found)
    assert answers.link_name(int(answers.counters[:, CT_WAIT].argmax())) == "slice 2 > router 0"


@pytest.mark.parametrize("changes", ALL[:5], ids=lambda text: text[16:40])
def test_two_cores_at_one_slice_share_its_port(changes: str) -> None:
    found = bench(changes, "memory.l2.bytes_per_cycle=128")
    lines = [a for a in range(0, 1 << 16, 128) if home(found.state, a) == 2][:64]
    found.ask([(10**9 + i * 10 * CYCLE_FS, 0, a, 128, 0) for i, a in enumerate(lines)])
    rows = [(10**11 + i // 2 * 2 * CYCLE_FS, 1 + 2 * (i & 1), lines[i % 64], 128, 0) for i in range(2000)]
    answers = found.ask(rows)
    middle = sorted(time for time, _ in answers.values())[len(rows) // 2]
    shares = [sum(answers[i][0] <= middle for i in range(core, len(rows), 2)) for core in range(2)]
    assert abs(shares[0] - shares[1]) < 0.02 * len(rows)


def test_what_waits_for_links_counts_as_waiting() -> None:
    found = bench(*IDEAL, XBAR)
    found.latency(10**9, 0, 512, 128)
    answers = found.ask([(10**10, core, 512, 128, 0) for core in range(CORES)])
    apart = 2  # cycles between lookups of 128 bytes at 64 a cycle; an answer holds the slice's link for longer
    waits = sorted(wait // CYCLE_FS for _, wait in answers.values())
    assert waits == [i * flits(128) for i in range(CORES)] and flits(128) > apart


# ---- reports and refusals


def test_the_report_names_the_links_that_were_used_most() -> None:
    found = bench(MESH)
    found.ask(traffic(7, 500, 40_000, 200_000))
    report = found.state.network_report(10**10)
    assert report is not None and report["cycles"] == 10_000
    busy = [link["busy_cycles"] for link in report["links"]]
    assert busy == sorted(busy, reverse=True) and report["bytes"] == sum(busy) * FLIT
    assert {"network", "link", "bytes", "packets", "wait_cycles", "utilisation"} < set(report["links"][0])
    first = report["links"][0]
    assert report["busiest"][0] == f"{first['network']}, {first['link']}: {first['utilisation']:.1%}"
    total = sum(int(state.counters[:, CT_WAIT].sum()) for state in networks(found))
    assert report["wait_cycles"] == total > 0
    names = {link["link"].split(" > ")[0].split()[0] for link in report["links"]}
    assert names == {"core", "slice", "channel", "router"}


def test_a_network_without_a_cache_is_refused() -> None:
    memory = chip(XBAR).memory.model_copy(update={"l2": None})
    with pytest.raises(ConfigError, match=r"memory.network: .*memory.l2"):
        make_hierarchy(memory, CORES, 1000)


def test_every_core_and_slice_has_a_node() -> None:
    asks, back = networks(bench(XBAR))
    assert asks.topology.nodes == back.topology.nodes == CORES + 4
    assert networks(bench(MESH))[0].topology.nodes == CORES + 4 + CHANNELS
    assert np.shares_memory(asks.links, back.links) is False


# ---- one answer to many cores


def test_one_answer_to_a_group_is_there_when_its_last_core_has_it() -> None:
    found, time_fs = bench(*IDEAL, NEAR, groups=((1, 2), (3,))), 10**9
    for s, address in by_slice(found).items():
        found.latency(time_fs, 0, address, 128)
        places = [PLACES["slice_nodes"][s], *(PLACES["core_nodes"][core] for core in (1, 2, 3))]
        one, two, three = (1 + abs(places[0] % 4 - b % 4) + abs(places[0] // 4 - b // 4) for b in places[1:])
        for group, there, back in ((0, one, max(one, two)), (1, three, three)):
            time_fs += 10**9
            expected = (there + back) * HOP + flits(0) - 1 + flits(128) - 1 + HIT
            assert found.latency(time_fs, CORES + group, address, 128) == expected * CYCLE_FS


@pytest.mark.parametrize("net", [XBAR, NEAR, MESH, RING, TORUS], ids=lambda text: text[16:40])
def test_a_tile_for_all_cores_leaves_its_slices_once(net: str) -> None:
    together, apart = (bench(net, groups=((0, 1, 2, 3),)) for _ in range(2))
    lines = [(10**9 + i * CYCLE_FS, i * 128) for i in range(256)]
    last = max(t for t, _ in together.ask([(time, CORES, address, 128, 0) for time, address in lines]).values())
    each = [(time, core, address, 128, 0) for time, address in lines for core in range(CORES)]
    assert last < max(time for time, _ in apart.ask(each).values())
    left, arrived = (counted(networks(together)[1], word) for word in (CT_PACKETS, CT_FLITS))
    assert left["slice"] == 256 and left["> core"] == 256 * CORES and arrived["> core"] == 256 * CORES * flits(128)
    assert counted(networks(apart)[1], CT_PACKETS)["slice"] == 256 * CORES
    assert together.state.summary()["dram_read_bytes"] == apart.state.summary()["dram_read_bytes"] == 256 * 128


def test_groups_that_cannot_be_are_refused() -> None:
    for groups in (((),), ((0, 0),), ((0, CORES),), ((0,), (-1,))):
        with pytest.raises(ConfigError, match="group"):
            bench(XBAR, groups=groups)
    with pytest.raises(ConfigError, match=r"memory.network.model: .*packet"):
        bench(RATES, groups=((0, 1),))
    for port, write in ((CORES + 1, 0), (CORES, 1)):
        found = bench(XBAR, groups=((0, 1),))
        ring_push(found.port.requests, found.port.ring, 0, port, 0, 128, write, 0)
        assert run.advance(found.state, found.port, 10**9) == layout.BAD_REQUEST
