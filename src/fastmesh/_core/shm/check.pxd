"""What the check of a snapshot is made of (L1): bounds, strings, and who says what is wrong. shm/snapshot.pyx runs it.

The check is total: whatever the bytes, it ends and reads only base[0:n].
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastmesh._core.shm.snapshot cimport OP_REGEX, SNAP_NONE, SnapArr, SnapFault, SnapHeader, SnapStr

cdef enum:
    CHECK_SPANS = 32             # sections of a snapshot
    # Steps of the check for each byte of the snapshot. Elements that many others point to are looked at for each of them: without a bound
    # some kilobytes could keep the agent busy for hours. What is packed takes less than one, with long paths in common a few.
    CHECK_STEPS = 64

cdef struct Span:
    uint64_t off
    uint64_t end

cdef struct Check:
    const char *base
    uint64_t n
    const SnapHeader *h
    SnapFault *why
    uint64_t left                # steps
    Span spans[CHECK_SPANS]      # of the sections, which share no byte: what is read as one thing never is another, too
    uint32_t nspans

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


cdef inline bint steps_ok(Check *c, uint64_t n) noexcept nogil:
    """Takes so many steps, if there are as many left."""
    if n > c.left:
        return False
    c.left -= n
    return True


cdef inline bint apart(const Check *c, uint64_t off, uint64_t end) noexcept nogil:
    """Whether no section has a byte of these."""
    cdef uint32_t i
    for i in range(c.nspans):
        if off < c.spans[i].end and c.spans[i].off < end:
            return False
    return True


cdef inline bint section_ok(Check *c, SnapArr a, uint64_t size, uint32_t align) noexcept nogil:
    """In bounds, and apart from those before, of which it is one then."""
    cdef uint64_t end = a.off + a.n * size
    if a.n == 0:
        return True
    if a.off < sizeof(SnapHeader) or a.off % align != 0 or end > c.n or not apart(c, a.off, end):
        return False
    c.spans[c.nspans].off = a.off
    c.spans[c.nspans].end = end
    c.nspans += 1
    return True


cdef inline bint within(SnapArr section, uint32_t size, SnapArr a) noexcept nogil:
    """Whether a is a run of whole elements of a section."""
    if a.n == 0:
        return True
    if a.off < section.off or (a.off - section.off) % size != 0:
        return False
    return <uint64_t>((a.off - section.off) / size) + a.n <= section.n

cdef inline bint regex_ok(const Check *c, uint8_t op, uint32_t regex) noexcept nogil:
    return regex < c.h.regexes.n if op == OP_REGEX else regex == SNAP_NONE
