"""The network's speed, and how far its packets are from flits: python tests/bench/bench_noc.py [--speed | --table]

Speeds are flit-hops and packets a CPU second (process_time), kernels compiled before. The table is that of
docs/memory/network.md: mean latency of packets under uniform random traffic, packet model against flit model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "npusim")]

import numpy as np  # noqa: E402
from noc_twin import describe, mean_latencies, uniform  # noqa: E402

from npusim.jit import kernel  # noqa: E402
from npusim.memory.noc.flit_state import make_flits  # noqa: E402
from npusim.memory.noc.packet import network_send  # noqa: E402
from npusim.memory.noc.run import push_packets, run_flits  # noqa: E402
from npusim.memory.noc.state import CT_FLITS, Array, make_network  # noqa: E402

CYCLES, FLITS, REPEATS = 20_000, 4, 3
NETWORKS: list[tuple[str, dict[str, Any], int]] = [
    ("crossbar", {}, 64), ("ring", {}, 16), ("mesh", {"columns": 8}, 64), ("torus", {"columns": 8}, 64),
]  # fmt: skip
TABLE: list[tuple[str, dict[str, Any], int]] = [
    *(("crossbar", {"virtual_channels": v}, 32) for v in (2, 4, 8)),
    ("crossbar", {"virtual_channels": 8, "ordered": False}, 32),
    ("ring", {"virtual_channels": 4}, 16), ("mesh", {"columns": 4, "virtual_channels": 4}, 16),
    ("torus", {"columns": 4, "virtual_channels": 4}, 16), ("mesh", {"columns": 8, "virtual_channels": 4}, 64),
]  # fmt: skip


@kernel
def send_all(params: Array, links: Array, routes: Array, counters: Array, rows: Array) -> int:
    """Send every row; the latest arrival."""
    last = 0
    for i in range(rows.shape[0]):
        last = max(last, network_send(params, links, routes, counters, rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]))
    return last


def best(prepare: Callable[[], Any], work: Callable[[Any], Any]) -> tuple[float, Any]:
    """The least CPU seconds of some runs, and what the last one worked on."""
    seconds, made = [], None
    for _ in range(REPEATS + 1):
        made = prepare()
        start = time.process_time()
        work(made)
        seconds.append(time.process_time() - start)
    return min(seconds[1:]), made


def speed() -> None:
    """Print a table of speeds."""
    print("| network | model | load | packets | hops | M packets/s | M flit-hops/s | ns a packet |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, fields, nodes in NETWORKS:
        for load in (0.1, 0.3):
            rows = np.array(uniform(nodes, load, FLITS, CYCLES), np.int64)
            for model in ("flit", "packet", "bandwidth"):
                network = describe(kind, **fields, model=model, virtual_channels=4)

                def prepare(network: Any = network, nodes: int = nodes, rows: Any = rows, model: str = model) -> Any:
                    state = make_network(network, nodes, 0, 0)
                    if model != "flit":
                        return state, None
                    flits = make_flits(state, len(rows), len(rows), len(rows) + nodes)
                    push_packets(flits, rows)
                    return state, flits

                def work(made: Any, rows: Any = rows) -> None:
                    state, flits = made
                    if flits is not None:
                        run_flits(flits, 1 << 40)
                    else:
                        send_all(state.params, state.links, state.routes, state.counters, rows)

                seconds, (state, _) = best(prepare, work)
                hops = int(state.counters[nodes:, CT_FLITS].sum())
                print(
                    f"| {kind} {nodes} | {model} | {load:.0%} | {len(rows)} | {hops / FLITS / len(rows):.1f} | "
                    f"{len(rows) / seconds / 1e6:.2f} | {hops / seconds / 1e6:.1f} | {seconds / len(rows) * 1e9:.0f} |"
                )


def table() -> None:
    """Print latencies by flits and by packets, and the difference."""
    loads = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    print("| network | channels | flits | " + " | ".join(f"{load:.0%}" for load in loads) + " |")
    print("|---|---|---|" + "---|" * len(loads))
    for kind, fields, nodes in TABLE:
        for flits in (1, 4):
            network = describe(kind, **fields)
            cells = []
            for load in loads:
                truth, packets = mean_latencies(network, nodes, uniform(nodes, load, flits, 3000))
                saturated = truth > 20 * (5 if kind == "crossbar" else 10)  # many times that of an idle network
                cells.append("saturated" if saturated else f"{truth:.1f} {packets / truth - 1:+.0%}")
            channels = f"{network.virtual_channels} {'ordered' if network.ordered else 'free'}"
            print(f"| {kind} {nodes} | {channels} | {flits} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if "--table" not in sys.argv:
        speed()
    if "--speed" not in sys.argv:
        table()
