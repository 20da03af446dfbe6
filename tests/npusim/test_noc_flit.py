"""Flits: nothing lost, nothing stuck, order, exact latencies, any window, and how much a network carries."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noc_twin import END, Packet, describe, run_kernel, uniform

from isa.errors import DeadlockError
from isa.network import Network
from npusim.jit import specialisations
from npusim.memory.noc.flit import flit_advance, flit_push
from npusim.memory.noc.flit_state import (
    CK_IN,
    CK_OUT,
    CK_PACKETS,
    PT_HALF,
    RING_HEAD,
    RING_TAIL,
    VC_FLITS,
    FlitState,
    make_flits,
)
from npusim.memory.noc.run import push_packets, run_flits
from npusim.memory.noc.state import CT_FLITS, make_network

SHAPES = [("crossbar", {}), ("ring", {}), ("mesh", {"columns": 3}), ("torus", {"columns": 3})]
CIRCLES = [("ring", {}), ("torus", {"columns": 4}), ("mesh", {"columns": 4})]


def idle(network: Network, nodes: int) -> FlitState:
    return make_flits(make_network(network, nodes, 0, 0))


def burst(nodes: int, flits: int, copies: int) -> list[Packet]:
    """Everybody sends to everybody at once."""
    pairs = [(s, t) for _ in range(copies) for s in range(nodes) for t in range(nodes) if s != t]
    return [(0, s, t, flits, tag) for tag, (s, t) in enumerate(pairs)]


def check_conserved(state: FlitState) -> None:
    held = state.channels[:, VC_FLITS]
    assert held.min() >= 0 and held.max() <= state.buffers.shape[1]
    assert state.clock[CK_IN] == state.clock[CK_OUT] + held.sum()


@pytest.mark.kernels
@pytest.mark.parametrize("kind, fields", SHAPES)
@given(
    seed=st.integers(0, 1 << 16), buffer=st.integers(1, 2), ordered=st.booleans(), load=st.sampled_from([0.2, 1.0]),
    flits=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=12, deadline=None, derandomize=True)
def test_every_packet_is_delivered_once_and_flits_are_conserved(kind, fields, seed, buffer, ordered, load, flits):
    packets = uniform(7, load, flits, 30, seed)
    state = idle(describe(kind, **fields, buffer_flits=buffer, ordered=ordered), 7)
    push_packets(state, packets)
    tags: list[int] = []
    for until in range(0, 60, 4):
        tags += run_flits(state, until)[:, 1].tolist()
        check_conserved(state)
        assert state.clock[CK_PACKETS] == state.ring[RING_HEAD] - len(tags)
    tags += run_flits(state, END)[:, 1].tolist()
    assert sorted(tags) == list(range(len(packets)))
    assert state.clock[CK_IN] == state.clock[CK_OUT] == flits * len(packets)
    assert state.clock[CK_PACKETS] == 0


@pytest.mark.parametrize("buffer, channels", [(1, 2), (2, 2), (1, 3), (2, 5)])
@pytest.mark.parametrize("kind, fields", CIRCLES)
def test_bursts_from_all_to_all_do_not_deadlock(kind, fields, buffer, channels):
    for ordered in (True, False):
        for flits in (1, 7):
            network = describe(kind, **fields, buffer_flits=buffer, virtual_channels=channels, ordered=ordered)
            run_kernel(network, 16, burst(16, flits, 3))


def test_a_ring_without_datelines_deadlocks():
    network, packets = describe("ring", buffer_flits=1), [(0, s, (s + 3) % 8, 4, s) for s in range(8)]
    run_kernel(network, 8, packets)
    state = idle(network, 8)
    state.ports[:, PT_HALF] = 0
    push_packets(state, packets)
    with pytest.raises(DeadlockError, match=r"network: \d+ packets wait for one another from cycle \d+ on"):
        run_flits(state, END)
    check_conserved(state)
    assert state.channels[:, VC_FLITS].sum() > 0


def overtaken(network: Network, nodes: int, packets: list[Packet]) -> int:
    """Pairs of packets of one source and target that arrive in the other order."""
    arrivals, _ = run_kernel(network, nodes, packets)
    found = 0
    for pair in {(p[1], p[2]) for p in packets}:
        times = [arrivals[p[4]] for p in packets if (p[1], p[2]) == pair]
        found += sum(a >= b for a, b in pairwise(times))
    return found


@pytest.mark.parametrize("kind, fields", SHAPES)
def test_packets_of_a_pair_stay_in_order(kind, fields):
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 6, 2000).tolist()
    packets = [(t, s, d, lengths[tag], tag) for t, s, d, _, tag in uniform(9, 1.0, 3, 150)]
    wide = {**fields, "virtual_channels": 6, "buffer_flits": 2}
    assert overtaken(describe(kind, **wide, ordered=True), 9, packets) == 0
    if kind != "crossbar":  # one hop: round robin rarely lets two packets of a pair change places
        assert overtaken(describe(kind, **wide, ordered=False), 9, packets) > 0


@pytest.mark.kernels
@pytest.mark.parametrize("flits", [1, 4])
@pytest.mark.parametrize("kind, fields", SHAPES)
def test_light_load_latency_is_hops_times_router_and_link_plus_flits(kind, fields, flits):
    """Arrival = start + hops * (router + link) + flits - 1, where hops are routers; not a cycle earlier or later."""
    router, link, credit = 3, 2, 2
    network = describe(
        kind, **fields, router_latency_cycles=router, link_latency_cycles=link, credit_latency_cycles=credit,
        buffer_flits=router + link + credit,
    )  # fmt: skip
    state = idle(network, 6)
    start = 0
    for source in range(6):
        for target in range(6):
            start += 1000
            push_packets(state, [(start, source, target, flits, start)])
            arrival = start + state.network.topology.hops(source, target) * (router + link) + flits - 1
            assert len(run_flits(state, arrival - link)) == 0  # its tail is not yet on the last link
            assert run_flits(state, arrival - link + 1).tolist() == [[arrival, start]]


def test_a_buffer_shorter_than_the_round_trip_of_credits_slows_a_packet_down():
    """A place serves a flit every router + link + credit cycles."""
    for places, cycles in ((7, 0), (6, 1), (1, 6)):
        network = describe("mesh", columns=2, router_latency_cycles=3, link_latency_cycles=2, credit_latency_cycles=2,
                           buffer_flits=places, virtual_channels=1)  # fmt: skip
        flits = 7
        arrivals, _ = run_kernel(network, 2, [(0, 0, 1, flits, 0)])
        assert arrivals[0] - (2 * 5 + flits - 1) == cycles * ((flits - 1) // places)


@pytest.mark.kernels
@pytest.mark.parametrize("kind, fields", SHAPES)
@given(data=st.data())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_windows_of_any_length_give_the_same(kind, fields, data):
    network = describe(kind, **fields, buffer_flits=2)
    packets = uniform(6, 0.8, 3, 40, seed=data.draw(st.integers(0, 99)))
    whole, reference = run_kernel(network, 6, packets)
    state, until, pushed = idle(network, 6), 0, 0
    found: list[list[int]] = []
    while len(found) < len(packets):
        until += data.draw(st.sampled_from([1, 1, 2, 5, 17, 60]))
        due = [p for p in packets[pushed:] if p[0] < until]  # only now: nobody knows what later windows bring
        push_packets(state, due)
        pushed += len(due)
        rows = run_flits(state, until).tolist()
        assert all(time < until + network.link_latency_cycles for time, _ in rows)
        found += rows
    assert found == sorted(found, key=lambda row: row[0])
    assert dict((tag, time) for time, tag in found) == dict(enumerate(whole))
    assert np.array_equal(state.network.counters, reference.network.counters)


def test_time_jumps_over_idle_cycles():
    arrivals, _ = run_kernel(describe("mesh", columns=4), 16, [(i * 10**12, i, 15 - i, 2, i) for i in range(16)])
    hops = [1 + abs(2 * (i % 4) - 3) + abs(2 * (i // 4) - 3) for i in range(16)]
    assert arrivals == [i * 10**12 + 2 * hops[i] + 1 for i in range(16)]


def carried(network: Network, nodes: int, cycles: int = 1500) -> float:
    """Flits a node and cycle that arrive when all nodes send all they can."""
    state = idle(network, nodes)
    push_packets(state, uniform(nodes, 1.0, 2, cycles))
    run_flits(state, cycles // 3)
    before = int(state.clock[CK_OUT])
    run_flits(state, cycles)
    return (int(state.clock[CK_OUT]) - before) / nodes / (cycles - cycles // 3)


def test_a_mesh_answers_sooner_and_carries_more_than_a_ring():
    ring, mesh = describe("ring", virtual_channels=4), describe("mesh", columns=4, virtual_channels=4)
    every = [(i * 1000, i // 16, i % 16, 1, i) for i in range(256)]
    for network, mean_hops in ((ring, 5.0), (mesh, 3.5)):
        latencies = np.array(run_kernel(network, 16, every)[0]) - np.arange(256) * 1000
        assert latencies.mean() == 2 * mean_hops
    loads = carried(ring, 16), carried(mesh, 16)
    # What crosses the bisection, half of all, cannot be more than its links carry: 2 and 4 a way.
    assert 0.35 < loads[0] <= 0.5 and 0.65 < loads[1] <= 1.0
    assert loads[1] > 1.5 * loads[0]
    assert carried(ring.model_copy(update={"through_first": False}), 16) < 0.6 * loads[0]


def test_round_robin_shares_an_output_fairly():
    state = idle(describe("crossbar", virtual_channels=1), 5)
    push_packets(state, [(0, s, 4, 2, s) for _ in range(100) for s in (0, 1, 3)])
    run_flits(state, 302)
    sent = state.network.counters[:5, CT_FLITS] - state.channels[:5, VC_FLITS]
    assert sent.sum() == state.clock[CK_OUT] == 300 + 1  # never idle from the first flit on
    assert sent[[0, 1, 3]].max() - sent[[0, 1, 3]].min() <= 2


@pytest.mark.kernels
def test_ring_of_requests_refuses_when_full_and_rows_are_checked():
    state = make_flits(make_network(describe("crossbar"), 3, 0, 0), 4, 2, 4)
    assert flit_push(state.requests, state.ring, 0, 0, 1, 1, 7)
    assert flit_push(state.requests, state.ring, 0, 0, 2, 1, 8)
    assert not flit_push(state.requests, state.ring, 0, 0, 1, 1, 9)
    assert state.ring[RING_TAIL] == 2
    assert sorted(run_flits(state, END).tolist()) == [[2, 7], [3, 8]]
    for row in ((0, 0, 3, 1, 0), (0, -1, 0, 1, 0), (0, 0, 1, 0, 0)):
        with pytest.raises(ValueError, match=r"packet 0, .* nodes are 0 to 2"):
            push_packets(state, [row])
    with pytest.raises(ValueError, match="capacities 0, 1, 1"):
        make_flits(state.network, 0, 1, 1)


def test_one_specialisation():
    run_kernel(describe("crossbar"), 3, [(0, 0, 1, 1, 0)])
    assert specialisations(flit_advance) == 1
