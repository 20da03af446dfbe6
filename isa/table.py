"""The instruction TABLE: every operation of the ISA in one place, with a line of why.

An instruction names an operation, operands and nothing of a chip; the machine description maps its pipe class to units
and costs. Everything else (assembler, encoder, verifier, executors, reference page) is derived from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from isa.table_simt import SIMT_GROUPS

# Pipe classes: which unit of a core executes an operation. Copies go to the engine of their path: DMA + its index.
SCALAR, WEIGHTS, MATRIX, VECTOR, CROSS_LANE, DRAIN, DMA, SYNC = range(8)
PIPE_CLASS_NAMES = ("scalar", "weights", "matrix", "vector", "cross_lane", "drain", "dma", "sync")

# Flag bits of an instruction.
STOP = 1  # last instruction of its bundle (vliw)
NEXT_TILE = 2  # mm: take the next stationary tile from the weight FIFO first
STATIONARY_A = 4  # mm/ldw: the stationary operand is A (input-stationary)
FLAG_NAMES = {STOP: "stop", NEXT_TILE: "next", STATIONARY_A: "sta"}


@dataclass(frozen=True)
class Op:
    """One operation.

    `fields` lists the instruction fields that the assembly shows, in order: `rd ra rb rc` are registers held in
    dst, a, b, c; `Dd Da Db Dc` are descriptors held there (`?` after a letter: may be absent, `_`); `imm` an integer,
    `f0 f1` reals, `to` a code address held in imm, `act` an activation held in imm, `pipe` a pipe class held in dst
    with its unit (`?`: absent is the sequencer), `count` a number held in b, `unit` the unit field. Of machines with
    threads: `vd va vb vc` lane registers (`?`: absent is 0), `pd pa pb pc` predicates, `sa sb sc` sources of any kind
    (isa.table_simt).
    """

    code: int
    name: str
    group: str
    pipe: int
    fields: str
    meaning: str
    lanes: str = ""  # vector operations: 'unary', 'binary', 'ternary', 'reduce' or 'move'


# fmt: off
_SCALAR = [
    ("li",    "rd imm",    "rd = imm"),
    ("mov",   "rd ra",     "rd = ra"),
    ("add",   "rd ra rb",  "rd = ra + rb"),
    ("addi",  "rd ra imm", "rd = ra + imm"),
    ("sub",   "rd ra rb",  "rd = ra - rb"),
    ("rsubi", "rd ra imm", "rd = imm - ra"),
    ("mul",   "rd ra rb",  "rd = ra * rb"),
    ("muli",  "rd ra imm", "rd = ra * imm"),
    ("divi",  "rd ra imm", "rd = floor(ra / imm)"),
    ("modi",  "rd ra imm", "rd = ra - imm * floor(ra / imm)"),
    ("min",   "rd ra rb",  "rd = min(ra, rb)"),
    ("mini",  "rd ra imm", "rd = min(ra, imm)"),
    ("max",   "rd ra rb",  "rd = max(ra, rb)"),
    ("maxi",  "rd ra imm", "rd = max(ra, imm)"),
    ("slt",   "rd ra rb",  "rd = 1 if ra < rb else 0"),
    ("slti",  "rd ra imm", "rd = 1 if ra < imm else 0"),
    ("seq",   "rd ra rb",  "rd = 1 if ra == rb else 0"),
    ("seqi",  "rd ra imm", "rd = 1 if ra == imm else 0"),
    ("and",   "rd ra rb",  "rd = ra & rb"),
    ("csr",   "rd imm",    "rd = special register imm: 0 block index, 1 number of blocks of the launch, 2 kind of the core (0: the first); of threads also 3 warps and 4 threads of a block, 5 column and 6 row of the block in the grid"),
]
_CONTROL = [
    ("br",    "to",        "go to an address of the same kernel"),
    ("bz",    "ra to",     "go there when ra is 0"),
    ("bnz",   "ra to",     "go there when ra is not 0"),
    ("loop",  "ra to",     "run the code up to the matching endl ra times; `to` is the address after that endl, where ra <= 0 goes at once"),
    ("endl",  "",          "end of the innermost loop body"),
]
_UNARY = ["copy", "neg", "abs", "exp", "log", "sqrt", "rsqrt", "recip", "tanh", "sigmoid", "erf", "gelu", "gelu_tanh", "relu",
          "hardswish", "floor", "ceil", "round", "sign", "not", "isnan", "sin", "cos", "softplus", "square", "mish"]
_UNARY_F = {"leaky_relu": "x if x >= 0 else f0 * x", "clip": "min(max(x, f0), f1)", "adds": "x + f0", "muls": "x * f0",
            "maxs": "max(x, f0)", "mins": "min(x, f0)", "pows": "x ** f0", "hard_sigmoid": "min(max(f0 * x + f1, 0), 1)",
            "elu": "x if x > 0 else f0 * (exp(x) - 1)", "affine": "f0 * x + f1"}
_BINARY = {"add": "a + b", "sub": "a - b", "mul": "a * b", "div": "a / b", "max": "max(a, b)", "min": "min(a, b)",
           "pow": "a ** b", "mod": "a - b * floor(a / b)", "eq": "a == b", "lt": "a < b", "le": "a <= b", "gt": "a > b",
           "ge": "a >= b", "and": "a and b", "or": "a or b", "xor": "a != b (logical)", "prelu": "a if a >= 0 else a * b"}
_TERNARY = {"select": "b where a is not 0, else c", "fma": "a * b + c"}
_REDUCE = {"sum": "add", "max": "largest", "min": "smallest", "prod": "multiply"}
# fmt: on


def _build() -> list[Op]:
    ops: list[Op] = []

    def put(start: int, group: str, pipe: int, rows: list[tuple[str, str, str]], lanes: str = "") -> None:
        taken = sum(1 for op in ops if start <= op.code < start + 64)
        for i, (name, fields, meaning) in enumerate(rows):
            ops.append(Op(start + taken + i, name, group, pipe, fields, meaning, lanes))

    put(0, "system", SCALAR, [("nop", "", "nothing"), ("halt", "", "end of the kernel on this core"),
                              ("mark", "imm", "name what follows in traces: imm is a row of the name table")])
    put(64, "scalar", SCALAR, _SCALAR + _CONTROL)
    put(128, "copy", DMA, [
        ("cp", "Dd Da", "copy A to D element by element, converting the dtype when the path allows it"),
        ("cpg", "Dd Da Db", "gather: row i of D is row B[i] of A"),
    ])
    put(192, "weights", WEIGHTS, [("ldw", "unit Da", "push stationary tile A into the unit's weight FIFO")])
    put(256, "matrix", MATRIX, [(
        "mm", "unit Dd Da Db? rc?",
        "D = (D if rc else 0) + A x tile; with STATIONARY_A, D = ... + tile x A; with B (output-stationary), A x B",
    )])
    put(320, "drain", DRAIN, [(
        "fix", "Dd Da Db? Dc? act f0 f1", "D = round(act(A * C + B)): bias B, scale C, activation act(f0, f1)",
    )])
    put(384, "vector", VECTOR, [(f"v.{n}", "Dd Da", f"D = {n}(A)") for n in _UNARY], "unary")
    put(384, "vector", VECTOR, [(f"v.{n}", "Dd Da f0 f1", f"D = {m}, x in A") for n, m in _UNARY_F.items()], "unary")
    put(448, "vector", VECTOR, [(f"v.{n}", "Dd Da Db", f"D = {m}") for n, m in _BINARY.items()], "binary")
    put(448, "vector", VECTOR, [(f"v.{n}", "Dd Da Db Dc", f"D = {m}") for n, m in _TERNARY.items()], "ternary")
    put(512, "vector", VECTOR, [
        (f"v.r{n}", "Dd Da rc?", f"reduce A into D ({m}) over the dimensions where D has stride 0; into D's old value if rc")
        for n, m in _REDUCE.items()
    ], "reduce")
    put(576, "vector", CROSS_LANE, [
        ("v.lsum", "Dd Da rc?", "v.rsum across lanes"), ("v.lmax", "Dd Da rc?", "v.rmax across lanes"),
        ("v.lmin", "Dd Da rc?", "v.rmin across lanes"), ("v.lprod", "Dd Da rc?", "v.rprod across lanes"),
    ], "reduce")
    put(576, "vector", CROSS_LANE, [
        ("v.transpose", "Dd Da", "D = A through the cross-lane unit, which moves elements between lanes"),
    ], "move")
    put(640, "sync", SYNC, [
        ("set", "pipe imm ra?", "add 1 to flag imm + ra when all earlier instructions of the pipe have completed"),
        ("wait", "pipe? imm ra? count", "hold the pipe (or the sequencer) until flag imm + ra is at least count, then subtract count"),
        ("barrier", "", "wait until every block of the launch is here and its pipes are drained"),
        ("fence", "", "wait until all earlier instructions of this core have completed"),
        ("pbar", "pipe", "hold the pipe until all of its earlier instructions have completed"),
        ("signal", "pipe imm rb ra?", "add 1 to cross-core flag imm + ra of block rb when all earlier instructions of the pipe have completed"),
        ("await", "pipe? imm ra? count", "hold the pipe (or the sequencer) until cross-core flag imm + ra is at least count, then subtract count"),
    ])
    # 768.. is kept for communication (send, recv, put, allreduce).
    for start, room, group, rows in SIMT_GROUPS:
        if len(rows) > room:
            raise ValueError(f"group {group}: {len(rows)} operations; there is room for {room}")
        ops += [Op(start + i, name, group, pipe, fields, meaning) for i, (name, pipe, fields, meaning) in enumerate(rows)]
    return ops


TABLE: tuple[Op, ...] = tuple(_build())
BY_NAME: dict[str, Op] = {op.name: op for op in TABLE}
BY_CODE: dict[int, Op] = {op.code: op for op in TABLE}
MAX_CODE = 1024

# Activations of `fix` and of fused epilogues: names are those of the v.* operations; the id is the position.
ACTIVATIONS = ("none", "relu", "clip", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "hardswish", "hard_sigmoid",
               "mish", "elu", "exp", "softplus", "erf")


def code(name: str) -> int:
    """Return the opcode of the operation called `name`."""
    return BY_NAME[name].code
