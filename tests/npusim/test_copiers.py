"""The copy engines of the request generator against figures that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from generator_fixture import BACK, WAY, chip

from isa.chip import Copier, MemoryChip, memory_chip
from isa.loader import load_chip, load_machine
from npusim.memory.generator.backend import make_backend
from npusim.memory.generator.layout import K_COPIED, K_READS, K_WRITES
from npusim.memory.generator.run import Run
from npusim.memory.generator.setup import Copy, engines_of, make_copiers

pytestmark = pytest.mark.kernels
ENGINE = Copier(request_bytes=256, outstanding=4, startup_cycles=5, bytes_per_cycle=32.0, direction="read")


def copied(engine: Copier, cycles: int, *changes: str, count: int = 1, window: int = 0) -> np.ndarray:
    machine = chip(*changes)
    copies = [Copy(e % machine.cores, engine, e << 20, 1 << 16) for e in range(count)]
    state, l1 = make_copiers(machine, copies, send_cycles=WAY, return_cycles=BACK)
    return Run(state, l1, make_backend(machine), window_cycles=window).advance(cycles)


@pytest.mark.parametrize(("rate", "outstanding"), [(32.0, 64), (51.2, 64), (256.0, 2), (256.0, 3)])
def test_a_copy_engine_is_bound_by_its_rate_or_by_its_requests_in_flight(rate: float, outstanding: int) -> None:
    engine = ENGINE.model_copy(update={"bytes_per_cycle": rate, "outstanding": outstanding})
    latency = WAY + 1 + BACK
    found = copied(engine, 1000)[K_COPIED] / (1000 - 5 - latency)
    wanted = min(rate, outstanding * 256 / latency)
    assert found == pytest.approx(wanted, rel=0.05)


def test_copies_move_all_their_bytes_once_and_in_their_direction() -> None:
    writer = ENGINE.model_copy(update={"direction": "write", "request_bytes": 384})
    for engine in (ENGINE, writer):
        counters = copied(engine, 30_000, count=3)
        moved = (counters[K_READS], counters[K_WRITES])
        assert moved == ((3 << 16, 0) if engine is ENGINE else (0, 3 << 16)) and counters[K_COPIED] == 3 << 16


def test_copies_are_the_same_in_windows_of_one_cycle() -> None:
    assert copied(ENGINE, 2000, count=2, window=1).tolist() == copied(ENGINE, 2000, count=2).tolist()


@pytest.mark.parametrize("network", ["crossbar", "mesh, columns: 2, channel_nodes: [0, 1, 2, 3, 0, 1, 2, 3]"])
def test_copies_over_a_network_are_the_same_in_windows_of_one_cycle_and_for_a_group_cost_one_reading(
    network: str,
) -> None:
    machine = load_chip("v100", (
        "cores=4", "memory.channels=8", "memory.capacity_bytes=1073741824", "memory.l2.slices=8",
        f"memory.network={{topology: {network}, flit_bytes: 40}}",
    )).chip  # fmt: skip
    assert isinstance(machine, MemoryChip)
    found = {}
    for name, cores, window in (("each", range(4), 0), ("cut", range(4), 1), ("group", (4,), 0)):
        backend = make_backend(machine, [range(4)])
        ways = {"send_cycles": backend.send_cycles, "return_cycles": backend.return_cycles}
        run = Run(*make_copiers(machine, [Copy(c, ENGINE, 0, 1 << 14) for c in cores], **ways), backend,
                  window_cycles=window)  # fmt: skip
        counters = run.advance(20_000)
        assert counters[K_COPIED] == len(cores) << 14
        found[name] = (counters.tolist(), run.summary())
    assert found["each"] == found["cut"]
    answers = {name: [link for link in found[name][1]["memory"]["network"]["links"] if "> core" in link["link"]]
               for name in found}  # fmt: skip
    assert answers["group"] and len(answers["group"]) == len(answers["each"]) == 4
    assert {link["bytes"] for link in answers["group"]} == {(1 << 14) // 128 * 160}
    reads = [found[name][1]["memory"]["bytes"] for name in ("each", "group")]
    assert reads == [4 << 14, 1 << 14]


def test_every_engine_of_every_kind_of_core_is_found() -> None:
    machine = memory_chip(load_machine("ascend-910b1").machine)
    for direction in ("read", "write"):
        found = list(engines_of(machine, direction))
        assert [core for core, _ in found] == list(range(24 + 48))
        assert {engine.direction for _, engine in found} == {direction}
