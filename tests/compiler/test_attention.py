"""Attention in one kernel of cube and vector cores: values, order, tiles; and where it is not used."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from compiler.compile import compile_graph
from compiler.graph import Graph
from compiler.kernels.attention import Attention, candidates, splits, workspace_bytes
from compiler.kernels.contraction import Operand
from isa.loader import load_machine
from isa.machine import Machine
from isa.program import Program
from isa.table import code
from npusim.functional import execute
from npusim.hazards import check_hazards
from npusim.validate.attention import attention_graph

FEW = ("cores=2", "other_cores.aiv.count=4")


@functools.cache
def chip(*settings: str) -> Machine:
    return load_machine("ascend-910b2", settings).machine


def compiled(graph: Graph, machine: Machine) -> Program:
    return compile_graph(graph, machine).built.program


def no_host(*_: object) -> list[np.ndarray]:
    raise AssertionError("no host operator expected")


def softmax_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = q.astype(np.float64) @ np.swapaxes(k.astype(np.float64), 1, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ v.astype(np.float64))


@pytest.mark.parametrize(
    ("heads", "queries", "keys", "depth"),
    [(1, 16, 16, 16), (2, 100, 200, 64), (3, 65, 700, 32), (1, 1, 300, 64), (2, 300, 129, 128), (1, 40, 1, 16)],
)
def test_one_kernel_gives_softmax_attention(heads: int, queries: int, keys: int, depth: int) -> None:
    machine = chip(*FEW)
    program = compiled(attention_graph(heads, queries, keys, depth), machine)
    assert len(program.launches) == 1 and len(program.kernels) == 1
    rng = np.random.default_rng(heads + queries)
    q, k, v = (rng.standard_normal((heads, n, depth)).astype(np.float16) for n in (queries, keys, keys))
    found = execute(program, machine, {"q": q, "k": k, "v": v}, no_host).tensors["y"]
    np.testing.assert_allclose(found, softmax_attention(q, k, v), atol=2e-3)
    assert check_hazards(program, machine) == []


def test_scores_that_grow_from_block_to_block_are_rescaled() -> None:
    """Each block of keys holds a larger score than all before: the output so far all but vanishes each time."""
    machine = chip(*FEW)
    program = compiled(attention_graph(1, 32, 640, 16), machine)
    q = np.ones((1, 32, 16), np.float16)
    k = np.repeat((np.arange(640) / 64).astype(np.float16)[None, :, None], 16, axis=2)
    v = np.random.default_rng(3).standard_normal((1, 640, 16)).astype(np.float16)
    found = execute(program, machine, {"q": q, "k": k, "v": v}, no_host).tensors["y"]
    np.testing.assert_allclose(found, softmax_attention(q, k, v), atol=3e-3)


def test_awaits_for_what_is_full_cannot_be_left_out_and_those_for_what_is_free_are_implied() -> None:
    """A slot is used again two blocks on, and until then what filled it has come back round: scores, their weights, the
    product of these with the values, which both sides wait for."""
    machine = chip(*FEW)
    program = compiled(attention_graph(1, 64, 640, 32), machine)
    inside = [pc for pc, i in enumerate(program.instrs) if i["op"] == code("await") and i["a"] >= 0]
    assert len(inside) == 6  # three workspaces, each side of them
    kinds = {pc: {f.kind for f in check_hazards(program, machine, without=frozenset([pc]))} for pc in inside}
    racing = [pc for pc, found in kinds.items() if found & {"RAW", "WAR", "WAW"}]
    assert len(racing) == 3
    assert all(kinds[pc] <= {"leftover", "ambiguous"} for pc in inside if pc not in racing)


def test_machines_without_vector_cores_beside_the_cube_keep_three_kernels() -> None:
    machine = load_machine("ascend-310").machine
    assert len(compiled(attention_graph(1, 64, 64, 32), machine).launches) >= 3


def test_tiles_fit_and_cover_every_core() -> None:
    machine, strides = chip(), dict.fromkeys("xyhnce", 1)
    operand = Operand("dram", "fp16", strides)
    spec = Attention(1, 8, 2048, 2048, 128, 128, 0.1, "fp32", operand, operand, operand, operand)
    found = list(candidates(spec, machine))
    assert found and all(t.h * (t.part + 128) * 4 <= machine.core.spaces["l0c"].size_bytes for t in found)
    assert {tuple(p for _, p in way) for way in splits(spec, 128, 24)} >= {(24,), (8, 3), (2, 12)}
    assert workspace_bytes(spec, found[0]).keys() == {"scores", "weights", "partial"}


def product_by_product(depth: int, key_rows: bool = True) -> Graph:
    """softmax(q k) v, where k is given as [heads, depth, keys] unless `key_rows`."""
    from compiler.zoo.net import Net

    net = Net("p")
    q, v = net.input("q", (3, 37, depth)), net.input("v", (3, 53, 41))
    k = net.op("t", "Transpose", net.input("k", (3, 53, depth)), perm=(0, 2, 1)) if key_rows else net.input(
        "k", (3, depth, 53))
    weights = net.op("w", "Softmax", net.op("s", "MatMul", q, k), axis=-1)
    return net.finish(net.op("y", "MatMul", weights, v))


@pytest.mark.parametrize(
    ("settings", "depth", "key_rows", "launches"),
    [((), 29, True, 1), ((), 29, False, 3), ((), 5000, True, 3), (("core.cross_flags=2",), 29, True, 3)],
)
def test_what_one_kernel_cannot_do_is_three(
    settings: tuple[str, ...], depth: int, key_rows: bool, launches: int
) -> None:
    """Keys stored by columns, heads that fit no tile, too few cross-core flags."""
    machine = chip(*FEW, *settings)
    program = compiled(product_by_product(depth, key_rows), machine)
    assert len(program.launches) == launches
    assert check_hazards(program, machine) == []
