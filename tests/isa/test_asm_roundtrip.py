"""Text -> Program -> text is a fixed point, and nothing of a Program is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from program_strategies import assert_equal, programs

from isa import assemble, disassemble, instr_text
from isa.disasm import OPERAND_FIELD
from isa.errors import ProgramError
from isa.program import DESC, INSTR, LAUNCH, Kernel, Program, Tensor, instruction
from isa.table import ACTIVATIONS, FLAG_NAMES, STOP, TABLE, Op, code

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(programs())
def test_text_holds_everything(program: Program) -> None:
    text = disassemble(program)
    again = assemble(text)
    assert_equal(program, again)
    assert disassemble(again) == text


def with_instruction(**fields: object) -> Program:
    record = instruction(**fields)  # type: ignore[arg-type]
    return Program("p", "m", np.array([record], INSTR), np.zeros(4, DESC), (Kernel("k", 0, 1, ("n", "r9", "relu")),),
                   np.zeros(0, LAUNCH), np.zeros(0, np.int64), (), ())  # fmt: skip


@pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
def test_every_operation_has_one_text(op: Op) -> None:
    words = {f.rstrip("?") for f in op.fields.split()}
    fields = dict.fromkeys(w for w in words if OPERAND_FIELD[w] in ("dst", "a", "b", "c"))
    values = {OPERAND_FIELD[w]: 1 + "dabc".index(OPERAND_FIELD[w][0]) for w in fields}
    values = {k: min(v, 3) for k, v in values.items()}
    if words & {"imm", "act", "to"}:
        values["imm"] = 1
    program = with_instruction(op=op.code, **values)
    assert_equal(program, assemble(disassemble(program)))
    assert instr_text(program, 0).split()[0] == op.name


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"op": code("addi"), "dst": 1, "a": 0, "imm": -4}, "addi r9, n, -4"),
        ({"op": code("mm"), "dst": 0, "a": 1, "c": 2, "unit": 1, "flags": 2}, "mm.next matrix1, %d0, %d1, r2"),
        ({"op": code("mm"), "dst": 0, "a": 1, "b": 2}, "mm matrix0, %d0, %d1, %d2"),
        ({"op": code("ldw"), "a": 1, "flags": 4 | STOP}, "ldw.sta weights0, %d1"),
        ({"op": code("fix"), "dst": 0, "a": 1, "c": 2, "imm": 1}, "fix %d0, %d1, _, %d2, relu, 0.0, 0.0"),
        ({"op": code("set"), "dst": 7, "unit": 1, "imm": 3}, "set dma1.1, 3"),
        ({"op": code("set"), "dst": 3, "imm": 3, "a": 5}, "set vector, 3, r5"),
        ({"op": code("wait"), "imm": 3, "b": 2}, "wait 3, 2"),
        ({"op": code("wait"), "imm": 3, "b": 2, "a": 0}, "wait 3, n, 2"),
        ({"op": code("cp"), "dst": 0, "a": 1, "unit": 2}, "cp %d0, %d1, unit=2"),
        ({"op": code("halt"), "f0": 0.5}, "halt f0=0.5"),
        ({"op": code("br"), "imm": 7}, "br @7"),
        ({"op": 1000}, "op1000"),
        ({"op": code("v.clip"), "dst": 0, "a": 0, "f0": -0.0, "f1": float("inf")}, "v.clip %d0, %d0, -0.0, inf"),
    ],
)
def test_instruction_text(fields: dict[str, int], text: str) -> None:
    # `r9` and `relu` are parameters whose names mean something else: their registers keep their numbers.
    text = text.replace("r9", "r1")
    assert instr_text(with_instruction(**fields), 0) == text


def test_parameters_with_one_name_stay_registers() -> None:
    program = with_instruction(op=code("mov"), dst=1, a=0)
    twice = replace(program, kernels=(Kernel("k", 0, 1, ("n", "n")),))
    assert instr_text(twice, 0) == "mov r1, r0"
    assert_equal(twice, assemble(disassemble(twice)))


@pytest.mark.parametrize("index", [0, 1])
def test_kernels_with_one_name_are_launched_by_number(index: int) -> None:
    program = assemble(".kernel k\nhalt\n.end\n.kernel k\nhalt\n.end\n.launch kernel=" + str(index))
    assert_equal(program, assemble(disassemble(program)))


def test_a_negative_zero_scale_is_kept() -> None:
    tensor = Tensor("t", "dram", 0, (1,), "int8", "temp", -0.0, 0, (-0.0,))
    program = replace(with_instruction(op=code("halt")), tensors=(tensor,))
    assert_equal(program, assemble(disassemble(program)))


def test_instruction_text_out_of_range() -> None:
    assert "4 of 1" in instr_text(with_instruction(op=0), 4)


def test_flags_and_activations_have_names() -> None:
    assert len(set(FLAG_NAMES.values())) == len(FLAG_NAMES)
    assert len(set(ACTIVATIONS)) == len(ACTIVATIONS)


def test_overlapping_kernels_are_refused() -> None:
    program = with_instruction(op=code("halt"))
    kernel = program.kernels[0]
    with pytest.raises(ProgramError, match="must follow address 1"):
        disassemble(replace(program, kernels=(kernel, kernel)))
