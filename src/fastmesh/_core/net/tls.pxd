"""One TLS connection over a non-blocking socket (L2): handshake, read, write, peer identity. OpenSSL owns the bytes in between.

Codes: >0 bytes; FM_OK (handshake done); FM_AGAIN (wait for readable); FM_WANT_WRITE; FM_EOF; FM_ERESET; FM_ETLS, FM_ETLS_CERT, FM_ETLS_IDENTITY.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.net.tls_ctx cimport TlsCtx, TlsPeer

cdef struct Tls                  # opaque: an SSL with what belongs to it

cdef Tls *tls_server(TlsCtx **by_sni, uint32_t n, int fd) noexcept nogil
"""A server side on fd. by_sni: the listener's contexts, the first is the default; borrowed only until the handshake is done (each is
referenced). NULL: out of memory."""
cdef Tls *tls_client(TlsCtx *ctx, int fd, const char *sni, uint32_t sni_n, const TlsPeer *peer, uint64_t session_key) noexcept nogil
"""A client side; the context caches one session per session_key (resumption, bounded)."""
cdef int tls_handshake(Tls *t) noexcept nogil
cdef int tls_read(Tls *t, char *p, uint32_t n) noexcept nogil
cdef int tls_write(Tls *t, const char *p, uint32_t n) noexcept nogil
"""May write less than n; after FM_AGAIN / FM_WANT_WRITE call again with the same or more bytes beginning with the same."""
cdef uint32_t tls_pending(const Tls *t) noexcept nogil
"""Bytes that are buffered inside and come without another socket read."""
cdef int tls_shutdown(Tls *t) noexcept nogil
"""Send close_notify, best effort, once."""
cdef void tls_free(Tls *t) noexcept nogil
cdef uint32_t tls_peer_id(const Tls *t, char *out, uint32_t cap) noexcept nogil
"""The peer's SPIFFE ID (its one URI SAN), cut never: 0 when there is none or it does not fit."""
cdef bint tls_has_peer_cert(const Tls *t) noexcept nogil
cdef bint tls_resumed(const Tls *t) noexcept nogil
cdef uint32_t tls_error(const Tls *t, char *out, uint32_t cap) noexcept nogil
"""Why it failed, for the log (e.g. "certificate has expired")."""
