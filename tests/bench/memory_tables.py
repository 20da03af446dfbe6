"""The tables of docs/memory.md, measured: what each controller option does, efficiencies, what more memory brings.

    python tests/bench/memory_tables.py [--write]

Without --write the tables are printed. Everything is simulated here; nothing is typed in.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from isa.cache import Cache
from isa.chip import MemoryChip, memory_chip
from isa.errors import CapacityError
from isa.loader import list_chips, load_chip, load_machine
from isa.machine import Machine
from isa.memory import Controller
from npusim import api
from npusim.memory.efficiency import Pattern, measure
from npusim.memory.generator import patterns
from npusim.memory.generator.backend import make_backend
from npusim.memory.generator.layout import K_COPIED, K_LOAD_BYTES, K_WRITES
from npusim.memory.generator.run import Run
from npusim.memory.generator.setup import Copy, engines_of, make_copiers
from npusim.report.profile import Profile
from npusim.report.what_if import WHAT_IF, what_if
from npusim.validate.dram import ramulator2
from npusim.validate.memory_run import giga_bytes_per_second, start

PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
# Options in which the default controller differs from the reference, each put back alone.
DIFFERENCES: dict[str, dict[str, Any]] = {
    "default": {},
    "`protect_hits: none`": {"protect_hits": "none"},
    "`age_limit_ns: null`": {"age_limit_ns": None},
    "`write_batch: null`": {"write_batch": None},
    "`trains: false` (every burst an entry)": {"trains": False},
    "`opened_leave_queue: true`": {"opened_leave_queue": True},
    "`columns_first: false`": {"columns_first": False},
    "`refresh: all_bank`": {"refresh": "all_bank"},
    "`refresh: all_bank`, `refresh_postpone: 0`": {"refresh": "all_bank", "refresh_postpone": 0},
    "`refresh: all_bank`, `refresh_blocks: true`": {"refresh": "all_bank", "refresh_blocks": True},
    "`entry_bytes: 1` (a burst a place)": {"entry_bytes": 1},
    "`write_queue: 64`": {"write_queue": 64},
    "`write_when_idle: false`": {"write_when_idle": False},
    "`row_policy: closed`": {"row_policy": "closed"},
    "`mapping: RoBaBgCo`": {"mapping": "RoBaBgCo"},
    "`hashing: none`": {"hashing": "none"},
}
PATTERNS = {
    "read": Pattern("stream", 512, 1.0), "write": Pattern("stream", 512, 0.0),
    "read + write": Pattern("stream", 512, 0.5),
    "read, 64 KiB apart": Pattern("strided", 512, 1.0, 65536), "random 64 B": Pattern("random", 64, 1.0),
}  # fmt: skip


def options_table(hw: str = "tpu-v3") -> Iterator[str]:
    """Efficiency of the patterns with each option put back, on one chip's memory."""
    machine = load_machine(hw).machine
    yield f"| {hw} | " + " | ".join(PATTERNS) + " | row hits, read + write | latency of random 64 B, ns |"
    yield "|---" * (len(PATTERNS) + 3) + "|"
    reference = ramulator2()
    rows: dict[str, Controller] = {
        name: Controller.model_validate(changes) for name, changes in DIFFERENCES.items()
    }
    rows["part `ramulator2`, all of them"] = reference
    for name, options in rows.items():
        chip = _with(machine, controller=options)
        found = {what: measure(chip, pattern) for what, pattern in PATTERNS.items()}
        cells = [f"{found[what]['efficiency']:.1%}" for what in PATTERNS]
        mixed, spread = found["read + write"], found["random 64 B"]
        yield f"| {name} | " + " | ".join(cells) + f" | {mixed['row_hit_rate']:.1%} | {spread['latency_ns']:,.0f} |"


def efficiency_table() -> Iterator[str]:
    """Efficiency of the patterns on every chip's memory."""
    yield "| chip | DRAM GB/s | " + " | ".join(PATTERNS) + " |"
    yield "|---" * (len(PATTERNS) + 2) + "|"
    for name, _ in list_chips():
        chip = load_chip(name).chip
        peak = chip.memory.channels * chip.memory.dram.channel_bytes_per_second / 1e9
        cells = [f"{measure(chip, pattern)['efficiency']:.1%}" for pattern in PATTERNS.values()]
        yield f"| {name} | {peak:,.0f} | " + " | ".join(cells) + " |"


def _with(chip: Machine | MemoryChip, **changes: Any) -> Any:
    return chip.model_copy(update={"memory": chip.memory.model_copy(update=changes)})


# What changes, as settings of the machine (`--set`), from the figures that it has.
CHANGES: dict[str, Callable[[Machine], list[str]]] = {
    "as it is": lambda m: [],
    "scratchpad x 2": lambda m: _scratchpads(m, 2.0),
    "scratchpad / 4": lambda m: _scratchpads(m, 0.25),
    "DRAM clock x 2": lambda m: [f"memory.dram.tck_ps={m.memory.dram.tck_ps / 2}"],
    "DRAM clock, DMA and ports of the cores x 2": lambda m: [
        f"memory.dram.tck_ps={m.memory.dram.tck_ps / 2}",
        *(f"core.paths.{i}.bytes_per_cycle={2 * path.bytes_per_cycle}"
          for i, path in enumerate(m.core.paths) if "dram" in (path.src, path.dst)),
        *(f"core.dma.{name}.request_bytes={2 * engine.request_bytes}" for name, engine in m.core.dma.items()),
    ],
    "channels x 2": lambda m: [f"memory.channels={2 * m.memory.channels}"],
    "channels / 2": lambda m: [
        f"memory.channels={max(1, m.memory.channels // 2)}", f"memory.capacity_bytes={m.memory.capacity_bytes // 2}"
    ],
    "8 channels of DDR4 or HBM2": lambda m: [
        f"memory.dram={_other_kind(m)}", "memory.channels=8", f"memory.capacity_bytes={1 << 30}"
    ],
    "far memory (latency x 4)": lambda m: [f"memory.request_latency_cycles={4 * m.memory.request_latency_cycles}"],
}  # fmt: skip
LAYERS = {
    "streaming": "add:2048x2048", "weights for 16 rows": "gemm:16x2048x4096",
    "reuse in the scratchpad": "gemm:1024x1024x2048", "compute-bound": "gemm:2048x512x2048",
}  # fmt: skip


def _scratchpads(machine: Machine, factor: float) -> list[str]:
    """The scratchpad, or L1 and UB, in another size."""
    spaces = dict.fromkeys((machine.scratch_space, machine.staging_space))
    return [f"core.spaces.{s}.size_bytes={int(factor * machine.core.spaces[s].size_bytes)}" for s in spaces]


def _other_kind(machine: Machine) -> str:
    """DDR4 in place of HBM, HBM in place of DDR."""
    return "ddr4-3200" if machine.memory.dram.command_buses == 2 else "hbm2-2000"



def sensitivity_table(hw: str, fixed: Sequence[str] = ()) -> Iterator[str]:
    """Cycles of a memory-bound and a compute-bound layer under changes of the memory; in brackets the roofline's.

    `fixed` are settings of all rows.
    """
    base = load_machine(hw).machine
    yield f"| {', '.join((hw, *fixed))} | " + " | ".join(f"{what} ({model})" for what, model in LAYERS.items()) + " |"
    yield "|---" * (len(LAYERS) + 1) + "|"
    first: dict[str, int] = {}
    for what, settings in CHANGES.items():
        cells = []
        for model in LAYERS.values():
            chosen = [*fixed, *settings(base)]
            result = api.run(model, hw, settings=chosen)
            roofline = api.run(model, hw, settings=chosen, fidelity="roofline").record.total_cycles
            cycles = result.record.total_cycles
            first.setdefault(model, cycles)
            first.setdefault(f"{model} roof", roofline)
            moved = result.record.dram_bytes.sum() / 1e6
            cells.append(
                f"{cycles:,} = {cycles / first[model]:.2f} ({roofline / first[f'{model} roof']:.2f}), {moved:,.1f} MB"
            )
        yield f"| {what} | " + " | ".join(cells) + " |"


HINTED = {**LAYERS, "one row": "gemm:1x4096x4096", "resnet18": "resnet18", "mobilenetv2": "mobilenetv2"}
HINTED_CHIPS = ("tpu-v3", "tpu-v3-core", "tpu-v4", "tpu-v5e", "tpu-v1", "gemmini-16x16", "tiny")


def hint_table() -> Iterator[str]:
    """The time that a report says 20 % more bandwidth saves, what it saves the same program, and one compiled anew."""
    yield "| saves | " + " | ".join(f"{what} ({model})" for what, model in HINTED.items()) + " |"
    yield "|---" * (len(HINTED) + 1) + "|"
    for hw in HINTED_CHIPS:
        machine = load_machine(hw).machine
        settings = [f"memory.dram.tck_ps={machine.memory.dram.tck_ps / WHAT_IF}"]
        faster = load_machine(hw, settings).machine
        cells = []
        for model in HINTED.values():
            try:
                compiled = api.compile(model, machine)
            except CapacityError:
                cells.append("does not fit")
                continue
            result = api.simulate(compiled, machine)
            again = [api.simulate(c, faster).record.total_cycles for c in (compiled, api.compile(model, faster))]
            same, anew = (1 - cycles / result.record.total_cycles for cycles in again)
            cells.append(f"{1 - what_if(Profile(result))['time_share']:.1%}: {same:.1%}, {anew:.1%}")
        yield f"| {hw} | " + " | ".join(cells) + " |"


SHARED_SLICES = 16
SHARED_SIZES = (0, 1 << 20, 4 << 20, 16 << 20)


def shared_table(hw: str = "tpu-v3") -> Iterator[str]:
    """Cycles and bytes of DRAM with a shared cache of so many bytes, on a chip whose memory is 8 channels of DDR4."""
    base = load_machine(hw).machine
    slow = CHANGES["8 channels of DDR4 or HBM2"](base)
    yield f"| {hw}, 8 channels of DDR4 | " + " | ".join(f"{what} ({model})" for what, model in LAYERS.items()) + " |"
    yield "|---" * (len(LAYERS) + 1) + "|"
    for size in SHARED_SIZES:
        for caches in ("cold", "warm") if size else ("",):
            cache = (
                f"memory.l2={{size_bytes: {size // SHARED_SLICES}, slices: {SHARED_SLICES}, ways: 16, mshrs: 128, "
                "hit_latency_cycles: 60, bytes_per_cycle: 64}"
            )
            cells = []
            for model in LAYERS.values():
                record = api.run(model, hw, settings=[*slow, cache] if size else slow, caches=caches).record
                cells.append(f"{record.total_cycles:,}, {record.dram_bytes.sum() / 1e6:,.1f} MB")
            yield f"| {f'{size >> 20} MiB, {caches}' if size else 'no cache'} | " + " | ".join(cells) + " |"


# The same for chips of which the memory is described, with generators in the place of their cores.
MEMORY_CHANGES: dict[str, Callable[[MemoryChip], list[str]]] = {
    "as it is": lambda c: [],
    "shared L2 x 4": lambda c: [f"memory.l2.size_bytes={4 * _l2(c).size_bytes}"],
    "shared L2 / 4": lambda c: [f"memory.l2.size_bytes={_l2(c).size_bytes // 4}"],
    "DRAM clock x 2": lambda c: [f"memory.dram.tck_ps={c.memory.dram.tck_ps / 2}"],
    "channels x 2": lambda c: [f"memory.channels={2 * c.memory.channels}"],
    "channels / 2": lambda c: [
        f"memory.channels={c.memory.channels // 2}", f"memory.capacity_bytes={c.memory.capacity_bytes // 2}"
    ],
    "8 channels of DDR4": lambda c: [
        "memory.dram=ddr4-3200", "memory.channels=8", f"memory.capacity_bytes={16 << 30}"
    ],
    "far memory (miss path x 4)": lambda c: [
        f"memory.l2.miss_latency_cycles={4 * _l2(c).miss_latency_cycles}",
        f"memory.l2.fill_latency_cycles={4 * _l2(c).fill_latency_cycles}",
    ],
}  # fmt: skip


def _l2(chip: MemoryChip) -> Cache:
    assert chip.memory.l2 is not None
    return chip.memory.l2


def _warps(chip: MemoryChip, pattern: patterns.Pattern, filled: int) -> float:
    """GB/s that the threads of all cores load and store, after `filled` bytes."""
    run = start(chip, pattern)
    words = [K_LOAD_BYTES, K_WRITES]

    def warm(counters: Any) -> bool:
        return bool(counters[words].sum() >= filled)

    counters = run.advance(1000)
    while not warm(counters):
        counters = run.advance(1000)
    before, first = counters[words].sum(), run.cycle
    moved = run.advance(60_000)[words].sum() - before  # long enough for the writes that the L2 keeps back
    return giga_bytes_per_second(int(moved), run.cycle - first, chip)


def _stream(chip: MemoryChip) -> float:
    return _warps(chip, patterns.stream("triad", 1024, 2, 32), 4 * _l2(chip).size_bytes * _l2(chip).slices)


def _shared(chip: MemoryChip) -> float:
    return _warps(chip, patterns.shared_reads(256 << 10, 4 << 20, 8, 32, 64), 40 << 20)


def _copies(chip: MemoryChip, passes: int) -> float:
    """GB/s of the last pass in which every copy engine that reads takes 1 MiB of its own."""
    backend = make_backend(chip)
    ways = {"send_cycles": backend.send_cycles, "return_cycles": backend.return_cycles}
    copies = [Copy(core, engine, i << 20, 1 << 20) for i, (core, engine) in enumerate(engines_of(chip, "read"))]
    run = Run(*make_copiers(chip, copies, **ways), backend)
    first = 0
    for _ in range(passes - 1):
        run.drain()
        first = run.cycle
        run.follow(make_copiers(chip, copies, first_cycle=first, **ways)[0])
    run.drain()
    return giga_bytes_per_second(int(run.state.counters[K_COPIED]), run.cycle - first, chip)


GENERATORS: dict[str, dict[str, Callable[[MemoryChip], float]]] = {
    "v100": {"triad of 1 GiB arrays": _stream, "4 MiB that all cores share": _shared},
    "ascend-910b1": {
        "72 copies of 1 MiB": lambda c: _copies(c, 1), "the same once more": lambda c: _copies(c, 2)
    },
}  # fmt: skip


def _requests_of(hw: str, settings: Sequence[str] = ()) -> MemoryChip:
    """A chip of which only the memory is described, or a whole one as its memory sees it."""
    chip = load_chip(hw, settings).chip
    return chip if isinstance(chip, MemoryChip) else memory_chip(chip)


def generators_table(hw: str) -> Iterator[str]:
    """GB/s that the generators of a chip move under changes of its memory, and the ratio to the chip as it is."""
    base = _requests_of(hw)
    yield f"| {hw} | DRAM peak, GB/s | " + " | ".join(f"{what}, GB/s" for what in GENERATORS[hw]) + " |"
    yield "|---" * (len(GENERATORS[hw]) + 2) + "|"
    first: dict[str, float] = {}
    for change, settings in MEMORY_CHANGES.items():
        chip = _requests_of(hw, settings(base))
        peak = chip.dram_bytes_per_second / 1e9
        cells = [f"{peak:,.0f} = {peak / first.setdefault('peak', peak):.2f}"]
        for what, measured in GENERATORS[hw].items():
            rate = measured(chip)
            cells.append(f"{rate:,.0f} = {rate / first.setdefault(what, rate):.2f}")
        yield f"| {change} | " + " | ".join(cells) + " |"


def cores_table(hw: str = "tpu-v3") -> Iterator[str]:
    """One to eight cores that stream at once: bandwidth of each and of all."""
    yield "| cores | cycles | GB/s of all | GB/s of each | of DRAM peak |"
    yield "|---|---|---|---|---|"
    for cores in (1, 2, 4, 8):
        settings = [f"cores={cores}", "memory.private_channels=false", "memory.channels=64",
                    f"memory.capacity_bytes={1 << 33}"]  # fmt: skip
        machine = load_machine(hw, settings).machine
        result = api.run(f"gemm:16x2048x{2048 * cores}", hw, settings=settings)
        seconds = result.record.total_cycles / (machine.clock_mhz * 1e6)
        rate = float(result.record.dram_bytes.sum()) / seconds / 1e9
        share = rate * 1e9 / machine.dram_bytes_per_second
        yield f"| {cores} | {result.record.total_cycles:,} | {rate:,.0f} | {rate / cores:,.0f} | {share:.1%} |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "options": options_table, "efficiency": efficiency_table,
    "sensitivity tpu-v3": lambda: sensitivity_table("tpu-v3"),
    "sensitivity gemmini-16x16": lambda: sensitivity_table("gemmini-16x16"),
    "sensitivity ascend-910b2": lambda: sensitivity_table("ascend-910b2", ("launch_cycles=0",)),
    "sensitivity ascend-310": lambda: sensitivity_table("ascend-310"),
    "hint": hint_table,
    "shared": shared_table,
    "generators v100": lambda: generators_table("v100"),
    "generators ascend-910b1": lambda: generators_table("ascend-910b1"),
    "cores": cores_table,
}  # fmt: skip


def main() -> None:
    """Print the tables, or write them between their markers in the page."""
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")] or list(TABLES)
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    for name in wanted:
        table = "\n".join(TABLES[name]())
        print(f"\n{name}\n\n{table}")
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        text = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.S)  # noqa: B023
        if "--write" in sys.argv:
            PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
