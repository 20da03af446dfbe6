"""One core of one launch as the hazard checker sees it: what it executes in which order, and what that does not order.

What a fault means to the caller, and what bytes outside of the core's order mean, are left to subclasses: one walks and
reports, one proves and gives up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator

import numpy as np

from isa.disasm import instr_text
from isa.params import Params
from isa.program import SPACES, Program
from isa.table import BY_NAME, NEXT_TILE
from npusim.functional.control import Step
from npusim.functional.operand import Operand
from npusim.functional.queues import Queues, StuckError
from npusim.hazards.memory import Access, Clash, LiveAccesses
from npusim.hazards.order import Clock, CoreOrder, FlagSet
from npusim.hazards.regions import Shapes

SET, WAIT, SIGNAL, BARRIER = (BY_NAME[n].code for n in ("set", "wait", "signal", "barrier"))
_FENCE, _PBAR = BY_NAME["fence"].code, BY_NAME["pbar"].code
_HELD = (SET, WAIT, SIGNAL, _PBAR)  # may be in the queue of a pipe
_LDW, _MM = BY_NAME["ldw"].code, BY_NAME["mm"].code


def kept(
    steps: Iterator[Step], skip: frozenset[tuple[int, int]], without: frozenset[int]
) -> Iterator[Step]:  # fmt: skip
    """The steps without some waits, sets and signals: occurrences in `skip`, all of instructions in `without`."""
    if not skip and not without:
        yield from steps
    seen: Counter[int] = Counter()
    for step in steps:
        if step.op in (WAIT, SET, SIGNAL):
            occurrence = (step.pc, seen[step.pc])
            seen[step.pc] += 1
            if step.pc in without or occurrence in skip:
                continue
        yield step


class CoreRun(ABC):
    """Order and accesses of one core, the `place`-th of a `group` of cores that signal each other.

    `users` are the pipes that its kernel has instructions for.
    """

    def __init__(
        self, program: Program, kernel: int, params: Params, shapes: Shapes, users: frozenset[int], place: int = 0,
        group: int = 1,
    ) -> None:  # fmt: skip
        self.program, self.kernel, self.params, self.shapes = program, program.kernels[kernel], params, shapes
        self.declared = {SPACES.index(space): size for space, size in program.declared_bytes(self.kernel).items()}
        self.order = CoreOrder(params, users, place, group)
        self.queues = Queues(params)
        self.heard: list[deque[Clock]] = [deque() for _ in params.pipes]
        self.live = LiveAccesses(shapes)
        self.interlocked = params.machine.issue == "inorder"
        self.waiters: dict[int, Step] = {}  # by flag, the first wait for it
        self.pairs: dict[tuple[int, int], set[int]] = {}  # flags by who sets and who waits

    @abstractmethod
    def report(self, kind: str, instrs: tuple[int, ...], message: str) -> None:
        """A fault."""

    @abstractmethod
    def touch(self, access: Access, letter: str) -> bool:
        """An access is made; False when it does not count as one that others must be ordered with."""

    @abstractmethod
    def signal(self, step: Step) -> None:
        """A flag of another core is raised."""

    def record(self, access: Access) -> Clash | None:
        """Keep an access; return an earlier one that conflicts without order."""
        return self.live.add(access, self.order)

    def name(self, pipe: int) -> str:
        """A pipe of the group in words."""
        return self.params.pipes[max(pipe, 0)].label

    def hand(self, step: Step) -> Iterator[Step | None]:
        """The sequencer hands out an instruction: what may execute then, as `Queues.in_order`."""
        if step.pipe > 0 and self.order.queued:
            self.heard[step.pipe].append(self.order.sequencer)
        return self.queues.put(step)

    def execute(self, step: Step) -> bool:
        """An instruction's turn has come; False when the core can go no further."""
        if step.pipe > 0 and self.order.queued:
            self.order.hear(step.pipe, self.heard[step.pipe].popleft())
        if step.op == BARRIER:
            self.order.drain()
            return True
        return self._sync(step) if step.pipe < 0 or step.op in _HELD else self._data(step)

    def finish(self) -> None:
        """The end of the launch: flags must be 0 and the weight FIFOs empty."""
        for flag, pending in self.order.flags.items():
            if pending:
                pcs = tuple(dict.fromkeys(item.pc for item in pending))
                pair = "signal needs its await" if flag >= self.params["flags"] else "set needs its wait"
                why = f"{self.flag_name(flag)} is {len(pending)} when the launch ends; each {pair}"
                self.report("leftover", pcs[:2], why)
        for unit, tiles in self.order.pushed.items():
            if tiles:
                self.report("leftover", (), f"{len(tiles)} tiles stay in the weight FIFO of unit {unit}")

    def stuck(self, error: StuckError) -> None:
        """Queues that wait for each other, or for a flag that nobody sets."""
        pipes = self.params.pipes
        if error.cycle:
            program = self.program
            ring = "; ".join(
                f"{pipes[max(wait.pipe, 0)].label} waits at {wait.pc} `{instr_text(program, wait.pc)}` "
                f"for {self.flag_name(wait.imm)}, which {pipes[made.pipe].label} would set at {made.pc} "
                f"`{instr_text(program, made.pc)}`"
                for wait, made in error.cycle
            )
            self.report("deadlock", tuple(wait.pc for wait, _ in error.cycle), f"{ring}: each is behind the other's")
            return
        for step in error.steps:
            if step.op == WAIT:
                label = pipes[max(step.pipe, 0)].label
                why = f"{label} waits for {self.flag_name(step.imm)}; {self._setters(step.imm)}"
                self.report("deadlock", (step.pc,), why)

    def _sync(self, step: Step) -> bool:
        """Execute set, signal, wait, fence; False at a deadlock."""
        if step.op == SET:
            pending = self.order.flags.get(step.imm)
            if pending and self.order.queued:
                why = f"flag {step.imm} is set already and nobody has waited for it since: the hardware keeps one set"
                self.report("twice", (pending[-1].pc, step.pc), why)
            self.raised(self.order.proof(step.pc, step.pipe), step.imm)
        elif step.op == SIGNAL:
            self.signal(step)
        elif step.op == _PBAR:
            self.order.pipe_barrier(step.pipe)
        elif step.op == _FENCE:
            self.order.drain()
        else:
            return self._wait(step)
        return True

    def raised(self, item: FlagSet, flag: int) -> None:
        """A flag of this core is raised, by itself or by another core of its group."""
        last = self.order.overtaken(item, flag)
        if last is not None and self.order.setters[flag] == {item.pipe}:
            why = f"{self.flag_name(flag)} may be set again at {item.pc} before its wait at {last.pc} has passed: the "
            why += f"hardware keeps one set; let {self.name(item.pipe)} wait for something behind that wait first"
            self.report("twice", (last.pc, item.pc), why)
        elif last is not None:
            setters = ", ".join(sorted({self.name(pipe) for pipe in self.order.setters[flag] | {item.pipe}}))
            why = f"{self.flag_name(flag)} is set by {setters}, and {item.pc} may come before the wait at {last.pc}, "
            why += "which then takes the wrong set; give each a flag of its own, or let the later one wait first"
            self.report("ambiguous", (last.pc, item.pc), why)
        self.order.set_flag(item, flag)

    def _wait(self, step: Step) -> bool:
        flag, count = step.imm, step.amount
        other = self.waiters.setdefault(flag, step)
        if self.order.queued and other.pipe != step.pipe:
            names = [self.params.pipes[max(pipe, 0)].label for pipe in (other.pipe, step.pipe)]
            both = f"{names[0]} and {names[1]} wait for {self.flag_name(flag)}"
            why = f"{both}: either may take a set; give each a flag of its own"
            self.report("ambiguous", (other.pc, step.pc), why)
        pending = self.order.flags.get(flag, ())
        have = len(pending)
        if self.order.ambiguous(flag, count):
            many = f"{self.flag_name(flag)} has {have} sets from several pipes"
            why = f"{many} and {count} are waited for: any may be first"
            self.report("ambiguous", (step.pc, *dict.fromkeys(item.pc for item in pending)), why)
        taken = self.order.wait(step.pc, step.pipe, flag, count)
        if taken is None:
            why = f"{self.flag_name(flag)} is {have}, {count} needed, and nothing is dispatched past this wait; "
            self.report("deadlock", (step.pc,), why + self._setters(flag))
            return False
        self._count_pairs(step, taken)
        stuck = next((item for item in taken if self.order.blocked(item)), None)
        if stuck is not None:
            why = "the set is queued behind an ldw for which the weight FIFO has no room until a later mm pops a tile"
            self.report("deadlock", (step.pc, stuck.pc), why)
        return stuck is None

    def _count_pairs(self, step: Step, taken: list[FlagSet]) -> None:
        """The hardware has so many flags from one pipe of a core to another (core.flags_per_pair)."""
        limit = self.params.machine.core.flags_per_pair
        own = step.imm < self.params["flags"]
        for item in taken if limit and own else ():
            used = self.pairs.setdefault((item.pipe, step.pipe), set())
            used.add(step.imm)
            if len(used) > limit:
                names = [self.name(item.pipe), self.params.pipes[max(step.pipe, 0)].label]
                why = f"{len(used)} flags from {names[0]} to {names[1]}; there are {limit} (core.flags_per_pair): "
                why += "use one again whose wait has passed, keep fewer slots in flight, or raise the limit"
                self.report("flags", (step.pc,), why)

    def _setters(self, flag: int) -> str:
        """Who could set a flag: instructions of the kernel, by index; those that name it rather than add a register."""
        program, kernel, own = self.program, self.kernel, self.params["flags"]
        op, number = (SIGNAL, flag - own) if flag >= own else (SET, flag)
        instrs = program.instrs[kernel.start : kernel.end]
        moved = instrs["a"] >= 0
        able = (instrs["op"] == op) & ((instrs["imm"] == number) | (moved & (instrs["imm"] <= number)))
        found = sorted(np.flatnonzero(able).tolist(), key=lambda i: bool(moved[i]) and int(instrs["imm"][i]) != number)
        if not found:
            return "no instruction of the kernel sets it"
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        shown = (kernel.start + i for i in found[:4])
        return "it can be set by " + ", ".join(f"{pc} `{instr_text(program, pc)}`" for pc in shown) + more

    def flag_name(self, flag: int) -> str:
        """A flag in words: those that other cores signal are numbered by themselves."""
        own = self.params["flags"]
        return f"cross-core flag {flag - own}" if flag >= own else f"flag {flag}"

    def _data(self, step: Step) -> bool:
        if any(o is not None and 0 in o.ext for o in step.operands):
            self.order.dispatch(step.pipe)  # a no-op that keeps its place: it neither pushes nor pops
            return True
        if not self._fifo(step):
            return False
        number = self.order.dispatch(step.pipe)
        dst, *sources = step.operands
        for letter, operand in zip("ABC", sources):
            if operand is not None:
                self._access(step, number, operand, letter, False)
        if dst is not None:
            if step.accumulate:
                self._access(step, number, dst, "D", False)
            self._access(step, number, dst, "D", True)
        return True

    def _fifo(self, step: Step) -> bool:
        if step.op == _LDW and not self.order.push(step.unit):
            why = "the weight FIFO and its queue are full and no mm before this ldw pops a tile"
            self.report("deadlock", (step.pc,), why)
            return False
        if step.op == _MM and step.flags & NEXT_TILE and not self.order.pop(step.unit):
            self.report("deadlock", (step.pc,), f"no earlier ldw pushes a tile into the FIFO of unit {step.unit}")
            return False
        return True

    def _access(self, step: Step, number: int, operand: Operand, letter: str, write: bool) -> None:
        shape = self.shapes.of(operand)
        if not shape.pieces:
            return
        pipe = step.pipe + self.order.base
        access = Access(operand.space, shape, operand.base, write, step.pc, pipe, number)
        if self.touch(access, letter) and not self.interlocked:
            self._conflict(access)

    def _conflict(self, access: Access) -> None:
        clash = self.record(access)
        if clash is None:
            return
        kind, pc, pipe, (low, high) = clash
        earlier, later = self.name(pipe), self.name(access.pipe)
        near = pipe // self.order.count == access.pipe // self.order.count
        missing = f"a {'set' if near else 'signal'} on {earlier} after {pc} and its {'wait' if near else 'await'}"
        why = (
            f"bytes [{low}, {high}) of {SPACES[access.space]}: {later} may start {access.pc} before {earlier} has "
            f"completed {pc}; missing: {missing} before {access.pc}"
        )
        self.report(kind, (pc, access.pc), why)
