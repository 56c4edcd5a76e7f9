"""HTTP/1 towards upstreams (L3). See mux_h1_up.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.buf cimport block_data, block_len
from fastmesh._core.base.err cimport FM_AGAIN, FM_EHEAD, FM_ENOMEM, FM_EOF, FM_OK
from fastmesh._core.base.pool cimport pool_put
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport (
    CF_EOF, CF_HUP, CF_READABLE, CONN_READ_MIN, CONN_READS_AT_ONCE, Conn, ConnOps, conn_acked_none_since, conn_deadline, conn_end_output, conn_keep, conn_kept_used, conn_read,
    conn_read_more, conn_wake, conn_wire_tx)
from fastmesh._core.net.out cimport conn_flush, conn_made, conn_make, conn_put
from fastmesh._core.net.reactor cimport SCRATCH_BYTES
from fastmesh._core.net.tls cimport tls_resumed
from fastmesh._core.proto.h1_body cimport (
    h1_body_eof, h1_body_feed, h1_body_init, h1_body_response, h1_body_trailers)
from fastmesh._core.proto.h1_head cimport h1_response_head
from fastmesh._core.proto.lists cimport list_next, slice_is
from fastmesh._core.proto.h1_write cimport (
    Out, h1_last_chunk_size, h1_write_fields, h1_write_last_chunk, h1_write_request_line, out_bytes, out_hex, out_of)
from fastmesh._core.proto.msg cimport (
    BODY_CLOSE, H_KEEP_ALIVE, MF_CLOSE, MF_TE_TRAILERS, MSG_MAX_HEAD, MSG_MAX_HEADERS, Hdr, Msg, msg_find)
from fastmesh._core.proxy.ctx cimport (
    C_BODY, C_CONNECT, C_GONE, C_HEAD, C_IDLE, C_TUNNEL, PH_DONE, XF_CHUNKED_REQ, XF_REQ_END, XF_TUNNEL, XF_UPGRADE, Exchange, H1c,
    UpOps, Worker)
from fastmesh._core.proxy.exchange cimport (
    exchange_response_data, exchange_response_end, exchange_response_head, exchange_sent, exchange_up_failed, exchange_up_ready)
from fastmesh._core.proxy.relay cimport relay_full
from fastmesh._core.proxy.respond cimport RE_CONNECT, RE_CONNECT_TIMEOUT, RE_UP_PROTOCOL, RE_UP_RESET, RE_UP_TLS
from fastmesh._core.proxy.upstream cimport upstream_dial_failed, upstream_drop, upstream_idle_closed, upstream_release
from fastmesh._core.shm.stats cimport (
    ST_TLS_CONNECT, ST_TLS_CONNECT_RESUMED, ST_UP_BYTES_RX, ST_UP_BYTES_TX, ST_UP_CX_IDLE_CLOSED,
     ST_UP_CX_IDLE_TIMEOUT, ST_UP_CX_TIMEOUT, stat_add, stat_inc)

cdef enum:
    KEEP_ALIVE_DIGITS = 6        # of seconds: eleven days
    BODY_SPANS = 16
    INTERIM_MOST = 32            # 1xx answers to one request: each is an answer that no client waits for to end

cdef ConnOps CONN_OPS
cdef UpOps UP_OPS


cdef void h1c_init(Worker *w) noexcept nogil:
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
    w.up_conn_ops = &CONN_OPS
    w.h1_up = &UP_OPS


cdef void h1c_reap(Worker *w) noexcept nogil:
    cdef H1c *u
    while w.dead_up != NULL:
        u = w.dead_up
        w.dead_up = u.next_dead
        pool_put(&w.ups, u)


# ---- the request -----------------------------------------------------------------------------------------------------------------

cdef int x_head(Exchange *ex, Msg *m, bint end) noexcept nogil:
    cdef H1c *u = <H1c *>ex.up
    cdef uint32_t need = m.method_name.n + m.target.n + 192
    cdef uint32_t i
    cdef char *p
    cdef Out o
    u.state = C_HEAD
    u.seen = 0
    u.interim = 0
    u.reusable = 1
    u.wire_before = conn_wire_tx(u.conn)
    u.requests += 1
    conn_deadline(u.conn, 0)
    for i in range(m.nhdr):
        need += m.hdr[i].name_n + m.hdr[i].value_n + 4
    p = conn_make(u.conn, need)
    if p == NULL:
        return FM_EHEAD
    o = out_of(p, need)
    h1_write_request_line(&o, m, m.target)
    h1_write_fields(&o, m)
    if ex.flags & XF_CHUNKED_REQ:
        out_bytes(&o, b"transfer-encoding: chunked\r\n", 28)
    if ex.flags & XF_UPGRADE:
        out_bytes(&o, b"connection: upgrade\r\n", 21)
    elif m.flags & MF_TE_TRAILERS:
        out_bytes(&o, b"te: trailers\r\nconnection: te\r\n", 30)
    out_bytes(&o, b"\r\n", 2)
    if o.full:
        return FM_EHEAD
    conn_made(u.conn, <uint32_t>(o.p - p))
    return FM_OK


cdef int x_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    cdef H1c *u = <H1c *>ex.up
    cdef uint64_t total = 0
    cdef bint chunked = ex.flags & XF_CHUNKED_REQ and not ex.flags & XF_TUNNEL
    cdef char *p
    cdef Out o
    cdef int i
    for i in range(n):
        total += v[i].n
    if total == 0:
        return FM_OK
    if chunked:
        p = conn_make(u.conn, 24)
        if p == NULL:
            return FM_ENOMEM
        o = out_of(p, 24)
        out_hex(&o, total)
        out_bytes(&o, b"\r\n", 2)
        conn_made(u.conn, <uint32_t>(o.p - p))
    for i in range(n):
        conn_put(u.conn, v[i].p, v[i].n)
    if chunked:
        conn_put(u.conn, b"\r\n", 2)
    return FM_OK


cdef int x_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    cdef H1c *u = <H1c *>ex.up
    cdef uint32_t need = h1_last_chunk_size(trailers, n)
    cdef char *p
    cdef Out o
    if ex.flags & XF_TUNNEL:
        conn_end_output(u.conn)  # an HTTP/2 client has ended its side, which may be half of the conversation
        return FM_OK
    if not ex.flags & XF_CHUNKED_REQ:
        return FM_OK
    p = conn_make(u.conn, need)
    if p == NULL:
        return FM_ENOMEM
    o = out_of(p, need)
    h1_write_last_chunk(&o, trailers, n)
    conn_made(u.conn, <uint32_t>(o.p - p))
    return FM_OK


cdef bint x_unseen(Exchange *ex) noexcept nogil:
    # The kernel's word that nothing was acknowledged counts only when the other side ended in order: a FIN carries an acknowledgement, a
    # RST does not, and a peer that has read the request and resets may not have acknowledged it yet.
    cdef H1c *u = <H1c *>ex.up
    return u.conn.flags & CF_EOF and conn_acked_none_since(u.conn, u.wire_before)


cdef void x_abort(Exchange *ex) noexcept nogil:
    cdef H1c *u = <H1c *>ex.up
    if u == NULL:
        return
    ex.up = NULL
    u.ex = NULL
    u_let_go(u)


cdef void x_resume(Exchange *ex) noexcept nogil:
    cdef H1c *u = <H1c *>ex.up
    if u != NULL and u.conn != NULL and (u.conn.flags & CF_READABLE or u.conn.inb != NULL):
        conn_wake(u.conn)


cdef bint x_congested(Exchange *ex) noexcept nogil:
    cdef H1c *u = <H1c *>ex.up
    return u != NULL and u.conn != NULL and relay_full(u.w, u.conn)


cdef void x_flush(Exchange *ex) noexcept nogil:
    cdef H1c *u = <H1c *>ex.up
    if u != NULL and u.conn != NULL and u.w.r.g.conn == u.conn:
        conn_flush(u.conn)
        exchange_sent(ex)


# ---- the connection --------------------------------------------------------------------------------------------------------------

cdef void u_bytes(H1c *u) noexcept nogil:
    stat_add(u.w.seg.stats, ST_UP_BYTES_RX, u.conn.rx)
    stat_add(u.w.seg.stats, ST_UP_BYTES_TX, u.conn.tx)
    u.conn.rx = 0
    u.conn.tx = 0


cdef void u_let_go(H1c *u) noexcept nogil:
    if u.state != C_GONE and u.conn != NULL:
        u_bytes(u)
    upstream_drop(u)


cdef void u_ready(Conn *c) noexcept nogil:
    cdef H1c *u = <H1c *>c.owner
    cdef Exchange *ex = u.ex
    if c.tls != NULL:
        stat_inc(u.w.seg.stats, ST_TLS_CONNECT)
        if tls_resumed(c.tls):
            stat_inc(u.w.seg.stats, ST_TLS_CONNECT_RESUMED)
    if ex == NULL:
        u_let_go(u)
        return
    exchange_up_ready(ex)
    x_flush(ex)
    if c.flags & CF_READABLE:
        conn_wake(c)             # it spoke before we did (or, with TLS, may have): that edge has been seen


cdef void u_broken(H1c *u, int code) noexcept nogil:
    # the connection is over: tell the exchange, which may already be going on elsewhere when this returns
    cdef Exchange *ex = u.ex
    if ex != NULL:
        exchange_up_failed(ex, code)
        if u.ex != NULL:
            u.ex.up = NULL
            u.ex = NULL
    u_let_go(u)
    if ex != NULL and ex.phase != PH_DONE and ex.up != NULL:
        ex.uops.flush(ex)        # a repeat on another connection
    u_flush_all(u.w)


cdef inline void u_flush_all(Worker *w) noexcept nogil:
    if w.r.g.conn != NULL:
        conn_flush(<Conn *>w.r.g.conn)


cdef void u_failed(Conn *c, int code) noexcept nogil:
    cdef H1c *u = <H1c *>c.owner
    if u.state == C_CONNECT:
        upstream_dial_failed(u.w, c, code)
        u_broken(u, RE_UP_TLS if c.tls_failure else RE_CONNECT)
        return
    if u.state != C_IDLE:
        # it would not take more of the request, but it may have answered before: a reset leaves what was received readable
        c.flags |= CF_READABLE | CF_HUP
        u_read(u)
        if u.state == C_GONE or u.ex == NULL:
            return
    u_broken(u, RE_UP_RESET)


cdef void u_expired(Conn *c) noexcept nogil:
    cdef H1c *u = <H1c *>c.owner
    if u.state == C_CONNECT:
        stat_inc(u.w.seg.stats, ST_UP_CX_TIMEOUT)
        u_broken(u, RE_CONNECT_TIMEOUT)
    elif u.state == C_IDLE:
        stat_inc(u.w.seg.stats, ST_UP_CX_IDLE_TIMEOUT)
        u_let_go(u)


cdef void u_drained(Conn *c) noexcept nogil:
    cdef H1c *u = <H1c *>c.owner
    if u.ex != NULL:
        exchange_sent(u.ex)
        u.ex.dops.resume(u.ex)


# ---- the answer ------------------------------------------------------------------------------------------------------------------

cdef void u_done(H1c *u, const Hdr *trailers, int n, bint clean) noexcept nogil:
    # The answer is complete. The exchange goes first: its last bytes may still lie in this connection's buffers.
    cdef Exchange *ex = u.ex
    cdef bint whole = (ex.flags & XF_REQ_END) != 0 and u.conn.out_n == 0
    ex.up = NULL
    u.ex = NULL
    exchange_response_end(ex, trailers, n)
    u_bytes(u)
    if not clean or not whole:
        u.reusable = 0
    upstream_release(u)


cdef uint32_t keep_alive_ms(const Msg *m) noexcept nogil:
    # "Keep-Alive: timeout=5, max=100" (RFC 2068 19.7.1.1, and what servers send): the timeout, in seconds; 0: none that can be read
    cdef const Hdr *h = msg_find(m, H_KEEP_ALIVE)
    cdef Slice list, item
    cdef uint32_t i
    cdef uint32_t seconds = 0
    if h == NULL:
        return 0
    list = slice_of(h.value, h.value_n)
    while list_next(&list, &item):
        if item.n < 9 or item.n > 8 + KEEP_ALIVE_DIGITS or not slice_is(slice_of(item.p, 8), "timeout=", 8):
            continue
        for i in range(8, item.n):
            if not 48 <= item.p[i] <= 57:
                return 0
            seconds = seconds * 10 + (item.p[i] - 48)
        return seconds * 1000
    return 0


cdef uint32_t u_consume(H1c *u, char *p, uint32_t n) noexcept nogil:
    # how much of p[0:n] is used up
    cdef Slice spans[BODY_SPANS]
    cdef Hdr trailers[MSG_MAX_HEADERS]
    cdef Msg *m = &u.w.resp
    cdef Exchange *ex
    cdef uint32_t at = 0
    cdef int rc, ns, nt
    while at < n and u.ex != NULL:
        ex = u.ex
        if u.state == C_HEAD:
            rc = h1_response_head(p + at, n - at, u.seen, m)
            if rc == FM_AGAIN:
                u.seen = n - at
                return at
            u.seen = 0
            if rc < 0:
                u_broken(u, RE_UP_PROTOCOL)
                return n
            at += rc
            rc = h1_body_response(m, ex.method)
            if m.status < 200 and m.status != 101:
                u.interim += 1
                if u.interim > INTERIM_MOST:
                    u_broken(u, RE_UP_PROTOCOL)
                    return n
                exchange_response_head(ex, m)
                continue
            if m.flags & MF_CLOSE or m.body == BODY_CLOSE:
                u.reusable = 0
            u.told_ms = keep_alive_ms(m)
            h1_body_init(&u.body, m.body, m.content_length)
            u.state = C_TUNNEL if m.status == 101 else C_BODY
            exchange_response_head(ex, m)
            if u.ex == NULL:     # it has failed there
                u_let_go(u)
                return n
            if u.state == C_TUNNEL:
                u.reusable = 0
                ex.dops.flush(ex)
                ex.dops.resume(ex)
            elif u.body.done:
                u_done(u, NULL, 0, at == n)
                return at
        elif u.state == C_BODY:
            ns = 0
            rc = h1_body_feed(&u.body, p + at, n - at, spans, &ns, BODY_SPANS)
            if rc < 0:
                u_broken(u, RE_UP_PROTOCOL)
                return n
            at += rc
            if ns:
                exchange_response_data(ex, spans, ns)
            if u.ex == NULL:
                u_let_go(u)
                return n
            if u.body.done:
                nt = 0
                if u.body.has_trailers:
                    nt = h1_body_trailers(p + at - u.body.line_n, u.body.line_n, trailers, MSG_MAX_HEADERS)
                u_done(u, trailers, nt if nt > 0 else 0, at == n)
                return at
            if rc == 0:
                return at
        elif u.state == C_TUNNEL:
            spans[0].p = p + at
            spans[0].n = n - at
            exchange_response_data(ex, spans, 1)
            at = n
        else:
            return at
    return at


cdef void u_input_end(H1c *u, int code) noexcept nogil:
    cdef Exchange *ex = u.ex
    if u.state == C_IDLE:
        stat_inc(u.w.seg.stats, ST_UP_CX_IDLE_CLOSED)
        upstream_idle_closed(u.w, u.cell, u.tag, u.idle_since)
        u_let_go(u)
    elif u.state == C_TUNNEL and code == FM_EOF:
        u.reusable = 0
        u_done(u, NULL, 0, False)
    elif u.state == C_BODY and code == FM_EOF and h1_body_eof(&u.body) == FM_OK:
        u_done(u, NULL, 0, False)
    else:
        u_broken(u, RE_UP_RESET)


cdef bint u_stalled(H1c *u) noexcept nogil:
    if u.state == C_GONE or u.state == C_CONNECT:
        return True
    if u.state == C_BODY or u.state == C_TUNNEL:
        return u.ex == NULL or u.ex.dops.congested(u.ex)
    # interim answers are answers too for a client that does not read
    return u.state == C_HEAD and u.interim != 0 and u.ex != NULL and u.ex.dops.congested(u.ex)


cdef void u_read(H1c *u) noexcept nogil:
    cdef Conn *c = u.conn
    cdef Worker *w = u.w
    cdef uint32_t used, size
    cdef uint32_t left = CONN_READS_AT_ONCE
    cdef int rc
    while u.state != C_GONE and not u_stalled(u):
        if left == 0:
            conn_wake(c)
            break
        left -= 1
        if c.inb != NULL:
            if u.state == C_IDLE:
                u_let_go(u)      # bytes that nobody asked for
                break
            used = u_consume(u, block_data(c.inb) + c.inb.start, block_len(c.inb))
            u_flush_all(w)
            if u.state == C_GONE:
                break
            if used:
                conn_kept_used(c, used)
                continue
            if not c.flags & CF_READABLE:
                break
            rc = conn_read_more(c, MSG_MAX_HEAD + 1)
            if rc == FM_EHEAD:
                u_broken(u, RE_UP_PROTOCOL)
                break
        else:
            if not c.flags & CF_READABLE:
                break
            size = c.read_size
            rc = conn_read(c, w.r.scratch, size)
            if rc > 0:
                if u.state == C_IDLE:
                    u_let_go(u)
                    break
                used = u_consume(u, w.r.scratch, <uint32_t>rc)
                u_flush_all(w)
                if u.state == C_GONE:
                    break
                if used < <uint32_t>rc and conn_keep(c, w.r.scratch + used, <uint32_t>rc - used) != FM_OK:
                    u_broken(u, RE_UP_RESET)
                    break
                if <uint32_t>rc == size and size < SCRATCH_BYTES:
                    c.read_size = size * 2
                elif <uint32_t>rc < CONN_READ_MIN:
                    c.read_size = CONN_READ_MIN
                if u.ex != NULL:
                    u.ex.dops.moved(u.ex)
                continue
        if rc > 0:
            continue
        if rc == FM_AGAIN:
            break
        u_input_end(u, rc)
        break
    u_flush_all(w)


cdef void u_readable(Conn *c) noexcept nogil:
    u_read(<H1c *>c.owner)
