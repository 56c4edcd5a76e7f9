"""One TLS connection over a non-blocking socket (L2): handshake, read, write, peer identity. OpenSSL owns the bytes in between.

Codes: >0 bytes; FM_OK (handshake done); FM_AGAIN (wait for readable); FM_WANT_WRITE; FM_EOF; FM_ERESET; FM_ETLS, FM_ETLS_CERT, FM_ETLS_IDENTITY.
A failure is final: every later call gives the same code, tls_error the reason.

FM_EOF is close_notify and nothing else. A bare FIN is FM_ERESET: whoever cuts the connection could forge it, so a body that ends
with the connection is not complete then; where framing or an idle connection says that nothing is missing, both codes mean "closed".
Under TLS 1.3 a server refuses our certificate after our handshake is done: the refusal is the first read's FM_ETLS.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.tls_ctx cimport TLS_ALPN_H1, TLS_ALPN_H2, TLS_ALPN_LINK, TLS_ALPN_NONE, TLS_ALPN_OTHER, TlsCtx, TlsPeer

cdef enum:
    TLS_RECORD = 16384           # plaintext bytes of the largest record
    TLS_BATCH = 4                # records that tls_write hands to one send

cdef struct Tls                  # opaque: an SSL with what belongs to it

cdef Tls *tls_server(TlsCtx **by_sni, uint32_t n, int fd) noexcept nogil
"""A server side on fd. by_sni: the listener's contexts, the first is the default (n > 0); the list is copied, each context referenced until
the ClientHello is read. NULL: out of memory."""
cdef Tls *tls_client(TlsCtx *ctx, int fd, const char *sni, uint32_t sni_n, const TlsPeer *peer, uint64_t session_key) noexcept nogil
"""A client side; the context caches one session per session_key, SNI and peer (resumption, bounded); session_key 0: none. peer NULL: any
that verifies."""
cdef int tls_handshake(Tls *t) noexcept nogil
"""When it is done, data may already be inside: look at tls_pending before waiting."""
cdef int tls_read(Tls *t, char *p, uint32_t n) noexcept nogil
"""Fills p as far as there is data: less than n means that the socket had no more (as with recv), so wait for the next event."""
cdef int tls_write(Tls *t, const char *p, uint32_t n) noexcept nogil
"""May write less than n; after FM_AGAIN / FM_WANT_WRITE call again with the same or more bytes beginning with the same."""
cdef uint32_t tls_pending(const Tls *t) noexcept nogil
"""Bytes (at least) that are buffered inside and come without another socket read; may be 1 where only a read can tell."""
cdef int tls_shutdown(Tls *t) noexcept nogil
"""Send close_notify, once. FM_OK, or FM_WANT_WRITE: the socket has not taken it whole: call again."""
cdef void tls_free(Tls *t) noexcept nogil
"""The fd stays open: it is the caller's. NULL is let pass."""
cdef uint32_t tls_peer_id(const Tls *t, char *out, uint32_t cap) noexcept nogil
"""The peer's SPIFFE ID (its one URI SAN), cut never: 0 when there is none or it does not fit."""
cdef Slice tls_forwarded_cert(Tls *t) noexcept nogil
"""What x-forwarded-client-cert says of the peer (see cert_forwarded); made once, borrowed until tls_free. Empty without a certificate."""
cdef bint tls_has_peer_cert(const Tls *t) noexcept nogil
cdef bint tls_resumed(const Tls *t) noexcept nogil
cdef uint32_t tls_alpn(const Tls *t, char *out, uint32_t cap) noexcept nogil
"""The protocol agreed on, e.g. "http/1.1"; 0: none."""
cdef int tls_speaks(const Tls *t) noexcept nogil
"""The same as TLS_ALPN_* (tls_ctx.pxd), for who only has to choose a codec; TLS_ALPN_NONE also before the handshake is done and after a
failure. A name that our side does not list is TLS_ALPN_OTHER, whatever it is: RFC 7301 3.2 forbids a server to select one that was not
offered, but OpenSSL's client let it pass for years, and the mesh link must be had only where our context offers it."""
cdef int tls_version(const Tls *t) noexcept nogil
"""0x0303 or 0x0304."""
cdef uint64_t tls_context_key(const Tls *t) noexcept nogil
"""The key of the context in use: of a server, the one that SNI chose."""
cdef uint32_t tls_error(const Tls *t, char *out, uint32_t cap) noexcept nogil
"""Why it failed, for the log (e.g. "certificate has expired")."""
cdef uint64_t tls_wire_tx(const Tls *t) noexcept nogil
"""Bytes of ciphertext that the socket has taken."""
cdef uint64_t tls_live() noexcept nogil
"""Connections that exist: 0 when nothing leaks."""
