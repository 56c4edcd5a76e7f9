"""Names on certificates (L2): SPIFFE IDs, URI and DNS SANs, and whether they are whom we expect. See tls_peer.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from libc.time cimport tm, time_t
from fastmesh._core.base.err cimport FM_OK, FM_ENOMEM, FM_ETLS_IDENTITY
from fastmesh._core.base.openssl cimport (
    ASN1_STRING, BIO, BIO_free, BIO_new, BIO_read, BIO_s_mem, EVP_sha256, X509_NAME_print_ex, X509_digest, X509_get_subject_name,
    XN_FLAG_RFC2253, ASN1_STRING_get0_data, ASN1_STRING_length, ASN1_TIME_to_tm, ERR_clear_error, EXFLAG_CA, GENERAL_NAME, GENERAL_NAMES,
    GENERAL_NAMES_free, GENERAL_NAME_get0_value, GEN_DNS, GEN_URI, KU_CRL_SIGN, KU_KEY_CERT_SIGN, NID_subject_alt_name, STACK_X509, X509,
    X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_check_host, X509_check_ip_asc, X509_get0_notAfter,
    X509_get_ext_d2i, X509_get_extension_flags, X509_get_key_usage, sk_GENERAL_NAME_num, sk_GENERAL_NAME_value, sk_X509_num, sk_X509_value,
    timegm,
)
from fastmesh._core.base.view cimport Slice, View, ascii_lower, slice_eq, slice_ieq, slice_of, view_left, view_of, view_u8

cdef enum:
    SCHEME = 9                   # of "spiffe://"
    HOST_MAX = 253               # a DNS name's longest text


cdef bint is_spiffe(Slice uri) noexcept nogil:
    """The scheme alone, in any case: enough to hold the certificate to the rules."""
    return uri.n >= SCHEME and slice_ieq(slice_of(uri.p, SCHEME), slice_of("spiffe://", SCHEME))


cdef bint domain_char(uint8_t c) noexcept nogil:
    return 97 <= c <= 122 or 48 <= c <= 57 or c == 45 or c == 46 or c == 95


cdef bint path_char(uint8_t c) noexcept nogil:
    return domain_char(c) or 65 <= c <= 90


cdef bint spiffe_valid(Slice sid, Slice *trust_domain) noexcept nogil:
    cdef View v
    cdef uint8_t c
    cdef uint32_t td = 0, segment = 0, dots = 0
    if sid.n > SPIFFE_ID_MAX or sid.n < SCHEME or not slice_eq(slice_of(sid.p, SCHEME), slice_of("spiffe://", SCHEME)):
        return False
    v = view_of(sid.p + SCHEME, sid.n - SCHEME)
    while True:
        c = view_u8(&v)
        if v.bad:
            return False                                  # no path: a trust domain, not a workload
        if c == 47:
            break
        if not domain_char(c):
            return False
        td += 1
    if td == 0 or td > TRUST_DOMAIN_MAX:
        return False
    while view_left(&v):
        c = view_u8(&v)
        if c == 47:
            if segment == 0 or (segment == dots and dots <= 2):
                return False                              # empty, "." or ".."
            segment = 0
            dots = 0
            continue
        if not path_char(c):
            return False
        segment += 1
        if c == 46:
            dots += 1
    if segment == 0 or (segment == dots and dots <= 2):
        return False                                      # also the trailing slash
    trust_domain[0] = slice_of(sid.p + SCHEME, td)
    return True


cdef Slice name_text(const GENERAL_NAME *g) noexcept nogil:
    cdef int kind = 0
    cdef ASN1_STRING *s = <ASN1_STRING *>GENERAL_NAME_get0_value(g, &kind)
    if s == NULL or ASN1_STRING_length(s) <= 0:
        return slice_of("", 0)
    return slice_of(<const char *>ASN1_STRING_get0_data(s), <size_t>ASN1_STRING_length(s))


cdef bint has_name(const GENERAL_NAMES *names, Slice san) noexcept nogil:
    """A DNS SAN (any case, no wildcard: it must be the very name) or a URI SAN other than a SPIFFE ID (those are compared elsewhere)."""
    cdef int i, n = sk_GENERAL_NAME_num(names)
    cdef GENERAL_NAME *g
    for i in range(n):
        g = sk_GENERAL_NAME_value(names, i)
        if g.type == GEN_DNS and slice_ieq(name_text(g), san):
            return True
        if g.type == GEN_URI and not is_spiffe(san) and slice_eq(name_text(g), san):
            return True
    return False


cdef bint host_matches(X509 *x, Slice host) noexcept nogil:
    cdef char text[HOST_MAX + 1]
    cdef unsigned int flags = X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    cdef bint ok
    if host.n > HOST_MAX:
        return False
    memcpy(text, host.p, host.n)
    text[host.n] = 0
    ok = X509_check_host(x, text, host.n, flags, NULL) == 1 or X509_check_ip_asc(x, text, 0) == 1
    ERR_clear_error()                                     # "bad ip address" for every DNS name that does not match
    return ok


cdef int check_names(X509 *x, const GENERAL_NAMES *names, const TlsPeer *want, Slice trust_domain, Slice *sid,
                     const char **why) noexcept nogil:
    cdef int i, n = sk_GENERAL_NAME_num(names) if names != NULL else 0
    cdef uint32_t uris = 0, k
    cdef bint spiffe = False, found = False
    cdef Slice uri = slice_of("", 0), td = slice_of("", 0)
    cdef GENERAL_NAME *g
    for i in range(n):
        g = sk_GENERAL_NAME_value(names, i)
        if g.type == GEN_URI:
            uris += 1
            uri = name_text(g)
            if is_spiffe(uri):
                spiffe = True
    if spiffe or trust_domain.n:
        if not spiffe:
            why[0] = "the certificate has no SPIFFE ID"
            return FM_ETLS_IDENTITY
        if uris != 1:
            why[0] = "the certificate has more than one URI SAN"
            return FM_ETLS_IDENTITY
        if not spiffe_valid(uri, &td):
            why[0] = "the certificate's SPIFFE ID is malformed"
            return FM_ETLS_IDENTITY
        if X509_get_extension_flags(x) & EXFLAG_CA or \
                (X509_get_key_usage(x) != <uint32_t>-1 and X509_get_key_usage(x) & (KU_KEY_CERT_SIGN | KU_CRL_SIGN)):
            why[0] = "a CA certificate is not an identity"
            return FM_ETLS_IDENTITY
        if trust_domain.n and not slice_eq(td, trust_domain):
            why[0] = "the peer's trust domain is not ours"
            return FM_ETLS_IDENTITY
        sid[0] = uri
    if want == NULL:
        return FM_OK
    if want.verify_san:
        for k in range(want.n):
            if spiffe and slice_eq(uri, want.sans[k]) or names != NULL and has_name(names, want.sans[k]):
                found = True
                break
        if not found:
            why[0] = "the peer's identity is not one that is expected here"
            return FM_ETLS_IDENTITY
    if want.host.n and not host_matches(x, want.host):
        why[0] = "the certificate is not for the host name"
        return FM_ETLS_IDENTITY
    return FM_OK


cdef bint peer_denied(Slice denied, Slice sid) noexcept nogil:
    cdef uint32_t at = 0, i
    for i in range(denied.n):
        if denied.p[i] == 10:
            if slice_eq(slice_of(denied.p + at, i - at), sid):
                return True
            at = i + 1
    return False


cdef int peer_check(X509 *x, const TlsPeer *want, Slice trust_domain, Slice denied, PeerName *name, const char **why) noexcept nogil:
    cdef int critical = 0, rc
    cdef Slice sid = slice_of("", 0)
    cdef GENERAL_NAMES *names
    name.spiffe = NULL
    name.n = 0
    name.forwarded = NULL
    name.nforwarded = 0
    names = <GENERAL_NAMES *>X509_get_ext_d2i(x, NID_subject_alt_name, &critical, NULL)
    if names == NULL and critical != -1:
        ERR_clear_error()
        why[0] = "the certificate's subjectAltName cannot be read"
        return FM_ETLS_IDENTITY
    rc = check_names(x, names, want, trust_domain, &sid, why)
    if rc == FM_OK and sid.n and peer_denied(denied, sid):
        rc = FM_ETLS_IDENTITY
        why[0] = "the peer's identity is denied"
    if rc == FM_OK and sid.n:
        name.spiffe = <char *>malloc(sid.n)
        if name.spiffe == NULL:
            rc = FM_ENOMEM
            why[0] = "out of memory"
        else:
            memcpy(name.spiffe, sid.p, sid.n)
            name.n = sid.n
    GENERAL_NAMES_free(names)
    return rc


cdef void peer_name_free(PeerName *name) noexcept nogil:
    free(name.spiffe)
    free(name.forwarded)
    name.spiffe = NULL
    name.forwarded = NULL
    name.n = 0
    name.nforwarded = 0


cdef uint64_t chain_not_after(const STACK_X509 *chain) noexcept nogil:
    cdef int i, n = sk_X509_num(chain) if chain != NULL else 0
    cdef uint64_t first = <uint64_t>-1, at
    cdef time_t t
    cdef tm when
    for i in range(n):
        memset(&when, 0, sizeof(when))
        if ASN1_TIME_to_tm(X509_get0_notAfter(sk_X509_value(chain, i)), &when) != 1:
            return 1
        t = timegm(&when)
        at = <uint64_t>t if t > 0 else 1
        if at < first:
            first = at
    return first if n > 0 else 1


cdef TlsPeer *peer_copy(const TlsPeer *p) noexcept nogil:
    cdef size_t bytes = sizeof(TlsPeer) + p.n * sizeof(Slice) + p.host.n
    cdef uint32_t i
    cdef TlsPeer *c
    cdef Slice *sans
    cdef char *at
    for i in range(p.n):
        bytes += p.sans[i].n
    c = <TlsPeer *>malloc(bytes)
    if c == NULL:
        return NULL
    sans = <Slice *>(c + 1)
    at = <char *>(sans + p.n)
    for i in range(p.n):
        if p.sans[i].n:
            memcpy(at, p.sans[i].p, p.sans[i].n)
        sans[i] = slice_of(at, p.sans[i].n)
        at += p.sans[i].n
    if p.host.n:
        memcpy(at, p.host.p, p.host.n)
    c.host = slice_of(at, p.host.n)
    c.sans = sans
    c.n = p.n
    c.verify_san = p.verify_san
    return c


cdef uint64_t hash_slice(uint64_t h, Slice s) noexcept nogil:
    """FNV-1a over the length and the bytes, so that two fields cannot run together."""
    cdef uint32_t i
    h = (h ^ s.n) * <uint64_t>0x100000001b3
    for i in range(s.n):
        h = (h ^ <uint8_t>s.p[i]) * <uint64_t>0x100000001b3
    return h


cdef uint64_t peer_hash(const TlsPeer *p, Slice sni) noexcept nogil:
    cdef uint64_t h = hash_slice(<uint64_t>0xcbf29ce484222325, sni)
    cdef uint32_t i
    if p == NULL:
        return h
    h = (h ^ p.verify_san) * <uint64_t>0x100000001b3
    h = (h ^ p.n) * <uint64_t>0x100000001b3
    for i in range(p.n):
        h = hash_slice(h, p.sans[i])
    return hash_slice(h, p.host)


cdef uint32_t put(char *out, uint32_t n, const char *text, uint32_t k) noexcept nogil:
    memcpy(out + n, text, k)
    return n + k


cdef uint32_t put_uri(char *out, uint32_t n, X509 *x, const char *key, uint32_t k) noexcept nogil:
    """`key` and the first URI SAN, if it is a SPIFFE ID."""
    cdef GENERAL_NAMES *names = <GENERAL_NAMES *>X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL)
    cdef Slice uri, td
    cdef int i
    if names == NULL:
        return n
    for i in range(sk_GENERAL_NAME_num(names)):
        if sk_GENERAL_NAME_value(names, i).type == GEN_URI:
            uri = name_text(sk_GENERAL_NAME_value(names, i))
            if spiffe_valid(uri, &td):   # its characters need no quotes
                n = put(out, put(out, n, key, k), uri.p, <uint32_t>uri.n)
                break
    GENERAL_NAMES_free(names)
    return n


cdef uint32_t cert_forwarded(X509 *own, X509 *peer, char *out) noexcept nogil:
    cdef const char *digits = "0123456789abcdef"
    cdef unsigned char md[64]
    cdef unsigned int i, k = 0
    cdef char subject[SUBJECT_MAX + 1]
    cdef int got
    cdef uint32_t n = 0
    cdef BIO *b
    if own != NULL:
        n = put_uri(out, n, own, "By=", 3)
        if n:
            n = put(out, n, ";", 1)
    if X509_digest(peer, EVP_sha256(), md, &k) != 1:
        ERR_clear_error()
        return 0
    n = put(out, n, "Hash=", 5)
    for i in range(k):
        out[n] = digits[md[i] >> 4]
        out[n + 1] = digits[md[i] & 15]
        n += 2
    b = BIO_new(BIO_s_mem())
    if b == NULL:
        return 0
    got = X509_NAME_print_ex(b, X509_get_subject_name(peer), 0, XN_FLAG_RFC2253)
    if got > 0:
        got = BIO_read(b, subject, SUBJECT_MAX + 1)
    BIO_free(b)
    ERR_clear_error()
    if got > SUBJECT_MAX:
        return 0
    n = put(out, n, ";Subject=\"", 10)
    if got > 0:                          # RFC 2253 has escaped quotes, controls and what is not ASCII
        n = put(out, n, subject, <uint32_t>got)
    n = put(out, n, "\"", 1)
    return put_uri(out, n, peer, ";URI=", 5)


cdef Slice peer_forwarded(PeerName *name, X509 *own, X509 *peer) noexcept nogil:
    cdef char text[CERT_FORWARDED]
    cdef uint32_t n
    if name.forwarded == NULL and peer != NULL:
        n = cert_forwarded(own, peer, text)
        name.forwarded = <char *>malloc(n + 1)
        if name.forwarded != NULL:
            memcpy(name.forwarded, text, n)
            name.nforwarded = n
    return slice_of(name.forwarded, name.nforwarded)
