"""Chips of which only the memory is described: they load, say what they are for, and state every source."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil

import pytest

from isa.chip import MemoryChip
from isa.errors import ConfigError
from isa.loader import list_chips, list_machines, load_chip, load_machine, load_simt
from isa.schema import machine_schema

PRESETS = sorted({name for name, _ in list_chips()} - {name for name, _ in list_machines()})
SHIPPED = [
    "a100", "a100-40", "a100-80-pcie", "gpu-tiny", "h100", "h100-pcie", "h800-pcie", "mi210", "v100", "v100-pcie",
]  # fmt: skip
USER = """\
name: mine
issue: simt
default_dtype: fp16
clock_mhz: 1000
cores: 2
core:
  warps: {size: 32, resident: 8, blocks: 4, block_cycles: 10}
  load_store: {bytes_per_cycle: 128, port_bytes_per_cycle: 64}
  l1: {size_bytes: 16384, ways: 4, hit_latency_cycles: 20, bytes_per_cycle: 128}
memory:
  dram: hbm2-2000
  channels: 2
  capacity_bytes: 1e6
  l2: {size_bytes: 65536, ways: 16, hit_latency_cycles: 20, bytes_per_cycle: 64, slices: 2}
"""


def chip(name: str, *overrides: str) -> MemoryChip:
    found = load_chip(name, overrides).chip
    assert isinstance(found, MemoryChip)
    return found


@pytest.fixture
def write(tmp_path):
    def put(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return put


def refused(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_chip(path, overrides)
    return str(error.value)


def test_the_presets_are_listed_as_chips_and_not_as_machines() -> None:
    assert PRESETS == SHIPPED
    for name, description in list_chips():
        assert description and "\n" not in description and load_chip(name).chip.name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_has_its_source(name: str) -> None:
    loaded = load_chip(name)
    for key, given in loaded.provenance.items():
        assert given.source and given.confidence in ("specified", "measured", "inferred"), key
    assert {"cores", "memory.l2.slices", "memory.dram.timing.nRP"} <= set(loaded.provenance)


def test_a_program_cannot_run_on_them_and_the_message_says_what_can() -> None:
    with pytest.raises(ConfigError, match=r"^mi210: only the memory of this chip is modelled so far; .*--kind .*strea"):
        load_machine("mi210")
    with pytest.raises(ConfigError) as error:
        load_machine("mi210", ["clock_mhz=1000"])
    assert "\n" not in str(error.value) and "npusim chips show mi210" in str(error.value)
    with pytest.raises(ConfigError, match=r"^a100: no compiler .*; this chip runs hand-written ones: `npusim kernel "):
        load_machine("a100")
    with pytest.raises(ConfigError, match=r"^tpu-v3: its cores run no threads; chips that do: .*a100"):
        load_simt("tpu-v3")


@pytest.mark.parametrize(
    ("name", "giga_bytes", "cores", "l2_mib", "gib"),
    [
        ("v100", 898, 80, 6, 32), ("v100-pcie", 898, 80, 6, 32), ("a100", 2039, 108, 40, 80),
        ("a100-40", 1555, 108, 40, 40), ("a100-80-pcie", 1935, 108, 40, 80), ("h100", 3352, 132, 50, 80),
        ("h100-pcie", 2039, 114, 50, 80), ("h800-pcie", 2039, 114, 50, 80), ("mi210", 1638, 104, 8, 64),
    ],
)  # fmt: skip
def test_published_sizes_and_bandwidths(name: str, giga_bytes: float, cores: int, l2_mib: int, gib: int) -> None:
    found = chip(name)
    assert found.dram_bytes_per_second / 1e9 == pytest.approx(giga_bytes, rel=2e-3)
    assert found.cores == cores and found.memory.capacity_bytes == gib << 30
    assert found.memory.l2 is not None and found.memory.l2.slices * found.memory.l2.size_bytes == l2_mib << 20


def test_a_part_replaces_the_part_of_a_parent_whole() -> None:
    """H100 PCIe has HBM2e: stack ids and half-cycle commands of its parent's HBM3 must be gone."""
    card, alone = chip("h100-pcie").memory.dram, chip("a100").memory.dram
    assert card == alone and chip("h100").memory.dram.half_cycle_commands
    assert chip("h100", "memory.dram=hbm2e-3186").memory.dram == alone
    changed = chip("h100", "memory.dram.timing.nCL=99").memory.dram
    assert changed.timing.nCL == 99 and changed.stack_ids == 2


def test_what_the_measured_plateaus_ask_for_is_what_the_parts_add_up_to() -> None:
    """L1, ways and slice make the near hit of gpu-benches gpu-latency."""
    for name, near_hit in (("v100-pcie", 215), ("a100-80-pcie", 211), ("h100-pcie", 265), ("mi210", 240)):
        found = chip(name)
        memory, l1 = found.memory, found.core.l1
        assert memory.l2 is not None and l1 is not None
        ways = memory.request_latency_cycles + memory.response_latency_cycles
        slice_cycles = memory.l2.hit_latency_cycles * found.clock_mhz / (memory.l2.clock_mhz or found.clock_mhz)
        assert l1.hit_latency_cycles + ways + slice_cycles == pytest.approx(near_hit, abs=1)


# ---- files of users


def test_a_file_of_a_user_loads_and_takes_overrides(write) -> None:
    assert chip(write(USER)).core.warps.schedulers == 4
    assert chip(write(USER), "core.l1.ways=8").core.l1.ways == 8
    with pytest.raises(ConfigError, match="only the memory"):
        load_machine(write(USER))


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("ways: 4", "ways: 5", "core.l1.size_bytes: 16384 is not a whole number of sets of 5 ways"),
        ("slices: 2", "slices: 3, partitions: 2", "memory.l2.slices: 3 do not divide among 2 partitions"),
        ("  l1: {", "  l2: {", "unknown key, did you mean 'l1'?"),
        ("fp16", "fp17", "default_dtype: unknown name 'fp17'"),
        ("  warps: {size: 32, resident: 8, blocks: 4, block_cycles: 10}\n", "", "neither warps nor copiers"),
        ("blocks: 4", "blocks: 9", "9 is more than the 8 resident warps"),
    ],
)  # fmt: skip
def test_faults_name_key_value_and_limit(write, old: str, new: str, wanted: str) -> None:
    assert USER.count(old) == 1 and wanted in refused(write(USER.replace(old, new)))


def test_an_unknown_override_is_measured_against_a_memory_chip(write) -> None:
    assert "core.wraps: unknown key, did you mean 'warps'?" in refused(write(USER), "core.wraps=1")
    assert "core.matrix" in refused(write(USER), "core.matrix.rows=1")


def test_the_schema_knows_both_kinds_of_chip() -> None:
    schema = json.loads(json.dumps(machine_schema(MemoryChip)))
    assert schema["additionalProperties"] is False and {"parent", "other_cores"} <= set(schema["properties"])
    assert "MatrixUnit" not in schema["$defs"] and "MatrixUnit" in machine_schema()["$defs"]


# ---- DRAM parts


def timing(name: str) -> tuple[dict[str, int | None], Fraction]:
    part = load_machine("tiny", [f"memory.dram={name}", "memory.capacity_bytes=1e6"]).machine.memory.dram
    return part.timing.model_dump(), Fraction(str(part.tck_ps)) / 1000


@pytest.mark.parametrize(
    ("name", "base", "refresh"),
    [
        ("hbm2-1754", "hbm2-2000", (350, 160, 8)), ("hbm2-2430", "hbm2-2000", (350, 160, 8)),
        ("hbm2e-3024", "hbm2-2000", (350, 160, 8)), ("hbm2e-3186", "hbm2-2000", (350, 160, 8)),
        ("hbm3-5238", "hbm3-6400", (350, 200, 8)), ("hbm3e-7992", "hbm3-6400", (350, 200, 8)),
    ],
)  # fmt: skip
def test_derived_timings_follow_the_rule_of_their_file(name: str, base: str, refresh: tuple[int, int, int]) -> None:
    """ceil(ns / tCK) of the base part's figures in ns; column spacings in cycles; nRC at least nRAS + nRP."""
    given, tck_ns = timing(name)
    origin, base_ns = timing(base)
    kept = {"nCCD_S", "nCCD_L", "nCCD_R", "nPPD", "nRC", "nRFC", "nRFCpb", "nRREFD", "nREFI", "nAAD", "nWCKPST"}
    for field, cycles in origin.items():
        if cycles is not None and field not in kept:
            assert given[field] == ceil(cycles * base_ns / tck_ns), field
    assert [given["nRFC"], given["nRFCpb"], given["nRREFD"]] == [ceil(ns / tck_ns) for ns in refresh]
    assert given["nRC"] == max(given["nRAS"] + given["nRP"], ceil(origin["nRC"] * base_ns / tck_ns))
    assert (given["nCCD_S"], given["nCCD_L"]) == (2, 4)
