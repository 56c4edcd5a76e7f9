"""Fixed-size object pools (L0). See pool.pxd."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from fastmesh._core.base.sys cimport fm_poison, fm_unpoison

cdef enum:
    LINK = 16                    # bytes of a free object that stay readable: the link to the next one


cdef void pool_init(Pool *p, uint32_t size, uint32_t cap) noexcept nogil:
    p.size = (size + 15) & ~<uint32_t>15
    p.cap = cap
    p.live = 0
    p.slabs = 0
    p.free = NULL
    p.slab = NULL


cdef int pool_grow(Pool *p) noexcept nogil:
    # the first 16 bytes of a slab link it to the next one
    cdef char *slab = <char *>malloc(16 + <size_t>p.size * POOL_SLAB)
    cdef uint32_t i
    cdef char *o
    if slab == NULL:
        return -1
    (<void **>slab)[0] = p.slab
    p.slab = slab
    p.slabs += 1
    for i in range(POOL_SLAB):
        o = slab + 16 + <size_t>p.size * (POOL_SLAB - 1 - i)
        (<void **>o)[0] = p.free
        p.free = o
        fm_poison(o + LINK, p.size - LINK)
    return 0


cdef void *pool_get(Pool *p) noexcept nogil:
    cdef void *o
    if p.live >= p.cap or (p.free == NULL and pool_grow(p) != 0):
        return NULL
    o = p.free
    p.free = (<void **>o)[0]
    p.live += 1
    fm_unpoison(o, p.size)
    memset(o, 0, p.size)
    return o


cdef void pool_put(Pool *p, void *o) noexcept nogil:
    if o == NULL:
        return
    memset(o, 0xDB, p.size)  # a use after this is loud
    (<void **>o)[0] = p.free
    p.free = o
    p.live -= 1
    fm_poison(<char *>o + LINK, p.size - LINK)


cdef void pool_end(Pool *p) noexcept nogil:
    cdef void *s = p.slab
    cdef void *nxt
    while s != NULL:
        nxt = (<void **>s)[0]
        free(s)
        s = nxt
    p.slab = NULL
    p.free = NULL
    p.live = 0
