"""How a request enters (L3). See entry.pxd."""
from libc.stdint cimport uint32_t
from libc.string cimport memcmp
from fastmesh._core.base.err cimport FM_EHOST, FM_ENOCLUSTER, FM_ENOROUTE, FM_OK
from fastmesh._core.base.timer cimport timer_set
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.sock cimport addr_text
from fastmesh._core.policy.breaker cimport breaker_request
from fastmesh._core.policy.lb cimport rng_next
from fastmesh._core.policy.router cimport RouteMatch, router_match
from fastmesh._core.proto.hygiene cimport hygiene_request
from fastmesh._core.proto.msg cimport (
    BODY_CHUNKED, BODY_NONE, M_DELETE, M_GET, M_HEAD, M_OPTIONS, M_PUT, M_TRACE, MF_UPGRADE, Hdr, Msg)
from fastmesh._core.proxy.access cimport access_judge
from fastmesh._core.proxy.attempts cimport attempts_asked
from fastmesh._core.proxy.call cimport call_begin
from fastmesh._core.proxy.cors cimport cors_take
from fastmesh._core.proxy.ctx cimport (
    XF_CALLED, XF_CHUNKED_REQ, XF_IDEMPOTENT, XF_REHEARSED, XF_REQ_END, XF_RESP_STARTED, XF_UPGRADE, Exchange, ListenerState, Worker)
from fastmesh._core.proxy.deadline cimport deadline_begin
from fastmesh._core.proxy.exchange cimport exchange_answer, exchange_begin, exchange_finish, exchange_request_end
from fastmesh._core.proxy.faults cimport faults_delay
from fastmesh._core.proxy.forward cimport forward_keep_response_ops, forward_request
from fastmesh._core.proxy.hashkey cimport hashkey_take
from fastmesh._core.proxy.limits cimport limits_take
from fastmesh._core.proxy.log cimport log_keep_refused, log_keep_request, log_keep_route
from fastmesh._core.proxy.mirror cimport mirror_plan, mirror_send
from fastmesh._core.proxy.plan cimport plan_take
from fastmesh._core.proxy.replay cimport replay_keep_head
from fastmesh._core.proxy.respond cimport (
    RE_LIMITED, RE_NO_CONFIG, RE_OVERFLOW, RE_TIMEOUT, respond_direct, respond_https, respond_preflight, respond_redirect)
from fastmesh._core.shm.snapshot cimport (
    ACT_DIRECT, ACT_REDIRECT, LF_HTTPS_REDIRECT, SNAP_NONE, SnapCluster, SnapCors, snap_at, snap_str)
from fastmesh._core.shm.stats cimport SEC_NONE, ST_RQ_TOTAL, stat_inc


cdef bint idempotent(int method) noexcept nogil:
    # RFC 9110 9.2.2
    return method == M_GET or method == M_HEAD or method == M_PUT or method == M_DELETE or method == M_OPTIONS or method == M_TRACE


cdef void entry_refuse(Exchange *ex, const Msg *m, int code) noexcept nogil:
    stat_inc(ex.w.seg.stats, ST_RQ_TOTAL)
    if m != NULL:
        ex.method = m.method
        call_begin(ex, m)
        log_keep_request(ex, m)
    else:
        log_keep_refused(ex)
    exchange_answer(ex, code)


cdef bint by_address(const Exchange *ex, const Msg *m) noexcept nogil:
    # its authority is the address that the client has called: it means that very host
    cdef char text[64]
    cdef uint32_t n = addr_text(&ex.called, text, 64, True)
    if m.host.n == n and memcmp(m.host.p, text, n) == 0:
        return True
    if ex.called.port != 80:
        return False
    n -= 3                       # ":80"
    return m.host.n == n and memcmp(m.host.p, text, n) == 0


cdef inline const SnapCors *cors_of(Exchange *ex, const RouteMatch *rm) noexcept nogil:
    return <const SnapCors *>snap_at(&ex.w.snap, ex.w.snap.h.cors.off) + rm.action.cors


cdef void entry_head(Exchange *ex, Msg *m, ListenerState *l) noexcept nogil:
    cdef Worker *w = ex.w
    cdef RouteMatch rm
    cdef Slice target
    cdef const SnapCluster *c
    cdef bint preflight = False
    cdef int rc
    w.hused = 0
    stat_inc(w.seg.stats, ST_RQ_TOTAL)
    ex.method = m.method
    if idempotent(m.method):
        ex.flags |= XF_IDEMPOTENT
    ex.minor = m.minor
    ex.head_rx = m.head_n
    if m.body == BODY_CHUNKED:
        ex.flags |= XF_CHUNKED_REQ
    call_begin(ex, m)
    deadline_begin(ex, m)
    rc = hygiene_request(m, (m.flags & MF_UPGRADE) != 0 and m.body == BODY_NONE)
    if rc != FM_OK:
        log_keep_request(ex, m)
        exchange_answer(ex, rc)
        return
    if m.flags & MF_UPGRADE and m.body == BODY_NONE:
        ex.flags |= XF_UPGRADE
    if w.snap.h == NULL or l.table == SNAP_NONE:
        log_keep_request(ex, m)
        exchange_answer(ex, RE_NO_CONFIG)
        return
    if l.authz != SNAP_NONE:
        rc = access_judge(ex, m, l)
        if rc != FM_OK:
            exchange_answer(ex, rc)
            return
    if l.flags & LF_HTTPS_REDIRECT and ex.security == SEC_NONE:
        log_keep_request(ex, m)
        if m.host.n == 0:        # HTTP/1.0 without Host: there is nowhere to point to
            exchange_answer(ex, FM_EHOST)
            return
        ex.flags |= XF_RESP_STARTED
        if respond_https(ex, m) != FM_OK:
            ex.dops.abort(ex)
        exchange_finish(ex)
        return
    rc = router_match(&w.snap, l.table, m, ex.security != SEC_NONE, l.port, <uint32_t>(rng_next(&w.rng) >> 32), &rm)
    if rc != FM_OK:
        log_keep_request(ex, m)
        exchange_answer(ex, FM_ENOROUTE)
        return
    if rm.action.kind == ACT_DIRECT or rm.action.kind == ACT_REDIRECT:
        log_keep_request(ex, m)
        log_keep_route(ex, Slice(NULL, 0), snap_str(&w.snap, rm.route.name))
        if rm.action.kind == ACT_REDIRECT and m.host.n == 0 and rm.action.redirect_host.n == 0:
            exchange_answer(ex, FM_EHOST)
            return
        rc = forward_keep_response_ops(ex, &rm)
        if rc == FM_OK and rm.action.cors != SNAP_NONE:
            rc = cors_take(ex, m, cors_of(ex, &rm), &preflight)
        if rc == FM_OK and rm.action.limits.n and not preflight and not ex.flags & XF_REHEARSED and not limits_take(ex, rm.action):
            exchange_answer(ex, RE_LIMITED)
            return
        ex.flags |= XF_RESP_STARTED
        if rc == FM_OK and preflight:
            rc = respond_preflight(ex)
        elif rc == FM_OK:
            rc = respond_direct(ex, &rm) if rm.action.kind == ACT_DIRECT else respond_redirect(ex, m, &rm)
        if rc != FM_OK:
            ex.dops.abort(ex)
        exchange_finish(ex)
        return
    if rm.dest.cluster == SNAP_NONE:
        log_keep_request(ex, m)
        exchange_answer(ex, FM_ENOCLUSTER)
        return
    c = &(<const SnapCluster *>(w.snap.base + w.snap.h.clusters.off))[rm.dest.cluster]
    if ex.called.family and by_address(ex, m):
        ex.flags |= XF_CALLED
    plan_take(&ex.plan, &w.snap, rm.action, c)
    rc = forward_keep_response_ops(ex, &rm)
    if rc == FM_OK and rm.action.cors != SNAP_NONE:
        rc = cors_take(ex, m, cors_of(ex, &rm), &preflight)
        if rc == FM_OK and preflight:
            log_keep_request(ex, m)
            log_keep_route(ex, snap_str(&w.snap, c.name), snap_str(&w.snap, rm.route.name))
            ex.flags |= XF_RESP_STARTED
            if respond_preflight(ex) != FM_OK:
                ex.dops.abort(ex)
            exchange_finish(ex)
            return
    if rc == FM_OK and rm.action.limits.n and not ex.flags & XF_REHEARSED and not limits_take(ex, rm.action):
        log_keep_request(ex, m)
        log_keep_route(ex, snap_str(&w.snap, c.name), snap_str(&w.snap, rm.route.name))
        exchange_answer(ex, RE_LIMITED)
        return
    if rm.action.mirrors.n and not ex.flags & XF_UPGRADE:
        mirror_plan(ex, rm.action)
    if not ex.flags & XF_REHEARSED:
        attempts_asked(ex, m, c)
    if rc == FM_OK:
        rc = forward_request(ex, m, &rm, &target)
    if rc == FM_OK:
        rc = hashkey_take(ex, m, c)
    log_keep_request(ex, m)
    log_keep_route(ex, snap_str(&w.snap, c.name), snap_str(&w.snap, rm.route.name))
    if rc == FM_OK:
        m.target = target        # the log has the client's
        rc = replay_keep_head(ex, m)
    if rc != FM_OK:
        exchange_answer(ex, rc)
        return
    if ex.plan.timeout_ms and (ex.deadline_ms == 0 or w.r.now_ms + ex.plan.timeout_ms < ex.deadline_ms):
        ex.deadline_ms = w.r.now_ms + ex.plan.timeout_ms
    if ex.deadline_ms:
        if w.r.now_ms >= ex.deadline_ms:
            exchange_answer(ex, RE_TIMEOUT)  # a call whose time was over before it came
            return
        timer_set(&w.r.wheel, &ex.timer, ex.deadline_ms)
    if m.body == BODY_NONE:
        ex.flags |= XF_REQ_END
    if ex.flags & XF_REHEARSED:
        return                   # everything is decided that does not depend on chance and on others' requests
    if not breaker_request(&w.seg, c):
        exchange_answer(ex, RE_OVERFLOW)
        return
    ex.cluster_cell = c.cell
    if not faults_delay(ex):
        exchange_begin(ex, m)
    if ex.plan.nmirrors and ex.flags & XF_REQ_END:
        mirror_send(ex)


cdef void entry_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    exchange_request_end(ex, trailers, n)
    if ex.plan.nmirrors:
        mirror_send(ex)
