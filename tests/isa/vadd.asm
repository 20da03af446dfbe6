.kernel vadd(x, y, z, n)
  .reg i a b off
  .preg inside
  vid i, 1                 # thread in the block
  csr r8, 0                # block
  muli r9, r8, 256
  iadd i, i, r9
  isetp.lt inside, i, n
  ishl off, i, 2
  @inside ldg.32 a, x, off
  @inside ldg.32 b, y, off
  fadd a, a, b
  @inside stg.32 z, off, a
  exit
.end
.launch vadd grid=4 block=256 args=[0, 4096, 8192, 1000]
