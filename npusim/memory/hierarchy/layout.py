"""Arrays of the hierarchy: names of words and columns, status codes.

Times are cycles of the hierarchy's clock, but at its ports, where they are femtoseconds. Rows of `rows` are pieces of
requests (one a line), messages between partitions and to and from memory controllers, and one for each slice's next
lookup; row 0 means none.
"""

from __future__ import annotations

from npusim.memory.caches.mshr import T_NEED, T_NEXT

# fmt: off
# Status of hierarchy_advance; the first four are those of memory_advance.
OK = 0
FULL = 1  # no room for the answers of all that was asked: drain or grow the heap, then call again
BAD_REQUEST = 2  # row `head` of the ring: size, address or port out of range
CROWDED = 3  # no room in the DRAM's tables: grow them
ROWS = 4  # no room in the tables of requests and pieces: grow them
DRAM_RING = 5  # no room in the DRAM's ring: grow it
DRAM_HEAP = 6  # no room in the DRAM's heap: grow it

# Parameters (int64).
(H_DIRECT, H_CAPACITY, H_CORES, H_Q, H_R,       # 1: no cache; bytes; a cycle is Q + R / 2^FRACTION_BITS fs
 H_SLICES, H_PARTS, H_PER, H_SHIFT,             # slices, partitions, slices a partition, bits that the hash folds by
 H_LINE, H_SECTOR, H_UNIT, H_RATE,              # log2 of bytes and of lines in a row; bytes a cycle and slice
 H_HIT, H_MISS, H_FILL, H_REQUEST, H_RESPONSE,  # latencies
 H_FAR_OUT, H_FAR_BACK, H_FAR_RATE, H_REPLICATE,  # FAR_RATE 0: no limit
 H_CREDITS, H_WINDOW,                             # writes on their way to the DRAM, a slice
 H_MARGIN,                                        # rows of a table that one event may need
 H_NET, H_NET_Q, H_NET_R,                         # NET_*; a cycle of the network, as Q and R
 H_GROUPS,                                        # groups of cores: ports from H_CORES on
 H_BANKS, H_COALESCERS, H_COUNT) = range(32)                    # of a slice
H_OWN0 = H_COUNT  # behind the others: of each core, the first slice of its own partition
NET_NONE, NET_CORES, NET_ALL = range(3)  # what a network links: nothing; cores and slices; memory controllers too

# Words of `now`.
(N_CYCLE, N_ORDER, N_FREE, N_LEFT, N_ASKED_FREE, N_ASKED_LEFT, N_OPEN, N_EVENTS, N_CURSOR, N_WRITES, N_LAST_FS,
 N_COUNT) = range(12)
# Behind them, CO_SLOTS x CO_WORDS for each coalescer: of the read that it saw last in each slot line and sectors, the
# row until it has been answered, then 0, and the cycle of its answer.
CO_LINE, CO_SECTORS, CO_ROW, CO_CYCLE, CO_WORDS = range(5)
CO_SLOTS = 1 << 10

# Columns of `slices`. Queues: 0 from the cores, 1 from other partitions, so that neither waits for the other.
(S_FIRST0, S_FIRST1, S_LAST0, S_LAST1, S_TURN, S_BUSY, S_AWAKE, S_BLOCKED, S_SINCE, S_WRITES,
 S_HITS, S_MISSES, S_MERGED, S_FILLS, S_WRITE_BACKS, S_STALLS, S_STALL_CYCLES, S_BYTES, S_FAR, S_CONFLICT_CYCLES,
 S_RATE_FREE, S_OUT, S_COUNT) = range(23)
# RATE_FREE: from then on the rate alone would let it go on (where there are banks); OUT: the way from the slice to its
# cores is free at OUT / H_RATE cycles.
S_BANK0 = S_COUNT  # behind the others: the cycle from which each bank is free
SLICE_COUNTERS = {"hits": S_HITS, "misses": S_MISSES, "merged": S_MERGED, "fills": S_FILLS,
                  "write_backs": S_WRITE_BACKS, "stalls": S_STALLS, "stall_cycles": S_STALL_CYCLES,
                  "bytes": S_BYTES, "far": S_FAR, "conflict_cycles": S_CONFLICT_CYCLES}

# Columns of `rows`; the first two are those of a target of caches.mshr.
R_NEXT, R_NEED = T_NEXT, T_NEED
(R_KIND, R_TIME, R_LINE, R_SECTORS, R_WHOLE, R_WRITE, R_SLICE, R_HOME, R_OWN, R_ASKED, R_ENTRY, R_SINCE, R_WAIT,
 R_BYTES, R_SLOT, R_FOLLOWER, R_COUNT) = range(2, 19)  # SLOT, FOLLOWER: of a read at a coalescer, or 0
# Kinds of events.
K_WAKE = 0  # the slice's next lookup
K_ARRIVE = 1  # a piece arrives at the slice of its own partition
K_REMOTE = 2  # a message arrives at the home slice
K_RETURN = 3  # data from the home slice have arrived for the entry R_ENTRY
K_ACK = 4  # the home slice has written
K_REPLY = 5  # the answer leaves for the core, over the network
K_ASK = 6  # a request of a slice leaves for its memory controller, over the network
K_ASKED = 7  # it is at the controller
K_WRITTEN = 8  # the slice learns that the controller has written
R_ADDRESS, R_TAG = R_LINE, R_ENTRY  # of K_ASK and K_ASKED, whose slice is R_SLICE

# Columns of `asked`, the requests under way.
(A_NEXT, A_LEFT, A_TIME_FS, A_TAG, A_ORDER, A_FINISH_FS, A_WAIT_FS, A_PORT, A_COUNT) = range(9)

# Columns of `wheel`: first and last row of a cycle's events; 32 cycles' bits, whether there are any.
W_FIRST, W_LAST, W_BITS, W_COUNT = range(4)
WHEEL = 1 << 13

# Columns of `far` [partitions x partitions]: the link is free at FREE / rate cycles; bytes that it carried.
F_FREE, F_BYTES, F_COUNT = range(3)

# Columns of `groups`: how many cores, then these, then as many words for when an answer is there.
GR_COUNT, GR_CORES = range(2)

# Counters; the last are a histogram of latencies: two buckets an octave of nanoseconds.
(C_READS, C_WRITES, C_READ_BYTES, C_WRITE_BYTES, C_DRAM_READ, C_DRAM_WRITTEN, C_LATENCY_FS, C_WAIT_FS,
 C_HISTOGRAM) = range(9)
BUCKETS = 48
COUNTERS = {"reads": C_READS, "writes": C_WRITES, "read_bytes": C_READ_BYTES, "write_bytes": C_WRITE_BYTES,
            "dram_read_bytes": C_DRAM_READ, "dram_written_bytes": C_DRAM_WRITTEN, "latency_fs": C_LATENCY_FS,
            "wait_fs": C_WAIT_FS}
# fmt: on
FRACTION_BITS = 20
MARGIN = 128  # rows of a table that one event may need, but for writes that are passed on
MASK_BITS = 32  # of a DRAM tag: sectors below, the entry above
HOME_BITS = 17  # of a DRAM tag below zero, a write's, counted from -1 down: the slice below, the channel above
FAR_CYCLE = 1 << 50
FAR_FS = 1 << 62
ENTRY_DROP = 1  # M_MARK of an entry whose line was written elsewhere: it is not kept
