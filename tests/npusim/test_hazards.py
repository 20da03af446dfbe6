"""Happens-before: a ping-pong kernel and its mutations, FIFO edges, cores, deadlock, interleaved tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functional_fixture import Asm, machine, no_host

from isa.dtypes import dtype
from isa.program import SPACE_ID, Program
from isa.table import DMA, MATRIX, NEXT_TILE, SCALAR, VECTOR, WEIGHTS
from npusim.functional import execute
from npusim.functional.operand import Operand
from npusim.hazards import Finding, check_hazards, memory
from npusim.hazards.memory import Access, Footprint, Written, meeting
from npusim.hazards.regions import Shapes

TILES, SIZE = 8, 16
LOAD, STORE = DMA, DMA + 1
READY, DONE, FREE, IN_FREE = 0, 2, 4, 6  # flags, + slot


STEP, SLOT, ADDR, COND, LEFT, OFFSET = 1, 2, 3, 4, 5, 6  # registers of pingpong


class Stages:
    """The guarded stages of one step of pingpong."""

    def __init__(self, asm: Asm) -> None:
        self.asm, self.skips = asm, list[int]()

    def select(self, lag: int) -> None:
        """Registers slot, addr and offset of tile step - lag; a step without such a tile skips the stage."""
        asm = self.asm
        asm.put("addi", dst=OFFSET, a=STEP, imm=-lag)
        asm.put("slti", dst=COND, a=OFFSET, imm=0)
        early = asm.put("bnz", a=COND)
        asm.put("slti", dst=COND, a=OFFSET, imm=TILES)
        late = asm.put("bz", a=COND)
        asm.put("modi", dst=SLOT, a=OFFSET, imm=2)
        asm.put("muli", dst=ADDR, a=SLOT, imm=SIZE * 4)
        asm.put("muli", dst=OFFSET, a=OFFSET, imm=SIZE * 4)
        self.skips.extend((early, late))

    def close(self) -> None:
        """The end of the stage: where skipped ones go on."""
        while self.skips:
            self.asm.instrs[self.skips.pop()]["imm"] = len(self.asm.instrs)


def pingpong(redundant: bool = False, drop: tuple[int, ...] = ()) -> tuple[Program, dict[str, int]]:
    """y = x + 1 over TILES tiles with two slots in and out, stages skewed so that all three pipes are busy.

    Step s stores tile s-2, computes s-1 and loads s. The wait for DONE also frees the slot that the load fills, so the
    `in free` flag of the classic form is redundant here: waits block the sequencer, not one queue.
    Returns the program and the index of each loop wait. Instructions in `drop` become nop.
    """
    asm = Asm()
    x = asm.tensor("x", (TILES, SIZE), "fp32", "input")
    y = asm.tensor("y", (TILES, SIZE), "fp32", "output")
    stages = Stages(asm)
    wait: dict[str, int] = {}
    ins = asm.d("spm", "fp32", (SIZE,), 0, base_reg=ADDR)
    outs = asm.d("spm", "fp32", (SIZE,), 1024, base_reg=ADDR)
    for p in (0, 1):
        asm.put("set", dst=SCALAR, imm=FREE + p)
        if redundant:
            asm.put("set", dst=SCALAR, imm=IN_FREE + p)
    asm.put("li", dst=LEFT, imm=TILES + 2)
    loop = asm.put("loop", a=LEFT)
    stages.select(2)
    wait["done"] = asm.put("wait", imm=DONE, a=SLOT)
    asm.op("cp", asm.d("dram", "fp32", (SIZE,), y, base_reg=OFFSET), outs)
    asm.put("set", dst=STORE, imm=FREE, a=SLOT)
    stages.close()
    stages.select(1)
    wait["ready"] = asm.put("wait", imm=READY, a=SLOT)
    wait["free"] = asm.put("wait", imm=FREE, a=SLOT)
    asm.op("v.adds", outs, ins, f0=1.0)
    asm.put("set", dst=VECTOR, imm=DONE, a=SLOT)
    if redundant:
        asm.put("set", dst=VECTOR, imm=IN_FREE, a=SLOT)
    stages.close()
    stages.select(0)
    if redundant:
        wait["in_free"] = asm.put("wait", imm=IN_FREE, a=SLOT)
    asm.op("cp", ins, asm.d("dram", "fp32", (SIZE,), x, base_reg=OFFSET))
    asm.put("set", dst=LOAD, imm=READY, a=SLOT)
    stages.close()
    asm.put("addi", dst=STEP, a=STEP, imm=1)
    asm.put("endl")
    asm.instrs[loop]["imm"] = len(asm.instrs)
    for p in (0, 1):
        wait[f"end{p}"] = asm.put("wait", imm=FREE + p)
        if redundant:
            asm.put("wait", imm=IN_FREE + p)
    program = asm.program()
    for pc in drop:
        program.instrs[pc]["op"] = 0
    return program, wait


def kinds(findings: list[Finding]) -> set[str]:
    return {f.kind for f in findings}


@pytest.mark.parametrize("redundant", [False, True])
def test_clean_kernel(redundant: bool) -> None:
    program, _ = pingpong(redundant)
    assert check_hazards(program, machine()) == []
    x = np.random.default_rng(0).standard_normal((TILES, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(execute(program, machine(), {"x": x}, no_host).tensors["y"], x + np.float32(1))


@pytest.mark.parametrize("name", ["done", "ready", "free"])
def test_each_static_wait_is_needed(name: str) -> None:
    _, wait = pingpong()
    program, _ = pingpong(drop=(wait[name],))
    findings = check_hazards(program, machine())
    expected = {"done": {"RAW", "WAR"}, "ready": {"RAW"}, "free": {"WAR"}}[name]
    assert expected <= kinds(findings), [f.message for f in findings]


@pytest.mark.parametrize("name", ["done", "ready", "free"])
@pytest.mark.parametrize("occurrence", range(TILES))
def test_each_dynamic_wait_is_needed(name: str, occurrence: int) -> None:
    program, wait = pingpong()
    findings = check_hazards(program, machine(), skip=frozenset({(wait[name], occurrence)}))
    assert kinds(findings) & {"RAW", "WAR"}, [f.message for f in findings]


def test_redundant_wait_is_no_race() -> None:
    """The other side: leaving out what another wait already proves leaves a flag over, and orders everything."""
    _, wait = pingpong(redundant=True)
    program, _ = pingpong(redundant=True, drop=(wait["in_free"],))
    assert kinds(check_hazards(program, machine())) == {"leftover"}


def test_final_waits_only_drain_flags() -> None:
    program, wait = pingpong()
    assert kinds(check_hazards(program, machine(), skip=frozenset({(wait["end0"], 0)}))) == {"leftover"}


def test_message_names_everything() -> None:
    _, wait = pingpong()
    program, _ = pingpong(drop=(wait["ready"],))
    first = check_hazards(program, machine())[0]
    assert first.kind == "RAW"
    place = ("launch 0", "kernel k", "`cp %d0, %d3`", "`v.adds %d1, %d0, 1.0, 0.0`")
    for part in (*place, "bytes [0, 64) of spm", "VPU", "LOAD0"):
        assert part in first.message


def test_interlocked_machine_needs_no_flags() -> None:
    _, wait = pingpong()
    dropped = tuple(wait[n] for n in ("done", "ready", "free"))
    program, _ = pingpong(drop=dropped)
    assert kinds(check_hazards(program, machine(issue="inorder"))) == {"leftover"}


def simple(build: Any, **more: Any) -> list[Finding]:
    asm = Asm()
    build(asm)
    return check_hazards(asm.program(cores=more.get("cores", 1)), machine(**more))


def test_reversed_set_and_wait_deadlock() -> None:
    def build(asm: Asm) -> None:
        asm.put("wait", imm=3)
        asm.put("set", dst=VECTOR, imm=3)

    (finding,) = simple(build)
    assert finding.kind == "deadlock"
    assert "flag 3 is 0, 1 needed" in finding.message
    assert "it can be set by 1 `set" in finding.message


@pytest.mark.parametrize(("sets", "count", "kind"), [(2, 2, None), (2, 3, "deadlock"), (2, 1, "leftover")])
def test_counting(sets: int, count: int, kind: str | None) -> None:
    def build(asm: Asm) -> None:
        for _ in range(sets):
            asm.put("set", dst=VECTOR, imm=1)
        asm.put("wait", imm=1, b=count)

    assert [f.kind for f in simple(build)] == ([kind] if kind else [])


@pytest.mark.parametrize("first", [LOAD, SCALAR])
def test_sets_from_two_pipes(first: int) -> None:
    """A set by the sequencer comes first for certain; one by another pipe does not."""

    def build(asm: Asm) -> None:
        asm.put("set", dst=first, imm=1)
        asm.put("set", dst=VECTOR, imm=1)
        asm.put("wait", imm=1)
        asm.put("wait", imm=1)

    assert [f.kind for f in simple(build)] == (["ambiguous"] if first == LOAD else [])


def load_then_use(asm: Asm, between: Any, unit: int = 0) -> None:
    a = asm.tensor("a", (4,), "fp32", "input")
    spm = asm.d("spm", "fp32", (4,))
    asm.op("cp", spm, asm.d("dram", "fp32", (4,), a), unit=unit)
    between(asm)
    asm.op("v.neg", asm.d("spm", "fp32", (4,), 64), spm)


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        (lambda asm: None, "RAW"),
        (lambda asm: asm.put("fence"), None),
        (lambda asm: asm.put("barrier"), None),
        (lambda asm: (asm.put("set", dst=LOAD), asm.put("wait")), None),
        (lambda asm: (asm.put("set", dst=LOAD, unit=1), asm.put("wait")), "RAW"),
    ],
)
def test_edges(between: Any, kind: str | None) -> None:
    assert [f.kind for f in simple(lambda asm: load_then_use(asm, between))] == ([kind] if kind else [])


@pytest.mark.parametrize(("name", "kind"), [("cp", "WAW"), ("v.copy", None)])
def test_serial_and_overlapping_pipes(name: str, kind: str | None) -> None:
    """The vector unit completes in order, a DMA engine does not."""

    def build(asm: Asm) -> None:
        source = asm.d("spm", "fp32", (4,), 256)
        asm.op("v.copy", source, asm.d("dram", "fp32", (4,), asm.tensor("a", (4,), "fp32", "input")))
        asm.put("fence")
        for _ in range(2):
            asm.op(name, asm.d("spm", "fp32", (4,), 0), source)

    assert [f.kind for f in simple(build)] == ([kind] if kind else [])


@pytest.mark.parametrize(("offset", "kind"), [(32, None), (28, "WAW"), (0, "WAW")])
def test_interleaved_columns(offset: int, kind: str | None) -> None:
    """Column blocks of one matrix overlap as boxes, not as bytes."""

    def build(asm: Asm) -> None:
        a = asm.tensor("a", (8, 8), "fp32", "input")
        for base in (0, offset):
            asm.op("cp", asm.d("spm", "fp32", (8, 8), base, (64, 4)), asm.d("dram", "fp32", (8, 8), a))

    assert [f.kind for f in simple(build)] == ([kind] if kind else [])


@pytest.mark.parametrize("seed", range(30))
def test_overlap_is_exact(seed: int) -> None:
    """Against sets of bytes, for random strided operands."""
    rng = np.random.default_rng(seed)
    shapes, made = Shapes(), []
    for _ in range(2):
        n = int(rng.integers(0, 4))
        ext = tuple(int(v) for v in rng.integers(1, 4, n))
        stride = tuple(int(v) for v in rng.integers(-12, 25, n))
        operand = Operand(0, SPACE_ID["spm"], 1, 0, int(rng.integers(100, 130)), ext, stride, ())
        index = [sum(i * s for i, s in zip(at, stride)) for at in np.ndindex(*ext)]
        made.append((operand, {operand.base + i + b for i in index for b in (0, 1)}))
    (a, a_bytes), (b, b_bytes) = made
    found = shapes.overlap(shapes.of(a), a.base, shapes.of(b), b.base)
    assert (found is not None) == bool(a_bytes & b_bytes)
    if found:
        assert set(range(*found)) <= a_bytes & b_bytes


def weights(asm: Asm, pops: int, tail: Any = None) -> None:
    """Two tiles pushed from a scratchpad that is then overwritten."""
    a = asm.tensor("a", (4, 4), "fp32", "input")
    spm, source = asm.d("spm", "fp32", (4, 4), rows=1), asm.d("dram", "fp32", (4, 4), a, rows=1)
    asm.op("cp", spm, source)
    asm.put("fence")
    asm.put("ldw", a=spm)
    out = asm.d("acc", "fp32", (4, 4), rows=1)
    for _ in range(pops):
        asm.op("mm", out, spm, flags=NEXT_TILE)
    if tail:
        tail(asm, spm, source)


def reload(asm: Asm, spm: int, source: int) -> None:
    """Overwrite what ldw read, knowing only that mm has completed."""
    asm.put("set", dst=MATRIX)
    asm.put("wait")
    asm.op("cp", spm, source)


@pytest.mark.parametrize(
    ("pops", "tail", "kind"),
    [
        (1, reload, None),
        (0, lambda asm, spm, source: asm.op("cp", spm, source), "WAR"),
        (0, None, "leftover"),
        (2, None, "deadlock"),
    ],
)
def test_weight_fifo(pops: int, tail: Any, kind: str | None) -> None:
    """An mm that pops a tile knows that its ldw has completed."""
    found = simple(lambda asm: weights(asm, pops, tail))
    assert (kind in kinds(found)) if kind else not found


@pytest.mark.parametrize(("tiles", "kind"), [(11, None), (12, "deadlock")])
def test_full_weight_fifo(tiles: int, kind: str | None) -> None:
    """2 tiles in the FIFO, 1 waiting for room, 8 in the queue: one more ldw before the first mm stops the core."""

    def build(asm: Asm) -> None:
        weight = asm.d("dram", "fp32", (4, 4), asm.tensor("a", (4, 4), "fp32", "input"), rows=1)
        for _ in range(tiles):
            asm.put("ldw", a=weight)
        for _ in range(tiles):
            asm.op("mm", asm.d("acc", "fp32", (4, 4), rows=1), weight, flags=NEXT_TILE)

    assert [f.kind for f in simple(build)] == ([kind] if kind else [])


@pytest.mark.parametrize(("rows", "kinds_found"), [(4, {"leftover"}), (0, set())])
def test_empty_ldw_pushes_nothing(rows: int, kinds_found: set[str]) -> None:
    def build(asm: Asm) -> None:
        base = asm.tensor("a", (4, 4), "fp32", "input")
        asm.put("li", dst=1, imm=rows)
        asm.put("ldw", a=asm.d("dram", "fp32", (4, 4), base, rows=1, ext_reg=(1,)))

    assert kinds(simple(build)) == kinds_found


@pytest.mark.parametrize(("extent", "kind"), [(8, None), (9, "uninitialised")])
def test_neighbouring_inputs_are_one_range(extent: int, kind: str | None) -> None:
    """An operand may span two inputs that lie side by side."""

    def build(asm: Asm) -> None:
        base = asm.tensor("a", (16,), "fp32", "input")
        asm.tensor("b", (4,), "fp32", "weight")
        asm.tensor("c", (4,), "fp32", "temp")
        source = asm.d("dram", "fp32", (extent,), base + 48)
        asm.op("cp", asm.d("spm", "fp32", (extent,)), source)

    assert [f.kind for f in simple(build)] == ([kind] if kind else [])


@pytest.mark.parametrize(("tiles", "kind"), [(2, None), (3, "deadlock")])
def test_set_behind_a_blocked_ldw(tiles: int, kind: str | None) -> None:
    def build(asm: Asm) -> None:
        weight = asm.d("dram", "fp32", (4, 4), asm.tensor("a", (4, 4), "fp32", "input"), rows=1)
        for _ in range(tiles):
            asm.put("ldw", a=weight)
        asm.put("set", dst=WEIGHTS)
        asm.put("wait")
        for _ in range(tiles):
            asm.op("mm", asm.d("acc", "fp32", (4, 4), rows=1), weight, flags=NEXT_TILE)

    assert [f.kind for f in simple(build)] == ([kind] if kind else [])


@pytest.mark.parametrize(("stride", "kind"), [(16, None), (0, "WAW"), (12, "WAW")])
def test_cores_share_dram(stride: int, kind: str | None) -> None:
    def build(asm: Asm) -> None:
        a, d = asm.tensor("a", (4,), "fp32", "input"), asm.tensor("d", (8,), "fp32", "output")
        asm.put("csr", dst=1)
        asm.put("muli", dst=1, a=1, imm=stride)
        asm.op("cp", asm.d("dram", "fp32", (4,), d, base_reg=1), asm.d("dram", "fp32", (4,), a))

    assert [f.kind for f in simple(build, cores=2)] == ([kind] if kind else [])


@pytest.mark.parametrize(("barrier", "expected"), [(True, set()), (False, {"RAW", "uninitialised"})])
def test_barrier_orders_cores(barrier: bool, expected: set[str]) -> None:
    """Core c writes part c and then reads part 1 - c."""

    def build(asm: Asm) -> None:
        a, d = asm.tensor("a", (4,), "fp32", "input"), asm.tensor("d", (8,), "fp32", "temp")
        asm.put("csr", dst=1)
        asm.put("muli", dst=1, a=1, imm=16)
        asm.put("rsubi", dst=2, a=1, imm=16)
        asm.op("cp", asm.d("dram", "fp32", (4,), d, base_reg=1), asm.d("dram", "fp32", (4,), a))
        if barrier:
            asm.put("barrier")
        asm.op("cp", asm.d("spm", "fp32", (4,)), asm.d("dram", "fp32", (4,), d, base_reg=2))

    assert kinds(simple(build, cores=2)) - {"WAR"} == expected


def test_barrier_that_one_core_skips() -> None:
    def build(asm: Asm) -> None:
        asm.put("csr", dst=1)
        asm.put("bz", a=1, imm=3)
        asm.put("barrier")

    (finding,) = simple(build, cores=2)
    assert (finding.kind, finding.core) == ("deadlock", 1)
    assert "core 0 never reaches" in finding.message


@pytest.mark.parametrize(("base", "kind"), [(65520, None), (65521, "bounds"), (-1, "bounds")])
def test_bounds(base: int, kind: str | None) -> None:
    def build(asm: Asm) -> None:
        a = asm.tensor("a", (4,), "fp32", "input")
        asm.op("cp", asm.d("spm", "fp32", (4,), base), asm.d("dram", "fp32", (4,), a))

    assert [f.kind for f in simple(build)] == ([kind] if kind else [])


@pytest.mark.parametrize(("extent", "kind"), [(4, None), (5, "uninitialised")])
@pytest.mark.parametrize("issue", ["vliw", "inorder"])
def test_uninitialised(extent: int, kind: str | None, issue: str) -> None:
    """One element more than was loaded; scratchpad contents do not survive a launch."""

    def build(asm: Asm) -> None:
        a = asm.tensor("a", (4,), "fp32", "input")
        asm.op("cp", asm.d("spm", "fp32", (4,)), asm.d("dram", "fp32", (4,), a))
        asm.put("fence")
        asm.op("v.neg", asm.d("spm", "fp32", (extent,), 128), asm.d("spm", "fp32", (extent,)))

    assert [f.kind for f in simple(build, issue=issue)] == ([kind] if kind else [])


def test_window_reads_no_border() -> None:
    """Elements outside of the window are not accesses: neither out of bounds nor unwritten."""

    def build(asm: Asm) -> None:
        a = asm.tensor("a", (4,), "fp32", "input")
        window = asm.d("dram", "fp32", (6,), a, (0,), axis=(0,), coef=(1,), origin=(-1,), limit=(4,), axis_stride=(4,))
        asm.op("cp", asm.d("spm", "fp32", (6,)), window)

    assert simple(build) == []


def test_max_findings() -> None:
    _, wait = pingpong()
    program, _ = pingpong(drop=tuple(wait[n] for n in ("done", "ready", "free")))
    everything = check_hazards(program, machine())
    assert len(everything) > 2
    assert check_hazards(program, machine(), max_findings=2) == everything[:2]


def scattered(seed: int, groups: list[int]) -> list[Footprint]:
    """Footprints of some accesses to DRAM and host memory, a few bytes each."""
    draw, shapes = np.random.default_rng(seed), Shapes()
    found = []
    for _ in groups:
        footprint = Footprint(shapes)
        for _ in range(int(draw.integers(0, 4))):
            space = SPACE_ID[("dram", "host")[int(draw.integers(2))]]
            ext, gap, base = int(draw.integers(1, 4)), int(draw.integers(1, 5)), int(draw.integers(0, 150))
            operand = Operand(0, space, dtype("int8").code, 0, 0, (ext,), (gap,), ())
            write = bool(draw.integers(3) == 0)
            footprint.add(Access(space, shapes.of(operand), base, write, 0, 0, 0))
        found.append(footprint)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_who_meets_in_memory_is_found_without_comparing_all_with_all(seed: int) -> None:
    """The same pairs as by comparing each with each other, of cores alone and of groups."""
    draw = np.random.default_rng(1000 + seed)
    groups = [int(g) for g in draw.integers(0, 6, 9)] if seed % 2 else list(range(9))
    found = scattered(seed, groups)
    pairs = [
        (i, j) for i in range(9) for j in range(i + 1, 9)
        if groups[i] != groups[j] and found[i].clash(found[j]) is not None
    ]  # fmt: skip
    assert meeting(found, groups) == pairs


def test_some_of_the_samples_meet_and_some_do_not() -> None:
    met = [bool(meeting(scattered(seed, list(range(9))), list(range(9)))) for seed in range(0, 60, 2)]
    assert any(met) and not all(met)


@pytest.mark.parametrize(("stride", "kind"), [(64, None), (0, "WAW")])
def test_many_blocks_are_compared_as_often_as_they_meet(
    stride: int, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """300 blocks that write what is theirs, or all the same: not each with each, and nothing on chip is kept."""
    compared: list[int] = []
    clash = Footprint.clash
    monkeypatch.setattr(Footprint, "clash", lambda own, other: compared.append(1) or clash(own, other))
    monkeypatch.setattr(memory, "MAX_PAIRS", 100)
    kept: list[int] = []
    leave = Written.leave
    monkeypatch.setattr(Written, "leave", lambda own, *a: (leave(own, *a), kept.append(len(own._maps)))[0])
    asm = Asm()
    x, y = asm.tensor("x", (8,), "fp32", "input"), asm.tensor("y", (16 * 300,), "fp32", "output")
    asm.put("csr", dst=1)
    asm.put("muli", dst=1, a=1, imm=stride)
    asm.op("cp", asm.d("spm", "fp32", (8,)), asm.d("dram", "fp32", (8,), x))
    asm.put("set", dst=LOAD, imm=0)
    asm.put("wait", imm=0, b=1)
    asm.op("cp", asm.d("dram", "fp32", (8,), y, base_reg=1), asm.d("spm", "fp32", (8,)))
    found = check_hazards(asm.program(cores=300), machine(cores=2), induction=False)
    assert kinds(found) == ({kind} if kind else set())
    assert len(compared) == (100 if kind else 0)
    assert len(kept) == 300 and max(kept) <= 1
