"""A request gone through without being sent (L3). See rehearse.pxd."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from fastmesh._core.base.buf cimport buf_end, buf_init
from fastmesh._core.base.err cimport FM_AGAIN, FM_EFRAMING, FM_OK
from fastmesh._core.base.pool cimport pool_end, pool_init
from fastmesh._core.base.timer cimport timer_del, wheel_init
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.proto.h1_body cimport h1_body_request
from fastmesh._core.proto.h1_head cimport h1_names_http, h1_request_head
from fastmesh._core.proto.msg cimport HF_DROP, Hdr, Msg
from fastmesh._core.proxy.attempts cimport attempts_send
from fastmesh._core.proxy.call cimport call_timeout
from fastmesh._core.proxy.ctx cimport (
    HBUF_BYTES, PH_DONE, XF_GRPC, XF_HASHED, XF_REHEARSED, XF_REPLAYABLE, Exchange)
from fastmesh._core.proxy.deadline cimport deadline_send
from fastmesh._core.proxy.entry cimport entry_head, entry_refuse
from fastmesh._core.proxy.exchange cimport (
    exchange_down_closed, exchange_new, exchange_reap, exchange_request_bad)
from fastmesh._core.shm.snapshot cimport SnapListener
from fastmesh._core.shm.stats cimport SEC_MTLS, SEC_NONE, SEC_TLS

cdef enum:
    MEMORY = 16777216            # of one exchange: far more than it needs
    NOW_MS = 1000                # no clock: time stands still, and 0 would be "none"


# ---- what the exchange says to its client ------------------------------------------------------------------------------------------

cdef inline Rehearsal *of(Exchange *ex) noexcept nogil:
    return <Rehearsal *>ex.down


cdef void keep_fields(Rehearsal *r, const Msg *m) noexcept nogil:
    cdef const Hdr *h
    cdef uint32_t i
    r.n = 0
    for i in range(m.nhdr):
        h = &m.hdr[i]
        if h.flags & HF_DROP or r.n + h.name_n + h.value_n + 3 > FIELDS_BYTES:
            continue
        memcpy(r.fields + r.n, h.name, h.name_n)
        r.n += h.name_n
        memcpy(r.fields + r.n, b": ", 2)
        r.n += 2
        if h.value_n:
            memcpy(r.fields + r.n, h.value, h.value_n)
        r.n += h.value_n
        r.fields[r.n] = c'\n'
        r.n += 1


cdef int on_head(Exchange *ex, Msg *m) noexcept nogil:
    of(ex).status = m.status
    keep_fields(of(ex), m)
    return FM_OK


cdef int on_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    if n == 1:
        of(ex).body = v[0]
    return FM_OK


cdef int on_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    return FM_OK


cdef void on_abort(Exchange *ex) noexcept nogil:
    of(ex).broken = 1


cdef void on_nothing(Exchange *ex) noexcept nogil:
    pass


cdef bint on_question(Exchange *ex) noexcept nogil:
    return False


# ---- new, run, free --------------------------------------------------------------------------------------------------------------

cdef Rehearsal *rehearsal_new(const SegMap *seg, const Snap *s, const SnapListener *l) noexcept nogil:
    cdef Rehearsal *r = <Rehearsal *>calloc(1, sizeof(Rehearsal))
    if r == NULL:
        return NULL
    buf_init(&r.w.r.bufs, MEMORY)
    wheel_init(&r.w.r.wheel, NOW_MS)
    pool_init(&r.w.exchanges, sizeof(Exchange), 1)
    r.fields = <char *>malloc(FIELDS_BYTES)
    r.w.hbuf = <char *>malloc(HBUF_BYTES)
    if r.fields == NULL or r.w.hbuf == NULL:
        rehearsal_free(r)
        return NULL
    r.w.r.ctx = &r.w
    r.w.r.now_ms = NOW_MS
    r.w.r.now_ns = NOW_MS * 1000000
    r.w.seg = seg[0]
    r.w.snap = s[0]
    r.w.rng = 1
    memcpy(r.w.date, b"Thu, 01 Jan 1970 00:00:00 GMT", 29)
    r.l.w = &r.w
    r.l.kind = l.kind
    r.l.flags = l.flags
    r.l.table = l.table
    r.l.authz = l.authz
    r.l.tls_mode = l.tls_mode
    r.l.port = l.port
    r.ops.head = on_head
    r.ops.data = on_data
    r.ops.end = on_end
    r.ops.abort = on_abort
    r.ops.resume = r.ops.moved = r.ops.flush = on_nothing
    r.ops.congested = on_question
    return r


cdef void rehearsal_run(Rehearsal *r, const char *head, uint32_t n, bint tls, int code) noexcept nogil:
    cdef Msg *m = &r.w.req
    cdef Exchange *ex = exchange_new(&r.w, &r.ops, r, &r.l)
    cdef int rc
    r.taken = r.broken = r.hashed = 0
    r.status = 0
    r.rf = 0
    r.n = 0
    r.left_ms = 0
    r.body = r.target = slice_of(NULL, 0)
    memset(&r.w.verdict, 0, sizeof(r.w.verdict))
    if ex == NULL:
        r.broken = 1
        return
    ex.flags |= XF_REHEARSED
    ex.minor = 1
    ex.security = (SEC_MTLS if r.mtls else SEC_TLS) if tls else SEC_NONE
    memset(m, 0, sizeof(Msg))
    # as mux_h1_down does
    rc = h1_request_head(head, n, 0, m)
    if rc == FM_AGAIN or (rc > 0 and <uint32_t>rc != n):
        rc = FM_EFRAMING         # not exactly one head
    if rc < 0:
        entry_refuse(ex, NULL, rc)
        r.broken = not h1_names_http(head, n)
    else:
        h1_body_request(m)
        entry_head(ex, m, &r.l)
        if code != FM_OK:
            exchange_request_bad(ex, code)
    r.taken = ex.phase != PH_DONE
    r.rf = ex.rf
    r.details = ex.details
    r.grpc = (ex.flags & XF_GRPC) != 0
    r.replayable = (ex.flags & XF_REPLAYABLE) != 0
    if r.taken:
        r.target = m.target
        r.left_ms = ex.deadline_ms - NOW_MS if ex.deadline_ms else 0
        r.hashed = (ex.flags & XF_HASHED) != 0
        r.hash_key = ex.hash_key
        # as the first attempt is sent
        ex.tries = 1
        call_timeout(ex, m)
        if deadline_send(ex, m) == FM_OK and attempts_send(ex, m) == FM_OK:
            keep_fields(r, m)
        exchange_down_closed(ex)
    timer_del(&r.w.r.wheel, &ex.timer)
    exchange_reap(&r.w)


cdef void rehearsal_free(Rehearsal *r) noexcept nogil:
    if r == NULL:
        return
    pool_end(&r.w.exchanges)
    buf_end(&r.w.r.bufs)
    free(r.w.hbuf)
    free(r.fields)
    free(r)
