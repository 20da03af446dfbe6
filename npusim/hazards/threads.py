"""Races between threads, and accesses to no array: a launch is executed for its values, and every access is watched.

What it finds depends on the values of the run; what it says of them holds for every order in which warps could go.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from isa.disasm import instr_text
from isa.program import Program
from isa.simt_machine import SimtMachine
from npusim.functional.simt import run_threads
from npusim.functional.simt_races import ANY, EARLY, OUTSIDE, RAW, WAR, WAW
from npusim.hazards.checker import Finding

Array = npt.NDArray[Any]
_KINDS = {RAW: "RAW", WAR: "WAR", WAW: "WAW", EARLY: "early", OUTSIDE: "outside"}
_VERBS = {RAW: ("reads", "written"), WAR: ("writes", "read"), WAW: ("writes", "written")}


def check_threads(program: Program, machine: SimtMachine, memory: Array) -> tuple[list[Finding], bool]:
    """(races, whether all of global memory was watched) of a run on the values of `memory`, which it changes.

    Shared memory is always watched. Raises SimulationError as `run_threads`.
    """
    found: list[tuple[int, Array, bool]] = []
    run_threads(program, machine, memory, found)
    races = [_finding(program, launch, row.tolist()) for launch, rows, _ in found for row in rows]
    return races, all(whole for _, _, whole in found)


def _finding(program: Program, launch: int, row: list[int]) -> Finding:
    kind, pc, other_pc, block, warp, other, byte, shared = row
    kernel = program.kernels[int(program.launches[launch]["kernel"])]
    here, there = kernel.start + pc, kernel.start + other_pc
    where = "the block's shared memory" if shared else "global memory"
    who = "several warps" if other == ANY else f"warp {other}"
    text = f"instruction {here} `{instr_text(program, here)}`"
    before = f"instruction {there} `{instr_text(program, there)}`"
    if kind == EARLY:
        message = (
            f"launch {launch}, block {block}: {text} of warp {warp} touches byte {byte} of {where} while a copy by "
            f"{before} of {who} is under way: the copying warp needs cpa.commit and cpa.wait before"
        )
    elif kind == OUTSIDE:
        array = max((t for t in program.tensors if t.address <= byte), key=lambda t: t.address, default=None)
        near = "" if array is None else (
            f": {array.name} ends {byte - array.address - array.size_bytes} bytes before it; guard the access"
        )  # fmt: skip
        message = (
            f"launch {launch}, block {block}: {text} of warp {warp} touches byte {byte} of global memory, which is in "
            f"no array{near}"
        )
    else:
        verb, done = _VERBS[kind]
        missing = "a barrier (bar) between them is missing" if shared else (
            "nothing orders different blocks, and no barrier (bar) lies between warps of one: use atomics, or a launch "
            "of its own"
        )  # fmt: skip
        message = (
            f"launch {launch}, block {block}: {text} of warp {warp} {verb} byte {byte} of {where} that {before} of "
            f"{who} has {done}: {missing}"
        )
    return Finding(_KINDS[kind], message, launch, 0, (there, here))
