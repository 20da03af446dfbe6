"""Packets between cores, slices and memory controllers: one network for what is asked, a copy for what comes back.

A packet leaves at a cycle of the hierarchy, enters at the first cycle of the network's own clock that begins at or
after it, and is there at the first cycle of the hierarchy that begins at or after the network cycle of its last flit.
Events happen in the order of cycles, so packets are sent in the order in which they leave.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.caches.mshr import M_LINE
from npusim.memory.controller.mapping import M_BURST_BITS, M_UNIT_BITS, channel_of
from npusim.memory.hierarchy.answers import deliver
from npusim.memory.hierarchy.clock import cycle_of, edge_after, edge_fs, free_row, fs_of, row_of, schedule
from npusim.memory.hierarchy.fills import dram_written
from npusim.memory.hierarchy.layout import (
    A_PORT,
    GR_CORES,
    GR_COUNT,
    H_CORES,
    H_MISS,
    H_NET_Q,
    H_NET_R,
    H_SECTOR,
    HOME_BITS,
    K_ASK,
    K_ASKED,
    K_REPLY,
    K_RETURN,
    K_WRITTEN,
    MASK_BITS,
    N_LAST_FS,
    R_ADDRESS,
    R_ASKED,
    R_BYTES,
    R_ENTRY,
    R_KIND,
    R_OWN,
    R_SECTORS,
    R_SLICE,
    R_TAG,
    R_WAIT,
    R_WRITE,
)
from npusim.memory.hierarchy.ways import address_of
from npusim.memory.noc.packet import flits_of, idle_cycles, network_multicast, network_send
from npusim.memory.noc.state import P_CHANNEL_BASE, P_SLICE_BASE
from npusim.memory.port import RSP_TAG, RSP_TIME_FS, RSP_WAIT_FS, heap_pop, ring_push

Array = npt.NDArray[Any]


@kernel
def travel(
    params: Array, net: Array, routes: Array, net_links: Array, net_counters: Array, cycle: int, source: int,
    target: int, data_bytes: int,
) -> tuple[int, int]:  # fmt: skip
    """Send a packet; returns the cycle at which it is there and the fs that it waited for others."""
    q, r = params[H_NET_Q], params[H_NET_R]
    flits, start = flits_of(net, data_bytes), edge_after(q, r, fs_of(params, cycle))
    there = network_send(net, net_links, routes, net_counters, start, source, target, flits)
    queued = there - start - idle_cycles(net, net_links, routes, source, target, flits)
    return cycle_of(params, edge_fs(q, r, there)), queued * q


@kernel
def travel_to_all(
    params: Array, net: Array, routes: Array, net_links: Array, net_counters: Array, cycle: int, source: int,
    group: Array, data_bytes: int,
) -> tuple[int, int]:  # fmt: skip
    """Send one packet to a group of cores; as `travel`, of the core where it is last."""
    q, r = params[H_NET_Q], params[H_NET_R]
    flits, start = flits_of(net, data_bytes), edge_after(q, r, fs_of(params, cycle))
    end = GR_CORES + group[GR_COUNT]
    cores, arrivals = group[GR_CORES:end], group[end : end + group[GR_COUNT]]
    there, idle = network_multicast(net, net_links, routes, net_counters, start, source, cores, arrivals, flits), 0
    for core in cores:
        idle = max(idle, idle_cycles(net, net_links, routes, source, core, flits))
    return cycle_of(params, edge_fs(q, r, there)), (there - start - idle) * q


@kernel
def network_event(
    params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, counters: Array, net: Array,
    routes: Array, out_links: Array, out_counters: Array, back_links: Array, back_counters: Array, groups: Array,
    m_where: Array, m_requests: Array, m_ring: Array, responses: Array, heap: Array, row: int, cycle: int,
) -> None:  # fmt: skip
    """A packet leaves a slice, for its core or for a controller, or is where it was sent to."""
    kind, size, write = rows[row, R_KIND], rows[row, R_BYTES], rows[row, R_WRITE]
    if kind == K_REPLY:
        own, core = net[P_SLICE_BASE] + rows[row, R_OWN], asked[rows[row, R_ASKED], A_PORT]
        if core < params[H_CORES]:
            there, wait_fs = travel(
                params, net, routes, back_links, back_counters, cycle, own, core, 0 if write else size
            )
        else:
            group = groups[core - params[H_CORES]]
            there, wait_fs = travel_to_all(
                params, net, routes, back_links, back_counters, cycle, own, group, size
            )
        rows[row, R_WAIT] += wait_fs
        deliver(params, now, rows, asked, counters, responses, heap, row, there)
    elif kind == K_ASK:
        channel = _channel_at(m_where, rows[row, R_ADDRESS])
        there, _ = travel(
            params, net, routes, out_links, out_counters, cycle, net[P_SLICE_BASE] + rows[row, R_SLICE],
            net[P_CHANNEL_BASE] + channel, size if write else 0,
        )  # fmt: skip
        rows[row, R_KIND] = K_ASKED
        if write:
            rows[row, R_TAG] -= channel << HOME_BITS
        schedule(now, wheel, rows, row, there)
    elif kind == K_ASKED:
        time_fs = fs_of(params, cycle + params[H_MISS])
        ring_push(m_requests, m_ring, time_fs, rows[row, R_SLICE], rows[row, R_ADDRESS], size, write, rows[row, R_TAG])
        free_row(now, rows, row)
    elif kind == K_WRITTEN:
        s = rows[row, R_SLICE]
        free_row(now, rows, row)
        dram_written(now, slices, wheel, rows, s, cycle)


@kernel
def dram_answer_leaves(
    params: Array, now: Array, wheel: Array, rows: Array, limits: Array, entries: Array, net: Array, routes: Array,
    back_links: Array, back_counters: Array, m_where: Array, answers: Array, answer_heap: Array, cycle: int,
) -> None:  # fmt: skip
    """Send the DRAM's first answer from its controller to the slice: sectors, or that they have been written."""
    tag, row = answers[0, RSP_TAG], row_of(now, rows)
    now[N_LAST_FS] = max(now[N_LAST_FS], answers[0, RSP_TIME_FS])
    rows[row, R_WAIT] = answers[0, RSP_WAIT_FS]
    heap_pop(answers, answer_heap)
    if tag < 0:
        code, size = -1 - tag, 0
        s, channel = code & ((1 << HOME_BITS) - 1), code >> HOME_BITS
        rows[row, R_KIND], rows[row, R_SLICE] = K_WRITTEN, s
    else:
        entry, sectors = tag >> MASK_BITS, tag & ((1 << MASK_BITS) - 1)
        s = entry // limits[0] >> 1
        first, size = _span(sectors, params[H_SECTOR])
        channel = _channel_at(m_where, address_of(params, s, entries[entry, M_LINE]) + first)
        rows[row, R_KIND], rows[row, R_ENTRY], rows[row, R_SECTORS] = K_RETURN, entry, sectors
    there, wait_fs = travel(
        params, net, routes, back_links, back_counters, cycle, net[P_CHANNEL_BASE] + channel, net[P_SLICE_BASE] + s,
        size,
    )  # fmt: skip
    rows[row, R_WAIT] += wait_fs
    schedule(now, wheel, rows, row, there)


@inlined
def _channel_at(m_where: Array, address: int) -> int:
    """The channel of a byte."""
    channel, _ = channel_of(m_where, address >> (m_where[M_BURST_BITS] + m_where[M_UNIT_BITS]))
    return channel


@inlined
def _span(sectors: int, sector_bits: int) -> tuple[int, int]:
    """First byte and bytes of the one run of sectors of a mask."""
    first, count = 0, 0
    while sectors & 1 == 0:
        sectors >>= 1
        first += 1
    while sectors & 1:
        sectors >>= 1
        count += 1
    return first << sector_bits, count << sector_bits
