"""Which routes a path can be for (L2). See paths.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._core.base.view cimport Slice
from fastmesh._core.policy.paths cimport PathWalk
from fastmesh._core.shm.snapshot cimport (
    PATH_HASH, SNAP_NONE, Snap, SnapArr, SnapPath, SnapVhost, path_hash_end, path_hash_step, snap_at)


cdef inline void take(PathWalk *w, const Snap *s, SnapArr routes) noexcept nogil:
    if routes.n:
        w.list[w.n] = <const uint32_t *>snap_at(s, routes.off)
        w.left[w.n] = routes.n
        w.n += 1


cdef inline void look(PathWalk *w, const Snap *s, const SnapVhost *v, uint64_t hash) noexcept nogil:
    cdef const SnapPath *p = <const SnapPath *>snap_at(s, v.paths.off)
    cdef uint32_t mask = v.paths.n - 1
    cdef uint32_t i = <uint32_t>hash & mask
    while p[i].hash != 0:          # ends: the check saw to an empty bucket
        if p[i].hash == hash:
            take(w, s, p[i].routes)
            return
        i = (i + 1) & mask


cdef void paths_begin(PathWalk *w, const Snap *s, const SnapVhost *v, Slice path) noexcept nogil:
    cdef const uint32_t *length = <const uint32_t *>snap_at(s, v.lengths.off)
    cdef uint64_t h = PATH_HASH
    cdef uint32_t at = 0
    cdef uint32_t i
    w.n = 0
    take(w, s, v.others)
    for i in range(v.lengths.n):
        if length[i] > path.n:
            break
        while at < length[i]:
            h = path_hash_step(h, <uint8_t>path.p[at])
            at += 1
        look(w, s, v, path_hash_end(h, True))
    while at < path.n:
        h = path_hash_step(h, <uint8_t>path.p[at])
        at += 1
    look(w, s, v, path_hash_end(h, False))


cdef uint32_t paths_next(PathWalk *w) noexcept nogil:
    cdef uint32_t best = SNAP_NONE
    cdef uint32_t i
    cdef uint32_t which = 0
    for i in range(w.n):
        if w.left[i] and w.list[i][0] < best:
            best = w.list[i][0]
            which = i
    if best != SNAP_NONE:
        w.list[which] += 1
        w.left[which] -= 1
    return best
