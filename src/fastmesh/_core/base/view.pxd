"""The checked read cursor (L0): the only way bytes from the wire are read outside proto/h1_head.pyx.

A View borrows [p, end). A read past the end sets `bad` (sticky) and yields 0: read all fields, check `bad` once.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

cdef struct Slice:
    # borrowed bytes; p may be NULL when n is 0
    const char *p
    uint32_t n

cdef struct View:
    const uint8_t *p
    const uint8_t *end
    uint32_t bad

cdef inline View view_of(const void *p, size_t n) noexcept nogil:
    cdef View v
    v.p = <const uint8_t *>p
    v.end = v.p + n
    v.bad = 0
    return v

cdef inline size_t view_left(const View *v) noexcept nogil:
    return <size_t>(v.end - v.p)

cdef inline uint8_t view_u8(View *v) noexcept nogil:
    cdef uint8_t x
    if v.p >= v.end:
        v.bad = 1
        return 0
    x = v.p[0]
    v.p += 1
    return x

cdef inline uint32_t view_u16(View *v) noexcept nogil:
    cdef uint32_t x
    if v.end - v.p < 2:
        v.bad = 1
        v.p = v.end
        return 0
    x = (<uint32_t>v.p[0] << 8) | v.p[1]
    v.p += 2
    return x

cdef inline uint32_t view_u24(View *v) noexcept nogil:
    cdef uint32_t hi = view_u8(v)
    return (hi << 16) | view_u16(v)

cdef inline uint32_t view_u32(View *v) noexcept nogil:
    cdef uint32_t hi = view_u16(v)
    return (hi << 16) | view_u16(v)

cdef inline Slice slice_of(const char *p, size_t n) noexcept nogil:
    cdef Slice s
    s.p = p
    s.n = <uint32_t>n
    return s

cdef inline bint slice_eq(Slice a, Slice b) noexcept nogil:
    return a.n == b.n and (a.n == 0 or memcmp(a.p, b.p, a.n) == 0)

cdef inline uint8_t ascii_lower(uint8_t c) noexcept nogil:
    return c | 0x20 if 65 <= c <= 90 else c

cdef inline bint slice_ieq(Slice a, Slice b) noexcept nogil:
    """ASCII case-insensitive equality."""
    cdef uint32_t i
    if a.n != b.n:
        return False
    for i in range(a.n):
        if ascii_lower(<uint8_t>a.p[i]) != ascii_lower(<uint8_t>b.p[i]):
            return False
    return True
