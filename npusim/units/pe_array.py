"""A systolic array PE by PE, cycle by cycle, in plain numpy: what the closed forms (isa.cost) must equal.

Nothing here is computed from a formula. Operands step from PE to PE, partial sums hop down, a small controller decides
each cycle whether the next tile may load and the next stream may start; values and cycles are whatever comes out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.machine import MatrixUnit

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ArrayRun:
    """Outcome: `product` [m, n]; `cycles` to the last result; `active` PEs doing a real MAC in each of those cycles."""

    product: Array
    cycles: int
    active: tuple[int, ...]


class _Control:
    """Decides when tiles load and streams start; `begin` is called once a cycle, before data move.

    A fold's stream starts when its tile is loaded and the array is free: the previous stream has left, or, without
    fold overlap, its results are out. With a shadow tile the next load starts with the stream, else on a free array.
    """

    def __init__(self, matrix: MatrixUnit, folds: int, stream: int) -> None:
        self.matrix, self.folds, self.stream = matrix, folds, stream
        loads = matrix.dataflow != "os"
        self.load = (matrix.rows if matrix.weight_load_cycles is None else matrix.weight_load_cycles) if loads else 0
        self.load_left = self.load  # the first tile starts to load in cycle 0
        self.loading = True
        self.next_fold = 0
        self.row = stream  # row of the running stream; `stream` when none runs

    def begin(self, results_out: bool) -> int:
        """Return the token (fold * stream + row) that enters the array this cycle, or -1."""
        free = self.row == self.stream and (self.matrix.fold_overlap or results_out)
        if not self.loading and free:
            self.loading, self.load_left = True, self.load
        if free and self.loading and self.load_left == 0 and self.next_fold < self.folds:
            self.next_fold += 1
            self.row = 0
            self.loading, self.load_left = self.matrix.weight_double_buffer, self.load
        if self.loading and self.load_left > 0:
            self.load_left -= 1
        if self.row == self.stream:
            return -1
        self.row += 1
        return (self.next_fold - 1) * self.stream + self.row - 1


def _delayed(line: deque[int], token: int) -> int:
    """Push a token into a delay line and return the one that leaves it."""
    line.append(token)
    return line.popleft()


def _pad(tile: Array, rows: int, cols: int) -> Array:
    """Extend a partial tile with zeros to the size of the array."""
    return np.pad(tile, ((0, rows - tile.shape[0]), (0, cols - tile.shape[1])))


def run_gemm(matrix: MatrixUnit, a: Array, b: Array) -> ArrayRun:
    """Multiply a [m, k] by b [k, n] (any sizes >= 1) on one array, with its dataflow, wires and overlaps."""
    if matrix.dataflow == "os":
        return _run_os(matrix, a, b)
    if matrix.dataflow == "ws":
        return _run_stationary(matrix, a, b)
    run = _run_stationary(matrix, b.T, a.T)  # input-stationary: the transposed product, rows of B^T stream
    return ArrayRun(run.product.T, run.cycles, run.active)


def _run_stationary(matrix: MatrixUnit, streamed: Array, stationary: Array) -> ArrayRun:
    rows, cols, hop = matrix.rows, matrix.cols, matrix.psum_hop_cycles
    stream, depth = streamed.shape
    width = stationary.shape[1]
    origins = [(k, n) for n in range(0, width, cols) for k in range(0, depth, rows)]
    tiles = np.stack([_pad(stationary[k : k + rows, n : n + cols], rows, cols) for k, n in origins])
    inputs = np.stack([_pad(streamed[:, k : k + rows], stream, rows) for k, _ in origins]).reshape(-1, rows)
    real = np.array([[min(rows, depth - k), min(cols, width - n)] for k, n in origins])

    control = _Control(matrix, len(origins), stream)
    register = deque([-1] * matrix.input_register_cycles)
    skew = [deque([-1] * (hop * i)) for i in range(rows)]  # row i starts when the partial sum from above gets there
    token = np.full((rows, cols), -1)
    history = deque([(np.zeros((rows, cols), tiles.dtype), np.full(cols, -1)) for _ in range(hop)])
    product = np.zeros((stream, width + cols), np.result_type(streamed, stationary))
    active: list[int] = []
    done = 0
    while done < len(origins) * stream * cols:
        entering = _delayed(register, control.begin(done == control.next_fold * stream * cols))
        token[:, 1:] = token[:, :-1].copy()
        token[:, 0] = [_delayed(skew[i], entering) for i in range(rows)]
        above = history.popleft()[0]
        busy = token >= 0
        fold = np.where(busy, token // stream, 0)
        r, c = np.indices((rows, cols))
        sums = np.vstack([np.zeros((1, cols), above.dtype), above[:-1]])
        sums = np.where(busy, sums + inputs[np.maximum(token, 0), r] * tiles[fold, r, c], 0)
        history.append((sums, token[-1].copy()))
        active.append(int((busy & (r < real[fold, 0]) & (c < real[fold, 1])).sum()))
        leaving, out = history[0][1], history[0][0][-1]  # what the last row made hop - 1 cycles ago is now on the bus
        for j in np.nonzero(leaving >= 0)[0]:
            product[leaving[j] % stream, origins[leaving[j] // stream][1] + j] += out[j]
            done += 1
    return ArrayRun(product[:, :width], len(active), tuple(active))


def _run_os(matrix: MatrixUnit, a: Array, b: Array) -> ArrayRun:
    rows, cols = matrix.rows, matrix.cols
    (m, k), n = a.shape, b.shape[1]
    origins = [(i, j) for i in range(0, m, rows) for j in range(0, n, cols)]
    left = np.stack([_pad(a[i : i + rows], rows, k) for i, _ in origins])  # [fold, row, k]
    top = np.stack([_pad(b[:, j : j + cols], k, cols) for _, j in origins])  # [fold, k, col]
    real = np.array([[min(rows, m - i), min(cols, n - j)] for i, j in origins])

    control = _Control(matrix, len(origins), k)
    register = deque([-1] * matrix.input_register_cycles)
    skew_left = [deque([-1] * i) for i in range(rows)]
    skew_top = [deque([-1] * j) for j in range(cols)]
    from_left, from_top = np.full((rows, cols), -1), np.full((rows, cols), -1)
    sums = np.zeros((len(origins), rows, cols), np.result_type(a, b))
    macs = np.zeros(len(origins), np.int64)
    draining: dict[int, int] = {}  # fold -> cycles until its last row of results has left at the bottom
    active: list[int] = []
    finished = 0
    while finished < len(origins):
        entering = _delayed(register, control.begin(finished == control.next_fold))
        from_left[:, 1:], from_top[1:] = from_left[:, :-1].copy(), from_top[:-1].copy()
        from_left[:, 0] = [_delayed(skew_left[i], entering) for i in range(rows)]
        from_top[0] = [_delayed(skew_top[j], entering) for j in range(cols)]
        if not np.array_equal(from_left, from_top):
            raise RuntimeError("the operands of a PE do not meet: the skews of the two edges differ")
        draining = {fold: left_over - 1 for fold, left_over in draining.items()}
        r, c = np.nonzero(from_left >= 0)
        fold, step = from_left[r, c] // k, from_left[r, c] % k
        sums[fold, r, c] += left[fold, r, step] * top[fold, step, c]
        np.add.at(macs, fold, 1)
        active.append(int(((r < real[fold, 0]) & (c < real[fold, 1])).sum()))
        for complete in np.nonzero(macs == rows * cols * k)[0]:
            draining[int(complete)] = rows if matrix.drain_counted else 0
            macs[complete] = -1
        finished += sum(left_over == 0 for left_over in draining.values())
        draining = {fold: left_over for fold, left_over in draining.items() if left_over > 0}
    product = np.zeros((m + rows, n + cols), sums.dtype)
    for (i, j), block in zip(origins, sums):
        product[i : i + rows, j : j + cols] = block
    return ArrayRun(product[:m, :n], len(active), tuple(active))
