"""The verifier of chips with threads, rule by rule and from both sides; and what other machines say of threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asm_fixture import machine

from isa import assemble
from isa.errors import ProgramError
from isa.loader import load_simt
from isa.program import Program
from isa.simt_limits import BlockNeeds, block_needs
from isa.simt_operands import THREAD_CODES
from isa.table import DMA, NEXT_TILE, SCALAR, TABLE, code
from isa.table_simt import GUARD, GUARD_NOT, GUARD_SHIFT, IMMEDIATE, SCALAR_SOURCE
from isa.verify import verify
from isa.verify_simt import MAX_LOOP_DEPTH, SCALARS, simt_faults, verify_simt
from npusim.units.warps import layout

# Every figure that a rule below depends on is stated here.
FIGURES = [
    "core.warps.resident=16", "core.registers.count=16384", "core.registers.unit=256", "core.registers.per_thread=64",
    "core.registers.warp_unit=2", "core.shared.size_bytes=8192", "core.shared.block_bytes=4096",
    "core.shared.reserved_bytes=1000", "core.shared.granule_bytes=128", "memory.capacity_bytes=1073741824",
]  # fmt: skip
CHIP = load_simt("gpu-tiny", FIGURES)
SAMPLE = Path(__file__).with_name("vadd.asm").read_text(encoding="utf-8")


def program(body: str, stated: str = "registers=64", launch: str = "", params: str = "x, n") -> Program:
    return assemble(f".kernel k({params}) {stated}\n{body}\nexit\n.end\n{launch}")


def refuse(illegal: Program, reason: str) -> None:
    with pytest.raises(ProgramError) as caught:
        verify(illegal, CHIP)
    assert reason in str(caught.value), str(caught.value)


def both(legal: str, illegal: str, reason: str, **more: str) -> None:
    verify(program(legal, **more), CHIP)
    refuse(program(illegal, **more), reason)


def poked(text: str, **fields: Any) -> Program:
    made = program(text)
    for name, value in fields.items():
        made.instrs[name][0] = value
    return made


def test_the_sample_is_legal() -> None:
    assert simt_faults(assemble(SAMPLE), CHIP) == []


def test_limits_are_those_of_the_executors() -> None:
    assert (SCALARS, MAX_LOOP_DEPTH) == (layout.SCALARS, layout.LOOP_DEPTH)


def test_every_operation_of_threads_and_every_scalar_one_exists_here() -> None:
    for op in TABLE:
        found = program("nop")
        found.instrs["op"][0] = op.code
        foreign = any("operation of tiles" in fault for fault in simt_faults(found, CHIP))
        assert foreign == (op.pipe > SCALAR and op.code not in THREAD_CODES), op.name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cp", "cp is an operation of tiles (dma); the cores of gpu-tiny run threads: ldg, stg and cpa move data"),
        ("mm", "mm is an operation of tiles (matrix); the cores of gpu-tiny run threads: products are mma.*"),
        ("v.add", "v.add is an operation of tiles (vector); the cores of gpu-tiny run threads: lanes compute"),
        ("wait", "wait is an operation of tiles (sync); the cores of gpu-tiny run threads: warps of a block meet"),
        ("barrier", "barrier is an operation of tiles"),
    ],
)
def test_tiles_are_refused(name: str, reason: str) -> None:
    refuse(poked("nop", op=code(name)), reason)


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("nop", {"op": 1000}, "instruction 0 `op1000`: opcode 1000 does not exist"),
        ("iadd v1, v2, v3", {"dst": -1}, "operand dst is missing"),
        ("iadd v1, v2, v3", {"b": -1}, "operand b is missing"),
        ("iadd v1, v2, v3", {"c": 3}, "operand c = 3 is not used"),
        ("iadd v1, v2, v3", {"imm": 1}, "imm = 1 is not used by this instruction"),
        ("iadd v1, v2, v3", {"f0": 1.0}, "f0 = 1.0 is not used"),
        ("fadd v1, v2, 1.0", {"imm": 1}, "imm = 1 is not used"),
        ("fadd v1, v2, 1.0", {"f0": float("nan")}, "f0 is not a number"),
        ("iadd v1, v2, 1", {"a": IMMEDIATE}, "two immediates; an instruction has one"),
        ("iadd v1, v2, v3", {"unit": 1}, "has no choice of unit"),
        ("iadd v1, v2, v3", {"pad": 1}, "pad is not 0"),
        ("iadd v1, v2, v3", {"flags": GUARD_NOT}, "flags have unknown bits"),
        ("iadd v1, v2, v3", {"flags": NEXT_TILE}, "suffixes .next and .sta belong"),
        ("iadd v1, v2, v3", {"flags": GUARD | 7 << GUARD_SHIFT}, "the guard's predicate does not exist"),
        ("bar", {"flags": GUARD}, "a guard, but the operation acts once for the whole warp"),
        ("cpa.wait", {"flags": GUARD}, "a guard, but"),
        ("addi r1, r1, 1", {"flags": GUARD}, "a guard, but"),
        ("iadd v1, v2, v3", {"a": 255}, "source 255 (a) names nothing"),
        ("iadd v1, v2, v3", {"a": SCALAR_SOURCE + 64}, "source 320 (a) names nothing: lane registers are v0..v254"),
        ("iadd v1, v2, v3", {"a": IMMEDIATE + 1}, "source 513 (a) names nothing"),
        ("iadd v1, v2, v3", {"a": -2}, "source -2 (a) names nothing"),
        ("iadd v1, v2, v3", {"dst": 255}, "lane register 255 (dst) does not exist"),
        ("iadd v1, v2, v3", {"dst": -2}, "lane register -2 (dst) does not exist"),
    ],
)
def test_fields(text: str, fields: dict[str, Any], reason: str) -> None:
    verify(program(text), CHIP)
    refuse(poked(text, **fields), reason)


def test_registers() -> None:
    both("iadd v63, v1, v2", "iadd v64, v1, v2", "v64 (dst): kernel 'k' has 64 registers; let .kernel say registers=65")
    both("iadd v1, v63, v2", "iadd v1, v64, v2", "v64 (a): kernel 'k' has 64 registers")
    both("mov r63, r1", "mov r64, r1", "scalar register 64 (dst) does not exist; there are r0..r63")
    both("iadd v1, r63, v2", "iadd v1, r64, v2", "source 320 (a) names nothing")
    both("ldg.32 v1, r63", "ldg.32 v1, r64", "scalar register 64 (a)")
    both("first r63, v1", "first r64, v1", "scalar register 64 (dst)")
    both("pnot p6, p0", "pnot p7, p0", "predicate 7 (dst) does not exist; there are p0..p6")
    both("sel v1, v2, v3, p6", "sel v1, v2, v3, p7", "predicate 7 (c)")
    both("@p6 exit", "@p7 exit", "the guard's predicate does not exist; there are p0..p6")


def test_registers_of_a_kernel() -> None:
    verify(program("nop", stated="registers=64"), CHIP)
    refuse(program("nop", stated="registers=65"), "registers=65; a thread has at most 64 (core.registers.per_thread)")
    refuse(program("nop", stated="registers=-1"), "registers=-1; a thread has at most 64")
    refuse(program("vmov v0, 1", stated="registers=0"), "v0 (dst): kernel 'k' has 0 registers")


def test_parameters_are_scalar_registers() -> None:
    names = [f"a{i}" for i in range(65)]
    verify(program("nop", params=", ".join(names[:64])), CHIP)
    refuse(program("nop", params=", ".join(names)), "kernel 'k': 65 parameters; there are 64 scalar registers")


def test_wide_values() -> None:
    both("ldg.64 v62, x", "ldg.64 v61, x", "v61 (dst) holds a value of 2 registers; its number must be a multiple of 2")
    both("lds.128 v60, v1", "lds.128 v62, v1", "v62 (dst) holds a value of 4 registers; its number must be")
    both("stg.128 x, v1, v60", "stg.128 x, v1, v58", "v58 (c) holds a value of 4 registers")
    both("stg.128 x, v1, v60", "stg.128 x, v1, v64", "v67 (c): kernel 'k' has 64 registers")
    both("sts.64 v1, v62", "sts.64 v1, v64", "v65 (c): kernel 'k' has 64 registers")
    both("lds.u8 v63, v1", "lds.u8 v64, v1", "v64 (dst)")
    refuse(program("ldg.128 v252, x"), "lane register 252 (dst) does not exist, or not all that follow it")


def test_fragments_begin_anywhere_and_are_whole() -> None:
    product = "mma.m16n8k16.f32.f16"
    both(f"{product} v1, v5, v9, v60", f"{product} v1, v5, v9, v61", "v64 (c): kernel 'k' has 64 registers")
    both(f"{product} v60, v5, v9, v1", f"{product} v61, v5, v9, v1", "v64 (dst)")
    both(f"{product} v1, v60, v9, v1", f"{product} v1, v61, v9, v1", "v64 (a)")
    both(f"{product} v1, v5, v62, v1", f"{product} v1, v5, v63, v1", "v64 (b)")
    both("ldsm.x4 v60, v1", "ldsm.x4 v61, v1", "v64 (dst)")
    both("ldsm.x2.t v62, v1", "ldsm.x2.t v63, v1", "v64 (dst)")


def test_products_that_the_chip_has() -> None:
    reason = "gpu-tiny has no mma.m16n8k32.s32.s8; core.mma has mma.m16n8k16.f32.f16, mma.m16n8k8.f32.f16"
    both("mma.m16n8k8.f32.f16 v0, v4, v8, v0", "mma.m16n8k32.s32.s8 v0, v4, v8, v0", reason)


def test_immediates() -> None:
    both("iadd v1, v1, -2147483648", "iadd v1, v1, -2147483649", "immediate -2147483649 is no integer of 32 bits")
    both("iadd v1, v1, 4294967295", "iadd v1, v1, 4294967296", "immediate 4294967296 is no integer of 32 bits")
    both("atomg.add _, x, v1, 0, 4294967295", "atomg.add _, x, v1, 0, 4294967296", "is no integer of 32 bits")
    half = program("atomg.add _, x, v1, 0, 1")
    half.instrs["f0"][0] = 0.5
    refuse(half, "immediate 0.5 is no integer of 32 bits")
    both("vid v1, 2", "vid v1, 3", "special register 3 does not exist; there are 3")
    both("csr r1, 1", "csr r1, 7", "special register 7 does not exist")
    both("bar 15", "bar 16", "barrier 16 does not exist; there are 16")
    both("cpa.wait 0", "cpa.wait -1", "-1 groups under way; give 0 or more")
    both("divi r1, r1, 1", "divi r1, r1, 0", "division by 0")
    refuse(program("mark 0"), "row 0 of the name table does not exist; there are 0")


def test_offsets() -> None:
    both("ldg.32 v1, x, v2, 4", "ldg.32 v1, x, v2, 6", "offset 6 is no multiple of the 4 bytes that a lane moves")
    both("ldg.s16 v1, x, v2, 6", "ldg.s16 v1, x, v2, 7", "offset 7 is no multiple of the 2 bytes")
    both("ldg.u8 v1, x, v2, 7", "ldg.64 v2, x, v2, 4", "offset 4 is no multiple of the 8 bytes")
    both("stg.128 x, v1, -16, v4", "stg.128 x, v1, -8, v4", "offset -8 is no multiple of the 16 bytes")
    both("cpa.128 v1, x, v2, 16", "cpa.128 v1, x, v2, 8", "offset 8 is no multiple of the 16 bytes")
    both("ldsm.x1 v1, v2, 16", "ldsm.x1 v1, v2, 8", "offset 8 is no multiple of the 16 bytes")
    both("atomg.add _, x, v2, 4, v1", "atomg.add _, x, v2, 2, v1", "offset 2 is no multiple of the 4 bytes")
    both("ldg.32 v1, x, v2, 2147483644", "ldg.32 v1, x, v2, 2147483648", "offset 2147483648 is no signed integer")
    both("ldg.32 v1, x, v2, -2147483648", "ldg.32 v1, x, v2, -2147483652", "is no signed integer of 32 bits")


def test_shared_memory() -> None:
    declares = "registers=64 smem=64"
    reason = "bytes [64, 68) of shared memory, of which kernel 'k' declares 64: let .kernel say smem=68 or more"
    both("lds.32 v1, 60", "lds.32 v1, 64", reason, stated=declares)
    both("sts.128 48, v4", "sts.128 64, v4", "bytes [64, 80) of shared memory", stated=declares)
    both("atoms.add _, 60, v4", "atoms.add _, 64, v4", "bytes [64, 68)", stated=declares)
    both("ldsm.x1 v1, 48", "ldsm.x1 v1, 64", "bytes [64, 80)", stated=declares)
    both("lds.32 v1, v2, 64", "lds.32 v1, -4", "bytes [-4, 0) of shared memory", stated=declares)  # v2 may be anything
    verify(program("nop", stated="smem=4096"), CHIP)
    refuse(program("nop", stated="smem=4097"), "kernel 'k': 4097 bytes of smem, which has 4096")
    refuse(program("nop", stated="spm=4"), "space 'spm' does not exist on gpu-tiny (core.shared.block_bytes)")


def test_the_end_of_a_kernel() -> None:
    for last in ("exit", "halt", "L: br L", "L: bra L"):
        verify(assemble(f".kernel k\nnop\n{last}\n.end"), CHIP)
    for last in ("nop", "@p0 exit", "@p0 bra @0", "endl", "bz r1, @0"):
        found = simt_faults(assemble(f".kernel k\nloop r1, @2\n{last}\n.end"), CHIP)
        assert any("kernel k runs on past its end" in fault for fault in found), last


def test_branches_stay_in_their_kernel_and_loop() -> None:
    verify(program("@p0 bra L\nnop\nL: nop"), CHIP)
    refuse(program("@p0 bra @9"), "target @9 lies outside of kernel k [0, 2)")
    loop = "loop n, E\n{}\nL: nop\nendl\nE: nop"
    both(loop.format("@p0 bra L"), loop.format("@p0 bra E"), "(let a predicate guard the rest of their rounds), or")
    both(loop.format("bz r1, L"), loop.format("bz r1, E"), "target @4 lies in another loop body; leave loops through")
    refuse(program("bra L\nloop n, E\nL: nop\nendl\nE: nop"), "target @2 lies in another loop body")
    both("T: nop\n@p0 bra T", "loop n, @2\nendl\nendl", "endl without loop")


def test_lanes_that_part_in_a_loop_meet_in_it() -> None:
    body = "loop n, E\n{}\nL: nop\nendl\nE: nop"
    reason = "lanes that part here, in a loop, meet again at @7, outside of its body"
    verify(program(body.format("@!p0 exit")), CHIP)
    refuse(program(body.format("@p0 bra L\nexit")), reason)


def nested(depth: int) -> str:
    return "".join(f"loop n, E{i}\n" for i in range(depth)) + "".join(f"endl\nE{i}: " for i in reversed(range(depth)))


def test_loops_nest_eight_deep() -> None:
    both(nested(8) + "nop", nested(9) + "nop", "loops nest deeper than 8")


# Launches


def launched(words: str, stated: str = "registers=16", params: str = "") -> Program:
    return program("nop", stated, f".launch k {words}", params)


def fits(legal: str, illegal: str, reason: str, stated: str = "registers=16") -> None:
    verify(launched(legal, stated), CHIP)
    refuse(launched(illegal, stated), reason)


def test_launches() -> None:
    chip = load_simt("gpu-tiny", [*FIGURES, "core.warps.resident=64"])
    verify_simt(launched("block=1024"), chip)
    with pytest.raises(ProgramError, match=r"launch 0: block 1025 of kernel 'k'; a block has 1 to 1024 threads"):
        verify_simt(launched("block=1025"), chip)
    fits("block=1", "block=0", "block 0 of kernel 'k'; a block has 1 to 1024 threads")
    fits("block=32 grid=1", "block=32 grid=0", "grid 0 of kernel 'k'; a launch has 1 to 2147483647 blocks")
    verify(launched("block=32 grid=2147483647"), CHIP)
    verify(launched("block=32 grid=5 args=[1, 2]", params="x, y"), CHIP)
    refuse(launched("block=32 args=[1]", params="x, y"), "1 arguments for kernel 'k', which has 2 parameters")
    refuse(launched("block=32 args=@1 nargs=2\n.args [1, 2]", params="x, y"), "arguments [1, 3) lie outside of the 2")
    refuse(launched("block=32 kernel=3"), "launch 0: kernel 3 does not exist; there are 1")


def test_warps_of_a_block() -> None:
    reason = "a block of 513 threads of kernel 'k' is 17 warps; a core has room for 16 (core.warps.resident)"
    fits("block=512", "block=513", reason + ": launch it with block=512 or less")


def test_registers_of_a_block() -> None:
    # 33 registers of 32 threads are 1056, given as 1280; 12 warps of them fit, and 2 warps are given at once.
    kernel = launched("", "registers=33").kernels[0]
    assert block_needs(kernel, 384, CHIP) == BlockNeeds(12, 15360, 1024)
    assert block_needs(kernel, 385, CHIP) == BlockNeeds(13, 14 * 1280, 1024)
    reason = "a block of 385 threads with 33 registers each takes 17920; a core has 16384 (core.registers.count): "
    remedy = "let .kernel say registers=32 or less, or launch it with block=384 or less"
    fits("block=384", "block=385", reason + remedy, "registers=33")
    verify(launched("block=385", "registers=32"), CHIP)
    fits("block=256", "block=257", "let .kernel say registers=48 or less, or launch it with block=256", "registers=64")
    verify(launched("block=257", "registers=48"), CHIP)


def test_shared_memory_of_a_block() -> None:
    odd = ["core.shared.size_bytes=8200", "core.shared.block_bytes=7200", "core.shared.carveouts=[8200]"]
    chip = load_simt("gpu-tiny", [*FIGURES, *odd])
    verify_simt(launched("block=32", "registers=16 smem=7192"), chip)
    with pytest.raises(ProgramError) as caught:
        verify_simt(launched("block=32", "registers=16 smem=7193"), chip)
    takes = "a block of kernel 'k' takes 8320 bytes of shared memory; a core has 8200 (core.shared.size_bytes)"
    assert f"{takes}: let .kernel say smem=7192 or less" in str(caught.value)


def test_tensors_lie_in_dram() -> None:
    tensor = ".tensor t space={} address={} shape=[4] dtype=fp32 role=input\n"
    verify(assemble(tensor.format("dram", (1 << 30) - 16)), CHIP)
    refuse(assemble(tensor.format("dram", (1 << 30) - 15)), "lie outside of dram, which has 1073741824")
    refuse(assemble(tensor.format("spm", 0)), "space 'spm' does not exist on gpu-tiny; there are dram")


def test_faults_are_told_in_order_and_bounded() -> None:
    with pytest.raises(ProgramError) as caught:
        verify(program("iadd v99, v1, v2\n" * 30), CHIP)
    lines = str(caught.value).splitlines()
    assert lines[0] == "program '<asm>' is illegal on gpu-tiny: 30 faults"
    assert lines[1].startswith("  instruction 0 `iadd v99, v1, v2`: v99 (dst): kernel 'k' has 64 registers")
    assert (len(lines), lines[-1]) == (22, "  ... and 10 more")


def test_a_program_without_code_is_legal() -> None:
    assert simt_faults(assemble(""), CHIP) == []


# Other machines


def test_machines_of_tiles_refuse_threads_by_name() -> None:
    chip = machine()
    verify(assemble(".kernel k\nnop\nhalt\n.end\n.launch k"), chip)
    for text, reason in (
        (".kernel k\nvmov v0, 1\nhalt\n.end", "`vmov v0, 1`: vmov: the cores of test4x4 run no threads (issue: "),
        (".kernel k registers=3\nhalt\n.end", "registers=3, but the cores of test4x4 have no lane registers"),
        (".kernel k\nhalt\n.end\n.launch k block=32", "block 32 of kernel 'k': the cores of test4x4 run no threads"),
    ):
        with pytest.raises(ProgramError) as caught:
            verify(assemble(text), chip)
        assert reason in str(caught.value)
    guarded = assemble(".kernel k\nnop\nhalt\n.end")
    guarded.instrs["flags"][0] = GUARD | GUARD_NOT | 2 << GUARD_SHIFT
    with pytest.raises(ProgramError, match=r"a guard \(@!p2\): the cores of test4x4 run no threads"):
        verify(guarded, chip)


@pytest.mark.parametrize("op", [op for op in TABLE if op.code in THREAD_CODES], ids=lambda op: op.name)
def test_no_operation_of_threads_runs_on_tiles(op: Any) -> None:
    chip = machine()
    found = assemble(".kernel k\nnop\nhalt\n.end")
    found.instrs["op"][0] = op.code
    with pytest.raises(ProgramError, match=f"{op.name}: the cores of test4x4 run no threads"):
        verify(found, chip)


def test_a_launch_of_nothing_but_other_kinds_is_judged_the_same() -> None:
    row = np.copy(launched("block=32").launches)
    row["kind"] = 7
    refuse(replace(launched("block=32"), launches=row), "kind 7 does not exist")
    assert min(op.pipe for op in TABLE if op.code in THREAD_CODES) > DMA
