"""A TLS connection (L2): the pump between OpenSSL and a non-blocking socket. See tls.pxd.

Knows nothing of HTTP or the reactor. OpenSSL's socket BIO is replaced by an own one, for fewer system calls and no SIGPIPE:
- reading: a recv that came back short has drained the socket, so OpenSSL's next question is answered without asking the kernel;
- writing: a flight of the handshake, or a batch of records, gathers in one buffer of the process and leaves in one send. Only what the
  socket does not take is copied to the connection, and tls_write does not report the plaintext of such a batch before all of it is out, so
  its caller waits for "writable" as with any socket;
- a TLS 1.3 server's session ticket waits for the first answer instead of costing a packet of its own.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, strlen
from fastmesh._core.base.err cimport (
    FM_OK, FM_AGAIN, FM_EINTERNAL, FM_ENOMEM, FM_EOF, FM_ERESET, FM_ETLS, FM_ETLS_CERT, FM_ETLS_IDENTITY, FM_WANT_WRITE)
from fastmesh._core.base.openssl cimport *
from fastmesh._core.base.sys cimport EAGAIN, EINTR, MSG_NOSIGNAL, fm_errno, recv, send
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.tls_ctx cimport (
    TLS_F_VERIFY, TlsAuth, tls_ctx_agreed, tls_ctx_ref, tls_ctx_unref, tls_session_forget, tls_session_offer)
from fastmesh._core.net.tls_peer cimport PeerName, peer_check, peer_copy, peer_forwarded, peer_hash, peer_name_free

cdef enum:
    RECORD_OVERHEAD = 256        # OpenSSL's own bound of a record's header, padding and tag
    TICKET_MAX = 4096            # a ticket that may wait: some 300 bytes, with a client certificate 1 KiB; a larger one goes at once
    GATHER = TLS_BATCH * (TLS_RECORD + RECORD_OVERHEAD) + TICKET_MAX   # a batch, and a ticket before it
    BULK_READ = 4 * (TLS_RECORD + RECORD_OVERHEAD)   # OpenSSL's read buffer once a recv has filled the usual one
    SNI_MAX = 255

cdef struct Tls:
    # owned by: the connection (worker heap)
    TlsAuth auth                 # first: the SSL's app data
    SSL *ssl
    int fd
    int code                     # FM_OK, or the failure that is final
    unsigned long error          # OpenSSL's, for tls_error
    char *out                    # ciphertext that the socket did not take, or a ticket that waits; [out_at, out_at + out_n)
    uint32_t out_at
    uint32_t out_n
    uint32_t held                # plaintext bytes that are in `out` and not reported as written
    uint64_t wire_tx             # bytes that the socket took
    uint8_t server
    uint8_t done                 # handshake
    uint8_t cork                 # writes gather
    uint8_t lazy                 # what is in `out` is a ticket: it may wait
    uint8_t drained              # the last recv was short
    uint8_t more                 # the last tls_read filled its buffer
    uint8_t bulk
    uint8_t fin                  # the socket gave EOF
    uint8_t dead                 # the socket gave an error
    uint8_t eof                  # close_notify came
    uint8_t shut                 # close_notify sent
    uint8_t peer_cert, resumed

cdef char gather[GATHER]         # one connection's within one call; empty between calls
cdef uint32_t gather_n = 0
cdef BIO_METHOD *method = NULL
cdef uint64_t live = 0


# --- the BIO

cdef int push(Tls *t, const char *p, uint32_t n) noexcept nogil:
    """Bytes sent, FM_WANT_WRITE or FM_ERESET."""
    cdef ssize_t r
    while True:
        r = send(t.fd, p, n, MSG_NOSIGNAL)
        if r >= 0:
            t.wire_tx += r
            return <int>r
        if fm_errno() == EINTR:
            continue
        if fm_errno() == EAGAIN:
            return FM_WANT_WRITE
        t.dead = 1
        return FM_ERESET


cdef int flush_out(Tls *t) noexcept nogil:
    """What an earlier call left. FM_OK: none is left."""
    cdef int r
    while t.out_n:
        r = push(t, t.out + t.out_at, t.out_n)
        if r < 0:
            return r
        t.out_at += <uint32_t>r
        t.out_n -= <uint32_t>r
    free(t.out)
    t.out = NULL
    t.out_at = 0
    t.lazy = 0
    return FM_OK


cdef int keep(Tls *t, const char *p, uint32_t n) noexcept nogil:
    """Append to `out`."""
    cdef char *q
    if n == 0:
        return FM_OK
    q = <char *>malloc(<size_t>t.out_n + n)
    if q == NULL:
        t.dead = 1
        return FM_ENOMEM
    if t.out_n:
        memcpy(q, t.out + t.out_at, t.out_n)
    memcpy(q + t.out_n, p, n)
    free(t.out)
    t.out = q
    t.out_at = 0
    t.out_n += n
    return FM_OK


cdef int flush_all(Tls *t) noexcept nogil:
    """`out`, then what gathered. Nothing is left in the gather buffer, whatever the result."""
    cdef int r
    cdef uint32_t at = 0, n = gather_n
    global gather_n
    gather_n = 0
    r = flush_out(t)
    while r == FM_OK and at < n:
        r = push(t, gather + at, n - at)
        if r > 0:
            at += <uint32_t>r
            r = FM_OK
    if r == FM_WANT_WRITE:
        return keep(t, gather + at, n - at) or FM_WANT_WRITE
    return r


cdef int bio_write(BIO *b, const char *p, int n) noexcept nogil:
    cdef Tls *t = <Tls *>BIO_get_data(b)
    cdef int r = FM_OK
    global gather_n
    BIO_clear_retry_flags(b)
    if t.cork:
        if gather_n + <uint32_t>n > GATHER:
            r = flush_all(t)
        if r == FM_OK:
            n = n if n <= GATHER else GATHER
            memcpy(gather + gather_n, p, <size_t>n)
            gather_n += <uint32_t>n
            return n
    else:
        if t.out_n:
            r = flush_out(t)
        if r == FM_OK:
            r = push(t, p, <uint32_t>n)
            if r >= 0:
                return r
    if r == FM_WANT_WRITE:
        BIO_set_retry_write(b)
    return -1


cdef int bio_read(BIO *b, char *p, int n) noexcept nogil:
    cdef Tls *t = <Tls *>BIO_get_data(b)
    cdef ssize_t r
    BIO_clear_retry_flags(b)
    if t.drained:
        BIO_set_retry_read(b)
        return -1
    while True:
        r = recv(t.fd, p, <size_t>n, 0)
        if r > 0:
            if r < n:
                t.drained = 1
                if t.bulk:
                    t.bulk = 0
                    SSL_set_default_read_buffer_len(t.ssl, 0)
            elif not t.bulk and t.done:
                t.bulk = 1
                SSL_set_default_read_buffer_len(t.ssl, BULK_READ)
            return <int>r
        if r == 0:
            t.fin = 1
            return 0
        if fm_errno() == EINTR:
            continue
        if fm_errno() == EAGAIN:
            t.drained = 1
            BIO_set_retry_read(b)
        else:
            t.dead = 1
        return -1


cdef long bio_ctrl(BIO *b, int cmd, long num, void *arg) noexcept nogil:
    cdef Tls *t = <Tls *>BIO_get_data(b)
    if cmd == BIO_CTRL_FLUSH:
        # what the socket does not take stays in `out`; tls_handshake sees it there
        if t.cork and gather_n:
            if t.server and SSL_get_state(t.ssl) == TLS_ST_SW_SESSION_TICKET and SSL_version(t.ssl) == TLS1_3_VERSION:
                t.lazy = 1
            elif flush_all(t) not in (FM_OK, FM_WANT_WRITE):
                return -1
        return 1
    if cmd == BIO_CTRL_EOF:
        return t.fin
    return 1 if cmd == BIO_CTRL_DUP else 0


cdef bint method_ready() noexcept nogil:
    global method
    if method == NULL:
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fastmesh socket")
        if method != NULL:
            BIO_meth_set_write(method, bio_write)
            BIO_meth_set_read(method, bio_read)
            BIO_meth_set_ctrl(method, bio_ctrl)
    return method != NULL


# --- new and free

cdef Tls *tls_new(TlsCtx *ctx, int fd, bint server) noexcept nogil:
    cdef Tls *t
    cdef BIO *b
    global live
    if not method_ready():
        return NULL
    t = <Tls *>calloc(1, sizeof(Tls))
    if t == NULL:
        return NULL
    live += 1
    t.fd = fd
    t.server = server
    t.auth.ctx = ctx
    tls_ctx_ref(ctx)
    t.ssl = SSL_new(ctx.ssl_ctx)
    b = BIO_new(method)
    if t.ssl == NULL or b == NULL or SSL_set_app_data(t.ssl, &t.auth) != 1:
        BIO_free(b)
        ERR_clear_error()
        tls_free(t)
        return NULL
    BIO_set_data(b, t)
    SSL_set_bio(t.ssl, b, b)
    return t


cdef Tls *tls_server(TlsCtx **by_sni, uint32_t n, int fd) noexcept nogil:
    cdef Tls *t = tls_new(by_sni[0], fd, True)
    cdef uint32_t i
    if t == NULL:
        return NULL
    SSL_set_accept_state(t.ssl)
    if n > 1:
        t.auth.sni = <TlsCtx **>malloc(n * sizeof(TlsCtx *))
        if t.auth.sni == NULL:
            tls_free(t)
            return NULL
        for i in range(n):
            t.auth.sni[i] = by_sni[i]
            tls_ctx_ref(by_sni[i])
        t.auth.nsni = n
    return t


cdef bint is_address(const char *p, uint32_t n) noexcept nogil:
    """An IP address is no SNI (RFC 6066 3); no DNS name ends in a label of digits, or has a colon."""
    cdef uint32_t i, label = 0
    for i in range(n):
        if p[i] == 58:
            return True
        if p[i] == 46:
            label = i + 1
    for i in range(label, n):
        if not 48 <= p[i] <= 57:
            return False
    return True


cdef Tls *tls_client(TlsCtx *ctx, int fd, const char *sni, uint32_t sni_n, const TlsPeer *peer, uint64_t session_key) noexcept nogil:
    cdef Tls *t = tls_new(ctx, fd, False)
    cdef char name[SNI_MAX + 1]
    cdef bint ok = True
    if t == NULL:
        return NULL
    SSL_set_connect_state(t.ssl)
    if 0 < sni_n <= SNI_MAX and not is_address(sni, sni_n):
        memcpy(name, sni, sni_n)
        name[sni_n] = 0
        ok = SSL_set_tlsext_host_name(t.ssl, name) == 1
    if peer != NULL:
        t.auth.want = peer_copy(peer)
        ok = ok and t.auth.want != NULL
    if not ok:
        ERR_clear_error()
        tls_free(t)
        return NULL
    t.auth.session_key = session_key
    t.auth.policy = peer_hash(peer, slice_of(sni, sni_n))
    tls_session_offer(&t.auth, t.ssl)
    t.drained = 1                                          # nothing can be there before we have spoken
    return t


cdef void drop_sni(TlsAuth *a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.nsni):
        tls_ctx_unref(a.sni[i])
    free(a.sni)
    a.sni = NULL
    a.nsni = 0


cdef void tls_free(Tls *t) noexcept nogil:
    global live
    if t == NULL:
        return
    SSL_free(t.ssl)                                        # before the contexts: it has borrowed from them
    drop_sni(&t.auth)
    tls_ctx_unref(t.auth.ctx)
    free(t.auth.want)
    peer_name_free(&t.auth.name)
    free(t.out)
    free(t)
    live -= 1


# --- failures

cdef int fail(Tls *t) noexcept nogil:
    """Something is over: which code, and why. The alert, if one is due, is already in the socket or in `out`."""
    t.error = ERR_peek_error()
    if t.auth.code != FM_OK:
        t.code = t.auth.code
    elif t.dead or t.fin:
        t.code = FM_ERESET
    elif ERR_GET_LIB(t.error) == ERR_LIB_SSL and ERR_GET_REASON(t.error) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        t.code = FM_ETLS_CERT
    else:
        t.code = FM_ETLS
    ERR_clear_error()
    return t.code


cdef int blocked(Tls *t, int r) noexcept nogil:
    """What OpenSSL's refusal to go on means."""
    cdef int e = SSL_get_error(t.ssl, r)
    if e == SSL_ERROR_WANT_READ:
        return FM_AGAIN
    if e == SSL_ERROR_WANT_WRITE:
        return FM_WANT_WRITE
    if e == SSL_ERROR_ZERO_RETURN:
        t.eof = 1
        return FM_EOF
    return fail(t)


cdef uint32_t tls_error(const Tls *t, char *out, uint32_t cap) noexcept nogil:
    cdef const char *why = t.auth.why
    cdef uint32_t n
    if t.code == FM_OK:
        return 0
    if why == NULL and t.fin:                              # before `dead`: OpenSSL's alert about it finds no reader
        why = "connection closed without close_notify" if t.done else "connection closed during the handshake"
    if why == NULL and t.dead:
        why = "connection reset"
    if why == NULL and t.error:
        why = ERR_reason_error_string(t.error)
    if why == NULL:
        why = "TLS failure"
    n = <uint32_t>strlen(why)
    n = n if n < cap else cap
    memcpy(out, why, n)
    return n


# --- handshake

cdef int established(Tls *t) noexcept nogil:
    """Keep what is asked for later, drop the rest. A resumed session's peer passes the same name check as a new one."""
    cdef X509 *x = SSL_get0_peer_certificate(t.ssl)
    cdef const char *why = NULL
    drop_sni(&t.auth)
    t.done = t.more = 1                                    # the last flight may have brought data along
    t.peer_cert = x != NULL
    t.resumed = SSL_session_reused(t.ssl) == 1
    if t.resumed and x != NULL:
        t.auth.code = peer_check(x, t.auth.want, t.auth.ctx.trust_domain, t.auth.ctx.denied, &t.auth.name, &why)
    elif t.resumed and (t.auth.want != NULL or t.auth.ctx.flags & TLS_F_VERIFY):
        t.auth.code = FM_ETLS_IDENTITY
        why = "the resumed session has no peer certificate"
    free(t.auth.want)
    t.auth.want = NULL
    SSL_free_buffers(t.ssl)                                # unless data is inside; see tls_read
    if t.auth.code != FM_OK:
        t.auth.why = why
        tls_session_forget(&t.auth)
        return fail(t)
    return FM_OK


cdef int tls_handshake(Tls *t) noexcept nogil:
    cdef int r = FM_OK
    if t.code != FM_OK:
        return t.code
    if t.out_n and not t.lazy:
        r = flush_out(t)
        if r != FM_OK:
            return r if r == FM_WANT_WRITE else fail(t)
    if t.done:
        return FM_OK
    ERR_clear_error()
    t.cork = 1
    r = SSL_do_handshake(t.ssl)
    t.cork = 0
    t.drained = 0
    if r != 1:
        r = blocked(t, r)
        if r < FM_EOF and not t.server and t.code != FM_OK:
            tls_session_forget(&t.auth)                    # whatever it was: the next attempt is a full handshake
        if r == FM_EOF:
            t.fin = 1
            r = fail(t)
    else:
        r = established(t)
    # a ticket waits for the first answer; an alert or Finished that did not go out yet goes first
    if gather_n and t.lazy and r == FM_OK and gather_n <= TICKET_MAX:
        r = stash(t)
    elif gather_n:
        t.lazy = 0
        flush_all(t)
    if r in (FM_OK, FM_AGAIN) and t.out_n and not t.lazy:
        return FM_WANT_WRITE
    return r


cdef int stash(Tls *t) noexcept nogil:
    cdef uint32_t n = gather_n
    global gather_n
    gather_n = 0
    if keep(t, gather, n) != FM_OK:
        t.code = FM_ENOMEM
        return FM_ENOMEM
    return FM_OK


# --- data

cdef int tls_read(Tls *t, char *p, uint32_t n) noexcept nogil:
    cdef uint32_t got = 0
    cdef int r = FM_AGAIN
    if t.code != FM_OK:
        return t.code
    if t.eof:
        return FM_EOF
    if not t.done or n == 0:
        return FM_EINTERNAL
    n = n if n <= 0x40000000 else 0x40000000
    t.drained = 0
    while got < n:
        ERR_clear_error()
        r = SSL_read(t.ssl, p + got, <int>(n - got))
        if r <= 0:
            r = blocked(t, r)
            break
        got += <uint32_t>r
    t.more = got == n
    if not t.more:
        # SSL_MODE_RELEASE_BUFFERS forgets the 16 KiB that a message after the handshake (a ticket) made it allocate
        SSL_free_buffers(t.ssl)
    return <int>got if got else r


cdef uint32_t tls_pending(const Tls *t) noexcept nogil:
    cdef int n
    if not t.done or t.code != FM_OK:
        return 0
    n = SSL_pending(t.ssl)
    if n > 0:
        return <uint32_t>n
    return 1 if t.more and SSL_has_pending(t.ssl) else 0


cdef int tls_write(Tls *t, const char *p, uint32_t n) noexcept nogil:
    """`sent`: plaintext that is in the socket; `held`: in `out` or in the gather buffer."""
    cdef uint32_t sent, held = 0, part
    cdef int r = FM_OK, flushed
    global gather_n
    if t.code != FM_OK:
        return t.code
    if not t.done or t.shut or n == 0 or t.held > n:
        return FM_EINTERNAL
    n = n if n <= 0x40000000 else 0x40000000
    if t.lazy:
        gather_n = t.out_n                                 # the ticket goes with this answer
        memcpy(gather, t.out + t.out_at, t.out_n)
        free(t.out)
        t.out = NULL
        t.out_n = 0
        t.lazy = 0
    elif t.out_n:
        r = flush_out(t)
        if r != FM_OK:
            return r if r == FM_WANT_WRITE else fail(t)
    sent = t.held
    t.held = 0
    t.cork = gather_n > 0 or n - sent > TLS_RECORD
    while sent + held < n and r == FM_OK:
        part = n - sent - held
        ERR_clear_error()
        r = SSL_write(t.ssl, p + sent + held, <int>part)
        if r <= 0:
            r = blocked(t, r)
            break
        held += <uint32_t>r
        r = FM_OK
        if not t.cork:
            sent += held
            held = 0
        elif gather_n > GATHER - (TLS_RECORD + RECORD_OVERHEAD):
            r = flush_all(t)
            if r == FM_OK:
                sent += held
                held = 0
    t.cork = 0
    if gather_n:
        flushed = flush_all(t)                             # also what was encrypted before SSL_write was refused
        if flushed == FM_OK:
            sent += held
            held = 0
        elif r == FM_OK:
            r = flushed
    if r == FM_OK:
        return <int>sent
    if t.code == FM_OK and r not in (FM_WANT_WRITE, FM_AGAIN):
        fail(t)
    t.held = held
    return <int>sent if sent else r


cdef int tls_shutdown(Tls *t) noexcept nogil:
    cdef int r
    if t.code != FM_OK or not t.done:
        return FM_OK
    if t.out_n and (t.shut or not t.lazy) and flush_all(t) == FM_WANT_WRITE:
        return FM_WANT_WRITE                               # in the middle of a record: nothing may go between
    if t.shut or t.held or t.dead:
        return FM_OK
    t.shut = 1
    ERR_clear_error()
    t.cork = 1
    r = SSL_shutdown(t.ssl)
    t.cork = 0
    if r < 0:
        ERR_clear_error()
    return FM_WANT_WRITE if flush_all(t) == FM_WANT_WRITE else FM_OK


# --- queries

cdef uint32_t tls_peer_id(const Tls *t, char *out, uint32_t cap) noexcept nogil:
    if not t.done or t.code != FM_OK or t.auth.name.n == 0 or t.auth.name.n > cap:
        return 0
    memcpy(out, t.auth.name.spiffe, t.auth.name.n)
    return t.auth.name.n


cdef Slice tls_forwarded_cert(Tls *t) noexcept nogil:
    return peer_forwarded(&t.auth.name, SSL_get_certificate(t.ssl), SSL_get0_peer_certificate(t.ssl))


cdef bint tls_has_peer_cert(const Tls *t) noexcept nogil:
    return t.peer_cert


cdef bint tls_resumed(const Tls *t) noexcept nogil:
    return t.resumed


cdef uint32_t tls_alpn(const Tls *t, char *out, uint32_t cap) noexcept nogil:
    cdef const unsigned char *p = NULL
    cdef unsigned int n = 0
    SSL_get0_alpn_selected(t.ssl, &p, &n)
    if n == 0 or n > cap:
        return 0
    memcpy(out, p, n)
    return n


cdef int tls_speaks(const Tls *t) noexcept nogil:
    return tls_ctx_agreed(t.auth.ctx, t.ssl) if t.done and t.code == FM_OK else TLS_ALPN_NONE


cdef int tls_version(const Tls *t) noexcept nogil:
    return SSL_version(t.ssl)


cdef uint64_t tls_context_key(const Tls *t) noexcept nogil:
    return t.auth.ctx.key


cdef uint64_t tls_wire_tx(const Tls *t) noexcept nogil:
    return t.wire_tx


cdef uint64_t tls_live() noexcept nogil:
    return live
