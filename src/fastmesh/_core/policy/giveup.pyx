"""Whether retrying has been given up already (L2). See giveup.pxd."""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from fastmesh._core.base.sys cimport fm_load_relaxed, fm_store_relaxed
from fastmesh._core.shm.cells cimport Memo
from fastmesh._core.shm.layout cimport MEMOS
from fastmesh._core.shm.segment cimport SegMap


cdef uint64_t giveup_key(const uint8_t *trace_id) noexcept nogil:
    cdef uint64_t a, b
    memcpy(&a, trace_id, 8)
    memcpy(&b, trace_id + 8, 8)
    a = (a ^ (b * <uint64_t>0x9e3779b97f4a7c15)) * <uint64_t>0xbf58476d1ce4e5b9
    a ^= a >> 29
    return a if a else 1


cdef inline Memo *place(const SegMap *m, uint64_t key) noexcept nogil:
    return &m.memos[key & (MEMOS - 1)]


cdef void giveup_note(SegMap *m, uint64_t key, uint64_t now_ns) noexcept nogil:
    # Two words of two writers may mix: that tells of a tree a little too long or not at all, and harms nothing.
    cdef Memo *memo = place(m, key)
    fm_store_relaxed(&memo.key, key)
    fm_store_relaxed(&memo.at_ns, now_ns)


cdef bint giveup_noted(const SegMap *m, uint64_t key, uint64_t now_ns) noexcept nogil:
    cdef Memo *memo = place(m, key)
    return fm_load_relaxed(&memo.key) == key and now_ns - fm_load_relaxed(&memo.at_ns) < <uint64_t>GIVEUP_SECONDS * 1000000000
