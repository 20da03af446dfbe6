"""The meaning of every instruction of the data slice, as functions of (state, core, step) that return executed MACs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import BY_CODE as DTYPE
from isa.dtypes import DTYPES, DType, round_to
from isa.errors import SimulationError
from isa.table import NEXT_TILE, STATIONARY_A, TABLE
from npusim.functional.control import Step
from npusim.functional.machine_state import CoreState, State, Tile
from npusim.functional.matrix import add_to, product
from npusim.functional.operand import Operand
from npusim.functional.vector import BINARY, INTEGER_EXACT, REDUCE, TERNARY, UNARY, activate

Array = npt.NDArray[Any]
Meaning = Callable[[State, CoreState, Step], int]


def _operand(step: Step, position: int) -> Operand:
    operand = step.operands[position]
    if operand is None:
        raise SimulationError(f"operand {'DABC'[position]} is missing")
    return operand


def _read(state: State, core: CoreState, step: Step, position: int) -> Array:
    return state.read(core, _operand(step, position), "DABC"[position])


def _quantised(state: State, operand: Operand) -> tuple[np.float32, int] | None:
    """Scale and zero point of a quantised operand, else None."""
    record = state.descs[operand.desc]
    if DTYPE[operand.dtype].is_float or (record["scale"] == 1.0 and record["zero_point"] == 0):
        return None
    return np.float32(record["scale"]), int(record["zero_point"])


def _real(state: State, core: CoreState, operand: Operand, letter: str) -> Array:
    """Read an operand as real numbers (float32)."""
    stored = state.read(core, operand, letter)
    kind = DTYPE[operand.dtype]
    if kind.name == "bool":
        return np.asarray(stored != 0, np.float32)
    quantised = _quantised(state, operand)
    if quantised is None:
        return stored.astype(np.float32)
    scale, zero = quantised
    real: Array = (stored.astype(np.int64) - zero).astype(np.float32)
    return np.asarray(real * scale)


def _store(state: State, core: CoreState, operand: Operand, real: Array) -> None:
    """Round real or integer results to the format of D and write them."""
    quantised = _quantised(state, operand)
    kind = DTYPE[operand.dtype]
    if quantised is not None:
        real = np.rint(real.astype(np.float64) / float(quantised[0])) + quantised[1]
    if real.dtype == np.float64 and kind.is_float and kind.name != "fp64":
        real = real.astype(np.float32)  # the unit works in fp32
    state.write(core, operand, round_to(real, kind))


def _same_shape(step: Step, positions: range) -> None:
    shape = _operand(step, 0).ext
    for position in positions:
        if _operand(step, position).ext != shape:
            raise SimulationError(f"operand {'DABC'[position]} has shape {_operand(step, position).ext}, D has {shape}")


def _copy(state: State, core: CoreState, step: Step) -> int:
    _same_shape(step, range(1, 2))
    dst, src = _operand(step, 0), _operand(step, 1)
    stored = state.read(core, src, "A")
    if dst.dtype != src.dtype:
        stored = round_to(stored if DTYPE[src.dtype].name != "bool" else stored != 0, DTYPE[dst.dtype])
    state.write(core, dst, stored)
    return 0


def _gather(state: State, core: CoreState, step: Step) -> int:
    table = _read(state, core, step, 1)
    rows = _read(state, core, step, 2)
    if table.ndim == 0 or rows.dtype.kind not in "iu":
        raise SimulationError("cpg needs a table of rows in A and integer indices in B")
    if rows.min() < 0 or rows.max() >= table.shape[0]:
        raise SimulationError(f"row index range [{rows.min()}, {rows.max()}] leaves the table of {table.shape[0]} rows")
    dst, src = _operand(step, 0), _operand(step, 1)
    taken = table[rows]
    state.write(core, dst, taken if dst.dtype == src.dtype else round_to(taken, DTYPE[dst.dtype]))
    return 0


def _array_input(state: State, values: Array, dtype: int) -> tuple[Array, DType]:
    """What the array sees of an operand: rounded to the dtype that it multiplies, if that is another."""
    kind = DTYPE[dtype]
    seen = state.multiply_as.get(kind.name)
    return (values, kind) if seen is None else (round_to(values, DTYPES[seen]), DTYPES[seen])


def _flat(values: Array, rows: int) -> Array:
    """Flatten the leading `rows` dimensions and the rest to a matrix."""
    height = int(np.prod(values.shape[:rows], dtype=np.int64))
    return values.reshape(height, -1)


def _load_weights(state: State, core: CoreState, step: Step) -> int:
    source = _operand(step, 1)
    values = _flat(_read(state, core, step, 1), source.rows)
    values, kind = _array_input(state, values, source.dtype)
    tile = Tile((values.T if step.flags & STATIONARY_A else values).copy(), kind)
    core.fifo.setdefault(step.unit, deque()).append(tile)
    return 0


def _stationary(core: CoreState, step: Step) -> Tile:
    if step.flags & NEXT_TILE:
        waiting = core.fifo.get(step.unit)
        if not waiting:
            raise SimulationError(f"the weight FIFO of unit {step.unit} is empty: no earlier ldw feeds this mm")
        core.tile[step.unit] = waiting.popleft()
    if step.unit not in core.tile:
        raise SimulationError(f"unit {step.unit} holds no stationary tile: the first mm needs the flag `next`")
    return core.tile[step.unit]


def _multiply(state: State, core: CoreState, step: Step) -> int:
    first, dst = _operand(step, 1), _operand(step, 0)
    left, left_type = _array_input(state, _flat(_read(state, core, step, 1), first.rows), first.dtype)
    right: Array
    if step.operands[2] is not None:
        second = step.operands[2]
        values = _flat(_read(state, core, step, 2), second.rows)
        right, right_type = _array_input(state, values, second.dtype)
    else:
        tile = _stationary(core, step)
        right, right_type = tile.values, tile.dtype
        if step.flags & STATIONARY_A:
            left, left_type, right, right_type = right.T, right_type, left, left_type
    if left.shape[1] != right.shape[0]:
        raise SimulationError(f"inner extents differ: {list(left.shape)} x {list(right.shape)}")
    if left.shape[0] * right.shape[1] != int(np.prod(dst.ext, dtype=np.int64)):
        raise SimulationError(f"product {left.shape[0]} x {right.shape[1]} does not fit operand D of shape {dst.ext}")
    result = product(left, left_type, right, right_type).reshape(dst.ext)
    old = state.read(core, dst, "D") if step.accumulate else None
    target = DTYPE[dst.dtype]
    state.write(core, dst, round_to(add_to(old, result, target), target))
    return int(left.shape[0] * left.shape[1] * right.shape[1])


def _drain(state: State, core: CoreState, step: Step) -> int:
    """fix: float64 inside when an operand is int32, whose sums float32 cannot hold."""
    present = [i for i in (1, 2, 3) if step.operands[i] is not None]
    for position in present:
        _same_shape(step, range(position, position + 1))
    plain = [i for i in present if _plain_integer(state, _operand(step, i))]
    values = {i: _real(state, core, _operand(step, i), "DABC"[i]) for i in present if i not in plain}
    values |= {i: _read(state, core, step, i).astype(np.float64) for i in plain}
    result = values[1]
    if 3 in values:
        result = result * values[3]
    if 2 in values:
        result = result + values[2]
    _store(state, core, _operand(step, 0), activate(step.imm, result, step.f0, step.f1))
    return 0


def _plain_integer(state: State, operand: Operand) -> bool:
    """True for an int32 or int64 operand that is not quantised."""
    return DTYPE[operand.dtype].name in ("int32", "int64") and _quantised(state, operand) is None


def _lanes(name: str, operands: int, function: Callable[..., Array]) -> Meaning:
    """The meaning of an element-wise operation with this many source operands."""
    sources = range(1, operands + 1)
    data = range(2, 4) if name == "select" else sources

    def meaning(state: State, core: CoreState, step: Step) -> int:
        _same_shape(step, sources)
        whole = name in INTEGER_EXACT and all(_plain_integer(state, _operand(step, i)) for i in data)
        values = [
            _read(state, core, step, i).astype(np.int64)
            if whole and i in data
            else _real(state, core, _operand(step, i), "DABC"[i])
            for i in sources
        ]
        extra = (step.f0, step.f1) if operands == 1 else ()
        _store(state, core, _operand(step, 0), np.asarray(function(*values, *extra)))
        return 0

    return meaning


def _reduction(ufunc: Any) -> Meaning:
    def meaning(state: State, core: CoreState, step: Step) -> int:
        _same_shape(step, range(1, 2))
        dst, src = _operand(step, 0), _operand(step, 1)
        axes = tuple(d for d, size in enumerate(dst.ext) if dst.stride[d] == 0 and size > 1)
        narrow = dst._replace(ext=tuple(1 if d in axes else size for d, size in enumerate(dst.ext)))
        whole = _plain_integer(state, dst) and _plain_integer(state, src)
        values = state.read(core, src, "A").astype(np.int64) if whole else _real(state, core, src, "A")
        result = ufunc.reduce(values, axis=axes, keepdims=True) if axes else values
        if step.accumulate:
            old = state.read(core, narrow, "D").astype(np.int64) if whole else _real(state, core, narrow, "D")
            result = ufunc(old, result)
        _store(state, core, narrow, np.asarray(result))
        return 0

    return meaning


def _meanings() -> dict[str, Meaning]:
    found: dict[str, Meaning] = {"cp": _copy, "cpg": _gather, "ldw": _load_weights, "mm": _multiply, "fix": _drain}
    for op in TABLE:
        name = op.name[2:]
        if op.lanes == "unary":
            found[op.name] = _lanes(name, 1, UNARY[name])
        elif op.lanes == "binary":
            found[op.name] = _lanes(name, 2, BINARY[name])
        elif op.lanes == "ternary":
            found[op.name] = _lanes(name, 3, TERNARY[name])
        elif op.lanes == "reduce":
            found[op.name] = _reduction(REDUCE[name[1:]])
        elif op.lanes == "move":
            found[op.name] = _lanes("copy", 1, UNARY["copy"])
    return found


MEANING: dict[str, Meaning] = _meanings()
