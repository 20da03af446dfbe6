"""Requests a CPU second of the DRAM controllers: tick-exact as Ramulator 2.1, and with the options of real ones.

    python tests/bench/bench_dram.py [--reference | --default]

The streams are those of `npusim validate --kind dram`. The speed of Ramulator 2.1 (commit c5b1c3a, g++ 12.2 -O3, one
core of an AMD EPYC at one request a transaction) is the one that was measured with the golden runs.
"""

from __future__ import annotations

import sys
import time

from npusim.validate.dram import _parts, ramulator2, run_stream
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


def reference() -> None:
    """Print requests/s of the tick-exact mode beside those of Ramulator 2.1."""
    print("| dram | stream | channels | requests | ticks | requests/s | Ramulator 2.1 | ratio |\n|---|---|---|---|---|---|---|---|")
    for dram, kind, channels, params, inject, refresh, theirs in STREAMS:
        part = _parts()[dram]
        stream = make_stream(kind, params, part.burst_bytes, channels, inject)
        options = ramulator2(refresh="all_bank" if refresh else "none")
        best, found = 1e9, {}
        for _ in range(3):
            found = run_stream(part, options, channels, 256, stream)
            best = min(best, found["cpu_s"])
        speed = len(stream.address) / best
        ratio = f"{speed / theirs:.1f}"
        print(f"| {dram} | {kind} | {channels} | {len(stream.address)} | {found['cycles']} | {speed:,.0f} | {theirs:,} | {ratio} |")


if __name__ == "__main__":
    if "--default" not in sys.argv:
        reference()
