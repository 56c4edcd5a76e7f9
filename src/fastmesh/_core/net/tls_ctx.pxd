"""TLS contexts (L2): an SSL_CTX per certificate generation, reference-counted; peer verification by SPIFFE URI SAN.

Holds what all connections of a generation share: certificate, trust, ALPN, SNI names, ticket keys, the client side's sessions. A context
never outlives its last reference; callbacks find their connection by the SSL's app data (TlsAuth) and never a context by a stored pointer.

Resumption never skips identity: a ticket opens only under the same certificate, CA bundle and policy (its session id context is their
hash), and only until the first certificate of the peer's verified chain expires. Ticket keys are derived from the private key and that
policy: every worker, also a restarted one, opens the tickets of the others, and a new certificate ends them. Only TLS 1.3 gets tickets: a
1.2 ticket holds the master secret, so keys that follow from the private key would cost forward secrecy; 1.3 always adds a fresh ECDHE.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.openssl cimport SSL, SSL_CTX
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.tls_peer cimport PeerName, TlsPeer
from fastmesh._core.net.tls_session cimport TlsSessions

cdef enum:  # TlsSpec.flags: the same bits as TF_* of shm/snapshot.pxd
    TLS_F_SERVER = 1
    TLS_F_VERIFY = 2             # require the peer's certificate and verify it against `ca`
    TLS_F_TICKETS = 4

cdef enum:  # what ALPN has agreed on
    TLS_ALPN_NONE = 0
    TLS_ALPN_H1 = 1              # "http/1.1"
    TLS_ALPN_H2 = 2              # "h2"
    TLS_ALPN_LINK = 3            # "fastmesh": the link between two proxies of the mesh
    TLS_ALPN_OTHER = 4           # another name, or one that our side does not list

cdef enum:
    TLS_PEM_MAX = 4 << 20        # bytes of one PEM input: more is a mistake, not a bundle (the system's is 0.2 MB)
    TLS_TICKET_SECONDS = 7200    # how long a session can be taken up again (Envoy's default, too)
    TLS_TICKETS_FULL = 1         # tickets after a full handshake: each costs the server some 20 us, and ours are not used only once
    TLS_VERIFY_DEPTH = 8         # intermediates between leaf and root

cdef struct TlsSpec:
    # borrowed: PEM as bytes
    uint64_t key
    uint32_t flags
    uint32_t min_version         # 0x0303 (also 0) or 0x0304
    Slice cert
    Slice private_key
    Slice ca
    Slice alpn
    Slice trust_domain
    Slice denied                 # SPIFFE IDs that are refused, each with a line end behind it
    const Slice *hosts           # SNI names, exact or "*.suffix"; none: any
    uint32_t nhosts

cdef struct TlsCtx:
    # owned by: its references (worker heap)
    SSL_CTX *ssl_ctx
    uint64_t key
    uint32_t refs
    uint32_t flags
    int min_version
    Slice alpn                   # owned copies
    Slice trust_domain
    Slice denied
    Slice *hosts
    uint32_t nhosts
    TlsSessions *sessions        # client side; made with the first one

cdef struct TlsAuth:
    # what the callbacks of one connection need; the SSL's app data; owned by: Tls, whose first member it is
    TlsCtx *ctx                  # a reference: the one in use (by SNI)
    TlsCtx **sni                 # references, until the ClientHello is read; NULL for a client
    uint32_t nsni
    int code                     # FM_OK or why this peer is refused
    const char *why              # static text
    TlsPeer *want                # client: owned, until the handshake is done
    PeerName name
    uint64_t not_after           # of the peer's chain; 0: it showed no certificate
    uint64_t session_key         # client; 0: do not keep sessions
    uint64_t policy

cdef int tls_ctx_new(TlsCtx **out, const TlsSpec *spec) noexcept nogil
"""FM_OK, FM_ETLS_CONFIG (tls_ctx_error says why) or FM_ENOMEM. References: 1."""
cdef void tls_ctx_ref(TlsCtx *c) noexcept nogil
cdef void tls_ctx_unref(TlsCtx *c) noexcept nogil
"""NULL is let pass."""
cdef uint64_t tls_ctx_key(const TlsCtx *c) noexcept nogil
cdef bint tls_ctx_offers(const TlsCtx *c, const char *name, uint32_t n) noexcept nogil
"""Whether the protocol is in the context's own ALPN list."""
cdef int tls_ctx_agreed(const TlsCtx *c, const SSL *ssl) noexcept nogil
"""TLS_ALPN_* of a connection of this context."""
cdef uint32_t tls_ctx_error(char *out, uint32_t cap) noexcept nogil
"""Why the last tls_ctx_new of this process failed, e.g. "private key does not belong to the certificate"."""
cdef uint64_t tls_ctx_live() noexcept nogil
"""Contexts that exist: 0 when nothing leaks."""
cdef TlsCtx *tls_ctx_by_name(TlsCtx **list, uint32_t n, Slice name) noexcept nogil
"""By SNI: exact, then the longest "*.suffix", then a context for any name, then the first. Borrowed."""
cdef bint tls_session_offer(TlsAuth *a, SSL *ssl) noexcept nogil
"""Set the session kept for a's key and policy on a new client SSL, if there is one that is still good."""
cdef void tls_session_forget(TlsAuth *a) noexcept nogil
"""The one kept for a's key and policy did not do."""
