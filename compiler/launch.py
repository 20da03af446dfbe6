"""Arguments of launches: a row for each core that takes part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

from compiler.codegen import parameters
from compiler.nest import Loop, Nest
from isa.params import Params
from isa.program import Kernel


def launch_arguments(nest: Nest, bind: Mapping[str, tuple[str, int]], addresses: Mapping[str, int], kernel: Kernel,
                     params: Params) -> list[list[int]]:
    """Argument rows of a launch, one a core; where two kinds of cores take part all of both, those without work too."""
    cores = params.cores_of(kernel)
    if nest.partner is None:
        return core_arguments(nest, bind, addresses, kernel.params, len(cores))
    rows = []
    for kind, half in enumerate((nest, nest.partner)):
        count = len(params.machine.kind_cores(kind))
        busy = core_arguments(half, bind, addresses, kernel.params, count)
        idle = [0 if name == "steps" else value for name, value in zip(kernel.params, busy[0])]
        rows += [*busy, *[idle] * (count - len(busy))]
    return rows


def core_arguments(nest: Nest, bind: Mapping[str, tuple[str, int]], addresses: Mapping[str, int],
                   params: Sequence[str], cores: int) -> list[list[int]]:
    """Argument rows, one a core that has work: tensor addresses, steps, and the core's range of the split loop."""
    inner = math.prod(loop.count for loop in nest.outer_loops if not loop.split)
    ranges = [_ranges(loop, min(loop.split, cores)) for loop in nest.outer_loops if loop.split]
    rows, mine = [], parameters(nest)
    for parts in product(*ranges):
        values = {k: addresses[name] + offset for k, (name, offset) in bind.items()}
        values["steps"] = inner
        for loop, low, high in parts:
            values |= {f"lo_{loop.name}": low, f"hi_{loop.name}": high}
            values["steps"] *= -(-(high - low) // loop.tile)
        rows.append([values[p] if p in mine else 0 for p in params])
    return rows


def _ranges(loop: Loop, parts: int) -> list[tuple[Loop, int, int]]:
    """Ranges of a split loop that are not empty: whole tiles, as many in each as in any other but the last."""
    share = -(-loop.count // parts) * loop.tile
    return [(loop, low, min(low + share, loop.total)) for low in range(0, loop.total, share)]
