"""Runtime state of endpoints and clusters (L1), index stable over config generations.

What a crash could leave raised is sharded by worker, and the arbiter zeroes a dead worker's row. What is a verdict, or must be counted over
all workers, is one shared word, written by atomic operations.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef struct EpCell:              # 128 bytes; shared verdicts
    uint64_t tag                 # hash of cluster name and address: who owns this index; 0 = free
    uint64_t ejected_until_ns    # CLOCK_MONOTONIC; by CAS; 0 = not ejected
    uint32_t in_row_5xx          # failures since the last success, as outlier detection counts them
    uint32_t in_row_gateway
    uint32_t in_row_local
    uint32_t ejections           # multiplier of the ejection time
    uint32_t probing             # an ejection is over, and one request finds out whether rightly: worker + 1; 0: nobody does
    uint32_t health              # HE_*: active health checks
    uint64_t since_ns            # CLOCK_MONOTONIC: when it was added, or came back (warm-up)
    uint64_t ewma_ns             # peak-EWMA of the time to an answer's head
    uint64_t ewma_at_ns          # when it was last moved
    uint64_t swept_requests      # what the last interval of outlier detection by rates ended with, all workers
    uint64_t swept_failures
    uint64_t check_at_ns         # CLOCK_MONOTONIC: when the next active health check is due; by CAS: who moves it makes it
    uint32_t in_row_pass         # active health checks in a row
    uint32_t in_row_fail
    uint32_t rate_requests       # ... and what came in that interval
    uint32_t rate_failures
    uint64_t reserved[3]

cdef enum:  # EpCell.health
    HE_UNKNOWN = 0               # not checked: usable
    HE_HEALTHY
    HE_UNHEALTHY

cdef struct EpShard:             # 32 bytes; one worker's share
    uint32_t active              # exchanges in flight: zeroed by the arbiter when the worker dies
    uint32_t connections         # open connections: zeroed too
    uint64_t requests            # attempts that have a result, total: not those that nobody waited for, or that got no connection for our limits
    uint64_t failures            # ... a 5xx (or such a gRPC status), no connection, no answer, half of one
    uint64_t connects            # connections dialled, total

cdef struct EpRow:               # a worker's row
    EpShard e[16384]

cdef struct ClCell:              # 64 bytes; of a cluster
    uint64_t tag                 # its id; 0 = free
    uint64_t swept_ns            # CLOCK_MONOTONIC: when outlier detection last looked at all; by CAS: who sets it does it
    uint32_t ejected             # endpoints that are ejected
    uint32_t unhealthy           # ... whose active health checks fail; counted anew again and again (policy/health)
    uint64_t rated_ns            # CLOCK_MONOTONIC: when EpCell.swept_* were last taken
    uint64_t reserved[4]

cdef struct ClShard:             # 32 bytes; one worker's share: the gauges of circuit breaking, zeroed when the worker dies
    uint32_t active              # requests in flight
    uint32_t pending             # ... that wait for a connection
    uint32_t connections
    uint32_t retries             # attempts beyond the first, in flight or in back-off
    uint64_t overflows           # what a limit has refused, total
    uint64_t repeats             # requests that their client has repeated by itself (policy/repeat), total

cdef struct ClRow:               # a worker's row
    ClShard c[8192]

cdef struct Memo:                # 16 bytes: a call tree (by its trace id) in which retries have been used up; see policy/giveup
    uint64_t key                 # 0 = empty
    uint64_t at_ns               # CLOCK_MONOTONIC

cdef struct Bucket:              # 16 bytes: a token bucket of a rate limit that is not full; see policy/ratelimit
    uint64_t key                 # hash of the limit's id and of whom it is for; 0 = empty
    uint64_t full_ns             # CLOCK_MONOTONIC: when it is full again; by CAS. A bucket that is full says nothing: its place may be taken.
