"""Shared upstream connections (L3): who may have a stream of one, and who waits while it is being dialled.

What an H2c is to the rest of the proxy; its frames and its end are mux_h2_up's business.
"""
from fastmesh._core.proxy.ctx cimport Exchange, H2c, Worker

cdef enum:
    KEEPALIVE_MS = 10000         # with streams open and nothing heard for so long: PING; nothing after as much again: it is dead

cdef void share_init(Worker *w) noexcept nogil
cdef bint share_room(const H2c *u, bint upgrade) noexcept nogil
"""It takes one more exchange, at once or when it is connected. upgrade: one that needs extended CONNECT."""
cdef int share_attach(H2c *u, Exchange *ex) noexcept nogil
"""FM_OK: ex.up is a stream of it. FM_AGAIN: it waits, ex.up is the H2c. FM_ENOMEM. (share_room said yes.)"""
cdef bint share_early(const H2c *u, const Exchange *ex) noexcept nogil
"""It is too early for ex: the peer's SETTINGS have not come, and so many streams are open already as it may allow (or extended CONNECT is needed)."""
cdef bint share_open(H2c *u, Exchange *ex) noexcept nogil
"""A stream for ex, now; False: none can be had."""
cdef Exchange *share_wait_no_more(H2c *u, Exchange *ex) noexcept nogil
"""Out of those that wait; ex."""
cdef void share_out(H2c *u) noexcept nogil
"""Out of its pool's list: no request finds it any more. Twice is once."""
cdef void share_leave(H2c *u) noexcept nogil
"""The same, and it ends with its last stream, at the end of a turn. One that is being dialled serves those who wait for it."""
