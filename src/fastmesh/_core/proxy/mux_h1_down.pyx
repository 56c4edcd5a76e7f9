"""HTTP/1 towards clients (L3). See mux_h1_down.pxd.

One exchange at a time: pipelined requests wait in the connection's kept bytes or in the kernel. Bytes are consumed from the reactor's
scratch; the gather is flushed before the scratch is read into again or kept bytes are given back.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp
from fastmesh._core.base.buf cimport block_data, block_len
from fastmesh._core.base.err cimport FM_AGAIN, FM_EHEAD, FM_ENOMEM, FM_EOF, FM_ERESET, FM_OK
from fastmesh._core.base.pool cimport pool_get, pool_put
from fastmesh._core.base.sys cimport close
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.conn cimport (
    CF_HUP, CF_READABLE, CONN_HANDSHAKE, CONN_READ_MIN, CONN_READS_AT_ONCE, CONN_SNIFF, Conn, ConnOps, conn_abort, conn_accept,
    conn_close, conn_close_flushed, conn_deadline, conn_keep, conn_kept_used, conn_read, conn_read_more, conn_said_all, conn_wake)
from fastmesh._core.net.out cimport conn_congested, conn_flush, conn_made, conn_make, conn_put
from fastmesh._core.net.reactor cimport SCRATCH_BYTES
from fastmesh._core.net.sock cimport Addr, sock_reset_on_close
from fastmesh._core.net.tls cimport tls_speaks
from fastmesh._core.net.tls_ctx cimport TLS_ALPN_H1, TLS_ALPN_H2, TLS_ALPN_LINK
from fastmesh._core.proto.h1_body cimport h1_body_feed, h1_body_init, h1_body_request, h1_body_trailers
from fastmesh._core.proto.h1_head cimport h1_names_http, h1_request_head
from fastmesh._core.proto.h2_frame cimport H2_PREFACE_N, h2_preface
from fastmesh._core.proto.h1_write cimport (
    Out, h1_last_chunk_size, h1_write_fields, h1_write_last_chunk, h1_write_status_line, out_bytes, out_hex, out_of)
from fastmesh._core.proto.msg cimport BODY_CHUNKED, BODY_CLOSE, BODY_LENGTH, M_HEAD, MF_CLOSE, MSG_MAX_HEAD, MSG_MAX_HEADERS, Hdr, Msg
from fastmesh._core.proxy.ctx cimport (
    DOWN_H1, OUT_CHUNKED, OUT_CLOSE, OUT_LENGTH, OUT_NONE, S_BODY, S_GONE, S_HEAD, S_TUNNEL, S_WAIT, Down, DownOps, Exchange, H1s, ListenerState,
    Worker)
from fastmesh._core.proxy.down cimport down_begin, down_bytes, down_end, down_handover, down_refused_plain, down_secured, down_unsecured
from fastmesh._core.proxy.entry cimport entry_end, entry_head, entry_refuse
from fastmesh._core.proxy.exchange cimport (
    exchange_down_closed, exchange_down_idle, exchange_new, exchange_request_bad, exchange_request_data,
    exchange_wants_body)
from fastmesh._core.proxy.mux_h2_down cimport h2s_take_over
from fastmesh._core.proxy.overload cimport overload_parts, overload_sheds
from fastmesh._core.proxy.relay cimport relay_full
from fastmesh._core.proxy.respond cimport RE_HEAD_TIMEOUT, RE_NO_CONFIG, RE_OVERLOAD
from fastmesh._core.shm.snapshot cimport SNAP_NONE, TLS_DISABLE, TLS_STRICT
from fastmesh._core.shm.stats cimport ST_CX_CLOSED, ST_CX_OVERFLOW, ST_CX_TOTAL, ST_RQ_BAD, ST_TLS_ACCEPT_FAIL, stat_inc

cdef enum:
    BODY_SPANS = 16
    REQUESTS_AT_ONCE = 32        # pipelined requests answered before the clock is looked at: see CONN_READS_AT_ONCE


cdef ConnOps CONN_OPS
cdef DownOps DOWN_OPS

cdef void h1s_init(Worker *w) noexcept nogil:
    CONN_OPS.ready = s_ready
    CONN_OPS.readable = s_readable
    CONN_OPS.drained = s_drained
    CONN_OPS.failed = s_failed
    CONN_OPS.expired = s_expired
    DOWN_OPS.head = d_head
    DOWN_OPS.data = d_data
    DOWN_OPS.end = d_end
    DOWN_OPS.abort = d_abort
    DOWN_OPS.resume = d_resume
    DOWN_OPS.congested = d_congested
    DOWN_OPS.moved = d_moved
    DOWN_OPS.flush = d_flush
    w.down_conn_ops = &CONN_OPS
    w.h1_down = &DOWN_OPS


# ---- connections -----------------------------------------------------------------------------------------------------------------

cdef void h1s_accept(Worker *w, ListenerState *l, int fd, const Addr *peer) noexcept nogil:
    cdef H1s *s
    stat_inc(w.seg.stats, ST_CX_TOTAL)
    s = <H1s *>pool_get(&w.downs)
    if s == NULL:
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        close(fd)
        return
    # what is accepted without a config cannot become a client of one that may want TLS
    if l.table == SNAP_NONE:
        l = &w.unconfigured
    s.conn = conn_accept(&w.r, fd, peer, l.tls, l.ntls if l.tls_mode != TLS_DISABLE else 0, l.tls_mode == TLS_STRICT, w.down_conn_ops, s)
    if s.conn == NULL:
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        pool_put(&w.downs, s)
        return
    down_begin(<Down *>s, w, l, DOWN_H1)
    # until the first request is there, a connection has to show that it means it
    conn_deadline(s.conn, w.r.now_ms + w.opt.handshake_timeout_ms)


cdef bint h1s_take_over(Down *d) noexcept nogil:
    cdef Worker *w = d.w
    cdef H1s *s = <H1s *>pool_get(&w.downs)
    if s == NULL:
        return False
    down_handover(d, <Down *>s, DOWN_H1)
    s.conn.owner = s
    s.conn.ops = &CONN_OPS
    conn_deadline(s.conn, w.r.now_ms + w.opt.header_timeout_ms)
    conn_wake(s.conn)
    return True


cdef void s_gone(H1s *s) noexcept nogil:
    # the codec lets go; the Conn is closed or is closing by itself
    if s.state != S_GONE:
        s.state = S_GONE
        stat_inc(s.w.seg.stats, ST_CX_CLOSED)
        down_end(<Down *>s)


cdef void s_close(H1s *s) noexcept nogil:
    cdef Conn *c = s.conn
    cdef Exchange *ex = s.ex
    if s.state == S_GONE:
        return
    s.ex = NULL
    down_bytes(<Down *>s)
    s_gone(s)
    conn_close(c)
    if ex != NULL:
        exchange_down_closed(ex)


cdef void h1s_sweep(H1s *s) noexcept nogil:
    cdef Conn *c = s.conn
    if s.state == S_HEAD and c.inb == NULL and not c.flags & CF_READABLE:
        down_bytes(<Down *>s)
        s_gone(s)
        conn_close_flushed(c, False)  # an answer may still be on its way


cdef void h1s_cut(H1s *s) noexcept nogil:
    if s.ex != NULL and s.out == OUT_CLOSE:
        s.conn.flags |= CF_HUP   # this client would take a close in order for the end of the answer
        sock_reset_on_close(s.conn.src.fd)
    s_close(s)


cdef void s_ready(Conn *c) noexcept nogil:
    cdef H1s *s = <H1s *>c.owner
    cdef int speaks
    down_secured(<Down *>s)
    if c.tls != NULL:
        speaks = tls_speaks(c.tls)
        if speaks == TLS_ALPN_H2 or speaks == TLS_ALPN_LINK:
            s_to_h2(s, NULL, 0, speaks == TLS_ALPN_LINK)
            return
    conn_deadline(c, s.w.r.now_ms + s.w.opt.header_timeout_ms)
    if c.flags & CF_READABLE:
        s_readable(c)


cdef void s_to_h2(H1s *s, const char *p, uint32_t n, bint link) noexcept nogil:
    # p[0:n]: what was read and is not kept yet
    cdef Conn *c = s.conn
    if conn_keep(c, p, n) != FM_OK or not h2s_take_over(<Down *>s, link):
        stat_inc(s.w.seg.stats, ST_CX_OVERFLOW)
        s_close(s)
        return
    s.state = S_GONE


cdef int s_preface(const H1s *s, const char *p, uint32_t n) noexcept nogil:
    # 1: HTTP/2's, whole; FM_AGAIN: as far as it goes; 0: no. No request begins like it, so the first bytes decide without a timer.
    if s.requests or p[0] != 80 or memcmp(p, h2_preface(), n if n < H2_PREFACE_N else H2_PREFACE_N) != 0:  # 'P'
        return 0
    if s.conn.tls != NULL and tls_speaks(s.conn.tls) == TLS_ALPN_H1:
        return 0                 # it has agreed on something else
    return 1 if n >= H2_PREFACE_N else FM_AGAIN


cdef void s_failed(Conn *c, int code) noexcept nogil:
    cdef H1s *s = <H1s *>c.owner
    down_unsecured(c, s.w, code)
    s_close(s)


cdef void s_expired(Conn *c) noexcept nogil:
    cdef H1s *s = <H1s *>c.owner
    if c.state == CONN_HANDSHAKE or c.state == CONN_SNIFF:
        stat_inc(s.w.seg.stats, ST_TLS_ACCEPT_FAIL)
        s_close(s)
    elif conn_congested(c) and c.wrote_ms + s.w.opt.stream_idle_timeout_ms > s.w.r.now_ms:
        conn_deadline(c, c.wrote_ms + s.w.opt.stream_idle_timeout_ms)  # it reads, if slowly
    elif s.state == S_HEAD:
        if c.inb != NULL and not conn_congested(c):
            s_refuse(s, RE_HEAD_TIMEOUT)
        else:
            s_close(s)
    elif s.state == S_TUNNEL or s.ex == NULL:
        s_close(s)
    else:
        exchange_down_idle(s.ex)


cdef void s_next(H1s *s) noexcept nogil:
    # between requests: what has come already is read at the end of the turn
    if s.conn.inb != NULL or s.conn.flags & (CF_READABLE | CF_HUP):
        conn_wake(s.conn)


cdef void s_drained(Conn *c) noexcept nogil:
    cdef H1s *s = <H1s *>c.owner
    if s.ex != NULL and s.ex.up != NULL:
        s.ex.uops.resume(s.ex)
    elif s.state == S_HEAD:
        conn_deadline(c, s.w.r.now_ms + s.w.opt.idle_timeout_ms)
        s_next(s)


cdef inline void s_flush(H1s *s) noexcept nogil:
    # everything that was collected, whichever side it is for
    if s.w.r.g.conn != NULL:
        if s.ex != NULL and s.ex.up != NULL:
            s.ex.uops.flush(s.ex)
        if s.w.r.g.conn != NULL:
            conn_flush(<Conn *>s.w.r.g.conn)


# ---- requests --------------------------------------------------------------------------------------------------------------------

cdef void s_begin(H1s *s, Exchange *ex) noexcept nogil:
    ex.security = s.security
    ex.tls = s.conn.tls
    ex.peer = s.peer
    ex.peer_addr = s.conn.peer
    ex.called = s.conn.called
    ex.minor = s.minor
    s.ex = ex
    s.requests += 1
    s.close = 0
    conn_deadline(s.conn, s.w.r.now_ms + s.w.opt.stream_idle_timeout_ms)


cdef void s_refuse(H1s *s, int code) noexcept nogil:
    # an answer to what is not a request; the connection ends with it
    cdef Exchange *ex = exchange_new(s.w, s.w.h1_down, s, s.listener)
    if ex == NULL:
        s_close(s)
        return
    s.minor = 1
    s_begin(s, ex)
    s.close = 1
    s.state = S_BODY             # what follows is not read any more
    h1_body_init(&s.body, BODY_CLOSE, -1)
    entry_refuse(ex, NULL, code)


cdef int s_request(H1s *s, char *p, uint32_t n) noexcept nogil:
    # bytes of the head that was taken, 0: more is needed, -1: the connection is on its way out
    cdef Worker *w = s.w
    cdef Msg *m = &w.req
    cdef Exchange *ex
    cdef bint shed
    cdef int rc = s_preface(s, p, n)
    if rc == 1:
        s_to_h2(s, p, n if s.conn.inb == NULL else 0, False)
        return -1
    if rc == 0:
        rc = h1_request_head(p, n, s.seen, m)
    if rc == FM_AGAIN:
        if s.seen == 0:
            conn_deadline(s.conn, w.r.now_ms + w.opt.header_timeout_ms)
        s.seen = n
        return 0
    s.seen = 0
    if rc < 0:
        if s.requests == 0 and not h1_names_http(p, n):
            stat_inc(w.seg.stats, ST_RQ_BAD)
            s_close(s)           # another protocol (a broken HTTP/2 preface, say): an answer in HTTP/1.1 would be noise to it
        else:
            s_refuse(s, rc)
        return -1
    if s.listener.table == SNAP_NONE:
        s_refuse(s, RE_NO_CONFIG)
        return -1
    if down_refused_plain(<Down *>s):
        s_close(s)
        return -1
    shed = overload_sheds(w)
    ex = exchange_new(w, w.h1_down, s, s.listener)
    if ex == NULL:
        # the cap is reached and not even an answer can be made: the client sees a closed connection
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        s_close(s)
        return -1
    s.minor = m.minor
    s_begin(s, ex)
    if m.flags & MF_CLOSE or w.draining or overload_parts(w):
        s.close = 1
    h1_body_request(m)
    h1_body_init(&s.body, m.body, m.content_length)
    s.state = S_WAIT if s.body.done else S_BODY
    if shed:
        entry_refuse(ex, m, RE_OVERLOAD)
    else:
        s.w.asking = s.conn
        entry_head(ex, m, s.listener)
    return rc


cdef uint32_t s_consume(H1s *s, char *p, uint32_t n) noexcept nogil:
    # how much of p[0:n] is used up; the rest waits (incomplete, or not wanted yet). s.state tells what became of it.
    cdef Slice spans[BODY_SPANS]
    cdef Hdr trailers[MSG_MAX_HEADERS]
    cdef uint32_t at = 0
    cdef uint32_t requests = 0
    cdef int rc, ns, nt
    while at < n:
        if s.state == S_HEAD:
            if requests == REQUESTS_AT_ONCE or relay_full(s.w, s.conn):
                return at
            rc = s_request(s, p + at, n - at)
            if rc <= 0:
                return at
            at += rc
            requests += 1
        elif s.state == S_BODY:
            if s.ex == NULL or not exchange_wants_body(s.ex):
                return at
            ns = 0
            rc = h1_body_feed(&s.body, p + at, n - at, spans, &ns, BODY_SPANS)
            if rc < 0:
                exchange_request_bad(s.ex, rc)
                return at
            at += rc
            if ns:
                exchange_request_data(s.ex, spans, ns)
            if s.body.done:
                nt = 0
                if s.body.has_trailers:
                    nt = h1_body_trailers(p + at - s.body.line_n, s.body.line_n, trailers, MSG_MAX_HEADERS)
                if s.state == S_BODY:
                    s.state = S_WAIT
                if s.ex != NULL:
                    entry_end(s.ex, trailers, nt if nt > 0 else 0)
            elif rc == 0:
                return at
        elif s.state == S_TUNNEL:
            if s.ex == NULL or s.ex.up == NULL or s.ex.uops.congested(s.ex):
                return at
            spans[0].p = p + at
            spans[0].n = n - at
            exchange_request_data(s.ex, spans, 1)
            at = n
        else:
            return at
    return at


cdef bint s_stalled(H1s *s) noexcept nogil:
    # nothing to read for now
    if s.state == S_WAIT or s.state == S_GONE:
        return True
    if s.state == S_BODY:
        return s.ex == NULL or not exchange_wants_body(s.ex)
    if s.state == S_TUNNEL:
        return s.ex == NULL or s.ex.up == NULL or s.ex.uops.congested(s.ex)
    return relay_full(s.w, s.conn)  # who does not read answers gets no further ones: pipelined requests would fill the memory


cdef void s_readable(Conn *c) noexcept nogil:
    cdef H1s *s = <H1s *>c.owner
    cdef Worker *w = s.w
    cdef uint32_t used, size
    cdef uint32_t left = CONN_READS_AT_ONCE
    cdef int rc
    while s.state != S_GONE:
        if s_stalled(s):
            # Envoy and nginx do the same: a client that has closed while its answer is outstanding is gone, unless it has more to say
            if c.flags & CF_HUP and s.state == S_WAIT and c.inb == NULL and conn_said_all(c):
                s_close(s)
            break
        if left == 0:
            conn_wake(c)
            break
        left -= 1
        if c.inb != NULL:
            used = s_consume(s, block_data(c.inb) + c.inb.start, block_len(c.inb))
            s_flush(s)
            if s.state == S_GONE:
                break
            if used:
                conn_kept_used(c, used)
                continue
            if s_stalled(s):
                continue
            if not c.flags & CF_READABLE:
                break
            rc = conn_read_more(c, MSG_MAX_HEAD + 1)
        else:
            if not c.flags & CF_READABLE:
                break
            size = c.read_size
            rc = conn_read(c, w.r.scratch, size)
            if rc > 0:
                used = s_consume(s, w.r.scratch, <uint32_t>rc)
                s_flush(s)
                if s.state == S_GONE:
                    break
                if used < <uint32_t>rc and conn_keep(c, w.r.scratch + used, <uint32_t>rc - used) != FM_OK:
                    s_close(s)
                    break
                if <uint32_t>rc == size and size < SCRATCH_BYTES and (s.state == S_BODY or s.state == S_TUNNEL):
                    c.read_size = size * 2  # bulk: fewer, larger reads; of pipelined requests all but one would have to be kept
                elif <uint32_t>rc < CONN_READ_MIN:
                    c.read_size = CONN_READ_MIN
                if s.state == S_BODY or s.state == S_TUNNEL:
                    conn_deadline(c, w.r.now_ms + w.opt.stream_idle_timeout_ms)
                continue
        if rc > 0:
            continue
        if rc == FM_AGAIN:
            break
        if rc == FM_EHEAD and s.state == S_HEAD:
            s_refuse(s, FM_EHEAD)
        else:
            s_close(s)
        break
    s_flush(s)


# ---- answers ---------------------------------------------------------------------------------------------------------------------

cdef int d_head(Exchange *ex, Msg *m) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    cdef uint32_t need = 256 + m.reason.n
    cdef uint32_t i
    cdef char *p
    cdef Out o
    if s == NULL or s.state == S_GONE:
        return FM_EOF
    for i in range(m.nhdr):
        need += m.hdr[i].name_n + m.hdr[i].value_n + 4
    p = conn_make(s.conn, need)
    if p == NULL:
        return FM_ENOMEM
    o = out_of(p, need)
    h1_write_status_line(&o, m.status, m.reason)
    h1_write_fields(&o, m)
    if m.status == 101:
        s.out = OUT_NONE
        s.state = S_TUNNEL
        out_bytes(&o, b"connection: upgrade\r\n", 21)
    elif m.status >= 200:
        if s.state == S_BODY or s.w.draining:
            s.close = 1          # an answer before the request's end: what is left of the request is not worth reading for
        s.head_only = ex.method == M_HEAD or m.status == 204 or m.status == 304
        s.out = OUT_NONE
        s.out_left = 0
        if not s.head_only:
            if m.body == BODY_LENGTH:
                s.out = OUT_LENGTH
                s.out_left = m.content_length
            elif m.body == BODY_CHUNKED or m.body == BODY_CLOSE:
                if s.minor == 1:
                    s.out = OUT_CHUNKED
                    out_bytes(&o, b"transfer-encoding: chunked\r\n", 28)
                else:
                    s.out = OUT_CLOSE
                    s.close = 1
        if s.close:
            out_bytes(&o, b"connection: close\r\n", 19)
        elif s.minor == 0:
            out_bytes(&o, b"connection: keep-alive\r\n", 24)
    out_bytes(&o, b"\r\n", 2)
    if o.full:
        return FM_EHEAD
    conn_made(s.conn, <uint32_t>(o.p - p))
    return FM_OK


cdef int d_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    cdef uint64_t total = 0
    cdef char *p
    cdef Out o
    cdef int i
    if s == NULL or s.state == S_GONE:
        return FM_EOF
    if s.head_only and s.state != S_TUNNEL:
        return FM_OK
    for i in range(n):
        total += v[i].n
    if total == 0:
        return FM_OK
    if s.state != S_TUNNEL and s.out == OUT_CHUNKED:
        p = conn_make(s.conn, 20)
        if p == NULL:
            return FM_ENOMEM
        o = out_of(p, 20)
        out_hex(&o, total)
        out_bytes(&o, b"\r\n", 2)
        conn_made(s.conn, <uint32_t>(o.p - p))
    elif s.out == OUT_LENGTH:
        s.out_left -= <int64_t>total
    for i in range(n):
        conn_put(s.conn, v[i].p, v[i].n)
    if s.state != S_TUNNEL and s.out == OUT_CHUNKED:
        conn_put(s.conn, b"\r\n", 2)
    return FM_OK


cdef int put_last_chunk(Conn *c, const Hdr *t, int n) noexcept nogil:
    cdef uint32_t need = h1_last_chunk_size(t, n)
    cdef char *p = conn_make(c, need)
    cdef Out o = out_of(p, need)
    if p == NULL:
        return FM_ENOMEM
    h1_write_last_chunk(&o, t, n)
    conn_made(c, <uint32_t>(o.p - p))
    return FM_OK


cdef int d_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    cdef Conn *c
    cdef bint linger
    if s == NULL or s.state == S_GONE:
        return FM_EOF
    c = s.conn
    s.ex = NULL
    if s.out == OUT_CHUNKED and not s.head_only:
        put_last_chunk(c, trailers, n)
    conn_flush(c)
    down_bytes(<Down *>s)
    if s.out == OUT_LENGTH and s.out_left != 0:
        s_gone(s)                # promised more than came: never let it look complete
        conn_abort(c)
        return FM_ERESET
    if s.close or s.state == S_BODY or s.state == S_TUNNEL:
        # what came and is not read would make close() a reset, which takes the answer with it
        linger = not s.body.done or s.state == S_TUNNEL or c.inb != NULL
        s_gone(s)
        conn_close_flushed(c, linger)
        return FM_OK
    s.state = S_HEAD
    c.read_size = CONN_READ_MIN
    conn_deadline(c, s.w.r.now_ms + (s.w.opt.stream_idle_timeout_ms if conn_congested(c) else s.w.opt.idle_timeout_ms))
    s_next(s)
    return FM_OK


cdef void d_abort(Exchange *ex) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    cdef Conn *c
    if s == NULL or s.state == S_GONE:
        return
    c = s.conn
    s.ex = NULL
    down_bytes(<Down *>s)
    if s.out == OUT_CLOSE:
        s_gone(s)                # only a reset tells this client that it is not the end
        conn_abort(c)
        return
    if <Conn *>s.w.r.g.conn == c:
        conn_flush(c)
    s_gone(s)
    conn_close_flushed(c, False)


cdef void d_resume(Exchange *ex) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    if s != NULL and s.state != S_GONE and (s.conn.inb != NULL or s.conn.flags & CF_READABLE):
        conn_wake(s.conn)


cdef bint d_congested(Exchange *ex) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    return s != NULL and s.state != S_GONE and relay_full(s.w, s.conn)


cdef void d_moved(Exchange *ex) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    if s != NULL and s.state != S_GONE:
        conn_deadline(s.conn, s.w.r.now_ms + s.w.opt.stream_idle_timeout_ms)


cdef void d_flush(Exchange *ex) noexcept nogil:
    cdef H1s *s = <H1s *>ex.down
    if s != NULL and s.state != S_GONE:
        conn_flush(s.conn)
