# y = relu(conv(x, w)), 3 x 3, one row and column of padding, channels last: x [8, 8, 16], w [3, 3, 16, 32], y [8, 8, 32].
# The feature map goes into L1 once. Its im2col matrix [64 positions, 3 x 16] of one row of the filter exists in L0A only:
# the copy L1 -> L0A reads the map through a window (%x_cols), where what lies outside of it reads as zero.
# For a machine with queues (ascend-310). Pipes: dma1.0 is MTE2 (dram -> l1), dma0.0 is MTE1 (l1 -> l0a, l0b), matrix0
# is the cube, drain takes l0c -> ub, dma2.0 is MTE3 (ub -> dram).
#
#   0 MTE2 -> MTE1: map and weights are in l1      2 MTE1 -> cube: a row of the filter is in l0
#   4 cube -> MTE1: the l0 slot is free            6 cube -> drain: all sums are there
#   7 drain -> MTE3: the results are in ub
.program ascend_conv
.machine ascend-310

.tensor x space=dram address=0     shape=[8, 8, 16]     dtype=fp16 role=input
.tensor w space=dram address=4096  shape=[3, 3, 16, 32] dtype=fp16 role=weight
.tensor y space=dram address=16384 shape=[8, 8, 32]     dtype=fp16 role=output
.operator conv op_type=Conv shape=[8, 8, 32] nodes=[conv] dtype=fp16 macs=294912 flops=589824 min_bytes=15360 inputs=[x, w] outputs=[y]

.kernel conv(x, w, y) l1=11264 l0a=12288 l0b=6144 l0c=8192 ub=4096
  .desc %x_map  space=dram dtype=fp16 ext=[8, 8, 16] base_reg=x
  .desc %w_all  space=dram dtype=fp16 ext=[3, 3, 16, 32] base_reg=w
  .desc %y_map  space=dram dtype=fp16 ext=[8, 8, 32] base_reg=y
  .desc %x_l1   space=l1 dtype=fp16 ext=[8, 8, 16]
  .desc %w_l1   space=l1 dtype=fp16 ext=[3, 3, 16, 32] base=2048
  # row h, column v of the output, row i (one) and column j of the filter: element (h + i + r7, v + j - 1) of the map
  .desc %x_cols space=l1 dtype=fp16 ext=[8, 8, 1, 3, 16] stride=[0, 0, 0, 0, 2] axis=[0, 1, 0, 1] coef=[1, 1, 1, 1] origin=[0, -1] limit=[8, 8] axis_stride=[256, 32] origin_reg=[r7]
  .desc %w_row  space=l1 dtype=fp16 ext=[1, 3, 16, 32] base=2048 base_reg=r6
  .desc %a_fill space=l0a dtype=fp16 ext=[8, 8, 1, 3, 16] base_reg=r5           # slots at 0 and 6144
  .desc %b_fill space=l0b dtype=fp16 ext=[1, 3, 16, 32] base_reg=r8             # 0 and 3072
  .desc %a      space=l0a dtype=fp16 ext=[64, 48] rows=1 base_reg=r5
  .desc %b      space=l0b dtype=fp16 ext=[48, 32] rows=1 base_reg=r8
  .desc %sums   space=l0c dtype=fp32 ext=[64, 32] rows=1
  .desc %s_map  space=l0c dtype=fp32 ext=[8, 8, 32]
  .desc %out    space=ub dtype=fp16 ext=[8, 8, 32]

  set matrix0, 4                            # both slots of l0 begin free
  set matrix0, 5
  cp %x_l1, %x_map
  cp %w_l1, %w_all
  set dma1.0, 0
  wait dma0.0, 0, 1
  li r4, 0                                  # the slot: its number, its byte offsets in l0a and l0b
  li r5, 0
  li r8, 0
  li r6, 0                                  # the row of the filter: its bytes, where it looks, whether it is the first
  li r7, -1
  li r9, 0
  li r10, 3
  loop r10, summed
    wait dma0.0, 4, r4, 1
    cp %a_fill, %x_cols
    cp %b_fill, %w_row
    set dma0.0, 2, r4
    wait matrix0, 2, r4, 1
    mm matrix0, %sums, %a, %b, r9
    set matrix0, 4, r4
    li r9, 1
    addi r6, r6, 3072
    addi r7, r7, 1
    rsubi r4, r4, 1
    rsubi r5, r5, 6144
    rsubi r8, r8, 3072
  endl
summed:
  set matrix0, 6
  wait drain, 6, 1
  fix %out, %s_map, relu, 0, 0
  set drain, 7
  wait dma2.0, 7, 1
  cp %y_map, %out
  wait dma0.0, 4, 1                         # take the credits back: flags end at 0
  wait dma0.0, 5, 1
  halt
.end

.launch conv operator=0 args=[&x, &w, &y]
