"""HTTP/2 towards upstreams (L3). See mux_h2_up.pxd.

ex.up is the H2Stream, whose owner is the exchange; while the connection is being dialled it is the H2c. An answer that is complete lets go of
its stream before the exchange hears of it.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.buf cimport Block, block_free
from fastmesh._core.base.err cimport FM_EH2, FM_ENOMEM, FM_OK
from fastmesh._core.base.pool cimport pool_get, pool_put
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport CF_READABLE, Conn, ConnOps, conn_close, conn_close_flushed, conn_deadline, conn_wake
from fastmesh._core.net.tls cimport tls_resumed, tls_speaks
from fastmesh._core.net.tls_ctx cimport TLS_ALPN_H2, TLS_ALPN_LINK, TLS_ALPN_OTHER
from fastmesh._core.proto.h2_frame cimport H2_CANCEL, H2_INTERNAL_ERROR, H2_NO_ERROR, H2_REFUSED_STREAM
from fastmesh._core.proto.h2_limits cimport H2_CONN_WINDOW, H2_MAX_STREAMS, H2_STREAM_WINDOW
from fastmesh._core.proto.h2_send cimport h2_credit, h2_goaway, h2_ping, h2_send_data, h2_send_head, h2_send_trailers
from fastmesh._core.proto.h2_stream cimport (
    HS_CLOSED, HS_HALF_LOCAL, HSF_BROKEN, HSF_IN_END, H2, H2Limits, H2Ops, H2Stream, h2_stream_any, h2_stream_close, h2_stream_release)
from fastmesh._core.proto.msg cimport BODY_TUNNEL, MF_HTTPS, Hdr, Msg
from fastmesh._core.proxy.bridge cimport bridge_from_accepted, bridge_to_connect
from fastmesh._core.proxy.ctx cimport (
    C_CONNECT, HC_CONNECT, HC_GONE, HC_LEAVING, HC_OPEN, PH_DONE, XF_TUNNEL, XF_UPGRADE, Exchange, H1c, H2c, H2Io, H2IoOps, UpOps, UpPool, Worker)
from fastmesh._core.proxy.exchange cimport (
    exchange_response_data, exchange_response_end, exchange_response_head, exchange_sent, exchange_up_failed, exchange_up_other,
    exchange_up_ready)
from fastmesh._core.proxy.h2_io cimport (
    h2_io_begin, h2_io_congested, h2_io_end, h2_io_flush, h2_io_idle, h2_io_keep, h2_io_keep_trailers, h2_io_kept,
    h2_io_kept_end, h2_io_kick, h2_io_out, h2_io_read, h2_io_release, h2_io_wake)
from fastmesh._core.proxy.pending cimport pending_serve
from fastmesh._core.proxy.respond cimport (
    RE_CONNECT, RE_CONNECT_TIMEOUT, RE_OVERLOAD, RE_UP_GOAWAY, RE_UP_PROTOCOL, RE_UP_REFUSED, RE_UP_RESET, RE_UP_RST, RE_UP_TLS)
from fastmesh._core.proxy.share cimport (
    KEEPALIVE_MS, share_early, share_init, share_leave, share_open, share_out, share_wait_no_more)
from fastmesh._core.proxy.upstream cimport (
    upstream_dial_failed, upstream_idle_closed, upstream_idle_served, upstream_release, upstream_uncount)
from fastmesh._core.shm.stats cimport (
    ST_POOL_FULL, ST_TLS_CONNECT, ST_TLS_CONNECT_RESUMED, ST_UP_BYTES_RX, ST_UP_BYTES_TX, ST_UP_CX_IDLE_CLOSED, ST_UP_CX_IDLE_TIMEOUT,
    ST_UP_CX_TIMEOUT, ST_UP_REFUSED, stat_add, stat_inc)

cdef enum:
    KEEP_LEAST_MS = 250          # no server ends idle connections sooner
    INTERIM_MOST = 32            # 1xx answers to one request: each is an answer that no client waits for to end

cdef ConnOps CONN_OPS
cdef UpOps UP_OPS
cdef H2Ops EVENTS
cdef H2IoOps IO_OPS


cdef void h2c_init(Worker *w) noexcept nogil:
    CONN_OPS.ready = u_ready
    CONN_OPS.readable = u_readable
    CONN_OPS.drained = u_drained
    CONN_OPS.failed = u_failed
    CONN_OPS.expired = u_expired
    UP_OPS.head = x_head
    UP_OPS.data = x_data
    UP_OPS.end = x_end
    UP_OPS.abort = x_abort
    UP_OPS.resume = x_resume
    UP_OPS.congested = x_congested
    UP_OPS.unseen = x_unseen
    UP_OPS.flush = x_flush
    EVENTS.head = on_head
    EVENTS.data = on_data
    EVENTS.trailers = on_trailers
    EVENTS.reset = on_reset
    EVENTS.writable = on_writable
    EVENTS.goaway = on_goaway
    EVENTS.settings = on_settings
    IO_OPS.stream = u_stream
    IO_OPS.over = u_over
    IO_OPS.turn = u_turn
    w.h2_up = &UP_OPS
    w.h2_conn_ops = &CONN_OPS
    share_init(w)


cdef void h2c_reap(Worker *w) noexcept nogil:
    # one whose task is still queued waits for it: the task list holds its address
    cdef H2c *u = w.dead_h2_up
    cdef H2c *nxt
    w.dead_h2_up = NULL
    while u != NULL:
        nxt = u.next_dead
        if u.io.task.queued:
            u.next_dead = w.dead_h2_up
            w.dead_h2_up = u
        else:
            pool_put(&w.h2_ups, u)
        u = nxt


# ---- who waits for the dial ------------------------------------------------------------------------------------------------------------

cdef void fail_waiting(H2c *u, int code) noexcept nogil:
    # those that wait now: whoever is sent here again meanwhile belongs to another connection
    cdef Exchange *ex
    while u.waiting != NULL:
        ex = share_wait_no_more(u, u.waiting)
        exchange_up_failed(ex, code)
        if ex.phase != PH_DONE and ex.up != NULL:
            ex.uops.flush(ex)


cdef void serve_waiting(H2c *u) noexcept nogil:
    # an exchange whose stream cannot be opened here chooses again
    cdef uint32_t n = u.nwaiting
    cdef Exchange *ex
    cdef Exchange *nxt = u.waiting
    while n and nxt != NULL and u.state != HC_GONE:
        n -= 1
        ex = nxt
        nxt = ex.wait_next
        if share_early(u, ex):
            continue
        share_wait_no_more(u, ex)
        if (ex.flags & XF_UPGRADE and not u.io.h.peer.connect_protocol) or not share_open(u, ex):
            if ex.flags & XF_UPGRADE:
                exchange_up_failed(ex, RE_UP_PROTOCOL)
            else:
                exchange_up_other(ex)
        else:
            exchange_up_ready(ex)
            if ex.phase != PH_DONE and ex.up != NULL:
                ex.uops.flush(ex)


# ---- the request -----------------------------------------------------------------------------------------------------------------------

cdef inline H2Io *io_of(const H2Stream *st) noexcept nogil:
    return <H2Io *>st.h.owner


cdef void fail_later(H2Stream *st) noexcept nogil:
    st.flags |= HSF_BROKEN
    h2_io_wake(io_of(st), st)


cdef int x_head(Exchange *ex, Msg *m, bint end) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.up
    cdef H2Io *io = io_of(st)
    cdef int rc
    if io.conn.tls != NULL and not (<H2c *>io.owner).link:
        m.flags |= MF_HTTPS      # between sidecars the scheme is the client's
    if ex.flags & XF_UPGRADE:
        rc = bridge_to_connect(ex, m)
        if rc != FM_OK:
            return rc
    h2_io_kick(io)
    return h2_send_head(st, m, end and not ex.flags & XF_UPGRADE)


cdef int x_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.up
    cdef int rc = h2_send_data(st, v, n, False)
    if rc == FM_ENOMEM:
        fail_later(st)
    h2_io_kick(io_of(st))
    return rc


cdef int x_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.up
    cdef int rc
    if st.state == HS_CLOSED or st.state == HS_HALF_LOCAL:
        return FM_OK
    rc = h2_send_trailers(st, trailers, n)
    if rc == FM_ENOMEM:
        fail_later(st)
    h2_io_kick(io_of(st))
    return rc


cdef void let_go(Exchange *ex, uint32_t code) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.up
    cdef H2c *u = <H2c *>io_of(st).owner
    ex.up = NULL
    st.owner = NULL
    h2_io_release(io_of(st), st, code)
    pending_serve(ex.w, &ex.w.pools[u.cell])


cdef void x_abort(Exchange *ex) noexcept nogil:
    if ex.up != NULL:
        let_go(ex, ex.h2_error if ex.h2_error else H2_CANCEL)


cdef void x_resume(Exchange *ex) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.up
    if st != NULL and not h2_io_idle(st):
        h2_io_wake(io_of(st), st)


cdef bint x_congested(Exchange *ex) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.up
    return st != NULL and h2_io_congested(io_of(st), st)


cdef bint x_unseen(Exchange *ex) noexcept nogil:
    return False                 # the other side says so (REFUSED_STREAM, GOAWAY), or nobody knows


cdef void x_flush(Exchange *ex) noexcept nogil:
    exchange_sent(ex)            # at the end of this turn


# ---- the connection --------------------------------------------------------------------------------------------------------------------

cdef void u_bytes(H2c *u) noexcept nogil:
    cdef Conn *c = u.io.conn
    stat_add(u.io.w.seg.stats, ST_UP_BYTES_RX, c.rx)
    stat_add(u.io.w.seg.stats, ST_UP_BYTES_TX, c.tx)
    c.rx = 0
    c.tx = 0
    u.heard = 0


cdef void u_end(H2c *u, int code, bint flush) noexcept nogil:
    # It is over: whoever waits or has a stream is told. None of them may find this connection again.
    cdef Worker *w = u.io.w
    cdef Conn *c = u.io.conn
    cdef H2Stream *st
    cdef Exchange *ex
    if u.state == HC_GONE:
        return
    share_out(u)
    upstream_uncount(w, u.cell, u.tag, u.cluster_cell)
    u.state = HC_GONE
    fail_waiting(u, code)
    st = h2_stream_any(&u.io.h)
    while st != NULL:
        ex = <Exchange *>st.owner
        st.owner = NULL
        h2_stream_close(st)
        h2_stream_release(st)
        if ex != NULL:
            ex.up = NULL
            exchange_up_failed(ex, code)
            if ex.phase != PH_DONE and ex.up != NULL:
                ex.uops.flush(ex)
        st = h2_stream_any(&u.io.h)
    if flush:
        h2_io_out(&u.io)
    u_bytes(u)
    h2_io_end(&u.io)
    if flush:
        conn_close_flushed(c, False)
    else:
        conn_close(c)
    u.next_dead = w.dead_h2_up
    w.dead_h2_up = u
    h2_io_flush(w)


cdef void h2c_cut(Worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.npools):
        while w.pools[i].shared != NULL:
            u_end(w.pools[i].shared, RE_CONNECT, False)


cdef void as_h1(H2c *u, Exchange *ex) noexcept nogil:
    cdef Worker *w = u.io.w
    cdef UpPool *p = &w.pools[u.cell]
    cdef Conn *c = u.io.conn
    cdef H1c *h = <H1c *>pool_get(&w.ups)
    share_out(u)
    u.state = HC_GONE
    u.io.conn = NULL
    u.next_dead = w.dead_h2_up
    w.dead_h2_up = u
    if p.tag == u.tag:
        p.h1_policy = u.tls_policy
    if h == NULL:
        stat_inc(w.seg.stats, ST_POOL_FULL)
        upstream_uncount(w, u.cell, u.tag, u.cluster_cell)
        conn_close(c)
        if ex != NULL:
            exchange_up_failed(ex, RE_OVERLOAD)
        return
    h.w = w
    h.conn = c
    h.state = C_CONNECT
    h.cell = u.cell
    h.tag = u.tag
    h.cluster_cell = u.cluster_cell
    h.old_ms = u.old_ms
    h.tls_policy = u.tls_policy
    h.idle_ms = u.idle_ms
    h.most_requests = u.most_requests
    h.reusable = 1
    c.owner = h
    c.ops = w.up_conn_ops
    if ex == NULL:
        upstream_release(h)
        return
    h.ex = ex
    ex.up = h
    ex.uops = w.h1_up
    exchange_up_ready(ex)
    if ex.phase != PH_DONE and ex.up != NULL:
        ex.uops.flush(ex)
    if c.flags & CF_READABLE:
        conn_wake(c)


cdef void u_ready(Conn *c) noexcept nogil:
    cdef H2c *u = <H2c *>c.owner
    cdef Worker *w = u.io.w
    cdef H2Limits limits
    cdef Exchange *ex
    cdef int speaks = TLS_ALPN_H2
    if c.tls != NULL:
        stat_inc(w.seg.stats, ST_TLS_CONNECT)
        if tls_resumed(c.tls):
            stat_inc(w.seg.stats, ST_TLS_CONNECT_RESUMED)
        speaks = tls_speaks(c.tls)
    if speaks == TLS_ALPN_OTHER:
        u_end(u, RE_UP_TLS, False)  # it chose what was not offered
        return
    if speaks != TLS_ALPN_H2 and speaks != TLS_ALPN_LINK and not u.only_h2:
        ex = share_wait_no_more(u, u.waiting) if u.waiting != NULL else NULL
        as_h1(u, ex)
        # the others need connections of their own
        while u.waiting != NULL:
            exchange_up_other(share_wait_no_more(u, u.waiting))
        return
    u.link = speaks == TLS_ALPN_LINK
    u.idle_since = w.r.now_ms
    u.state = HC_OPEN if u.prev != NULL or w.pools[u.cell].shared == u else HC_LEAVING  # it has left the list meanwhile
    limits.max_streams = H2_MAX_STREAMS
    limits.stream_window = H2_STREAM_WINDOW
    limits.conn_window = H2_CONN_WINDOW
    h2_io_begin(&u.io, w, c, u, &IO_OPS, &EVENTS, False, u.link, &limits, &w.resp)
    conn_deadline(c, w.r.now_ms + u.idle_ms if u.idle_ms else 0)
    serve_waiting(u)
    if c.flags & CF_READABLE:
        conn_wake(c)


cdef void u_readable(Conn *c) noexcept nogil:
    cdef H2c *u = <H2c *>c.owner
    if u.state != HC_CONNECT:
        h2_io_read(&u.io)


cdef void u_drained(Conn *c) noexcept nogil:
    h2_io_out(&(<H2c *>c.owner).io)


cdef void u_over(H2Io *io, int code) noexcept nogil:
    cdef H2c *u = <H2c *>io.owner
    if io.h.nstreams == 0 and code != FM_EH2:
        stat_inc(io.w.seg.stats, ST_UP_CX_IDLE_CLOSED)
        # without a GOAWAY, which would have said what is safe to repeat; sooner than any timeout is: it has been stopped
        if u.state == HC_OPEN and u.idle_since and u.idle_since + KEEP_LEAST_MS <= io.w.r.now_ms:
            upstream_idle_closed(io.w, u.cell, u.tag, u.idle_since)
    u_end(u, RE_OVERLOAD if code == FM_ENOMEM else (RE_UP_PROTOCOL if code == FM_EH2 else RE_UP_RESET), code == FM_EH2)


cdef void u_failed(Conn *c, int code) noexcept nogil:
    cdef H2c *u = <H2c *>c.owner
    if u.state == HC_CONNECT:
        upstream_dial_failed(u.io.w, c, code)
        u_end(u, RE_UP_TLS if c.tls_failure else RE_CONNECT, False)
    else:
        u_end(u, RE_UP_RESET, False)


cdef void u_expired(Conn *c) noexcept nogil:
    cdef H2c *u = <H2c *>c.owner
    cdef Worker *w = u.io.w
    if u.state == HC_CONNECT:
        stat_inc(w.seg.stats, ST_UP_CX_TIMEOUT)
        u_end(u, RE_CONNECT_TIMEOUT, False)
    elif u.io.h.nstreams == 0:
        stat_inc(w.seg.stats, ST_UP_CX_IDLE_TIMEOUT)
        h2_goaway(&u.io.h, True)
        u_end(u, RE_UP_RESET, True)
    elif u.pinged and c.rx == u.heard:
        stat_inc(w.seg.stats, ST_UP_CX_TIMEOUT)
        u_end(u, RE_UP_RESET, False)
    else:
        if c.rx == u.heard:
            h2_ping(&u.io.h, w.r.now_ms)
            h2_io_kick(&u.io)
            u.pinged = 1
        else:
            u.pinged = 0
        u.heard = c.rx
        conn_deadline(c, w.r.now_ms + KEEPALIVE_MS)


cdef void u_turn(H2Io *io) noexcept nogil:
    cdef H2c *u = <H2c *>io.owner
    if u.waiting != NULL and io.h.peer.seen:
        serve_waiting(u)
    if io.h.nstreams or u.waiting != NULL:
        if u.state == HC_OPEN and io.h.next_local == 0:
            share_leave(u)
        return
    if u.state == HC_LEAVING or io.w.draining:
        h2_goaway(&io.h, True)
        u_end(u, RE_UP_RESET, True)
        return
    if u.idle_since:
        return                   # as before: what the other side says meanwhile makes it no less idle
    u_bytes(u)
    u.pinged = 0
    upstream_idle_served(&io.w.pools[u.cell], u.idle_for)
    u.idle_for = 0
    u.idle_since = io.w.r.now_ms
    if u.state == HC_OPEN and u.most_requests and u.requests >= u.most_requests:
        share_leave(u)
        return
    conn_deadline(io.conn, io.w.r.now_ms + u.idle_ms if u.idle_ms else 0)


# ---- the answer ------------------------------------------------------------------------------------------------------------------------

cdef void done(Exchange *ex, const Hdr *t, int n) noexcept nogil:
    # what is left of a request whose answer is complete is not sent any more
    let_go(ex, H2_NO_ERROR)
    exchange_response_end(ex, t, n)


cdef void on_head(H2 *h, H2Stream *st, Msg *m, bint end) noexcept nogil:
    cdef Exchange *ex = <Exchange *>st.owner
    if ex == NULL:
        return
    if m.status < 200:
        st.interim += 1
        if st.interim > INTERIM_MOST:
            exchange_up_failed(ex, RE_UP_PROTOCOL)
            return
        exchange_response_head(ex, m)
        return
    if m.body == BODY_TUNNEL and bridge_from_accepted(ex, m) != FM_OK:
        exchange_up_failed(ex, RE_UP_PROTOCOL)
        return
    exchange_response_head(ex, m)
    if ex.up != <void *>st:
        return                   # it has failed there, or is tried again
    ex.dops.moved(ex)
    if end:
        done(ex, NULL, 0)
    elif ex.flags & XF_TUNNEL:
        ex.dops.flush(ex)
        ex.dops.resume(ex)


cdef void on_data(H2 *h, H2Stream *st, const char *p, uint32_t n, bint end) noexcept nogil:
    cdef H2Io *io = <H2Io *>h.owner
    cdef Exchange *ex = <Exchange *>st.owner
    cdef Slice v
    if not h2_io_idle(st) or ex.dops.congested(ex):
        h2_io_keep(io, st, p, n, end)
        return
    if n:
        v = slice_of(p, n)
        h2_credit(st, n)
        exchange_response_data(ex, &v, 1)
        if ex.up != <void *>st:
            return
        ex.dops.moved(ex)
    if end:
        done(ex, NULL, 0)


cdef void on_trailers(H2 *h, H2Stream *st, const Hdr *t, int n) noexcept nogil:
    cdef Exchange *ex = <Exchange *>st.owner
    if ex == NULL:
        return
    if not h2_io_idle(st):
        h2_io_keep_trailers(<H2Io *>h.owner, st, t, n)
        return
    done(ex, t, n)


cdef void u_stream(H2Io *io, H2Stream *st) noexcept nogil:
    # what was kept of an answer's body flows
    cdef Exchange *ex = <Exchange *>st.owner
    cdef Msg *m = &io.w.again
    cdef Block *b
    cdef Slice v
    if ex == NULL:
        return
    if st.flags & HSF_BROKEN:
        let_go(ex, H2_INTERNAL_ERROR)
        exchange_up_failed(ex, RE_OVERLOAD)
        return
    while st.inp != NULL and not ex.dops.congested(ex):
        b = h2_io_kept(st, &v)
        exchange_response_data(ex, &v, 1)
        ex.dops.flush(ex)
        h2_io_flush(io.w)        # its bytes are borrowed, whoever has them now
        block_free(&io.w.r.bufs, b)
        if ex.up != <void *>st:
            return
        ex.dops.moved(ex)
    if st.inp != NULL or not st.flags & HSF_IN_END:
        return
    b = h2_io_kept_end(io, st, m)
    done(ex, m.hdr, <int>m.nhdr)
    block_free(&io.w.r.bufs, b)


cdef void on_reset(H2 *h, H2Stream *st, uint32_t code, bint remote) noexcept nogil:
    cdef H2Io *io = <H2Io *>h.owner
    cdef Exchange *ex = <Exchange *>st.owner
    cdef bint gone = st.id > h.goaway_last
    cdef int why = RE_UP_PROTOCOL  # it was we who had to: what came was no answer
    st.owner = NULL
    h2_io_release(io, st, H2_NO_ERROR)
    pending_serve(io.w, &io.w.pools[(<H2c *>io.owner).cell])
    ex.up = NULL
    if remote:
        why = RE_UP_RST
        if code == H2_REFUSED_STREAM:
            why = RE_UP_GOAWAY if gone else RE_UP_REFUSED
        if code == H2_REFUSED_STREAM:
            stat_inc(io.w.seg.stats, ST_UP_REFUSED)
        ex.h2_error = code
    exchange_up_failed(ex, why)
    if ex.phase != PH_DONE and ex.up != NULL:
        ex.uops.flush(ex)


cdef void on_writable(H2 *h, H2Stream *st) noexcept nogil:
    cdef Exchange *ex = <Exchange *>st.owner
    if ex != NULL:
        exchange_sent(ex)
        ex.dops.resume(ex)


cdef void on_goaway(H2 *h, uint32_t last, uint32_t code) noexcept nogil:
    cdef H2c *u = <H2c *>(<H2Io *>h.owner).owner
    share_leave(u)                 # u_turn ends it after the last stream


cdef void on_settings(H2 *h) noexcept nogil:
    cdef H2c *u = <H2c *>(<H2Io *>h.owner).owner
    u.io.w.pools[u.cell].most_streams = h.peer.max_streams
    # who waits is served at the end of the turn: another SETTINGS may follow at once
