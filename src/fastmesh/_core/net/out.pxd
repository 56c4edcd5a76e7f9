"""Out (L2): what a connection has to send: gathered borrowed bytes, the queue of what the socket did not take, plain or through TLS.

Put and make collect for one connection at a time; a flush hands them to the socket and copies what is left. A write error is told at
the end of the turn by the connection's task. It must not know who owns a connection or when one ends.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.buf cimport Block
from fastmesh._core.net.conn cimport Conn

cdef void conn_put(Conn *c, const char *p, size_t n) noexcept nogil
"""Borrowed bytes to send: they must not change before conn_flush."""
cdef char *conn_make(Conn *c, uint32_t n) noexcept nogil
"""Room for n bytes that the caller is about to make (then conn_made); NULL: too much for one turn."""
cdef void conn_made(Conn *c, uint32_t n) noexcept nogil
cdef void conn_flush(Conn *c) noexcept nogil
cdef void conn_give(Conn *c, Block *chain) noexcept nogil
"""Blocks to send, behind what waits; they are the connection's now, and what the socket takes goes at once."""
cdef void conn_write_out(Conn *c) noexcept nogil
"""As much of the queue as the socket takes."""
cdef inline bint conn_congested(const Conn *c) noexcept nogil:
    """The socket took less than it was given: stop the source, set CF_BLOCKED."""
    return c.out_n != 0
