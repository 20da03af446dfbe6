"""The compiler's back half: tile search, slots, bundles, and the passes that a machine asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import npusim.api as api
from compiler.bundle import pack
from compiler.codegen import pipeline_slots
from compiler.compile import compile_graph, slow_lanes
from compiler.frontend import load_model
from compiler.kernels.contraction import Contraction, Operand, build
from compiler.ops import run_graph
from compiler.passes import dtype as dtype_pass
from compiler.passes import narrow, softmax_axis
from compiler.passes.pipeline import Options, optimised
from compiler.text import parse_graph
from compiler.tiling import LOAD_SLOTS, candidates, estimate, search
from isa.errors import CapacityError
from isa.loader import load_machine
from isa.machine import Machine
from isa.table import STOP, code
from npusim.inputs import generate


def gemm(m: int, n: int, k: int, dtype: str = "bf16") -> Contraction:
    return Contraction(
        1, 1, m, 1, n, k, 1, 1, m, 1, (1, 1), (0, 0), (1, 1), Operand("dram", dtype, {"h": k, "c": 1}),
        Operand("dram", dtype, {"c": n, "n": 1}), Operand("dram", dtype, {"h": n, "n": 1}), dtype, "fp32",
    )  # fmt: skip


def budget(machine: Machine) -> dict[str, int]:
    return {name: space.size_bytes for name, space in machine.core.spaces.items()}


@pytest.mark.parametrize("size", [(1, 1, 1), (100, 70, 300), (2048, 2048, 2048), (1, 1000, 2048)])
def test_the_tiling_fits_and_is_the_cheapest_that_does(size: tuple[int, int, int]) -> None:
    machine = load_machine("tpu-v3").machine
    spec, room = gemm(*size), budget(machine)
    chosen = search(spec, machine, room)
    cost = estimate(spec, chosen, machine, LOAD_SLOTS[0])
    assert cost.spm_bytes + cost.acc_bytes <= room["spm"]
    for other in candidates(spec, machine):
        rival = estimate(spec, other, machine, LOAD_SLOTS[0])
        assert rival.cycles >= cost.cycles or rival.spm_bytes + rival.acc_bytes > room["spm"]


def test_a_tiling_that_cannot_fit_says_what_would() -> None:
    machine = load_machine("tiny").machine
    wide = replace(gemm(4, 8, 8, "fp32"), w=60000, in_w=60000)
    with pytest.raises(CapacityError, match=r"smallest tiling needs \d+ bytes.*enlarge core.spaces"):
        search(wide, machine, budget(machine))


def test_less_scratchpad_never_means_less_traffic() -> None:
    machine = load_machine("tpu-v3", ["memory.model=ideal"]).machine
    spec, traffic = gemm(2048, 2048, 2048), []
    for share in (1, 4, 16, 64):
        room = {**budget(machine), "spm": budget(machine)["spm"] // share}
        traffic.append(estimate(spec, search(spec, machine, room), machine).dram_bytes)
    assert traffic == sorted(traffic) and traffic[-1] > traffic[0]


def test_slots_are_the_distance_of_stages_plus_one() -> None:
    machine = load_machine("tpu-v3").machine
    spec = gemm(2048, 2048, 2048)
    nest = build(spec, search(spec, machine, budget(machine)), machine, "k")
    slots, ahead = pipeline_slots(nest), pipeline_slots(nest, ahead=True)
    assert slots["A"] == 2 and ahead["A"] == 3  # load -> compute, and one more to lead
    assert slots["O"] == ahead["O"] == 2  # drain -> store


def test_bundles_hold_independent_instructions_within_their_slots() -> None:
    compilation = api.compile("gemm:300x300x300", "tpu-v3")
    program, machine = compilation.built.program, load_machine("tpu-v3").machine
    stops = int(np.count_nonzero(program.instrs["flags"] & STOP))
    assert stops < len(program.instrs)  # something shares a bundle
    slots = machine.core.bundle
    assert slots is not None
    sizes = np.diff(np.flatnonzero(program.instrs["flags"] & STOP), prepend=-1)
    assert sizes.max() <= sum(slots.values())
    again = pack([r.copy() for r in program.instrs], machine, 0, program.descs)
    assert np.array_equal(np.array(again)["flags"], program.instrs["flags"])  # packing twice changes nothing
    waits = np.flatnonzero(program.instrs["op"] == code("wait"))
    assert all(program.instrs["flags"][i] & STOP and program.instrs["flags"][i - 1] & STOP for i in waits)


def test_queues_of_one_still_issue() -> None:
    for key in ("core.vector.queue_depth", "core.matrix.queue_depth"):
        assert api.run("mlp", "tpu-v3", settings=[f"{key}=1"]).record.total_cycles > 0


def test_narrowing_halves_what_only_arrays_read_and_changes_no_value() -> None:
    graph = dtype_pass.run(optimised(load_model("bert-block:16,64,4"), Options(slow_lanes=True)), "fp32")
    small = narrow.run(graph, {"fp32": "bf16"})
    changed = {n for n in graph.tensors if graph.tensors[n] != small.tensors[n]}
    readers = graph.consumers()
    assert "layer.attention.softmax" in changed
    assert not changed & {*graph.inputs, *graph.outputs, *graph.constants}
    assert all(r.op in ("MatMul", "Conv", *narrow.MOVES) for n in changed for r in readers[n])
    assert narrow.run(graph, {}).tensors == graph.tensors
    plain = api.run("bert-block:16,64,4", "tpu-v3", dtype="fp32", settings=["run.matrix_dtype=bf16"], check=True)
    assert plain.check is not None and plain.check.ok


def test_softmax_between_products_leaves_the_lanes() -> None:
    before = optimised(load_model("attention:2x24x16"))
    after = softmax_axis.run(before)
    axes = [n.attrs["axis"] for n in after.nodes if n.op == "Softmax"]
    assert axes == [-2] and [n.attrs["axis"] for n in before.nodes if n.op == "Softmax"] == [-1]
    feeds = generate(before, 1)
    for name, value in run_graph(before, feeds).items():
        assert np.allclose(run_graph(after, feeds)[name], value, rtol=1e-5, atol=1e-6)
    alone = optimised(load_model("softmax:8x16"))
    assert softmax_axis.run(alone) is alone
    slower = load_machine("tpu-v3", ["core.cross_lane.reduce_elements_per_cycle=41"]).machine
    assert slow_lanes(slower) and not slow_lanes(load_machine("tpu-v3").machine)


def test_weight_streams_of_a_product_with_one_row_run_near_the_bandwidth() -> None:
    result = api.run("gemm:1x4096x4096", "tpu-v1")
    seconds = result.record.total_cycles / (result.machine.clock_mhz * 1e6)
    assert result.record.dram_bytes[:, 0].sum() / seconds > 0.85 * result.machine.dram_bytes_per_second


@pytest.mark.parametrize("hw", ["tpu-v3", "gemmini-16x16"])
def test_of_a_table_only_the_picked_rows_are_least_bytes(hw: str) -> None:
    """Four rows of 64 of an embedding of 10,000: neither the roofline nor the host link carries the others."""
    graph = parse_graph("""graph "g"
input %i : int64[4]
const %t : fp32[10000,64]
%y : fp32[4,64] = Gather(%t, %i) {"axis": 0}
output %y""")
    program = compile_graph(graph, load_machine(hw).machine).built.program
    (operator,) = [o for o in program.operators if "Gather" in o.op_type]
    assert 4 * 64 * 2 <= operator.min_bytes <= 4 * 64 * 8 + 4 * 8
    assert all(int(launch["link_bytes"]) <= operator.min_bytes for launch in program.launches)
