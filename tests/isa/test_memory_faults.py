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


def test_networks_and_caches_that_nothing_simulates_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory.network: .*leave it out"):
        load_machine("tpu-v3", [CROSSBAR])
    with pytest.raises(ConfigError, match=r"memory.network: .*leave it out"):
        load_chip("v100", [CROSSBAR])
    with pytest.raises(ConfigError, match=r"memory.l2: .*leave it out"):
        load_machine("tpu-v3", [L2])
    assert load_chip("v100").chip.memory.l2 is not None
