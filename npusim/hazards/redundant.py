"""Which waits a program could do without: those whose deletion leaves every two accesses to the same bytes in order."""

from __future__ import annotations

from isa.machine import Machine
from isa.program import Program
from isa.table import code
from npusim.hazards.checker import check_hazards

RACES = ("RAW", "WAR", "WAW")


def redundant_waits(program: Program, machine: Machine) -> list[int]:
    """Indices of the waits without which no race is found, each deleted alone, in all its executions.

    A wait that only takes a set back, so that its flag ends at 0, is one of them. Two redundant waits may be needed
    together: delete one, and ask again. Every wait costs a check of the whole program.
    """
    waits = [pc for pc in range(len(program.instrs)) if program.instrs[pc]["op"] == code("wait")]
    return [pc for pc in waits if not races(program, machine, pc)]


def races(program: Program, machine: Machine, without: int) -> list[str]:
    """The races of a program without instruction `without` (a wait or a set): their messages."""
    found = check_hazards(program, machine, without=frozenset([without]))
    return [f.message for f in found if f.kind in RACES]
