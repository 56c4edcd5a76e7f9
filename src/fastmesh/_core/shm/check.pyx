"""What the check of a snapshot is made of (L1). See check.pxd."""
from libc.stdint cimport uint8_t, uint32_t

from fastmesh._core.base.err cimport FM_ESNAP
from fastmesh._core.shm.check cimport Check, str_ok
from fastmesh._core.shm.snapshot cimport SNAP_MAX_NAME, SNAP_MAX_VALUE, SnapStr


cdef int fault(Check *c, const char *section, uint32_t index, const char *what) noexcept nogil:
    c.why.section = section
    c.why.index = index
    c.why.what = what
    return FM_ESNAP


cdef bint field_value_ok(const Check *c, SnapStr s) noexcept nogil:
    cdef const char *p = c.base + s.off
    cdef uint32_t i
    cdef uint8_t b
    if s.n > SNAP_MAX_VALUE or not str_ok(c, s):
        return False
    for i in range(s.n):
        b = <uint8_t>p[i]
        if (b < 32 and b != 9) or b == 127:
            return False
    return True


cdef bint token_ok(const Check *c, SnapStr s) noexcept nogil:
    cdef const char *p = c.base + s.off
    cdef uint32_t i
    cdef uint8_t b
    if s.n > SNAP_MAX_VALUE or not str_ok(c, s):
        return False
    for i in range(s.n):
        b = <uint8_t>p[i]
        if b <= 32 or b == 127:
            return False
    return True


cdef bint name_ok(const Check *c, SnapStr s) noexcept nogil:
    cdef const char *p = c.base + s.off
    cdef uint32_t i
    cdef uint8_t b
    if s.n == 0 or s.n > SNAP_MAX_NAME or not str_ok(c, s):
        return False
    for i in range(s.n):
        b = <uint8_t>p[i]
        if not (97 <= b <= 122 or 65 <= b <= 90 or 48 <= b <= 57 or b == 33 or 35 <= b <= 39 or b == 42 or b == 43 or b == 45 or b == 46
                or b == 94 or b == 95 or b == 96 or b == 124 or b == 126):
            return False
    return True


cdef bint alpn_ok(const Check *c, SnapStr s) noexcept nogil:
    cdef const char *p = c.base + s.off
    cdef uint32_t i = 0
    cdef uint32_t n
    if not str_ok(c, s):
        return False
    while i < s.n:
        n = <uint8_t>p[i]
        if n == 0 or n >= s.n - i:
            return False
        i += 1 + n
    return True
