"""TLS contexts (L2): an SSL_CTX per certificate generation, reference-counted; peer verification by SPIFFE URI SAN."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.view cimport Slice

cdef enum:  # TlsSpec.flags: the same bits as TF_* of shm/snapshot.pxd
    TLS_F_SERVER = 1
    TLS_F_VERIFY = 2             # require the peer's certificate and verify it against `ca`
    TLS_F_TICKETS = 4

cdef struct TlsSpec:
    # borrowed: PEM as bytes
    uint64_t key
    uint32_t flags
    uint32_t min_version
    Slice cert
    Slice private_key
    Slice ca
    Slice alpn
    Slice trust_domain
    const Slice *hosts           # SNI names, exact or "*.suffix"; none: any
    uint32_t nhosts

cdef struct TlsCtx               # opaque

cdef struct TlsPeer:
    # whom a client side accepts; borrowed until the handshake is done unless copied by tls_client (it is copied)
    const Slice *sans            # URI SANs ("spiffe://...") or DNS names; with verify_san and none: nobody
    uint32_t n
    uint32_t verify_san          # 1: the peer's SAN must be one of sans
    Slice host                   # DNS name to verify (mode SIMPLE without subjectAltNames); empty: none

cdef int tls_ctx_new(TlsCtx **out, const TlsSpec *spec) noexcept nogil
"""FM_OK, FM_ETLS_CONFIG (tls_ctx_error says why) or FM_ENOMEM. References: 1."""
cdef void tls_ctx_ref(TlsCtx *c) noexcept nogil
cdef void tls_ctx_unref(TlsCtx *c) noexcept nogil
cdef uint64_t tls_ctx_key(const TlsCtx *c) noexcept nogil
cdef uint32_t tls_ctx_error(char *out, uint32_t cap) noexcept nogil
