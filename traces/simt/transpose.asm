# y[j][i] = x[i][j] of a square matrix of `size` columns, in tiles of 32 x 32: one block a tile, of 256 threads, whose
# warps take rows. `naive` writes columns of y, 32 sectors a store. `tiled` goes through shared memory: what belongs to
# column c of row r lies at column (c xor r), so neither rows nor columns meet at a bank. `padless` leaves the xor out:
# 32 rows meet at one bank.
#
#   npusim kernel transpose.asm --kernel tiled --hw gpu-tiny --grid 8x8 --block 256 --arg x=rand:f32[256x256] \
#       --arg y=zeros:f32[256x256] --arg size=256 --check checks.py:transpose
.kernel naive(x, y, size)
  .reg lane row from to a
  vid lane, 0
  vid row, 2                  # the warp: rows row, row + 8, row + 16, row + 24 of the tile
  csr r8, 6                   # row and column of the tile
  csr r9, 5
  muli r8, r8, 32
  muli r9, r9, 32
  iadd lane, lane, r9         # column of x
  iadd row, row, r8           # row of x
  li r10, 4
  loop r10, done
    imad from, row, size, lane
    ishl from, from, 2
    ldg.32 a, x, from
    imad to, lane, size, row
    ishl to, to, 2
    stg.32 y, to, a
    iadd row, row, 8
  endl
done:
  exit
.end

.kernel tiled(x, y, size)
  .shared tile 4096 16
  .reg lane row from to a place column line
  vid lane, 0
  vid row, 2
  csr r8, 6
  csr r9, 5
  muli r8, r8, 32
  muli r9, r9, 32
  li r10, 4
  iadd column, lane, r9
  loop r10, half
    iadd line, row, r8
    imad from, line, size, column
    ishl from, from, 2
    ldg.32 a, x, from
    ixor place, lane, row     # swizzle
    imad place, row, 32, place
    ishl place, place, 2
    sts.32 place, tile, a
    iadd row, row, 8
  endl
half:
  bar 0
  vid row, 2                  # now a row of the tile of y
  li r10, 4
  iadd column, lane, r8
  loop r10, done
    ixor place, lane, row     # column `row` of row `lane` of the tile
    imad place, lane, 32, place
    ishl place, place, 2
    lds.32 a, place, tile
    iadd line, row, r9
    imad to, line, size, column
    ishl to, to, 2
    stg.32 y, to, a
    iadd row, row, 8
  endl
done:
  exit
.end

.kernel padless(x, y, size)
  .shared tile 4096 16
  .reg lane row from to a place column line
  vid lane, 0
  vid row, 2
  csr r8, 6
  csr r9, 5
  muli r8, r8, 32
  muli r9, r9, 32
  li r10, 4
  iadd column, lane, r9
  loop r10, half
    iadd line, row, r8
    imad from, line, size, column
    ishl from, from, 2
    ldg.32 a, x, from
    imad place, row, 32, lane
    ishl place, place, 2
    sts.32 place, tile, a
    iadd row, row, 8
  endl
half:
  bar 0
  vid row, 2
  li r10, 4
  iadd column, lane, r8
  loop r10, done
    imad place, lane, 32, row # every lane at the same bank
    ishl place, place, 2
    lds.32 a, place, tile
    iadd line, row, r9
    imad to, line, size, column
    ishl to, to, 2
    stg.32 y, to, a
    iadd row, row, 8
  endl
done:
  exit
.end
