# z = x + y in tiles of 8 x 32 fp32, double-buffered: while one slot is added, the other one is loaded.
# For a vliw machine with dram -> spm on dma0 and spm -> dram on dma1 (tpu-v3).
#
# Flags, one a slot (flag + slot): 0 full: loaded        2 free: may be loaded again
#                                  4 done: added         6 stored: the result slot may be written again
.program vector_add
.machine tpu-v3

.tensor x space=dram address=0     shape=[40, 32] dtype=fp32 role=input
.tensor y space=dram address=8192  shape=[40, 32] dtype=fp32 role=input
.tensor z space=dram address=16384 shape=[40, 32] dtype=fp32 role=output
.operator add op_type=Add shape=[40, 32] nodes=[add] dtype=fp32 macs=0 flops=1280 min_bytes=15360 inputs=[x, y] outputs=[z]

.kernel vector_add(x, y, z, tiles) spm=6144
  .desc %x_tile space=dram dtype=fp32 ext=[8, 32] base_reg=x
  .desc %y_tile space=dram dtype=fp32 ext=[8, 32] base_reg=y
  .desc %z_tile space=dram dtype=fp32 ext=[8, 32] base_reg=z
  .desc %x_load space=spm dtype=fp32 ext=[8, 32] base_reg=r5              # slots at 0 and 1024
  .desc %y_load space=spm dtype=fp32 ext=[8, 32] base=2048 base_reg=r5    # 2048 and 3072
  .desc %x_add  space=spm dtype=fp32 ext=[8, 32] base_reg=r7
  .desc %y_add  space=spm dtype=fp32 ext=[8, 32] base=2048 base_reg=r7
  .desc %z_add  space=spm dtype=fp32 ext=[8, 32] base=4096 base_reg=r7    # 4096 and 5120

  set scalar, 2 ;;                          # all slots begin free
  set scalar, 3 ;;
  set scalar, 6 ;;
  set scalar, 7 ;;
  { li r4, 0 ; li r5, 0 }                   # slot that is loaded: its number, its byte offset
  { li r6, 0 ; li r7, 0 }                   # slot that is added
  { mov r8, tiles ; li r9, 0 }              # tiles left to load; 1 once there is one to add
  addi r10, tiles, 1 ;;
  loop r10, drained ;;                      # step s loads tile s and adds tile s - 1
    bz r8, compute ;;
    wait 2, r4, 1 ;;
    cp %x_load, %x_tile ;;
    { cp %y_load, %y_tile ; addi x, x, 1024 ; addi y, y, 1024 }
    { set dma0.0, 0, r4 ; rsubi r4, r4, 1 ; rsubi r5, r5, 1024 }
    addi r8, r8, -1 ;;
compute:
    bz r9, next ;;
    wait 0, r6, 1 ;;
    wait 6, r6, 1 ;;
    { v.add %z_add, %x_add, %y_add ; set vector, 2, r6 }
    set vector, 4, r6 ;;
    wait 4, r6, 1 ;;
    { cp %z_tile, %z_add ; set dma1.0, 6, r6 ; addi z, z, 1024 ; rsubi r6, r6, 1 }
    rsubi r7, r7, 1024 ;;
next:
    { li r9, 1 ; endl }
drained:
  wait 2, 1 ;;                              # take the credits back: flags end at 0
  wait 3, 1 ;;
  wait 6, 1 ;;
  wait 7, 1 ;;
  halt ;;
.end

.launch vector_add operator=0 args=[&x, &y, &z, 5]
