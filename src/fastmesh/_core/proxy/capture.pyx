"""Connections that were redirected here (L3). See capture.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.buf cimport block_data, block_free, block_len
from fastmesh._core.base.err cimport FM_AGAIN, FM_EHEAD, FM_EOF, FM_OK
from fastmesh._core.base.timer cimport timer_del
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport CF_READABLE, CONN_READ_MIN, Conn, conn_close, conn_deadline, conn_keep, conn_read, conn_read_more
from fastmesh._core.net.sock cimport Addr, addr_text
from fastmesh._core.policy.outlier cimport OUT_LOCAL
from fastmesh._core.policy.router cimport RouteMatch, router_name
from fastmesh._core.proto.sniff cimport SNIFF_HTTP, SNIFF_MORE, SNIFF_TLS, sniff_bytes
from fastmesh._core.proto.tls_hello cimport HELLO_WIRE_MOST, TlsHello, tls_hello
from fastmesh._core.proxy.ctx cimport SPOKEN, TF_GUESSED, TF_SNIFF, TS_GONE, Down, Tcp, Worker
from fastmesh._core.proxy.mux_h1_down cimport h1s_take_over
from fastmesh._core.proxy.tcp_dial cimport TcpWhy, tcp_dial, tcp_judge, tcp_leave, tcp_match, tcp_route
from fastmesh._core.proxy.tcp_log cimport tcp_log_keep
from fastmesh._core.shm.snapshot cimport CL_ORIGINAL_DST, SNAP_NONE, SnapCluster, SnapTable, fnv64, snap_at, snap_str
from fastmesh._core.shm.stats cimport ST_TCP_GUESS, ST_TCP_GUESS_DROPPED, stat_inc

cdef enum:
    SILENT_MS = 3600000          # how long both sides may say nothing, where the route does not say it


# ---- who speaks first ------------------------------------------------------------------------------------------------------------

cdef inline uint64_t spoken_key(const Tcp *t) noexcept nogil:
    cdef uint64_t h = fnv64(<const char *>&t.conn.called, sizeof(Addr))
    return h if h else 1


cdef bint client_first(const Tcp *t) noexcept nogil:
    cdef uint64_t h = spoken_key(t)
    return t.w.spoken[h & (SPOKEN - 1)] == h


cdef void remember(Tcp *t, bint client) noexcept nogil:
    cdef uint64_t h = spoken_key(t)
    cdef uint64_t *slot = &t.w.spoken[h & (SPOKEN - 1)]
    if client:
        slot[0] = h
    elif slot[0] == h:
        slot[0] = 0


# ---- the guess -------------------------------------------------------------------------------------------------------------------

cdef const SnapCluster *cluster_at(const Tcp *t, uint32_t i) noexcept nogil:
    return <const SnapCluster *>snap_at(&t.w.snap, t.w.snap.h.clusters.off) + i


cdef bint known_http(Tcp *t) noexcept nogil:
    # the address that was called is one of a service's: a name of a virtual host that is not everybody's
    cdef const SnapTable *table = <const SnapTable *>snap_at(&t.w.snap, t.w.snap.h.tables.off) + t.listener.table
    cdef char text[64]
    cdef uint32_t vhost = router_name(&t.w.snap, t.listener.table, slice_of(text, addr_text(&t.conn.called, text, 64, True)))
    return vhost != SNAP_NONE and vhost != table.any_vhost


cdef bint may_guess(Tcp *t) noexcept nogil:
    # the address is dialled whatever is spoken there
    cdef RouteMatch rm
    return tcp_match(t, slice_of(NULL, 0), &rm) == FM_OK and rm.dest.cluster != SNAP_NONE and (
        cluster_at(t, rm.dest.cluster).flags & CL_ORIGINAL_DST) and not known_http(t)


cdef int guess(Tcp *t) noexcept nogil:
    cdef Worker *w = t.w
    cdef TcpWhy why
    if not tcp_route(t, slice_of(NULL, 0), &why) or not tcp_dial(t, &why):
        failed(t)
        return CAP_WAIT
    stat_inc(w.seg.stats, ST_TCP_GUESS)
    conn_deadline(t.conn, w.r.now_ms + (t.idle_ms if t.idle_ms else SILENT_MS))
    return CAP_WAIT


cdef void failed(Tcp *t) noexcept nogil:
    tcp_leave(t)
    if t.tries == 0:
        t.tries = 1
    conn_deadline(t.conn, t.w.r.now_ms + GUESS_FAILED_MS)


cdef void drop(Tcp *t) noexcept nogil:
    # the guess was wrong
    cdef Conn *up = t.up
    if up == NULL:
        return
    stat_inc(t.w.seg.stats, ST_TCP_GUESS_DROPPED)
    t.flags &= ~<uint32_t>TF_GUESSED
    tcp_leave(t)
    conn_close(up)


# ---- what it is ------------------------------------------------------------------------------------------------------------------

cdef int capture_begin(Tcp *t) noexcept nogil:
    cdef RouteMatch rm
    t.flags |= TF_SNIFF
    if tcp_match(t, slice_of(NULL, 0), &rm) == FM_OK and (
            rm.dest.cluster == SNAP_NONE or not cluster_at(t, rm.dest.cluster).flags & CL_ORIGINAL_DST):
        return CAP_ROUTE         # a TCP service has this address
    if not may_guess(t):
        conn_deadline(t.conn, t.w.r.now_ms + t.w.opt.handshake_timeout_ms)
        return CAP_WAIT
    if client_first(t):
        conn_deadline(t.conn, t.w.r.now_ms + GUESS_LATER_MS)
        return CAP_WAIT
    return guess(t)


cdef int is_http(Tcp *t) noexcept nogil:
    cdef Worker *w = t.w
    drop(t)
    timer_del(&w.r.wheel, &t.age)
    block_free(&w.r.bufs, t.names)
    t.names = NULL
    if not h1s_take_over(<Down *>t):
        return CAP_OVERLOAD
    t.state = TS_GONE
    return CAP_HTTP


cdef int is_tcp(Tcp *t, Slice name) noexcept nogil:
    cdef RouteMatch rm
    cdef const SnapCluster *c
    if t.up == NULL:
        return CAP_ROUTE
    if name.n == 0 or tcp_match(t, name, &rm) != FM_OK:
        return CAP_GO
    c = cluster_at(t, rm.dest.cluster) if rm.dest.cluster != SNAP_NONE else NULL
    if c == NULL or c.id != t.cluster:
        drop(t)                  # the name says more than the address
        return CAP_ROUTE
    tcp_log_keep(t, name, snap_str(&t.w.snap, c.name), snap_str(&t.w.snap, rm.route.name))
    return CAP_GO


cdef int capture_heard(Tcp *t, char *scratch, Slice *name) noexcept nogil:
    cdef Worker *w = t.w
    cdef Conn *c = t.conn
    cdef const char *p
    cdef TlsHello h
    cdef uint32_t n
    cdef int rc, what
    name[0] = slice_of(NULL, 0)
    while True:
        if not c.flags & CF_READABLE:
            return CAP_WAIT
        if c.inb == NULL:
            rc = conn_read(c, w.r.scratch, CONN_READ_MIN)
            if rc > 0:
                conn_deadline(c, w.r.now_ms + w.opt.header_timeout_ms)
                if conn_keep(c, w.r.scratch, <uint32_t>rc) != FM_OK:
                    return CAP_OVERLOAD
        else:
            rc = conn_read_more(c, HELLO_WIRE_MOST)
        if rc == FM_AGAIN:
            return CAP_WAIT
        if rc == FM_EOF or rc == FM_EHEAD:
            return is_tcp(t, name[0])  # nothing that we know ends or goes on like that
        if rc < 0:
            return CAP_OVER
        p = block_data(c.inb) + c.inb.start
        n = block_len(c.inb)
        what = sniff_bytes(p, n)
        if what == SNIFF_MORE:
            continue
        if what == SNIFF_TLS:
            rc = tls_hello(p, n, scratch, &h)
            if rc == FM_AGAIN:
                continue
            if rc == FM_OK:
                name[0] = h.name
        remember(t, True)
        return is_http(t) if what == SNIFF_HTTP else is_tcp(t, name[0])


cdef int capture_answered(Tcp *t) noexcept nogil:
    remember(t, False)
    return CAP_GO


cdef void capture_failed(Tcp *t) noexcept nogil:
    tcp_judge(t, OUT_LOCAL, t.w.r.now_ns - t.t_dial)
    failed(t)


cdef int capture_late(Tcp *t) noexcept nogil:
    if t.conn.inb != NULL:
        return CAP_LATE
    if t.up != NULL:
        return CAP_IDLE
    if t.tries:
        return CAP_FAILED
    return guess(t) if may_guess(t) else CAP_LATE
