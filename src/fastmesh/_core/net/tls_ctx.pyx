"""TLS contexts (L2): PEM in, a ready SSL_CTX out, and the callbacks of a handshake. See tls_ctx.pxd.

Knows nothing of sockets or HTTP. One thread a process uses it (a worker is one reactor), so counts and the error text are plain.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strlen
from libc.time cimport time
from fastmesh._core.base.err cimport FM_OK, FM_ENOMEM, FM_ETLS_CERT, FM_ETLS_CONFIG
from fastmesh._core.base.openssl cimport *
from fastmesh._core.base.view cimport (
    Slice, View, ascii_lower, slice_eq, slice_ieq, slice_of, view_left, view_of, view_u8, view_u16,
)
from fastmesh._core.net.tls_lib cimport tls_lib, tls_lib_key
from fastmesh._core.net.tls_peer cimport chain_not_after, peer_check
from fastmesh._core.net.tls_session cimport sessions_forget, sessions_free, sessions_new, sessions_offer, sessions_put

cdef char last_error[320]
cdef uint64_t live = 0

# 1.2: forward secrecy and AEAD only. 1.3: AES-128 first, it is the cheapest and the server's order counts.
cdef const char *CIPHERS_12 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305")
cdef const char *CIPHERS_13 = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
cdef const char *GROUPS = "X25519:P-256"


cdef int refuse(const char *what, const char *why) noexcept nogil:
    """Keep the reason; OpenSSL's own when why is NULL."""
    cdef unsigned long e
    if why == NULL:
        e = ERR_peek_last_error()
        why = ERR_reason_error_string(e) if e else NULL
    if why == NULL:
        snprintf(last_error, sizeof(last_error), "%s cannot be used", what)
    else:
        snprintf(last_error, sizeof(last_error), "%s: %s", what, why)
    ERR_clear_error()
    return FM_ETLS_CONFIG


cdef uint32_t tls_ctx_error(char *out, uint32_t cap) noexcept nogil:
    cdef uint32_t n = <uint32_t>strlen(last_error)
    if cap == 0:
        return 0
    n = n if n < cap else cap
    memcpy(out, last_error, n)
    return n


cdef uint64_t tls_ctx_live() noexcept nogil:
    return live


cdef uint64_t tls_ctx_key(const TlsCtx *c) noexcept nogil:
    return c.key


# --- the callbacks of a handshake; each finds its connection by the SSL's app data

cdef int no_passphrase(char *out, int n, int writing, void *arg) noexcept nogil:
    """OpenSSL would ask the terminal."""
    return -1


cdef int on_verify(X509_STORE_CTX *sc, void *arg) noexcept nogil:
    """Instead of X509_verify_cert alone: chain and dates by it, then the names. The error set here becomes the alert."""
    cdef SSL *ssl = <SSL *>X509_STORE_CTX_get_ex_data(sc, SSL_get_ex_data_X509_STORE_CTX_idx())
    cdef TlsAuth *a = <TlsAuth *>SSL_get_app_data(ssl)
    cdef int e
    cdef const char *why = NULL
    if a.ctx.flags & TLS_F_VERIFY:
        if X509_verify_cert(sc) <= 0:
            e = X509_STORE_CTX_get_error(sc)
            if e == X509_V_OK:
                X509_STORE_CTX_set_error(sc, X509_V_ERR_CERT_REJECTED)
            a.code = FM_ETLS_CERT
            a.why = X509_verify_cert_error_string(X509_STORE_CTX_get_error(sc))
            return 0
        a.not_after = chain_not_after(X509_STORE_CTX_get0_chain(sc))
    a.code = peer_check(X509_STORE_CTX_get0_cert(sc), a.want, a.ctx.trust_domain, a.ctx.denied, &a.name, &why)
    if a.code != FM_OK:
        a.why = why
        X509_STORE_CTX_set_error(sc, X509_V_ERR_CERT_REJECTED if a.code != FM_ENOMEM else X509_V_ERR_OUT_OF_MEM)
        return 0
    X509_STORE_CTX_set_error(sc, X509_V_OK)
    return 1


cdef bint offers_tls13(SSL *ssl) noexcept nogil:
    cdef const unsigned char *p = NULL
    cdef size_t n = 0
    cdef View v
    if not SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &p, &n):
        return False
    v = view_of(p, n)
    view_u8(&v)
    while view_left(&v):
        if view_u16(&v) == 0x0304 and not v.bad:
            return True
    return False


cdef int hello_name(SSL *ssl, Slice *name) noexcept nogil:
    """The server_name of the ClientHello (RFC 6066 3): one host_name entry. 0: none; 1: name; -1: malformed."""
    cdef const unsigned char *p = NULL
    cdef size_t n = 0
    cdef View v
    cdef uint32_t list_n, kind, name_n
    if not SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &p, &n):
        return 0
    v = view_of(p, n)
    list_n = view_u16(&v)
    if v.bad or list_n != view_left(&v):
        return -1
    kind = view_u8(&v)
    name_n = view_u16(&v)
    if v.bad or kind != 0 or name_n == 0 or name_n != view_left(&v):
        return -1
    name[0] = slice_of(<const char *>v.p, name_n)
    return 1


cdef int on_client_hello(SSL *ssl, int *alert, void *arg) noexcept nogil:
    """Before anything else of the ClientHello counts, so that also tickets are judged under the chosen context."""
    cdef TlsAuth *a = <TlsAuth *>SSL_get_app_data(ssl)
    cdef Slice name
    cdef TlsCtx *chosen
    cdef uint32_t i
    cdef int has = hello_name(ssl, &name)
    if has < 0:
        alert[0] = SSL_AD_DECODE_ERROR
        return SSL_CLIENT_HELLO_ERROR
    if a.nsni:
        chosen = tls_ctx_by_name(a.sni, a.nsni, name) if has else a.ctx
        if chosen != a.ctx:
            if SSL_set_SSL_CTX(ssl, chosen.ssl_ctx) == NULL:
                alert[0] = SSL_AD_INTERNAL_ERROR
                return SSL_CLIENT_HELLO_ERROR
            # SSL_set_SSL_CTX takes over certificate, store and session id context, but not these
            SSL_set_verify(ssl, verify_mode(chosen.flags), NULL)
            SSL_set_min_proto_version(ssl, chosen.min_version)
            if not chosen.flags & TLS_F_TICKETS:
                SSL_set_options(ssl, SSL_OP_NO_TICKET)
                SSL_set_num_tickets(ssl, 0)
            else:
                SSL_clear_options(ssl, SSL_OP_NO_TICKET)
                SSL_set_num_tickets(ssl, TLS_TICKETS_FULL)
            tls_ctx_ref(chosen)
            tls_ctx_unref(a.ctx)
            a.ctx = chosen
    if not offers_tls13(ssl):
        SSL_set_options(ssl, SSL_OP_NO_TICKET)
    return SSL_CLIENT_HELLO_SUCCESS


cdef int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *theirs, unsigned int theirs_n,
                 void *arg) noexcept nogil:
    """Our order decides. Nothing in common: RFC 7301 3.2, no_application_protocol."""
    cdef TlsAuth *a = <TlsAuth *>SSL_get_app_data(ssl)
    cdef View ours = view_of(a.ctx.alpn.p, a.ctx.alpn.n), v
    cdef const uint8_t *name
    cdef uint32_t n, m
    if a.ctx.alpn.n == 0:
        return SSL_TLSEXT_ERR_NOACK
    while view_left(&ours):
        n = view_u8(&ours)
        name = ours.p
        ours.p += n                                       # alpn_valid has checked our own list
        v = view_of(theirs, theirs_n)
        while view_left(&v):
            m = view_u8(&v)
            if m > view_left(&v):
                break
            if m == n and memcmp(v.p, name, n) == 0:
                out[0] = v.p
                out_n[0] = <unsigned char>n
                return SSL_TLSEXT_ERR_OK
            v.p += m
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef bint tls_ctx_offers(const TlsCtx *c, const char *name, uint32_t n) noexcept nogil:
    cdef View ours = view_of(c.alpn.p, c.alpn.n)
    cdef uint32_t m
    while view_left(&ours):
        m = view_u8(&ours)
        if slice_eq(slice_of(<const char *>ours.p, m), slice_of(name, n)):
            return True
        ours.p += m
    return False


cdef int tls_ctx_agreed(const TlsCtx *c, const SSL *ssl) noexcept nogil:
    cdef const unsigned char *p = NULL
    cdef unsigned int n = 0
    SSL_get0_alpn_selected(ssl, &p, &n)
    if n == 0:
        return TLS_ALPN_NONE
    if not tls_ctx_offers(c, <const char *>p, n):
        return TLS_ALPN_OTHER
    if n == 2 and memcmp(p, b"h2", 2) == 0:
        return TLS_ALPN_H2
    if n == 8 and memcmp(p, b"fastmesh", 8) == 0:
        return TLS_ALPN_LINK
    if n == 8 and memcmp(p, b"http/1.1", 8) == 0:
        return TLS_ALPN_H1
    return TLS_ALPN_OTHER


cdef int on_ticket_made(SSL *ssl, void *arg) noexcept nogil:
    """The ticket carries until when the peer's chain was valid."""
    cdef TlsAuth *a = <TlsAuth *>SSL_get_app_data(ssl)
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), &a.not_after, sizeof(a.not_after))


cdef int on_ticket_read(SSL *ssl, SSL_SESSION *sess, const unsigned char *name, size_t name_n, int status, void *arg) noexcept nogil:
    """A ticket that does not do means a full handshake, never a failed one."""
    cdef TlsAuth *a = <TlsAuth *>SSL_get_app_data(ssl)
    cdef void *data = NULL
    cdef size_t n = 0
    cdef uint64_t until = 0, now = <uint64_t>time(NULL)
    if status != SSL_TICKET_SUCCESS and status != SSL_TICKET_SUCCESS_RENEW:
        return SSL_TICKET_RETURN_IGNORE_RENEW
    if sess == NULL or SSL_SESSION_get0_ticket_appdata(sess, &data, &n) != 1 or data == NULL or n != sizeof(until):
        return SSL_TICKET_RETURN_IGNORE_RENEW
    memcpy(&until, data, sizeof(until))
    if until and now >= until:
        return SSL_TICKET_RETURN_IGNORE_RENEW
    if a.ctx.flags & TLS_F_VERIFY and (until == 0 or SSL_SESSION_get0_peer(sess) == NULL):
        return SSL_TICKET_RETURN_IGNORE_RENEW
    a.not_after = until
    # Sidecars use a session many times: a new ticket each time would only cost. Browsers use one once and need the next.
    if a.ctx.flags & TLS_F_VERIFY and now < <uint64_t>SSL_SESSION_get_time(sess) + TLS_TICKET_SECONDS // 2:
        return SSL_TICKET_RETURN_USE
    return SSL_TICKET_RETURN_USE_RENEW


cdef int on_new_session(SSL *ssl, SSL_SESSION *sess) noexcept nogil:
    """Client. 0: the reference stays OpenSSL's."""
    cdef TlsAuth *a = <TlsAuth *>SSL_get_app_data(ssl)
    if a.session_key == 0 or a.code != FM_OK or not SSL_SESSION_is_resumable(sess):
        return 0
    if a.ctx.sessions == NULL:
        a.ctx.sessions = sessions_new()
        if a.ctx.sessions == NULL:
            return 0
    sessions_put(a.ctx.sessions, a.session_key, a.policy, a.not_after, sess)
    return 0


cdef bint tls_session_offer(TlsAuth *a, SSL *ssl) noexcept nogil:
    if a.session_key == 0 or a.ctx.sessions == NULL:
        return False
    return sessions_offer(a.ctx.sessions, a.session_key, a.policy, <uint64_t>time(NULL), ssl, &a.not_after)


cdef void tls_session_forget(TlsAuth *a) noexcept nogil:
    if a.session_key and a.ctx.sessions != NULL:
        sessions_forget(a.ctx.sessions, a.session_key, a.policy)


# --- choice by SNI

cdef bint suffix_matches(Slice pattern, Slice name) noexcept nogil:
    """ "*.suffix" against a longer name that ends in ".suffix"; any depth, as Envoy's server_names."""
    cdef uint32_t n
    if pattern.n < 3 or pattern.p[0] != 42 or pattern.p[1] != 46:
        return False
    n = pattern.n - 1
    return name.n > n and slice_ieq(slice_of(pattern.p + 1, n), slice_of(name.p + (name.n - n), n))


cdef TlsCtx *tls_ctx_by_name(TlsCtx **list, uint32_t n, Slice name) noexcept nogil:
    cdef TlsCtx *any_name = NULL
    cdef TlsCtx *suffix = NULL
    cdef uint32_t i, k, longest = 0
    for i in range(n):
        if list[i].nhosts == 0 and any_name == NULL:
            any_name = list[i]
        for k in range(list[i].nhosts):
            if slice_ieq(list[i].hosts[k], name):
                return list[i]
            if list[i].hosts[k].n == 1 and list[i].hosts[k].p[0] == 42 and any_name == NULL:
                any_name = list[i]
            if list[i].hosts[k].n > longest and suffix_matches(list[i].hosts[k], name):
                suffix = list[i]
                longest = list[i].hosts[k].n
    if suffix != NULL:
        return suffix
    return any_name if any_name != NULL else list[0]


# --- making one

cdef int verify_mode(uint32_t flags) noexcept nogil:
    """A client always asks on_verify, which knows what is demanded."""
    if not flags & TLS_F_SERVER:
        return SSL_VERIFY_PEER
    return SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT if flags & TLS_F_VERIFY else SSL_VERIFY_NONE


cdef int copy_slice(Slice *to, Slice s) noexcept nogil:
    cdef char *p
    to[0] = slice_of("", 0)
    if s.n == 0:
        return FM_OK
    p = <char *>malloc(s.n)
    if p == NULL:
        return FM_ENOMEM
    memcpy(p, s.p, s.n)
    to[0] = slice_of(p, s.n)
    return FM_OK


cdef bint alpn_valid(Slice s) noexcept nogil:
    cdef View v = view_of(s.p, s.n)
    cdef uint32_t n
    while view_left(&v):
        n = view_u8(&v)
        if n == 0 or n > view_left(&v):
            return False
        v.p += n
    return True


cdef BIO *pem_open(Slice pem, const char *what) noexcept nogil:
    """NULL: refused, with the reason kept."""
    cdef BIO *b
    if pem.n > TLS_PEM_MAX:
        refuse(what, "too large")
        return NULL
    b = BIO_new_mem_buf(pem.p, <int>pem.n)
    if b == NULL:
        refuse(what, "out of memory")
    return b


cdef bint pem_ended() noexcept nogil:
    """The read failed because there is no further block."""
    cdef unsigned long e = ERR_peek_last_error()
    return ERR_GET_LIB(e) == ERR_LIB_PEM and ERR_GET_REASON(e) == PEM_R_NO_START_LINE


cdef X509 *read_cert(BIO *b) noexcept nogil:
    """The next certificate; NULL: none, or one that cannot be read."""
    cdef X509 *x = X509_new_ex(tls_lib(), NULL)
    if x != NULL and PEM_read_bio_X509(b, &x, no_passphrase, NULL) == NULL:
        X509_free(x)                                      # NULL where OpenSSL has freed it
        x = NULL
    return x


cdef int load_cert(TlsCtx *c, Slice pem) noexcept nogil:
    """The leaf, then its intermediates."""
    cdef BIO *b = pem_open(pem, "certificate")
    cdef X509 *x
    cdef int n = 0, rc = FM_OK
    if b == NULL:
        return FM_ETLS_CONFIG
    while True:
        x = read_cert(b)
        if x == NULL:
            if n == 0 and pem_ended():
                rc = refuse("certificate", "no PEM block of a certificate")
            elif not pem_ended():
                rc = refuse("certificate", NULL)
            break
        if n == 0:
            if SSL_CTX_use_certificate(c.ssl_ctx, x) != 1:
                rc = refuse("certificate", NULL)
            X509_free(x)
        elif SSL_CTX_add0_chain_cert(c.ssl_ctx, x) != 1:
            rc = refuse("certificate chain", NULL)
            X509_free(x)
        if rc != FM_OK:
            break
        n += 1
    ERR_clear_error()
    BIO_free(b)
    return rc


cdef int load_key(TlsCtx *c, Slice pem) noexcept nogil:
    cdef BIO *b = pem_open(pem, "private key")
    cdef EVP_PKEY *read
    cdef EVP_PKEY *k
    cdef int rc = FM_OK
    if b == NULL:
        return FM_ETLS_CONFIG
    read = PEM_read_bio_PrivateKey(b, NULL, no_passphrase, NULL)
    k = tls_lib_key(read) if read != NULL else NULL
    if read == NULL:
        rc = refuse("private key", "no PEM block of a key that can be read (encrypted or damaged ones cannot)")
    elif k == NULL:
        rc = refuse("private key", "not of a kind that is supported (ECDSA, RSA, Ed25519)")
    elif EVP_PKEY_eq(X509_get0_pubkey(SSL_CTX_get0_certificate(c.ssl_ctx)), k) != 1:
        rc = refuse("private key", "does not belong to the certificate")
    elif SSL_CTX_use_PrivateKey(c.ssl_ctx, k) != 1 or SSL_CTX_check_private_key(c.ssl_ctx) != 1:
        rc = refuse("private key", NULL)
    EVP_PKEY_free(k)
    EVP_PKEY_free(read)
    ERR_clear_error()
    BIO_free(b)
    return rc


cdef int load_ca(TlsCtx *c, Slice pem, bint name_them) noexcept nogil:
    cdef BIO *b = pem_open(pem, "CA bundle")
    cdef X509 *x
    cdef int n = 0, rc = FM_OK
    if b == NULL:
        return FM_ETLS_CONFIG
    while rc == FM_OK:
        x = read_cert(b)
        if x == NULL:
            if n == 0 and pem_ended():
                rc = refuse("CA bundle", "no PEM block of a certificate")
            elif not pem_ended():
                rc = refuse("CA bundle", NULL)
            break
        if X509_STORE_add_cert(SSL_CTX_get_cert_store(c.ssl_ctx), x) != 1 or \
                (name_them and SSL_CTX_add_client_CA(c.ssl_ctx, x) != 1):
            rc = refuse("CA bundle", NULL)
        X509_free(x)
        n += 1
    ERR_clear_error()
    BIO_free(b)
    return rc


cdef bint digest(const char *label, Slice *parts, uint32_t n, unsigned char *out) noexcept nogil:
    """SHA-256 over a label and length-prefixed parts."""
    cdef EVP_MD_CTX *m = EVP_MD_CTX_new()
    cdef uint32_t i
    cdef bint ok = m != NULL and EVP_DigestInit_ex(m, EVP_sha256(), NULL) == 1 and EVP_DigestUpdate(m, label, strlen(label) + 1) == 1
    for i in range(n):
        ok = ok and EVP_DigestUpdate(m, &parts[i].n, sizeof(uint32_t)) == 1
        ok = ok and (parts[i].n == 0 or EVP_DigestUpdate(m, parts[i].p, parts[i].n) == 1)
    ok = ok and EVP_DigestFinal_ex(m, out, NULL) == 1
    EVP_MD_CTX_free(m)
    return ok


cdef int set_tickets(TlsCtx *c, const TlsSpec *spec) noexcept nogil:
    """The session id context is the policy; the ticket keys follow from it and the private key."""
    cdef Slice parts[7]
    cdef unsigned char policy[32]
    cdef unsigned char keys[96]
    cdef bint ok
    parts[0] = slice_of(<const char *>&c.flags, sizeof(c.flags))
    parts[1] = slice_of(<const char *>&c.min_version, sizeof(c.min_version))
    parts[2] = spec.cert
    parts[3] = spec.ca
    parts[4] = spec.trust_domain
    parts[5] = spec.alpn
    parts[6] = spec.denied
    ok = digest("fastmesh policy", parts, 7, policy) and SSL_CTX_set_session_id_context(c.ssl_ctx, policy, 32) == 1
    parts[0] = slice_of(<const char *>policy, 32)
    parts[1] = spec.private_key
    ok = ok and digest("fastmesh ticket name", parts, 2, keys) and digest("fastmesh ticket mac", parts, 2, keys + 16) and \
        digest("fastmesh ticket aes", parts, 2, keys + 48) and SSL_CTX_set_tlsext_ticket_keys(c.ssl_ctx, keys, 80) == 1
    OPENSSL_cleanse(keys, sizeof(keys))
    # also without TLS_F_TICKETS: OpenSSL asks the listener's first context, whichever SNI chose (on_client_hello sets the options)
    SSL_CTX_set_timeout(c.ssl_ctx, TLS_TICKET_SECONDS)
    SSL_CTX_set_session_ticket_cb(c.ssl_ctx, on_ticket_made, on_ticket_read, NULL)
    if c.flags & TLS_F_TICKETS:
        SSL_CTX_set_num_tickets(c.ssl_ctx, TLS_TICKETS_FULL)
    else:
        SSL_CTX_set_num_tickets(c.ssl_ctx, 0)
        SSL_CTX_set_options(c.ssl_ctx, SSL_OP_NO_TICKET)
    return FM_OK if ok else refuse("tickets", NULL)


cdef int set_common(TlsCtx *c) noexcept nogil:
    cdef SSL_CTX *x = c.ssl_ctx
    SSL_CTX_set_mode(x, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS)
    SSL_CTX_set_options(x, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE)
    SSL_CTX_clear_options(x, SSL_OP_IGNORE_UNEXPECTED_EOF)
    SSL_CTX_set_read_ahead(x, 1)
    SSL_CTX_set_verify(x, verify_mode(c.flags), NULL)
    SSL_CTX_set_verify_depth(x, TLS_VERIFY_DEPTH)
    SSL_CTX_set_cert_verify_callback(x, on_verify, NULL)
    # an intermediate in the bundle is trusted as it stands: that is how an own intermediate is plugged in
    X509_STORE_set_flags(SSL_CTX_get_cert_store(x), X509_V_FLAG_PARTIAL_CHAIN)
    if SSL_CTX_set_min_proto_version(x, c.min_version) != 1 or SSL_CTX_set_max_proto_version(x, 0) != 1 or \
            SSL_CTX_set_cipher_list(x, CIPHERS_12) != 1 or SSL_CTX_set_ciphersuites(x, CIPHERS_13) != 1 or \
            SSL_CTX_set1_groups_list(x, GROUPS) != 1:
        return refuse("protocol settings", NULL)
    return FM_OK


cdef int set_roles(TlsCtx *c, const TlsSpec *spec) noexcept nogil:
    cdef int rc
    if c.flags & TLS_F_SERVER:
        SSL_CTX_set_session_cache_mode(c.ssl_ctx, SSL_SESS_CACHE_OFF)
        SSL_CTX_set_client_hello_cb(c.ssl_ctx, on_client_hello, NULL)
        SSL_CTX_set_alpn_select_cb(c.ssl_ctx, on_alpn, NULL)
        return set_tickets(c, spec)
    SSL_CTX_set_session_cache_mode(c.ssl_ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL)
    SSL_CTX_sess_set_new_cb(c.ssl_ctx, on_new_session)
    rc = SSL_CTX_set_alpn_protos(c.ssl_ctx, <const unsigned char *>c.alpn.p, c.alpn.n) if c.alpn.n else 0
    return FM_OK if rc == 0 else refuse("ALPN", NULL)


cdef int build(TlsCtx *c, const TlsSpec *spec) noexcept nogil:
    cdef bint server = spec.flags & TLS_F_SERVER
    cdef uint32_t i
    cdef int rc
    if spec.min_version not in (0, 0x0303, 0x0304):
        return refuse("min_version", "must be TLS 1.2 or TLS 1.3")
    c.min_version = 0x0304 if spec.min_version == 0x0304 else 0x0303
    if not alpn_valid(spec.alpn):
        return refuse("ALPN", "not a list of length-prefixed names")
    if server and spec.cert.n == 0:
        return refuse("certificate", "a server needs one")
    if (spec.cert.n == 0) != (spec.private_key.n == 0):
        return refuse("certificate", "certificate and private key go together")
    if server and spec.flags & TLS_F_VERIFY and spec.ca.n == 0:
        return refuse("CA bundle", "client certificates cannot be verified without one")
    c.ssl_ctx = SSL_CTX_new_ex(tls_lib(), NULL, TLS_server_method() if server else TLS_client_method())
    if c.ssl_ctx == NULL:
        return FM_ENOMEM
    if copy_slice(&c.alpn, spec.alpn) != FM_OK or copy_slice(&c.trust_domain, spec.trust_domain) != FM_OK or \
            copy_slice(&c.denied, spec.denied) != FM_OK:
        return FM_ENOMEM
    if spec.nhosts:
        c.hosts = <Slice *>calloc(spec.nhosts, sizeof(Slice))
        if c.hosts == NULL:
            return FM_ENOMEM
        c.nhosts = spec.nhosts
        for i in range(spec.nhosts):
            if copy_slice(&c.hosts[i], spec.hosts[i]) != FM_OK:
                return FM_ENOMEM
    rc = set_common(c)
    if rc == FM_OK and spec.cert.n:
        rc = load_cert(c, spec.cert)
        if rc == FM_OK:
            rc = load_key(c, spec.private_key)
    if rc == FM_OK and spec.ca.n:
        # public clients pick their certificate by these names; the mesh's have but one
        rc = load_ca(c, spec.ca, server and spec.flags & TLS_F_VERIFY and spec.trust_domain.n == 0)
    elif rc == FM_OK and spec.flags & TLS_F_VERIFY and SSL_CTX_set_default_verify_paths(c.ssl_ctx) != 1:
        rc = refuse("system's CA bundle", NULL)
    return set_roles(c, spec) if rc == FM_OK else rc


cdef void ctx_free(TlsCtx *c) noexcept nogil:
    cdef uint32_t i
    global live
    sessions_free(c.sessions)
    SSL_CTX_free(c.ssl_ctx)
    for i in range(c.nhosts):
        free_slice(&c.hosts[i])
    free(c.hosts)
    free_slice(&c.alpn)
    free_slice(&c.trust_domain)
    free_slice(&c.denied)
    free(c)
    live -= 1


cdef void free_slice(Slice *s) noexcept nogil:
    if s.n:
        free(<void *>s.p)


cdef int tls_ctx_new(TlsCtx **out, const TlsSpec *spec) noexcept nogil:
    cdef TlsCtx *c = <TlsCtx *>calloc(1, sizeof(TlsCtx))
    cdef int rc
    global live
    out[0] = NULL
    if c == NULL:
        return FM_ENOMEM
    live += 1
    c.refs = 1
    c.key = spec.key
    c.flags = spec.flags
    ERR_clear_error()
    rc = build(c, spec)
    if rc != FM_OK:
        ctx_free(c)
        ERR_clear_error()
        return rc
    out[0] = c
    return FM_OK


cdef void tls_ctx_ref(TlsCtx *c) noexcept nogil:
    c.refs += 1


cdef void tls_ctx_unref(TlsCtx *c) noexcept nogil:
    if c == NULL:
        return
    c.refs -= 1
    if c.refs == 0:
        ctx_free(c)
