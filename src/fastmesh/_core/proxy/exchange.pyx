"""The life of an exchange (L3). See exchange.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from fastmesh._core.base.buf cimport Block, block_data, block_free, block_len
from fastmesh._core.base.err cimport FM_AGAIN, FM_ENOCLUSTER, FM_ENOHEALTHY, FM_OK
from fastmesh._core.base.pool cimport pool_get, pool_put
from fastmesh._core.base.sys cimport fm_clock_ns
from fastmesh._core.base.timer cimport timer_del, timer_set
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.policy.breaker cimport breaker_request_done, breaker_retry, breaker_retry_done
from fastmesh._core.policy.lb cimport LbView, lb_pick, rng_next
from fastmesh._core.policy.retry cimport retry_backoff_ms, retry_on_limited, retry_on_status

from fastmesh._core.proto.h2_frame cimport H2_CANCEL
from fastmesh._core.proto.hygiene cimport hygiene_response
from fastmesh._core.proto.msg cimport BODY_NONE, Hdr, Msg, msg_load
from fastmesh._core.proxy.attempts cimport attempts_ended, attempts_gave_up, attempts_note, attempts_over, attempts_send, attempts_tell
from fastmesh._core.proxy.call cimport call_expired, call_retry_on, call_status, call_timeout
from fastmesh._core.proxy.ctx cimport (
    MOVES_MOST, PH_CONNECT, PH_DONE, PH_PICK, PH_RESP, PH_SEND, XF_CALLED, XF_CHUNKED_REQ, XF_FAILED, XF_GRPC, XF_HASHED, XF_HEAD_SENT, XF_IDEMPOTENT, XF_REPLAYABLE,
    XF_RETRYING, XF_JUDGED, XF_PROBE, XF_REQ_END, XF_RESP_END, XF_RESP_STARTED, XF_REUSED, XF_SHADOW, XF_TUNNEL, XF_UPGRADE, DownOps, Exchange, ListenerState, Worker)
from fastmesh._core.proxy.deadline cimport deadline_send
from fastmesh._core.proxy.faults cimport faults_abort
from fastmesh._core.proxy.forward cimport forward_response

from fastmesh._core.proxy.learn cimport learn_answer, learn_call, learn_cut, learn_failure, learn_late, learn_left, learn_view, learn_waited
from fastmesh._core.proxy.log cimport log_exchange
from fastmesh._core.proxy.pending cimport pending_over, pending_waits

from fastmesh._core.proxy.replay cimport replay_forget, replay_forget_body, replay_keep_data
from fastmesh._core.proxy.respond cimport (
    RE_CONNECT, RE_CONNECT_TIMEOUT, RE_FAULT, RE_IDLE, RE_PENDING, RE_TIMEOUT, RE_UP_GOAWAY, RE_UP_PROTOCOL, RE_UP_REFUSED, RE_UP_RESET,
    RE_OVERLOAD, RE_UP_RST, RE_UP_TLS, respond_error)
from fastmesh._core.proxy.upstream cimport upstream_acquire, upstream_called, upstream_here
from fastmesh._core.shm.snapshot cimport (
    AF_RETRY_ANYWHERE, AF_RETRY_SAME, CL_ORIGINAL_DST, L_GATEWAY, L_INBOUND, RO_5XX, RO_CONNECT_FAILURE, RO_GATEWAY_ERROR, RO_REFUSED_STREAM,
    RO_RESET, RO_RESET_BEFORE_REQUEST, SNAP_NONE, SnapCluster, SnapEndpoint, snap_cluster)
from fastmesh._core.shm.stats cimport (
    DIR_GATEWAY, DIR_INBOUND, DIR_OUTBOUND, RF_DC, RF_DPE, RF_SI, RF_UC, RF_UO, RF_UPE, RF_UR, RF_URX, RF_UT, ST_MIRROR_FAILED, ST_POOL_FULL, ST_RQ_BAD,
    ST_RQ_DC, ST_RQ_RETRY, ST_RQ_RETRY_OVERFLOW, ST_RQ_RETRY_REUSED, ST_RQ_TIMEOUT, ST_RQ_UPGRADE, ST_RQ_UPSTREAM_TRUNCATED, stat_inc)


# ---- new, end --------------------------------------------------------------------------------------------------------------------

cdef Exchange *exchange_new(Worker *w, const DownOps *ops, void *down, const ListenerState *l) noexcept nogil:
    cdef Exchange *ex = blank(w, ops)
    if ex == NULL:
        return NULL
    ex.down = down
    ex.direction = DIR_GATEWAY if l.kind == L_GATEWAY else (DIR_INBOUND if l.kind == L_INBOUND else DIR_OUTBOUND)
    return ex


cdef Exchange *exchange_shadow(const Exchange *of, const DownOps *ops) noexcept nogil:
    cdef Exchange *ex = blank(of.w, ops)
    if ex == NULL:
        return NULL
    ex.flags = XF_SHADOW | XF_REQ_END | (of.flags & (XF_IDEMPOTENT | XF_CHUNKED_REQ | XF_GRPC | XF_HASHED))
    ex.method = of.method
    ex.minor = of.minor
    ex.direction = of.direction
    ex.security = of.security
    ex.peer = of.peer
    ex.peer_addr = of.peer_addr
    ex.called = of.called
    ex.hash_key = of.hash_key
    memcpy(ex.trace_id, of.trace_id, sizeof(ex.trace_id))
    return ex


cdef Exchange *blank(Worker *w, const DownOps *ops) noexcept nogil:
    cdef Exchange *ex = <Exchange *>pool_get(&w.exchanges)
    if ex == NULL:
        stat_inc(w.seg.stats, ST_POOL_FULL)
        return NULL
    ex.w = w
    ex.dops = ops
    ex.cell = SNAP_NONE
    ex.cluster_cell = SNAP_NONE
    ex.t_start = w.r.now_ns
    ex.timer.fn = on_timer
    ex.timer.arg = ex
    ex.try_timer.fn = on_try_timer
    ex.try_timer.arg = ex
    w.seg.slot.active += 1
    return ex


cdef void endpoint_leave(Exchange *ex, bint attempted) noexcept nogil:
    if ex.cell != SNAP_NONE:
        learn_left(ex)
        ex.w.seg.rows[ex.w.seg.self_row].e[ex.cell].active -= 1
        if attempted:
            attempts_note(ex)
        ex.cell = SNAP_NONE


cdef void exchange_finish(Exchange *ex) noexcept nogil:
    # once: the client's side is told by the codec, which sees ex.phase == PH_DONE when control returns to it
    cdef Worker *w = ex.w
    if ex.phase == PH_DONE:
        return
    if ex.phase == PH_SEND:
        learn_waited(ex)
    ex.phase = PH_DONE
    w.seg.slot.active -= 1
    timer_del(&w.r.wheel, &ex.timer)
    timer_del(&w.r.wheel, &ex.try_timer)
    if ex.up != NULL:
        ex.uops.abort(ex)
    pending_over(ex)
    if ex.cluster_cell != SNAP_NONE:
        breaker_request_done(&w.seg, ex.cluster_cell)
        if ex.flags & XF_RETRYING:
            breaker_retry_done(&w.seg, ex.cluster_cell)
    if ex.cell != SNAP_NONE:
        learn_left(ex)
        w.seg.rows[w.seg.self_row].e[ex.cell].active -= 1
    if not ex.flags & XF_SHADOW:
        attempts_ended(ex)
        log_exchange(ex, fm_clock_ns())
    replay_forget(ex)
    block_free(&w.r.bufs, ex.ops)
    block_free(&w.r.bufs, ex.logb)
    ex.ops = NULL
    ex.logb = NULL
    ex.down = NULL
    ex.next_dead = w.dead_ex
    w.dead_ex = ex


cdef void exchange_reap(Worker *w) noexcept nogil:
    cdef Exchange *ex
    while w.dead_ex != NULL:
        ex = w.dead_ex
        w.dead_ex = ex.next_dead
        pool_put(&w.exchanges, ex)


cdef void exchange_answer(Exchange *ex, int code) noexcept nogil:
    if ex.up != NULL:
        ex.uops.abort(ex)
    if ex.flags & XF_SHADOW:
        stat_inc(ex.w.seg.stats, ST_MIRROR_FAILED)
    elif ex.flags & XF_RESP_STARTED:
        ex.dops.abort(ex)
    else:
        ex.flags |= XF_RESP_STARTED
        ex.w.hused = 0
        respond_error(ex, code)
    exchange_finish(ex)


# ---- PICK, CONNECT ---------------------------------------------------------------------------------------------------------------

cdef enum:  # what a choice of an endpoint is
    AS_TRY = 0                   # one more attempt
    AS_BEFORE                    # the same attempt: it has not got a connection yet
    AS_MOVED                     # the same, on a new connection: a pooled one has failed


cdef void exchange_begin(Exchange *ex, Msg *m) noexcept nogil:
    pick(ex, m, AS_TRY)


cdef void pick(Exchange *ex, Msg *m, int how) noexcept nogil:
    # m: the request head where it is at hand; NULL: it has been kept
    cdef Worker *w = ex.w
    cdef const SnapCluster *c
    cdef const SnapEndpoint *ep
    cdef SnapEndpoint there
    cdef LbView v
    cdef bint probe = False
    cdef uint32_t span, wanted
    cdef int rc
    ex.phase = PH_PICK
    ex.h2_error = 0
    endpoint_leave(ex, how != AS_BEFORE)
    if how == AS_TRY and faults_abort(ex):
        ex.tries += 1
        wanted = retry_on_status(ex.plan.abort_status, ex.plan.statuses, ex.plan.nstatuses)
        if ex.flags & XF_GRPC:
            ex.grpc = <uint8_t>ex.plan.abort_grpc
            wanted |= call_retry_on(ex)
        if not retry(ex, wanted):
            exchange_answer(ex, RE_FAULT)
        return
    c = snap_cluster(&w.snap, ex.plan.cluster) if w.snap.h != NULL else NULL
    if c == NULL:
        exchange_answer(ex, FM_ENOCLUSTER)
        return
    learn_view(ex, &v, &probe)
    if how == AS_TRY:
        v.ntried = 0 if ex.plan.flags & AF_RETRY_SAME else ex.ntried
        v.remote = ex.tries if ex.plan.flags & AF_RETRY_ANYWHERE else 0
    ep = upstream_called(&w.snap, c, &ex.called) if ex.flags & XF_CALLED else NULL
    if ep == NULL:
        ep = lb_pick(&w.snap, c, &v, &w.rng)
    if ep != NULL and c.flags & CL_ORIGINAL_DST:
        ep = upstream_here(ep, &ex.called, &there)
    if ep == NULL:
        exchange_answer(ex, FM_ENOHEALTHY)
        return
    ex.cell = ep.cell
    if probe:
        ex.flags |= XF_PROBE
    w.seg.rows[w.seg.self_row].e[ep.cell].active += 1
    if how == AS_TRY and ex.tries < 255:
        ex.tries += 1
    ex.flags &= ~<uint32_t>(XF_HEAD_SENT | XF_REUSED | XF_JUDGED | XF_FAILED)
    ex.phase = PH_CONNECT
    rc = upstream_acquire(ex, c, ep, how == AS_MOVED)
    if rc == FM_OK:
        ex.flags |= XF_REUSED
        send_request(ex, m)
    elif rc == FM_AGAIN:
        span = ex.plan.per_try_timeout_ms
        if pending_waits(ex) and (span == 0 or span > c.connect_timeout_ms):
            span = c.connect_timeout_ms
        if span:
            timer_set(&w.r.wheel, &ex.try_timer, w.r.now_ms + span)
    else:
        retry_or_answer(ex, rc)


cdef void exchange_up_ready(Exchange *ex) noexcept nogil:
    send_request(ex, NULL)


cdef void exchange_up_other(Exchange *ex) noexcept nogil:
    pending_over(ex)
    pick(ex, NULL, AS_BEFORE)
    if ex.phase != PH_DONE and ex.up != NULL:
        ex.uops.flush(ex)


cdef void send_request(Exchange *ex, Msg *m) noexcept nogil:
    cdef Block *b = ex.body
    cdef Slice v
    cdef int rc
    pending_over(ex)
    ex.phase = PH_SEND
    ex.flags |= XF_HEAD_SENT
    ex.t_sent = 0
    if ex.plan.per_try_timeout_ms:
        timer_set(&ex.w.r.wheel, &ex.try_timer, ex.w.r.now_ms + ex.plan.per_try_timeout_ms)
    if m == NULL:
        m = &ex.w.again
        msg_load(m, block_data(ex.req))
    call_timeout(ex, m)
    rc = deadline_send(ex, m)
    if rc == FM_OK:
        rc = attempts_send(ex, m)
    if rc != FM_OK:
        exchange_answer(ex, rc)
        return
    rc = ex.uops.head(ex, m, ex.flags & XF_REQ_END and b == NULL)
    if rc != FM_OK:
        exchange_answer(ex, rc)
        return
    while b != NULL:
        v = slice_of(block_data(b) + b.start, block_len(b))
        ex.uops.data(ex, &v, 1)
        b = b.next
    if not ex.flags & XF_REQ_END:
        ex.dops.resume(ex)
    elif ex.body != NULL:
        ex.uops.end(ex, NULL, 0)


cdef void exchange_sent(Exchange *ex) noexcept nogil:
    if ex.phase == PH_SEND:
        ex.t_sent = fm_clock_ns()


# ---- failures --------------------------------------------------------------------------------------------------------------------

cdef void retry_or_answer(Exchange *ex, int code) noexcept nogil:
    # who does not answer is a case of all three, whatever the reason, as in Envoy
    cdef uint32_t wanted = RO_5XX | RO_GATEWAY_ERROR | RO_RESET
    learn_failure(ex, code)
    if code == RE_CONNECT or code == RE_CONNECT_TIMEOUT or code == RE_UP_TLS:
        wanted |= RO_CONNECT_FAILURE
    elif code == RE_UP_RESET and not ex.flags & XF_HEAD_SENT:
        wanted |= RO_RESET_BEFORE_REQUEST | RO_CONNECT_FAILURE
    elif code == RE_UP_REFUSED or code == RE_UP_GOAWAY:
        wanted |= RO_REFUSED_STREAM
    elif code == RE_OVERLOAD or code == RE_PENDING:
        wanted = 0               # it is here that there is too much
    if not retry(ex, wanted):
        exchange_answer(ex, code)


cdef bint retry(Exchange *ex, uint32_t wanted) noexcept nogil:
    # True: it is on its way back to PICK
    cdef Worker *w = ex.w
    cdef const SnapCluster *c
    cdef uint64_t at
    if not wanted & ex.plan.retry_on or not ex.flags & XF_REPLAYABLE or ex.flags & XF_RESP_STARTED:
        return False
    if ex.tries > ex.plan.retries or ex.tries == 255:
        ex.rf |= RF_URX
        attempts_gave_up(ex)
        return False
    if not ex.flags & XF_RETRYING:
        c = snap_cluster(&w.snap, ex.plan.cluster) if w.snap.h != NULL else NULL
        if c == NULL or not breaker_retry(&w.seg, c):
            ex.rf |= RF_UO
            stat_inc(w.seg.stats, ST_RQ_RETRY_OVERFLOW)
            attempts_gave_up(ex)
            return False
        ex.flags |= XF_RETRYING
    if ex.up != NULL:
        ex.uops.abort(ex)
    pending_over(ex)
    stat_inc(w.seg.stats, ST_RQ_RETRY)
    timer_del(&w.r.wheel, &ex.try_timer)
    ex.phase = PH_PICK
    at = w.r.now_ms + 1 + retry_backoff_ms(ex.tries, ex.plan.backoff_base_ms, ex.plan.backoff_most_ms, rng_next(&w.rng) >> 16)
    if ex.deadline_ms == 0 or at < ex.deadline_ms:  # else the request's own timer is first
        timer_set(&w.r.wheel, &ex.timer, at)
    return True


cdef void exchange_up_failed(Exchange *ex, int code) noexcept nogil:
    cdef Worker *w = ex.w
    cdef bint unseen
    cdef int most
    if ex.phase == PH_DONE:
        return
    if ex.phase == PH_RESP:
        # the head is downstream: it must not look complete
        learn_cut(ex)
        ex.rf |= RF_UPE if code == RE_UP_PROTOCOL else (RF_UR if code == RE_UP_RST else RF_UC)
        ex.details = (b"upstream_reset_after_response_started{remote_reset}" if code == RE_UP_RST
                      else b"upstream_reset_after_response_started{connection_termination}")
        stat_inc(w.seg.stats, ST_RQ_UPSTREAM_TRUNCATED)
        ex.dops.abort(ex)
        exchange_finish(ex)
        return
    if code == RE_UP_REFUSED or code == RE_UP_GOAWAY or (code == RE_UP_RESET and ex.flags & XF_REUSED):
        # A pooled connection that the upstream had closed, or a stream that it has not looked at. Repeat at once on another one when the
        # request may be repeated: it is idempotent, or it is known that not one byte of it has reached the other side.
        unseen = code != RE_UP_RESET or (ex.up != NULL and ex.uops.unseen(ex))
        most = MOVES_MOST if code == RE_UP_GOAWAY else 1
        if ex.flags & XF_REPLAYABLE and ex.moves < most and (ex.flags & XF_IDEMPOTENT or unseen):
            ex.moves += 1
            stat_inc(w.seg.stats, ST_RQ_RETRY_REUSED)
            if ex.up != NULL:
                ex.uops.abort(ex)
            pick(ex, NULL, AS_MOVED)
            return
    retry_or_answer(ex, code)


cdef void on_timer(void *arg, uint64_t now_ms) noexcept nogil:
    cdef Exchange *ex = <Exchange *>arg
    if ex.phase == PH_DONE:
        return
    if ex.deadline_ms and now_ms >= ex.deadline_ms:
        if ex.flags & XF_RESP_STARTED:
            ex.rf |= RF_UT
            ex.details = b"response_timeout"
            ex.h2_error = H2_CANCEL
            stat_inc(ex.w.seg.stats, ST_RQ_TIMEOUT)
            if ex.flags & XF_GRPC:
                if ex.up != NULL:
                    ex.uops.abort(ex)
                call_expired(ex)
                exchange_finish(ex)
                return
        elif ex.phase == PH_SEND or ex.phase == PH_CONNECT and not pending_waits(ex):
            learn_late(ex)
        exchange_answer(ex, RE_TIMEOUT)
        return
    # the back-off is over
    if ex.deadline_ms:
        timer_set(&ex.w.r.wheel, &ex.timer, ex.deadline_ms)
    if ex.phase == PH_PICK:
        pick(ex, NULL, AS_TRY)
        if ex.phase != PH_DONE and ex.up != NULL:
            ex.uops.flush(ex)


cdef void on_try_timer(void *arg, uint64_t now_ms) noexcept nogil:
    cdef Exchange *ex = <Exchange *>arg
    # a try has taken too long
    if ex.phase == PH_CONNECT:
        exchange_up_failed(ex, RE_PENDING if pending_waits(ex) else RE_CONNECT_TIMEOUT)
    elif ex.phase == PH_SEND:
        learn_waited(ex)
        learn_late(ex)
        if not retry(ex, RO_5XX | RO_GATEWAY_ERROR | RO_RESET):
            exchange_answer(ex, RE_TIMEOUT)


cdef void exchange_down_closed(Exchange *ex) noexcept nogil:
    if ex.phase == PH_DONE:
        return
    if not ex.flags & XF_TUNNEL:
        ex.rf |= RF_DC
        ex.details = b"downstream_remote_disconnect"
        stat_inc(ex.w.seg.stats, ST_RQ_DC)
    exchange_finish(ex)


cdef void exchange_down_reset(Exchange *ex, uint32_t code, bint remote) noexcept nogil:
    if ex.phase == PH_DONE:
        return
    ex.h2_error = code
    if not remote:
        ex.rf |= RF_DPE
        ex.details = b"http2.violation.of.messaging.rule"
        stat_inc(ex.w.seg.stats, ST_RQ_BAD)
        exchange_finish(ex)
        return
    exchange_down_closed(ex)


cdef void exchange_down_idle(Exchange *ex) noexcept nogil:
    if ex.phase == PH_DONE:
        return
    ex.rf |= RF_SI
    exchange_answer(ex, RE_IDLE)


# ---- the request's body ----------------------------------------------------------------------------------------------------------

cdef bint exchange_wants_body(Exchange *ex) noexcept nogil:
    if ex.flags & XF_UPGRADE and not ex.flags & XF_TUNNEL:
        return False             # nothing is said in the new protocol before the other side has agreed to it
    return ex.flags & XF_HEAD_SENT and ex.up != NULL and not ex.uops.congested(ex)


cdef void exchange_request_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    cdef int i
    if ex.up == NULL or ex.phase == PH_DONE:
        return
    if ex.flags & XF_REPLAYABLE:
        replay_keep_data(ex, v, n)
    for i in range(n):
        ex.rx_bytes += v[i].n
    ex.uops.data(ex, v, n)


cdef void exchange_request_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    if ex.phase == PH_DONE or (ex.flags & XF_REQ_END and not ex.flags & XF_TUNNEL):
        return
    ex.flags |= XF_REQ_END
    if n:
        replay_forget_body(ex)          # trailers are not kept
    if ex.up != NULL:
        ex.uops.end(ex, trailers, n)


cdef void exchange_request_bad(Exchange *ex, int code) noexcept nogil:
    if ex.phase != PH_DONE:
        exchange_answer(ex, code)


# ---- the answer ------------------------------------------------------------------------------------------------------------------

cdef void exchange_response_head(Exchange *ex, Msg *m) noexcept nogil:
    cdef Worker *w = ex.w
    cdef uint32_t wanted
    if hygiene_response(m, m.status == 101) != FM_OK:
        exchange_up_failed(ex, RE_UP_PROTOCOL)
        return
    if m.status < 200 and m.status != 101:
        if ex.minor:
            ex.dops.head(ex, m)  # HTTP/1.0 knows no interim answers
            ex.dops.flush(ex)
        return
    wanted = retry_on_status(m.status, ex.plan.statuses, ex.plan.nstatuses)
    if m.body == BODY_NONE and call_status(ex, m.hdr, <int>m.nhdr):
        wanted |= call_retry_on(ex)  # trailers only: the call may be made again
    wanted = retry_on_limited(wanted, ex.plan.retry_on, m)
    learn_answer(ex, m.status)
    if wanted and not attempts_over(ex, m) and retry(ex, wanted):
        return
    if m.status == 101:
        if not ex.flags & XF_UPGRADE:
            exchange_up_failed(ex, RE_UP_PROTOCOL)
            return
        ex.flags |= XF_TUNNEL | XF_REQ_END
        timer_del(&w.r.wheel, &ex.timer)
        stat_inc(w.seg.stats, ST_RQ_UPGRADE)
    ex.phase = PH_RESP
    ex.t_first = w.r.now_ns
    ex.status = m.status
    ex.details = b"via_upstream"
    timer_del(&w.r.wheel, &ex.try_timer)
    replay_forget(ex)           # it cannot be asked for again
    w.hused = 0
    if forward_response(ex, m) != FM_OK or (wanted and attempts_tell(ex, m) != FM_OK):
        ex.phase = PH_SEND
        exchange_up_failed(ex, RE_UP_PROTOCOL)
        return
    ex.flags |= XF_RESP_STARTED
    if ex.dops.head(ex, m) != FM_OK:
        ex.dops.abort(ex)        # a body without its head would be read as a head
        exchange_finish(ex)


cdef void exchange_response_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        ex.tx_bytes += v[i].n
    ex.dops.data(ex, v, n)


cdef void exchange_response_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    if ex.phase == PH_DONE:
        return
    ex.flags |= XF_RESP_END
    if call_status(ex, trailers, n):
        learn_call(ex)
    ex.dops.end(ex, trailers, n)
    ex.t_relay = fm_clock_ns() - ex.w.r.now_ns
    exchange_finish(ex)
