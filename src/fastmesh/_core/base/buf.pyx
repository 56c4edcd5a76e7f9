"""Byte blocks (L0). See buf.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from fastmesh._core.base.sys cimport fm_poison, fm_unpoison


cdef inline uint32_t class_bytes(uint32_t cls) noexcept nogil:
    return <uint32_t>1024 << (2 * cls)


cdef void buf_init(BufPool *p, uint64_t cap) noexcept nogil:
    memset(p, 0, sizeof(BufPool))
    p.cap = cap


cdef Block *block_new(BufPool *p, uint32_t need) noexcept nogil:
    cdef uint32_t cls = 0
    cdef uint32_t size
    cdef Block *b
    while cls < BUF_CLASSES - 1 and class_bytes(cls) - sizeof(Block) < need:
        cls += 1
    size = class_bytes(cls)
    if p.held + size > p.cap:
        return NULL
    b = p.free[cls]
    if b != NULL:
        p.free[cls] = b.next
        p.nfree[cls] -= 1
        p.kept -= size
        fm_unpoison(b, size)
    else:
        b = <Block *>malloc(size)
        if b == NULL:
            return NULL
    b.next = NULL
    b.cap = size - sizeof(Block)
    b.start = 0
    b.end = 0
    b.cls = cls
    p.held += size
    p.live += 1
    return b


cdef void block_free(BufPool *p, Block *b) noexcept nogil:
    cdef uint32_t size
    if b == NULL:
        return
    size = class_bytes(b.cls)
    p.held -= size
    p.live -= 1
    if p.nfree[b.cls] < (BUF_KEEP if b.cls < 2 else BUF_KEEP // (2 << b.cls)):
        b.next = p.free[b.cls]
        p.free[b.cls] = b
        p.nfree[b.cls] += 1
        p.kept += size
        fm_poison(block_data(b), size - sizeof(Block))
    else:
        free(b)


cdef void block_free_all(BufPool *p, Block *b) noexcept nogil:
    cdef Block *nxt
    while b != NULL:
        nxt = b.next
        block_free(p, b)
        b = nxt


cdef Block *block_grow(BufPool *p, Block *b) noexcept nogil:
    cdef Block *g
    cdef uint32_t n = b.end - b.start
    if b.cls + 1 >= BUF_CLASSES:
        return NULL
    g = block_new(p, class_bytes(b.cls + 1) - sizeof(Block))
    if g == NULL:
        return NULL
    memcpy(block_data(g), block_data(b) + b.start, n)
    g.end = n
    g.next = b.next
    block_free(p, b)
    return g


cdef void buf_end(BufPool *p) noexcept nogil:
    cdef uint32_t c
    cdef Block *b
    for c in range(BUF_CLASSES):
        while p.free[c] != NULL:
            b = p.free[c]
            p.free[c] = b.next
            free(b)
        p.nfree[c] = 0
    p.kept = 0
