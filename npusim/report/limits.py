"""What a machine can do at best: peaks of arithmetic and of every memory level, the roofs of all reports.

Rates are per core cycle and for the whole chip, so that a share of a peak is `amount / (peak * cycles)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isa.cost import dram_bytes_per_cycle, network_bytes_per_cycle, shared_bytes_per_cycle
from isa.dtypes import DTYPES, dtype
from isa.machine import CHIP_SPACES, Machine, Path
from isa.program import LAUNCH_HOST, Program
from npusim.record import Result

HOST_LINK = "host_link"  # key of the level of a machine without a path to its host
SHARED = "l2"  # key of the level of the shared cache
NETWORK = "network"  # and of the network, by the data that come back over it


@dataclass(frozen=True)
class Level:
    """DRAM, one path of the cores, or the link to the host: `key` names its column, `peak` is bytes a core cycle,
    chip-wide; `kind` is what an operator is bound by when it fills the level: memory, host link or on-chip."""

    key: str
    label: str
    peak: float
    kind: str
    src: str = ""
    dst: str = ""


def clock_hz(machine: Machine) -> float:
    """Core clock in Hz."""
    return machine.clock_mhz * 1e6


def vector_flops_per_cycle(machine: Machine) -> float:
    """Peak of all vector units, a fused multiply-add counted as two; 0 without one."""
    unit = machine.core.vector
    return 2.0 * machine.vector_cores * unit.register_elements() * unit.alus if unit else 0.0


def flops_per_cycle(machine: Machine, dtype: str) -> float:
    """Peak of the arrays for operands of `dtype` (two FLOP a MAC); 0 when they do not take it."""
    return 2.0 * machine.macs_per_cycle(dtype) if dtype in machine.core.matrix.passes else 0.0


def roof_flops_per_cycle(machine: Machine, dtype: str, matrix: bool) -> float:
    """The compute roof of an operator: the arrays' peak for `dtype` when it uses them, else the vector units'."""
    return flops_per_cycle(machine, dtype) if matrix else vector_flops_per_cycle(machine)


def space_label(machine: Machine, space: str) -> str:
    """The name under which the chip's manual knows a space."""
    if space == "dram":
        return machine.memory.label
    owned = machine.core.spaces.get(space)
    return (owned.label if owned else "") or space


def path_peak(machine: Machine, path: Path) -> float:
    """Bytes a core cycle that all engines of a path move together, over all cores."""
    engines = machine.core.matrix.count if path.pipe == "weights" else machine.core.dma[path.pipe].count
    return path.bytes_per_cycle * engines * len(machine.cores_with([path.src, path.dst]))


def operation(dtype_name: str) -> str:
    """What rates of a dtype count: FLOP, or OP for integers."""
    return "FLOP" if dtype_name not in DTYPES or dtype(dtype_name).is_float else "OP"


def path_kind(path: Path) -> str:
    """What an operator that fills the path is bound by."""
    ends = (path.src, path.dst)
    return "host link" if "host" in ends else "memory" if set(ends) & set(CHIP_SPACES) else "on-chip"


def levels(result: Result) -> tuple[Level, ...]:
    """DRAM first, then every entry of `machine.core.paths` in its order, then the shared cache and the network before
    it, if there are; last, where host operators move bytes and no path leads to the host, the link that `machine.host`
    describes."""
    machine = result.machine
    found = [Level("dram", machine.memory.label, float(dram_bytes_per_cycle(machine)), "memory")]
    for path in machine.core.paths:
        label = f"{space_label(machine, path.src)} → {space_label(machine, path.dst)}"
        key = f"{path.src}_to_{path.dst}"
        found.append(Level(key, label, path_peak(machine, path), path_kind(path), path.src, path.dst))
    if machine.memory.l2 is not None:
        label = machine.memory.l2.label
        found.append(Level(SHARED, label, float(shared_bytes_per_cycle(machine)), "memory"))
        if machine.memory.network is not None:
            found.append(Level(NETWORK, f"{label} → cores", float(network_bytes_per_cycle(machine)), "memory"))
    if result.program.launches["link_bytes"].any() and not any(level.kind == "host link" for level in found):
        home = machine.activation_space
        label = f"{space_label(machine, home)} ↔ host"
        rate = machine.host.bytes_per_second / clock_hz(machine)
        found.append(Level(HOST_LINK, label, rate, "host link", home, "host"))
    return tuple(found)


def host_bytes(program: Program) -> npt.NDArray[np.int64]:
    """Bytes that each launch left to the host sends to it and gets back, [launches, 2]."""
    sizes = {t.name: t.size_bytes for t in program.tensors}
    found = np.zeros((len(program.launches), 2), np.int64)
    for i in np.flatnonzero(program.launches["kind"] == LAUNCH_HOST).tolist():
        total, op = int(program.launches["link_bytes"][i]), int(program.launches["host_op"][i])
        outputs = program.host_ops[op].outputs if 0 <= op < len(program.host_ops) else ()
        back = min(total, sum(sizes.get(name, 0) for name in outputs))
        found[i] = (total - back, back)
    return found


def level_bytes(result: Result) -> npt.NDArray[np.int64]:
    """Bytes moved at each level by each launch, [launches, levels] in the order of `levels`; what host operators move
    counts on the paths to and from the host."""
    record, found = result.record, levels(result)
    out = np.zeros((len(record.dram_bytes), len(found)), np.int64)
    out[:, 0] = record.dram_bytes.sum(axis=1)
    paths = record.path_bytes.shape[1]
    out[:, 1 : 1 + paths] = record.path_bytes
    if result.machine.memory.l2 is not None:  # every byte on a path to or from the DRAM passes it
        through = [i for i, level in enumerate(found) if "dram" in (level.src, level.dst)]
        out[:, 1 + paths] = out[:, through].sum(axis=1)
        if result.machine.memory.network is not None:
            back = [i for i in through if found[i].src == "dram"]
            out[:, 2 + paths] = out[:, back].sum(axis=1)
    sent, returned = host_bytes(result.program).T
    keys = [level.key for level in found]
    if keys[-1] == HOST_LINK:
        out[:, -1] += sent + returned
        return out
    for moved, end in ((sent, "dst"), (returned, "src")):
        index = next((i for i, level in enumerate(found) if getattr(level, end) == "host"), None)
        if index is not None:
            out[:, index] += moved
    return out
