"""TCP sessions (L3). See tcp.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastmesh._core.base.buf cimport block_data, block_free, block_len
from fastmesh._core.base.err cimport FM_AGAIN, FM_EHEAD, FM_EOF, FM_ERESET, FM_OK
from fastmesh._core.base.pool cimport pool_get, pool_put
from fastmesh._core.base.sys cimport close
from fastmesh._core.base.timer cimport timer_del
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport (
    CF_BLOCKED, CF_FIN, CF_HUP, CF_READABLE, CONN_HANDSHAKE, CONN_OPEN, CONN_READ_MIN, CONN_READS_AT_ONCE, CONN_SNIFF, Conn, ConnOps, conn_abort,
    conn_accept, conn_close, conn_deadline, conn_end_output, conn_keep, conn_kept_used, conn_read, conn_read_more, conn_wake)
from fastmesh._core.net.out cimport conn_flush, conn_put
from fastmesh._core.net.reactor cimport SCRATCH_BYTES
from fastmesh._core.net.sock cimport Addr, sock_error, sock_reset_on_close
from fastmesh._core.net.splice cimport Pipe, pipe_give, pipe_take, splice_in, splice_out
from fastmesh._core.net.tls cimport tls_resumed
from fastmesh._core.policy.outlier cimport OUT_OK
from fastmesh._core.proto.tls_hello cimport HELLO_MOST, HELLO_WIRE_MOST, TlsHello, tls_hello
from fastmesh._core.proxy.capture cimport (
    CAP_FAILED, CAP_GO, CAP_HTTP, CAP_IDLE, CAP_LATE, CAP_OVER, CAP_ROUTE, CAP_WAIT, capture_answered, capture_begin, capture_failed,
    capture_heard, capture_late)
from fastmesh._core.proxy.ctx cimport (
    DOWN_TCP, TF_DOWN_EOF, TF_GUESSED, TF_SNIFF, TF_UP_EOF, TS_CONNECT, TS_GONE, TS_HELLO, TS_OPEN, Down, ListenerState, Tcp, Worker)
from fastmesh._core.proxy.down cimport down_begin, down_end, down_secured, down_unsecured
from fastmesh._core.proxy.overload cimport overload_sheds
from fastmesh._core.proxy.relay cimport relay_full
from fastmesh._core.proxy.tcp_dial cimport TcpWhy, tcp_dial, tcp_dial_again, tcp_judge, tcp_leave, tcp_route
from fastmesh._core.proxy.tcp_log cimport tcp_log_moved, tcp_log_opened, tcp_log_over, tcp_log_tell
from fastmesh._core.proxy.upstream cimport upstream_dial_failed
from fastmesh._core.shm.snapshot cimport LF_SNI, L_GATEWAY, L_INBOUND, L_OUTBOUND, SNAP_NONE, TLS_DISABLE, TLS_STRICT
from fastmesh._core.shm.stats cimport (
    DIR_GATEWAY, DIR_INBOUND, DIR_OUTBOUND, RF_DC, RF_DPE, RF_DT, RF_OM, RF_SI, RF_UC, RF_UF, ST_CX_CLOSED, ST_CX_OVERFLOW, ST_CX_PORT_REFUSED,
    ST_CX_TOTAL, ST_PAUSES, ST_TCP_AGE, ST_TCP_CONNECT_FAIL, ST_TCP_DOWN_RESET, ST_TCP_HELLO_BAD, ST_TCP_HELLO_LATE, ST_TCP_IDLE, ST_TCP_OVERLOAD, ST_TCP_SPLICED,
    ST_TCP_TOTAL, ST_TCP_UP_RESET, ST_TLS_ACCEPT_FAIL, ST_TLS_CONNECT, ST_TLS_CONNECT_RESUMED, ST_UP_CX_TIMEOUT, stat_add, stat_inc)

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

cdef void tcp_accept(Worker *w, ListenerState *l, int fd, const Addr *peer, const Addr *called) noexcept nogil:
    cdef bint elsewhere = called.family and not (l.kind == L_INBOUND and called.port == l.app_port)
    cdef bint shed
    cdef Tcp *t
    stat_inc(w.seg.stats, ST_CX_TOTAL)
    if elsewhere and l.tls_mode == TLS_STRICT:
        stat_inc(w.seg.stats, ST_CX_PORT_REFUSED)  # nobody there speaks the mesh's TLS for this port, and plaintext does not get in
        sock_reset_on_close(fd)
        close(fd)
        return
    t = <Tcp *>pool_get(&w.tcps)
    if t == NULL:
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        close(fd)
        return
    t.conn = conn_accept(&w.r, fd, peer, l.tls, l.ntls if l.tls_mode != TLS_DISABLE and not elsewhere else 0, l.tls_mode == TLS_STRICT,
                         w.tcp_down_ops, t)
    if t.conn == NULL:
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        pool_put(&w.tcps, t)
        return
    t.conn.called = called[0]
    down_begin(<Down *>t, w, l, DOWN_TCP)
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
    shed = overload_sheds(w)
    if elsewhere and l.kind == L_OUTBOUND and not shed:
        found(t, capture_begin(t), slice_of(NULL, 0))
        return
    stat_inc(w.seg.stats, ST_TCP_TOTAL)
    if shed:
        broken(t, RF_OM, ST_TCP_OVERLOAD, b"overload")
    elif t.conn.state == CONN_OPEN and not l.flags & LF_SNI:
        route(t, slice_of(NULL, 0))  # at once: it may be the upstream that speaks first
    else:
        conn_deadline(t.conn, w.r.now_ms + w.opt.handshake_timeout_ms)


cdef void finish(Tcp *t, bint orderly) noexcept nogil:
    cdef Worker *w = t.w
    cdef Conn *down = t.conn
    cdef Conn *up = t.up
    if t.state == TS_GONE:
        return
    t.state = TS_GONE
    timer_del(&w.r.wheel, &t.age)
    timer_del(&w.r.wheel, &t.tell)
    if t.flags & TF_SNIFF:
        block_free(&w.r.bufs, t.names)  # it has not become a session
        t.names = NULL
    else:
        tcp_log_over(t)
    tcp_leave(t)
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


cdef void refuse(Tcp *t, const TcpWhy *why) noexcept nogil:
    broken(t, why.rf, why.counter, why.details)


cdef void tcp_cut(Tcp *t) noexcept nogil:
    t.details = b"proxy_stopped"
    finish(t, False)


cdef void tcp_sweep(Tcp *t) noexcept nogil:
    if t.flags & TF_SNIFF and t.state == TS_HELLO and t.conn.inb == NULL and not t.conn.flags & CF_READABLE:
        finish(t, True)


cdef void on_age(void *arg, uint64_t now_ms) noexcept nogil:
    broken(<Tcp *>arg, RF_DT, ST_TCP_AGE, b"max_connection_duration")


cdef void on_tell(void *arg, uint64_t now_ms) noexcept nogil:
    tcp_log_tell(<Tcp *>arg)


# ---- route and dial --------------------------------------------------------------------------------------------------------------

cdef void route(Tcp *t, Slice name) noexcept nogil:
    cdef TcpWhy why
    conn_deadline(t.conn, 0)
    if tcp_route(t, name, &why) and tcp_dial(t, &why):
        t.state = TS_CONNECT
    else:
        refuse(t, &why)


cdef void undialled(Tcp *t, const char *details) noexcept nogil:
    cdef TcpWhy why
    cdef Conn *up = t.up
    cdef bint again
    if t.flags & TF_SNIFF:
        capture_failed(t)
        conn_close(up)
        return
    again = tcp_dial_again(t, &why, details)
    if t.up != up:
        conn_close(up)
    if not again:
        refuse(t, &why)


cdef void found(Tcp *t, int what, Slice name) noexcept nogil:
    # what a redirected connection turned out to be
    if what == CAP_WAIT or what == CAP_HTTP:
        return
    t.flags &= ~<uint8_t>TF_SNIFF
    stat_inc(t.w.seg.stats, ST_TCP_TOTAL)
    conn_deadline(t.conn, 0)
    if what == CAP_ROUTE:
        t.tries = 0
        t.last_cell = SNAP_NONE
        route(t, name)
    elif what == CAP_GO:
        t.state = TS_CONNECT
        if t.flags & TF_GUESSED:
            connected(t)
    elif what == CAP_OVER:
        broken(t, RF_DC, ST_TCP_DOWN_RESET, b"downstream_remote_reset")
    elif what == CAP_FAILED:
        broken(t, RF_UF, ST_TCP_CONNECT_FAIL, b"remote_connection_failure")
    elif what == CAP_IDLE:
        broken(t, RF_SI, ST_TCP_IDLE, b"idle_timeout")
    elif what == CAP_LATE:
        broken(t, RF_DT, ST_TCP_HELLO_LATE, b"nothing_said")
    else:
        broken(t, RF_OM, ST_TCP_OVERLOAD, b"overload")


# ---- the upstream's events -------------------------------------------------------------------------------------------------------

cdef void up_ready(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    conn_deadline(c, 0)
    if not t.flags & TF_SNIFF:
        connected(t)
        return
    t.flags |= TF_GUESSED
    if c.flags & CF_READABLE:
        found(t, capture_answered(t), slice_of(NULL, 0))


cdef void connected(Tcp *t) noexcept nogil:
    cdef Worker *w = t.w
    cdef Conn *c = t.up
    if c.tls != NULL:
        stat_inc(w.seg.stats, ST_TLS_CONNECT)
        if tls_resumed(c.tls):
            stat_inc(w.seg.stats, ST_TLS_CONNECT_RESUMED)
    tcp_judge(t, OUT_OK, w.r.now_ns - t.t_dial)
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
    elif t.flags & TF_SNIFF and t.flags & TF_GUESSED:
        found(t, capture_answered(t), slice_of(NULL, 0))


cdef void up_drained(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    moved(t)
    if settled(t):
        return
    down_readable(t.conn)


cdef void up_failed(Conn *c, int code) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if t.state == TS_CONNECT or (t.flags & TF_SNIFF and not t.flags & TF_GUESSED):
        upstream_dial_failed(t.w, c, code)
        undialled(t, b"remote_connection_failure|TLS_error" if c.tls_failure else b"remote_connection_failure")
        return
    if t.flags & TF_SNIFF:
        found(t, CAP_GO, slice_of(NULL, 0))
    broken(t, RF_UC, ST_TCP_UP_RESET, b"upstream_remote_reset")


cdef void up_expired(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if t.state == TS_CONNECT or t.flags & TF_SNIFF:
        stat_inc(t.w.seg.stats, ST_UP_CX_TIMEOUT)
        undialled(t, b"connection_timeout")


# ---- the client's events ---------------------------------------------------------------------------------------------------------

cdef void down_ready(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    down_secured(<Down *>t)
    route(t, slice_of(NULL, 0))


cdef void down_readable(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    if t.state == TS_HELLO and t.flags & TF_SNIFF:
        heard(t)
    elif t.state == TS_HELLO:
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
    if t.flags & TF_SNIFF:
        found(t, CAP_OVER, slice_of(NULL, 0))
        return
    broken(t, RF_DC, ST_TCP_DOWN_RESET, b"downstream_remote_reset")


cdef void down_expired(Conn *c) noexcept nogil:
    cdef Tcp *t = <Tcp *>c.owner
    cdef uint64_t last
    if t.flags & TF_SNIFF:
        found(t, capture_late(t), slice_of(NULL, 0))
        return
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


cdef void heard(Tcp *t) noexcept nogil:
    cdef char whole[HELLO_MOST]
    cdef Slice name
    cdef int what = capture_heard(t, whole, &name)
    found(t, what, name)


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
                broken(t, RF_OM, ST_TCP_OVERLOAD, b"overload")
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
        broken(t, RF_DPE, ST_TCP_HELLO_BAD, b"client_hello_too_large" if rc == FM_EHEAD else b"no_client_hello")
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
