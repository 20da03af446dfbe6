"""Loads, stores, atomics, fragments and products of a warp against numpy, and what cannot be decoded."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from lane_fixture import MASK, REGISTERS, SHARED, real, run, signed, warp, words
from simt_fixture import IMM, Threads, machine, scalar

from isa.dtypes import dtype, round_to
from isa.errors import ProgramError
from npusim.units.warps.decode import decode
from npusim.units.warps.layout import BAD_ADDRESS, MISALIGNED, OK, PART_OF_WARP, WarpState

pytestmark = pytest.mark.kernels
Array = Any

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
