"""--check: what it accepts, and the mutated programs that it must refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import npusim.api as api
from compiler.compile import Compilation
from isa.machine import Machine
from isa.program import Program
from isa.table import code
from npusim.check import check, ulp
from npusim.inputs import generate

CASES = [
    ("gemm:40x24x72", "tiny"),
    ("gemm:200x300x150", "tpu-v3"),
    ("conv:2x9x9x12x20x3x2x1", "tpu-v3"),
    ("conv:1x12x12x8x24x3x1x1", "tpu-v1"),
    ("conv:1x12x12x8x24x3x1x1", "gemmini-16x16"),
    ("softmax:40x96", "tpu-v3"),
    ("attention:3x40x24", "tpu-v4"),
    ("bert-block:16,64,4", "tpu-v5e"),
]


def compiled(model: str, hw: str) -> tuple[Compilation, Machine, Any]:
    machine, _ = api.machine_for(hw)
    compilation = api.compile(model, machine, calibrated=True)
    return compilation, machine, generate(compilation.reference, 0)


@pytest.mark.parametrize(("model", "hw"), CASES)
def test_compiled_programs_pass(model: str, hw: str) -> None:
    found = check(*compiled(model, hw))
    assert found.ok, [r for r in found.rows if not r["ok"]] + list(found.hazards)
    assert found.executed_share == 1.0
    assert found.max_err <= found.bound


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_every_dataflow_computes_the_same(dataflow: str) -> None:
    machine, _ = api.machine_for("gemmini-16x16", [f"core.matrix.dataflow={dataflow}"])
    compilation = api.compile("conv:1x11x9x20x36x3x1x1", machine, calibrated=True)
    assert check(compilation, machine, generate(compilation.reference, 0)).ok


def one_step_less(program: Program) -> Program:
    """The last K slice is dropped."""
    kernel = program.kernels[0]
    args = program.args.copy()
    args[kernel.params.index("steps")] -= 1
    return replace(program, args=args)


def shifted(operand: str, op: str, amount: int) -> Callable[[Program], Program]:
    """One operand's address is off by `amount` bytes, of which the kernel declares as many more."""

    def mutate(program: Program) -> Program:
        at = int(np.flatnonzero(program.instrs["op"] == code(op))[0])
        descs = program.descs.copy()
        descs[int(program.instrs[at][operand])]["base"] += amount
        kernels = tuple(
            replace(kernel, scratch_bytes={space: size + amount for space, size in kernel.scratch_bytes.items()})
            for kernel in program.kernels
        )
        return replace(program, descs=descs, kernels=kernels)

    return mutate


def never_accumulates(program: Program) -> Program:
    """The sum over K starts anew in every pass."""
    instrs = program.instrs.copy()
    instrs["c"][instrs["op"] == code("mm")] = -1
    return replace(program, instrs=instrs)


MUTATIONS = {
    "a K slice dropped": one_step_less,
    "an operand one row off": shifted("a", "mm", 64),
    "a weight tile one element off": shifted("a", "ldw", 4),
    "an accumulator one element off": shifted("a", "fix", 4),
    "no accumulation": never_accumulates,
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_programs_fail(name: str) -> None:
    compilation, machine, feeds = compiled("gemm:24x32x64", "tiny")
    assert check(compilation, machine, feeds).ok
    built = compilation.built
    mutant = replace(compilation, built=replace(built, program=MUTATIONS[name](built.program)))
    found = check(mutant, machine, feeds)
    assert not found.ok
    worst = [r for r in found.rows if not r["ok"]]
    assert (worst and "instead of" in worst[0]["worst"]) or found.hazards


def test_a_lost_wait_is_a_hazard() -> None:
    compilation, machine, feeds = compiled("gemm:600x300x700", "tpu-v3")
    program = compilation.built.program
    instrs = program.instrs.copy()
    waits = np.flatnonzero(instrs["op"] == code("wait"))
    first = instrs[waits[0]]
    first["op"], first["imm"], first["a"], first["b"] = code("nop"), 0, -1, -1
    mutant = replace(compilation, built=replace(compilation.built, program=replace(program, instrs=instrs)))
    assert check(mutant, machine, feeds).hazards


def test_an_estimated_operator_is_refused_unless_allowed() -> None:
    machine, _ = api.machine_for("gemmini-16x16", ["host.ops=[]"])
    compilation = api.compile("softmax:8x32", machine, calibrated=True)
    assert any(o.approximated for o in compilation.built.program.operators)
    feeds = generate(compilation.reference, 0)
    assert not check(compilation, machine, feeds).ok
    assert check(compilation, machine, feeds, allow_approx=True).ok


def test_ulp_is_the_distance_to_the_next_stored_value() -> None:
    from isa.dtypes import dtype

    values = np.array([1.0, 1.5, 2.0, 100.0], np.float32)
    assert ulp(values, dtype("bf16"), 1.0).tolist() == [2.0**-7, 2.0**-7, 2.0**-6, 0.5]
    assert ulp(values, dtype("fp32"), 1.0).tolist() == np.spacing(values).tolist()
    assert ulp(values, dtype("int8"), 0.25).tolist() == [0.25] * 4
