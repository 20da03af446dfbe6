"""Rows of the instruction TABLE for machines with threads (`issue: simt`): what one instruction does in every lane.

A warp has 64-bit scalar registers r0, r1, ... (those of the scalar instructions, one value for all lanes), 32-bit lane
registers v0 .. v254 and predicates p0 .. p6, a bit a lane. An instruction acts in the lanes that are active and, with a
guard `@p0` or `@!p0`, whose predicate says so. Values of 64 and 128 bits lie in consecutive lane registers, the first
one aligned to their number. Addresses are scalar base + lane offset (32 bits, unsigned) + immediate, in bytes.
"""

from __future__ import annotations

# Pipe classes of a core with threads; scalar instructions take UNIFORM.
FMA, ALU, HALF, SFU, UNIFORM, LSU, TENSOR, CONTROL = range(64, 72)
SIMT_PIPES = {"fma": FMA, "alu": ALU, "half": HALF, "sfu": SFU, "uniform": UNIFORM, "lsu": LSU, "tensor": TENSOR,
              "control": CONTROL}  # fmt: skip

LANE_REGISTERS = 255
PREDICATES = 7
LOAD_BYTES = (4, 8, 16)  # of a lane; narrower ones by name
STORE_BYTES = (1, 2, *LOAD_BYTES)

# A source operand (`sa sb sc`) in its instruction field: lane register n is n, scalar register n is SCALAR_SOURCE + n,
# IMMEDIATE the number in imm (integer operations) or f0 (real ones).
SCALAR_SOURCE, IMMEDIATE = 256, 512

# The guard in an instruction's flags: present, negated, and the number of the predicate from GUARD_SHIFT on.
GUARD, GUARD_NOT, GUARD_SHIFT, GUARD_MASK = 8, 16, 5, 7 << 5

# Special registers of `vid`: lane registers get them.
LANE_ID, THREAD_ID, WARP_ID = range(3)

# Products of a warp, D = A B + C, in fragments of lane registers as in the PTX ISA (mma.sync): m, n, k, type of A and
# B, type of C and D, registers of A, B, C.
MMA_SHAPES: dict[str, tuple[int, int, int, str, str, int, int, int]] = {
    "mma.m16n8k8.f32.f16": (16, 8, 8, "fp16", "fp32", 2, 1, 4),
    "mma.m16n8k16.f32.f16": (16, 8, 16, "fp16", "fp32", 4, 2, 4),
    "mma.m16n8k16.f32.bf16": (16, 8, 16, "bf16", "fp32", 4, 2, 4),
    "mma.m16n8k8.f32.tf32": (16, 8, 8, "tf32", "fp32", 4, 2, 4),
    "mma.m16n8k32.s32.s8": (16, 8, 32, "int8", "int32", 4, 2, 4),
}

_SIGNED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_ATOMS = {"add": "old + b", "fadd": "old + b, fp32", "min": "min(old, b)", "max": "max(old, b)", "and": "old & b",
          "or": "old | b", "xor": "old ^ b", "exch": "b"}  # fmt: skip
_NARROW = {"u8": "a byte", "s8": "a signed byte", "u16": "two bytes", "s16": "two signed bytes"}

Row = tuple[str, int, str, str]  # name, pipe, fields, meaning

# fmt: off
_INTEGER: list[Row] = [
    ("iadd", ALU, "vd sa sb",    "vd = a + b"),
    ("isub", ALU, "vd sa sb",    "vd = a - b"),
    ("imul", FMA, "vd sa sb",    "vd = low 32 bits of a * b"),
    ("imulhi", FMA, "vd sa sb",  "vd = high 32 bits of the unsigned product"),
    ("imad", FMA, "vd sa sb sc", "vd = a * b + c"),
    ("imin", ALU, "vd sa sb",    "vd = min(a, b), signed"),
    ("imax", ALU, "vd sa sb",    "vd = max(a, b), signed"),
    ("iand", ALU, "vd sa sb",    "vd = a & b"),
    ("ior",  ALU, "vd sa sb",    "vd = a | b"),
    ("ixor", ALU, "vd sa sb",    "vd = a ^ b"),
    ("ishl", ALU, "vd sa sb",    "vd = a << b; 0 from 32 on"),
    ("ishr", ALU, "vd sa sb",    "vd = a >> b, unsigned; 0 from 32 on"),
    ("isar", ALU, "vd sa sb",    "vd = a >> b, signed"),
    ("popc", SFU, "vd sa",       "vd = number of bits set in a"),
    ("ffs",  SFU, "vd sa",       "vd = place of the lowest bit set, 0xffffffff without one"),
]
_MOVE: list[Row] = [
    ("vmov", ALU, "vd sa",        "vd = a; of a scalar register its low 32 bits"),
    ("vid",  ALU, "vd imm",
     "vd = special register imm: 0 lane in the warp, 1 thread in the block, 2 warp in the block"),
    ("sel",  ALU, "vd sa sb pc",  "vd = a where pc holds, else b"),
    ("first", ALU, "rd sa",       "rd = a of the first active lane, signed: from lanes to all"),
]
_COMPARE: list[Row] = [
    *((f"isetp.{n}", ALU, "pd sa sb", f"pd = a {s} b, signed") for n, s in _SIGNED.items()),
    ("usetp.lt", ALU, "pd sa sb", "pd = a < b, unsigned"),
    ("usetp.ge", ALU, "pd sa sb", "pd = a >= b, unsigned"),
    *((f"fsetp.{n}", ALU, "pd sa sb", f"pd = a {s} b, fp32; false with a NaN, but for ne") for n, s in _SIGNED.items()),
    ("pand", ALU, "pd pa pb", "pd = pa and pb"),
    ("por",  ALU, "pd pa pb", "pd = pa or pb"),
    ("pnot", ALU, "pd pa",    "pd = not pa"),
]
_REAL: list[Row] = [
    ("fadd", FMA, "vd sa sb",    "vd = a + b, fp32"),
    ("fsub", FMA, "vd sa sb",    "vd = a - b"),
    ("fmul", FMA, "vd sa sb",    "vd = a * b"),
    ("ffma", FMA, "vd sa sb sc", "vd = a * b + c, rounded once"),
    ("fmin", ALU, "vd sa sb",    "vd = min(a, b); the other one if one is a NaN"),
    ("fmax", ALU, "vd sa sb",    "vd = max(a, b); the other one if one is a NaN"),
    ("fabs", ALU, "vd sa",       "vd = |a|"),
    ("frcp", SFU, "vd sa",       "vd = 1 / a"),
    ("frsq", SFU, "vd sa",       "vd = 1 / sqrt(a)"),
    ("fsqrt", SFU, "vd sa",      "vd = sqrt(a)"),
    ("fex2", SFU, "vd sa",       "vd = 2 ** a"),
    ("flg2", SFU, "vd sa",       "vd = log2(a)"),
    ("fsin", SFU, "vd sa",       "vd = sin(a)"),
    ("fcos", SFU, "vd sa",       "vd = cos(a)"),
    ("ftanh", SFU, "vd sa",      "vd = tanh(a)"),
]
_PACKED: list[Row] = [
    *((f"{t}add2", HALF, "vd sa sb", f"both {n} halves: vd = a + b") for t, n in (("h", "fp16"), ("b", "bf16"))),
    *((f"{t}mul2", HALF, "vd sa sb", f"both {n} halves: vd = a * b") for t, n in (("h", "fp16"), ("b", "bf16"))),
    *((f"{t}fma2", HALF, "vd sa sb sc", f"both {n} halves: vd = a * b + c") for t, n in (("h", "fp16"), ("b", "bf16"))),
    *((f"{t}max2", ALU, "vd sa sb", f"both {n} halves: vd = max(a, b)") for t, n in (("h", "fp16"), ("b", "bf16"))),
]
_CONVERT: list[Row] = [
    ("i2f",   SFU, "vd sa",    "vd = fp32 of a signed integer"),
    ("u2f",   SFU, "vd sa",    "vd = fp32 of an unsigned integer"),
    ("f2i",   SFU, "vd sa",    "vd = integer part of a, towards zero, saturated"),
    ("f2i.rn", SFU, "vd sa",   "vd = nearest integer of a, ties to even, saturated"),
    ("f2h2",  ALU, "vd sa sb", "vd = fp16 of a in the low half, of b in the high half"),
    ("f2b2",  ALU, "vd sa sb", "vd = bf16 of a in the low half, of b in the high half"),
    ("f2tf32", ALU, "vd sa",   "vd = a with a fraction of ten bits"),
    ("h2f.lo", ALU, "vd sa",   "vd = fp32 of the low fp16 half of a"),
    ("h2f.hi", ALU, "vd sa",   "vd = fp32 of the high fp16 half of a"),
    ("b2f.lo", ALU, "vd sa",   "vd = fp32 of the low bf16 half of a"),
    ("b2f.hi", ALU, "vd sa",   "vd = fp32 of the high bf16 half of a"),
]
LANE_ROWS: list[Row] = [*_INTEGER, *_MOVE, *_COMPARE, *_REAL, *_PACKED, *_CONVERT]

CROSS_ROWS: list[Row] = [
    ("shfl.idx",  LSU, "vd sa sb", "vd = a of lane b modulo the size of the warp"),
    ("shfl.up",   LSU, "vd sa sb", "vd = a of the lane b below; of the own lane where there is none"),
    ("shfl.down", LSU, "vd sa sb", "vd = a of the lane b above; of the own lane where there is none"),
    ("shfl.bfly", LSU, "vd sa sb", "vd = a of lane (own lane xor b)"),
    ("vote.any",  ALU, "pd pa",    "pd = pa holds in some active lane"),
    ("vote.all",  ALU, "pd pa",    "pd = pa holds in all active lanes"),
    ("ballot",    ALU, "vd pa",    "vd = a bit for each active lane in which pa holds (of lanes 0 to 31)"),
]
CONTROL_ROWS: list[Row] = [
    ("bra",  CONTROL, "to",
     "lanes of the guard go to an address of the same kernel, the others on; they meet again where all ways lead"),
    ("exit", CONTROL, "",    "lanes of the guard are done"),
    ("bar",  CONTROL, "imm", "wait until all warps of the block that still run are at block barrier imm"),
    ("membar", CONTROL, "",  "wait until all writes of the warp can be seen by the chip"),
]
GLOBAL_ROWS: list[Row] = [
    *((f"ldg.{n}", LSU, "vd ra vb? imm", f"vd = {m} of global memory at ra + vb + imm") for n, m in _NARROW.items()),
    *((f"ldg.{8 * n}", LSU, "vd ra vb? imm", f"vd.. = {n} bytes of global memory at ra + vb + imm")
      for n in LOAD_BYTES),
    *((f"stg.{8 * n}", LSU, "ra vb? imm vc", f"{n} bytes of vc.. to global memory at ra + vb + imm")
      for n in STORE_BYTES),
]
SHARED_ROWS: list[Row] = [
    *((f"lds.{n}", LSU, "vd vb? imm", f"vd = {m} of the block's shared memory at vb + imm")
      for n, m in _NARROW.items()),
    *((f"lds.{8 * n}", LSU, "vd vb? imm", f"vd.. = {n} bytes of the block's shared memory at vb + imm")
      for n in LOAD_BYTES),
    *((f"sts.{8 * n}", LSU, "vb? imm vc", f"{n} bytes of vc.. to the block's shared memory at vb + imm")
      for n in STORE_BYTES),
]
ATOMIC_ROWS: list[Row] = [
    *((f"atomg.{n}", LSU, "vd? ra vb? imm sc",
       f"global memory at ra + vb + imm: old becomes {m}, b in c; vd = old") for n, m in _ATOMS.items()),
    *((f"atoms.{n}", LSU, "vd? vb? imm sc",
       f"shared memory at vb + imm: old becomes {m}, b in c; vd = old") for n, m in _ATOMS.items()),
]
ASYNC_ROWS: list[Row] = [
    *((f"cpa.{8 * n}", LSU, "vc ra vb? imm",
       f"{n} bytes of global memory at ra + vb + imm to shared memory at vc, past the registers, later")
      for n in LOAD_BYTES),
    ("cpa.commit", CONTROL, "",   "the cpa of this warp since the last commit are a group"),
    ("cpa.wait", CONTROL, "imm",  "wait until at most imm groups of this warp are under way"),
    *((f"ldsm.x{n}{t}", LSU, "vd vb? imm",
       f"vd.. = {n} fragments of 8 x 8 two-byte elements of shared memory{', transposed' if t else ''}, "
       f"rows at vb + imm of lanes 0 to {8 * n - 1}") for t in ("", ".t") for n in (1, 2, 4)),
]
MATRIX_ROWS: list[Row] = [
    (name, TENSOR, "vd va vb vc", f"vd.. = va.. x vb.. + vc..: {m} x {n} x {k}, {ab} into {cd}")
    for name, (m, n, k, ab, cd, *_) in MMA_SHAPES.items()
]
# fmt: on

# First code, codes kept for it, and rows of each group.
SIMT_GROUPS: tuple[tuple[int, int, str, list[Row]], ...] = (
    (704, 16, "warp", [*CROSS_ROWS, *CONTROL_ROWS]),
    (720, 48, "async", [*ASYNC_ROWS, *MATRIX_ROWS]),
    (832, 128, "lanes", LANE_ROWS),
    (960, 64, "lane_memory", [*GLOBAL_ROWS, *SHARED_ROWS, *ATOMIC_ROWS]),
)
