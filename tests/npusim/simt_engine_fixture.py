"""Small machines with threads, programs from assembly text, and the comparison of engine and twin."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.asm import assemble
from isa.loader import load_simt
from isa.program import LAUNCH, Program
from isa.simt_machine import SimtMachine
from isa.verify import verify
from npusim.engine.simt.run import run_simt
from npusim.record_simt import WARP_CAUSES, LaunchRecord, SimtRecord
from npusim.stepper.simt import step_simt

Array = npt.NDArray[Any]
MEMORY_BYTES = 1 << 16
HIT, WAY, BACK = 20, 15, 10  # cycles of the machine below
ALU_LATENCY = 4


@functools.cache
def machine(*changes: str) -> SimtMachine:
    """One core of one scheduler of gpu-tiny in front of an ideal memory, launched for nothing."""
    fields = (
        "cores=1", "launch_cycles=0", "core.warps.schedulers=1", "core.warps.warp_cycles=0", "memory.model=ideal",
        "memory.l2=null", "memory.ideal_bytes_per_cycle=1024", f"memory.request_latency_cycles={WAY}",
        f"memory.response_latency_cycles={BACK}", f"core.l1.hit_latency_cycles={HIT}",
    )  # fmt: skip
    return load_simt("gpu-tiny", (*fields, *changes))


def program(
    body: str, chip: SimtMachine, grid: int = 1, block: int = 32, args: Sequence[int] = (), shared: int = 0,
    launches: int = 1,
) -> Program:  # fmt: skip
    """A kernel `k(a, b, c)` of a body; what is missing of `args` is 4096, 8192, ..."""
    space = f"  .shared space {shared} 16\n" if shared else ""
    return launch(f".kernel k(a, b, c)\n{space}{body}\n.end\n", chip, grid, block, args, launches)


def launch(
    text: str, chip: SimtMachine, grid: int = 1, block: int = 32, args: Sequence[int] = (), launches: int = 1
) -> Program:
    """A verified program of one kernel and its launches."""
    found = assemble(text, "test")
    wanted = len(found.kernels[0].params)
    words = [*args, *(4096 * (n + 1) for n in range(wanted))][:wanted]
    rows = np.zeros(launches, LAUNCH)
    rows["grid"], rows["block"], rows["columns"], rows["nargs"] = grid, block, grid, len(words)
    rows["operator"], rows["host_op"] = -1, -1
    made = replace(found, machine=chip.name, launches=rows, args=np.array(words, np.int64),
                   memory_bytes={"dram": MEMORY_BYTES})  # fmt: skip
    verify(made, chip)
    return made


def memory(size: int = MEMORY_BYTES) -> Array:
    """Global memory: words that say where they are."""
    return np.arange(size // 4, dtype=np.uint32).view(np.uint8).copy()


def both(made: Program, chip: SimtMachine) -> tuple[SimtRecord, Array]:
    """Run engine and twin, which must agree in everything; the engine's record, and the memory after it."""
    ours, theirs = memory(), memory()
    record, truth = run_simt(made, chip, ours), step_simt(made, chip, theirs)
    assert differences(record, truth) == ""
    assert (ours == theirs).all()
    return record, ours


def run(body: str, chip: SimtMachine, **how: Any) -> LaunchRecord:
    """The last launch of a kernel on which engine and twin agree."""
    record, _ = both(program(body, chip, **how), chip)
    return record.launches[-1]


def differences(record: SimtRecord, truth: SimtRecord) -> str:
    """What two records differ in, as text; empty when they agree."""
    words = []
    for n, (ours, theirs) in enumerate(zip(record.launches, truth.launches)):
        for name in ("start", "end", "counters", "dram_bytes", "l2"):
            a, b = getattr(ours, name), getattr(theirs, name)
            if isinstance(a, dict):
                a, b = ({k: v for k, v in x.items() if a.get(k) != b.get(k)} for x in (a, b))
            if a != b:
                words.append(f"launch {n} {name}: {a} against {b}")
        for name in ("issues", "pipe_busy", "issued"):
            a, b = getattr(ours, name), getattr(theirs, name)
            if not np.array_equal(a, b):
                words.append(f"launch {n} {name}: {a.tolist()} against {b.tolist()}")
        for pc, cause in np.argwhere(ours.stalls != theirs.stalls).tolist():
            words.append(f"launch {n} instruction {pc} {WARP_CAUSES[cause]}: {ours.stalls[pc, cause]} against "
                         f"{theirs.stalls[pc, cause]}")  # fmt: skip
    return "\n".join(words)


def state(found: LaunchRecord, cause: str, pc: int | None = None) -> int:
    """Warp-cycles in a state, of all instructions or at one."""
    column = found.stalls[:, WARP_CAUSES.index(cause)]
    return int(column.sum() if pc is None else column[pc])
