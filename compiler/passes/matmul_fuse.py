"""Takes into MatMul what stands around it: a bias added after it, transposes of its operands and of its result, views.

Valid in: any graph. Valid out: no Add of a constant vector is the only reader of a MatMul without bias; no MatMul reads
a Transpose that only exchanges the last two axes (attributes transA and transB have it read in place); no Transpose
that keeps the last axis is the only reader of a MatMul of at most two batch axes (attribute perm has it stored so),
but where products alone read it, which take it as a view.
"""

from __future__ import annotations

from compiler.graph import Graph, Node
from compiler.passes import dce
from compiler.passes.edit import Editor
from isa.dtypes import dtype as dtype_of

MOST_BATCH = 2  # loops that a product's kernel has for batches


def run(graph: Graph) -> Graph:
    """Fuse transposes of operands, then flattening views, biases and transposes of results."""
    return dce.run(_stores(_biases(_views(_transposes(graph)))))


def _transposes(graph: Graph) -> Graph:
    edit, producers = Editor(graph), graph.producers()
    for node in graph.nodes:
        if node.op != "MatMul":
            edit.keep(node)
            continue
        inputs, attrs = list(node.inputs), dict(node.attrs)
        for index, label in ((0, "transA"), (1, "transB")):
            source = producers.get(inputs[index])
            if source is not None and source.op == "Transpose" and _swaps_last_two(graph, source):
                inputs[index] = source.inputs[0]
                attrs[label] = 1 - int(attrs.get(label, 0))
        edit.keep(node, inputs=tuple(inputs), attrs={k: v for k, v in attrs.items() if v or k not in _FLAGS})
    return edit.finish()


_FLAGS = ("transA", "transB")


def _swaps_last_two(graph: Graph, node: Node) -> bool:
    rank = len(graph.tensors[node.outputs[0]].shape)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    return rank >= 2 and tuple(node.attrs.get("perm", range(rank - 1, -1, -1))) == swapped


def _views(graph: Graph) -> Graph:
    """Rows flattened before a product and spread after it: the product takes the operand as it is."""
    edit, producers, readers = Editor(graph), graph.producers(), graph.consumers()
    done: set[str] = set()
    for node in graph.nodes:
        if node.name in done:
            continue
        source = _rows(graph, producers, node)
        spread = _spread(graph, readers, node, source) if source else None
        if spread is None:
            edit.keep(node)
            continue
        edit.keep(node, inputs=(source, *node.inputs[1:]), outputs=spread.outputs)
        done.add(spread.name)
    return dce.run(edit.finish())


def _spread(graph: Graph, readers: dict[str, list[Node]], node: Node, source: str) -> Node | None:
    """The Reshape that alone reads a product and gives it back the leading axes of `source`, or None."""
    product = node.outputs[0]
    following = readers.get(product, [])
    if product in graph.outputs or len(following) != 1 or following[0].op != "Reshape":
        return None
    wanted = graph.tensors[source].shape[:-1] + graph.tensors[product].shape[-1:]
    return following[0] if graph.tensors[following[0].outputs[0]].shape == wanted else None


def _rows(graph: Graph, producers: dict[str, Node], node: Node) -> str:
    """The tensor whose leading axes a Reshape joins to make the left operand of a product with a matrix, or ''."""
    view = producers.get(node.inputs[0]) if node.op == "MatMul" else None
    if view is None or view.op != "Reshape" or node.attrs.get("transA", 0):
        return ""
    source, flat = graph.tensors[view.inputs[0]].shape, graph.tensors[node.inputs[0]].shape
    matrix = len(graph.tensors[node.inputs[1]].shape) == 2 and len(flat) == 2
    return view.inputs[0] if matrix and len(source) > 2 and source[-1] == flat[-1] else ""


def _biases(graph: Graph) -> Graph:
    edit, readers = Editor(graph), graph.consumers()
    done: set[str] = set()
    for node in graph.nodes:
        if node.name in done:
            continue
        found = _bias(graph, readers, node) if node.op == "MatMul" and len(node.inputs) == 2 else None
        if found is None:
            edit.keep(node)
            continue
        add, bias = found
        width = graph.tensors[add.outputs[0]].shape[-1]
        if graph.tensors[bias].shape != (width,):
            bias = edit.mapped(bias, "flat", (width,), lambda v: v.reshape(-1))
        edit.keep(node, inputs=(*node.inputs, bias), outputs=add.outputs)
        done.add(add.name)
    return edit.finish()


def _bias(graph: Graph, readers: dict[str, list[Node]], node: Node) -> tuple[Node, str] | None:
    """The Add of a constant vector that alone reads the product, and the vector."""
    product = node.outputs[0]
    following, kind = readers.get(product, []), graph.tensors[product]
    if product in graph.outputs or len(following) != 1 or not dtype_of(kind.dtype).is_float or len(kind.shape) < 2:
        return None
    add = following[0]
    others = [n for n in add.inputs if n != product]
    if add.op != "Add" or len(others) != 1 or others[0] not in graph.constants:
        return None
    shape = graph.tensors[others[0]].shape
    vector = bool(shape) and shape[-1] == kind.shape[-1] and all(d == 1 for d in shape[:-1])
    same = graph.tensors[add.outputs[0]].shape == kind.shape and len(graph.tensors[node.inputs[1]].shape) >= 2
    return (add, others[0]) if vector and same else None


def _stores(graph: Graph) -> Graph:
    """A result that is only read permuted is stored permuted, as the context of an attention with its heads."""
    edit, readers = Editor(graph), graph.consumers()
    done: set[str] = set()
    for node in graph.nodes:
        if node.name in done:
            continue
        turn = _turn(graph, readers, node) if node.op == "MatMul" and "perm" not in node.attrs else None
        if turn is None:
            edit.keep(node)
            continue
        edit.keep(node, outputs=turn.outputs, attrs={**node.attrs, "perm": tuple(turn.attrs["perm"])})
        done.add(turn.name)
    return edit.finish()


def _turn(graph: Graph, readers: dict[str, list[Node]], node: Node) -> Node | None:
    """The Transpose that alone reads a product, if rows of the result stay whole and a kernel can store them so."""
    product = node.outputs[0]
    following, shape = readers.get(product, []), graph.tensors[product].shape
    if product in graph.outputs or len(following) != 1 or following[0].op != "Transpose":
        return None
    turn, batch = following[0], sum(e > 1 for e in shape[:-2])
    perm, matrices = tuple(turn.attrs.get("perm", ())), all(len(graph.tensors[n].shape) > 1 for n in node.inputs[:2])
    views = all(r.op == "MatMul" for r in readers.get(turn.outputs[0], ())) and turn.outputs[0] not in graph.outputs
    return turn if matrices and perm[-1:] == (len(shape) - 1,) and batch <= MOST_BATCH and not views else None
