"""The sample programs assemble, are legal on their machines, and compute what their comments say."""

from __future__ import annotations

import math
from importlib import resources

import numpy as np
import numpy.typing as npt
import pytest
from program_strategies import assert_equal

from isa import assemble, disassemble
from isa.loader import load_machine
from isa.machine import Machine
from isa.program import HostOp, Program, Tensor
from isa.verify import verify
from npusim.functional.execute import execute

SHIPPED = sorted(f.name[:-4] for f in resources.files("traces").iterdir() if f.name.endswith(".asm"))
RNG = np.random.default_rng(5)


def sample(name: str) -> Program:
    return assemble(resources.files("traces").joinpath(f"{name}.asm").read_text(encoding="utf-8"), name)


def no_host(op: HostOp, inputs: list[tuple[Tensor, npt.NDArray[np.generic]]]) -> list[npt.NDArray[np.generic]]:
    raise AssertionError("the samples have no host operators")


def preset(name: str) -> Machine:
    """The machine that the sample names: users run it there."""
    return load_machine(sample(name).machine).machine


def test_every_sample_is_tested() -> None:
    assert SHIPPED == [
        "ascend_blocks", "ascend_conv", "ascend_matmul", "ascend_mix", "ascend_pingpong", "ascend_softmax", "gemm_4x4",
        "triangle", "vector_add",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_samples_are_legal_and_round_trip(name: str) -> None:
    program = sample(name)
    assert program.name == name
    verify(program, preset(name))
    assert_equal(program, assemble(disassemble(program)))


def test_ascend_pingpong() -> None:
    x = RNG.normal(size=(64, 32)).astype(np.float32)
    y = execute(sample("ascend_pingpong"), preset("ascend_pingpong"), {"x": x}, no_host).tensors["y"]
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-6)


def test_ascend_matmul() -> None:
    a, b = RNG.integers(-9, 9, (64, 128)).astype(np.float16), RNG.integers(-9, 9, (128, 64)).astype(np.float16)
    c = execute(sample("ascend_matmul"), preset("ascend_matmul"), {"a": a, "b": b}, no_host).tensors["c"]
    np.testing.assert_array_equal(c, (a.astype(np.float64) @ b).astype(np.float16))


def test_ascend_softmax() -> None:
    x = RNG.normal(size=(64, 96)).astype(np.float32)
    y = execute(sample("ascend_softmax"), preset("ascend_softmax"), {"x": x}, no_host).tensors["y"]
    powers = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    np.testing.assert_allclose(y, powers / powers.sum(axis=1, keepdims=True), rtol=2e-6)


def test_ascend_conv() -> None:
    x = RNG.integers(-4, 4, (8, 8, 16)).astype(np.float16)
    w = RNG.integers(-4, 4, (3, 3, 16, 32)).astype(np.float16)
    y = execute(sample("ascend_conv"), preset("ascend_conv"), {"x": x, "w": w}, no_host).tensors["y"]
    around = np.pad(x.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    sums = sum(around[i : i + 8, j : j + 8] @ w[i, j].astype(np.float64) for i in range(3) for j in range(3))
    np.testing.assert_array_equal(y, np.maximum(sums, 0).astype(np.float16))


def test_ascend_blocks() -> None:
    a, b = RNG.integers(-99, 99, (2, 8, 2048)).astype(np.float16)
    values = execute(sample("ascend_blocks"), preset("ascend_blocks"), {"a": a, "b": b}, no_host).tensors
    np.testing.assert_array_equal(values["c"], a + b)


def test_ascend_mix() -> None:
    x, w = RNG.normal(size=(384, 128)).astype(np.float16), RNG.normal(size=(128, 256)).astype(np.float16)
    y = execute(sample("ascend_mix"), preset("ascend_mix"), {"x": x, "w": w}, no_host).tensors["y"]
    sums = x.astype(np.float64) @ w
    expected = sums * np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))(sums)
    np.testing.assert_allclose(y, expected, rtol=2e-3, atol=1e-3)


def test_vector_add() -> None:
    x, y = RNG.normal(size=(2, 40, 32)).astype(np.float32)
    values = execute(sample("vector_add"), preset("vector_add"), {"x": x, "y": y}, no_host).tensors
    np.testing.assert_array_equal(values["z"], x + y)


def test_gemm() -> None:
    a, b = RNG.integers(-9, 9, (8, 8), np.int8), RNG.integers(-9, 9, (8, 6), np.int8)
    values = execute(sample("gemm_4x4"), preset("gemm_4x4"), {"a": a, "b": b}, no_host).tensors
    expected = np.clip(np.rint(np.maximum(a.astype(int) @ b, 0) / 4), -128, 127)
    np.testing.assert_array_equal(values["c"], expected)


def test_triangle() -> None:
    x = RNG.normal(size=(16, 16)).astype(np.float32)
    y = execute(sample("triangle"), preset("triangle"), {"x": x}, no_host).tensors["y"]
    np.testing.assert_array_equal(np.tril(y), np.tril(x))
    assert not np.array_equal(np.triu(y, 1), np.triu(x, 1))
