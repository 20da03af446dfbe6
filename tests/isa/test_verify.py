"""The verifier, rule by rule and from both sides: the legal neighbour passes, the illegal one is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from asm_fixture import machine, matrix, path, vliw

from isa import assemble
from isa.errors import ProgramError
from isa.machine import Machine
from isa.program import Program, instruction
from isa.table import NEXT_TILE, STATIONARY_A, TABLE, code
from isa.verify import MAX_LOOP_DEPTH, slot_limits, slot_of, verify
from isa.verify_tables import MAX_FAULTS

# Descriptors by what they are: X, Y vectors in spm, G in dram, A/T/C operands of an mm, W a weight tile.
DESCS = """
.desc %X space=spm dtype=fp32 ext=[4, 8]
.desc %Y space=spm dtype=fp32 ext=[4, 8] base=1024
.desc %G space=dram dtype=fp32 ext=[4, 8]
.desc %I space=dram dtype=int32 ext=[4]
.desc %J space=dram dtype=fp32 ext=[4]
.desc %A space=spm dtype=int8 ext=[8, 4] rows=1
.desc %W space=dram dtype=int8 ext=[4, 4] rows=1
.desc %C space=acc dtype=int32 ext=[8, 4] rows=1
.desc %Q space=spm dtype=int8 ext=[8, 4]
"""
CHIP = machine()


def program(body: str, extra: str = "", launch: str = "") -> Program:
    return assemble(f"{DESCS}{extra}\n.kernel k(n)\n{body}\nhalt ;;\n.end\n{launch}")


def refuse(illegal: Program, reason: str, chip: Machine = CHIP) -> None:
    with pytest.raises(ProgramError) as caught:
        verify(illegal, chip)
    assert reason in str(caught.value)


def both(legal: str, illegal: str, reason: str, extra: str = "", chip: Machine = CHIP) -> None:
    verify(program(legal, extra), chip)
    refuse(program(illegal, extra), reason, chip)


# Fields


def poked(text: str, index: int, **fields: Any) -> Program:
    made = program(text)
    for name, value in fields.items():
        made.instrs[name][index] = value
    return made


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("nop", {"op": 1000}, "instruction 0 `op1000`: opcode 1000 does not exist"),
        ("nop", {"op": 65535}, "opcode 65535 does not exist"),
        ("li r1, 2", {"dst": -1}, "operand dst is missing"),
        ("cp %X, %G", {"a": -1}, "operand a is missing"),
        ("li r1, 2", {"a": 0}, "operand a = 0 is not used"),
        ("cp %X, %G", {"c": 3}, "operand c = 3 is not used"),
        ("nop", {"imm": 1}, "imm = 1 is not used"),
        ("nop", {"f0": 1.5}, "f0 = 1.5 is not used"),
        ("v.adds %X, %Y, 1, 0", {"f0": float("nan")}, "f0 is not a number"),
        ("nop", {"flags": 1 << 9}, "unknown bits"),
        ("nop", {"pad": 1}, "unknown bits"),
        ("nop", {"flags": NEXT_TILE}, "suffix .next belongs to mm"),
        ("cp %X, %G", {"flags": STATIONARY_A}, "suffix .sta belongs to mm and ldw"),
        ("nop", {"unit": 1}, "has no choice of unit"),
        ("v.relu %X, %Y", {"unit": 1}, "has no choice of unit"),
        ("cp %X, %G", {"unit": -1}, "unit -1 is negative"),
        ("cp %X, %G", {"dst": 9}, "descriptor 9 (dst) does not exist; there are 9"),
        ("cp %X, %G", {"dst": -2}, "descriptor -2 (dst) does not exist"),
    ],
)
def test_fields(text: str, fields: dict[str, Any], reason: str) -> None:
    verify(program(text), CHIP)
    refuse(poked(text, 0, **fields), reason)


def test_registers_end_where_the_machine_says() -> None:
    both("mov r15, r15", "mov r16, r15", "register 16 (dst) does not exist; there are r0..r15")
    both("v.rsum %X, %Y, r15", "v.rsum %X, %Y, r16", "register 16 (c)")
    both("mov r1, r15", "mov r1, r16", "instruction 0 `mov r1, r16`")


def test_immediates() -> None:
    both("set scalar, 7 ; wait 7, 1", "set scalar, 8", "flag 8 does not exist (core.flags); there are 8")
    both("wait 7, r1, 1", "wait -1, r1, 1", "flag -1 does not exist")
    both("wait 7, 1", "wait 7, 0", "count is 0; a wait takes at least 1")
    both("csr r1, 2", "csr r1, 3", "special register 3 does not exist; there are 3")
    both("divi r1, r1, 1", "divi r1, r1, 0", "division by 0")
    both("mark 0", "mark 1", "row 1 of the name table does not exist; there are 1", extra='.name "a"')
    both("fix %Q, %C, 1, 0, 0", "fix %Q, %C, 15, 0, 0", "activation 15 does not exist")


# Units, paths, spaces


def test_units() -> None:
    both("mm.next matrix1, %C, %A", "mm.next matrix2, %C, %A", "unit 2 does not exist; core.matrix.count is 2")
    both("ldw weights1, %W", "ldw weights2, %W", "unit 2 does not exist")
    both("cp %X, %G, unit=5", "cp %X, %G, unit=-1", "unit -1")  # instance 5 modulo the engine's count
    both("set matrix1, 0", "set matrix2, 0", "pipe matrix unit 2 does not exist")
    both("set dma1.0, 0", "set dma2.0, 0", "pipe dma2 unit 0 does not exist")
    both("set drain, 0", "set vector2, 0", "pipe vector unit 2 does not exist")


def test_set_on_a_unit_that_another_one_stands_in_for() -> None:
    without = machine(core__drain=None, core__cross_lane=None)
    verify(program("set drain, 0 ; set cross_lane, 1"), without)
    refuse(program("set drain, 0"), "pipe drain unit 0", machine(core__drain=None, core__vector=None))


def test_paths() -> None:
    both("cp %X, %G", "cp %C, %G", "no path dram->acc for a copy; test4x4 has dram->spm, spm->dram",
         extra=".desc %X2 space=spm dtype=fp32 ext=[4, 8]")  # fmt: skip
    wide = machine(core__paths=[path("dram", "spm", "load"), path("spm", "wfifo", "weights")])
    refuse(program("ldw weights0, %W"), "no path dram->wfifo for weights; test4x4 has spm->wfifo", wide)
    fifo = ".desc %F space=wfifo dtype=fp32 ext=[4, 8]"
    refuse(program("cp %F, %G", fifo), "no path dram->wfifo for a copy")


def test_spaces_of_the_machine() -> None:
    here, elsewhere = ".desc %Z space=spm dtype=fp32 ext=[1]", ".desc %Z space=l0c dtype=fp32 ext=[1]"
    verify(program("v.relu %Z, %Z", here), CHIP)
    refuse(program("v.relu %Z, %Z", elsewhere), "operand D (%d9) space l0c does not exist on test4x4; there are acc")


def test_gather_indices() -> None:
    both("cpg %X, %G, %I", "cpg %X, %G, %J", "operand B holds row indices: int32 or int64, not fp32")


def test_copy_shapes() -> None:
    extra = ".desc %S space=dram dtype=fp32 ext=[4, 7]\n.desc %V space=dram dtype=fp32 ext=[4, 7] ext_reg=[_, r1]"
    both("cp %X, %V", "cp %X, %S", "operand A has extents [4, 7], D has [4, 8]", extra)
    refuse(program("cp %X, %J"), "operand A has extents [4]")


# Static ranges


@pytest.mark.parametrize(
    ("legal", "illegal", "reason"),
    [
        ("ext=[2048]", "ext=[2049]", "covers bytes [0, 8196) of spm, which has 8192"),
        ("ext=[1] base=8188", "ext=[1] base=8192", "covers bytes [8192, 8196)"),
        ("ext=[3] stride=[-4] base=8", "ext=[3] stride=[-4] base=4", "covers bytes [-4, 8)"),
        ("ext=[9999] ext_reg=[r1]", "ext=[9999]", "covers bytes"),
        ("ext=[1] base=8192 base_reg=r1", "ext=[1] base=8192", "covers bytes"),
        ("ext=[0, 9999]", "ext=[1, 9999]", "covers bytes"),
        ("ext=[1] base=4", "ext=[1] base=6", "base 6 is not a multiple of 4 (core.spaces.spm.align_bytes)"),
        ("ext=[2] rows=1", "ext=[2] rows=2", "rows is 2"),
        ("ext=[2]", "ext=[-2]", "must not be negative"),
        ("ext=[1] base_reg=r15", "ext=[1] base_reg=r16", "names register 16; there are r0..r15"),
        ("ext=[1] ext_reg=[r15]", "ext=[1] ext_reg=[r16]", "names register 16"),
        ("ext=[1] limit_reg=[r15]", "ext=[1] limit_reg=[_, r16]", "names register 16"),
        ("ext=[1] axis=[1]", "ext=[1] axis=[2]", "axes [2] must be -1 (none), 0 or 1"),
        # A window keeps the coordinate in [0, limit): 4 rows of 2048 bytes fit, 5 do not.
        ("ext=[9] stride=[0] axis=[0] coef=[1] origin=[-2] limit=[4] axis_stride=[2048]",
         "ext=[9] stride=[0] axis=[0] coef=[1] origin=[-2] limit=[5] axis_stride=[2048]", "covers bytes [0, 8196)"),
        ("ext=[2] stride=[0] axis=[0] coef=[1] origin=[9] limit=[5] axis_stride=[2048]",
         "ext=[2] stride=[0] axis=[0] coef=[1] origin=[4] limit=[5] axis_stride=[2048]", "covers bytes [8192, 8196)"),
    ],
)  # fmt: skip
def test_descriptor_ranges(legal: str, illegal: str, reason: str) -> None:
    verify(program("v.relu %Z, %Z", f".desc %Z space=spm dtype=fp32 {legal}"), CHIP)
    refuse(program("v.relu %Z, %Z", f".desc %Z space=spm dtype=fp32 {illegal}"), reason)


def test_dram_range_is_the_capacity() -> None:
    end = CHIP.memory.capacity_bytes
    extra = ".desc %Z space=spm dtype=fp32 ext=[1]\n.desc %U space=dram dtype=fp32 ext=[1] base="
    verify(program("cp %Z, %U", f"{extra}{end - 4}"), CHIP)
    refuse(program("cp %Z, %U", f"{extra}{end}"), f"covers bytes [{end}, {end + 4}) of dram")


def test_unknown_dtype_and_dimensions() -> None:
    for field, value in (("dtype", 99), ("ndim", 7), ("ndim", -1)):
        made = program("cp %X, %G")
        made.descs[field][0] = value
        refuse(made, "does not exist; dtypes are 0..13, dimensions 0..6")


# The array


def tile(text: str) -> str:
    return f".desc %Z {text}"


@pytest.mark.parametrize(
    ("body", "legal", "illegal", "reason"),
    [
        ("ldw weights0, %Z", "space=dram dtype=int8 ext=[4, 4] rows=1", "space=dram dtype=int8 ext=[5, 4] rows=1",
         "the tile has K = 5, the array 4 rows"),
        ("ldw weights0, %Z", "space=dram dtype=int8 ext=[2, 2, 4] rows=2", "space=dram dtype=int8 ext=[2, 2, 5] rows=2",
         "the tile has N = 5, the array 4 columns"),
        ("ldw weights0, %Z", "space=dram dtype=fp32 ext=[4, 4] rows=1", "space=dram dtype=fp16 ext=[4, 4] rows=1",
         "operand A is fp16; the array takes int8, fp32"),
        ("mm matrix0, %C, %Z", "space=spm dtype=int8 ext=[8, 4] rows=1", "space=spm dtype=int8 ext=[8, 5] rows=1",
         "mm has K = 5, the array 4 rows"),
        ("mm matrix0, %C, %Z", "space=spm dtype=int8 ext=[2, 4, 4] rows=2", "space=spm dtype=int8 ext=[7, 4] rows=1",
         "A has 7 rows, D is 8 x 4"),
        ("mm matrix0, %C, %Z", "space=spm dtype=int8 ext=[7, 4] rows=1 ext_reg=[r1]",
         "space=acc dtype=int8 ext=[8, 4] rows=1",
         "operand A is in acc; mm reads spm (core.matrix.operand_space)"),
        ("mm matrix0, %C, %Z", "space=spm dtype=int8 ext=[8, 4] rows=1", "space=spm dtype=bf16 ext=[8, 4] rows=1",
         "operand A is bf16; the array takes int8, fp32 (core.matrix.passes)"),
        ("mm matrix0, %Z, %A", "space=acc dtype=int32 ext=[8, 4] rows=1", "space=spm dtype=int32 ext=[8, 4] rows=1",
         "operand D is in spm; mm accumulates in acc (core.matrix.acc_space)"),
        ("mm matrix0, %Z, %A", "space=acc dtype=int32 ext=[8, 4] rows=1", "space=acc dtype=fp32 ext=[8, 4] rows=1",
         "operand D is fp32; int8 products accumulate in int32 (core.matrix.accumulate)"),
        ("mm matrix0, %Z, %A", "space=acc dtype=int32 ext=[8, 1] rows=1", "space=acc dtype=int32 ext=[8, 5] rows=1",
         "mm has N = 5, the array 4 columns"),
    ],
)  # fmt: skip
def test_weight_stationary(body: str, legal: str, illegal: str, reason: str) -> None:
    verify(program(body, tile(legal)), CHIP)
    refuse(program(body, tile(illegal)), reason)


def test_output_stationary() -> None:
    chip = machine(core__matrix=matrix(dataflow="os"))
    extra = """.desc %L space=spm dtype=int8 ext=[4, 9] rows=1
        .desc %R space=spm dtype=int8 ext=[9, 4] rows=1
        .desc %R5 space=spm dtype=int8 ext=[9, 5] rows=1
        .desc %R8 space=spm dtype=int8 ext=[8, 4] rows=1
        .desc %D space=acc dtype=int32 ext=[4, 4] rows=1
        .desc %D5 space=acc dtype=int32 ext=[4, 5] rows=1"""
    both("mm matrix0, %D, %L, %R", "mm matrix0, %D5, %L, %R5", "D has N = 5, the array 4 columns", extra, chip)
    refuse(program("mm matrix0, %D, %L, %R8", extra), "A is 4 x 9, B is 8 x 4, D is 4 x 4", chip)
    refuse(program("mm matrix0, %D, %L", extra), "operand B stands if and only if", chip)
    refuse(program("mm matrix0, %C, %A, %A", extra), "operand B stands if and only if core.matrix.dataflow is 'os'")
    refuse(program("mm.next matrix0, %D, %L, %R", extra), "has no weight FIFO", chip)
    refuse(program("ldw weights0, %W", extra), "has no weight FIFO", chip)
    refuse(program("set weights0, 0", extra), "pipe weights unit 0 does not exist", chip)


def test_input_stationary() -> None:
    chip = machine(core__matrix=matrix(dataflow="is"))
    extra = """.desc %T space=dram dtype=int8 ext=[3, 4] rows=1
        .desc %T5 space=dram dtype=int8 ext=[5, 4] rows=1
        .desc %B space=spm dtype=int8 ext=[4, 9] rows=1
        .desc %B5 space=spm dtype=int8 ext=[5, 9] rows=1
        .desc %D space=acc dtype=int32 ext=[3, 9] rows=1
        .desc %D8 space=acc dtype=int32 ext=[3, 8] rows=1"""
    both("ldw.sta weights0, %T", "ldw.sta weights0, %T5", "the tile has M = 5, the array 4 columns", extra, chip)
    both("mm.sta.next matrix0, %D, %B", "mm.sta matrix0, %D, %B5", "mm has K = 5", extra, chip)
    refuse(program("mm.sta matrix0, %D8, %B", extra), "A has 9 columns, D is 3 x 8", chip)
    refuse(program("ldw weights0, %T", extra), "suffix .sta stands if and only if", chip)
    refuse(program("ldw.sta weights0, %W", extra), "core.matrix.dataflow is 'is'; it is 'ws'")


# Vector and drain


def test_vector_operations_and_dtypes() -> None:
    narrow = machine(core__vector={"lanes": 8, "operations": ["add", "relu"], "dtypes": ["fp32"]})
    verify(program("v.exp %X, %Y"), CHIP)  # an empty list offers everything
    both("v.add %X, %Y, %Y", "v.exp %X, %Y", "v.exp is not offered; core.vector.operations has add, relu", chip=narrow)
    both("v.relu %X, %Y", "v.relu %Q, %Q", "operand D is int8; core.vector.dtypes has fp32", chip=narrow)
    refuse(program("v.relu %X, %Y"), "has no unit for v.relu", machine(core__vector=None))
    neither = machine(core__vector=None, core__cross_lane=None)
    refuse(program("v.lsum %X, %Y"), "neither cross_lane nor vector", neither)
    verify(program("v.lsum %X, %Y"), machine(core__cross_lane=None))


def test_vector_operands() -> None:
    both("v.relu %X, %Y", "v.relu %G, %Y", "operand D is in dram; v.relu works on acc, spm")
    extra = ".desc %S space=spm dtype=fp32 ext=[4, 1]\n.desc %B space=spm dtype=fp32 ext=[4, 8] stride=[4, 0]"
    both("v.add %X, %Y, %B", "v.add %X, %Y, %S", "operand B has extents [4, 1], D has [4, 8]", extra)


def test_drain() -> None:
    tanh = "activation tanh is not offered; core.drain.activations has relu"
    both("fix %Q, %C, relu, 0, 0", "fix %Q, %C, tanh, 0, 0", tanh)
    verify(program("fix %Q, %C, none, 0, 0"), CHIP)
    extra = """.desc %S space=spm dtype=int32 ext=[8, 4]
        .desc %H space=acc dtype=fp16 ext=[8, 4]
        .desc %F space=spm dtype=fp32 ext=[8, 4] stride=[0, 4]"""
    both("fix %Q, %C, %S, %F, relu, 0, 0", "fix %Q, %C, %F, %S, relu, 0, 0", "operand C is int32; it must be", extra)
    refuse(program("fix %Q, %C, %Q, none, 0, 0", extra), "operand B is int8; it must be fp32 or")
    refuse(program("fix %Q, %H, none, 0, 0", extra), "operand A is fp16; fix reads int32 or fp32 sums")
    refuse(program("fix %Q, %S, none, 0, 0", extra), "operand A is in spm; ACT drains acc")
    verify(program("fix %Q, %S, tanh, 0, 0", extra), machine(core__drain=None))  # the vector unit drains
    limited = machine(core__drain=None, core__vector={"lanes": 8, "operations": ["relu"]})
    both("fix %Q, %C, relu, 0, 0", "fix %Q, %C, tanh, 0, 0", "core.vector.operations has relu", chip=limited)


# Control flow


def test_loops() -> None:
    both("loop r1, a\nnop\nendl\na:", "loop r1, a\nnop\nendl\nnop\na:", "it must lead to @3, after its endl")
    refuse(program("loop r1, a\na:"), "instruction 0 `loop r1, @1`: loop without endl")
    refuse(program("endl"), "endl without loop")
    nest = "\n".join(f"loop r1, e{i}" for i in range(MAX_LOOP_DEPTH))
    ends = "\n".join(f"endl\ne{i}:" for i in reversed(range(MAX_LOOP_DEPTH)))
    both(f"{nest}\n{ends}", f"loop r1, z\n{nest}\n{ends}\nendl\nz:", f"deeper than {MAX_LOOP_DEPTH}")


def test_loops_do_not_cross_kernels() -> None:
    crossed = assemble(".kernel a\nloop r1, @5\nhalt\n.end\n.kernel b\nendl\nhalt\n.end")
    refuse(crossed, "loop without endl in its kernel")
    refuse(crossed, "endl without loop")


def test_branches() -> None:
    both("br a\nnop\na:", "br @3\nnop", "target @3 lies outside of kernel k [0, 3)")
    refuse(program("br @-1"), "target @-1 lies outside")
    inside = "loop r1, e\nbz r2, c\nnop\nc: endl\ne:"
    both(inside, "loop r1, e\nbz r2, e\nnop\nendl\ne:", "target @4 lies in another loop body")
    refuse(program("br x\nloop r1, e\nx: nop\nendl\ne:"), "target @2 lies in another loop body")


def test_kernel_ends_with_halt() -> None:
    verify(assemble(".kernel k\nnop\nhalt\n.end"), CHIP)
    refuse(assemble(".kernel k\nhalt\nnop\n.end"), "instruction 1 `nop`: kernel k does not end with halt")
    refuse(assemble(".kernel k\n.end"), "kernel 'k': [0, 0) must be code")


def test_kernels_lie_in_order() -> None:
    made = assemble(".kernel a\nhalt\n.end\n.kernel b\nhalt\n.end")
    verify(made, CHIP)
    refuse(replace(made, kernels=made.kernels[::-1]), "kernel 'a': [0, 1) must be code within [2, 2)")
    refuse(replace(made, kernels=(replace(made.kernels[0], end=3),)), "[0, 3) must be code within [0, 2)")


# Bundles


@pytest.mark.parametrize(
    ("legal", "illegal", "reason"),
    [
        ("{ li r1, 0 ; li r2, 0 }", "{ li r1, 0 ; li r2, 0 ; li r3, 0 }",
         "3 scalar operations in a bundle; core.bundle allows 2"),
        ("{ cp %X, %G ; li r1, 0 }", "{ cp %X, %G ; cp %Y, %G }", "2 dma operations"),
        ("{ v.relu %X, %Y ; nop }", "{ v.relu %X, %Y ; v.relu %Y, %X }", "2 vector operations"),
        ("{ ldw weights0, %W ; mm matrix0, %C, %A }", "{ ldw weights0, %W ; ldw weights1, %W ; mm matrix0, %C, %A }",
         "3 matrix operations"),
        ("{ wait 0, 1 ; nop }", "{ wait 0, 1 ; fence }", "2 misc operations in a bundle; core.bundle allows 1"),
        ("{ nop ; br a }\na: nop ;;", "{ br a ; nop }\na: nop ;;", "must be the last of its bundle"),
        ("br a ;;\n{ nop ; nop }\na:", "br a ;;\nnop\na: nop ;;", "is in the middle of a bundle"),
    ],
)  # fmt: skip
def test_bundles(legal: str, illegal: str, reason: str) -> None:
    both(legal, illegal, reason, chip=vliw())


def test_last_bundle_needs_its_stop() -> None:
    verify(assemble(".kernel k\nnop\nhalt ;;\n.end"), vliw())
    refuse(assemble(".kernel k\nnop\nhalt\n.end"), "the last bundle of kernel k has no stop", vliw())
    verify(assemble(".kernel k\nnop\nhalt\n.end"), CHIP)  # stops mean nothing elsewhere


def test_slots_that_a_machine_does_not_list_are_misc() -> None:
    few = machine(issue="vliw", core__bundle={"scalar": 1, "matrix": 1})
    assert {slot_of(op.pipe, few) for op in TABLE} == {"scalar", "matrix", "misc"}
    assert slot_limits(few) == {"scalar": 1, "matrix": 1, "misc": 1}
    both("{ cp %X, %G ; nop }", "{ cp %X, %G ; v.relu %X, %Y }", "2 misc operations", chip=few)


# Launches and tables


def launched(line: str, extra: str = "") -> Program:
    operator = ".operator o op_type=T shape=[] nodes=[] dtype=fp32 macs=0 flops=0 min_bytes=0"
    return program("nop", f"{operator}\n{extra}", line)


@pytest.mark.parametrize(
    ("legal", "illegal", "reason"),
    [
        (".launch k args=[1]", ".launch k grid=0 args=@0 nargs=1", "grid 0 of kernel 'k'"),
        (".launch k args=[1]", ".launch k args=[1, 2]", "2 arguments for kernel 'k', which has 1 parameters"),
        (".launch k args=@1 nargs=1\n.args [1, 2]", ".launch k args=@2 nargs=1\n.args [1, 2]",
         "arguments [2, 3) lie outside of the 2 stored"),
        (".launch k grid=2 args=@0 nargs=1\n.args [1, 2]", ".launch k grid=2 args=@1 nargs=1\n.args [1, 2]",
         "arguments [1, 3) lie outside"),
        (".launch k args=@0 nargs=1\n.args [1]", ".launch k args=@-1 nargs=1\n.args [1]", "arguments [-1, 0)"),
        (".launch kernel=0 args=[1]", ".launch kernel=1 args=[1]", "kernel 1 does not exist; there are 1"),
        (".launch k operator=0 args=[1]", ".launch k operator=1 args=[1]", "operator 1 does not exist; there are 1"),
        (".launch kind=host host_op=0", ".launch kind=host host_op=1", "host operation 1 does not exist; there are 1"),
        (".launch kind=estimate cycles=5", ".launch kind=estimate cycles=-5", "must not be negative"),
        (".launch kind=estimate", ".launch kind=7", "kind 7 does not exist"),
    ],
)  # fmt: skip
def test_launches(legal: str, illegal: str, reason: str) -> None:
    host = ".hostop node_names=[] inputs=[] outputs=[]"
    verify(launched(legal, host), CHIP)
    refuse(launched(illegal, host), reason)


def tensor(place: str, shape: str = "[1]", rest: str = "dtype=fp32 role=input") -> str:
    return f".tensor t {place} shape={shape} {rest}"


DRAM0 = "space=dram address=0"
HOST_OP = ".hostop node_names=[] outputs=[] inputs="


def params(count: int) -> str:
    return f".kernel a({', '.join(f'p{i}' for i in range(count))})\nhalt\n.end"


@pytest.mark.parametrize(
    ("legal", "illegal", "reason"),
    [
        (tensor("space=dram address=1048572"), tensor("space=dram address=1048573"),
         "tensor 't': bytes [1048573, 1048577) lie outside of dram, which has 1048576"),
        (tensor("space=spm address=0", "[2048]"), tensor("space=spm address=0", "[2049]"), "lie outside of spm"),
        (tensor(DRAM0), tensor("space=dram address=-4"), "bytes [-4, 0)"),
        (tensor("space=host address=0"), tensor("space=ub address=0"), "space 'ub' does not exist"),
        (tensor(DRAM0, "[0]"), tensor(DRAM0, "[-1]"), "negative extent"),
        (tensor(DRAM0), tensor(DRAM0, rest="dtype=f32 role=input"), "dtype 'f32' does not exist"),
        (tensor(DRAM0), tensor(DRAM0, rest="dtype=fp32 role=inout"), "role 'inout' is not one of input, output"),
        (tensor(DRAM0, "[3, 2] scales=[1, 2]"), tensor(DRAM0, "[2, 3] scales=[1, 2]"), "2 scales for a last axis of 3"),
        (f"{tensor(DRAM0)}\n{HOST_OP}[t]", f"{tensor(DRAM0)}\n{HOST_OP}[u]", "host operation 0: tensor 'u' does not"),
        (".memory spm=8192", ".memory spm=8193", "memory_bytes: 8193 bytes of spm, which has 8192"),
        (".memory spm=1", ".memory ub=1", "memory_bytes: space 'ub' does not exist"),
        (".kernel a spm=8192\nhalt\n.end", ".kernel a spm=8193\nhalt\n.end", "kernel 'a': 8193 bytes of spm"),
        (params(16), params(17), "17 parameters; there are 16 registers"),
    ],
)  # fmt: skip
def test_tables(legal: str, illegal: str, reason: str) -> None:
    verify(assemble(legal), CHIP)
    refuse(assemble(illegal), reason)


def test_tensor_names_are_unique() -> None:
    made = assemble(tensor(DRAM0))
    refuse(replace(made, tensors=made.tensors * 2), "tensor 't': a second one of this name")


# The report


def test_message_lists_faults_in_order_and_counts_the_rest() -> None:
    made = program("\n".join(["mov r16, r1"] * (MAX_FAULTS + 5)))
    with pytest.raises(ProgramError) as caught:
        verify(made, CHIP)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"program '<asm>' is illegal on test4x4: {MAX_FAULTS + 5} faults"
    assert len(lines) == MAX_FAULTS + 2
    assert lines[1].startswith("  instruction 0 `mov r16, r1`")
    assert lines[-1] == "  ... and 5 more"


def test_random_records_never_crash_the_verifier() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        made = program("\n".join(["nop"] * 20), launch=".launch k args=[1]")
        for array in (made.instrs, made.descs, made.launches):
            for name in array.dtype.names or ():
                rows = rng.integers(0, len(array), 2)
                shape = array[name][rows].shape
                array[name][rows] = rng.integers(-20, 300, shape).astype(array.dtype[name].base)
        made.instrs["op"][rng.integers(0, 20, 10)] = rng.choice([op.code for op in TABLE], 10)
        with pytest.raises(ProgramError):
            verify(made, CHIP)


def test_ten_thousand_instructions_take_a_moment() -> None:
    made = program("nop")
    row = [instruction(code("v.relu"), dst=0, a=1), instruction(code("addi"), dst=1, a=1, imm=1)]
    big = np.concatenate([np.array(row * 5000, made.instrs.dtype), made.instrs])
    made = replace(made, instrs=big, kernels=(replace(made.kernels[0], end=len(big)),))
    fastest = min(_seconds(made) for _ in range(3))
    assert fastest < 0.3


def _seconds(made: Program) -> float:
    begin = time.perf_counter()
    verify(made, CHIP)
    return time.perf_counter() - begin


@pytest.mark.parametrize(("grid", "fits"), [(0, False), (1, True), (65535, True), (65536, False)])
def test_blocks_of_a_launch(grid: int, fits: bool) -> None:
    made = launched(f".launch k grid={grid} args=@0 nargs=1\n.args [{', '.join(['1'] * max(grid, 1))}]")
    if fits:
        verify(made, CHIP)
    else:
        refuse(made, f"grid {grid} of kernel 'k'; a launch has 1 to 65535 blocks")
