"""The control slice: scalars, loops and addresses of one core, executed in Python.

A Walker yields every other instruction with its operands resolved; the functional executor gives them values, the
hazard checker orders them. Neither of them interprets a scalar instruction itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from isa.disasm import instr_text
from isa.errors import SimulationError
from isa.params import Params
from isa.program import SPACES, Kernel, Program
from isa.table import BY_CODE, BY_NAME, CROSS_LANE, DMA, DRAIN, MATRIX, SCALAR, SYNC, WEIGHTS
from npusim.functional.operand import Operand, Resolver

MAX_LOOP_DEPTH = 64
MAX_INSTRUCTIONS = 500_000_000  # of one core in one launch
NO_PIPE = -1  # the sequencer itself: wait, barrier, fence
_LOW, _HIGH = -(1 << 63), (1 << 63) - 1

# Kinds of decoded rows.
_RR, _RI, _CSR, _BR, _BZ, _BNZ, _LOOP, _ENDL, _HALT, _NOP, _STEP = range(11)

_BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "min": min,
    "max": max,
    "slt": lambda x, y: int(x < y),
    "seq": lambda x, y: int(x == y),
    "and": lambda x, y: x & y,
    "mov": lambda x, y: x,
}
_IMMEDIATE: dict[str, Callable[[int, int], int]] = {
    "li": lambda x, y: y,
    "addi": lambda x, y: x + y,
    "rsubi": lambda x, y: y - x,
    "muli": lambda x, y: x * y,
    "divi": lambda x, y: x // y,
    "modi": lambda x, y: x % y,
    "mini": min,
    "maxi": max,
    "slti": lambda x, y: int(x < y),
    "seqi": lambda x, y: int(x == y),
}
_JUMPS = {"csr": _CSR, "br": _BR, "bz": _BZ, "bnz": _BNZ, "loop": _LOOP, "endl": _ENDL, "halt": _HALT}
_JUMPS |= {"nop": _NOP, "mark": _NOP}
_LETTERS = (("Dd", "dst"), ("Da", "a"), ("Db", "b"), ("Dc", "c"))


class Step(NamedTuple):
    """One dispatched instruction: its index, opcode, pipe (index in Params.pipes) and operands D, A, B, C.

    `imm` is the flag of set and wait (register added) and the activation of fix; `amount` is what a wait subtracts. An
    `await` is a wait and a `signal` names its flag by a number behind the core's own; `amount` is then
    whose it is.
    """

    pc: int
    op: int
    pipe: int
    unit: int
    flags: int
    operands: tuple[Operand | None, ...]
    accumulate: bool
    imm: int
    amount: int
    f0: float
    f1: float


def wait_count(instr: Any) -> int:
    """The count of a `wait`: field b; absent means 1."""
    return max(1, int(instr["b"]))


def pipe_of(instr: Any, descs: Any, params: Params) -> int:
    """Index of the pipe that executes an instruction (docs/architecture.md); raises SimulationError without a path."""
    op = BY_CODE[int(instr["op"])]
    unit = int(instr["unit"])
    if op.name in ("set", "wait", "pbar", "signal", "await") and int(instr["dst"]) >= 0:
        engine = int(instr["dst"]) - DMA
        if 0 <= engine < len(params.dma):
            return int(params.dma[engine, 0]) + unit % int(params.dma[engine, 1])
        return _exact_pipe(params, int(instr["dst"]), unit)
    if op.pipe == SYNC:
        return NO_PIPE
    if op.pipe == DMA or (op.pipe == DRAIN and params["drain_engine"]):
        src, dst = int(descs[int(instr["a"])]["space"]), int(descs[int(instr["dst"])]["space"])
        path = int(params.path_of[src, dst])
        engine = int(params.paths[path, 0]) if path >= 0 else -1
        if engine < 0:
            raise SimulationError(f"{params.machine.name} has no copy path {SPACES[src]} -> {SPACES[dst]}")
        return int(params.dma[engine, 0]) + unit % int(params.dma[engine, 1])
    return _exact_pipe(params, op.pipe, unit if op.pipe in (WEIGHTS, MATRIX) else 0)


def _exact_pipe(params: Params, pipe_class: int, unit: int) -> int:
    """Params.pipe_index, but only work of the cross-lane and drain units may fall back to the vector unit."""
    index = params.pipe_index(pipe_class, unit)
    missing = index < 0 or params.pipes[index].pipe_class != pipe_class or params.pipes[index].unit != unit
    if missing and (index < 0 or unit or pipe_class not in (CROSS_LANE, DRAIN)):
        raise SimulationError(f"{params.machine.name} has no pipe of class {pipe_class}, unit {unit}")
    return index


class _Data:
    """A decoded instruction of the data slice."""

    def __init__(self, pc: int, instr: Any, params: Params, program: Program, resolvers: dict[int, Resolver]) -> None:
        op = BY_CODE[int(instr["op"])]
        fields = op.fields.replace("?", "").split()
        operands: list[Resolver | None] = []
        for letter, name in _LETTERS:
            index = int(instr[name])
            wanted = letter in fields and not (index < 0 and f"{letter}?" in op.fields.split())
            if not wanted:
                operands.append(None)
                continue
            if not 0 <= index < len(program.descs):
                raise SimulationError(f"operand {letter} names descriptor {index}; there are {len(program.descs)}")
            if index not in resolvers:
                resolvers[index] = Resolver(index, program.descs[index])
            operands.append(resolvers[index])
        self.operands = tuple(operands)
        self.sum_reg = int(instr["c"]) if "rc" in fields else -1
        self.flag_reg = int(instr["a"]) if "ra" in fields else -1
        self.whose_reg = int(instr["b"]) if op.name == "signal" else -1
        crosses = op.name in ("signal", "await")
        self.imm = int(instr["imm"]) + (params["flags"] if crosses else 0)
        first = params["flags"] if crosses else 0
        self.flags = range(first, first + params["cross_flags" if crosses else "flags"])
        self.limit = "core.cross_flags" if crosses else "core.flags"
        code = BY_NAME["wait"].code if op.name == "await" else op.code
        self.head = (pc, code, pipe_of(instr, program.descs, params), int(instr["unit"]), int(instr["flags"]))
        self.amount = wait_count(instr) if code == BY_NAME["wait"].code else 0
        self.tail = (float(instr["f0"]), float(instr["f1"]))
        used = [r for o in operands if o is not None for r in o.registers]
        self.registers = tuple(r for r in (*used, self.sum_reg, self.flag_reg, self.whose_reg) if r >= 0)
        self.fixed = None if self.registers else self.resolve([])

    def resolve(self, regs: Sequence[int]) -> Step:
        """Return the step for the present register values."""
        operands = tuple([o.resolve(regs) if o is not None else None for o in self.operands])
        accumulate = self.sum_reg >= 0 and regs[self.sum_reg] != 0
        imm = self.imm
        if self.flag_reg >= 0:
            imm += regs[self.flag_reg]
            if imm not in self.flags:
                which = f"{'cross-core ' if self.flags.start else ''}flag {imm - self.flags.start}"
                there = f"there are {len(self.flags)} ({self.limit}): see what its register holds"
                raise SimulationError(f"instruction {self.head[0]}: {which} does not exist; {there}")
        amount = regs[self.whose_reg] if self.whose_reg >= 0 else self.amount
        return Step(*self.head, operands, accumulate, imm, amount, *self.tail)


class Walker:
    """Executes the control slice of a program's kernels; decodes each kernel once."""

    def __init__(self, program: Program, params: Params, max_instructions: int = MAX_INSTRUCTIONS) -> None:
        self._program = program
        self._params = params
        self._max = max_instructions
        self._resolvers: dict[int, Resolver] = {}
        self._rows: dict[int, list[tuple[Any, ...]]] = {}

    def steps(
        self, kernel_index: int, block: int, blocks: int, args: Sequence[int], core_kind: int = 0
    ) -> Iterator[Step]:
        """Yield the dispatched instructions of a block on a core of some kind, in program order.

        Raises SimulationError on a bad program.
        """
        kernel = self._program.kernels[kernel_index]
        rows, start, registers = self._decoded(kernel_index), kernel.start, self._params["registers"]
        if len(args) > registers:
            raise SimulationError(f"kernel {kernel.name}: {len(args)} arguments, the machine has {registers} registers")
        regs = [*args, *[0] * (registers - len(args))]
        loops: list[tuple[int, int]] = []
        position, size = 0, len(rows)
        for _ in range(self._max):
            if not 0 <= position < size:
                raise SimulationError(f"kernel {kernel.name} runs to {start + position}, outside of it: no halt?")
            kind, what, dst, a, b, imm = rows[position]
            if kind == _RI:
                value = what(regs[a], imm)
            elif kind == _RR:
                value = what(regs[a], regs[b])
            elif kind == _STEP:
                yield what.fixed or what.resolve(regs)
                position += 1
                continue
            elif kind == _HALT:
                return
            elif kind == _CSR:
                value = (block, blocks, core_kind)[imm]
            else:
                position = self._jump(kernel, rows[position], position, regs, loops)
                continue
            regs[dst] = value if _LOW <= value <= _HIGH else (value - _LOW) % (1 << 64) + _LOW
            position += 1
        raise SimulationError(
            f"kernel {kernel.name} executed {self._max} instructions in block {block}, the limit of a launch, and is "
            f"at {start + position}: its loop does not end, or the work is cut too fine; check trip counts and "
            "branches, or give larger tiles (run.tile)"
        )

    def pipes(self, kernel_index: int) -> frozenset[int]:
        """Pipes for which a kernel has an instruction; raises SimulationError on a bad program."""
        return frozenset(row[1].head[2] for row in self._decoded(kernel_index) if row[0] == _STEP)

    def _decoded(self, kernel_index: int) -> list[tuple[Any, ...]]:
        if kernel_index not in self._rows:
            self._rows[kernel_index] = self._decode(self._program.kernels[kernel_index])
        return self._rows[kernel_index]

    @staticmethod
    def _jump(
        kernel: Kernel, row: tuple[Any, ...], position: int, regs: list[int], loops: list[tuple[int, int]]
    ) -> int:
        """Execute a control instruction; return the next position. A loop entry is (body start, runs left)."""
        kind, _, _, a, _, to = row
        if kind == _BR:
            return int(to)
        if kind in (_BZ, _BNZ):
            return int(to) if (regs[a] == 0) == (kind == _BZ) else position + 1
        if kind == _LOOP:
            if regs[a] <= 0:
                return int(to)
            if len(loops) >= MAX_LOOP_DEPTH:
                raise SimulationError(f"kernel {kernel.name}: nests over {MAX_LOOP_DEPTH} loops")
            loops.append((position + 1, regs[a] - 1))
        if kind == _ENDL:
            if not loops:
                raise SimulationError(f"kernel {kernel.name}: endl without loop at {kernel.start + position}")
            body, left = loops.pop()
            if left:
                loops.append((body, left - 1))
                return body
        return position + 1

    def _decode(self, kernel: Kernel) -> list[tuple[Any, ...]]:
        instrs = self._program.instrs
        if not 0 <= kernel.start <= kernel.end <= len(instrs):
            raise SimulationError(f"kernel {kernel.name}: [{kernel.start}, {kernel.end}) of {len(instrs)} instructions")
        ends = self._loop_ends(kernel)
        rows = []
        for pc in range(kernel.start, kernel.end):
            try:
                rows.append(self._decode_one(kernel, pc, ends))
            except SimulationError as error:
                place = f"kernel {kernel.name}, instruction {pc} `{instr_text(self._program, pc)}`"
                raise SimulationError(f"{place}: {error}") from None
        return rows

    def _decode_one(self, kernel: Kernel, pc: int, ends: dict[int, int]) -> tuple[Any, ...]:
        instr = self._program.instrs[pc]
        op = BY_CODE.get(int(instr["op"]))
        if op is None:
            raise SimulationError("unknown opcode")
        dst, a, b, imm = int(instr["dst"]), int(instr["a"]), int(instr["b"]), int(instr["imm"])
        if op.pipe != SCALAR:
            data = _Data(pc, instr, self._params, self._program, self._resolvers)
            self._check_registers(data.registers)
            return (_STEP, data, 0, 0, 0, 0)
        fields = op.fields.split()
        self._check_registers([r for name, r in (("rd", dst), ("ra", a), ("rb", b)) if name in fields])
        if op.name in _JUMPS:
            kind = _JUMPS[op.name]
            if kind == _CSR and imm not in (0, 1, 2):
                known = "0 is the block, 1 the number of blocks, 2 the kind of the core"
                raise SimulationError(f"special register {imm} does not exist; {known}")
            target = ends[pc] + 1 if kind == _LOOP else imm
            return (kind, None, dst, a, 0, target - kernel.start if "to" in fields else imm)
        if op.name in ("divi", "modi") and imm == 0:
            raise SimulationError("division by 0")
        if op.name in _IMMEDIATE:
            return (_RI, _IMMEDIATE[op.name], dst, max(a, 0), 0, imm)
        return (_RR, _BINARY[op.name], dst, a, max(b, 0), 0)

    def _check_registers(self, registers: Sequence[int]) -> None:
        for r in registers:
            if not 0 <= r < self._params["registers"]:
                raise SimulationError(f"register {r} does not exist; there are {self._params['registers']}")

    def _loop_ends(self, kernel: Kernel) -> dict[int, int]:
        """Map each loop to its endl, by nesting."""
        begin, end = BY_NAME["loop"].code, BY_NAME["endl"].code
        found, open_loops = {}, []
        for pc in range(kernel.start, kernel.end):
            code = int(self._program.instrs[pc]["op"])
            if code == begin:
                open_loops.append(pc)
            elif code == end and open_loops:
                found[open_loops.pop()] = pc
        if open_loops:
            raise SimulationError(f"kernel {kernel.name}: loop at instruction {open_loops[-1]} has no endl")
        return found
