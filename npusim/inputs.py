"""Seeded inputs for a graph, in the storage form that a program reads, and the constants beside them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.build import Built
from compiler.graph import Graph, TensorType
from isa.dtypes import dtype, round_to
from isa.errors import ConfigError

Array = npt.NDArray[Any]


MAX_SKEW = 10.0


def skew_of(assume: str) -> float:
    """The Zipf exponent that `uniform` (0) or `zipf:EXPONENT` states; raises ConfigError for anything else."""
    if assume == "uniform":
        return 0.0
    kind, colon, text = assume.partition(":")
    if kind == "zipf" and colon and re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3})?", text) and 0 < float(text) <= MAX_SKEW:
        return float(text)
    raise ConfigError(
        f"--assume {assume}: the rows that indices select are `uniform` or `zipf:EXPONENT`, with an exponent above 0 "
        f"and up to {MAX_SKEW:g} of three decimals at most"
    )


def zipf_rows(shares: Array, rows: int, skew: float) -> Array:
    """Rows 0 to rows - 1 from shares in [0, 1) by the bounded Zipf law of `npusim.engine.transfer.gathered_row`."""
    if skew == 1:
        x = (rows + 1.0) ** shares
    else:
        x = (shares * ((rows + 1.0) ** (1 - skew) - 1) + 1) ** (1 / (1 - skew))
    return np.clip(x.astype(np.int64) - 1, 0, rows - 1)


def generate(graph: Graph, seed: int, skew: float = 0.0) -> dict[str, Array]:
    """Real-valued inputs: standard normal, indices within the tables that they select from, masks of ones.

    Indices are uniform, or follow a Zipf law of exponent `skew`: low rows are frequent.
    """
    limits = _index_limits(graph)
    feeds: dict[str, Array] = {}
    for i, name in enumerate(graph.inputs):
        kind = graph.tensors[name]
        rng = np.random.default_rng((seed, i))
        if dtype(kind.dtype).is_float:
            feeds[name] = rng.standard_normal(kind.shape).astype(np.float32)
        elif name in limits:
            drawn = rng.integers(0, limits[name], kind.shape)
            if skew:
                drawn = zipf_rows(rng.random(kind.shape), limits[name], skew)
            feeds[name] = drawn.astype(dtype(kind.dtype).numpy)
        else:
            feeds[name] = np.ones(kind.shape, dtype(kind.dtype).numpy)
    return feeds


def _index_limits(graph: Graph) -> dict[str, int]:
    """Rows of the smallest table that an input indexes."""
    limits: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "Gather" and node.inputs[1] in graph.inputs:
            rows = graph.tensors[node.inputs[0]].shape[int(node.attrs.get("axis", 0))]
            limits[node.inputs[1]] = min(rows, limits.get(node.inputs[1], rows))
    return limits


def stored(values: Array, kind: TensorType) -> Array:
    """Real values in a tensor's storage form: scaled and rounded when it is quantised, else rounded."""
    target = dtype(kind.dtype)
    if not target.is_float and (kind.scale != 1.0 or kind.zero_point):
        return round_to(np.asarray(values, np.float64) / kind.scale + kind.zero_point, target)
    return round_to(values, target)


def real(values: Array, kind: TensorType) -> Array:
    """The real values of a stored tensor, as float32 (integers that are no quantised numbers stay as they are)."""
    target = dtype(kind.dtype)
    if not target.is_float and (kind.scale != 1.0 or kind.zero_point):
        return ((values.astype(np.float64) - kind.zero_point) * kind.scale).astype(np.float32)
    return values.astype(np.float32) if target.is_float and target.name != "fp64" else values


def initial(built: Built, feeds: dict[str, Array]) -> dict[str, Array]:
    """Contents of every input and weight tensor of a program, in storage form."""
    found: dict[str, Array] = {}
    for tensor in built.program.tensors:
        if tensor.role == "weight":
            constant = built.constants[tensor.name]
            found[tensor.name] = np.asarray(constant.value()).astype(dtype(tensor.dtype).numpy, copy=False)
        elif tensor.role == "input":
            found[tensor.name] = stored(feeds[tensor.name], built.graph.tensors[tensor.name])
    return found
