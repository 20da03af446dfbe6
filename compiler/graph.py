"""The operator graph: what a model is, before anything is known about a machine.

A Graph is frozen. A pass takes one and returns another; `verify` holds between passes. Constants may be lazy (built
when their values are first asked for) or stripped (no values at all), because timing needs only shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import dtype as dtype_of
from isa.errors import CompileError

Array = npt.NDArray[Any]
MAX_TENSOR_ELEMENTS = 1 << 36


def free_name(hint: str, taken: Container[str], mark: str = ".") -> str:
    """A name that is not taken: `hint`, or `hint.1`, `hint.2` ..."""
    name, count = hint, 0
    while name in taken:
        count += 1
        name = f"{hint}{mark}{count}"
    return name


def printable(text: str) -> str:
    """A text of one line for people: what is no visible character or blank (line ends, escapes) is written as `\\n`."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclass(frozen=True)
class TensorType:
    """Shape (elements) and npusim dtype name of a tensor; a quantised one stands for (q - zero_point) * scale."""

    shape: tuple[int, ...]
    dtype: str
    scale: float = 1.0
    zero_point: int = 0

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def size_bytes(self) -> int:
        """Storage in bytes."""
        return self.elements * dtype_of(self.dtype).size_bytes

    def __str__(self) -> str:
        quantised = f" x {self.scale!r}" if self.scale != 1.0 else ""
        quantised += f" - {self.zero_point}" if self.zero_point else ""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{quantised}"


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor whose values are known, will be known on demand (`build`), or were stripped (`build` is None).

    Two constants are equal only when they are the same object: values are compared by the passes that need it.
    """

    type: TensorType
    build: Callable[[], Array] | None = None
    _cache: list[Array] = field(default_factory=list, repr=False)

    @staticmethod
    def of(array: Array, dtype: str) -> Constant:
        """Wrap an array that is already in memory."""
        value = np.asarray(array)
        return Constant(TensorType(tuple(value.shape), dtype), lambda: value)

    @property
    def stripped(self) -> bool:
        """True when the values do not exist."""
        return self.build is None

    def value(self) -> Array:
        """Return the values (built once); raises CompileError when they were stripped from the model."""
        if self.build is None:
            raise CompileError("a constant's values were stripped from the model: give the full model, or drop --check")
        if not self._cache:
            built = self.build()
            if tuple(built.shape) != self.type.shape:
                raise CompileError(f"constant builder returned shape {built.shape}, declared {self.type.shape}")
            self._cache.append(built)
        return self._cache[0]

    def map(self, new_type: TensorType, change: Callable[[Array], Array]) -> Constant:
        """Return a constant whose values are `change(values)`, computed only when asked for."""
        if self.build is None:
            return Constant(new_type, None)
        return Constant(new_type, lambda: change(self.value()))


@dataclass(frozen=True)
class Node:
    """One operator: ONNX names and attributes; an absent optional input is the empty string.

    `group` names the fused kernel the node belongs to, once the fusion pass has run.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, the type of every tensor, and the constants among them."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, TensorType]
    constants: Mapping[str, Constant] = field(default_factory=dict)

    def producers(self) -> dict[str, Node]:
        """Map every tensor that a node writes to that node."""
        return {out: node for node in self.nodes for out in node.outputs if out}

    def consumers(self) -> dict[str, list[Node]]:
        """Map every tensor to the nodes that read it, in order; a node that reads it twice is listed once."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def with_nodes(
        self,
        nodes: Iterable[Node],
        tensors: Mapping[str, TensorType] | None = None,
        constants: Mapping[str, Constant] | None = None,
        outputs: tuple[str, ...] | None = None,
    ) -> Graph:
        """Return a copy with other nodes; tensors and constants that nothing mentions any more are dropped."""
        kept = tuple(nodes)
        final = self.outputs if outputs is None else outputs
        used = {n for node in kept for n in (*node.inputs, *node.outputs) if n} | set(self.inputs) | set(final)
        all_tensors = {**self.tensors, **(tensors or {})}
        all_constants = {**self.constants, **(constants or {})}
        return replace(
            self,
            nodes=kept,
            outputs=final,
            tensors={k: v for k, v in all_tensors.items() if k in used},
            constants={k: v for k, v in all_constants.items() if k in used},
        )

    def verify(self) -> None:
        """Raise CompileError unless names are unique, defined before use, typed, and every output exists."""
        known = self._verified_names()
        for name in known:
            if name not in self.tensors:
                raise CompileError(f"graph {self.name}: tensor {name!r} has no type")
            if min(self.tensors[name].shape, default=1) < 0:
                raise CompileError(f"graph {self.name}: tensor {name!r} has shape {self.tensors[name].shape}")
            if self.tensors[name].elements > MAX_TENSOR_ELEMENTS:
                raise CompileError(
                    f"graph {self.name}: tensor {name!r} has {self.tensors[name].elements} elements, "
                    f"the limit is {MAX_TENSOR_ELEMENTS}: check its shape {self.tensors[name].shape}"
                )
        for name, constant in self.constants.items():
            if constant.type != self.tensors[name]:
                raise CompileError(f"graph {self.name}: constant {name!r} is {constant.type}, not {self.tensors[name]}")
        for name in self.outputs:
            if name not in known:
                raise CompileError(f"graph {self.name}: output {name!r} is never written")

    def _verified_names(self) -> set[str]:
        """Every tensor name, after checking that nodes are unique and read what exists by then."""
        known = set(self.inputs) | set(self.constants)
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise CompileError(f"graph {self.name}: two nodes are called {node.name!r}")
            seen.add(node.name)
            for name in node.inputs:
                if name and name not in known:
                    raise CompileError(f"graph {self.name}: node {node.name} reads {name!r} before it is written")
            for name in node.outputs:
                if name in known:
                    raise CompileError(f"graph {self.name}: node {node.name} writes {name!r} a second time")
                if name:
                    known.add(name)
        return known
