"""Active health checks (L3): what is due, and what comes of it. See healthcheck.pxd; how one asks is proxy/healthcall's.

Whatever happens to a check ends in healthcheck_over, once, unless it is given up.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.err cimport FM_ENOMEM
from fastmesh._core.base.pool cimport pool_get, pool_init, pool_put
from fastmesh._core.base.sys cimport fm_load_relaxed32, fm_store_relaxed32
from fastmesh._core.base.timer cimport timer_del, timer_set
from fastmesh._core.net.conn cimport Conn, conn_close, conn_close_flushed, conn_deadline
from fastmesh._core.policy.health cimport (
    HV_DOWN, HV_UP, health_claim, health_count, health_due_ns, health_forget, health_give_back, health_result)
from fastmesh._core.policy.lb cimport rng_next
from fastmesh._core.proto.h2_send cimport h2_goaway
from fastmesh._core.proto.h2_stream cimport H2Stream, h2_stream_any, h2_stream_close, h2_stream_release
from fastmesh._core.proxy.ctx cimport KR_NETWORK, KR_PASS, KS_GONE, HealthCheck, Worker
from fastmesh._core.proxy.h2_io cimport h2_io_end, h2_io_out
from fastmesh._core.proxy.healthcall cimport healthcall_init, healthcall_ops
from fastmesh._core.proxy.pending cimport pending_serve
from fastmesh._core.proxy.upstream cimport upstream_connect
from fastmesh._core.shm.cells cimport HE_UNHEALTHY, EpCell
from fastmesh._core.shm.layout cimport CL_CELLS
from fastmesh._core.shm.snapshot cimport EP_TLS, HK_NONE, SnapCluster, SnapEndpoint, snap_at, snap_cluster
from fastmesh._core.shm.stats cimport (
    ST_HC_ATTEMPT, ST_HC_DEFERRED, ST_HC_FAILURE, ST_HC_HEALTHY, ST_HC_NETWORK, ST_HC_SUCCESS, ST_HC_UNHEALTHY, stat_inc)

cdef enum:
    MS = 1000000                 # ns
    LOOK_LEAST_MS = 10           # between two looks at what is due: what one look costs with thousands of endpoints stays below a percent
    LOOK_MOST_MS = 250           # ... so that what other workers have found out is acted upon here


cdef void healthcheck_init(Worker *w) noexcept nogil:
    healthcall_init()
    pool_init(&w.checks, sizeof(HealthCheck), HEALTH_CHECKS)
    w.check_timer.fn = look
    w.check_timer.arg = w


cdef void healthcheck_reap(Worker *w) noexcept nogil:
    # one whose task is still queued waits for it: the task list holds its address
    cdef HealthCheck *h = w.dead_check
    cdef HealthCheck *nxt
    w.dead_check = NULL
    while h != NULL:
        nxt = h.next_dead
        if h.io.task.queued:
            h.next_dead = w.dead_check
            w.dead_check = h
        else:
            pool_put(&w.checks, h)
        h = nxt


# ---- what is due -----------------------------------------------------------------------------------------------------------------------

cdef inline const SnapCluster *clusters_of(const Worker *w) noexcept nogil:
    return <const SnapCluster *>snap_at(&w.snap, w.snap.h.clusters.off)


cdef inline const SnapEndpoint *endpoints_of(const Worker *w, const SnapCluster *c) noexcept nogil:
    return <const SnapEndpoint *>snap_at(&w.snap, c.endpoints.off)


cdef inline uint64_t policy_of(const SnapCluster *c, const SnapEndpoint *ep) noexcept nogil:
    """As in proxy/upstream: of one cluster's endpoints some may speak TLS and others not."""
    return c.tls_policy if ep.flags & EP_TLS else 0


cdef bint begin(Worker *w, const SnapCluster *c, const SnapEndpoint *ep) noexcept nogil:
    """False: there is no room for one more."""
    cdef EpCell *e = &w.seg.cells[ep.cell]
    cdef HealthCheck *h
    cdef uint64_t claim
    cdef int code = 0
    h = <HealthCheck *>pool_get(&w.checks)
    if h == NULL:
        return False
    claim = health_claim(e, &c.health, w.r.now_ns)
    if claim == 0:
        pool_put(&w.checks, h)   # another worker makes it
        return True
    h.io.w = w
    h.cluster = c.id
    h.tag = ep.tag
    h.cell = ep.cell
    h.claim = claim
    h.kind = c.health.kind
    h.tls_policy = policy_of(c, ep)
    h.io.conn = upstream_connect(w, c, ep, c.health.port, healthcall_ops(), h, &code)
    if h.io.conn == NULL and code == FM_ENOMEM:
        pool_put(&w.checks, h)   # it is here that there is too little: the claim runs out, and somebody tries again
        return True
    stat_inc(w.seg.stats, ST_HC_ATTEMPT)
    h.next = w.checking
    if h.next != NULL:
        h.next.prev = h
    w.checking = h
    if h.io.conn == NULL:
        healthcheck_over(h, KR_NETWORK)
    else:
        conn_deadline(h.io.conn, w.r.now_ms + c.health.timeout_ms)
    return True


cdef bint look_at(Worker *w, const SnapCluster *c, const SnapEndpoint *ep, uint64_t *soon) noexcept nogil:
    """False: it is due, and there is no room."""
    cdef EpCell *e = &w.seg.cells[ep.cell]
    cdef uint64_t at = health_due_ns(e, &c.health, w.r.now_ns)
    if fm_load_relaxed32(&e.health) == HE_UNHEALTHY and w.pools[ep.cell].waiting != NULL:
        pending_serve(w, &w.pools[ep.cell])  # who waits for a connection of this one chooses again
    if at <= w.r.now_ns:
        if not begin(w, c, ep):
            return False
        at = health_due_ns(e, &c.health, w.r.now_ns)
    if at < soon[0]:
        soon[0] = at
    return True


cdef void look_next(Worker *w, uint64_t when_ns) noexcept nogil:
    cdef uint64_t ms = when_ns // MS + 1
    w.check_ms = ms if ms > w.r.now_ms + LOOK_LEAST_MS else w.r.now_ms + LOOK_LEAST_MS
    timer_set(&w.r.wheel, &w.check_timer, w.check_ms)


cdef void look(void *arg, uint64_t now_ms) noexcept nogil:
    cdef Worker *w = <Worker *>arg
    cdef const SnapCluster *c
    cdef const SnapEndpoint *ep
    cdef uint64_t soon = w.r.now_ns + LOOK_MOST_MS * MS
    cdef uint32_t first = w.check_from
    cdef uint32_t i, k, nth
    cdef bint again
    if w.draining or w.snap.h == NULL or w.nchecked == 0:
        return
    w.check_from = 0
    for again in range(2):       # from where there was no room the last time to the end, then from the beginning
        nth = 0
        for i in range(w.nchecked):
            c = clusters_of(w) + w.checked[i]
            ep = endpoints_of(w, c)
            if not again:
                health_count(&w.seg, &w.snap, c)
            for k in range(c.endpoints.n):
                if (nth < first) == again and w.check_from == 0 and not look_at(w, c, ep + k, &soon):
                    w.check_from = nth + 1
                nth += 1
        if first == 0:
            break
    if w.check_from:
        w.check_from -= 1
        soon = 0
        stat_inc(w.seg.stats, ST_HC_DEFERRED)
    look_next(w, soon)


cdef bint still(const Worker *w, const HealthCheck *h) noexcept nogil:
    """The config in use asks for it."""
    cdef const SnapCluster *c = snap_cluster(&w.snap, h.cluster)
    cdef const SnapEndpoint *ep
    cdef uint32_t i
    if c == NULL or c.health.kind != h.kind:
        return False
    ep = endpoints_of(w, c)
    for i in range(c.endpoints.n):
        if ep[i].cell == h.cell and ep[i].tag == h.tag:
            return h.tls_policy == policy_of(c, &ep[i])
    return False


cdef void healthcheck_config(Worker *w) noexcept nogil:
    cdef const SnapCluster *c = clusters_of(w)
    cdef const SnapEndpoint *ep
    cdef HealthCheck *h = w.checking
    cdef HealthCheck *nxt
    cdef uint32_t i, k
    while h != NULL:
        nxt = h.next
        if not still(w, h):
            healthcheck_give_up(h)
        h = nxt
    w.nchecked = 0
    w.check_from = 0
    for i in range(w.snap.h.clusters.n if w.snap.h.clusters.n < CL_CELLS else CL_CELLS):
        if c[i].health.kind != HK_NONE:
            w.checked[w.nchecked] = i
            w.nchecked += 1
            continue
        ep = endpoints_of(w, &c[i])
        for k in range(c[i].endpoints.n):
            health_forget(&w.seg.cells[ep[k].cell])
        if fm_load_relaxed32(&w.seg.cluster_cells[c[i].cell].unhealthy):
            fm_store_relaxed32(&w.seg.cluster_cells[c[i].cell].unhealthy, 0)
    if w.nchecked and not w.draining:
        look_next(w, w.r.now_ns)


cdef void healthcheck_stop(Worker *w) noexcept nogil:
    timer_del(&w.r.wheel, &w.check_timer)
    while w.checking != NULL:
        healthcheck_give_up(w.checking)


# ---- how one ends ----------------------------------------------------------------------------------------------------------------------

cdef void let_go(HealthCheck *h, bint flush) noexcept nogil:
    """The connection ends, and the check is nobody's."""
    cdef Worker *w = h.io.w
    cdef Conn *c = h.io.conn
    cdef H2Stream *st
    h.state = KS_GONE
    if h.prev != NULL:
        h.prev.next = h.next
    else:
        w.checking = h.next
    if h.next != NULL:
        h.next.prev = h.prev
    h.next_dead = w.dead_check
    w.dead_check = h
    if c == NULL:
        return
    if not h.h2:
        h.io.conn = NULL
        conn_close(c)
        return
    st = h2_stream_any(&h.io.h)
    while st != NULL:
        st.owner = NULL
        h2_stream_close(st)
        h2_stream_release(st)
        st = h2_stream_any(&h.io.h)
    if flush:
        h2_goaway(&h.io.h, True)
        h2_io_out(&h.io)
    h2_io_end(&h.io)
    if flush:
        conn_close_flushed(c, False)
    else:
        conn_close(c)


cdef void healthcheck_give_up(HealthCheck *h) noexcept nogil:
    """Without a result: another worker may make it at once."""
    health_give_back(&h.io.w.seg.cells[h.cell], h.claim, h.io.w.r.now_ns)
    let_go(h, False)


cdef void healthcheck_over(HealthCheck *h, int result) noexcept nogil:
    """It counts."""
    cdef Worker *w = h.io.w
    cdef const SnapCluster *c
    cdef uint64_t next_ns
    cdef int verdict
    if h.state == KS_GONE:
        return
    let_go(h, result != KR_NETWORK)
    c = snap_cluster(&w.snap, h.cluster)
    if c == NULL or c.health.kind == HK_NONE:
        return                   # cannot be: healthcheck_config gave it up
    stat_inc(w.seg.stats, ST_HC_SUCCESS if result == KR_PASS else ST_HC_FAILURE)
    if result == KR_NETWORK:
        stat_inc(w.seg.stats, ST_HC_NETWORK)
    verdict = health_result(&w.seg.cells[h.cell], &c.health, h.claim, result == KR_PASS, w.r.now_ns, <uint32_t>(rng_next(&w.rng) >> 32))
    next_ns = health_due_ns(&w.seg.cells[h.cell], &c.health, w.r.now_ns)
    if next_ns // MS < w.check_ms and not w.draining:
        look_next(w, next_ns)
    if verdict == HV_UP or verdict == HV_DOWN:
        stat_inc(w.seg.stats, ST_HC_HEALTHY if verdict == HV_UP else ST_HC_UNHEALTHY)
        health_count(&w.seg, &w.snap, c)
        if verdict == HV_DOWN:
            pending_serve(w, &w.pools[h.cell])


