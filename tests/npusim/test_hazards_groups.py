"""Proofs of blocks that signal each other: the same findings as walked, and what a proof must not take on trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hazards_induction import alike
from test_signals import GELU, SMALL, chip, compiled, kernel, mix, of

from isa.asm import assemble
from isa.program import Program
from npusim.hazards import check_hazards, groups
from npusim.hazards.groups import GroupProver, ProvedGroup, both

SYNC = ("set", "wait", "signal", "await")
TRACES = Path(__file__).parents[2] / "traces"


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each launch with signals is proved."""
    found: list[bool] = []
    launch = GroupProver.launch
    monkeypatch.setattr(GroupProver, "launch", lambda *args: found.append(launch(*args)) or found[-1])
    return found


def test_shipped_and_compiled_kernels_are_proved(proved: list[bool], tmp_path: Path) -> None:
    assert alike(mix(), chip(*SMALL)) == []
    assert alike(compiled(tmp_path, GELU, chip(*SMALL[:2])).program, chip(*SMALL[:2])) == []
    assert len(proved) >= 2 and all(proved)


@pytest.mark.parametrize("kept", [0, 100, 1 << 18])
def test_long_launches_are_executed_twice(kept: int, proved: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "KEPT", kept)
    assert check_hazards(mix(), chip(*SMALL)) == [] and proved == [True]


def test_all_groups_share_their_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 groups on 72 cores take the proofs of two groups on six."""
    made: list[int] = []
    follow = ProvedGroup.follow
    monkeypatch.setattr(ProvedGroup, "follow", lambda own, *args: made.append(1) or follow(own, *args))
    assert check_hazards(mix(), chip(*SMALL)) == []
    few = len(made)
    whole = assemble((TRACES / "ascend_mix.asm").read_text(encoding="utf-8"))
    assert check_hazards(whole, chip()) == []
    assert 0 < few == len(made) - few


def test_whatever_is_left_out_is_judged_alike() -> None:
    """Each set, wait, signal and await of the shipped kernel, always."""
    found = [bool(alike(mix(), chip(*SMALL), without=frozenset([pc]))) for pc in of(mix(), *SYNC)]
    assert any(found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_left_out_now_and_then_is_judged_alike(data: Any) -> None:
    sync = of(mix(), *SYNC)
    skip = data.draw(st.frozensets(st.tuples(st.sampled_from(sync), st.integers(0, 5)), min_size=1, max_size=3))
    alike(mix(), chip(*SMALL), skip=skip)


BRANCH = "  csr r1, 0\n  li r3, 0\n  bnz r1, other\n{first}\n  bz r3, done\nother:\n{others}\ndone:"
OPERAND = "  .desc %a space=ub dtype=fp32 ext=[64]\n  .desc %x space=dram dtype=fp32 ext=[64]\n"


def of_blocks(first: str, others: str, grid: int) -> Program:
    """Block 0 does one thing, all others another."""
    return kernel(OPERAND + BRANCH.format(first=first, others=others), "ub=256", grid=grid)


@pytest.mark.parametrize(("counts", "kind"), [((2,), None), ((1, 1), "ambiguous")])
def test_a_wait_for_some_of_several_cores_is_not_proved(
    counts: tuple[int, ...], kind: str | None, proved: list[bool]
) -> None:  # fmt: skip
    """Blocks 1 and 2 signal a flag of block 0: both at once, or one after the other, which may be either."""
    waits = "\n".join(f"  await vector, 0, {count}" for count in counts)
    found = alike(of_blocks(waits, "  signal vector, 0, r3", 3), chip())
    assert {f.kind for f in found} == ({kind} if kind else set())
    assert proved == [kind is None]


@pytest.mark.parametrize("knows", [True, False])
def test_a_flag_that_is_set_before_its_wait_has_passed_is_not_proved(knows: bool, proved: list[bool]) -> None:
    """Vector waits for another core before it takes what MTE2 sets; only with a flag back is MTE2 held."""
    back = "  set vector, 1\n  wait dma1.0, 1, 1\n" if knows else ""
    turn = "  cp %a, %x\n  set dma1.0, 0\n  await vector, 0, 1\n  wait vector, 0, 1\n  v.relu %a, %a\n" + back
    program = of_blocks(turn + turn, "  signal vector, 0, r3\n  signal vector, 0, r3", 2)
    kinds = {f.kind for f in alike(program, chip())}
    assert ("twice" in kinds) == (not knows) and proved == [knows]


@pytest.mark.parametrize(("end", "kinds"), [("  await vector, 0, 1", set()), ("", {"leftover"})])
def test_signals_are_all_taken_at_the_end(end: str, kinds: set[str], proved: list[bool]) -> None:
    assert {f.kind for f in alike(of_blocks(end, "  signal vector, 0, r3", 2), chip())} == kinds
    assert proved == [not kinds]


@pytest.mark.parametrize("seed", range(20))
def test_both_is_exact(seed: int) -> None:
    draw = np.random.default_rng(seed)
    bits = draw.integers(0, 2, (2, 40)).astype(bool)

    def runs(row: Any) -> tuple[Any, Any]:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
        return edges[::2].astype(np.int64), edges[1::2].astype(np.int64)

    starts, ends = both(runs(bits[0]), runs(bits[1]))
    assert [b for s, e in zip(starts, ends) for b in range(s, e)] == np.flatnonzero(bits[0] & bits[1]).tolist()
