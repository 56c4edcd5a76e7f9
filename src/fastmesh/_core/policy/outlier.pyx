"""Outlier detection (L2). See outlier.pxd. A success reads the cell and, where no error came before it, writes nothing."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport (
    fm_add_relaxed32, fm_cas32, fm_cas64, fm_load_relaxed, fm_load_relaxed32, fm_store_relaxed, fm_store_relaxed32)
from fastmesh._core.policy.outlier cimport OUT_5XX, OUT_GATEWAY, OUT_LOCAL, OUT_OK
from fastmesh._core.shm.cells cimport EpCell
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport OF_ON, OF_SPLIT, Snap, SnapCluster, SnapEndpoint
from fastmesh._core.shm.stats cimport (
    ST_OD_5XX, ST_OD_EJECTIONS, ST_OD_GATEWAY, ST_OD_LOCAL, ST_OD_OVERFLOW, ST_OD_PROBE_FAIL, ST_OD_PROBE_OK, stat_inc)

cdef enum:
    MS = 1000000                 # ns


cdef bint outlier_claim(const SnapCluster *c, EpCell *e, uint32_t self_row, uint64_t now_ns) noexcept nogil:
    cdef uint64_t until = fm_load_relaxed(&e.ejected_until_ns)
    if until == 0 or until > now_ns or not fm_cas64(&e.ejected_until_ns, until, now_ns + <uint64_t>c.outlier.base_ms * MS):
        return False
    fm_store_relaxed32(&e.probing, self_row + 1)
    return True


cdef void outlier_release(SegMap *m, uint32_t endpoint_cell, uint64_t now_ns) noexcept nogil:
    cdef EpCell *e = &m.cells[endpoint_cell]
    cdef uint64_t until = fm_load_relaxed(&e.ejected_until_ns)
    if until > now_ns and fm_cas32(&e.probing, m.self_row + 1, 0):
        fm_cas64(&e.ejected_until_ns, until, now_ns)


cdef void forget(EpCell *e) noexcept nogil:
    """The row of failures is over; the line stays clean where there is none."""
    if fm_load_relaxed32(&e.in_row_5xx):
        fm_store_relaxed32(&e.in_row_5xx, 0)
    if fm_load_relaxed32(&e.in_row_gateway):
        fm_store_relaxed32(&e.in_row_gateway, 0)
    if fm_load_relaxed32(&e.in_row_local):
        fm_store_relaxed32(&e.in_row_local, 0)


cdef inline uint64_t span_ns(const SnapCluster *c, uint32_t times) noexcept nogil:
    cdef uint64_t ms = <uint64_t>c.outlier.base_ms * times
    return (ms if ms < c.outlier.most_ms else c.outlier.most_ms) * MS


cdef void eject(SegMap *m, const SnapCluster *c, EpCell *e, uint64_t now_ns, int reason) noexcept nogil:
    """The endpoint is counted in ClCell.ejected."""
    cdef uint32_t times = fm_load_relaxed32(&e.ejections)
    # no more than what reaches the longest time, so that it also goes down again in a bounded time
    if <uint64_t>c.outlier.base_ms * times < c.outlier.most_ms:
        times += 1
        fm_store_relaxed32(&e.ejections, times)
    forget(e)
    fm_store_relaxed(&e.ejected_until_ns, now_ns + span_ns(c, times))
    stat_inc(m.stats, ST_OD_EJECTIONS)
    stat_inc(m.stats, reason)


cdef uint32_t count(SegMap *m, const Snap *s, const SnapCluster *c) noexcept nogil:
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef uint32_t n = 0
    cdef uint32_t i
    for i in range(c.endpoints.n):
        if fm_load_relaxed(&m.cells[e[i].cell].ejected_until_ns):
            n += 1
    return n


cdef bint reserve(SegMap *m, const Snap *s, const SnapCluster *c) noexcept nogil:
    """A place among those that may be ejected. Ejections of endpoints that config has taken away are still in the count: where it is
    full, it is taken anew."""
    cdef uint32_t *ejected = &m.cluster_cells[c.cell].ejected
    cdef bint anew = False
    cdef uint32_t n
    while True:
        n = fm_load_relaxed32(ejected)
        if <uint64_t>n * 100 < <uint64_t>c.outlier.max_percent * c.endpoints.n:
            if fm_cas32(ejected, n, n + 1):
                return True
        elif anew:
            return False
        else:
            anew = True
            fm_cas32(ejected, n, count(m, s, c))


cdef void give_back(SegMap *m, const SnapCluster *c) noexcept nogil:
    cdef uint32_t *ejected = &m.cluster_cells[c.cell].ejected
    cdef uint32_t n = fm_load_relaxed32(ejected)
    while n and not fm_cas32(ejected, n, n - 1):
        n = fm_load_relaxed32(ejected)


cdef void sweep(SegMap *m, const Snap *s, const SnapCluster *c, uint64_t now_ns) noexcept nogil:
    """Once an interval, by whoever notices: who has behaved for an interval is forgiven one ejection."""
    cdef const SnapEndpoint *p = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef uint64_t *swept = &m.cluster_cells[c.cell].swept_ns
    cdef uint64_t last = fm_load_relaxed(swept)
    cdef uint64_t interval = <uint64_t>c.outlier.interval_ms * MS
    cdef EpCell *e
    cdef uint32_t i, n, times
    if (last and now_ns < last + interval) or not fm_cas64(swept, last, now_ns):
        return
    n = fm_load_relaxed32(&m.cluster_cells[c.cell].ejected)
    fm_cas32(&m.cluster_cells[c.cell].ejected, n, count(m, s, c))
    for i in range(c.endpoints.n):
        e = &m.cells[p[i].cell]
        times = fm_load_relaxed32(&e.ejections)
        if times and fm_load_relaxed(&e.ejected_until_ns) == 0 and fm_load_relaxed(&e.since_ns) + interval <= now_ns:
            fm_cas32(&e.ejections, times, times - 1)


cdef bint row(SegMap *m, const Snap *s, const SnapCluster *c, EpCell *e, uint32_t *in_row, uint32_t most, int reason,
              uint64_t now_ns) noexcept nogil:
    """One more failure in this row. True: the endpoint is ejected for it."""
    cdef uint32_t n
    if most == 0:
        return False
    n = fm_add_relaxed32(in_row, 1) + 1
    # Of several at once the last is the one that acts. As in Envoy, the row begins again even where nothing may be ejected.
    if n < most or not fm_cas32(in_row, n, 0):
        return False
    if not reserve(m, s, c):
        stat_inc(m.stats, ST_OD_OVERFLOW)
        return False
    # the word says who of those with two reasons ejects it
    if not fm_cas64(&e.ejected_until_ns, 0, now_ns + span_ns(c, 1)):
        give_back(m, c)
        return False
    eject(m, c, e, now_ns, reason)
    return True


cdef inline bint counted(const SnapCluster *c, int kind) noexcept nogil:
    """Whether this kind of result could eject an endpoint at all."""
    if kind == OUT_LOCAL and c.outlier.flags & OF_SPLIT:
        return c.outlier.consecutive_local != 0
    if kind == OUT_5XX:
        return c.outlier.consecutive_5xx != 0
    return kind != OUT_OK and (c.outlier.consecutive_5xx != 0 or c.outlier.consecutive_gateway != 0)


cdef void probed(SegMap *m, const SnapCluster *c, EpCell *e, int kind, uint64_t now_ns) noexcept nogil:
    if not fm_cas32(&e.probing, m.self_row + 1, 0):
        return                   # it took longer than the claim: another one decides
    if counted(c, kind):
        stat_inc(m.stats, ST_OD_PROBE_FAIL)
        eject(m, c, e, now_ns, ST_OD_LOCAL if kind == OUT_LOCAL and c.outlier.flags & OF_SPLIT
              else (ST_OD_5XX if kind == OUT_5XX or c.outlier.consecutive_gateway == 0 else ST_OD_GATEWAY))
        return
    stat_inc(m.stats, ST_OD_PROBE_OK)
    forget(e)
    fm_store_relaxed(&e.since_ns, now_ns)
    fm_store_relaxed(&e.ejected_until_ns, 0)
    give_back(m, c)


cdef void outlier_observe(SegMap *m, const Snap *s, const SnapCluster *c, uint32_t endpoint_cell, int kind, bint probe,
                          uint64_t now_ns) noexcept nogil:
    cdef EpCell *e = &m.cells[endpoint_cell]
    if not c.outlier.flags & OF_ON:
        return
    sweep(m, s, c, now_ns)
    if probe:
        probed(m, c, e, kind, now_ns)
        return
    if fm_load_relaxed(&e.ejected_until_ns):
        return                   # sent before the ejection: it is the probe that decides
    if kind == OUT_LOCAL and c.outlier.flags & OF_SPLIT:
        row(m, s, c, e, &e.in_row_local, c.outlier.consecutive_local, ST_OD_LOCAL, now_ns)
        return
    if kind == OUT_OK:
        forget(e)
        return
    if kind != OUT_LOCAL and fm_load_relaxed32(&e.in_row_local):
        fm_store_relaxed32(&e.in_row_local, 0)  # there was an answer
    if kind == OUT_5XX:
        if fm_load_relaxed32(&e.in_row_gateway):
            fm_store_relaxed32(&e.in_row_gateway, 0)
    elif row(m, s, c, e, &e.in_row_gateway, c.outlier.consecutive_gateway, ST_OD_GATEWAY, now_ns):
        return
    row(m, s, c, e, &e.in_row_5xx, c.outlier.consecutive_5xx, ST_OD_5XX, now_ns)
