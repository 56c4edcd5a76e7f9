"""Who a peer is (L2): the rules on a verified certificate's names. Knows X.509 and SPIFFE, not SSL.

SPIFFE X509-SVID section 5: a leaf with one URI SAN, no CA, and a SPIFFE ID with a path. A certificate that names any spiffe:// URI is held
to them, whoever asks.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.openssl cimport STACK_X509, X509
from fastmesh._core.base.view cimport Slice

cdef enum:
    SPIFFE_ID_MAX = 2048         # bytes; SPIFFE-ID section 2.3
    TRUST_DOMAIN_MAX = 255

cdef struct TlsPeer:
    # whom a client side accepts; borrowed until the handshake is done unless copied by tls_client (it is copied)
    const Slice *sans            # URI SANs ("spiffe://...") or DNS names; with verify_san and none: nobody
    uint32_t n
    uint32_t verify_san          # 1: the peer's SAN must be one of sans
    Slice host                   # DNS name or IP to verify (mode SIMPLE without subjectAltNames); empty: none

cdef enum:
    SUBJECT_MAX = 1024           # of a peer's certificate, as text
    CERT_FORWARDED = 2048        # two SPIFFE IDs, a hash, a subject

cdef struct PeerName:
    # owned by: the connection; peer_name_free
    char *spiffe                 # NULL: the certificate has no SPIFFE ID
    uint32_t n
    uint32_t nforwarded
    char *forwarded              # peer_forwarded; NULL: nobody has asked

cdef bint spiffe_valid(Slice sid, Slice *trust_domain) noexcept nogil
"""A well-formed SPIFFE ID of a workload (with a path); its trust domain is a slice into it."""
cdef bint peer_denied(Slice denied, Slice sid) noexcept nogil
"""Whether a SPIFFE ID is one of the list: IDs with a line end behind each."""
cdef int peer_check(X509 *x, const TlsPeer *want, Slice trust_domain, Slice denied, PeerName *name, const char **why) noexcept nogil
"""FM_OK and the peer's name, or FM_ETLS_IDENTITY, FM_ENOMEM with the reason (static text). want NULL or trust_domain empty: any."""
cdef void peer_name_free(PeerName *name) noexcept nogil
cdef uint64_t chain_not_after(const STACK_X509 *chain) noexcept nogil
"""The second (Unix time) at which the first certificate of the chain expires; 1 when one cannot be read (always past)."""
cdef TlsPeer *peer_copy(const TlsPeer *p) noexcept nogil
"""In one block, freed by free(); NULL: out of memory."""
cdef uint64_t peer_hash(const TlsPeer *p, Slice sni) noexcept nogil
"""Of the whole policy: a session made under one is not offered under another. Not cryptographic: the resumed peer is checked again."""
cdef Slice peer_forwarded(PeerName *name, X509 *own, X509 *peer) noexcept nogil
"""The element of x-forwarded-client-cert for a verified peer, as Envoy writes it: By, Hash, Subject, URI. Made at the first call, kept in
name. Empty: no certificate, a subject that does not fit, no memory."""
