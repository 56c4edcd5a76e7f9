"""HTTP/2 towards upstreams (L3): the glue between an upstream Conn, the HTTP/2 protocol layer and exchanges, which share it.

A connection to an endpoint that is offered HTTP/2 by ALPN begins as an H2c and becomes an H1c when the other side chooses HTTP/1.1. Exchanges that
come while it is being dialled wait for it.
"""
from fastmesh._core.proxy.ctx cimport Worker

cdef void h2c_init(Worker *w) noexcept nogil
"""Put this codec's ops into the worker."""
cdef void h2c_reap(Worker *w) noexcept nogil
cdef void h2c_cut(Worker *w) noexcept nogil
"""The worker stops: all that are shared, as they are."""
