"""From a graph with labelled groups to a Program: lowering, homes and addresses of tensors, launches.

Groups run one after another. A group with a rule becomes kernel launches; one without (or whose rule finds no kernel)
becomes a host launch if the machine leaves that operator to its host, else an estimate: closed-form time, reference
values, and its name in the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import lower
from compiler.bundle import pack
from compiler.codegen import Compiled, generate, pipelined
from compiler.emit import DescriptorPool
from compiler.graph import Constant, Graph, Node, printable
from compiler.launch import launch_arguments
from compiler.lower.context import RULES, Call, Choices, Context, NoKernel, narrows, row_major
from compiler.nest import Nest, render
from compiler.ops import op_def
from compiler.ops.custom import label
from compiler.passes.memory import plan
from isa.cost import shared_bytes_per_cycle
from isa.errors import CapacityError, CompileError
from isa.machine import Machine
from isa.params import Params, resolve
from isa.program import (
    INSTR,
    LAUNCH,
    LAUNCH_ESTIMATE,
    LAUNCH_HOST,
    LAUNCH_KERNEL,
    HostOp,
    Kernel,
    Operator,
    Program,
    Tensor,
)

Array = npt.NDArray[Any]
ALIGN_BYTES = 256
MAX_VIEW_RANK = 4  # a product has two batch dimensions; more of a dense tensor merge, of a view they may not
RESIDENT_SHARE = 0.75  # of the scratchpad may hold tensors between kernels; the rest is the kernels' own
VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
PICKS = ("Gather", "GatherElements", "GatherND", "Slice")  # read no more of their first input than they give
assert lower is not None  # importing it registers the rules


@dataclass(frozen=True)
class Group:
    """The nodes of one fused kernel, in order."""

    name: str
    nodes: tuple[Node, ...]

    @property
    def anchor(self) -> Node:
        """The node that decides how the group is lowered: the contraction, reduction or normalisation in it."""
        heavy = [n for n in self.nodes if op_def(n.op).op_class not in ("elementwise", "layout", "metadata")]
        return heavy[0] if heavy else self.nodes[0]


@dataclass
class Built:
    """A program with what only the compiler knows: constants by tensor name, the nests, and notes for the user.

    `expected_cycles` are what tile searches say, and where there is none the time of the bytes, without launches: good
    for choosing between programs of one graph.
    """

    program: Program
    constants: Mapping[str, Constant]
    graph: Graph
    nests: Mapping[str, Nest]
    assumptions: tuple[str, ...] = ()
    expected_cycles: float = 0.0

    def dump(self) -> str:
        """The tile programs as text."""
        return "\n".join(render(n) for n in self.nests.values())


@dataclass
class _Launch:
    """One launch before addresses are known."""

    kind: int
    operator: Operator
    kernel: str = ""
    nest: Nest | None = None
    bind: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    cycles: int = 0
    link_bytes: int = 0
    host_op: HostOp | None = None


def groups_of(graph: Graph) -> list[Group]:
    """Split a graph into its groups, in an order in which every group's inputs exist.

    Groups are convex, so ordering them by what they read (depth first, in program order) is always possible.
    """
    members: dict[str, list[Node]] = {}
    for node in graph.nodes:
        members.setdefault(node.group or node.name, []).append(node)
    owner = {out: name for name, nodes in members.items() for n in nodes for out in n.outputs if out}
    waits = {
        name: {owner[i] for n in nodes for i in n.inputs if i in owner} - {name} for name, nodes in members.items()
    }
    done: list[Group] = []
    while waits:
        ready = next((name for name, needed in waits.items() if not needed & waits.keys()), None)
        if ready is None:
            raise CompileError(f"graph {graph.name}: the groups {sorted(waits)[:4]} wait for each other")
        del waits[ready]
        done.append(Group(ready, tuple(members[ready])))
    return done


def build_program(graph: Graph, machine: Machine, name: str = "", choices: Choices | None = None) -> Built:
    """Compile a labelled graph; raises CompileError or CapacityError naming the node."""
    return _Builder(graph, machine, name or graph.name, choices or Choices()).run()


class _Builder:
    def __init__(self, graph: Graph, machine: Machine, name: str, choices: Choices) -> None:
        self.graph, self.machine, self.name = graph, machine, name
        self.params: Params = resolve(machine)
        self.scratch = machine.scratch_space
        self.strided = strided_views(graph)
        self.roots = _view_roots(graph, self.strided)
        self.groups = [g for g in groups_of(graph) if not all(is_view(n, self.strided) for n in g.nodes)]
        self.homes = self._homes()
        budget = {k: v.size_bytes for k, v in machine.core.spaces.items()}
        budget[self.scratch] -= self.resident_bytes
        self.context = Context(machine, graph, self.homes, budget, choices, strided=self.strided)
        self.pool = DescriptorPool()
        self.kernels: dict[Any, tuple[str, Compiled, Nest]] = {}
        self.launches: list[_Launch] = []
        self.assumptions: list[str] = []
        self.expected_cycles = 0.0

    def run(self) -> Built:
        for group in self.groups:
            self._group(group)
        addresses, memory = self._addresses()
        instrs, kernels = self._code()
        launches, args, host_ops = self._launch_table(addresses, kernels)
        program = Program(
            self.name, self.machine.name, instrs, self.pool.array(), tuple(kernels.values()), launches, args,
            self._tensors(addresses), tuple(x.operator for x in self.launches), tuple(host_ops), (), memory,
        )
        constants = {**self.graph.constants, **self.context.new_constants}
        nests = {name: nest for name, _, nest in self.kernels.values()}
        return Built(
            program, constants, self.graph, nests, tuple(dict.fromkeys(self.assumptions)), self.expected_cycles
        )

    def _bytes_per_cycle(self, nest: Nest) -> float:
        """From the shared cache or DRAM to the cores that a kernel is shared out to."""
        machine = self.machine
        rate = machine.dram_bytes_per_second / (machine.clock_mhz * 1e6)
        if machine.memory.l2 is not None:
            rate = float(shared_bytes_per_cycle(machine))
        path = machine.path("dram", self.scratch)
        cores = math.prod(min(loop.split, loop.count) for loop in nest.loops if loop.split)
        return rate if path is None else min(rate, cores * path.bytes_per_cycle)

    # Where tensors live

    def root(self, name: str) -> str:
        """The tensor whose storage a view shares."""
        return self.roots.get(name, name)

    def _homes(self) -> dict[str, str]:
        """Space of every tensor: constants in DRAM (or with the host), activations where the machine keeps them."""
        machine, graph = self.machine, self.graph
        homes: dict[str, str] = {}
        other = "dram" if machine.path("dram", self.scratch) else "host"
        weights = {n.inputs[1] for n in graph.nodes if n.op in ("Conv", "MatMul")}
        for name in graph.constants:
            homes[name] = "dram" if name in weights else other
        outside = "host" if machine.activation_space == "spm" and not machine.path("dram", self.scratch) else "dram"
        inner: list[str] = []
        for name in (*graph.inputs, *(t for n in graph.nodes for t in n.outputs if t)):
            if self.root(name) != name:
                continue
            fixed = name in graph.inputs or any(self.root(o) == name for o in graph.outputs)
            homes[name] = outside if fixed or machine.activation_space == "dram" else self.scratch
            if homes[name] == self.scratch:
                inner.append(name)
        self.resident_bytes = self._fit_resident(homes, inner, outside)
        for name in graph.tensors:
            homes.setdefault(name, homes.get(self.root(name), outside))
            if self.root(name) != name:
                homes[name] = homes[self.root(name)]
        return homes

    def _fit_resident(self, homes: dict[str, str], inner: list[str], outside: str) -> int:
        """Keep in the scratchpad what fits its share; the largest tensors go outside until it does."""
        if not inner:
            return 0
        limit = int(self.machine.core.spaces[self.scratch].size_bytes * RESIDENT_SHARE)
        while True:
            chosen = plan(self._lifetimes([n for n in inner if homes[n] == self.scratch]), ALIGN_BYTES)
            if chosen.peak_bytes <= limit:
                self.resident_plan = chosen
                return -(-chosen.peak_bytes // ALIGN_BYTES) * ALIGN_BYTES
            inside = [n for n in inner if homes[n] == self.scratch]
            biggest = max(inside, key=lambda n: self.graph.tensors[n].size_bytes)
            homes[biggest] = outside

    def _lifetimes(self, names: Sequence[str]) -> list[tuple[str, int, int, int]]:
        """(name, bytes, first and last group that touches it) of tensors; graph inputs and outputs live for ever."""
        wanted = set(names)
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for i, group in enumerate(self.groups):
            for node in group.nodes:
                for name in (*node.inputs, *node.outputs):
                    root = self.root(name)
                    if root in wanted:
                        first.setdefault(root, i)
                        last[root] = i
        for name in self.graph.inputs:
            first[self.root(name)] = 0
        for name in self.graph.outputs:
            last[self.root(name)] = len(self.groups)
        return [(n, self.graph.tensors[n].size_bytes, first[n], last[n]) for n in names if n in first and n in last]

    # Groups

    def _group(self, group: Group) -> None:
        try:
            if any(self._on_host(n) for n in group.nodes):
                raise NoKernel(f"{group.anchor.op} is left to the host")
            calls = self._lower(group)
        except NoKernel as reason:
            if len(group.nodes) == 1:
                self._without_kernel(group, str(reason))
                return
            for piece in self._parts(group):  # what cannot be fused may still run on its own
                self._group(piece)
            return
        except CapacityError as error:
            raise CapacityError(f"{group.name}: {error}") from None
        operator = self._operator(group)
        for i, call in enumerate(calls):
            name, _, nest = self._kernel(call)
            bind = {k: (self.root(v), offset) for k, (v, offset) in call.bind.items()}
            part = operator if i == 0 else _part(operator, i)
            part = _with_macs(part, nest.macs_padded)
            self.launches.append(_Launch(LAUNCH_KERNEL, part, name, nest, bind))
            self.expected_cycles += call.cycles or part.min_bytes / self._bytes_per_cycle(nest)

    def _parts(self, group: Group) -> tuple[Group, Group]:
        """A group in two: the longest beginning that has a kernel (else its first node), and the rest."""
        for cut in range(len(group.nodes) - 1, 1, -1):
            head = Group(group.nodes[0].name, group.nodes[:cut])
            if not any(self._on_host(n) for n in head.nodes):
                try:
                    self._lower(head)
                except (NoKernel, CapacityError):
                    continue
                return head, Group(group.nodes[cut].name, group.nodes[cut:])
        return Group(group.nodes[0].name, group.nodes[:1]), Group(group.nodes[1].name, group.nodes[1:])

    def _lower(self, group: Group) -> list[Call]:
        found = RULES.get(group.anchor.op)
        if found is None:
            raise NoKernel(
                "its time is that of its bytes, its values are zeros: nobody gave its meaning"
                if group.anchor.op == "Custom" else f"no kernel for {group.anchor.op}"
            )
        return found(self.context, group.nodes)

    def _kernel(self, call: Call) -> tuple[str, Compiled, Nest]:
        if call.key not in self.kernels:
            name = f"k{len(self.kernels)}_{str(call.key[0]) if isinstance(call.key, tuple) else 'kernel'}"
            nest = call.build(name)
            nest = pipelined(nest, self.params, self.context.budget)
            self.kernels[call.key] = (name, generate(nest, self.params, self.pool, self.context.budget), nest)
        return self.kernels[call.key]

    def _without_kernel(self, group: Group, reason: str) -> None:
        """A host launch or an estimate for each node of the group."""
        host = self._on_host(group.anchor)
        operator = self._operator(group, approximated=not host)
        touched, size = self._outer_tensors(group), self._least_bytes(group)
        clock = self.machine.clock_mhz * 1e6
        if host:
            link = self.machine.host
            seconds = link.op_latency_us * 1e-6 + size / link.bytes_per_second + operator.flops / link.flops_per_second
            cycles = int(seconds * clock)
            self.assumptions.append(f"{group.anchor.op} runs on the host, at the speed that the preset assumes")
        else:
            rate = self.machine.dram_bytes_per_second / clock
            vector = self.machine.core.vector
            lanes = (vector.register_elements() if vector else 1) * self.machine.vector_cores
            cycles = int(max(size / rate, operator.flops / lanes)) + self.machine.memory.request_latency_cycles
            self.assumptions.append(f"{label(group.anchor)} is estimated: {printable(reason)}")
        self.expected_cycles += cycles
        names = tuple(n.name for n in group.nodes)
        inputs, outputs = (tuple(dict.fromkeys(self.root(n) for n in side)) for side in touched)
        self.launches.append(_Launch(
            LAUNCH_HOST if host else LAUNCH_ESTIMATE, operator, cycles=cycles, link_bytes=size if host else 0,
            host_op=HostOp(names, inputs, outputs),
        ))

    def _on_host(self, node: Node) -> bool:
        """True for an operator that the machine leaves to its host, by name or by what isa.machine.Host says of it."""
        names = {node.op}
        if len(node.inputs) > 1 and node.inputs[1] not in self.graph.constants:
            names.add(f"{node.op}:computed")
        if node.op == "Cast" and narrows(*(self.graph.tensors[n] for n in (node.inputs[0], node.outputs[0]))):
            names.add("Cast:narrowing")
        return bool(names & set(self.machine.host.ops))

    def _outer_tensors(self, group: Group) -> tuple[list[str], list[str]]:
        """Tensors that enter and leave a group."""
        made = {o for n in group.nodes for o in n.outputs if o}
        inputs = list(dict.fromkeys(i for n in group.nodes for i in n.inputs if i and i not in made))
        inside = {n.name for n in group.nodes}
        readers = self.graph.consumers()
        leaving = [o for n in group.nodes for o in n.outputs if o and (
            o in self.graph.outputs or any(r.name not in inside for r in readers.get(o, [])))]
        return inputs, leaving

    def _operator(self, group: Group, approximated: bool = False) -> Operator:
        types = self.graph.tensors
        macs = flops = 0
        for node in group.nodes:
            work = op_def(node.op).work(
                node, [types.get(i) if i else None for i in node.inputs], [types[o] for o in node.outputs if o])
            macs, flops = macs + work.macs, flops + work.flops
        inputs, outputs = self._outer_tensors(group)
        kind = "+".join(dict.fromkeys(label(n) for n in group.nodes))
        last = next(o for o in group.nodes[-1].outputs if o)
        return Operator(
            group.anchor.name, kind, types[last].shape, tuple(n.name for n in group.nodes),
            types[group.anchor.inputs[0]].dtype if group.anchor.inputs else types[last].dtype,
            macs, flops, self._least_bytes(group), tuple(dict.fromkeys(self.root(i) for i in inputs)),
            tuple(dict.fromkeys(self.root(o) for o in outputs)), approximated,
        )

    def _least_bytes(self, group: Group) -> int:
        """Bytes of the tensors that enter and leave the group; of a table, those that are picked from it."""
        types, (inputs, outputs) = self.graph.tensors, self._outer_tensors(group)
        size = sum(types[n].size_bytes for n in (*inputs, *outputs))
        if group.anchor.op in PICKS:
            table, picked = types[group.anchor.inputs[0]], types[group.anchor.outputs[0]]
            size -= max(0, table.size_bytes - picked.size_bytes)
        return size

    # Putting it together

    def _addresses(self) -> tuple[dict[str, int], dict[str, int]]:
        """Address of every tensor that a launch touches; peak bytes by space."""
        used = {n for x in self.launches for n, _ in x.bind.values()}
        used |= {n for x in self.launches if x.host_op for n in (*x.host_op.inputs, *x.host_op.outputs)}
        used |= {self.root(o) for o in (*self.graph.outputs, *self.graph.inputs)}
        addresses: dict[str, int] = {}
        top = {"dram": 0, "host": 0}
        constants = {**self.graph.constants, **self.context.new_constants}
        for name in sorted(used):
            if name in constants:
                space = self.homes[name]
                addresses[name] = top[space]
                top[space] += -(-max(1, constants[name].type.size_bytes) // ALIGN_BYTES) * ALIGN_BYTES
        for name, kind in self.context.workspaces.items():
            addresses[name] = top["dram"]
            top["dram"] += -(-kind.size_bytes // ALIGN_BYTES) * ALIGN_BYTES
        for space in ("dram", "host"):
            names = sorted(n for n in used - addresses.keys() if self.homes[n] == space)
            chosen = plan(self._lifetimes(names), ALIGN_BYTES)
            addresses |= {n: top[space] + a for n, a in chosen.addresses.items()}
            top[space] += chosen.peak_bytes
        if self.resident_bytes:
            start = self.machine.core.spaces[self.scratch].size_bytes - self.resident_bytes
            addresses |= {n: start + a for n, a in self.resident_plan.addresses.items()}
            top[self.scratch] = self.resident_bytes
        if top["dram"] > self.machine.memory.capacity_bytes:
            raise CapacityError(
                f"{self.name}: needs {top['dram']} bytes of DRAM, {self.machine.name} has "
                f"{self.machine.memory.capacity_bytes}: use a smaller batch or dtype"
            )
        return addresses, top

    def _code(self) -> tuple[Array, dict[str, Kernel]]:
        records: list[Array] = []
        kernels: dict[str, Kernel] = {}
        descs = self.pool.array()
        for name, compiled, _ in self.kernels.values():
            start = len(records)
            records += pack(compiled.emitter.finish(start), self.machine, start, descs)
            kernels[name] = Kernel(name, start, len(records), compiled.params, compiled.scratch_bytes)
        return (np.array(records, INSTR) if records else np.zeros(0, INSTR)), kernels

    def _launch_table(self, addresses: dict[str, int], kernels: dict[str, Kernel]) -> tuple[Array, Array, list[HostOp]]:
        table = np.zeros(len(self.launches), LAUNCH)
        order = {name: i for i, name in enumerate(kernels)}
        args: list[int] = []
        host_ops: list[HostOp] = []
        for i, launch in enumerate(self.launches):
            row = table[i]
            row["kind"], row["operator"], row["host_op"], row["kernel"] = launch.kind, i, -1, -1
            row["cycles"], row["link_bytes"], row["args"] = launch.cycles, launch.link_bytes, len(args)
            if launch.host_op is not None:
                row["host_op"] = len(host_ops)
                host_ops.append(launch.host_op)
                continue
            assert launch.nest is not None
            kernel = kernels[launch.kernel]
            cores = launch_arguments(launch.nest, launch.bind, addresses, kernel, self.params)
            row["kernel"], row["grid"], row["nargs"] = order[launch.kernel], len(cores), len(kernel.params)
            args += [value for core in cores for value in core]
        return table, np.array(args, np.int64), host_ops

    def _tensors(self, addresses: dict[str, int]) -> tuple[Tensor, ...]:
        constants = {**self.graph.constants, **self.context.new_constants}
        rows = []
        outputs = {self.root(o) for o in self.graph.outputs}
        for name, address in addresses.items():
            kind = constants[name].type if name in constants else (
                self.context.workspaces.get(name) or self.graph.tensors[name])
            role = "weight" if name in constants else "input" if name in self.graph.inputs else (
                "output" if name in outputs else "temp")
            rows.append(
                Tensor(name, self.homes[name], address, kind.shape, kind.dtype, role, kind.scale, kind.zero_point)
            )
        return tuple(rows)


def is_view(node: Node, strided: Mapping[str, object]) -> bool:
    """True for a node that only renames storage."""
    return node.op in VIEWS or node.outputs[0] in strided


def strided_views(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Element strides of the transposes that only matrix products read: those read the stored tensor in place."""
    readers = graph.consumers()
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        if node.op != "Transpose" or node.outputs[0] in graph.outputs or node.inputs[0] in graph.constants:
            continue
        if len(node.attrs["perm"]) > MAX_VIEW_RANK:
            continue
        out = node.outputs[0]
        if all(r.op == "MatMul" and out in r.inputs[:2] and out not in r.inputs[2:] for r in readers.get(out, [])):
            dense = row_major(graph.tensors[node.inputs[0]].shape)
            found[out] = tuple(dense[int(i)] for i in node.attrs["perm"])
    return found


def _view_roots(graph: Graph, strided: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Views share the storage of what they are views of."""
    roots: dict[str, str] = {}
    for node in graph.nodes:
        if is_view(node, strided):
            roots[node.outputs[0]] = roots.get(node.inputs[0], node.inputs[0])
    return roots


def _part(operator: Operator, index: int) -> Operator:
    """A further launch of the same operator: its work was counted with the first."""
    return replace(operator, name=f"{operator.name}#{index}", macs=0, flops=0, min_bytes=0)


def _with_macs(operator: Operator, padded: int) -> Operator:
    return replace(operator, padded_macs=padded)
