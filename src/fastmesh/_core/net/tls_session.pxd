"""The client side's TLS sessions of one context (L2): a bounded set-associative cache. Knows SSL_SESSION, not who asks.

An entry is found by the caller's key and the hash of the policy (SNI and whom it accepts) that the session was made under, and is offered
only while the peer's whole chain is valid.
"""
from libc.stdint cimport uint64_t
from fastmesh._core.base.openssl cimport SSL, SSL_SESSION

cdef enum:
    TLS_SESSIONS = 256           # some 5 KiB each; the least recently used of a set goes
    TLS_SESSION_WAYS = 4

cdef struct TlsSession:
    uint64_t key                 # the caller's
    uint64_t policy
    uint64_t not_after           # Unix time from which the peer's chain is no longer valid; 0: it showed no certificate
    uint64_t used                # tick of the last use
    SSL_SESSION *session         # NULL: empty

cdef struct TlsSessions:
    # owned by: the context (worker heap)
    uint64_t tick
    TlsSession slot[256]

cdef TlsSessions *sessions_new() noexcept nogil
cdef void sessions_free(TlsSessions *c) noexcept nogil
"""NULL is let pass."""
cdef void sessions_put(TlsSessions *c, uint64_t key, uint64_t policy, uint64_t not_after, const SSL_SESSION *session) noexcept nogil
"""Keeps a copy (best effort); replaces the one of the same key and policy."""
cdef bint sessions_offer(TlsSessions *c, uint64_t key, uint64_t policy, uint64_t now, SSL *ssl, uint64_t *not_after) noexcept nogil
"""Set a kept session that is still good on a new client SSL."""
cdef void sessions_forget(TlsSessions *c, uint64_t key, uint64_t policy) noexcept nogil
