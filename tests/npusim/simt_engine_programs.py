"""Random structured kernels of threads and random small machines, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from isa.loader import load_simt
from isa.simt_machine import SimtMachine

REGION = 4096  # bytes of each of a, b, c
SPACE = 2048  # bytes of shared memory
LANES = range(4, 12)  # registers of values; v0 thread, v1 thread of the grid, v2 v3 addresses, v12.. wide ones
_OPS = ("iadd", "isub", "imul", "imad", "fadd", "ffma", "iand", "ixor", "ishl", "fmax", "popc", "i2f", "fabs", "sel")
_THREE = ("imad", "ffma")
_ONE = ("popc", "i2f", "fabs")


class Kernel:
    """The text of a kernel under construction.

    With `tame` no value depends on the order of warps: loads are of `a` alone, stores and shared memory of a thread's
    own words, atomics add integers and give nothing back.
    """

    def __init__(self, draw: Any, tame: bool) -> None:
        self.draw, self.tame = draw, tame
        self.lines: list[str] = []
        self.labels = 0
        self.loops = 0
        self.whole = True  # no lane of the warp can have left

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def lane(self) -> str:
        return f"v{self.pick(*LANES)}"

    def put(self, text: str) -> None:
        self.lines.append(text)

    def label(self) -> str:
        self.labels += 1
        return f"l{self.labels}"

    def guard(self) -> str:
        return self.pick("", "", "", "@p0 ", "@!p1 ", "@p2 ")

    # Statements

    def alu(self) -> None:
        op, d = self.pick(*_OPS), self.lane()
        b = self.lane() if op[0] == "f" else self.pick(self.lane(), "r20", "3")
        words = [d, self.lane()] if op in _ONE else [d, self.lane(), self.lane() if op in _THREE else b]
        words += [self.lane()] if op in _THREE else ["p1"] if op == "sel" else []
        self.put(f"{self.guard()}{op} {', '.join(words)}")

    def scalar(self) -> None:
        self.put(self.pick("addi r20, r20, 3", "mul r21, r20, r20", "csr r22, 0", f"first r20, {self.lane()}"))

    def compare(self) -> None:
        p = self.pick("p0", "p1", "p2")
        self.put(self.pick(
            f"isetp.lt {p}, v0, {self.pick(0, 5, 16, 40, 200)}", f"isetp.eq {p}, {self.lane()}, {self.lane()}",
            f"iand v3, v0, {self.pick(1, 2, 7)}\nisetp.ne {p}, v3, 0", f"pand {p}, p0, p1", f"vote.any {p}, p1",
        ))  # fmt: skip

    def cross(self) -> None:
        op = self.pick("shfl.up", "shfl.down", "shfl.bfly", "shfl.idx")
        self.put(self.pick(f"{op} {self.lane()}, {self.lane()}, {self.pick(1, 2, 16)}", f"ballot {self.lane()}, p0"))

    def address(self, size: int, limit: int, own: bool = False) -> str:
        """Code that leaves an offset in v2 or v3, aligned to an access."""
        v = self.pick("v2", "v3")
        if own:
            self.put(f"imul {v}, {'v1' if limit == REGION else 'v0'}, {size}\niand {v}, {v}, {limit - size}")
            return str(v)
        stride = self.pick(size, 4, 8, 16, 32, 64, 128, 132, 0, 260, 40503)
        self.put(f"imul {v}, {self.pick('v1', 'v0', self.lane())}, {stride}\niand {v}, {v}, {limit - size}")
        return str(v)

    def load(self) -> None:
        size = self.pick(1, 4, 4, 8, 16)
        base = "a" if self.tame else self.pick("a", "b", "c")
        v, d = self.address(size, REGION), {8: "v12", 16: "v16"}.get(size) or self.lane()
        self.put(f"{self.guard()}ldg.{'u' if size == 1 else ''}{8 * size} {d}, {base}, {v}")
        if size > 4:
            self.put(f"iadd {self.lane()}, {d}, 1")

    def store(self) -> None:
        size = 4 if self.tame else self.pick(1, 4, 8, 16)
        v, s = self.address(size, REGION, self.tame), {8: "v12", 16: "v16"}.get(size) or self.lane()
        self.put(f"{self.guard()}stg.{8 * size} b, {v}, {s}")

    def shared(self) -> None:
        size = 4 if self.tame else self.pick(2, 4, 8, 16)
        v, r = self.address(size, SPACE, self.tame), {8: "v12", 16: "v16"}.get(size) or self.lane()
        what = self.pick(f"lds.{'s' if size == 2 else ''}{8 * size} {r}, {v}", f"sts.{8 * size} {v}, {r}")
        self.put(f"{self.guard()}{what}")

    def atomic(self) -> None:
        op = "add" if self.tame else self.pick("add", "max", "xor", "exch")
        base = "" if self.pick(True, False) else "c, "
        if self.tame and not base:
            self.shared()
            return
        v = self.address(4, SPACE if not base else REGION)
        d = "_" if self.tame else self.pick("_", self.lane())
        value = "v0" if self.tame else self.lane()
        self.put(f"{self.guard()}atom{'g' if base else 's'}.{op} {d}, {base}{v}, 0, {value}")

    def copies(self) -> None:
        size = self.pick(4, 8, 16)
        what = self.pick("copy", "copy", "commit", "wait")
        if what == "copy":
            v = self.address(size, REGION)
            self.put(f"imul v20, v0, {size}\niand v20, v20, {SPACE - size}")
            self.put(f"{self.guard()}cpa.{8 * size} v20, {'a' if self.tame else self.pick('a', 'b')}, {v}")
        else:
            self.put("cpa.commit" if what == "commit" else f"cpa.wait {self.pick(0, 1, 2)}")

    def branch(self, depth: int) -> None:
        over, p = self.label(), self.pick("p0", "!p1", "p2", "!p0")
        self.put(f"@{p} bra {over}")
        self.body(depth - 1, False)
        if self.pick(True, False):
            end = self.label()
            self.put(f"bra {end}\n{over}:")
            self.body(depth - 1, False)
            over = end
        self.put(f"{over}:")

    def loop(self, depth: int, top: bool) -> None:
        done, self.loops = self.label(), self.loops + 1
        r = f"r{30 + self.loops}"
        self.put(f"li {r}, {self.pick(0, 1, 2, 3)}\nloop {r}, {done}")
        self.body(depth - 1, top)
        self.put(f"endl\n{done}:")

    def parting_loop(self, depth: int) -> None:
        """A loop that lanes leave one by one."""
        again, self.loops = self.label(), self.loops + 1
        v = f"v{21 + self.loops}"
        self.put(f"iand {v}, v0, {self.pick(1, 3)}\n{again}:")
        self.body(depth - 1, False)
        self.put(f"isub {v}, {v}, 1\nisetp.ge p3, {v}, 0\n@p3 bra {again}")

    def together(self) -> None:
        """What whole warps do."""
        self.put(self.pick("bar 0", "bar 0", "bar 1", "membar"))
        if self.whole and not self.tame and self.pick(True, False):
            self.put(f"iand v2, v0, 31\nimul v2, v2, {self.pick(16, 32, 48)}\niand v2, v2, {SPACE - 16}")
            self.put(self.pick("ldsm.x1 v24, v2", "ldsm.x2 v24, v2", "ldsm.x4 v24, v2", "ldsm.x4.t v24, v2"))
            self.put("mma.m16n8k16.f32.f16 v12, v24, v16, v12")

    def body(self, depth: int, top: bool) -> None:
        plain = (self.alu, self.scalar, self.compare, self.cross, self.load, self.store, self.shared, self.atomic,
                 self.copies)  # fmt: skip
        for _ in range(self.draw(st.integers(1, 4))):
            kind = self.draw(st.integers(0, 13))
            if kind < len(plain):
                plain[kind]()
            elif kind == 9 and depth:
                self.branch(depth)
            elif kind == 10 and depth:
                self.loop(depth, top)
            elif kind == 11 and depth and self.loops < 3:
                self.parting_loop(depth)
            elif top:
                self.together()
            else:
                self.put("membar")

    def text(self) -> str:
        head = "vid v0, 1\ncsr r8, 0\ncsr r9, 4\nmul r8, r8, r9\niadd v1, v0, r8"
        self.put(head)
        for _ in range(self.draw(st.integers(1, 4))):
            self.body(2, True)
            if self.draw(st.integers(0, 5)) == 0:
                self.put(f"isetp.lt p3, v0, {self.pick(1, 20, 33)}\n@p3 exit")
                self.whole = False
        if self.tame:
            self.put(f"bar 0\niand v2, v1, {REGION // 4 - 1}\nishl v2, v2, 2\nstg.32 b, v2, {self.lane()}")
        lines = "\n".join([*self.lines, "exit"])
        return f".kernel k(a, b, c)\n  .shared space {SPACE} 16\n{lines}\n.end\n"


@st.composite
def kernels(draw: Any, tame: bool = False) -> str:
    """The text of a kernel k(a, b, c)."""
    return Kernel(draw, tame).text()


@st.composite
def settings_of_machines(draw: Any) -> tuple[str, ...]:
    """What makes a small machine of gpu-tiny: few of everything."""

    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    line, ways = 128, pick(1, 2, 4)
    fields = {
        "cores": pick(1, 2, 3), "launch_cycles": pick(0, 7), "clock_mhz": pick(1000, 1410),
        "core.warps.schedulers": pick(1, 2, 4), "core.warps.block_cycles": pick(0, 1, 5, 20),
        "core.warps.warp_cycles": pick(0, 1, 3), "core.warps.blocks": pick(1, 2, 8),
        "core.scheduling.policy": pick("lrr", "gto"), "core.scheduling.branch_cycles": pick(1, 2, 5),
        "core.scheduling.queue_depth": pick(1, 2, 4), "core.shared.latency_cycles": pick(0, 1, 10),
        "core.pipes.fma.interval_cycles": pick(1, 2, 4), "core.pipes.fma.latency_cycles": pick(0, 4, 6),
        "core.pipes.alu.interval_cycles": pick(1, 2), "core.pipes.alu.latency_cycles": pick(1, 4),
        "core.pipes.lsu.interval_cycles": pick(1, 4), "core.pipes.control.interval_cycles": pick(1, 3),
        "core.load_store.bytes_per_cycle": pick(32, 64, 128), "core.load_store.issue_cycles": pick(1, 3),
        "core.load_store.port_bytes_per_cycle": pick(16, 32, 64), "core.load_store.stores": pick(4, 6, 64),
        "core.l1.ways": ways, "core.l1.size_bytes": ways * line * pick(1, 4, 16),
        "core.l1.hit_latency_cycles": pick(1, 5, 20), "core.l1.mshrs": pick(1, 2, 4, 16),
        "core.l1.mshr_targets": pick(1, 2, 16), "core.l1.replacement": pick("lru", "lru", "fifo", "random"),
        "memory.request_latency_cycles": pick(1, 15), "memory.response_latency_cycles": pick(1, 10),
    }  # fmt: skip
    if pick(True, False):
        fields |= {"memory.model": "ideal", "memory.ideal_bytes_per_cycle": pick(8, 64)}
        if pick(True, False):
            fields |= {"memory.l2": "null"}
    elif pick(True, False):
        fields |= {"memory.l2.size_bytes": 2048, "memory.l2.ways": 2, "memory.l2.mshrs": 2}
    return tuple(f"{key}={value}" for key, value in fields.items())


def machine_of(changes: tuple[str, ...]) -> SimtMachine:
    """The machine of some settings."""
    return load_simt("gpu-tiny", changes)
