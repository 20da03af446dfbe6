"""The arrays of warps: their columns, and the record that holds them between calls.

Masks of lanes are int64, a bit a lane. All other words are int64 too, but for the lane registers (uint32) and memories
(bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
Word = Any  # a number in a kernel: one of numpy's, or of Python when it is not compiled

# A decoded instruction, code[pc]: the opcode; its pipe (isa.table_simt; SCALAR counts as UNIFORM); guard (0: none, else
# 1 + predicate, negative when negated); destination, sources and immediate as in INSTR, an absent operand -1. I_BITS:
# the 32 bits of an immediate source. I_BYTES: of a lane's access, I_COUNT: registers of the destination (or of what is
# stored). I_MEET: where the lanes of a branch meet again, the address after the kernel if nowhere. I_GROUP, I_FORM:
# which values it makes (forms.py). Of every access I_A is the scalar base, I_B the lane offset, I_C what is stored or
# the shared address of a copy; I_IMM of a product is its k.
(
    I_OP, I_PIPE, I_GUARD, I_DST, I_A, I_B, I_C, I_IMM, I_BITS, I_BYTES, I_COUNT, I_MEET, I_KIND, I_GROUP, I_FORM,
    I_COLUMNS,
) = range(16)  # fmt: skip

# I_KIND: what an instruction is, for both executors.
(
    LANES, SCALAR_OP, BRANCH, EXIT, BARRIER, GLOBAL_LOAD, GLOBAL_STORE, SHARED_LOAD, SHARED_STORE, GLOBAL_ATOMIC,
    SHARED_ATOMIC, ASYNC_COPY, COMMIT, WAIT_GROUPS, MATRIX_LOAD, PRODUCT, CROSS, FENCE,
) = range(18)  # fmt: skip

# A warp, warps[w]: address of the next instruction, lanes that execute it, lanes that are done, entries on its stack
# and on its stack of loops; its number in the block, the block, the row of shared memory of the block; threads and
# warps of a block. A warp without active lanes is done.
(
    W_PC, W_ACTIVE, W_EXITED, W_DEPTH, W_LOOPS, W_INDEX, W_BLOCK, W_SHARED, W_THREADS, W_WARPS, W_COLUMNS,
) = range(11)  # fmt: skip
# An entry of the stack: where its lanes meet the others, where they go on, which they are. The lanes that execute now
# are those of the top entry, whose address is W_PC; it is popped when that is where it meets. Until lanes first part
# the stack may be empty.
T_MEET, T_PC, T_MASK, T_COLUMNS = range(4)
STACK_DEPTH = 32
# An entry of the stack of loops: the first instruction of the body, rounds left.
L_BODY, L_LEFT, L_COLUMNS = range(3)
LOOP_DEPTH = 8

SCALARS = 64  # scalar registers of a warp
MAX_LANES = 64

# What an executor returns.
OK, BAD_ADDRESS, MISALIGNED, TOO_DEEP, BAD_LOOP, BAD_REGISTER, PART_OF_WARP = range(7)

# Scratch of the executors, int64 words from each place on: operands and the result of the lanes, their addresses, and
# the three matrices of a product (16 x 32, 32 x 8, 16 x 8 of 32 bits at most).
WORK_A, WORK_B, WORK_C, WORK_D, WORK_ADDRESS, WORK_SHARED, WORK_LEFT, WORK_RIGHT, WORK_SUM, WORK_WORDS = (
    0, 64, 128, 192, 256, 320, 384, 640, 768, 832,
)  # fmt: skip


@dataclass
class WarpState:
    """The arrays of all warps that are resident.

    `warps` int64 [w, W_COLUMNS]; `stack` int64 [w, STACK_DEPTH, T_COLUMNS]; `loops` int64 [w, LOOP_DEPTH, L_COLUMNS];
    `regs` uint32 [w, registers, lanes]; `scalars` int64 [w, SCALARS]; `preds` int64 [w, 8] masks of lanes; `shared`
    uint8 [blocks, bytes]; `work` int64 [WORK_WORDS], scratch within a call.
    """

    warps: Array
    stack: Array
    loops: Array
    regs: Array
    scalars: Array
    preds: Array
    shared: Array
    work: Array
