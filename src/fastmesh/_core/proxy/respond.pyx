"""Answers that the proxy itself makes (L3). See respond.pxd. Details follow Envoy's RESPONSE_CODE_DETAILS where it has a name."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset, strlen
from fastmesh._core.base.err cimport (
    FM_EBAD, FM_ECHUNK, FM_EEXPECT, FM_EFRAMING, FM_EHEAD, FM_EHOST, FM_EMETHOD, FM_ENOCLUSTER, FM_ENOHEALTHY, FM_ENOMEM, FM_ENOROUTE,
    FM_ETARGET, FM_ETE, FM_ETRAILER, FM_EVERSION, FM_OK)
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.proto.h1_write cimport h1_reason
from fastmesh._core.proto.msg cimport (
    BODY_LENGTH, BODY_NONE, H_CONTENT_LENGTH, H_DATE, H_LOCATION, H_NONE, M_HEAD, MF_RESPONSE, Msg)
from fastmesh._core.proxy.ctx cimport XF_LOCAL, XF_REQ_END, Exchange, Worker
from fastmesh._core.proxy.forward cimport forward_response, hbuf_take, msg_add
from fastmesh._core.shm.snapshot cimport RW_PREFIX, snap_str
from fastmesh._core.shm.stats cimport (
    RF_DPE, RF_DT, RF_NC, RF_NR, RF_OM, RF_SI, RF_UC, RF_UF, RF_UH, RF_UO, RF_UPE, RF_UT, SEC_NONE, ST_RQ_BAD, ST_RQ_DIRECT,
    ST_RQ_HEAD_TIMEOUT, ST_RQ_NO_CLUSTER, ST_RQ_NO_HEALTHY, ST_RQ_NO_ROUTE, ST_RQ_OVERLOAD, ST_RQ_TIMEOUT, ST_RQ_UPSTREAM_PROTOCOL,
    ST_RQ_UPSTREAM_RESET, stat_inc)


cdef struct Verdict:
    uint16_t status
    uint32_t rf
    int counter
    const char *details
    const char *body


cdef Verdict verdict_of(int code) noexcept nogil:
    cdef Verdict v
    v.counter = ST_RQ_BAD
    v.rf = RF_DPE
    v.status = 400
    v.details = b"http1.codec_error"
    v.body = b"bad request\n"
    if code == FM_EFRAMING:
        v.details = b"http1.ambiguous_framing"
        v.body = b"bad request: ambiguous message framing\n"
    elif code == FM_EHOST:
        v.details = b"http1.invalid_host"
        v.body = b"bad request: missing or invalid Host\n"
    elif code == FM_ECHUNK or code == RE_BODY:
        v.details = b"http1.invalid_chunk"
        v.body = b"bad request: invalid chunked body\n"
    elif code == FM_ETRAILER:
        v.details = b"http1.invalid_trailer"
        v.body = b"bad request: invalid trailer\n"
    elif code == FM_ETARGET:
        v.status = 414
        v.details = b"http1.target_too_long"
        v.body = b"request target too long\n"
    elif code == FM_EHEAD:
        v.status = 431
        v.details = b"http1.headers_too_large"
        v.body = b"request header fields too large\n"
    elif code == FM_EVERSION:
        v.status = 505
        v.details = b"http1.invalid_version"
        v.body = b"HTTP version not supported\n"
    elif code == FM_ETE:
        v.status = 501
        v.details = b"http1.unknown_transfer_coding"
        v.body = b"transfer coding not implemented\n"
    elif code == FM_EMETHOD:
        v.status = 501
        v.details = b"http1.connect_not_supported"
        v.body = b"CONNECT is not supported here\n"
    elif code == FM_EEXPECT:
        v.status = 417
        v.details = b"http1.unknown_expectation"
        v.body = b"expectation failed\n"
    elif code == FM_ENOROUTE:
        v.status = 404
        v.rf = RF_NR
        v.counter = ST_RQ_NO_ROUTE
        v.details = b"route_not_found"
        v.body = b"no route\n"
    elif code == FM_ENOCLUSTER:
        v.status = 503
        v.rf = RF_NC
        v.counter = ST_RQ_NO_CLUSTER
        v.details = b"cluster_not_found"
        v.body = b"no such cluster\n"
    elif code == FM_ENOHEALTHY:
        v.status = 503
        v.rf = RF_UH
        v.counter = ST_RQ_NO_HEALTHY
        v.details = b"no_healthy_upstream"
        v.body = b"no healthy upstream\n"
    elif code == RE_CONNECT or code == RE_CONNECT_TIMEOUT or code == RE_UP_TLS:
        v.status = 503
        v.rf = RF_UF
        v.counter = ST_RQ_UPSTREAM_RESET
        if code == RE_CONNECT:
            v.details = b"upstream_reset_before_response_started{remote_connection_failure}"
            v.body = b"upstream connect error: connection failed\n"
        elif code == RE_CONNECT_TIMEOUT:
            v.details = b"upstream_reset_before_response_started{connection_timeout}"
            v.body = b"upstream connect error: connection timeout\n"
        else:
            v.details = b"upstream_reset_before_response_started{remote_connection_failure|TLS_error}"
            v.body = b"upstream connect error: TLS error\n"
    elif code == RE_UP_RESET:
        v.status = 503
        v.rf = RF_UC
        v.counter = ST_RQ_UPSTREAM_RESET
        v.details = b"upstream_reset_before_response_started{connection_termination}"
        v.body = b"upstream connect error or disconnect/reset before headers: connection termination\n"
    elif code == RE_UP_PROTOCOL:
        v.status = 502
        v.rf = RF_UPE
        v.counter = ST_RQ_UPSTREAM_PROTOCOL
        v.details = b"upstream_reset_before_response_started{protocol_error}"
        v.body = b"upstream protocol error\n"
    elif code == RE_TIMEOUT:
        v.status = 504
        v.rf = RF_UT
        v.counter = ST_RQ_TIMEOUT
        v.details = b"response_timeout"
        v.body = b"upstream request timeout\n"
    elif code == RE_HEAD_TIMEOUT:
        v.status = 408
        v.rf = RF_DT
        v.counter = ST_RQ_HEAD_TIMEOUT
        v.details = b"request_header_timeout"
        v.body = b"request header timeout\n"
    elif code == RE_IDLE:
        v.status = 408
        v.rf = RF_SI
        v.counter = ST_RQ_TIMEOUT
        v.details = b"stream_idle_timeout"
        v.body = b"stream timeout\n"
    elif code == RE_OVERLOAD or code == FM_ENOMEM:
        v.status = 503
        v.rf = RF_OM
        v.counter = ST_RQ_OVERLOAD
        v.details = b"overload"
        v.body = b"overloaded\n"
    elif code == RE_OVERFLOW:
        v.status = 503
        v.rf = RF_UO
        v.counter = ST_RQ_OVERLOAD
        v.details = b"upstream_reset_before_response_started{overflow}"
        v.body = b"upstream connect error: overflow\n"
    elif code == RE_NO_CONFIG:
        v.status = 503
        v.rf = RF_NR
        v.counter = ST_RQ_NO_ROUTE
        v.details = b"no_configuration"
        v.body = b"no configuration yet\n"
    return v


cdef uint32_t digits_of(uint32_t v, char *out) noexcept nogil:
    cdef char tmp[12]
    cdef uint32_t n = 0
    cdef uint32_t i
    while True:
        tmp[n] = <char>(48 + v % 10)
        n += 1
        v //= 10
        if v == 0:
            break
    for i in range(n):
        out[i] = tmp[n - 1 - i]
    return n


cdef Msg *answer_begin(Exchange *ex, uint32_t status) noexcept nogil:
    cdef Msg *m = &ex.w.resp
    memset(m, 0, sizeof(Msg) - sizeof(m.hdr))
    m.flags = MF_RESPONSE
    m.minor = 1
    m.status = <uint16_t>status
    m.reason = slice_of(h1_reason(<int>status), strlen(h1_reason(<int>status)))
    m.nhdr = 0
    m.content_length = -1
    ex.status = <uint16_t>status
    ex.flags |= XF_LOCAL
    return m


cdef int answer_send(Exchange *ex, Msg *m, Slice body, const char *ctype, uint32_t ctype_n) noexcept nogil:
    cdef char *p
    cdef uint32_t n
    cdef bint bare = m.status == 204 or m.status == 304
    if not bare:
        p = hbuf_take(ex.w, 12)
        if p == NULL:
            return FM_EHEAD
        n = digits_of(body.n, p)
        if msg_add(m, b"content-length", 14, p, n, H_CONTENT_LENGTH) != FM_OK:
            return FM_EHEAD
        if body.n and ctype_n and msg_add(m, b"content-type", 12, ctype, ctype_n, H_NONE) != FM_OK:
            return FM_EHEAD
    if msg_add(m, b"server", 6, b"fastmesh", 8, H_NONE) != FM_OK or forward_response(ex, m) != FM_OK:
        return FM_EHEAD
    m.content_length = body.n
    m.body = <uint8_t>(BODY_NONE if bare or body.n == 0 or ex.method == M_HEAD else BODY_LENGTH)
    ex.dops.head(ex, m)
    if m.body == BODY_LENGTH:
        ex.tx_bytes += body.n
        ex.dops.data(ex, &body, 1)
    ex.dops.end(ex, NULL, 0)
    return FM_OK


cdef void respond_error(Exchange *ex, int code) noexcept nogil:
    cdef Verdict v = verdict_of(code)
    cdef Msg *m
    if code == RE_IDLE and ex.flags & XF_REQ_END:
        v.status = 504           # the client has said all: it is the upstream that is silent (Envoy makes the same difference)
    m = answer_begin(ex, v.status)
    ex.rf |= v.rf
    ex.details = v.details
    stat_inc(ex.w.seg.stats, v.counter)
    if answer_send(ex, m, slice_of(v.body, strlen(v.body)), b"text/plain", 10) != FM_OK:
        ex.dops.abort(ex)


cdef int respond_direct(Exchange *ex, const RouteMatch *rm) noexcept nogil:
    cdef Msg *m = answer_begin(ex, rm.action.status)
    ex.details = b"direct_response"
    stat_inc(ex.w.seg.stats, ST_RQ_DIRECT)
    return answer_send(ex, m, snap_str(&ex.w.snap, rm.action.body), b"text/plain", 10)


cdef int send_location(Exchange *ex, uint32_t status, const char *p, uint32_t n) noexcept nogil:
    cdef Msg *m = answer_begin(ex, status)
    ex.details = b"direct_response"
    stat_inc(ex.w.seg.stats, ST_RQ_DIRECT)
    if msg_add(m, b"location", 8, p, n, H_LOCATION) != FM_OK:
        return FM_EHEAD
    return answer_send(ex, m, slice_of(b"", 0), b"", 0)


cdef uint32_t host_without_port(Slice host) noexcept nogil:
    # the length of the host in host[:port]; an IPv6 literal keeps its brackets
    cdef uint32_t i = host.n
    while i > 0:
        i -= 1
        if host.p[i] == 58:
            return i
        if host.p[i] == 93:
            return host.n
    return host.n


cdef int respond_redirect(Exchange *ex, const Msg *m, const RouteMatch *rm) noexcept nogil:
    cdef Slice scheme = snap_str(&ex.w.snap, rm.action.redirect_scheme)
    cdef Slice host = snap_str(&ex.w.snap, rm.action.redirect_host)
    cdef Slice path = snap_str(&ex.w.snap, rm.action.redirect_path)
    cdef Slice rest = slice_of(m.path.p, 0)
    cdef uint32_t port = rm.action.redirect_port
    cdef bint keep_port = False
    cdef char *out
    cdef uint32_t n, room
    if host.n == 0:
        host = m.host
        if scheme.n == 0 and port == 0:
            keep_port = True
    if scheme.n == 0:
        scheme = slice_of(b"https", 5) if ex.security != SEC_NONE else slice_of(b"http", 4)
    if rm.action.redirect_host.n == 0 and not keep_port:
        host.n = host_without_port(host)
    if path.n == 0:
        path = m.path
    elif rm.action.rewrite_op == RW_PREFIX:
        rest = slice_of(m.path.p + rm.prefix_n, m.path.n - rm.prefix_n)
    room = scheme.n + host.n + path.n + rest.n + m.query.n + 16
    out = hbuf_take(ex.w, room)
    if out == NULL:
        return FM_EHEAD
    memcpy(out, scheme.p, scheme.n)
    n = scheme.n
    memcpy(out + n, b"://", 3)
    n += 3
    memcpy(out + n, host.p, host.n)
    n += host.n
    if port and not ((port == 80 and scheme.n == 4) or (port == 443 and scheme.n == 5)):
        out[n] = 58
        n += 1 + digits_of(port, out + n + 1)
    memcpy(out + n, path.p, path.n)
    n += path.n
    memcpy(out + n, rest.p, rest.n)
    n += rest.n
    if m.query.n:
        out[n] = 63
        memcpy(out + n + 1, m.query.p, m.query.n)
        n += 1 + m.query.n
    return send_location(ex, rm.action.status, out, n)


cdef int respond_https(Exchange *ex, const Msg *m) noexcept nogil:
    cdef uint32_t hn = host_without_port(m.host)
    cdef char *out = hbuf_take(ex.w, hn + m.path.n + m.query.n + 16)
    cdef uint32_t n = 8
    if out == NULL:
        return FM_EHEAD
    memcpy(out, b"https://", 8)
    memcpy(out + n, m.host.p, hn)
    n += hn
    memcpy(out + n, m.path.p, m.path.n)
    n += m.path.n
    if m.query.n:
        out[n] = 63
        memcpy(out + n + 1, m.query.p, m.query.n)
        n += 1 + m.query.n
    return send_location(ex, 301, out, n)
