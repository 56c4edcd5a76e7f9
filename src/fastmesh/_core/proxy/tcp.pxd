"""TCP sessions (L3): a client's connection and one to an upstream, and the bytes between them, whatever they mean.

    HELLO (TLS, the name in a ClientHello, or what a redirected one speaks) -> CONNECT -> OPEN -> gone

Each direction ends by itself: a FIN (with TLS: close_notify) goes on to the other side behind the bytes before it. Whatever else ends a
session resets both sides, so that neither takes what it has for the whole. A side that is not read holds up the other one: nothing is read
for which there is no room in its socket. Config changes end no session, and a drain waits for them until its time is over.
"""
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.proxy.ctx cimport ListenerState, Tcp, Worker

cdef enum:
    TCP_LAST_MS = 60000          # how long a side may take nothing of what is left for it once both have said all

cdef void tcp_init(Worker *w) noexcept nogil
cdef void tcp_accept(Worker *w, ListenerState *l, int fd, const Addr *peer, const Addr *called) noexcept nogil
"""A connection on a listener with LF_TCP, or one that was redirected (called: Conn.called) and that `table` of its listener is not for; fd is
taken."""
cdef void tcp_sweep(Tcp *t) noexcept nogil
"""Draining: close it if nobody has said anything on it."""
cdef void tcp_cut(Tcp *t) noexcept nogil
"""The worker stops: both sides are reset."""
