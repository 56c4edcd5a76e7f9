"""The ring's two ends (L1): a worker puts records, the agent takes them. Knows nothing of what a record means."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._core.base.err cimport FM_EFULL, FM_EINTERNAL, FM_OK
from fastmesh._core.base.sys cimport fm_load_acquire, fm_load_relaxed, fm_store_release
from fastmesh._core.shm.layout cimport RING_BYTES
from fastmesh._core.shm.ring cimport RING_MAX_RECORD, LogRec, Ring


cdef inline void copy_in(Ring *r, uint64_t at, const char *p, uint32_t n) noexcept nogil:
    cdef char *data = <char *>r + sizeof(Ring)
    cdef uint32_t i = <uint32_t>(at & (RING_BYTES - 1))
    cdef uint32_t first = RING_BYTES - i
    if first > n:
        first = n
    memcpy(data + i, p, first)
    memcpy(data, p + first, n - first)


cdef inline void copy_out(const Ring *r, uint64_t at, char *p, uint32_t n) noexcept nogil:
    cdef const char *data = <const char *>r + sizeof(Ring)
    cdef uint32_t i = <uint32_t>(at & (RING_BYTES - 1))
    cdef uint32_t first = RING_BYTES - i
    if first > n:
        first = n
    memcpy(p, data + i, first)
    memcpy(p + first, data, n - first)


cdef int ring_put(Ring *r, const void *rec, uint32_t n) noexcept nogil:
    cdef uint64_t head = fm_load_relaxed(&r.head)
    cdef uint64_t tail = fm_load_acquire(&r.tail)
    if n < sizeof(LogRec) or n > RING_MAX_RECORD or n & 7:
        return FM_EINTERNAL
    if head - tail > RING_BYTES - n:
        return FM_EFULL
    copy_in(r, head, <const char *>rec, n)
    fm_store_release(&r.head, head + n)
    return FM_OK


cdef int ring_get(Ring *r, char *out, uint32_t cap) noexcept nogil:
    cdef uint64_t tail = fm_load_relaxed(&r.tail)
    cdef uint64_t head = fm_load_acquire(&r.head)
    cdef uint32_t n
    if head == tail:
        return 0
    # The writer may have died at any point, but head moves only behind whole records; anything else is a stray write: start over
    # at head rather than read what may be no record.
    if head - tail > RING_BYTES or head - tail < sizeof(LogRec):
        fm_store_release(&r.tail, head)
        return FM_EINTERNAL
    copy_out(r, tail, <char *>&n, sizeof(uint32_t))
    if n < sizeof(LogRec) or n > RING_MAX_RECORD or n > cap or n & 7 or n > head - tail:
        fm_store_release(&r.tail, head)
        return FM_EINTERNAL
    copy_out(r, tail, out, n)
    fm_store_release(&r.tail, tail + n)
    return <int>n


cdef bint ring_empty(const Ring *r) noexcept nogil:
    return fm_load_acquire(&r.head) == fm_load_relaxed(&r.tail)
