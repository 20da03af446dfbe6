"""The on-chip network of the machine description: which nodes there are, how they are linked, what a link carries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from isa.schema_types import Count, Natural, Part, Positive, PositiveFloat


class Network(Part):
    """Cores, L2 slices and memory controllers on one network, for requests and, a copy of it, for responses.

    `model`: `flit` moves flits through routers with virtual channels and credits; `packet` reserves, per packet, each
    link of its route; `bandwidth` keeps only the rate of the ends and the mean latency.
    """

    topology: Literal["crossbar", "ring", "mesh", "torus"]
    model: Literal["flit", "packet", "bandwidth"] = "packet"
    clock_mhz: PositiveFloat
    flit_bytes: Annotated[int, Field(gt=0, le=1024)]  # what a link carries in a cycle
    router_latency_cycles: Positive = 1  # a hop: route, allocate, switch
    link_latency_cycles: Positive = 1
    virtual_channels: Annotated[int, Field(gt=0, le=16)] = 2
    buffer_flits: Count = 8  # of a virtual channel
    header_bytes: Natural = 8  # of a packet, before its data
    columns: Annotated[int, Field(gt=0, le=64)] | None = None  # mesh, torus; rows follow from the positions
    rows: Annotated[int, Field(gt=0, le=64)] | None = None
    core_nodes: list[Natural] = Field(default_factory=list)  # router of each core (row * columns + column)
    slice_nodes: list[Natural] = Field(default_factory=list)  # router of each L2 slice
    channel_nodes: list[Natural] = Field(default_factory=list)  # router of each memory controller
