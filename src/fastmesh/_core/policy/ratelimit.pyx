"""Token buckets of rate limits (L2). See ratelimit.pxd.

A place is a key and a time. They are two words: a place changes its owner by first being made full (full_ns = 0), then by a CAS of the
key. Who moved the time of a place whose key changed meanwhile puts it back. What remains is a request that gets a token too many or one too
few when a bucket is given up in the very nanoseconds in which it is used; never a bucket that is lost or shared.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport fm_cas64, fm_load_acquire
from fastmesh._core.shm.cells cimport Bucket
from fastmesh._core.shm.hashtab cimport mix64
from fastmesh._core.shm.layout cimport BUCKETS
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport SnapLimit
from fastmesh._core.shm.stats cimport ST_RL_EVICTED, stat_inc

cdef enum:
    NS_PER_MS = 1000000
    TWICE_MOST = 8               # looks at who else has made this bucket, before both stay
    SKEW_MS = 10000              # how far the clock of a worker's turn may be behind another's: a turn is much shorter


cdef inline uint64_t token_ns(const SnapLimit *l) noexcept nogil:
    # rounded up: never more than asked for (at a million tokens a second, the most that is taken, by a thousandth)
    return (<uint64_t>l.fill_ms * NS_PER_MS + l.fill - 1) // l.fill


cdef uint64_t ratelimit_key(const SnapLimit *l, uint64_t caller) noexcept nogil:
    cdef uint64_t key = mix64(l.id ^ mix64(caller))
    return key if key else 1


cdef inline Bucket *place(SegMap *m, uint64_t key, uint32_t i) noexcept nogil:
    return &m.buckets[(key & (BUCKETS - RATE_PROBES)) + i]


cdef Bucket *find(SegMap *m, uint64_t key, const Bucket *other) noexcept nogil:
    # the place of this key that is not `other`, or NULL
    cdef Bucket *b
    cdef uint32_t i
    for i in range(RATE_PROBES):
        b = place(m, key, i)
        if b != other and fm_load_acquire(&b.key) == key:
            return b
    return NULL


cdef Bucket *claim(SegMap *m, uint64_t key, uint64_t now_ns) noexcept nogil:
    # A place for a bucket that has none: it begins full. NULL: somebody else has changed something, look again.
    cdef Bucket *best = NULL
    cdef Bucket *b
    cdef uint64_t had = 0
    cdef uint64_t full = 0
    cdef uint64_t at, owner
    cdef uint32_t i
    for i in range(RATE_PROBES):
        b = place(m, key, i)
        owner = fm_load_acquire(&b.key)
        at = fm_load_acquire(&b.full_ns) if owner else 0
        if best == NULL or at < full:
            best = b
            had = owner
            full = at
    if full and not fm_cas64(&best.full_ns, full, 0):
        return NULL
    if full > now_ns:
        stat_inc(m.stats, ST_RL_EVICTED)
    return best if fm_cas64(&best.key, had, key) else NULL


cdef Bucket *bucket_of(SegMap *m, uint64_t key, uint64_t now_ns) noexcept nogil:
    cdef Bucket *b
    cdef uint32_t twice = 0
    while True:
        b = find(m, key, NULL)
        if b != NULL:
            return b
        b = claim(m, key, now_ns)
        if b == NULL:
            continue             # others get on: a CAS fails only where another has succeeded
        if find(m, key, b) == NULL or twice == TWICE_MOST:
            return b
        # Two workers have made it in two places at the same time: neither has taken a token there yet.
        twice += 1
        fm_cas64(&b.key, key, 0)


cdef bint ratelimit_take(SegMap *m, const SnapLimit *l, uint64_t key, uint64_t now_ns, RateState *out) noexcept nogil:
    cdef uint64_t token = token_ns(l)
    cdef uint64_t span = token * l.most      # within 64 bits: shm/check_actions
    cdef uint64_t had, full
    cdef Bucket *b
    out.most = l.most
    while True:
        b = bucket_of(m, key, now_ns)
        had = fm_load_acquire(&b.full_ns)
        full = (had if had > now_ns else now_ns) + token
        if full > now_ns + span:
            if had > now_ns + span + <uint64_t>SKEW_MS * NS_PER_MS:
                fm_cas64(&b.full_ns, had, 0)  # no bucket of this limit says so: it is what the place's last owner has left
                continue
            out.left = 0
            out.full_ns = had - now_ns
            out.wait_ns = full - now_ns - span
            return False
        if not fm_cas64(&b.full_ns, had, full):
            continue
        if fm_load_acquire(&b.key) == key:
            break
        give_back(b, token)
    out.left = <uint32_t>((now_ns + span - full) // token)
    out.full_ns = full - now_ns
    out.wait_ns = 0
    return True


cdef void give_back(Bucket *b, uint64_t token) noexcept nogil:
    cdef uint64_t had
    while True:
        had = fm_load_acquire(&b.full_ns)
        if had < token or fm_cas64(&b.full_ns, had, had - token):
            return


cdef void ratelimit_give_back(SegMap *m, const SnapLimit *l, uint64_t key) noexcept nogil:
    cdef Bucket *b = find(m, key, NULL)
    if b != NULL:
        give_back(b, token_ns(l))
