# c = a b, a [m, k], b [k, n], c [m, n] in fp32 (`naive`, `tiled`), or a, b in fp16 and c in fp32 (`tensor`). Sizes are
# multiples of 32 (tensor: m of 64, n of 32, k of 16). A grid of n/32 x m/32 blocks of 256 threads (tensor: n/32 x m/64
# blocks of 128).
#
#   npusim kernel matmul.asm --kernel tiled --hw gpu-tiny --grid 4x4 --block 256 --arg a=rand:f32[128x128] \
#       --arg b=rand:f32[128x128] --arg c=zeros:f32[128x128] --arg n=128 --arg k=128 --check checks.py:matmul

# Each thread makes four elements of a column, straight from global memory.
.kernel naive(a, b, c, n, k)
  .reg lane row col acc0 acc1 acc2 acc3 x pa pb
  vid lane, 0
  vid row, 2                  # rows row, row + 8, row + 16, row + 24 of the tile
  csr r8, 6
  csr r9, 5
  muli r8, r8, 32
  muli r9, r9, 32
  iadd row, row, r8
  iadd col, lane, r9
  vmov acc0, 0
  vmov acc1, 0
  vmov acc2, 0
  vmov acc3, 0
  muli r10, k, 4              # bytes of a row of a, and of eight
  muli r11, r10, 8
  imul pa, row, r10
  ishl pb, col, 2
  muli r12, n, 4
  mov r13, a
  add r14, r13, r11
  add r15, r14, r11
  add r16, r15, r11
  loop k, done
    ldg.32 lane, b, pb
    ldg.32 x, r13, pa
    ffma acc0, x, lane, acc0
    ldg.32 x, r14, pa
    ffma acc1, x, lane, acc1
    ldg.32 x, r15, pa
    ffma acc2, x, lane, acc2
    ldg.32 x, r16, pa
    ffma acc3, x, lane, acc3
    iadd pa, pa, 4
    iadd pb, pb, r12
  endl
done:
  imad pa, row, n, col
  ishl pa, pa, 2
  muli r17, r12, 8
  stg.32 c, pa, acc0
  iadd pa, pa, r17
  stg.32 c, pa, acc1
  iadd pa, pa, r17
  stg.32 c, pa, acc2
  iadd pa, pa, r17
  stg.32 c, pa, acc3
  exit
.end

# Tiles of 32 x 32 of a and b in shared memory: each element is loaded once a block, and used 32 times.
.kernel tiled(a, b, c, n, k)
  .shared ta 4096 16
  .shared tb 4096 16
  .reg lane row acc0 acc1 acc2 acc3 x y pa pb sa sb place
  vid lane, 0
  vid row, 2
  csr r8, 6
  csr r9, 5
  muli r8, r8, 32
  muli r9, r9, 32
  vmov acc0, 0
  vmov acc1, 0
  vmov acc2, 0
  vmov acc3, 0
  muli r10, k, 4
  muli r11, r10, 8            # bytes of eight rows of a
  muli r12, n, 4
  muli r13, r12, 8            # and of b
  iadd pa, row, r8
  imul pa, pa, r10
  ishl x, lane, 2
  iadd pa, pa, x              # a[row][lane]
  imul pb, row, r12
  iadd y, lane, r9
  ishl y, y, 2
  iadd pb, pb, y              # b[row][lane]
  imad place, row, 32, lane
  ishl place, place, 2        # [row][lane] of a tile
  ishl sb, lane, 2
  imul sa, row, 128
  divi r14, k, 32
  loop r14, done
    mov r15, a
    mov r16, b
    ldg.32 x, r15, pa
    ldg.32 y, r16, pb
    sts.32 place, ta, x
    sts.32 place, tb, y
    add r15, r15, r11
    add r16, r16, r13
    ldg.32 x, r15, pa
    ldg.32 y, r16, pb
    sts.32 place, 1024, x
    sts.32 place, 5120, y
    add r15, r15, r11
    add r16, r16, r13
    ldg.32 x, r15, pa
    ldg.32 y, r16, pb
    sts.32 place, 2048, x
    sts.32 place, 6144, y
    add r15, r15, r11
    add r16, r16, r13
    ldg.32 x, r15, pa
    ldg.32 y, r16, pb
    sts.32 place, 3072, x
    sts.32 place, 7168, y
    bar 0
    li r17, 32
    loop r17, stepped
      lds.32 y, sb, tb
      lds.32 x, sa, ta
      ffma acc0, x, y, acc0
      lds.32 x, sa, 1024
      ffma acc1, x, y, acc1
      lds.32 x, sa, 2048
      ffma acc2, x, y, acc2
      lds.32 x, sa, 3072
      ffma acc3, x, y, acc3
      iadd sa, sa, 4
      iadd sb, sb, 128
    endl
stepped:
    isub sa, sa, 128
    isub sb, sb, 4096
    iadd pa, pa, 128
    iadd pb, pb, r13
    iadd pb, pb, r13
    iadd pb, pb, r13
    iadd pb, pb, r13
    bar 0
  endl
done:
  iadd row, row, r8
  iadd lane, lane, r9
  imad pa, row, n, lane
  ishl pa, pa, 2
  stg.32 c, pa, acc0
  iadd pa, pa, r13
  stg.32 c, pa, acc1
  iadd pa, pa, r13
  stg.32 c, pa, acc2
  iadd pa, pa, r13
  stg.32 c, pa, acc3
  exit
.end

# Tensor cores: four warps, each 16 rows of a 64 x 32 tile as four products of 16 x 8; a and b go past the registers
# into shared memory a step ahead of their use (cp.async), in rows of 16 and 32 elements padded by 8, so that the rows
# of a fragment lie in different banks.
.kernel tensor(a, b, c, n, k)
  .shared ta 6144 16          # two slots of 64 rows of 48 bytes
  .shared tb 2560 16          # two slots of 16 rows of 80 bytes
  .reg tid lane warp pa pb sa sb fa fb x slot other out
  .reg ra:4 rb:2
  .reg c0:4 c1:4 c2:4 c3:4
  .preg loads more
  vid tid, 1
  vid lane, 0
  vid warp, 2
  csr r8, 6
  csr r9, 5
  muli r8, r8, 64
  muli r9, r9, 32
  muli r10, k, 2              # bytes of a row of a
  muli r11, n, 2              # and of b
  ishr x, tid, 1              # this thread copies 16 bytes of row tid / 2 of a
  imul sa, x, 48
  iadd pa, x, r8
  imul pa, pa, r10
  iand x, tid, 1
  ishl x, x, 4
  iadd pa, pa, x
  iadd sa, sa, x
  ishr x, tid, 2              # and of row tid / 4 of b, if it is one of the first 64
  imul sb, x, 80
  iadd sb, sb, tb
  imul pb, x, r11
  iand x, tid, 3
  ishl x, x, 4
  iadd pb, pb, x
  iadd sb, sb, x
  muli r12, r9, 2
  iadd pb, pb, r12
  isetp.lt loads, tid, 64
  iand fa, lane, 15           # ldmatrix: row lane % 16 of the warp's rows, half lane / 16 of its 16 columns
  imul x, warp, 16
  iadd fa, fa, x
  imul fa, fa, 48
  ishr x, lane, 4
  ishl x, x, 4
  iadd fa, fa, x
  iand fb, lane, 15           # and row lane % 16 of b
  imul fb, fb, 80
  iadd fb, fb, tb
  vmov c0+0, 0
  vmov c0+1, 0
  vmov c0+2, 0
  vmov c0+3, 0
  vmov c1+0, 0
  vmov c1+1, 0
  vmov c1+2, 0
  vmov c1+3, 0
  vmov c2+0, 0
  vmov c2+1, 0
  vmov c2+2, 0
  vmov c2+3, 0
  vmov c3+0, 0
  vmov c3+1, 0
  vmov c3+2, 0
  vmov c3+3, 0
  cpa.128 sa, a, pa
  @loads cpa.128 sb, b, pb
  cpa.commit
  divi r13, k, 16
  muli r14, r11, 16           # bytes of 16 rows of b
  vmov slot, 0
  li r15, 1                   # step that is copied
  loop r13, done
    iadd pa, pa, 32
    iadd pb, pb, r14
    ixor other, slot, 1
    isetp.lt more, r15, r13
    imad x, other, 3072, sa
    @more cpa.128 x, a, pa
    imad x, other, 1280, sb
    pand more, more, loads
    @more cpa.128 x, b, pb
    cpa.commit
    addi r15, r15, 1
    cpa.wait 1                # the step before
    bar 0
    imad x, slot, 3072, fa
    ldsm.x4 ra, x
    imad x, slot, 1280, fb
    ldsm.x2.t rb, x
    mma.m16n8k16.f32.f16 c0, ra, rb, c0
    ldsm.x2.t rb, x, 16
    mma.m16n8k16.f32.f16 c1, ra, rb, c1
    ldsm.x2.t rb, x, 32
    mma.m16n8k16.f32.f16 c2, ra, rb, c2
    ldsm.x2.t rb, x, 48
    mma.m16n8k16.f32.f16 c3, ra, rb, c3
    vmov slot, other
    bar 0
  endl
done:
  ishr out, lane, 2           # row lane / 4, and eight below; columns 2 (lane % 4), and one more
  imul x, warp, 16
  iadd out, out, x
  iadd out, out, r8
  imul out, out, n
  iand x, lane, 3
  ishl x, x, 1
  iadd out, out, x
  iadd out, out, r9
  ishl out, out, 2
  muli r16, n, 32             # bytes of eight rows of c
  add r16, c, r16
  stg.64 c, out, c0
  stg.64 r16, out, c0+2
  stg.64 c, out, 32, c1
  stg.64 r16, out, 32, c1+2
  stg.64 c, out, 64, c2
  stg.64 r16, out, 64, c2+2
  stg.64 c, out, 96, c3
  stg.64 r16, out, 96, c3+2
  exit
.end
