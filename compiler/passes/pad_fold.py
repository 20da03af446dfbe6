"""Takes a Pad with zeros into the padding of the convolution that reads it.

Valid in: any graph. Valid out: no Conv reads a Pad that adds zeros along spatial axes only.
"""

from __future__ import annotations

from compiler.graph import Graph, Node
from compiler.ops.spatial import channel_last
from compiler.passes import dce
from compiler.passes.edit import Editor


def run(graph: Graph) -> Graph:
    """Fold every such Pad; one that has other readers stays for them."""
    edit, producers = Editor(graph), graph.producers()
    for node in graph.nodes:
        pad = producers.get(node.inputs[0]) if node.op == "Conv" else None
        pads = _spatial_pads(node, pad) if pad is not None and pad.op == "Pad" else None
        if pad is None or pads is None:
            edit.keep(node)
            continue
        own = node.attrs.get("pads", (0,) * len(pads))
        joined = tuple(a + b for a, b in zip(own, pads))
        edit.keep(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs={**node.attrs, "pads": joined})
    return dce.run(edit.finish())


def _spatial_pads(node: Node, pad: Node) -> tuple[int, ...] | None:
    """What a Pad adds along the convolution's spatial axes, begins first; None when it does anything else."""
    pads = tuple(int(p) for p in pad.attrs["pads"])
    rank = len(pads) // 2
    zeros = pad.attrs.get("mode", "constant") == "constant" and float(pad.attrs.get("value") or 0.0) == 0.0
    spatial = range(1, rank - 1) if channel_last(node) else range(2, rank)
    elsewhere = [i for i in range(rank) if i not in spatial and (pads[i] or pads[rank + i])]
    if len(pad.inputs) > 1 or not zeros or elsewhere or min(pads) < 0:
        return None
    return (*(pads[i] for i in spatial), *(pads[rank + i] for i in spatial))
