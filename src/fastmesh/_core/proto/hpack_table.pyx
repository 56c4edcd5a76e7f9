"""HPACK's dynamic table (L1). See hpack_table.pxd.

An entry takes eight bytes of bookkeeping where the RFC counts 32, so a Block of 4 KiB holds whatever a table of 4096 bytes may hold.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove

from fastmesh._core.base.buf cimport Block, BufPool, block_data, block_free, block_grow, block_new, block_room
from fastmesh._core.base.err cimport FM_ENOMEM


cdef void table_end(HpackTable *t, BufPool *bufs) noexcept nogil:
    block_free(bufs, t.bytes)
    t.bytes = NULL
    t.n = 0
    t.size = 0


cdef void evict(HpackTable *t) noexcept nogil:
    cdef HpackEntry e
    if not table_get(t, t.n - 1, &e):
        t.size = 0               # it is empty
        return
    t.size -= <uint32_t>e.name_n + e.value_n + HPACK_ENTRY
    t.bytes.start += <uint32_t>sizeof(HpackMark) + e.name_n + e.value_n
    t.n -= 1


cdef void shrink(HpackTable *t, uint32_t most) noexcept nogil:
    while t.size > most:
        evict(t)


cdef void table_limit(HpackTable *t, uint32_t most) noexcept nogil:
    t.max = most
    shrink(t, most)


cdef void moved(HpackTable *t, uint32_t by) noexcept nogil:
    # the entries lie `by` bytes further to the front
    cdef uint32_t i
    for i in range(t.n):
        t.at[(t.newest - i) & (HPACK_ENTRIES - 1)] -= <uint16_t>by


cdef bint make_room(HpackTable *t, BufPool *bufs, uint32_t need) noexcept nogil:
    cdef uint32_t by
    cdef Block *b = t.bytes
    if b == NULL:
        t.bytes = block_new(bufs, need)
        return t.bytes != NULL
    if t.n == 0:
        b.start = 0
        b.end = 0
    if block_room(b) >= need:
        return True
    by = b.start
    if b.end - by + need > b.cap or by < b.cap >> 2:
        # growing moves to the front, too; below a quarter, moving alone would have to be done again soon
        b = block_grow(bufs, b) if b.cap < HPACK_TABLE_MOST - HPACK_ENTRY else NULL
        if b != NULL:
            t.bytes = b
            moved(t, by)
            return make_room(t, bufs, need)
        b = t.bytes
        if b.end - by + need > b.cap:
            return False
    memmove(block_data(b), block_data(b) + by, b.end - by)
    b.end -= by
    b.start = 0
    moved(t, by)
    return True


cdef int table_add(HpackTable *t, BufPool *bufs, const char *name, uint32_t name_n, const char *value, uint32_t value_n,
                   int hid) noexcept nogil:
    cdef char aside[HPACK_TABLE_MOST]
    cdef uint32_t need = name_n + value_n + HPACK_ENTRY
    cdef HpackMark m
    cdef char *p
    if need > t.max:
        shrink(t, 0)
        return 0
    if t.bytes != NULL and block_data(t.bytes) <= name < block_data(t.bytes) + t.bytes.cap:
        memcpy(aside, name, name_n)  # what it names may be evicted or moved by its own insertion
        name = aside
    shrink(t, t.max - need)
    if not make_room(t, bufs, <uint32_t>sizeof(HpackMark) + name_n + value_n):
        return FM_ENOMEM
    m.name_n = <uint16_t>name_n
    m.value_n = <uint16_t>value_n
    m.id = <uint8_t>hid
    m.reserved[0] = 0
    m.reserved[1] = 0
    m.reserved[2] = 0
    t.newest += 1
    t.n += 1
    t.size += need
    t.at[t.newest & (HPACK_ENTRIES - 1)] = <uint16_t>t.bytes.end
    p = block_data(t.bytes) + t.bytes.end
    memcpy(p, &m, sizeof(HpackMark))
    memcpy(p + sizeof(HpackMark), name, name_n)
    memcpy(p + sizeof(HpackMark) + name_n, value, value_n)
    t.bytes.end += <uint32_t>sizeof(HpackMark) + name_n + value_n
    return 1
