"""How many blocks of a kernel a core holds at once, and what stands in the way of more.

The rules are those of NVIDIA's occupancy calculator: warps, blocks, registers in whole units a warp, shared memory in
whole granules a block.
"""

from __future__ import annotations

from dataclasses import dataclass

from isa.simt_machine import SimtMachine

LIMITERS = ("warps", "blocks", "registers", "shared_memory")


@dataclass(frozen=True)
class Occupancy:
    """`blocks` of `block_warps` warps fit a core of `resident` warps; `limits` is how many each resource allows.

    `carveout_bytes` is what shared memory takes of the L1; `hints` say what would let one more block in.
    """

    blocks: int
    block_warps: int
    resident: int
    limits: dict[str, int]
    carveout_bytes: int
    hints: tuple[str, ...]

    @property
    def share(self) -> float:
        """Resident warps of those that the core has room for."""
        return self.blocks * self.block_warps / self.resident

    @property
    def limiter(self) -> str:
        """The resource that allows the fewest blocks; the first of them in the order of LIMITERS."""
        return min(LIMITERS, key=lambda name: self.limits[name])


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _limits(machine: SimtMachine, threads: int, registers: int, shared_bytes: int) -> dict[str, int]:
    core = machine.core
    assert core.warps is not None
    warps = _up(-(-threads // core.warps.size), core.registers.warp_unit)
    per_warp = _up(max(1, registers) * core.warps.size, core.registers.unit)
    # Warps of a scheduler share its part of the register file.
    parts = core.registers.warp_unit
    fitting = core.registers.count // parts // per_warp * parts
    shared = _up(shared_bytes + core.shared.reserved_bytes, core.shared.granule_bytes)
    return {
        "warps": core.warps.resident // warps,
        "blocks": core.warps.blocks,
        "registers": fitting // warps,
        "shared_memory": core.shared.size_bytes // shared if shared else core.warps.blocks,
    }


def occupancy(machine: SimtMachine, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Occupancy of blocks of `threads` threads with `registers` lane registers each and `shared_bytes` a block.

    Zero blocks: such a block does not fit a core at all.
    """
    core = machine.core
    assert core.warps is not None
    limits = _limits(machine, threads, registers, shared_bytes)
    blocks = min(limits.values())
    used = blocks * _up(shared_bytes + core.shared.reserved_bytes, core.shared.granule_bytes) if shared_bytes else 0
    carveout = next((size for size in core.shared.carveouts if size >= used), core.shared.size_bytes)
    return Occupancy(
        blocks, -(-threads // core.warps.size), core.warps.resident, limits,
        carveout if core.shared.carveouts else 0, tuple(_hints(machine, threads, registers, shared_bytes, blocks)),
    )  # fmt: skip


def _hints(machine: SimtMachine, threads: int, registers: int, shared_bytes: int, blocks: int) -> list[str]:
    """The smallest change of one resource that lets one more block in."""
    found = []
    for fewer in range(1, registers):
        if min(_limits(machine, threads, registers - fewer, shared_bytes).values()) > blocks:
            more = min(_limits(machine, threads, registers - fewer, shared_bytes).values()) - blocks
            found.append(f"{fewer} register{'s'[: fewer > 1]} a thread fewer: +{more} block{'s'[: more > 1]} a core")
            break
    unit = machine.core.shared.granule_bytes
    for size in range((shared_bytes - 1) // unit * unit, -1, -unit):
        if min(_limits(machine, threads, registers, size).values()) > blocks:
            more = min(_limits(machine, threads, registers, size).values()) - blocks
            change = f"{shared_bytes - size} bytes of shared memory a block fewer"
            found.append(f"{change}: +{more} block{'s'[: more > 1]} a core")
            break
    return found
