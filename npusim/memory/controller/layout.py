"""Where every figure and every state word of a channel's controller lies.

A channel is one row of int64 words: the header CH_*, then, at offsets in the parameters, the earliest tick of each
command at each node of the organisation, the state of each bank, the last activations of each pseudo-channel, and the
queues (lists of rows of the table of entries). Times are ticks.
"""

from __future__ import annotations

# fmt: off
# Parameters of a controller, int64 [P_WORDS].
(P_BANKS, P_PSEUDO, P_STACKS,
 P_TURN,                                   # bank groups that the bursts of a run go round
 P_FAW, P_SIBLING,                         # ticks: four activations; reads between stack ids
 P_READ_LATENCY, P_WRITE_LATENCY,          # RD or WR to the end of its data
 P_BUSES, P_HALF, P_AAD, P_WCK, P_WCK_READ, P_WCK_WRITE,  # command slots, as in isa.memory.DramPart
 P_REFI, P_REFRESH, P_POSTPONE, P_REFRESH_BLOCKS,  # ticks; REFRESH_*; refreshes that may be owed; 1: no new work then
 P_HOLD,                                   # 1: also while no read waits, writes wait until P_HIGH
 P_HIGH, P_LOW,                            # writes go first above, until fewer than
 P_BATCH, P_WRITE_AGE,                     # places of writes in a row while reads wait; ticks that one may wait
 P_PROTECT, P_AGE,                         # PROTECT_*; ticks in a queue after which no row is kept against the oldest
 P_COLUMN_FIRST,                           # 1: columns before rows on a shared bus; 0: by age alone
 P_ACTIVE,                                 # 1: an entry whose row was opened leaves its queue for the active list
 P_CLOSED,                                 # 1: rows that nobody waits for are closed
 P_TRAIN, P_COLUMN_TICKS, P_BURST_TICKS,   # 1: a run's row hits go out in one piece, so many ticks apart; of a burst
 P_READ_QUEUE, P_WRITE_QUEUE, P_PLACE, P_PLACE_BITS,  # places; bursts of a place, and their log2, -1 if it is none
 P_SLOTS,                                  # words of each list
 P_LOG,                                    # commands of a channel that are kept, the first ones; 0: none
 AT_READY, AT_BANK, AT_FAW, AT_LIST, AT_LOG, P_WORDS) = range(43)
NO_REFRESH, ALL_BANK, PER_BANK = range(3)
PROTECT_NONE, PROTECT_OLDER, PROTECT_ALL = range(3)

LINE_WORDS = 8  # of the processor's cache: rows of channels and of entries are whole lines

# Header of a channel.
# The words of every step come first: a channel that has nothing to do costs one line of the processor's cache.
(CH_NEXT,                                  # tick of the next thing to do
 CH_WAIT_FIRST, CH_WAIT_WRITE,             # 1 + the first entry without a place: reads, writes
 CH_WAIT_LAST, CH_WAIT_LAST_WRITE,
 CH_ADMIT_FROM,                            # none of them can get one before; FAR: not until another leaves
 CH_SIZE0, CH_SIZE1, CH_SIZE2,              # entries in the read, write and active list
 CH_PLACES0, CH_PLACES1, CH_PLACES2,        # places that they take
 CH_NEXT_REFRESH, CH_OWED,                 # refreshes: the next one's tick, how many wait
 CH_COLUMN_FREE,                           # the end of the running train
 CH_COLUMN_FROM, CH_ROW_FROM,              # no column, no row command of the queues before; 0: look
 CH_REFRESH_FROM, CH_KEPT,                 # no step of a refresh by bank before; 1: a row was kept open for its hits
 CH_WRITE_MODE, CH_CLOSINGS,               # 1: writes go first; how often a row was closed
 CH_WANTED,                                # 1: a read waits until a write that is held back is written
 CH_BATCH, CH_READS_OWED,                  # places of writes sent in a row; of reads before writes go first again
 CH_WRITES_FROM, CH_WRITES_TO,             # no queued write begins before, none ends behind; kept until all are gone
 CH_FINISHED,                              # 1 + the first of the entries that are done
 CH_COMMITTED, CH_COMMITTED_LIST,          # 1 + the entry that follows its CAS, and its list
 CH_ACTIVATING, CH_DEADLINE, CH_ACTIVATED,  # 1 + the entry whose second activation command is due, when, its bank
 CH_TRAIN_FIRST, CH_LAST_KIND,             # first tick of the last train, and its command
 CH_LAST_WRITE,                            # end of the last write's data
 CH_WCK_UNTIL,                             # the data clock runs until then
 CH_SERVED, CH_REFRESHING, CH_ROUND,       # refreshes made; by bank: 1 + the bank made ready, mask of those still due
 CH_SHUT,                                  # by bank: mask of banks without an open row
 CH_PAIR_TICK, CH_PAIR_NODE, CH_PAIR_COMMAND, CH_PAIR_BANK,  # half cycles: the last row command of a rising edge
 CH_TURNS, CH_REFRESHES, CH_HITS, CH_MISSES, CH_CONFLICTS, CH_ACTS, CH_PRES, CH_PREAS, CH_READS, CH_WRITES,
 CH_LOGGED,
 CH_COUNT) = range(56)
READ_LIST, WRITE_LIST, ACTIVE_LIST = range(3)

# A bank: the open row, CLOSED or OPENING; entries of it in the active list; and ticks before which no RD, no WR, and
# neither the ACT nor the PRE that its state asks for can go out: bounds, which save much work.
B_ROW, B_ACTIVE, B_READ_FROM, B_WRITE_FROM, B_ROW_FROM, B_WORDS = range(6)
CLOSED, OPENING = -1, -2
# A kept command: tick, command, bank (of REFA and PREA the first one), row of an activation.
LOG_WORDS = 4
# A place of a list: the entry, of it the bank and the row of the next burst, and CH_CLOSINGS when all of its rows were
# seen open.
L_ENTRY, L_BANK, L_ROW, L_OPEN_AT, L_WORDS = range(5)
FAW_WORDS = 5  # slot of the oldest, four times

# A row of the table of entries: a run of bursts in one row (of all bank groups in turn, where the map rotates them).
# E_LOCAL, E_TOTAL: its first burst, counted in the channel, and how many it had. E_TURN: the bank groups that it goes
# round. E_SEEN: how its first command found the bank. E_OWN: bursts of the
# same request that the channel carries before its own are over.
# What a run that is cut needs of the one before it comes first.
(E_NEXT, E_REQUEST, E_LOCAL, E_COUNT, E_TURN, E_OWN, E_BYTES, E_ARRIVAL, E_BANK, E_ROW, E_WRITE, E_SEEN, E_DONE,
 E_REGION, E_QUEUED, E_TOTAL, E_WORDS) = range(17)
SEEN_HIT, SEEN_MISS, SEEN_CONFLICT = 1, 2, 3
# fmt: on
FAR = 1 << 60  # a tick that never comes
LONG_AGO = -(1 << 40)  # "never happened"
# `nodes`, int64 [banks, .]: by level, the word at which the ready ticks of the bank's node begin; behind the levels:
NEXT_BANK, PSEUDO_OF = 5, 6  # the bank of a run's next burst, and the number of the pseudo-channel
COLUMN, ROW, ANY = range(3)  # which commands a slot takes
