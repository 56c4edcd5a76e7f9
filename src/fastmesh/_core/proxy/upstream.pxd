"""Upstream connections (L3): a pool of idle ones per endpoint, dialling, and what becomes of them when the config changes."""
from libc.stdint cimport uint32_t
from fastmesh._core.proxy.ctx cimport Exchange, H1c, Worker
from fastmesh._core.shm.snapshot cimport SnapCluster, SnapEndpoint

cdef int upstream_acquire(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, bint fresh) noexcept nogil
"""Attach a connection to ex (ex.up). FM_OK: it is idle and usable now. FM_AGAIN: it is being dialled; its ops report. Else: RE_CONNECT,
RE_OVERFLOW, RE_OVERLOAD, RE_UP_TLS. `fresh`: not a pooled one."""
cdef void upstream_release(H1c *u) noexcept nogil
"""The answer is complete and the connection may serve again: into the pool (or closed when its time is over)."""
cdef void upstream_idle_closed(H1c *u) noexcept nogil
"""The other side closed it while it was idle: its keep-alive timeout is learnt, so that no request that cannot be repeated meets it."""
cdef void upstream_drop(H1c *u) noexcept nogil
"""Close it and let go of it. NULL is tolerated; once."""
cdef void upstream_sweep(Worker *w) noexcept nogil
"""After a new generation: close idle connections of endpoints that are gone."""
cdef void upstream_close_idle(Worker *w) noexcept nogil
