"""Answers that the proxy itself makes (L3). See respond.pxd. Details follow Envoy's RESPONSE_CODE_DETAILS where it has a name."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset, strlen
from fastmesh._core.base.err cimport (
    FM_ECHUNK, FM_EEXPECT, FM_EFRAMING, FM_EHEAD, FM_EHOST, FM_EMETHOD, FM_ENOCLUSTER, FM_ENOHEALTHY, FM_ENOMEM, FM_ENOROUTE, FM_EREWRITE,
    FM_ETARGET, FM_ETE, FM_ETRAILER, FM_EVERSION, FM_OK)
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.proto.grpc cimport (
    GRPC_DEADLINE_EXCEEDED, grpc_message_size, grpc_message_write, grpc_status_of_h2, grpc_status_of_http)
from fastmesh._core.proto.h1_write cimport h1_reason
from fastmesh._core.proto.msg cimport (
    BODY_LENGTH, BODY_NONE, H_CONTENT_LENGTH, H_CONTENT_TYPE, H_GRPC_MESSAGE, H_GRPC_STATUS, H_LOCATION, H_NONE, H_SERVER, M_HEAD, MF_RESPONSE, Msg)
from fastmesh._core.proxy.ctx cimport XF_GRPC, XF_REQ_END, Exchange
from fastmesh._core.proxy.forward cimport forward_response, hbuf_take, msg_add
from fastmesh._core.shm.snapshot cimport RW_PREFIX, snap_str
from fastmesh._core.shm.stats cimport (
    RF_DPE, RF_DT, RF_FI, RF_NC, RF_NR, RF_OM, RF_RL, RF_SI, RF_UC, RF_UF, RF_UH, RF_UO, RF_UPE, RF_UR, RF_UT, SEC_NONE, ST_RBAC_DENIED,
    ST_RBAC_PATH, ST_RQ_BAD,
    ST_RQ_DIRECT, ST_RQ_HEAD_TIMEOUT, ST_RQ_LIMITED, ST_RQ_NO_CLUSTER, ST_RQ_NO_HEALTHY, ST_RQ_NO_ROUTE, ST_RQ_OVERFLOW, ST_RQ_OVERLOAD,
    ST_RQ_PENDING_OVERFLOW, ST_RQ_REWRITE, ST_RQ_TIMEOUT, ST_RQ_UPSTREAM_PROTOCOL, ST_RQ_UPSTREAM_RESET, stat_inc)


cdef struct Verdict:
    uint16_t status
    uint32_t rf
    int counter
    const char *details
    const char *body


cdef inline Verdict says(int status, uint32_t rf, int counter, const char *details, const char *body) noexcept nogil:
    cdef Verdict v
    v.status = <uint16_t>status
    v.rf = rf
    v.counter = counter
    v.details = details
    v.body = body
    return v


cdef Verdict refused(int code) noexcept nogil:
    # what is wrong with the request
    if code == FM_EFRAMING:
        return says(400, RF_DPE, ST_RQ_BAD, b"http1.ambiguous_framing", b"bad request: ambiguous message framing\n")
    if code == FM_EHOST:
        return says(400, RF_DPE, ST_RQ_BAD, b"http1.invalid_host", b"bad request: missing or invalid Host\n")
    if code == FM_ECHUNK:
        return says(400, RF_DPE, ST_RQ_BAD, b"http1.invalid_chunk", b"bad request: invalid chunked body\n")
    if code == FM_ETRAILER:
        return says(400, RF_DPE, ST_RQ_BAD, b"http1.invalid_trailer", b"bad request: invalid trailer\n")
    if code == FM_ETARGET:
        return says(414, RF_DPE, ST_RQ_BAD, b"http1.target_too_long", b"request target too long\n")
    if code == FM_EHEAD:
        return says(431, RF_DPE, ST_RQ_BAD, b"http1.headers_too_large", b"request header fields too large\n")
    if code == FM_EVERSION:
        return says(505, RF_DPE, ST_RQ_BAD, b"http1.invalid_version", b"HTTP version not supported\n")
    if code == FM_ETE:
        return says(501, RF_DPE, ST_RQ_BAD, b"http1.unknown_transfer_coding", b"transfer coding not implemented\n")
    if code == FM_EMETHOD:
        return says(501, RF_DPE, ST_RQ_BAD, b"http1.method_not_implemented", b"method not implemented\n")
    if code == FM_EEXPECT:
        return says(417, RF_DPE, ST_RQ_BAD, b"http1.unknown_expectation", b"expectation failed\n")
    if code == RE_HEAD_TIMEOUT:
        return says(408, RF_DT, ST_RQ_HEAD_TIMEOUT, b"request_header_timeout", b"request header timeout\n")
    return says(400, RF_DPE, ST_RQ_BAD, b"http1.codec_error", b"bad request\n")


cdef Verdict verdict_of(int code) noexcept nogil:
    # what kept the proxy from getting an answer
    if code == FM_ENOROUTE:
        return says(404, RF_NR, ST_RQ_NO_ROUTE, b"route_not_found", b"no route\n")
    if code == RE_NO_CONFIG:
        return says(503, RF_NR, ST_RQ_NO_ROUTE, b"no_configuration", b"no configuration yet\n")
    if code == FM_ENOCLUSTER:
        return says(503, RF_NC, ST_RQ_NO_CLUSTER, b"cluster_not_found", b"no such cluster\n")
    if code == FM_ENOHEALTHY:
        return says(503, RF_UH, ST_RQ_NO_HEALTHY, b"no_healthy_upstream", b"no healthy upstream\n")
    if code == FM_EREWRITE:
        return says(500, RF_NR, ST_RQ_REWRITE, b"path_rewrite_failed", b"the route's rewrite makes no path of this one\n")
    if code == RE_CONNECT:
        return says(503, RF_UF, ST_RQ_UPSTREAM_RESET, b"upstream_reset_before_response_started{remote_connection_failure}",
                    b"upstream connect error: connection failed\n")
    if code == RE_CONNECT_TIMEOUT:
        return says(503, RF_UF, ST_RQ_UPSTREAM_RESET, b"upstream_reset_before_response_started{connection_timeout}",
                    b"upstream connect error: connection timeout\n")
    if code == RE_UP_TLS:
        return says(503, RF_UF, ST_RQ_UPSTREAM_RESET, b"upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
                    b"upstream connect error: TLS error\n")
    if code == RE_UP_RESET:
        return says(503, RF_UC, ST_RQ_UPSTREAM_RESET, b"upstream_reset_before_response_started{connection_termination}",
                    b"upstream connect error or disconnect/reset before headers: connection termination\n")
    if RE_UP_GOAWAY <= code <= RE_UP_RST:
        return says(503, RF_UR, ST_RQ_UPSTREAM_RESET, b"upstream_reset_before_response_started{remote_reset}",
                    b"upstream connect error or disconnect/reset before headers: remote reset\n")
    if code == RE_UP_PROTOCOL:
        return says(502, RF_UPE, ST_RQ_UPSTREAM_PROTOCOL, b"upstream_reset_before_response_started{protocol_error}",
                    b"upstream protocol error\n")
    if code == RE_TIMEOUT:
        return says(504, RF_UT, ST_RQ_TIMEOUT, b"response_timeout", b"upstream request timeout\n")
    if code == RE_IDLE:
        return says(408, RF_SI, ST_RQ_TIMEOUT, b"stream_idle_timeout", b"stream timeout\n")
    if code == RE_OVERLOAD or code == FM_ENOMEM:
        return says(503, RF_OM, ST_RQ_OVERLOAD, b"overload", b"overloaded\n")
    if code == RE_LIMITED:
        return says(429, RF_RL, ST_RQ_LIMITED, b"local_rate_limited", b"local_rate_limited\n")
    if code == RE_DENIED:
        return says(403, 0, ST_RBAC_DENIED, b"rbac_access_denied", b"RBAC: access denied")
    if code == RE_PATH:
        return says(400, RF_DPE, ST_RBAC_PATH, b"path_normalization_failed", b"bad request: ambiguous path\n")
    if code == RE_FAULT:
        return says(503, RF_FI, ST_RQ_DIRECT, b"fault_filter_abort", b"fault filter abort\n")
    if code == RE_OVERFLOW or code == RE_PENDING:
        return says(503, RF_UO, ST_RQ_OVERFLOW if code == RE_OVERFLOW else ST_RQ_PENDING_OVERFLOW,
                    b"upstream_reset_before_response_started{overflow}", b"upstream connect error: overflow\n")
    return refused(code)


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
        if body.n and ctype_n and msg_add(m, b"content-type", 12, ctype, ctype_n, H_CONTENT_TYPE) != FM_OK:
            return FM_EHEAD
    return answer_end(ex, m, body)


cdef int say_limited(Exchange *ex, Msg *m) noexcept nogil:
    # what clients (retry-after, RFC 9110 10.2.3) and Envoy's retries (the other, "envoy-ratelimited") go by
    cdef char *p
    if ex.limit.wait_s == 0:
        return FM_OK
    p = hbuf_take(ex.w, 12)
    if p == NULL or msg_add(m, b"retry-after", 11, p, digits_of(ex.limit.wait_s, p), H_NONE) != FM_OK:
        return FM_EHEAD
    return msg_add(m, b"x-envoy-ratelimited", 19, b"true", 4, H_NONE)


cdef int answer_end(Exchange *ex, Msg *m, Slice body) noexcept nogil:
    cdef bint bare = m.status == 204 or m.status == 304
    if say_limited(ex, m) != FM_OK:
        return FM_EHEAD
    if msg_add(m, b"server", 6, b"fastmesh", 8, H_SERVER) != FM_OK or forward_response(ex, m) != FM_OK:
        return FM_EHEAD
    m.content_length = body.n
    m.body = <uint8_t>(BODY_NONE if bare or body.n == 0 or ex.method == M_HEAD else BODY_LENGTH)
    ex.dops.head(ex, m)
    if m.body == BODY_LENGTH:
        ex.tx_bytes += body.n
        ex.dops.data(ex, &body, 1)
    ex.dops.end(ex, NULL, 0)
    return FM_OK


cdef int grpc_status_for(const Exchange *ex, int code, int status) noexcept nogil:
    if code == RE_TIMEOUT or (code == RE_IDLE and ex.flags & XF_REQ_END):
        return GRPC_DEADLINE_EXCEEDED
    if code == RE_FAULT and ex.plan.abort_grpc:
        return ex.plan.abort_grpc - 1
    if code == RE_UP_RST:
        return grpc_status_of_h2(ex.h2_error)
    return grpc_status_of_http(status)


cdef int answer_call(Exchange *ex, int code, const Verdict *v) noexcept nogil:
    # gRPC, trailers only: HTTP says 200, the call's own status says what is wrong
    cdef Slice text = slice_of(v.body, strlen(v.body) - (0 if code == RE_DENIED else 1))  # without the line's end
    cdef Msg *m = answer_begin(ex, 200)
    cdef int status = grpc_status_for(ex, code, v.status)
    cdef char *digits = hbuf_take(ex.w, 12)
    cdef char *said = hbuf_take(ex.w, grpc_message_size(text))
    if digits == NULL or said == NULL:
        return FM_EHEAD
    ex.grpc = <uint8_t>(status + 1)
    if (msg_add(m, b"content-type", 12, b"application/grpc", 16, H_CONTENT_TYPE) != FM_OK
            or msg_add(m, b"grpc-status", 11, digits, digits_of(<uint32_t>status, digits), H_GRPC_STATUS) != FM_OK
            or msg_add(m, b"grpc-message", 12, said, <uint32_t>(grpc_message_write(said, text) - said), H_GRPC_MESSAGE) != FM_OK):
        return FM_EHEAD
    if ex.minor < 2 and msg_add(m, b"content-length", 14, b"0", 1, H_CONTENT_LENGTH) != FM_OK:
        return FM_EHEAD
    return answer_end(ex, m, slice_of(NULL, 0))


cdef void respond_error(Exchange *ex, int code) noexcept nogil:
    cdef Verdict v = verdict_of(code)
    cdef Msg *m
    cdef int rc
    if code == RE_IDLE and ex.flags & XF_REQ_END:
        v.status = 504           # the client has said all: it is the upstream that is silent (Envoy makes the same difference)
    if code == RE_FAULT:
        v.status = ex.plan.abort_status
    ex.rf |= v.rf
    if code != RE_DENIED or ex.details == NULL:
        ex.details = v.details
    stat_inc(ex.w.seg.stats, v.counter)
    if ex.flags & XF_GRPC:
        rc = answer_call(ex, code, &v)
    else:
        m = answer_begin(ex, v.status)
        rc = answer_send(ex, m, slice_of(v.body, strlen(v.body)), b"text/plain", 10)
    if rc != FM_OK:
        ex.dops.abort(ex)


cdef int respond_direct(Exchange *ex, const RouteMatch *rm) noexcept nogil:
    cdef Msg *m = answer_begin(ex, rm.action.status)
    ex.details = b"direct_response"
    stat_inc(ex.w.seg.stats, ST_RQ_DIRECT)
    return answer_send(ex, m, snap_str(&ex.w.snap, rm.action.body), b"text/plain", 10)


cdef int respond_preflight(Exchange *ex) noexcept nogil:
    cdef Msg *m = answer_begin(ex, 200)
    ex.details = b"cors_response"
    return answer_send(ex, m, slice_of(b"", 0), b"", 0)


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


cdef Slice path_of(const Msg *m) noexcept nogil:
    # OPTIONS * names no path
    return slice_of(b"/", 1) if m.path.n == 1 and m.path.p[0] == 42 else m.path


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
        path = path_of(m)
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
    if host.n:                   # none: HTTP/1.0 without Host
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
    cdef Slice path = path_of(m)
    cdef char *out = hbuf_take(ex.w, hn + path.n + m.query.n + 16)
    cdef uint32_t n = 8
    if out == NULL:
        return FM_EHEAD
    memcpy(out, b"https://", 8)
    if hn:
        memcpy(out + n, m.host.p, hn)
    n += hn
    memcpy(out + n, path.p, path.n)
    n += path.n
    if m.query.n:
        out[n] = 63
        memcpy(out + n + 1, m.query.p, m.query.n)
        n += 1 + m.query.n
    return send_location(ex, 301, out, n)
