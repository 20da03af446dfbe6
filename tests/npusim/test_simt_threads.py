"""Programs of threads on values: divergence against threads alone, barriers, atomics, products, and what is refused."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from simt_fixture import IMM, Threads, machine, own_offset, scalar
from thread_twin import run_alone

from isa.program import Program
from npusim.functional import simt
from npusim.functional.simt import run_threads

pytestmark = pytest.mark.kernels
Array = Any

# Random structured kernels

REGISTERS = 8  # v0 .. v5 compute, v6 offset of the thread, v7 scratch
VALUES = st.integers(0, 5)
SOURCE = st.one_of(VALUES, VALUES, st.just(IMM), st.just(scalar(1)))
NUMBER = st.one_of(st.integers(-8, 40), st.integers(-(2**31), 2**31 - 1))
BINARY = st.sampled_from(["iadd", "isub", "imul", "imin", "imax", "iand", "ixor", "ishl", "isar"])
GUARD = st.one_of(st.none(), st.none(), st.integers(-3, 2))
COMPARISON = st.sampled_from(["isetp.lt", "isetp.ge", "isetp.eq", "usetp.lt", "fsetp.lt", "fsetp.ne"])

INTEGER_WORK = st.tuples(BINARY, GUARD, st.fixed_dictionaries({"dst": VALUES, "a": VALUES, "b": SOURCE, "imm": NUMBER}))
MAD = st.tuples(st.just("imad"), GUARD, st.fixed_dictionaries({"dst": VALUES, "a": VALUES, "b": VALUES, "c": VALUES}))
FLOAT_WORK = st.tuples(st.sampled_from(["fadd", "fmul"]), GUARD, st.fixed_dictionaries(
    {"dst": VALUES, "a": VALUES, "b": st.one_of(VALUES, st.just(IMM)), "f0": st.floats(-4, 4, width=32)}))  # fmt: skip
FMA = st.tuples(st.just("ffma"), GUARD, st.fixed_dictionaries({"dst": VALUES, "a": VALUES, "b": VALUES, "c": VALUES}))
CONVERT = st.tuples(st.sampled_from(["i2f", "vmov"]), GUARD, st.fixed_dictionaries({"dst": VALUES, "a": VALUES}))
CHOOSE = st.tuples(st.just("sel"), GUARD, st.fixed_dictionaries(
    {"dst": VALUES, "a": VALUES, "b": VALUES, "c": st.integers(0, 2)}))  # fmt: skip
TEST = st.tuples(COMPARISON, GUARD, st.fixed_dictionaries(
    {"dst": st.integers(0, 2), "a": VALUES, "b": SOURCE, "imm": NUMBER, "f0": st.floats(-4, 4, width=32)}))  # fmt: skip
SIMPLE = st.one_of(INTEGER_WORK, MAD, FLOAT_WORK, FMA, CONVERT, CHOOSE, TEST)
CONDITION = st.tuples(st.just("isetp.lt"), st.none(), st.fixed_dictionaries(
    {"dst": st.integers(0, 2), "a": VALUES, "b": SOURCE, "imm": NUMBER}))  # fmt: skip


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    body = st.lists(inner, min_size=1, max_size=4)
    return st.one_of(
        st.tuples(st.just("if"), CONDITION, body, st.one_of(st.just([]), body)),
        st.tuples(st.just("while"), VALUES, body),
        st.tuples(st.just("loop"), st.integers(0, 3), body),
        st.tuples(st.just("exit"), CONDITION),
    )


STATEMENT = st.recursive(SIMPLE, lambda inner: st.one_of(inner, nested(inner)), max_leaves=14)


class Writer:
    """Statements as instructions. Loop counters of threads and of warps are registers of their own."""

    def __init__(self) -> None:
        self.threads = Threads(32)
        self.counters = 8  # lane registers of `while` from here on
        self.rounds = 2  # scalar registers of `loop`

    def statements(self, body: list[Any], depth: int = 0) -> None:
        for statement in body:
            getattr(self, {"if": "choice", "while": "lanes_loop", "loop": "warp_loop", "exit": "end"}.get(
                statement[0], "simple"))(statement, depth)  # fmt: skip

    def simple(self, statement: Any, depth: int) -> None:
        name, guard, fields = statement
        self.threads.put(name, guard, **fields)

    def choice(self, statement: Any, depth: int) -> None:
        """Lanes part at a condition on values of their own."""
        _, test, then, other = statement
        self.simple(test, depth)
        skip = self.threads.put("bra", ~test[2]["dst"])
        self.statements(then, depth + 1)
        if other:
            over = self.threads.put("bra")
            self.threads.aim(skip)
            self.statements(other, depth + 1)
            self.threads.aim(over)
        else:
            self.threads.aim(skip)

    def lanes_loop(self, statement: Any, depth: int) -> None:
        """Each lane goes round as often as two bits of a register say, plus one."""
        _, count, body = statement
        counter, self.counters = self.counters, min(self.counters + 1, 30)
        if counter == 30:
            return
        self.threads.put("iand", dst=counter, a=count, b=IMM, imm=3)
        first = self.threads.here
        self.statements(body, depth + 1)
        self.threads.put("iadd", dst=counter, a=counter, b=IMM, imm=-1)
        self.threads.put("isetp.ge", dst=3, a=counter, b=IMM, imm=0)
        self.threads.put("bra", 3, imm=first)

    def warp_loop(self, statement: Any, depth: int) -> None:
        _, count, body = statement
        register, self.rounds = self.rounds, min(self.rounds + 1, 60)
        if depth > 6:
            return
        self.threads.put("li", dst=register, imm=count)
        start = self.threads.put("loop", a=register)
        # A scalar loop must not be left by some of its lanes: exits are left out.
        self.statements([s for s in body if not ends(s)], depth + 1)
        self.threads.put("endl")
        self.threads.aim(start)

    def end(self, statement: Any, depth: int) -> None:
        self.simple(statement[1], depth)
        self.store(statement[1][2]["dst"])
        self.threads.put("exit", statement[1][2]["dst"])

    def store(self, guard: int | None = None) -> None:
        for i in range(6):
            self.threads.put("stg.32", guard, a=0, b=6, imm=4 * i, c=i)


def ends(statement: Any) -> bool:
    """True when a statement holds an exit."""
    if statement[0] == "exit":
        return True
    return any(ends(s) for part in statement if isinstance(part, list) for s in part)


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Program, Array]:
    """A kernel of 40 threads (a warp and a part of one) that loads, computes and stores; and its memory."""
    writer, threads = Writer(), 40
    put = writer.threads.put
    put("vid", dst=7, imm=1)
    put("imul", dst=6, a=7, b=IMM, imm=32)
    for i in range(3):
        put("ldg.32", dst=i, a=0, b=6, imm=4 * i)
    put("vmov", dst=3, a=7)
    writer.statements(draw(st.lists(STATEMENT, min_size=2, max_size=6)))
    writer.store()
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    memory = rng.integers(-3, 9, 8 * threads, np.int32)
    wild = rng.random(8 * threads) < 0.2
    memory[wild] = rng.integers(-(2**31), 2**31, int(wild.sum()), np.int32)
    return writer.threads.program((0, 5), block=threads), memory.view(np.uint8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(kernels())
def test_warps_do_what_threads_alone_do(case: tuple[Program, Array]) -> None:
    program, memory = case
    alone, together = memory.copy(), memory.copy()
    with np.errstate(all="ignore"):
        run_alone(program, alone)
    run_threads(program, machine(), together)
    np.testing.assert_array_equal(together.view(np.uint32).reshape(-1, 8), alone.view(np.uint32).reshape(-1, 8))


# Kernels written by hand


def reals(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("lanes", [32, 64])
def test_vector_add(lanes: int) -> None:
    t, count = Threads(8), 300
    own_offset(t, 100)
    t.put("ldg.32", dst=1, a=0, b=0)
    t.put("ldg.32", dst=2, a=1, b=0)
    t.put("fadd", dst=3, a=1, b=2)
    t.put("stg.32", a=2, b=0, c=3)
    x, y = reals(count), reals(count, 1)
    memory = np.concatenate([x, y, np.zeros(count + 4, np.float32)]).view(np.uint8)
    run_threads(t.program((0, 4 * count, 8 * count), grid=3, block=100), machine(lanes), memory)
    result = memory.view(np.float32)[2 * count :]
    np.testing.assert_array_equal(result, np.append(x + y, [0] * 4), "lanes beyond the block's threads do nothing")


def test_reduction_in_shared_memory() -> None:
    """Halving: each round adds the upper half of the threads to the lower one, with a barrier between."""
    block, t = 128, Threads(8, smem=512)
    own_offset(t, block)
    t.put("vid", dst=1, imm=1)
    t.put("ishl", dst=2, a=1, b=IMM, imm=2)
    t.put("ldg.32", dst=3, a=0, b=0)
    t.put("sts.32", b=2, c=3)
    width = block // 2
    while width:
        t.put("bar", imm=0)
        t.put("usetp.ge", dst=0, a=1, b=IMM, imm=width)
        skip = t.put("bra", 0)
        t.put("lds.32", dst=4, b=2, imm=4 * width)
        t.put("lds.32", dst=3, b=2)
        t.put("iadd", dst=3, a=3, b=4)
        t.put("sts.32", b=2, c=3)
        t.aim(skip)
        width //= 2
    t.put("usetp.ge", dst=0, a=1, b=IMM, imm=1)
    t.put("exit", 0)
    t.put("csr", dst=2, imm=0)
    t.put("muli", dst=2, a=2, imm=4)
    t.put("add", dst=1, a=1, b=2)
    t.put("stg.32", a=1, c=3)
    values = np.random.default_rng(0).integers(-1000, 1000, 3 * block, np.int32)
    memory = np.append(values, np.zeros(3, np.int32)).view(np.uint8)
    run_threads(t.program((0, 12 * block), grid=3, block=block), machine(), memory)
    np.testing.assert_array_equal(memory.view(np.int32)[3 * block :], values.reshape(3, block).sum(axis=1))


@pytest.mark.parametrize("shared", [False, True])
def test_histogram(shared: bool) -> None:
    block, bins, t = 96, 8, Threads(8, smem=64)
    own_offset(t, block)
    t.put("ldg.32", dst=1, a=0, b=0)
    t.put("iand", dst=1, a=1, b=IMM, imm=bins - 1)
    t.put("ishl", dst=1, a=1, b=IMM, imm=2)
    if shared:
        t.put("atoms.add", b=1, c=IMM, f0=1)
        t.put("bar", imm=1)
        t.put("vid", dst=2, imm=1)
        t.put("usetp.ge", dst=0, a=2, b=IMM, imm=bins)
        t.put("exit", 0)
        t.put("ishl", dst=2, a=2, b=IMM, imm=2)
        t.put("lds.32", dst=3, b=2)
        t.put("atomg.add", a=1, b=2, c=3)
    else:
        t.put("atomg.add", a=1, b=1, c=IMM, f0=1)
    values = np.random.default_rng(1).integers(0, 1 << 30, 2 * block, np.int32)
    memory = np.append(values, np.zeros(bins, np.int32)).view(np.uint8)
    run_threads(t.program((0, 8 * block), grid=2, block=block), machine(), memory)
    np.testing.assert_array_equal(memory.view(np.int32)[2 * block :], np.bincount(values % bins, minlength=bins))


def test_product_of_matrices_through_shared_memory() -> None:
    """C = A B of 16 x 16 and 16 x 8 halves: cpa, ldsm (B transposed) and mma, as on a GPU."""
    t = Threads(24, smem=1024)
    t.put("vid", dst=0, imm=0)
    t.put("ishl", dst=1, a=0, b=IMM, imm=4)
    t.put("cpa.128", c=1, a=0, b=1)  # A: 512 bytes
    t.put("usetp.ge", dst=0, a=0, b=IMM, imm=16)
    t.put("iadd", dst=2, a=1, b=IMM, imm=512)
    t.put("cpa.128", ~0, c=2, a=1, b=1)  # B: 256 bytes
    t.put("cpa.commit")
    t.put("cpa.wait", imm=0)
    t.put("bar", imm=0)
    # Lane l has the address of row l mod 16 of A, columns 8 (l / 16) on.
    t.put("iand", dst=3, a=0, b=IMM, imm=15)
    t.put("ishl", dst=3, a=3, b=IMM, imm=5)
    t.put("iand", dst=4, a=0, b=IMM, imm=16)
    t.put("iadd", dst=3, a=3, b=4)
    t.put("ldsm.x4", dst=8, b=3)
    t.put("ldsm.x2.t", dst=12, b=1, imm=512)
    t.put("mma.m16n8k16.f32.f16", dst=16, a=8, b=12, c=20)
    t.put("ishr", dst=5, a=0, b=IMM, imm=2)
    t.put("ishl", dst=5, a=5, b=IMM, imm=5)
    t.put("iand", dst=6, a=0, b=IMM, imm=3)
    t.put("ishl", dst=6, a=6, b=IMM, imm=3)
    t.put("iadd", dst=5, a=5, b=6)
    t.put("stg.64", a=2, b=5, c=16)
    t.put("stg.64", a=2, b=5, imm=256, c=18)
    rng = np.random.default_rng(2)
    a, b = rng.integers(-9, 10, (16, 16)).astype(np.float16), rng.integers(-9, 10, (16, 8)).astype(np.float16)
    memory = np.concatenate([a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8), np.zeros(512, np.uint8)])
    run_threads(t.program((0, 512, 768)), machine(), memory)
    np.testing.assert_array_equal(memory[768:].view(np.float32).reshape(16, 8), a.astype(np.float32) @ b)


def stored(t: Threads, *, block: int = 32, grid: int = 1, register: int = 1) -> list[int]:
    """Store a register of each thread behind what `t` does, run it, and return what the threads left."""
    own_offset(t, block, 7)
    t.put("stg.32", a=0, b=7, c=register)
    memory = np.zeros(block * grid, np.int32)
    run_threads(t.program((0,), block=block, grid=grid), machine(), memory.view(np.uint8))
    return [int(x) for x in memory]


def test_lanes_leave_a_loop_one_by_one() -> None:
    """32 lanes with 1 to 32 rounds: the stack does not grow with the rounds."""
    t = Threads(8)
    t.put("vid", dst=0, imm=0)
    again = t.put("iadd", dst=1, a=1, b=IMM, imm=3)
    t.put("iadd", dst=0, a=0, b=IMM, imm=-1)
    t.put("isetp.ge", dst=0, a=0, b=IMM, imm=0)
    t.put("bra", 0, imm=again)
    assert stored(t) == [3 * (lane + 1) for lane in range(32)]


def test_special_registers() -> None:
    t = Threads(8)
    for number, weight in ((0, 1), (1, 10), (2, 100), (3, 1000), (4, 10000)):
        t.put("csr", dst=1, imm=number)
        t.put("imad", dst=1, a=scalar(1), b=IMM, c=1, imm=weight)
    values = stored(t, block=40, grid=3)
    assert values == [400000 + 2000 + 30 + block for block in range(3) for _ in range(40)]


def test_scalars_are_of_the_warp() -> None:
    """Both sides of a branch add to the same scalar register, one after the other: first the side that is taken."""
    t = Threads(8)
    t.put("vid", dst=0, imm=0)
    t.put("isetp.lt", dst=0, a=0, b=IMM, imm=8)
    skip = t.put("bra", 0)
    t.put("muli", dst=5, a=5, imm=10)
    t.put("addi", dst=5, a=5, imm=2)
    over = t.put("bra")
    t.aim(skip)
    t.put("addi", dst=5, a=5, imm=1)
    t.put("first", dst=6, a=0)
    t.put("vote.all", dst=1, a=0)
    t.aim(over)
    t.put("vmov", dst=1, a=scalar(5))
    assert stored(t) == [12] * 32


def test_a_scalar_jump_moves_the_active_lanes() -> None:
    t = Threads(8)
    t.put("vid", dst=0, imm=0)
    t.put("isetp.lt", dst=0, a=0, b=IMM, imm=8)
    skip = t.put("bra", 0)
    t.put("vmov", dst=1, a=IMM, imm=5)
    over = t.put("br")
    t.aim(skip)
    t.put("vmov", dst=1, a=IMM, imm=9)
    t.aim(over)
    t.put("iadd", dst=1, a=1, b=IMM, imm=1)
    assert stored(t) == [10] * 8 + [6] * 24


def test_warps_that_have_ended_are_not_waited_for() -> None:
    t = Threads(8, smem=16)
    t.put("vid", dst=0, imm=2)
    t.put("isetp.eq", dst=0, a=0, b=IMM, imm=1)
    t.put("exit", 0)
    t.put("sts.32", c=0)
    t.put("bar", imm=3)
    t.put("lds.32", dst=1)
    t.put("iadd", dst=1, a=1, b=IMM, imm=1)
    assert stored(t, block=96) == [3] * 32 + [0] * 32 + [3] * 32


def test_a_barrier_after_lanes_have_ended() -> None:
    """The lanes that take the branch end first; the others are then the whole warp, though they meet nobody again."""
    t = Threads(8)
    t.put("vid", dst=0, imm=0)
    t.put("isetp.lt", dst=0, a=0, b=IMM, imm=8)
    skip = t.put("bra", 0)
    t.put("bar", imm=0)
    t.put("vmov", dst=1, a=IMM, imm=1)
    own_offset(t, 32, 7)
    t.put("stg.32", a=0, b=7, c=1)
    t.put("exit")
    t.aim(skip)
    assert stored(t) == [0] * 8 + [1] * 24


def test_a_warp_that_waits_for_another_has_its_turn_end() -> None:
    """Warp 0 spins until warp 1 has written a flag in shared memory."""
    t = Threads(8, smem=16)
    t.put("vid", dst=0, imm=2)
    t.put("isetp.eq", dst=0, a=0, b=IMM, imm=1)
    t.put("sts.32", 0, c=0)
    spin = t.put("lds.32", dst=1)
    t.put("isetp.eq", dst=1, a=1, b=IMM, imm=0)
    t.put("bra", 1, imm=spin)
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(simt.run_block, "signatures"):
            from npusim.functional import simt_run

            patch.setattr(simt_run, "TURN", 100)
        assert stored(t, block=64) == [1] * 64


def test_launches_follow_one_another() -> None:
    t = Threads(8)
    own_offset(t, 32)
    t.put("ldg.32", dst=1, a=0, b=0)
    t.put("iadd", dst=1, a=1, b=scalar(1))
    t.put("stg.32", a=0, b=0, c=1)
    program = t.program((0, 5), grid=2)
    program.launches.resize(2, refcheck=False)
    program.launches[1] = program.launches[0]
    memory = np.zeros(64, np.int32)
    run_threads(program, machine(), memory.view(np.uint8))
    assert (memory == 10).all()
