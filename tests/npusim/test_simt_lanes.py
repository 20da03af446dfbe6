"""Each operation of lanes against numpy and ml_dtypes, on edge values and random bits, in the lanes of a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from lane_fixture import MASK, bits, real, run, signed, warp, words
from simt_fixture import BF16, FP16, FP32, IMM, exact_fma, scalar

from isa.dtypes import dtype, round_to
from isa.table import BY_NAME
from isa.table_simt import LANE_ROWS
from npusim.units.warps.layout import OK

pytestmark = pytest.mark.kernels
Array = Any


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
