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

_SAME_NAME = ("add", "sub", "mul", "min", "max", "and")
_REG_OPS = {**{name: name for name in _SAME_NAME}, "lt": "slt", "eq": "seq"}
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

    def __init__(
        self, kernel: str, params: tuple[str, ...], registers: int, pool: DescriptorPool,
        code: list[Array] | None = None,
    ) -> None:  # fmt: skip
        self.kernel = kernel
        self.registers = registers
        self.pool = pool
        self.code: list[Array] = [] if code is None else code  # behind that of other cores
        self.param_reg = {name: i for i, name in enumerate(params)}
        self._free = list(range(registers - 1, len(params) - 1, -1))
        self._scopes: list[dict[Expr, int]] = [{}]
        self._owned: list[list[int]] = [[]]
        self._pinned: set[int] = set()
        self.bind: dict[Expr, int | Expr] = {}  # leaves (pos, var, parity) of the present stage -> register or value

    # Registers and scopes

    @property
    def free_registers(self) -> int:
        """Registers that nothing holds."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a register for good; raises CompileError when none is left."""
        if not self._free:
            self._evict()
        return self._free.pop()

    def _evict(self) -> None:
        """Forget the oldest value of the innermost scope that the present instruction does not use.

        Values of outer scopes stay: code before this point, in a loop, counts on them in the next iteration.
        """
        scope = self._scopes[-1]
        for key, register in scope.items():
            if register not in self._pinned and register in self._owned[-1]:
                del scope[key]
                self._owned[-1].remove(register)
                self._free.append(register)
                return
        raise CompileError(f"kernel {self.kernel}: out of scalar registers ({self.registers})")

    def unpin(self) -> None:
        """A new instruction begins: values computed before it may be forgotten."""
        self._pinned.clear()

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

    def _release(self, register: int) -> None:
        self._owned[-1].remove(register)
        self._free.append(register)

    # Values

    def register(self, value: Expr | int) -> int:
        """Return a register that holds a value, computed once a scope."""
        key = value if isinstance(value, Expr) else Expr("const", (value,))
        register, fresh = self._value(key)
        if fresh:
            self._scopes[-1][key] = register
        self._pinned.add(register)
        return register

    def _value(self, key: Expr) -> tuple[int, bool]:
        """(register, whether it was taken for this value just now)."""
        if key.op == "param":
            return self.param_reg[str(key.args[0])], False
        if key in self.bind:
            bound = self.bind[key]
            return (bound, False) if isinstance(bound, int) else self._value(bound)
        for scope in reversed(self._scopes):
            if key in scope:
                return scope[key], False
        return self._compute(key), True

    def _operands(self, *values: Expr | int) -> tuple[list[int], list[int]]:
        """Registers of operands, and those among them that nobody else will use."""
        registers, passing = [], []
        for value in values:
            register, fresh = self._value(value if isinstance(value, Expr) else Expr("const", (value,)))
            registers.append(register)
            if fresh:
                passing.append(register)
                self._pinned.add(register)
        return registers, passing

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
        immediate = isinstance(b, int) and key.op in _IMM_OPS
        registers, passing = self._operands(a) if immediate else self._operands(a, b)
        for register in passing:
            self._pinned.discard(register)
            self._release(register)
        result = self.scratch()
        if immediate:
            self.put(_IMM_OPS[key.op], dst=result, a=registers[0], imm=b)
        else:
            self.put(_REG_OPS[key.op], dst=result, a=registers[0], b=registers[1])
        return result

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
        if slot_bytes:
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
            origins, limits = [w.origin for w in ref.windows], [w.limit for w in ref.windows]
            for name, values in (("origin", origins), ("limit", limits)):
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
