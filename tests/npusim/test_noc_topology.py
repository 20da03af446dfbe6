"""Graphs of networks: routes, datelines, places of nodes, and what a description may not say."""

from __future__ import annotations

import numpy as np
import pytest
from noc_twin import describe

from isa.errors import ConfigError
from isa.network import Network, network_faults
from npusim.memory.noc.state import make_network
from npusim.memory.noc.topology import DIM_END, Topology, make_topology

CASES = [("crossbar", {}, 7), ("ring", {}, 8), ("ring", {"stops": 5}, 9), ("mesh", {"columns": 4, "rows": 3}, 12),
         ("mesh", {"columns": 3}, 10), ("torus", {"columns": 4, "rows": 4}, 16),
         ("torus", {"columns": 5, "rows": 2}, 10), ("torus", {"columns": 1, "rows": 6}, 6)]  # fmt: skip


def laid_out(kind: str, fields: dict[str, int], nodes: int) -> Topology:
    return make_topology(describe(kind, **fields), nodes, 0, 0)


@pytest.mark.parametrize("kind, fields, nodes", CASES)
def test_paths_are_shortest_and_connected(kind, fields, nodes):
    net = laid_out(kind, fields, nodes)
    for source in range(nodes):
        for target in range(nodes):
            path = net.path(source, target)
            assert path[0] == source and path[-1] == nodes + target
            assert [int(net.link_to[a]) for a in path[:-1]] == [int(net.link_from[b]) for b in path[1:]]
            assert len(path) == len(set(path)) == net.hops(source, target) + 1
            dims = [int(net.link_dim[link]) for link in path[1:-1]]
            assert dims == sorted(dims) and DIM_END not in dims  # x before y


def dependencies(net: Topology, datelines: bool) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Which buffer (link, class) waits for which, over all routes."""
    found: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for source in range(net.nodes):
        for target in range(net.nodes):
            before, behind = None, 0
            for link in net.path(source, target):
                straight = before is not None and net.link_dim[link] == net.link_dim[before[0]]
                behind = int(net.link_dateline[link]) | (behind if straight else 0) if datelines else 0
                if before is not None:
                    found.setdefault(before, set()).add((link, behind))
                before = (link, behind)
    return found


def has_circle(graph: dict[tuple[int, int], set[tuple[int, int]]]) -> bool:
    """Take away what waits for nothing until nothing is left, or a circle is."""
    left = {a: set(b) for a, b in graph.items()}
    while left:
        done = [a for a, b in left.items() if not b & left.keys()]
        if not done:
            return True
        for a in done:
            del left[a]
    return False


@pytest.mark.parametrize("kind, fields, nodes", CASES)
def test_no_circle_of_buffers_that_wait_for_one_another(kind, fields, nodes):
    assert not has_circle(dependencies(laid_out(kind, fields, nodes), datelines=True))


@pytest.mark.parametrize("kind, fields, nodes", [CASES[1], CASES[2], CASES[6]])
def test_without_datelines_there_is_one(kind, fields, nodes):
    assert has_circle(dependencies(laid_out(kind, fields, nodes), datelines=False))


def test_equally_long_ways_share_the_links():
    net = laid_out("ring", {}, 8)
    loads = np.zeros(net.links, int)
    for source in range(8):
        loads[net.path(source, (source + 4) % 8)] += 1
    assert set(loads[16:]) == {2}


def test_nodes_are_spread_evenly_or_as_stated():
    assert describe("ring").positions(8, 4, 2) == [0, 1, 2, 3, 4, 5, 6, 7, 0, 2, 4, 6, 0, 4]
    assert describe("mesh", columns=3).grid(7, 2, 1) == (3, 3)
    assert describe("mesh", columns=2, rows=2).positions(8, 0, 0) == [0, 0, 1, 1, 2, 2, 3, 3]
    mesh = describe("mesh", columns=4, rows=2, core_nodes=[7, 1], channel_nodes=[3])
    assert mesh.positions(2, 2, 1) == [7, 1, 0, 4, 3]
    assert describe("ring", core_nodes=[9], slice_nodes=[0], channel_nodes=[1]).grid(1, 1, 1) == (10, 1)


def test_bisection_and_mean_hops():
    sizes = {"ring": {}, "mesh": {"columns": 4}, "torus": {"columns": 4}, "crossbar": {}}
    nets = {kind: laid_out(kind, fields, 16) for kind, fields in sizes.items()}
    assert {kind: net.bisection_links for kind, net in nets.items()} == {
        "ring": 2,
        "mesh": 4,
        "torus": 8,
        "crossbar": 8,
    }
    nodes = np.arange(16)
    for net in nets.values():
        every = [net.hops(a, b) for a in range(16) for b in range(16)]
        assert net.mean_hops(nodes, nodes) == pytest.approx(np.mean(every))
    assert nets["ring"].mean_hops(nodes, nodes) == 1 + 4.0  # N / 4
    assert nets["mesh"].mean_hops(nodes, nodes) == 1 + 2.5  # 2 (k - 1/k) / 3


@pytest.mark.parametrize(
    "kind, fields, counts, words",
    [
        ("mesh", {}, (4, 0, 0), ["memory.network.columns", "mesh", "set memory.network.columns"]),
        ("torus", {"columns": 2, "virtual_channels": 1}, (4, 0, 0), ["virtual_channels: 1", "torus", "2 or more"]),
        ("ring", {"virtual_channels": 1}, (4, 0, 0), ["virtual_channels: 1", "ring", "2 or more"]),
        ("ring", {"columns": 4}, (4, 0, 0), ["memory.network.columns: 4", "stops"]),
        ("crossbar", {"rows": 4}, (4, 0, 0), ["memory.network.rows: 4", "crossbar"]),
        ("mesh", {"columns": 2, "stops": 4}, (4, 0, 0), ["memory.network.stops: 4", "ring"]),
        ("mesh", {"columns": 2, "rows": 2, "core_nodes": [0, 4]}, (2, 0, 0), ["core_nodes[1]: router 4", "0 to 3"]),
        ("crossbar", {"slice_nodes": [1]}, (2, 1, 0), ["slice_nodes[0]: router 1", "0 to 0"]),
        ("ring", {"channel_nodes": [0, 1]}, (2, 0, 3), ["channel_nodes: 2 routers for 3 memory channels"]),
        ("mesh", {"columns": 1}, (100, 0, 0), ["memory.network.columns: 1", "100 rows", "64"]),
        ("ring", {}, (4096, 0, 4096), ["4096 routers x 8192 nodes", str(1 << 22)]),
        ("crossbar", {"buffer_flits": 4096, "virtual_channels": 16}, (64, 0, 0), ["buffer_flits: 4096", "to less"]),
        ("crossbar", {}, (0, 0, 0), ["leave memory.network out"]),
    ],
)  # fmt: skip
def test_faults_name_key_value_limit_and_remedy(kind, fields, counts, words):
    network = describe(kind, **fields)
    faults = list(network_faults(network, *counts))
    assert len(faults) == 1 and all(word in faults[0] for word in words), faults
    assert faults[0].startswith("memory.network")
    with pytest.raises(ConfigError, match=r"memory\.network"):
        make_network(network, *counts)


def test_good_descriptions_have_no_faults():
    for kind, fields, nodes in CASES:
        assert list(network_faults(describe(kind, **fields), nodes, 0, 0)) == []
    big = Network(topology="mesh", model="packet", clock_mhz=1000, flit_bytes=32, columns=64, buffer_flits=4096)
    assert list(network_faults(big, 1000, 0, 0)) == []
