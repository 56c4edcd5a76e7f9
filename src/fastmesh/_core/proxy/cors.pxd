"""Cross-origin requests under a route's corsPolicy (L3): Fetch standard, 3.2 (CORS protocol)."""
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.shm.snapshot cimport SnapCors

cdef int cors_take(Exchange *ex, const Msg *m, const SnapCors *c, bint *preflight) noexcept nogil
"""Judge a request, before it is changed for its way upstream: what its answer is to say of origins goes into ex.ops. preflight: it asks
what is allowed, and respond_preflight is its answer. FM_OK or FM_ENOMEM."""
