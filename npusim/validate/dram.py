"""Kind `dram`: controller ticks of another simulator, against the controllers here with the options of that simulator.

A row names its stream, DRAM kind and controller; data/ramulator2.yaml has the kinds as that simulator resolves them.
"""

from __future__ import annotations

import time
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from isa.memory import Controller, DramPart
from isa.yaml12 import load_plain
from npusim.validate.bench import Bench
from npusim.validate.dram_streams import Stream, make_stream
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

NEEDS_HW = False
_OPTIONAL = (
    "org", "timing", "ranks", "channel_interleave_bytes", "row_policy", "inject_k", "inject_group", "stream_checksum",
    "avg_read_latency_cycles", "row_hits", "row_misses", "row_conflicts", "tick_ps",
)  # fmt: skip
COLUMNS = (
    *(Column(name) for name in ("dram", "channels", "mapper", "scheduler", "refresh", "read_queue", "write_queue")),
    Column("stream_id"), Column("stream_params"), Column("bytes_per_request"), Column("cycles"),
    *(Column(name, required=False) for name in _OPTIONAL),
)  # fmt: skip
# Presets of the source that the file has; their order in an address, without the channel.
PRESETS = {
    "HBM2": ("HBM2_8Gb", "HBM2_2000Mbps"), "HBM3": ("HBM3_16Gb_8hi", "HBM3_6400Mbps"),
    "DDR4": ("DDR4_8Gb_x8", "DDR4_3200AA"), "GDDR6": ("GDDR6_16Gb_x16", "GDDR6_14000_1350mV_double"),
    "LPDDR5": ("LPDDR5_16Gb_x16", "LPDDR5_6400"),
}  # fmt: skip
MAPPINGS = {"RoBaRaCoCh": ("RoBaBgSiPcCo", "none"), "MOP4CLXOR": ("RoCoBaBgSiPcCo2", "xor")}
SCHEDULERS = {"FRFCFS": "none", "FRFCFS-RowHit": "older"}
MAX_TICKS = 1 << 40


def name_of(row: Row) -> str:
    """The row in words."""
    refresh = "" if row.text("refresh") == "1" else " no refresh"
    return f"{row.text('dram')} x{row.text('channels')} {row.text('stream_id')} {row.text('mapper')}{refresh}"


def measure(row: Row, bench: Bench) -> Outcome:
    """Push the row's stream into its controllers; every counted integer of the row is compared."""
    part, options = _part(row), _options(row)
    inject = (row.integer("inject_k", 0, 0), row.integer("inject_group", 1))
    size, channels = row.integer("bytes_per_request"), _at_most(row, "channels", 1024)
    if size != part.burst_bytes:
        raise TableError(f"column bytes_per_request: {size} is not a burst of {row.text('dram')}, {part.burst_bytes}")
    stream = make_stream(row.text("stream_id"), row.text("stream_params"), size, channels, inject)
    if row.text("stream_checksum") and stream.checksum != int(row.text("stream_checksum")):
        raise TableError(f"column stream_checksum: the stream made here has {stream.checksum}; check stream_params")
    interleave = row.integer("channel_interleave_bytes", 256)
    found = run_stream(part, options, channels, interleave, stream)
    compared: dict[str, tuple[float, float]] = {
        name: (row.integer(name, least=0), found[name])
        for name in ("cycles", "row_hits", "row_misses", "row_conflicts") if row.text(name)
    }  # fmt: skip
    if row.text("avg_read_latency_cycles"):
        compared["avg_read_latency_1e-4"] = _rounded(row.positive("avg_read_latency_cycles"), found["read_latency"])
    ticks, peak = found["cycles"], part.channel_bytes_per_second * part.tck_ps * 1e-12 / _scale(part) * channels
    microseconds = row.integer("cycles") * part.tck_ps / _scale(part) * 1e-6
    roofline = len(stream.address) * size / peak
    return Outcome(row.integer("cycles"), ticks, "ticks", microseconds, roofline, compared)


def run_stream(
    part: DramPart, options: Controller, channels: int, interleave_bytes: int, stream: Stream
) -> dict[str, Any]:
    """Push a stream, one burst a request; return ticks, latencies and counts by name, and the tick of each request.

    `accepted` and `done` are int64 arrays by request; `cpu_s` is what the kernels took.
    """
    from npusim.memory.controller import layout as at
    from npusim.memory.controller import reference
    from npusim.memory.controller.mapping import locate_all, make_map
    from npusim.memory.controller.setup import make_channels
    from npusim.memory.controller.timing import PRE, REFA

    # The source's table for GDDR6 lacks the rule from a precharge of one bank to a refresh of all.
    omitted = frozenset({(PRE, REFA)}) if part.burst_length == 16 and not part.wck_sync else frozenset()
    chips = make_channels(part, options, channels, omitted=omitted)
    where = make_map(part, channels, interleave_bytes, options)
    count = len(stream.address)
    runs, channel = np.zeros((count, at.E_WORDS), np.int64), np.zeros(count, np.int64)
    bank, row = np.zeros(count, np.int64), np.zeros(count, np.int64)
    locate_all(where, stream.address, channel, bank, row)
    runs[:, at.E_TURN] = 1
    runs[:, at.E_BANK], runs[:, at.E_ROW], runs[:, at.E_COUNT], runs[:, at.E_WRITE] = bank, row, 1, stream.write
    started = time.process_time()
    end = reference.run_stream(
        chips.params, chips.rules, chips.nodes, chips.state, runs, channel, stream.due, MAX_TICKS
    )
    cpu_s = time.process_time() - started
    if end >= MAX_TICKS:
        raise TableError(f"the stream is not done after {MAX_TICKS} ticks")
    totals, accepted, done = chips.state.sum(axis=0), runs[:, at.E_ARRIVAL], runs[:, at.E_DONE]
    reads = stream.write == 0
    return {
        "cycles": int(done.max() - accepted.min()), "row_hits": int(totals[at.CH_HITS]),
        "row_misses": int(totals[at.CH_MISSES]), "row_conflicts": int(totals[at.CH_CONFLICTS]),
        "read_latency": float((done - accepted)[reads].mean()) if reads.any() else 0.0,
        "accepted": accepted, "done": done, "cpu_s": cpu_s,
    }  # fmt: skip


def ramulator2(read_queue: int = 32, write_queue: int = 32, **changes: Any) -> Controller:
    """The controller options of that simulator (configs/parts/controller/ramulator2.yaml)."""
    text = resources.files("configs").joinpath("parts", "controller", "ramulator2.yaml").read_text(encoding="utf-8")
    figures = {key: value for key, value in load_plain(text).items() if key not in ("source", "confidence")}
    return Controller.model_validate({**figures, "read_queue": read_queue, "write_queue": write_queue, **changes})


def _options(row: Row) -> Controller:
    mapping, hashing = _one_of(row, "mapper", MAPPINGS)
    if row.text("row_policy", "Open") != "Open":
        raise TableError(f"column row_policy: {row.text('row_policy')!r} is not Open, the one of the source")
    if row.integer("ranks", 1) != 1:
        raise TableError(f"column ranks: {row.text('ranks')}; channels of one rank are simulated")
    return ramulator2(
        _at_most(row, "read_queue", 1024), _at_most(row, "write_queue", 1024), mapping=mapping, hashing=hashing,
        protect_hits=_one_of(row, "scheduler", SCHEDULERS),
        refresh="all_bank" if row.integer("refresh", least=0) else "none",
    )  # fmt: skip


def _part(row: Row) -> DramPart:
    kind = row.text("dram")
    parts = _parts()
    if kind not in parts:
        raise TableError(f"column dram: {kind!r} is not one of {', '.join(parts)}")
    for column, preset in zip(("org", "timing"), PRESETS[kind]):
        if row.text(column, preset) != preset:
            raise TableError(f"column {column}: {row.text(column)!r}; of {kind} the preset {preset} is known")
    return parts[kind]


def kind_of_dram(name: str) -> DramPart:
    """The DRAM of a kind (HBM2, HBM3, DDR4, GDDR6, LPDDR5) as the source resolves it; raises KeyError."""
    return _parts()[name]


@cache
def _parts() -> dict[str, DramPart]:
    text = resources.files("npusim.validate").joinpath("data", "ramulator2.yaml").read_text(encoding="utf-8")
    return {name: DramPart.model_validate(figures) for name, figures in load_plain(text).items()}


def _one_of(row: Row, name: str, known: dict[str, Any]) -> Any:
    if row.text(name) not in known:
        raise TableError(f"column {name}: {row.text(name)!r} is not one of {', '.join(known)}")
    return known[row.text(name)]


def _at_most(row: Row, name: str, limit: int) -> int:
    value = row.integer(name)
    if value > limit:
        raise TableError(f"column {name}: {value} is more than {limit}")
    return value


def _scale(part: DramPart) -> int:
    return 2 if part.half_cycle_commands else 1


def _rounded(measured: float, simulated: float) -> tuple[int, int]:
    """Latencies in units of the last printed digit; a rounding of the same figure is the same."""
    printed = round(measured * 1e4)
    return printed, printed if abs(simulated * 1e4 - printed) <= 0.5001 else round(simulated * 1e4)
