"""Upstream connections (L3): per endpoint idle HTTP/1 ones and shared HTTP/2 ones, dialling, and what becomes of them when the config changes."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from fastmesh._core.net.conn cimport Conn, ConnOps
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.proxy.ctx cimport Exchange, H1c, UpPool, Worker
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster, SnapEndpoint

cdef int upstream_acquire(Exchange *ex, const SnapCluster *c, const SnapEndpoint *ep, bint fresh) noexcept nogil
"""Attach a connection to ex (ex.up). FM_OK: it is idle and usable now. FM_AGAIN: it is being dialled; its ops report. Else: RE_CONNECT,
RE_PENDING, RE_OVERLOAD, RE_UP_TLS. `fresh`: not a pooled one."""
cdef const SnapEndpoint *upstream_called(const Snap *s, const SnapCluster *c, const Addr *called) noexcept nogil
"""The endpoint of a cluster that has the address which a client has called (its port is its sidecar's); NULL: none."""
cdef const SnapEndpoint *upstream_here(const SnapEndpoint *ep, const Addr *called, SnapEndpoint *to) noexcept nogil
"""The endpoint of a cluster with CL_ORIGINAL_DST made the address that a client has called, in *to; NULL: it has called none."""
cdef Conn *upstream_connect(Worker *w, const SnapCluster *c, const SnapEndpoint *ep, uint16_t port, const ConnOps *ops, void *owner,
                            int *code) noexcept nogil
"""Dial an endpoint (at another port: not 0), with the cluster's TLS where the endpoint has it. Not pooled, not counted, without a deadline.
NULL: *code is FM_ENOMEM, FM_ERESET or FM_ETLS."""
cdef Conn *upstream_dial(Worker *w, const SnapCluster *c, const SnapEndpoint *ep, const ConnOps *ops, void *owner, int *code) noexcept nogil
"""A connection for one user alone, counted and with connectTimeout; it ends with upstream_uncount. NULL: *code is RE_CONNECT, RE_OVERLOAD
or RE_OVERFLOW (maxConnections), and nothing is counted."""
cdef void upstream_release(H1c *u) noexcept nogil
"""The answer is complete and the connection may serve again: into the pool (or closed when its time is over)."""
cdef void upstream_idle_closed(Worker *w, uint32_t cell, uint64_t tag, uint64_t idle_since) noexcept nogil
"""The other side closed one while it was idle: its keep-alive timeout is learnt, so that no request that cannot be repeated meets it."""
cdef void upstream_idle_served(UpPool *p, uint32_t idle_for) noexcept nogil
"""One that had been idle so long (ms) was of use: what was learnt was no keep-alive timeout if it is shorter."""
cdef void upstream_drop(H1c *u) noexcept nogil
"""Close it and let go of it. NULL is tolerated; once."""
cdef void upstream_dial_failed(Worker *w, const Conn *c, int code) noexcept nogil
"""Count why (code as ConnOps.failed)."""
cdef void upstream_uncount(Worker *w, uint32_t cell, uint64_t tag, uint32_t cluster_cell) noexcept nogil
"""A connection of this endpoint is about to be closed."""
cdef void upstream_sweep(Worker *w) noexcept nogil
"""After a new generation: close idle connections of endpoints that are gone."""
cdef void upstream_close_idle(Worker *w) noexcept nogil
"""Draining: what serves no request is closed."""
cdef void upstream_cut(Worker *w) noexcept nogil
"""The worker stops: all that are idle, as they are."""
