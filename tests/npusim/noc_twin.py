"""A network that is stepped cycle by cycle: objects, queues and credits as a textbook draws them. Slow and obvious.

Also what several network tests share: descriptions, traffic, and a run of the kernel.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isa.network import Network
from npusim.memory.noc.flit_state import FlitState, make_flits
from npusim.memory.noc.packet import network_send
from npusim.memory.noc.run import push_packets, run_flits
from npusim.memory.noc.state import NetworkState, make_network

Packet = tuple[int, int, int, int, int]  # time, source, target, flits, tag
END = 1 << 60


def describe(topology: str, **fields: Any) -> Network:
    """A network of flits of 32 bytes."""
    return Network.model_validate(
        {"topology": topology, "model": "flit", "clock_mhz": 1000, "flit_bytes": 32, **fields}
    )  # fmt: skip


def uniform(nodes: int, load: float, flits: int, cycles: int, seed: int = 1) -> list[Packet]:
    """Every node sends `load` flits a cycle to other nodes at random."""
    rng = np.random.default_rng(seed)
    times, sources = np.nonzero(rng.random((cycles, nodes)) < load / flits)
    targets = rng.integers(0, nodes - 1, len(times))
    targets += targets >= sources
    return [(int(t), int(s), int(d), flits, i) for i, (t, s, d) in enumerate(zip(times, sources, targets))]


def run_kernel(network: Network, nodes: int, packets: list[Packet]) -> tuple[list[int], FlitState]:
    """Arrival of every packet, by tag, each exactly once; the tables are small, so that they grow on the way."""
    state = make_flits(make_network(network, nodes, 0, 0), 2, 2, 1)
    push_packets(state, packets)
    found: dict[int, int] = {}
    for time, tag in run_flits(state, END).tolist():
        assert tag not in found
        found[tag] = time
    return [found[tag] for tag in range(len(packets))], state


def run_packets(network: Network, nodes: int, packets: list[Packet]) -> tuple[list[int], NetworkState]:
    """Arrivals of the packet or bandwidth model."""
    state = make_network(network, nodes, 0, 0)
    arrays = (state.params, state.links, state.routes, state.counters)
    return [int(network_send(*arrays, *packet[:4])) for packet in packets], state


def mean_latencies(network: Network, nodes: int, packets: list[Packet]) -> tuple[float, float]:
    """Mean latency by the flit model and by the packet model, in cycles."""
    sent = np.array([packet[0] for packet in packets])
    flits, packs = run_kernel(network, nodes, packets)[0], run_packets(network, nodes, packets)[0]
    return float((np.array(flits) - sent).mean()), float((np.array(packs) - sent).mean())


@dataclass
class Flit:
    packet: Packet
    head: bool
    tail: bool


@dataclass
class Buffer:
    """One virtual channel: the wire to it, its buffer, and what its sender knows of it."""

    link: Link
    number: int
    credits: int
    wire: deque[tuple[int, Flit]] = field(default_factory=deque)  # arrival, flit
    flits: deque[tuple[int, Flit]] = field(default_factory=deque)
    credits_due: deque[int] = field(default_factory=deque)
    owned: bool = False
    out: Buffer | None = None  # that the packet in front has taken
    begun: int = 0  # flits of it that went


@dataclass
class Link:
    key: tuple[int, ...]
    sender: int | None  # router; None: a node
    receiver: int | None
    dim: str
    dateline: bool
    buffers: list[Buffer] = field(default_factory=list)
    first: tuple[Any, ...] = (-1,)  # buffer that comes first in turn
    used: int = -1  # cycle in which its switch port was used
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])


class Twin:
    """One network; `run` returns (time, tag) of every delivery."""

    def __init__(self, network: Network, nodes: int) -> None:
        self.network, self.columns, self.rows = network, *network.grid(nodes, 0, 0)
        self.place = network.positions(nodes, 0, 0)
        self.wraps = network.topology in ("ring", "torus")
        self.links: dict[tuple[int, ...], Link] = {}
        for n, router in enumerate(self.place):
            self.add((0, n), None, router, "end", False)
            self.add((1, n), router, None, "end", False)
        for router in range(self.columns * self.rows):
            for dim, size in (("x", self.columns), ("y", self.rows)):
                for down in (0, 1):
                    self.add_hop(router, dim, size, down)
        self.queues: list[deque[Packet]] = [deque() for _ in range(nodes)]
        self.sending: list[tuple[Buffer, int] | None] = [None] * nodes  # buffer, flits that went
        self.delivered: list[tuple[int, int]] = []

    def add(self, key: tuple[int, ...], sender: int | None, receiver: int | None, dim: str, dateline: bool) -> None:
        link = Link(key, sender, receiver, dim, dateline)
        endless = self.network.buffer_flits if receiver is not None else END
        link.buffers = [Buffer(link, v, endless) for v in range(self.network.virtual_channels)]
        self.links[key] = link

    def add_hop(self, router: int, dim: str, size: int, down: int) -> None:
        x, y = router % self.columns, router // self.columns
        at = (x if dim == "x" else y) + (-1 if down else 1)
        inside = 0 <= at < size
        if size == 1 or not (inside or self.wraps):
            return
        x, y = (at % size, y) if dim == "x" else (x, at % size)
        self.add((2, router, int(dim == "y"), down), router, y * self.columns + x, dim, not inside)

    def next_link(self, router: int, target: int) -> Link:
        """Dimension order, the shorter way; of equal ones up at even places."""
        goal = self.place[target]
        for dim, here, there, size in ((0, router % self.columns, goal % self.columns, self.columns),
                                       (1, router // self.columns, goal // self.columns, self.rows)):  # fmt: skip
            if here == there:
                continue
            down = there < here
            if self.wraps:
                up_way = (there - here) % size
                down = up_way * 2 > size or (up_way * 2 == size and here % 2 == 1)
            return self.links[2, router, dim, int(down)]
        return self.links[1, target]

    def allowed(self, came: Buffer | None, link: Link, target: int) -> list[Buffer]:
        """The virtual channels of a link that a packet may use."""
        found = link.buffers
        if self.wraps and link.dim != "end":
            half = len(found) // 2
            behind = link.dateline or (came is not None and came.link.dim == link.dim and came.number >= half)
            found = found[half:] if behind else found[:half]
        return [found[target % len(found)]] if self.network.ordered else found

    def choose(self, came: Buffer | None, link: Link, target: int) -> Buffer | None:
        free = [b for b in self.allowed(came, link, target) if not b.owned and b.credits > 0]
        return min(free, key=lambda b: len(b.flits) + len(b.wire), default=None)

    def run(self, packets: list[Packet]) -> list[tuple[int, int]]:
        waiting, now = deque(packets), 0
        while len(self.delivered) < len(packets):
            assert now < 100_000
            while waiting and waiting[0][0] <= now:
                self.queues[waiting[0][1]].append(waiting.popleft())
            self.step(now)
            now += 1
        return sorted(self.delivered)

    def step(self, now: int) -> None:
        for link in self.links.values():
            for b in link.buffers:
                while b.credits_due and b.credits_due[0] <= now:
                    b.credits_due.popleft()
                    b.credits += 1
                while b.wire and b.wire[0][0] <= now:
                    arrival, flit = b.wire.popleft()
                    if link.receiver is not None:
                        b.flits.append((arrival + self.network.router_latency_cycles, flit))
                    elif flit.tail:
                        self.delivered.append((arrival, flit.packet[4]))
        for node in range(len(self.queues)):
            self.inject(node, now)
        for router in range(self.columns * self.rows):
            self.route(router, now)

    def inject(self, node: int, now: int) -> None:
        if not self.queues[node]:
            return
        packet, link = self.queues[node][0], self.links[0, node]
        if self.sending[node] is None:
            chosen = self.choose(None, link, packet[2])
            if chosen is None:
                return
            self.sending[node] = (chosen, 0)
            link.counts[1] += 1
            link.counts[2] += now - packet[0]
        buffer, sent = self.sending[node]
        if buffer.credits == 0:
            return
        buffer.credits -= 1
        link.counts[0] += 1
        tail = sent + 1 == packet[3]
        buffer.flits.append((now + self.network.router_latency_cycles, Flit(packet, sent == 0, tail)))
        self.sending[node] = (buffer, sent + 1)
        if tail:
            self.queues[node].popleft()
            self.sending[node] = None

    def route(self, router: int, now: int) -> None:
        outs = sorted((link for link in self.links.values() if link.sender == router), key=lambda link: link.key)
        asking: dict[tuple[int, ...], list[tuple[Buffer, Buffer]]] = {link.key: [] for link in outs}
        for link in sorted(self.links.values(), key=lambda link: link.key):
            for b in link.buffers if link.receiver == router else []:
                if not b.flits or b.flits[0][0] > now:
                    continue
                target = b.flits[0][1].packet[2]
                out = self.next_link(router, target)
                pick = b.out or self.choose(b, out, target)
                if pick is not None and pick.credits > 0:
                    asking[out.key].append((b, pick))
        turn = now % len(outs)
        served = set()
        for going_on in (True, False):
            for out in outs[turn:] + outs[:turn]:
                able = [(b, pick) for b, pick in asking[out.key] if b.link.used != now and out.key not in served]
                if going_on:
                    able = [(b, pick) for b, pick in able if b.out and self.order(b) == out.first]
                if able:
                    # In turn: the first at or after the place that comes first, else the first of all.
                    b, pick = min(able, key=lambda pair: self.turn(pair[0], out))
                    served.add(out.key)
                    self.go(b, pick, out, now)

    def turn(self, b: Buffer, out: Link) -> tuple[Any, ...]:
        through_first = self.network.through_first
        if through_first is None:
            through_first = self.network.topology == "ring"
        return through_first and b.link.sender is None, self.order(b) < out.first, self.order(b)

    @staticmethod
    def order(b: Buffer) -> tuple[int, ...]:
        return (*b.link.key, -1, b.number)

    def go(self, b: Buffer, pick: Buffer, out: Link, now: int) -> None:
        ready, flit = b.flits.popleft()
        b.credits_due.append(now + self.network.credit_latency_cycles)
        b.link.used = now
        out.counts[0] += 1
        if flit.head:
            out.counts[1] += 1
            out.counts[2] += now - ready
        pick.credits -= 1
        pick.wire.append((now + self.network.link_latency_cycles, flit))
        pick.owned, b.out = not flit.tail, None if flit.tail else pick
        out.first = (*self.order(b)[:-1], b.number + int(flit.tail))
