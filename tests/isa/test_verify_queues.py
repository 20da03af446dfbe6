"""Bundles that could never issue are refused: deeper than a queue, more than the window, more sets than are kept."""

from __future__ import annotations

import pytest
from asm_fixture import machine
from test_verify import program, refuse

from isa.machine import Machine
from isa.verify import verify


def test_a_bundle_fits_the_queues_and_the_window() -> None:
    """Deeper than a queue it could never issue: the engine would wait for ever."""
    slots = {"scalar": 2, "vector": 2, "dma": 2, "misc": 1}
    body = "{ v.relu %X, %Y ; v.relu %Y, %X }"

    def chip(depth: int, window: int = 32) -> Machine:
        unit = {"lanes": 8, "queue_depth": depth}
        return machine(issue="vliw", core__bundle=slots, core__vector=unit, core__window=window)

    verify(program(body), chip(2))
    verify(program("v.relu %X, %Y ;;\nv.relu %Y, %X"), chip(1))
    why = "instruction 0 `v.relu %d0, %d1`: 2 instructions of VPU in a bundle; the queue of VPU holds 1 (queue_depth)"
    refuse(program(body), why, chip(1))
    verify(program(body), chip(2, 2))
    refuse(program(body), "2 instructions in a bundle; core.window is 1", chip(2, 1))
    verify(program("{ cp %X, %G ; v.relu %Y, %X }"), chip(1))  # of two pipes


@pytest.mark.parametrize(("count", "legal"), [(6, True), (7, False)])
def test_a_bundle_holds_no_more_sets_than_an_instruction_raises(count: int, legal: bool) -> None:
    chip = machine(issue="vliw", core__bundle={"scalar": 2, "misc": 8})
    body = "{ " + " ; ".join(f"set vector, {i}" for i in range(count)) + " }"
    if legal:
        verify(program(body), chip)
    else:
        refuse(program(body), "7 sets in a bundle; an instruction raises at most 6 flags", chip)
