"""Shipped presets: each loads, states the source of every figure, and has the peaks that its maker published."""

from importlib import resources
from math import ceil

import pytest

from isa.loader import list_machines, load_machine
from isa.memory import DramPart
from isa.params import resolve

NAMES = [name for name, _ in list_machines()]
DRAM_FOLDER = resources.files("configs").joinpath("parts", "dram")
PARTS = sorted(f.name.removesuffix(".yaml") for f in DRAM_FOLDER.iterdir() if f.name.endswith(".yaml"))
SHIPPED = ["gemmini-16x16", "tiny", "tpu-v1", "tpu-v3", "tpu-v3-core", "tpu-v4", "tpu-v5e"]


def load(name):
    return load_machine(name).machine


def figures(value, key=""):
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in pairs:
        yield from figures(child, f"{key}.{name}" if key else str(name))


def test_the_list_names_every_file_with_one_line():
    assert set(SHIPPED) <= set(NAMES) and sorted(NAMES) == NAMES
    for name, description in list_machines():
        assert description and "\n" not in description
        assert load(name).name == name and load(name).description == description


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_its_source(name):
    loaded = load_machine(name)
    wanted = dict(figures(loaded.machine.model_dump()))
    assert set(wanted) == set(loaded.provenance)
    for key, given in loaded.provenance.items():
        assert given.value == wanted[key], key
        assert given.source and given.confidence in ("specified", "measured", "inferred"), key
        assert given.file.startswith(("configs/", "isa/machine.py")), key


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_resolves_to_integers(name):
    params = resolve(load(name))
    assert params["rows"] == load(name).core.matrix.rows and params["core_khz"] > 0


@pytest.mark.parametrize(
    "name, dtype, tera_ops",
    [
        ("tpu-v1", "int8", 91.75), ("tpu-v3", "bf16", 123.2), ("tpu-v4", "bf16", 275.3), ("tpu-v4", "int8", 275.3),
        ("tpu-v5e", "bf16", 196.6), ("tpu-v5e", "int8", 393.2), ("gemmini-16x16", "int8", 0.512),
    ],
)  # fmt: skip
def test_published_peaks(name, dtype, tera_ops):
    machine = load(name)
    assert 2 * machine.macs_per_cycle(dtype) * machine.clock_mhz / 1e6 == pytest.approx(tera_ops, rel=1e-3)


@pytest.mark.parametrize(
    "name, giga_bytes", [("tpu-v1", 34), ("tpu-v3", 900), ("tpu-v4", 1200), ("tpu-v5e", 819), ("gemmini-16x16", 19.2)]
)
def test_published_dram_bandwidth(name, giga_bytes):
    assert load(name).dram_bytes_per_second / 1e9 == pytest.approx(giga_bytes, rel=0.01)


@pytest.mark.parametrize("name, gib", [("tpu-v1", 8), ("tpu-v3", 32), ("tpu-v4", 32), ("tpu-v5e", 16)])
def test_published_capacity(name, gib):
    assert load(name).memory.capacity_bytes == gib << 30


def test_ridge_point_of_tpu_v1():
    """65536 MAC x 700 MHz / 34 GB/s: 1349 MAC a weight byte, the figure behind the 4096 accumulators (ISCA 2017)."""
    machine = load("tpu-v1")
    ridge = machine.macs_per_cycle("int8") * machine.clock_mhz * 1e6 / machine.dram_bytes_per_second
    assert ridge == pytest.approx(65536 * 700e6 / 34e9, rel=0.01)
    assert ridge == pytest.approx(1349, rel=0.01)
    assert machine.core.spaces["acc"].size_bytes == 4096 * 256 * 4


def test_a_tensor_core_is_half_of_a_tpu_v3():
    half, whole = load("tpu-v3-core"), load("tpu-v3")
    assert half.core == whole.core
    assert 2 * half.macs_per_cycle("bf16") == whole.macs_per_cycle("bf16")
    assert 2 * half.dram_bytes_per_second == whole.dram_bytes_per_second


def test_fp32_runs_as_six_bf16_passes_on_a_tpu():
    machine = load("tpu-v3")
    assert machine.macs_per_cycle("bf16") == 6 * machine.macs_per_cycle("fp32")


@pytest.mark.parametrize("name", ["tpu-v3", "tpu-v4", "tpu-v5e"])
def test_dram_and_not_the_port_limits_a_tpu(name):
    machine = load(name)
    hbm_bytes_per_cycle = machine.dram_bytes_per_second / (machine.clock_mhz * 1e6) / machine.cores
    for src, dst in (("dram", "spm"), ("spm", "dram")):
        assert machine.path(src, dst).bytes_per_cycle >= hbm_bytes_per_cycle


@pytest.mark.parametrize("name", NAMES)
def test_requests_in_flight_cover_the_latency(name):
    """Little's law: outstanding x request >= bandwidth x unloaded latency, or the chip cannot reach its own DRAM."""
    machine = load(name)
    memory, timing = machine.memory, machine.memory.dram.timing
    dram_cycles = (timing.nRCDRD + timing.nCL) * memory.dram.tck_ps * machine.clock_mhz / 1e6
    latency_cycles = memory.request_latency_cycles + dram_cycles + memory.response_latency_cycles
    for path in machine.core.paths:
        if path.src == "dram" and path.pipe != "weights":
            engine = machine.core.dma[path.pipe]
            share = machine.dram_bytes_per_second / (machine.clock_mhz * 1e6) / machine.cores
            assert engine.outstanding * engine.request_bytes >= min(share, path.bytes_per_cycle) * latency_cycles


def test_tpu_v1_keeps_weights_in_dram_and_activations_in_the_unified_buffer():
    machine = load("tpu-v1")
    assert (machine.issue, machine.activation_space) == ("inorder", "spm")
    assert machine.path("dram", "wfifo").pipe == "weights"
    assert machine.path("host", "spm").pipe == "host_in" and machine.path("spm", "host").pipe == "host_out"
    assert machine.path("dram", "spm") is None and machine.path("spm", "dram") is None
    assert {"Softmax", "LayerNormalization", "Gelu", "Erf"} <= set(machine.host.ops)
    assert "exp" not in machine.core.vector.operations and "rmax" in machine.core.vector.operations


@pytest.mark.parametrize("name", PARTS)
def test_every_part_loads_and_is_sane(name):
    part = load_machine("tiny", [f"memory.dram={name}", "memory.capacity_bytes=1e6"]).machine.memory.dram
    assert isinstance(part, DramPart)
    refresh_ns = part.timing.nREFI * part.tck_ps / 1000
    assert any(given - 10 <= refresh_ns <= given + 10 for given in (1900, 3900, 7800))
    assert part.timing.nFAW >= part.timing.nRRD_S and part.timing.nCCD_L >= part.timing.nCCD_S
    assert part.burst_length / part.data_rate <= part.timing.nCCD_S  # bursts do not overlap on the bus


@pytest.mark.parametrize("name", ["hbm2-1760", "hbm2-2340", "hbm2e-3200"])
def test_derived_hbm_timing_follows_its_rule(name):
    """ceil(ns / tCK) of the HBM2_2000 figures, the rule that the files state."""
    base = load_machine("tiny", ["memory.dram=hbm2-2000", "memory.capacity_bytes=1e6"]).machine.memory.dram
    part = load_machine("tiny", [f"memory.dram={name}", "memory.capacity_bytes=1e6"]).machine.memory.dram
    for field in ("nCL", "nCWL", "nRCDRD", "nRCDWR", "nRP", "nRAS", "nWR", "nRTP", "nFAW", "nWTR_S", "nWTR_L", "nRFC"):
        wanted = ceil(getattr(base.timing, field) * base.tck_ps / part.tck_ps)
        assert getattr(part.timing, field) == wanted, field
    assert part.timing.nRC == max(part.timing.nRAS + part.timing.nRP, ceil(48 * 1000 / part.tck_ps))
