"""One active health check on its connection (L3). See healthcall.pxd.

    CONNECT -> HEAD -> BODY        and whatever happens is told to healthcheck_over

HTTP/2's events come in the middle of a frame, where a connection must not end: they only note the result; the end of the turn acts on it.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from fastmesh._core.base.buf cimport block_data, block_len
from fastmesh._core.base.err cimport FM_AGAIN, FM_EOF, FM_OK
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport (
    CF_READABLE, CONN_READ_MIN, CONN_READS_AT_ONCE, Conn, ConnOps, conn_keep, conn_kept_used, conn_read, conn_read_more, conn_wake)
from fastmesh._core.net.out cimport conn_flush, conn_made, conn_make
from fastmesh._core.net.tls cimport TLS_ALPN_H2, TLS_ALPN_LINK, TLS_ALPN_OTHER, tls_speaks
from fastmesh._core.net.tls_ctx cimport tls_ctx_offers
from fastmesh._core.proto.grpc cimport GRPC_OK, GRPC_TIMEOUT_BYTES, grpc_request, grpc_status_parse, grpc_timeout_write
from fastmesh._core.proto.grpc_health cimport GRPC_HEALTH_MORE, GRPC_HEALTH_SERVING, grpc_health_request, grpc_health_status
from fastmesh._core.proto.h1_body cimport h1_body_eof, h1_body_feed, h1_body_init, h1_body_response
from fastmesh._core.proto.h1_head cimport h1_response_head
from fastmesh._core.proto.h1_write cimport Out, h1_write_fields, h1_write_request_line, out_bytes, out_of
from fastmesh._core.proto.h2_limits cimport H2_CONN_WINDOW, H2_MAX_STREAMS, H2_STREAM_WINDOW
from fastmesh._core.proto.h2_frame cimport H2_NO_ERROR
from fastmesh._core.proto.h2_send cimport h2_credit, h2_open, h2_send_data, h2_send_head
from fastmesh._core.proto.h2_stream cimport H2, H2Limits, H2Ops, H2Stream
from fastmesh._core.proto.msg cimport (
    H_CONTENT_TYPE, H_GRPC_STATUS, H_GRPC_TIMEOUT, H_HOST, H_USER_AGENT, M_GET, M_POST, MF_HTTPS, MF_TE_TRAILERS, MSG_MAX_HEAD, Hdr, Msg,
    msg_reset)
from fastmesh._core.proxy.ctx cimport (
    KR_FAIL, KR_NETWORK, KR_NONE, KR_PASS, KS_BODY, KS_CONNECT, KS_GONE, KS_HEAD, H2Io, H2IoOps, HealthCheck, Worker)
from fastmesh._core.proxy.forward cimport msg_add
from fastmesh._core.proxy.h2_io cimport h2_io_begin, h2_io_kick, h2_io_out, h2_io_read, h2_io_release
from fastmesh._core.proxy.healthcheck cimport healthcheck_give_up, healthcheck_over
from fastmesh._core.shm.snapshot cimport (
    CL_H2, HK_GRPC, HK_TCP, SNAP_MAX_NAME, Snap, SnapCluster, SnapHealth, snap_at, snap_cluster, snap_str)

cdef enum:
    MS = 1000000                 # ns
    INTERIM_MOST = 32            # 1xx answers to one check
    BODY_SPANS = 16
    HEAD_MORE = 256              # bytes of a request head beside path and host
    BODY_MOST = 65536            # bytes of an answer's body that are read: what the status says stands then
    MESSAGE_MOST = 64            # bytes of a gRPC answer: the status takes 7

cdef ConnOps CONN_OPS
cdef H2Ops EVENTS
cdef H2IoOps IO_OPS


cdef void healthcall_init() noexcept nogil:
    CONN_OPS.ready = on_ready
    CONN_OPS.readable = on_readable
    CONN_OPS.drained = on_drained
    CONN_OPS.failed = on_failed
    CONN_OPS.expired = on_expired
    EVENTS.head = on_head
    EVENTS.data = on_data
    EVENTS.trailers = on_trailers
    EVENTS.reset = on_reset
    EVENTS.writable = on_writable
    EVENTS.goaway = on_goaway
    EVENTS.settings = on_settings
    IO_OPS.stream = io_stream
    IO_OPS.over = io_over
    IO_OPS.turn = io_turn


cdef const ConnOps *healthcall_ops() noexcept nogil:
    return &CONN_OPS


# ---- what an answer is worth -----------------------------------------------------------------------------------------------------------

cdef bint as_expected(const Snap *s, const SnapHealth *k, uint32_t status) noexcept nogil:
    cdef const uint32_t *ranges = <const uint32_t *>snap_at(s, k.expected.off)
    cdef uint32_t i
    if k.expected.n == 0:
        return status == 200
    for i in range(0, k.expected.n, 2):
        if ranges[i] <= status <= ranges[i + 1]:
            return True
    return False


cdef int judged(const HealthCheck *h) noexcept nogil:
    """KR_* of an answer that is complete."""
    cdef const SnapCluster *c
    if h.kind == HK_GRPC:
        if h.status == 200 and h.grpc == GRPC_OK + 1 and h.body_n <= MESSAGE_MOST and (
                grpc_health_status(h.message, h.body_n) == GRPC_HEALTH_SERVING):
            return KR_PASS
        return KR_FAIL
    c = snap_cluster(&h.io.w.snap, h.cluster)
    return KR_PASS if c != NULL and as_expected(&h.io.w.snap, &c.health, h.status) else KR_FAIL


# ---- the connection --------------------------------------------------------------------------------------------------------------------

cdef inline bint tls_only_h2(const Worker *w, const SnapCluster *c) noexcept nogil:
    return tls_ctx_offers(w.tls[c.tls], b"h2", 2) and not tls_ctx_offers(w.tls[c.tls], b"http/1.1", 8)


cdef void on_ready(Conn *c) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>c.owner
    cdef Worker *w = h.io.w
    cdef const SnapCluster *k = snap_cluster(&w.snap, h.cluster)
    cdef int speaks
    if h.kind == HK_TCP:
        healthcheck_over(h, KR_PASS)
        return
    if k == NULL:
        healthcheck_give_up(h)               # cannot be: healthcheck_config gave it up
        return
    if c.tls != NULL:
        speaks = tls_speaks(c.tls)
        if speaks == TLS_ALPN_OTHER or k.tls >= w.ntls:
            healthcheck_over(h, KR_NETWORK)
            return
        h.h2 = speaks == TLS_ALPN_H2 or speaks == TLS_ALPN_LINK or tls_only_h2(w, k)
        if h.kind == HK_GRPC and not h.h2:
            healthcheck_over(h, KR_NETWORK)  # it does not speak what gRPC is spoken in
            return
    else:
        h.h2 = h.kind == HK_GRPC or k.flags & CL_H2 != 0
    h.state = KS_HEAD
    if not (ask_h2(h, k) if h.h2 else ask_h1(h, k)):
        healthcheck_give_up(h)               # no memory, or the other side takes no head of this size
        return
    if c.flags & CF_READABLE:
        conn_wake(c)             # it spoke before we did (or, with TLS, may have): that edge has been seen


cdef void on_failed(Conn *c, int code) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>c.owner
    if h.state != KS_CONNECT and not h.h2:
        # it would not take the request, but it may have answered before
        c.flags |= CF_READABLE
        read_h1(h)
    healthcheck_over(h, h.result if h.result else KR_NETWORK)


cdef void on_expired(Conn *c) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>c.owner
    healthcheck_over(h, h.result if h.result else KR_NETWORK)


cdef void on_readable(Conn *c) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>c.owner
    if h.state == KS_CONNECT:
        return
    if h.h2:
        h2_io_read(&h.io)
    else:
        read_h1(h)


cdef void on_drained(Conn *c) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>c.owner
    if h.h2 and h.state != KS_CONNECT:
        h2_io_out(&h.io)


# ---- the request -----------------------------------------------------------------------------------------------------------------------

cdef inline bint speaks_link(const HealthCheck *h) noexcept nogil:
    return h.io.conn.tls != NULL and tls_speaks(h.io.conn.tls) == TLS_ALPN_LINK


cdef int write_head(const HealthCheck *h, const SnapCluster *c, Msg *m, char *timeout) noexcept nogil:
    """timeout: GRPC_TIMEOUT_BYTES that the head points into."""
    cdef const Snap *s = &h.io.w.snap
    cdef Slice host = snap_str(s, c.health.host)
    cdef bint link = h.h2 and speaks_link(h)
    cdef int rc
    msg_reset(m, 0)
    if host.n == 0:
        host = snap_str(s, c.service if c.service.n else c.name)
    # Over a link the other side's application gets what this says to be: HTTP/1.1, which it surely speaks unless something says HTTP/2.
    m.minor = 2 if h.h2 and not (link and h.kind != HK_GRPC and not c.flags & CL_H2) else 1
    if h.h2 and h.io.conn.tls != NULL and not link:
        m.flags |= MF_HTTPS      # between sidecars the scheme is the application's
    rc = msg_add(m, b"host", 4, host.p, host.n, H_HOST)
    if rc == FM_OK:
        rc = msg_add(m, b"user-agent", 10, b"fastmesh-hc", 11, H_USER_AGENT)
    if h.kind != HK_GRPC:
        m.method = M_GET
        m.method_name = slice_of(b"GET", 3)
        m.target = snap_str(s, c.health.path)
        return rc
    m.method = M_POST
    m.method_name = slice_of(b"POST", 4)
    m.target = slice_of(b"/grpc.health.v1.Health/Check", 28)
    m.flags |= MF_TE_TRAILERS
    if rc == FM_OK:
        rc = msg_add(m, b"content-type", 12, b"application/grpc", 16, H_CONTENT_TYPE)
    if rc == FM_OK:
        rc = msg_add(m, b"grpc-timeout", 12, timeout, grpc_timeout_write(<uint64_t>c.health.timeout_ms * MS, timeout), H_GRPC_TIMEOUT)
    return rc


cdef bint ask_h1(HealthCheck *h, const SnapCluster *c) noexcept nogil:
    cdef Msg *m = &h.io.w.again
    cdef uint32_t need
    cdef char *p
    cdef Out o
    if write_head(h, c, m, NULL) != FM_OK:
        return False
    need = m.target.n + m.hdr[0].value_n + HEAD_MORE
    p = conn_make(h.io.conn, need)
    if p == NULL:
        return False
    o = out_of(p, need)
    h1_write_request_line(&o, m, m.target)
    h1_write_fields(&o, m)
    out_bytes(&o, b"connection: close\r\n\r\n", 21)
    if o.full:
        return False
    conn_made(h.io.conn, <uint32_t>(o.p - p))
    conn_flush(h.io.conn)
    return True


cdef bint ask_h2(HealthCheck *h, const SnapCluster *c) noexcept nogil:
    cdef Worker *w = h.io.w
    cdef char timeout[GRPC_TIMEOUT_BYTES]
    cdef char body[SNAP_MAX_NAME + GRPC_HEALTH_MORE]
    cdef H2Limits limits
    cdef H2Stream *st
    cdef Slice v
    limits.max_streams = H2_MAX_STREAMS
    limits.stream_window = H2_STREAM_WINDOW
    limits.conn_window = H2_CONN_WINDOW
    h2_io_begin(&h.io, w, h.io.conn, h, &IO_OPS, &EVENTS, False, speaks_link(h), &limits, &w.resp)
    st = h2_open(&h.io.h)
    if st == NULL:
        return False
    st.owner = h
    if write_head(h, c, &w.again, timeout) != FM_OK or h2_send_head(st, &w.again, h.kind != HK_GRPC) != FM_OK:
        return False
    if h.kind == HK_GRPC:
        v = slice_of(body, grpc_health_request(body, snap_str(&w.snap, c.health.service)))
        if h2_send_data(st, &v, 1, True) != FM_OK:
            return False
    h2_io_kick(&h.io)
    return True


# ---- an HTTP/1 answer ------------------------------------------------------------------------------------------------------------------

cdef uint32_t consume(HealthCheck *h, char *p, uint32_t n) noexcept nogil:
    """How much of p[0:n] is used up; the check may be over."""
    cdef Slice spans[BODY_SPANS]
    cdef Msg *m = &h.io.w.resp
    cdef uint32_t at = 0
    cdef int rc, ns, i
    while at < n:
        if h.state == KS_HEAD:
            rc = h1_response_head(p + at, n - at, h.seen, m)
            if rc == FM_AGAIN:
                h.seen = n - at
                return at
            h.seen = 0
            if rc < 0:
                healthcheck_over(h, KR_NETWORK)
                return n
            at += rc
            h.status = m.status
            if m.status == 101:
                healthcheck_over(h, KR_FAIL)
                return n
            if m.status < 200:
                h.interim += 1
                if h.interim > INTERIM_MOST:
                    healthcheck_over(h, KR_NETWORK)
                    return n
                continue
            h1_body_response(m, M_GET)
            h1_body_init(&h.body, m.body, m.content_length)
            h.state = KS_BODY
        else:
            ns = 0
            rc = h1_body_feed(&h.body, p + at, n - at, spans, &ns, BODY_SPANS)
            if rc < 0:
                healthcheck_over(h, KR_NETWORK)
                return n
            at += rc
            for i in range(ns):
                h.body_n += spans[i].n
            if rc == 0:
                return at
        if h.body.done or h.body_n > BODY_MOST:
            healthcheck_over(h, judged(h))
            return n
    return at


cdef void read_h1(HealthCheck *h) noexcept nogil:
    cdef Conn *c = h.io.conn
    cdef Worker *w = h.io.w
    cdef uint32_t left = CONN_READS_AT_ONCE
    cdef uint32_t used
    cdef int rc
    while h.state != KS_GONE:
        if left == 0:
            conn_wake(c)
            return
        left -= 1
        if c.inb != NULL:
            used = consume(h, block_data(c.inb) + c.inb.start, block_len(c.inb))
            if h.state == KS_GONE:
                return
            if used:
                conn_kept_used(c, used)
                continue
        if not c.flags & CF_READABLE:
            return
        if c.inb != NULL:
            rc = conn_read_more(c, MSG_MAX_HEAD + 1)
        else:
            rc = conn_read(c, w.r.scratch, CONN_READ_MIN)
            if rc > 0:
                used = consume(h, w.r.scratch, <uint32_t>rc)
                if h.state == KS_GONE:
                    return
                if used < <uint32_t>rc and conn_keep(c, w.r.scratch + used, <uint32_t>rc - used) != FM_OK:
                    healthcheck_give_up(h)   # no memory
                    return
        if rc == FM_AGAIN:
            return
        if rc <= 0:
            # the end
            if h.state == KS_BODY and rc == FM_EOF and h1_body_eof(&h.body) == FM_OK:
                healthcheck_over(h, judged(h))
            else:
                healthcheck_over(h, KR_NETWORK)
            return


# ---- an HTTP/2 answer ------------------------------------------------------------------------------------------------------------------

cdef void note(HealthCheck *h, int result) noexcept nogil:
    if h.result == KR_NONE:
        h.result = <uint8_t>result
    h2_io_kick(&h.io)


cdef void take_grpc_status(HealthCheck *h, const Hdr *t, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if t[i].id == H_GRPC_STATUS:
            h.grpc = <uint8_t>(grpc_status_parse(slice_of(t[i].value, t[i].value_n)) + 1)
            return


cdef void on_head(H2 *x, H2Stream *st, Msg *m, bint end) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>st.owner
    if h == NULL:
        return
    if m.status < 200:
        h.interim += 1
        if h.interim > INTERIM_MOST:
            note(h, KR_NETWORK)
        return
    h.status = m.status
    h.state = KS_BODY
    if h.kind == HK_GRPC:
        if m.status != 200 or not grpc_request(m):
            note(h, KR_FAIL)     # it is no gRPC server
        elif end:
            take_grpc_status(h, m.hdr, <int>m.nhdr)
    if end:
        note(h, judged(h))


cdef void on_data(H2 *x, H2Stream *st, const char *p, uint32_t n, bint end) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>st.owner
    if h == NULL:
        return
    if h.kind == HK_GRPC and h.body_n + n <= MESSAGE_MOST:
        memcpy(h.message + h.body_n, p, n)
    h.body_n = h.body_n + n if h.body_n < BODY_MOST else BODY_MOST + 1
    h2_credit(st, n)
    if end or h.body_n > BODY_MOST:
        note(h, judged(h))


cdef void on_trailers(H2 *x, H2Stream *st, const Hdr *t, int n) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>st.owner
    if h == NULL:
        return
    take_grpc_status(h, t, n)
    note(h, judged(h))


cdef void on_reset(H2 *x, H2Stream *st, uint32_t code, bint remote) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>(<H2Io *>x.owner).owner
    st.owner = NULL
    h2_io_release(&h.io, st, H2_NO_ERROR)
    note(h, KR_NETWORK)


cdef void on_writable(H2 *x, H2Stream *st) noexcept nogil:
    pass


cdef void on_goaway(H2 *x, uint32_t last, uint32_t code) noexcept nogil:
    pass                         # what it has not seen is reset; the rest is answered


cdef void on_settings(H2 *x) noexcept nogil:
    pass


cdef void io_stream(H2Io *io, H2Stream *st) noexcept nogil:
    pass                         # nothing is ever kept


cdef void io_over(H2Io *io, int code) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>io.owner
    healthcheck_over(h, h.result if h.result else KR_NETWORK)


cdef void io_turn(H2Io *io) noexcept nogil:
    cdef HealthCheck *h = <HealthCheck *>io.owner
    if h.result:
        healthcheck_over(h, h.result)
