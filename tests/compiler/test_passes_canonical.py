"""Canonical forms and batch-norm folding: each operator becomes what kernels take, with equal values."""

import numpy as np
import pytest
from pass_fixture import apply, assert_body, assert_same_values, graph_of, ops

from compiler.graph import Constant
from compiler.passes import bn_fold, canonical, shapes
from compiler.zoo import build


def model(*nodes: str, out: str = "y", x: str = "fp32[2,4,6]") -> str:
    return "\n".join(['graph "t"', f"input %x : {x}", *nodes, f"output %{out}"])


def test_gemm_becomes_matmul_with_bias() -> None:
    text = model(
        "const %w : fp32[3,4]", "const %b : fp32[3]", '%y : fp32[2,3] = Gemm(%x, %w, %b) {"transB": 1}', x="fp32[2,4]"
    )
    after = apply(canonical.run, text)
    assert_body(after, "%y : fp32[2,3] = MatMul(%x, %w.t, %b)")
    assert after.tensors["w.t"].shape == (4, 3)


GEMMS = {
    "alpha into the weight": ('Gemm(%x, %w, %b) {"alpha": 0.5, "beta": 2.0, "transB": 1}', {"MatMul": 1}),
    "no bias": ('Gemm(%x, %w) {"transB": 1}', {"MatMul": 1}),
    "beta of zero": ('Gemm(%x, %w, %b) {"beta": 0.0, "transB": 1}', {"MatMul": 1}),
    "row of biases": ('Gemm(%x, %w, %row) {"transB": 1}', {"MatMul": 1}),
    "full C": ('Gemm(%x, %w, %full) {"transB": 1}', {"MatMul": 1, "Add": 1}),
    "computed C": ('Gemm(%x, %w, %c) {"beta": 0.5, "transB": 1}', {"MatMul": 1, "Mul": 1, "Add": 1}),
    "computed weight": ('Gemm(%x, %v, %b) {"alpha": 0.5, "transB": 1}', {"MatMul": 1, "Mul": 1, "Add": 1}),
}


@pytest.mark.parametrize("name", GEMMS)
def test_gemm(name: str) -> None:
    call, expected = GEMMS[name]
    text = model(
        "input %c : fp32[2,3]", "input %v : fp32[3,4]", "const %w : fp32[3,4]", "const %b : fp32[3]",
        "const %row : fp32[1,3]", "const %full : fp32[2,3]", f"%y : fp32[2,3] = {call}", x="fp32[2,4]",
    )  # fmt: skip
    assert ops(apply(canonical.run, text)) == expected


FORMS = {
    "flatten": ('%y : fp32[2,24] = Flatten(%x) {"axis": 1}', {"Reshape": 1}),
    "unsqueeze": ('%y : fp32[2,1,4,6] = Unsqueeze(%x) {"axes": [1]}', {"Reshape": 1}),
    "global pool": ("%y : fp32[2,4,1] = GlobalAveragePool(%x)", {"ReduceMean": 1}),
    "global max": ("%y : fp32[2,4,1] = GlobalMaxPool(%x)", {"ReduceMax": 1}),
    "sum of three": ("%y : fp32[2,4,6] = Sum(%x, %x, %x)", {"Add": 2}),
    "mean of three": ("%y : fp32[2,4,6] = Mean(%x, %x, %x)", {"Add": 2, "Mul": 1}),
    "max of one": ("%y : fp32[2,4,6] = Max(%x)", {"Identity": 1}),
    "softmax inside": ('%y : fp32[2,4,6] = Softmax(%x) {"axis": 1}', {"Softmax": 1}),
    "softmax last": ('%y : fp32[2,4,6] = Softmax(%x) {"axis": 2}', {"Softmax": 1}),
    "layer norm of two axes": (
        'const %g : fp32[4,6]\nconst %b : fp32[4,6]\n'
        '%y : fp32[2,4,6] = LayerNormalization(%x, %g, %b) {"axis": 1, "epsilon": 0.00001}',
        {"Reshape": 2, "LayerNormalization": 1},
    ),
    "instance norm": (
        "const %g : fp32[4]\nconst %b : fp32[4]\n%y : fp32[2,4,6] = InstanceNormalization(%x, %g, %b)",
        {"Reshape": 2, "LayerNormalization": 1, "Mul": 1, "Add": 1},
    ),
    "group norm": (
        'const %g : fp32[4]\nconst %b : fp32[4]\n%y : fp32[2,4,6] = GroupNormalization(%x, %g, %b) {"num_groups": 2}',
        {"Reshape": 2, "LayerNormalization": 1, "Mul": 1, "Add": 1},
    ),
    "lone batch norm": (
        "const %g : fp32[4]\nconst %b : fp32[4]\nconst %m : fp32[4]\nconst %v : fp32[4]\n"
        "%y : fp32[2,4,6] = BatchNormalization(%x, %g, %b, %m, %v)",
        {"Mul": 1, "Add": 1},
    ),
    "conv of one axis": (
        'const %w : fp32[6,2,3]\n%y : fp32[2,6,3] = Conv(%x, %w) {"group": 2, "pads": [1, 1], "strides": [2]}',
        {"Reshape": 2, "Conv": 1},
    ),
    "pool of one axis": (
        '%y : fp32[2,4,3] = MaxPool(%x) {"kernel_shape": [2], "strides": [2]}',
        {"Reshape": 2, "MaxPool": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    line, expected = FORMS[name]
    assert ops(apply(canonical.run, model(*line.splitlines()))) == expected


def test_split_becomes_slices() -> None:
    text = model(
        '%a : fp32[2,1,6], %b : fp32[2,3,6] = Split(%x) {"axis": 1, "split": [1, 3]}', "%y : fp32[2,3,6] = Neg(%b)"
    )
    after = apply(canonical.run, text)
    assert ops(after) == {"Slice": 2, "Neg": 1}


def test_clip_limits_become_attributes() -> None:
    text = model("const %low : fp32[] = -0.5", "const %high : fp32[] = 0.5", "%y : fp32[2,4,6] = Clip(%x, %low, %high)")
    assert_body(apply(canonical.run, text), '%y : fp32[2,4,6] = Clip(%x) {"max": 0.5, "min": -0.5}')


@pytest.mark.parametrize("op", ["DepthToSpace", "SpaceToDepth"])
def test_blocks_become_views_and_a_transpose(op: str) -> None:
    shape = "fp32[1,2,4,4]" if op == "DepthToSpace" else "fp32[1,32,1,1]"
    text = model(f'%y : {shape} = {op}(%x) {{"blocksize": 2}}', x="fp32[1,8,2,2]")
    assert ops(apply(canonical.run, text)) == {"Reshape": 2, "Transpose": 1}


TRANSPOSED = {
    "stride 2": ("fp32[4,3,3,3]", '"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]', 1, 1),
    "stride 1": ("fp32[4,3,2,3]", '"strides": [1, 1]', 0, 1),
    "groups": ("fp32[4,3,2,2]", '"strides": [2, 2], "group": 2', 1, 1),
    "dilated": ("fp32[4,3,2,2]", '"strides": [3, 2], "dilations": [2, 1]', 1, 1),
    "more padding than kernel": ("fp32[4,3,1,1]", '"strides": [2, 2], "pads": [1, 1, 0, 0]', 1, 1),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(name: str) -> None:
    weight, attrs, dilates, convs = TRANSPOSED[name]
    text = model(f"const %w : {weight}", f"%y : fp32[1] = ConvTranspose(%x, %w) {{{attrs}}}", x="fp32[2,4,5,3]")
    graph = shapes.run(graph_of(text))
    after = apply(canonical.run, graph)
    assert (ops(after)["Dilate"], ops(after)["Conv"]) == (dilates, convs)


# --- batch normalisation ---------------------------------------------------------------------------------------------

NORM = "const %g : fp32[{c}]\nconst %o : fp32[{c}]\nconst %m : fp32[{c}]\nconst %v : fp32[{c}]"
FOLDED = {
    "conv": ("const %w : fp32[6,2,3]", 'Conv(%x, %w) {"group": 2}', 6),
    "conv with bias": ("const %w : fp32[6,4,3]\nconst %b : fp32[6]", "Conv(%x, %w, %b)", 6),
    "conv transpose": ("const %w : fp32[4,6,3]", "ConvTranspose(%x, %w)", 6),
    "grouped conv transpose": ("const %w : fp32[4,3,3]", 'ConvTranspose(%x, %w) {"group": 2}', 6),
}


@pytest.mark.parametrize("name", FOLDED)
def test_batch_norm_folds(name: str) -> None:
    constants, call, channels = FOLDED[name]
    text = model(
        *constants.splitlines(), *NORM.format(c=channels).splitlines(), f"%a : fp32[1] = {call}",
        "%n : fp32[1] = BatchNormalization(%a, %g, %o, %m, %v)", "%y : fp32[1] = Relu(%n)",
    )  # fmt: skip
    graph = shapes.run(graph_of(text))
    after = apply(bn_fold.run, graph)
    assert [node.op for node in after.nodes] == [call.partition("(")[0], "Relu"]


@pytest.mark.parametrize("call", ['Gemm(%x, %w, %b) {"transB": 1, "beta": 2.0, "alpha": 0.5}', "MatMul(%x, %t, %b)"])
def test_batch_norm_folds_into_products(call: str) -> None:
    text = model(
        "const %w : fp32[3,4]", "const %t : fp32[4,3]", "const %b : fp32[3]", *NORM.format(c=3).splitlines(),
        f"%a : fp32[2,3] = {call}", "%y : fp32[2,3] = BatchNormalization(%a, %g, %o, %m, %v)", x="fp32[2,4]",
    )  # fmt: skip
    assert len(apply(bn_fold.run, text).nodes) == 1


def test_batch_norm_of_a_shared_result_stays() -> None:
    text = model(
        "const %w : fp32[4,4,1]", *NORM.format(c=4).splitlines(), "%a : fp32[2,4,6] = Conv(%x, %w)",
        "%n : fp32[2,4,6] = BatchNormalization(%a, %g, %o, %m, %v)", "%y : fp32[2,4,6] = Add(%a, %n)",
    )  # fmt: skip
    assert ops(apply(bn_fold.run, text)) == {"Conv": 1, "BatchNormalization": 1, "Add": 1}


def test_folding_is_lazy_and_keeps_stripped_weights_stripped() -> None:
    graph = build("resnet18")
    stripped = {n: Constant(c.type) for n, c in graph.constants.items()}
    after = bn_fold.run(graph.with_nodes(graph.nodes, constants=stripped))
    assert ops(graph)["BatchNormalization"] == 20 and ops(after)["BatchNormalization"] == 0
    assert all(c.stripped for c in after.constants.values())

    def refuse() -> np.ndarray:
        raise AssertionError("a weight was built")

    lazy = {n: Constant(c.type, refuse) for n, c in graph.constants.items()}
    bn_fold.run(graph.with_nodes(graph.nodes, constants=lazy))


def test_epsilon_counts() -> None:
    text = model(
        "const %w : fp32[4,4,1]", *NORM.format(c=4).splitlines(), "%a : fp32[2,4,6] = Conv(%x, %w)",
        '%y : fp32[2,4,6] = BatchNormalization(%a, %g, %o, %m, %v) {"epsilon": 0.5}',
    )  # fmt: skip
    assert_same_values(graph_of(text), bn_fold.run(graph_of(text)))
