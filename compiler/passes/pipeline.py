"""The order of the passes: one function of named steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from compiler.graph import Graph
from compiler.passes import bn_fold, canonical, fusion, layout
from isa.errors import CompileError

Step = tuple[str, Callable[[Graph], Graph]]


@dataclass(frozen=True)
class Options:
    """What the pipeline may do."""

    channel_last: bool = True
    fusion: bool = True


def steps(options: Options) -> list[Step]:
    """Every step that `options` ask for, in order."""
    found: list[Step] = [("bn_fold", bn_fold.run), ("canonical", canonical.run)]
    if options.channel_last:
        found.append(("layout", layout.run))
    found.append(("fusion", lambda graph: fusion.run(graph, options.fusion)))
    return found


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
