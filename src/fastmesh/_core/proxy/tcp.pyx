"""TCP sessions (L3). See tcp.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from fastmesh._core.base.buf cimport block_data, block_len
from fastmesh._core.base.err cimport FM_AGAIN, FM_EHEAD, FM_ENOROUTE, FM_EOF, FM_ERESET, FM_OK
from fastmesh._core.base.pool cimport pool_get, pool_put
from fastmesh._core.base.sys cimport close
from fastmesh._core.base.timer cimport timer_del, timer_set
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport (
    CF_FIN, CF_HUP, CF_READABLE, CONN_HANDSHAKE, CONN_OPEN, CONN_READ_MIN, CONN_READS_AT_ONCE, CONN_SNIFF, Conn, ConnOps, conn_abort, conn_accept,
    conn_close, conn_deadline, conn_end_output, conn_keep, conn_kept_used, conn_read, conn_read_more, conn_wake)
from fastmesh._core.net.conn cimport CF_BLOCKED
from fastmesh._core.net.out cimport conn_flush, conn_put
from fastmesh._core.net.reactor cimport SCRATCH_BYTES
from fastmesh._core.net.sock cimport Addr, sock_error, sock_local
from fastmesh._core.net.splice cimport Pipe, pipe_give, pipe_take, splice_in, splice_out
from fastmesh._core.net.tls cimport tls_resumed
from fastmesh._core.policy.authz cimport AuthzVerdict
from fastmesh._core.policy.lb cimport LbView, lb_pick, rng_next
from fastmesh._core.policy.lb_ewma cimport EWMA_PENALTY_NS, ewma_observe
from fastmesh._core.policy.outlier cimport OUT_LOCAL, OUT_OK, outlier_observe, outlier_release
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.policy.router_tcp cimport router_tcp
from fastmesh._core.proto.tls_hello cimport HELLO_MOST, HELLO_WIRE_MOST, TlsHello, tls_hello
from fastmesh._core.proxy.access cimport access_session
from fastmesh._core.proxy.ctx cimport (
    DOWN_TCP, TF_DENIED, TF_DOWN_EOF, TF_PROBE, TF_UP_EOF, TS_CONNECT, TS_GONE, TS_HELLO, TS_OPEN, Down, ListenerState, Tcp, Worker)
from fastmesh._core.proxy.down cimport down_begin, down_end, down_secured, down_unsecured
from fastmesh._core.proxy.hashkey cimport source_hash
from fastmesh._core.proxy.overload cimport overload_sheds
from fastmesh._core.proxy.relay cimport relay_full
from fastmesh._core.proxy.respond cimport RE_OVERFLOW, RE_OVERLOAD
from fastmesh._core.proxy.tcp_log cimport tcp_log_keep, tcp_log_moved, tcp_log_opened, tcp_log_over, tcp_log_tell
from fastmesh._core.proxy.upstream cimport upstream_dial, upstream_dial_failed, upstream_uncount
from fastmesh._core.shm.snapshot cimport (
    HASH_SOURCE, LF_SNI, L_GATEWAY, L_INBOUND, SNAP_NONE, TLS_DISABLE, TLS_STRICT, SnapCluster, SnapEndpoint, snap_at, snap_cluster, snap_str)
from fastmesh._core.shm.stats cimport (
    ST_RBAC_DENIED, DIR_GATEWAY, DIR_INBOUND, DIR_OUTBOUND, RF_DC, RF_DPE, RF_DT, RF_NC, RF_NR, RF_OM, RF_SI, RF_UC, RF_UF, RF_UH, RF_UO, ST_CX_CLOSED,
    ST_CX_OVERFLOW, ST_CX_TOTAL, ST_PAUSES, ST_POOL_FULL, ST_TCP_AGE, ST_TCP_CONNECT_AGAIN, ST_TCP_CONNECT_FAIL, ST_TCP_DOWN_RESET, ST_TCP_HELLO_BAD,
    ST_TCP_HELLO_LATE, ST_TCP_IDLE, ST_TCP_NO_HEALTHY, ST_TCP_NO_ROUTE, ST_TCP_OVERFLOW, ST_TCP_OVERLOAD, ST_TCP_SPLICED, ST_TCP_TOTAL, ST_TCP_UP_RESET,
    ST_TLS_ACCEPT_FAIL, ST_TLS_CONNECT, ST_TLS_CONNECT_RESUMED, ST_UP_CX_TIMEOUT, stat_add, stat_inc)

cdef ConnOps DOWN_OPS
cdef ConnOps UP_OPS


cdef void tcp_init(Worker *w) noexcept nogil:
    DOWN_OPS.ready = down_ready
    DOWN_OPS.readable = down_readable
    DOWN_OPS.drained = down_drained
    DOWN_OPS.failed = down_failed
    DOWN_OPS.expired = down_expired
    UP_OPS.ready = up_ready
    UP_OPS.readable = up_readable
    UP_OPS.drained = up_drained
    UP_OPS.failed = up_failed
    UP_OPS.expired = up_expired
    w.tcp_down_ops = &DOWN_OPS
    w.tcp_up_ops = &UP_OPS


# ---- begin and end ---------------------------------------------------------------------------------------------------------------

cdef void tcp_accept(Worker *w, ListenerState *l, int fd, const Addr *peer) noexcept nogil:
    cdef Tcp *t
    stat_inc(w.seg.stats, ST_CX_TOTAL)
    t = <Tcp *>pool_get(&w.tcps)
    if t == NULL:
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        close(fd)
        return
    t.conn = conn_accept(&w.r, fd, peer, l.tls, l.ntls if l.tls_mode != TLS_DISABLE else 0, l.tls_mode == TLS_STRICT, w.tcp_down_ops, t)
    if t.conn == NULL:
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        pool_put(&w.tcps, t)
        return
    down_begin(<Down *>t, w, l, DOWN_TCP)
    stat_inc(w.seg.stats, ST_TCP_TOTAL)
    t.direction = DIR_GATEWAY if l.kind == L_GATEWAY else (DIR_INBOUND if l.kind == L_INBOUND else DIR_OUTBOUND)
    t.cell = SNAP_NONE
    t.last_cell = SNAP_NONE
    t.t_start = w.r.now_ns
    t.moved_ms = w.r.now_ms
    t.peer_addr = peer[0]
    t.age.fn = on_age
    t.age.arg = t
    t.tell.fn = on_tell
    t.tell.arg = t
    if overload_sheds(w):
        refuse(t, RF_OM, ST_TCP_OVERLOAD, b"overload")
    elif t.conn.state == CONN_OPEN and not l.flags & LF_SNI:
        route(t, slice_of(NULL, 0))  # at once: it may be the upstream that speaks first
    else:
        conn_deadline(t.conn, w.r.now_ms + w.opt.handshake_timeout_ms)


cdef void leave(Tcp *t) noexcept nogil:
    # the upstream connection, whose Conn the caller closes, and the endpoint
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


cdef void finish(Tcp *t, bint orderly) noexcept nogil:
    cdef Worker *w = t.w
    cdef Conn *down = t.conn
    cdef Conn *up = t.up
    if t.state == TS_GONE:
        return
    t.state = TS_GONE
    timer_del(&w.r.wheel, &t.age)
    timer_del(&w.r.wheel, &t.tell)
    tcp_log_over(t)
    leave(t)
    pipe_give(&w.pipes, t.pipes[0])
    pipe_give(&w.pipes, t.pipes[1])
    t.pipes[0] = NULL
    t.pipes[1] = NULL
    stat_inc(w.seg.stats, ST_CX_CLOSED)
    down_end(<Down *>t)
    if orderly:
        conn_close(down)
    else:
        conn_abort(down)
    if up != NULL:
        if orderly:
            conn_close(up)
        else:
            conn_abort(up)


cdef void broken(Tcp *t, uint32_t rf, int counter, const char *details) noexcept nogil:
    if t.state == TS_GONE:
        return
    t.rf |= rf
    t.details = details
    stat_inc(t.w.seg.stats, counter)
    finish(t, False)


cdef void refuse(Tcp *t, uint32_t rf, int counter, const char *details) noexcept nogil:
    # it never had an upstream
    broken(t, rf, counter, details)


cdef void tcp_cut(Tcp *t) noexcept nogil:
    t.details = b"proxy_stopped"
    finish(t, False)


cdef void on_age(void *arg, uint64_t now_ms) noexcept nogil:
    broken(<Tcp *>arg, RF_DT, ST_TCP_AGE, b"max_connection_duration")


cdef void on_tell(void *arg, uint64_t now_ms) noexcept nogil:
    tcp_log_tell(<Tcp *>arg)


# ---- route and dial --------------------------------------------------------------------------------------------------------------

cdef void route(Tcp *t, Slice name) noexcept nogil:
    cdef Worker *w = t.w
    cdef RouteMatch rm
    cdef const SnapCluster *c
    cdef Addr called
    cdef int rc = FM_ENOROUTE
    cdef AuthzVerdict verdict
    conn_deadline(t.conn, 0)
    sock_local(t.conn.src.fd, &called)
    if t.listener.authz != SNAP_NONE and not access_session(t, &called, &verdict):
        t.flags |= TF_DENIED
        tcp_log_keep(t, name, slice_of(NULL, 0), verdict.rule)
        refuse(t, 0, ST_RBAC_DENIED, b"rbac_access_denied_matched_policy")
        return
    if w.snap.h != NULL and t.listener.table != SNAP_NONE:
        rc = router_tcp(&w.snap, t.listener.table, name, called.family, called.a, <uint32_t>(rng_next(&w.rng) >> 32), &rm)
    if rc != FM_OK:
        tcp_log_keep(t, name, slice_of(NULL, 0), slice_of(NULL, 0))
        refuse(t, RF_NR, ST_TCP_NO_ROUTE, b"route_not_found")
        return
    if rm.dest.cluster == SNAP_NONE:
        tcp_log_keep(t, name, slice_of(NULL, 0), snap_str(&w.snap, rm.route.name))
        refuse(t, RF_NC, ST_TCP_NO_ROUTE, b"cluster_not_found")
        return
    c = <const SnapCluster *>snap_at(&w.snap, w.snap.h.clusters.off) + rm.dest.cluster
    t.cluster = c.id
    t.idle_ms = c.idle_timeout_ms
    tcp_log_keep(t, name, snap_str(&w.snap, c.name), snap_str(&w.snap, rm.route.name))
    if c.max_age_ms:
        timer_set(&w.r.wheel, &t.age, w.r.now_ms + c.max_age_ms)
    dial(t)


cdef void dial(Tcp *t) noexcept nogil:
    cdef Worker *w = t.w
    cdef const SnapCluster *c = snap_cluster(&w.snap, t.cluster) if w.snap.h != NULL else NULL
    cdef const SnapEndpoint *ep
    cdef LbView v
    cdef bint probe = False
    cdef int code = FM_OK
    if c == NULL:
        refuse(t, RF_NC, ST_TCP_NO_ROUTE, b"cluster_not_found")
        return
    view(t, c, &v, &probe)
    ep = lb_pick(&w.snap, c, &v, &w.rng)
    if ep == NULL:
        if t.tries:
            refuse(t, RF_UF, ST_TCP_CONNECT_FAIL, b"remote_connection_failure")
        else:
            refuse(t, RF_UH, ST_TCP_NO_HEALTHY, b"no_healthy_upstream")
        return
    t.state = TS_CONNECT
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
    t.up = upstream_dial(w, c, ep, w.tcp_up_ops, t, &code)
    if t.up != NULL:
        return
    if code == RE_OVERFLOW:
        refuse(t, RF_UO, ST_TCP_OVERFLOW, b"max_connections")
    elif code == RE_OVERLOAD:
        refuse(t, RF_OM, ST_POOL_FULL, b"overload")
    else:
        undialled(t, b"remote_connection_failure")


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


cdef void judge(Tcp *t, int kind, uint64_t ns) noexcept nogil:
    # what the dial has shown of the endpoint; of what comes later, nobody knows whose fault it is
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


cdef void undialled(Tcp *t, const char *details) noexcept nogil:
    # Another endpoint gets the session, which none has seen yet. At once: the client waits, and it is another one.
    cdef Conn *up = t.up
    judge(t, OUT_LOCAL, t.w.r.now_ns - t.t_dial)
    if t.tries >= TCP_DIALS or alone(t):
        broken(t, RF_UF, ST_TCP_CONNECT_FAIL, details)
        return
    leave(t)
    if up != NULL:
        conn_close(up)
    stat_inc(t.w.seg.stats, ST_TCP_CONNECT_AGAIN)
    dial(t)


cdef bint alone(const Tcp *t) noexcept nogil:
    cdef const SnapCluster *c = snap_cluster(&t.w.snap, t.cluster) if t.w.snap.h != NULL else NULL
    return c == NULL or c.endpoints.n < 2


# ---- the upstream's events -------------------------------------------------------------------------------------------------------

cdef void up_ready(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    cdef Worker *w = t.w
    conn_deadline(c, 0)
    if c.tls != NULL:
        stat_inc(w.seg.stats, ST_TLS_CONNECT)
        if tls_resumed(c.tls):
            stat_inc(w.seg.stats, ST_TLS_CONNECT_RESUMED)
    judge(t, OUT_OK, w.r.now_ns - t.t_dial)
    t.state = TS_OPEN
    tcp_log_opened(t)
    moved(t)
    down_readable(t.conn)        # what the client has said so far
    if t.state != TS_GONE:
        up_readable(c)


cdef void up_readable(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if t.state == TS_OPEN and not t.flags & TF_UP_EOF:
        pump(t, c, t.conn, False)


cdef void up_drained(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    moved(t)
    if settled(t):
        return
    down_readable(t.conn)


cdef void up_failed(Conn *c, int code) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if t.state == TS_CONNECT:
        upstream_dial_failed(t.w, c, code)
        undialled(t, b"remote_connection_failure|TLS_error" if c.tls_failure else b"remote_connection_failure")
        return
    broken(t, RF_UC, ST_TCP_UP_RESET, b"upstream_remote_reset")


cdef void up_expired(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if t.state == TS_CONNECT:
        stat_inc(t.w.seg.stats, ST_UP_CX_TIMEOUT)
        undialled(t, b"connection_timeout")


# ---- the client's events ---------------------------------------------------------------------------------------------------------

cdef void down_ready(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    down_secured(<Down *>t)
    route(t, slice_of(NULL, 0))


cdef void down_readable(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if t.state == TS_HELLO:
        hello(t)
    elif t.state == TS_OPEN and not t.flags & TF_DOWN_EOF:
        pump(t, c, t.up, True)
    elif t.state == TS_CONNECT and c.flags & CF_HUP and sock_error(c.src.fd) != 0:
        broken(t, RF_DC, ST_TCP_DOWN_RESET, b"downstream_remote_reset")


cdef void down_drained(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    moved(t)
    if not settled(t) and t.up != NULL:
        up_readable(t.up)


cdef void down_failed(Conn *c, int code) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if c.state == CONN_HANDSHAKE or c.state == CONN_SNIFF:
        down_unsecured(c, t.w, code)
        t.details = b"downstream_tls_error"
        t.rf |= RF_DPE
        finish(t, True)          # a reset would take the alert with it
        return
    broken(t, RF_DC, ST_TCP_DOWN_RESET, b"downstream_remote_reset")


cdef void down_expired(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    cdef uint64_t last
    if t.state == TS_HELLO:
        if c.state == CONN_HANDSHAKE or c.state == CONN_SNIFF:
            stat_inc(t.w.seg.stats, ST_TLS_ACCEPT_FAIL)
        broken(t, RF_DT, ST_TCP_HELLO_LATE, b"handshake_timeout")
        return
    if t.state != TS_OPEN:
        return
    # a side that takes what is queued for it is not idle
    last = t.moved_ms
    if c.wrote_ms > last:
        last = c.wrote_ms
    if t.up != NULL and t.up.wrote_ms > last:
        last = t.up.wrote_ms
    if t.w.r.now_ms >= last + span(t):
        broken(t, RF_SI, ST_TCP_IDLE, b"idle_timeout")
    else:
        conn_deadline(c, last + span(t))


cdef void hello(Tcp *t) noexcept nogil:
    # which name does its TLS ask for? The bytes are kept, and go on as they are.
    cdef Conn *c = t.conn
    cdef char whole[HELLO_MOST]
    cdef TlsHello h
    cdef int rc = FM_AGAIN
    cdef uint32_t n
    while rc == FM_AGAIN:
        if not c.flags & CF_READABLE:
            return
        if c.inb == NULL:
            rc = conn_read(c, c.src.r.scratch, CONN_READ_MIN)
            if rc > 0 and conn_keep(c, c.src.r.scratch, <uint32_t>rc) != FM_OK:
                refuse(t, RF_OM, ST_TCP_OVERLOAD, b"overload")
                return
        else:
            rc = conn_read_more(c, HELLO_WIRE_MOST)
        if rc == FM_AGAIN:
            return
        if rc < 0 and rc != FM_EHEAD:
            broken(t, RF_DC, ST_TCP_HELLO_BAD, b"downstream_left_before_client_hello")
            return
        n = block_len(c.inb)
        rc = tls_hello(block_data(c.inb) + c.inb.start, n, whole, &h) if rc > 0 else rc
    if rc != FM_OK:
        refuse(t, RF_DPE, ST_TCP_HELLO_BAD, b"client_hello_too_large" if rc == FM_EHEAD else b"no_client_hello")
        return
    route(t, h.name)


# ---- bytes -----------------------------------------------------------------------------------------------------------------------

cdef inline uint64_t span(const Tcp *t) noexcept nogil:
    if t.flags & TF_DOWN_EOF and t.flags & TF_UP_EOF and (t.idle_ms == 0 or t.idle_ms > TCP_LAST_MS):
        return TCP_LAST_MS
    return t.idle_ms


cdef inline void moved(Tcp *t) noexcept nogil:
    t.moved_ms = t.w.r.now_ms
    if span(t):
        conn_deadline(t.conn, t.moved_ms + span(t))


cdef inline void count(Tcp *t, bint up, uint32_t n) noexcept nogil:
    if up:
        t.rx_bytes += n
    else:
        t.tx_bytes += n


cdef bint settled(Tcp *t) noexcept nogil:
    # True: both sides have said all, and it has reached the other one's socket
    cdef Conn *up = t.up
    if t.state != TS_OPEN or not t.flags & TF_DOWN_EOF or not t.flags & TF_UP_EOF:
        return t.state == TS_GONE
    if t.conn.out_n or t.conn.flags & CF_FIN or up.out_n or up.flags & CF_FIN:
        return False
    finish(t, True)
    return True


cdef enum:
    SPLICE_FROM = 131072         # a read that large, filled, and what follows it goes through a pipe
    BULK_NOT = 1


cdef int bulk(Tcp *t, Conn *from_, Conn *to, bint up, uint32_t *left) noexcept nogil:
    # By splice. BULK_NOT: as small amounts go. FM_AGAIN: as much as there was, or as `to` takes. FM_EOF. FM_ERESET: the session is over.
    cdef Worker *w = t.w
    cdef Pipe *p = t.pipes[up]
    cdef uint64_t total = 0
    cdef int rc = FM_AGAIN
    if p == NULL:
        if from_.tls != NULL or to.tls != NULL or from_.inb != NULL:
            return BULK_NOT
        p = pipe_take(&w.pipes)
        if p == NULL:
            return BULK_NOT
        t.pipes[up] = p
    while True:
        if p.held:
            rc = splice_out(to, p)
            if rc == FM_AGAIN:
                if not to.flags & CF_BLOCKED:
                    to.flags |= CF_BLOCKED
                    stat_inc(w.seg.stats, ST_PAUSES)
                break
            if rc < 0:
                lost(t, not up)
                return FM_ERESET
            continue
        if relay_full(w, to):
            rc = FM_AGAIN
            break
        if left[0] == 0:
            conn_wake(from_)     # the others first
            rc = FM_AGAIN
            break
        left[0] -= 1
        rc = splice_in(from_, p) if from_.flags & CF_READABLE else FM_AGAIN
        if rc <= 0:
            break
        total += <uint64_t>rc
        count(t, up, <uint32_t>rc)
    stat_add(w.seg.stats, ST_TCP_SPLICED, total)
    if rc != FM_AGAIN and rc != FM_EOF:
        lost(t, up)
        return FM_ERESET
    if p.held == 0:
        pipe_give(&w.pipes, p)
        t.pipes[up] = NULL
        if total < CONN_READ_MIN and left[0]:
            from_.read_size = CONN_READ_MIN
    return rc


cdef void pump(Tcp *t, Conn *from_, Conn *to, bint up) noexcept nogil:
    # from_ -> to; up: from the client
    cdef Worker *w = t.w
    cdef uint32_t left = CONN_READS_AT_ONCE
    cdef uint32_t size, n
    cdef int rc
    cdef bint any_ = False
    while t.state == TS_OPEN:
        rc = BULK_NOT
        if t.pipes[up] != NULL or from_.read_size >= SPLICE_FROM:
            rc = bulk(t, from_, to, up, &left)
            if rc == FM_ERESET:
                return
            any_ = True
        if rc == BULK_NOT:
            if relay_full(w, to):
                rc = FM_AGAIN
            elif left == 0:
                conn_wake(from_)  # the others first
                break
            elif from_.inb != NULL:
                n = block_len(from_.inb)
                conn_put(to, block_data(from_.inb) + from_.inb.start, n)
                conn_flush(to)
                conn_kept_used(from_, n)
                count(t, up, n)
                any_ = True
                continue
            elif not from_.flags & CF_READABLE:
                break
            else:
                left -= 1
                size = from_.read_size
                rc = conn_read(from_, w.r.scratch, size)
                if rc > 0:
                    conn_put(to, w.r.scratch, <size_t>rc)
                    conn_flush(to)
                    count(t, up, <uint32_t>rc)
                    any_ = True
                    if <uint32_t>rc == size and size < SCRATCH_BYTES:
                        from_.read_size = size * 2
                    elif <uint32_t>rc < CONN_READ_MIN:
                        from_.read_size = CONN_READ_MIN
                    continue
        if rc == FM_AGAIN:
            if to.flags & CF_BLOCKED and from_.flags & CF_HUP and sock_error(from_.src.fd) != 0:
                lost(t, up)      # it waits for `to`, and nobody is left for whom it could be read
            break
        if rc != FM_EOF:
            lost(t, up)
            break
        t.flags |= <uint8_t>(TF_DOWN_EOF if up else TF_UP_EOF)
        conn_end_output(to)
        if to.out_n or to.flags & CF_FIN:
            to.flags |= CF_BLOCKED  # to be told when it is out
        any_ = True
        if settled(t):
            return
        break
    if any_ and t.state == TS_OPEN:
        moved(t)
        tcp_log_moved(t)


cdef void lost(Tcp *t, bint down) noexcept nogil:
    # a reset, or TLS without its end: the other side must not take what it has for the whole
    if down:
        broken(t, RF_DC, ST_TCP_DOWN_RESET, b"downstream_remote_reset")
    else:
        broken(t, RF_UC, ST_TCP_UP_RESET, b"upstream_remote_reset")
