"""Programs without their model: read from binary or assembly, simulated, executed and compared with given values."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.asm import assemble
from isa.binary import MAGIC, load
from isa.disasm import instr_text
from isa.dtypes import dtype, round_to
from isa.errors import CheckError, ConfigError, ProgramError, SimulationError
from isa.machine import Machine
from isa.program import HostOp, Program, Tensor
from isa.verify import verify
from npusim.api import Progress, machine_for, simulate_program
from npusim.inputs import skew_of
from npusim.record import CheckResult, Result

Array = npt.NDArray[Any]
MAX_TEXT_BYTES = 1 << 28


def read_program(path: str | Path) -> Program:
    """Return the program of a binary file, or of assembly text; raises ProgramError or AssemblyError."""
    source = Path(path)
    try:
        with source.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return load(source)
            file.seek(0)
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_TEXT_BYTES:
        raise ProgramError(f"{path}: larger than the limit of {MAX_TEXT_BYTES} bytes for assembly text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProgramError(f"{path}: neither a program file nor UTF-8 text (byte {error.start})") from None
    return assemble(text, str(path))


def sim(
    program: str | Path | Program,
    hw: str = "",
    *,
    inputs: str | Path | Mapping[str, Array] | None = None,
    check: bool = False,
    check_hazards: bool = False,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    assume: str = "uniform",
    trace_window: tuple[int, int] | None = None,
    caches: str = "",
    progress: Progress | None = None,
) -> Result:
    """Verify and simulate a program (a file, or a Program) on a chip, by default the one that it was written for.

    `check` executes it for its values, from `inputs` (stored values by tensor name; what is missing is seeded), and
    compares the outputs of which `inputs` gives the expected values, to 1 ulp; the others are `check.not_compared`.
    `check` and `check_hazards` prove its synchronisation, and raise CheckError when it does not run to its end
    (deadlock, flags left over). `assume` is the distribution of the rows that gathers read, for the timing, `caches`
    what a shared cache holds at the start, as in `npusim.run`. Raises an NpuError for anything that a user can mend.
    """
    started = time.perf_counter()
    loaded = program if isinstance(program, Program) else read_program(program)
    if not hw and not loaded.machine:
        raise ConfigError(f"program {loaded.name!r} names no machine: give one with --hw")
    machine, options = machine_for(hw or loaded.machine, settings)
    if options:
        raise ConfigError(f"run.{next(iter(options))} is a matter of compiling; a program is fixed")
    verify(loaded, machine)
    given = _given(loaded, inputs)
    label = loaded.operators[0].dtype if loaded.operators else machine.default_dtype
    hazards = _hazards(loaded, machine) if check or check_hazards else ()
    try:
        result = simulate_program(
            loaded, machine, label, progress=progress, trace_window=trace_window, skew=skew_of(assume),
            caches=caches,
        )
    except SimulationError as error:
        if not (check or check_hazards):
            raise
        found = "".join(f"\n  hazard: {message}" for message in hazards)
        raise CheckError(f"check failed: {len(hazards)} hazard(s){found}\n  the run stops: {error}") from error
    checked = None
    if check:
        checked = _check(loaded, machine, given, seed, hazards)
    elif check_hazards:
        checked = CheckResult(not hazards, 0.0, 0.0, 0.0, {}, hazards, not_compared=_outputs(loaded))
    result = replace(result, check=checked, wall_s=time.perf_counter() - started)
    if out is not None:
        from npusim.report import write_reports

        write_reports(result, out)
    return result


def redundant(program: str | Path | Program, hw: str = "", settings: Sequence[str] = ()) -> list[str]:
    """A line for each wait of a program that no access needs; raises an NpuError for anything that a user can mend."""
    from npusim.hazards import redundant_waits

    loaded = program if isinstance(program, Program) else read_program(program)
    machine, _ = machine_for(hw or loaded.machine, settings)
    verify(loaded, machine)
    return [f"{pc} `{instr_text(loaded, pc)}`" for pc in redundant_waits(loaded, machine)]


def _hazards(program: Program, machine: Machine) -> tuple[str, ...]:
    from npusim.hazards import check_hazards

    return tuple(f.message for f in check_hazards(program, machine))


def _outputs(program: Program) -> tuple[str, ...]:
    return tuple(t.name for t in program.tensors if t.role == "output")


def _check(
    program: Program, machine: Machine, given: Mapping[str, Array], seed: int, hazards: tuple[str, ...]
) -> CheckResult:
    """Execute the program and compare what has expected values; one that cannot be executed to its end fails."""
    from npusim.functional import execute

    roles = {t.name: t for t in program.tensors}
    initial = {n: t for n, t in roles.items() if t.role in ("input", "weight")}
    feeds = {n: given[n] if n in given else _seeded(t, seed, i) for i, (n, t) in enumerate(initial.items())}
    values = execute(program, machine, feeds, _no_host).tensors
    rows = [_compare(roles[n], values[n], given[n]) for n in values if n in given]
    worst = max(rows, key=lambda r: r["max_err"] - r["bound"], default={"max_err": 0.0, "bound": 0.0})
    ok = all(r["ok"] for r in rows) and not hazards
    outputs = {r["name"]: r["max_err"] for r in rows}
    missing = tuple(name for name in _outputs(program) if name not in outputs)
    return CheckResult(ok, worst["max_err"], worst["bound"], 1.0, outputs, hazards, tuple(rows), missing)


def _no_host(op: HostOp, given: list[tuple[Tensor, Array]]) -> list[Array]:
    raise SimulationError(
        f"{', '.join(op.node_names)} is left to the host, and a program file does not say what it computes: "
        "check the model with `npusim run --check`"
    )


def _seeded(tensor: Tensor, seed: int, index: int) -> Array:
    """Small whole numbers: exact in every dtype, and their sums in every accumulator."""
    values = np.random.default_rng((seed, index)).integers(0, 4, tensor.shape)
    return round_to(values, dtype(tensor.dtype))


def _compare(tensor: Tensor, got: Array, expected: Array) -> dict[str, Any]:
    from npusim.check import ulp

    kind = dtype(tensor.dtype)
    found, wanted = (np.asarray(x).astype(np.float64) for x in (got, expected))
    bound = ulp(wanted, kind, 1.0)
    with np.errstate(invalid="ignore"):
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        distance = np.nan_to_num(np.where(same, 0.0, np.abs(found - wanted)), nan=np.inf)
    at = np.unravel_index(int(np.argmax(distance - bound)), distance.shape) if distance.size else ()
    ok = not distance.size or bool(distance[at] <= bound[at])
    where = f"{tensor.name}{[int(i) for i in at]}"
    return {
        "name": tensor.name, "op": "output", "ok": ok, "max_err": float(np.max(distance, initial=0.0)),
        "bound": float(bound[at]) if distance.size else 0.0,
        "worst": "" if ok else f"{where}: {float(found[at])!r} instead of {float(wanted[at])!r}",
    }  # fmt: skip


def _given(program: Program, inputs: str | Path | Mapping[str, Array] | None) -> dict[str, Array]:
    """Stored values by tensor name, of the tensor's shape; raises ConfigError."""
    if inputs is None:
        return {}
    tensors = {t.name: t for t in program.tensors}
    arrays = inputs if isinstance(inputs, Mapping) else _load(Path(inputs), tensors)
    found = {}
    for name, values in arrays.items():
        if name not in tensors:
            known = ", ".join(tensors)
            raise ConfigError(f"inputs: {name!r} names no tensor of program {program.name}; there are {known}")
        tensor = tensors[name]
        if values.shape != tensor.shape or values.dtype.kind not in "fiub":
            raise ConfigError(f"inputs: {name!r} is {values.dtype}{list(values.shape)}, expected {list(tensor.shape)}")
        found[name] = round_to(values, dtype(tensor.dtype))
    return found


def _load(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """The arrays of an .npz file; nothing larger than the program's tensors is unpacked, nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
        for name, size in sizes.items():
            tensor = tensors.get(name)
            limit = 8 * int(np.prod(tensor.shape, dtype=object)) + 4096 if tensor else 1 << 20
            if size > limit:
                raise ConfigError(f"{path}: {name!r} unpacks to {size} bytes, expected at most {limit}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: not an .npz file of plain arrays: {error}") from None
