"""One ONNX node as the rules see it, and the helpers that read its attributes and constant inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compiler.frontend.builder import Builder
from compiler.graph import Array
from isa.errors import ModelError


@dataclass
class Call:
    """An ONNX node with resolved tensor names.

    `version` is the opset of its domain; `batch_ratio` is (new, exported) batch where `--batch` changed it; `folder` is
    where external data of tensor attributes lies.
    """

    name: str
    op: str
    domain: str
    version: int
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    batch_ratio: tuple[int, int] = (1, 1)
    folder: Path = Path()

    def fail(self, reason: str) -> ModelError:
        """Return the ModelError that names the node, operator and opset."""
        label = f"{self.domain}::{self.op}" if self.domain else self.op
        return ModelError(f"node {self.name!r} ({label}, opset {self.version}): {reason}")

    def operand(self, index: int) -> str:
        """Return the name of input `index`, or '' when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def fixed(self, b: Builder, index: int, what: str) -> Array | None:
        """Return the values of a constant input, None when absent; raises ModelError when they are not known."""
        name = self.operand(index)
        if not name:
            return None
        value = b.value(name)
        if value is None:
            raise self.fail(
                f"{what} ({name!r}) must be known while importing, but it depends on tensor contents; "
                "export the model with fixed shapes or constant-fold it first"
            )
        return value

    def int_list(self, b: Builder, attr: str, index: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """Return integers from attribute `attr` or else from constant input `index`; raises ModelError if neither."""
        if attr in self.attrs:
            return tuple(int(v) for v in self.attrs[attr])
        value = self.fixed(b, index, attr)
        if value is not None:
            return tuple(int(v) for v in value.reshape(-1))
        if default is None:
            raise self.fail(f"{attr} is required: give it as an attribute or a constant input")
        return tuple(default)

    def scalar(self, b: Builder, attr: str, index: int, default: float | None) -> float | None:
        """Return one number from attribute `attr` or constant input `index`; raises ModelError if it is not one."""
        if attr in self.attrs:
            return float(self.attrs[attr])
        value = self.fixed(b, index, attr)
        if value is None:
            return default
        if value.size != 1:
            raise self.fail(f"{attr} must be one number, it has {value.size}")
        return float(np.asarray(value).astype(np.float64).reshape(()))

    def kept(self, *dropped: str, **changes: Any) -> dict[str, Any]:
        """Return the attributes without `dropped` and with `changes`."""
        return {**{k: v for k, v in self.attrs.items() if k not in dropped}, **changes}


Rule = Callable[[Builder, Call], None]
RULES: dict[tuple[str, str], Rule] = {}


def rule(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the import rule of ONNX operators `names`."""

    def add(function: Rule) -> Rule:
        for name in names:
            RULES[domain, name] = function
        return function

    return add
