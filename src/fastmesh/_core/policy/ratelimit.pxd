"""Token buckets of rate limits (L2), shared by all workers of a proxy: whether one more request may pass. Envoy's token_bucket, by GCRA.

A bucket is one word, the time at which it is full again (shm/cells.pxd: Bucket), moved by CAS: what is missing now is that time less now,
one token being so many nanoseconds. So nothing fills buckets, nobody can hold one while it dies, and one that is full need not be kept.
Time is an argument; workers whose clocks of the turn differ never let more pass than `most` and what the time between them fills.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport SnapLimit

cdef enum:
    RATE_PROBES = 8              # places in which a bucket can lie: two lines of the cache

cdef struct RateState:           # what a bucket said when it was asked
    uint32_t most
    uint32_t left                # tokens, after this request's
    uint64_t full_ns             # until it is full again
    uint64_t wait_ns             # until there is a token; 0: this request got one

cdef uint64_t ratelimit_key(const SnapLimit *l, uint64_t caller) noexcept nogil
"""Of a bucket; never 0. caller: a hash of who asks, 0 for a bucket of all."""
cdef bint ratelimit_take(SegMap *m, const SnapLimit *l, uint64_t key, uint64_t now_ns, RateState *out) noexcept nogil
"""One token, or False: there is none. When the table has no place, the bucket that would be full the soonest loses its own: its caller
begins anew with a full one (counted: ST_RL_EVICTED)."""
cdef void ratelimit_give_back(SegMap *m, const SnapLimit *l, uint64_t key) noexcept nogil
"""The token of a request that did not pass for another reason."""
