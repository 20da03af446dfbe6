"""Requests a CPU second of the DRAM controllers: tick-exact as Ramulator 2.1, and with the options of real ones.

    python tests/bench/bench_dram.py [--reference | --default] [--write]

--write puts the tables between their markers in docs/memory.md.

The streams are those of `npusim validate --kind dram`. The speed of Ramulator 2.1 (commit c5b1c3a, g++ 12.2 -O3, one
core of an AMD EPYC at one request a transaction) is the one that was measured with the golden runs.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isa.loader import load_chip
from npusim.memory.dram import advance
from npusim.memory.port import (
    HEAP_SIZE,
    REQ_ADDRESS,
    REQ_BYTES,
    REQ_TIME_FS,
    REQ_WRITE,
    RING_TAIL,
    RSP_TIME_FS,
    make_port,
)
from npusim.memory.state import Chip, make_memory
from npusim.validate.dram import kind_of_dram, ramulator2, run_stream
from npusim.validate.dram_streams import make_stream

# dram, stream, channels, parameters, (ticks, requests) of an injection group, refresh, Ramulator's requests/s
# fmt: off
STREAMS = [
    (dram, kind, channels, params, inject, refresh, speeds[i])
    for dram, many, row, conflict, d, wide, speeds in (
        ("HBM2", 8, 1024, 32768, 16777216 + 17408, 32, (620732, 237918, 805665, 26226, 123001, 531067)),
        ("HBM3", 16, 1024, 65536, 16777216 + 17408, 32, (339789, 159452, 462302, 10903, 130719, 281452)),
        ("DDR4", 2, 8192, 131072, 16777216 + 17408, 64, (362450, 173736, 476945, 30455, 214823, 376223)),
        ("GDDR6", 8, 4096, 65536, 16777216 + 17408, 32, (722022, 212272, 793184, 30912, 228833, 640000)),
        ("LPDDR5", 4, 2048, 32768, 16777216 + 17408, 32, (474608, 226348, 488550, 31918, 188679, 461574)),
    )
    for i, (kind, channels, params, inject, refresh) in enumerate((
        ("a", 1, "N=100000", (0, 1), True), ("d", 1, f"N=51200;seed=1;B={wide}", (0, 1), True),
        ("e", 1, f"N=102400;seed=3;D={d}", (0, 1), True), ("c_conf", 1, f"N=20000;S={conflict}", (0, 1), True),
        ("h", 1, "N=20000;seed=4", (200, 1), False), ("b", many, "N=200000", (0, 1), True),
    ))
]
# fmt: on


COLUMNS = ("dram", "stream", "channels", "requests", "ticks", "requests/s", "Ramulator 2.1", "ratio")
# chip, what it has else, requests, bytes each, share that writes, load on the peak, random
DDR4 = ("memory.dram=ddr4-3200", "memory.channels=4", "memory.capacity_bytes=8589934592")
TRAFFIC: list[tuple[str, tuple[str, ...], int, int, float, float, bool]] = [
    ("tpu-v3", (), 100_000, 512, 0.0, 0.93, False), ("tpu-v3", (), 100_000, 512, 0.3, 0.85, False),
    ("tpu-v3", (), 100_000, 64, 0.3, 0.8, False), ("tpu-v3", DDR4, 100_000, 64, 0.3, 0.8, False),
    ("tpu-v3", (), 100_000, 64, 0.0, 0.25, True),
    ("tpu-v3", (), 1_000, 1 << 20, 0.0, 0.97, False), ("tpu-v3", DDR4, 500, 1 << 20, 0.0, 0.9, False),
    ("h100", (), 14_000, 1 << 20, 0.0, 0.97, False),
]  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
RING = 4096
OUTSTANDING_BYTES = 8 << 20


def row(*cells: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def reference() -> Iterator[str]:
    """Requests/s of the tick-exact mode beside those of Ramulator 2.1."""
    yield from (row(*COLUMNS), row(*("---" for _ in COLUMNS)))
    for dram, kind, channels, params, inject, refresh, theirs in STREAMS:
        part = kind_of_dram(dram)
        stream = make_stream(kind, params, part.burst_bytes, channels, inject)
        options = ramulator2(refresh="all_bank" if refresh else "none")
        best, found = 1e9, {}
        for _ in range(3):
            found = run_stream(part, options, channels, 256, stream)
            best = min(best, found["cpu_s"])
        count, speed = len(stream.address), len(stream.address) / best
        speeds = (f"{speed:,.0f}", f"{theirs:,}", f"{speed / theirs:.1f}")
        yield row(dram, kind, channels, count, found["cycles"], *speeds)


def default() -> Iterator[str]:
    """Requests/s and bursts/s of the default controllers behind the port, fed window by window."""
    columns = ("chip", "requests", "bytes", "writes", "load", "of peak", "M requests/s", "M bursts/s", "CPU s")
    yield from (row(*columns), row(*("---" for _ in columns)))
    for name, settings, count, size, writes, load, scattered in TRAFFIC:
        chip = load_chip(name, settings).chip
        title = f"{name}, {chip.memory.channels} channels of {settings[0].split('=')[1]}" if settings else name
        best, share, bursts = 1e9, 0.0, 0
        for _ in range(3):
            cpu_s, share, bursts = feed(chip, count, size, writes, load, scattered)
            best = min(best, cpu_s)
        kind = f"{size}, random" if scattered else size
        rates = (f"{count / best / 1e6:.2f}", f"{bursts / best / 1e6:.1f}", f"{best:.2f}")
        yield row(title, count, kind, f"{writes:.0%}", f"{load:.0%}", f"{share:.1%}", *rates)


def feed(
    chip: Chip, count: int, size: int, writes: float, load: float, scattered: bool
) -> tuple[float, float, int]:
    """Feed requests at a share of the peak; return CPU s of the kernels, the share reached, and bursts."""
    memory, random = chip.memory, np.random.default_rng(1)
    peak = memory.channels * memory.dram.channel_bytes_per_second
    state, port = make_memory(chip), make_port(RING, 2 * RING)
    time_fs = (np.arange(count) * (size / peak / load * 1e15)).astype(np.int64)
    address = (random.integers(0, memory.capacity_bytes // size, count) if scattered else np.arange(count)) * size
    write = (random.random(count) < writes).astype(np.int64)
    cpu_s, last, done = 0.0, 0, 0
    window = max(1, min(RING // 2, OUTSTANDING_BYTES // size))
    for first in range(0, count, window):
        chosen = slice(first, min(count, first + window))
        places = (int(port.ring[RING_TAIL]) + np.arange(chosen.stop - first)) % RING
        for column, values in ((REQ_TIME_FS, time_fs), (REQ_ADDRESS, address), (REQ_WRITE, write)):
            port.requests[places, column] = values[chosen]
        port.requests[places, REQ_BYTES] = size
        port.ring[RING_TAIL] += len(places)
        started = time.process_time()
        advance(state, port, int(time_fs[chosen.stop]) if chosen.stop < count else 1 << 60)
        cpu_s += time.process_time() - started
        answers = int(port.heap_state[HEAP_SIZE])
        last, done = max([last, *port.responses[:answers, RSP_TIME_FS].tolist()]), done + answers
        port.heap_state[HEAP_SIZE] = 0
    assert done == count
    found = state.summary()
    return cpu_s, count * size / (last * 1e-15) / peak, found["read_bursts"] + found["write_bursts"]


if __name__ == "__main__":
    wanted = {"speed reference": reference, "speed default": default}
    for name, table in wanted.items():
        if f"--{name.split()[1]}" not in sys.argv and {"--reference", "--default"} & set(sys.argv):
            continue
        lines = []
        for line in table():
            print(line, flush=True)
            lines.append(line)
        if "--write" in sys.argv:
            begin, end, text = f"<!-- {name} -->", f"<!-- end {name} -->", PAGE.read_text(encoding="utf-8")
            body = "\n".join([begin, *lines, end])
            PAGE.write_text(re.sub(f"{begin}.*?{end}", lambda _: body, text, flags=re.S), encoding="utf-8")  # noqa: B023
