"""The order of the passes: one function of named steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from compiler.graph import Graph
from compiler.passes import (
    bn_fold,
    canonical,
    composites,
    cse,
    dce,
    folding,
    fractal,
    fusion,
    layout,
    matmul_fuse,
    pad_fold,
    qdq,
    redundant,
    resample,
    shapes,
    simplify,
    softmax_axis,
)
from isa.errors import CompileError

Step = tuple[str, Callable[[Graph], Graph]]


@dataclass(frozen=True)
class Options:
    """What the pipeline may do; `fold_elements` bounds what constant folding may create."""

    fast_math: bool = False
    channel_last: bool = True
    channel_block: int = 0  # convolutions between blocks of so many channels (NC1HWC0); 0: channels last
    least_channels: int = 1  # convolutions of fewer read them last
    fusion: bool = True
    integer: bool = False  # floats will be stored as integers: take their formats from the model where it says them
    slow_lanes: bool = False  # reductions across lanes are slow: keep softmax between products out of them
    attention: bool = False  # softmax between two products is one kernel with them
    host: frozenset[str] = frozenset()  # operators that the machine leaves to its host: they stay whole
    fold_elements: int = folding.MAX_ELEMENTS


def steps(options: Options) -> list[Step]:
    """Every step that `options` ask for, in order."""
    return [
        ("shapes", shapes.run),
        ("redundant", redundant.run),
        ("folding", lambda graph: folding.run(graph, options.fold_elements)),
        *([("qdq", qdq.run)] if options.integer else []),
        ("bn_fold", bn_fold.run),
        ("pad_fold", pad_fold.run),
        ("composites", lambda graph: composites.run(graph, options.host)),
        ("canonical", lambda graph: canonical.run(graph, options.host)),
        ("simplify", lambda graph: simplify.run(graph, options.fast_math)),
        *([("layout", layout.run)] if options.channel_last else []),
        *([("fractal", lambda graph: fractal.run(graph, options.channel_block, options.least_channels))]
          if options.channel_block else []),
        *([] if "Resize" in options.host else [("resample", resample.run)]),
        ("matmul_fuse", matmul_fuse.run),
        *([("softmax_axis", softmax_axis.run)] if options.slow_lanes else []),
        ("cse", cse.run),
        ("cleanup", lambda graph: dce.run(folding.run(redundant.run(graph), options.fold_elements))),
        ("fusion", lambda graph: fusion.run(graph, options.fusion, options.attention)),
    ]


def optimise(graph: Graph, options: Options | None = None) -> Iterator[tuple[str, Graph]]:
    """Yield (name of the step, graph after it), the imported graph first; raises CompileError naming a faulty step."""
    yield "import", graph
    for name, run in steps(options or Options()):
        graph = run(graph)
        try:
            graph.verify()
        except CompileError as error:
            raise CompileError(f"pass {name}: {error}") from None
        yield name, graph


def optimised(graph: Graph, options: Options | None = None) -> Graph:
    """Return the graph after the last step."""
    *_, (_, result) = optimise(graph, options)
    return result
