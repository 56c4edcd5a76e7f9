"""The check of actions (L1). See check_actions.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.shm.check cimport Check, fault, field_value_ok, name_ok, regex_ok, steps_ok, str_ok, token_ok, within
from fastmesh._core.shm.snapshot cimport (
    ACT_DIRECT, ACT_FORWARD, ACT_REDIRECT, AF_RETRY_ANYWHERE, AF_RETRY_SAME, CO_CREDENTIALS, CO_FORWARD, HOP_REMOVE, MILLION, OP_ANY,
    OP_EXACT, OP_PREFIX, OP_REGEX, PER_NAMED, RO_LAST, RW_REGEX, SNAP_MAX_LIMITS, SNAP_MAX_OPS, SNAP_MAX_RATE, SNAP_MAX_REFILL_S, SNAP_MAX_TOTAL,
    SNAP_NONE, SnapAction, SnapArr, SnapCors, SnapDest, SnapHdrOp, SnapLimit, SnapMirror, SnapOrigin, SnapStr)


cdef inline bint ops_ok(const Check *c, SnapArr ops) noexcept nogil:
    return ops.n <= SNAP_MAX_OPS and within(c.h.hdrops, sizeof(SnapHdrOp), ops)


cdef bint same(const char *p, const char *name, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if p[i] | 32 != name[i]:
            return False
    return True


cdef uint8_t framing(const Check *c, SnapStr name) noexcept nogil:
    """The id (H_* of proto/msg.pxd) of a field that no operation may touch; 0: it is another one."""
    cdef const char *p = c.base + name.off
    if name.n == 4 and same(p, b"host", 4):
        return 1
    if name.n == 14 and same(p, b"content-length", 14):
        return 2
    if name.n == 17 and same(p, b"transfer-encoding", 17):
        return 3
    return 4 if name.n == 10 and same(p, b"connection", 10) else 0


cdef int check_forward(Check *c, const SnapAction *a, uint32_t index) noexcept nogil:
    cdef const SnapDest *d = <const SnapDest *>(c.base + a.dests.off)
    cdef uint32_t i
    cdef uint32_t sum = 0
    if a.dests.n == 0 or a.total_weight == 0 or a.total_weight > SNAP_MAX_TOTAL:
        return fault(c, b"actions", index, b"no destination with a weight")
    if not steps_ok(c, a.dests.n):
        return fault(c, b"actions", index, b"too much to look at")
    for i in range(a.dests.n):
        if d[i].weight < sum:
            return fault(c, b"actions", index, b"weights are not cumulative")
        sum = d[i].weight
    if sum != a.total_weight:
        return fault(c, b"actions", index, b"weights do not add up")
    return FM_OK


cdef int check_cors(Check *c) noexcept nogil:
    cdef const SnapCors *p = <const SnapCors *>(c.base + c.h.cors.off)
    cdef const SnapOrigin *o = <const SnapOrigin *>(c.base + c.h.origins.off)
    cdef uint32_t i
    for i in range(c.h.cors.n):
        if not within(c.h.origins, sizeof(SnapOrigin), p[i].origins) or p[i].flags & ~<uint32_t>(CO_CREDENTIALS | CO_FORWARD):
            return fault(c, b"cors", i, b"origins out of bounds, or flag unknown")
        if not field_value_ok(c, p[i].methods) or not field_value_ok(c, p[i].headers) or not field_value_ok(c, p[i].expose) \
                or not field_value_ok(c, p[i].max_age):
            return fault(c, b"cors", i, b"not a valid field value")
    for i in range(c.h.origins.n):
        if (o[i].op != OP_ANY and o[i].op != OP_EXACT and o[i].op != OP_PREFIX and o[i].op != OP_REGEX) or not regex_ok(c, o[i].op, o[i].regex):
            return fault(c, b"origins", i, b"operator unknown, or no such pattern")
        if not str_ok(c, o[i].value):
            return fault(c, b"origins", i, b"string out of bounds")
    return FM_OK


cdef int check_limits(Check *c) noexcept nogil:
    cdef const SnapLimit *l = <const SnapLimit *>(c.base + c.h.limits.off)
    cdef uint64_t fill_ms
    cdef uint32_t i
    for i in range(c.h.limits.n):
        if not str_ok(c, l[i].name):
            return fault(c, b"limits", i, b"string out of bounds")
        if l[i].per > PER_NAMED or l[i].most == 0 or l[i].fill == 0 or l[i].fill_ms == 0:
            return fault(c, b"limits", i, b"what it is for is unknown, or a number is 0")
        fill_ms = l[i].fill_ms
        if l[i].fill > fill_ms * (SNAP_MAX_RATE // 1000) or l[i].most * fill_ms // l[i].fill > <uint64_t>SNAP_MAX_REFILL_S * 1000:
            return fault(c, b"limits", i, b"filled too fast or too slowly")
    return FM_OK


cdef int check_actions(Check *c) noexcept nogil:
    cdef const SnapAction *a = <const SnapAction *>(c.base + c.h.actions.off)
    cdef const SnapDest *d = <const SnapDest *>(c.base + c.h.dests.off)
    cdef const SnapMirror *m = <const SnapMirror *>(c.base + c.h.mirrors.off)
    cdef const SnapHdrOp *o = <const SnapHdrOp *>(c.base + c.h.hdrops.off)
    cdef uint32_t i
    cdef uint8_t framed
    cdef int rc
    for i in range(c.h.actions.n):
        if a[i].kind > ACT_DIRECT or a[i].rewrite_op > RW_REGEX or a[i].retry_on >= 2 * RO_LAST:
            return fault(c, b"actions", i, b"kind, rewrite or retry condition unknown")
        if not within(c.h.dests, sizeof(SnapDest), a[i].dests):
            return fault(c, b"actions", i, b"destinations out of bounds")
        if not ops_ok(c, a[i].request_ops) or not ops_ok(c, a[i].response_ops):
            return fault(c, b"actions", i, b"header operations out of bounds, or too many")
        if not token_ok(c, a[i].rewrite_path) or not token_ok(c, a[i].rewrite_host) or not token_ok(c, a[i].redirect_scheme) \
                or not token_ok(c, a[i].redirect_host) or not token_ok(c, a[i].redirect_path) or not str_ok(c, a[i].body):
            return fault(c, b"actions", i, b"string out of bounds, or with a character that must not be in a request line or header")
        if not within(c.h.u32s, sizeof(uint32_t), a[i].retry_statuses):
            return fault(c, b"actions", i, b"retry statuses out of bounds")
        if a[i].backoff_base_ms > a[i].backoff_most_ms or a[i].flags & ~<uint32_t>(AF_RETRY_ANYWHERE | AF_RETRY_SAME):
            return fault(c, b"actions", i, b"back-off or flag out of range")
        if a[i].delay_ppm > MILLION or a[i].abort_ppm > MILLION or a[i].abort_grpc > 17:
            return fault(c, b"actions", i, b"fault out of range")
        if a[i].abort_ppm and not 200 <= a[i].abort_status <= 599:
            return fault(c, b"actions", i, b"not a final status")
        if a[i].rewrite_regex != SNAP_NONE and a[i].rewrite_regex >= c.h.regexes.n:
            return fault(c, b"actions", i, b"no such pattern")
        if (a[i].rewrite_op == RW_REGEX) != (a[i].rewrite_regex != SNAP_NONE):
            return fault(c, b"actions", i, b"a pattern to rewrite by without use, or none")
        if not within(c.h.mirrors, sizeof(SnapMirror), a[i].mirrors) or (a[i].cors != SNAP_NONE and a[i].cors >= c.h.cors.n):
            return fault(c, b"actions", i, b"no such mirror or CORS policy")
        if a[i].limits.n > SNAP_MAX_LIMITS or not within(c.h.limits, sizeof(SnapLimit), a[i].limits):
            return fault(c, b"actions", i, b"rate limits out of bounds, or too many")
        if a[i].redirect_port > 65535:
            return fault(c, b"actions", i, b"port out of range")
        if a[i].kind == ACT_REDIRECT and not 300 <= a[i].status <= 399:
            return fault(c, b"actions", i, b"not the status of a redirect")
        if a[i].kind == ACT_DIRECT and not 200 <= a[i].status <= 599:
            return fault(c, b"actions", i, b"not a final status")
        if a[i].kind == ACT_FORWARD:
            rc = check_forward(c, &a[i], i)
            if rc != FM_OK:
                return rc
    rc = check_cors(c)
    if rc != FM_OK:
        return rc
    for i in range(c.h.mirrors.n):
        if (m[i].cluster != SNAP_NONE and m[i].cluster >= c.h.clusters.n) or m[i].ppm > MILLION:
            return fault(c, b"mirrors", i, b"no such cluster, or more than all requests")
    for i in range(c.h.dests.n):
        if d[i].cluster != SNAP_NONE and d[i].cluster >= c.h.clusters.n:
            return fault(c, b"dests", i, b"no such cluster")
        if not ops_ok(c, d[i].request_ops) or not ops_ok(c, d[i].response_ops):
            return fault(c, b"dests", i, b"header operations out of bounds, or too many")
    for i in range(c.h.hdrops.n):
        if o[i].op > HOP_REMOVE:
            return fault(c, b"hdrops", i, b"operation unknown")
        if not name_ok(c, o[i].name) or not field_value_ok(c, o[i].value):
            return fault(c, b"hdrops", i, b"not a valid field name or value")
        framed = framing(c, o[i].name)
        if o[i].hid != framed if framed else 0 < o[i].hid <= 4:
            return fault(c, b"hdrops", i, b"a field of the framing under another id")
    return check_limits(c)
