"""HTTP/1 towards upstreams (L3): the glue between an upstream Conn, the HTTP/1 codec and exchanges."""
from fastmesh._core.proxy.ctx cimport Worker

cdef void h1c_init(Worker *w) noexcept nogil
"""Put this codec's ops into the worker."""
cdef void h1c_reap(Worker *w) noexcept nogil
