"""The two networks of a chip, of requests and of answers, from its description, and what they have carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import ConfigError
from isa.memory import Memory
from isa.network import shared_network_faults
from npusim.memory.hierarchy.layout import GR_CORES, GR_COUNT
from npusim.memory.noc.state import CT_WORDS, P_COUNT, NetworkState, make_network

Array = npt.NDArray[Any]
SHOWN_LINKS = 5


@dataclass
class Networks:
    """Two copies of one network: `requests` from cores to slices (to controllers), `answers` the other way."""

    requests: NetworkState
    answers: NetworkState
    clock_mhz: float

    @property
    def arrays(self) -> tuple[Array, ...]:
        """`net`, `routes` and the links and counters of both, as the kernels of the hierarchy take them."""
        return (
            self.requests.params, self.requests.routes, self.requests.links, self.requests.counters,
            self.answers.links, self.answers.counters,
        )  # fmt: skip

    def report(self, time_fs: int) -> dict[str, Any]:
        """What every link has carried until a time: `links` in the order of their use, `busiest` the first in words.

        `bytes` are those of whole flits; `utilisation` is the share of the network's cycles in which a link carried a
        flit; `wait_cycles` are those that heads of packets stood before it because of others.
        """
        cycles = max(1, round(time_fs * self.clock_mhz * 1e-9))
        links = [
            {"network": name, **link}
            for name, network in (("requests", self.requests), ("answers", self.answers))
            for link in network.link_report(cycles)
        ]
        links.sort(key=lambda link: -link["busy_cycles"])
        busiest = [f"{link['network']}, {link['link']}: {link['utilisation']:.1%}" for link in links[:SHOWN_LINKS]]
        return {
            "cycles": cycles, "bytes": sum(link["bytes"] for link in links),
            "wait_cycles": sum(link["wait_cycles"] for link in links), "busiest": busiest, "links": links,
        }  # fmt: skip


def make_networks(memory: Memory, cores: int, l2_clock_mhz: float) -> Networks | None:
    """The idle networks of a chip, None without. Raises ConfigError for what cannot be simulated."""
    network = memory.network
    if network is None:
        return None
    slices = 0 if memory.l2 is None else memory.l2.slices
    faults = list(shared_network_faults(network, cores, slices, memory.channels))
    if faults:
        raise ConfigError("\n".join(faults))
    channels = network.linked_channels(memory.channels)
    requests, answers = (make_network(network, cores, slices, channels) for _ in range(2))
    return Networks(requests, answers, network.clock_mhz or l2_clock_mhz)


def group_table(groups: Sequence[Sequence[int]], cores: int, memory: Memory) -> Array:
    """The rows of `groups` (layout.GR_*), one all zero when there is none. Raises ConfigError."""
    size = max((len(group) for group in groups), default=1)
    table = np.zeros((max(1, len(groups)), GR_CORES + 2 * size), np.int64)
    for i, group in enumerate(groups):
        if not group or len(set(group)) < len(group) or min(group) < 0 or max(group) >= cores:
            raise ConfigError(f"group {i}, cores {list(group)}: at least one core, each once, of 0 to {cores - 1}")
        table[i, GR_COUNT], table[i, GR_CORES : GR_CORES + len(group)] = len(group), group
    if groups and memory.network is not None and memory.network.model != "packet":
        raise ConfigError(
            f"memory.network.model: {memory.network.model} has no answers to groups of cores: set "
            "memory.network.model to packet"
        )
    return table


def no_arrays() -> tuple[Array, ...]:
    """What kernels take in the place of Networks.arrays when there is no network."""
    shapes = ((P_COUNT,), (1, 1), (1, 1), (1, CT_WORDS), (1, 1), (1, CT_WORDS))
    return tuple(np.zeros(shape, np.int64) for shape in shapes)
