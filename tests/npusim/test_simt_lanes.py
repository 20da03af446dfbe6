"""Each operation of lanes against numpy and ml_dtypes, on edge values and random bits, in the lanes of a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from simt_fixture import BF16, FP16, FP32, IMM, Threads, exact_fma, machine, scalar

from isa.dtypes import dtype, round_to
from isa.errors import ProgramError
from isa.table import BY_NAME
from isa.table_simt import LANE_ROWS
from npusim.units.warps import layout as at
from npusim.units.warps.decode import decode
from npusim.units.warps.execute import execute
from npusim.units.warps.flow import start_warp
from npusim.units.warps.layout import BAD_ADDRESS, MISALIGNED, OK, PART_OF_WARP, WarpState
from npusim.units.warps.state import make_warps

pytestmark = pytest.mark.kernels
Array = Any
REGISTERS, SHARED = 24, 1024
NAN = 0x7FFFFFFF
EDGES = np.array(
    [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0x3F800000, 0xBF800000, 0x7F800000,
     0xFF800000, 0x7FC00001, 0x00800000, 0x007FFFFF, 0x4B000001, 0x4F000000, 0xCF000000, 0x4EFFFFFF, 0x4F7FFFFF,
     0x3FC00000, 0x7F7FFFFF, 0x477FEFFF, 0x477FF000, 0x38800000, 0x387FFFFF, 0x33000000, 0x33000001,
     0x7BFF7C00, 0x00018001],
    np.uint32,
)  # fmt: skip


def warp(seed: int = 0, lanes: int = 32) -> WarpState:
    """Two warps, of which the second one is under test: registers of edge values and random bits."""
    rng = np.random.default_rng(seed)
    state = make_warps(2, REGISTERS, lanes, 2, SHARED)
    start_warp(state.warps, 1, 3, 5, 1, 1024, lanes)
    state.regs[1] = rng.integers(0, 1 << 32, (REGISTERS, lanes), np.uint32)
    for row in state.regs[1, ::2]:
        row[:] = rng.choice(EDGES, lanes)
    # Numbers of like size, so that sums cancel and round.
    state.regs[1, 3] = rng.standard_normal(lanes).astype(np.float32).view(np.uint32)
    state.regs[1, 4] = rng.standard_normal(lanes).astype(np.float32).view(np.uint32)
    state.scalars[1] = rng.integers(-(1 << 40), 1 << 40, at.SCALARS)
    state.preds[1] = rng.integers(0, 1 << 32, 8)
    state.shared[:] = rng.integers(0, 256, state.shared.shape, np.uint8)
    return state


def run(state: WarpState, name: str, lanes: int = 0xFFFFFFFF, memory: Array | None = None, **fields: Any) -> int:
    """Execute one instruction in warp 1; returns the status."""
    threads = Threads(REGISTERS)
    threads.put(name, **fields)
    program = threads.program()
    code = decode(program, program.kernels[0], machine(state.regs.shape[2]))
    s = state
    if memory is None:
        memory = np.zeros(0, np.uint8)
    with np.errstate(all="ignore"):
        return int(execute(code, 0, 1, lanes, s.warps, s.regs, s.scalars, s.preds, s.shared, memory, s.work))


def bits(mask: int, count: int = 32) -> Array:
    """A mask as booleans of lanes."""
    return (mask >> np.arange(count) & 1).astype(bool)


def real(a: Array) -> Array:
    return a.view(np.float32)


def signed(a: Array) -> Array:
    return a.view(np.int32).astype(np.int64)


def each(function: Callable[..., float], *rows: Array) -> Array:
    """fp32 of a function of numbers, lane by lane."""
    return np.array([function(*map(float, numbers)) for numbers in zip(*rows)], np.float64).astype(np.float32)


def pair(kind: Any, function: Callable[..., Array]) -> Callable[..., Array]:
    """Apply a function of float64 rows to both halves of uint32 rows."""

    def apply(*rows: Array) -> Array:
        values = [row.view(np.uint16).view(kind).astype(np.float64) for row in rows]
        result = np.asarray(function(*values))
        found = result.astype(kind).view(np.uint16)
        return np.where(np.isnan(result), np.uint16(0x7FFF), found).view(np.uint32)

    return apply


def fma_of(kind: tuple[int, int, int]) -> Callable[..., Array]:
    return lambda x, y, z: np.array([exact_fma(*map(float, numbers), kind) for numbers in zip(x, y, z)])


def smaller(x: Array, y: Array) -> Array:
    """Smaller of two reals: -0 below 0, NaNs give way."""
    low = np.where((x < y) | ((x == y) & np.signbit(x)), x, y)
    return np.where(np.isnan(x), y, np.where(np.isnan(y), x, low))


def larger(x: Array, y: Array) -> Array:
    return -smaller(-x, -y)


def to_integer(x: Array, round_: Callable[[Array], Array]) -> Array:
    wide = np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=1e20, neginf=-1e20)
    return np.clip(round_(wide), -(2**31), 2**31 - 1).astype(np.int64)


def in_double(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda a: function(real(a).astype(np.float64)).astype(np.float32)


def halves(kind: Any, a: Array, b: Array) -> Array:
    found = [np.where(np.isnan(x), 0x7FFF, x.astype(kind).view(np.uint16)) for x in (real(a), real(b))]
    return found[0].astype(np.uint32) | found[1].astype(np.uint32) << np.uint32(16)


def half(kind: Any, place: int) -> Callable[[Array], Array]:
    return lambda a: a.view(np.uint16)[place::2].copy().view(kind).astype(np.float32)


MASK = np.int64(0xFFFFFFFF)
HALF, BRAIN = np.float16, ml_dtypes.bfloat16
# What each operation makes of rows of uint32: integers, modulo 2 ** 32, or fp32.
MEANING: dict[str, Callable[..., Array]] = {
    "iadd": lambda a, b: signed(a) + signed(b),
    "isub": lambda a, b: signed(a) - signed(b),
    "imul": lambda a, b: signed(a) * signed(b),
    "imulhi": lambda a, b: np.array([int(x) * int(y) >> 32 for x, y in zip(a, b)]),
    "imad": lambda a, b, c: signed(a) * signed(b) + signed(c),
    "imin": lambda a, b: np.minimum(signed(a), signed(b)),
    "imax": lambda a, b: np.maximum(signed(a), signed(b)),
    "iand": np.bitwise_and, "ior": np.bitwise_or, "ixor": np.bitwise_xor,
    "ishl": lambda a, b: np.array([int(x) << int(y) if y < 32 else 0 for x, y in zip(a, b)]) & MASK,
    "ishr": lambda a, b: np.array([int(x) >> int(y) for x, y in zip(a, b)]),
    "isar": lambda a, b: np.array([int(x) >> int(y) for x, y in zip(signed(a), b)]),
    "popc": lambda a: np.array([int(x).bit_count() for x in a]),
    "ffs": lambda a: np.array([(int(x) & -int(x)).bit_length() - 1 for x in a]),
    "vmov": lambda a: a,
    "fadd": lambda a, b: real(a) + real(b),
    "fsub": lambda a, b: real(a) - real(b),
    "fmul": lambda a, b: real(a) * real(b),
    "ffma": lambda a, b, c: each(lambda x, y, z: exact_fma(x, y, z, FP32), real(a), real(b), real(c)),
    "fmin": lambda a, b: smaller(real(a), real(b)),
    "fmax": lambda a, b: larger(real(a), real(b)),
    "fabs": lambda a: a & np.uint32(0x7FFFFFFF),
    "frcp": lambda a: np.float32(1) / real(a),
    "frsq": in_double(lambda x: 1 / np.sqrt(x)),
    "fsqrt": lambda a: np.sqrt(real(a)),
    "fex2": in_double(np.exp2), "flg2": in_double(np.log2), "fsin": in_double(np.sin), "fcos": in_double(np.cos),
    "ftanh": in_double(np.tanh),
    "hadd2": pair(HALF, np.add), "hmul2": pair(HALF, np.multiply), "hmax2": pair(HALF, larger),
    "badd2": pair(BRAIN, fma_of(BF16)), "bmul2": pair(BRAIN, np.multiply), "bmax2": pair(BRAIN, larger),
    "hfma2": pair(HALF, fma_of(FP16)), "bfma2": pair(BRAIN, fma_of(BF16)),
    "i2f": lambda a: signed(a).astype(np.float32), "u2f": lambda a: a.astype(np.float32),
    "f2i": lambda a: to_integer(real(a), np.trunc), "f2i.rn": lambda a: to_integer(real(a), np.rint),
    "f2h2": lambda a, b: halves(HALF, a, b), "f2b2": lambda a, b: halves(BRAIN, a, b),
    "f2tf32": lambda a: np.where(np.isnan(real(a)), np.float32("nan"), round_to(real(a), dtype("tf32"))),
    "h2f.lo": half(HALF, 0), "h2f.hi": half(HALF, 1), "b2f.lo": half(BRAIN, 0), "b2f.hi": half(BRAIN, 1),
}  # fmt: skip
MEANING["badd2"] = pair(BRAIN, lambda x, y: fma_of(BF16)(x, np.ones_like(x), y))
RELATION = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
            "ne": np.not_equal}  # fmt: skip
REST = {"vid", "sel", "first", "pand", "por", "pnot"}  # tests of their own


def words(result: Array) -> Array:
    """A result as uint32; all NaNs alike."""
    if result.dtype == np.float32:
        return np.where(np.isnan(result), np.uint32(NAN), result.view(np.uint32))
    return (result.astype(np.int64) & MASK).astype(np.uint32)


@pytest.mark.parametrize("name", MEANING)
def test_operation(name: str) -> None:
    sources = sum(word[0] == "s" for word in BY_NAME[name].fields.split())
    for seed, chosen in enumerate(((2, 4, 6), (3, 4, 3), (1, 5, 7), (8, 1, 2))):
        state = warp(seed)
        rows = [state.regs[1, r].copy() for r in chosen[:sources]]
        before, mask = state.regs.copy(), int(state.preds[1, 0]) | 1 if seed else 0xFFFFFFFF
        assert run(state, name, mask, dst=chosen[0], **dict(zip("abc", chosen[:sources]))) == OK
        with np.errstate(all="ignore"):
            expected = np.where(bits(mask), words(np.asarray(MEANING[name](*rows))), before[1, chosen[0]])
        np.testing.assert_array_equal(state.regs[1, chosen[0]], expected, f"{name} of {[row.tolist() for row in rows]}")
        before[1, chosen[0]] = state.regs[1, chosen[0]]
        assert (state.regs == before).all(), "nothing else changes"


def test_a_product_and_sum_is_rounded_once() -> None:
    """Sums next to the middle of two numbers: a rounding to float64, or of halves to fp32, would put them into it."""
    state, step, lane = warp(), 2.0**-23, np.arange(32)
    sign, other = np.where(lane & 1, -1.0, 1.0), np.where(lane & 2, -1.0, 1.0)
    rows = sign * (1 + step) * 2.0**-12, np.full(32, (1 - step) * 2.0**-12), other * (1 + (lane >> 2) * step)
    state.regs[1, :3] = np.array(rows, np.float32).view(np.uint32)
    assert run(state, "ffma", dst=5, a=0, b=1, c=2) == OK
    np.testing.assert_array_equal(real(state.regs[1, 5]), MEANING["ffma"](*state.regs[1, :3]))
    twice = (rows[0] * rows[1] + rows[2]).astype(np.float32)
    assert (real(state.regs[1, 5]) != twice).sum() >= 4
    rows = sign * (1 + 2.0**-10), np.full(32, 1 - 2.0**-10), other * (2048.0 + 2 * (lane >> 2))
    for row, values in zip(state.regs[1, :3], rows):
        row[:] = np.repeat(values.astype(np.float16), 2).view(np.uint32)
    assert run(state, "hfma2", dst=5, a=0, b=1, c=2) == OK
    expected = MEANING["hfma2"](*state.regs[1, :3])
    np.testing.assert_array_equal(state.regs[1, 5], expected)
    twice = (rows[0] * rows[1] + rows[2]).astype(np.float32).astype(np.float16)
    assert (state.regs[1, 5].view(np.float16)[::2] != twice).sum() >= 4


def test_every_operation_of_lanes_is_tested() -> None:
    compared = {name for name, *_ in LANE_ROWS if "setp" in name}
    assert {name for name, *_ in LANE_ROWS} == set(MEANING) | REST | compared


@pytest.mark.parametrize("name", [name for name, *_ in LANE_ROWS if "setp" in name])
def test_comparison(name: str) -> None:
    family, _, relation = name.partition(".")
    view = {"isetp": signed, "usetp": lambda a: a, "fsetp": real}[family]
    for seed in range(3):
        state = warp(seed)
        state.regs[1, 6, :8] = state.regs[1, 2, :8]
        before, mask = int(state.preds[1, 3]), int(state.preds[1, 0])
        assert run(state, name, mask, dst=3, a=2, b=6) == OK
        held = RELATION[relation](view(state.regs[1, 2]), view(state.regs[1, 6]))
        np.testing.assert_array_equal(bits(int(state.preds[1, 3])), np.where(bits(mask), held, bits(before)))


def test_sources_may_be_scalars_and_immediates() -> None:
    state = warp()
    low = state.scalars[1, 7] & MASK
    assert run(state, "iadd", dst=0, a=scalar(7), b=IMM, imm=-5) == OK
    assert (state.regs[1, 0] == ((low - 5) & MASK)).all()
    assert run(state, "vmov", dst=0, a=scalar(7)) == OK
    assert (state.regs[1, 0] == low).all()
    assert run(state, "fmul", dst=0, a=3, b=IMM, f0=0.1) == OK
    np.testing.assert_array_equal(real(state.regs[1, 0]), real(state.regs[1, 3]) * np.float32(0.1))
    assert run(state, "hmul2", dst=0, a=IMM, b=IMM, f0=1.5) == OK
    assert (state.regs[1, 0].view(np.float16) == 2.25).all()
    assert run(state, "bmul2", dst=0, a=IMM, b=IMM, f0=1.5) == OK
    assert (state.regs[1, 0].view(ml_dtypes.bfloat16) == 2.25).all()


def test_moves_and_predicates() -> None:
    state = warp()
    held, other = int(state.preds[1, 1]), int(state.preds[1, 2])
    assert run(state, "sel", dst=0, a=1, b=2, c=1) == OK
    np.testing.assert_array_equal(state.regs[1, 0], np.where(bits(held), state.regs[1, 1], state.regs[1, 2]))
    for number, expected in enumerate((np.arange(32), 3 * 32 + np.arange(32), np.full(32, 3))):
        assert run(state, "vid", dst=0, imm=number) == OK
        np.testing.assert_array_equal(state.regs[1, 0], expected)
    for name, value in (("pand", held & other), ("por", held | other), ("pnot", ~held)):
        before, fields = int(state.preds[1, 5]), {"a": 1, "b": 2} if name != "pnot" else {"a": 1}
        assert run(state, name, 0x0FFFF0F0, dst=5, **fields) == OK
        assert state.preds[1, 5] == (value & 0x0FFFF0F0 | before & ~0x0FFFF0F0)


def test_across_lanes() -> None:
    state, mask, lane = warp(), 0x0F0F0F00, np.arange(32)
    state.regs[1, 2] = np.random.default_rng(1).integers(0, 64, 32)
    b = state.regs[1, 2].astype(np.int64)
    sources = {
        "shfl.idx": b % 32, "shfl.up": np.where(b <= lane, lane - b, lane),
        "shfl.down": np.where(lane + b < 32, lane + b, lane), "shfl.bfly": (lane ^ b) % 32,
    }  # fmt: skip
    for name, source in sources.items():
        before, values = state.regs[1, 5].copy(), state.regs[1, 1]
        assert run(state, name, mask, dst=5, a=1, b=2) == OK
        np.testing.assert_array_equal(state.regs[1, 5], np.where(bits(mask), values[source], before))
    assert run(state, "shfl.bfly", dst=1, a=1, b=IMM, imm=0) == OK
    assert run(state, "first", mask, dst=9, a=1) == OK
    assert state.scalars[1, 9] == signed(state.regs[1, 1])[8]
    for held, any_, all_ in ((0, 0, 0), (0x100, -1, 0), (mask, -1, -1), (~mask, 0, 0)):
        state.preds[1, 4] = held
        for name, expected in (("vote.any", any_), ("vote.all", all_)):
            before = int(state.preds[1, 6])
            assert run(state, name, mask, dst=6, a=4) == OK
            assert state.preds[1, 6] == (before & ~mask | expected & mask)
        assert run(state, "ballot", mask, dst=5, a=4) == OK
        assert (state.regs[1, 5][bits(mask)] == held & mask).all()


def test_64_lanes() -> None:
    state = warp(lanes=64)
    mask = -(1 << 63) | 0x1234
    before = state.regs[1, 0].copy()
    assert run(state, "iadd", mask, dst=0, a=1, b=2) == OK
    expected = np.where(bits(mask, 64), state.regs[1, 1] + state.regs[1, 2], before)
    np.testing.assert_array_equal(state.regs[1, 0], expected)
    assert run(state, "isetp.lt", -1, dst=2, a=1, b=3) == OK
    np.testing.assert_array_equal(bits(int(state.preds[1, 2]), 64), signed(state.regs[1, 1]) < signed(state.regs[1, 3]))
    assert run(state, "shfl.idx", -1, dst=0, a=1, b=IMM, imm=63) == OK
    assert (state.regs[1, 0] == state.regs[1, 1, 63]).all()


LOADS = {"u8": np.uint8, "s8": np.int8, "u16": np.uint16, "s16": np.int16, "32": None, "64": None, "128": None}


def at_offsets(state: WarpState, size: int, limit: int) -> Array:
    """Random aligned offsets of lanes, in v1, of which the first is the last place that fits; base 16, imm 32."""
    places = (limit - 48) // size
    offsets = np.random.default_rng(2).integers(0, places, 32) * size
    offsets[0] = (places - 1) * size
    state.regs[1, 1] = offsets
    state.scalars[1, 3] = 16
    return offsets + 48


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("shared", [False, True])
def test_load(name: str, shared: bool) -> None:
    state, mask = warp(), 0x7FFF0FF1
    memory = np.random.default_rng(3).integers(0, 256, SHARED, np.uint8)
    source = state.shared[1] if shared else memory
    size = max(1, int(name.lstrip("us")) // 8)
    where = at_offsets(state, size, SHARED)
    before = state.regs[1].copy()
    fields = {"b": 1, "imm": 48} if shared else {"a": 3, "b": 1, "imm": 32}
    assert run(state, f"{'lds' if shared else 'ldg'}.{name}", mask, memory, dst=8, **fields) == OK
    for lane in range(32):
        found = state.regs[1, 8 : 8 + max(1, size // 4), lane]
        expected = source[where[lane] : where[lane] + size]
        if size < 4:
            expected = expected.view(LOADS[name]).astype(np.int64) & MASK
        else:
            expected = expected.view(np.uint32)
        np.testing.assert_array_equal(found, expected if mask >> lane & 1 else before[8 : 8 + max(1, size // 4), lane])


@pytest.mark.parametrize("width", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("shared", [False, True])
def test_store(width: int, shared: bool) -> None:
    state, mask, size = warp(), 0x7FFF0FF1, width // 8
    memory = np.random.default_rng(3).integers(0, 256, SHARED, np.uint8)
    expected = (state.shared[1] if shared else memory).copy()
    where = at_offsets(state, size, SHARED)
    for lane in range(32):  # of lanes that meet, the last one stays
        if mask >> lane & 1:
            row = np.ascontiguousarray(state.regs[1, 8 : 8 + max(1, size // 4), lane]).view(np.uint8)
            expected[where[lane] : where[lane] + size] = row[:size]
    fields = {"b": 1, "imm": 48} if shared else {"a": 3, "b": 1, "imm": 32}
    assert run(state, f"{'sts' if shared else 'stg'}.{width}", mask, memory, c=8, **fields) == OK
    np.testing.assert_array_equal(state.shared[1] if shared else memory, expected)


@pytest.mark.parametrize(
    "name", ["ldg.u16", "ldg.64", "stg.32", "atomg.add", "cpa.128", "lds.32", "sts.128", "atoms.or"]
)
def test_a_bad_address_changes_nothing(name: str) -> None:
    state, memory = warp(), np.zeros(SHARED + 2, np.uint8)  # a length that is no multiple of 4
    size = 2 if "u16" in name else 16 if "128" in name else 8 if "64" in name else 4
    shared = name.startswith(("lds", "sts", "atoms"))
    limit = SHARED if shared else SHARED + 2
    fields: dict[str, int] = {"b": 1, "imm": 0} | ({} if shared else {"a": 3})
    fields |= {"dst": 8} if "l" in name[0] or "atom" in name else {}
    fields |= {"c": 2 if "cpa" in name else 8} if not name.startswith("l") else {}
    state.regs[1, 1] = state.regs[1, 2] = 0
    last = (limit - size) // size * size
    state.scalars[1, 3] = 0
    for offset, status in ((last, OK), (last + size, BAD_ADDRESS), (0xFFFFFFF0, BAD_ADDRESS), (size // 2, MISALIGNED)):
        state.regs[1, 1, 30] = offset
        before = [array.copy() for array in (state.regs, state.shared, memory)]
        assert run(state, name, 0xFFFFFFFF, memory, **fields) == status
        if status != OK:
            assert all((x == y).all() for x, y in zip(before, (state.regs, state.shared, memory)))
        assert run(state, name, 0xBFFFFFFF, memory, **fields) == OK, "lanes outside of the mask do not count"
    if not shared:
        state.scalars[1, 3] = -size
        state.regs[1, 1] = 0
        assert run(state, name, 1, memory, **fields) == BAD_ADDRESS
        state.regs[1, 1] = size
        assert run(state, name, 1, memory, **fields) == OK


ATOM = {
    "add": lambda old, b: old + b, "min": lambda old, b: min(old, b), "max": lambda old, b: max(old, b),
    "and": lambda old, b: old & b, "or": lambda old, b: old | b, "xor": lambda old, b: old ^ b,
    "exch": lambda old, b: b,
}  # fmt: skip


@pytest.mark.parametrize("name", [*ATOM, "fadd"])
@pytest.mark.parametrize("shared", [False, True])
def test_atomic(name: str, shared: bool) -> None:
    state, mask = warp(), 0xFFFF0FF1
    memory = np.random.default_rng(3).integers(0, 256, SHARED, np.uint8)
    if name == "fadd":
        memory[:] = np.random.default_rng(3).standard_normal(SHARED // 4).astype(np.float32).view(np.uint8)
        state.shared[1] = memory
    target = (state.shared[1] if shared else memory).view(np.uint32)
    state.regs[1, 1] = np.random.default_rng(4).integers(0, 5, 32) * 4  # many lanes meet
    state.scalars[1, 3] = 16
    expected, old = target.copy(), state.regs[1, 8].copy()
    operand = state.regs[1, 4]
    for lane in range(32):
        if mask >> lane & 1:
            place = (int(state.regs[1, 1, lane]) + 48) // 4
            old[lane] = expected[place]
            if name == "fadd":
                real(expected)[place] += real(operand)[lane]
            else:
                found = ATOM[name](int(expected[place : place + 1].view(np.int32)[0]), int(signed(operand)[lane]))
                expected[place] = found & 0xFFFFFFFF
    fields = {"b": 1, "imm": 48} if shared else {"a": 3, "b": 1, "imm": 32}
    assert run(state, f"atom{'s' if shared else 'g'}.{name}", mask, memory, dst=8, c=4, **fields) == OK
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(state.regs[1, 8], old)
    before = state.regs.copy()
    assert run(state, f"atom{'s' if shared else 'g'}.{name}", mask, memory, c=IMM, f0=3, **fields) == OK
    assert (state.regs == before).all(), "without a destination nothing is written back"


def test_atomic_sources() -> None:
    state, memory = warp(), np.zeros(64, np.uint8)
    state.scalars[1, :2] = 0, -7
    assert run(state, "atomg.add", 0xFF, memory, a=0, imm=8, c=scalar(1)) == OK
    assert run(state, "atomg.add", 0x3, memory, a=0, imm=12, c=IMM, f0=5) == OK
    assert memory.view(np.int32)[:4].tolist() == [0, 0, -56, 10]


@pytest.mark.parametrize("width", [32, 64, 128])
def test_copy_to_shared_memory(width: int) -> None:
    state, size = warp(), width // 8
    memory = np.random.default_rng(3).integers(0, 256, SHARED, np.uint8)
    where = at_offsets(state, size, SHARED)
    target = np.random.default_rng(5).permutation(SHARED // size)[:32] * size
    state.regs[1, 2] = target
    expected = state.shared[1].copy()
    for lane in range(1, 32):
        expected[target[lane] : target[lane] + size] = memory[where[lane] : where[lane] + size]
    assert run(state, f"cpa.{width}", 0xFFFFFFFE, memory, c=2, a=3, b=1, imm=32) == OK
    np.testing.assert_array_equal(state.shared[1], expected)
    state.regs[1, 2, 4] = SHARED
    assert run(state, f"cpa.{width}", 0xFFFFFFFE, memory, c=2, a=3, b=1, imm=32) == BAD_ADDRESS


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_load_of_fragments(count: int, transposed: bool) -> None:
    state = warp()
    places = np.random.default_rng(6).permutation(SHARED // 16 - 1)[:32] * 16
    state.regs[1, 1] = places
    before = state.regs[1].copy()
    assert run(state, f"ldsm.x{count}{'.t' if transposed else ''}", dst=8, b=1, imm=16) == OK
    for m in range(count):
        rows = places[8 * m : 8 * m + 8] + 16
        matrix = np.array([state.shared[1, row : row + 16].view(np.uint16) for row in rows])
        expected = (matrix.T if transposed else matrix).reshape(32, 2)  # lane 4 g + t has row g, columns 2 t, 2 t + 1
        np.testing.assert_array_equal(state.regs[1, 8 + m].view(np.uint16).reshape(32, 2), expected)
    np.testing.assert_array_equal(state.regs[1, 8 + count :], before[8 + count :])
    assert run(state, "ldsm.x1", 0xFFFFFFFE, dst=8, b=1, imm=16) == PART_OF_WARP
    state.regs[1, 1, 8 * count - 1] = SHARED - 16
    assert run(state, f"ldsm.x{count}", dst=8, b=1, imm=16) == BAD_ADDRESS


ELEMENT = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32, "s8": np.int8}


def left(matrix: Array) -> Array:
    """A [16, k] as registers [r, lane]: quarters of it, each lane a row and consecutive elements (PTX ISA figures)."""
    per = 4 // matrix.itemsize
    count, wide = matrix.shape[1] // (2 * per), 4 * per
    quarters = [matrix[8 * (r % 2) :, wide * (r // 2) :][:8, :wide] for r in range(count)]
    return np.array([np.ascontiguousarray(q).view(np.uint32).reshape(32) for q in quarters])


def right(matrix: Array) -> Array:
    """B [k, 8] as registers: each lane a column and consecutive elements of it."""
    per = 4 // matrix.itemsize
    parts = [matrix[4 * per * r :][: 4 * per].T for r in range(matrix.shape[0] // (4 * per))]
    return np.array([np.ascontiguousarray(p).view(np.uint32).reshape(32) for p in parts])


def sums(matrix: Array) -> Array:
    """C [16, 8] as registers: lane 4 g + t has columns 2 t and 2 t + 1 of rows g and g + 8."""
    return np.ascontiguousarray(matrix.reshape(2, 8, 4, 2).transpose(0, 3, 1, 2)).view(np.uint32).reshape(4, 32)


@pytest.mark.parametrize("shape", ["m16n8k8.f32.f16", "m16n8k16.f32.f16", "m16n8k16.f32.bf16", "m16n8k8.f32.tf32",
                                   "m16n8k32.s32.s8"])  # fmt: skip
def test_product(shape: str) -> None:
    depth, kind = int(shape.split(".")[0][6:]), ELEMENT[shape.split(".")[2]]
    rng, state = np.random.default_rng(7), warp()
    if kind is np.int8:
        a, b = rng.integers(-128, 128, (16, depth), np.int8), rng.integers(-128, 128, (depth, 8), np.int8)
        c = rng.integers(-(2**31), 2**31, (16, 8), np.int32)
        expected = (a.astype(np.int64) @ b + c).astype(np.int32)
    else:
        a, b = rng.standard_normal((16, depth)).astype(kind), rng.standard_normal((depth, 8)).astype(kind)
        c = rng.standard_normal((16, 8)).astype(np.float32)
        if kind is np.float32:
            a, b = (round_to(x, dtype("tf32")) for x in (a, b))
        expected = c.copy()
        for k in range(depth):
            expected += a[:, k : k + 1].astype(np.float32) * b[k : k + 1].astype(np.float32)
        c[0, 0] = expected[0, 0] = np.nan
    for first, rows in ((8, left(a)), (12, right(b)), (16, sums(c))):
        state.regs[1, first : first + len(rows)] = rows
    fields = {"a": 8, "b": 12, "c": 16}
    assert run(state, f"mma.{shape}", 0x7FFFFFFF, dst=4, **fields) == PART_OF_WARP
    before = state.regs.copy()
    assert run(state, f"mma.{shape}", dst=4, **fields) == OK
    np.testing.assert_array_equal(state.regs[1, 4:8], words(sums(expected).view(expected.dtype)).reshape(4, 32))
    before[1, 4:8] = state.regs[1, 4:8]
    assert (state.regs == before).all()
    assert run(state, f"mma.{shape}", dst=16, **fields) == OK, "the result may replace C"
    assert (state.regs[1, 16:20] == state.regs[1, 4:8]).all()


def test_tf32_reads_ten_bits_of_fraction() -> None:
    state = warp()
    state.regs[1, 8:14] = np.array(1 + 2**-10 + 2**-11, np.float32).view(np.uint32)
    state.regs[1, 16:20] = 0
    assert run(state, "mma.m16n8k8.f32.tf32", dst=4, a=8, b=12, c=16) == OK
    assert (real(state.regs[1, 4]) == 8 * np.float32(1 + 2**-10) ** 2).all()


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("iadd", {"dst": REGISTERS, "a": 0, "b": 0}, "v24 does not exist; there are 24"),
        ("iadd", {"dst": 0, "a": 513, "b": 0}, "v513 does not exist"),
        ("iadd", {"dst": 0, "a": -1, "b": 0}, "v-1 does not exist"),
        ("ldg.128", {"dst": 21, "a": 0}, "v24 does not exist"),
        ("stg.128", {"c": 21, "a": 0}, "v24 does not exist"),
        ("ldg.32", {"dst": 0, "a": 64}, "r64 does not exist; there are 64"),
        ("iadd", {"dst": 0, "a": scalar(64), "b": 0}, "r64 does not exist"),
        ("pand", {"dst": 7, "a": 0, "b": 0}, "p7 does not exist; there are 7"),
        ("csr", {"dst": 0, "imm": 7}, "special register 7 does not exist"),
        ("vid", {"dst": 0, "imm": 3}, "special register 3 does not exist"),
        ("divi", {"dst": 0, "a": 0, "imm": 0}, "division by 0"),
        ("br", {"imm": 2}, "address 2 is outside of the kernel, [0, 2)"),
        ("v.add", {"dst": 0, "a": 0, "b": 0}, "not an operation of machines with threads"),
        ("bar", {"flags": 8}, "a guard has no meaning here"),
        ("fadd", {"flags": 8 | 7 << 5, "dst": 0, "a": 0, "b": 0}, "p7 does not exist"),
    ],
)
def test_what_cannot_be_decoded(name: str, fields: dict[str, int], said: str) -> None:
    threads = Threads(REGISTERS)
    flags = fields.pop("flags", 0)
    threads.put(name, **fields)
    threads.records[0]["flags"] = flags
    program = threads.program()
    with pytest.raises(ProgramError, match="kernel k, instruction 0") as raised:
        decode(program, program.kernels[0], machine())
    assert said in str(raised.value)
