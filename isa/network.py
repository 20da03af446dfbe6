"""The on-chip network of the machine description: which nodes there are, how they are linked, what a link carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from isa.schema_types import Count, Natural, Part

MAX_ROUTE_ENTRIES = 1 << 22  # routers x nodes: 32 MiB of next hops
MAX_BUFFERED_FLITS = 1 << 22  # links x virtual channels x buffer_flits, where a model keeps them


class Network(Part):
    """Cores, L2 slices and memory controllers on one network, for requests and, a copy of it, for responses.

    What a packet takes on it comes on top of the fixed latencies: a hit takes memory.request_latency_cycles, the way of
    the request, memory.l2.hit_latency_cycles, the way of the answer and memory.response_latency_cycles. Controllers are
    on it only when `channel_nodes` says where; what a slice asks of one then takes the way to it and
    memory.l2.miss_latency_cycles, the answer memory.l2.fill_latency_cycles and the way back. Otherwise a slice sits at
    its channel.

    `model`: `flit` moves flits through routers with virtual channels and credits; `packet` reserves, per packet, each
    link of its route; `bandwidth` keeps only the rate of the ends and the mean latency.
    """

    topology: Literal["crossbar", "ring", "mesh", "torus"]
    model: Literal["flit", "packet", "bandwidth"] = "packet"
    clock_mhz: Annotated[float, Field(ge=1, le=1e5)] | None = None  # default: that of memory.l2
    flit_bytes: Annotated[int, Field(gt=0, le=1024)]  # what a link carries in a cycle
    router_latency_cycles: Count = 1  # a hop: route, allocate, switch
    link_latency_cycles: Count = 1
    credit_latency_cycles: Count = 1  # a flit has left its buffer until the sender may use the place again
    virtual_channels: Annotated[int, Field(gt=0, le=16)] = 2  # rings and tori: half of them on each side of a dateline
    buffer_flits: Annotated[int, Field(gt=0, le=4096)] = 8  # of a virtual channel
    ordered: bool = True  # packets of one pair stay in order: the target chooses the channel; false: any free channel
    through_first: bool | None = None  # flits on the way before those that enter; default: on rings
    header_bytes: Annotated[int, Field(ge=0, le=4096)] = 8  # of a packet, before its data
    columns: Annotated[int, Field(gt=0, le=64)] | None = None  # mesh, torus
    rows: Annotated[int, Field(gt=0, le=64)] | None = None  # default: as many as the nodes need
    stops: Annotated[int, Field(gt=0, le=4096)] | None = None  # routers of a ring; default: as many as the nodes need
    core_nodes: list[Natural] = Field(default_factory=list)  # router of each core (row * columns + column)
    slice_nodes: list[Natural] = Field(default_factory=list)  # router of each L2 slice
    channel_nodes: list[Natural] = Field(default_factory=list)  # router of each memory controller

    def linked_channels(self, channels: int) -> int:
        """Memory controllers on the network in front of an L2: all when they have places, else none."""
        return channels if self.channel_nodes else 0

    def grid(self, cores: int, slices: int, channels: int) -> tuple[int, int]:
        """Columns and rows of routers; a ring is one row, a crossbar one router."""
        if self.topology == "crossbar":
            return 1, 1
        stated = [*self.core_nodes, *self.slice_nodes, *self.channel_nodes]
        needed = max(max(stated) + 1 if stated else 1, cores, slices, channels)
        if stated and self.core_nodes and self.slice_nodes and self.channel_nodes:
            needed = max(stated) + 1
        if self.topology == "ring":
            return self.stops or needed, 1
        columns = self.columns or 1
        return columns, self.rows or -(-needed // columns)

    def positions(self, cores: int, slices: int, channels: int) -> list[int]:
        """Router of every node: cores, then slices, then channels; those not stated are spread evenly."""
        columns, rows = self.grid(cores, slices, channels)
        found: list[int] = []
        for stated, count in ((self.core_nodes, cores), (self.slice_nodes, slices), (self.channel_nodes, channels)):
            found += stated if stated else [i * columns * rows // count for i in range(count)]
        return found


def network_faults(network: Network, cores: int, slices: int, channels: int) -> Iterator[str]:
    """Yield "key.path: what is wrong" for whatever one field of memory.network alone cannot show."""
    yield from _shape_faults(network)
    if network.topology in ("mesh", "torus") and network.columns is None:
        return  # nothing else can be placed
    columns, rows = network.grid(cores, slices, channels)
    where = f"{columns} x {rows} routers" if network.topology != "ring" else f"{columns} stops"
    if rows > 64 or columns * rows > 4096:
        yield (
            f"memory.network.columns: {columns} columns need {rows} rows for the nodes, more than 64: set "
            "memory.network.columns to more, or place several nodes at a router (memory.network.rows)"
        )
        return
    named = (("core_nodes", cores, "cores"), ("slice_nodes", slices, "L2 slices"),
             ("channel_nodes", channels, "memory channels"))  # fmt: skip
    for key, count, what in named:
        stated: list[int] = getattr(network, key)
        if stated and len(stated) != count:
            yield (
                f"memory.network.{key}: {len(stated)} routers for {count} {what}: list {count}, or none to spread them"
            )
        for i, router in enumerate(stated):
            if router >= columns * rows:
                yield (
                    f"memory.network.{key}[{i}]: router {router} is not among the {where} (0 to {columns * rows - 1}): "
                    f"name one of these, or {_more_routers(network, router + 1)}"
                )
                break
    yield from _size_faults(network, columns * rows, cores + slices + channels)


def _more_routers(network: Network, routers: int) -> str:
    """How to have so many routers."""
    if network.topology == "ring":
        return f"set memory.network.stops to {routers} or more"
    if network.topology == "crossbar":
        return "set memory.network.topology to ring or mesh: a crossbar is one router"
    return f"set memory.network.rows to {-(-routers // (network.columns or 1))} or more"


def shared_network_faults(network: Network, cores: int, slices: int, channels: int) -> Iterator[str]:
    """Yield the same for the network in front of an L2, of which not everything is simulated."""
    if slices < 1:
        yield "memory.network: it links cores with slices of an L2: describe memory.l2, or leave memory.network out"
        return
    if network.model == "flit":
        yield (
            "memory.network.model: flits are simulated without the memory only; set memory.network.model to packet, "
            "which is within 18 % of them until close to saturation"
        )
    if network.topology == "crossbar" and network.channel_nodes:
        yield (
            "memory.network.channel_nodes: a crossbar links cores and slices, and each slice sits at its channel: "
            "leave memory.network.channel_nodes out"
        )
        return
    yield from network_faults(network, cores, slices, network.linked_channels(channels))


def _shape_faults(network: Network) -> Iterator[str]:
    kind = network.topology
    grid = kind in ("mesh", "torus")
    if grid and network.columns is None:
        yield f"memory.network.columns: a {kind} needs the number of its columns: set memory.network.columns"
    for key in ("columns", "rows"):
        if not grid and getattr(network, key) is not None:
            hint = "set memory.network.stops instead" if kind == "ring" else "it has one router: leave it out"
            yield f"memory.network.{key}: {getattr(network, key)} says nothing of a {kind}: {hint}"
    if kind != "ring" and network.stops is not None:
        yield f"memory.network.stops: {network.stops} says nothing of a {kind}: only a ring has stops: leave it out"
    if kind in ("ring", "torus") and network.virtual_channels < 2:
        yield (
            f"memory.network.virtual_channels: {network.virtual_channels} can deadlock on a {kind}, whose links close "
            "circles: set memory.network.virtual_channels to 2 or more"
        )


def _size_faults(network: Network, routers: int, nodes: int) -> Iterator[str]:
    if nodes < 1:
        yield "memory.network: no core, slice or channel is on it: leave memory.network out"
    if routers * nodes > MAX_ROUTE_ENTRIES:
        yield (
            f"memory.network: {routers} routers x {nodes} nodes are {routers * nodes} routes, more than "
            f"{MAX_ROUTE_ENTRIES}: describe fewer routers or nodes"
        )
    flits = (2 * nodes + 4 * routers) * network.virtual_channels * network.buffer_flits
    kept = network.model == "flit" or (network.model == "packet" and network.topology == "crossbar")
    if kept and flits > MAX_BUFFERED_FLITS:
        yield (
            f"memory.network.buffer_flits: {network.buffer_flits} x {network.virtual_channels} virtual channels of "
            f"{nodes} nodes and {routers} routers are {flits} flits, more than {MAX_BUFFERED_FLITS}: set "
            "memory.network.buffer_flits to less, or memory.network.model to bandwidth"
        )
