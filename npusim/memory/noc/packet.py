"""Packets that reserve every link of their route in advance: virtual cut-through without bounds on buffers.

A packet's head takes router + link cycles a hop, a link is held for a cycle a flit, and who asks first goes first
(Kermani & Kleinrock, Virtual cut-through, 1979). Buffers never fill, so nothing is held back at its source: how far
that is from routers with real buffers is measured in docs/memory/network.md.
"""

from __future__ import annotations

from npusim.jit import inlined, kernel
from npusim.memory.noc.bandwidth import bandwidth_send
from npusim.memory.noc.links import count, find_gap, reserve, reserve_gap, take_gap
from npusim.memory.noc.state import (
    LK_FREE,
    LK_HEAD,
    LK_QUEUE,
    LK_ROUTER,
    LK_TREE,
    P_BUFFER,
    P_CHANNELS,
    P_CREDIT_CYCLES,
    P_FLIT_BYTES,
    P_HEADER_BYTES,
    P_LINK_CYCLES,
    P_MEAN_CYCLES,
    P_NODES,
    P_ORDERED,
    P_ROUTE,
    P_ROUTER_CYCLES,
    QU_FLITS,
    QU_FREE,
    QU_PLACE,
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

    Calls come in about the order of time: a link goes to who asks first. Time >= 0, `flits` > 0; nodes must exist.
    """
    if params[P_ROUTE] == ROUTE_CROSSBAR:
        return crossbar_send(params, links, counters, time_cycle, source, target, flits)
    if params[P_ROUTE] == ROUTE_BANDWIDTH:
        return bandwidth_send(params, links, routes, counters, time_cycle, source, target, flits)
    return packet_send(params, links, routes, counters, time_cycle, source, target, flits)


@kernel
def idle_cycles(params: Array, links: Array, routes: Array, source: int, target: int, flits: int) -> int:
    """Return the cycles from a packet's start to its last flit's arrival when nothing else is on its way."""
    hop_cycles = params[P_ROUTER_CYCLES] + params[P_LINK_CYCLES]
    if params[P_ROUTE] == ROUTE_CROSSBAR:
        return int(hop_cycles + flits - 1)
    if params[P_ROUTE] == ROUTE_BANDWIDTH:
        return int(params[P_MEAN_CYCLES] + flits - 1)
    head, router = 0, links[source, LK_ROUTER]
    while router >= 0:
        head += hop_cycles
        router = links[routes[router, target], LK_ROUTER]
    return int(head + flits - 1)


@kernel
def crossbar_send(
    params: Array, links: Array, counters: Array, time_cycle: int, source: int, target: int, flits: int
) -> int:
    """Send a packet through one router whose input buffers fill up.

    It enters the buffer of its virtual channel as places become free, leaves in the order of that channel, and needs
    the switch port of its input and its output in the same cycles.
    """
    buffer = params[P_BUFFER]
    queue = _queue(params, links, source, target)
    here = min(flits, buffer)
    last = links[source, queue + QU_PLACE] + here - 1  # where its last flit, or the first that is as far behind, lies
    last -= buffer if last >= buffer else 0
    enter = max(time_cycle, links[source, LK_FREE], links[source, queue + QU_FLITS + last] - (here - 1))
    links[source, LK_FREE] = enter + flits
    count(counters, source, enter - time_cycle, flits)

    out = params[P_NODES] + target
    ready = enter + params[P_ROUTER_CYCLES]
    # The calendar of a way in is that of its switch port.
    leave = find_gap(links, out, source, max(ready, links[source, queue + QU_FREE]), flits)
    take_gap(links, out, leave, flits)
    take_gap(links, source, leave, flits)
    count(counters, out, leave - ready, flits)

    links[source, queue + QU_FREE] = leave + flits
    place = (
        (links[source, queue + QU_PLACE] + flits - here) % buffer if flits > buffer else links[source, queue + QU_PLACE]
    )
    for cycle in range(leave + flits - here, leave + flits):
        links[source, queue + QU_FLITS + place] = cycle + params[P_CREDIT_CYCLES]
        place = place + 1 if place + 1 < buffer else 0
    links[source, queue + QU_PLACE] = place
    return int(leave + params[P_LINK_CYCLES] + flits - 1)


@inlined
def _queue(params: Array, links: Array, source: int, target: int) -> int:
    """Return where the words of a virtual channel begin: the target's, or, of any, that which is empty first."""
    words = QU_FLITS + params[P_BUFFER]
    if params[P_ORDERED]:
        return int(LK_QUEUE + target % params[P_CHANNELS] * words)
    best = LK_QUEUE
    for queue in range(LK_QUEUE + words, LK_QUEUE + params[P_CHANNELS] * words, words):
        if links[source, queue + QU_FREE] < links[source, best + QU_FREE]:
            best = queue
    return int(best)


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
