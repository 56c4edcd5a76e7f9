"""What one hop tells another of attempts (L3). See attempts.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.base.view cimport slice_of
from fastmesh._core.policy.giveup cimport giveup_key, giveup_note, giveup_noted
from fastmesh._core.policy.repeat cimport repeat_key, repeat_said
from fastmesh._core.proto.grpc cimport (
    GRPC_CANCELLED, GRPC_DEADLINE_EXCEEDED, GRPC_INTERNAL, GRPC_RESOURCE_EXHAUSTED, GRPC_UNAVAILABLE)
from fastmesh._core.proto.lists cimport slice_is
from fastmesh._core.proto.msg cimport H_X_ENVOY_ATTEMPT_COUNT, H_X_FASTMESH_RETRY, HF_DROP, Hdr, Msg, msg_find
from fastmesh._core.proxy.ctx cimport TRIED_MOST, XF_GRPC, Exchange
from fastmesh._core.proxy.forward cimport msg_add
from fastmesh._core.shm.snapshot cimport SnapCluster
from fastmesh._core.shm.stats cimport DIR_INBOUND, ST_RQ_CLIENT_RETRY, ST_RQ_RETRY_GIVEN_UP, stat_inc


cdef void attempts_asked(Exchange *ex, const Msg *m, const SnapCluster *c) noexcept nogil:
    cdef uint64_t key
    if ex.direction == DIR_INBOUND:
        return                   # the caller's sidecar has seen it
    key = repeat_key(m)
    ex.repeat_key = key
    if key and giveup_noted(&ex.w.seg, key, ex.w.r.now_ns) or ex.flags & XF_GRPC and repeat_said(m):
        stat_inc(ex.w.seg.stats, ST_RQ_CLIENT_RETRY)
        ex.w.seg.cluster_rows[ex.w.seg.self_row].c[c.cell].repeats += 1


cdef void attempts_ended(Exchange *ex) noexcept nogil:
    # what clients repeat: no answer, one that went wrong here (a response flag), 5xx, 429, and what gRPC's default policies retry
    cdef bint failed
    if ex.repeat_key == 0:
        return
    failed = ex.status == 0 or ex.status >= 500 or ex.status == 429 or ex.rf != 0
    if ex.grpc:
        failed = failed or ex.grpc - 1 in (GRPC_CANCELLED, GRPC_DEADLINE_EXCEEDED, GRPC_RESOURCE_EXHAUSTED, GRPC_INTERNAL, GRPC_UNAVAILABLE)
    if failed:
        giveup_note(&ex.w.seg, ex.repeat_key, ex.w.r.now_ns)


cdef int attempts_send(Exchange *ex, Msg *m) noexcept nogil:
    cdef char *end = ex.attempt_text + sizeof(ex.attempt_text)
    cdef char *p = end
    cdef uint32_t n = ex.tries
    cdef uint32_t i
    if ex.direction == DIR_INBOUND:
        return FM_OK             # the caller's sidecar has said it
    for i in range(m.nhdr):
        if m.hdr[i].id == H_X_ENVOY_ATTEMPT_COUNT:
            m.hdr[i].flags |= HF_DROP
    while True:
        p -= 1
        p[0] = <char>(48 + n % 10)
        n = n // 10
        if n == 0:
            break
    return msg_add(m, b"x-envoy-attempt-count", 21, p, <uint32_t>(end - p), H_X_ENVOY_ATTEMPT_COUNT)


cdef void attempts_note(Exchange *ex) noexcept nogil:
    # to the front, and each once: what falls out at the end was tried longest ago
    cdef uint32_t i = 0
    while i < ex.ntried and ex.tried[i] != ex.cell:
        i += 1
    if i == ex.ntried:
        if ex.ntried < TRIED_MOST:
            ex.ntried += 1
        else:
            i -= 1
    while i > 0:
        ex.tried[i] = ex.tried[i - 1]
        i -= 1
    ex.tried[0] = ex.cell


cdef bint attempts_over(Exchange *ex, const Msg *m) noexcept nogil:
    cdef const Hdr *h
    if ex.direction == DIR_INBOUND:
        return False
    h = msg_find(m, H_X_FASTMESH_RETRY)
    if h == NULL or not slice_is(slice_of(h.value, h.value_n), "no", 2):
        return False
    attempts_gave_up(ex)
    stat_inc(ex.w.seg.stats, ST_RQ_RETRY_GIVEN_UP)
    return True


cdef void attempts_gave_up(Exchange *ex) noexcept nogil:
    giveup_note(&ex.w.seg, giveup_key(ex.trace_id), ex.w.r.now_ns)


cdef int attempts_tell(Exchange *ex, Msg *m) noexcept nogil:
    # a gateway's client is nobody's hop, and an application is told by its own call's answer
    if ex.direction != DIR_INBOUND or not giveup_noted(&ex.w.seg, giveup_key(ex.trace_id), ex.w.r.now_ns):
        return FM_OK
    if msg_find(m, H_X_FASTMESH_RETRY) != NULL:
        return FM_OK
    return msg_add(m, b"x-fastmesh-retry", 16, b"no", 2, H_X_FASTMESH_RETRY)
