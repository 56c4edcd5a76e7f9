"""gRPC calls (L3). See call.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.base.view cimport slice_of
from fastmesh._core.proto.grpc cimport (
    GRPC_CANCELLED, GRPC_DEADLINE_EXCEEDED, GRPC_INTERNAL, GRPC_RESOURCE_EXHAUSTED, GRPC_UNAVAILABLE, grpc_request, grpc_status_parse,
    grpc_timeout_parse, grpc_timeout_write)
from fastmesh._core.proto.msg cimport H_GRPC_STATUS, H_GRPC_TIMEOUT, HF_DROP, Hdr, Msg, msg_find
from fastmesh._core.proxy.ctx cimport XF_GRPC, XF_GRPC_TIMEOUT, Exchange
from fastmesh._core.shm.snapshot cimport (
    RO_CANCELLED, RO_DEADLINE_EXCEEDED, RO_INTERNAL, RO_RESOURCE_EXHAUSTED, RO_UNAVAILABLE)
from fastmesh._core.shm.stats cimport ST_RQ_GRPC, stat_inc

cdef enum:
    NS_PER_MS = 1000000


cdef void call_begin(Exchange *ex, const Msg *m) noexcept nogil:
    cdef const Hdr *h
    cdef uint64_t ns = 0
    if not grpc_request(m):
        return
    ex.flags |= XF_GRPC
    stat_inc(ex.w.seg.stats, ST_RQ_GRPC)
    h = msg_find(m, H_GRPC_TIMEOUT)
    if h == NULL or grpc_timeout_parse(slice_of(h.value, h.value_n), &ns) != FM_OK:
        return
    ex.flags |= XF_GRPC_TIMEOUT
    ex.deadline_ms = ex.w.r.now_ms + ns // NS_PER_MS


cdef void call_timeout(Exchange *ex, Msg *m) noexcept nogil:
    cdef uint64_t now = ex.w.r.now_ms
    cdef uint64_t left
    cdef uint32_t i
    if not ex.flags & XF_GRPC_TIMEOUT:
        return
    left = ex.deadline_ms - now if ex.deadline_ms > now else 0
    if ex.plan.per_try_timeout_ms and ex.plan.per_try_timeout_ms < left:
        left = ex.plan.per_try_timeout_ms
    for i in range(m.nhdr):
        if m.hdr[i].id == H_GRPC_TIMEOUT and not m.hdr[i].flags & HF_DROP:
            m.hdr[i].value = ex.timeout_text
            m.hdr[i].value_n = grpc_timeout_write(left * NS_PER_MS, ex.timeout_text)
            return


cdef bint call_status(Exchange *ex, const Hdr *t, int n) noexcept nogil:
    cdef int i
    if not ex.flags & XF_GRPC:
        return False
    for i in range(n):
        if t[i].id == H_GRPC_STATUS and not t[i].flags & HF_DROP:
            ex.grpc = <uint8_t>(grpc_status_parse(slice_of(t[i].value, t[i].value_n)) + 1)
            return True
    return False


cdef void call_expired(Exchange *ex) noexcept nogil:
    cdef Hdr t
    t.name = b"grpc-status"
    t.name_n = 11
    t.value = b"4"
    t.value_n = 1
    t.id = H_GRPC_STATUS
    t.flags = 0
    ex.grpc = GRPC_DEADLINE_EXCEEDED + 1
    ex.dops.end(ex, &t, 1)


cdef uint32_t call_retry_on(const Exchange *ex) noexcept nogil:
    cdef int status = <int>ex.grpc - 1
    if status == GRPC_UNAVAILABLE:
        return RO_UNAVAILABLE
    if status == GRPC_CANCELLED:
        return RO_CANCELLED
    if status == GRPC_DEADLINE_EXCEEDED:
        return RO_DEADLINE_EXCEEDED
    if status == GRPC_INTERNAL:
        return RO_INTERNAL
    if status == GRPC_RESOURCE_EXHAUSTED:
        return RO_RESOURCE_EXHAUSTED
    return 0
