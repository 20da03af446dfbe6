"""Where lanes meet again: kernels by hand, and random graphs against the definition."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa import assemble
from isa.flow import loop_bodies, meeting_points, ways
from isa.program import Program
from isa.simt_operands import guard_bits
from isa.table import code


def kernel(body: str, before: str = "") -> Program:
    return assemble(f"{before}.kernel k(n)\n{body}\n.end")


def meets(program: Program, number: int = -1) -> dict[int, int]:
    return meeting_points(program, program.kernels[number])


@pytest.mark.parametrize(
    ("body", "points"),
    [
        ("@p0 bra L\nnop\nL: exit", {0: 2}),  # if
        ("@p0 bra L\nnop\nbra E\nL: nop\nE: exit", {0: 4}),  # if and else
        ("@p0 bra L\n@p1 bra M\nnop\nM: nop\nL: exit", {0: 4, 1: 3}),  # nested
        ("@p0 bra L\n@p1 bra L\nnop\nL: exit", {0: 3, 1: 3}),  # nested, one meeting point
        ("T: @p0 bra E\nnop\n@p1 bra E\nbra T\nE: exit", {0: 4, 2: 4}),  # while with a break
        ("T: nop\n@p0 bra T\nexit", {1: 2}),  # do while
        ("T: nop\n@p0 bra C\nnop\nC: @p1 bra T\nexit", {1: 3, 3: 4}),  # continue
        ("@p0 bra L\nexit\nL: exit", {0: 3}),  # two exits: never
        ("@p0 bra L\nexit\nL: nop\nhalt", {0: 4}),
        ("@p0 bra L\n@p1 exit\nL: nop\nexit", {0: 2}),  # lanes that end meet nobody
        ("L: @p0 bra L\nexit", {0: 1}),  # a branch to itself
        ("L: @p0 bra M\nM: bra L", {0: 2}),  # no end at all
        ("@p0 bra S\nnop\nexit\nS: bra S", {0: 1}),  # a way that never ends is none
        ("@p0 bra L\nbz r0, L\nnop\nL: exit", {0: 3}),
        ("@p0 bra L\nbnz r0, M\nnop\nL: nop\nM: exit", {0: 4}),
        ("loop n, E\n@p0 bra L\nnop\nL: endl\nE: exit", {1: 3}),  # inside a loop
        ("@p0 bra L\nloop n, E\nnop\nendl\nE: nop\nL: exit", {0: 5}),  # around one
        ("bra L\nnop\nL: exit", {}),  # without a guard nobody parts
        ("@p0 bra L\nnop\nL: nop", {0: 2}),  # falls off the end
        ("@p0 bra @99\nexit", {0: 2}),
    ],
)
def test_meeting_points(body: str, points: dict[int, int]) -> None:
    assert meets(kernel(body)) == points


def test_addresses_are_those_of_the_program() -> None:
    assert meets(kernel("@p0 bra L\nnop\nL: exit", ".kernel a\nexit\nexit\n.end\n")) == {2: 4}


def test_a_loop_of_no_rounds_leads_past_its_endl() -> None:
    program = kernel("loop n, E\nnop\nendl\nE: exit")
    assert ways(program, program.kernels[0]) == [(1, 3), (2,), (3, 1), (4,)]


def test_a_long_kernel_needs_no_recursion() -> None:
    body = "\n".join(f"@p0 bra L{i}\nnop\nL{i}:" for i in range(5000))
    points = meets(kernel(body + "\nexit"))
    assert points == {2 * i: 2 * i + 2 for i in range(5000)}


def by_definition(leads: list[tuple[int, ...]], node: int) -> int:
    """The nearest of the nodes without which no way leads from here to the end."""
    end = len(leads)

    def reaches(start: int, without: int) -> bool:
        seen, stack = {without}, [start]
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            if at == end:
                return True
            seen.add(at)
            stack += leads[at]
        return False

    if not reaches(node, -1):
        return end
    after = [m for m in range(end) if m != node and not reaches(node, m)] + [end]
    # All others follow the nearest: no way from it to the end leaves one out.
    return next(m for m in after if all(other in (m, end) or not reaches(m, other) for other in after))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_against_the_definition(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 9))
    program = kernel("\n".join(["nop"] * size))
    for i in range(size):
        name = data.draw(st.sampled_from(["nop", "bra", "bra", "@bra", "@bra", "bz", "br", "exit", "@exit"]))
        program.instrs["op"][i] = code(name.lstrip("@"))
        program.instrs["imm"][i] = data.draw(st.integers(0, size - 1))
        program.instrs["flags"][i] = guard_bits(0, data.draw(st.booleans())) if name[0] == "@" else 0
    leads = ways(program, program.kernels[0])
    points = meets(program)
    guarded = [i for i in range(size) if program.instrs["op"][i] == code("bra") and program.instrs["flags"][i]]
    assert points == {i: by_definition(leads, i) for i in guarded}


def test_bodies() -> None:
    program = kernel("loop n, E\nnop\nloop n, F\nendl\nF: endl\nE: exit")
    body, faults = loop_bodies(program, program.kernels[0], 2)
    assert (body.tolist(), faults) == ([-1, 0, 0, 2, 0, -1], [])
    assert loop_bodies(program, program.kernels[0], 1)[1] == [(2, "loops nest deeper than 1")]
