"""Bundles that could never issue are refused: deeper than a queue, more than the window, more sets than are kept."""

from __future__ import annotations

import pytest
from asm_fixture import machine
from test_verify import program, refuse

from isa.asm import assemble
from isa.errors import ProgramError
from isa.loader import load_machine
from isa.machine import Machine
from isa.program import Program
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


def test_a_path_converts_what_it_says_and_nothing_else() -> None:
    """Load3d pads on the way L1 -> L0A, which transposes too; copies from and to memory move what is stored."""
    chip = load_machine("ascend-310").machine
    head = ".program p\n.machine ascend-310\n"
    head += ".operator o op_type=T shape=[] nodes=[] dtype=fp16 macs=0 flops=0 min_bytes=0\n"

    def copy(source: str, target: str) -> Program:
        body = f"  .desc %a {source}\n  .desc %d {target}\n  cp %d, %a\n  halt\n.end\n.launch k operator=0\n"
        return assemble(f"{head}.kernel k() l1=4096 l0a=4096 l0b=4096 ub=4096\n{body}")

    rows, turned = "ext=[4, 16]", "ext=[4, 16] stride=[2, 8]"
    window = "ext=[4, 16] axis=[0] coef=[1] limit=[3] axis_stride=[32]"
    verify(copy(f"space=l1 dtype=fp16 {turned}", f"space=l0a dtype=fp16 {rows}"), chip)
    verify(copy(f"space=l1 dtype=fp16 {window}", f"space=l0a dtype=fp16 {rows}"), chip)
    for source, target, why in (
        (f"space=dram dtype=fp32 {rows}", f"space=ub dtype=fp16 {rows}", "A is fp32, D is fp16: a copy that casts"),
        (f"space=dram dtype=fp16 {turned}", f"space=ub dtype=fp16 {rows}", "a copy that transposes"),
        (f"space=l1 dtype=fp16 {window}", f"space=l0b dtype=fp16 {rows}", "a copy through a window"),
    ):  # fmt: skip
        with pytest.raises(ProgramError, match=why):
            verify(copy(source, target), chip)
