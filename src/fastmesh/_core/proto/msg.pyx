"""Lookups in a Msg and the names that `_core` knows by number (L1). The struct and the enums are in msg.pxd."""
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcpy

from fastmesh._core.base.view cimport slice_ieq, slice_of
from fastmesh._core.proto.gen_tables cimport CC_TOKEN, fm_cc, fm_hdr_lookup, fm_method_lookup

cdef enum:
    LONGEST_NAME = 30          # of those that hdr_id knows


cdef const Hdr *msg_find(const Msg *m, int hid) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nhdr):
        if m.hdr[i].id == hid and not m.hdr[i].flags & HF_DROP:
            return &m.hdr[i]
    return NULL


cdef const Hdr *msg_find_name(const Msg *m, const char *name, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nhdr):
        if (m.hdr[i].name_n == n and not m.hdr[i].flags & HF_DROP
                and slice_ieq(slice_of(m.hdr[i].name, n), slice_of(name, n))):
            return &m.hdr[i]
    return NULL


cdef int hdr_id(const char *name, uint32_t n) noexcept nogil:
    cdef int found = fm_hdr_lookup(name, n)
    cdef uint32_t i
    if found != H_NONE:
        # the lookup takes tokens only (it folds case without looking); callers may hold anything
        for i in range(n):
            if not fm_cc[<unsigned char>name[i]] & CC_TOKEN:
                return H_NONE
    return found


cdef int hdr_id_loose(const char *name, uint32_t n) noexcept nogil:
    cdef char dashed[LONGEST_NAME]
    cdef uint32_t i
    if n > LONGEST_NAME or memchr(name, 95, n) == NULL:  # '_'
        return hdr_id(name, n)
    memcpy(dashed, name, n)
    for i in range(n):
        if dashed[i] == 95:
            dashed[i] = 45
    return hdr_id(dashed, n)


cdef int method_id(const char *name, uint32_t n) noexcept nogil:
    return fm_method_lookup(name, n)
