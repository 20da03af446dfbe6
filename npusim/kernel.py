"""Hand-written kernels of threads: arguments from words, a run on values and cycles, and a comparison by a script."""

from __future__ import annotations

import importlib.util
import io
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from isa.asm import assemble
from isa.errors import CheckError, ConfigError, ProgramError
from isa.loader import load_simt
from isa.program import LAUNCH, Kernel, Program, Tensor
from isa.simt_machine import SimtMachine
from isa.verify import verify
from npusim.record_simt import SimtRecord

Array = npt.NDArray[Any]

TYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "f32": ("fp32", np.dtype(np.float32)), "f16": ("fp16", np.dtype(np.float16)),
    "bf16": ("bf16", np.dtype(ml_dtypes.bfloat16)), "i32": ("int32", np.dtype(np.int32)),
    "i64": ("int64", np.dtype(np.int64)), "i16": ("int16", np.dtype(np.int16)), "i8": ("int8", np.dtype(np.int8)),
    "u8": ("uint8", np.dtype(np.uint8)),
}  # fmt: skip
FIRST_ADDRESS, ALIGN_BYTES = 4096, 256  # null is no array; arrays as cudaMalloc gives them
GAP_BYTES = 256  # behind each array, so that who steps over its end is seen
MAX_ARRAY_BYTES = 1 << 34
MAX_TEXT_BYTES = 1 << 26
RELATIVE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}  # of the largest value that is expected, by dtype
_MADE = re.compile(r"(zeros|ones|iota|rand|randint:(-?\d+),(-?\d+)):(\w+)\[([0-9, x]+)\]\Z", re.ASCII)


@dataclass(frozen=True)
class Comparison:
    """One array against what a script expects: the largest difference, and the largest that is allowed."""

    name: str
    max_err: float
    bound: float
    at: tuple[int, ...]
    got: float
    expected: float

    @property
    def ok(self) -> bool:
        """Within the bound; never with a NaN that is not expected."""
        return self.max_err <= self.bound


@dataclass(frozen=True)
class KernelResult:
    """What a run of a kernel leaves: its record, the arrays after it by argument, and comparisons if there were any."""

    kernel: str
    record: SimtRecord
    arrays: Mapping[str, Array]
    comparisons: tuple[Comparison, ...]
    wall_s: float
    hazards: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """No comparison failed, and no race was found."""
        return all(row.ok for row in self.comparisons) and not self.hazards


def run_kernel(
    source: str | Path,
    hw: str | SimtMachine,
    *,
    grid: int | tuple[int, int],
    block: int,
    arguments: Mapping[str, str | int | Array],
    name: str = "",
    launches: int = 1,
    check: str = "",
    settings: Sequence[str] = (),
    seed: int = 0,
    values: bool = True,
    check_hazards: bool = False,
) -> KernelResult:
    """Run a kernel of an assembly file on its arguments: values and cycles. A `grid` of two is (columns, rows).

    `arguments` by parameter: an array, a whole number, or a word as on the command line: `rand:f32[1024]`,
    `randint:0,256:i32[1024]`, `zeros:`, `ones:`, `iota:`, or a .npy file. `name` chooses one of several kernels;
    `check` is `script.py:function`, which gets the arguments before the run by name and returns the arrays that it
    expects after it; races between threads are looked for with it, or with `check_hazards`. Without `values` only the
    control slice is executed: cycles alone, sooner. Raises NpuError.
    """
    started = time.perf_counter()
    machine = hw if isinstance(hw, SimtMachine) else load_simt(hw, settings)
    program = _read(Path(source))
    kernel = _chosen(program, name)
    if (check or check_hazards) and not values:
        raise ConfigError("--check and --check-hazards need values: leave --no-values out")
    given = _arguments(kernel, arguments, seed)
    expect = _function(check) if check else None
    before = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in given.items()}
    program, memory = _placed(program, kernel, given, machine, grid, block, launches)
    verify(program, machine)
    from npusim.engine.simt.run import run_simt

    hazards, notes = _races(program, machine, memory) if check or check_hazards else ((), ())
    record = run_simt(program, machine, memory if values else None)
    after = {t.name: _view(memory, t, given[t.name]) for t in program.tensors} if values else {}
    comparisons = () if expect is None else tuple(_compare(expect(**before), after, check))
    return KernelResult(kernel.name, record, after, comparisons, time.perf_counter() - started, hazards, notes)


def run_sample(hw: str) -> KernelResult:
    """Run the vector add of traces/simt on one block, with its races looked for: compiles all that kernels need."""
    source = resources.files("traces").joinpath("simt/vector_add.asm")
    with resources.as_file(source) as path:
        arguments: dict[str, str | int | Array] = {f: "ones:f32[32]" for f in "xyz"}
        arguments["n"] = 32
        return run_kernel(path, hw, grid=1, block=32, arguments=arguments, check_hazards=True)


def _races(program: Program, machine: SimtMachine, memory: Array) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the hazard checker says, and what it did not look at; `memory` is left as it is."""
    from npusim.hazards.threads import check_threads

    found, whole = check_threads(program, machine, memory.copy())
    notes = () if whole else ("races in global memory are not looked for: it is too large; give smaller arrays",)
    return tuple(finding.message for finding in found), notes


def summary_of(result: KernelResult) -> dict[str, Any]:
    """What summary.json holds of a run of a kernel."""
    from npusim.report import threads

    rows = [
        {"name": c.name, "ok": c.ok, "max_err": c.max_err if math.isfinite(c.max_err) else None, "bound": c.bound}
        for c in result.comparisons
    ]
    check = {"ok": result.ok, "outputs": rows, "hazards": list(result.hazards)} if rows or result.hazards else None
    notes = list(result.assumptions)
    return {**threads.summary(result.record), "assumptions": notes, "wall_s": result.wall_s, "check": check}


def arrays_of(result: KernelResult) -> bytes:
    """The arrays after the run as the bytes of a .npz file; what numpy lacks is stored as fp32."""
    buffer = io.BytesIO()
    for_file: dict[str, Any] = {
        key: value if value.dtype.kind in "fiu" else value.astype(np.float32) for key, value in result.arrays.items()
    }
    np.savez(buffer, **for_file)
    return buffer.getvalue()


def _read(source: Path) -> Program:
    try:
        with source.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ProgramError(f"{source}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ProgramError(f"{source}: larger than the limit of {MAX_TEXT_BYTES} bytes for assembly text")
    try:
        return assemble(data.decode("utf-8"), str(source))
    except UnicodeDecodeError as error:
        raise ProgramError(f"{source}: not UTF-8 text (byte {error.start})") from None


def _chosen(program: Program, name: str) -> Kernel:
    named = [kernel for kernel in program.kernels if not name or kernel.name == name]
    if len(named) == 1:
        return named[0]
    known = ", ".join(kernel.name for kernel in program.kernels) or "none"
    what = f"no kernel {name!r}" if name else "more than one kernel, say which with --kernel" if named else "no kernel"
    raise ProgramError(f"{program.name}: {what}; there are: {known}")


def _arguments(kernel: Kernel, given: Mapping[str, str | int | Array], seed: int) -> dict[str, int | Array]:
    """The value of every parameter, in their order."""
    for key in given:
        if key not in kernel.params:
            known = ", ".join(kernel.params) or "it has none"
            raise ConfigError(f"--arg {key}: kernel {kernel.name} has no such parameter; those: {known}")
    missing = [key for key in kernel.params if key not in given]
    if missing:
        raise ConfigError(f"kernel {kernel.name} needs --arg {' --arg '.join(f'{key}=...' for key in missing)}")
    random = np.random.default_rng(seed)
    return {key: _value(key, given[key], random) for key in kernel.params}


def _value(key: str, word: str | int | Array, random: np.random.Generator) -> int | Array:
    if isinstance(word, np.ndarray):
        if word.dtype not in [kind for _, kind in TYPES.values()]:
            raise ConfigError(f"--arg {key}: arrays of {word.dtype} are not known; one of {', '.join(TYPES)}")
        return np.ascontiguousarray(word)
    if isinstance(word, int):
        return _whole(key, word)
    match = _MADE.match(word)
    if match:
        return _made(key, match, random)
    if word.endswith(".npy"):
        return _loaded(key, Path(word))
    try:
        return _whole(key, int(word, 0))
    except ValueError:
        raise ConfigError(
            f"--arg {key}: {word!r} is neither a whole number, nor a .npy file, nor rand:, zeros:, ones:, iota: or "
            "randint:LOW,HIGH: with a type and a shape, as in rand:f32[1024]"
        ) from None


def _whole(key: str, value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise ConfigError(f"--arg {key}: {value} does not fit 64 bits")
    return value


def _made(key: str, match: re.Match[str], random: np.random.Generator) -> Array:
    rule, low, high, kind, extents = match.groups()
    if kind not in TYPES:
        raise ConfigError(f"--arg {key}: unknown type {kind!r}; one of {', '.join(TYPES)}")
    shape = tuple(int(n) for n in re.split(r"[, x]+", extents.strip()) if n)
    dtype = TYPES[kind][1]
    if math.prod(shape) * dtype.itemsize > MAX_ARRAY_BYTES or not 0 < len(shape) <= 6 or 0 in shape:
        raise ConfigError(
            f"--arg {key}: shape {list(shape)}; give 1 to 6 extents above 0, and at most {MAX_ARRAY_BYTES} bytes"
        )
    if rule == "zeros":
        return np.zeros(shape, dtype)
    if rule == "ones":
        return np.ones(shape, dtype)
    if rule == "iota":
        return np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    if rule == "rand":
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        return random.uniform(-1, 1, shape).astype(np.float32).astype(dtype)
    if not int(low) < int(high):
        raise ConfigError(f"--arg {key}: randint:{low},{high}: the second number, which is left out, must be greater")
    return random.integers(int(low), int(high), shape).astype(dtype)


def _loaded(key: str, path: Path) -> Array:
    try:
        value = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--arg {key}: {path}: {error}") from None
    if value.dtype not in [kind for _, kind in TYPES.values()] or value.size == 0:
        raise ConfigError(f"--arg {key}: {path}: {value.size} elements of {value.dtype}; one of {', '.join(TYPES)}")
    return np.ascontiguousarray(value)


def _placed(
    program: Program, kernel: Kernel, values: Mapping[str, int | Array], machine: SimtMachine,
    grid: int | tuple[int, int], block: int, launches: int,
) -> tuple[Program, Array]:  # fmt: skip
    """The program with its tensors and launches, and the memory that holds the arrays."""
    address, tensors, words = FIRST_ADDRESS, [], []
    for key, value in values.items():
        if isinstance(value, int):
            words.append(value)
            continue
        kind = next(name for name, dtype in TYPES.values() if dtype == value.dtype)
        tensors.append(Tensor(key, "dram", address, value.shape, kind, "input"))
        words.append(address)
        address += -(-(value.nbytes + GAP_BYTES) // ALIGN_BYTES) * ALIGN_BYTES
    if address > machine.memory.capacity_bytes:
        raise ConfigError(
            f"the arrays take {address} bytes; {machine.name} has {machine.memory.capacity_bytes} "
            "(memory.capacity_bytes): give smaller ones"
        )
    memory = np.zeros(address, np.uint8)
    for tensor in tensors:
        data = values[tensor.name]
        assert isinstance(data, np.ndarray)
        memory[tensor.address : tensor.address + data.nbytes] = data.reshape(-1).view(np.uint8)
    rows = np.zeros(launches, LAUNCH)
    columns, lines = grid if isinstance(grid, tuple) else (grid, 1)
    rows["grid"], rows["block"] = columns * lines, block
    rows["columns"] = columns
    rows["nargs"], rows["operator"], rows["host_op"] = len(words), -1, -1
    placed = replace(
        program, machine=machine.name, kernels=(kernel,), tensors=tuple(tensors), launches=rows,
        args=np.array(words, np.int64), memory_bytes={"dram": address},
    )  # fmt: skip
    return placed, memory


def _view(memory: Array, tensor: Tensor, like: int | Array) -> Array:
    assert isinstance(like, np.ndarray)
    return memory[tensor.address : tensor.address + like.nbytes].view(like.dtype).reshape(like.shape)


def _function(text: str) -> Any:
    """The function of `script.py:name`, a script that its user has asked to be run."""
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name:
        raise ConfigError(f"--check {text}: expected script.py:function")
    spec = importlib.util.spec_from_file_location("npusim_check", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ConfigError(f"--check {text}: {path} cannot be read")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"--check {text}: {path} fails: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, name, None)):
        raise ConfigError(f"--check {text}: {path} has no function {name!r}")
    return getattr(module, name)


def _compare(expected: Any, after: Mapping[str, Array], check: str) -> list[Comparison]:
    if not isinstance(expected, Mapping) or not expected:
        raise CheckError(f"--check {check}: it must return the arrays that it expects, by the name of the argument")
    rows = []
    for key, wanted in expected.items():
        if key not in after:
            raise CheckError(f"--check {check}: {key!r} is no array of the kernel; those: {', '.join(after)}")
        got, want = after[key], np.asarray(wanted)
        if got.shape != want.shape:
            raise CheckError(f"--check {check}: {key} has shape {list(want.shape)}, the argument {list(got.shape)}")
        rows.append(_comparison(key, got, want))
    return rows


def _comparison(key: str, got: Array, want: Array) -> Comparison:
    kind = next(name for name, dtype in TYPES.values() if dtype == got.dtype)
    a, b = got.astype(np.float64), want.astype(np.float64)
    differences = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    differences = np.where(np.isnan(differences), np.inf, differences)
    at = np.unravel_index(int(differences.argmax()), got.shape)
    finite = np.abs(b[np.isfinite(b)])
    bound = RELATIVE.get(kind, 0.0) * (float(finite.max()) if finite.size else 0.0)
    return Comparison(
        key, float(differences[at]), bound, tuple(int(n) for n in at), float(a[at]), float(b[at])
    )
