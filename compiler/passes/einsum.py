"""Rule of `canonical` for Einsum of two operands: transposes, views and one MatMul.

Letters fall into batch (both operands and the result), rows (left and result), columns (right and result) and inner
(both, not the result); other sums, repeated letters and broadcast extents stay Einsum.
"""

from __future__ import annotations

from math import prod

from compiler.graph import Node
from compiler.ops.matmul import einsum_terms
from compiler.passes.edit import Editor


def rule(edit: Editor, node: Node) -> bool:
    """Emit the product; False where the equation is something else."""
    types = [edit.tensors[edit.current(n)] for n in node.inputs]
    terms, out, extents = einsum_terms(node, types)
    if len(terms) != 2 or not _is_product(terms, out, extents, [t.shape for t in types]):
        return False
    left, right = terms
    batch = [c for c in out if c in left and c in right]
    inner = [c for c in left if c in right and c not in out]
    rows = [c for c in out if c in left and c not in right]
    cols = [c for c in out if c in right and c not in left]
    sizes = [[extents[c] for c in letters] for letters in (batch, rows, inner, cols)]
    b, m, k, n = (prod(s) for s in sizes)
    x = _arranged(edit, f"{node.name}.left", node.inputs[0], left, [*batch, *rows, *inner], (b, m, k))
    y = _arranged(edit, f"{node.name}.right", node.inputs[1], right, [*batch, *inner, *cols], (b, k, n))
    z = edit.emit(node.name, "MatMul", (x, y))
    whole = [*batch, *rows, *cols]
    perm = tuple(whole.index(c) for c in out)
    shape = tuple(extents[c] for c in whole)
    if perm == tuple(range(len(out))):
        edit.emit(f"{node.name}.view", "Reshape", (z,), node.outputs[0], shape=shape)
    else:
        z = edit.emit(f"{node.name}.view", "Reshape", (z,), shape=shape)
        edit.emit(f"{node.name}.turn", "Transpose", (z,), node.outputs[0], perm=perm)
    return True


def _is_product(terms: list[str], out: str, extents: dict[str, int], shapes: list[tuple[int, ...]]) -> bool:
    once = all(len(set(term)) == len(term) for term in (*terms, out))
    whole = all(extents[c] == d for term, shape in zip(terms, shapes) for c, d in zip(term, shape))
    used = all(c in out or c in terms[1 - i] for i in (0, 1) for c in terms[i])
    return once and whole and used


def _arranged(edit: Editor, name: str, tensor: str, term: str, order: list[str], shape: tuple[int, ...]) -> str:
    """The operand with its letters in `order`, as a stack of matrices."""
    perm = tuple(term.index(c) for c in order)
    if perm != tuple(range(len(term))):
        tensor = edit.emit(f"{name}.turn", "Transpose", (tensor,), perm=perm)
    return edit.emit(f"{name}.view", "Reshape", (tensor,), shape=shape)
