"""HTTP/2 heads (L1), RFC 9113 section 8: a decoded header block becomes a Msg or is malformed; a Msg becomes a header block.

What comes out of h2_head_decode is what HTTP/1 could have said, so bridging needs no further check: names are tokens in lower case, values hold
no control but HTAB and no space around them, :authority and host agree and are valid, the path is one that the HTTP/1 parser takes, cookies
are one field, nothing connection-specific is there.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.proto.h2_stream cimport H2
from fastmesh._core.proto.msg cimport Hdr, Msg

cdef enum:  # what a header block is
    H2_REQUEST = 0
    H2_RESPONSE
    H2_TRAILERS

cdef int h2_head_decode(H2 *h, int kind, const char *p, uint32_t n, Msg *m) noexcept nogil
"""The whole block p[0:n] into m; strings borrowed from p, static memory and h.arena: valid until the next call. The decoder's tables are right
afterwards whatever the result, but for FM_EHPACK. FM_OK; FM_EHPACK (connection); FM_ENOMEM; FM_EBAD: malformed (RFC 9113 8.1.1: PROTOCOL_ERROR of
the stream); FM_EHEAD: above MSG_MAX_HEAD or MSG_MAX_HEADERS (431); FM_ETARGET (414); FM_EMETHOD: longer than HTTP/1 takes (501); FM_EEXPECT (417);
FM_ETRAILER.

Requests: m.method, method_name, target, path, query, host, protocol; Host is the first field of m.hdr. Responses: status. m.minor is 2,
m.content_length as declared, m.body is set by the caller. Trailers: m.hdr only. What came as a never-indexed literal has HF_NEVER (:authority:
its Host field; another pseudo field: MF_NEVER).

On the mesh link (HF2_LINK) a head that was HTTP/1 at the other end has its minor (0 or 1) and its names in their case: proto/h2_case."""

cdef uint32_t h2_head_size(const H2 *h, const Msg *m) noexcept nogil
"""Bytes that suffice for h2_head_encode."""
cdef char *h2_head_encode(H2 *h, const Msg *m, char *p, const char *end) noexcept nogil
"""The header block of a request or response head; the byte behind it, or NULL: it does not fit (allow h2_head_size). On the mesh link
m.minor must be what it was at its origin: below 2 makes HTTP/1's facts travel along."""
cdef char *h2_fields_encode(H2 *h, const Hdr *t, int n, char *p, const char *end) noexcept nogil
"""The header block of a trailer section."""
