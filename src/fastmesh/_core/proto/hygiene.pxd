"""What a proxy must take off a message and may not pass on (L1): RFC 9110 7.6, RFC 9112 9.6. Marks fields HF_DROP; writes nothing."""
from fastmesh._core.proto.msg cimport Hdr, Msg

cdef int hygiene_request(Msg *m, bint keep_upgrade) noexcept nogil
"""Drop hop-by-hop fields: Connection and every field it names, Keep-Alive, Proxy-Connection, TE (except the value `trailers`, which the
writer says again), Trailer is kept, Transfer-Encoding, Upgrade (unless keep_upgrade and MF_UPGRADE), HTTP2-Settings, Proxy-Authorization;
an Expect that was ignored (HTTP/1.0); a name that differs from one of ours by '_' for '-' only (applications cannot tell the two apart).
FM_OK, or FM_EBAD when Connection names a field that must not be taken away (Host, Content-Length, Transfer-Encoding, Authorization, Cookie,
Set-Cookie, Forwarded, X-Forwarded-*: an attack on the next hop), or has more than 32 options.

With keep_upgrade the writer says `connection: upgrade` again: Connection itself is dropped always."""

cdef int hygiene_response(Msg *m, bint keep_upgrade) noexcept nogil
"""The same for a response; Proxy-Authenticate instead of Proxy-Authorization, and Content-Length from 1xx and 204."""

cdef bint trailer_forbidden(const Hdr *h) noexcept nogil
"""A field that no trailer section may hold (RFC 9110 6.5.1), by whatever protocol it comes."""
