"""Tables of consistent hashing (L1). See hashtab.pxd. Knows no request."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort

from fastmesh._core.base.err cimport FM_ENOMEM, FM_OK
from fastmesh._core.shm.hashtab cimport RING_POINTS_MOST, HashNode, mix64
from fastmesh._core.shm.snapshot cimport LB_RING_HASH, SnapEndpoint, fnv64

cdef enum:
    EMPTY = 0xffffffff


cdef int by_value(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t *>a)[0]
    cdef uint64_t y = (<const uint64_t *>b)[0]
    return (x > y) - (x < y)


cdef int by_key(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const HashNode *>a).key
    cdef uint64_t y = (<const HashNode *>b).key
    return (x > y) - (x < y)


# ---- ring --------------------------------------------------------------------------------------------------------------------------

cdef uint64_t power_of_two(uint64_t n) noexcept nogil:
    """The largest that is not above n (n > 0)."""
    cdef uint64_t p = 1
    while p <= n / 2:
        p *= 2
    return p


cdef struct RingScale:
    uint64_t points                # of an endpoint with ...
    uint64_t weight                # ... this weight: the power of two below the average, so that it seldom changes


cdef RingScale ring_scale(const HashNode *v, uint32_t n, uint32_t least) noexcept nogil:
    cdef RingScale r
    cdef uint64_t total = 0
    cdef uint64_t most = RING_POINTS_MOST if least < RING_POINTS_MOST else least
    cdef uint32_t i
    for i in range(n):
        total += v[i].weight
    r.weight = power_of_two(total / n)
    r.points = power_of_two(least) if least > 1 else 1
    if r.points >= least and r.points > 1:
        r.points /= 2              # least is a power of two: its half will do
    while r.points > 1 and r.points * n > most:
        r.points /= 2
    return r


cdef inline uint32_t points_of(RingScale r, uint32_t weight) noexcept nogil:
    cdef uint64_t k = r.points * weight / r.weight
    return <uint32_t>k if k else 1


cdef uint32_t ring_size(const HashNode *v, uint32_t n, uint32_t least) noexcept nogil:
    cdef RingScale r
    cdef uint32_t sum = 0
    cdef uint32_t i
    if n == 0:
        return 0
    r = ring_scale(v, n, least)
    for i in range(n):
        sum += points_of(r, v[i].weight)
    return sum


cdef int ring_fill(const HashNode *v, uint32_t n, uint32_t least, uint32_t *out) noexcept nogil:
    cdef uint32_t total = ring_size(v, n, least)
    cdef uint64_t *p
    cdef RingScale r
    cdef uint32_t i, k
    cdef uint32_t at = 0
    if total == 0:
        return FM_OK
    p = <uint64_t *>malloc(total * sizeof(uint64_t))
    if p == NULL:
        return FM_ENOMEM
    r = ring_scale(v, n, least)
    for i in range(n):
        for k in range(points_of(r, v[i].weight)):
            # the point in the high half: sorting sorts by it
            p[at] = (mix64(v[i].key + (k + 1) * <uint64_t>0x9e3779b97f4a7c15) & ~<uint64_t>0xffffffff) | v[i].place
            at += 1
    qsort(p, total, sizeof(uint64_t), by_value)
    for i in range(total):
        out[i] = <uint32_t>(p[i] >> 32)
        out[total + i] = <uint32_t>p[i]
    free(p)
    return FM_OK


# ---- Maglev ------------------------------------------------------------------------------------------------------------------------

cdef struct Turn:
    double at                      # when this endpoint chooses its next slot: its choices so far and one, by its weight
    uint32_t i
    uint32_t taken                 # choices so far
    uint32_t slot                  # where its next choice begins to look
    uint32_t skip


cdef inline bint sooner(const Turn *a, const Turn *b) noexcept nogil:
    return a.at < b.at or (a.at == b.at and a.i < b.i)


cdef void sink(Turn *heap, uint32_t n, uint32_t at) noexcept nogil:
    cdef Turn t = heap[at]
    cdef uint32_t kid = 2 * at + 1
    while kid < n:
        if kid + 1 < n and sooner(&heap[kid + 1], &heap[kid]):
            kid += 1
        if not sooner(&heap[kid], &t):
            break
        heap[at] = heap[kid]
        at = kid
        kid = 2 * at + 1
    heap[at] = t


cdef int maglev_fill(HashNode *v, uint32_t n, uint32_t slots, uint32_t *out) noexcept nogil:
    cdef Turn *heap
    cdef Turn *t
    cdef uint32_t i, slot
    if n == 0 or slots == 0:
        return FM_OK
    heap = <Turn *>calloc(n, sizeof(Turn))
    if heap == NULL:
        return FM_ENOMEM
    qsort(v, n, sizeof(HashNode), by_key)
    for i in range(n):
        heap[i].at = 1.0 / v[i].weight
        heap[i].i = i
        heap[i].slot = <uint32_t>(mix64(v[i].key) % slots)
        heap[i].skip = <uint32_t>(mix64(v[i].key ^ <uint64_t>0x9e3779b97f4a7c15) % (slots - 1) + 1) if slots > 1 else 0
    i = n / 2
    while i > 0:
        i -= 1
        sink(heap, n, i)
    for slot in range(slots):
        out[slot] = EMPTY
    for i in range(slots):
        t = &heap[0]
        slot = t.slot
        while out[slot] != EMPTY:  # slots is a prime: its steps visit all, and one is free
            slot = <uint32_t>((<uint64_t>slot + t.skip) % slots)
        out[slot] = v[t.i].place
        t.slot = slot
        t.taken += 1
        t.at = (t.taken + 1.0) / v[t.i].weight
        sink(heap, n, 0)
    free(heap)
    return FM_OK


cdef uint32_t *hashtab_make(const SnapEndpoint *e, uint32_t n, const char *blob, int lb, uint32_t size, uint32_t *words) noexcept nogil:
    cdef HashNode *nodes
    cdef uint32_t *out
    cdef uint32_t i
    cdef int rc
    words[0] = 0
    if n == 0:
        return NULL
    nodes = <HashNode *>calloc(n, sizeof(HashNode))
    if nodes == NULL:
        return NULL
    for i in range(n):
        nodes[i].key = mix64(fnv64(blob + e[i].text.off, e[i].text.n))
        nodes[i].weight = e[i].weight
        nodes[i].place = i
    words[0] = 2 * ring_size(nodes, n, size) if lb == LB_RING_HASH else size
    out = <uint32_t *>malloc(words[0] * sizeof(uint32_t))
    if out != NULL:
        rc = ring_fill(nodes, n, size, out) if lb == LB_RING_HASH else maglev_fill(nodes, n, size, out)
        if rc != FM_OK:
            free(out)
            out = NULL
    free(nodes)
    return out
