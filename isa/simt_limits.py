"""What a block of threads takes of a core, and what a launch of blocks may ask of a chip with threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isa.program import Kernel, Program
from isa.simt_machine import SimtMachine
from isa.verify_tables import argument_faults

# CUDA C++ Programming Guide, technical specifications per compute capability: threads of a block, x-extent of a grid.
MAX_BLOCK_THREADS = 1024
MAX_GRID_BLOCKS = (1 << 31) - 1


@dataclass(frozen=True)
class BlockNeeds:
    """What one block occupies of a core while it runs: warps, lane registers, bytes of shared memory."""

    warps: int
    registers: int
    shared_bytes: int


def block_needs(kernel: Kernel, block: int, machine: SimtMachine) -> BlockNeeds:
    """Return what a block of `block` threads of a kernel takes, in the units in which the core gives it."""
    files, shared = machine.core.registers, machine.core.shared
    warps = -(-block // machine.warp_size)
    a_warp = _up(kernel.registers * machine.warp_size, files.unit)
    asked = kernel.scratch_bytes.get("smem", 0) + shared.reserved_bytes
    return BlockNeeds(warps, _up(warps, files.warp_unit) * a_warp, _up(asked, shared.granule_bytes))


def launch_of_threads_faults(program: Program, machine: SimtMachine, row: Any) -> Iterator[str]:
    """Faults of the launch of a kernel on a chip with threads."""
    kernel, grid, block = program.kernels[int(row["kernel"])], int(row["grid"]), int(row["block"])
    yield from argument_faults(program, row, 1)
    if not 1 <= grid <= MAX_GRID_BLOCKS:
        yield f"grid {grid} of kernel {kernel.name!r}; a launch has 1 to {MAX_GRID_BLOCKS} blocks"
    if not 1 <= block <= MAX_BLOCK_THREADS:
        yield f"block {block} of kernel {kernel.name!r}; a block has 1 to {MAX_BLOCK_THREADS} threads (block=)"
    elif _may_be(kernel, machine):
        yield from _room_faults(kernel, block, machine)


def _may_be(kernel: Kernel, machine: SimtMachine) -> bool:
    """True when no thread and no block may be refused for itself (isa.verify_simt tells that of the kernel)."""
    smem = kernel.scratch_bytes.get("smem", 0)
    return 0 <= kernel.registers <= machine.core.registers.per_thread and 0 <= smem <= machine.core.shared.block_bytes


def _room_faults(kernel: Kernel, block: int, machine: SimtMachine) -> Iterator[str]:
    """What one block needs beyond a whole core, with the smallest change that fits."""
    core, needs, what = machine.core, block_needs(kernel, block, machine), f"a block of {block} threads"
    assert core.warps is not None
    if needs.warps > core.warps.resident:
        most = core.warps.resident * machine.warp_size
        room = f"a core has room for {core.warps.resident} (core.warps.resident)"
        yield f"{what} of kernel {kernel.name!r} is {needs.warps} warps; {room}: launch it with block={most} or less"
    if needs.registers > core.registers.count:
        takes = f"{what} with {kernel.registers} registers each takes {needs.registers}"
        has = f"a core has {core.registers.count} (core.registers.count)"
        yield f"{takes}; {has}: {_fewer_registers(kernel, block, machine)}"
    if needs.shared_bytes > core.shared.size_bytes:
        most = core.shared.size_bytes // core.shared.granule_bytes * core.shared.granule_bytes
        most -= core.shared.reserved_bytes
        takes = f"a block of kernel {kernel.name!r} takes {needs.shared_bytes} bytes of shared memory"
        has = f"a core has {core.shared.size_bytes} (core.shared.size_bytes)"
        yield f"{takes}; {has}: let .kernel say smem={most} or less"


def _fewer_registers(kernel: Kernel, block: int, machine: SimtMachine) -> str:
    """The most registers for this block, and the largest block with these registers."""
    files, size = machine.core.registers, machine.warp_size
    warps = _up(-(-block // size), files.warp_unit)
    registers = files.count // warps // files.unit * files.unit // size
    a_warp = _up(kernel.registers * size, files.unit)
    most = files.count // a_warp // files.warp_unit * files.warp_unit * size
    words = [f"let .kernel say registers={registers} or less"] if registers else []
    words += [f"launch it with block={most} or less"] if most else []
    return ", or ".join(words) or "raise core.registers.count"


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
