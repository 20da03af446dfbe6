"""A flag holds one set, and who sets it is behind the wait before: what one schedule alone does not show."""

from __future__ import annotations

import pytest
from test_queues import ascend
from test_signals import chip

from isa.asm import assemble
from isa.errors import SimulationError
from isa.machine import Machine
from isa.program import Program
from npusim.hazards import Finding, check_hazards

HEAD = """
.program p
.machine {hw}
.tensor x space=dram address=0    shape=[4, 8, 32] dtype=fp32 role=input
.tensor y space=dram address=8192 shape=[4, 8, 32] dtype=fp32 role=output
.kernel k(x, y) {spaces}
  .desc %x space=dram dtype=fp32 ext=[8, 32] base_reg=x
  .desc %y space=dram dtype=fp32 ext=[8, 32] base_reg=y
  .desc %in  space=ub dtype=fp32 ext=[8, 32]
  .desc %out space=ub dtype=fp32 ext=[8, 32] base=2048
"""


def program(body: str, hw: str = "ascend-310", spaces: str = "ub=4096", grid: int = 1) -> Program:
    text = HEAD.format(hw=hw, spaces=spaces) + body + f"\n  halt\n.end\n.launch k grid={grid} args=[&x, &y]\n"
    return assemble(text)


def found(prog: Program, machine: Machine) -> list[Finding]:
    """The findings, which do not depend on whether loops are proved by induction."""
    walked = check_hazards(prog, machine, induction=False)
    assert [f.message for f in check_hazards(prog, machine)] == [f.message for f in walked]
    return walked


def two_setters(second: str, flag: int, between: str = "") -> Program:
    """A load, what it feeds, and a set by another pipe that nothing holds back but `between`."""
    return program(f"""
  cp %in, %x
  set dma1.0, 0
  wait vector, 0, 1
  v.exp %out, %in
  {between}
  set {second}, {flag}
  wait vector, {flag}, 1
  set vector, 1
  wait dma2.0, 1, 1
  cp %y, %out""")


@pytest.mark.parametrize("second", ["dma2.0", "scalar"])
def test_a_flag_of_two_setters_needs_the_wait_between_them(second: str) -> None:
    machine = ascend()
    (finding,) = found(two_setters(second, 0), machine)
    assert (finding.kind, finding.instrs) == ("ambiguous", (2, 4))
    label = "MTE3" if second == "dma2.0" else "SCALAR"
    assert f"flag 0 is set by MTE2, {label}" in finding.message and "4 may come before the wait at 2" in finding.message
    assert found(two_setters(second, 3), machine) == []
    waits = f"set vector, 4\n  wait {second}, 4, 1"
    assert found(two_setters(second, 0, waits), machine) == []


@pytest.mark.parametrize("knows", [False, True])
def test_a_flag_may_be_set_again_only_behind_its_wait(knows: bool) -> None:
    """However long the waiting pipe is busy: here with two operations between its waits."""
    back = "set vector, 5\n  wait dma1.0, 5, 1" if knows else ""
    prog = program(f"""
  cp %in, %x
  set dma1.0, 0
  wait vector, 0, 1
  v.exp %out, %in
  v.exp %out, %out
  {back}
  set dma1.0, 0
  wait vector, 0, 1
  set vector, 1
  wait dma2.0, 1, 1
  cp %y, %out""")
    kinds = [(f.kind, f.instrs) for f in found(prog, ascend())]
    assert kinds == ([] if knows else [("twice", (2, 5))])


@pytest.mark.parametrize("apart", [False, True])
def test_signals_of_two_cores_that_are_awaited_one_by_one_need_flags_of_their_own(apart: bool) -> None:
    """Block 2 signals once block 3 has let it, whenever that is; block 0 cannot tell its signal from block 1's."""
    own = 2 if apart else 0
    prog = program(f"""
  csr r8, 0
  bz r8, consumer
  seqi r9, r8, 3
  bnz r9, starter
  li r12, 0
  seqi r9, r8, 1
  bnz r9, first
  await dma2.0, 1, 1
  signal dma2.0, {own}, r12
  halt
first:
  signal dma2.0, 0, r12
  halt
starter:
  li r12, 2
  signal dma2.0, 1, r12
  halt
consumer:
  await dma1.0, 0, 1
  cp %in, %x
  await dma1.0, {own}, 1
  set dma1.0, 0
  wait vector, 0, 1
  v.exp %out, %in
  set vector, 1
  wait dma2.0, 1, 1
  cp %y, %out""", "ascend-910b2", grid=4)
    findings = found(prog, chip())
    assert [f.kind for f in findings] == ([] if apart else ["ambiguous"])


@pytest.mark.parametrize("number", [511, 512, -1])
def test_a_flag_that_a_register_names_must_exist(number: int) -> None:
    """The one behind the last is none of those that cores signal each other."""
    prog = program(f"  li r4, {number}\n  set vector, 0, r4\n  wait dma1.0, 0, r4, 1")
    if number == 511:
        assert found(prog, ascend()) == []
        return
    with pytest.raises(SimulationError, match=rf"flag {number} does not exist; there are 512 \(core.flags\)"):
        check_hazards(prog, ascend())


def test_work_for_another_kind_of_core_is_named() -> None:
    """A kernel that declares spaces of both kinds runs on both: block 0 is a cube core."""
    body = "  csr r9, 2\n  b{} r9, end\n  v.exp %out, %out\nend:"
    findings = found(program(body.format("nz"), "ascend-910b2", "ub=4096 l1=512"), chip())
    assert next(f.kind for f in findings if f.instrs == (2,)) == "core"
    assert "core 0, one of the chip's `cores`, has no VECTOR" in findings[0].message
    assert found(program(body.format("z"), "ascend-910b2", "ub=4096 l1=512"), chip()) == []
