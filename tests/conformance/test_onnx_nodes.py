"""The node models of the `onnx` package, through the importer, the reference and a program.

By default a fixed part of them runs; NPUSIM_NODE_MODELS=all runs every one.
"""

from __future__ import annotations

import os
import re

import pytest
from node_models import NodeModel, node_models, verdict

EVERY = 1 if os.environ.get("NPUSIM_NODE_MODELS") == "all" else 4

# Each of these compiles into instructions alone on a TPU v3.
OPERATORS = (
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Attention", "AveragePool", "BatchNormalization", "Cast", "CastLike",
    "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum",
    "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten",
    "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "LogSoftmax", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mod", "Mul",
    "Neg", "OneHot", "Or", "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
    "RMSNormalization", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "Round",
    "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign",
    "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Tile",
    "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
)  # fmt: skip

# Models that are left out, by name, and why.
LEFT_OUT = {
    "uint16|uint32|uint64": "unsigned integers of more than 8 bits are stored by none of the machines",
    "INT2|UINT4|E2M1|FNUZ|E8M0": "formats of ONNX that no machine described here has",
    "uint2|int2|uint4|float4|linear_uint16": "the same, and unsigned integers of 16 bits",
    "no_saturate.*E4M3FN": "what is too large for e4m3 becomes NaN: stores saturate",
    "string": "tensors of text",
    "training": "training: the random mask, or statistics of the batch",
    "attention.*(qk_matmul|nonpad|padded_kv|ext_cache|gqa_rank4_mask)(?!.*_expanded)":
        "an Attention that counts the valid keys, or writes its scores out, is refused",
    "identity_(opt|sequence)": "sequences and optionals are no tensors",
    "maxpool_with_argmax": "the indices of the maxima: no unit returns them",
    "(lstm_with_peepholes|(lstm|gru)_batchwise)": "peepholes, or the batch before the time, are not imported",
    "einsum_batch_diagonal": "an Einsum that repeats a letter in one term is estimated",
    "_to_INT4": "a value beyond the range of an integer converts to something undefined",
}


def chosen(op: str) -> list[NodeModel]:
    """The models of an operator that are run."""
    found = [m for m in node_models().values() if m.op == op and not any(re.search(p, m.name) for p in LEFT_OUT)]
    return found[::EVERY]


@pytest.mark.parametrize("op", OPERATORS)
def test_every_node_runs_in_instructions(op: str) -> None:
    found = {m.name: verdict(m, "tpu-v3") for m in chosen(op)}
    assert found and {k: v for k, v in found.items() if v} == {}


@pytest.mark.parametrize("hw", ["gemmini-16x16", "tpu-v1"])
@pytest.mark.parametrize("op", [op for op in OPERATORS if EVERY == 1 or len(op) < 5])
def test_other_machines_may_leave_nodes_to_the_host(op: str, hw: str) -> None:
    found = {m.name: verdict(m, hw) for m in chosen(op)}
    assert {k: v for k, v in found.items() if v and not v.startswith("approximated")} == {}


def test_what_is_left_out_exists() -> None:
    assert [p for p in LEFT_OUT if not any(re.search(p, name) for name in node_models())] == []
