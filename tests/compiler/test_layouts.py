"""Orders in memory: golden examples of the course, conversion there and back, bytes."""

import numpy as np
import pytest

from compiler.layouts import ORDERS, Fractal, blow_up, channel_block, load, merged_groups, store, stored_shape
from isa.loader import load_machine

FP16 = Fractal(16)
# Elements 0..15 of a 4 x 4 matrix with fractals of 2 x 2; NZ as the AISystem course has it.
GOLDEN = {
    "ND": list(range(16)),
    "NZ": [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15],
    "ZZ": [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
    "ZN": [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15],
}


@pytest.mark.parametrize("order", GOLDEN)
def test_a_matrix_of_four_fractals(order: str) -> None:
    stored = store(order, np.arange(16).reshape(4, 4), Fractal(2, rows=2))
    assert stored.reshape(-1).tolist() == GOLDEN[order]


# Shapes that fill their fractals, and shapes that do not.
SHAPES = {
    "ND": [(3, 5)],
    "NZ": [(32, 48), (17, 5), (2, 3, 20, 33)],
    "ZZ": [(32, 48), (17, 5), (2, 20, 33)],
    "ZN": [(32, 48), (17, 5), (2, 20, 33)],
    "NC1HWC0": [(2, 3, 5, 32), (1, 4, 4, 3), (2, 3, 5, 17)],
    "FRACTAL_Z": [(3, 3, 32, 64), (7, 5, 3, 17), (2, 1, 1, 20, 40)],
}


@pytest.mark.parametrize(("order", "shape"), [(o, s) for o, shapes in SHAPES.items() for s in shapes])
def test_there_and_back(order: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    stored = store(order, values, FP16)
    assert stored.shape == stored_shape(order, shape, FP16)
    assert np.array_equal(load(order, stored, shape, FP16), values)
    assert np.count_nonzero(stored) == values.size  # what is padded is zero
    assert set(SHAPES) == set(ORDERS)


def test_channels_in_blocks_are_what_the_course_derives_from_both_plain_orders() -> None:
    x = np.random.default_rng(1).standard_normal((2, 32, 4, 6))  # NCHW
    last = x.transpose(0, 2, 3, 1)
    from_last = last.reshape(2, 4, 6, 2, 16).transpose(0, 3, 1, 2, 4)
    from_first = x.reshape(2, 2, 16, 4, 6).transpose(0, 1, 3, 4, 2)
    assert np.array_equal(store("NC1HWC0", last, FP16), from_last)
    assert np.array_equal(from_last, from_first)


def test_filters_are_the_right_operand_by_fractals() -> None:
    """FRACTAL_Z is ZN of the matrix [C1 Kh Kw C0, N], and NZ of its transpose."""
    weights = np.random.default_rng(2).standard_normal((3, 5, 32, 48))
    stored = store("FRACTAL_Z", weights, FP16)
    assert stored.shape == (2 * 3 * 5, 3, 16, 16)
    matrix = weights.reshape(3, 5, 2, 16, 48).transpose(2, 0, 1, 3, 4).reshape(-1, 48)
    assert np.array_equal(stored, store("ZN", matrix, FP16))
    assert np.array_equal(stored, store("NZ", matrix.T, FP16))


@pytest.mark.parametrize(("channels", "times"), [(3, 5.33), (17, 1.88), (64, 1.0)])
def test_blow_up_of_bytes_in_fp16(channels: int, times: float) -> None:
    assert blow_up("NC1HWC0", (1, 7, 7, channels), FP16) == pytest.approx(times, abs=0.005)


def test_a_block_is_a_row_of_the_machines_fractal() -> None:
    machine = load_machine("ascend-910b2").machine
    assert [channel_block(machine, kind) for kind in ("int8", "fp16", "fp32")] == [32, 16, 8]
    assert channel_block(load_machine("tpu-v3").machine, "bf16") == 0
    assert channel_block(load_machine("cambricon-mlu").machine, "int8") == 0


@pytest.mark.parametrize(
    ("groups", "per_group", "per_out", "merged"),
    [
        (32, 1, 1, 16), (24, 1, 1, 16), (3, 1, 1, 16), (8, 4, 4, 4), (2, 32, 16, 1), (2, 24, 24, 2),
        (3, 24, 24, 0),  # a fourth group would need 96 channels, blocks have room for 80
        (24, 1, 2, 0),  # 24 channels fill two blocks, 48 fill three
    ],
)  # fmt: skip
def test_groups_fill_blocks_or_do_not(groups: int, per_group: int, per_out: int, merged: int) -> None:
    assert merged_groups(groups, per_group, per_out, 16) == merged
