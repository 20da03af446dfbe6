"""Rule of `canonical` for Einsum: transposes, views, sums and products.

Letters of two operands fall into batch (both operands and the result), rows (left and result), columns (right and
result) and inner (both, not the result); what only one operand has and nobody reads is summed first. More operands are
multiplied from left to right. Repeated letters in one term and broadcast extents stay Einsum.
"""

from __future__ import annotations

from math import prod

from compiler.graph import Node
from compiler.ops.matmul import einsum_terms
from compiler.passes.edit import Editor


def rule(edit: Editor, node: Node) -> bool:
    """Emit sums and products; False where the equation is something else."""
    names = [edit.current(n) for n in node.inputs]
    terms, out, extents = einsum_terms(node, [edit.tensors[n] for n in names])
    once = all(len(set(term)) == len(term) for term in (*terms, out))
    whole = all(extents[c] == d for term, n in zip(terms, names) for c, d in zip(term, edit.shape(n)))
    if not once or not whole:
        return False
    name, term = names[0], terms[0]
    for i in range(1, len(names)):
        later = "".join(terms[i + 1 :]) + out
        last = i == len(names) - 1
        name, term = _reduced(edit, f"{node.name}.left{i}", name, term, terms[i] + later)
        other, right = _reduced(edit, f"{node.name}.right{i}", names[i], terms[i], term + later)
        kept = out if last else "".join(c for c in dict.fromkeys(term + right) if c in later)
        result = node.outputs[0] if last else edit.fresh(f"{node.name}.part{i}")
        _product(edit, node.name if last else f"{node.name}.{i}", (name, other), (term, right), kept, extents, result)
        name, term = result, kept
    if len(names) == 1:
        name, term = _reduced(edit, f"{node.name}.sum", name, term, out)
        perm = tuple(term.index(c) for c in out)
        edit.emit(node.name, "Transpose", (name,), node.outputs[0], perm=perm)
    return True


def _reduced(edit: Editor, name: str, tensor: str, term: str, wanted: str) -> tuple[str, str]:
    """The operand summed over the letters that nobody wants, and its remaining letters."""
    axes = tuple(i for i, c in enumerate(term) if c not in wanted)
    if not axes:
        return tensor, term
    summed = edit.emit(name, "ReduceSum", (tensor,), axes=axes, keepdims=0)
    return summed, "".join(c for c in term if c in wanted)


def _product(edit: Editor, name: str, operands: tuple[str, str], terms: tuple[str, str], out: str,
             extents: dict[str, int], output: str) -> None:
    """One product of two operands whose every letter is shared or in the result."""
    left, right = terms
    batch = [c for c in out if c in left and c in right]
    inner = [c for c in left if c in right and c not in out]
    rows = [c for c in out if c in left and c not in right]
    cols = [c for c in out if c in right and c not in left]
    sizes = [[extents[c] for c in letters] for letters in (batch, rows, inner, cols)]
    b, m, k, n = (prod(s) for s in sizes)
    x = _arranged(edit, f"{name}.left", operands[0], left, [*batch, *rows, *inner], (b, m, k))
    y = _arranged(edit, f"{name}.right", operands[1], right, [*batch, *inner, *cols], (b, k, n))
    z = edit.emit(name, "MatMul", (x, y))
    letters = [*batch, *rows, *cols]
    perm = tuple(letters.index(c) for c in out)
    shape = tuple(extents[c] for c in letters)
    if perm == tuple(range(len(out))):
        edit.emit(f"{name}.view", "Reshape", (z,), output, shape=shape)
    else:
        z = edit.emit(f"{name}.view", "Reshape", (z,), shape=shape)
        edit.emit(f"{name}.turn", "Transpose", (z,), output, perm=perm)


def _arranged(edit: Editor, name: str, tensor: str, term: str, order: list[str], shape: tuple[int, ...]) -> str:
    """The operand with its letters in `order`, as a stack of matrices."""
    perm = tuple(term.index(c) for c in order)
    if perm != tuple(range(len(term))):
        tensor = edit.emit(f"{name}.turn", "Transpose", (tensor,), perm=perm)
    return edit.emit(f"{name}.view", "Reshape", (tensor,), shape=shape)
