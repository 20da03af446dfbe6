"""Execute a program of threads for its values: launch by launch, block by block, without time.

Asynchronous copies are made at once, so their groups and waits change nothing. Shared memory, lane registers and
predicates are 0 when a block begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.disasm import instr_text
from isa.errors import DeadlockError, SimulationError
from isa.program import LAUNCH_KERNEL, Kernel, Program
from isa.simt_machine import SimtMachine
from npusim.functional.simt_races import (
    G_EPOCH,
    H_BLOCK,
    H_COLUMNS,
    NO_ARRAY,
    RACE_COLUMNS,
    RING,
    V_FOUND,
    V_ON,
    V_ROOM,
    V_SHIFT,
    V_WORDS,
)
from npusim.functional.simt_run import (
    AT_ODDS,
    P_BEGUN,
    P_BLOCK,
    P_BLOCKS,
    P_COLUMNS,
    P_LEFT,
    P_OTHER,
    P_THREADS,
    P_WARP,
    P_WORDS,
    PAUSED,
    run_block,
)
from npusim.units.warps.access import addresses, shared_addresses
from npusim.units.warps.decode import decode
from npusim.units.warps.flow import guard
from npusim.units.warps.layout import (
    ASYNC_COPY,
    BAD_ADDRESS,
    BAD_LOOP,
    BARRIER,
    GLOBAL_ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    I_BYTES,
    I_COUNT,
    I_KIND,
    LOOP_DEPTH,
    MATRIX_LOAD,
    MAX_LANES,
    MISALIGNED,
    OK,
    PART_OF_WARP,
    SCALARS,
    STACK_DEPTH,
    TOO_DEEP,
    W_PC,
    WarpState,
)
from npusim.units.warps.state import make_warps

Array = npt.NDArray[Any]

MAX_INSTRUCTIONS = 500_000_000  # of one block
MAX_RACES, MAX_PIECES = 64, 1 << 25  # races that are kept; pieces of global memory (1.3 GB of notes)
SLICE = 20_000_000  # instructions between looks at signals
_GLOBAL = (GLOBAL_LOAD, GLOBAL_STORE, GLOBAL_ATOMIC, ASYNC_COPY)


def run_threads(
    program: Program, machine: SimtMachine, memory: Array, races: list[tuple[int, Array, bool]] | None = None
) -> None:
    """Run all launches of `program`; `memory` (uint8) holds global memory from address 0 on and is changed.

    With `races` accesses are watched: for each launch it gets (launch, rows of simt_races, whether global memory was
    watched too: it may be too large). Raises SimulationError, which names launch, block, warp and instruction, on an
    illegal access and whatever else a thread must not do; DeadlockError when the warps of a block wait at different
    barriers.
    """
    if memory.dtype != np.uint8 or memory.ndim != 1 or not memory.flags.c_contiguous:
        raise SimulationError("memory must be one contiguous array of uint8")
    codes: dict[int, Array] = {}
    with np.errstate(all="ignore"):
        for index, row in enumerate(program.launches):
            number = int(row["kernel"])
            _check_launch(program, machine, index)
            if number not in codes:
                codes[number] = decode(program, program.kernels[number], machine)
            launch = _Launch(program, machine, memory, index, codes[number], races is not None)
            launch.run()
            if races is not None:
                races.append((index, launch.races[: int(launch.watched[V_FOUND])], len(launch.every) > 1))


def _check_launch(program: Program, machine: SimtMachine, index: int) -> None:
    row, kernels = program.launches[index], program.kernels
    number, grid, block, args = (int(row[name]) for name in ("kernel", "grid", "block", "nargs"))
    if int(row["kind"]) != LAUNCH_KERNEL or not 0 <= number < len(kernels):
        raise SimulationError(f"launch {index} names no kernel; there are {len(kernels)}")
    assert machine.core.warps is not None
    most = machine.core.warps.resident * machine.warp_size
    if grid < 1 or not 1 <= block <= most:
        raise SimulationError(f"launch {index}: {grid} blocks of {block} threads; a block has 1 to {most}")
    if not 0 <= args <= SCALARS:
        raise SimulationError(f"launch {index}: {args} arguments; a warp has {SCALARS} scalar registers")
    smem = int(kernels[number].scratch_bytes.get("smem", 0))
    if smem > machine.core.shared.block_bytes:
        limit = machine.core.shared.block_bytes
        raise SimulationError(f"launch {index}: a block wants {smem} bytes of shared memory and may have {limit}")


class _Launch:
    """One launch: its state, and what is said when it fails."""

    def __init__(
        self, program: Program, machine: SimtMachine, memory: Array, index: int, code: Array, watched: bool
    ) -> None:
        row = program.launches[index]
        self.program, self.memory, self.index, self.code = program, memory, index, code
        self.kernel: Kernel = program.kernels[int(row["kernel"])]
        first, count = int(row["args"]), int(row["nargs"])
        self.args = np.ascontiguousarray(program.args[first : first + count], np.int64)
        size, threads = machine.warp_size, int(row["block"])
        self.shared_bytes = int(self.kernel.scratch_bytes.get("smem", 0))
        self.state: WarpState = make_warps(-(-threads // size), self.kernel.registers, size, 1, self.shared_bytes)
        self.progress = np.zeros(P_WORDS, np.int64)
        self.progress[P_BLOCKS], self.progress[P_THREADS] = int(row["grid"]), threads
        self.progress[P_COLUMNS] = int(row["columns"]) or int(row["grid"])
        self._watch(watched)

    def _watch(self, on: bool) -> None:
        """Make what it takes to see races; next to nothing when nobody asks."""
        sizes = self.code[np.isin(self.code[:, I_KIND], _GLOBAL), I_BYTES]
        shift = int(sizes.min()).bit_length() - 1 if len(sizes) else 0
        count = len(self.memory) >> shift
        self.watched = np.zeros(V_WORDS, np.int64)
        self.watched[V_ON], self.watched[V_SHIFT], self.watched[V_ROOM] = on, shift, MAX_RACES
        self.own = np.zeros((self.shared_bytes + 1 if on else 1, H_COLUMNS), np.int32)
        self.every = np.zeros((count + 1 if on and count <= MAX_PIECES else 1, H_COLUMNS), np.int32)
        if len(self.every) > 1 and self.program.tensors:
            self.every[:, H_BLOCK] = NO_ARRAY
            for tensor in self.program.tensors:
                self.every[tensor.address >> shift : -(-(tensor.address + tensor.size_bytes) >> shift), H_BLOCK] = 0
        self.groups = np.zeros((len(self.state.warps), G_EPOCH + RING), np.int64)
        self.races = np.zeros((MAX_RACES, RACE_COLUMNS), np.int64)

    def run(self) -> None:
        """Run all blocks; raises SimulationError."""
        for block in range(int(self.progress[P_BLOCKS])):
            self.progress[P_BLOCK], self.progress[P_BEGUN] = block, 0
            status = PAUSED
            for _ in range(MAX_INSTRUCTIONS // SLICE):
                if status == PAUSED:
                    status = self._run_slice()
            if status != OK:
                raise self._error(status)

    def _run_slice(self) -> int:
        s = self.state
        self.progress[P_LEFT] = SLICE
        return int(run_block(
            self.code, self.args, s.warps, s.stack, s.loops, s.regs, s.scalars, s.preds, s.shared, s.work,
            self.memory, self.progress, self.own, self.every, self.groups, self.races, self.watched,
        ))  # fmt: skip

    def _error(self, status: int) -> SimulationError:
        w = int(self.progress[P_WARP])
        pc = int(self.state.warps[w, W_PC])
        where = f"launch {self.index}, kernel {self.kernel.name}, block {int(self.progress[P_BLOCK])}"
        where += f", warp {w}, instruction {self._text(pc)}: "
        if status == AT_ODDS:
            other = int(self.progress[P_OTHER])
            there = self._text(int(self.state.warps[other, W_PC]))
            return DeadlockError(f"{where}waits at another barrier than warp {other} at {there}; neither can go on")
        return SimulationError(where + self._reason(status, w, pc))

    def _text(self, pc: int) -> str:
        address = self.kernel.start + pc
        return f"{address} `{instr_text(self.program, address)}`"

    def _reason(self, status: int, w: int, pc: int) -> str:
        if status in (BAD_ADDRESS, MISALIGNED):
            return self._access(w, pc)
        if status == PART_OF_WARP and self.code[pc, I_KIND] == BARRIER:
            return "only part of the warp is here; a barrier is for whole warps, outside of branches that part lanes"
        if status == PART_OF_WARP:
            return "only part of the warp is here; all its lanes must execute this together"
        known = {
            TOO_DEEP: f"branches part the lanes of a warp more than {STACK_DEPTH} ways deep",
            BAD_LOOP: f"endl without loop, or more than {LOOP_DEPTH} loops in one another",
            PAUSED: f"the block has executed {MAX_INSTRUCTIONS} instructions, the limit: does a loop not end?",
        }
        return known.get(status, f"status {status}")

    def _access(self, w: int, pc: int) -> str:
        """The first lane whose access is wrong."""
        s, kind, size = self.state, int(self.code[pc, I_KIND]), int(self.code[pc, I_BYTES])
        lanes = int(guard(self.code, pc, s.warps, s.preds, w))
        out = np.zeros(MAX_LANES, np.int64)
        addresses(self.code, pc, w, lanes, s.regs, s.scalars, out)
        used = 8 * int(self.code[pc, I_COUNT]) if kind == MATRIX_LOAD else s.regs.shape[2]
        in_global = kind in _GLOBAL
        found = self._wrong(out[:used], lanes, size, in_global)
        if not found and kind == ASYNC_COPY:
            shared_addresses(self.code, pc, w, lanes, s.regs, out)
            found = self._wrong(out[:used], lanes, size, False)
        return found

    def _wrong(self, out: Array, lanes: int, size: int, in_global: bool) -> str:
        limit = len(self.memory) if in_global else self.shared_bytes
        name = "global memory" if in_global else "the block's shared memory"
        for lane, address in enumerate(out.tolist()):
            if lanes >> lane & 1 and not 0 <= address <= limit - size:
                return f"lane {lane} accesses {size} bytes at address {address}; {name} has {limit} bytes"
        for lane, address in enumerate(out.tolist()):
            if lanes >> lane & 1 and address % size:
                return f"lane {lane} accesses {size} bytes at address {address}, which is no multiple of {size}"
        return ""
