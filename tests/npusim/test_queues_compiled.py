"""What the compiler makes for machines with queues: right values, proved synchronisation, every wait of which is judged
by an oracle that knows nothing of vector clocks: reachability in the graph of what must happen before what."""

from __future__ import annotations

import functools
from collections import defaultdict, deque

import numpy as np
import pytest
from click.testing import CliRunner

import npusim
from compiler.compile import Compilation
from compiler.graph import Graph
from compiler.zoo.net import Net
from isa.disasm import disassemble
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import Params, resolve
from isa.program import Program
from isa.table import BY_CODE, DMA, code
from npusim.cli import main
from npusim.engine.run import run
from npusim.functional.control import Step, Walker
from npusim.functional.operand import element_bytes, pieces
from npusim.hazards import check_hazards, redundant_waits
from npusim.hazards.redundant import races
from npusim.stepper import step


def conv() -> Graph:
    """3 x 3 over 6 x 6 x 16, padded, with bias and ReLU."""
    net = Net("conv")
    x, w = net.input("x", (1, 16, 6, 6)), net.weight("w", (32, 16, 3, 3), 144)
    attrs = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
    return net.finish(net.op("y", "Relu", net.op("c", "Conv", x, w, net.weight("b", (32,), 1), **attrs)))


MODELS: dict[str, tuple[str | Graph, tuple[str, ...]]] = {
    "matmul": ("gemm:48x32x64", ("run.tile=16x16x32",)),
    "softmax": ("softmax:96x40", ()),
    "conv": (conv(), ("run.tile=3x16x16",)),
}
HARDWARE = ("ascend-310", "ascend-910b2", "cambricon-mlu")


@functools.cache
def compiled(name: str, hw: str) -> tuple[Compilation, Machine]:
    model, settings = MODELS[name]
    machine, rest = npusim.api.machine_for(hw, ("run.cores=1", *settings))
    given = [f"run.{k}={v}" for k, v in rest.items()]
    return npusim.api.compile(model, machine, settings=given), machine


@pytest.mark.parametrize("hw", HARDWARE)
@pytest.mark.parametrize("name", MODELS)
def test_values_are_right_and_every_two_accesses_are_ordered(name: str, hw: str) -> None:
    model, settings = MODELS[name]
    result = npusim.run(model, hw, check=True, settings=["run.cores=1", *settings])
    assert result.check is not None and result.check.ok and not result.check.hazards
    assert result.check.executed_share == 1.0


@pytest.mark.parametrize("hw", ["ascend-310", "ascend-910b2"])
@pytest.mark.parametrize("name", ["matmul", "softmax"])
def test_the_stepper_agrees_on_compiled_kernels(name: str, hw: str) -> None:
    compilation, machine = compiled(name, hw)
    quick = machine.model_copy(update={"launch_cycles": 10})
    ideal = quick.model_copy(update={"memory": quick.memory.model_copy(update={"model": "ideal", "l2": None})})
    params = resolve(ideal)
    mine, truth = run(compilation.built.program, params), step(compilation.built.program, params)
    assert mine.total_cycles == truth.total_cycles
    assert np.array_equal(mine.states, truth.states)


# ---- the oracle


class Oracle:
    """What must happen before what on one core, as a graph: an instruction has a start and an end, flags join them."""

    def __init__(self, params: Params, steps: list[Step]) -> None:
        self.before: list[int] = []  # by node: the nodes that must come before it, as a bit set
        self.accesses: list[tuple[int, int, dict[tuple[int, bool], set[int]]]] = []  # start, end, bytes
        serial = [pipe.pipe_class < DMA for pipe in params.pipes]
        queued: dict[int, list[int]] = defaultdict(list)  # by pipe: what its next instruction must follow
        ended: dict[int, list[int]] = defaultdict(list)
        flags: dict[int, deque[int]] = defaultdict(deque)
        for item in steps:
            name, pipe = BY_CODE[item.op].name, item.pipe
            if name == "set":
                flags[item.imm].append(self._node([*queued[pipe], *ended[pipe]]))
            elif name == "wait":
                taken = [flags[item.imm].popleft() for _ in range(item.amount) if flags[item.imm]]
                queued[pipe] = [self._node([*queued[pipe], *taken])]
            elif name == "pbar":
                queued[pipe] = [self._node([*queued[pipe], *ended[pipe]])]
            elif pipe > 0:
                start = self._node(queued[pipe])
                end = self._node([start])
                queued[pipe] = [end if serial[pipe] else start]
                ended[pipe].append(end)
                self.accesses.append((start, end, touched(item)))

    def _node(self, after: list[int]) -> int:
        bits = 0
        for node in after:
            bits |= self.before[node] | 1 << node
        self.before.append(bits)
        return len(self.before) - 1

    def races(self) -> bool:
        """Whether two accesses to the same bytes, one of them a write, are in no order."""
        for i, (start, end, mine) in enumerate(self.accesses):
            for begin, until, theirs in self.accesses[:i]:
                if self.before[start] >> until & 1 or self.before[begin] >> end & 1:
                    continue
                for (space, writes), found in mine.items():
                    for kind in (True, False) if writes else (True,):
                        if found & theirs.get((space, kind), set()):
                            return True
        return False


def touched(item: Step) -> dict[tuple[int, bool], set[int]]:
    """The bytes that an instruction reads and writes, by space."""
    found: dict[tuple[int, bool], set[int]] = defaultdict(set)
    for i, operand in enumerate(item.operands):
        if operand is None or 0 in operand.ext:
            continue
        for piece in pieces(operand):
            offsets = np.zeros(1, np.int64) + piece.base
            for extent, stride in zip(piece.ext, piece.stride):
                offsets = (offsets[:, None] + np.arange(extent) * stride).reshape(-1)
            size = element_bytes(operand)
            found[operand.space, i == 0] |= set((offsets[:, None] + np.arange(size)).reshape(-1).tolist())
    return found


def oracle_races(program: Program, machine: Machine, without: int) -> bool:
    params = resolve(machine)
    walker = Walker(program, params)
    for launch in program.launches:
        first, nargs = int(launch["args"]), int(launch["nargs"])
        args = [int(x) for x in program.args[first : first + nargs]]
        steps = [s for s in walker.steps(int(launch["kernel"]), 0, 1, args) if s.pc != without]
        if Oracle(params, steps).races():
            return True
    return False


@pytest.mark.parametrize("hw", HARDWARE)
@pytest.mark.parametrize("name", MODELS)
def test_a_deleted_wait_is_found_if_and_only_if_it_leaves_conflicting_accesses_unordered(name: str, hw: str) -> None:
    compilation, machine = compiled(name, hw)
    program = compilation.built.program
    assert check_hazards(program, machine) == [] and not oracle_races(program, machine, -1)
    waits = [pc for pc in range(len(program.instrs)) if program.instrs[pc]["op"] == code("wait")]
    needed = [pc for pc in waits if oracle_races(program, machine, pc)]
    assert [pc for pc in waits if races(program, machine, pc)] == needed
    assert redundant_waits(program, machine) == [pc for pc in waits if pc not in needed]
    assert len(needed) >= len(waits) // 4  # the others mostly take the sets of free slots back at the end


def test_redundant_waits_are_listed(tmp_path_factory: pytest.TempPathFactory) -> None:
    compilation, machine = compiled("softmax", "ascend-310")
    path = tmp_path_factory.mktemp("redundant") / "softmax.asm"
    path.write_text(disassemble(compilation.built.program), encoding="utf-8")
    shown = CliRunner().invoke(main, ["sim", str(path), "--hw", "ascend-310", "--redundant-waits"])
    assert shown.exit_code == 0
    expected = redundant_waits(compilation.built.program, machine)
    assert [int(line.split()[0]) for line in shown.output.splitlines()] == expected


def test_products_share_their_tiles_by_two_loops_where_one_leaves_cores_idle() -> None:
    compilation = npusim.compile("gemm:2048x2048x2048", "ascend-910b2")
    nest = next(iter(compilation.built.nests.values()))
    parts = [x.split for x in nest.loops if x.split]
    assert len(parts) == 2 and parts[0] * parts[1] <= 24
    launch = compilation.built.program.launches[0]
    assert int(launch["grid"]) > 20


def test_pipes_that_a_kind_of_core_lacks_are_not_accounted_for() -> None:
    result = npusim.run("gemm:256x256x64", "ascend-910b2", settings=["launch_cycles=0"])
    present = resolve(result.machine).present
    sums = result.record.states.sum(axis=(0, 3))
    assert np.array_equal(sums, present * result.record.total_cycles)
    machine = load_machine("ascend-910b2").machine
    assert machine.cores_with(["l0c"]) == range(24) and machine.cores_with(["ub"]) == range(24, 72)
    assert len(machine.cores_with(["ub", "l1"])) == 0


def test_a_convolution_fetches_its_map_once_and_writes_the_im2col_matrix_to_l0a_alone() -> None:
    """3 x 3 taps multiply what goes into L0A by nine, not what comes from memory: there is no im2col buffer."""
    result = npusim.run(conv(), "ascend-310", settings=["run.cores=1"])
    moved = {(p.src, p.dst): int(n) for p, n in zip(result.machine.core.paths, result.record.path_bytes.sum(axis=0))}
    feature_map, weights = 6 * 6 * 16 * 2, 9 * 16 * 32 * 2
    assert moved["dram", "l1"] == feature_map + weights
    assert moved["l1", "l0b"] == weights
    assert moved["l1", "l0a"] == 9 * feature_map


def test_int8_doubles_the_depth_of_the_cube() -> None:
    cycles = {
        kind: npusim.run("gemm:256x256x1024", "ascend-310", dtype=kind, settings=["memory.model=ideal", "run.cores=1"])
        .record.states[:, 0, :, 0].sum(axis=0) for kind in ("fp16", "int8")
    }  # fmt: skip
    cube = resolve(load_machine("ascend-310").machine)["matrix_pipe"]
    assert cycles["fp16"][cube] == 16 * 16 * 64 and cycles["int8"][cube] == 16 * 16 * 32


def test_a_copy_path_out_of_the_accumulators_does_not_make_its_engine_the_drain() -> None:
    """Only an engine with `activations` executes fix; on a chip with a drain unit it never does."""
    compilation, machine = compiled("matmul", "ascend-310")
    paths = [*machine.core.paths, machine.core.paths[0].model_copy(update={"src": "l0c", "dst": "ub", "pipe": "mte1"})]
    wider = machine.model_copy(update={"core": machine.core.model_copy(update={"paths": paths})})
    assert check_hazards(compilation.built.program, wider) == []
    record = run(compilation.built.program, resolve(wider))
    fixes = [e for e in record.events if compilation.built.program.instrs[e["instr"]]["op"] == code("fix")]
    assert fixes and {record.pipes[e["pipe"]].label for e in fixes} == {"FIXP"}
