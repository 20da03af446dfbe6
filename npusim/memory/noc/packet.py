"""Packets that reserve every link of their route in advance: virtual cut-through without bounds on buffers.

A packet's head takes router + link cycles a hop, a link is held for a cycle a flit, and who asks first goes first
(Kermani & Kleinrock, Virtual cut-through, 1979). Buffers never fill, so nothing is held back at its source: how far
that is from routers with real buffers is measured in docs/memory/network.md.
"""

from __future__ import annotations

from npusim.jit import kernel
from npusim.memory.noc.bandwidth import bandwidth_send
from npusim.memory.noc.links import reserve, reserve_gap
from npusim.memory.noc.state import (
    LK_HEAD,
    LK_ROUTER,
    LK_TREE,
    P_FLIT_BYTES,
    P_HEADER_BYTES,
    P_LINK_CYCLES,
    P_NODES,
    P_ROUTE,
    P_ROUTER_CYCLES,
    ROUTE_BANDWIDTH,
    ROUTE_CROSSBAR,
    Array,
)


@kernel
def flits_of(params: Array, data_bytes: int) -> int:
    """Return the flits of a packet: its header and its data; at least one."""
    size = params[P_HEADER_BYTES] + data_bytes + params[P_FLIT_BYTES] - 1
    return int(max(1, size // params[P_FLIT_BYTES]))


@kernel
def network_send(
    params: Array, links: Array, routes: Array, counters: Array, time_cycle: int, source: int, target: int, flits: int
) -> int:
    """Send a packet at `time_cycle` and return the cycle in which its last flit arrives, by packet or bandwidth model.

    Calls come in about the order of time: a link goes to who asks first. `flits` > 0; nodes must exist.
    """
    if params[P_ROUTE] == ROUTE_CROSSBAR:
        start = reserve(links, counters, source, time_cycle, flits)
        start = reserve(links, counters, params[P_NODES] + target, start + params[P_ROUTER_CYCLES], flits)
        return int(start + params[P_LINK_CYCLES] + flits - 1)
    if params[P_ROUTE] == ROUTE_BANDWIDTH:
        return bandwidth_send(params, links, routes, counters, time_cycle, source, target, flits)
    return packet_send(params, links, routes, counters, time_cycle, source, target, flits)


@kernel
def packet_send(
    params: Array, links: Array, routes: Array, counters: Array, time_cycle: int, source: int, target: int, flits: int
) -> int:
    """Send a packet hop by hop along the route tables of any topology."""
    head = reserve(links, counters, source, time_cycle, flits)
    router = links[source, LK_ROUTER]
    while router >= 0:
        link = routes[router, target]
        head = reserve_gap(links, counters, link, head + params[P_ROUTER_CYCLES], flits) + params[P_LINK_CYCLES]
        router = links[link, LK_ROUTER]
    return int(head + flits - 1)


@kernel
def network_multicast(
    params: Array, links: Array, routes: Array, counters: Array, time_cycle: int, source: int, targets: Array,
    arrivals: Array, flits: int,
) -> int:  # fmt: skip
    """Send one packet to all `targets`; fill `arrivals` (same length) and return the last of them.

    Routers copy it: each link of the union of the routes, which is a tree, carries it once.
    """
    tree = links[source, LK_TREE] + params[P_NODES]
    head = reserve(links, counters, source, time_cycle, flits)
    links[source, LK_TREE], links[source, LK_HEAD] = tree, head
    last = time_cycle
    for i in range(targets.shape[0]):
        head = links[source, LK_HEAD]
        router = links[source, LK_ROUTER]
        while router >= 0:
            link = routes[router, targets[i]]
            if links[link, LK_TREE] != tree:
                start = reserve_gap(links, counters, link, head + params[P_ROUTER_CYCLES], flits)
                links[link, LK_TREE], links[link, LK_HEAD] = tree, start + params[P_LINK_CYCLES]
            head = links[link, LK_HEAD]
            router = links[link, LK_ROUTER]
        arrivals[i] = head + flits - 1
        last = max(last, arrivals[i])
    return int(last)
