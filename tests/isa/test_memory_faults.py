"""What a memory may describe and nothing simulates yet is refused, not left out in silence."""

from __future__ import annotations

from pathlib import Path

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


HASHED = "memory.controller.hashing=random"


@pytest.mark.parametrize(("changes", "words"), [
    (("memory.dram.data_rate=4",), ["memory.dram.data_rate: ", "every nCCD_S = 2", "set memory.dram.burst_length to 8",
                                    "or memory.dram.timing.nCCD_S to 1", "or memory.dram.tck_ps"]),
    (("memory.dram.data_rate=3",), ["for 1.33333 cycles", "set memory.dram.tck_ps"]),
    (("memory.dram.bank_groups=3", "memory.capacity_bytes=1073741824"), ["bank_groups: 3 is not a power", "to 2"]),
    (("memory.dram.bank_groups=64", "memory.dram.banks_per_group=64"), ["4096 banks; at most 1024", "use fewer"]),
    (("memory.controller.mapping=Foo",), ["memory.controller.mapping: 'Foo' is not a row", "set it to RoBaBgCo, or"]),
    (("memory.controller.mapping=RoBaBg",), ["leaves out bits of Co: set it to RoBaBgCo, or to auto"]),
    (("memory.controller.mapping=RoBaBgCo9",), ["takes 9 of 5 bits of Co: set it to"]),
    (("memory.controller.mapping=BaRoBgCo",), ["does not begin with Ro, the row: set it to"]),
    (("memory.controller.mapping=Co0",), ["leaves out bits of", "set it to"]),
    (("memory.controller.mapping=Ro" + "Ro1" * 12 + "BaBgCo",), ["has more than 12 pieces: set it to"]),
    (("memory.controller.write_low=0.9",), ["memory.controller.write_low: 0.9 is above write_high 0.8: set it to 0.8"]),
    (("memory.controller.write_when_idle=false", "memory.controller.age_limit_ns=null"), ["age_limit_ns: ", "to 2000"]),
    (("memory.dram.timing.nREFI=300",), ["not more than", "set it to"]),
    (("memory.dram.timing.nREFI=320", "memory.controller.refresh=all_bank"), ["nRFC + nRP = 322", "set it to 323"]),
    (("memory.dram.timing.nREFI=330", "memory.dram.timing.nRREFD=40"), ["nRREFD x 16 banks = 640", "all_bank"]),
    (("memory.dram.timing.nRFCpb=null", "memory.controller.refresh=per_bank"), ["per_bank needs", "refresh to auto"]),
    ((HASHED, "memory.controller.granule_bytes=384"), ["granule_bytes: 384 is not a power of two of", "set it to 256"]),
    ((L2, "memory.capacity_bytes=1000000001"), ["not a whole number of sectors of 32", "set it to 1000000000"]),
    ((L2, "memory.network={topology: ring, flit_bytes: 32, stops: 2, core_nodes: [5, 0]}"),
     ["core_nodes[0]: router 5 is not among the 2 stops (0 to 1): name one of these, or set memory.network.stops to"]),
    ((L2, "memory.network={topology: mesh, columns: 2, rows: 1, flit_bytes: 32, core_nodes: [0, 4]}"), ["rows to 3"]),
])  # fmt: skip
def test_what_was_found_at_the_start_of_a_run_has_its_place_and_a_remedy(
    changes: tuple[str, ...], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_machine("tpu-v3", changes)
    assert all(line.startswith("override ") for line in str(caught.value).splitlines())
    for word in words:
        assert word in str(caught.value)


def test_faults_of_a_file_name_its_line(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("parent: tpu-v3\nmemory:\n  controller:\n    mapping: RoBaBg\n    write_low: 0.9\n")
    with pytest.raises(ConfigError) as caught:
        load_machine(str(path))
    first, second = str(caught.value).splitlines()
    assert f"{path}:4:" in first and "leaves out bits of Co" in first and f"{path}:5:" in second


@pytest.mark.parametrize(("changes", "words"), [
    (("memory.ideal_bytes_per_cycle=100",), "does nothing: only memory.model ideal reads it: set that too"),
    (("memory.controller.granule_bytes=2048",), "does nothing: memory.controller.hashing rotate does not read it: set"),
    (("memory.controller.window_granules=8",), "does nothing: memory.controller.hashing rotate"),
    (("memory.controller={row_policy: closed, window_granules: 9}",), "memory.controller.window_granules: does"),
])  # fmt: skip
def test_a_setting_that_does_nothing_is_refused(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_machine("tpu-v3", changes)
    assert f"override {changes[-1]!r}: {changes[-1].partition('=')[0]}" in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_settings_that_do_something_together_are_taken() -> None:
    ideal = load_machine("tpu-v3", ["memory.ideal_bytes_per_cycle=100", "memory.model=ideal"]).machine.memory
    assert ideal.ideal_bytes_per_cycle == 100
    assert load_machine("tpu-v3", ["memory.ideal_bytes_per_cycle=null"]).machine.memory.ideal_bytes_per_cycle is None
    assert load_chip("v100", ["memory.controller.hashing=rotate"]).chip.memory.controller.granule_bytes == 1024  # file
    assert load_machine("tpu-v3", [HASHED, "memory.controller.granule_bytes=512"])
    for switch in ("memory.model=ideal", "memory.model=cycle"):  # that is stated, over settings that are always there
        assert load_machine("tpu-v3", [switch, "memory.controller.trains=false", "memory.ideal_bytes_per_cycle=100"])


def test_a_setting_that_a_file_switches_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("parent: tpu-v3\nmemory:\n  controller:\n    refresh: none\n    refresh_postpone: 1\n")
    assert load_machine(str(path)).machine.memory.controller.refresh_postpone == 1
    with pytest.raises(ConfigError, match=r"refresh_blocks: does nothing: memory.controller.refresh none does not"):
        load_machine(str(path), ["memory.controller.refresh_blocks=true"])


def test_a_channel_holds_at_least_a_burst() -> None:
    """64 channels of bursts of 32 bytes: below, the fault is the capacity's, whatever the interleaving."""
    with pytest.raises(ConfigError, match=r"capacity_bytes: 2047 gives each of 64 channels 31 bytes.*set it to 2048"):
        load_machine("tpu-v3", ["memory.capacity_bytes=2047"])
    with pytest.raises(ConfigError, match=r"interleave_bytes: 256 is more than .*, 32: .*set it to 32 or so"):
        load_machine("tpu-v3", ["memory.capacity_bytes=2048"])
