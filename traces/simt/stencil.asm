# y[i] = (x[i-1] + x[i] + x[i+1]) / 3 inside, y[i] = x[i] at both ends: the two kinds of threads diverge where they meet
# in a warp.
#
#   npusim kernel stencil.asm --hw gpu-tiny --grid 40 --block 128 --arg x=rand:f32[5000] --arg y=zeros:f32[5000] \
#       --arg n=5000 --check checks.py:stencil
.kernel stencil(x, y, n)
  .reg i off a b c
  .preg beyond edge last
  vid i, 1
  csr r8, 0
  csr r9, 4
  mul r8, r8, r9
  iadd i, i, r8
  addi r10, n, -1
  isetp.ge beyond, i, n
  @beyond exit
  ishl off, i, 2
  isetp.eq edge, i, 0
  isetp.eq last, i, r10
  por edge, edge, last
  @edge bra copy
  ldg.32 a, x, off, -4
  ldg.32 b, x, off
  ldg.32 c, x, off, 4
  fadd a, a, b
  fadd a, a, c
  fmul a, a, 0.3333333333
  bra store
copy:
  ldg.32 a, x, off
store:
  stg.32 y, off, a
  exit
.end
