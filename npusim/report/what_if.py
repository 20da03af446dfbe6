"""What more DRAM bandwidth would bring: a bound from recorded counters, not a promise that other units keep up.

A copy engine waits for memory for two reasons. Its requests in flight are at their limit, because the DRAM does not
deliver as fast as the path takes; then more bandwidth shortens the wait. Or it has sent all that it has to, and waits
for the last answers on their way; of that, only the share that requests spend behind others can go. Which of the two,
the requests in flight tell (Little's law: requests a second times the latency of one). A number that swings between
none and its most is half of that on average, so only what a mean has above half of its most counts as time at the most:
of the requests in flight against what the engine allows, of the bytes against the DRAM's peak, and of any other
resource, in whose time the memory does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isa.machine import Machine
from npusim.record import CAUSE_ID, Record
from npusim.report.bounds import BOUND_SHARE, shares
from npusim.report.profile import Profile
from npusim.report.stalls import BUSY, DMA, pipe_class

WHAT_IF = 1.2  # the bandwidth of the hint, against the machine's
HELD_UP = CAUSE_ID["memory_bandwidth"]
OTHERS = ("compute", "host link", "on-chip", "dispatch")  # resources beside the memory
BANDWIDTH, COPIES, OTHER, LATENCY = "bandwidth", "copy engines", "other units", "latency"  # values of `limit`
NOTHING = "none"  # where memory bounds no operator


@dataclass(frozen=True)
class _Requests:
    """Of a run's requests at the cores' port: mean bytes, mean seconds from leaving the core to being back, and the
    share of that spent behind other requests."""

    size_bytes: float
    seconds: float
    waiting: float


def _requests(record: Record, machine: Machine) -> _Requests:
    memory = record.memory
    assert memory is not None
    found: Any = record.dram_counters if memory.shared is None else memory.shared.totals
    count = max(1, int(found["reads"]) + int(found["writes"]))
    way = (machine.memory.request_latency_cycles + machine.memory.response_latency_cycles) / (machine.clock_mhz * 1e6)
    seconds = way + found["latency_fs"] / count * 1e-15
    size_bytes = max(1.0, (found["read_bytes"] + found["write_bytes"]) / count)
    return _Requests(size_bytes, seconds, found["wait_fs"] / count * 1e-15 / seconds)


@dataclass(frozen=True)
class _Use:
    """Shares of an operator's cycles: its bytes at the DRAM's peak, its busiest copy engine at work and `held` up by
    memory, the busiest resource of the `others`; and `in_flight`, requests of that engine over what it allows."""

    dram: float
    busy: float
    held: float
    in_flight: float
    others: float


def _above_half(share: float) -> float:
    """Of a mean share of the most: the part of the time that was surely spent at the most."""
    return min(1.0, max(0.0, 2 * share - 1))


class _Copies:
    """The copy engines and weight ports on DRAM paths of a run."""

    def __init__(self, profile: Profile) -> None:
        machine, pipes = profile.machine, profile.result.record.pipes
        engines = [name for name, engine in machine.core.dma.items() for _ in range(engine.count)]
        names = {p.index: p.pipe_class for p in pipes}
        names |= dict(zip((p.index for p in pipes if pipe_class(p) == DMA), engines))
        limits = {name: engine.outstanding for name, engine in machine.core.dma.items()}
        limits["weights"] = machine.core.matrix.weight_outstanding
        linked = {path.pipe for path in machine.core.paths if "dram" in (path.src, path.dst)}
        self.allowed = {  # requests in flight of each group of pipes
            i: sum(limits[names[pipe]] for pipe in group.members) * group.instances // len(group.members)
            for i, group in enumerate(profile.groups) if names[group.members[0]] in linked
        }  # fmt: skip
        self.through = [i for i, level in enumerate(profile.levels) if "dram" in (level.src, level.dst)]
        self.requests = _requests(profile.result.record, machine)
        self.profile = profile

    def use(self, launches: list[int], cycles: int) -> _Use:
        """What one operator uses."""
        profile, groups = self.profile, self.profile.groups
        states, moved = profile.launch_states[launches].sum(axis=0), profile.launch_bytes[launches].sum(axis=0)
        found = shares(states, moved, cycles, groups, profile.pipe_kinds, profile.levels)
        used = {i: (states[i, BUSY] + states[i, HELD_UP]) / groups[i].instances for i in self.allowed}
        engine = max(used, key=lambda i: used[i])
        whole = cycles * groups[engine].instances
        asked = float(moved[self.through].sum()) / self.requests.size_bytes
        in_flight = asked * self.requests.seconds / profile.seconds(used[engine] or 1.0)
        return _Use(
            float(moved[0]) / (profile.levels[0].peak * cycles), float(states[engine, BUSY]) / whole,
            float(states[engine, HELD_UP]) / whole, in_flight / self.allowed[engine],
            max(share for name, share in found.items() if name in OTHERS),
        )  # fmt: skip


def what_if(profile: Profile, bandwidth: float = WHAT_IF) -> dict[str, Any]:
    """What `bandwidth` times the DRAM's would bring, to first order and by nothing else than recorded counters.

    `time_share` is the new time over the old. Only operators that memory bounds become shorter, each by the least of
    what its bytes at the DRAM's peak save, what the DRAM's time at its peak saves, what its busiest copy engine waits
    for because of bandwidth (the engine's path stays as it is), and what is not the time of another resource: arrays,
    on-chip paths, the sequencer. `limit` is what stands in the way of the rest: the DRAM's bandwidth still, the copy
    engines at the rate of their paths, other units, or latency. `memory_bound_share` is the share of the new time spent
    in operators that memory still bounds, beside the present one.
    """
    before = after = bound_before = bound_after = plain = 0.0
    rest = dict.fromkeys((COPIES, OTHER, LATENCY), 0.0)
    saved, copies = 1 - 1 / bandwidth, _Copies(profile)
    for row, launches in zip(profile.rows, profile.launches_of):
        cycles, gain = float(row.cycles), 0.0
        if row.bound_by == "memory":
            use = copies.use(launches, row.cycles)
            gain = _gain(use, copies.requests.waiting, saved)
            bound_before, plain = bound_before + cycles, plain + cycles * use.dram * saved
            for name, share in ((COPIES, use.busy), (OTHER, use.others), (LATENCY, 1 - max(use.busy, use.others))):
                rest[name] += cycles * share
        shrunk = cycles * (1 - gain)
        before, after = before + cycles, after + shrunk
        # Copies that the DRAM does not limit go on as long as before.
        if row.bound_by == "memory" and cycles * (row.bound_share - gain) >= BOUND_SHARE * shrunk:
            bound_after += shrunk
    limit = BANDWIDTH if before - after >= plain / 2 else max(rest, key=lambda name: rest[name])
    return {
        "bandwidth": bandwidth,
        "time_share": after / before if before else 1.0,
        "limit": limit if bound_before else NOTHING,
        "memory_bound_share": bound_after / after if after else 0.0,
        "memory_bound_share_now": bound_before / before if before else 0.0,
    }


def _gain(use: _Use, waiting: float, saved: float) -> float:
    """The share of an operator's time that goes when DRAM time shrinks by the share `saved`; `waiting` is the share of
    a request's time that it spends behind others."""
    used, limited = use.busy + use.held, _above_half(use.in_flight)
    at_peak = used * _above_half(use.dram / used) if used else 0.0
    free = 1 - _above_half(use.others)
    return min(saved * min(use.dram, at_peak, free), use.held * (limited + (1 - limited) * waiting))
