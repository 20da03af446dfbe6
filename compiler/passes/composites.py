"""Finds composite operators that exporters wrote out: Gelu (erf and tanh), Swish, LayerNormalization, RMSNormalization.

Valid in: graphs before `simplify` (the patterns are those of exporters). Valid out: an equal graph up to rounding; a
normalisation then reads its input once instead of three times.
"""

from __future__ import annotations

import math

from compiler.graph import Graph
from compiler.passes.edit import Editor
from compiler.passes.pattern import Build, Match, Rule, rewrite


def run(graph: Graph, host: frozenset[str] = frozenset()) -> Graph:
    """Replace every written-out composite; a Swish stays apart where the machine leaves its Sigmoid to its `host`."""
    return rewrite(graph, RULES if "Sigmoid" in host else [*RULES, *SWISH])


def _gelu(approximate: str) -> Build:
    def build(edit: Editor, match: Match) -> bool:
        edit.emit(match.root.name, "Gelu", (match.bound["x"],), match.root.outputs[0], approximate=approximate)
        return True

    return build


def _swish(edit: Editor, match: Match) -> bool:
    alpha = edit.scalar(match.bound["C"]) if "C" in match.bound else 1.0
    if alpha is None:
        return False
    attrs = {} if alpha == 1.0 else {"alpha": alpha}
    edit.emit(match.root.name, "Swish", (match.bound["x"],), match.root.outputs[0], **attrs)
    return True


def _normalisation(op: str) -> Build:
    """A normalisation over the last axis, if every mean is over it and the parameters are vectors."""

    def build(edit: Editor, match: Match) -> bool:
        x = match.bound["x"]
        rank, width = len(edit.shape(x)), edit.shape(x)[-1]
        means = [node for node in match.nodes if node.op == "ReduceMean"]
        over_last = all(tuple(int(a) % rank for a in n.attrs.get("axes", ())) == (rank - 1,) for n in means)
        epsilon = edit.scalar(match.bound["E"])
        operands = [match.bound[n] for n in ("G", "B") if n in match.bound]
        if not over_last or epsilon is None or any(edit.shape(n) != (width,) for n in operands):
            return False
        edit.emit(match.root.name, op, (x, *operands), match.root.outputs[0], axis=-1, epsilon=epsilon)
        return True

    return build


def _scaled_erf() -> list[object]:
    """1 + erf(x / sqrt 2), by division or by multiplication."""
    return [
        ("Add", ("Erf", ("Div", "x", math.sqrt(2.0))), 1.0),
        ("Add", ("Erf", ("Mul", "x", math.sqrt(0.5))), 1.0),
    ]


def _scaled_tanh() -> tuple[object, ...]:
    """1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)), the cube as a power or as products."""
    cube = [("Pow", "x", 3.0), ("Mul", "x", ("Mul", "x", "x"))]
    terms = [("Mul", choice, 0.044715) for choice in cube] + [("Mul", ("Mul", ("Mul", "x", 0.044715), "x"), "x")]
    return ("Add", ("Tanh", ("Mul", ("Add", "x", terms), math.sqrt(2.0 / math.pi))), 1.0)


def _halved(term: object) -> list[object]:
    """0.5 x term in the three orders that exporters use."""
    return [("Mul", ("Mul", "x", term), 0.5), ("Mul", ("Mul", "x", 0.5), term), ("Mul", "x", ("Mul", term, 0.5))]


def _normal() -> list[object]:
    """(x - mean) / sqrt(variance + epsilon)."""
    centred = ("Sub", "x", ("ReduceMean", "x"))
    variance = ("ReduceMean", [("Pow", centred, 2.0), ("Mul", centred, centred)])
    deviation = ("Sqrt", ("Add", variance, "E"))
    return [("Div", centred, deviation), ("Mul", centred, ("Reciprocal", deviation))]


def _root_mean_square() -> list[object]:
    """x / sqrt(mean of squares + epsilon)."""
    deviation = ("Sqrt", ("Add", ("ReduceMean", [("Pow", "x", 2.0), ("Mul", "x", "x")]), "E"))
    inverse = [("Reciprocal", deviation), ("Div", 1.0, deviation)]
    return [("Mul", "x", inverse), ("Div", "x", deviation)]


RULES = [
    Rule("gelu", _halved(_scaled_erf()), _gelu("none")),
    Rule("gelu tanh", _halved(_scaled_tanh()), _gelu("tanh")),
    Rule("layer norm", ("Add", ("Mul", _normal(), "G"), "B"), _normalisation("LayerNormalization")),
    Rule("layer norm without shift", ("Mul", _normal(), "G"), _normalisation("LayerNormalization")),
    Rule("rms norm", ("Mul", _root_mean_square(), "G"), _normalisation("RMSNormalization")),
]
SWISH = [
    Rule("swish", ("Mul", "x", ("Sigmoid", "x")), _swish),
    Rule("scaled swish", ("Mul", "x", ("Sigmoid", ("Mul", "x", "C"))), _swish),
]
