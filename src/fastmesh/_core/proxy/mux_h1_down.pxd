"""HTTP/1 towards clients (L3): the glue between a downstream Conn, the HTTP/1 codec and exchanges."""
from fastmesh._core.net.conn cimport ConnOps
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.proxy.ctx cimport Down, DownOps, H1s, ListenerState, Worker

cdef void h1s_init(Worker *w) noexcept nogil
"""Put this codec's ops into the worker."""
cdef void h1s_accept(Worker *w, ListenerState *l, int fd, const Addr *peer) noexcept nogil
cdef bint h1s_take_over(Down *d) noexcept nogil
"""A connection that turned out to speak HTTP/1 or the preface of HTTP/2, with its first bytes kept. False: no memory, and nothing has changed."""
cdef void h1s_sweep(H1s *s) noexcept nogil
"""Draining: close it if it is idle, also when it has not sent anything yet."""
cdef void h1s_cut(H1s *s) noexcept nogil
"""The worker stops: as it is."""
