"""Active health checks (L2). See health.pxd."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport (
    fm_cas64, fm_load_relaxed, fm_load_relaxed32, fm_store_relaxed, fm_store_relaxed32)
from fastmesh._core.policy.health cimport HV_DOWN, HV_LATE, HV_SAME, HV_UP
from fastmesh._core.shm.cells cimport HE_HEALTHY, HE_UNHEALTHY, HE_UNKNOWN, EpCell
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster, SnapEndpoint, SnapHealth

cdef enum:
    MS = 1000000                 # ns
    SLACK_MS = 1000              # a worker in a long turn reads a claim that is later than its own clock would make one
    ROW_MOST = 1000000000        # counting in a row ends: no threshold is above it


cdef inline uint64_t pause_ns(const SnapHealth *h, uint32_t rnd) noexcept nogil:
    cdef uint64_t jitter = <uint64_t>h.interval_ms * h.jitter_percent / 100
    return (h.interval_ms + (jitter * rnd >> 32)) * MS


cdef inline uint64_t claim_ns(const SnapHealth *h) noexcept nogil:
    """More than a check and the pause behind it take."""
    return <uint64_t>h.timeout_ms * MS + pause_ns(h, ~<uint32_t>0) + MS


cdef uint64_t health_due_ns(const EpCell *e, const SnapHealth *h, uint64_t now_ns) noexcept nogil:
    cdef uint64_t at = fm_load_relaxed(&e.check_at_ns)
    return now_ns if at > now_ns + claim_ns(h) + <uint64_t>SLACK_MS * MS else at


cdef uint64_t health_claim(EpCell *e, const SnapHealth *h, uint64_t now_ns) noexcept nogil:
    cdef uint64_t at = fm_load_relaxed(&e.check_at_ns)
    cdef uint64_t claim = now_ns + claim_ns(h)
    if at > now_ns and at <= claim + <uint64_t>SLACK_MS * MS:
        return 0
    return claim if fm_cas64(&e.check_at_ns, at, claim) else 0


cdef void health_give_back(EpCell *e, uint64_t claim, uint64_t now_ns) noexcept nogil:
    fm_cas64(&e.check_at_ns, claim, now_ns)


cdef int health_result(EpCell *e, const SnapHealth *h, uint64_t claim, bint good, uint64_t now_ns, uint32_t rnd) noexcept nogil:
    # Between the claim and the next due time nobody else writes these words.
    cdef uint32_t was = fm_load_relaxed32(&e.health)
    cdef uint32_t *row = &e.in_row_pass if good else &e.in_row_fail
    cdef uint32_t n
    if not fm_cas64(&e.check_at_ns, claim, now_ns + pause_ns(h, rnd)):
        return HV_LATE
    fm_store_relaxed32(&e.in_row_fail if good else &e.in_row_pass, 0)
    n = fm_load_relaxed32(row)
    if n < ROW_MOST:
        n += 1
        fm_store_relaxed32(row, n)
    if was == (HE_HEALTHY if good else HE_UNHEALTHY):
        return HV_SAME
    # of an endpoint of which nothing is known the first check decides
    if was != HE_UNKNOWN and n < (h.healthy if good else h.unhealthy):
        return HV_SAME
    if not good:
        fm_store_relaxed32(&e.health, HE_UNHEALTHY)
        return HV_DOWN
    if was == HE_UNHEALTHY:
        fm_store_relaxed(&e.since_ns, now_ns)  # it warms up
    fm_store_relaxed32(&e.health, HE_HEALTHY)
    return HV_UP


cdef void health_forget(EpCell *e) noexcept nogil:
    # the line stays clean where nothing was
    if fm_load_relaxed(&e.check_at_ns):
        fm_store_relaxed(&e.check_at_ns, 0)
    if fm_load_relaxed32(&e.health) != HE_UNKNOWN:
        fm_store_relaxed32(&e.health, HE_UNKNOWN)
    if fm_load_relaxed32(&e.in_row_pass):
        fm_store_relaxed32(&e.in_row_pass, 0)
    if fm_load_relaxed32(&e.in_row_fail):
        fm_store_relaxed32(&e.in_row_fail, 0)


cdef uint32_t health_count(SegMap *m, const Snap *s, const SnapCluster *c) noexcept nogil:
    cdef const SnapEndpoint *p = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef uint32_t *unhealthy = &m.cluster_cells[c.cell].unhealthy
    cdef uint32_t n = 0
    cdef uint32_t i
    for i in range(c.endpoints.n):
        if fm_load_relaxed32(&m.cells[p[i].cell].health) == HE_UNHEALTHY:
            n += 1
    if fm_load_relaxed32(unhealthy) != n:
        fm_store_relaxed32(unhealthy, n)
    return n


cdef uint64_t health_out(const EpCell *cells, const Snap *s, const SnapCluster *c) noexcept nogil:
    cdef const SnapEndpoint *p = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef uint64_t n = 0
    cdef uint32_t i
    for i in range(c.endpoints.n):
        if fm_load_relaxed(&cells[p[i].cell].ejected_until_ns) or fm_load_relaxed32(&cells[p[i].cell].health) == HE_UNHEALTHY:
            n += 1
    return n
