"""Which values an operation makes: its group, one kernel each, and its form within the group.

The kernels know these numbers alone; decode.py finds them by name, so neither depends on the order of the TABLE.
"""

from __future__ import annotations

# Groups of what is done lane by lane.
(
    ARITHMETIC, LOGIC, SHIFT, MOVE, COMPARE_SIGNED, COMPARE_UNSIGNED, COMPARE_REAL, PREDICATE, REAL, CHOOSE, ROOTS,
    CURVES, PAIR, TO_REAL, NARROW, WIDEN, SHUFFLE, VOTE, FIRST,
) = range(19)  # fmt: skip

# Forms, group by group, in the order of NAMES.
IADD, ISUB, IMUL, IMULHI, IMAD = range(5)
IAND, IOR, IXOR, IMIN, IMAX = range(5)
ISHL, ISHR, ISAR, POPC, FFS = range(5)
VMOV, SEL, VID = range(3)
PAND, POR, PNOT = range(3)
FADD, FSUB, FMUL, FFMA = range(4)
FMIN, FMAX, FABS = range(3)
FRCP, FRSQ, FSQRT, FEX2, FLG2 = range(5)
FSIN, FCOS, FTANH = range(3)
PAIR_ADD, PAIR_MUL, PAIR_FMA, PAIR_MAX = range(4)
BRAIN = 4  # forms from here on are those of bf16
I2F, U2F, F2I, F2I_NEAREST = range(4)
F2H2, F2B2, F2TF32 = range(3)
H2F_LOW, H2F_HIGH, B2F_LOW, B2F_HIGH = range(4)
SHUFFLE_INDEX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR = range(4)
ANY, ALL, BALLOT = range(3)

NAMES: dict[int, str] = {
    ARITHMETIC: "iadd isub imul imulhi imad",
    LOGIC: "iand ior ixor imin imax",
    SHIFT: "ishl ishr isar popc ffs",
    MOVE: "vmov sel vid",
    PREDICATE: "pand por pnot",
    REAL: "fadd fsub fmul ffma",
    CHOOSE: "fmin fmax fabs",
    ROOTS: "frcp frsq fsqrt fex2 flg2",
    CURVES: "fsin fcos ftanh",
    PAIR: "hadd2 hmul2 hfma2 hmax2 badd2 bmul2 bfma2 bmax2",
    TO_REAL: "i2f u2f f2i f2i.rn",
    NARROW: "f2h2 f2b2 f2tf32",
    WIDEN: "h2f.lo h2f.hi b2f.lo b2f.hi",
    SHUFFLE: "shfl.idx shfl.up shfl.down shfl.bfly",
    VOTE: "vote.any vote.all ballot",
    FIRST: "first",
}

# The form of a comparison is the set of outcomes for which it holds.
LESS, EQUAL, GREATER, UNORDERED = 1, 2, 4, 8
OUTCOMES = {"lt": LESS, "le": LESS | EQUAL, "gt": GREATER, "ge": GREATER | EQUAL, "eq": EQUAL, "ne": LESS | GREATER}

# Atomics: the form is what becomes of the old value.
ATOM_ADD, ATOM_FADD, ATOM_MIN, ATOM_MAX, ATOM_AND, ATOM_OR, ATOM_XOR, ATOM_EXCHANGE = range(8)
ATOMS = ("add", "fadd", "min", "max", "and", "or", "xor", "exch")

# Elements of a product.
MMA_HALF, MMA_BRAIN, MMA_TF32, MMA_INT8 = range(4)
ELEMENTS = {"fp16": MMA_HALF, "bf16": MMA_BRAIN, "tf32": MMA_TF32, "int8": MMA_INT8}


def _by_name() -> dict[str, tuple[int, int]]:
    found = {name: (group, form) for group, names in NAMES.items() for form, name in enumerate(names.split())}
    for name, held in OUTCOMES.items():
        found[f"isetp.{name}"] = COMPARE_SIGNED, held
        found[f"usetp.{name}"] = COMPARE_UNSIGNED, held
        found[f"fsetp.{name}"] = COMPARE_REAL, held | (UNORDERED if name == "ne" else 0)
    return found


GROUP_FORM: dict[str, tuple[int, int]] = _by_name()
