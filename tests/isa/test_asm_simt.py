"""Assembly of threads: what hand-written text means, and what it says about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from program_strategies import assert_equal

from isa import assemble, disassemble, instr_text
from isa.disasm import OPERAND_FIELD
from isa.errors import AssemblyError
from isa.program import NO_OPERAND, Program
from isa.simt_operands import immediate_bits
from isa.table import TABLE, Op
from isa.table_simt import GUARD, GUARD_NOT, GUARD_SHIFT, IMMEDIATE, SCALAR_SOURCE

SAMPLE = Path(__file__).with_name("vadd.asm").read_text(encoding="utf-8")


def kernel(body: str, params: str = "x, n", stated: str = "") -> Program:
    return assemble(f".kernel k({params}) {stated}\n{body}\nexit\n.end")


def one(text: str, body: str = "") -> Any:
    """The record of one instruction, behind some directives."""
    return kernel(f"{body}\n{text}").instrs[0]


def references(record: Any) -> tuple[int, ...]:
    return tuple(int(record[name]) for name in ("dst", "a", "b", "c"))


_ = NO_OPERAND


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("iadd v1, v2, v254", (1, 2, 254, _)),
        ("iadd v1, r3, v2", (1, SCALAR_SOURCE + 3, 2, _)),
        ("iadd v1, v2, n", (1, 2, SCALAR_SOURCE + 1, _)),
        ("imad v1, v2, 7, r0", (1, 2, IMMEDIATE, SCALAR_SOURCE)),
        ("isetp.lt p6, v1, n", (6, 1, SCALAR_SOURCE + 1, _)),
        ("sel v1, v2, v3, p4", (1, 2, 3, 4)),
        ("pand p1, p2, p3", (1, 2, 3, _)),
        ("first r9, v1", (9, 1, _, _)),
        ("vote.any p0, p1", (0, 1, _, _)),
        ("ldg.32 v1, x, v2", (1, 0, 2, _)),
        ("ldg.32 v1, r5", (1, 5, _, _)),
        ("ldg.32 v1, r5, _, 4", (1, 5, _, _)),
        ("stg.32 x, v2, v3", (_, 0, 2, 3)),
        ("stg.32 x, 0, v3", (_, 0, _, 3)),
        ("stg.32 x, _, v3", (_, 0, _, 3)),
        ("lds.128 v4, v2, 64", (4, _, 2, _)),
        ("lds.32 v4", (4, _, _, _)),
        ("atomg.add _, x, v3, 0, 1", (_, 0, 3, IMMEDIATE)),
        ("atomg.add x, v3, v4", (_, 0, 3, 4)),
        ("atoms.exch v1, v2, v3", (1, _, 2, 3)),
        ("cpa.128 v1, x, v2", (_, 0, 2, 1)),
        ("mma.m16n8k16.f32.f16 v0, v4, v8, v0", (0, 4, 8, 0)),
    ],
)
def test_operands(text: str, held: tuple[int, ...]) -> None:
    assert references(one(text)) == held


@pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
def test_operands_have_fields_of_their_own(op: Op) -> None:
    held = [OPERAND_FIELD[word.rstrip("?")] for word in op.fields.split()]
    assert len(set(held)) == len(held)


@pytest.mark.parametrize(
    ("text", "imm", "f0"),
    [
        ("iadd v1, v2, -4", -4, 0.0),
        ("iand v1, v2, 0xff", 255, 0.0),
        ("fadd v1, v2, 0.5", 0, 0.5),
        ("fadd v1, v2, -1e-3", 0, -0.001),
        ("fsetp.lt p0, v2, inf", 0, float("inf")),
        ("f2i v1, 2.5", 0, 2.5),
        ("f2h2 v1, v2, 1.0", 0, 1.0),
        ("i2f v1, 3", 3, 0.0),
        ("h2f.lo v1, 0x3c00", 0x3C00, 0.0),
        ("hadd2 v1, v2, 1.5", 0, 1.5),
        ("bfma2 v1, v2, v3, 1.5", 0, 1.5),
        ("vmov v1, 7", 7, 0.0),
        ("vmov v1, 1.0", 0x3F800000, 0.0),
        ("sel v1, v2, -0.0, p0", 0x80000000, 0.0),
        ("shfl.bfly v1, v2, 16", 16, 0.0),
        ("ffs v1, 8", 8, 0.0),
        ("atomg.add _, x, v3, 4, 1", 4, 1.0),
        ("atomg.fadd _, x, v3, 4, 1.0", 4, 1.0),
        ("atoms.exch v1, _, 4, 1.0", 4, 1065353216.0),
        ("ldg.32 v1, x, v2", 0, 0.0),
        ("ldg.32 v1, x, v2, -16", -16, 0.0),
        ("bar", 0, 0.0),
        ("bar 3", 3, 0.0),
        ("cpa.wait", 0, 0.0),
        ("vid v1, 2", 2, 0.0),
    ],
)
def test_immediates(text: str, imm: int, f0: float) -> None:
    record = one(text)
    assert (int(record["imm"]), float(record["f0"])) == (imm, f0)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("iadd v1, v2, -4", 0xFFFFFFFC),
        ("iadd v1, v2, 4294967295", 0xFFFFFFFF),
        ("fadd v1, v2, 1.0", 0x3F800000),
        ("fadd v1, v2, 0.1", 0x3DCCCCCD),
        ("fmin v1, v2, 1e39", 0x7F800000),
        ("vmov v1, 0.1", 0x3DCCCCCD),
        ("hmul2 v1, v2, 1.0", 0x3C003C00),
        ("bmul2 v1, v2, 1.0", 0x3F803F80),
        ("atomg.add _, x, v3, 4, -1", 0xFFFFFFFF),
        ("atomg.fadd _, x, v3, 4, 0.5", 0x3F000000),
        ("atoms.exch v1, _, 4, 1.0", 0x3F800000),
    ],
)
def test_bits_of_immediates(text: str, bits: int) -> None:
    assert immediate_bits(one(text)) == bits


def test_guards() -> None:
    first, second, third = kernel(".preg near\n@p3 bra L\n@!near iadd v1, v1, 1\nL: nop").instrs[:3]
    assert int(first["flags"]) == GUARD | 3 << GUARD_SHIFT
    assert int(second["flags"]) == GUARD | GUARD_NOT
    assert int(third["flags"]) == 0
    assert instr_text(kernel("@!p6 exit"), 0) == "@!p6 exit"


def test_full_form() -> None:
    written = {
        "ldg.32 v1, x": "ldg.32 v1, x, _, 0", "stg.64 r9, v2, v4": "stg.64 r9, v2, 0, v4", "bar": "bar 0",
        "@p0 atoms.add v2, 0, 7": "@p0 atoms.add v2, _, 0, 7", "atomg.add x, v3, v4": "atomg.add _, x, v3, 0, v4",
    }  # fmt: skip
    program = kernel("\n".join(written))
    assert [instr_text(program, i) for i in range(len(written))] == list(written.values())


# Names


def test_names_of_registers_are_aligned_to_their_width() -> None:
    code = "iadd i, acc, acc+3\niadd one, pair+1, three\n.reg late\nvmov late, i"
    program = kernel(f".reg i acc:4 one pair:2 three:3\n{code}")
    assert [references(r) for r in program.instrs[:3]] == [(0, 4, 7, _), (8, 11, 12, _), (15, 0, _, _)]
    assert program.kernels[0].registers == 16


def test_names_of_predicates() -> None:
    program = kernel(".preg a b\n.preg c\npand c, b, a")
    assert references(program.instrs[0]) == (2, 1, 0, _)


def test_names_of_shared_memory() -> None:
    code = "lds.32 v1, tile+4\nlds.32 v2, v1, flags\niadd v1, v1, flags\nli r4, flags"
    program = kernel(f".shared tile 100\n.shared flags 8 4\n{code}", stated="smem=20")
    assert program.kernels[0].scratch_bytes == {"smem": 140}  # 20, tile from 32 on, flags from 132 on
    assert program.instrs["imm"][:4].tolist() == [36, 132, 132, 132]
    assert references(program.instrs[2]) == (1, 1, IMMEDIATE, _)


def test_parameters_may_be_added() -> None:
    program = kernel(".param extra, more\niadd v0, v0, more")
    assert program.kernels[0].params == ("x", "n", "extra", "more")
    assert references(program.instrs[0]) == (0, 0, SCALAR_SOURCE + 3, _)


@pytest.mark.parametrize(
    ("body", "stated", "registers"),
    [
        ("iadd v1, v7, r9", "", 8),
        ("ldg.128 v4, x", "", 8),
        ("stg.64 x, v1, v8", "", 10),
        ("mma.m16n8k16.f32.f16 v0, v10, v8, v0", "", 14),
        ("ldsm.x4 v3, v1", "", 7),
        ("iadd v1, v7, r9", "registers=40", 40),
        ("nop", "", 1),  # exit is an operation of threads
    ],
)
def test_registers_are_counted(body: str, stated: str, registers: int) -> None:
    assert kernel(body, stated=stated).kernels[0].registers == registers


def test_a_kernel_of_tiles_has_no_registers() -> None:
    assert assemble(".kernel k(v1)\nmov r2, v1\nhalt\n.end").kernels[0].registers == 0


def test_blocks_of_threads_have_one_row_of_arguments() -> None:
    launches = ".launch k grid=1000000 block=256 args=[1, 2]\n.launch k grid=2 args=[3, 4]"
    program = assemble(f".kernel k(a, b)\nexit\n.end\n{launches}")
    assert program.launches["block"].tolist() == [256, 0]
    assert program.args.tolist() == [1, 2, 3, 4, 3, 4]
    assert_equal(program, assemble(disassemble(program)))


def test_the_sample() -> None:
    program = assemble(SAMPLE, "vadd")
    assert_equal(program, assemble(disassemble(program)))
    assert instr_text(program, 5) == "ishl v3, v0, 2"
    assert instr_text(program, 9) == "@p0 stg.32 z, v3, 0, v1"
    assert program.kernels[0].registers == 4


@pytest.mark.parametrize("name", ["v1", "p0", "r3", "inf", "NaN"])
def test_parameters_with_names_of_registers(name: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        kernel("iadd v2, v1, 1", params=f"{name}, n")
    assert f"'.kernel k': parameter {name} is a register's or a number's name: give another" in str(caught.value)
    quoted = kernel("iadd v2, v1, r0", params=f'"{name}", n')
    assert instr_text(quoted, 0) == "iadd v2, v1, r0"
    assert_equal(quoted, assemble(disassemble(quoted)))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("iadd v1, v2, 1.5", "iadd takes integers, and '1.5' is a real number"),
        ("fadd v1, v2, 1", "fadd takes real numbers, and '1' is an integer: write 1.0"),
        ("hadd2 v1, v2, 0x10", "hadd2 takes real numbers, and '0x10' is an integer: write 16.0"),
        ("atomg.add _, x, v1, 0, 1.0", "atomg.add takes integers"),
        ("atomg.fadd _, x, v1, 0, 1", "atomg.fadd takes real numbers"),
        ("imad v1, 2, 3, v1", "'3' is a second immediate; an instruction has one"),
        ("iadd v1, v2, m", "a lane register, a scalar register, a parameter or a number, found 'm'; one of x, n"),
        ("iadd x, v1, v2", "expected a lane register (v0, v1, .., or a name of .reg), found 'x'"),
        (".reg off\niadd of, v1, v2", "found 'of'; did you mean 'off'?"),
        ("iadd v1, v256, 1", "v256: a source is at most v255"),
        ("iadd v1, r256, 1", "r256: a source is at most r255"),
        ("atomg.add _, x, v1, 0, 9007199254740993", "a source has 32 bits"),
        ("pand p0, p1, v1", "expected a predicate (p0, p1, .., or a name of .preg), found 'v1'"),
        ("@p0 li r1, 2", "li cannot have a guard"),
        ("@p8 exit", "guard 'p8': there are p0..p6"),
        ("@q exit", "expected a predicate"),
        ("stg.32 x, v3", "missing operand; it is written: stg.32 ra, vb?, imm, vc"),
        ("vid v1", "missing operand; it is written: vid vd, imm"),
        ("ldg.32 v1, x, v2, 1.5", "extra operand '1.5'"),
        ("ldg.32 v1, v2, 0", "expected a register (r0, r1, .., or a parameter: x, n), found 'v2'"),
        (".reg a\n.reg a", "'a' is the name of something else in this kernel already"),
        (".reg x", "'x' is the name of something else"),
        (".reg a\n.preg a", "'a' is the name of something else"),
        (".reg a\n.param a", "'a' is the name of something else"),
        (".shared a 4\n.reg a", "'a' is the name of something else"),
        (".reg v3", "'v3' cannot be a name"),
        (".preg inf", "'inf' cannot be a name"),
        (".reg a:0", "at least one register"),
        (".reg a:x", "expected an integer, found 'x'"),
        (".reg", "expected a name"),
        (".reg a:254 b:2", "b:2: would take v254..v255; there are 255 lane registers"),
        (".preg a b c d e f g h", "h: there are 7 predicates, and all have names"),
        (".reg a:2\niadd v9, a+2, 1", "'a+2': a has 2 registers, +0 to +1"),
        (".shared a", "expected .shared NAME BYTES [ALIGN]"),
        (".shared a 0", "give at least 1 byte and a power of two"),
        (".shared a 4 12", "give at least 1 byte and a power of two"),
        (".shared a 4\nlds.32 v0, a+4", "a has 4 bytes, +0 to +3"),
    ],
)
def test_mistakes_are_explained(body: str, reason: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        kernel(body)
    assert reason in str(caught.value)


@pytest.mark.parametrize("word", ["reg a", "preg a", "shared a 4", "param a"])
def test_names_belong_to_a_kernel(word: str) -> None:
    with pytest.raises(AssemblyError, match=f"[.]{word.split()[0]} stands outside of a kernel"):
        assemble(f".{word}")
    assert assemble(f".kernel k\n.{word}\nexit\n.end").kernels[0].name == "k"


@pytest.mark.parametrize(("text", "count"), [(".reg a:253 b:1 c", 255), (".reg a:252 c:2 d", 255)])
def test_all_registers_may_have_names(text: str, count: int) -> None:
    assert kernel(f"{text}\niadd {text[-1]}, a, 1").kernels[0].registers == count


def test_no_machine_calls_a_scalar_operation_guarded() -> None:
    program = kernel("nop")
    program.instrs["flags"][0] = GUARD
    assert instr_text(program, 0) == f"nop flags={GUARD}"
    assert_equal(program, assemble(disassemble(program)))
