"""Kind `conv`: measured times of 2-D convolutions without bias.

A Winograd or FFT row does fewer multiplications than the convolution that is simulated: it is listed, not judged.
Maps lie channels-last in memory, with `run.layout=nc1hwc0` in blocks of channels: what is timed is one kernel. A column
`tile` is the `run.tile` of its row.
"""

from __future__ import annotations

from dataclasses import replace

from compiler import layouts
from compiler.graph import Graph
from compiler.zoo.net import Net
from isa.dtypes import dtype as dtype_of
from npusim.validate.bench import Bench
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

NEEDS_HW = True
COLUMNS = (
    Column("n", ("batch",)),
    Column("c", ("cin",)),
    Column("h"),
    Column("w"),
    Column("k_filters", ("cout",)),
    Column("r", ("kh", "r_filter_h")),
    Column("s", ("kw", "s_filter_w")),
    Column("stride_h", ("stride",)),
    Column("pad_h", ("pad",)),
    Column("stride_w", required=False),
    Column("pad_w", required=False),
    Column("dtype", ("dtype_in",)),
    Column("time_us", ("fwd_time_us",)),
    Column("fwd_algorithm", required=False),
    Column("tile", required=False),
)
OTHER_ALGORITHMS = ("WINOGRAD", "FFT")
LAST = (0, 2, 3, 1)
FIRST = (0, 3, 1, 2)
BLOCKED = "NC1HWC0"


def name_of(row: Row) -> str:
    """The row in words."""
    size = "x".join(row.text(name) for name in ("n", "h", "w", "c"))
    return f"conv {size} {row.text('k_filters')} filters {row.text('r')}x{row.text('s')} {row.text('dtype')}"


def conv_graph(
    batch: int, height: int, width: int, depth: int, maps: int,
    kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], block: int = 0,
) -> Graph:  # fmt: skip
    """y = conv(x), no bias; tensors outside are channel-last [N, H, W, C], or [N, C1, H, W, C0] with `block` as C0."""
    net = Net(f"conv-{batch}x{height}x{width}x{depth}x{maps}")
    attrs: dict[str, object] = {"kernel_shape": kernel, "strides": stride, "dilations": (1, 1), "pads": (*pad, *pad),
                                "group": 1}  # fmt: skip
    if block:
        stored = layouts.stored_shape(BLOCKED, (batch, height, width, depth), layouts.Fractal(block))
        weight = net.weight("w", (*kernel, depth, maps), depth * kernel[0] * kernel[1])
        return net.finish(net.op("y", "Conv", net.input("x", stored), weight, layout=BLOCKED, c0=block, **attrs))
    x = net.op("first", "Transpose", net.input("x", (batch, height, width, depth)), perm=FIRST)
    weight = net.weight("w", (maps, depth, *kernel), depth * kernel[0] * kernel[1])
    return net.finish(net.op("y", "Transpose", net.op("conv", "Conv", x, weight, **attrs), perm=LAST))


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the convolution."""
    from npusim.api import run_settings

    batch, depth, height, width, maps = (row.integer(x) for x in ("n", "c", "h", "w", "k_filters"))
    kernel = (row.integer("r"), row.integer("s"))
    stride = (row.integer("stride_h"), row.integer("stride_w", row.integer("stride_h")))
    pad = (row.integer("pad_h", least=0), row.integer("pad_w", row.integer("pad_h", least=0), least=0))
    measured, dtype = row.positive("time_us"), bench.dtype_of(row)
    out = tuple((x + 2 * p - k) // s + 1 for x, p, k, s in zip((height, width), pad, kernel, stride))
    if min(out) < 1:
        raise TableError(f"a kernel of {kernel} does not fit {height} x {width} with padding {pad}")
    taps = depth * kernel[0] * kernel[1]
    outputs = batch * maps * out[0] * out[1]
    size = (batch * height * width * depth + taps * maps + outputs) * dtype_of(dtype).size_bytes
    algorithm = row.text("fwd_algorithm").upper()
    if any(name in algorithm for name in OTHER_ALGORITHMS):
        roofline = bench.roofline(dtype, outputs * taps, size) / bench.chip.clock_mhz
        note = f"algorithm {algorithm}: the roofline stands for the simulation"
        return Outcome(measured, roofline, "us", measured, roofline, listed=note)
    in_blocks = run_settings(bench.settings).get("layout") == "nc1hwc0"
    block = layouts.channel_block(bench.chip, dtype) if in_blocks else 0
    graph = conv_graph(batch, height, width, depth, maps, kernel, stride, pad, block)
    tile = tuple(f"run.tile={text}" for text in (row.text("tile"),) if text)
    used = replace(bench, settings=(*tile, *bench.settings))  # what is set for all rows wins
    return bench.outcome_us(measured, used.run(graph, dtype), row, outputs * taps, size)
