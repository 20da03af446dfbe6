"""A shared cache and a network between the cores of program machines and their DRAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from isa.errors import ConfigError
from isa.loader import load_machine
from npusim import run
from npusim.record import Result
from npusim.report.profile import Profile
from npusim.report.roofs import roofline

SHARED = (
    "memory.l2.size_bytes=65536", "memory.l2.slices=4", "memory.l2.ways=8", "memory.l2.hit_latency_cycles=20",
    "memory.l2.bytes_per_cycle=32",
)  # fmt: skip
TILE = "run.tile=16x16x16"  # small tiles fetch both operands several times
MODEL = "gemm:128x128x128"
OPERAND = 128 * 128 * 4


def shared(*more: str, hw: str = "tiny", model: str = MODEL, **options: Any) -> Result:
    return run(model, hw, settings=[*SHARED, *more], **options)


def cache_of(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = result.summary["memory"]["l2"]
    return found


def path_bytes(result: Result) -> int:
    paths = result.machine.core.paths
    return sum(
        int(n) for path, n in zip(paths, result.record.path_bytes.sum(axis=0)) if "dram" in (path.src, path.dst)
    )


def test_dram_sees_each_byte_once_where_all_fits() -> None:
    """256 KiB hold both operands and the result; without the cache the same copies go to DRAM."""
    result, plain = shared(TILE), run(MODEL, "tiny", settings=[TILE])
    cache, asked = cache_of(result), path_bytes(result)
    assert asked == path_bytes(plain) == int(plain.record.dram_bytes.sum()) > 4 * OPERAND
    assert int(result.record.dram_bytes[:, 0].sum()) == cache["dram_read_bytes"] == 2 * OPERAND
    assert cache["read_bytes"] + cache["write_bytes"] == asked
    assert cache["dirty_bytes"] + cache["dram_written_bytes"] == OPERAND
    assert cache["dram_written_bytes"] == int(result.record.dram_bytes[:, 1].sum()) == 0


def test_reports_have_a_level_of_the_cache() -> None:
    """Its bytes are those of the paths through it, its roof is the rate of its slices."""
    result = shared(TILE)
    (row,) = result.operators
    assert row.level_bytes["l2"] == path_bytes(result) > row.dram_bytes
    roofs = {roof.label: roof.value for roof in roofline(Profile(result)).memory}
    assert roofs["L2"] == 4 * 32 * 1e9


def test_size_decides_traffic() -> None:
    """The smaller the cache, the more bytes come from DRAM: from each once to each as often as it is asked for."""
    sizes = [65536, 16384, 4096, 1024]
    read = [cache_of(shared(TILE, f"memory.l2.size_bytes={size}"))["dram_read_bytes"] for size in sizes]
    assert read[0] == 2 * OPERAND
    assert read == sorted(read) and read[-1] > 3 * read[0]


def test_contents_at_the_start() -> None:
    cold, weights, warm = (shared(TILE, caches=name) for name in ("cold", "weights", "warm"))
    assert shared(TILE).record.total_cycles == cold.record.total_cycles
    assert [cache_of(r)["dram_read_bytes"] for r in (cold, weights, warm)] == [2 * OPERAND, OPERAND, 0]
    assert cache_of(warm)["hit_rate"] == 1.0
    cycles = [r.record.total_cycles for r in (cold, weights, warm)]
    assert cycles == sorted(cycles, reverse=True) and cycles[0] > cycles[-1]
    assert any("--resident-weights" in line for line in weights.assumptions)
    assert any("--cold-caches" in line for line in shared(TILE).assumptions)


def test_what_is_warm_is_bounded_by_the_cache() -> None:
    """A cache of 4 KiB keeps next to nothing of 64 KiB of weights."""
    result = shared(TILE, "memory.l2.size_bytes=1024", caches="weights")
    cold = shared(TILE, "memory.l2.size_bytes=1024")
    assert 0 <= cache_of(cold)["dram_read_bytes"] - cache_of(result)["dram_read_bytes"] <= 4096


@pytest.mark.parametrize(
    ("hw", "caches", "fidelity", "words"),
    [
        ("tiny", "warm", "cycle", "--warm-caches: tiny has no shared cache"),
        ("tiny", "lukewarm", "cycle", "'lukewarm'; there are cold, warm, weights"),
    ],
)
def test_refused(hw: str, caches: str, fidelity: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(MODEL, hw, caches=caches, fidelity=fidelity)


@pytest.mark.parametrize("hw", ["tiny", "gemmini-16x16", "tpu-v3"])
@pytest.mark.parametrize("model", ["add:512x512", "gemm:16x512x512", "gemm:128x256x512"])
@pytest.mark.parametrize("size", [4096, 1 << 20])
def test_no_run_is_faster_than_its_roofline(hw: str, model: str, size: int) -> None:
    """The cache's own rate, and the DRAM's for what is read first and for what the cache cannot hold."""
    more = f"memory.l2.size_bytes={size}"
    roofline, analytic = (shared(more, hw=hw, model=model, fidelity=f) for f in ("roofline", "analytic"))
    assert roofline.record.total_cycles <= analytic.record.total_cycles
    result = shared(more, hw=hw, model=model)
    assert roofline.record.total_cycles <= result.record.total_cycles
    read, written = (int(n) for n in result.record.dram_bytes.sum(axis=0))
    least = [int(n) for n in roofline.record.dram_bytes.sum(axis=0)]
    assert least[0] <= read and least[1] <= written + cache_of(result)["dirty_bytes"]


def test_a_narrow_network_bounds_the_closed_forms() -> None:
    narrow, model = ("memory.network.topology=crossbar", "memory.network.flit_bytes=1"), "add:128x128"
    found = [shared(*narrow, model=model, fidelity=f).record for f in ("roofline", "analytic", "cycle")]
    cycles = [record.total_cycles for record in found]
    assert 2 * OPERAND <= cycles[0] <= cycles[1] and cycles[0] <= cycles[2]
    assert cycles[0] > shared(model=model, fidelity="roofline").record.total_cycles


def test_what_is_written_through_gets_to_the_dram() -> None:
    """The channels have carried at the end what the cache has sent them."""
    result = shared(TILE, "memory.l2.write=through")
    memory = result.summary["memory"]
    asked = cache_of(result)["write_bytes"]
    assert sum(memory["channels"]["write_bytes"]) == memory["l2"]["dram_written_bytes"] == asked


def test_many_banks_end() -> None:
    assert shared("memory.l2.banks=1024").record.total_cycles > 0


def test_bandwidth_over_time_is_below_peak() -> None:
    record = run("gemm:64x1024x1024", "tpu-v3").record
    machine = load_machine("tpu-v3").machine
    peak = machine.dram_bytes_per_second / (machine.clock_mhz * 1e6) * record.series_bin_cycles
    assert record.series.sum() == record.dram_bytes.sum()
    assert record.series.sum(axis=0).max() <= 1.1 * peak


def test_closed_forms_refuse_contents() -> None:
    with pytest.raises(ConfigError, match="--resident-weights: fidelity analytic"):
        shared(caches="weights", fidelity="analytic")


def cycles_of(*more: str) -> int:
    return shared(TILE, *more).record.total_cycles


def network(topology: str, *more: str) -> Sequence[str]:
    return [f"memory.network.topology={topology}", "memory.network.flit_bytes=32", *more]


def test_latencies_reach_the_core() -> None:
    """A hit that takes longer, a way that takes longer, a network that takes longer: each makes the run longer."""
    base = cycles_of()
    assert base < cycles_of("memory.l2.hit_latency_cycles=80")
    assert base < cycles_of("memory.response_latency_cycles=60")
    slow = "memory.network.router_latency_cycles=30"
    assert base < cycles_of(*network("crossbar")) < cycles_of(*network("crossbar", slow))


def test_network_carries_what_is_asked() -> None:
    """Each link's bytes are whole flits; data of reads come back, data of writes go there."""
    result = shared(TILE, *network("mesh", "memory.network.columns=2"))
    report, cache = result.summary["memory"]["network"], cache_of(result)
    assert report["bytes"] >= cache["read_bytes"] + cache["write_bytes"]
    assert all(link["bytes"] % 32 == 0 and 0 <= link["utilisation"] <= 1 for link in report["links"])


def test_two_cores_share_what_one_has_fetched() -> None:
    """On a machine of flags: the cores of a GEMM read the same weights, which come from DRAM once."""
    more = ("memory.private_channels=false", "memory.l2.size_bytes=4194304")
    result = shared(*more, hw="tpu-v3", model="gemm:512x512x512", dtype="bf16")
    cache = cache_of(result)
    fetched = int(result.record.dram_bytes[:, 0].sum())
    assert fetched == cache["dram_read_bytes"] <= 2 * 512 * 512 * 2 < cache["read_bytes"]
