"""The numpy meaning of copies, windows, matrix products, drain and launches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from functional_fixture import Asm, machine, no_host

from isa.dtypes import DTYPES, dtype, round_to
from isa.errors import SimulationError
from isa.program import HostOp, Tensor
from isa.table import ACTIVATIONS, NEXT_TILE, STATIONARY_A
from npusim.functional import Values, execute


def run(asm: Asm, initial: dict[str, Any], dataflow: str = "ws", **more: Any) -> Values:
    return execute(asm.program(**more), machine(dataflow), initial, no_host)


def reals(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def single(name: str, kind: str, out_kind: str, values: Any, **fields: Any) -> Any:
    """Run one instruction on tensors in DRAM and return its result."""
    asm = Asm()
    a, d = asm.tensor("a", values.shape, kind, "input"), asm.tensor("d", values.shape, out_kind, "output")
    asm.op(name, asm.d("dram", out_kind, values.shape, d), asm.d("dram", kind, values.shape, a), **fields)
    return run(asm, {"a": values}).tensors["d"]


@pytest.mark.parametrize("src", [n for n in DTYPES if n not in ("bool", "int4")])
@pytest.mark.parametrize("dst", DTYPES)
def test_copy_converts_as_round_to(src: str, dst: str) -> None:
    values = round_to(reals((7, 5)) * 50, dtype(src))
    expected = values if src == dst else round_to(values, dtype(dst))
    np.testing.assert_array_equal(single("cp", src, dst, values).astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("seed", range(20))
def test_random_strided_copy(seed: int) -> None:
    """Against an element-by-element loop; strides of either sign, bases without alignment."""
    rng = np.random.default_rng(seed)
    ext = tuple(int(v) for v in rng.integers(1, 5, rng.integers(1, 7)))
    stride = rng.permutation([2 * 5**i + int(rng.integers(0, 2)) for i in range(len(ext))])
    stride = [int(s) * (-1 if rng.random() < 0.3 else 1) for s in stride]
    reach = [s * (n - 1) for s, n in zip(stride, ext)]
    base = -sum(min(0, r) for r in reach) + int(rng.integers(0, 3))
    size = base + sum(max(0, r) for r in reach) + 2
    asm = Asm()
    asm.tensor("a", (size,), "uint8", "input")
    d = asm.tensor("d", ext, "fp16", "output")
    asm.op("cp", asm.d("dram", "fp16", ext, d), asm.d("dram", "fp16", ext, base, tuple(stride)))
    data = rng.integers(0, 120, size).astype(np.uint8)
    found = run(asm, {"a": data}).tensors["d"]
    for index in np.ndindex(*ext):
        at = base + sum(i * s for i, s in zip(index, stride))
        assert found[index].tobytes() == data[at : at + 2].tobytes()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 3])
@pytest.mark.parametrize("kernel", [1, 3])
def test_window_is_im2col(stride: int, dilation: int, pad: int, kernel: int) -> None:
    height, width, channels = 9, 7, 2
    reach = dilation * (kernel - 1)
    oh, ow = (height + 2 * pad - reach - 1) // stride + 1, (width + 2 * pad - reach - 1) // stride + 1
    image = reals((height, width, channels))
    asm = Asm()
    a = asm.tensor("a", image.shape, "fp32", "input")
    ext = (oh, ow, kernel, kernel, channels)
    d = asm.tensor("d", ext, "fp32", "output")
    source = asm.d(
        "dram", "fp32", ext, a, (0, 0, 0, 0, 4), axis=(0, 1, 0, 1, -1), coef=(stride, stride, dilation, dilation, 0),
        origin=(-pad, -pad), limit=(height, width), axis_stride=(width * channels * 4, channels * 4), pad_value=-7.0,
    )  # fmt: skip
    asm.op("cp", asm.d("dram", "fp32", ext, d), source)
    values = run(asm, {"a": image})
    bordered = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), constant_values=-7.0)
    expected = np.empty(ext, np.float32)
    for y, x, r, s in np.ndindex(*ext[:4]):
        expected[y, x, r, s] = bordered[y * stride + r * dilation, x * stride + s * dilation]
    np.testing.assert_array_equal(values.tensors["d"], expected)
    assert values.launches[0].read_bytes["dram"] == int((expected != -7.0).sum()) * 4, "padding must not be fetched"


def test_window_registers_move_it() -> None:
    asm = Asm()
    a, d = asm.tensor("a", (8,), "fp32", "input"), asm.tensor("d", (4,), "fp32", "output")
    source = asm.d("dram", "fp32", (4,), a, (0,), axis=(0,), coef=(-1,), origin=(1,), origin_reg=(0,), limit_reg=(1,),
                   axis_stride=(4,), pad_value=9.0)  # fmt: skip
    asm.op("cp", asm.d("dram", "fp32", (4,), d), source)
    found = run(asm, {"a": np.arange(8, dtype=np.float32)}, args=[[4, 5]]).tensors["d"]
    np.testing.assert_array_equal(found, [9, 4, 3, 2])  # coordinates 5 (out), 4, 3, 2


def test_windowed_destination_drops_elements() -> None:
    asm = Asm()
    a, d = asm.tensor("a", (4,), "fp32", "input"), asm.tensor("d", (4,), "fp32", "output")
    target = asm.d("dram", "fp32", (4,), d, (0,), axis=(0,), coef=(1,), origin=(2,), limit=(4,), axis_stride=(4,))
    asm.op("cp", target, asm.d("dram", "fp32", (4,), a))
    found = run(asm, {"a": np.arange(4, dtype=np.float32)}).tensors["d"]
    np.testing.assert_array_equal(found[2:], [0, 1])
    assert np.isnan(found[:2]).all(), "unwritten memory is poison"


@pytest.mark.parametrize("dims", [1, 2])
def test_gather(dims: int) -> None:
    table = reals((6, 3))
    rows = np.array([5, 0, 3, 3], np.int64).reshape((4,) if dims == 1 else (2, 2))
    shape = (*rows.shape, 3)
    asm = Asm()
    a, b = asm.tensor("a", (6, 3), "fp32", "input"), asm.tensor("b", rows.shape, "int64", "input")
    d = asm.tensor("d", shape, "bf16", "output")
    source = asm.d("dram", "fp32", (6, 3), a)
    asm.op("cpg", asm.d("dram", "bf16", shape, d), source, asm.d("dram", "int64", rows.shape, b))
    found = run(asm, {"a": table, "b": rows}).tensors["d"]
    np.testing.assert_array_equal(found, round_to(table[rows], dtype("bf16")))
    with pytest.raises(SimulationError, match="leaves the table of 6 rows"):
        run(asm, {"a": table, "b": rows + 1})


def product(dataflow: str, kind: str, left: Any, right: Any, acc_kind: str, twice: bool = False) -> Values:
    """D [m, n] = left [m, k] x right [k, n] (twice the sum with accumulation)."""
    m, k, n = *left.shape, right.shape[1]
    asm = Asm()
    a, b = asm.tensor("a", (m, k), kind, "input"), asm.tensor("b", (k, n), kind, "weight")
    d = asm.d("dram", acc_kind, (m, n), asm.tensor("d", (m, n), acc_kind, "output"), rows=1)
    left_desc, right_desc = asm.d("dram", kind, (m, k), a, rows=1), asm.d("dram", kind, (k, n), b, rows=1)
    asm.put("li", dst=3, imm=1)
    for i in range(1 + twice):
        more: dict[str, int] = {"c": 2 + i}  # register 2 is 0, register 3 is 1
        if dataflow == "os":
            asm.op("mm", d, left_desc, right_desc, **more)
            continue
        flag = STATIONARY_A if dataflow == "is" else 0
        if i == 0:
            asm.op("ldw", None, left_desc if flag else right_desc, flags=flag)
            more["flags"] = flag | NEXT_TILE
        else:
            more["flags"] = flag
        asm.op("mm", d, right_desc if flag else left_desc, **more)
    return run(asm, {"a": left, "b": right}, dataflow)


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
@pytest.mark.parametrize(("kind", "acc"), [("fp32", "fp32"), ("bf16", "fp32"), ("fp8_e4m3", "fp32"), ("fp16", "fp16")])
@pytest.mark.parametrize("twice", [False, True])
def test_float_products(dataflow: str, kind: str, acc: str, twice: bool) -> None:
    left, right = (round_to(reals(s, i), dtype(kind)) for i, s in enumerate([(5, 11), (11, 3)]))
    values = product(dataflow, kind, left, right, acc, twice)
    exact = left.astype(np.float64) @ right.astype(np.float64) * (1 + twice)
    bound = (np.abs(left.astype(np.float64)) @ np.abs(right.astype(np.float64))) * 24 * 2.0**-24
    bound += np.abs(exact) * 2.0 ** -dtype(acc).mantissa_bits
    assert (np.abs(values.tensors["d"].astype(np.float64) - exact) <= bound).all()
    assert values.launches[0].macs == 5 * 11 * 3 * (1 + twice)


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
@pytest.mark.parametrize(
    ("kind", "inner"), [("int8", 1023), ("int8", 1025), ("uint8", 300), ("int16", 40), ("int4", 33)]
)
def test_integer_products_are_exact(dataflow: str, kind: str, inner: int) -> None:
    """Extreme values everywhere: float32 would lose the last bits of the longer sums."""
    info = ml_dtypes.iinfo(DTYPES[kind].numpy)
    low, high = int(info.min), int(info.max)
    rng = np.random.default_rng(1)
    left = rng.choice([low, low + 1, high], (3, inner)).astype(DTYPES[kind].numpy)
    right = rng.choice([low, high - 1, high], (inner, 2)).astype(DTYPES[kind].numpy)
    exact = left.astype(object) @ right.astype(object)
    wrapped = ((exact + (1 << 31)) % (1 << 32) - (1 << 31)).astype(np.int64)
    np.testing.assert_array_equal(product(dataflow, kind, left, right, "int32").tensors["d"], wrapped)


def test_present_tile_stays_and_next_takes_the_oldest() -> None:
    tiles = [np.full((2, 2), v, np.float32) for v in (1, 10)]
    asm = Asm()
    a = asm.d("dram", "fp32", (1, 2), asm.tensor("a", (1, 2), "fp32", "input"), rows=1)
    outs = [asm.d("dram", "fp32", (1, 2), asm.tensor(f"d{i}", (1, 2), "fp32", "output"), rows=1) for i in range(3)]
    for i in range(2):
        asm.op("ldw", None, asm.d("dram", "fp32", (2, 2), asm.tensor(f"w{i}", (2, 2), "fp32", "weight"), rows=1))
    for out, flags in zip(outs, (NEXT_TILE, 0, NEXT_TILE)):
        asm.op("mm", out, a, flags=flags)
    found = run(asm, {"a": np.ones((1, 2), np.float32), "w0": tiles[0], "w1": tiles[1]}).tensors
    assert [found[f"d{i}"][0, 0] for i in range(3)] == [2, 2, 20]


@pytest.mark.parametrize("flags", [0, NEXT_TILE])
def test_missing_tile(flags: int) -> None:
    asm = Asm()
    a = asm.d("dram", "fp32", (1, 2), asm.tensor("a", (1, 2), "fp32", "input"), rows=1)
    asm.op("mm", a, a, flags=flags)
    with pytest.raises(SimulationError, match="FIFO of unit 0 is empty" if flags else "holds no stationary tile"):
        run(asm, {"a": np.ones((1, 2), np.float32)})


@pytest.mark.parametrize("zero", [0, -5])
@pytest.mark.parametrize("act", ["none", "relu", "clip"])
def test_quantised_fix(zero: int, act: str) -> None:
    """int32 sums with a scale and a bias per column, written as int8."""
    rng = np.random.default_rng(3)
    sums, bias = rng.integers(-9999, 9999, (6, 4)).astype(np.int32), rng.integers(-99, 99, 4).astype(np.int32)
    factor = rng.uniform(0.001, 0.01, 4).astype(np.float32)
    asm = Asm()
    a, b, c = (asm.tensor(*t) for t in (("a", (6, 4), "int32", "input"), ("b", (4,), "int32", "weight"),
                                        ("c", (4,), "fp32", "weight")))  # fmt: skip
    d = asm.tensor("d", (6, 4), "int8", "output", scale=0.5, zero_point=zero)
    asm.op(
        "fix", asm.d("dram", "int8", (6, 4), d, scale=0.5, zero_point=zero), asm.d("dram", "int32", (6, 4), a),
        asm.d("dram", "int32", (6, 4), b, (0, 4)), asm.d("dram", "fp32", (6, 4), c, (0, 4)),
        imm=ACTIVATIONS.index(act), f0=-3.0, f1=20.0,
    )  # fmt: skip
    real = sums.astype(np.float64) * factor + bias
    real = {"none": real, "relu": np.maximum(real, 0), "clip": np.clip(real, -3, 20)}[act]
    expected = np.clip(np.rint(real / 0.5) + zero, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(run(asm, {"a": sums, "b": bias, "c": factor}).tensors["d"], expected)


@pytest.mark.parametrize(("base", "low"), [(-4, -4), ((1 << 16) - 12, (1 << 16) - 12)])
def test_out_of_bounds(base: int, low: int) -> None:
    asm = Asm()
    a = asm.tensor("a", (4,), "fp32", "input")
    asm.op("cp", asm.d("spm", "fp32", (4,), base), asm.d("dram", "fp32", (4,), a))
    place = "launch 0, kernel k, core 0, instruction 0 `cp %d0, %d1`: "
    fault = rf"operand D touches bytes \[{low}, {low + 16}\) of spm, which has 65536"
    with pytest.raises(SimulationError, match=place + fault):
        run(asm, {"a": np.zeros(4, np.float32)})


def test_just_in_bounds() -> None:
    asm = Asm()
    a, d = asm.tensor("a", (4,), "fp32", "input"), asm.tensor("d", (4,), "fp32", "output")
    last = asm.d("spm", "fp32", (4,), (1 << 16) - 16)
    asm.op("cp", last, asm.d("dram", "fp32", (4,), a))
    asm.op("cp", asm.d("dram", "fp32", (4,), d), last)
    assert run(asm, {"a": np.arange(4, dtype=np.float32)}).tensors["d"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("given", [np.zeros(3, np.float32), np.zeros(4, np.float64)])
def test_initial_values_are_checked(given: Any) -> None:
    asm = Asm()
    asm.tensor("a", (4,), "fp32", "input")
    with pytest.raises(SimulationError, match=r"tensor a is float32\[4\]"):
        run(asm, {"a": given})


@pytest.mark.parametrize("kind", [n for n in DTYPES if n != "bool"])
def test_unwritten_memory_shows(kind: str) -> None:
    asm = Asm()
    asm.tensor("d", (6,), kind, "output")
    found = run(asm, {}).tensors["d"].astype(np.float64)
    assert np.isnan(found).all() if dtype(kind).is_float else (np.abs(found) >= 1).all()


def test_kept_values_survive_reuse_of_their_address() -> None:
    """Two operators write the same bytes; each kept tensor is copied after its own launch."""
    asm = Asm()
    a = asm.d("dram", "fp32", (4,), asm.tensor("a", (4,), "fp32", "input"))
    place = asm.tensor("x", (4,), "fp32", "temp")
    asm.tensors.append(replace(asm.tensors[-1], name="y"))
    asm.op("v.adds", asm.d("dram", "fp32", (4,), place), a, f0=1.0)
    asm.op("v.adds", a, a, f0=10.0)
    program = asm.program(launches=2)
    first, second = (replace(program.operators[0], outputs=(n,)) for n in "xy")
    program.launches["operator"] = [0, 1]
    program = replace(program, operators=(first, second))
    kept = execute(program, machine(), {"a": np.zeros(4, np.float32)}, no_host, keep=lambda t: t.role == "temp").tensors
    assert {n: v[0] for n, v in kept.items()} == {"x": 1.0, "y": 11.0}


def test_host_launch_and_cores() -> None:
    """Two cores add to their own half, then the host doubles."""
    asm = Asm()
    a, d = asm.tensor("a", (8,), "fp32", "input"), asm.tensor("d", (8,), "fp32", "output")
    asm.put("csr", dst=1)
    asm.put("muli", dst=1, a=1, imm=16)
    asm.op("v.adds", asm.d("dram", "fp32", (4,), d, base_reg=1), asm.d("dram", "fp32", (4,), a, base_reg=1), f0=1.0)
    program = asm.program(launches=2, cores=2)
    program.launches["kind"][1], program.launches["host_op"][1] = 1, 0
    program = replace(program, host_ops=(HostOp(("double",), ("d",), ("d",)),))

    def double(work: HostOp, values: list[tuple[Tensor, Any]]) -> list[Any]:
        assert [t.name for t, _ in values] == ["d"]
        return [values[0][1] * 2]

    seen: list[tuple[int, int]] = []
    values = execute(program, machine(cores=2), {"a": np.arange(8, dtype=np.float32)}, double,
                     observer=lambda launch, core, step: seen.append((launch, core)))  # fmt: skip
    np.testing.assert_array_equal(values.tensors["d"], (np.arange(8) + 1) * 2)
    assert seen == [(0, 0), (0, 1)]
    assert values.launches[0].read_bytes == {"dram": 32} == values.launches[0].written_bytes


def test_zero_extent_does_nothing() -> None:
    asm = Asm()
    a = asm.tensor("a", (4,), "fp32", "input")
    asm.op("v.adds", asm.d("dram", "fp32", (4,), a, ext_reg=(0,)), asm.d("dram", "fp32", (4,), a, ext_reg=(0,)), f0=1.0)
    program = asm.program([[0]])
    found = execute(program, machine(), {"a": np.ones(4, np.float32)}, no_host, keep=lambda t: True)
    assert found.tensors["a"].tolist() == [1, 1, 1, 1]
