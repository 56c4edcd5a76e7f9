"""What a route and its cluster say of a request, copied (L3). See plan.pxd."""
from libc.stdint cimport uint16_t, uint32_t
from fastmesh._core.policy.retry cimport RETRY_STATUSES
from fastmesh._core.proxy.ctx cimport Plan
from fastmesh._core.shm.snapshot cimport OF_ON, Snap, SnapAction, SnapCluster, snap_at


cdef void plan_take(Plan *p, const Snap *s, const SnapAction *a, const SnapCluster *c) noexcept nogil:
    cdef const uint32_t *statuses = <const uint32_t *>snap_at(s, a.retry_statuses.off)
    cdef uint32_t i
    p.cluster = c.id
    p.decay_ms = c.decay_ms
    p.watched = c.outlier.flags & OF_ON
    p.timeout_ms = a.timeout_ms
    p.per_try_timeout_ms = a.per_try_timeout_ms
    p.retries = a.retries
    p.retry_on = a.retry_on
    p.backoff_base_ms = a.backoff_base_ms
    p.backoff_most_ms = a.backoff_most_ms
    p.delay_ppm = a.delay_ppm
    p.delay_ms = a.delay_ms
    p.abort_ppm = a.abort_ppm
    p.abort_status = a.abort_status
    p.abort_grpc = a.abort_grpc
    p.flags = a.flags
    p.nstatuses = <uint16_t>(a.retry_statuses.n if a.retry_statuses.n < RETRY_STATUSES else RETRY_STATUSES)
    for i in range(p.nstatuses):
        p.statuses[i] = <uint16_t>statuses[i]
