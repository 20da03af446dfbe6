"""The cost of a tiling on a cube: which loads come from DRAM, which from the shared cache, and what they cost."""

import pytest

from compiler import tiling_cube
from compiler.cube_cost import Loads, Work, chip_of
from compiler.kernels.contraction import Contraction, Operand, Tiling
from compiler.kernels.cube import feed_block
from isa.errors import CapacityError
from isa.loader import load_machine

KNOWN = Contraction(  # gemm:1024x512x768, both operands from DRAM
    1, 1, 1024, 1, 512, 768, 1, 1, 1024, 1, (1, 1), (0, 0), (1, 1),
    a=Operand("dram", "fp16", {"h": 768, "w": 768, "c": 1}), weight=Operand("dram", "fp16", {"c": 512, "n": 1}),
    out=Operand("dram", "fp16", {"h": 512, "w": 512, "n": 1}), operand_dtype="fp16", acc_dtype="fp32",
)  # fmt: skip


def loads_of(order: str, split: tuple[tuple[str, int], ...] = ()) -> Loads:
    """The loads of KNOWN in tiles of 128 x 64: eight along h, eight along n. A tile of A takes 16 cycles from DRAM, one
    of W 4, a sixteenth of that and a quarter from the cache."""
    tiling, machine = Tiling(128, 64, 768, tuple(order), split), load_machine("ascend-310").machine
    block = feed_block(KNOWN, tiling, machine)
    assert block is not None
    work = Work(KNOWN, tiling, machine, chip_of(machine), block)
    return Loads(work, first=(16, 4), again=(1, 1), dram=(0, 0), other=(0, 0))


@pytest.mark.parametrize(("order", "split", "cycles"), [
    ("xyhnc", (), 8 * 16 + 8 * 4 + 7 * 8 * 1),  # W in the first eighth, then again for each of seven; A all along
    ("xynhc", (), 8 * 16 + 8 * 4 + 7 * 8 * 1),  # A in the first eighth, again for each of seven; W all along
    ("xynhc", (("h", 2),), 4 * 16 + 8 * 4 + 7 * 4 * 1),  # a core has half of A
    ("xynhc", (("n", 2),), 8 * 16 + 4 * 4 + 3 * 8 * 1)])  # fmt: skip
def test_an_operand_comes_from_dram_once_where_the_cache_keeps_it(
    order: str, split: tuple[tuple[str, int], ...], cycles: int
) -> None:
    loads = loads_of(order, split)
    start = (1.0, 1.0)
    assert loads.late(start, 0) + loads.cycles(start) == cycles


@pytest.mark.parametrize(("order", "cycles"), [
    ("xyhnc", (16 + 4 - 5) + 7 * (16 + 1 - 5)),  # steps of 5 cycles: eight of them wait for A, W alone hides
    ("xynhc", (16 + 4 - 5) + 7 * (16 - 5))])  # fmt: skip
def test_work_hides_loads_only_within_a_step(order: str, cycles: int) -> None:
    """The spare time of later iterations is of no use: loads are no more than a step ahead of the array."""
    loads = loads_of(order)
    assert loads.late((1.0, 1.0), 5) + (16 + 4 - 5) == cycles  # the first step's are apart
    assert loads.late((1.0, 1.0), 20) == 0


def test_what_the_cache_loses_comes_from_dram_again() -> None:
    """From both sides: A and W take 2.25 MiB of 8; of 1 MiB nothing is left when a loop begins again."""
    loads = loads_of("xyhnc")
    assert loads.later(0, (1.0, 1.0)) == (1.0, 0.0) and loads.later(1, (1.0, 1.0)) == (-1.0, 1.0)
    small = load_machine("ascend-310", ["memory.l2.size_bytes=65536"]).machine
    loads.work.chip = chip_of(small)
    assert loads.later(0, (1.0, 1.0)) == (1.0, 1.0)
    assert loads.later(0, (1.0, 0.0)) == (1.0, 1.0)  # written just before, and lost since


def test_an_operand_written_just_before_comes_from_the_cache() -> None:
    machine = load_machine("ascend-310").machine
    budget = {k: v.size_bytes for k, v in machine.core.spaces.items()}
    tiling = Tiling(128, 64, 768, tuple("xyhnc"), (("h", 2),))
    cycles = [tiling_cube.expected_cycles(KNOWN, tiling, machine, budget, cached) for cached in ((), ("a",))]
    assert cycles[1] < cycles[0]


@pytest.mark.parametrize(("settings", "tile", "words"), [
    (("core.spaces.l0c.size_bytes=1023",), None, "one fractal of its sums and operands needs 1024 bytes of l0c (1023"),
    (("core.spaces.l0b.size_bytes=1023",), None, "one fractal of its sums and operands needs 1024 bytes of l0b (1023"),
    (("core.spaces.l1.size_bytes=1024",), None, "bytes of l1 (1024 are free): enlarge core.spaces"),
    ((), (512, 512, 64), "run.tile=512x512x64 needs 1048576 bytes of l0c (262144 are free), "),
    (("core.spaces.l0a.size_bytes=4096",), (256, 16, 64), "run.tile=256x16x64 needs more than the 4096 bytes of l0a"),
])  # fmt: skip
def test_what_fits_nowhere_is_named_with_its_bytes(
    settings: tuple[str, ...], tile: tuple[int, ...] | None, words: str
) -> None:
    machine = load_machine("ascend-310", settings).machine
    budget = {name: space.size_bytes for name, space in machine.core.spaces.items()}
    with pytest.raises(CapacityError) as error:
        tiling_cube.search(KNOWN, machine, budget, tile)
    assert words in str(error.value)
