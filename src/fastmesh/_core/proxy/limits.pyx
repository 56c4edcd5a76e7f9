"""Rate limits of a route and who asks (L3). See limits.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strlen
from fastmesh._core.policy.ratelimit cimport RateState, ratelimit_give_back, ratelimit_key, ratelimit_take
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.shm.layout cimport PEER_SLOTS
from fastmesh._core.shm.snapshot cimport PER_NAMED, PER_ROUTE, SnapAction, SnapLimit, fnv64, snap_at

cdef enum:
    NS_PER_S = 1000000000
    NS_PER_MS = 1000000


cdef uint64_t caller_of(const Exchange *ex) noexcept nogil:
    # never 0, which stands for all. Identities for which the table of peers has no row are told apart by their address, not lumped together.
    cdef const char *text
    cdef uint64_t h
    if ex.peer and ex.peer < PEER_SLOTS - 1:
        text = ex.w.seg.peers.id[ex.peer]
        h = fnv64(text, strlen(text))
    else:
        h = fnv64(<const char *>ex.peer_addr.a, 4 if ex.peer_addr.family == 4 else 16)
    return h if h else 1


cdef inline uint32_t seconds(uint64_t ns) noexcept nogil:
    # rounded up: who comes back then is not too early. A year at most: shm/check_actions
    return <uint32_t>((ns + NS_PER_S - 1) // NS_PER_S)


cdef inline void keep(Exchange *ex, const RateState *s) noexcept nogil:
    ex.limit.most = s.most
    ex.limit.left = s.left
    ex.limit.full_s = seconds(s.full_ns - s.full_ns % NS_PER_MS)  # what rounding has added to each token makes no second of its own
    ex.limit.wait_s = seconds(s.wait_ns)


cdef bint limits_take(Exchange *ex, const SnapAction *a) noexcept nogil:
    cdef const SnapLimit *l = <const SnapLimit *>snap_at(&ex.w.snap, a.limits.off)
    cdef uint64_t keys[66]       # SNAP_MAX_LIMITS
    cdef uint64_t caller = 0
    cdef RateState s
    cdef bint named = False
    cdef uint32_t i
    for i in range(a.limits.n):
        keys[i] = 0
        if l[i].per != PER_ROUTE:
            if caller == 0:
                caller = caller_of(ex)
            if l[i].per == PER_NAMED:
                if l[i].who != caller or not ex.peer:
                    continue
                named = True
            elif named:
                continue
        keys[i] = ratelimit_key(&l[i], caller if l[i].per != PER_ROUTE else 0)
        if not ratelimit_take(&ex.w.seg, &l[i], keys[i], ex.w.r.now_ns, &s):
            keep(ex, &s)
            while i:
                i -= 1
                if keys[i]:
                    ratelimit_give_back(&ex.w.seg, &l[i], keys[i])
            return False
        if ex.limit.most == 0 or s.left < ex.limit.left:
            keep(ex, &s)
    return True
