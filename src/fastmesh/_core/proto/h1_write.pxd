"""Serialise HTTP/1 heads and chunks (L1). Writes into a caller's buffer [p, end); never past it; FM_EHEAD when it does not fit.

Allocates nothing. Copies bytes as they are: whoever puts bytes of another origin than the head parser into a Msg answers for them holding
no CR, LF or NUL.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Hdr, Msg

cdef struct Out:
    char *p                    # next byte to write
    char *end
    int full                   # sticky: something did not fit; what was written is then not to be used

cdef inline Out out_of(char *p, size_t n) noexcept nogil:
    cdef Out o
    o.p = p
    o.end = p + n
    o.full = 0
    return o

cdef inline void out_bytes(Out *o, const char *p, size_t n) noexcept nogil:
    if <size_t>(o.end - o.p) < n or o.full:
        o.full = 1
        return
    if n:
        memcpy(o.p, p, n)
        o.p += n

cdef inline void out_slice(Out *o, Slice s) noexcept nogil:
    out_bytes(o, s.p, s.n)

cdef inline void out_field(Out *o, const char *name, size_t name_n, const char *value, size_t value_n) noexcept nogil:
    """`name: value CRLF`"""
    cdef char *p = o.p
    if <size_t>(o.end - p) < name_n + value_n + 4 or o.full:
        o.full = 1
        return
    memcpy(p, name, name_n)
    p += name_n
    memcpy(p, b": ", 2)
    p += 2
    if value_n:
        memcpy(p, value, value_n)
        p += value_n
    memcpy(p, b"\r\n", 2)
    o.p = p + 2

cdef void out_uint(Out *o, unsigned long long v) noexcept nogil
cdef void out_hex(Out *o, unsigned long long v) noexcept nogil

cdef void h1_write_fields(Out *o, const Msg *m) noexcept nogil
"""All fields that are not HF_DROP, name bytes and order kept, one space behind the colon."""

cdef void h1_write_request_line(Out *o, const Msg *m, Slice target) noexcept nogil
"""`METHOD target HTTP/1.1 CRLF`"""

cdef void h1_write_status_line(Out *o, int status, Slice reason) noexcept nogil
"""`HTTP/1.1 NNN reason CRLF`; an empty reason is replaced by the registered phrase."""

cdef uint32_t h1_last_chunk_size(const Hdr *trailers, int n) noexcept nogil
"""Bytes that h1_write_last_chunk writes."""
cdef void h1_write_last_chunk(Out *o, const Hdr *trailers, int n) noexcept nogil
"""`0 CRLF`, the trailer section, the empty line."""

cdef const char *h1_reason(int status) noexcept nogil
"""The registered reason phrase (RFC 9110 section 15), or "" for an unknown status."""
