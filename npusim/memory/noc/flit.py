"""Flits through routers with virtual channels and credits, cycle by cycle.

A router is that of Dally & Towles (Principles and Practices of Interconnection Networks, ch. 16 and 17) with one input
buffer per virtual channel and one combined step of allocation (Kumar et al., A 4.6 Tbit/s 3.6 GHz single-cycle NoC
router, ICCD 2007): a head asks for its output if a virtual channel of its class is free there, and takes it when the
switch is granted; later flits ask while there are credits. In a cycle each output, beginning with another one every
cycle, grants the next channel in round-robin order whose input port is not yet used; who goes on with the packet that
an output has begun comes before all others, so that packets interleave only where one is held up. On a ring what is on
the way comes before what enters (Kim & Kim, Router microarchitecture and scalability of ring topology, NoCArc 2009):
without that a full ring carries less than half. A flit that is in its buffer at t may leave from t + router cycles, is
in the next buffer link cycles later, and its place can be used again credit cycles after it left.

A router is visited only in cycles in which something may change for it: `wake` holds the next one of each sender, and
time jumps to the least of them. Nothing that a router does in a cycle is seen by another in the same cycle, so neither
the order of visits nor the cut of time into calls changes a result.
"""

from __future__ import annotations

from npusim.jit import inlined, kernel
from npusim.memory.noc.flit_state import (
    BF_FREE,
    BF_LEFT,
    BF_PACKET,
    BF_READY,
    CK_FREE,
    CK_IN,
    CK_NOW,
    CK_OUT,
    CK_PACKETS,
    DEADLOCK,
    DELIVERIES_FULL,
    ND_CHANNEL,
    ND_FIRST,
    ND_LAST,
    ND_SENT,
    NEVER,
    OK,
    PACKETS_FULL,
    PK_FLITS,
    PK_NEXT,
    PK_TAG,
    PK_TARGET,
    PK_TIME,
    PT_FIRST,
    PT_HALF,
    PT_LATE,
    PT_POINTER,
    PT_TAKEN,
    RING_HEAD,
    RING_TAIL,
    RT_ACTIVE,
    RT_ACTIVES,
    RT_OUT,
    RT_OUTS,
    RX_TAG,
    RX_TIME,
    TX_FLITS,
    TX_SOURCE,
    TX_TAG,
    TX_TARGET,
    TX_TIME,
    VC_CLASS,
    VC_FLITS,
    VC_LINK,
    VC_NEXT,
    VC_OUT,
    VC_OUT_CHANNEL,
    VC_OWNED,
    VC_PICK,
    VC_PLACE,
    VC_SLOT,
)
from npusim.memory.noc.state import (
    CT_FLITS,
    CT_PACKETS,
    CT_WAIT,
    LK_DATELINE,
    LK_DIM,
    LK_FROM,
    LK_ROUTER,
    P_CHANNELS,
    P_CREDIT_CYCLES,
    P_LINK_CYCLES,
    P_NODES,
    P_ORDERED,
    P_ROUTER_CYCLES,
    P_ROUTERS,
    Array,
)


@kernel
def flit_push(requests: Array, ring: Array, time_cycle: int, source: int, target: int, flits: int, tag: int) -> bool:
    """Append a packet; False, and nothing done, when the ring is full. Times must not decrease; `flits` > 0."""
    if ring[RING_TAIL] - ring[RING_HEAD] >= requests.shape[0]:
        return False
    row = ring[RING_TAIL] % requests.shape[0]
    requests[row, TX_TIME] = time_cycle
    requests[row, TX_SOURCE] = source
    requests[row, TX_TARGET] = target
    requests[row, TX_FLITS] = flits
    requests[row, TX_TAG] = tag
    ring[RING_TAIL] += 1
    return True


@kernel
def flit_advance(
    params: Array, links: Array, routes: Array, counters: Array, ports: Array, channels: Array, buffers: Array,
    routers: Array, lists: Array, nodes: Array, packets: Array, wake: Array, clock: Array, requests: Array, ring: Array,
    deliveries: Array, done: Array, until_cycle: int,
) -> int:  # fmt: skip
    """Decide every cycle before `until_cycle` and return a status; after one that is FULL, make room and call again.

    Deliveries come in the order of their times, which may lie up to a link's latency behind `until_cycle`.
    """
    while True:
        now = max(clock[CK_NOW], _next_cycle(wake, requests, ring))
        if now >= until_cycle:
            stuck = now == NEVER and clock[CK_PACKETS] > 0
            return DEADLOCK if stuck else OK
        clock[CK_NOW] = now
        if deliveries.shape[0] - (done[RING_TAIL] - done[RING_HEAD]) < nodes.shape[0]:
            return DELIVERIES_FULL
        if not _take(nodes, packets, wake, clock, requests, ring, now):
            return PACKETS_FULL
        for node in range(params[P_NODES]):
            if wake[node] <= now:
                wake[node] = _inject(
                    params, links, counters, ports, channels, buffers, routers, lists, nodes, packets, wake, clock,
                    node, now,
                )  # fmt: skip
        for router in range(params[P_ROUTERS]):
            if wake[params[P_NODES] + router] <= now:
                wake[params[P_NODES] + router] = NEVER
                wake[params[P_NODES] + router] = _route(
                    params, links, routes, counters, ports, channels, buffers, routers, lists, packets, wake, clock,
                    deliveries, done, router, now,
                )  # fmt: skip
        clock[CK_NOW] = now + 1


@kernel
def _next_cycle(wake: Array, requests: Array, ring: Array) -> int:
    first = NEVER
    if ring[RING_HEAD] < ring[RING_TAIL]:
        first = requests[ring[RING_HEAD] % requests.shape[0], TX_TIME]
    for i in range(wake.shape[0]):
        first = min(first, wake[i])
    return int(first)


@kernel
def _take(nodes: Array, packets: Array, wake: Array, clock: Array, requests: Array, ring: Array, now: int) -> bool:
    """Move the packets that are due to the queues of their nodes; False when the table is full."""
    while ring[RING_HEAD] < ring[RING_TAIL]:
        row = ring[RING_HEAD] % requests.shape[0]
        if requests[row, TX_TIME] > now:
            break
        packet = clock[CK_FREE]
        if packet < 0:
            return False
        clock[CK_FREE] = packets[packet, PK_NEXT]
        clock[CK_PACKETS] += 1
        packets[packet, PK_TIME] = requests[row, TX_TIME]
        packets[packet, PK_TARGET] = requests[row, TX_TARGET]
        packets[packet, PK_FLITS] = requests[row, TX_FLITS]
        packets[packet, PK_TAG] = requests[row, TX_TAG]
        packets[packet, PK_NEXT] = -1
        node = requests[row, TX_SOURCE]
        if nodes[node, ND_FIRST] < 0:
            nodes[node, ND_FIRST] = packet
        else:
            packets[nodes[node, ND_LAST], PK_NEXT] = packet
        nodes[node, ND_LAST] = packet
        wake[node] = min(wake[node], now)
        ring[RING_HEAD] += 1
    return True


@inlined
def _room_cycle(channels: Array, buffers: Array, channel: int) -> int:
    """Return the cycle from which a credit for the channel is there; NEVER while all places hold flits."""
    used = channels[channel, VC_FLITS]
    if used >= buffers.shape[1]:
        return NEVER
    slot = channels[channel, VC_SLOT] + used
    if slot >= buffers.shape[1]:
        slot -= buffers.shape[1]
    return int(buffers[channel, slot, BF_FREE])


@inlined
def _put(
    links: Array, channels: Array, buffers: Array, routers: Array, lists: Array, wake: Array, nodes: int,
    channel: int, ready: int, packet: int, left: int,
) -> None:  # fmt: skip
    """Write a flit behind the others of a channel; a sender with a credit does so when it sends."""
    used = channels[channel, VC_FLITS]
    slot = channels[channel, VC_SLOT] + used
    if slot >= buffers.shape[1]:
        slot -= buffers.shape[1]
    buffers[channel, slot, BF_READY] = ready
    buffers[channel, slot, BF_PACKET] = packet
    buffers[channel, slot, BF_LEFT] = left
    channels[channel, VC_FLITS] = used + 1
    if used == 0:
        router = links[channels[channel, VC_LINK], LK_ROUTER]
        place = routers[router, RT_ACTIVE] + routers[router, RT_ACTIVES]
        lists[place] = channel
        channels[channel, VC_PLACE] = place
        routers[router, RT_ACTIVES] += 1
        wake[nodes + router] = min(wake[nodes + router], ready)


@inlined
def _pick(
    params: Array, ports: Array, channels: Array, buffers: Array, link: int, behind: int, target: int, now: int
) -> int:
    """Return a virtual channel of a link that a head may take now, else -1 - the cycle in which to look again."""
    first, count, half = link * params[P_CHANNELS], params[P_CHANNELS], ports[link, PT_HALF]
    if half > 0:
        first += half * behind
        count = count - half if behind else half
    if params[P_ORDERED]:
        first += target % count
        count = 1
    soonest, best, fewest = NEVER, -1, NEVER
    for channel in range(first, first + count):
        if channels[channel, VC_OWNED] == 0:
            cycle = _room_cycle(channels, buffers, channel)
            if cycle <= now and channels[channel, VC_FLITS] < fewest:
                best, fewest = channel, channels[channel, VC_FLITS]
            soonest = min(soonest, cycle)
    return int(best if best >= 0 else -1 - soonest)


@kernel
def _inject(
    params: Array, links: Array, counters: Array, ports: Array, channels: Array, buffers: Array, routers: Array,
    lists: Array, nodes: Array, packets: Array, wake: Array, clock: Array, node: int, now: int,
) -> int:  # fmt: skip
    """Send the next flit of a node's queue to its router, if there is a credit; return when to look again."""
    packet = nodes[node, ND_FIRST]
    if packet < 0:
        return NEVER
    channel = nodes[node, ND_CHANNEL]
    if channel < 0:
        channel = _pick(params, ports, channels, buffers, node, 0, packets[packet, PK_TARGET], now)
        if channel < 0:
            return int(-1 - channel)
        counters[node, CT_PACKETS] += 1
        counters[node, CT_WAIT] += now - packets[packet, PK_TIME]
    else:
        cycle = _room_cycle(channels, buffers, channel)
        if cycle > now:
            return int(cycle)
    nodes[node, ND_SENT] += 1
    left = packets[packet, PK_FLITS] - nodes[node, ND_SENT]
    ready = now + params[P_ROUTER_CYCLES]
    _put(links, channels, buffers, routers, lists, wake, params[P_NODES], channel, ready, packet, left)
    counters[node, CT_FLITS] += 1
    clock[CK_IN] += 1
    nodes[node, ND_CHANNEL] = channel
    if left == 0:
        nodes[node, ND_CHANNEL] = -1
        nodes[node, ND_SENT] = 0
        nodes[node, ND_FIRST] = packets[packet, PK_NEXT]
    return int(now + 1)


@kernel
def _route(
    params: Array, links: Array, routes: Array, counters: Array, ports: Array, channels: Array, buffers: Array,
    routers: Array, lists: Array, packets: Array, wake: Array, clock: Array, deliveries: Array, done: Array,
    router: int, now: int,
) -> int:  # fmt: skip
    """Let a router's channels ask, its outputs grant, and the granted flits go; return when to look again."""
    soonest, asked = NEVER, False
    first = routers[router, RT_ACTIVE]
    for place in range(first, first + routers[router, RT_ACTIVES]):
        cycle = _ask(params, links, routes, ports, channels, buffers, packets, router, lists[place], now)
        soonest = min(soonest, cycle)
        asked = asked or cycle == now
    if not asked:
        return int(soonest)
    first, count = routers[router, RT_OUT], routers[router, RT_OUTS]
    for begun in (1, 0):  # first who goes on with a packet, then who begins one
        place = first + now % count
        for _ in range(count):
            out = lists[place]
            place = place + 1 if place + 1 < first + count else first
            if ports[out, PT_FIRST] < 0:
                continue
            channel = _grant(ports, channels, out, begun, now)
            if channel >= 0 or begun == 0:
                ports[out, PT_FIRST] = -1
            if channel >= 0:
                _go(
                    params, links, counters, ports, channels, buffers, routers, lists, packets, wake, clock,
                    deliveries, done, channel, out, now,
                )  # fmt: skip
    return int(now + 1)


@inlined
def _ask(
    params: Array, links: Array, routes: Array, ports: Array, channels: Array, buffers: Array, packets: Array,
    router: int, channel: int, now: int,
) -> int:  # fmt: skip
    """Put a channel on the list of its output if its first flit can go now; return `now` then, else when to look."""
    slot = channels[channel, VC_SLOT]
    ready = buffers[channel, slot, BF_READY]
    if ready > now:
        return int(ready)
    out, pick = channels[channel, VC_OUT], channels[channel, VC_OUT_CHANNEL]
    if pick < 0:
        target = packets[buffers[channel, slot, BF_PACKET], PK_TARGET]
        if out < 0:
            out = routes[router, target]
            channels[channel, VC_OUT] = out
        straight = links[out, LK_DIM] == links[channels[channel, VC_LINK], LK_DIM]
        behind = links[out, LK_DATELINE] | (channels[channel, VC_CLASS] if straight else 0)
        pick = _pick(params, ports, channels, buffers, out, behind, target, now)
        if pick < 0:
            return int(-1 - pick)
    else:
        cycle = _room_cycle(channels, buffers, pick)
        if cycle > now:
            return int(cycle)
    channels[channel, VC_PICK] = pick
    channels[channel, VC_NEXT] = ports[out, PT_FIRST]
    ports[out, PT_FIRST] = channel
    return now


@inlined
def _grant(ports: Array, channels: Array, out: int, begun: int, now: int) -> int:
    """Return the channel that an output grants, or -1: the one it granted last, if `begun`, else the next in turn."""
    best, best_turns = -1, NEVER
    channel = ports[out, PT_FIRST]
    while channel >= 0:
        turns = channel - ports[out, PT_POINTER]
        if turns < 0:
            turns += channels.shape[0]
        held = turns == 0 and channels[channel, VC_OUT_CHANNEL] >= 0
        link = channels[channel, VC_LINK]
        turns += ports[link, PT_LATE]
        if turns < best_turns and (held or not begun) and ports[link, PT_TAKEN] != now:
            best, best_turns = channel, turns
        channel = channels[channel, VC_NEXT]
    return int(best)


@inlined
def _go(
    params: Array, links: Array, counters: Array, ports: Array, channels: Array, buffers: Array, routers: Array,
    lists: Array, packets: Array, wake: Array, clock: Array, deliveries: Array, done: Array, channel: int, out: int,
    now: int,
) -> None:  # fmt: skip
    """Move the first flit of a channel over its output link, to the next buffer or to its node."""
    slot, link, pick = channels[channel, VC_SLOT], channels[channel, VC_LINK], channels[channel, VC_PICK]
    packet, left = buffers[channel, slot, BF_PACKET], buffers[channel, slot, BF_LEFT]
    if channels[channel, VC_OUT_CHANNEL] < 0:
        counters[out, CT_PACKETS] += 1
        counters[out, CT_WAIT] += now - buffers[channel, slot, BF_READY]
    counters[out, CT_FLITS] += 1
    ports[out, PT_POINTER] = channel + 1 if left == 0 else channel
    ports[link, PT_TAKEN] = now
    channels[channel, VC_OUT_CHANNEL] = pick
    channels[pick, VC_OWNED] = 1
    if left == 0:
        channels[channel, VC_OUT] = -1
        channels[channel, VC_OUT_CHANNEL] = -1
        channels[pick, VC_OWNED] = 0
    credit = now + params[P_CREDIT_CYCLES]
    buffers[channel, slot, BF_FREE] = credit
    sender = links[link, LK_FROM]
    wake[sender] = min(wake[sender], credit)
    channels[channel, VC_SLOT] = slot + 1 if slot + 1 < buffers.shape[1] else 0
    channels[channel, VC_FLITS] -= 1
    if channels[channel, VC_FLITS] == 0:
        _retire(links, channels, routers, lists, channel)
    arrival = now + params[P_LINK_CYCLES]
    if links[out, LK_ROUTER] >= 0:
        ready = arrival + params[P_ROUTER_CYCLES]
        _put(links, channels, buffers, routers, lists, wake, params[P_NODES], pick, ready, packet, left)
        return
    clock[CK_OUT] += 1
    if left == 0:
        row = done[RING_TAIL] % deliveries.shape[0]
        deliveries[row, RX_TIME] = arrival
        deliveries[row, RX_TAG] = packets[packet, PK_TAG]
        done[RING_TAIL] += 1
        packets[packet, PK_NEXT] = clock[CK_FREE]
        clock[CK_FREE] = packet
        clock[CK_PACKETS] -= 1


@inlined
def _retire(links: Array, channels: Array, routers: Array, lists: Array, channel: int) -> None:
    """Take an empty channel off its router's list; the last of the list moves to its place."""
    router, place = links[channels[channel, VC_LINK], LK_ROUTER], channels[channel, VC_PLACE]
    routers[router, RT_ACTIVES] -= 1
    last = lists[routers[router, RT_ACTIVE] + routers[router, RT_ACTIVES]]
    lists[place] = last
    channels[last, VC_PLACE] = place
    channels[channel, VC_PLACE] = -1
