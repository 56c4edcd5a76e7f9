"""What the proxy changes in a head (L3). See forward.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy
from fastmesh._core.base.buf cimport Block, block_data, block_free, block_new
from fastmesh._core.base.err cimport FM_EHEAD, FM_ENOMEM, FM_EREWRITE, FM_OK
from fastmesh._core.base.view cimport Slice, ascii_lower, slice_ieq, slice_of
from fastmesh._core.net.sock cimport addr_text
from fastmesh._core.net.tls cimport tls_forwarded_cert
from fastmesh._core.policy.lb cimport rng_next
from fastmesh._core.policy.router cimport RouteMatch, router_rewrite
from fastmesh._core.proto.msg cimport (
    H_CONNECTION, H_CONTENT_LENGTH, H_DATE, H_HOST, H_NONE, H_TRACEPARENT, H_TRANSFER_ENCODING, H_X_FORWARDED_CLIENT_CERT,
    H_X_FORWARDED_FOR, H_X_FORWARDED_PROTO, H_X_REQUEST_ID, HF_DROP, MF_ABSOLUTE, MSG_CAP_HEADERS, MSG_MAX_TARGET, Hdr, Msg, msg_find)
from fastmesh._core.proto.trace cimport (
    REQUEST_ID_BYTES, TRACEPARENT_BYTES, request_id_make, trace_b3_id, trace_begin, trace_parse)
from fastmesh._core.proxy.ctx cimport HBUF_BYTES, Exchange, Worker
from fastmesh._core.shm.snapshot cimport (
    HOP_ADD, HOP_REMOVE, HOP_SET, RW_FULL, RW_PREFIX, RW_REGEX, Snap, SnapArr, SnapCluster, SnapEndpoint, SnapHdrOp, snap_at, snap_str)
from fastmesh._core.shm.stats cimport DIR_GATEWAY, DIR_INBOUND, SEC_MTLS, SEC_NONE

cdef enum:
    DIGITS = 10                  # of a 32-bit number


cdef char *hbuf_take(Worker *w, uint32_t n) noexcept nogil:
    cdef char *p
    if n > HBUF_BYTES - w.hused:
        return NULL
    p = w.hbuf + w.hused
    w.hused += n
    return p


cdef int msg_add(Msg *m, const char *name, uint32_t name_n, const char *value, uint32_t value_n, int hid) noexcept nogil:
    cdef Hdr *h
    if m.nhdr >= MSG_CAP_HEADERS:
        return FM_EHEAD
    h = &m.hdr[m.nhdr]
    h.name = name
    h.name_n = <uint16_t>name_n
    h.value = value
    h.value_n = value_n
    h.id = <uint8_t>hid
    h.flags = 0
    m.nhdr += 1
    return FM_OK


cdef void msg_drop(Msg *m, const char *name, uint32_t n, int hid) noexcept nogil:
    # every field of this name
    cdef uint32_t i, k
    cdef Hdr *h
    for i in range(m.nhdr):
        h = &m.hdr[i]
        if h.name_n != n or h.id != hid:
            continue
        if hid == H_NONE:
            k = 0
            while k < n and ascii_lower(<uint8_t>h.name[k]) == ascii_lower(<uint8_t>name[k]):
                k += 1
            if k < n:
                continue
        h.flags |= HF_DROP


cdef int apply_op(Msg *m, int op, int hid, const char *name, uint32_t name_n, const char *value, uint32_t value_n) noexcept nogil:
    # framing and routing fields are the codecs' business (Host: rewrite.authority); the compiler refuses them with a path
    if hid == H_HOST or hid == H_CONTENT_LENGTH or hid == H_TRANSFER_ENCODING or hid == H_CONNECTION:
        return FM_OK
    if op == HOP_REMOVE or op == HOP_SET:
        msg_drop(m, name, name_n, hid)
    if op == HOP_REMOVE:
        return FM_OK
    return msg_add(m, name, name_n, value, value_n, hid)


cdef int apply_ops(const Snap *s, SnapArr a, Msg *m) noexcept nogil:
    cdef const SnapHdrOp *op = <const SnapHdrOp *>snap_at(s, a.off)
    cdef Slice name, value
    cdef uint32_t i
    for i in range(a.n):
        name = snap_str(s, op[i].name)
        value = snap_str(s, op[i].value)
        if apply_op(m, op[i].op, op[i].hid, name.p, name.n, value.p, value.n) != FM_OK:
            return FM_EHEAD
    return FM_OK


cdef int rewrite_matches(Exchange *ex, const Msg *m, const RouteMatch *rm, Slice *path) noexcept nogil:
    # what a pattern makes of the path may be anything: only a path goes on
    cdef char *p = hbuf_take(ex.w, MSG_MAX_TARGET)
    cdef int64_t n
    if p == NULL:
        return FM_EHEAD
    n = router_rewrite(rm.action.rewrite_regex, m.path, snap_str(&ex.w.snap, rm.action.rewrite_path), p, MSG_MAX_TARGET)
    ex.w.hused -= MSG_MAX_TARGET - <uint32_t>(n if n > 0 else 0)
    if n <= 0 or p[0] != c'/':
        return FM_EREWRITE
    path[0] = slice_of(p, n)
    return FM_OK


cdef int rewrite_target(Exchange *ex, Msg *m, const RouteMatch *rm, Slice *target) noexcept nogil:
    cdef Worker *w = ex.w
    cdef Slice path
    cdef Slice rest
    cdef char *p
    cdef uint32_t n
    # as it was sent, unless it was in absolute form: the next hop gets origin form
    if rm.action.rewrite_op == RW_REGEX:
        rest = slice_of(m.path.p, 0)
        if rewrite_matches(ex, m, rm, &path) != FM_OK:
            return FM_EREWRITE
    elif rm.action.rewrite_op == RW_PREFIX or rm.action.rewrite_op == RW_FULL:
        path = snap_str(&w.snap, rm.action.rewrite_path)
        rest = slice_of(m.path.p, 0)
        if rm.action.rewrite_op == RW_PREFIX:
            rest = slice_of(m.path.p + rm.prefix_n, m.path.n - rm.prefix_n)
    elif m.flags & MF_ABSOLUTE:
        path = m.path
        rest = slice_of(m.path.p, 0)
    else:
        target[0] = m.target
        return FM_OK
    n = path.n + rest.n + m.query.n + 1
    p = hbuf_take(w, n)
    if p == NULL:
        return FM_EHEAD
    memcpy(p, path.p, path.n)
    n = path.n
    if rest.n:
        memcpy(p + n, rest.p, rest.n)
        n += rest.n
    if m.query.n:
        p[n] = 63  # ?
        memcpy(p + n + 1, m.query.p, m.query.n)
        n += 1 + m.query.n
    target[0] = slice_of(p, n)
    return FM_OK


cdef int set_host(Msg *m, Slice host) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nhdr):
        if m.hdr[i].id == H_HOST:
            m.hdr[i].value = host.p
            m.hdr[i].value_n = host.n
            return FM_OK
    return msg_add(m, b"host", 4, host.p, host.n, H_HOST)


cdef Slice host_of(const Snap *s, uint32_t cluster) noexcept nogil:
    # the service's name, or the address of an endpoint where the cluster stands for none
    cdef const SnapCluster *c = &(<const SnapCluster *>snap_at(s, s.h.clusters.off))[cluster]
    if c.service.n or c.endpoints.n == 0:
        return snap_str(s, c.service)
    return snap_str(s, (<const SnapEndpoint *>snap_at(s, c.endpoints.off)).text)


cdef int add_ids(Exchange *ex, Msg *m) noexcept nogil:
    cdef Worker *w = ex.w
    cdef const Hdr *h
    cdef char *p
    if msg_find(m, H_X_REQUEST_ID) == NULL:
        p = hbuf_take(w, REQUEST_ID_BYTES)
        if p == NULL:
            return FM_EHEAD
        request_id_make(p, rng_next(&w.rng), rng_next(&w.rng))
        if msg_add(m, b"x-request-id", 12, p, REQUEST_ID_BYTES, H_X_REQUEST_ID) != FM_OK:
            return FM_EHEAD
    h = msg_find(m, H_TRACEPARENT)
    if h != NULL and trace_parse(h.value, h.value_n, ex.trace_id):
        return FM_OK
    if h == NULL and trace_b3_id(m, ex.trace_id):
        return FM_OK             # a B3 application: its own fields go on
    if h != NULL:
        msg_drop(m, b"traceparent", 11, H_TRACEPARENT)  # invalid: W3C 4.3 says begin anew
    p = hbuf_take(w, TRACEPARENT_BYTES)
    if p == NULL:
        return FM_EHEAD
    trace_begin(p, ex.trace_id, rng_next(&w.rng), rng_next(&w.rng), rng_next(&w.rng))
    return msg_add(m, b"traceparent", 11, p, TRACEPARENT_BYTES, H_TRACEPARENT)


cdef int add_client_cert(Exchange *ex, Msg *m) noexcept nogil:
    # Istio's APPEND_FORWARD: who showed a certificate of the mesh is believed what it says of those before it, and its own certificate
    # comes last. Anybody else could say anything, so nothing of it reaches the application.
    cdef Slice own = slice_of("", 0)
    cdef const Hdr *h
    cdef char *p
    cdef uint32_t n = 0
    cdef uint32_t i
    if ex.tls != NULL and ex.security == SEC_MTLS:
        own = tls_forwarded_cert(ex.tls)
    if own.n == 0:
        msg_drop(m, b"x-forwarded-client-cert", 23, H_X_FORWARDED_CLIENT_CERT)
        return FM_OK
    for i in range(m.nhdr):
        if m.hdr[i].id == H_X_FORWARDED_CLIENT_CERT and not m.hdr[i].flags & HF_DROP:
            n += m.hdr[i].value_n + 1
    p = hbuf_take(ex.w, n + <uint32_t>own.n)
    if p == NULL:
        return FM_EHEAD
    n = 0
    for i in range(m.nhdr):
        h = &m.hdr[i]
        if h.id == H_X_FORWARDED_CLIENT_CERT and not h.flags & HF_DROP and h.value_n:
            memcpy(p + n, h.value, h.value_n)
            n += h.value_n
            p[n] = 44
            n += 1
    memcpy(p + n, own.p, own.n)
    msg_drop(m, b"x-forwarded-client-cert", 23, H_X_FORWARDED_CLIENT_CERT)
    return msg_add(m, b"x-forwarded-client-cert", 23, p, n + <uint32_t>own.n, H_X_FORWARDED_CLIENT_CERT)


cdef int add_forwarded(Exchange *ex, Msg *m) noexcept nogil:
    # A gateway says who the client is and trusts nobody's word for it but appends; a sidecar passes on what it was told.
    cdef Worker *w = ex.w
    cdef const Hdr *h
    cdef char *p
    cdef uint32_t n = 0
    cdef uint32_t i
    cdef bint https = ex.security != SEC_NONE
    if ex.direction != DIR_GATEWAY:
        if ex.direction == DIR_INBOUND and add_client_cert(ex, m) != FM_OK:
            return FM_EHEAD
        if msg_find(m, H_X_FORWARDED_PROTO) == NULL:
            return msg_add(m, b"x-forwarded-proto", 17, b"http", 4, H_X_FORWARDED_PROTO)
        return FM_OK
    msg_drop(m, b"x-forwarded-client-cert", 23, H_X_FORWARDED_CLIENT_CERT)
    msg_drop(m, b"x-forwarded-proto", 17, H_X_FORWARDED_PROTO)
    if msg_add(m, b"x-forwarded-proto", 17, b"https" if https else b"http", 5 if https else 4, H_X_FORWARDED_PROTO) != FM_OK:
        return FM_EHEAD
    for i in range(m.nhdr):
        if m.hdr[i].id == H_X_FORWARDED_FOR and not m.hdr[i].flags & HF_DROP:
            n += m.hdr[i].value_n + 2
    p = hbuf_take(w, n + 64)
    if p == NULL:
        return FM_EHEAD
    n = 0
    for i in range(m.nhdr):
        h = &m.hdr[i]
        if h.id == H_X_FORWARDED_FOR and not h.flags & HF_DROP and h.value_n:
            memcpy(p + n, h.value, h.value_n)
            n += h.value_n
            p[n] = 44
            p[n + 1] = 32
            n += 2
    msg_drop(m, b"x-forwarded-for", 15, H_X_FORWARDED_FOR)
    n += addr_text(&ex.peer_addr, p + n, 64, False)
    return msg_add(m, b"x-forwarded-for", 15, p, n, H_X_FORWARDED_FOR)


cdef int forward_request(Exchange *ex, Msg *m, const RouteMatch *rm, Slice *target) noexcept nogil:
    cdef Snap *s = &ex.w.snap
    cdef int rc = rewrite_target(ex, m, rm, target)
    if rc != FM_OK:
        return rc
    if rm.action.rewrite_host.n:
        rc = set_host(m, snap_str(s, rm.action.rewrite_host))
    elif m.flags & MF_ABSOLUTE:
        rc = set_host(m, m.host)  # RFC 9112 3.2.2: the target's authority wins over Host
    elif m.host.n == 0 and msg_find(m, H_HOST) == NULL:
        # an HTTP/1.0 client may leave it out; the HTTP/1.1 request that goes on must name whom it is for
        rc = set_host(m, host_of(s, rm.dest.cluster))
    if rc != FM_OK or add_forwarded(ex, m) != FM_OK or add_ids(ex, m) != FM_OK:
        return FM_EHEAD
    if rm.action.request_ops.n and apply_ops(s, rm.action.request_ops, m) != FM_OK:
        return FM_EHEAD
    if rm.dest.request_ops.n and apply_ops(s, rm.dest.request_ops, m) != FM_OK:
        return FM_EHEAD
    return FM_OK


# ---- response operations: kept as [op][hid][name_n u16][value_n u32][name][value] in one block ----------------------------------------

cdef struct KeptOp:
    uint8_t op
    uint8_t hid
    uint16_t name_n
    uint32_t value_n


cdef uint32_t kept_bytes(const Snap *s, SnapArr a) noexcept nogil:
    cdef const SnapHdrOp *op = <const SnapHdrOp *>snap_at(s, a.off)
    cdef uint32_t i
    cdef uint32_t n = 0
    for i in range(a.n):
        n += <uint32_t>sizeof(KeptOp) + op[i].name.n + op[i].value.n
    return n


cdef void keep_ops(const Snap *s, SnapArr a, Block *b) noexcept nogil:
    cdef const SnapHdrOp *op = <const SnapHdrOp *>snap_at(s, a.off)
    cdef KeptOp k
    cdef Slice name, value
    cdef uint32_t i
    cdef char *p
    for i in range(a.n):
        name = snap_str(s, op[i].name)
        value = snap_str(s, op[i].value)
        k.op = op[i].op
        k.hid = op[i].hid
        k.name_n = <uint16_t>name.n
        k.value_n = value.n
        p = block_data(b) + b.end
        memcpy(p, &k, sizeof(k))
        memcpy(p + sizeof(k), name.p, name.n)
        memcpy(p + sizeof(k) + name.n, value.p, value.n)
        b.end += <uint32_t>sizeof(k) + name.n + value.n


cdef int forward_keep_response_ops(Exchange *ex, const RouteMatch *rm) noexcept nogil:
    cdef Snap *s = &ex.w.snap
    cdef uint32_t n
    if rm.action.response_ops.n == 0 and (rm.dest == NULL or rm.dest.response_ops.n == 0):
        return FM_OK
    n = kept_bytes(s, rm.action.response_ops)
    if rm.dest != NULL:
        n += kept_bytes(s, rm.dest.response_ops)
    ex.ops = block_new(&ex.w.r.bufs, n)
    if ex.ops == NULL or ex.ops.cap < n:
        return FM_ENOMEM
    keep_ops(s, rm.action.response_ops, ex.ops)
    if rm.dest != NULL:
        keep_ops(s, rm.dest.response_ops, ex.ops)
    return FM_OK


cdef int forward_keep_field(Exchange *ex, Slice name, int hid, Slice value) noexcept nogil:
    return keep_op(ex, HOP_ADD, name, hid, value)


cdef int forward_set_field(Exchange *ex, Slice name, int hid, Slice value) noexcept nogil:
    return keep_op(ex, HOP_SET, name, hid, value)


cdef int keep_op(Exchange *ex, int op, Slice name, int hid, Slice value) noexcept nogil:
    cdef uint32_t had = ex.ops.end if ex.ops != NULL else 0
    cdef uint32_t n = had + <uint32_t>sizeof(KeptOp) + name.n + value.n
    cdef Block *b = block_new(&ex.w.r.bufs, n)
    cdef KeptOp k
    cdef char *p
    if b == NULL or b.cap < n:
        block_free(&ex.w.r.bufs, b)
        return FM_ENOMEM
    p = block_data(b)
    if had:
        memcpy(p, block_data(ex.ops), had)
        block_free(&ex.w.r.bufs, ex.ops)
    k.op = <uint8_t>op
    k.hid = <uint8_t>hid
    k.name_n = <uint16_t>name.n
    k.value_n = value.n
    memcpy(p + had, &k, sizeof(k))
    memcpy(p + had + sizeof(k), name.p, name.n)
    memcpy(p + had + sizeof(k) + name.n, value.p, value.n)
    b.end = n
    ex.ops = b
    return FM_OK


# ---- rate limits ---------------------------------------------------------------------------------------------------------------------

cdef int add_number(Exchange *ex, Msg *m, const char *name, uint32_t name_n, uint32_t v) noexcept nogil:
    cdef char *p = hbuf_take(ex.w, DIGITS)
    cdef uint32_t at = DIGITS
    if p == NULL:
        return FM_EHEAD
    while True:
        at -= 1
        p[at] = <char>(48 + v % 10)
        v //= 10
        if v == 0:
            return msg_add(m, name, name_n, p + at, DIGITS - at, H_NONE)


cdef int tell_limit(Exchange *ex, Msg *m) noexcept nogil:
    # Names and meaning of draft-ietf-httpapi-ratelimit-headers-03, as Envoy's. Those of the application, or of a hop behind this one, stay:
    # they are nearer to what is being rationed.
    cdef uint32_t i
    for i in range(m.nhdr):
        if m.hdr[i].id == H_NONE and slice_ieq(slice_of(m.hdr[i].name, m.hdr[i].name_n), slice_of(b"x-ratelimit-limit", 17)):
            return FM_OK
    if (add_number(ex, m, b"x-ratelimit-limit", 17, ex.limit.most) != FM_OK
            or add_number(ex, m, b"x-ratelimit-remaining", 21, ex.limit.left) != FM_OK):
        return FM_EHEAD
    return add_number(ex, m, b"x-ratelimit-reset", 17, ex.limit.full_s)


cdef int forward_response(Exchange *ex, Msg *m) noexcept nogil:
    cdef KeptOp k
    cdef uint32_t at
    cdef const char *p
    if ex.limit.most and tell_limit(ex, m) != FM_OK:
        return FM_EHEAD
    if ex.ops != NULL:
        at = 0
        while at < ex.ops.end:
            p = block_data(ex.ops) + at
            memcpy(&k, p, sizeof(k))
            p += sizeof(k)
            if apply_op(m, k.op, k.hid, p, k.name_n, p + k.name_n, k.value_n) != FM_OK:
                return FM_EHEAD
            at += <uint32_t>sizeof(k) + k.name_n + k.value_n
    if m.status >= 200 and msg_find(m, H_DATE) == NULL:
        return msg_add(m, b"date", 4, ex.w.date, 29, H_DATE)
    return FM_OK
