"""The time that a request has (L3). See deadline.pxd."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.base.sys cimport fm_wall_ns
from fastmesh._core.base.view cimport Slice, slice_ieq, slice_of
from fastmesh._core.proto.msg cimport H_NONE, H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HF_DROP, Hdr, Msg, msg_find
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.proxy.forward cimport msg_add
from fastmesh._core.shm.stats cimport DIR_INBOUND, DIR_OUTBOUND

cdef enum:
    DIGITS = 10                  # of milliseconds: more is longer than any timeout
    WALL_DIGITS = 13             # of milliseconds since 1970, until the year 2286


cdef Slice own_name() noexcept nogil:
    return slice_of(b"x-fastmesh-deadline", 19)


cdef int64_t number(const Hdr *h, uint32_t digits) noexcept nogil:
    # -1: it is none
    cdef int64_t v = 0
    cdef uint32_t i
    if h.value_n == 0 or h.value_n > digits:
        return -1
    for i in range(h.value_n):
        if not 48 <= h.value[i] <= 57:
            return -1
        v = v * 10 + (h.value[i] - 48)
    return v


cdef char *digits_before(char *end, uint64_t v) noexcept nogil:
    while True:
        end -= 1
        end[0] = <char>(48 + v % 10)
        v = v // 10
        if v == 0:
            return end


cdef inline uint64_t wall_ms() noexcept nogil:
    return fm_wall_ns() // 1000000


cdef inline void at_most(Exchange *ex, uint64_t until_ms) noexcept nogil:
    if ex.deadline_ms == 0 or until_ms < ex.deadline_ms:
        ex.deadline_ms = until_ms


cdef void deadline_begin(Exchange *ex, const Msg *m) noexcept nogil:
    cdef const Hdr *h = msg_find(m, H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
    cdef int64_t ms, now
    cdef uint32_t i
    if h != NULL:
        ms = number(h, DIGITS)
        if ms >= 0:
            at_most(ex, ex.w.r.now_ms + <uint64_t>ms)
    if ex.direction != DIR_OUTBOUND:
        return                   # another host's clock
    for i in range(m.nhdr):
        if m.hdr[i].name_n == own_name().n and slice_ieq(slice_of(m.hdr[i].name, m.hdr[i].name_n), own_name()):
            ms = number(&m.hdr[i], WALL_DIGITS)
            now = <int64_t>wall_ms()
            if ms >= 0:
                at_most(ex, ex.w.r.now_ms + <uint64_t>(ms - now if ms > now else 0))


cdef int deadline_send(Exchange *ex, Msg *m) noexcept nogil:
    cdef uint64_t now = ex.w.r.now_ms
    cdef uint64_t left = ex.deadline_ms - now if ex.deadline_ms > now else 0
    cdef char *end
    cdef char *p
    cdef uint32_t i
    cdef int rc
    for i in range(m.nhdr):
        if m.hdr[i].id == H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS or (
                m.hdr[i].name_n == own_name().n and slice_ieq(slice_of(m.hdr[i].name, m.hdr[i].name_n), own_name())):
            m.hdr[i].flags |= HF_DROP
    if ex.plan.per_try_timeout_ms and (ex.deadline_ms == 0 or ex.plan.per_try_timeout_ms < left):
        left = ex.plan.per_try_timeout_ms
    elif ex.deadline_ms == 0:
        return FM_OK
    if ex.direction == DIR_INBOUND:
        end = ex.deadline_text + sizeof(ex.deadline_text)
        p = digits_before(end, wall_ms() + left)
        rc = msg_add(m, own_name().p, <uint32_t>own_name().n, p, <uint32_t>(end - p), H_NONE)
        if rc != FM_OK:
            return rc
    end = ex.budget_text + sizeof(ex.budget_text)
    p = digits_before(end, left)
    return msg_add(m, b"x-envoy-expected-rq-timeout-ms", 30, p, <uint32_t>(end - p), H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
