"""The assembler: what hand-written text means, and what it says about mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from isa import assemble
from isa.asm import MAX_FAULTS
from isa.errors import AssemblyError
from isa.program import SPACE_ID
from isa.table import STOP, code


def body(text: str) -> str:
    return f".desc %x space=spm dtype=fp32 ext=[2, 3]\n.kernel k(n, m)\n{text}\n.end\n"


def test_labels_aliases_and_comments() -> None:
    program = assemble(body("top: // here\n addi n, m, -1 # down\n bnz n, top; br end\n\tloop\tr2, end\nend:\n halt"))
    assert program.instrs["op"].tolist() == [code(x) for x in ("addi", "bnz", "br", "loop", "halt")]
    assert program.instrs["imm"].tolist() == [-1, 0, 4, 4, 0]
    assert (program.instrs["dst"][0], program.instrs["a"][0]) == (0, 1)


def test_labels_are_local_to_their_kernel() -> None:
    program = assemble(".kernel a\nx: br x\n.end\n.kernel b\nx: br x\n.end")
    assert program.instrs["imm"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "text",
    ["nop ;;\nnop\nnop ;;\nhalt", "{ nop }\n{ nop ; nop }\nhalt", "{ nop }{\nnop\nnop\n}\nhalt", "nop;;nop;nop;;halt"],
)
def test_bundle_stops(text: str) -> None:
    program = assemble(body(text))
    assert ((program.instrs["flags"] & STOP) != 0).tolist() == [True, False, True, False]


def test_descriptor_defaults() -> None:
    program = assemble(".desc %a space=acc dtype=bf16 ext=[4, 8, 2]\n.desc %b space=spm dtype=int8 ext=[] base_reg=r4")
    first, second = program.descs
    assert first["space"] == SPACE_ID["acc"]
    assert first["ndim"] == 3
    assert first["stride"].tolist() == [32, 4, 2, 0, 0, 0]
    assert first["scale"] == 1.0
    assert (second["ndim"], second["base_reg"]) == (0, 4)


def test_launch_arguments() -> None:
    program = assemble(
        ".tensor t space=dram address=0x40 shape=[2] dtype=fp32 role=input\n.kernel k(a, b)\nhalt\n.end\n"
        ".launch k grid=2 args=[&t, 5]\n.launch k grid=2 args=[[1, 2], [3, 4]]\n.launch k args=@2 nargs=2\n.args [9]\n"
    )
    assert program.args.tolist() == [64, 5, 64, 5, 1, 2, 3, 4, 9]
    assert program.launches["args"].tolist() == [0, 4, 2]
    assert program.launches["nargs"].tolist() == [2, 2, 2]
    assert program.launches["grid"].tolist() == [2, 2, 1]


def test_empty_text() -> None:
    program = assemble("", "nothing")
    assert program.name == "nothing"
    assert len(program.instrs) == len(program.launches) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (body("vadd r1, r2"), "did you mean 'v.add'"),
        (body("mm.nxt matrix0, %x, %x"), "unknown instruction 'mm.nxt'"),
        (body("li r1"), "missing operand; it is written: li rd, imm"),
        (body("li r1, 2, 3"), "extra operand '3'"),
        (body("li 1, 2"), "expected a register (r0, r1, .., or a parameter: n, m), found '1'"),
        (body("li r1, r2"), "expected an integer, found 'r2'"),
        (body("li r1, 0x8000000000000000"), "imm is 9223372036854775808"),
        (body("li r99999999999, 1"), "dst is 99999999999"),
        (body("cp %y, %x"), "unknown descriptor '%y'"),
        (body("cp r1, %x"), "expected a descriptor"),
        (body("cp %d1, %x"), "unknown descriptor '%d1'"),
        (body("br nowhere"), "unknown label 'nowhere'"),
        (body("a: nop\na: nop"), "defined twice"),
        (body("fix %x, %x, rel, 0, 0"), "unknown activation 'rel'; did you mean 'relu'?"),
        (body("set dma, 1"), "expected a pipe"),
        (body("ldw matrix0, %x"), "runs on weights units"),
        (body("cp %x, %x, units=1"), "unknown field 'units'; did you mean 'unit'?"),
        (body("v.adds %x, %x, one, 0"), "expected a number, found 'one'"),
        (body("{ nop"), "a bundle is open at .end"),
        (body("nop }"), "} without {"),
        (body("{ { nop } }"), "a bundle inside a bundle"),
        (body(";;"), "an empty bundle"),
        (body("nop ;; ;;"), "an empty bundle"),
        (".kernel k\nnop", "no .end"),
        (".end", ".end without .kernel"),
        (".kernel a\n.kernel b\n.end", "a kernel inside kernel a"),
        ("x: nop", "outside of a kernel"),
        (".tensr x", "did you mean 'tensor'"),
        (".tensor x space=dram", "missing address, shape, dtype, role"),
        (".tensor x shap=[1]", "unknown key 'shap'; did you mean 'shape'?"),
        (".tensor x shape=5", "shape: expected a list"),
        (".tensor x shape=[a]", "shape: expected an integer, found 'a'"),
        ('.name "open', "a quote is not closed"),
        (".name a b", "expected one name"),
        (".desc %x dtype=fp32 ext=[1]", "missing space="),
        (".desc %x space=spn dtype=fp32 ext=[1]", "unknown space 'spn'; did you mean 'spm'?"),
        (".desc %x space=spm dtype=fp33 ext=[1]", "unknown dtype 'fp33'"),
        (".desc %x space=spm dtype=fp32 ext=[1,1,1,1,1,1,1]", "ext holds 7 values; at most 6"),
        (".desc %x space=spm dtype=fp32 ext=[1] base=&t", "unknown tensor 't'"),
        (".desc %x space=spm dtype=fp32 ext=[1]\n.desc %x space=spm dtype=fp32 ext=[1]", "defined twice"),
        (".desc x space=spm", "expected .desc %name"),
        (".launch k", "unknown kernel 'k'"),
        (".launch args=[[1], [2]]", "args holds 2 lists for a grid of 1"),
        (".launch grid=2 args=[[1], [2, 3]]", "same number of arguments"),
        (".launch grid=2000000000 args=[1]", "at most 16777216"),
        (".launch [1]", "expected a kernel name"),
        (".args 5", "expected one list"),
        (".args [[[1]]]", "lists nest at most twice"),
        (".memory dram", "expected key=value"),
    ],
)
def test_mistakes_are_explained(text: str, reason: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(text, "file.asm")
    assert reason in str(caught.value)
    assert str(caught.value).startswith("file.asm:")


def test_faults_are_collected_in_line_order_and_bounded() -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(body("bad\nli r1, x\n.bad"), "f")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["3", "4", "5"]
    with pytest.raises(AssemblyError) as caught:
        assemble("bad\n" * (MAX_FAULTS + 5), "f")
    assert len(str(caught.value).splitlines()) == MAX_FAULTS + 1
    assert "stopped after 20 faults" in str(caught.value)


def test_quoted_names_keep_marks_and_comments() -> None:
    program = assemble('.program "a // b # c; {d}"\n.kernel "k, 1"("p q", p)\nmov r1, p ; halt\n.end')
    assert program.name == "a // b # c; {d}"
    assert program.kernels[0].name == "k, 1"
    assert program.kernels[0].params == ("p q", "p")
    assert program.instrs["a"][0] == 1


def test_program_arrays_have_the_declared_layout() -> None:
    program = assemble(body("halt"))
    assert all(np.asarray(x).flags.c_contiguous for x in (program.instrs, program.descs, program.launches))
