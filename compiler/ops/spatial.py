"""Geometry that convolutions and pools share: output extents, padding, window taps, channel-last views.

Spatial attributes are canonical: `strides`, `dilations` one a spatial axis, `pads` as ONNX (all begins, then all ends),
`auto_pad` already resolved. `layout` is 'NCHW' (default) or 'NHWC', for any number of spatial axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compiler.graph import Array, Node
from compiler.ops.base import fail, ints


@dataclass(frozen=True)
class Window:
    """A sliding window over `len(kernel)` spatial axes; all fields in elements."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    ceil_mode: bool = False

    @property
    def reach(self) -> tuple[int, ...]:
        """Extent that one window covers along each axis: (k - 1) * dilation + 1."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations))

    def outputs(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Output extents (ONNX Conv, MaxPool); with ceil_mode a window may not start in the end padding."""
        found = []
        for x, reach, stride, begin, end in zip(extents, self.reach, self.strides, self.begins, self.ends):
            span = x + begin + end - reach
            count = -(-span // stride) + 1 if self.ceil_mode else span // stride + 1
            if self.ceil_mode and (count - 1) * stride >= x + begin:
                count -= 1
            found.append(count)
        return tuple(found)

    def taps(self) -> Iterator[tuple[int, ...]]:
        """Every position inside the kernel."""
        return itertools.product(*(range(k) for k in self.kernel))

    def slices(self, tap: tuple[int, ...], outputs: tuple[int, ...]) -> tuple[slice, ...]:
        """Slices of a padded input [N, C, ...] that hold, for each output, the element under `tap`."""
        starts = [t * d for t, d in zip(tap, self.dilations)]
        spatial = (slice(b, b + (o - 1) * s + 1, s) for b, o, s in zip(starts, outputs, self.strides))
        return (slice(None), slice(None), *spatial)

    def pad(self, x: Array, outputs: tuple[int, ...], value: float = 0.0) -> Array:
        """Pad [N, C, ...] with `value`; the end grows where ceil_mode lets a window reach beyond the padding."""
        widths = [(0, 0), (0, 0)]
        for extent, out, stride, reach, begin, end in zip(
            x.shape[2:], outputs, self.strides, self.reach, self.begins, self.ends
        ):
            needed = (out - 1) * stride + reach
            widths.append((begin, max(end, needed - extent - begin)))
        if not any(itertools.chain(*widths)):
            return x
        return np.pad(x, widths, constant_values=value)


def window_of(node: Node, kernel: tuple[int, ...], extents: tuple[int, ...]) -> Window:
    """Read and check the window attributes of a node; raises ModelError when they do not fit the input."""
    rank = len(extents)
    ones, zeros = (1,) * rank, (0,) * (2 * rank)
    strides, dilations = ints(node, "strides", ones), ints(node, "dilations", ones)
    pads = ints(node, "pads", zeros)
    sizes = {"kernel": (kernel, rank), "strides": (strides, rank), "dilations": (dilations, rank)}
    for label, (found, wanted) in (*sizes.items(), ("pads", (pads, 2 * rank))):
        if len(found) != wanted:
            raise fail(node, f"{label} {list(found)} must have {wanted} entries for {rank} spatial axes")
    if min((*kernel, *strides, *dilations), default=1) < 1 or min(pads, default=0) < 0:
        raise fail(node, f"kernel {kernel}, strides {strides}, dilations {dilations} must be >= 1, pads {pads} >= 0")
    window = Window(kernel, strides, dilations, pads[:rank], pads[rank:], bool(node.attrs.get("ceil_mode", 0)))
    if min(window.outputs(extents), default=1) < 1:
        raise fail(node, f"kernel {list(kernel)} is larger than the padded input {list(extents)} (pads {list(pads)})")
    return window


def channel_last(node: Node) -> bool:
    """Return True for layout 'NHWC'; raises ModelError for anything but the two layouts."""
    layout = node.attrs.get("layout", "NCHW")
    if layout not in ("NCHW", "NHWC"):
        raise fail(node, f"layout {layout!r} is not 'NCHW' or 'NHWC'")
    return bool(layout == "NHWC")


def logical_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an activation shape as (N, C, spatial...) whatever its layout."""
    if len(shape) < 2:
        raise fail(node, f"input {list(shape)} needs a batch and a channel axis")
    return (shape[0], shape[-1], *shape[1:-1]) if channel_last(node) else tuple(shape)


def stored_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (N, C, spatial...) in the node's layout."""
    return (shape[0], *shape[2:], shape[1]) if channel_last(node) else tuple(shape)


def to_logical(node: Node, x: Array) -> Array:
    """View an activation as [N, C, spatial...]."""
    return np.moveaxis(x, -1, 1) if channel_last(node) else x


def to_stored(node: Node, x: Array) -> Array:
    """Return [N, C, spatial...] in the node's layout, contiguous."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1) if channel_last(node) else x)
