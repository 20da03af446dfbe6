"""The memory's part of a report: channels, rows, latencies, refresh, conflicts by tensor, and what more would bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from npusim.record import MemoryRecord, SharedRecord, percentile
from npusim.report.profile import Profile
from npusim.report.text import size
from npusim.report.what_if import BANDWIDTH, what_if

SHOWN_REGIONS = 12
SHARED_COUNTERS = (
    "reads", "writes", "read_bytes", "write_bytes", "hits", "misses", "merged", "fills", "write_backs", "stalls",
    "conflict_cycles",
    "dram_read_bytes", "dram_written_bytes", "link_bytes",
)  # fmt: skip


def memory_summary(profile: Profile) -> dict[str, Any] | None:
    """The key `memory` of summary.json; None without DRAM commands (ideal memory, closed forms).

    Rates are shares: `row_hit_rate` of the runs that found their row open, `utilization` of each channel's data bus,
    `refresh_share` of the banks' time. `latency_ns` is of requests at the port, whole requests, p50 and p99 within a
    bucket of half an octave.
    """
    memory = profile.result.record.memory
    if memory is None or not memory.channels:
        return None
    seconds = profile.seconds(profile.total_cycles) or 1.0
    runs = sum(int(memory.channels[name].sum()) for name in ("row_hits", "row_misses", "row_conflicts"))
    busy = memory.channels["busy_fs"] * 1e-15 / seconds
    return {
        "row_hit_rate": int(memory.channels["row_hits"].sum()) / runs if runs else 0.0,
        "turnarounds": int(memory.channels["turnarounds"].sum()),
        "activations": int(memory.channels["activations"].sum()),
        "refresh_share": memory.refresh_fs * 1e-15 / seconds,
        "latency_ns": {
            "mean": memory.latency_ns, "waiting": memory.wait_ns, "p50": percentile(memory.histogram, 0.5),
            "p99": percentile(memory.histogram, 0.99),
        },
        "channels": {
            "read_bytes": [int(n) for n in memory.channels["read_bytes"]],
            "write_bytes": [int(n) for n in memory.channels["write_bytes"]],
            "utilization": [float(x) for x in busy],
            "row_hit_rate": [_rate(memory, c) for c in range(len(busy))],
        },
        "conflicts": [
            {"tensor": name, "row_hits": hits, "row_misses": misses, "row_conflicts": conflicts}
            for name, hits, misses, conflicts in sorted(memory.regions, key=lambda r: -r[3])[:SHOWN_REGIONS]
            if hits + misses + conflicts
        ],
        "what_if": what_if(profile),
        **({} if memory.shared is None else shared_summary(memory.shared)),
    }  # fmt: skip


def shared_summary(shared: SharedRecord) -> dict[str, Any]:
    """The keys `l2` and, with one, `network` of the memory's summary.

    `hit_rate` is the share of lookups of lines that found all their sectors; `merged` lookups waited for a miss that
    was under way. A line that lives in another partition is looked up in both. `latency_ns` is of whole requests at the
    cores' port. `dirty_bytes` had not been written to the DRAM
    at the end.
    """
    totals = shared.totals
    lookups = totals["hits"] + totals["misses"] + totals["merged"]
    requests = max(1, totals["reads"] + totals["writes"])
    found: dict[str, Any] = {
        "l2": {
            "size_bytes": shared.size_bytes,
            **{name: int(totals[name]) for name in SHARED_COUNTERS},
            "hit_rate": totals["hits"] / lookups if lookups else 0.0,
            "dirty_bytes": shared.dirty_bytes,
            "latency_ns": {
                "mean": totals["latency_fs"] * 1e-6 / requests, "waiting": totals["wait_fs"] * 1e-6 / requests,
                "p50": percentile(shared.histogram, 0.5), "p99": percentile(shared.histogram, 0.99),
            },
            "slices": {name: [int(n) for n in values] for name, values in shared.slices.items()},
        },
    }  # fmt: skip
    if shared.network is not None:
        found["network"] = dict(shared.network)
    return found


def _rate(memory: MemoryRecord, channel: int) -> float:
    hits, misses, conflicts = (int(memory.channels[n][channel]) for n in ("row_hits", "row_misses", "row_conflicts"))
    return hits / (hits + misses + conflicts) if hits + misses + conflicts else 0.0


def memory_rows(summary: Mapping[str, Any], channels: int) -> list[tuple[str, str]]:
    """The memory in words, (what, figure), from the object of `memory_summary`."""
    used, latency, hint = np.array(summary["channels"]["utilization"]), summary["latency_ns"], summary["what_if"]
    spread = f"{used.mean():.1%} of the time ({used.min():.1%} to {used.max():.1%} over {channels} channels)"
    rows = [
        ("data buses in use", spread),
        ("row hits", f"{summary['row_hit_rate']:.1%} of runs, {summary['activations']:,} activations"),
        ("latency in memory", f"{latency['mean']:,.0f} ns, of which {latency['waiting']:,.0f} ns behind others; "
                                 f"p50 {latency['p50']:,.0f}, p99 {latency['p99']:,.0f}"),
        ("bus turnarounds", f"{summary['turnarounds']:,}"),
        ("refresh", f"{summary['refresh_share']:.2%} of the banks' time"),
        (f"with {hint['bandwidth'] - 1:.0%} more bandwidth",
         f"{1 - hint['time_share']:.1%} less time{_limit(hint)}; memory bounds {hint['memory_bound_share']:.0%} of it "
         f"(now {hint['memory_bound_share_now']:.0%})"),
    ]  # fmt: skip
    if "l2" in summary:
        rows = [*_shared_rows(summary), *rows]
    worst = [c for c in summary["conflicts"] if c["row_conflicts"]][:3]
    if worst:
        rows.append(("row conflicts", ", ".join(f"{c['tensor']} {c['row_conflicts']:,}" for c in worst)))
    return rows


def _limit(hint: Mapping[str, Any]) -> str:
    """What stands in the way of a larger gain, in words; nothing where bandwidth does, or nothing is to gain."""
    named = str(hint.get("limit", BANDWIDTH))
    return "" if named == BANDWIDTH or not hint["memory_bound_share_now"] else f", then {named} limit"


def _shared_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The shared cache and the network in words."""
    shared, latency = summary["l2"], summary["l2"]["latency_ns"]
    asked = shared["read_bytes"] + shared["write_bytes"]
    used = np.array(shared["slices"]["bytes"])
    spread = f", {used.max() / used.mean():.2f} x the mean in the busiest slice" if len(used) > 1 and used.any() else ""
    rows = [
        ("shared cache", f"{size(shared['size_bytes'])}; {shared['hit_rate']:.1%} of lookups hit, "
                         f"{shared['merged']:,} merged with a miss under way; {size(asked)} asked{spread}"),
        ("shared cache and DRAM", f"{size(shared['dram_read_bytes'])} fetched, "
                                  f"{size(shared['dram_written_bytes'])} written back, "
                                  f"{size(shared['dirty_bytes'])} dirty at the end"),
        ("latency at the cores", f"{latency['mean']:,.0f} ns, of which {latency['waiting']:,.0f} ns behind others; "
                                 f"p50 {latency['p50']:,.0f}, p99 {latency['p99']:,.0f}"),
    ]  # fmt: skip
    if "network" in summary:
        network = summary["network"]
        busiest = "; ".join(network["busiest"][:2])
        rows.append(("network", f"{size(network['bytes'])} over its links, busiest {busiest}"))
    return rows
