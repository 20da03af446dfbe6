"""Memories of a machine while a program executes for its values."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import BY_CODE, DType, dtype, round_to
from isa.errors import SimulationError
from isa.machine import CHIP_SPACES
from isa.params import Params
from isa.program import SPACES, Program, Tensor
from npusim.functional.operand import Operand, Piece, check_bounds, element_bytes, view

Array = npt.NDArray[Any]
# Little-endian 0x7FFF halves: NaN in every float format, a large number in every integer format.
POISON = 0x7FFF
_RAW: dict[int, np.dtype[Any]] = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


@dataclass
class Tile:
    """A stationary tile: values [k, n] (or [k, m] when input-stationary) and their format."""

    values: Array
    dtype: DType


@dataclass
class CoreState:
    """What one core owns during a launch: memories by space id, and per matrix unit a FIFO and the present tile."""

    spaces: dict[int, Array]
    declared_bytes: dict[int, int] = field(default_factory=dict)  # by space, of the kernel that runs
    fifo: dict[int, deque[Tile]] = field(default_factory=dict)
    tile: dict[int, Tile] = field(default_factory=dict)


class State:
    """All memories; counts the bytes that instructions read and write by space."""

    def __init__(self, program: Program, params: Params) -> None:
        self.descs = program.descs
        self.multiply_as = dict(params.machine.core.matrix.multiply_as)
        self.chip = {SPACES.index(name): poisoned(used_bytes(program, params, name)) for name in CHIP_SPACES}
        self.cores = []
        for kind in range(1 + len(params.machine.other_cores)):
            ids = [SPACES.index(name) for name in params.machine.spaces_of(kind)]
            own = {i: int(params.space_bytes[i]) for i in ids}
            for _ in params.machine.kind_cores(kind):
                self.cores.append(CoreState({**self.chip, **{i: poisoned(size) for i, size in own.items()}}))
        self.read_bytes: Counter[str] = Counter()
        self.written_bytes: Counter[str] = Counter()

    def memory(self, core: CoreState, operand: Operand, letter: str) -> tuple[Array, list[Piece]]:
        """Return the operand's memory and its pieces, bounds checked."""
        if operand.space not in core.spaces:
            raise SimulationError(f"operand {letter} is in {SPACES[operand.space]}, which the core does not have")
        memory = core.spaces[operand.space]
        return memory, check_bounds(operand, letter, len(memory), core.declared_bytes.get(operand.space))

    def read(self, core: CoreState, operand: Operand, letter: str) -> Array:
        """Return the stored elements of an operand (a view when possible); windows filled with the pad value."""
        memory, found = self.memory(core, operand, letter)
        kind = BY_CODE[operand.dtype].numpy
        kind = np.dtype(np.uint8) if kind == np.bool_ else kind
        self.read_bytes[SPACES[operand.space]] += sum(_elements(p.ext) for p in found) * element_bytes(operand)
        if not operand.windows:
            return view(memory, found[0], kind) if found else np.zeros(operand.ext, kind)
        pad = round_to(np.asarray(self.descs[operand.desc]["pad_value"]), BY_CODE[operand.dtype])
        result = np.full(operand.ext, pad.astype(kind), kind)
        for piece in found:
            result[piece.where] = view(memory, piece, kind)
        return result

    def write(self, core: CoreState, operand: Operand, stored: Array) -> None:
        """Store elements of the operand's format; elements outside its windows are dropped."""
        memory, found = self.memory(core, operand, "D")
        if tuple(stored.shape) != operand.ext:
            raise SimulationError(f"result of shape {tuple(stored.shape)} does not fit D, which is {operand.ext}")
        size = element_bytes(operand)
        self.written_bytes[SPACES[operand.space]] += sum(_elements(p.ext) for p in found) * size
        raw = np.asarray(stored, order="C").view(_RAW[size])
        for piece in found:
            view(memory, piece, _RAW[size])[...] = raw[piece.where]

    def tensor(self, tensor: Tensor) -> Array:
        """Return the stored values of a tensor (a view); a tensor in a core's space is that of core 0."""
        memory = self.cores[0].spaces.get(SPACES.index(tensor.space))
        kind, count = dtype(tensor.dtype).numpy, _elements(tensor.shape)
        if memory is None or not 0 <= tensor.address <= len(memory) - count * kind.itemsize:
            raise SimulationError(f"tensor {tensor.name} at {tensor.address} is outside of {tensor.space}")
        return np.ndarray(tensor.shape, kind, memory, tensor.address)

    def put(self, tensor: Tensor, values: Array) -> None:
        """Store a tensor; raises SimulationError when shape or storage type differ."""
        array = np.asarray(values)
        home = self.tensor(tensor)
        if array.shape != home.shape or array.dtype != home.dtype:
            raise SimulationError(
                f"tensor {tensor.name} is {home.dtype}{list(home.shape)}, was given {array.dtype}{list(array.shape)}"
            )
        home[...] = array


def poisoned(size_bytes: int) -> Array:
    """Return memory in which an unwritten element reads as NaN or as a large integer."""
    try:
        return np.full((size_bytes + 1) // 2, POISON, "<u2").view(np.uint8)[:size_bytes]
    except MemoryError:
        raise SimulationError(f"the program needs {size_bytes} bytes of memory, more than this computer has") from None


def _elements(shape: Iterable[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def used_bytes(program: Program, params: Params, space: str) -> int:
    """Bytes of a chip space that the program uses, bounded by what the machine has before anything is allocated."""
    ends = [t.address + t.size_bytes for t in program.tensors if t.space == space]
    needed = max([int(program.memory_bytes.get(space, 0)), *ends])
    limit = int(params.space_bytes[SPACES.index(space)])
    if needed > limit:
        raise SimulationError(f"the program uses {needed} bytes of {space}; {params.machine.name} has {limit}")
    return needed
