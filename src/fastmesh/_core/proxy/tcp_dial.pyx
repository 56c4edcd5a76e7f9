"""Where a TCP session goes (L3). See tcp_dial.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from fastmesh._core.base.err cimport FM_ENOROUTE, FM_OK
from fastmesh._core.base.timer cimport timer_set
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport Conn
from fastmesh._core.net.sock cimport Addr, sock_local
from fastmesh._core.policy.authz cimport AuthzVerdict
from fastmesh._core.policy.lb cimport LbView, lb_pick, rng_next
from fastmesh._core.policy.lb_ewma cimport EWMA_PENALTY_NS, ewma_observe
from fastmesh._core.policy.outlier cimport OUT_LOCAL, OUT_OK, outlier_observe, outlier_release
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.policy.router_tcp cimport router_tcp
from fastmesh._core.proxy.access cimport access_session
from fastmesh._core.proxy.ctx cimport TF_DENIED, TF_PROBE, ListenerState, Tcp, Worker
from fastmesh._core.proxy.hashkey cimport source_hash
from fastmesh._core.proxy.respond cimport RE_OVERFLOW, RE_OVERLOAD
from fastmesh._core.proxy.tcp_log cimport tcp_log_keep
from fastmesh._core.proxy.upstream cimport upstream_called, upstream_dial, upstream_here, upstream_uncount
from fastmesh._core.shm.snapshot cimport (
    CL_ORIGINAL_DST, HASH_SOURCE, LF_CAPTURED, L_OUTBOUND, SNAP_NONE, SnapCluster, SnapEndpoint, snap_at, snap_cluster, snap_str)
from fastmesh._core.shm.stats cimport (
    RF_NC, RF_NR, RF_OM, RF_UF, RF_UH, RF_UO, ST_POOL_FULL, ST_RBAC_DENIED, ST_TCP_CONNECT_AGAIN, ST_TCP_CONNECT_FAIL, ST_TCP_NO_HEALTHY,
    ST_TCP_NO_ROUTE, ST_TCP_OVERFLOW, stat_inc)


cdef bint because(TcpWhy *why, uint32_t rf, int counter, const char *details) noexcept nogil:
    why.rf = rf
    why.counter = counter
    why.details = details
    return False


# ---- the route -------------------------------------------------------------------------------------------------------------------

cdef void called_of(const Tcp *t, Addr *to) noexcept nogil:
    if t.conn.called.family:
        to[0] = t.conn.called
    else:
        sock_local(t.conn.src.fd, to)


cdef uint32_t table_of(const Tcp *t) noexcept nogil:
    # of what is redirected, `table` is for HTTP, or for the application's own port
    cdef const ListenerState *l = t.listener
    if l.flags & LF_CAPTURED and t.conn.called.family and (l.kind == L_OUTBOUND or t.conn.called.port != l.app_port):
        return l.tcp_table
    return l.table


cdef int tcp_match(Tcp *t, Slice name, RouteMatch *rm) noexcept nogil:
    cdef Worker *w = t.w
    cdef uint32_t table = table_of(t)
    cdef Addr to
    if w.snap.h == NULL or table == SNAP_NONE:
        return FM_ENOROUTE
    called_of(t, &to)
    return router_tcp(&w.snap, table, name, to.family, to.a, to.port, <uint32_t>(rng_next(&w.rng) >> 32), rm)


cdef bint tcp_route(Tcp *t, Slice name, TcpWhy *why) noexcept nogil:
    cdef Worker *w = t.w
    cdef RouteMatch rm
    cdef const SnapCluster *c
    cdef Slice none = slice_of(NULL, 0)
    cdef AuthzVerdict verdict
    cdef Addr to
    if t.listener.authz != SNAP_NONE:
        called_of(t, &to)
        if not access_session(t, &to, &verdict):
            t.flags |= TF_DENIED
            tcp_log_keep(t, name, none, verdict.rule)
            return because(why, 0, ST_RBAC_DENIED, b"rbac_access_denied_matched_policy")
    if tcp_match(t, name, &rm) != FM_OK:
        tcp_log_keep(t, name, none, none)
        return because(why, RF_NR, ST_TCP_NO_ROUTE, b"route_not_found")
    if rm.dest.cluster == SNAP_NONE:
        tcp_log_keep(t, name, none, snap_str(&w.snap, rm.route.name))
        return because(why, RF_NC, ST_TCP_NO_ROUTE, b"cluster_not_found")
    c = <const SnapCluster *>snap_at(&w.snap, w.snap.h.clusters.off) + rm.dest.cluster
    t.cluster = c.id
    t.idle_ms = c.idle_timeout_ms
    tcp_log_keep(t, name, snap_str(&w.snap, c.name), snap_str(&w.snap, rm.route.name))
    if c.max_age_ms:
        timer_set(&w.r.wheel, &t.age, w.r.now_ms + c.max_age_ms)
    return True


# ---- the endpoint ----------------------------------------------------------------------------------------------------------------

cdef void view(Tcp *t, const SnapCluster *c, LbView *v, bint *probe) noexcept nogil:
    memset(v, 0, sizeof(LbView))
    v.cells = t.w.seg.cells
    v.clusters = t.w.seg.cluster_cells
    v.rows = t.w.seg.rows
    v.workers = t.w.seg.workers
    v.self_row = t.w.seg.self_row
    v.now_ns = t.w.r.now_ns
    v.rr = t.w.rr
    v.dice = t.w.dice
    v.shares = t.w.shares
    v.probe = probe
    v.tried = &t.last_cell
    v.ntried = t.last_cell != SNAP_NONE
    if c.hash_on == HASH_SOURCE and t.peer_addr.family:  # nothing else that is hashed has a session
        v.key = source_hash(&t.peer_addr, False)
        v.keyed = True


cdef bint tcp_dial(Tcp *t, TcpWhy *why) noexcept nogil:
    cdef Worker *w = t.w
    cdef const SnapCluster *c
    cdef const SnapEndpoint *ep
    cdef SnapEndpoint there
    cdef LbView v
    cdef bint probe
    cdef int code
    while True:
        c = snap_cluster(&w.snap, t.cluster) if w.snap.h != NULL else NULL
        if c == NULL:
            return because(why, RF_NC, ST_TCP_NO_ROUTE, b"cluster_not_found")
        probe = False
        # who calls an instance by its address means that one
        ep = upstream_called(&w.snap, c, &t.conn.called) if t.conn.called.family else NULL
        if ep == NULL:
            view(t, c, &v, &probe)
            ep = lb_pick(&w.snap, c, &v, &w.rng)
        if ep != NULL and c.flags & CL_ORIGINAL_DST:
            ep = upstream_here(ep, &t.conn.called, &there)
        if ep == NULL:
            if t.tries:
                return because(why, RF_UF, ST_TCP_CONNECT_FAIL, b"remote_connection_failure")
            return because(why, RF_UH, ST_TCP_NO_HEALTHY, b"no_healthy_upstream")
        t.tries += 1
        t.t_dial = w.r.now_ns
        t.cell = ep.cell
        t.tag = ep.tag
        t.cluster_cell = c.cell
        if probe:
            t.flags |= TF_PROBE
        w.seg.rows[w.seg.self_row].e[ep.cell].active += 1
        memcpy(t.upstream_addr.a, ep.addr, 16)
        t.upstream_addr.family = ep.family
        t.upstream_addr.port = ep.port
        code = FM_OK
        t.up = upstream_dial(w, c, ep, w.tcp_up_ops, t, &code)
        if t.up != NULL:
            return True
        if code == RE_OVERFLOW:
            return because(why, RF_UO, ST_TCP_OVERFLOW, b"max_connections")
        if code == RE_OVERLOAD:
            return because(why, RF_OM, ST_POOL_FULL, b"overload")
        if not another(t, why, b"remote_connection_failure"):
            return False


cdef bint another(Tcp *t, TcpWhy *why, const char *details) noexcept nogil:
    # Another endpoint gets the session, which none has seen yet. At once: the client waits, and it is another one.
    cdef const SnapCluster *c
    tcp_judge(t, OUT_LOCAL, t.w.r.now_ns - t.t_dial)
    c = snap_cluster(&t.w.snap, t.cluster) if t.w.snap.h != NULL else NULL
    if t.tries >= TCP_DIALS or c == NULL or c.endpoints.n < 2 or (t.conn.called.family and upstream_called(&t.w.snap, c, &t.conn.called) != NULL):
        return because(why, RF_UF, ST_TCP_CONNECT_FAIL, details)
    tcp_leave(t)
    stat_inc(t.w.seg.stats, ST_TCP_CONNECT_AGAIN)
    return True


cdef bint tcp_dial_again(Tcp *t, TcpWhy *why, const char *details) noexcept nogil:
    return another(t, why, details) and tcp_dial(t, why)


cdef void tcp_judge(Tcp *t, int kind, uint64_t ns) noexcept nogil:
    cdef Worker *w = t.w
    cdef const SnapCluster *c = snap_cluster(&w.snap, t.cluster) if w.snap.h != NULL else NULL
    w.seg.rows[w.seg.self_row].e[t.cell].requests += 1
    if kind != OUT_OK:
        w.seg.rows[w.seg.self_row].e[t.cell].failures += 1
    if c == NULL:
        return
    outlier_observe(&w.seg, &w.snap, c, t.cell, kind, (t.flags & TF_PROBE) != 0, w.r.now_ns)
    t.flags &= ~<uint32_t>TF_PROBE
    if c.decay_ms:               # the time to connect, as Linkerd's balancer of opaque connections
        ewma_observe(&w.seg.cells[t.cell], w.r.now_ns, c.decay_ms, ns if kind == OUT_OK or ns > EWMA_PENALTY_NS else EWMA_PENALTY_NS)


cdef void tcp_leave(Tcp *t) noexcept nogil:
    cdef Worker *w = t.w
    if t.cell == SNAP_NONE:
        return
    if t.flags & TF_PROBE:
        t.flags &= ~<uint32_t>TF_PROBE
        outlier_release(&w.seg, t.cell, w.r.now_ns)
    if t.up != NULL:
        t.up = NULL
        upstream_uncount(w, t.cell, t.tag, t.cluster_cell)
    w.seg.rows[w.seg.self_row].e[t.cell].active -= 1
    t.last_cell = t.cell
    t.cell = SNAP_NONE
