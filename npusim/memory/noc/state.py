"""What a network is to its kernels: int64 arrays, and how a description fills them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import ConfigError
from isa.network import Network, network_faults
from npusim.memory.noc.topology import Topology, make_topology

Array = npt.NDArray[Any]

# fmt: off
# Parameters (int64). Nodes: cores from 0, slices from SLICE_BASE, memory controllers from CHANNEL_BASE.
(P_ROUTE, P_NODES, P_SLICE_BASE, P_CHANNEL_BASE, P_ROUTERS, P_LINKS,
 P_ROUTER_CYCLES, P_LINK_CYCLES, P_MEAN_CYCLES,      # a router; a link; an idle network's mean way from end to end
 P_FLIT_BYTES, P_HEADER_BYTES,
 P_CHANNELS, P_BUFFER, P_CREDIT_CYCLES, P_ORDERED,  # virtual channels, flits of each, credits, order of pairs
 P_THROUGH_FIRST,
 P_COUNT) = range(17)
ROUTE_CROSSBAR, ROUTE_TABLE, ROUTE_BANDWIDTH = range(3)  # how network_send goes

# `links`, int64 [links, words]: link n is node n's way in, nodes + n its way out, then those between routers.
(LK_ROUTER,     # router that it leads to; -1: to a node
 LK_FREE,       # cycle from which no packet holds it (`reserve`)
 LK_TREE,       # multicast that used it last
 LK_HEAD,       # that one's head at its end
 LK_FROM,       # who sends into it: node, or nodes + router
 LK_DIM, LK_DATELINE,
 LK_CALENDAR) = range(8)  # blocks of 32 cycles: the number of the block, and a bit per cycle that is taken
CALENDAR_BLOCKS = 32     # block b at place b % CALENDAR_BLOCKS, a power of 2
LK_QUEUE = LK_CALENDAR + 2 * CALENDAR_BLOCKS
# Crossbar: behind that, per virtual channel of a link to the router, QU_FLITS + buffer_flits words.
(QU_FREE,     # cycle from which the next packet may leave the buffer
 QU_PLACE,    # of the next flit
 QU_FLITS) = range(3)  # per place: cycle from which it may be filled

# `counters`, int64 [links, CT_WORDS]. A flit keeps a link busy for one cycle.
(CT_FLITS, CT_PACKETS,
 CT_WAIT,       # cycles that heads of packets stood before the link beyond the router's latency
 CT_WORDS) = range(4)
# fmt: on


@dataclass
class NetworkState:
    """One network (of requests, or of responses): the first four arguments of its kernels, and its graph."""

    params: Array  # int64 [P_COUNT]
    links: Array  # int64 [links, words]
    routes: Array  # int64 [routers, nodes]: next link; never written
    counters: Array  # int64 [links, CT_WORDS]
    topology: Topology

    def slice_node(self, index: int) -> int:
        """Node of an L2 slice."""
        return int(self.params[P_SLICE_BASE]) + index

    def channel_node(self, index: int) -> int:
        """Node of a memory controller."""
        return int(self.params[P_CHANNEL_BASE]) + index

    def link_name(self, link: int) -> str:
        """`core 3 > router 0` and alike."""
        ends = (int(self.topology.link_from[link]), int(self.topology.link_to[link]))
        source, target = (self._name(end) for end in ends)
        return f"{source} > {target}"

    def _name(self, end: int) -> str:
        nodes, slices, channels = (int(self.params[word]) for word in (P_NODES, P_SLICE_BASE, P_CHANNEL_BASE))
        for first, kind in ((nodes, "router"), (channels, "channel"), (slices, "slice"), (0, "core")):
            if end >= first:
                return f"{kind} {end - first}"
        raise ValueError(f"{end} is no node and no router")

    def link_report(self, cycles: int) -> list[dict[str, Any]]:
        """Per link that was used: its name, bytes, packets, cycles waited for it, and its utilisation over `cycles`."""
        return [
            {
                "link": self.link_name(i),
                "bytes": int(row[CT_FLITS]) * int(self.params[P_FLIT_BYTES]),
                "busy_cycles": int(row[CT_FLITS]),
                "packets": int(row[CT_PACKETS]),
                "wait_cycles": int(row[CT_WAIT]),
                "utilisation": int(row[CT_FLITS]) / max(1, cycles),
            }
            for i, row in enumerate(self.counters)
            if row[CT_PACKETS]
        ]


def make_network(network: Network, cores: int, slices: int, channels: int) -> NetworkState:
    """Build one idle network; call it twice for requests and responses. Raises ConfigError for a faulty description."""
    faults = list(network_faults(network, cores, slices, channels))
    if faults:
        raise ConfigError("\n".join(faults))
    topology = make_topology(network, cores, slices, channels)
    params = np.zeros(P_COUNT, np.int64)
    params[P_ROUTE] = ROUTE_CROSSBAR if network.topology == "crossbar" else ROUTE_TABLE
    if network.model == "bandwidth":
        params[P_ROUTE] = ROUTE_BANDWIDTH
    params[[P_NODES, P_ROUTERS, P_LINKS]] = topology.nodes, topology.routers, topology.links
    params[[P_SLICE_BASE, P_CHANNEL_BASE]] = cores, cores + slices
    params[P_ROUTER_CYCLES] = network.router_latency_cycles
    params[P_LINK_CYCLES] = network.link_latency_cycles
    hop_cycles = network.router_latency_cycles + network.link_latency_cycles
    params[P_MEAN_CYCLES] = round(_mean_hops(topology, cores, slices, channels) * hop_cycles)
    params[[P_FLIT_BYTES, P_HEADER_BYTES]] = network.flit_bytes, network.header_bytes
    params[[P_CHANNELS, P_BUFFER]] = network.virtual_channels, network.buffer_flits
    params[[P_CREDIT_CYCLES, P_ORDERED]] = network.credit_latency_cycles, network.ordered
    queues = network.virtual_channels * (QU_FLITS + network.buffer_flits) if params[P_ROUTE] == ROUTE_CROSSBAR else 0
    links = _links(topology, LK_QUEUE + queues)
    params[P_THROUGH_FIRST] = network.topology == "ring" if network.through_first is None else network.through_first
    return NetworkState(params, links, topology.next_link, np.zeros((topology.links, CT_WORDS), np.int64), topology)


def _links(topology: Topology, words: int) -> Array:
    links, nodes = np.zeros((topology.links, words), np.int64), topology.nodes
    links[:, LK_ROUTER] = np.maximum(topology.link_to - nodes, -1)
    links[:, LK_FROM] = topology.link_from
    links[:, LK_DIM] = topology.link_dim
    links[:, LK_DATELINE] = topology.link_dateline
    links[:, LK_TREE] = -1
    links[:nodes, LK_TREE] = np.arange(nodes)  # multicasts of node n are numbered n + k * nodes
    return links


def _mean_hops(topology: Topology, cores: int, slices: int, channels: int) -> float:
    """Mean over pairs of different kinds (core and slice, slice and channel, ...), or all pairs of the only kind."""
    nodes = np.arange(topology.nodes)
    kinds = [k for k in np.split(nodes, [cores, cores + slices]) if len(k)]
    pairs = [(a, b) for i, a in enumerate(kinds) for b in kinds[i + 1 :]] or [(nodes, nodes)]
    total = sum(topology.mean_hops(a, b) * len(a) * len(b) for a, b in pairs)
    return total / sum(len(a) * len(b) for a, b in pairs)
