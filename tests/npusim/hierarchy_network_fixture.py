"""Networks between the cores, slices and controllers of the small chip."""

from __future__ import annotations

from typing import Any

from hierarchy_fixture import (
    Bench,
    home,
)

from npusim.memory.noc.state import NetworkState

FLIT, HEADER, ROUTER, LINK = 40, 8, 2, 1
HOP = ROUTER + LINK
CHANNELS = 8


def network(topology: str, **fields: Any) -> str:
    stated = {"topology": topology, "clock_mhz": 1000, "flit_bytes": FLIT, "header_bytes": HEADER,
              "router_latency_cycles": ROUTER, "link_latency_cycles": LINK, **fields}  # fmt: skip
    return "memory.network={" + ", ".join(f"{key}: {value}" for key, value in stated.items()) + "}"


PLACES = {"core_nodes": [0, 3, 8, 11], "slice_nodes": [1, 5, 6, 10], "channel_nodes": [0, 4, 8, 2, 3, 7, 11, 9]}
XBAR, MESH = network("crossbar"), network("mesh", columns=4, rows=3, **PLACES)
NEAR = network("mesh", columns=4, rows=3, core_nodes=PLACES["core_nodes"], slice_nodes=PLACES["slice_nodes"])
RING, TORUS = network("ring", stops=12, **PLACES), network("torus", columns=4, rows=3, **PLACES)
RATES = network("mesh", columns=4, rows=3, model="bandwidth", **PLACES)
ALL = (XBAR, NEAR, MESH, RING, TORUS, RATES, network("crossbar", model="bandwidth", clock_mhz=1410.5))


def flits(data_bytes: int) -> int:
    return max(1, -(-(HEADER + data_bytes) // FLIT))


def networks(found: Bench) -> tuple[NetworkState, NetworkState]:
    assert found.state.networks is not None
    return found.state.networks.requests, found.state.networks.answers


def counted(state: NetworkState, word: int) -> dict[str, int]:
    """Sums of a counter over the links out of each kind of node, and into it as `> kind`."""
    sums: dict[str, int] = {}
    for link, row in enumerate(state.counters):
        source, target = (end.split()[0] for end in state.link_name(link).split(" > "))
        for name in (source, f"> {target}"):
            sums[name] = sums.get(name, 0) + int(row[word])
    return sums


def by_slice(found: Bench) -> dict[int, int]:
    """A line's address of each slice."""
    return {home(found.state, address): address for address in range(1 << 16, 0, -4096)}
