# c = a + b as eight blocks of 2048 elements, more than the chip has cores: a core that ends its block takes the next one.
# For a machine with queues (ascend-310, two cores: four waves). Every block runs the same code and finds its slice by its
# number (csr 0); blocks do not know of each other. In a block, 16 tiles of 128 elements go through two buffers.
# Pipes: dma1.0 is MTE2 (dram -> ub), vector, dma2.0 is MTE3 (ub -> dram).
#
# Flags, one a slot (flag + slot), each with one setter and one waiter:
#   0 MTE2 -> vector: a and b are in ub      2 vector -> MTE2: their slot is free
#   4 vector -> MTE3: the sums are in ub     6 MTE3 -> vector: their slot is free
.program ascend_blocks
.machine ascend-310

.tensor a space=dram address=0     shape=[8, 2048] dtype=fp16 role=input
.tensor b space=dram address=32768 shape=[8, 2048] dtype=fp16 role=input
.tensor c space=dram address=65536 shape=[8, 2048] dtype=fp16 role=output
.operator add op_type=Add shape=[8, 2048] nodes=[add] dtype=fp16 macs=0 flops=16384 min_bytes=98304 inputs=[a, b] outputs=[c]

.kernel add(a, b, c, tiles) ub=1536
  .desc %a_tile space=dram dtype=fp16 ext=[128] base_reg=a
  .desc %b_tile space=dram dtype=fp16 ext=[128] base_reg=b
  .desc %c_tile space=dram dtype=fp16 ext=[128] base_reg=c
  .desc %a_ub   space=ub   dtype=fp16 ext=[128] base_reg=r9             # slots of 256 bytes
  .desc %b_ub   space=ub   dtype=fp16 ext=[128] base=512 base_reg=r9
  .desc %c_ub   space=ub   dtype=fp16 ext=[128] base=1024 base_reg=r9

  csr r8, 0                                 # the block's slice
  muli r8, r8, 4096
  add a, a, r8
  add b, b, r8
  add c, c, r8
  li r8, 0                                  # the slot: its number, its byte offset
  li r9, 0
  set vector, 2                             # all slots begin free
  set vector, 3
  set dma2.0, 6
  set dma2.0, 7
  loop tiles, added
    wait dma1.0, 2, r8, 1
    cp %a_ub, %a_tile
    cp %b_ub, %b_tile
    set dma1.0, 0, r8
    wait vector, 0, r8, 1
    wait vector, 6, r8, 1
    v.add %c_ub, %a_ub, %b_ub
    set vector, 2, r8
    set vector, 4, r8
    wait dma2.0, 4, r8, 1
    cp %c_tile, %c_ub
    set dma2.0, 6, r8
    addi a, a, 256
    addi b, b, 256
    addi c, c, 256
    rsubi r8, r8, 1
    rsubi r9, r9, 256
  endl
added:
  wait dma1.0, 2, 1                         # take the credits back: flags end at 0
  wait dma1.0, 3, 1
  wait vector, 6, 1
  wait vector, 7, 1
  halt
.end

.launch add operator=0 grid=8 args=[&a, &b, &c, 16]
