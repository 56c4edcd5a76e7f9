"""The client side's TLS sessions (L2). See tls_session.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from fastmesh._core.base.openssl cimport (
    ERR_clear_error, SSL, SSL_SESSION, SSL_SESSION_dup, SSL_SESSION_free, SSL_SESSION_get_time, SSL_SESSION_get_timeout,
    SSL_SESSION_is_resumable, SSL_set_session,
)

cdef TlsSessions *sessions_new() noexcept nogil:
    return <TlsSessions *>calloc(1, sizeof(TlsSessions))


cdef void sessions_free(TlsSessions *c) noexcept nogil:
    cdef uint32_t i
    if c != NULL:
        for i in range(TLS_SESSIONS):
            SSL_SESSION_free(c.slot[i].session)
        free(c)


cdef TlsSession *slot_of(TlsSessions *c, uint64_t key, uint64_t policy, bint make) noexcept nogil:
    """The entry; or with make the one to overwrite: the least recently used of the set, empty ones first."""
    cdef uint64_t h = (key ^ policy) * <uint64_t>0x9e3779b97f4a7c15
    cdef TlsSession *s = c.slot + (h >> 32) % (TLS_SESSIONS // TLS_SESSION_WAYS) * TLS_SESSION_WAYS
    cdef TlsSession *oldest = s
    cdef uint32_t i
    for i in range(TLS_SESSION_WAYS):
        if s[i].session != NULL and s[i].key == key and s[i].policy == policy:
            return &s[i]
        if s[i].used < oldest.used:
            oldest = &s[i]
    return oldest if make else NULL


cdef void drop(TlsSession *e) noexcept nogil:
    SSL_SESSION_free(e.session)
    memset(e, 0, sizeof(TlsSession))


cdef void sessions_put(TlsSessions *c, uint64_t key, uint64_t policy, uint64_t not_after, const SSL_SESSION *session) noexcept nogil:
    cdef TlsSession *e = slot_of(c, key, policy, True)
    drop(e)
    c.tick += 1
    e.key = key
    e.policy = policy
    e.not_after = not_after
    e.used = c.tick
    # A copy, here and below: OpenSSL marks a session as used up with its first use (TLS 1.3: so that passive observers cannot link
    # connections; ours are linked by their addresses anyway) and as bad when its connection does not end in order.
    e.session = SSL_SESSION_dup(session)
    if e.session == NULL:
        ERR_clear_error()
        drop(e)


cdef bint sessions_offer(TlsSessions *c, uint64_t key, uint64_t policy, uint64_t now, SSL *ssl, uint64_t *not_after) noexcept nogil:
    cdef TlsSession *e = slot_of(c, key, policy, False)
    cdef SSL_SESSION *copy
    cdef bint ok
    if e == NULL:
        return False
    if (e.not_after and now >= e.not_after) or not SSL_SESSION_is_resumable(e.session) or \
            now >= <uint64_t>(SSL_SESSION_get_time(e.session) + SSL_SESSION_get_timeout(e.session)):
        drop(e)
        return False
    copy = SSL_SESSION_dup(e.session)
    ok = copy != NULL and SSL_set_session(ssl, copy) == 1
    SSL_SESSION_free(copy)
    if not ok:
        ERR_clear_error()
        return False
    c.tick += 1
    e.used = c.tick
    not_after[0] = e.not_after
    return True


cdef void sessions_forget(TlsSessions *c, uint64_t key, uint64_t policy) noexcept nogil:
    cdef TlsSession *e = slot_of(c, key, policy, False)
    if e != NULL:
        drop(e)
