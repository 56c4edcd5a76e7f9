"""Outlier detection (L2). See outlier.pxd. A success reads the cell and, where no error came before it, writes nothing."""
from libc.math cimport sqrt
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport (
    fm_add_relaxed32, fm_cas32, fm_cas64, fm_load_relaxed, fm_load_relaxed32, fm_store_relaxed, fm_store_relaxed32)
from fastmesh._core.policy.outlier cimport OUT_5XX, OUT_GATEWAY, OUT_LOCAL, OUT_OK
from fastmesh._core.shm.cells cimport ClCell, EpCell, EpShard
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport OF_ON, OF_SPLIT, Snap, SnapCluster, SnapEndpoint, SnapOutlier
from fastmesh._core.shm.stats cimport (
    ST_OD_5XX, ST_OD_EJECTIONS, ST_OD_FAILURE_PERCENTAGE, ST_OD_GATEWAY, ST_OD_LOCAL, ST_OD_OVERFLOW, ST_OD_PROBE_FAIL, ST_OD_PROBE_OK,
    ST_OD_SUCCESS_RATE, stat_inc)

cdef enum:
    MS = 1000000                 # ns
    MOST = 0x7fffffff            # requests that are told of one interval
    RATE_REST_NS = 5000          # rates are judged no more often than this for each endpoint and worker


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


cdef bint throw_out(SegMap *m, const Snap *s, const SnapCluster *c, EpCell *e, uint64_t now_ns, int reason) noexcept nogil:
    """Eject, if one more may be."""
    if not reserve(m, s, c):
        stat_inc(m.stats, ST_OD_OVERFLOW)
        return False
    # the word says who of those with two reasons ejects it
    if not fm_cas64(&e.ejected_until_ns, 0, now_ns + span_ns(c, 1)):
        give_back(m, c)
        return False
    eject(m, c, e, now_ns, reason)
    return True


# ---- success rate and failure percentage -----------------------------------------------------------------------------------------

cdef inline bint rated(const SnapCluster *c) noexcept nogil:
    return c.outlier.rate_stdev_milli != 0 or c.outlier.failure_percent != 0


cdef void tally(SegMap *m, uint32_t cell) noexcept nogil:
    """What has come at this endpoint since the last time. The totals of a row outlive its worker (who comes after it counts on), so they
    only grow; where they do not (the cell has a new owner), nothing has come."""
    cdef EpCell *e = &m.cells[cell]
    cdef const EpShard *shard
    cdef uint64_t requests = 0
    cdef uint64_t failures = 0
    cdef uint64_t more, bad
    cdef uint32_t w
    for w in range(m.workers):
        shard = &m.rows[w].e[cell]
        requests += fm_load_relaxed(&shard.requests)
        failures += fm_load_relaxed(&shard.failures)
    more = requests - e.swept_requests if requests > e.swept_requests else 0
    bad = failures - e.swept_failures if failures > e.swept_failures else 0
    if more > <uint64_t>MOST:
        more = MOST
    if bad > more:
        bad = more               # of an attempt counted before: half an answer, or read between the two words
    fm_store_relaxed(&e.swept_requests, requests)
    fm_store_relaxed(&e.swept_failures, failures)
    fm_store_relaxed32(&e.rate_requests, <uint32_t>more)
    fm_store_relaxed32(&e.rate_failures, <uint32_t>bad)


cdef inline bint judged(const EpCell *e, uint32_t volume) noexcept nogil:
    return fm_load_relaxed32(&e.rate_requests) >= volume and fm_load_relaxed(&e.ejected_until_ns) == 0


cdef inline double success_rate(const EpCell *e) noexcept nogil:
    """Percent; there were requests."""
    cdef uint32_t n = fm_load_relaxed32(&e.rate_requests)
    return 100.0 * (n - fm_load_relaxed32(&e.rate_failures)) / n


cdef void judge_success_rate(SegMap *m, const Snap *s, const SnapCluster *c, uint64_t now_ns) noexcept nogil:
    cdef const SnapEndpoint *p = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef const SnapOutlier *o = &c.outlier
    cdef EpCell *e
    cdef double mean = 0
    cdef double variance = 0
    cdef double off
    cdef double rounding = 1e-9  # so that equal rates are equal, whatever the factor
    cdef uint32_t n = 0
    cdef uint32_t i
    for i in range(c.endpoints.n):
        e = &m.cells[p[i].cell]
        if judged(e, o.rate_volume):
            mean += success_rate(e)
            n += 1
    if n == 0 or n < o.rate_hosts:
        return
    mean /= n
    for i in range(c.endpoints.n):
        e = &m.cells[p[i].cell]
        if judged(e, o.rate_volume):
            off = success_rate(e) - mean
            variance += off * off
    off = sqrt(variance / n) * o.rate_stdev_milli / 1000.0
    for i in range(c.endpoints.n):
        e = &m.cells[p[i].cell]
        if judged(e, o.rate_volume) and success_rate(e) < mean - off - rounding:
            throw_out(m, s, c, e, now_ns, ST_OD_SUCCESS_RATE)


cdef void judge_failure_percentage(SegMap *m, const Snap *s, const SnapCluster *c, uint64_t now_ns) noexcept nogil:
    cdef const SnapEndpoint *p = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef const SnapOutlier *o = &c.outlier
    cdef EpCell *e
    cdef uint32_t n = 0
    cdef uint32_t i
    for i in range(c.endpoints.n):
        n += judged(&m.cells[p[i].cell], o.failure_volume)
    if n < o.failure_hosts:
        return
    for i in range(c.endpoints.n):
        e = &m.cells[p[i].cell]
        if judged(e, o.failure_volume) and 100.0 - success_rate(e) >= o.failure_percent:
            throw_out(m, s, c, e, now_ns, ST_OD_FAILURE_PERCENTAGE)


cdef void judge(SegMap *m, const Snap *s, const SnapCluster *c, uint64_t now_ns) noexcept nogil:
    """Envoy's two ways, over what came since the last time. One worker walks the endpoints and each worker's row of them: measured, 45 us with
    1,000 endpoints, one worker or eight. It does so at most once an interval, and however short that is it rests (RATE_REST_NS) for some hundred
    times as long."""
    cdef const SnapEndpoint *p = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef uint64_t *rated_ns = &m.cluster_cells[c.cell].rated_ns
    cdef uint64_t last = fm_load_relaxed(rated_ns)
    cdef uint32_t i
    if last and now_ns < last + <uint64_t>RATE_REST_NS * c.endpoints.n * m.workers:
        return
    fm_store_relaxed(rated_ns, now_ns)
    for i in range(c.endpoints.n):
        tally(m, p[i].cell)
    # An interval ends with the first result behind it. One that ended so long ago that an ejection for it would be over is not judged any
    # more, nor are all the requests before rates were asked for.
    if last == 0 or now_ns > last + (<uint64_t>c.outlier.interval_ms + c.outlier.base_ms) * MS:
        return
    if c.outlier.rate_stdev_milli:
        judge_success_rate(m, s, c, now_ns)
    if c.outlier.failure_percent:
        judge_failure_percentage(m, s, c, now_ns)


# ---- failures in a row, and once an interval -------------------------------------------------------------------------------------

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
    if rated(c):
        judge(m, s, c, now_ns)


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
    return throw_out(m, s, c, e, now_ns, reason)


cdef inline bint counted(const SnapCluster *c, int kind) noexcept nogil:
    """Whether this kind of result could eject an endpoint at all."""
    if rated(c):
        return kind != OUT_OK
    if kind == OUT_LOCAL and c.outlier.flags & OF_SPLIT:
        return c.outlier.consecutive_local != 0
    if kind == OUT_5XX:
        return c.outlier.consecutive_5xx != 0
    return kind != OUT_OK and (c.outlier.consecutive_5xx != 0 or c.outlier.consecutive_gateway != 0)


cdef int reason_of(const SnapCluster *c, int kind) noexcept nogil:
    """What a bad probe's ejection is counted as; `kind` is one that is counted."""
    if kind == OUT_LOCAL and c.outlier.flags & OF_SPLIT:
        if c.outlier.consecutive_local:
            return ST_OD_LOCAL
    elif kind != OUT_5XX and c.outlier.consecutive_gateway:
        return ST_OD_GATEWAY
    elif c.outlier.consecutive_5xx:
        return ST_OD_5XX
    return ST_OD_SUCCESS_RATE if c.outlier.rate_stdev_milli else ST_OD_FAILURE_PERCENTAGE


cdef void probed(SegMap *m, const SnapCluster *c, EpCell *e, int kind, uint64_t now_ns) noexcept nogil:
    if not fm_cas32(&e.probing, m.self_row + 1, 0):
        return                   # it took longer than the claim: another one decides
    if counted(c, kind):
        stat_inc(m.stats, ST_OD_PROBE_FAIL)
        eject(m, c, e, now_ns, reason_of(c, kind))
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
