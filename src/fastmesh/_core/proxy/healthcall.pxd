"""One active health check on its connection (L3): the request that it sends, in HTTP/1 or HTTP/2, and what the answer is worth.
The codecs below it are those of all traffic; it has no exchange, no client and no pool. Who is asked, and what follows, is
proxy/healthcheck's.
"""
from fastmesh._core.net.conn cimport ConnOps

cdef void healthcall_init() noexcept nogil
cdef const ConnOps *healthcall_ops() noexcept nogil
"""Of a connection whose owner is a HealthCheck in KS_CONNECT."""
