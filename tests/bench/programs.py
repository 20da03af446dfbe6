"""Programs that load one part of the engine each."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "npusim"))

from functional_fixture import Asm

from isa.machine import Machine
from isa.program import Program
from isa.table import DMA, MATRIX, NEXT_TILE, STOP, VECTOR


def _loop(asm: Asm, trips: int, register: int = 9) -> int:
    asm.put("li", dst=register, imm=trips)
    return asm.put("loop", a=register)


def _close(asm: Asm, loop: int) -> None:
    asm.put("endl")
    asm.instrs[loop]["imm"] = len(asm.instrs)


def _finish(asm: Asm, machine: Machine) -> Program:
    program = asm.program(cores=machine.cores)
    if machine.issue == "vliw":
        program.instrs["flags"] |= STOP
    return program


def scalar_loop(machine: Machine, trips: int) -> Program:
    """Nothing but the sequencer: eight register operations a trip."""
    asm = Asm()
    loop = _loop(asm, trips)
    for i in range(8):
        asm.put("addi", dst=i, a=i, imm=1)
    _close(asm, loop)
    return _finish(asm, machine)


def tile_loop(machine: Machine, trips: int) -> Program:
    """A matrix tile a trip on chip: load the array, stream, add, with address arithmetic and (vliw) flags."""
    asm, kind = Asm(), "bf16" if "bf16" in machine.core.matrix.passes else "int8"
    rows, cols = machine.core.matrix.rows, machine.core.matrix.cols
    held = asm.d("spm", kind, (rows, cols), rows=1, base_reg=1)
    streamed = asm.d("spm", kind, (8, rows), 65536, rows=1, base_reg=1)
    sums = machine.core.matrix.accumulate[kind]
    acc = asm.d(machine.core.matrix.acc_space, sums, (8, cols), rows=1, base=0)
    x, y, z = (asm.d("spm", "fp32", (8, 32), 98304 + 4096 * i) for i in range(3))
    asm.put("li", dst=1, imm=0)
    loop = _loop(asm, trips)
    for _ in range(4):
        asm.op("ldw", None, held)
        asm.op("mm", acc, streamed, flags=NEXT_TILE)
        asm.op("v.add", z, x, y)
        if machine.issue == "vliw":
            asm.put("set", dst=MATRIX, imm=0)
            asm.put("set", dst=VECTOR, imm=1)
            asm.put("wait", imm=0, b=1)
            asm.put("wait", imm=1, b=1)
        for _ in range(4):
            asm.put("addi", dst=2, a=2, imm=1)
    _close(asm, loop)
    return _finish(asm, machine)


def copy_loop(machine: Machine, trips: int) -> Program:
    """One small copy from and one to DRAM a trip."""
    asm = Asm()
    near, far = asm.d("spm", "int8", (4096,)), asm.d("dram", "int8", (4096,), base_reg=1)
    asm.put("li", dst=1, imm=0)
    loop = _loop(asm, trips)
    for d, a, pipe in ((near, far, DMA), (far, near, DMA + 1)):
        asm.op("cp", d, a)
        if machine.issue == "vliw":
            asm.put("set", dst=pipe, imm=0)
            asm.put("wait", imm=0, b=1)
    asm.put("addi", dst=1, a=1, imm=4096)
    _close(asm, loop)
    return _finish(asm, machine)
