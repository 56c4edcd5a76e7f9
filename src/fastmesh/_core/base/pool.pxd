"""Fixed-size object pools (L0): every object of the data plane comes from one and goes back to it; each pool has a hard cap."""
from libc.stdint cimport uint32_t

cdef enum:
    POOL_SLAB = 32             # objects that are allocated together

cdef struct Pool:
    uint32_t size              # bytes of an object
    uint32_t cap               # most live objects
    uint32_t live
    uint32_t slabs
    void *free                 # singly linked through the objects' first word
    void *slab                 # all slabs, linked through their first word

cdef void pool_init(Pool *p, uint32_t size, uint32_t cap) noexcept nogil
cdef void *pool_get(Pool *p) noexcept nogil
"""A zeroed object, or NULL at the cap or out of memory."""
cdef void pool_put(Pool *p, void *o) noexcept nogil
cdef void pool_end(Pool *p) noexcept nogil
"""Give all slabs back; every object is gone with them."""
