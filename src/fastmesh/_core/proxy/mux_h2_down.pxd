"""HTTP/2 towards clients (L3): the glue between a downstream Conn, the HTTP/2 protocol layer and exchanges, one a stream."""
from fastmesh._core.proxy.ctx cimport Down, H2s, Worker

cdef void h2s_init(Worker *w) noexcept nogil
"""Put this codec's ops into the worker."""
cdef bint h2s_take_over(Down *d, bint link) noexcept nogil
"""The connection of d speaks HTTP/2 from here on; what it has kept of the input begins with the preface. False: no memory, nothing has changed.
link: it is a sidecar's (ALPN "fastmesh")."""
cdef void h2s_drain(H2s *s) noexcept nogil
"""A drain begins: GOAWAY that still takes what is on its way."""
cdef void h2s_sweep(H2s *s) noexcept nogil
"""Draining, some time later: the last GOAWAY; it closes when its streams have ended."""
cdef void h2s_cut(H2s *s) noexcept nogil
"""The worker stops: as it is."""
