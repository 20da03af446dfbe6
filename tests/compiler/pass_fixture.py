"""What the tests of passes share: graphs from text, seeded values, equality on the reference interpreter."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from textwrap import dedent

import numpy as np

from compiler.graph import Constant, Graph
from compiler.ops import run_graph
from compiler.text import parse_graph, print_graph
from isa.dtypes import dtype as dtype_of
from isa.dtypes import round_to


def graph_of(text: str) -> Graph:
    """Parse a graph; constants without values get seeded ones."""
    graph = parse_graph(dedent(text))
    return parse_graph(dedent(text), {n: seeded(n, c) for n, c in graph.constants.items() if c.stripped})


def seeded(name: str, constant: Constant) -> Constant:
    """A constant with values from its name: variances and scales must be positive, so all are in [0.5, 1.5]."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values = random.uniform(0.5, 1.5, constant.type.shape)
    return Constant.of(round_to(values, dtype_of(constant.type.dtype)), constant.type.dtype)


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs: normal floats, small non-negative integers."""
    random = np.random.default_rng(seed)
    found = {}
    for name in graph.inputs:
        kind = graph.tensors[name]
        normal = dtype_of(kind.dtype).is_float
        found[name] = random.standard_normal(kind.shape) if normal else random.integers(0, 4, kind.shape)
    return found


def assert_same_values(before: Graph, after: Graph, tolerance: float = 1e-5) -> None:
    """Both graphs compute the same outputs, under the same names, up to rounding."""
    feeds = feeds_of(before)
    assert after.outputs == before.outputs
    wanted, got = run_graph(before, feeds), run_graph(after, feeds)
    for name in before.outputs:
        limit = tolerance * max(1.0, float(np.abs(wanted[name]).max(initial=0.0)))
        np.testing.assert_allclose(got[name], wanted[name], rtol=tolerance, atol=limit, err_msg=name)


def apply(run: Callable[[Graph], Graph], before: str | Graph) -> Graph:
    """Run a pass, verify its result, and check that values, the pass's fixpoint and the output types are kept."""
    graph = graph_of(before) if isinstance(before, str) else before
    graph.verify()
    after = run(graph)
    after.verify()
    assert_same_values(graph, after)
    assert [after.tensors[n] for n in after.outputs] == [graph.tensors[n] for n in graph.outputs]
    assert print_graph(run(after)) == print_graph(after), "the pass is not idempotent"
    return after


def body(graph: Graph) -> list[str]:
    """The node lines of a graph's text."""
    return [line for line in print_graph(graph).splitlines() if line.startswith(("%", "-"))]


def assert_body(graph: Graph, expected: str) -> None:
    """The nodes of a graph, as text."""
    assert body(graph) == [line.strip() for line in expected.strip().splitlines()]


def ops(graph: Graph) -> Counter[str]:
    """Nodes by operator."""
    return Counter(node.op for node in graph.nodes)
