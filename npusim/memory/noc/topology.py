"""The graph of a network: nodes, routers, directed links and, per router and target, the link to take next.

Nodes are numbered cores first, then L2 slices, then memory controllers. Links: node n sends by link n and receives by
link nodes + n; those between routers follow. Routing is by dimension order (Dally & Towles, Principles and Practices of
Interconnection Networks, ch. 8): first along x, then along y, each the shorter way round where the network closes a
circle. Circles would deadlock; each has a dateline, behind which packets use channels of their own (Dally & Seitz,
Deadlock-free message routing in multiprocessor interconnection networks, IEEE ToC 1987).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.network import Network

Array = npt.NDArray[Any]

DIM_X, DIM_Y, DIM_END = 0, 1, 2  # of a link; DIM_END: between a node and its router


@dataclass(frozen=True)
class Topology:
    """Tables of one network, all int64; senders and receivers are node numbers, then nodes + router numbers."""

    kind: str
    columns: int
    rows: int
    node_router: Array  # [nodes]
    link_from: Array  # [links] who sends into the link
    link_to: Array  # [links] who receives from it
    link_dim: Array  # [links] DIM_X, DIM_Y or DIM_END
    link_dateline: Array  # [links] 1: packets that take it change to the channels behind the dateline
    next_link: Array  # [routers, nodes] link to take at a router towards a node

    @property
    def nodes(self) -> int:
        """Cores, slices and memory controllers."""
        return len(self.node_router)

    @property
    def routers(self) -> int:
        """Routers; one of a crossbar."""
        return self.columns * self.rows

    @property
    def links(self) -> int:
        """Directed links, those of the nodes included."""
        return len(self.link_from)

    @property
    def wraps(self) -> bool:
        """Whether rows (and columns) close circles."""
        return self.kind in ("ring", "torus")

    def path(self, source: int, target: int) -> list[int]:
        """The links from a node to a node, in order."""
        found = [source]
        while self.link_to[found[-1]] != target or len(found) == 1:
            found.append(int(self.next_link[self.link_to[found[-1]] - self.nodes, target]))
        return found

    def hops(self, source: int, target: int) -> int:
        """Routers that a packet passes; at least 1."""
        a, b = int(self.node_router[source]), int(self.node_router[target])
        across = self._distance(a % self.columns, b % self.columns, self.columns)
        return 1 + across + self._distance(a // self.columns, b // self.columns, self.rows)

    def mean_hops(self, sources: Array, targets: Array) -> float:
        """Mean of `hops` over all pairs of two lists of nodes."""
        total = 1.0
        for size, place in ((self.columns, self.node_router % self.columns),
                            (self.rows, self.node_router // self.columns)):  # fmt: skip
            there, here = (np.bincount(place[nodes], minlength=size) for nodes in (targets, sources))
            way = np.array([[self._distance(a, b, size) for b in range(size)] for a in range(size)])
            total += float(here @ way @ there) / (len(sources) * len(targets))
        return total

    @property
    def bisection_links(self) -> int:
        """Links, one way, across a cut through the middle of the longer side."""
        if self.kind == "crossbar":
            return max(1, self.nodes // 2)
        across = min(self.columns, self.rows)
        return across * 2 if self.wraps and max(self.columns, self.rows) > 1 else across

    def _distance(self, a: int, b: int, size: int) -> int:
        straight = abs(a - b)
        return min(straight, size - straight) if self.wraps else straight


def make_topology(network: Network, cores: int, slices: int, channels: int) -> Topology:
    """Lay out the network; its description has no faults (isa.network.network_faults)."""
    columns, rows = network.grid(cores, slices, channels)
    node_router = np.array(network.positions(cores, slices, channels), np.int64)
    nodes, wraps = len(node_router), network.topology in ("ring", "torus")
    ends = [(n, nodes + int(r), DIM_END, 0) for n, r in enumerate(node_router)]
    ends += [(nodes + int(r), n, DIM_END, 0) for n, r in enumerate(node_router)]
    out = np.full((columns * rows, 2, 2), -1, np.int64)  # router, dimension, 0 up or 1 down: link
    for router in range(columns * rows):
        place = (router % columns, router // columns)
        for dim, size in ((DIM_X, columns), (DIM_Y, rows)):
            for down in (0, 1):
                at = place[dim] + (1, -1)[down]
                outside = not 0 <= at < size
                if size == 1 or (outside and not wraps):
                    continue
                neighbour = (at % size, place[1]) if dim == DIM_X else (place[0], at % size)
                out[router, dim, down] = len(ends)
                ends.append((nodes + router, nodes + neighbour[1] * columns + neighbour[0], dim, int(outside)))
    table = np.array(ends, np.int64).T
    next_link = _routes(columns, rows, wraps, node_router, out)
    sender, receiver, dims, datelines = (np.ascontiguousarray(c) for c in table)
    return Topology(network.topology, columns, rows, node_router, sender, receiver, dims, datelines, next_link)


def _routes(columns: int, rows: int, wraps: bool, node_router: Array, out: Array) -> Array:
    routers, nodes = columns * rows, len(node_router)
    found = np.empty((routers, nodes), np.int64)
    x, y = node_router % columns, node_router // columns
    for router in range(routers):
        across = _way(router % columns, x, columns, wraps)
        along = _way(router // columns, y, rows, wraps)
        link = np.where(along == 0, nodes + np.arange(nodes), out[router, DIM_Y, (along < 0).astype(np.int64)])
        found[router] = np.where(across == 0, link, out[router, DIM_X, (across < 0).astype(np.int64)])
    return found


def _way(here: int, there: Array, size: int, wraps: bool) -> Array:
    """Direction (1, -1 or 0) along one dimension; of two equally long ways even places take the upward one."""
    up = there - here
    if not wraps:
        signs: Array = np.sign(up)
        return signs
    up = up % size
    shorter = np.where(2 * up < size, 1, -1)
    tie = 1 if here % 2 == 0 else -1
    found: Array = np.where(up == 0, 0, np.where(2 * up == size, tie, shorter))
    return found
