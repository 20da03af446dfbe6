# Scalar code: copy the lower triangle of a 16 x 16 matrix, row by row; the cores take the rows in turn.
# For an inorder machine with dram -> spm and spm -> dram. The upper triangle of y keeps what it held.
.program triangle
.machine tiny

.tensor x space=dram address=0    shape=[16, 16] dtype=fp32 role=input
.tensor y space=dram address=1024 shape=[16, 16] dtype=fp32 role=output
.operator copy op_type=Trilu shape=[16, 16] nodes=[trilu] dtype=fp32 macs=0 flops=0 min_bytes=1088 inputs=[x] outputs=[y]

.kernel triangle(x, y, rows) spm=64
  .desc %from space=dram dtype=fp32 ext=[16] base_reg=r6 ext_reg=[r8]
  .desc %row  space=spm  dtype=fp32 ext=[16] ext_reg=[r8]
  .desc %to   space=dram dtype=fp32 ext=[16] base_reg=r7 ext_reg=[r8]

  csr r3, 0                                 # row = core index
  csr r4, 1                                 # step = number of cores
again:
  slt r5, r3, rows
  bz r5, done
  muli r6, r3, 64                           # bytes of a row
  add r7, y, r6
  add r6, x, r6
  addi r8, r3, 1                            # row i has i + 1 elements
  cp %row, %from
  cp %to, %row
  add r3, r3, r4
  br again
done:
  halt
.end

.launch triangle operator=0 args=[&x, &y, 16]
