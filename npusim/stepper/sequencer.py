"""The sequencer: scalar code, bundles, flags, and the dispatch of everything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isa.errors import SimulationError
from isa.params import MAX_SETS
from isa.program import Program
from isa.table import BY_CODE, DMA, SCALAR, STOP, SYNC, Op
from npusim.functional.control import pipe_of, wait_count
from npusim.functional.operand import Operand, Resolver
from npusim.stepper.job import Job, make_job
from npusim.stepper.units import wait_for

if TYPE_CHECKING:
    from npusim.stepper.core import Core

_MEANING: dict[str, Callable[[int, int, int], int]] = {
    "li": lambda a, b, i: i, "mov": lambda a, b, i: a, "add": lambda a, b, i: a + b, "addi": lambda a, b, i: a + i,
    "sub": lambda a, b, i: a - b, "rsubi": lambda a, b, i: i - a, "mul": lambda a, b, i: a * b,
    "muli": lambda a, b, i: a * i, "divi": lambda a, b, i: a // i, "modi": lambda a, b, i: a % i,
    "min": lambda a, b, i: min(a, b), "mini": lambda a, b, i: min(a, i), "max": lambda a, b, i: max(a, b),
    "maxi": lambda a, b, i: max(a, i), "slt": lambda a, b, i: int(a < b), "slti": lambda a, b, i: int(a < i),
    "seq": lambda a, b, i: int(a == b), "seqi": lambda a, b, i: int(a == i), "and": lambda a, b, i: a & b,
}  # fmt: skip


class Sequencer:
    """One core's instruction stream."""

    def __init__(self, program: Program, core: Core, kind: int, start: int, blocks: int) -> None:
        self._program, self._core, self._start = program, core, start
        self._special = [0, blocks, kind]
        self.next_cycle = 0  # may issue from here on
        self.cause = "drained"
        self.halted, self.at_barrier = True, False
        self.issued = 0
        self.flags: Counter[int] = Counter()
        self.flag_class: Counter[int] = Counter()
        own, cross = core.params["flags"], core.params["cross_flags"]
        self.flag_class.update(dict.fromkeys(range(own, own + cross), SYNC))

    def begin(self, block: int, args: list[int], cycle: int) -> None:
        """Run a block of the launch from `cycle` on."""
        self._special[0] = block
        self._regs = args + [0] * (self._core.params["registers"] - len(args))
        self._loops: list[list[int]] = []  # [body, runs left]
        self.pc, self.halted = self._start, False
        self.next_cycle = cycle

    def act(self, cycle: int) -> bool:
        """Issue one bundle if it can go; True when it does."""
        if self.halted or self.at_barrier or self.next_cycle > cycle:
            return False
        bundle = self._bundle()
        reason = self._obstacle(bundle)
        if reason is not None:
            self.cause = reason
            return False
        self.cause, self._now = "busy", cycle
        self.next_cycle = cycle + self._core.params["scalar_cycles"]
        for pc in bundle:
            self._execute(pc)
        return True

    def _op(self, pc: int) -> Op:
        return BY_CODE[int(self._program.instrs[pc]["op"])]

    def _bundle(self) -> list[int]:
        last = self.pc
        while self._core.params["vliw"] and not int(self._program.instrs[last]["flags"]) & STOP:
            last += 1
        return list(range(self.pc, last + 1))

    def _flag(self, instr: Any) -> int:
        flag = int(instr["imm"]) + (self._regs[int(instr["a"])] if instr["a"] >= 0 else 0)
        own, cross = self._core.params["flags"], self._core.params["cross_flags"]
        far = BY_CODE[int(instr["op"])].name in ("signal", "await")
        if not 0 <= flag < (cross if far else own):
            raise SimulationError(f"core {self._core.number}: flag {flag} does not exist")
        return flag + own if far else flag

    def _raised(self, instr: Any) -> tuple[int, int]:
        """(target, flag) of a set or a signal."""
        flag = self._flag(instr)
        if BY_CODE[int(instr["op"])].name == "set":
            self.flag_class[flag] = min(int(instr["dst"]), DMA)
            return -1, flag
        target = self._regs[int(instr["b"])]
        if not 0 <= target < self._special[1]:
            raise SimulationError(f"core {self._core.number}: block {target} does not exist")
        return target, flag

    def _obstacle(self, bundle: list[int]) -> str | None:
        """Why a bundle cannot issue as a whole."""
        core = self._core
        taken: Counter[int] = Counter()
        needed: Counter[int] = Counter()
        sets = 0
        for pc in bundle:
            instr, op = self._program.instrs[pc], self._op(pc)
            held = self._held_pipe(op, instr)
            if held is not None:
                if len(held.queue) >= held.info.queue_depth or core.in_flight >= core.params["window"]:
                    return "queue_full"
            elif op.name in ("wait", "await"):
                flag = self._flag(instr)
                needed[flag] += wait_count(instr)
                if self.flags[flag] < needed[flag]:
                    return wait_for(self.flag_class[flag])
            elif op.name in ("set", "signal"):
                youngest = self._named_youngest(instr)
                if sets >= MAX_SETS or (youngest is not None and len(youngest.flags) + sets >= MAX_SETS):
                    return "queue_full"
                sets += 1
            elif op.pipe == SYNC:
                if core.in_flight:
                    return "barrier"
            elif op.pipe != SCALAR:
                pipe = pipe_of(instr, self._program.descs, core.params)
                full = len(core.pipes[pipe].queue) + taken[pipe] >= core.pipes[pipe].info.queue_depth
                if full or core.in_flight + taken.total() >= core.params["window"]:
                    return "queue_full"
                taken[pipe] += 1
        return None

    def _named(self, instr: Any) -> Any:
        """The pipe that a set, a wait or a pipe barrier names; None for the sequencer."""
        index = pipe_of(instr, self._program.descs, self._core.params)
        return self._core.pipes[index] if index > 0 else None

    def _named_youngest(self, instr: Any) -> Any:
        pipe = self._named(instr)
        return None if pipe is None else pipe.youngest()

    def _held_pipe(self, op: Op, instr: Any) -> Any:
        """The pipe whose queue a synchronisation instruction joins; None where the sequencer executes it."""
        queued = self._core.params["queues"] and op.name in ("set", "wait", "pbar", "signal", "await")
        return self._named(instr) if queued else None

    def _execute(self, pc: int) -> None:
        instr, op = self._program.instrs[pc], self._op(pc)
        self.issued += 1
        self.pc = pc + 1
        held = self._held_pipe(op, instr)
        if held is not None:
            self._hold(op, pc, instr, held)
        elif op.name == "halt":
            self.halted, self.cause = True, "drained"
        elif op.name == "barrier":
            self.at_barrier, self.cause = True, "barrier"
        elif op.name in ("wait", "await"):
            self.flags[self._flag(instr)] -= wait_count(instr)
        elif op.name in ("set", "signal"):
            self._set(instr)
        elif op.pipe == SCALAR:
            self._scalar(op.name, instr)
        elif op.pipe != SYNC:
            self._dispatch(pc, instr)

    def _hold(self, op: Op, pc: int, instr: Any, pipe: Any) -> None:
        kind = {"signal": "set", "await": "wait"}.get(op.name, op.name)
        job = Job(pc, pipe.info.index, self._core.dispatched, sync=kind, amount=wait_count(instr))
        if kind == "wait":
            job.flag = self._flag(instr)
        elif kind == "set":
            job.target, job.flag = self._raised(instr)
        self._core.dispatch(job)

    def _set(self, instr: Any) -> None:
        raised, youngest = self._raised(instr), self._named_youngest(instr)
        if youngest is None:
            self._core.raise_flag(*raised, self._now)
        else:
            youngest.flags.append(raised)

    def _dispatch(self, pc: int, instr: Any) -> None:
        op = self._op(pc)
        fields = op.fields.replace("?", "").split()
        operands: list[Operand | None] = []
        for letter, name in zip("dabc", ("dst", "a", "b", "c")):
            index = int(instr[name])
            known = f"D{letter}" in fields and index >= 0
            operands.append(Resolver(index, self._program.descs[index]).resolve(self._regs) if known else None)
        if any(o is not None and 0 in o.ext for o in operands):
            return  # no elements: nothing to do
        core = self._core
        pipe = pipe_of(instr, self._program.descs, core.params)
        core.dispatch(make_job(pc, pipe, core.dispatched, op.code, int(instr["flags"]), operands, core.params))

    def _scalar(self, name: str, instr: Any) -> None:
        regs, imm = self._regs, int(instr["imm"])
        a = regs[int(instr["a"])] if instr["a"] >= 0 else 0
        b = regs[int(instr["b"])] if instr["b"] >= 0 else 0
        if name == "csr":
            regs[int(instr["dst"])] = self._special[imm]
        elif name in _MEANING:
            regs[int(instr["dst"])] = (_MEANING[name](a, b, imm) + (1 << 63)) % (1 << 64) - (1 << 63)
        elif name in ("br", "bz", "bnz"):
            if name == "br" or (a == 0) == (name == "bz"):
                self.pc = imm
        elif name == "loop" and a > 0:
            self._loops.append([self.pc, a])
        elif name == "loop":
            self.pc = imm
        elif name == "endl":
            self._loops[-1][1] -= 1
            if self._loops[-1][1]:
                self.pc = self._loops[-1][0]
            else:
                self._loops.pop()
