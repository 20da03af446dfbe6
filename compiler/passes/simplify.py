"""Algebraic simplification: a table of rules, applied until none fires.

Valid in: any graph. Valid out: an equal graph (floats up to rounding) in which no rule matches. Fast rules change
results by more than rounding, or assume a sign; they run only with `fast_math`.
"""

from __future__ import annotations

import math

import numpy as np

from compiler.graph import Graph
from compiler.ops.base import is_float
from compiler.passes.edit import SMALL_ELEMENTS, Editor
from compiler.passes.pattern import Build, Match, Rule, rewrite


def run(graph: Graph, fast_math: bool = False) -> Graph:
    """Simplify; `fast_math` allows the rules that are not exact."""
    return rewrite(graph, RULES + (FAST_RULES if fast_math else []))


# --- what rules emit -------------------------------------------------------------------------------------------------


def _emit(edit: Editor, match: Match, op: str, *inputs: str, **attrs: object) -> bool:
    """Emit the replacement of the root."""
    edit.emit(match.root.name, op, inputs, match.root.outputs[0], **attrs)
    return True


def _operand(edit: Editor, match: Match) -> bool:
    """Replace by x, if x has the result's type (a broadcast or a promotion is not nothing)."""
    if edit.tensors[match.bound["x"]] != edit.tensors[match.root.outputs[0]]:
        return False
    edit.replace(match.root.outputs[0], match.bound["x"])
    return True


def _floats(edit: Editor, match: Match) -> bool:
    return is_float(edit.tensors[match.root.outputs[0]].dtype)


def _distribute(edit: Editor, match: Match) -> bool:
    a, b, c = (match.bound[n] for n in "abc")
    if edit.shape(a) != edit.shape(b):
        return False
    total = edit.emit(f"{match.root.name}.sum", match.root.op, (a, b))
    return _emit(edit, match, "Mul", total, c)


def _hoist(edit: Editor, match: Match) -> bool:
    """(x . u) . v -> x . (u . v) where u and v are smaller than x: the broadcast happens once."""
    x, u, v = (match.bound[n] for n in "xuv")
    joined = np.broadcast_shapes(edit.shape(u), edit.shape(v))
    if math.prod(joined) >= edit.tensors[x].elements or edit.shape(x) != edit.shape(match.root.outputs[0]):
        return False
    small = edit.emit(f"{match.root.name}.small", match.root.op, (u, v))
    return _emit(edit, match, match.root.op, x, small)


def _transposes(edit: Editor, match: Match) -> bool:
    outer, inner = match.nodes
    rank = len(edit.shape(match.bound["x"]))
    first, second = (tuple(n.attrs.get("perm", range(rank - 1, -1, -1))) for n in (inner, outer))
    perm = tuple(first[i] for i in second)
    if perm == tuple(range(rank)):
        return _operand(edit, match)
    return _emit(edit, match, "Transpose", match.bound["x"], perm=perm)


def _reshapes(edit: Editor, match: Match) -> bool:
    return _operand(edit, match) or _emit(edit, match, "Reshape", match.bound["x"], shape=match.root.attrs["shape"])


def _swap_through_views(edit: Editor, match: Match) -> bool:
    """Leading axes joined, the last two exchanged, leading axes split again: one exchange in the full rank."""
    outer, swap, inner = (node.outputs[0] for node in match.nodes)
    x = match.bound["x"]
    shape, rank = edit.shape(x), len(edit.shape(x))
    swapped = (*shape[:-2], *shape[-2:][::-1])
    matrices = tuple(match.nodes[1].attrs.get("perm", ())) == (0, 2, 1) and edit.shape(inner)[-2:] == shape[-2:]
    if rank < 3 or not matrices or edit.shape(outer) != swapped or edit.shape(swap)[-2:] != swapped[-2:]:
        return False
    return _emit(edit, match, "Transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _scale_after(edit: Editor, match: Match) -> bool:
    """(C x) y -> C (x y): its kernel scales on the way out, where a kernel of its own would read and write."""
    x, y, c = (match.bound[n] for n in "xyC")
    if edit.tensors[c].elements != 1 or not _floats(edit, match) or len(edit.shape(x)) < len(edit.shape(c)):
        return False
    product = edit.emit(f"{match.root.name}.product", "MatMul", (x, y), **match.root.attrs)
    if len(edit.shape(product)) < len(edit.shape(c)):
        return False
    return _emit(edit, match, "Mul", product, c)


def _zeros(edit: Editor, match: Match) -> bool:
    """x + C where C is a mask that masks nothing; vectors are not looked at, because biases are seldom zero."""
    constant = edit.constants[match.bound["C"]]
    small = constant.type.elements <= SMALL_ELEMENTS and not constant.stripped
    mask = len(constant.type.shape) >= 2 and min(constant.type.shape[-2:]) > 1
    return small and mask and not np.any(constant.value()) and _operand(edit, match)


def _unguarded(edit: Editor, match: Match) -> bool:
    """torch's guard against rows that a mask hides completely, where there is no mask."""
    edit.replace(match.root.outputs[0], match.node("Softmax").outputs[0])
    return True


def _product_of_exponentials(edit: Editor, match: Match) -> bool:
    total = edit.emit(f"{match.root.name}.sum", "ReduceSum", (match.bound["x"],), **match.root.attrs)
    return _emit(edit, match, "Exp", total)


def _negated(edit: Editor, match: Match) -> bool:
    """x - C -> x + (-C): exact in floats."""
    if not _floats(edit, match):
        return False
    name = match.bound["C"]
    negative = edit.mapped(name, "negated", edit.shape(name), np.negative)
    return _emit(edit, match, "Add", match.bound["x"], negative)


def _reciprocal(edit: Editor, match: Match) -> bool:
    """x / C -> x * (1 / C): exact where C is a power of two."""
    value = edit.scalar(match.bound["C"])
    exact = value is not None and value != 0.0 and math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5
    return exact and _by_reciprocal(edit, match)


def _by_reciprocal(edit: Editor, match: Match) -> bool:
    if not _floats(edit, match):
        return False
    name = match.bound["C"]
    inverse = edit.mapped(name, "inverse", edit.shape(name), lambda v: (1.0 / v.astype(np.float64)).astype(v.dtype))
    return _emit(edit, match, "Mul", match.bound["x"], inverse)


def _square(edit: Editor, match: Match) -> bool:
    return _emit(edit, match, "Mul", match.bound["x"], match.bound["x"])


def _to(op: str, *names: str) -> Build:
    """A builder that emits `op` on bound tensors."""
    return lambda edit, match: _emit(edit, match, op, *(match.bound[n] for n in names))


def _to_float(op: str, *names: str) -> Build:
    """The same, for float results only."""
    return lambda edit, match: _floats(edit, match) and _to(op, *names)(edit, match)


_PRODUCT = ("MatMul", "x", "y")
_UNMASKED = ("Softmax", [_PRODUCT, ("Mul", _PRODUCT, "C"), ("Mul", ("Mul", _PRODUCT, "C"), "D")])

# fmt: off
RULES = [
    Rule("x * 1",              ("Mul", "x", 1.0),                              _operand, shared=True),
    Rule("x / 1",              ("Div", "x", 1.0),                              _operand, shared=True),
    Rule("x + 0",              ("Add", "x", 0.0),                              _operand, shared=True),
    Rule("x - 0",              ("Sub", "x", 0.0),                              _operand, shared=True),
    Rule("x ** 1",             ("Pow", "x", 1.0),                              _operand, shared=True),
    Rule("-(-x)",              ("Neg", ("Neg", "x")),                          _operand, shared=True),
    Rule("log exp x",          ("Log", ("Exp", "x")),                          _operand, shared=True),
    Rule("relu relu x",        ("Relu", ("Relu", "x")),                        _to("Relu", "x"), shared=True),
    Rule("abs abs x",          ("Abs", ("Abs", "x")),                          _to("Abs", "x"), shared=True),
    Rule("transposes",         ("Transpose", ("Transpose", "x")),              _transposes, shared=True),
    Rule("reshapes",           ("Reshape", ("Reshape", "x")),                  _reshapes, shared=True),
    Rule("turned views",       ("Reshape", ("Transpose", ("Reshape", "x"))),   _swap_through_views),
    Rule("x + zeros",          ("Add", "x", "C"),                              _zeros, shared=True),
    Rule("where nan 0",        ("Where", ("IsNaN", _UNMASKED), 0.0, _UNMASKED), _unguarded, shared=True),
    Rule("(C x) y",            ("MatMul", ("Mul", "x", "C"), "y"),             _scale_after),
    Rule("x (C y)",            ("MatMul", "x", ("Mul", "y", "C")),             _scale_after),
    Rule("a c + b c",          ("Add", ("Mul", "a", "c"), ("Mul", "b", "c")),  _distribute),
    Rule("a c - b c",          ("Sub", ("Mul", "a", "c"), ("Mul", "b", "c")),  _distribute),
    Rule("prod exp x",         ("ReduceProd", ("Exp", "x")),                   _product_of_exponentials),
    Rule("x + (-y)",           ("Add", "x", ("Neg", "y")),                     _to("Sub", "x", "y")),
    Rule("x - (-y)",           ("Sub", "x", ("Neg", "y")),                     _to("Add", "x", "y")),
    Rule("x (1 / y)",          ("Mul", "x", ("Reciprocal", "y")),              _to("Div", "x", "y")),
    Rule("1 / x",              ("Div", 1.0, "x"),                              _to_float("Reciprocal", "x")),
    Rule("x ** 2",             ("Pow", "x", 2.0),                              _square, shared=True),
    Rule("x ** 0.5",           ("Pow", "x", 0.5),                              _to_float("Sqrt", "x"), shared=True),
    Rule("x ** -1",            ("Pow", "x", -1.0),                          _to_float("Reciprocal", "x"), shared=True),
    Rule("x - C",              ("Sub", "x", "C"),                              _negated, shared=True),
    Rule("x / 2**k",           ("Div", "x", "C"),                              _reciprocal, shared=True),
    Rule("(x u) v",            ("Mul", ("Mul", "x", "u"), "v"),                _hoist),
    Rule("(x + u) + v",        ("Add", ("Add", "x", "u"), "v"),                _hoist),
]
FAST_RULES = [
    Rule("exp log x",          ("Exp", ("Log", "x")),                          _operand, shared=True),
    Rule("x / C",              ("Div", "x", "C"),                              _by_reciprocal, shared=True),
    # torch's guard against rows that a mask hides completely: none is assumed.
    Rule("where nan 0",        ("Where", ("IsNaN", "x"), 0.0, "x"),            _operand, shared=True),
]
# fmt: on
