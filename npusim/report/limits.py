"""What a machine can do at best: peaks of arithmetic and of every memory level, the roofs of all reports.

Rates are per core cycle and for the whole chip, so that a share of a peak is `amount / (peak * cycles)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isa.machine import CHIP_SPACES, Machine, Path
from npusim.record import Result


@dataclass(frozen=True)
class Level:
    """DRAM or one path of the cores: `key` names its column, `peak` is bytes a core cycle, chip-wide."""

    key: str
    label: str
    peak: float
    on_chip: bool


def clock_hz(machine: Machine) -> float:
    """Core clock in Hz."""
    return machine.clock_mhz * 1e6


def dram_bytes_per_cycle(machine: Machine) -> float:
    """Peak DRAM bandwidth in bytes a core cycle: the part's, or the stated one of the ideal model."""
    memory = machine.memory
    if memory.model == "ideal" and memory.ideal_bytes_per_cycle is not None:
        return memory.ideal_bytes_per_cycle
    return machine.dram_bytes_per_second / clock_hz(machine)


def vector_flops_per_cycle(machine: Machine) -> float:
    """Peak of all vector units, a fused multiply-add counted as two; 0 without one."""
    unit = machine.core.vector
    return 2.0 * machine.cores * unit.lanes * unit.sublanes * unit.alus if unit else 0.0


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
    return path.bytes_per_cycle * engines * machine.cores


def levels(machine: Machine) -> tuple[Level, ...]:
    """DRAM first, then every entry of `machine.core.paths` in its order."""
    dram = Level("dram", machine.memory.label, dram_bytes_per_cycle(machine), False)
    return (
        dram,
        *(
            Level(
                f"{path.src}_to_{path.dst}",
                f"{space_label(machine, path.src)} → {space_label(machine, path.dst)}",
                path_peak(machine, path),
                path.src not in CHIP_SPACES and path.dst not in CHIP_SPACES,
            )
            for path in machine.core.paths
        ),
    )


def level_bytes(result: Result) -> npt.NDArray[np.int64]:
    """Bytes moved at each level by each launch, [launches, levels] in the order of `levels`."""
    record = result.record
    dram = record.dram_bytes.sum(axis=1, keepdims=True)
    return np.concatenate([dram, record.path_bytes], axis=1).astype(np.int64)
