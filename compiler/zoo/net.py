"""Network construction in code: one method a layer, torchvision's and HF's names, lazy seeded weights.

Weights are He-normal (He et al. 2015: variance 2 / fan-in), each tensor seeded by its own name, and built only when
somebody asks for values: timing never allocates them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.frontend.builder import Builder
from compiler.graph import Array, Constant, Graph, TensorType


class Net:
    """A network under construction; every method returns the name of the tensor that it makes."""

    def __init__(self, name: str) -> None:
        """Start an empty network called `name`."""
        self.b = Builder(name)

    def input(self, name: str, shape: Sequence[int], dtype: str = "fp32") -> str:
        """Declare a graph input."""
        return self.b.input(name, TensorType(tuple(shape), dtype))

    def op(self, name: str, op: str, *inputs: str, **attrs: Any) -> str:
        """Add one operator whose output is called `name`."""
        return self.b.emit(name, op, inputs, [self.b.fresh(name)], attrs)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor, in elements."""
        return self.b.type(tensor).shape

    def finish(self, *outputs: str) -> Graph:
        """Return the graph."""
        return self.b.finish(outputs)

    # --- weights ---------------------------------------------------------------------------------------------------

    def normal(self, name: str, shape: Sequence[int], std: float, mean: float = 0.0) -> str:
        """A constant of seeded normal values."""
        extents = tuple(shape)

        def build() -> Array:
            values = _random(name).standard_normal(extents, dtype=np.float32)
            return np.asarray(values * np.float32(std) + np.float32(mean), dtype=np.float32)

        return self.b.constant(name, Constant(TensorType(extents, "fp32"), build))

    def weight(self, name: str, shape: Sequence[int], fan_in: int) -> str:
        """A He-normal constant."""
        return self.normal(name, shape, math.sqrt(2.0 / fan_in))

    def uniform(self, name: str, size: int, low: float, high: float) -> str:
        """A constant vector of seeded uniform values."""

        def build() -> Array:
            return np.asarray(_random(name).uniform(low, high, size), dtype=np.float32)

        return self.b.constant(name, Constant(TensorType((size,), "fp32"), build))

    def value(self, name: str, value: Any, dtype: str = "fp32") -> str:
        """A constant of known values."""
        return self.b.array(name, value, dtype)

    # --- layers ----------------------------------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        name: str,
        maps: int,
        kernel: int,
        stride: int = 1,
        pad: int | None = None,
        group: int = 1,
        bias: bool = False,
        dilation: int = 1,
    ) -> str:
        """2-D convolution; `pad` defaults to 'same' for stride 1 without dilation."""
        depth = self.shape(x)[1] // group
        operands = [x, self.weight(f"{name}.weight", (maps, depth, kernel, kernel), depth * kernel * kernel)]
        if bias:
            operands.append(self.normal(f"{name}.bias", (maps,), 0.1))
        padding = kernel // 2 if pad is None else pad
        attrs = {
            "kernel_shape": (kernel, kernel),
            "strides": (stride, stride),
            "dilations": (dilation, dilation),
            "pads": (padding,) * 4,
            "group": group,
        }
        return self.op(name, "Conv", *operands, **attrs)

    def batch_norm(self, x: str, name: str) -> str:
        """Batch normalisation at inference, statistics near those of a trained network."""
        channels = self.shape(x)[1]
        scale, variance = (self.uniform(f"{name}.{part}", channels, 0.5, 1.5) for part in ("weight", "running_var"))
        bias, mean = (self.normal(f"{name}.{part}", (channels,), 0.1) for part in ("bias", "running_mean"))
        return self.op(name, "BatchNormalization", x, scale, bias, mean, variance, epsilon=1e-5)

    def conv_bn(self, x: str, name: str, norm: str, maps: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        """Convolution without bias, then batch normalisation."""
        return self.batch_norm(self.conv(x, name, maps, kernel, stride, group=group), norm)

    def pool(self, x: str, name: str, op: str, kernel: int, stride: int, pad: int = 0) -> str:
        """MaxPool or AveragePool."""
        attrs = {"kernel_shape": (kernel, kernel), "strides": (stride, stride), "pads": (pad,) * 4}
        return self.op(name, op, x, **attrs)

    def linear(self, x: str, name: str, width: int, bias: bool = True) -> str:
        """x W + b over the last axis, exported as HF models are: MatMul with [in, out] weights, then Add."""
        depth = self.shape(x)[-1]
        product = self.op(
            f"{name}.matmul" if bias else name, "MatMul", x, self.weight(f"{name}.weight", (depth, width), depth)
        )
        return self.op(name, "Add", product, self.normal(f"{name}.bias", (width,), 0.1)) if bias else product

    def gemm(self, x: str, name: str, width: int, transposed: bool = True) -> str:
        """A fully connected layer on a matrix, exported as Gemm with [out, in] weights (or [in, out])."""
        depth = self.shape(x)[-1]
        extents = (width, depth) if transposed else (depth, width)
        weight, bias = self.weight(f"{name}.weight", extents, depth), self.normal(f"{name}.bias", (width,), 0.1)
        return self.op(name, "Gemm", x, weight, bias, transB=int(transposed))

    def layer_norm(self, x: str, name: str, epsilon: float = 1e-12) -> str:
        """Layer normalisation over the last axis."""
        width = self.shape(x)[-1]
        scale, bias = self.uniform(f"{name}.weight", width, 0.5, 1.5), self.normal(f"{name}.bias", (width,), 0.1)
        return self.op(name, "LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def heads(self, x: str, name: str, count: int, turned: bool = False) -> str:
        """Split [B, S, heads x D] into [B, heads, S, D], or [B, heads, D, S] when `turned`."""
        batch, tokens, width = self.shape(x)
        split = self.op(f"{name}.split", "Reshape", x, shape=(batch, tokens, count, width // count))
        return self.op(f"{name}.heads", "Transpose", split, perm=(0, 2, 3, 1) if turned else (0, 2, 1, 3))

    def scaled_dot_product(self, q: str, k: str, v: str, name: str, mask: str = "") -> str:
        """softmax(q k / sqrt(D) + mask) v for q [..., S, D], k [..., D, T], v [..., T, D]."""
        scores = self.op(f"{name}.scores", "MatMul", q, k)
        scale = self.value(f"{name}.scale", 1.0 / math.sqrt(self.shape(q)[-1]))
        scores = self.op(f"{name}.scaled", "Mul", scores, scale)
        if mask:
            scores = self.op(f"{name}.masked", "Add", scores, mask)
        return self.op(f"{name}.mix", "MatMul", self.op(f"{name}.softmax", "Softmax", scores, axis=-1), v)

    def merge_heads(self, x: str, name: str) -> str:
        """Join [B, heads, S, D] into [B, S, heads x D]."""
        batch, count, tokens, depth = self.shape(x)
        turned = self.op(f"{name}.turn", "Transpose", x, perm=(0, 2, 1, 3))
        return self.op(f"{name}.merge", "Reshape", turned, shape=(batch, tokens, count * depth))


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
