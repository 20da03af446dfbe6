"""The operators that the compiler knows, by ONNX name: types, numpy meaning and amount of work.

The numpy meaning is the reference that programs are checked against: floats compute in float32 (float64 if an operand
is), integers exactly; the caller rounds the result to the tensor's dtype.

Canonical form (what the importer emits and passes must keep). Everything that fixes a shape is an attribute, not an
input; attributes are ints, floats, strings or tuples of them.

    Reshape, Expand        shape                          Squeeze, Unsqueeze, Reduce*   axes, keepdims
    Slice                  starts, ends, axes, steps      Split                         axis, split (sizes)
    Pad                    pads (2 x rank), mode, value   Tile                          repeats
    Clip                   min, max (absent: no limit)    Resize                        sizes, scales (every axis)
    Cast                   to (npusim dtype name)         TopK, OneHot, CumSum, Trilu   k; depth, axis; axis; k
    Conv, pools            strides, dilations, pads, kernel_shape, group; auto_pad resolved
    ConstantOfShape        shape, value, dtype            Softmax, LogSoftmax           axis, one axis only

`layout='NHWC'` on Conv, ConvTranspose, pools and channel-wise normalisations puts the channel last; Conv weights are
then [k..., C/g, M] and ConvTranspose weights [k..., C, M/g]. Conv also takes `layout='NC1HWC0'`; TransData (src, dst,
channels, c0) converts between NCHW or NHWC and NC1HWC0.
"""

from compiler.ops import (  # noqa: F401  (importing a family registers its operators)
    activation,
    conv,
    custom,
    dilate,
    elementwise,
    indexing,
    layout,
    matmul,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    shape,
)
from compiler.ops.base import OP_CLASSES, OPS, OpDef, Work, nearest, op_def, register
from compiler.ops.interpret import run_graph

__all__ = ["OPS", "OP_CLASSES", "OpDef", "Work", "nearest", "op_def", "register", "run_graph"]
