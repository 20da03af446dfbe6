"""`npusim kernel` and run_kernel: sample kernels give right answers, without races; wrong words get clear errors."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from isa.errors import ConfigError, ProgramError, SimulationError
from npusim.cli import main
from npusim.kernel import run_kernel
from npusim.report import threads
from npusim.report.threads import mix

SAMPLES = Path(str(resources.files("traces"))) / "simt"
CHECKS = SAMPLES / "checks.py"
VECTOR_ADD = {"x": "rand:f32[250]", "y": "rand:f32[250]", "z": "zeros:f32[250]", "n": "250"}
PRODUCT = {"a": "rand:f32[64x96]", "b": "rand:f32[96x32]", "c": "zeros:f32[64x32]", "n": "32", "k": "96"}
HALVES = {**PRODUCT, "a": "rand:f16[64x96]", "b": "rand:f16[96x32]"}
MAP = {"x": "rand:f32[64x64]", "y": "zeros:f32[64x64]", "size": "64"}

# file, kernel, grid, block, arguments
RUNS = {
    "vector_add": ("vector_add", "", 4, 64, VECTOR_ADD),
    "reduction": ("reduction", "", 3, 128, {"x": "rand:f32[1000]", "total": "zeros:f32[1]", "n": "1000"}),
    "naive transpose": ("transpose", "naive", (2, 2), 256, MAP),
    "tiled transpose": ("transpose", "tiled", (2, 2), 256, MAP),
    "padless transpose": ("transpose", "padless", (2, 2), 256, MAP),
    "stencil": ("stencil", "", 4, 64, {"x": "rand:f32[250]", "y": "zeros:f32[250]", "n": "200"}),
    "histogram": ("histogram", "", 2, 256, {"x": "randint:0,256:i32[700]", "bins": "ones:i32[256]", "n": "650"}),
    "naive matmul": ("matmul", "naive", (1, 2), 256, PRODUCT),
    "tiled matmul": ("matmul", "tiled", (1, 2), 256, PRODUCT),
    "tensor matmul": ("matmul", "tensor", (1, 1), 128, HALVES),
}  # fmt: skip


def sample(key: str, **options: object) -> object:
    """The result of one of the runs above on the teaching GPU, checked."""
    file, name, grid, block, arguments = RUNS[key]
    return run_kernel(
        SAMPLES / f"{file}.asm", "gpu-tiny", grid=grid, block=block, arguments=arguments, name=name,
        check=f"{CHECKS}:{file}", **options,
    )  # fmt: skip


@pytest.mark.parametrize("key", RUNS)
def test_samples(key: str) -> None:
    result = sample(key)
    assert result.ok and result.comparisons and not result.hazards and not result.assumptions
    (launch,) = result.record.launches
    assert 0 < launch.stalls.sum() <= launch.cycles * 2 * 16  # warp-cycles: two cores of 16 warps
    assert launch.issues[:, 0].sum() == launch.issued.sum() == launch.stalls[:, 0].sum()
    assert sum(mix(result.record, launch).values()) == launch.issues[:, 0].sum()
    assert all(0 <= share <= 1 for share in threads.speed_of_light(result.record, launch))


def test_swizzle_and_coalescing_show() -> None:
    naive, tiled, padless = (sample(f"{key} transpose").record.launches[0] for key in ("naive", "tiled", "padless"))
    assert naive.counters["store_sectors"] == 8 * tiled.counters["store_sectors"] == 8 * 64 * 64 * 4 // 32
    assert tiled.counters["shared_cycles"] == tiled.counters["shared_accesses"]
    assert padless.counters["shared_cycles"] == (1 + 32) / 2 * padless.counters["shared_accesses"]
    assert tiled.cycles < padless.cycles


def test_values_do_not_change_time() -> None:
    file, name, grid, block, arguments = RUNS["tensor matmul"]
    options = {"grid": grid, "block": block, "arguments": arguments, "name": name}
    with_values, without = (
        run_kernel(SAMPLES / f"{file}.asm", "gpu-tiny", values=values, **options) for values in (True, False)
    )
    assert with_values.record.total_cycles == without.record.total_cycles
    assert (with_values.record.launches[0].stalls == without.record.launches[0].stalls).all()
    assert not without.arrays


def test_time_that_depends_on_values_needs_them() -> None:
    file, _, grid, block, arguments = RUNS["histogram"]
    with pytest.raises(SimulationError, match=r"instruction 15 `ldg.32 .*decides branches or addresses"):
        run_kernel(SAMPLES / f"{file}.asm", "gpu-tiny", grid=grid, block=block, arguments=arguments, values=False)


def test_launches_follow_each_other(tmp_path: Path) -> None:
    file, _, grid, block, arguments = RUNS["histogram"]
    zeros = {**arguments, "x": "zeros:i32[700]"}
    result = run_kernel(SAMPLES / f"{file}.asm", "gpu-tiny", grid=grid, block=block, launches=3, arguments=zeros)
    first, second, third = result.record.launches
    assert (first.end, second.end) == (second.start, third.start) and third.end == result.record.total_cycles
    assert result.arrays["bins"][0] == 1 + 3 * 650 and result.arrays["bins"][1:].tolist() == [1] * 255
    assert second.dram_bytes[0] < first.dram_bytes[0]  # the shared cache has kept x


def test_arrays_and_files_are_arguments(tmp_path: Path) -> None:
    y = np.arange(250, dtype=np.float32)
    np.save(tmp_path / "y.npy", y)
    arguments = {"x": np.ones(250, np.float32), "y": str(tmp_path / "y.npy"), "z": "zeros:f32[250]", "n": 250}
    result = run_kernel(SAMPLES / "vector_add.asm", "gpu-tiny", grid=4, block=64, arguments=arguments)
    assert (result.arrays["z"] == y + 1).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": "1"}, "no such parameter; those: x, y, z, n"),
        ({"n": None}, "needs --arg n=..."),
        ({"x": "rand:f33[8]"}, "unknown type 'f33'; one of f32"),
        ({"x": "rand:f32[0]"}, "give 1 to 6 extents above 0"),
        ({"x": "rand:f32[99999999999]"}, "at most 17179869184 bytes"),
        ({"x": "randint:5,5:i32[8]"}, "must be greater"),
        ({"x": "nowhere.npy"}, "nowhere.npy: "),
        ({"x": "abc"}, "'abc' is neither a whole number"),
        ({"n": str(1 << 63)}, "does not fit 64 bits"),
    ],
)
def test_wrong_arguments(changes: dict[str, str | None], words: str) -> None:
    arguments = {k: v for k, v in {**VECTOR_ADD, **changes}.items() if v is not None}
    with pytest.raises(ConfigError) as error:
        run_kernel(SAMPLES / "vector_add.asm", "gpu-tiny", grid=4, block=64, arguments=arguments)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_several_kernels_needs_a_name() -> None:
    with pytest.raises(ProgramError, match="more than one kernel, say which with --kernel; there are: naive, tiled"):
        run_kernel(SAMPLES / "transpose.asm", "gpu-tiny", grid=1, block=256, arguments=MAP)
    with pytest.raises(ProgramError, match="no kernel 'nave'; there are: naive"):
        run_kernel(SAMPLES / "transpose.asm", "gpu-tiny", grid=1, block=256, arguments=MAP, name="nave")


def test_an_array_that_is_too_short_is_an_error_with_the_instruction() -> None:
    arguments = {**VECTOR_ADD, "z": "zeros:f32[8]", "n": "200000"}
    with pytest.raises(SimulationError, match=r"block \d+, warp \d+, instruction 10 `@p0 stg.32 .*outside of memory"):
        run_kernel(SAMPLES / "vector_add.asm", "gpu-tiny", grid=4, block=64, arguments=arguments)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ["kernel", *words])


def vector_add(*words: str, **changes: str) -> Result:
    pairs = [f"--arg={k}={v}" for k, v in {**VECTOR_ADD, **changes}.items()]
    return invoke(str(SAMPLES / "vector_add.asm"), "--hw", "gpu-tiny", "--grid", "4", "--block", "64", *pairs, *words)


def test_command_line(tmp_path: Path) -> None:
    result = vector_add("--check", f"{CHECKS}:vector_add", "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    for words in ("speed of light", "occupancy", "warp states", "long_scoreboard", "hot spots", "check z: ok"):
        assert words in result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["check"]["ok"] and summary["launches"][0]["warp_cycles"] == sum(
        summary["launches"][0]["warps"].values()
    )
    with np.load(tmp_path / "out" / "arrays.npz") as arrays:
        assert (arrays["z"] == arrays["x"] + arrays["y"]).all()


def test_a_failed_check_exits_1(tmp_path: Path) -> None:
    script = tmp_path / "wrong.py"
    script.write_text("def f(x, y, z, n):\n    return {'z': x + y + (x == x[7])}\n")
    result = vector_add("--check", f"{script}:f")
    assert result.exit_code == 1 and "check failed: z[7] is " in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--grid", "0"), "'0' is not a number of blocks"),
        (("--grid", "2x"), "'2x' is not a number of blocks"),
        (("--hw", "tpu-v3"), "tpu-v3: its cores run no threads; chips that do:"),
        (("--block", "2048"), "1024"),
        (("--check", "nothing.py:f"), "nothing.py cannot be read"),
        (("--check", f"{CHECKS}:nothing"), "has no function 'nothing'"),
        (("--check", f"{CHECKS}:vector_add", "--no-values"), "need values"),
        (("--arg", "x"), "'x' is not NAME=VALUE"),
    ],
)
def test_wrong_words_exit_2_with_a_line(words: tuple[str, ...], said: str) -> None:
    result = vector_add(*words)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output
