# z[i] = x[i] + y[i], one element a thread. Any grid that covers n; threads beyond it do nothing.
#
#   npusim kernel vector_add.asm --hw gpu-tiny --grid 64 --block 256 --arg x=rand:f32[16000] --arg y=rand:f32[16000] \
#       --arg z=zeros:f32[16000] --arg n=16000 --check checks.py:vector_add
.kernel vector_add(x, y, z, n)
  .reg i off a b
  .preg inside
  vid i, 1                    # thread in the block
  csr r8, 0                   # block
  csr r9, 4                   # threads of a block
  mul r8, r8, r9
  iadd i, i, r8
  isetp.lt inside, i, n
  ishl off, i, 2              # bytes
  @inside ldg.32 a, x, off
  @inside ldg.32 b, y, off
  fadd a, a, b
  @inside stg.32 z, off, a
  exit
.end
