"""Bundling for vliw machines: consecutive independent instructions share a bundle under its slot limits.

Packing keeps program order, so a bundle means what its instructions mean one after another. On other machines every
instruction is its own bundle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.machine import Machine
from isa.program import DESC
from isa.table import BY_CODE, CROSS_LANE, DMA, DRAIN, MATRIX, STOP, VECTOR, WEIGHTS, code
from isa.verify import slot_limits, slot_of

Array = npt.NDArray[Any]
BRANCHES = {code(n) for n in ("br", "bz", "bnz", "loop")}
ALONE = {code(n) for n in ("wait", "barrier", "fence", "halt", "endl")}


def pack(records: Sequence[Array], machine: Machine, start: int, descs: Array | None = None) -> list[Array]:
    """Set STOP flags; `start` is the address of the first record. Branch targets begin bundles."""
    if machine.core.bundle is None:
        return list(records)
    limits, depths = slot_limits(machine), queue_depths(machine)
    targets = {int(r["imm"]) - start for r in records if int(r["op"]) in BRANCHES}
    room: dict[str, int] = {}
    queued: Counter[int] = Counter()  # instructions of the bundle by pipe class: more than a queue holds never issue
    written: set[int] = set()
    previous: Array | None = None
    for i, record in enumerate(records):
        op = int(record["op"])
        slot = slot_of(BY_CODE[op].pipe, machine)
        reads, writes = registers(record, descs)
        pipe = BY_CODE[op].pipe
        free = room.get(slot, 0) > 0 and queued[pipe] < depths.get(pipe, 1 << 30)
        fits = free and not (reads | writes) & written and i not in targets and op not in ALONE
        if previous is not None and not fits:
            previous["flags"] |= STOP
        if previous is None or not fits:
            room, written = dict(limits), set()
            queued.clear()
        room[slot] = room.get(slot, 1) - 1
        queued[pipe] += 1
        written |= writes
        record["flags"] &= ~np.uint16(STOP)
        if op in BRANCHES or op in ALONE:
            record["flags"] |= STOP
            room, written = {}, set()
        previous = record
    if previous is not None:
        previous["flags"] |= STOP
    return list(records)


def queue_depths(machine: Machine) -> dict[int, int]:
    """Instructions that the shallowest queue of a pipe class holds; the vector unit may stand for two of them."""
    core = machine.core
    depths = {WEIGHTS: core.matrix.queue_depth, MATRIX: core.matrix.queue_depth,
              DMA: min(e.queue_depth for e in core.dma.values())}
    vector = core.vector.queue_depth if core.vector else 1
    depths[VECTOR] = vector
    depths[CROSS_LANE] = core.cross_lane.queue_depth if core.cross_lane else vector
    depths[DRAIN] = core.drain.queue_depth if core.drain else vector
    return depths


def registers(record: Array, descs: Array | None) -> tuple[set[int], set[int]]:
    """(registers read, registers written) by an instruction, those of its descriptors included."""
    op = BY_CODE[int(record["op"])]
    reads: set[int] = set()
    writes: set[int] = set()
    for token in op.fields.split():
        name = token.rstrip("?")
        if name in ("ra", "rb", "rc", "rd"):
            field = {"ra": "a", "rb": "b", "rc": "c", "rd": "dst"}[name]
            if int(record[field]) >= 0:
                (writes if name == "rd" else reads).add(int(record[field]))
        elif name in ("Dd", "Da", "Db", "Dc") and descs is not None:
            field = {"Dd": "dst", "Da": "a", "Db": "b", "Dc": "c"}[name]
            if int(record[field]) >= 0:
                reads |= descriptor_registers(descs[int(record[field])])
    return reads, writes


def descriptor_registers(desc: Array) -> set[int]:
    """Registers that an operand's address and extents come from."""
    assert desc.dtype == DESC
    found = {int(desc["base_reg"])}
    for name in ("ext_reg", "origin_reg", "limit_reg"):
        found |= set(map(int, desc[name]))
    return {r for r in found if r >= 0}
