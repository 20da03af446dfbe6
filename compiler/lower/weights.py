"""How constant weights are stored: groups merged into dense tiles, tile by tile, and in fractals."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from compiler import layouts
from compiler.graph import Array, Node, TensorType
from compiler.kernels.contraction import Contraction, Tiling
from compiler.lower.context import Context, NoKernel


def pack_groups(context: Context, node: Node, groups: int, block: int) -> tuple[str, int]:
    """Merge groups into block-diagonal tiles: [blocks, kh, kw, c, n]; (name, groups a tile).

    Tiles fill the array or, where the feature map lies in blocks of channels, those.
    """
    source = context.graph.constants.get(node.inputs[1])
    if source is None:
        raise NoKernel(f"{node.name}: grouped convolution with computed weights")
    kh, kw, per_group, filters = source.type.shape
    per_out = filters // groups
    matrix = context.machine.core.matrix
    merged = layouts.merged_groups(groups, per_group, per_out, block) if block else max(
        m for m in range(1, groups + 1)
        if groups % m == 0 and (m == 1 or (m * per_group <= matrix.rows and m * per_out <= matrix.cols)))
    if not merged:
        raise NoKernel(f"{node.name}: its groups do not fill blocks of {block} channels")
    packed_type = TensorType((-(-groups // merged), kh, kw, merged * per_group, merged * per_out), source.type.dtype,
                             source.type.scale, source.type.zero_point)

    def pack(values: Array) -> Array:
        packed = np.zeros(packed_type.shape, values.dtype)
        for g in range(groups):
            block, j = divmod(g, merged)
            part = values[:, :, :, g * per_out : (g + 1) * per_out]
            packed[block, :, :, j * per_group : (j + 1) * per_group, j * per_out : (j + 1) * per_out] = part
        return packed

    return context.add_constant(f"{node.inputs[1]}.packed", source.map(packed_type, pack), weight=True), merged


def fill_filters(context: Context, node: Node, filters: int) -> str:
    """Filters of zeros behind those of a convolution, `filters` in all; returns the name."""
    source = context.graph.constants.get(node.inputs[1])
    if source is None:
        raise NoKernel(f"{node.name}: computed weights cannot be filled up to {filters} filters")
    kind = TensorType((*source.type.shape[:-1], filters), source.type.dtype, source.type.scale, source.type.zero_point)
    missing = [(0, 0)] * 3 + [(0, filters - source.type.shape[-1])]
    name = f"{node.inputs[1]}.f{filters}"
    if name not in context.new_constants:
        context.add_constant(name, source.map(kind, lambda values: np.pad(values, missing)), weight=True)
    return name


def by_tiles(
    context: Context, spec: Contraction, tiling: Tiling, bind: dict[str, tuple[str, int]]
) -> Contraction:
    """Store constant weights tile by tile, so that a tile's copy is one long run; n, and c if cut, fill whole tiles.

    Tiles follow each other along n and, on a cube, along c where taps lie between its parts.
    """
    name, matrix = bind["weight"][0], context.machine.core.matrix
    source = context.new_constants.get(name) or context.graph.constants.get(name)
    strides, taps = spec.weight.strides, spec.kh * spec.kw
    direct = context.machine.path(spec.weight.space, "wfifo") is not None  # the array fetches its tiles itself
    width = matrix.cols if direct else min(tiling.n, spec.n)
    deep = tiling.c if matrix.dataflow == "cube" and taps > 1 and tiling.c < spec.c else spec.c
    if source is None or strides.get("n") != 1 or strides.get("c") != spec.n or (width >= spec.n and deep == spec.c):
        return spec
    width = min(width, spec.n)
    across, along = -(-spec.n // width), -(-spec.c // deep)
    groups = source.type.elements // (taps * spec.c * spec.n)
    shape = (groups, across * along, taps * deep, width)

    def block(values: Array) -> Array:
        padded = np.zeros((groups, taps, along * deep, across * width), values.dtype)
        padded[:, :, : spec.c, : spec.n] = values.reshape(groups, taps, spec.c, spec.n)
        tiles = padded.reshape(groups, taps, along, deep, across, width)
        return np.ascontiguousarray(tiles.transpose(0, 4, 2, 1, 3, 5)).reshape(shape)

    kind = TensorType(shape, source.type.dtype, source.type.scale, source.type.zero_point)
    blocked = f"{name}.n{width}" if deep == spec.c else f"{name}.n{width}c{deep}"
    if blocked not in context.new_constants:
        context.add_constant(blocked, source.map(kind, block), weight=True)
    bind["weight"] = (blocked, 0)
    depth = along * taps * deep
    outer = {k: v // (taps * spec.c * spec.n) * (across * depth * width) for k, v in strides.items() if k in "xy"}
    inner = {"kh": spec.kw * deep * width, "kw": deep * width, "c": width, "n": 1, "N": depth}
    if along > 1:
        inner["C"] = taps * width
    return replace(spec, weight=replace(spec.weight, strides={**outer, **inner}))


def by_fractals(
    context: Context, spec: Contraction, tiling: Tiling, bind: dict[str, tuple[str, int]]
) -> Contraction:
    """Store constant weights as FRACTAL_Z, one a tile along n: any range of channels of a tile is one run."""
    name = bind["weight"][0]
    source = context.new_constants.get(name) or context.graph.constants.get(name)
    if source is None:
        raise NoKernel(f"{name}: computed weights have no fractal order")
    *_, c, n = source.type.shape
    width, block = min(tiling.n, spec.n), layouts.Fractal(spec.weight.blocks["c"])
    tiles, groups = -(-spec.n // width), source.type.elements // (spec.kh * spec.kw * c * n)
    tile = layouts.stored_shape("FRACTAL_Z", (spec.kh, spec.kw, spec.c, width), block)

    def pack(values: Array) -> Array:
        room = np.zeros((groups, spec.kh, spec.kw, spec.c, tiles * width), values.dtype)
        room[..., :c, :n] = values.reshape(groups, spec.kh, spec.kw, c, n)
        parts = [layouts.store("FRACTAL_Z", part, block) for part in np.split(room, tiles, axis=-1)]
        return np.stack(parts, axis=1)

    kind = TensorType((groups, tiles, *tile), source.type.dtype, source.type.scale, source.type.zero_point)
    stored, each = f"{name}.z{width}", prod(tile)
    if stored not in context.new_constants:
        context.add_constant(stored, source.map(kind, pack), weight=True)
    bind["weight"] = (stored, 0)
    row = prod(tile[1:])  # of one tap and block of channels
    strides = {"y": tiles * each * (groups > 1), "N": each // width, "C": spec.kh * spec.kw * row // block.cols,
               "kh": spec.kw * row, "kw": row, "n": block.cols, "c": 1}
    return replace(spec, weight=replace(spec.weight, strides=strides))
