"""Hypothesis strategies: programs in which every field of every table may hold anything it may legally hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from isa.disasm import args_rows
from isa.dtypes import DTYPES
from isa.program import (
    DESC,
    INSTR,
    LAUNCH,
    MAX_DIMS,
    SPACES,
    HostOp,
    Kernel,
    Operator,
    Program,
    Tensor,
    descriptor,
    instruction,
)
from isa.simt_operands import THREAD_CODES, guard_bits, immediate_field, is_real
from isa.table import ACTIVATIONS, NEXT_TILE, STATIONARY_A, STOP, TABLE, Op
from isa.table_simt import IMMEDIATE, LANE_REGISTERS, PREDICATES, SCALAR_SOURCE

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
REAL = st.floats(allow_nan=False)
REGISTER = st.integers(0, 63)
LANE, PREDICATE = st.integers(0, LANE_REGISTERS - 1), st.integers(0, PREDICATES - 1)
SOURCE = st.one_of(LANE, REGISTER.map(lambda n: n + SCALAR_SOURCE))
NAME = st.one_of(st.sampled_from(["x", "r1", "v1", "p0", "_", "a.b", "inf", "true", "7", "relu"]), st.text(max_size=8))
NAMES = st.lists(NAME, max_size=3).map(tuple)
SHAPE = st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple)


@st.composite
def descriptors(draw: Any) -> Any:
    """One DESC record."""
    n = draw(st.integers(0, MAX_DIMS))

    def row(values: Any, size: int) -> list[Any]:
        return draw(st.lists(values, min_size=size, max_size=size))

    optional = st.one_of(st.just(-1), REGISTER)
    small = st.integers(-(1 << 31), (1 << 31) - 1)
    return descriptor(
        draw(st.sampled_from(SPACES)), draw(st.sampled_from(list(DTYPES.values()))).code,
        tuple(row(st.integers(0, 1 << 62), n)), tuple(row(INT64, n)),
        rows=draw(st.integers(0, n)), base=draw(INT64), base_reg=draw(optional), ext_reg=row(optional, n),
        axis=row(st.integers(-1, 1), n), coef=row(small, n),
        **{name: row(INT64, 2) for name in ("origin", "limit", "axis_stride")},
        **{name: row(optional, 2) for name in ("origin_reg", "limit_reg")},
        pad_value=draw(REAL), scale=draw(REAL), zero_point=draw(INT64),
    )  # fmt: skip


@st.composite
def instructions(draw: Any, descs: int, start: int, end: int) -> Any:
    """One INSTR record; `to` leads anywhere from `start` to `end`, with some targets outside."""
    op = draw(st.sampled_from([o for o in TABLE if descs or "D" not in o.fields]))
    values: dict[str, Any] = {"flags": draw(st.sampled_from([0, STOP]))}
    if op.name in ("mm", "ldw"):
        values["flags"] |= draw(st.sampled_from([0, STATIONARY_A, NEXT_TILE | STATIONARY_A]))
    if op.group == "copy":
        values["unit"] = draw(st.integers(0, 3))
    values["flags"] |= draw(guards(op))
    for field in op.fields.split():
        name, optional = field.rstrip("?"), field.endswith("?")
        slot = {"d": "dst"}.get(name[1:], name[1:])
        if optional and draw(st.booleans()):
            continue
        if name == "unit":
            values["unit"] = draw(st.integers(0, 7))
        elif name == "pipe":
            values["dst"], values["unit"] = draw(st.integers(0, 9)), draw(st.integers(0, 7))
        elif name == "count":
            values["b"] = draw(st.integers(1, 9))
        elif name in ("f0", "f1"):
            values[name] = draw(REAL)
        elif name == "to":
            values["imm"] = draw(st.one_of(st.integers(start, end), st.integers(0, 1 << 40)))
        elif name == "act":
            values["imm"] = draw(st.integers(0, len(ACTIVATIONS) - 1))
        elif name == "imm":
            values["imm"] = draw(INT64)
        else:
            kinds = {"D": st.integers(0, descs - 1), "v": LANE, "p": PREDICATE, "s": SOURCE}
            values[slot] = draw(kinds.get(name[0], REGISTER))
    return instruction(op.code, **(values | draw(immediates(op))))


@st.composite
def guards(draw: Any, op: Op) -> int:
    """The flags of a guard of an operation of threads, or none."""
    return guard_bits(draw(PREDICATE), draw(st.booleans())) if op.code in THREAD_CODES and draw(st.booleans()) else 0


@st.composite
def immediates(draw: Any, op: Op) -> dict[str, Any]:
    """One of the sources as an immediate, or none."""
    sources = [word[1] for word in op.fields.split() if word[0] == "s"]
    if not sources or draw(st.booleans()):
        return {}
    field = immediate_field(op)
    whole = INT64 if field == "imm" else st.integers(-(1 << 31), (1 << 32) - 1).map(float)
    return {draw(st.sampled_from(sources)): IMMEDIATE, field: draw(REAL if is_real(op) else whole)}


@st.composite
def launches(draw: Any, kernels: int) -> tuple[Any, list[int]]:
    """One LAUNCH record (args still to be placed) and its arguments."""
    row = np.zeros((), LAUNCH)
    row["kind"] = draw(st.integers(0, 2))
    row["kernel"] = draw(st.integers(-1, kernels))
    row["operator"], row["host_op"] = draw(st.integers(-1, 5)), draw(st.integers(-1, 5))
    row["cycles"], row["link_bytes"] = draw(INT64), draw(INT64)
    row["grid"], row["nargs"] = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    row["block"] = draw(st.sampled_from([0, 0, 1, 256]))
    size = args_rows(row) * int(row["nargs"])
    return row, draw(st.lists(INT64, min_size=size, max_size=size))


@st.composite
def programs(draw: Any) -> Program:
    """A program whose tables hold anything, with some launches that share arguments."""
    descs = draw(st.lists(descriptors(), max_size=3))
    instrs: list[Any] = []
    kernels = []
    for _ in range(draw(st.integers(0, 2))):
        start = len(instrs)
        size = draw(st.integers(0, 6))
        instrs += [draw(instructions(len(descs), start, start + size)) for _ in range(size)]
        scratch = draw(st.dictionaries(NAME, st.integers(0, 1 << 40), max_size=2))
        registers = draw(st.integers(0, LANE_REGISTERS))
        kernels.append(Kernel(draw(NAME), start, len(instrs), draw(NAMES), scratch, registers))
    rows, args = [], []
    for row, values in draw(st.lists(launches(len(kernels)), max_size=4)):
        if len(args) >= len(values) and draw(st.booleans()):
            row["args"] = draw(st.integers(0, len(args) - len(values)))
        else:
            row["args"] = len(args)
            args += values
        rows.append(row)
    args += draw(st.lists(INT64, max_size=20))
    tensor = st.builds(Tensor, NAME, NAME, INT64, SHAPE, NAME, NAME, REAL, INT64, st.lists(REAL, max_size=3).map(tuple))
    numbers = (INT64, INT64, INT64)
    operator = st.builds(Operator, NAME, NAME, SHAPE, NAMES, NAME, *numbers, NAMES, NAMES, st.booleans(), INT64)
    return Program(
        draw(NAME), draw(NAME), np.array(instrs, INSTR), np.array(descs, DESC), tuple(kernels), np.array(rows, LAUNCH),
        np.array(args, np.int64), tuple(draw(st.lists(tensor, max_size=2, unique_by=lambda t: t.name))),
        tuple(draw(st.lists(operator, max_size=2))),
        tuple(draw(st.lists(st.builds(HostOp, NAMES, NAMES, NAMES), max_size=2))), draw(NAMES),
        draw(st.dictionaries(NAME, st.integers(0, 1 << 40), max_size=2)),
    )  # fmt: skip


def assert_equal(a: Program, b: Program) -> None:
    """Equal in every table, arrays bit for bit."""
    for name in ("instrs", "descs", "launches", "args"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype, name
        assert left.tobytes() == right.tobytes(), name
    for name in ("name", "machine", "kernels", "tensors", "operators", "host_ops", "names", "memory_bytes"):
        assert repr(getattr(a, name)) == repr(getattr(b, name)), name
