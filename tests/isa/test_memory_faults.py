"""What a memory may describe and nothing simulates yet is refused, not left out in silence."""

from __future__ import annotations

import pytest

from isa.errors import ConfigError
from isa.loader import load_chip, load_machine

CROSSBAR = "memory.network={topology: crossbar, clock_mhz: 1000, flit_bytes: 32}"
L2 = (
    "memory.l2={size_bytes: 65536, ways: 4, hit_latency_cycles: 10, bytes_per_cycle: 32, slices: 2, "
    "miss_latency_cycles: 10, fill_latency_cycles: 10}"
)


def test_program_machines_take_a_shared_cache_and_with_it_a_network() -> None:
    with pytest.raises(ConfigError, match=r"memory.network: .*describe memory.l2, or leave memory.network out"):
        load_machine("tpu-v3", [CROSSBAR])
    found = load_machine("tpu-v3", [L2, CROSSBAR]).machine.memory
    assert found.l2 is not None and found.l2.slices == 2 and found.network is not None


def test_program_machines_report_the_faults_of_a_shared_cache() -> None:
    with pytest.raises(ConfigError) as caught:
        load_machine("tpu-v3", [L2, "memory.l2.partitions=3", "memory.l2.sector_bytes=48", "memory.l2.ways=7"])
    for word in ("slices: 2 do not divide among 3", "sector_bytes: 48 does not divide", "not a whole number of sets"):
        assert f"memory.l2.{word}" in str(caught.value) or word in str(caught.value)


@pytest.mark.parametrize(("changes", "words"), [
    (("memory.l2=null",), ["memory.network: ", "memory.l2", "leave memory.network out"]),
    (("memory.network.model=flit",), ["memory.network.model: ", "set memory.network.model to packet"]),
    (("memory.network.channel_nodes=[0]",), ["memory.network.channel_nodes: ", "crossbar", "leave"]),
    (("memory.network.topology=mesh",), ["memory.network.columns: ", "set memory.network.columns"]),
    (("memory.network.core_nodes=[0, 0]",), ["memory.network.core_nodes: 2 routers for 80 cores"]),
    (("memory.network.topology=ring", "memory.network.virtual_channels=1", "memory.network.stops=4",
      "memory.network.channel_nodes=[7]"), ["virtual_channels", "channel_nodes: 1 routers for 64", "channel_nodes[0]"]),
])  # fmt: skip
def test_a_chip_reports_the_faults_of_its_network(changes: tuple[str, ...], words: list[str]) -> None:
    assert load_chip("v100", [CROSSBAR]).chip.memory.network is not None
    with pytest.raises(ConfigError) as caught:
        load_chip("v100", [CROSSBAR, *changes])
    for word in words:
        assert word in str(caught.value)
