"""The profiler's view of kernels of threads: speed of light, occupancy, warp states, memory chart, hot spots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from isa.disasm import instr_text
from isa.table import BY_CODE
from isa.table_simt import SIMT_PIPES
from npusim.record_simt import WARP_CAUSES, LaunchRecord, SimtRecord
from npusim.report.text import percent, si, size

HOT_SPOTS = 10
SELECTED = WARP_CAUSES.index("selected")


def summary(record: SimtRecord) -> dict[str, Any]:
    """What `npusim kernel --json` prints of a simulation."""
    return {
        "schema_version": 1, "hw": record.machine.name, "total_cycles": record.total_cycles,
        "time_us": record.total_cycles / record.machine.clock_mhz,
        "clocks_ghz": {"core": record.machine.clock_mhz / 1000}, "engine_cpu_s": record.engine_cpu_s,
        "launches": [_launch(record, one) for one in record.launches],
    }  # fmt: skip


def _launch(record: SimtRecord, one: LaunchRecord) -> dict[str, Any]:
    total = int(one.stalls.sum())
    instructions = int(one.issues[:, 0].sum())
    spans = one.cycles * one.pipe_busy.shape[0] * one.pipe_busy.shape[1]
    return {
        "kernel": one.kernel, "grid": one.grid, "block": one.block, "cycles": one.cycles,
        "warp_instructions": instructions, "thread_instructions": int(one.issues[:, 1].sum()),
        "warps": {name: int(n) for name, n in zip(WARP_CAUSES, one.stalls.sum(axis=0))}, "warp_cycles": total,
        "issue_slots_busy": instructions / max(1, spans),
        "pipes": {name: int(n) / max(1, spans) for name, n in zip(SIMT_PIPES, one.pipe_busy.sum(axis=(0, 1)))},
        "occupancy": {"blocks": one.occupancy.blocks, "share": one.occupancy.share, "limiter": one.occupancy.limiter,
                      "limits": one.occupancy.limits, "hints": list(one.occupancy.hints),
                      "carveout_bytes": one.occupancy.carveout_bytes},
        "memory": {**one.counters, "dram_read_bytes": one.dram_bytes[0], "dram_write_bytes": one.dram_bytes[1],
                   "l2": dict(one.l2)},
        "speed_of_light": dict(zip(("compute", "memory"), speed_of_light(record, one))),
    }  # fmt: skip


def speed_of_light(record: SimtRecord, one: LaunchRecord) -> tuple[float, float]:
    """Shares of the launch's cycles that the busiest pipe was busy, and that DRAM moved bytes at its peak rate."""
    busiest = float(one.pipe_busy.sum(axis=(0, 1)).max())
    compute = busiest / max(1, one.cycles * one.pipe_busy.shape[0] * one.pipe_busy.shape[1])
    peak = record.machine.dram_bytes_per_second / (record.machine.clock_mhz * 1e6)
    return compute, sum(one.dram_bytes) / max(1.0, one.cycles * peak)


def lines(record: SimtRecord) -> Iterator[str]:
    """The report of the terminal, a line at a time."""
    for one in record.launches:
        yield from _view(record, one)


def _view(record: SimtRecord, one: LaunchRecord) -> Iterator[str]:
    machine, fit = record.machine, one.occupancy
    time_us = one.cycles / machine.clock_mhz
    blocks = f"{one.grid} blocks of {one.block} threads"
    yield f"{one.kernel}  {blocks} on {machine.name}: {one.cycles:,} cycles, {time_us:.4g} us"
    compute, memory = speed_of_light(record, one)
    yield f"  speed of light   compute {percent(compute)}   memory {percent(memory)} of the DRAM's peak"
    yield (
        f"  occupancy        {percent(fit.share)}: {fit.blocks} blocks of {fit.block_warps} warps a core, limited by "
        f"{fit.limiter} ({', '.join(f'{name} {n}' for name, n in fit.limits.items())})"
    )
    for hint in fit.hints:
        yield f"    hint           {hint}"
    instructions = int(one.issues[:, 0].sum())
    slots = one.cycles * one.pipe_busy.shape[0] * one.pipe_busy.shape[1]
    lanes = int(one.issues[:, 1].sum()) / max(1, instructions)
    yield (
        f"  instructions     {instructions:,} of warps, {lanes:.1f} lanes active of {machine.warp_size}; issue slots "
        f"busy {percent(instructions / max(1, slots))}"
    )
    pipes = sorted(zip(SIMT_PIPES, one.pipe_busy.sum(axis=(0, 1)).tolist()), key=lambda pair: -pair[1])
    yield "  pipes            " + ", ".join(f"{name} {percent(n / max(1, slots))}" for name, n in pipes if n)
    yield from _states(one)
    yield from _memory(one)
    yield from _hot_spots(record, one)


def _states(one: LaunchRecord) -> Iterator[str]:
    totals = one.stalls.sum(axis=0)
    whole = max(1, int(totals.sum()))
    yield f"  warp states      {si(float(totals.sum()))} warp-cycles"
    for index in np.argsort(-totals).tolist():
        if totals[index]:
            yield f"    {WARP_CAUSES[index]:18} {percent(totals[index] / whole):>8}"


def _memory(one: LaunchRecord) -> Iterator[str]:
    n = one.counters
    loads = n["load_sectors"]
    if loads or n["store_sectors"]:
        hits = f", L1 hits {percent(n['l1_hit_sectors'] / loads)}" if loads else ""
        yield f"  global memory    {loads:,} sectors loaded{hits}; {n['store_sectors']:,} stored"
        moved = f"read {size(n['read_bytes'])}, written {size(n['write_bytes'])}"
        yield f"    L1 to L2       {moved}, {n['requests']:,} requests"
        yield f"    DRAM           read {size(one.dram_bytes[0])}, written {size(one.dram_bytes[1])}"
    if n["shared_accesses"]:
        ways = n["shared_cycles"] / n["shared_accesses"]
        yield f"  shared memory    {n['shared_accesses']:,} accesses, {ways:.2f} cycles of the banks each"


def _hot_spots(record: SimtRecord, one: LaunchRecord) -> Iterator[str]:
    kernel = next(k for k in record.program.kernels if k.name == one.kernel)
    waits = one.stalls.sum(axis=1)
    whole = max(1, int(waits.sum()))
    order = np.argsort(-waits, kind="stable")[:HOT_SPOTS]
    yield f"  hot spots        {'share':>7} {'issued':>10} {'lanes':>6}  instruction, most of its warps' time"
    for at in sorted(int(i) for i in order if waits[i]):
        if at >= kernel.end - kernel.start:
            continue
        cause = WARP_CAUSES[int(one.stalls[at].argmax())]
        issued, lanes = (int(x) for x in one.issues[at])
        yield (
            f"    {kernel.start + at:>6}         {percent(waits[at] / whole):>7} {issued:>10,} "
            f"{lanes / max(1, issued):>6.1f}  {instr_text(record.program, kernel.start + at)}   [{cause}]"
        )


def mix(record: SimtRecord, one: LaunchRecord) -> dict[str, int]:
    """Warp instructions by operation."""
    kernel = next(k for k in record.program.kernels if k.name == one.kernel)
    found: dict[str, int] = {}
    for row, issued in zip(record.program.instrs[kernel.start : kernel.end], one.issues[:, 0].tolist()):
        name = BY_CODE[int(row["op"])].name
        found[name] = found.get(name, 0) + int(issued)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
