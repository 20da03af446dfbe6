"""Writing instructions: registers, scopes of computed values, labels and descriptors of one kernel.

Values are expressions (`compiler.expr`); each is computed once a scope, and a scope gives its registers back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.expr import Expr
from compiler.nest import Ref
from isa.dtypes import dtype
from isa.errors import CompileError
from isa.program import descriptor, instruction
from isa.table import code

Array = npt.NDArray[Any]

_REG_OPS = {"add": "add", "sub": "sub", "mul": "mul", "min": "min", "max": "max", "lt": "slt", "eq": "seq", "and": "and"}
_IMM_OPS = {"add": "addi", "mul": "muli", "min": "mini", "max": "maxi", "div": "divi", "mod": "modi", "lt": "slti",
            "eq": "seqi", "rsub": "rsubi"}


class DescriptorPool:
    """All descriptors of a program; equal ones are stored once."""

    def __init__(self) -> None:
        self._index: dict[bytes, int] = {}
        self._records: list[Array] = []

    def add(self, record: Array) -> int:
        """Return the index of an equal descriptor, storing it if it is new."""
        key = record.tobytes()
        if key not in self._index:
            self._index[key] = len(self._records)
            self._records.append(record)
        return self._index[key]

    def array(self) -> Array:
        """The descriptor table."""
        from isa.program import DESC

        return np.array(self._records, DESC) if self._records else np.zeros(0, DESC)


class Emitter:
    """Instructions of one kernel, in order, with kernel-relative code addresses until `finish`."""

    def __init__(self, kernel: str, params: tuple[str, ...], registers: int, pool: DescriptorPool) -> None:
        self.kernel = kernel
        self.registers = registers
        self.pool = pool
        self.code: list[Array] = []
        self.param_reg = {name: i for i, name in enumerate(params)}
        self._free = list(range(registers - 1, len(params) - 1, -1))
        self._scopes: list[dict[Expr, int]] = [{}]
        self._owned: list[list[int]] = [[]]
        self.bind: dict[Expr, int | Expr] = {}  # leaves (pos, var, parity) of the present stage -> register or value

    # Registers and scopes

    def allocate(self) -> int:
        """Take a register for good; raises CompileError when none is left."""
        if not self._free:
            raise CompileError(f"kernel {self.kernel}: out of scalar registers ({self.registers})")
        return self._free.pop()

    def open(self) -> None:
        """Begin a scope: values computed from here on are forgotten, and their registers free, at `close`."""
        self._scopes.append({})
        self._owned.append([])

    def close(self) -> None:
        """End the innermost scope."""
        self._scopes.pop()
        self._free += self._owned.pop()

    def scratch(self) -> int:
        """Take a register until the present scope closes."""
        register = self.allocate()
        self._owned[-1].append(register)
        return register

    # Values

    def register(self, value: Expr | int) -> int:
        """Return a register that holds a value."""
        key = value if isinstance(value, Expr) else Expr("const", (value,))
        if key.op == "param":
            return self.param_reg[str(key.args[0])]
        if key in self.bind:
            bound = self.bind[key]
            return bound if isinstance(bound, int) else self.register(bound)
        for scope in reversed(self._scopes):
            if key in scope:
                return scope[key]
        register = self._compute(key)
        self._scopes[-1][key] = register
        return register

    def _compute(self, key: Expr) -> int:
        if key.op == "const":
            register = self.scratch()
            self.put("li", dst=register, imm=key.args[0])
            return register
        if key.op in ("pos", "var", "parity"):
            raise CompileError(f"kernel {self.kernel}: {key.op} {key.args[0]} is not known here")
        a, b = key.args
        assert isinstance(a, (Expr, int)) and isinstance(b, (Expr, int))
        if key.op == "gt":  # a > b: b < a
            a, b = b, a
            key = Expr("lt", (a, b))
        if isinstance(b, int) and key.op in _IMM_OPS:
            source = self.register(a)
            register = self.scratch()
            self.put(_IMM_OPS[key.op], dst=register, a=source, imm=b)
            return register
        left, right = self.register(a), self.register(b)
        register = self.scratch()
        self.put(_REG_OPS[key.op], dst=register, a=left, b=right)
        return register

    # Instructions

    def put(self, name: str, **fields: Any) -> int:
        """Append an instruction; returns its kernel-relative address."""
        self.code.append(instruction(code(name), **fields))
        return len(self.code) - 1

    def here(self) -> int:
        """The address of the next instruction."""
        return len(self.code)

    def target(self, address: int) -> None:
        """Make the branch or loop at `address` lead here."""
        self.code[address]["imm"] = self.here()

    def operand(self, ref: Ref, space: str, base: int, slot_bytes: int) -> int:
        """Return the descriptor of a reference whose storage starts at `base` (plus slot x `slot_bytes`)."""
        offset = ref.offset
        if ref.base in self.param_reg:
            offset = Expr("param", (ref.base,)) + offset
        elif slot_bytes:
            offset = Expr("parity", (ref.base,)) * slot_bytes + offset
        constant = 0
        if isinstance(offset, int):
            constant, register = offset, -1
        else:
            if offset.op == "add" and isinstance(offset.args[1], int):
                constant, offset = offset.args[1], offset.args[0]  # type: ignore[assignment]
            register = self.register(offset)
        fields: dict[str, Any] = {
            "base": base + constant, "base_reg": register, "rows": ref.rows,
            "ext_reg": [-1 if isinstance(d.extent, int) else self.register(d.extent) for d in ref.dims],
            "axis": [d.axis for d in ref.dims], "coef": [d.coef for d in ref.dims],
            "pad_value": ref.pad_value, "scale": ref.scale, "zero_point": ref.zero_point,
        }
        if ref.windows:
            for name, values in (("origin", [w.origin for w in ref.windows]), ("limit", [w.limit for w in ref.windows])):
                fields[name] = [v if isinstance(v, int) else 0 for v in values]
                fields[name + "_reg"] = [-1 if isinstance(v, int) else self.register(v) for v in values]
            fields["axis_stride"] = [w.stride for w in ref.windows]
        extents = tuple(d.extent if isinstance(d.extent, int) else d.most for d in ref.dims)
        strides = tuple(d.stride for d in ref.dims)
        return self.pool.add(descriptor(space, dtype(ref.dtype).code, extents, strides, **fields))

    def finish(self, start: int) -> list[Array]:
        """Return the instructions with code addresses moved to `start`."""
        targets = {code(n) for n in ("br", "bz", "bnz", "loop")}
        for record in self.code:
            if int(record["op"]) in targets:
                record["imm"] += start
        return self.code
