"""Assembly text -> Program. The syntax is described in docs/isa.md; `isa.disasm` writes it.

Two passes: the first collects directives, labels and instruction lines, the second resolves names. Faults are collected
and reported together, each with its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.asm_operands import KernelText, Line, instruction_fields, register
from isa.asm_simt import add_params, name_predicates, name_registers, reserve_shared
from isa.asm_syntax import (
    MAX_LIST_ITEMS,
    Fault,
    Tokens,
    Value,
    bounded,
    choose,
    integer,
    items,
    nearest,
    pieces,
    put,
    real,
    record,
    string,
    without_comment,
)
from isa.disasm import (
    DESC_DEFAULT,
    DESC_REGISTER_FIELDS,
    LAUNCH_DEFAULT,
    LAUNCH_KIND_NAMES,
    args_rows,
)
from isa.dtypes import BY_CODE as DTYPE
from isa.dtypes import DTYPES
from isa.errors import AssemblyError
from isa.program import (
    DESC,
    INSTR,
    LAUNCH,
    SPACE_ID,
    HostOp,
    Kernel,
    Operator,
    Program,
    Tensor,
)
from isa.simt_operands import RESERVED, THREAD_CODES, registers_used

Array = npt.NDArray[Any]

MAX_TEXT_BYTES = 1 << 28
MAX_FAULTS = 20
_LABEL = re.compile(r"\s*([A-Za-z_][\w.$]*)\s*:", re.ASCII)
_DTYPE_CODE = {name: kind.code for name, kind in DTYPES.items()}
_KIND_ID = {name: i for i, name in enumerate(LAUNCH_KIND_NAMES)}


def assemble(text: str, name: str = "<asm>") -> Program:
    """Return the Program of assembly text; `name` stands for the text in messages and is the default program name.

    Raises AssemblyError with up to 20 faults, each `name:line: text: what was expected`.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise AssemblyError(f"{name}: {len(text)} characters of assembly; at most {MAX_TEXT_BYTES} are read")
    return _Assembler(name).run(text)


class _Assembler:
    def __init__(self, name: str) -> None:
        self.source = name
        self.program_name, self.machine = name, ""
        self.memory: dict[str, int] = {}
        self.names: list[str] = []
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.host_ops: list[HostOp] = []
        self.desc_index: dict[str, int] = {}
        self.desc_lines: list[tuple[Line, Tokens]] = []
        self.kernels: list[KernelText] = []
        self.open_kernel: KernelText | None = None
        self.bundle_start = -1  # address of the first instruction of an open { bundle
        self.lines: list[Line] = []
        self.launch_lines: list[Line] = []
        self.args: list[int] = []
        self.faults: list[tuple[int, str]] = []
        self.directives: dict[str, Callable[[int, str], None]] = {
            "program": self._program, "machine": self._machine, "memory": self._memory, "name": self._name,
            "tensor": self._tensor, "operator": self._operator, "hostop": self._host_op, "desc": self._desc,
            "kernel": self._begin, "end": self._end, "launch": self._launch, "args": self._args,
            "reg": self._reg, "preg": self._preg, "shared": self._shared, "param": self._param,
        }  # fmt: skip

    def run(self, text: str) -> Program:
        for number, line in enumerate(text.split("\n"), 1):
            self._guard(number, line, self._line, number, line)
        if self.open_kernel is not None:
            self._report(self.open_kernel.line, f".kernel {self.open_kernel.name}", "no .end")
        descs = [self._guard(at.number, at.text, self._descriptor, at, tokens) for at, tokens in self.desc_lines]
        instrs = [self._guard(at.number, at.text, instruction_fields, at, self.desc_index) for at in self.lines]
        launches = [self._guard(at.number, at.text, self._launch_row, at) for at in self.launch_lines]
        code = np.array([row for row in instrs if row is not None], INSTR)
        kernels = tuple(self._kernel(kernel, code) for kernel in self.kernels) if len(code) == len(instrs) else ()
        if self.faults:
            raise self._error()
        return Program(
            self.program_name, self.machine, code, _stack(descs, DESC), kernels,
            _stack([row for row in launches if row is not None], LAUNCH), np.array(self.args, np.int64),
            tuple(self.tensors.values()), tuple(self.operators), tuple(self.host_ops), tuple(self.names), self.memory,
        )  # fmt: skip

    def _kernel(self, kernel: KernelText, code: Array) -> Kernel:
        """A kernel with its lane registers counted, when it is one of threads and does not state them."""
        part = code[kernel.start : kernel.end]
        threads = bool(np.isin(part["op"], list(THREAD_CODES)).any())
        if threads and kernel.clashes:
            names = ", ".join(kernel.clashes)
            reason = f"parameter {names} is a register's or a number's name: give another"
            self._report(kernel.line, f".kernel {kernel.name}", reason)
        registers = kernel.registers
        if registers is None:
            registers = max(1, registers_used(part)) if threads else 0
        return Kernel(kernel.name, kernel.start, kernel.end, kernel.params, kernel.scratch_bytes, registers)

    # Faults

    def _guard(self, number: int, text: str, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except Fault as fault:
            self._report(number, text, str(fault))
            return None

    def _report(self, number: int, text: str, message: str) -> None:
        self.faults.append((number, f"{self.source}:{number}: {text.strip()[:120]!r}: {message}"))
        if len(self.faults) == MAX_FAULTS:
            raise self._error()

    def _error(self) -> AssemblyError:
        more = [f"stopped after {MAX_FAULTS} faults"] if len(self.faults) == MAX_FAULTS else []
        return AssemblyError("\n".join([*(text for _, text in sorted(self.faults)), *more]))

    # First pass: lines

    def _line(self, number: int, line: str) -> None:
        text = without_comment(line).strip()
        while match := _LABEL.match(text):
            self._label(match.group(1))
            text = text[match.end() :].strip()
        if text.startswith("."):
            word, _, rest = text[1:].replace("\t", " ").partition(" ")
            choose(word, self.directives, "directive")(number, rest)
            return
        for piece in pieces(text) if text else ():
            if piece in ("{", "}", ";;"):
                self._mark(piece)
            else:
                self.lines.append(Line(number, piece, self.open_kernel))

    def _label(self, name: str) -> None:
        if self.open_kernel is None:
            raise Fault(f"label {name!r} stands outside of a kernel")
        if name in self.open_kernel.labels:
            raise Fault(f"label {name!r} is defined twice in kernel {self.open_kernel.name}")
        self.open_kernel.labels[name] = len(self.lines)

    def _mark(self, piece: str) -> None:
        """Open a bundle, or end it at the last instruction."""
        if piece == "{":
            if self.bundle_start >= 0:
                raise Fault("a bundle inside a bundle; close the first with }")
            self.bundle_start = len(self.lines)
            return
        first = self.bundle_start if piece == "}" else self.open_kernel.start if self.open_kernel else 0
        if piece == "}" and self.bundle_start < 0:
            raise Fault("} without {")
        self.bundle_start = -1 if piece == "}" else self.bundle_start
        if len(self.lines) <= first or self.lines[-1].stop:
            raise Fault("an empty bundle: no instruction before its end")
        self.lines[-1].stop = True

    # First pass: directives

    def _program(self, number: int, rest: str) -> None:
        self.program_name = _only_word(rest)

    def _machine(self, number: int, rest: str) -> None:
        self.machine = _only_word(rest)

    def _memory(self, number: int, rest: str) -> None:
        self.memory = {k: integer(v) for k, v in Tokens(rest).pairs().items()}

    def _name(self, number: int, rest: str) -> None:
        self.names.append(_only_word(rest))

    def _tensor(self, number: int, rest: str) -> None:
        tensor = record(Tensor, rest)
        if tensor.name in self.tensors:
            raise Fault(f"tensor {tensor.name!r} is defined twice")
        self.tensors[tensor.name] = tensor

    def _operator(self, number: int, rest: str) -> None:
        self.operators.append(record(Operator, rest))

    def _host_op(self, number: int, rest: str) -> None:
        self.host_ops.append(record(HostOp, rest))

    def _desc(self, number: int, rest: str) -> None:
        tokens = Tokens(rest)
        name = tokens.name()
        if name is None or not name.startswith("%"):
            raise Fault("expected .desc %name key=value ...")
        if name in self.desc_index:
            raise Fault(f"descriptor {name} is defined twice")
        self.desc_index[name] = len(self.desc_lines)
        self.desc_lines.append((Line(number, f".desc {rest}", self.open_kernel), tokens))

    def _begin(self, number: int, rest: str) -> None:
        if self.open_kernel is not None:
            raise Fault(f"a kernel inside kernel {self.open_kernel.name}: .end is missing")
        tokens = Tokens(rest)
        name = tokens.word()
        params: list[str] = []
        clashes: list[str] = []  # in quotes such a name is known to be none that instructions can use
        if tokens.peek() == "(":
            tokens.take("(")
            while tokens.peek() != ")":
                clashes += [tokens.peek()] if RESERVED.match(tokens.peek()) else []
                params.append(tokens.word())
                if tokens.peek() != ")":
                    tokens.take(",")
            tokens.take(")")
        scratch = {k: integer(v) for k, v in tokens.pairs().items()}
        registers = scratch.pop("registers", None)
        self.open_kernel = KernelText(
            name, len(self.lines), tuple(params), scratch, number, registers=registers, clashes=tuple(clashes)
        )

    def _end(self, number: int, rest: str) -> None:
        if self.open_kernel is None:
            raise Fault(".end without .kernel")
        if self.bundle_start >= 0:
            self.bundle_start = -1
            raise Fault("a bundle is open at .end; close it with }")
        self.open_kernel.end = len(self.lines)
        self.kernels.append(self.open_kernel)
        self.open_kernel = None

    def _in_kernel(self, directive: str) -> KernelText:
        if self.open_kernel is None:
            raise Fault(f"{directive} stands outside of a kernel")
        return self.open_kernel

    def _reg(self, number: int, rest: str) -> None:
        kernel = self._in_kernel(".reg")
        name_registers(kernel.lanes, kernel.params, rest)

    def _preg(self, number: int, rest: str) -> None:
        kernel = self._in_kernel(".preg")
        name_predicates(kernel.lanes, kernel.params, rest)

    def _shared(self, number: int, rest: str) -> None:
        kernel = self._in_kernel(".shared")
        used = kernel.scratch_bytes.get("smem", 0)
        kernel.scratch_bytes["smem"] = reserve_shared(kernel.lanes, kernel.params, rest, used)

    def _param(self, number: int, rest: str) -> None:
        kernel = self._in_kernel(".param")
        kernel.params = add_params(kernel.lanes, kernel.params, rest)

    def _launch(self, number: int, rest: str) -> None:
        if rest.lstrip().startswith("["):
            raise Fault("expected a kernel name or key=value")
        self.launch_lines.append(Line(number, f".launch {rest}", None))

    def _args(self, number: int, rest: str) -> None:
        if not rest.strip().startswith("[") or not rest.strip().endswith("]"):
            raise Fault("expected one list in [ ]")
        self.launch_lines.append(Line(number, f".args {rest}", None))

    # Second pass: descriptors and launches

    def _address(self, value: Value) -> int:
        """An integer, or `&tensor`: the address of a tensor."""
        if isinstance(value, str) and value.startswith("&"):
            return choose(value[1:], self.tensors, "tensor").address
        return integer(value)

    def _descriptor(self, at: Line, tokens: Tokens) -> Array:
        row: Array = DESC_DEFAULT.copy()
        pairs = tokens.pairs()
        for key in ("space", "dtype", "ext"):
            if key not in pairs:
                raise Fault(f"missing {key}=")
        extents = items(integer)(pairs["ext"])
        put(row, "ndim", len(extents))
        for key, value in pairs.items():
            if key not in (DESC.names or ()):
                raise Fault(f"unknown key {key!r}{nearest(key, DESC.names or ())}")
            put(row, key, self._desc_value(at, key, value))
        if "stride" not in pairs:
            size = DTYPE[int(row["dtype"])].size_bytes if int(row["dtype"]) in DTYPE else 1
            packed = [size]
            for extent in extents[:0:-1]:
                packed.append(packed[-1] * extent)
            put(row, "stride", packed[::-1][: len(extents)])
        return row

    def _desc_value(self, at: Line, key: str, value: Value) -> Any:
        if key == "space" and str(value) in SPACE_ID:
            return SPACE_ID[value]
        if key == "dtype" and str(value) in _DTYPE_CODE:
            return _DTYPE_CODE[value]
        if key in ("space", "dtype") and isinstance(value, str) and not value.lstrip("-").isdigit():
            return choose(value, SPACE_ID if key == "space" else _DTYPE_CODE, key)
        one: Callable[[Value], Any] = self._address if key == "base" else integer
        if key in DESC_REGISTER_FIELDS:
            one = lambda item: integer(item) if str(item)[:1] == "-" else register(at.kernel, string(item))  # noqa: E731
        elif DESC[key].base.kind == "f":
            one = real
        return items(one)(value) if DESC[key].shape else one(value)

    def _launch_row(self, at: Line) -> Array | None:
        word, _, rest = at.text.partition(" ")
        tokens = Tokens(rest)
        if word == ".args":
            self.args += [self._address(item) for item in tokens.value()]
            return None
        row: Array = np.zeros((), LAUNCH)
        for key, default in LAUNCH_DEFAULT.items():
            row[key] = default
        name = tokens.name()
        if name is not None:
            row["kernel"] = choose(name, {k.name: i for i, k in enumerate(self.kernels)}, "kernel")
        pairs = tokens.pairs()
        if "kind" in pairs and str(pairs["kind"]) in _KIND_ID:
            pairs["kind"] = str(_KIND_ID[str(pairs["kind"])])
        for key in pairs:
            choose(key, dict.fromkeys((*LAUNCH_DEFAULT, "args", "nargs")), "key")
            if key != "args":
                put(row, key, integer(pairs[key]))
        self._launch_args(row, pairs)
        return row

    def _launch_args(self, row: Array, pairs: dict[str, Value]) -> None:
        """`args=[..]` the same for every core, `args=[[..], ..]` one list a core, `args=@N` stored at N already.

        Blocks of threads have one list between them.
        """
        value = pairs.get("args", [])
        if isinstance(value, str) and value.startswith("@"):
            put(row, "args", integer(value[1:]))
            return
        if not isinstance(value, list):
            raise Fault("args: expected a list in [ ], or @N")
        grid = args_rows(row)
        if value and not isinstance(value[0], list):
            if grid * len(value) > MAX_LIST_ITEMS:
                raise Fault(f"{grid} cores with {len(value)} arguments each; at most {MAX_LIST_ITEMS} in all")
            value = [value] * grid
        if value and len(value) != grid:
            raise Fault(f"args holds {len(value)} lists for a grid of {grid}")
        rows = [items(self._address)(block) for block in value]
        if len({len(block) for block in rows}) > 1:
            raise Fault("args: every core needs the same number of arguments")
        row["args"], row["nargs"] = len(self.args), len(rows[0]) if rows else 0
        flat = [bounded("args", x, np.iinfo(np.int64)) for block in rows for x in block]
        self.args += flat


def _only_word(rest: str) -> str:
    tokens = Tokens(rest)
    word = tokens.word()
    if tokens.peek():
        raise Fault(f"expected one name, found {tokens.peek()!r} after it; quote names with spaces")
    return word


def _stack(rows: list[Any], kind: Any) -> Array:
    stacked: Array = np.zeros(len(rows), kind)
    for i, row in enumerate(rows):
        stacked[i] = row
    return stacked
