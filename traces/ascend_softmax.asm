# y = softmax(x) over rows of 96 fp32, sixteen rows a tile, two slots a buffer: the vector unit works on one tile while
# the next is loaded and the last one stored. For a machine with queues (ascend-310).
# Pipes: dma1.0 is MTE2 (dram -> ub), vector, dma2.0 is MTE3 (ub -> dram). What the vector unit keeps for itself (row
# maxima, row sums) needs no flag: its instructions are in order.
#
#   0 vector -> MTE2: the input slot is free       2 MTE2 -> vector: it is loaded
#   4 vector -> MTE3: the result is there          6 MTE3 -> vector: the result slot is free
.program ascend_softmax
.machine ascend-310

.tensor x space=dram address=0     shape=[64, 96] dtype=fp32 role=input
.tensor y space=dram address=24576 shape=[64, 96] dtype=fp32 role=output
.operator softmax op_type=Softmax shape=[64, 96] nodes=[softmax] dtype=fp32 macs=0 flops=30720 min_bytes=49152 inputs=[x] outputs=[y]

.kernel softmax(x, y, tiles) ub=24704
  .desc %x_tile space=dram dtype=fp32 ext=[16, 96] base_reg=x
  .desc %y_tile space=dram dtype=fp32 ext=[16, 96] base_reg=y
  .desc %in     space=ub dtype=fp32 ext=[16, 96] base_reg=r5              # slots at 0 and 6144
  .desc %out    space=ub dtype=fp32 ext=[16, 96] base=12288 base_reg=r5   # 12288 and 18432
  .desc %max    space=ub dtype=fp32 ext=[16, 96] stride=[4, 0] base=24576 # one a row, broadcast along it
  .desc %sum    space=ub dtype=fp32 ext=[16, 96] stride=[4, 0] base=24640

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
    v.lmax %max, %in
    v.sub %out, %in, %max
    set vector, 0, r4                       # the input is used up: the next tile may come
    v.exp %out, %out
    v.lsum %sum, %out
    v.div %out, %out, %sum
    set vector, 4, r4
    wait dma2.0, 4, r4, 1
    cp %y_tile, %out
    set dma2.0, 6, r4
    addi x, x, 6144
    addi y, y, 6144
    rsubi r4, r4, 1
    rsubi r5, r5, 6144
  endl
drained:
  wait dma1.0, 0, 1                         # take the credits back: flags end at 0
  wait dma1.0, 1, 1
  wait vector, 6, 1
  wait vector, 7, 1
  halt
.end

.launch softmax operator=0 args=[&x, &y, 4]
