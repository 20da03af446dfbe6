"""Code generation: a nest, with its synchronisation, becomes one step loop of instructions.

All loops are flattened into one; stage i works at step s on the tile that the load stage reached at step s - i
(software pipelining), so positions travel through a chain of registers, one link a stage. Inside a step the load stage
comes first when its buffers have a slot to spare, so that transfers start before the arrays are fed; else it comes last
and waits for a slot while the arrays already work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.emit import DescriptorPool, Emitter
from compiler.expr import Expr, leaves, pos
from compiler.nest import Buffer, Loop, Nest, Placed, Ref, Stmt, SubLoop, statements
from compiler.sync import Advance, Item, Set, Signal, SyncPlan, Wait, partners, pipe_of, plan, space_of
from isa.errors import CapacityError
from isa.params import Params
from isa.table import ACTIVATIONS

SPARE_REGISTERS = 16  # kept free for temporaries when values are moved out of loops


@dataclass(frozen=True)
class Compiled:
    """A kernel ready to be placed: its emitter, parameters in order, and the bytes of scratch it takes by space."""

    emitter: Emitter
    params: tuple[str, ...]
    scratch_bytes: Mapping[str, int]


def parameters(nest: Nest) -> tuple[str, ...]:
    """Names of a kernel's parameters: tensor addresses, the number of steps, the range of every split loop."""
    ranges = [name for x in nest.loops if x.split for name in (f"lo_{x.name}", f"hi_{x.name}")]
    return (*(t.name for t in nest.tensors), "steps", *ranges)


def pipeline_slots(nest: Nest, ahead: bool = False) -> dict[str, int]:
    """Slots that each buffer needs so that no stage waits for a younger one: distance of its stages plus one.

    `ahead`: one more for what the load stage fills, because it then leads the step (see `generate`).
    """
    slots = {b.name: b.slots for b in nest.buffers if b.channel >= 0}
    for buffer in (b for b in nest.buffers if b.channel < 0):
        users = [i for i, s in enumerate(nest.stages)
                 if any(_mentions(p, buffer.name) for p in s.placed)]
        varies = any(x.count > 1 for x in nest.loops[: buffer.level])
        lead = int(ahead and bool(users) and users[0] == 0)
        apart = max(users) - min(users) + 1 + lead if users else 1
        slots[buffer.name] = max(apart, buffer.least_slots) if varies else 1
    return slots


def _mentions(placed: Placed, name: str) -> bool:
    return any(r is not None and r.base == name for s in statements(placed.body) for r in (s.dst, *s.srcs))


def pipelined(nest: Nest, params: Params, budget: Mapping[str, int]) -> Nest:
    """The nest with its slots: loads lead the step if the scratchpad has room for the slot that this takes.

    With queues they always do: it is not the sequencer that waits for a slot to be free.
    """
    if nest.partner is not None:
        nest = replace(nest, partner=pipelined(nest.partner, params, budget))
    leading = nest.with_slots(pipeline_slots(nest, True), True)
    try:
        place(leading, params, budget)
        plan(leading, params)
    except CapacityError:
        return nest.with_slots(pipeline_slots(nest), bool(params["queues"]))
    return leading


def place(nest: Nest, params: Params, budget: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Give every buffer an address (from 0 up in its space); raises CapacityError when `budget` bytes are exceeded."""
    addresses: dict[str, int] = {}
    used: dict[str, int] = {}
    for buffer in (b for b in nest.buffers if b.channel < 0):
        align = max(params.machine.core.spaces[buffer.space].align_bytes, 64)
        start = -(-used.get(buffer.space, 0) // align) * align
        addresses[buffer.name] = start
        used[buffer.space] = start + slot_bytes(buffer, align) * buffer.slots
    for space, need in used.items():
        if need > budget[space]:
            biggest = max((b for b in nest.buffers if b.space == space), key=lambda b: b.size_bytes * b.slots)
            raise CapacityError(
                f"kernel {nest.name}: needs {need} bytes of {space}, {budget[space]} are free; its largest buffer is "
                f"{biggest.name} ({biggest.slots} x {biggest.size_bytes} bytes)"
            )
    return addresses, used


def slot_bytes(buffer: Buffer, align: int = 64) -> int:
    """Distance of a buffer's slots."""
    return -(-buffer.size_bytes // align) * align


def generate(nest: Nest, params: Params, pool: DescriptorPool, budget: Mapping[str, int]) -> Compiled:
    """Generate the kernel of a nest, and of its partner behind it; their buffers have the slots of `pipelined`."""
    partner = nest.partner
    names = parameters(nest) if partner is None else tuple(dict.fromkeys((*parameters(nest), *parameters(partner))))
    emitter = Emitter(nest.name, names, params["registers"], pool)
    if partner is None:
        return Compiled(emitter, names, _generate(nest, params, emitter, budget))
    emitter.open()
    emitter.put("csr", dst=(kind := emitter.scratch()), imm=2)
    other = emitter.put("bnz", a=kind)
    emitter.close()
    used = _generate(nest, params, emitter, budget)
    emitter.target(other)
    behind = Emitter(nest.name, names, params["registers"], pool, emitter.code)
    return Compiled(emitter, names, {**used, **_generate(partner, params, behind, budget)})


def _generate(nest: Nest, params: Params, emitter: Emitter, budget: Mapping[str, int]) -> dict[str, int]:
    """Emit the code of one kind of cores; returns the bytes that it takes by space."""
    addresses, used = place(nest, params, budget)
    _Generator(nest, params, plan(nest, params), emitter, addresses).run()
    return used


class _Generator:
    """The state of one kernel's generation: registers of positions, validity and slots."""

    def __init__(self, nest: Nest, params: Params, sync: SyncPlan, emitter: Emitter, addresses: dict[str, int]) -> None:
        self.nest, self.params, self.sync, self.e, self.addresses = nest, params, sync, emitter, addresses
        self.moving = [x for x in nest.outer_loops if x.moves]
        self.inner = [x for x in nest.loops[len(nest.outer_loops) :] if x.count > 1]
        self.inner_pos = {x.name: emitter.allocate() for x in self.inner}
        self.lags = range(len(nest.stages))
        self.pos = {x.name: [emitter.allocate() for _ in range(self._last_use(x) + 1)] for x in self.moving}
        self.left = [emitter.allocate() for _ in self.lags]  # [0]: steps left to load; [i]: the same i steps ago
        self.peers = [emitter.allocate() for _ in range(partners(nest, params))] if sync.channels else []
        self.parity = {
            (item.body.buffers, i): emitter.allocate()
            for i, items in enumerate(sync.stages) for item in items if isinstance(item.body, Advance)
        }

    def _last_use(self, loop: Loop) -> int:
        """The last stage that asks for the loop's position: the register chain need not go further."""
        depth = self.nest.loops.index(loop)
        last = 0
        for i, items in enumerate(self.sync.stages):
            for item in items:
                named = isinstance(item.body, (Stmt, SubLoop)) and any(
                    ("pos", loop.name) in set(leaves(v)) for v in _values(item.body, offsets=True))
                if named or item.level <= depth:
                    last = i
        return last

    def run(self) -> None:
        e = self.e
        last = self.lags[-1]
        self._prologue()
        e.open()
        e.put("addi", dst=(trips := e.scratch()), a=e.param_reg["steps"], imm=last)
        loop = e.put("loop", a=trips)
        e.close()
        for stage in self.lags if self.nest.ahead else (*self.lags[1:], 0):
            self._stage(stage)
        self._step()
        e.put("endl")
        e.target(loop)
        for credit in self.sync.credits:
            for slot in range(credit.slots):
                self._wait(credit.waiter, imm=credit.flag + slot, b=credit.count)
        for channel in self.sync.channels:
            for slot in range(channel.buffer.slots if channel.fills else 0):
                self._wait(channel.pipe, "await", imm=channel.buffer.channel + slot, b=len(self.peers))
        e.put("halt")

    def _wait(self, pipe: tuple[int, int] | None, name: str = "wait", **fields: int) -> None:
        held = {} if pipe is None else {"dst": pipe[0], "unit": pipe[1]}
        self.e.put(name, **held, **fields)

    def _signal(self, pipe: tuple[int, int], flag: int, slot: int = -1) -> None:
        for peer in self.peers:
            self.e.put("signal", dst=pipe[0], unit=pipe[1], imm=flag, b=peer, a=slot)

    def _meet(self) -> None:
        """Numbers of the cores that this one works with, its own slots of every workspace, and the free ones."""
        e, cubes, count = self.e, self.params.machine.cores, self.params.machine.vector_partners
        e.open()
        e.put("csr", dst=(pair := e.scratch()), imm=0)
        if self.nest.kind:
            e.put("addi", dst=pair, a=pair, imm=-cubes)
            e.put("divi", dst=pair, a=pair, imm=count)
            e.put("mov", dst=self.peers[0], a=pair)
        for i, peer in enumerate(self.peers if self.nest.kind == 0 else ()):
            e.put("muli", dst=peer, a=pair, imm=count)
            e.put("addi", dst=peer, a=peer, imm=cubes + i)
        for channel in self.sync.channels:
            base = e.param_reg[channel.buffer.name]
            e.put("muli", dst=(start := e.scratch()), a=pair, imm=channel.buffer.slots * channel.buffer.size_bytes)
            e.put("add", dst=base, a=base, b=start)
            for slot in range(0 if channel.fills else channel.buffer.slots):
                self._signal(channel.pipe, channel.buffer.channel + slot)
        e.close()

    def _prologue(self) -> None:
        e = self.e
        if self.sync.channels:
            self._meet()
        for loop in self.moving:
            start = loop.low
            e.put("mov", dst=self.pos[loop.name][0], a=e.register(start)) if isinstance(start, Expr) else e.put(
                "li", dst=self.pos[loop.name][0], imm=start)
        e.put("mov", dst=self.left[0], a=e.param_reg["steps"])
        for register in (*self.left[1:], *self.parity.values()):
            e.put("li", dst=register, imm=0)
        for credit in self.sync.credits:
            for slot in range(credit.slots):
                for _ in range(credit.count):
                    e.put("set", dst=credit.setter[0], unit=credit.setter[1], imm=credit.flag + slot)

    def _step(self) -> None:
        """Shift positions one stage on, then move the load stage to its next tile, innermost loop first."""
        e = self.e
        for i in reversed(self.lags[1:]):
            for registers in (*self.pos.values(), self.left):
                if i < len(registers):
                    e.put("mov", dst=registers[i], a=registers[i - 1])
        e.put("addi", dst=self.left[0], a=self.left[0], imm=-1)
        e.put("maxi", dst=self.left[0], a=self.left[0], imm=0)
        self._count_on(self.moving, {x.name: self.pos[x.name][0] for x in self.moving})

    def _count_on(self, loops: list[Loop], registers: Mapping[str, int]) -> None:
        """Move positions to the next tile, innermost loop first; the outermost one only counts up."""
        e, exits = self.e, []
        for loop in reversed(loops):
            register = registers[loop.name]
            e.put("addi", dst=register, a=register, imm=loop.tile)
            if loop is loops[0]:
                break
            e.open()
            high = loop.high
            if isinstance(high, int):
                e.put("slti", dst=(more := e.scratch()), a=register, imm=high)
            else:
                e.put("slt", dst=(more := e.scratch()), a=register, b=e.register(high))
            exits.append(e.put("bnz", a=more))
            e.close()
            low = loop.low
            if isinstance(low, Expr):
                e.put("mov", dst=register, a=e.register(low))
            else:
                e.put("li", dst=register, imm=low)
        for address in exits:
            e.target(address)

    def _stage(self, stage: int) -> None:
        items = self.sync.stages[stage]
        if not items:
            return
        e = self.e
        e.bind = {pos(x.name): self.pos[x.name][stage] for x in self.moving if stage < len(self.pos[x.name])}
        e.bind |= {pos(x.name): Expr("const", (0,)) for x in self.nest.loops if x not in self.moving}
        e.bind |= {pos(name): register for name, register in self.inner_pos.items()}
        e.bind |= {Expr("parity", (name,)): r for (names, i), r in self.parity.items() if i == stage for name in names}
        skip = e.put("bz", a=self.left[stage])
        e.open()
        if self.inner and stage:
            depth = len(self.nest.outer_loops)
            self._grouped([x for x in items if x.level <= depth and x.when == "pre"], self.moving)
            self._inner_loop([x for x in items if x.level > depth])
            self._grouped([x for x in items if x.level <= depth and x.when == "post"], self.moving)
        else:
            self._grouped(items, self.moving)
        e.close()
        e.target(skip)

    def _inner_loop(self, items: list[Item]) -> None:
        """The inner loops as one, around what they repeat; what does not change in it is computed before."""
        e = self.e
        for body in (x.body for x in items if isinstance(x.body, (Stmt, SubLoop))):
            self._hoist(_values(body), {("pos", x.name) for x in self.inner})
        e.open()
        for register in self.inner_pos.values():
            e.put("li", dst=register, imm=0)
        address = e.put("loop", a=e.register(math.prod(x.count for x in self.inner)))
        e.open()
        self._grouped(items, self.inner)
        e.close()
        self._count_on(self.inner, self.inner_pos)
        e.put("endl")
        e.target(address)
        e.close()

    def _hoist(self, values: Sequence[Expr | int], varying: set[tuple[str, str]]) -> None:
        """Compute before a loop what does not vary in it, while registers last (loop-invariant code motion)."""
        for value in values:
            steady = isinstance(value, Expr) and not varying & set(leaves(value))
            if steady and self.e.free_registers > SPARE_REGISTERS:
                self.e.register(value)
                self.e.unpin()

    def _grouped(self, items: Sequence[Item], moving: list[Loop]) -> None:
        """Items in order, those under the same condition on the `moving` loops together."""
        groups: list[tuple[Expr | None, list[Item]]] = []
        for item in items:
            condition = self._condition(item.level, item.when, moving)
            if groups and groups[-1][0] == condition:
                groups[-1][1].append(item)
            else:
                groups.append((condition, [item]))
        for condition, members in groups:
            self._guarded(condition, members)

    def _condition(self, level: int, when: str, moving: list[Loop]) -> Expr | None:
        """First (pre) or last (post) iteration of the `moving` loops from `level` in; None when that is always so."""
        result: Expr | None = None
        for loop in self.nest.loops[level:]:
            if loop not in moving:
                continue
            here = pos(loop.name)
            if when == "pre":
                low = loop.low
                test = Expr("eq", (here, low))
            else:
                high = loop.high
                if isinstance(high, Expr):
                    test = Expr("lt", (high - 1, here + loop.tile))
                else:
                    test = Expr("gt", (here, high - loop.tile - 1))
            result = test if result is None else Expr("and", (result, test))
        return result

    def _guarded(self, condition: Expr | None, items: list[Item]) -> None:
        e = self.e
        skip = -1
        if condition is not None:
            skip = e.put("bz", a=e.register(condition))
            e.open()
        for item in items:
            self._item(item)
        if condition is not None:
            e.close()
            e.target(skip)

    def _item(self, item: Item) -> None:
        e, body = self.e, item.body
        e.unpin()
        if isinstance(body, Wait):
            name = "await" if body.crosses else "wait"
            self._wait(body.pipe, name, imm=body.flag, a=self._slot(body.buffer), b=body.count)
        elif isinstance(body, Signal):
            self._signal(body.pipe, body.flag, self._slot(body.buffer))
        elif isinstance(body, Set):
            for pipe_class, unit in body.pipes:
                e.put("set", dst=pipe_class, unit=unit, imm=body.flag, a=self._slot(body.buffer))
        elif isinstance(body, Advance):
            register = e.bind[Expr("parity", body.buffers[:1])]
            slots = next(b.slots for b in self.nest.buffers if b.name == body.buffers[0])
            e.put("addi", dst=register, a=register, imm=1)
            e.put("modi", dst=register, a=register, imm=slots)
        elif isinstance(body, SubLoop):
            self._subloop(body)
        else:
            self._statement(body)

    def _slot(self, buffer: str) -> int:
        bound = self.e.bind.get(Expr("parity", (buffer,)), -1)
        return bound if isinstance(bound, int) else -1

    def _subloop(self, loop: SubLoop) -> None:
        e = self.e
        if isinstance(loop.count, int) and loop.count == 1:
            e.bind[Expr("var", (loop.var,))] = Expr("const", (0,))
            self._body(loop)
            return
        self._hoist(_values(loop), {("var", name) for name in _inner_vars(loop)})
        e.open()
        variable = e.scratch()
        e.put("li", dst=variable, imm=0)
        address = e.put("loop", a=e.register(loop.count))
        e.bind[Expr("var", (loop.var,))] = variable
        e.open()
        self._body(loop)
        e.close()
        e.put("addi", dst=variable, a=variable, imm=loop.step)
        e.put("endl")
        e.target(address)
        e.close()

    def _body(self, loop: SubLoop) -> None:
        for part in loop.body:
            if isinstance(part, SubLoop):
                self._subloop(part)
            else:
                self._statement(part)

    def _statement(self, stmt: Stmt) -> None:
        e = self.e
        e.unpin()
        fields: dict[str, object] = {"f0": stmt.f0, "f1": stmt.f1, "flags": stmt.flags}
        _, fields["unit"] = pipe_of(stmt, self.nest, self.params)
        for name, ref in zip(("dst", "a", "b", "c"), (stmt.dst, *stmt.srcs), strict=False):
            if ref is not None:
                fields[name] = self._operand(ref)
        if stmt.accumulate is not None and not (isinstance(stmt.accumulate, int) and stmt.accumulate == 0):
            fields["c"] = e.register(stmt.accumulate)
        if stmt.op == "fix":
            fields["imm"] = ACTIVATIONS.index(stmt.act)
        e.put(stmt.op, **fields)

    def _operand(self, ref: Ref) -> int:
        buffer = self.nest.buffer(ref.base)
        if buffer is None or buffer.channel >= 0:
            return self.e.operand(ref, space_of(ref, self.nest), 0, buffer.size_bytes if buffer is not None else 0)
        align = max(self.params.machine.core.spaces[buffer.space].align_bytes, 64)
        size = slot_bytes(buffer, align) if buffer.slots > 1 else 0
        return self.e.operand(ref, buffer.space, self.addresses[buffer.name], size)


def _inner_vars(loop: SubLoop) -> set[str]:
    names = {loop.var}
    for part in loop.body:
        if isinstance(part, SubLoop):
            names |= _inner_vars(part)
    return names


def _values(body: Stmt | SubLoop, offsets: bool = False) -> list[Expr | int]:
    """Every value that the statements below need, inner loop counts included, byte offsets if asked."""
    if isinstance(body, SubLoop):
        found: list[Expr | int] = [body.count]
        for part in body.body:
            found += _values(part, offsets)
        return found
    found = [] if body.accumulate is None else [body.accumulate]
    for ref in (body.dst, *body.srcs):
        if ref is not None:
            found += [d.extent for d in ref.dims]
            found += [v for w in ref.windows for v in (w.origin, w.limit)]
            found += [ref.offset] if offsets else []
    return found
