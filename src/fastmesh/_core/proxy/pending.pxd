"""Requests that wait because no connection may be opened (L3): UpPool.waiting, in the order in which they came.

Who waits is bounded in number by the cluster's http1MaxPendingRequests (policy/breaker) and in time by its connectTimeout. A worker without
any connection of an endpoint may always open one, so whoever waits waits for a connection of this very worker.
"""
from fastmesh._core.proxy.ctx cimport Exchange, UpPool, Worker
from fastmesh._core.shm.snapshot cimport SnapCluster

cdef void pending_init(Worker *w) noexcept nogil
cdef bint pending_count(Exchange *ex, const SnapCluster *c) noexcept nogil
"""It waits for a connection from now on, counted; False: too many do."""
cdef void pending_over(Exchange *ex) noexcept nogil
"""It does not wait any more. Twice is once."""
cdef void pending_wait(UpPool *p, Exchange *ex) noexcept nogil
"""At the end of the queue; ex.up is the pool."""
cdef Exchange *pending_take(UpPool *p) noexcept nogil
"""The oldest, out of the queue (ex.up is NULL); NULL: nobody waits."""
cdef bint pending_waits(const Exchange *ex) noexcept nogil
"""It is in a pool's queue."""
cdef void pending_serve(Worker *w, UpPool *p) noexcept nogil
"""A connection or stream of this pool is free or gone: at the end of the turn those who wait choose again, as far as there is room."""
