"""What the systolic array does with one tile of a contraction, by dataflow: blocks, their operands, their order.

A block fixes a range of every letter (h, w: rows; kh, kw, c: K; n: columns). Weight-stationary arrays hold a K x n
block of weights and stream all rows; input-stationary ones hold an m x K block of the feature map and stream all
columns; output-stationary ones hold an m x n block of results and stream all of K.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.expr import Expr, binary, ceil_div, emax, emin, pos, var
from compiler.nest import Dim, Ref, Stmt, SubLoop, Window
from isa.table import NEXT_TILE, STATIONARY_A

if TYPE_CHECKING:
    from compiler.kernels.contraction import TileBuilder

Value = Expr | int


@dataclass(frozen=True)
class Span:
    """A range of one letter inside the tile: where it starts, how long it is, the most it can be."""

    start: Value
    extent: Value
    most: int


Block = Mapping[str, Span]


@dataclass(frozen=True)
class Axis:
    """One dimension of a tile: the elements of a letter or, where it is stored in blocks, its blocks of `step`."""

    letter: str
    extent: Value
    most: int
    step: int = 1

    def stride(self, strides: Mapping[str, int]) -> int:
        """Of an operand, in the unit of `strides`; a capital letter's is that from block to block, an element."""
        inside = strides.get(self.letter, 0)
        return inside if self.step == 1 else self.step * strides.get(self.letter.upper(), inside)


def axes_of(letters: Iterable[str], spans: Block, blocks: Mapping[str, int]) -> list[Axis]:
    """Dimensions of a tile over `letters`; blocks of a letter that has several come before all letters.

    A letter in blocks starts, and its tile ends, with a whole block.
    """
    outer: list[Axis] = []
    inner: list[Axis] = []
    for letter in letters:
        span, block = spans[letter], blocks.get(letter, 0)
        if not block or span.most <= block:
            inner.append(Axis(letter, span.extent, span.most))
            continue
        outer.append(Axis(letter, binary("div", span.extent, block), span.most // block, block))
        inner.append(Axis(letter, block, block))
    return [*outer, *inner]


def products(b: TileBuilder, a: Ref, weight: Ref) -> SubLoop:
    """All products of one tile, for the array's dataflow; `a` and `weight` are the tiles' bases."""
    orders = {"ws": _weight_stationary, "is": _input_stationary, "os": _output_stationary}
    return orders[b.machine.core.matrix.dataflow](b, a, weight)


def _weight_stationary(b: TileBuilder, a: Ref, weight: Ref) -> SubLoop:
    matrix = b.machine.core.matrix
    block = b.tap_block
    body: list[Stmt | SubLoop] = []
    for unit in range(b.units_n * b.units_h):
        rows = _unit_rows(b, unit)
        spans = {**_taps(b, block), "h": rows, "w": Span(0, b.s.w, b.s.w), "n": _columns(b, unit)}
        live = _live(b, spans)
        body += [
            Stmt("ldw", None, (weight_operand(b, weight, live),), unit=unit),
            Stmt("mm", result_operand(b, spans), (row_operand(b, a, spans),), unit=unit, accumulate=_earlier(),
                 flags=NEXT_TILE),
        ]
    columns = matrix.cols * b.units_n
    return SubLoop("nj", ceil_div(b.extent["n"], columns), columns, (_tap_loops(b, block, body),))


def _input_stationary(b: TileBuilder, a: Ref, weight: Ref) -> SubLoop:
    matrix = b.machine.core.matrix
    block = b.tap_block
    high, wide = _row_block(b, matrix.cols)
    body: list[Stmt | SubLoop] = []
    for unit in range(b.units_n * b.units_h):
        spans = {**_taps(b, block), **_sub_rows(b, unit, high, wide), "n": Span(0, b.extent["n"], b.most["n"])}
        live = _live(b, spans)
        body += [
            Stmt("ldw", None, (row_operand(b, a, live),), unit=unit, flags=STATIONARY_A),
            Stmt("mm", result_operand(b, spans), (weight_operand(b, weight, spans),), unit=unit, accumulate=_earlier(),
                 flags=NEXT_TILE | STATIONARY_A),
        ]
    return _row_loops(b, high, wide, _tap_loops(b, block, body))


def _output_stationary(b: TileBuilder, a: Ref, weight: Ref) -> SubLoop:
    matrix = b.machine.core.matrix
    high, wide = _row_block(b, matrix.rows)
    s = b.s
    whole = {"kh": Span(0, s.kh, s.kh), "kw": Span(0, s.kw, s.kw), "c": Span(0, b.extent["c"], b.most["c"])}
    body: list[Stmt | SubLoop] = []
    for unit in range(b.units_n * b.units_h):
        spans = {**whole, **_sub_rows(b, unit, high, wide), "n": _columns(b, unit)}
        operands = (row_operand(b, a, spans), weight_operand(b, weight, spans))
        body.append(Stmt("mm", result_operand(b, spans), operands, unit=unit, accumulate=pos("c")))
    columns = matrix.cols * b.units_n
    return SubLoop("nj", ceil_div(b.extent["n"], columns), columns, (_row_loops(b, high, wide, *body),))


# Blocks and loops over them


def _tap_loops(b: TileBuilder, block: tuple[int, int, int], body: list[Stmt | SubLoop]) -> SubLoop:
    gh, gw, gc = block
    inner = SubLoop("cs", ceil_div(b.extent["c"], gc), gc, tuple(body))
    inner = SubLoop("tw", -(-b.s.kw // gw), gw, (inner,))
    return SubLoop("th", -(-b.s.kh // gh), gh, (inner,))


def _taps(b: TileBuilder, block: tuple[int, int, int]) -> dict[str, Span]:
    gh, gw, gc = block
    s = b.s
    return {
        "kh": Span(var("th"), gh if s.kh % gh == 0 else emin(s.kh - var("th"), gh), gh),
        "kw": Span(var("tw"), gw if s.kw % gw == 0 else emin(s.kw - var("tw"), gw), gw),
        "c": Span(var("cs"), _clamp(b.extent["c"] - var("cs"), gc, _even(b, "c", gc)), gc),
    }


def _row_block(b: TileBuilder, most: int) -> tuple[int, int]:
    """(rows high, wide) of a block of at most `most` matrix rows."""
    chunk = -(-b.most["h"] // b.units_h)
    if b.s.w >= most:
        return 1, most
    return min(chunk, max(1, most // b.s.w)), b.s.w


def _row_loops(b: TileBuilder, high: int, wide: int, *body: Stmt | SubLoop) -> SubLoop:
    chunk = -(-b.most["h"] // b.units_h)
    inner = SubLoop("ws", -(-b.s.w // wide), wide, tuple(body))
    return SubLoop("hs", -(-chunk // high), high, (inner,))


def _sub_rows(b: TileBuilder, unit: int, high: int, wide: int) -> dict[str, Span]:
    rows = _unit_rows(b, unit)
    w = b.s.w
    return {
        "h": Span(rows.start + var("hs"), _clamp(rows.extent - var("hs"), high, False), high),
        "w": Span(var("ws"), wide if w % wide == 0 else emin(w - var("ws"), wide), wide),
    }


def _unit_rows(b: TileBuilder, unit: int) -> Span:
    """The rows of the tile that a unit works on."""
    if b.units_h == 1:
        return Span(0, b.extent["h"], b.most["h"])
    chunk = -(-b.most["h"] // b.units_h)
    first = unit // b.units_n * chunk
    return Span(first, _clamp(b.extent["h"] - first, chunk, False), chunk)


def _columns(b: TileBuilder, unit: int) -> Span:
    """The columns of the present column block that a unit works on."""
    cols = b.machine.core.matrix.cols
    start = var("nj") + unit % b.units_n * cols
    most = min(cols, b.most["n"])
    return Span(start, _clamp(b.extent["n"] - start, most, _even(b, "n", cols * b.units_n)), most)


def _live(b: TileBuilder, spans: Block) -> Block:
    """The block, but empty when its rows or columns are: a tile must not be loaded that no stream takes."""
    rows, columns = spans["h"], spans["n"]
    alive: Value = 1
    for span in (rows, columns):
        alive = emin(span.extent, 1) * alive
    if b.machine.core.matrix.dataflow == "ws" and b.units_h == 1:
        return spans  # its own columns empty it, and all units have the same rows
    return {**spans, "kh": Span(spans["kh"].start, spans["kh"].extent * alive, spans["kh"].most)}


def _earlier() -> Expr:
    """Not zero when an earlier K block has begun the result."""
    return pos("c") + var("th") + var("tw") + var("cs")


def _even(b: TileBuilder, letter: str, block: int) -> bool:
    loop = next(x for x in b.loops if x.name == letter)
    return not loop.split and loop.total % loop.tile == 0 and loop.tile % block == 0


def _clamp(value: Value, most: int, exact: bool) -> Value:
    return most if exact else emax(emin(value, most), 0)


# Operands of a block


def weight_operand(b: TileBuilder, weight: Ref, spans: Block) -> Ref:
    """The weights of a block: K (kh, kw, c) by n."""
    letters = ("kh", "kw", "c", "n")
    offset = weight.offset
    for letter in letters:
        offset = offset + spans[letter].start * b.w_strides.get(letter.upper(), b.w_strides[letter])
    axes = axes_of(letters, spans, b.s.weight.blocks)
    dims = tuple(Dim(x.extent, x.most, x.stride(b.w_strides)) for x in axes)
    return Ref(weight.base, weight.dtype, dims, offset, rows=len(dims) - 1)


def result_operand(b: TileBuilder, spans: Block) -> Ref:
    """The accumulators of a block: rows (h, w) by n."""
    strides = (b.most["w"] * b.acc_row, b.acc_row, b.acc_size)
    offset: Value = 0
    for letter, stride in zip("hwn", strides):
        offset = offset + spans[letter].start * stride
    dims = tuple(Dim(spans[x].extent, spans[x].most, stride) for x, stride in zip("hwn", strides))
    return Ref("acc", b.s.acc_dtype, dims, offset, rows=2)


def row_operand(b: TileBuilder, a: Ref, spans: Block) -> Ref:
    """The feature map of a block: rows (h, w) by K (kh, kw, c), windowed where the border pads."""
    s = b.s
    sh, sw, sc = (b.a_strides[x] for x in "hwc")
    h, w, th, tw, c = (spans[x] for x in ("h", "w", "kh", "kw", "c"))
    offset = a.offset + c.start * b.a_strides.get("C", sc)
    down, right = h.start * s.stride[0] + th.start * s.dilation[0], w.start * s.stride[1] + tw.start * s.dilation[1]
    *blocks, channels = (Dim(x.extent, x.most, x.stride(b.a_strides)) for x in axes_of("c", spans, s.a.blocks))
    if not any(s.pad) and _inside(b):
        dims = (Dim(h.extent, h.most, sh * s.stride[0]), Dim(w.extent, w.most, sw * s.stride[1]), *blocks,
                Dim(th.extent, th.most, sh * s.dilation[0]), Dim(tw.extent, tw.most, sw * s.dilation[1]), channels)
        return Ref(a.base, a.dtype, dims, offset + down * sh + right * sw, rows=2)
    rows, columns = b.read["h"], b.read["w"]
    first = pos("h") * s.stride[0] - s.pad[0] - rows.start
    left = (pos("w") * s.stride[1] if b.t.w else 0) - s.pad[1] - columns.start
    windows = (Window(first + down, rows.extent, sh), Window(left + right, columns.extent, sw))
    dims = (Dim(h.extent, h.most, 0, 0, s.stride[0]), Dim(w.extent, w.most, 0, 1, s.stride[1]), *blocks,
            Dim(th.extent, th.most, 0, 0, s.dilation[0]), Dim(tw.extent, tw.most, 0, 1, s.dilation[1]), channels)
    return Ref(a.base, a.dtype, dims, offset, rows=2, windows=windows)


def _inside(b: TileBuilder) -> bool:
    """True when no output element reads past the bottom or right border."""
    s = b.s
    bottom = (s.h - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0]
    right = (s.w - 1) * s.stride[1] + (s.kw - 1) * s.dilation[1]
    return bottom < s.in_h and right < s.in_w
