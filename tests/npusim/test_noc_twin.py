"""The flit kernel against a network that is stepped cycle by cycle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noc_twin import Packet, Twin, describe, run_kernel, uniform

from isa.network import Network

pytestmark = pytest.mark.kernels
SHAPES = [("crossbar", {}), ("ring", {}), ("ring", {"stops": 3}), ("mesh", {"columns": 3}), ("mesh", {"columns": 2}),
          ("torus", {"columns": 3}), ("torus", {"columns": 2})]  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, int]:
    """A description and its number of nodes; several nodes at a router, and tiny buffers, are common."""
    kind, fields = draw(st.sampled_from(SHAPES))
    nodes = draw(st.integers(2, 9))
    if kind in ("mesh", "torus"):
        fields = {**fields, "rows": draw(st.integers(1, 3))}
    fields = {
        **fields, "virtual_channels": draw(st.integers(2, 5)), "buffer_flits": draw(st.sampled_from([1, 2, 3, 8])),
        "router_latency_cycles": draw(st.integers(1, 3)), "link_latency_cycles": draw(st.integers(1, 3)),
        "credit_latency_cycles": draw(st.integers(1, 3)), "ordered": draw(st.booleans()),
        "through_first": draw(st.sampled_from([None, True, False])),
    }  # fmt: skip
    return describe(kind, **fields), nodes


@st.composite
def traffic(draw: st.DrawFn, nodes: int) -> list[Packet]:
    """Bursts, gaps, long packets, packets to oneself and hot targets."""
    gap = draw(st.sampled_from([0, 1, 3, 40]))
    hot = draw(st.integers(0, nodes - 1))
    time, found = 0, []
    for tag in range(draw(st.integers(1, 40))):
        time += draw(st.integers(0, gap))
        target = hot if draw(st.integers(0, 2)) == 0 else draw(st.integers(0, nodes - 1))
        found.append((time, draw(st.integers(0, nodes - 1)), target, draw(st.sampled_from([1, 1, 2, 5])), tag))
    return found


def compare(network: Network, nodes: int, packets: list[Packet]) -> None:
    arrivals, state = run_kernel(network, nodes, packets)
    twin = Twin(network, nodes)
    assert sorted((time, tag) for tag, time in enumerate(arrivals)) == twin.run(packets)
    assert state.network.counters.tolist() == [link.counts for _, link in sorted(twin.links.items())]


@given(data=st.data(), case=networks())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_kernel_equals_twin(data, case):
    network, nodes = case
    compare(network, nodes, data.draw(traffic(nodes)))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind, fields", SHAPES)
def test_kernel_equals_twin_under_load(kind, fields, ordered):
    network = describe(kind, **fields, ordered=ordered, virtual_channels=4, buffer_flits=3)
    compare(network, 6, uniform(6, 0.7, 3, 60))
