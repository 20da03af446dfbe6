# y = exp(x) in tiles of 8 x 32 fp32 with two slots: while one is computed, the next is loaded and the last one stored.
# For a machine with queues (ascend-310). Pipes: dma1.0 is MTE2 (dram -> ub), vector, dma2.0 is MTE3 (ub -> dram).
#
# Every flag has one setter and one waiter, and one number a slot:
#   0 vector -> MTE2: the input slot is free       2 MTE2 -> vector: it is loaded
#   4 vector -> MTE3: the result is there          6 MTE3 -> vector: the result slot is free
# Leave out any wait of the loop, and `npusim sim --check-hazards` names the two instructions that race, and the bytes.
.program ascend_pingpong
.machine ascend-310

.tensor x space=dram address=0    shape=[64, 32] dtype=fp32 role=input
.tensor y space=dram address=8192 shape=[64, 32] dtype=fp32 role=output
.operator exp op_type=Exp shape=[64, 32] nodes=[exp] dtype=fp32 macs=0 flops=2048 min_bytes=16384 inputs=[x] outputs=[y]

.kernel pingpong(x, y, tiles) ub=4096
  .desc %x_tile space=dram dtype=fp32 ext=[8, 32] base_reg=x
  .desc %y_tile space=dram dtype=fp32 ext=[8, 32] base_reg=y
  .desc %in     space=ub dtype=fp32 ext=[8, 32] base_reg=r5             # slots at 0 and 1024
  .desc %out    space=ub dtype=fp32 ext=[8, 32] base=2048 base_reg=r5   # 2048 and 3072

  set vector, 0                             # all slots begin free
  set vector, 1
  set dma2.0, 6
  set dma2.0, 7
  li r4, 0                                  # the slot: its number, its byte offset
  li r5, 0
  loop tiles, drained
    wait dma1.0, 0, r4, 1
    cp %in, %x_tile
    set dma1.0, 2, r4
    wait vector, 2, r4, 1
    wait vector, 6, r4, 1
    v.exp %out, %in
    set vector, 0, r4
    set vector, 4, r4
    wait dma2.0, 4, r4, 1
    cp %y_tile, %out
    set dma2.0, 6, r4
    addi x, x, 1024
    addi y, y, 1024
    rsubi r4, r4, 1
    rsubi r5, r5, 1024
  endl
drained:
  wait dma1.0, 0, 1                         # take the credits back: flags end at 0
  wait dma1.0, 1, 1
  wait vector, 6, 1
  wait vector, 7, 1
  halt
.end

.launch pingpong operator=0 args=[&x, &y, 8]
