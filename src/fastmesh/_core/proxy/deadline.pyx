"""The time that a request has (L3). See deadline.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.proto.msg cimport H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HF_DROP, Hdr, Msg, msg_find
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.proxy.forward cimport msg_add

cdef enum:
    DIGITS = 10                  # of milliseconds: more is longer than any timeout


cdef void deadline_begin(Exchange *ex, const Msg *m) noexcept nogil:
    cdef const Hdr *h = msg_find(m, H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
    cdef uint64_t ms = 0
    cdef uint32_t i
    if h == NULL or h.value_n == 0 or h.value_n > DIGITS:
        return
    for i in range(h.value_n):
        if not 48 <= h.value[i] <= 57:
            return
        ms = ms * 10 + (h.value[i] - 48)
    ms += ex.w.r.now_ms
    if ex.deadline_ms == 0 or ms < ex.deadline_ms:
        ex.deadline_ms = ms


cdef int deadline_send(Exchange *ex, Msg *m) noexcept nogil:
    cdef uint64_t now = ex.w.r.now_ms
    cdef uint64_t left = ex.deadline_ms - now if ex.deadline_ms > now else 0
    cdef char *end = ex.budget_text + sizeof(ex.budget_text)
    cdef char *p = end
    cdef uint32_t i
    for i in range(m.nhdr):
        if m.hdr[i].id == H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS:
            m.hdr[i].flags |= HF_DROP
    if ex.plan.per_try_timeout_ms and (ex.deadline_ms == 0 or ex.plan.per_try_timeout_ms < left):
        left = ex.plan.per_try_timeout_ms
    elif ex.deadline_ms == 0:
        return FM_OK
    while True:
        p -= 1
        p[0] = <char>(48 + left % 10)
        left = left // 10
        if left == 0:
            break
    return msg_add(m, b"x-envoy-expected-rq-timeout-ms", 30, p, <uint32_t>(end - p), H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
