"""The tile search: what it may choose, what a user may choose instead, and that rates of the paths count."""

import pytest

import npusim
from isa.cost import gemm_traffic_elements
from isa.errors import CapacityError, ConfigError
from isa.loader import load_machine
from npusim import api
from npusim.report import summary


def moved_bytes(*settings: str, model: str = "gemm:512x512x512", hw: str = "tpu-v3-core") -> int:
    shown = summary(npusim.run(model, hw, settings=["memory.model=ideal", *settings]))
    return int(shown["dram_read_bytes"] + shown["dram_write_bytes"])


@pytest.mark.parametrize("block", [32, 128, 256])
def test_a_given_tile_moves_what_its_blocking_predicts(block: int) -> None:
    """MNK/bn + MNK/bm + MN elements when K is cut too, so that both panels are fetched for every block (seed 3.25)."""
    assert moved_bytes(f"run.tile={block}x{block}x256") == 2 * gemm_traffic_elements(512, 512, 512, block, block)


def test_the_search_moves_no_more_than_a_small_tile() -> None:
    assert moved_bytes() < moved_bytes("run.tile=128x128x256")


@pytest.mark.parametrize("text", ["64", "64x64", "64x64x0", "axbxc", "64x64x64x64x64", "-1x64x64"])
def test_a_tile_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.tile=.*256x256x512"):
        moved_bytes(f"run.tile={text}")


def test_only_a_cube_cuts_rows_of_pixels() -> None:
    with pytest.raises(ConfigError, match=r"run\.tile=4x32x64x64: tpu-v3-core works on whole rows"):
        moved_bytes("run.tile=4x32x64x64")


def test_a_tile_beyond_the_memory_is_refused_with_its_need() -> None:
    with pytest.raises(CapacityError, match="its tile needs"):
        moved_bytes("run.tile=4096x4096x4096", model="gemm:4096x4096x4096")


@pytest.mark.parametrize("hw", ["ascend-310", "ascend-910b2"])
@pytest.mark.parametrize("model", [  # a large window, a deep one, stride, dilated pointwise rows, few channels
    "conv:1x13x13x192x384x3x1x1", "conv:1x27x27x64x192x5x1x2", "conv:1x56x56x64x128x3x2x1",
    "conv:2x14x14x256x512x1x2x0",
    "conv:1x224x224x3x64x7x2x3", "conv:1x7x7x512x512x3x1x1"])  # fmt: skip
def test_a_cube_asks_for_the_memory_that_the_search_counted(model: str, hw: str) -> None:
    """Of L1, per buffer of the kernel: a tile of either operand in each of its slots, to a boundary of 512 bytes."""
    machine = load_machine(hw).machine
    (nest,) = [n for n in api.compile(model, machine).built.nests.values() if "contraction" in n.name]
    buffers = {b.name: b for b in nest.buffers}
    tiles = {x.name: x.tile for x in nest.loops}
    _, high, wide, _, _, taps, stride, _ = map(int, model.removeprefix("conv:").split("x"))
    rows = min((tiles["h"] - 1) * stride + taps, high)
    assert buffers["A"].size_bytes <= rows * wide * tiles["c"] * 2
    assert buffers["W"].size_bytes == taps * taps * tiles["c"] * tiles["n"] * 2
    used = sum(-(-b.size_bytes // 512) * 512 * b.slots for b in nest.buffers if b.space == "l1")
    assert used <= machine.core.spaces["l1"].size_bytes


def test_operands_over_the_host_link_are_not_fetched_over_and_over() -> None:
    """14 GB/s of PCIe against 34 of DDR3: the input of 1 MiB may not come eight times."""
    shown = summary(npusim.run("gemm:256x4096x4096", "tpu-v1"))
    assert shown["utilization"]["int8"] > 0.16


def test_latency_counts_where_tiles_are_small() -> None:
    """A product with one row streams weights: with few copies of a tile in flight, tiles must be large to fill DRAM."""
    shown = summary(npusim.run("gemm:1x4096x4096", "tpu-v3"))
    read = shown["dram_read_bytes"] / (shown["time_us"] * 1e-6)
    assert read > 0.75 * load_machine("tpu-v3").machine.dram_bytes_per_second


@pytest.mark.parametrize(("model", "hw", "key", "values"), [
    ("gemm:192x320x256", "tiny", "cores", (1, 2, 3, 4, 8)),
    ("gemm:512x512x512", "tpu-v3", "cores", (1, 2, 4, 8)),
    ("gemm:256x256x256", "gemmini-16x16", "core.matrix.rows", (16, 32, 64)),
    ("gemm:256x256x256", "gemmini-16x16", "core.dma.dma_in.count", (1, 2)),
])  # fmt: skip
def test_more_hardware_is_never_much_slower(model: str, hw: str, key: str, values: tuple[int, ...]) -> None:
    """The compiler may always leave a core idle or part of an array unused."""
    cycles = []
    for value in values:
        settings = [f"{key}={value}"]
        if key == "core.matrix.rows":
            settings.append(f"core.matrix.cols={value}")
        cycles.append(npusim.run(model, hw, settings=settings).record.total_cycles)
    best = cycles[0]
    for value, now in zip(values[1:], cycles[1:]):
        assert now < 1.1 * best, (key, value, cycles)
        best = min(best, now)


@pytest.mark.parametrize("model", ["gemm:1000x1000x1000", "gemm:500x700x900"])
def test_slow_dram_takes_other_tiles_than_fast(model: str) -> None:
    """Each machine's own tile is the faster one there: LPDDR4X of Ascend 310, and memory at the rate of its cache."""
    fast = ["memory.channels=64", "memory.l2.slices=64", "memory.l2.size_bytes=131072", "memory.l2.bytes_per_cycle=4"]
    tiles, cycles = [], {}
    for rate in ((), fast):
        (nest,) = [n for n in api.compile(model, "ascend-310", settings=rate).built.nests.values()]
        extents = {x.name: x.tile for x in nest.loops}
        tiles.append(f"{extents['h']}x{extents['n']}x{extents['c']}")
    assert tiles[0] != tiles[1]
    for tile in tiles:
        for name, rate in (("slow", []), ("fast", fast)):
            ran = npusim.run(model, "ascend-310", settings=[*rate, f"run.tile={tile}"])
            cycles[name, tile] = ran.record.total_cycles
    assert cycles["slow", tiles[0]] < cycles["slow", tiles[1]]
    assert cycles["fast", tiles[1]] < 1.02 * cycles["fast", tiles[0]]


@pytest.mark.parametrize(("model", "hw", "tile", "settings"), [
    ("gemm:500x700x900", "ascend-310", "128x160x900", ()),
    ("gemm:1000x1000x1000", "ascend-310", "128x256x256", ()),
    ("gemm:16x2048x4096", "ascend-910b2", "16x96x256", ("core.spaces.l1.size_bytes=131072",))])  # fmt: skip
def test_the_search_finds_what_a_hand_did(model: str, hw: str, tile: str, settings: tuple[str, ...]) -> None:
    """Phases bound by DRAM (the first pass over an operand) cost: choices that do not see them take 15 to 24 % more."""
    hand = npusim.run(model, hw, settings=[f"run.tile={tile}", *settings]).record.total_cycles
    assert npusim.run(model, hw).record.total_cycles < 1.06 * hand
