"""A network of which only the rates of the ends and the mean latency count: nothing between them is ever full."""

from __future__ import annotations

from npusim.jit import kernel
from npusim.memory.noc.links import reserve
from npusim.memory.noc.state import P_LINK_CYCLES, P_MEAN_CYCLES, P_NODES, Array


@kernel
def bandwidth_send(
    params: Array, links: Array, routes: Array, counters: Array, time_cycle: int, source: int, target: int, flits: int
) -> int:
    """Return the cycle in which the last flit arrives; the same arguments as npusim.memory.noc.packet.packet_send."""
    head = reserve(links, counters, source, time_cycle, flits)
    link_cycles = params[P_LINK_CYCLES]
    way = params[P_MEAN_CYCLES] - link_cycles
    return int(reserve(links, counters, params[P_NODES] + target, head + way, flits) + link_cycles + flits - 1)
