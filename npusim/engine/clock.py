"""Clock edges in femtoseconds, computed from the edge number and never accumulated.

A clock of f kHz has its edge k at floor(k * 10**12 / f) fs = k*q + (k*r)//f with 10**12 = q*f + r.
"""

from __future__ import annotations

from npusim.jit import kernel

FS_PER_KHZ_PERIOD = 10**12  # femtoseconds of a 1 kHz period
INT64_MAX = 2**63 - 1


def clock_parts(khz: int) -> tuple[int, int, int]:
    """Return (q, r, f) of a clock of `khz` kHz, the first arguments of every function here; 0 < khz <= 10**12."""
    if not 0 < khz <= FS_PER_KHZ_PERIOD:
        raise ValueError(f"clock of {khz} kHz: must be above 0 and at most {FS_PER_KHZ_PERIOD} kHz (1 fs)")
    return FS_PER_KHZ_PERIOD // khz, FS_PER_KHZ_PERIOD % khz, khz


def last_edge(khz: int) -> int:
    """Return the largest edge number whose time, and every product on the way to it, still fits int64."""
    q, r, f = clock_parts(khz)
    by_time = (INT64_MAX * f) // FS_PER_KHZ_PERIOD
    return min(by_time, INT64_MAX // max(r, 1), INT64_MAX // q)


@kernel
def edge_fs(k: int, q: int, r: int, f: int) -> int:
    """Return the time of edge `k` in fs."""
    return k * q + (k * r) // f


@kernel
def edge_from(k: int, time_fs: int, q: int, r: int, f: int) -> int:
    """Return the number of the first edge at or after `time_fs` and not before edge `k`; quick when k is near."""
    gap = time_fs - edge_fs(k, q, r, f)
    while gap > 0:  # a period is at most q + 1 fs; each step shrinks the gap by a factor of about q
        k += max(1, gap // (q + 1))
        gap = time_fs - edge_fs(k, q, r, f)
    return k


@kernel
def next_edge(time_fs: int, q: int, r: int, f: int) -> int:
    """Return the number of the first edge at or after `time_fs` (>= 0)."""
    return edge_from(time_fs // (q + 1), time_fs, q, r, f)
