"""Properties of the operator registry: infer agrees with evaluate, layouts agree, work counts are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.frontend.builder import Builder
from compiler.graph import Node, TensorType
from compiler.ops import OP_CLASSES, OPS, op_def, register, run_graph
from isa.errors import ModelError

RNG = np.random.default_rng(11)


def kinds(*arrays: np.ndarray) -> list[TensorType]:
    return [TensorType(tuple(a.shape), "fp32") for a in arrays]


def apply(op: str, arrays: list[np.ndarray], **attrs: Any) -> np.ndarray:
    """Evaluate and check the shape against infer."""
    node = Node("n", op, tuple(f"x{i}" for i in range(len(arrays))), ("y",), attrs)
    [kind] = op_def(op).infer(node, kinds(*arrays), [None] * len(arrays))
    [value] = op_def(op).evaluate(node, arrays)
    assert kind.shape == tuple(value.shape)
    return value


def rnd(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


POINTWISE = ["Relu", "Tanh", "Add", "Mul"]
STEPS = st.sampled_from([*POINTWISE, "Flatten", "Transpose", "Reshape", "Slice", "Concat", "Pad", "ReduceMax"])


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), steps=st.lists(STEPS, max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_inferred_shapes_are_the_evaluated_ones(shape: list[int], steps: list[str], data: st.DataObject) -> None:
    b = Builder("random")
    name = b.input("x", TensorType(tuple(shape), "fp32"))
    for index, op in enumerate(steps):
        dims = b.type(name).shape
        axis = data.draw(st.integers(0, max(0, len(dims) - 1)))
        attrs: dict[str, Any] = {
            "Transpose": {"perm": tuple(data.draw(st.permutations(range(len(dims)))))},
            "Reshape": {"shape": (*reversed(dims), 1)},
            "Slice": {"starts": (data.draw(st.integers(-3, 0)),), "ends": (9,), "axes": (axis,), "steps": (1,)},
            "Concat": {"axis": axis},
            "Pad": {"pads": tuple(data.draw(st.integers(0, 2)) for _ in range(2 * len(dims)))},
            "ReduceMax": {"axes": (axis,), "keepdims": 1},
            "Flatten": {"axis": axis},
        }.get(op, {})
        operands = [name, name] if op in ("Add", "Mul", "Concat") else [name]
        if max(b.type(name).shape, default=1) > 500 and op in ("Concat", "Pad"):
            continue
        name = b.emit(f"s{index}", op, operands, attrs=attrs)
    graph = b.finish([name])
    graph.verify()
    found = run_graph(graph, {"x": rnd(*shape)}, keep=lambda _: True)
    assert {n: v.shape for n, v in found.items()} == {n: graph.tensors[n].shape for n in found}


def last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


SPATIAL = {"strides": (2, 1), "pads": (1, 0, 1, 2)}


@pytest.mark.parametrize("group", [1, 2, 6])
def test_channel_last_convolution(group: int) -> None:
    x, w, bias = rnd(2, 6, 7, 8), rnd(12, 6 // group, 3, 2), rnd(12)
    attrs = {**SPATIAL, "group": group}
    wanted = last(apply("Conv", [x, w, bias], **attrs))
    found = apply("Conv", [last(x), w.transpose(2, 3, 1, 0), bias], layout="NHWC", **attrs)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_channel_last_transposed_convolution() -> None:
    x, w = rnd(2, 6, 5, 4), rnd(6, 2, 3, 2)
    attrs = {**SPATIAL, "group": 3}
    wanted = last(apply("ConvTranspose", [x, w], **attrs))
    found = apply("ConvTranspose", [last(x), w.transpose(2, 3, 0, 1)], layout="NHWC", **attrs)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


CHANNELS = [rnd(6), rnd(6)]


@pytest.mark.parametrize(
    ("op", "more", "attrs"),
    [
        ("MaxPool", [], {**SPATIAL, "kernel_shape": (3, 3)}),
        ("AveragePool", [], {**SPATIAL, "kernel_shape": (3, 3), "count_include_pad": 1}),
        ("LpPool", [], {**SPATIAL, "kernel_shape": (3, 3)}),
        ("GlobalAveragePool", [], {}),
        ("GlobalMaxPool", [], {}),
        ("BatchNormalization", [*CHANNELS, rnd(6), np.abs(rnd(6)) + 0.1], {}),
        ("InstanceNormalization", CHANNELS, {}),
        ("GroupNormalization", CHANNELS, {"num_groups": 3}),
        ("LRN", [], {"size": 3, "alpha": 0.3}),
    ],
)
def test_channel_last_equals_channel_first(op: str, more: list[np.ndarray], attrs: dict[str, Any]) -> None:
    x = rnd(2, 6, 7, 8)
    wanted = last(apply(op, [x, *more], **attrs))
    np.testing.assert_allclose(apply(op, [last(x), *more], layout="NHWC", **attrs), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_convolution_work(layout: str) -> None:
    """macs = outputs x channels of a group x kernel; the bias adds one operation an output."""
    shapes = {"NCHW": ((1, 6, 8, 8), (4, 3, 3, 3)), "NHWC": ((1, 8, 8, 6), (3, 3, 3, 4))}[layout]
    types = [TensorType(s, "fp32") for s in (*shapes, (4,))]
    node = Node("c", "Conv", ("x", "w", "b"), ("y",), {"group": 2, "layout": layout})
    outputs = op_def("Conv").infer(node, types, [None] * 3)
    work = op_def("Conv").work(node, types, outputs)
    assert work.macs == 4 * 6 * 6 * 3 * 9
    assert work.flops == 2 * work.macs + 4 * 6 * 6


def test_other_work() -> None:
    for op, shapes, attrs, macs in (
        ("MatMul", [(5, 3, 4), (4, 7)], {}, 5 * 3 * 4 * 7),
        ("Gemm", [(4, 3), (7, 4)], {"transA": 1, "transB": 1}, 3 * 4 * 7),
        ("ConvTranspose", [(1, 6, 5, 5), (6, 2, 3, 3)], {"strides": (2, 2)}, 6 * 25 * 2 * 9),
        ("Einsum", [(2, 3), (3, 5)], {"equation": "ij,jk->ik"}, 30),
        ("Add", [(4, 5), (5,)], {}, 0),
    ):
        types = [TensorType(s, "fp32") for s in shapes]
        node = Node("n", op, ("a", "b"), ("y",), attrs)
        outputs = op_def(op).infer(node, types, [None, None])
        work = op_def(op).work(node, types, outputs)
        assert (op, work.macs) == (op, macs)
        assert work.flops == (2 * macs or outputs[0].elements)


def test_small_integers_accumulate_exactly() -> None:
    a, b = RNG.integers(-128, 128, (3, 9000)).astype(np.int8), RNG.integers(-128, 128, (9000, 4)).astype(np.int8)
    node = Node("m", "MatMul", ("a", "b"), ("y",))
    [kind] = op_def("MatMul").infer(node, [TensorType((3, 9000), "int8"), TensorType((9000, 4), "int8")], [None, None])
    [found] = op_def("MatMul").evaluate(node, [a, b])
    assert kind.dtype == "int32"
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


def test_registry() -> None:
    assert {row.op_class for row in OPS.values()} == set(OP_CLASSES)
    with pytest.raises(ModelError, match=r"nearest supported: .*Softmax"):
        op_def("SoftMaxx")
    row = OPS["Relu"]
    with pytest.raises(ValueError, match="already defined"):
        register("Relu", "elementwise", row.infer, row.evaluate, row.work)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "reason"),
    [
        ("Add", [(2, 3), (4,)], {}, "cannot be broadcast"),
        ("MatMul", [(2, 3), (4, 5)], {}, "inner extents differ"),
        ("Conv", [(1, 3, 8, 8), (4, 2, 3, 3)], {}, "do not agree"),
        ("Conv", [(1, 3, 2, 8), (4, 3, 3, 3)], {}, "larger than the padded input"),
        ("Conv", [(1, 3, 8, 8), (4, 3, 3, 3)], {"strides": (0, 1)}, ">= 1"),
        ("Conv", [(1, 3, 8, 8), (4, 3, 3, 3)], {"layout": "CHWN"}, "not 'NCHW' or 'NHWC'"),
        ("Reshape", [(2, 3)], {"shape": (7,)}, "cannot be reshaped"),
        ("Reshape", [(2, 3)], {}, "attribute 'shape' is required"),
        ("Transpose", [(2, 3)], {"perm": (0, 0)}, "not a permutation"),
        ("Concat", [(2, 3), (3, 3)], {"axis": 1}, "differ outside axis"),
        ("Softmax", [(2, 3)], {"axis": 2}, r"outside \[-2, 2\)"),
        ("Squeeze", [(2, 3)], {"axes": (0,)}, "only 1 can be squeezed"),
        ("TopK", [(2, 3)], {"k": 4}, r"k 4 is outside"),
        ("NonZero", [(2, 3)], {}, "depends on tensor contents"),
        ("Pad", [(2, 3)], {"pads": (0, -4, 0, 0)}, "remove more"),
        ("Einsum", [(2, 3), (4, 5)], {"equation": "ij,jk->ik"}, "is both"),
        ("DepthToSpace", [(1, 6, 2, 2)], {"blocksize": 2}, "cannot be divided"),
    ],
)
def test_type_errors_name_the_node(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any], reason: str) -> None:
    node = Node("odd", op, tuple(f"x{i}" for i in range(len(shapes))), ("y",), attrs)
    with pytest.raises(ModelError, match=f"'odd' \\({op}\\).*{reason}"):
        op_def(op).infer(node, [TensorType(s, "fp32") for s in shapes], [None] * len(shapes))


def test_gather_index_out_of_range() -> None:
    node = Node("g", "Gather", ("x", "i"), ("y",))
    [found] = op_def("Gather").evaluate(node, [rnd(3, 2), np.int64([2, -3])])
    assert found.shape == (2, 2)
    with pytest.raises(ModelError, match="outside an axis of extent 3"):
        op_def("Gather").evaluate(node, [rnd(3, 2), np.int64([3])])
