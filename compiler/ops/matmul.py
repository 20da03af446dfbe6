"""Matrix products: MatMul, Gemm, Einsum. Integer operands of 8 bits or less accumulate exactly in int32.

Beyond ONNX, MatMul takes a bias [N] as third input, attributes `transA`, `transB` (0 or 1): that operand is stored
with its last two axes exchanged, and `perm`: the axes of its result are permuted by it, the last one stays. The passes
make these forms; importers never do.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from compiler.graph import Array, Node, TensorType
from compiler.ops.base import (
    Types,
    Values,
    Work,
    broadcast,
    compute,
    computed,
    fail,
    given,
    ints,
    optional,
    product,
    register,
    want,
)
from isa.dtypes import dtype as dtype_of


def accumulator_dtype(dtype: str) -> str:
    """Result dtype of a product: int32 for integers of 8 bits or less, else the operand's."""
    found = dtype_of(dtype)
    return "int32" if not found.is_float and found.bits <= 8 else dtype


def exact_matmul(a: Array, b: Array) -> Array:
    """np.matmul; integers go through float64 BLAS when every partial sum stays below 2**53, so the result is exact."""
    if a.dtype.kind not in "iu":
        return np.asarray(np.matmul(a, b))
    bound = float(np.abs(a).max(initial=0)) * float(np.abs(b).max(initial=0)) * a.shape[-1]
    if bound >= 2.0**53:
        return np.asarray(np.matmul(a.astype(np.int64), b.astype(np.int64)))
    return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64))).astype(np.int64)


def _narrow(result: Array, like: Array) -> Array:
    """Give an exact integer product its storage type."""
    if like.dtype.kind not in "iu":
        return result
    return result.astype(np.int32 if like.dtype.itemsize == 1 else like.dtype)


def _as_read(node: Node, label: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a MatMul operand as the product reads it."""
    if not node.attrs.get(label, 0):
        return shape
    if len(shape) < 2:
        raise fail(node, f"{label} needs a matrix, not {list(shape)}")
    return (*shape[:-2], shape[-1], shape[-2])


def _infer_matmul(node: Node, types: Types, values: Values) -> list[TensorType]:
    first, bias = want(node, types, 0), optional(types, 2)
    a, b = _as_read(node, "transA", first.shape), _as_read(node, "transB", want(node, types, 1).shape)
    if not a or not b:
        raise fail(node, "scalars cannot be multiplied as matrices")
    left = a if len(a) > 1 else (1, *a)
    right = b if len(b) > 1 else (*b, 1)
    if left[-1] != right[-2]:
        raise fail(node, f"inner extents differ: {list(a)} x {list(b)}")
    if bias is not None and (bias.shape != right[-1:] or len(b) < 2):
        raise fail(node, f"bias {list(bias.shape)} must be [{right[-1]}]")
    rows = left[-2:-1] if len(a) > 1 else ()
    cols = right[-1:] if len(b) > 1 else ()
    shape = (*broadcast(node, left[:-2], right[:-2]), *rows, *cols)
    perm = ints(node, "perm", range(len(shape)))
    if sorted(perm) != list(range(len(shape))) or perm[-1:] != (len(shape) - 1,)[: len(shape)]:
        raise fail(node, f"perm {list(perm)} must permute all but the last of {len(shape)} axes")
    return [TensorType(tuple(shape[i] for i in perm), accumulator_dtype(first.dtype))]


def _matmul(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    a, b, bias = operands[0], operands[1], optional(operands, 2)
    a = np.swapaxes(a, -1, -2) if node.attrs.get("transA", 0) else a
    b = np.swapaxes(b, -1, -2) if node.attrs.get("transB", 0) else b
    y = _narrow(exact_matmul(a, b), a)
    y = np.transpose(y, ints(node, "perm", range(y.ndim)))
    return [y if bias is None else np.asarray(y + bias)]


def _matmul_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    macs = outputs[0].elements * _as_read(node, "transA", want(node, inputs, 0).shape)[-1]
    return Work(macs, 2 * macs + (outputs[0].elements if optional(inputs, 2) is not None else 0))


def _gemm_extents(node: Node, types: Types) -> tuple[int, int, int]:
    a, b = want(node, types, 0).shape, want(node, types, 1).shape
    if len(a) != 2 or len(b) != 2:
        raise fail(node, f"operands {list(a)} and {list(b)} must be matrices")
    rows, inner = reversed(a) if node.attrs.get("transA", 0) else a
    depth, cols = reversed(b) if node.attrs.get("transB", 0) else b
    if inner != depth:
        raise fail(node, f"inner extents {inner} and {depth} differ")
    return rows, cols, inner


def _infer_gemm(node: Node, types: Types, values: Values) -> list[TensorType]:
    rows, cols, _ = _gemm_extents(node, types)
    bias = optional(types, 2)
    if bias is not None and broadcast(node, bias.shape, (rows, cols)) != (rows, cols):
        raise fail(node, f"C {list(bias.shape)} must broadcast to [{rows}, {cols}]")
    return [TensorType((rows, cols), accumulator_dtype(want(node, types, 0).dtype))]


def _gemm(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    a, b, bias = operands[0], operands[1], optional(operands, 2)
    a = a.T if node.attrs.get("transA", 0) else a
    b = b.T if node.attrs.get("transB", 0) else b
    y = _narrow(exact_matmul(a, b), a)
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    y = y if alpha == 1.0 else (y * alpha).astype(y.dtype)
    if bias is not None and beta != 0.0:
        y = y + (bias if beta == 1.0 else (bias * beta).astype(y.dtype))
    return [np.asarray(y)]


def _gemm_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    rows, cols, inner = _gemm_extents(node, inputs)
    macs = rows * cols * inner
    scaled = sum(node.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return Work(macs, 2 * macs + rows * cols * (scaled + (optional(inputs, 2) is not None)))


def einsum_terms(node: Node, types: Types) -> tuple[list[str], str, dict[str, int]]:
    """Split the equation into operand terms, output term and extent by letter; '...' becomes upper-case letters."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    shapes = [want(node, types, i).shape for i in range(len(types))]
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise fail(node, f"equation {equation!r} names {len(terms)} operands, there are {len(shapes)}")
    ellipsis = [len(s) - len(t.replace("...", "")) if "..." in t else 0 for s, t in zip(shapes, terms)]
    used = set(left)
    spare = [c for c in string.ascii_letters if c not in used and c not in right]
    dots = max(ellipsis, default=0)
    if dots > len(spare) or min(ellipsis, default=0) < 0:
        raise fail(node, f"equation {equation!r} does not fit operands {[list(s) for s in shapes]}")
    names = "".join(spare[:dots])
    terms = [t.replace("...", names[dots - e :] if e else "") for t, e in zip(terms, ellipsis)]
    if not arrow:
        joined = "".join(terms)
        right = "..." * bool(dots) + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in names))
    extents: dict[str, int] = {}
    for term, shape in zip(terms, shapes):
        if len(term) != len(shape):
            raise fail(node, f"term {term!r} of equation {equation!r} does not fit shape {list(shape)}")
        for letter, extent in zip(term, shape):
            if extents.get(letter, 1) not in (1, extent) and extent != 1:
                raise fail(node, f"letter {letter!r} of equation {equation!r} is both {extents[letter]} and {extent}")
            extents[letter] = max(extent, extents.get(letter, 1))
    return terms, right.replace("...", names), extents


def _infer_einsum(node: Node, types: Types, values: Values) -> list[TensorType]:
    _, right, extents = einsum_terms(node, types)
    if not set(right) <= set(extents):
        raise fail(node, f"output term {right!r} has a letter that no operand has")
    return [TensorType(tuple(extents[c] for c in right), want(node, types, 0).dtype)]


def _einsum(node: Node, values: Values) -> list[Array]:
    operands = computed(values)
    types = [TensorType(tuple(v.shape), "fp32") for v in operands]
    terms, right, _ = einsum_terms(node, types)
    result = np.einsum(",".join(terms) + "->" + right, *operands, optimize=True)
    return [np.asarray(result, dtype=compute(given(node, values, 0)).dtype)]


def _einsum_work(node: Node, inputs: Types, outputs: Sequence[TensorType]) -> Work:
    _, _, extents = einsum_terms(node, inputs)
    macs = product(list(extents.values())) * max(0, len(inputs) - 1)
    return Work(macs, 2 * macs)


register("MatMul", "complex", _infer_matmul, _matmul, _matmul_work)
register("Gemm", "complex", _infer_gemm, _gemm, _gemm_work)
register("Einsum", "complex", _infer_einsum, _einsum, _einsum_work)
