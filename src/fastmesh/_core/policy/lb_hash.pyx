"""Consistent hashing (L2). See lb_hash.pxd; the tables are those of shm/hashtab."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.policy.lb_hash cimport HASH_WALK_MOST, HashWalk
from fastmesh._core.shm.hashtab cimport mix64
from fastmesh._core.shm.snapshot cimport LB_RING_HASH, Snap, SnapCluster, snap_at


cdef void hash_begin(HashWalk *w, const Snap *s, const SnapCluster *c, uint64_t key) noexcept nogil:
    cdef const uint32_t *table = <const uint32_t *>snap_at(s, c.hash_table.off)
    cdef uint32_t lo = 0
    cdef uint32_t hi, mid, point
    key = mix64(key)
    w.n = c.hash_table.n
    w.places = table
    w.step = 1
    if c.lb == LB_RING_HASH:
        w.n /= 2
        w.places = table + w.n
        point = <uint32_t>(key >> 32)
        hi = w.n
        while lo < hi:
            mid = lo + ((hi - lo) >> 1)
            if table[mid] < point:
                lo = mid + 1
            else:
                hi = mid
        w.at = lo if lo < w.n else 0   # behind the last point the ring begins anew
    elif w.n:
        # neighbors in the table have neighbors in common: each key goes its own way (a prime number of slots, so it visits them all)
        w.at = <uint32_t>(key % w.n)
        w.step = <uint32_t>((key >> 32) % (w.n - 1)) + 1 if w.n > 1 else 0
    w.left = w.n if w.n < HASH_WALK_MOST else HASH_WALK_MOST


cdef bint hash_next(HashWalk *w, uint32_t *place) noexcept nogil:
    if w.left == 0:
        return False
    w.left -= 1
    place[0] = w.places[w.at]
    w.at += w.step
    if w.at >= w.n:
        w.at -= w.n
    return True
