"""The arrays of warps: their columns, and the record that holds them between calls.

Masks of lanes are int64, a bit a lane. All other words are int64 too, but for the lane registers (uint32) and memories
(bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

# A decoded instruction, code[pc]: the opcode; its pipe (isa.table_simt; SCALAR counts as UNIFORM); guard (0: none, else
# 1 + predicate, negative when negated); destination, sources and immediate as in INSTR, an absent operand -1. I_BITS:
# the 32 bits of an immediate source. I_BYTES: of a lane's access, I_COUNT: registers of the destination (or of what is
# stored). I_MEET: where the lanes of a branch meet again, the address after the kernel if nowhere.
(
    I_OP, I_PIPE, I_GUARD, I_DST, I_A, I_B, I_C, I_IMM, I_BITS, I_BYTES, I_COUNT, I_MEET, I_KIND, I_COLUMNS,
) = range(14)  # fmt: skip

# I_KIND: what an instruction is, for both executors.
(
    LANES, SCALAR_OP, BRANCH, EXIT, BARRIER, GLOBAL_LOAD, GLOBAL_STORE, SHARED_LOAD, SHARED_STORE, GLOBAL_ATOMIC,
    SHARED_ATOMIC, ASYNC_COPY, COMMIT, WAIT_GROUPS, MATRIX_LOAD, PRODUCT, CROSS, FENCE,
) = range(18)  # fmt: skip

# A warp, warps[w]: address of the next instruction, lanes that execute it, lanes that are done, entries on its stack
# and on its stack of loops; its number in the block, the block, the row of shared memory of the block.
W_PC, W_ACTIVE, W_EXITED, W_DEPTH, W_LOOPS, W_INDEX, W_BLOCK, W_SHARED, W_COLUMNS = range(9)
# An entry of the stack: where its lanes meet the others, where they go on, which they are. The lanes that execute now
# are those of the top entry; an entry is popped when its address is where it meets.
T_MEET, T_PC, T_MASK, T_COLUMNS = range(4)
STACK_DEPTH = 32
# An entry of the stack of loops: the first instruction of the body, rounds left.
L_BODY, L_LEFT, L_COLUMNS = range(3)
LOOP_DEPTH = 8

SCALARS = 64  # scalar registers of a warp
MAX_LANES = 64

# What an executor returns.
OK, BAD_ADDRESS, MISALIGNED, TOO_DEEP, BAD_LOOP, BAD_REGISTER = range(6)


@dataclass
class WarpState:
    """The arrays of all warps that are resident.

    `warps` int64 [w, W_COLUMNS]; `stack` int64 [w, STACK_DEPTH, T_COLUMNS]; `loops` int64 [w, LOOP_DEPTH, L_COLUMNS];
    `regs` uint32 [w, registers, lanes]; `scalars` int64 [w, SCALARS]; `preds` int64 [w, 8] masks of lanes; `shared`
    uint8 [blocks, bytes].
    """

    warps: Array
    stack: Array
    loops: Array
    regs: Array
    scalars: Array
    preds: Array
    shared: Array
