"""HTTP/1 heads (L1): request line or status line and fields, RFC 9112 sections 3-5, strict. Allocates nothing."""
from libc.stdint cimport uint32_t
from fastmesh._core.proto.msg cimport Hdr, Msg

cdef enum:
    H1_END = 1                 # h1_field_line: the section is over
    H1_MAX_METHOD = 64         # bytes of a method; IANA's longest has 17. Above: FM_EMETHOD (RFC 9112 3: 501)

cdef int h1_request_head(const char *p, uint32_t n, uint32_t last, Msg *m) noexcept nogil
"""Parse a request head at p[0:n]. `last`: how many of these bytes an earlier call that gave FM_AGAIN had seen (0 at first).

Gives bytes of the head (> 0; m is filled, slices into p), FM_AGAIN, or FM_EBAD, FM_EFRAMING, FM_ETARGET, FM_EHEAD, FM_EVERSION,
FM_ETE, FM_EHOST, FM_EMETHOD. One empty line (CRLF) before the request line is skipped and counted in head_n (RFC 9112 2.2).
FM_EHEAD also when n > MSG_MAX_HEAD without an end; FM_ETARGET as soon as the target is too long. Errors are reported as early as the
bytes allow. Sets m.flags, m.content_length, m.host etc.; framing (CL with TE, repeated CL, TE in HTTP/1.0 ...) is decided here too.
"""

cdef int h1_response_head(const char *p, uint32_t n, uint32_t last, Msg *m) noexcept nogil
"""The same for a status line and fields from an upstream; same codes."""

cdef int h1_field_line(const char **cursor, const char *end, Hdr *h) noexcept nogil
"""Parse one field line at *cursor; moves *cursor behind it. FM_OK: *h is filled; H1_END: it was the empty line that ends a section;
FM_AGAIN; FM_EBAD. Trailer sections use it too."""

cdef bint h1_worth_parsing(const char *p, uint32_t n, uint32_t last) noexcept nogil
"""Whether bytes [last, n) can change the outcome of a parse that gave FM_AGAIN at `last`: they hold a line's end or a byte that spoils one."""

cdef int h1_target_form(Msg *m) noexcept nogil
"""m.path and m.query of m.target (scanned, not empty) by RFC 9112 3.2: which of the forms, and whether m.method may have it. FM_OK or FM_E*."""
cdef bint h1_names_http(const char *p, uint32_t n) noexcept nogil
"""Of bytes that are no request head: does their first line at least say HTTP/ of some version, or is it not a whole line?"""
