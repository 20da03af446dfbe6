"""Lowering of Conv and MatMul groups: operands become strided views, grouped weights block-diagonal tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import tiling as tiling_array
from compiler import tiling_cube
from compiler.graph import Constant, Node, TensorType
from compiler.kernels import attention, mix
from compiler.kernels import contraction as array_kernel
from compiler.kernels import cube as cube_kernel
from compiler.kernels.attention import Attention
from compiler.kernels.contraction import Contraction, Epilogue, Operand
from compiler.lower import weights
from compiler.lower.context import Call, Context, NoKernel, row_major, rule, scalar_value
from isa.dtypes import dtype as dtype_of
from isa.machine import Machine

Array = npt.NDArray[Any]
Batch = tuple[int, int, int, int]  # a batch dimension: extent, strides of A, B and the output
MAX_LAUNCHES = 256  # of one product, for batch dimensions that no kernel has room for

# Activations that commute with rounding, so that the drain may apply them before it rounds.
FOLDED = {"Relu": "relu", "Clip": "clip", "LeakyRelu": "leaky_relu"}
# Element-wise operators as vector operations, for epilogues.
UNARY = {
    "Relu": "relu", "Clip": "clip", "LeakyRelu": "leaky_relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Gelu": "gelu",
    "HardSwish": "hardswish", "HardSigmoid": "hard_sigmoid", "Mish": "mish", "Elu": "elu", "Softplus": "softplus",
    "Swish": "swish", "Erf": "erf", "Exp": "exp", "Sqrt": "sqrt", "Neg": "neg", "Abs": "abs",
}  # fmt: skip
WRITTEN_OUT = {"swish": ("sigmoid", "mul")}  # no operation of the ISA: what an epilogue does instead
BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min"}
SCALAR_FORM = {"add": "adds", "mul": "muls", "max": "maxs", "min": "mins"}


@dataclass
class _Axes:
    """Dimensions of a contraction's output by letter, with the strides of its operands."""

    extents: dict[str, int]
    out_shape: tuple[int, ...]
    out_strides: dict[str, int]
    out_blocks: dict[str, int]
    vector_y: int  # elements of a vector along the channels from one y to the next
    channels: int  # with those that fill the last block

    @property
    def vector_shape(self) -> tuple[int, ...]:
        """Shape of a vector along the channels that broadcasts to the output."""
        shape = [1] * len(self.out_shape)
        shape[-1] = self.out_shape[-1]
        if self.out_blocks:
            shape[1] = self.out_shape[1]
        return tuple(shape)


def activation(node: Node) -> tuple[str, float, float]:
    """(vector operation, f0, f1) of a unary node; raises NoKernel when the ISA has none."""
    if node.op not in UNARY:
        raise NoKernel(f"{node.name}: no vector operation for {node.op}")
    a = node.attrs
    if node.op == "Clip":
        return "clip", float(a.get("min", -3.0e38)), float(a.get("max", 3.0e38))
    if node.op == "Gelu" and a.get("approximate", "none") == "tanh":
        return "gelu_tanh", 0.0, 0.0
    if node.op == "HardSigmoid":
        return "hard_sigmoid", float(a.get("alpha", 0.2)), float(a.get("beta", 0.5))
    if node.op == "Swish":
        return "swish", float(a.get("alpha", 1.0)), 0.0
    if node.op in ("LeakyRelu", "Elu"):
        return UNARY[node.op], float(a.get("alpha", 0.01 if node.op == "LeakyRelu" else 1.0)), 0.0
    return UNARY[node.op], 0.0, 0.0


@dataclass(frozen=True)
class _Map:
    """A feature map as it is stored: channels with those that fill a block; element strides by letter (C: a channel's
    from block to block)."""

    batch: int
    h: int
    w: int
    channels: int
    strides: dict[str, int]
    block: int = 0

    def operand(self, letter: str, share: int) -> tuple[dict[str, int], dict[str, int]]:
        """(strides, blocks) where channels are `letter`, `share` of them to each y."""
        names = {"c": letter, "C": letter.upper()}
        strides = {names.get(k, k): v for k, v in self.strides.items()}
        strides["y"] = share * self.strides.get("C", self.strides["c"])
        return strides, {letter: self.block} if self.block else {}


def _feature_map(context: Context, name: str) -> _Map:
    """[N, C1, H, W, C0] or [N, H, W, C]."""
    shape = context.type_of(name).shape
    if len(shape) == 5:
        n, c1, h, w, c0 = shape
        return _Map(n, h, w, c1 * c0, {"x": c1 * h * w * c0, "h": w * c0, "w": c0, "c": 1, "C": h * w}, c0)
    n, h, w, c = shape
    return _Map(n, h, w, c, {"x": h * w * c, "h": w * c, "w": c, "c": 1})


@rule("Conv")
def lower_conv(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Lower a 2-D convolution, channels last or in blocks, with its epilogue."""
    node = nodes[0]
    x, w = node.inputs[0], node.inputs[1]
    if node.attrs.get("layout") not in ("NHWC", "NC1HWC0") or len(context.type_of(w).shape) != 4:
        raise NoKernel(f"{node.name}: only 2-D convolutions, channels last or in blocks, have a kernel")
    source, result = (_feature_map(context, name) for name in (x, node.outputs[0]))
    kh, kw, per_group, filters = context.type_of(w).shape
    groups = int(node.attrs.get("group", 1))
    if groups > 1:
        w, merged = weights.pack_groups(context, node, groups, source.block)
        blocks, c, n = -(-groups // merged), per_group * merged, filters // groups * merged
    else:
        blocks, c, n = 1, source.channels, result.channels
        if not source.block and n > filters:  # channels last in, blocks out: filters of zeros fill the last block
            w = weights.fill_filters(context, node, n)
    pads = tuple(node.attrs.get("pads", (0, 0, 0, 0)))
    a = _operand(context, x, *source.operand("c", c))
    weight = _operand(context, w, {"y": kh * kw * c * n * (groups > 1), "kh": kw * c * n, "kw": c * n, "c": n, "n": 1},
                      {"c": source.block} if source.block else {})  # fmt: skip
    strides, cut = result.operand("n", n)
    axes = _Axes(
        {"x": source.batch, "y": blocks, "h": result.h, "w": result.w, "n": n}, context.type_of(node.outputs[0]).shape,
        strides, cut, n, result.channels,
    )  # fmt: skip
    window = {
        "kh": kh, "kw": kw, "in_h": source.h, "in_w": source.w, "stride": tuple(node.attrs.get("strides", (1, 1))),
        "pad": (pads[0], pads[1]), "dilation": tuple(node.attrs.get("dilations", (1, 1))), "c": c,
    }
    return _finish(context, nodes, a, weight, (x, w), axes, window)


@dataclass(frozen=True)
class Product:
    """A matrix product as a contraction; `outer` are batch dimensions that launches count."""

    left: str
    right: str
    a: Operand
    weight: Operand
    axes: _Axes
    window: dict[str, Any]
    outer: list[Batch]


@rule("MatMul")
def lower_matmul(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Lower a matrix product, dense or batched (two batch dimensions after merging), with its epilogue."""
    node = nodes[0]
    if len(nodes) > 2 and nodes[-1].op == "MatMul":
        return lower_attention(context, nodes)
    product = product_of(context, node)
    calls = _finish(context, nodes, product.a, product.weight, (product.left, product.right), product.axes,
                    product.window, whole=not product.outer)  # fmt: skip
    return [_shifted(context, calls[0], at, product.axes.out_shape) for at in _offsets(product.outer)]


def product_of(context: Context, node: Node) -> Product:
    """The operands, extents and strides of a matrix product; raises NoKernel for one that has no kernel."""
    left, right = node.inputs[0], node.inputs[1]
    a_shape, b_shape = context.type_of(left).shape, context.type_of(right).shape
    final = context.type_of(node.outputs[0]).shape
    perm = tuple(node.attrs.get("perm", range(len(final))))
    places = [perm.index(i) for i in range(len(final))]  # of the product's axes in what is stored
    out_shape = tuple(final[i] for i in places)
    if min(len(a_shape), len(b_shape)) < 2:
        raise NoKernel(f"{node.name}: a product with a vector has no kernel")
    trans_a, trans_b = bool(node.attrs.get("transA", 0)), bool(node.attrs.get("transB", 0))
    m, k = (a_shape[-1], a_shape[-2]) if trans_a else (a_shape[-2], a_shape[-1])
    n = b_shape[-2] if trans_b else b_shape[-1]
    strides_a, strides_b = context.strides_of(left), context.strides_of(right)
    strides_o = tuple(row_major(final)[i] for i in places)
    batch = _merge_batch(out_shape[:-2], a_shape[:-2], strides_a, b_shape[:-2], strides_b, strides_o)
    row_a, k_a = (strides_a[-1], strides_a[-2]) if trans_a else (strides_a[-2], strides_a[-1])
    row_o = strides_o[-2]
    steady = m == 1 or (batch and batch[0][1] == m * row_a and batch[0][3] == m * row_o)
    if len(batch) == 1 and batch[0][2] == 0 and steady:
        row_a, row_o = (batch[0][1], batch[0][3]) if m == 1 else (row_a, row_o)
        m, batch = m * batch[0][0], []  # rows of all batches in one matrix
    outer, batch = _outer_batch(node, batch)
    batch = [(1, 0, 0, 0)] * (2 - len(batch)) + batch
    extents = {"x": batch[0][0], "y": batch[1][0], "h": m, "w": 1, "n": n}
    a_strides = {"x": batch[0][1], "y": batch[1][1], "h": row_a, "c": k_a}
    k_b, n_b = (strides_b[-1], strides_b[-2]) if trans_b else (strides_b[-2], strides_b[-1])
    b_strides = {"x": batch[0][2], "y": batch[1][2], "c": k_b, "n": n_b}
    o_strides = {"x": batch[0][3], "y": batch[1][3], "h": row_o, "n": 1}
    window = {"kh": 1, "kw": 1, "in_h": m, "in_w": 1, "stride": (1, 1), "pad": (0, 0), "dilation": (1, 1), "c": k}
    vector_y = n if o_strides["y"] == n and extents["y"] * n == final[-1] else 0
    axes = _Axes(extents, final, o_strides, {}, vector_y, final[-1])
    a, weight = _operand(context, left, a_strides), _operand(context, right, b_strides)
    return Product(left, right, a, weight, axes, window, outer)


def lower_attention(context: Context, nodes: tuple[Node, ...]) -> list[Call]:
    """Lower softmax(scale Q K^T) V, of which only the result leaves the group."""
    first, last = nodes[0], nodes[-1]
    scores, values = product_of(context, first), product_of(context, last)
    scale = scalar_value(context, nodes[1].inputs[1]) if nodes[1].op == "Mul" else 1.0
    machine, kind = context.machine, context.type_of(scores.left).dtype
    sides = [context.type_of(n) for n in (scores.left, scores.right, values.right, last.outputs[0])]
    enough = mix.partners(machine) and machine.core.cross_flags >= attention.CROSS_FLAGS
    if not enough or scale is None or scores.outer or values.outer or "perm" in first.attrs:
        raise NoKernel(f"{first.name}: attention in one kernel needs cube and vector cores, and whole batches")
    if any(t.dtype != kind or t.scale != 1.0 for t in sides) or not dtype_of(kind).is_float:
        raise NoKernel(f"{first.name}: attention in one kernel takes one floating-point format")
    e, f = scores.axes.extents, values.axes.extents
    if (e["x"], e["y"], e["h"]) != (f["x"], f["y"], f["h"]) or len(last.inputs) > 2 or len(first.inputs) > 2:
        raise NoKernel(f"{first.name}: batches of scores and values differ, or one has a bias")
    for op in ("exp", "sub", "mul", "add", "div", "muls", "copy", "lmax", "lsum"):
        if machine.core.vector is None or (machine.core.vector.operations and op not in machine.core.vector.operations):
            raise NoKernel(f"{first.name}: the vector unit of {machine.name} has no {op}")
    k, v = scores.weight.strides, values.weight.strides
    if any(s != 1 for s in (scores.a.strides["c"], k["c"], v["n"], values.axes.out_strides["n"])):
        raise NoKernel(f"{first.name}: attention in one kernel takes queries, keys and values as rows")
    spec = Attention(
        e["x"], e["y"], e["h"], e["n"], scores.window["c"], f["n"], scale, machine.core.matrix.accumulate[kind],
        scores.a, scores.weight,
        replace(values.weight, strides={"x": v["x"], "y": v["y"], "n": v["c"], "e": v["n"]}),
        _operand(context, last.outputs[0], {("e" if x == "n" else x): s for x, s in values.axes.out_strides.items()}),
    )  # fmt: skip
    tile = attention.search(spec, machine)
    if tile is None:
        raise NoKernel(f"{first.name}: no tile of attention with heads of {spec.c} fits the cores of {machine.name}")
    bind = {"q": (scores.left, 0), "k": (scores.right, 0), "v": (values.right, 0), "out": (last.outputs[0], 0)}
    rooms = {name: size * machine.cores for name, size in attention.workspace_bytes(spec, tile).items()}
    space, start = context.workspace(sum(rooms.values())), 0
    for name, size in rooms.items():
        bind[name] = (space, start)
        start += size
    make = partial(_make, attention.build, spec, tile, machine)
    return [Call(("attention", repr(spec), tile), make, bind)]


def _outer_batch(node: Node, batch: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """The batch dimensions that launches count, and the two longest, which a kernel does; raises NoKernel."""
    longest = sorted(range(len(batch)), key=lambda i: -batch[i][0])[:2]
    outer, inner = ([b for i, b in enumerate(batch) if (i in longest) == kept] for kept in (False, True))
    launches = prod(extent for extent, *_ in outer)
    if launches > MAX_LAUNCHES:
        raise NoKernel(f"{node.name}: {len(batch)} batch dimensions take {launches} launches, over {MAX_LAUNCHES}")
    return outer, inner


def _offsets(outer: list[Batch]) -> list[tuple[int, int, int]]:
    """Element offsets (A, B, out) of every place in the outer batch dimensions."""
    places = np.ndindex(*(extent for extent, *_ in outer))
    steps = [[row[operand] for row in outer] for operand in (1, 2, 3)]
    return [(_dot(p, steps[0]), _dot(p, steps[1]), _dot(p, steps[2])) for p in places]


def _dot(place: tuple[int, ...], steps: list[int]) -> int:
    return sum(i * step for i, step in zip(place, steps))


def _shifted(context: Context, call: Call, at: tuple[int, int, int], final: tuple[int, ...]) -> Call:
    """A call with its operands moved by `at` elements (A, B, out); what is as large as the output moves with it."""
    bind = {}
    for key, (name, offset) in call.bind.items():
        tensor = context.graph.tensors.get(name)
        as_out = key == "out" or (key not in ("a", "weight") and tensor is not None and tensor.shape == final)
        moved = at[0] if key == "a" else at[1] if key == "weight" else at[2] if as_out else 0
        bind[key] = (name, offset + (moved * dtype_of(tensor.dtype).size_bytes if tensor and moved else 0))
    return replace(call, bind=bind)


def _merge_batch(out: tuple[int, ...], a: tuple[int, ...], a_strides: tuple[int, ...], b: tuple[int, ...],
                 b_strides: tuple[int, ...], o_strides: tuple[int, ...]) -> list[Batch]:
    """Batch dimensions as (extent, strides of A, B, out), broadcast ones with stride 0, neighbours merged."""
    rank = len(out)
    rows: list[Batch] = []
    for i, extent in enumerate(out):
        if extent == 1:
            continue
        strides = []
        for shape, source in ((a, a_strides), (b, b_strides)):
            j = i - (rank - len(shape))
            strides.append(source[j] if j >= 0 and shape[j] > 1 else 0)
        row = (extent, strides[0], strides[1], o_strides[i])
        if rows and all(p == q * extent for p, q in zip(rows[-1][1:], row[1:])):
            rows[-1] = (rows[-1][0] * extent, *row[1:])
        else:
            rows.append(row)
    return rows


def _operand(
    context: Context, name: str, strides: Mapping[str, int], blocks: Mapping[str, int] = MappingProxyType({})
) -> Operand:
    tensor = context.type_of(name) if name in context.graph.tensors else context.new_constants[name].type
    return Operand(context.space_of(name), tensor.dtype, dict(strides), tensor.scale, tensor.zero_point, dict(blocks))


def _finish(context: Context, nodes: tuple[Node, ...], a: Operand, weight: Operand, sources: tuple[str, str],
            axes: _Axes, window: dict[str, Any], whole: bool = True) -> list[Call]:
    """Add the epilogue, choose the tiling, return the call; weights that it reads `whole` are stored by tiles."""
    node, matrix = nodes[0], context.machine.core.matrix
    _require_ways(context.machine, node, a, weight, sources)
    operand_dtype = a.dtype
    if operand_dtype not in matrix.passes:
        raise NoKernel(f"{node.name}: the array of {context.machine.name} does not multiply {operand_dtype}")
    out_name = nodes[-1].outputs[0]
    out = _operand(context, out_name, axes.out_strides, axes.out_blocks)
    bind = {"a": (sources[0], 0), "weight": (sources[1], 0), "out": (out_name, 0)}
    epilogue = _epilogue(context, nodes, axes, bind)
    e = axes.extents
    spec = Contraction(e["x"], e["y"], e["h"], e["w"], e["n"], a=a, weight=weight, out=out, operand_dtype=operand_dtype,
                       acc_dtype=matrix.accumulate[operand_dtype], epilogue=epilogue, **window)
    budget = dict(context.budget)
    cube = matrix.dataflow == "cube"
    if epilogue.gated and not cube:  # the gate's tile takes no more than all the others
        budget[context.machine.scratch_space] //= 2
    cached = [k for k in ("a", "weight") if _is_computed(context, bind[k][0])]
    if cube:
        tiling = tiling_cube.search(spec, context.machine, budget, context.choices.tile, cached)
    else:
        tiling = tiling_array.search(spec, context.machine, budget, context.choices.tile)
    if epilogue.after and context.machine.drain_engine is not None:
        if not mix.rows_at_once(spec, tiling, context.machine):
            raise NoKernel(f"{node.name}: a row of {spec.w} x {tiling.n} results does not fit a vector core's buffer")
        size = context.machine.cores * mix.SLOTS * mix.slot_bytes(spec, tiling)
        bind["mid"] = (context.workspace(size), 0)
    cycles = tiling_cube.expected_cycles(spec, tiling, context.machine, budget, cached) if cube else 0.0
    if weight.blocks:
        spec = weights.by_fractals(context, spec, tiling, bind)
    elif whole:
        spec = weights.by_tiles(context, spec, tiling, bind)
    make = partial(_make, (cube_kernel if cube else array_kernel).build, spec, tiling, context.machine)
    return [Call(("contraction", repr(spec), tiling), make, bind, cycles)]


def _is_computed(context: Context, name: str) -> bool:
    """Whether an operator writes a tensor, which a shared cache may then still hold."""
    return not any(name in known for known in (context.graph.inputs, context.graph.constants, context.new_constants))


def _require_ways(machine: Machine, node: Node, a: Operand, weight: Operand, sources: tuple[str, str]) -> None:
    """Raise NoKernel unless both operands can get to the array from where they lie."""
    staging = machine.staging_space
    if machine.core.matrix.dataflow == "cube":
        right = staging if cube_kernel.is_fed(machine) else machine.core.matrix.operand_b_space or staging
        for operand, name, to in ((a, sources[0], staging), (weight, sources[1], right)):
            if machine.path(operand.space, to) is None:
                raise NoKernel(f"{node.name}: {name} lies in {operand.space}, from which no path leads to {to}")
    elif weight.space != staging and machine.path(weight.space, "wfifo") is None:
        if machine.path(weight.space, staging) is None:
            raise NoKernel(f"{node.name}: {sources[1]} lies in {weight.space}, which the array takes no weights from")
    elif weight.space == staging and machine.path(staging, "wfifo") is None:
        raise NoKernel(f"{node.name}: the weight port of {machine.name} cannot read the scratchpad")


def _make(build: Any, spec: Any, tiling: Any, machine: Machine, name: str) -> Any:
    return build(spec, tiling, machine, name)


def _epilogue(context: Context, nodes: tuple[Node, ...], axes: _Axes, bind: dict[str, tuple[str, int]]) -> Epilogue:
    anchor = nodes[0]
    bias = len(anchor.inputs) > 2 and bool(anchor.inputs[2])
    if bias:
        bind["bias"] = (_vector(context, anchor.inputs[2], axes.channels), 0)
    uniform = context.type_of(anchor.inputs[0]).scale * context.type_of(anchor.inputs[1]).scale
    scales = "weight_scales" in anchor.attrs or uniform != 1.0
    if "weight_scales" in anchor.attrs:
        bind["scales"] = (_channel_scales(context, anchor, axes.channels), 0)
    elif scales:  # two quantised activations: one scale for all
        constant = Constant.of(np.full(axes.extents["n"], uniform, np.float32), "fp32")
        bind["scales"] = (context.add_constant(f"{anchor.name}.scales", constant), 0)
    act, f0, f1 = "none", 0.0, 0.0
    rest = list(nodes[1:])
    if rest and rest[0].op in FOLDED and _same_steps(context, anchor, rest[0]) and _offers(context, rest[0]):
        act, f0, f1 = activation(rest[0])
        anchor = rest.pop(0)
    _require(context, act, drained=True)
    after: list[tuple[str, float, float, int]] = []
    operands: list[Operand] = []
    mids = [context.type_of(anchor.outputs[0]).scale]
    previous = anchor.outputs[0]
    for node in rest:
        after.append(_step(context, node, previous, axes, operands, bind))
        for op in WRITTEN_OUT.get(after[-1][0], (after[-1][0],)):
            _require(context, op, drained=False)
        previous = node.outputs[0]
        mids.append(context.type_of(previous).scale)
    return Epilogue(bias, scales, act, f0, f1, tuple(after), tuple(operands), axes.vector_y,
                    context.type_of(anchor.outputs[0]).dtype, tuple(mids))


def _offers(context: Context, node: Node) -> bool:
    """Whether the drain applies an activation; if not, the vector unit may, after it."""
    offered = context.machine.drain_activations
    return offered is None or context.machine.core.vector is None or activation(node)[0] in offered


def _require(context: Context, op: str, drained: bool) -> None:
    """Raise NoKernel when the drain (or the vector unit that stands for it) does not offer an operation."""
    machine, vector = context.machine, context.machine.core.vector
    if not drained and machine.drain_engine is not None and not mix.partners(machine):
        raise NoKernel(f"behind the array of {machine.name} results go to memory; {op} is for other cores")
    if drained and (machine.core.drain or machine.drain_engine) is not None:
        offered = machine.drain_activations
    else:
        offered = [] if vector is None else vector.operations or None
    if op != "none" and offered is not None and op not in offered:
        raise NoKernel(f"{context.machine.name} does not offer {op} behind its array")


def _same_steps(context: Context, anchor: Node, node: Node) -> bool:
    """True when rounding before or after the activation gives the same stored value."""
    before, behind = context.type_of(anchor.outputs[0]), context.type_of(node.outputs[0])
    exact = node.op in ("Relu", "Clip") or before.dtype == "fp32"
    return before.dtype == behind.dtype and before.scale == behind.scale and exact


def _step(context: Context, node: Node, previous: str, axes: _Axes, operands: list[Operand],
          bind: dict[str, tuple[str, int]]) -> tuple[str, float, float, int]:
    """One element-wise operation of the epilogue; the other operand is a scalar, a vector or a tensor."""
    if node.op not in BINARY:
        return (*activation(node), -1)
    op = BINARY[node.op]
    others = [x for x in node.inputs if x != previous]
    if len(node.inputs) != 2 or (node.inputs[0] != previous and op in ("sub", "div")):
        raise NoKernel(f"{node.name}: operand order of {node.op} does not fit an epilogue")
    if not others:
        raise NoKernel(f"{node.name}: {node.op} of a value with itself")
    value = scalar_value(context, others[0])
    if value is not None and op in SCALAR_FORM:
        return SCALAR_FORM[op], value, 0.0, -1
    bind[f"e{len(operands)}"] = (others[0], 0)
    operands.append(_operand(context, others[0], *_broadcast(context.type_of(others[0]).shape, axes)))
    return op, 0.0, 0.0, len(operands) - 1


def _broadcast(shape: tuple[int, ...], axes: _Axes) -> tuple[dict[str, int], dict[str, int]]:
    """(strides by letter, blocks) of what broadcasts to the output; raises NoKernel when the letters do not fit."""
    if shape == axes.out_shape:
        return axes.out_strides, axes.out_blocks
    if (1,) * (len(axes.out_shape) - len(shape)) + shape == axes.vector_shape:
        return {"y": axes.extents["n"] if axes.extents["y"] * axes.extents["n"] == axes.channels else 0, "n": 1}, {}
    raise NoKernel(f"an epilogue operand of shape {shape} does not broadcast simply to {axes.out_shape}")


def _vector(context: Context, name: str, channels: int) -> str:
    """The fp32 copy of a per-channel constant, zero beyond its end, where copy engines can fetch it."""
    constant = context.graph.constants.get(name)
    if constant is None:
        raise NoKernel(f"{name}: a computed bias has no kernel")
    key = f"{name}.fp32" if constant.type.elements == channels else f"{name}.fp32.{channels}"
    if key not in context.new_constants:
        context.add_constant(key, constant.map(TensorType((channels,), "fp32"), partial(_filled, channels)))
    return key


def _filled(channels: int, values: Array) -> Array:
    found = np.zeros(channels, np.float32)
    found[: values.size] = np.asarray(values, np.float32).reshape(-1)
    return found


def _channel_scales(context: Context, anchor: Node, channels: int) -> str:
    """Scale of every output channel's accumulator: that of the input times that of the filter."""
    name = str(anchor.attrs["weight_scales"])
    step = context.type_of(anchor.inputs[0]).scale
    source: Constant = context.graph.constants[name]
    flat = TensorType((channels,), "fp32")
    scaled = source.map(flat, lambda v: _filled(channels, np.asarray(v, np.float32) * np.float32(step)))
    return context.add_constant(f"{anchor.name}.scales", scaled)
