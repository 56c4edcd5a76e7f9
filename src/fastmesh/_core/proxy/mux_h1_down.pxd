"""HTTP/1 towards clients (L3): the glue between a downstream Conn, the HTTP/1 codec and exchanges."""
from fastmesh._core.net.conn cimport ConnOps
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.proxy.ctx cimport DownOps, ListenerState, Worker

cdef void h1s_init(Worker *w) noexcept nogil
"""Put this codec's ops into the worker."""
cdef void h1s_accept(Worker *w, ListenerState *l, int fd, const Addr *peer) noexcept nogil
cdef void h1s_sweep(Worker *w, bint all) noexcept nogil
"""Draining: close connections that are idle between requests; all: also those that have not sent anything yet."""
cdef void h1s_close_all(Worker *w) noexcept nogil
"""The worker stops: every connection, as it is."""
cdef void h1s_reap(Worker *w) noexcept nogil
