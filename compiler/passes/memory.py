"""Memory planning with reuse: addresses for tensors whose lifetimes are known, so that no two live ones overlap.

Largest first, each at the lowest address that is free for its whole life (greedy by size: Pisarchyk and Lee, "Efficient
Memory Management for Deep Neural Net Inference", 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Life = tuple[str, int, int, int]  # name, size_bytes, first and last step that touches it


@dataclass(frozen=True)
class Plan:
    """Addresses in bytes, the peak they reach, the most bytes ever live (lower bound) and the sum (no reuse)."""

    addresses: Mapping[str, int]
    peak_bytes: int
    max_live_bytes: int
    naive_bytes: int


def plan(tensors: Sequence[Life], align: int = 256) -> Plan:
    """Place every tensor; `align` is a power of two. Sizes are rounded up to it."""
    sizes = {name: -(-max(1, size) // align) * align for name, size, _, _ in tensors}
    placed: list[tuple[int, int, int, int]] = []  # address, end, first, last
    addresses: dict[str, int] = {}
    for name, _, first, last in sorted(tensors, key=lambda t: (-sizes[t[0]], t[2], t[0])):
        address = 0
        for start, end, other_first, other_last in sorted(placed):
            if other_last < first or last < other_first:
                continue
            if address + sizes[name] <= start:
                break
            address = max(address, end)
        placed.append((address, address + sizes[name], first, last))
        addresses[name] = address
    peak = max((end for _, end, _, _ in placed), default=0)
    steps = sorted({step for _, _, first, last in tensors for step in (first, last)})
    live = max((sum(sizes[n] for n, _, f, e in tensors if f <= step <= e) for step in steps), default=0)
    return Plan(addresses, peak, live, sum(sizes.values()))
