"""HTTP/1 bodies (L1): RFC 9112 section 6.3 and the chunked coding 7.1, strict. Allocates nothing."""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Msg, Hdr

cdef int h1_body_request(Msg *m) noexcept nogil
"""Set m.body of a request: BODY_NONE, BODY_LENGTH or BODY_CHUNKED."""

cdef int h1_body_response(Msg *m, int request_method) noexcept nogil
"""Set m.body of a response to a request with this method (HEAD, CONNECT, 1xx, 204, 304 rules)."""

cdef enum:
    H1B_TRAILER_BUF = 8192
    H1B_MAX_EXTENSIONS = 16384 # bytes of chunk extensions in a whole body: an extension per byte of data is an attack (CVE-2023-39326)

cdef struct H1Body:
    # resumable decoder of one body; 32 bytes, lives in the codec
    uint8_t kind               # BODY_*
    uint8_t state              # private
    uint8_t done               # the whole body and its trailers have been read
    uint8_t has_trailers       # the trailer section was not empty
    uint32_t line_n            # when done: bytes of the trailer section, the last of those consumed; before that private:
                               # bytes of the current line, or of the trailer section looked at so far
    uint32_t ext_n             # private: bytes of chunk extensions so far
    int64_t left               # bytes of the body (or chunk) still to come
    int64_t total              # bytes of data so far

cdef void h1_body_init(H1Body *b, int kind, int64_t content_length) noexcept nogil

cdef int h1_body_feed(H1Body *b, const char *p, uint32_t n, Slice *data, int *ndata, int maxdata) noexcept nogil
"""Decode body bytes p[0:n].

Gives how many of them were consumed (>= 0), or FM_ECHUNK / FM_ETRAILER. The data spans among them (chunk framing taken off) are put into
data[0:*ndata], at most maxdata: feed the rest again when consumed < n and not b.done. Stops behind the last byte of the body (b.done);
what follows belongs to the next message. BODY_CLOSE consumes all and never is done by itself.

A trailer section is consumed only as a whole, and one with fields only by a call whose p is its first byte: then has_trailers is set and
p[0:consumed] is the section, its empty line included, for h1_body_trailers. Until then the caller keeps the unconsumed bytes and offers
them again: at once when something was consumed, with more behind when nothing was. The section has been checked already.
"""

cdef int h1_body_trailers(const char *p, uint32_t n, Hdr *out, int maxout) noexcept nogil
"""Parse a complete trailer section (field lines and the empty line); gives the count, or FM_ETRAILER (also when there are more than
maxout). Fields that may not be trailers (framing, routing, authentication: RFC 9110 6.5.1) are FM_ETRAILER."""

cdef int h1_body_eof(const H1Body *b) noexcept nogil
"""The connection ended: FM_OK if the body is complete with that (done, or BODY_CLOSE), else FM_EOF: it is truncated."""
