"""Comma-separated lists in field values, RFC 9110 section 5.6.1 (L1). Header-only; allocates nothing."""
from libc.stdint cimport uint8_t, uint32_t

from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.proto.scan cimport fm_scan_token


cdef inline bint is_ows(char c) noexcept nogil:
    return c == 32 or c == 9


cdef inline Slice slice_trim(Slice s) noexcept nogil:
    """Without the SP and HTAB around it."""
    while s.n > 0 and is_ows(s.p[0]):
        s.p += 1
        s.n -= 1
    while s.n > 0 and is_ows(s.p[s.n - 1]):
        s.n -= 1
    return s


cdef inline bint slice_is_token(Slice s) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>s.p
    return s.n > 0 and fm_scan_token(p, p + s.n) == p + s.n


cdef inline bint list_next(Slice *rest, Slice *item) noexcept nogil:
    """Takes the next element off *rest into *item, trimmed; it may be empty. False when there was none left.

    Commas inside quoted strings are not looked for: the lists that matter here are of tokens, and callers refuse what is none.
    """
    cdef uint32_t i = 0
    if rest.p == NULL:
        return False
    while i < rest.n and rest.p[i] != 44:  # ','
        i += 1
    item[0] = slice_trim(slice_of(rest.p, i))
    if i < rest.n:
        rest.p += i + 1
        rest.n -= i + 1
    else:
        rest.p = NULL
        rest.n = 0
    return True


cdef inline bint slice_is(Slice s, const char *lower, uint32_t n) noexcept nogil:
    """Equal to a lower-case ASCII literal of n bytes, any case."""
    cdef uint32_t i
    cdef uint8_t c
    if s.n != n:
        return False
    for i in range(n):
        c = <uint8_t>s.p[i]
        if 65 <= c <= 90:
            c |= 0x20
        if c != <uint8_t>lower[i]:
            return False
    return True
