"""JEDEC rules of DRAM commands, written down once more, and a checker of command logs that knows nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isa.memory import DramPart

NEVER = -(10**9)
Place = tuple[int, int, int, int]  # pseudo-channel, stack id, bank group, bank


@dataclass(frozen=True)
class Command:
    """One command; those of all banks of a pseudo-channel have group and bank -1."""

    tick: int
    kind: str
    place: Place
    row: int = -1


def scale_of(part: DramPart) -> int:
    """Ticks of a command clock cycle."""
    return 2 if part.half_cycle_commands else 1


def lengths(part: DramPart) -> dict[str, int]:
    """Ticks that a command takes on its bus."""
    act = round(part.act_cycles * scale_of(part))
    return {"ACT": act, "RD": scale_of(part), "WR": scale_of(part), "PRE": 1, "PREA": 1, "REFA": 1, "REFB": 1}


def nominal_rules(part: DramPart) -> list[tuple[str, str, str, int]]:
    """(before, after, scope, cycles): from the last tick of one command to the last of the other, within the scope."""
    t, bl = part.timing, math.ceil(part.burst_length / part.data_rate)
    written = t.nCWL + bl
    short, long = max(t.nCCD_S, bl), max(t.nCCD_L, bl)
    write_short, write_long = max(t.nCCD_S_WR or t.nCCD_S, bl), max(t.nCCD_L_WR or t.nCCD_L, bl)
    if part.bank_groups == 1:
        short, write_short = long, write_long
    found = [
        ("ACT", "RD", "bank", t.nRCDRD), ("ACT", "WR", "bank", t.nRCDWR), ("ACT", "PRE", "bank", t.nRAS),
        ("ACT", "ACT", "bank", t.nRC), ("PRE", "ACT", "bank", t.nRP), ("RD", "PRE", "bank", t.nRTP),
        ("WR", "PRE", "bank", written + t.nWR), ("ACT", "ACT", "group", t.nRRD_L), ("ACT", "ACT", "pseudo", t.nRRD_S),
        ("RD", "RD", "pseudo", short), ("RD", "RD", "group", long),
        ("WR", "WR", "pseudo", write_short), ("WR", "WR", "group", write_long),
        ("RD", "WR", "pseudo", t.nRTW or t.nCL + bl + 2 - t.nCWL), ("WR", "RD", "pseudo", written + t.nWTR_S),
        ("WR", "RD", "group", t.nCWL + (t.nBL_max or bl) + t.nWTR_L),
        ("ACT", "PREA", "pseudo", t.nRAS), ("RD", "PREA", "pseudo", t.nRTP), ("WR", "PREA", "pseudo", written + t.nWR),
        ("PREA", "ACT", "pseudo", t.nRPab or t.nRP), ("PREA", "REFA", "pseudo", t.nRP),
        ("PRE", "REFA", "pseudo", t.nRP),
        ("ACT", "REFA", "pseudo", t.nRC), ("REFA", "ACT", "pseudo", t.nRFC), ("REFA", "REFA", "pseudo", t.nRFC),
        ("REFA", "PREA", "pseudo", t.nRFC),
    ]  # fmt: skip
    if t.nPPD:
        found += [(a, b, "pseudo", t.nPPD) for a in ("PRE", "PREA") for b in ("PRE", "PREA")]
    if t.nRFCpb:
        found += [
            ("ACT", "REFB", "bank", t.nRC), ("PRE", "REFB", "bank", t.nRP), ("REFB", "ACT", "bank", t.nRFCpb),
            ("REFB", "REFB", "bank", t.nRFCpb), ("REFB", "REFB", "pseudo", t.nRREFD),
            ("REFB", "ACT", "pseudo", t.nRREFD if t.nRREFD_ACT is None else t.nRREFD_ACT),
            ("ACT", "REFB", "pseudo", t.nRRD_S),
            ("PREA", "REFB", "pseudo", t.nRPab or t.nRP),
        ]  # fmt: skip
    return found


def scope_of(place: Place, scope: str) -> tuple[int, ...]:
    """What of a place two commands must share."""
    return place[: {"channel": 0, "pseudo": 1, "stack": 2, "group": 3, "bank": 4}[scope]]


def check_log(log: list[Command], part: DramPart) -> None:
    """Replay one channel in the order of time: every rule kept, every command legal in its bank's state."""
    length, scale = lengths(part), scale_of(part)
    rows: dict[Place, int] = {}
    for i, c in enumerate(log):
        for before, after, scope, cycles in nominal_rules(part):
            if after != c.kind:
                continue
            for other in log[:i]:
                if other.kind == before and scope_of(other.place, scope) == scope_of(c.place, scope):
                    ends = c.tick + length[c.kind] - (other.tick + length[before])
                    assert ends >= cycles * scale, (before, after, scope, cycles, other, c)
                if c.kind == other.kind == "RD" and c.place[0] == other.place[0] and c.place[1] != other.place[1]:
                    assert c.tick - other.tick >= (part.timing.nCCD_R or 0) * scale
        acts = [o.tick for o in log[:i] if o.kind == "ACT" and o.place[0] == c.place[0]]
        if c.kind == "ACT" and len(acts) >= 4:
            assert c.tick >= acts[-4] + part.timing.nFAW * scale
        _check_state(c, rows)


def _check_state(c: Command, rows: dict[Place, int]) -> None:
    if c.kind == "ACT":
        assert c.place not in rows, c
        rows[c.place] = c.row
    elif c.kind == "PRE":
        del rows[c.place]
    elif c.kind == "PREA":
        for place in [p for p in rows if p[0] == c.place[0]]:
            del rows[place]
    elif c.kind == "REFA":
        assert not [p for p in rows if p[0] == c.place[0]], c
    elif c.kind == "REFB":
        assert c.place not in rows, c
    else:
        assert rows[c.place] == c.row, c
