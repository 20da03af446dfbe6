"""The arrays of the flit model: buffers of virtual channels, routers, nodes, packets under way, and their ends.

An input buffer belongs to the link that leads to it: virtual channel v of link l is channel l * channels + v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npusim.memory.noc.state import (
    LK_FROM,
    LK_ROUTER,
    P_BUFFER,
    P_CHANNELS,
    P_LINKS,
    P_NODES,
    P_ROUTERS,
    P_THROUGH_FIRST,
    Array,
    NetworkState,
)
from npusim.memory.noc.topology import DIM_END

NEVER = 1 << 62

# fmt: off
# Status of flit_advance.
OK, PACKETS_FULL, DELIVERIES_FULL, DEADLOCK = range(4)

# `ports`, int64 [links, PT_WORDS]: the router's output behind which the link lies.
(PT_POINTER,  # channel that comes first: the one granted last, behind its tail the next one
 PT_FIRST,    # list of channels that ask in this cycle
 PT_TAKEN,    # cycle in which an input's switch port was last used (the link as an input)
 PT_HALF,     # channels before the dateline; 0: no dateline on the way, all channels alike
 PT_LATE,     # turns that an input waits longer: all, of one from a node, where those on the way come first
 PT_WORDS) = range(6)

# `channels`, int64 [links x channels, VC_WORDS].
(VC_LINK, VC_CLASS,     # 1: behind the dateline
 VC_SLOT, VC_FLITS,     # place of the first flit; how many there are
 VC_OUT, VC_OUT_CHANNEL,  # link and channel that the packet in front has taken; -1: none yet
 VC_OWNED,              # 1: a packet is being sent in
 VC_PLACE,              # in the router's list of channels with flits; -1: empty
 VC_NEXT, VC_PICK,      # next in the list PT_FIRST; the channel it would get
 VC_WORDS) = range(11)

# `buffers`, int64 [links x channels, buffer_flits, BF_WORDS].
BF_READY, BF_PACKET, BF_LEFT, BF_FREE, BF_WORDS = range(5)  # may leave; whose; flits behind it; place usable again

# `routers`, int64 [routers, RT_WORDS]: places in `lists`.
RT_ACTIVE, RT_ACTIVES, RT_OUT, RT_OUTS, RT_WORDS = range(5)  # channels with flits (first place, number); output links

# `nodes`, int64 [nodes, ND_WORDS]: the injection queue.
ND_FIRST, ND_LAST, ND_SENT, ND_CHANNEL, ND_WORDS = range(5)  # packets; flits of the first that left; their channel

# `packets`, int64 [n, PK_WORDS]: under way, or queued; free rows are chained by PK_NEXT.
PK_TIME, PK_TARGET, PK_FLITS, PK_TAG, PK_NEXT, PK_WORDS = range(6)

# `clock`, int64 [CK_WORDS].
(CK_NOW,               # all cycles before it are decided
 CK_FREE, CK_PACKETS,  # first free row of `packets`; packets queued or under way
 CK_IN, CK_OUT,        # flits that entered their first buffer; flits that left their last
 CK_WORDS) = range(6)

# `requests`, int64 [capacity, TX_WORDS], and `deliveries`, int64 [capacity, RX_WORDS], with their ring states
# int64 [2]: row n lies at n % capacity.
TX_TIME, TX_SOURCE, TX_TARGET, TX_FLITS, TX_TAG, TX_WORDS = range(6)
RX_TIME, RX_TAG, RX_WORDS = range(3)
RING_HEAD, RING_TAIL, RING_WORDS = range(3)
# fmt: on


@dataclass
class FlitState:
    """A network with the arrays of the flit model, in the order of the arguments of `flit_advance`."""

    network: NetworkState
    ports: Array
    channels: Array
    buffers: Array
    routers: Array
    lists: Array
    nodes: Array
    packets: Array
    wake: Array  # int64 [nodes + routers]: next cycle in which a sender may have something to do
    clock: Array
    requests: Array
    ring: Array
    deliveries: Array
    done: Array

    @property
    def arrays(self) -> Any:
        """All arrays in order."""
        net = self.network
        return (
            net.params, net.links, net.routes, net.counters, self.ports, self.channels, self.buffers, self.routers,
            self.lists, self.nodes, self.packets, self.wake, self.clock, self.requests, self.ring, self.deliveries,
            self.done,
        )  # fmt: skip

    def grow_packets(self) -> None:
        """Double the table of packets; those under way stay where they are."""
        rows = len(self.packets)
        self.packets = np.concatenate([self.packets, np.zeros_like(self.packets)])
        self.packets[rows:, PK_NEXT] = np.arange(rows + 1, 2 * rows + 1)
        self.packets[-1, PK_NEXT] = self.clock[CK_FREE]
        self.clock[CK_FREE] = rows

    def grow_requests(self) -> None:
        """Double the ring of requests."""
        self.requests = _grown(self.requests, self.ring)

    def grow_deliveries(self) -> None:
        """Double the ring of deliveries."""
        self.deliveries = _grown(self.deliveries, self.done)


def make_flits(network: NetworkState, packets: int = 1024, requests: int = 1024, deliveries: int = 1024) -> FlitState:
    """Return an idle flit model of a network, with room for so many rows each (all > 0; they grow)."""
    if min(packets, requests, deliveries) <= 0:
        raise ValueError(f"capacities {packets}, {requests}, {deliveries}: each must be above 0")
    params, topology = network.params, network.topology
    links, count = int(params[P_LINKS]), int(params[P_CHANNELS])
    ports = np.zeros((links, PT_WORDS), np.int64)
    ports[:, [PT_FIRST, PT_TAKEN]] = -1
    if topology.wraps:
        ports[topology.link_dim != DIM_END, PT_HALF] = count // 2
    if params[P_THROUGH_FIRST]:
        ports[: topology.nodes, PT_LATE] = links * count
    channels = np.zeros((links * count, VC_WORDS), np.int64)
    channels[:, VC_LINK] = np.repeat(np.arange(links), count)
    half = ports[channels[:, VC_LINK], PT_HALF]
    channels[:, VC_CLASS] = (half > 0) & (np.arange(links * count) % count >= half)
    channels[:, [VC_OUT, VC_OUT_CHANNEL, VC_PLACE, VC_NEXT]] = -1
    buffers = np.zeros((links * count, int(params[P_BUFFER]), BF_WORDS), np.int64)
    routers, lists = _routers(network)
    nodes = np.full((topology.nodes, ND_WORDS), -1, np.int64)
    nodes[:, ND_SENT] = 0
    pool = np.zeros((packets, PK_WORDS), np.int64)
    pool[:, PK_NEXT] = np.arange(1, packets + 1)
    pool[-1, PK_NEXT] = -1
    room = max(deliveries, topology.nodes)  # a cycle delivers a packet to every node at most
    return FlitState(
        network, ports, channels, buffers, routers, lists, nodes, pool,
        np.full(topology.nodes + topology.routers, NEVER, np.int64), np.zeros(CK_WORDS, np.int64),
        np.zeros((requests, TX_WORDS), np.int64), np.zeros(RING_WORDS, np.int64),
        np.zeros((room, RX_WORDS), np.int64), np.zeros(RING_WORDS, np.int64),
    )  # fmt: skip


def _routers(network: NetworkState) -> tuple[Array, Array]:
    params, links = network.params, network.links
    count, nodes = int(params[P_CHANNELS]), int(params[P_NODES])
    routers = np.zeros((int(params[P_ROUTERS]), RT_WORDS), np.int64)
    lists: list[int] = []
    ins = np.bincount(links[links[:, LK_ROUTER] >= 0, LK_ROUTER], minlength=len(routers))
    for router, row in enumerate(routers):
        row[RT_ACTIVE] = len(lists)
        lists += [-1] * (int(ins[router]) * count)
        outs = np.flatnonzero(links[:, LK_FROM] == nodes + router)
        row[[RT_OUT, RT_OUTS]] = len(lists), len(outs)
        lists += outs.tolist()
    return routers, np.array(lists, np.int64)


def _grown(rows: Array, ring: Array) -> Array:
    used = np.arange(ring[RING_HEAD], ring[RING_TAIL])
    grown = np.zeros((2 * len(rows), rows.shape[1]), np.int64)
    grown[used % len(grown)] = rows[used % len(rows)]
    return grown
