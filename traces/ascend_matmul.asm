# c = a x b in fp16 on the cube, in four steps of k = 32; every memory between has two slots, so all pipes overlap.
# For a machine with queues (ascend-310). Pipes: dma1.0 is MTE2 (dram -> l1), dma0.0 is MTE1 (l1 -> l0a, l0b), matrix0
# is the cube, drain takes l0c -> ub, dma2.0 is MTE3 (ub -> dram).
#
# Flags, one a slot (flag + slot), each with one setter and one waiter:
#   0 MTE2 -> MTE1: tiles are in l1        2 MTE1 -> MTE2: the l1 slot is free
#   4 MTE1 -> cube: tiles are in l0        6 cube -> MTE1: the l0 slot is free
#   8 cube -> drain: all sums are there    9 drain -> MTE3: the results are in ub
.program ascend_matmul
.machine ascend-310

.tensor a space=dram address=0     shape=[64, 128] dtype=fp16 role=input
.tensor b space=dram address=16384 shape=[128, 64] dtype=fp16 role=input
.tensor c space=dram address=32768 shape=[64, 64]  dtype=fp16 role=output
.operator matmul op_type=MatMul shape=[64, 64, 128] nodes=[matmul] dtype=fp16 macs=524288 flops=1048576 min_bytes=40960 inputs=[a, b] outputs=[c]

.kernel matmul(a, b, c, steps) l1=16384 l0a=8192 l0b=8192 l0c=16384 ub=8192
  .desc %a_tile space=dram dtype=fp16 ext=[64, 32] stride=[256, 2] base_reg=a
  .desc %b_tile space=dram dtype=fp16 ext=[32, 64] base_reg=b
  .desc %c_tile space=dram dtype=fp16 ext=[64, 64] base_reg=c
  .desc %a_l1   space=l1  dtype=fp16 ext=[64, 32] base_reg=r5              # slots at 0 and 4096
  .desc %b_l1   space=l1  dtype=fp16 ext=[32, 64] base=8192 base_reg=r5    # 8192 and 12288
  .desc %a_l0   space=l0a dtype=fp16 ext=[64, 32] rows=1 base_reg=r5
  .desc %b_l0   space=l0b dtype=fp16 ext=[32, 64] rows=1 base_reg=r5
  .desc %sums   space=l0c dtype=fp32 ext=[64, 64] rows=1
  .desc %out    space=ub  dtype=fp16 ext=[64, 64]

  set dma0.0, 2                             # all slots begin free
  set dma0.0, 3
  set matrix0, 6
  set matrix0, 7
  li r4, 0                                  # the slot: its number, its byte offset
  li r5, 0
  li r6, 0                                  # 0: the first step overwrites the sums
  loop steps, summed
    wait dma1.0, 2, r4, 1
    cp %a_l1, %a_tile
    cp %b_l1, %b_tile
    set dma1.0, 0, r4
    wait dma0.0, 0, r4, 1
    wait dma0.0, 6, r4, 1
    cp %a_l0, %a_l1
    cp %b_l0, %b_l1
    set dma0.0, 2, r4
    set dma0.0, 4, r4
    wait matrix0, 4, r4, 1
    mm matrix0, %sums, %a_l0, %b_l0, r6
    set matrix0, 6, r4
    li r6, 1
    addi a, a, 64
    addi b, b, 4096
    rsubi r4, r4, 1
    rsubi r5, r5, 4096
  endl
summed:
  set matrix0, 8
  wait drain, 8, 1
  fix %out, %sums, none, 0, 0
  set drain, 9
  wait dma2.0, 9, 1
  cp %c_tile, %out
  wait dma1.0, 2, 1                         # take the credits back: flags end at 0
  wait dma1.0, 3, 1
  wait dma0.0, 6, 1
  wait dma0.0, 7, 1
  halt
.end

.launch matmul operator=0 args=[&a, &b, &c, 4]
