"""summary.json: the run in one object of plain JSON types; every key carries its unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from npusim.record import Result
from npusim.report import limits
from npusim.report.memory import memory_summary
from npusim.report.profile import Profile
from npusim.version import VERSION

SCHEMA_VERSION = 1


def energy_j(profile: Profile) -> dict[str, float]:
    """Energy by event class in joules: counts times `machine.energy_pj`; empty when the machine has no energies.

    Classes: `mac_<dtype>` (MACs executed by the arrays, padding included), `dram_byte`, `<space>_byte` (bytes that
    paths read from or write to a space of the cores) and `instruction`. Other keys of the machine have no count.
    """
    result = profile.result
    counts: dict[str, float] = {
        "dram_byte": float(result.record.dram_bytes.sum()),
        "instruction": float(result.record.issued.sum()),
    }
    operators = result.program.operators
    for launch, macs in zip(result.program.launches["operator"].tolist(), result.record.macs.tolist()):
        dtype = operators[launch].dtype if 0 <= launch < len(operators) else result.dtype
        counts[f"mac_{dtype}"] = counts.get(f"mac_{dtype}", 0.0) + macs
    for path, moved in zip(profile.machine.core.paths, result.record.path_bytes.sum(axis=0).tolist()):
        for space in (path.src, path.dst):
            if space != "dram":
                counts[f"{space}_byte"] = counts.get(f"{space}_byte", 0.0) + moved
    picojoule = profile.machine.energy_pj
    return {key: counts[key] * picojoule[key] * 1e-12 for key in sorted(counts) if key in picojoule}


def pipes(profile: Profile) -> dict[str, dict[str, int]]:
    """Cycles by cause of every pipe group, busy first: they sum to total_cycles x instances."""
    return {
        group.label: {"instances": group.instances, "busy": 0, **dict(profile.causes(i))}
        for i, group in enumerate(profile.groups)
    }


def approximated_ops(profile: Profile) -> list[dict[str, Any]]:
    """Operator types without a kernel of their own: op, count and their shares (0 to 1) of all flops and bytes."""
    flops = sum(r.flops for r in profile.rows) or 1
    size_bytes = sum(o.min_bytes for o in profile.result.program.operators) or 1
    found: dict[str, dict[str, Any]] = {}
    for row, operator in zip(profile.rows, profile.result.program.operators):
        if row.approximated:
            fresh = {"op": row.op_type, "count": 0, "flops_share": 0.0, "bytes_share": 0.0}
            entry = found.setdefault(row.op_type, fresh)
            entry["count"] += 1
            entry["flops_share"] += row.flops / flops
            entry["bytes_share"] += operator.min_bytes / size_bytes
    return list(found.values())


def _check(result: Result) -> dict[str, Any] | None:
    if result.check is None:
        return None
    fields = asdict(result.check)
    del fields["rows"]
    return {**fields, "outputs": dict(result.check.outputs), "hazards": list(result.check.hazards),
            "not_compared": list(result.check.not_compared)}


def summary_of(profile: Profile) -> dict[str, Any]:
    """The object of summary.json for a computed profile; see `summary`."""
    result, machine, record = profile.result, profile.machine, profile.result.record
    seconds = profile.seconds(profile.total_cycles)
    batch = result.extra.get("batch", 1)
    read, written = (int(x) for x in record.dram_bytes.sum(axis=0)) if len(record.dram_bytes) else (0, 0)
    hertz = limits.clock_hz(machine)
    out: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "npusim_version": VERSION,
        "model": result.model,
        "hw": result.hw,
        "dtype": result.dtype,
        "fidelity": result.fidelity,
        "clocks_ghz": {"core": machine.clock_mhz / 1e3, "dram": 1e3 / machine.memory.dram.tck_ps},
        "total_cycles": int(record.total_cycles),
        "time_us": seconds * 1e6,
        "throughput": batch / seconds if seconds else 0.0,
        "macs": int(result.graph_macs),
        "host_macs": profile.host_macs,
        "flops": int(result.graph_flops),
        "dram_read_bytes": read,
        "dram_write_bytes": written,
        "memory_peak_bytes": int(result.program.memory_bytes.get("dram", 0)),
        "memory_capacity_bytes": int(machine.memory.capacity_bytes),
        "peak_flops": {d: limits.flops_per_cycle(machine, d) * hertz for d in machine.core.matrix.passes},
        "utilization": profile.utilization,
        "host_bytes": profile.host_bytes,
        "pipes": pipes(profile),
        "warps": {},
        "launches": len(result.program.launches),
        "host_us": float(result.host_us),
        "instructions": int(record.issued.sum()),
        "extrapolated_share": float(result.extrapolated_share),
        "assumptions": list(result.assumptions),
        "approximated_ops": approximated_ops(profile),
        "check": _check(result),
        "wall_s": float(result.wall_s),
        "engine_cpu_s": float(record.engine_cpu_s),
    }
    if profile.dram_bus_bytes is not None:
        out["dram_bus_bytes"] = profile.dram_bus_bytes
    memory = memory_summary(profile)
    if memory is not None:
        out["memory"] = memory
    energy: Mapping[str, float] = energy_j(profile)
    if energy:
        out["energy_j"] = sum(energy.values())
    return out


def summary(result: Result) -> dict[str, Any]:
    """Return the object of summary.json: plain types, the keys of the interface.

    `peak_flops` in FLOP/s, `utilization` as shares (0 to 1), `throughput` in samples (batch elements) per second,
    `pipes` in core cycles; each pipe's states sum to `total_cycles` x `instances`, else SimulationError. `host_macs`
    are those of `macs` that the host does, `host_bytes` what crossed the link to it. `warps` is empty on machines
    without warps, `dram_bus_bytes` (whole bursts) left out without bursts, `check` is None when no check was run,
    `energy_j` is left out without energies. `memory` is that of npusim.report.memory, left out with ideal memory.
    """
    return summary_of(Profile(result))
