# C = saturate(round(relu(A B) / 4)), A 8 x 8 and B 8 x 6 in int8: weight-stationary tiles on a 4 x 4 array.
# For an inorder machine (its interlock orders all accesses; no flags) whose weight port reads spm (tiny).
.program gemm_4x4
.machine tiny

.tensor a space=dram address=0   shape=[8, 8] dtype=int8 role=input
.tensor b space=dram address=64  shape=[8, 6] dtype=int8 role=weight
.tensor c space=dram address=128 shape=[8, 6] dtype=int8 role=output scale=4
.operator gemm op_type=Gemm shape=[8, 6] nodes=[gemm] dtype=int8 macs=384 flops=768 min_bytes=160 inputs=[a, b] outputs=[c]

.kernel gemm(a, b, c) spm=160 acc=128
  .desc %a_dram space=dram dtype=int8 ext=[8, 8] base_reg=a
  .desc %a_spm  space=spm  dtype=int8 ext=[8, 8]
  .desc %b_dram space=dram dtype=int8 ext=[8, 6] base_reg=b
  .desc %b_spm  space=spm  dtype=int8 ext=[8, 6] base=112
  .desc %c_dram space=dram dtype=int8 ext=[8, 6] base_reg=c
  .desc %c_spm  space=spm  dtype=int8 ext=[8, 6] base=64
  # Tiles: r3 is the first column, r4 the first k, r5 the address of the B tile, r6 its columns (4, then 2).
  .desc %b_tile space=spm  dtype=int8  ext=[4, 4] stride=[6, 1]  rows=1 base=112 base_reg=r5 ext_reg=[_, r6]
  .desc %a_tile space=spm  dtype=int8  ext=[8, 4] stride=[8, 1]  rows=1 base_reg=r4
  .desc %acc    space=acc  dtype=int32 ext=[8, 4] stride=[16, 4] rows=1 ext_reg=[_, r6]
  .desc %c_tile space=spm  dtype=int8  ext=[8, 4] stride=[6, 1]  base=64 base_reg=r3 ext_reg=[_, r6] scale=4

  cp %b_spm, %b_dram
  cp %a_spm, %a_dram
  li r3, 0
  li r7, 2
  loop r7, stored                           # column tiles
    rsubi r6, r3, 6
    mini r6, r6, 4                          # columns left, at most 4
    mov r5, r3
    li r4, 0
    loop r7, summed                         # k tiles
      ldw weights0, %b_tile
      mm.next matrix0, %acc, %a_tile, r4    # r4 = 0: overwrite; else accumulate
      addi r4, r4, 4
      addi r5, r5, 24                       # 4 rows of B
      endl
summed:
    fix %c_tile, %acc, relu, 0, 0
    addi r3, r3, 4
    endl
stored:
  cp %c_dram, %c_spm
  halt
.end

.launch gemm operator=0 args=[&a, &b, &c]
