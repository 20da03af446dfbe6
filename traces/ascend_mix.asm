# y = gelu(x w): products on cube cores, GELU on vector cores, as one kernel on a chip with both (ascend-910b2).
# Cube core c makes 16 rows of x w in tiles of 64 columns, which FIXP writes to a workspace of two slots in memory (they
# stay in the L2); its two vector cores take eight of the rows each. Cores tell each other by signals: a cube core that a
# slot is full, a vector core that it has read its half.
# Pipes of a cube core: dma1.0 is MTE2 (dram -> l1), dma0.0 MTE1 (l1 -> l0a, l0b), matrix0 the cube, dma3.0 FIXP (l0c ->
# dram). Of a vector core: dma1.0 is MTE2 (dram -> ub), vector, dma2.0 MTE3 (ub -> dram).
#
# Flags of a cube core, one a slot (flag + slot), each with one setter and one waiter:
#   0 MTE2 -> MTE1: w is in l1        2 MTE1 -> MTE2: the l1 slot is free        12 MTE2 -> MTE1: x is in l1
#   4 MTE1 -> cube: w is in l0b       6 cube -> MTE1: the l0b slot is free
#   8 cube -> FIXP: the sums are there    10 FIXP -> cube: the l0c slot is free
# Flags of a vector core:
#   0 MTE2 -> vector: rows are in ub  2 vector -> MTE2: their slot is free
#   4 vector -> MTE3: results are in ub   6 MTE3 -> vector: their slot is free
# Cross-core flags, one a slot: of a vector core, the workspace is full; of a cube core, it is read (twice a slot).
.program ascend_mix
.machine ascend-910b2

.tensor x  space=dram address=0      shape=[384, 128] dtype=fp16 role=input
.tensor w  space=dram address=98304  shape=[128, 256] dtype=fp16 role=input
.tensor y  space=dram address=163840 shape=[384, 256] dtype=fp16 role=output
.tensor ws space=dram address=360448 shape=[24, 2, 16, 64] dtype=fp32 role=temp
.operator gelu_matmul op_type=MatMul shape=[384, 256, 128] nodes=[matmul, gelu] dtype=fp16 macs=12582912 flops=26148864 min_bytes=360448 inputs=[x, w] outputs=[y]

.kernel mix(x, w, ws, y, tiles, cubes) l1=36864 l0a=4096 l0b=32768 l0c=8192 ub=6144
  .desc %x_rows  space=dram dtype=fp16 ext=[16, 128] base_reg=x
  .desc %x_l1    space=l1   dtype=fp16 ext=[16, 128] base=32768
  .desc %x_l0    space=l0a  dtype=fp16 ext=[16, 128] rows=1
  .desc %w_tile  space=dram dtype=fp16 ext=[128, 64] stride=[512, 2] base_reg=w
  .desc %w_l1    space=l1   dtype=fp16 ext=[128, 64] base_reg=r12        # slots of 16 KiB
  .desc %w_l0    space=l0b  dtype=fp16 ext=[128, 64] rows=1 base_reg=r12
  .desc %sums    space=l0c  dtype=fp32 ext=[16, 64] rows=1 base_reg=r13  # slots of 4 KiB
  .desc %ws_slot space=dram dtype=fp32 ext=[16, 64] base_reg=r14
  .desc %ws_half space=dram dtype=fp32 ext=[8, 64] base_reg=r14
  .desc %in      space=ub   dtype=fp32 ext=[8, 64] base_reg=r12          # slots of 2 KiB
  .desc %out     space=ub   dtype=fp16 ext=[8, 64] base=4096 base_reg=r13  # slots of 1 KiB
  .desc %y_tile  space=dram dtype=fp16 ext=[8, 64] stride=[512, 2] base_reg=y

  csr r8, 0                                 # the block, which is the core
  csr r9, 2                                 # its kind
  li r11, 0                                 # the slot: its number, its byte offsets
  li r12, 0
  li r13, 0
  bnz r9, vector_core

  muli r15, r8, 4096                        # this core's rows of x
  add x, x, r15
  muli r15, r8, 8192                        # and its workspace
  add r14, ws, r15
  muli r16, r8, 2                           # the first of its vector cores, and the second
  add r16, r16, cubes
  addi r17, r16, 1
  cp %x_l1, %x_rows
  set dma1.0, 12
  wait dma0.0, 12, 1
  cp %x_l0, %x_l1
  set dma0.0, 2                             # all slots begin free
  set dma0.0, 3
  set matrix0, 6
  set matrix0, 7
  set dma3.0, 10
  set dma3.0, 11
  loop tiles, cube_done
    wait dma1.0, 2, r11, 1
    cp %w_l1, %w_tile
    set dma1.0, 0, r11
    wait dma0.0, 0, r11, 1
    wait dma0.0, 6, r11, 1
    cp %w_l0, %w_l1
    set dma0.0, 2, r11
    set dma0.0, 4, r11
    wait matrix0, 4, r11, 1
    wait matrix0, 10, r11, 1
    mm matrix0, %sums, %x_l0, %w_l0, _
    set matrix0, 6, r11
    set matrix0, 8, r11
    wait dma3.0, 8, r11, 1
    await dma3.0, 0, r11, 2                 # both vector cores have read the slot
    fix %ws_slot, %sums, none, 0, 0
    set dma3.0, 10, r11
    signal dma3.0, 0, r16, r11              # it is full again
    signal dma3.0, 0, r17, r11
    addi w, w, 128
    rsubi r11, r11, 1
    rsubi r12, r12, 16384
    rsubi r13, r13, 4096
    muli r18, r11, 8192                     # workspace slots alternate: + 4096, - 4096
    addi r18, r18, -4096
    add r14, r14, r18
  endl
cube_done:
  wait dma1.0, 2, 1                         # take the credits back: flags end at 0
  wait dma1.0, 3, 1
  wait dma0.0, 6, 1
  wait dma0.0, 7, 1
  wait matrix0, 10, 1
  wait matrix0, 11, 1
  await dma3.0, 0, 2
  await dma3.0, 1, 2
  halt

vector_core:
  sub r15, r8, cubes                        # the number among the vector cores
  divi r16, r15, 2                          # its cube core
  muli r17, r15, 4096                       # eight rows of y
  add y, y, r17
  modi r18, r15, 2                          # its half of the workspace
  muli r18, r18, 2048
  muli r17, r16, 8192
  add r14, ws, r17
  add r14, r14, r18
  signal dma1.0, 0, r16                     # both slots of the workspace begin free
  signal dma1.0, 1, r16
  set vector, 2                             # and those of ub
  set vector, 3
  set dma2.0, 6
  set dma2.0, 7
  loop tiles, vector_done
    wait dma1.0, 2, r11, 1
    await dma1.0, 0, r11, 1
    cp %in, %ws_half
    signal dma1.0, 0, r16, r11
    set dma1.0, 0, r11
    wait vector, 0, r11, 1
    wait vector, 6, r11, 1
    v.gelu %out, %in
    set vector, 2, r11
    set vector, 4, r11
    wait dma2.0, 4, r11, 1
    cp %y_tile, %out
    set dma2.0, 6, r11
    addi y, y, 128
    rsubi r11, r11, 1
    rsubi r12, r12, 2048
    rsubi r13, r13, 1024
    muli r18, r11, 8192                     # workspace slots alternate: + 4096, - 4096
    addi r18, r18, -4096
    add r14, r14, r18
  endl
vector_done:
  wait dma1.0, 2, 1
  wait dma1.0, 3, 1
  wait vector, 6, 1
  wait vector, 7, 1
  halt
.end

.launch mix operator=0 grid=72 args=[&x, &w, &ws, &y, 4, 24]
