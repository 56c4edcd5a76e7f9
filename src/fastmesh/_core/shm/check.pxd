"""What the check of a snapshot is made of (L1): bounds, strings, and who says what is wrong. shm/snapshot.pyx runs it.

The check is total: whatever the bytes, it ends and reads only base[0:n].
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastmesh._core.shm.snapshot cimport OP_REGEX, SNAP_NONE, SnapArr, SnapFault, SnapHeader, SnapStr

cdef struct Check:
    const char *base
    uint64_t n
    const SnapHeader *h
    SnapFault *why

cdef int fault(Check *c, const char *section, uint32_t index, const char *what) noexcept nogil
"""FM_ESNAP, and c.why says where."""
cdef bint field_value_ok(const Check *c, SnapStr s) noexcept nogil
"""In range, not too long, and nothing in it ends a header line."""
cdef bint token_ok(const Check *c, SnapStr s) noexcept nogil
"""In range, not too long, and without what would end a request target or a line."""
cdef bint name_ok(const Check *c, SnapStr s) noexcept nogil
"""A field name: a token of RFC 9110 5.6.2, and not empty."""
cdef bint alpn_ok(const Check *c, SnapStr s) noexcept nogil

cdef inline bint str_ok(const Check *c, SnapStr s) noexcept nogil:
    return <uint64_t>s.off + s.n <= c.n


cdef inline bint section_ok(const Check *c, SnapArr a, uint64_t size, uint32_t align) noexcept nogil:
    if a.n == 0:
        return True
    return a.off >= sizeof(SnapHeader) and a.off % align == 0 and a.off + a.n * size <= c.n


cdef inline bint within(SnapArr section, uint32_t size, SnapArr a) noexcept nogil:
    """Whether a is a run of whole elements of a section."""
    if a.n == 0:
        return True
    if a.off < section.off or (a.off - section.off) % size != 0:
        return False
    return <uint64_t>((a.off - section.off) / size) + a.n <= section.n

cdef inline bint regex_ok(const Check *c, uint8_t op, uint32_t regex) noexcept nogil:
    return regex < c.h.regexes.n if op == OP_REGEX else regex == SNAP_NONE
