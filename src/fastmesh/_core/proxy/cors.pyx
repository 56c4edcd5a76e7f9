"""Cross-origin requests (L3). See cors.pxd. As Envoy's filter judges them, and with Vary: Origin, so that no cache gives one origin's answer
to another (Fetch standard 3.2.5)."""
from libc.stdint cimport uint32_t
from fastmesh._core.base.err cimport FM_ENOMEM, FM_OK
from fastmesh._core.base.view cimport Slice, slice_ieq, slice_of
from fastmesh._core.policy.router cimport router_value
from fastmesh._core.proto.msg cimport H_NONE, HF_DROP, M_OPTIONS, Msg
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.proxy.forward cimport forward_keep_field, forward_set_field
from fastmesh._core.shm.snapshot cimport CO_CREDENTIALS, CO_FORWARD, Snap, SnapCors, SnapOrigin, snap_at, snap_str
from fastmesh._core.shm.stats cimport ST_CORS_INVALID, ST_CORS_PREFLIGHT, ST_CORS_VALID, stat_inc


cdef Slice field(const Msg *m, Slice name) noexcept nogil:
    # the first of this name; an empty value is as none
    cdef uint32_t i
    for i in range(m.nhdr):
        if not m.hdr[i].flags & HF_DROP and slice_ieq(slice_of(m.hdr[i].name, m.hdr[i].name_n), name):
            return slice_of(m.hdr[i].value, m.hdr[i].value_n)
    return slice_of(NULL, 0)


cdef bint allowed(const Snap *s, const SnapCors *c, Slice origin) noexcept nogil:
    cdef const SnapOrigin *o = <const SnapOrigin *>snap_at(s, c.origins.off)
    cdef uint32_t i
    for i in range(c.origins.n):
        if router_value(o[i].op, False, o[i].regex, snap_str(s, o[i].value), origin):
            return True
    return False


cdef inline int say(Exchange *ex, const char *name, uint32_t name_n, Slice value) noexcept nogil:
    return forward_set_field(ex, slice_of(name, name_n), H_NONE, value) if value.n else FM_OK


cdef int cors_take(Exchange *ex, const Msg *m, const SnapCors *c, bint *preflight) noexcept nogil:
    cdef const Snap *s = &ex.w.snap
    cdef Slice origin = field(m, slice_of(b"origin", 6))
    cdef bint asks
    preflight[0] = False
    if origin.n == 0:
        return FM_OK
    asks = m.method == M_OPTIONS and field(m, slice_of(b"access-control-request-method", 29)).n != 0
    if not allowed(s, c, origin):
        stat_inc(ex.w.seg.stats, ST_CORS_INVALID)
        if asks and not c.flags & CO_FORWARD:
            stat_inc(ex.w.seg.stats, ST_CORS_PREFLIGHT)
            preflight[0] = True
        return FM_OK             # its answer says nothing of origins, and so the browser keeps it from the script
    stat_inc(ex.w.seg.stats, ST_CORS_VALID)
    if say(ex, b"access-control-allow-origin", 27, origin) != FM_OK:
        return FM_ENOMEM
    if forward_keep_field(ex, slice_of(b"vary", 4), H_NONE, slice_of(b"origin", 6)) != FM_OK:
        return FM_ENOMEM
    if c.flags & CO_CREDENTIALS and say(ex, b"access-control-allow-credentials", 32, slice_of(b"true", 4)) != FM_OK:
        return FM_ENOMEM
    if not asks:
        return say(ex, b"access-control-expose-headers", 29, snap_str(s, c.expose))
    stat_inc(ex.w.seg.stats, ST_CORS_PREFLIGHT)
    preflight[0] = True
    if say(ex, b"access-control-allow-methods", 28, snap_str(s, c.methods)) != FM_OK:
        return FM_ENOMEM
    if say(ex, b"access-control-allow-headers", 28, snap_str(s, c.headers)) != FM_OK:
        return FM_ENOMEM
    return say(ex, b"access-control-max-age", 22, snap_str(s, c.max_age))
