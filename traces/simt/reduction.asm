# total[0] += sum of x[0..n): each thread adds a stride of x, warps add with shuffles, a block in shared memory, blocks
# with one atomic each.
#
#   npusim kernel reduction.asm --hw gpu-tiny --grid 16 --block 256 --arg x=rand:f32[40000] --arg total=zeros:f32[1] \
#       --arg n=40000 --check checks.py:reduction
.kernel reduction(x, total, n)
  .shared partial 128 16      # a sum of each warp, at most 32
  .reg i off a sum step lane warp place
  .preg inside first
  vid i, 1
  vid lane, 0
  vid warp, 2
  csr r8, 0
  csr r9, 4
  csr r10, 1
  mul r8, r8, r9
  iadd i, i, r8
  mul r10, r10, r9            # threads of the grid: from one element of a thread to its next
  vmov sum, 0
next:
  isetp.lt inside, i, n       # threads leave the loop one after another
  @!inside bra warps
  ishl off, i, 2
  ldg.32 a, x, off
  fadd sum, sum, a
  iadd i, i, r10
  bra next
warps:
  shfl.bfly a, sum, 16
  fadd sum, sum, a
  shfl.bfly a, sum, 8
  fadd sum, sum, a
  shfl.bfly a, sum, 4
  fadd sum, sum, a
  shfl.bfly a, sum, 2
  fadd sum, sum, a
  shfl.bfly a, sum, 1
  fadd sum, sum, a
  isetp.eq first, lane, 0
  ishl place, warp, 2
  @first sts.32 place, partial, sum
  bar 0
  isetp.eq first, warp, 0     # the first warp adds what the others left
  @!first bra done
  csr r11, 3                  # warps of a block
  vmov sum, 0
  isetp.lt inside, lane, r11
  ishl place, lane, 2
  @inside lds.32 sum, place, partial
  shfl.bfly a, sum, 16
  fadd sum, sum, a
  shfl.bfly a, sum, 8
  fadd sum, sum, a
  shfl.bfly a, sum, 4
  fadd sum, sum, a
  shfl.bfly a, sum, 2
  fadd sum, sum, a
  shfl.bfly a, sum, 1
  fadd sum, sum, a
  isetp.eq first, lane, 0
  @first atomg.fadd _, total, _, 0, sum
done:
  exit
.end
