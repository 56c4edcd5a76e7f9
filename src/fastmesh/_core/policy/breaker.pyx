"""Circuit breaking (L2). See breaker.pxd."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport fm_load_relaxed32
from fastmesh._core.shm.cells cimport ClShard
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport MILLION, SnapCluster


cdef inline ClShard *own(SegMap *m, uint32_t cell) noexcept nogil:
    return &m.cluster_rows[m.self_row].c[cell]


cdef enum:  # gauges
    G_ACTIVE = 0
    G_PENDING
    G_CONNECTIONS
    G_RETRIES


cdef uint64_t used(const SegMap *m, uint32_t cell, int gauge) noexcept nogil:
    cdef const ClShard *s
    cdef uint64_t sum = 0
    cdef uint32_t w
    for w in range(m.workers):
        s = &m.cluster_rows[w].c[cell]
        if gauge == G_ACTIVE:
            sum += fm_load_relaxed32(&s.active)
        elif gauge == G_PENDING:
            sum += fm_load_relaxed32(&s.pending)
        elif gauge == G_CONNECTIONS:
            sum += fm_load_relaxed32(&s.connections)
        else:
            sum += fm_load_relaxed32(&s.retries)
    return sum


cdef inline bint below(SegMap *m, uint32_t cell, int gauge, uint64_t most) noexcept nogil:
    # 0: no limit
    if most == 0 or used(m, cell, gauge) < most:
        return True
    own(m, cell).overflows += 1
    return False


cdef bint breaker_request(SegMap *m, const SnapCluster *c) noexcept nogil:
    if not below(m, c.cell, G_ACTIVE, c.max_requests):
        return False
    own(m, c.cell).active += 1
    return True


cdef void breaker_request_done(SegMap *m, uint32_t cell) noexcept nogil:
    own(m, cell).active -= 1


cdef bint breaker_pending(SegMap *m, const SnapCluster *c) noexcept nogil:
    if not below(m, c.cell, G_PENDING, c.max_pending):
        return False
    own(m, c.cell).pending += 1
    return True


cdef void breaker_pending_done(SegMap *m, uint32_t cell) noexcept nogil:
    own(m, cell).pending -= 1


cdef bint breaker_connection(SegMap *m, const SnapCluster *c) noexcept nogil:
    return below(m, c.cell, G_CONNECTIONS, c.max_connections)


cdef void breaker_connected(SegMap *m, uint32_t cell) noexcept nogil:
    own(m, cell).connections += 1


cdef void breaker_disconnected(SegMap *m, uint32_t cell) noexcept nogil:
    own(m, cell).connections -= 1


cdef bint breaker_retry(SegMap *m, const SnapCluster *c) noexcept nogil:
    cdef uint64_t budget, retries, active
    if not below(m, c.cell, G_RETRIES, c.max_retries):
        return False
    if c.budget_ppm:
        retries = used(m, c.cell, G_RETRIES)
        active = used(m, c.cell, G_ACTIVE)
        # of those that are in their first attempt: a share of all would let a fifth become a quarter
        budget = (active - retries if active > retries else 0) * c.budget_ppm // MILLION
        if budget < c.budget_least:
            budget = c.budget_least
        if retries >= budget:
            own(m, c.cell).overflows += 1
            return False
    own(m, c.cell).retries += 1
    return True


cdef void breaker_retry_done(SegMap *m, uint32_t cell) noexcept nogil:
    own(m, cell).retries -= 1
