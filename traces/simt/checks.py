"""What the sample kernels of this folder must compute, for `npusim kernel --check checks.py:NAME`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Expected = dict[str, Array]


def vector_add(x: Array, y: Array, z: Array, n: int) -> Expected:
    """The first n elements of z are sums."""
    return {"z": np.concatenate([x[:n] + y[:n], z[n:]])}


def reduction(x: Array, total: Array, n: int) -> Expected:
    """One sum, in another order than numpy's."""
    return {"total": total + x[:n].sum(dtype=np.float64)}


def transpose(x: Array, y: Array, size: int) -> Expected:
    """y is x with rows and columns exchanged."""
    return {"y": x.T}


def stencil(x: Array, y: Array, n: int) -> Expected:
    """Means of three neighbours; both ends stay."""
    mean = (x[: n - 2] + x[1 : n - 1] + x[2:n]) / 3
    return {"y": np.concatenate([x[:1], mean, x[n - 1 : n], y[n:]])}


def histogram(x: Array, bins: Array, n: int) -> Expected:
    """How often each value occurs."""
    return {"bins": bins + np.bincount(x[:n], minlength=256)}


def matmul(a: Array, b: Array, c: Array, n: int, k: int) -> Expected:
    """A product, summed in fp64."""
    return {"c": (a.astype(np.float64) @ b.astype(np.float64)).reshape(c.shape)}
