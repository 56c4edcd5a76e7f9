"""What a proxy must take off a message and may not pass on (L1): RFC 9110 7.6, RFC 9112 9.6. Marks fields HF_DROP; writes nothing."""
from fastmesh._core.proto.msg cimport Msg

cdef int hygiene_request(Msg *m, bint keep_upgrade) noexcept nogil
"""Drop hop-by-hop fields: Connection and every field it names, Keep-Alive, Proxy-Connection, TE (except the value `trailers`, which the
writer says again), Trailer is kept, Transfer-Encoding, Upgrade (unless keep_upgrade and MF_UPGRADE), HTTP2-Settings, Proxy-Authorization.
FM_OK, or FM_EBAD when Connection names a field that must not be taken away (Host, Content-Length, Transfer-Encoding, Authorization, Cookie,
X-Forwarded-*: an attack on the next hop)."""

cdef int hygiene_response(Msg *m, bint keep_upgrade) noexcept nogil
"""The same for a response."""
