"""Random small programs that are legal and end: hypothesis draws machine and instructions together."""

from __future__ import annotations

from collections import Counter
from typing import Any

from engine_fixture import LOAD, STORE, small_machine
from functional_fixture import Asm
from hypothesis import strategies as st

from isa.machine import Machine
from isa.program import Program
from isa.table import CROSS_LANE, DRAIN, MATRIX, NEXT_TILE, STOP, VECTOR, WEIGHTS, code

FLAGS = 4
COUNTS = st.integers(1, 3)
DRAM_HALF = 1 << 18


@st.composite
def machines(draw: Any, issue: str) -> Machine:
    """A small machine with drawn depths, rates, latencies and options."""

    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    def depth() -> int:
        """Of a queue: a bundle with three instructions for it must fit."""
        return pick(1, 2, 3) if issue == "inorder" else pick(3, 4)

    slices = pick(1, 2, 4)
    shared = {
        "size_bytes": pick(512, 2048, 16384), "ways": pick(1, 2, 4), "line_bytes": pick(64, 128), "sector_bytes": 32,
        "slices": slices, "partitions": pick(1, min(2, slices)), "slice_bytes": pick(128, 4096),
        "write": pick("back", "through"), "write_allocate": pick(True, False), "mshrs": pick(1, 2, 64),
        "mshr_targets": pick(1, 4), "bytes_per_cycle": pick(8, 32), "hit_latency_cycles": pick(1, 9),
        "far_latency_cycles": pick(0, 20), "far_bytes_per_cycle": pick(None, 16), "replicate": pick(True, False),
        "miss_latency_cycles": pick(1, 7), "fill_latency_cycles": pick(1, 5), "clock_mhz": pick(None, 500, 1300),
    }  # fmt: skip
    network = pick(None, {"topology": "crossbar"}, {"topology": "ring"}, {"topology": "mesh", "columns": 2},
                   {"topology": "torus", "columns": 2, "channel_nodes": [0, 1]},
                   {"topology": "crossbar", "model": "bandwidth"})  # fmt: skip
    with_shared = pick(False, True)
    groups = pick(0, 2, 4, 16)
    return small_machine(issue, **{
        "memory.l2": shared if with_shared else None,
        "memory.network": {"flit_bytes": 32, **network} if with_shared and network else None,
        "cores": pick(1, 2), "clock_mhz": pick(700, 1000, 333.3), "launch_cycles": pick(0, 7),
        "core.scalar.cycles": pick(0, 1, 2), "core.window": pick(3, 4, 12, 62) if issue == "inorder" else pick(9, 62),
        "core.spaces.spm.ports": pick(1, 2, 3, 8), "core.spaces.acc.ports": pick(1, 2, 8),
        "core.spaces.spm.write_stall_cycles": pick(0, 1, 4),
        "core.matrix.weight_fifo_tiles": pick(1, 2, 4), "core.matrix.weight_double_buffer": pick(True, False),
        "core.matrix.fold_overlap": pick(True, False), "core.matrix.weight_load_cycles": pick(None, 0, 9),
        "core.matrix.psum_hop_cycles": pick(1, 2), "core.matrix.queue_depth": depth(),
        "core.matrix.weight_outstanding": pick(1, 2, 64), "core.matrix.weight_request_bytes": pick(16, 32, 256),
        "core.vector.queue_depth": depth(), "core.vector.latency_cycles": pick(0, 6),
        "core.vector.lane_bytes": pick(0, 4, 8), "core.spaces.spm.bank_groups": groups,
        "core.spaces.spm.bank_bytes": pick(4, 32), "core.spaces.spm.bank_size_bytes": pick(0, 32, 128) if groups else 0,
        "block_cycles": pick(0, 5),
        "core.vector.sublanes": pick(1, 3), "core.vector.store_ports": pick(1, 2), "core.vector.load_ports": pick(1, 3),
        "core.vector.unpack_ops": pick({}, {"fp32": 2.5}), "core.vector.pack_ops": pick({}, {"fp32": 3, "int8": 1}),
        "core.cross_lane": pick(None, {"elements_per_cycle": 2.5, "latency_cycles": 5, "queue_depth": depth()}),
        "core.drain": pick(None, {"elements_per_cycle": 3, "latency_cycles": 2, "activations": [],
                                  "queue_depth": depth()}),
        "core.dma.store.queue_depth": depth(),
        "core.dma.load": {"count": pick(1, 2), "queue_depth": depth(), "outstanding": draw(st.integers(1, 4)),
                          "request_bytes": pick(16, 64, 512), "startup_cycles": pick(0, 5)},
        "memory.model": pick("ideal", "cycle"), "memory.ideal_bytes_per_cycle": pick(0.7, 3, 24.5, 1000),
        "memory.request_latency_cycles": pick(1, 4, 30), "memory.response_latency_cycles": pick(0, 3),
    })  # fmt: skip


class Builder:
    """Draws one kernel: instructions, flags whose sets and waits pair, and bundles."""

    def __init__(self, draw: Any, machine: Machine) -> None:
        self.draw, self.machine, self.asm = draw, machine, Asm()
        self.asm.open = []  # type: ignore[attr-defined]
        self.raised: Counter[int] = Counter()
        self.tiles = [0, 0]  # pushed and not yet taken, by unit
        self.weights_full = False

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def tensor(self, space: str, kind: str, ext: tuple[int, ...], **fields: Any) -> int:
        """A descriptor somewhere in its space; sometimes with gaps between rows, moved or cut by a register."""
        size = {"spm": 4096, "acc": 2048, "dram": DRAM_HALF}[space]
        base = 4 * self.number(0, min(size // 4, 400) - 1) if space != "dram" else 4 * self.number(0, 4000)
        if len(ext) == 2 and self.pick(False, True):
            width = {"fp32": 4, "int8": 1, "int32": 4, "bf16": 2}[kind]
            fields["stride"] = ((ext[1] + self.number(0, 9)) * width, width)
        if self.pick(False, False, True):
            fields["base_reg"] = self.number(0, 3)
        if "rows" not in fields and self.pick(False, False, False, True):  # an empty tile would never come
            fields["ext_reg"] = [4, *[-1] * (len(ext) - 1)]
        return self.asm.d(space, kind, ext, base, **fields)

    def copy(self) -> None:
        kind, ext = self.pick("fp32", "int8", "bf16"), (self.number(1, 6), self.number(1, 20))
        way = self.pick("dram spm", "spm dram", "spm spm")
        source, target = way.split()
        self.asm.op("cp", self.tensor(target, kind, ext), self.tensor(source, kind, ext), unit=self.number(0, 2))

    def gather(self) -> None:
        rows, width = self.number(1, 5), self.number(1, 20)
        table = self.asm.d("dram", "fp32", (self.number(1, 50), width), 4 * self.number(0, 99))
        index = self.asm.d("spm", "int32", (rows,), 4 * self.number(0, 99))
        self.asm.op("cpg", self.asm.d("spm", "fp32", (rows, width), 4 * self.number(0, 99)), table, index)

    def weights(self) -> None:
        """A tile, while the array can take what is pushed without a stream in between."""
        unit = self.number(0, 1)
        if self.tiles[unit] >= 1:  # a second one may have to wait for a stream that stands behind it in the program
            self.stream(unit)
        self.asm.op("ldw", None, self.tensor(self.pick("spm", "dram"), "fp32", (4, 4), rows=1), unit=unit)
        self.tiles[unit] += 1
        if self.pick(True, False):
            self.stream(unit)

    def stream(self, unit: int) -> None:
        rows = self.number(1, 9)
        take = self.tiles[unit] > 0
        self.tiles[unit] -= take
        a = self.asm.d("spm", "fp32", (rows, 4), 4 * self.number(0, 400), rows=1)
        d = self.asm.d("acc", "fp32", (rows, 4), 4 * self.number(0, 200), rows=1)
        self.asm.op("mm", d, a, unit=unit, flags=NEXT_TILE if take else 0)

    def vector(self) -> None:
        ext = (self.number(1, 5), self.number(1, 12))
        kind = self.pick("v.copy", "v.exp", "v.add", "v.div", "v.fma", "v.rsum", "v.lmax", "v.transpose", "fix")
        sources = {"v.add": 2, "v.div": 2, "v.fma": 3}.get(kind, 1)
        if kind == "fix":
            source = self.asm.d("acc", "fp32", ext, 4 * self.number(0, 200))
            self.asm.op("fix", self.tensor("spm", "int8", ext), source)
            return
        extra: dict[str, Any] = {}
        if kind == "v.rsum":
            extra["stride"] = self.pick((4, 0), (0, 4), (0, 0))
        d = self.asm.d("spm", "fp32", ext, 4 * self.number(0, 400), **extra)
        self.asm.op(kind, d, *(self.tensor("spm", "fp32", ext) for _ in range(sources)))

    def scalar(self) -> None:
        name, target = self.pick("li", "addi", "add", "csr"), self.number(0, 3)
        if name == "li":
            self.asm.put("li", dst=target, imm=4 * self.number(0, 200))
        elif name == "addi":
            self.asm.put("addi", dst=target, a=target, imm=0)
        elif name == "add":
            self.asm.put("mini", dst=target, a=self.number(0, 3), imm=300)
        else:
            self.asm.put("csr", dst=4, imm=1)

    def sync(self) -> None:
        """A set, a wait for something raised before, a fence, or a barrier."""
        what = self.pick("set", "set", "set", "wait", "wait", "fence", "barrier")
        if what in ("fence", "barrier"):
            self.asm.put(what)
            return
        if self.machine.issue == "inorder":
            return
        flag = self.number(0, FLAGS - 1)
        if what == "set":
            pipe, unit = self.pick((0, 0), (WEIGHTS, 0), (MATRIX, 1), (VECTOR, 0), (CROSS_LANE, 0), (DRAIN, 0),
                                   (LOAD, 0), (LOAD, 1), (STORE, 0))  # fmt: skip
            self.asm.put("set", dst=pipe, unit=unit, imm=flag)
            self.raised[flag] += 1
        elif self.raised[flag]:
            count = self.number(1, self.raised[flag])
            self.asm.put("wait", imm=flag, b=count)
            self.raised[flag] -= count

    def drain_flags(self) -> None:
        for unit in (0, 1):
            while self.tiles[unit]:
                self.stream(unit)
        for flag, count in self.raised.items():
            if count:
                self.asm.put("wait", imm=flag, b=count)
        self.raised.clear()

    def body(self, size: int) -> None:
        kinds = (self.copy, self.copy, self.gather, self.weights, self.vector, self.vector, self.scalar, self.sync)
        for _ in range(size):
            before = len(self.asm.instrs)
            self.pick(*kinds, *(self.sync,) * 2)()
            self._maybe_open(before)
        self.drain_flags()

    def _maybe_open(self, before: int) -> None:
        """Now and then the next instruction joins the bundle of a scalar or data instruction."""
        joins = len(self.asm.instrs) == before + 1 and self.pick(False, True)
        if self.machine.issue == "vliw" and joins:
            self.asm.open.append(before)  # type: ignore[attr-defined]


@st.composite
def cases(draw: Any, issue: str) -> tuple[Program, Machine]:
    """(program, machine): a loop around a random body, a tail, one or two launches."""
    machine = draw(machines(issue))
    build = Builder(draw, machine)
    asm = build.asm
    asm.put("li", dst=4, imm=draw(st.integers(0, 4)))
    asm.put("li", dst=9, imm=draw(st.integers(0, 3)))
    loop = asm.put("loop", a=9)
    build.body(draw(st.integers(4, 14)))
    if draw(st.booleans()):
        asm.put("csr", dst=8, imm=0)
        skip = asm.put("bz", a=8)  # core 0 does less
        build.body(2)
        asm.instrs[skip]["imm"] = len(asm.instrs)
    asm.put("endl")
    asm.instrs[loop]["imm"] = len(asm.instrs)
    build.body(draw(st.integers(0, 6)))
    together = any(instr["op"] == code("barrier") for instr in asm.instrs)
    blocks = draw(st.integers(1, machine.cores if together else 5))
    program = asm.program([[0, 8, 64, 4]] * draw(st.integers(1, 2)), cores=blocks)
    if machine.issue == "vliw":
        program.instrs["flags"] |= STOP
        _open_bundles(program, machine, asm.open)  # type: ignore[attr-defined]
    return program, machine


def _open_bundles(program: Program, machine: Machine, wanted: list[int]) -> None:
    """Clear STOP where the bundle stays legal: slots, no jump into it, no wait or fence that its own bundle feeds."""
    from isa.errors import ProgramError
    from isa.table import BY_CODE
    from isa.verify import verify

    alone = {"barrier", "fence", "wait", "halt"}
    for index in wanted:
        following = BY_CODE[int(program.instrs[index + 1]["op"])]
        if BY_CODE[int(program.instrs[index]["op"])].name in alone - {"wait"} or following.name in alone:
            continue
        program.instrs["flags"][index] ^= STOP
        try:
            verify(program, machine)
        except ProgramError:
            program.instrs["flags"][index] |= STOP
