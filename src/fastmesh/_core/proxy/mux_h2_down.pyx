"""HTTP/2 towards clients (L3). See mux_h2_down.pxd.

ex.down is the H2Stream, whose owner is the exchange. An answer that is complete lets go of the exchange at once; what the client has no window
for stays with the stream until it is sent, or until nothing has moved for the stream idle timeout.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.buf cimport Block, block_free
from fastmesh._core.base.err cimport FM_EH2, FM_EMETHOD, FM_ENOMEM, FM_EOF, FM_OK
from fastmesh._core.base.pool cimport pool_get
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.net.conn cimport CF_READABLE, Conn, ConnOps, conn_close, conn_close_flushed, conn_deadline, conn_wake
from fastmesh._core.net.out cimport conn_congested, conn_flush
from fastmesh._core.proto.h2_frame cimport H2_CANCEL, H2_INADEQUATE_SECURITY, H2_INTERNAL_ERROR, H2_NO_ERROR, H2_REFUSED_STREAM
from fastmesh._core.proto.h2_limits cimport (
    H2_CONN_WINDOW, H2_EDGE_CONN_WINDOW, H2_EDGE_STREAM_WINDOW, H2_EDGE_STREAMS, H2_MAX_STREAMS, H2_STREAM_WINDOW)
from fastmesh._core.proto.h2_send cimport h2_credit, h2_fail, h2_goaway, h2_send_data, h2_send_head, h2_send_trailers
from fastmesh._core.proto.h2_stream cimport (
    HF2_GOAWAY_SENT, HF2_GOAWAY_SOON, HF2_PREFACE, HS_CLOSED, HS_HALF_LOCAL, HSF_BROKEN, HSF_END_QUEUED, HSF_IN_END, HSF_WAITING, H2N_STALLED, H2, H2Limits, H2Ops,
    H2Stream, h2_count, h2_stream_any, h2_stream_close, h2_stream_release, h2_stream_stale)
from fastmesh._core.proto.msg cimport BODY_NONE, M_CONNECT, MF_PROTOCOL, Hdr, Msg
from fastmesh._core.proxy.bridge cimport bridge_from_connect, bridge_to_accepted
from fastmesh._core.proxy.ctx cimport DOWN_H2, PH_DONE, XF_TUNNEL, Down, DownOps, Exchange, H2Io, H2IoOps, H2s, Worker
from fastmesh._core.proxy.down cimport down_bytes, down_end, down_handover, down_refused_plain
from fastmesh._core.proxy.entry cimport entry_end, entry_head, entry_refuse
from fastmesh._core.proxy.exchange cimport (
    exchange_down_closed, exchange_down_idle, exchange_down_reset, exchange_new, exchange_request_data,
    exchange_wants_body)
from fastmesh._core.proxy.h2_io cimport (
    h2_io_begin, h2_io_congested, h2_io_end, h2_io_flush, h2_io_forget, h2_io_idle, h2_io_keep, h2_io_keep_trailers, h2_io_kept,
    h2_io_kept_end, h2_io_kick, h2_io_out, h2_io_read, h2_io_release, h2_io_wake)
from fastmesh._core.proxy.overload cimport overload_parts, overload_sheds
from fastmesh._core.proxy.respond cimport RE_NO_CONFIG, RE_OVERLOAD
from fastmesh._core.shm.snapshot cimport L_GATEWAY, SNAP_NONE
from fastmesh._core.shm.stats cimport ST_CX_CLOSED, ST_CX_OVERFLOW, stat_inc

cdef enum:
    SCANS = 4                    # looks for stale streams within the stream idle timeout

cdef ConnOps CONN_OPS
cdef DownOps DOWN_OPS
cdef H2Ops EVENTS
cdef H2IoOps IO_OPS


cdef void h2s_init(Worker *w) noexcept nogil:
    CONN_OPS.ready = s_readable
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
    EVENTS.head = on_head
    EVENTS.data = on_data
    EVENTS.trailers = on_trailers
    EVENTS.refused = on_refused
    EVENTS.reset = on_reset
    EVENTS.writable = on_writable
    EVENTS.goaway = on_goaway
    EVENTS.settings = on_settings
    IO_OPS.stream = s_stream
    IO_OPS.over = s_over
    IO_OPS.turn = s_turn
    w.h2_down = &DOWN_OPS


# ---- the connection --------------------------------------------------------------------------------------------------------------------

cdef bint h2s_take_over(Down *d, bint link) noexcept nogil:
    cdef Worker *w = d.w
    cdef H2s *s = <H2s *>pool_get(&w.h2_downs)
    cdef H2Limits limits
    if s == NULL:
        return False
    limits.max_streams = H2_MAX_STREAMS
    limits.stream_window = H2_STREAM_WINDOW
    limits.conn_window = H2_CONN_WINDOW
    if d.listener.kind == L_GATEWAY:
        limits.max_streams = H2_EDGE_STREAMS
        limits.stream_window = H2_EDGE_STREAM_WINDOW
        limits.conn_window = H2_EDGE_CONN_WINDOW
    down_handover(d, <Down *>s, DOWN_H2)
    s.conn.owner = s
    s.conn.ops = &CONN_OPS
    s.quiet_since = w.r.now_ms
    h2_io_begin(&s.io, w, s.conn, s, &IO_OPS, &EVENTS, True, link, &limits, &w.req)
    conn_deadline(s.conn, w.r.now_ms + w.opt.header_timeout_ms)  # for the preface
    conn_wake(s.conn)
    if w.draining:
        h2s_drain(s)
    return True


cdef void s_end(H2s *s, bint flush) noexcept nogil:
    # every exchange is told that its client is gone
    cdef Conn *c = s.conn
    cdef H2Stream *st = h2_stream_any(&s.io.h)
    cdef Exchange *ex
    if s.io.conn == NULL:
        return
    while st != NULL:
        ex = <Exchange *>st.owner
        st.owner = NULL
        h2_stream_close(st)
        h2_stream_release(st)
        if ex != NULL:
            ex.down = NULL
            exchange_down_closed(ex)
        st = h2_stream_any(&s.io.h)
    if flush:
        h2_io_out(&s.io)
    down_bytes(<Down *>s)
    h2_io_end(&s.io)
    stat_inc(s.w.seg.stats, ST_CX_CLOSED)
    down_end(<Down *>s)
    if flush:
        conn_close_flushed(c, True)
    else:
        conn_close(c)


cdef void h2s_cut(H2s *s) noexcept nogil:
    s_end(s, False)


cdef void s_over(H2Io *io, int code) noexcept nogil:
    s_end(<H2s *>io.owner, code == FM_EH2)


cdef void s_readable(Conn *c) noexcept nogil:
    h2_io_read(&(<H2s *>c.owner).io)


cdef void s_drained(Conn *c) noexcept nogil:
    h2_io_out(&(<H2s *>c.owner).io)


cdef void s_failed(Conn *c, int code) noexcept nogil:
    s_end(<H2s *>c.owner, False)


cdef void h2s_drain(H2s *s) noexcept nogil:
    h2_goaway(&s.io.h, False)
    h2_io_kick(&s.io)


cdef void h2s_sweep(H2s *s) noexcept nogil:
    if s.conn.inb != NULL or s.conn.flags & CF_READABLE:
        return                   # what has come is not lost: another turn
    if not s.io.h.flags & HF2_GOAWAY_SENT:
        h2_goaway(&s.io.h, True)
        h2_io_kick(&s.io)


cdef void s_expired(Conn *c) noexcept nogil:
    cdef H2s *s = <H2s *>c.owner
    cdef Worker *w = s.w
    cdef uint32_t span = w.opt.stream_idle_timeout_ms
    cdef H2Stream *st
    cdef Exchange *ex
    if not s.io.h.flags & HF2_PREFACE:
        s_end(s, False)
        return
    if conn_congested(c) and c.wrote_ms + span <= w.r.now_ms:
        s_end(s, False)          # it reads nothing at all
        return
    if s.io.h.nstreams == 0:
        if w.r.now_ms >= s.quiet_since + w.opt.idle_timeout_ms:
            h2_goaway(&s.io.h, True)
            h2_io_kick(&s.io)
        else:
            conn_deadline(c, s.quiet_since + w.opt.idle_timeout_ms)
        return
    st = h2_stream_stale(&s.io.h, <uint32_t>w.r.now_ms, span)
    while st != NULL:
        st.moved = <uint32_t>w.r.now_ms
        ex = <Exchange *>st.owner
        if st.out_n:
            h2_count(&s.io.h, H2N_STALLED)  # its window, or the connection's, stays shut
        if ex != NULL:
            exchange_down_idle(ex)
        else:
            h2_io_release(&s.io, st, H2_CANCEL)
        st = h2_stream_stale(&s.io.h, <uint32_t>w.r.now_ms, span)
    conn_flush(c)
    conn_deadline(c, w.r.now_ms + span // SCANS + 1)


cdef void s_turn(H2Io *io) noexcept nogil:
    cdef H2s *s = <H2s *>io.owner
    cdef Worker *w = s.w
    down_bytes(<Down *>s)
    if io.h.nstreams:
        return
    if io.h.flags & HF2_GOAWAY_SENT and not conn_congested(s.conn):
        s_end(s, True)
    elif s.quiet_since == 0:
        s.quiet_since = w.r.now_ms
        conn_deadline(s.conn, w.r.now_ms + w.opt.idle_timeout_ms)


# ---- requests ------------------------------------------------------------------------------------------------------------------------

cdef Exchange *begin(H2Io *io, H2Stream *st) noexcept nogil:
    # NULL: the cap is reached, and the client may try again
    cdef H2s *s = <H2s *>io.owner
    cdef Worker *w = s.w
    cdef Exchange *ex = exchange_new(w, w.h2_down, st, s.listener)
    if ex == NULL:
        stat_inc(w.seg.stats, ST_CX_OVERFLOW)
        h2_io_release(io, st, H2_REFUSED_STREAM)
        return NULL
    st.owner = ex
    st.moved = <uint32_t>w.r.now_ms
    ex.security = s.security
    ex.tls = s.conn.tls
    ex.peer = s.peer
    ex.peer_addr = s.conn.peer
    ex.called = s.conn.called
    ex.minor = 2
    if s.quiet_since:
        s.quiet_since = 0
        conn_deadline(s.conn, w.r.now_ms + w.opt.stream_idle_timeout_ms // SCANS + 1)
    return ex


cdef inline void settle(H2Io *io, Exchange *ex) noexcept nogil:
    # what was collected for the upstream goes out: its bytes are borrowed
    if ex.phase != PH_DONE and ex.up != NULL:
        ex.uops.flush(ex)


cdef void on_head(H2 *h, H2Stream *st, Msg *m, bint end) noexcept nogil:
    cdef H2Io *io = <H2Io *>h.owner
    cdef H2s *s = <H2s *>io.owner
    cdef Worker *w = s.w
    cdef Exchange *ex
    cdef bint shed
    cdef int rc
    if down_refused_plain(<Down *>s):
        h2_fail(h, H2_INADEQUATE_SECURITY, b"plaintext is not accepted any more")
        return
    shed = overload_sheds(w)
    ex = begin(io, st)
    if ex == NULL:
        return
    if not h.flags & HF2_GOAWAY_SOON and overload_parts(w):
        h2s_drain(s)
    s.w.asking = s.conn
    if shed:
        entry_refuse(ex, m, RE_OVERLOAD)
    elif s.listener.table == SNAP_NONE:
        entry_refuse(ex, m, RE_NO_CONFIG)
    elif m.method == M_CONNECT:
        rc = bridge_from_connect(ex, m) if m.flags & MF_PROTOCOL else FM_EMETHOD
        if rc == FM_OK:
            entry_head(ex, m, s.listener)
        else:
            entry_refuse(ex, m, rc)
    else:
        entry_head(ex, m, s.listener)
    settle(io, ex)


cdef void on_refused(H2 *h, H2Stream *st, int code) noexcept nogil:
    cdef Exchange *ex = begin(<H2Io *>h.owner, st)
    if ex != NULL:
        entry_refuse(ex, NULL, code)


cdef void take_end(H2Io *io, H2Stream *st, Exchange *ex, const Hdr *t, int n) noexcept nogil:
    if ex.phase != PH_DONE and ex.down == <void *>st:
        entry_end(ex, t, n)


cdef void on_data(H2 *h, H2Stream *st, const char *p, uint32_t n, bint end) noexcept nogil:
    cdef H2Io *io = <H2Io *>h.owner
    cdef Exchange *ex = <Exchange *>st.owner
    cdef Slice v
    st.moved = <uint32_t>io.w.r.now_ms
    if not h2_io_idle(st) or not exchange_wants_body(ex):
        h2_io_keep(io, st, p, n, end)
        return
    if n:
        v = slice_of(p, n)
        h2_credit(st, n)
        exchange_request_data(ex, &v, 1)
    if end:
        take_end(io, st, ex, NULL, 0)
    settle(io, ex)


cdef void on_trailers(H2 *h, H2Stream *st, const Hdr *t, int n) noexcept nogil:
    cdef H2Io *io = <H2Io *>h.owner
    cdef Exchange *ex = <Exchange *>st.owner
    if ex == NULL:
        return
    if not h2_io_idle(st) or not exchange_wants_body(ex):
        h2_io_keep_trailers(io, st, t, n)
        return
    take_end(io, st, ex, t, n)
    settle(io, ex)


cdef void s_stream(H2Io *io, H2Stream *st) noexcept nogil:
    # what was kept of a request's body flows
    cdef Exchange *ex = <Exchange *>st.owner
    cdef Msg *m = &io.w.again
    cdef Block *b
    cdef Slice v
    if ex == NULL:
        return
    if st.flags & HSF_BROKEN:
        st.owner = NULL
        ex.down = NULL
        h2_io_release(io, st, H2_INTERNAL_ERROR)
        exchange_down_reset(ex, H2_INTERNAL_ERROR, False)
        return
    while st.inp != NULL and exchange_wants_body(ex):
        b = h2_io_kept(st, &v)
        exchange_request_data(ex, &v, 1)
        settle(io, ex)
        h2_io_flush(io.w)        # its bytes are borrowed, whoever has them now
        block_free(&io.w.r.bufs, b)
        if ex.phase == PH_DONE or ex.down != <void *>st:
            return
    if st.inp != NULL or not st.flags & HSF_IN_END or not exchange_wants_body(ex):
        return
    b = h2_io_kept_end(io, st, m)
    take_end(io, st, ex, m.hdr, <int>m.nhdr)
    settle(io, ex)
    block_free(&io.w.r.bufs, b)


cdef void on_reset(H2 *h, H2Stream *st, uint32_t code, bint remote) noexcept nogil:
    cdef H2Io *io = <H2Io *>h.owner
    cdef Exchange *ex = <Exchange *>st.owner
    st.owner = NULL
    h2_io_release(io, st, H2_NO_ERROR)
    ex.down = NULL
    exchange_down_reset(ex, code, remote)


cdef void on_goaway(H2 *h, uint32_t last, uint32_t code) noexcept nogil:
    pass                         # it opens no more streams; what is under way goes on


cdef void on_settings(H2 *h) noexcept nogil:
    pass


# ---- answers -------------------------------------------------------------------------------------------------------------------------

cdef void answered(H2Io *io, H2Stream *st) noexcept nogil:
    # all of the answer has been given; the exchange has let go
    if st.flags & HSF_END_QUEUED:
        h2_io_forget(io, st)
        st.flags |= HSF_WAITING  # on_writable ends it
        return
    # RFC 9113 8.1: what is left of a request whose answer is complete is not wanted
    h2_io_release(io, st, H2_NO_ERROR)


cdef void on_writable(H2 *h, H2Stream *st) noexcept nogil:
    cdef H2Io *io = <H2Io *>h.owner
    cdef Exchange *ex = <Exchange *>st.owner
    if ex == NULL:
        h2_io_release(io, st, H2_NO_ERROR)
    elif ex.up != NULL:
        st.moved = <uint32_t>io.w.r.now_ms
        ex.uops.resume(ex)


cdef inline H2Io *io_of(const H2Stream *st) noexcept nogil:
    return <H2Io *>st.h.owner


cdef int d_head(Exchange *ex, Msg *m) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.down
    cdef int rc
    if st == NULL:
        return FM_EOF
    if m.status == 101:
        bridge_to_accepted(m)
    rc = h2_send_head(st, m, m.status >= 200 and m.body == BODY_NONE and not ex.flags & XF_TUNNEL)
    h2_io_kick(io_of(st))
    return rc


cdef int d_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.down
    cdef int rc
    if st == NULL:
        return FM_EOF
    rc = h2_send_data(st, v, n, False)
    if rc == FM_ENOMEM:
        st.flags |= HSF_BROKEN
        h2_io_wake(io_of(st), st)
    st.moved = <uint32_t>ex.w.r.now_ms
    h2_io_kick(io_of(st))
    return rc


cdef int d_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.down
    cdef H2Io *io
    if st == NULL:
        return FM_EOF
    io = io_of(st)
    ex.down = NULL
    st.owner = NULL
    st.moved = <uint32_t>ex.w.r.now_ms
    if st.flags & HSF_BROKEN:
        h2_io_release(io, st, H2_INTERNAL_ERROR)
        return FM_ENOMEM
    if st.state != HS_CLOSED and st.state != HS_HALF_LOCAL and h2_send_trailers(st, trailers, n) != FM_OK:
        h2_io_release(io, st, H2_INTERNAL_ERROR)
        return FM_ENOMEM
    answered(io, st)
    h2_io_kick(io)
    return FM_OK


cdef void d_abort(Exchange *ex) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.down
    if st == NULL:
        return
    ex.down = NULL
    st.owner = NULL
    h2_io_release(io_of(st), st, ex.h2_error if ex.h2_error else H2_INTERNAL_ERROR)


cdef void d_resume(Exchange *ex) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.down
    if st != NULL and not h2_io_idle(st):
        h2_io_wake(io_of(st), st)


cdef bint d_congested(Exchange *ex) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.down
    return st != NULL and h2_io_congested(io_of(st), st)


cdef void d_moved(Exchange *ex) noexcept nogil:
    cdef H2Stream *st = <H2Stream *>ex.down
    if st != NULL:
        st.moved = <uint32_t>ex.w.r.now_ms


cdef void d_flush(Exchange *ex) noexcept nogil:
    pass                         # at the end of the turn
