"""Levels of a cluster's endpoints (L2). See lb_level.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastmesh._core.policy.lb_level cimport LEVEL_OVER_PERCENT
from fastmesh._core.shm.snapshot cimport SnapLevel


cdef inline uint32_t health(uint64_t usable, uint64_t n) noexcept nogil:
    """Percent of all requests that a level can take."""
    cdef uint64_t h = usable * LEVEL_OVER_PERCENT / n if n else 0
    return <uint32_t>(h if h < 100 else 100)


cdef uint32_t by_share(const SnapLevel *l, uint32_t n, const uint32_t *usable, uint16_t *upto) noexcept nogil:
    # Envoy's locality weights: all levels are equally near, and one that is not well gets less of its share
    cdef uint64_t all = 0
    cdef uint64_t well = 0
    cdef uint32_t sum = 0
    cdef uint32_t i
    for i in range(n):
        sum += l[i].share * health(usable[i], l[i].n)
        upto[i] = <uint16_t>sum
        all += l[i].n
        well += usable[i]
    return health(well, all)


cdef uint32_t level_shares(const SnapLevel *l, uint32_t n, const uint32_t *usable, uint16_t *upto) noexcept nogil:
    cdef uint32_t sum = 0
    cdef uint32_t left = 100
    cdef uint32_t first = n
    cdef uint32_t i, load
    if l[0].share:
        return by_share(l, n, usable, upto)
    for i in range(n):
        sum += health(usable[i], l[i].n)
    if sum > 100:
        sum = 100
    for i in range(n):
        load = health(usable[i], l[i].n) * 100 / sum if sum else 0
        if load > left:
            load = left
        left -= load
        upto[i] = <uint16_t>(100 - left)
        if load and first == n:
            first = i
    if sum:
        for i in range(first, n):  # what rounding has left is the nearest one's
            upto[i] = <uint16_t>(upto[i] + left)
    else:
        for i in range(n):
            upto[i] = 0
    return sum


cdef uint32_t level_at(const uint16_t *upto, uint32_t n, uint32_t place) noexcept nogil:
    cdef uint32_t i = 0
    while i + 1 < n and upto[i] <= place:
        i += 1
    return i
