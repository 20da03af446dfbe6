"""Run one lowered operator group: graph -> calls -> program -> verified, executed, checked for hazards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from compiler import lower as _rules  # noqa: F401  (importing it registers the rules)
from compiler.codegen import generate, pipeline_slots
from compiler.emit import DescriptorPool
from compiler.graph import Constant, Graph, Node, TensorType
from compiler.lower.context import RULES, Call, Context
from compiler.nest import Nest
from compiler.ops import op_def, run_graph
from isa.dtypes import DTYPES, dtype, round_to
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import Params, resolve
from isa.program import DESC, INSTR, LAUNCH, Kernel, Operator, Program, Tensor
from isa.table import STOP
from isa.verify import verify
from npusim.functional import execute
from npusim.hazards import check_hazards

MACHINES = ("tiny", "tpu-v3", "tpu-v4", "gemmini-16x16", "tpu-v1")


@cache
def machine(name: str) -> Machine:
    """A preset, loaded once."""
    return load_machine(name).machine


@cache
def params(name: str) -> Params:
    """The preset resolved, once."""
    return resolve(machine(name))


def graph_of(
    nodes: Sequence[Node], inputs: Mapping[str, TensorType], constants: Mapping[str, Any] | None = None
) -> Graph:
    """Build a graph: types of what nodes write follow from their operators; the last node's outputs are its outputs."""
    held = {k: v if isinstance(v, Constant) else Constant.of(*v) for k, v in (constants or {}).items()}
    types = dict(inputs) | {k: v.type for k, v in held.items()}
    for node in nodes:
        values = [held[n].value() if n in held and not held[n].stripped else None for n in node.inputs]
        found = op_def(node.op).infer(node, [types[n] if n else None for n in node.inputs], values)
        types |= dict(zip(node.outputs, found))
    graph = Graph("test", tuple(nodes), tuple(inputs), nodes[-1].outputs, types, held)
    graph.verify()
    return graph


def lower(graph: Graph, hw: str, budget: int | None = None) -> tuple[Context, list[Call]]:
    """Lower all nodes of a graph as one group, anchored at its first node."""
    chip = machine(hw)
    home = chip.activation_space
    homes = {name: home for name in graph.tensors}
    room = {k: v.size_bytes for k, v in chip.core.spaces.items()}
    room["spm"] = budget or (room["spm"] // 2 if home == "spm" else room["spm"])
    context = Context(chip, graph, homes, room)
    homes.update({name: context.constant_space(False) for name in graph.constants})
    if home == "spm":
        homes.update({name: "host" for name in graph.inputs[1:]})
    return context, RULES[graph.nodes[0].op](context, graph.nodes)


def link(context: Context, calls: Sequence[Call], hw: str) -> Program:
    """Put calls together as a program: tensors placed one after another, a launch a call."""
    graph, chip = context.graph, context.machine
    constants = {**graph.constants, **context.new_constants}
    types = {**graph.tensors, **{n: c.type for n, c in context.new_constants.items()}}
    top = {"spm": context.budget["spm"]}
    tensors: dict[str, Tensor] = {}
    for name, kind in types.items():
        space = context.homes[name]
        at = -(-top.get(space, 0) // 64) * 64
        top[space] = at + kind.size_bytes
        roles = {"weight": constants, "input": graph.inputs, "output": graph.outputs}
        role = next((r for r, names in roles.items() if name in names), "temp")
        tensors[name] = Tensor(name, space, at, kind.shape, kind.dtype, role)
    pool, code, kernels, args = DescriptorPool(), [], [], []
    launches = np.zeros(len(calls), LAUNCH)
    for i, call in enumerate(calls):
        nest = call.build(f"k{i}")
        nest = nest.with_slots(pipeline_slots(nest))
        made = generate(nest, params(hw), pool, context.budget)
        part = made.emitter.finish(len(code))
        kernels.append(Kernel(f"k{i}", len(code), len(code) + len(part), made.params))
        code += part
        rows = arguments(nest, chip, {a: tensors[t].address + offset for a, (t, offset) in call.bind.items()})
        launches[i]["kernel"], launches[i]["grid"], launches[i]["args"] = i, len(rows), len(args)
        launches[i]["nargs"] = len(made.params)
        args += [row[p] for row in rows for p in made.params]
    instrs = np.array(code, INSTR)
    instrs["flags"] |= STOP * bool(params(hw)["vliw"])
    operator = Operator("test", "Test", (), (), "fp32", 0, 0, 0, outputs=graph.outputs)
    return Program("test", hw, instrs, pool.array() if code else np.zeros(0, DESC), tuple(kernels), launches,
                   np.array(args, np.int64), tuple(tensors.values()), (operator,), memory_bytes=top)  # fmt: skip


def arguments(nest: Nest, chip: Machine, addresses: Mapping[str, int]) -> list[dict[str, int]]:
    """Arguments by name of every core that takes part: the tiles of the split loop are shared out evenly."""
    cores = chip.cores if any(x.split for x in nest.loops) else 1
    rows = []
    for core in range(cores):
        row, steps = dict(addresses), 1
        for loop in nest.loops:
            tiles = loop.count
            if loop.split:
                share = -(-tiles // cores) * loop.tile
                low, high = (min(c * share, loop.total) for c in (core, core + 1))
                row[f"lo_{loop.name}"], row[f"hi_{loop.name}"] = low, high
                tiles = -(-(high - low) // loop.tile)
            steps *= tiles
        rows.append(row | {"steps": steps})
    return rows


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, Any]:
    """Random inputs in storage form."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in graph.inputs:
        kind = graph.tensors[name]
        if DTYPES[kind.dtype].is_float:
            raw = rng.normal(size=kind.shape) * 2
        elif kind.dtype == "bool":
            raw = rng.integers(0, 2, kind.shape)
        else:
            raw = rng.integers(0, 5, kind.shape) - (2 if kind.dtype != "uint8" else 0)
        feeds[name] = round_to(raw, dtype(kind.dtype))
    return feeds


def run(graph: Graph, hw: str, feeds: Mapping[str, Any] | None = None, budget: int | None = None) -> dict[str, Any]:
    """Lower, verify, check for hazards and execute; returns the outputs in storage form."""
    context, calls = lower(graph, hw, budget)
    program = link(context, calls, hw)
    verify(program, context.machine)
    assert [f.message for f in check_hazards(program, context.machine)] == []
    initial = dict(feeds if feeds is not None else feeds_of(graph))
    for name, constant in {**graph.constants, **context.new_constants}.items():
        initial[name] = round_to(constant.value(), dtype(constant.type.dtype))
    return execute(program, context.machine, initial, _no_host).tensors


def _no_host(*_: Any) -> Any:
    raise AssertionError("no host operator expected")


def check(graph: Graph, hw: str, ulps: float = 1, budget: int | None = None, absolute: float = 0.0) -> None:
    """Assert that the program gives what the operators give, within `ulps` of the output's format."""
    feeds = feeds_of(graph)
    expected = run_graph(graph, feeds)
    found = run(graph, hw, feeds, budget)
    for name in graph.outputs:
        kind = dtype(graph.tensors[name].dtype)
        wanted, got = (np.asarray(v, np.float64) for v in (expected[name], found[name]))
        assert got.shape == wanted.shape
        unit = 2.0**-kind.mantissa_bits if kind.is_float else 0.0
        bound = ulps * unit * np.abs(wanted) + absolute
        wrong = ~((np.abs(got - wanted) <= bound) | (got == wanted) | (np.isnan(got) & np.isnan(wanted)))
        assert not wrong.any(), f"{wrong.sum()} of {wrong.size} differ: {got[wrong][:4]} instead of {wanted[wrong][:4]}"
