# bins[v] += number of values v in x[0..n), v in 0..255: a histogram a block in shared memory, added to the one in global
# memory at the end, with atomics in both.
#
#   npusim kernel histogram.asm --hw gpu-tiny --grid 8 --block 256 --arg x=randint:0,256:i32[20000] \
#       --arg bins=zeros:i32[256] --arg n=20000 --check checks.py:histogram
.kernel histogram(x, bins, n)
  .shared count 1024 16
  .reg i off v place
  .preg inside
  vid place, 1                # 256 threads: one a bin
  ishl place, place, 2
  vmov v, 0
  sts.32 place, count, v
  bar 0
  vid i, 1
  csr r8, 0
  csr r9, 4
  csr r10, 1
  mul r8, r8, r9
  iadd i, i, r8
  mul r10, r10, r9
next:
  isetp.lt inside, i, n
  @!inside bra add
  ishl off, i, 2
  ldg.32 v, x, off
  ishl off, v, 2
  atoms.add _, off, count, 1
  iadd i, i, r10
  bra next
add:
  bar 0
  lds.32 v, place, count
  atomg.add _, bins, place, 0, v
  exit
.end
