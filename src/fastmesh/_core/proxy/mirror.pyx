"""Mirroring (L3). See mirror.pxd."""
from libc.stdint cimport uint32_t


from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.base.timer cimport timer_set
from fastmesh._core.base.view cimport Slice
from fastmesh._core.policy.breaker cimport breaker_request
from fastmesh._core.policy.lb cimport rng_next
from fastmesh._core.proto.msg cimport Hdr, Msg
from fastmesh._core.proxy.ctx cimport MIRRORS_MOST, PH_DONE, XF_REPLAYABLE, DownOps, Exchange, Worker
from fastmesh._core.proxy.exchange cimport exchange_begin, exchange_finish, exchange_shadow
from fastmesh._core.proxy.replay cimport replay_copy
from fastmesh._core.shm.snapshot cimport MILLION, OF_ON, SNAP_NONE, SnapAction, SnapCluster, SnapMirror, snap_at, snap_cluster
from fastmesh._core.shm.stats cimport ST_MIRROR, ST_MIRROR_SKIPPED, stat_inc

cdef enum:
    MIRROR_TIMEOUT_MS = 15000    # of a copy whose route has no timeout (Envoy's default of a route): nobody else would end it

cdef DownOps SINK


cdef int s_head(Exchange *ex, Msg *m) noexcept nogil:
    return FM_OK


cdef int s_data(Exchange *ex, const Slice *v, int n) noexcept nogil:
    return FM_OK


cdef int s_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil:
    return FM_OK


cdef void s_nothing(Exchange *ex) noexcept nogil:
    pass


cdef bint s_congested(Exchange *ex) noexcept nogil:
    return False


cdef const DownOps *sink() noexcept nogil:
    SINK.head = s_head
    SINK.data = s_data
    SINK.end = s_end
    SINK.abort = s_nothing
    SINK.resume = s_nothing
    SINK.congested = s_congested
    SINK.moved = s_nothing
    SINK.flush = s_nothing
    return &SINK


cdef void mirror_plan(Exchange *ex, const SnapAction *a) noexcept nogil:
    cdef const SnapMirror *m = <const SnapMirror *>snap_at(&ex.w.snap, a.mirrors.off)
    cdef const SnapCluster *c = <const SnapCluster *>snap_at(&ex.w.snap, ex.w.snap.h.clusters.off)
    cdef uint32_t i
    for i in range(a.mirrors.n):
        if m[i].ppm < MILLION and (rng_next(&ex.w.rng) >> 32) * MILLION >> 32 >= m[i].ppm:
            continue
        if m[i].cluster == SNAP_NONE or ex.plan.nmirrors == MIRRORS_MOST:
            stat_inc(ex.w.seg.stats, ST_MIRROR_SKIPPED)
            continue
        ex.plan.mirrors[ex.plan.nmirrors] = c[m[i].cluster].id
        ex.plan.nmirrors += 1


cdef bint copied(Exchange *ex, Exchange *to, const SnapCluster *c) noexcept nogil:
    if replay_copy(ex, to) != FM_OK:
        return False
    to.plan = ex.plan
    to.plan.cluster = c.id
    to.plan.nmirrors = 0
    to.plan.retries = to.plan.retry_on = 0
    to.plan.per_try_timeout_ms = 0
    to.plan.delay_ppm = to.plan.abort_ppm = 0
    to.plan.decay_ms = c.decay_ms
    to.plan.watched = c.outlier.flags & OF_ON
    to.rx_bytes = ex.rx_bytes
    return True


cdef bint send(Exchange *ex, const SnapCluster *c) noexcept nogil:
    cdef Worker *w = ex.w
    cdef Exchange *to
    # when memory is short, copies are the first thing that is not done
    if w.r.bufs.held > w.r.bufs.cap >> 1:
        return False
    to = exchange_shadow(ex, sink())
    if to == NULL:
        return False
    if not copied(ex, to, c) or not breaker_request(&w.seg, c):
        exchange_finish(to)
        return False
    to.cluster_cell = c.cell
    to.deadline_ms = w.r.now_ms + (ex.plan.timeout_ms if ex.plan.timeout_ms else MIRROR_TIMEOUT_MS)
    timer_set(&w.r.wheel, &to.timer, to.deadline_ms)
    stat_inc(w.seg.stats, ST_MIRROR)
    exchange_begin(to, NULL)
    if to.phase != PH_DONE and to.up != NULL:
        to.uops.flush(to)
    return True


cdef void mirror_send(Exchange *ex) noexcept nogil:
    cdef Worker *w = ex.w
    cdef const SnapCluster *c
    cdef uint32_t n = ex.plan.nmirrors
    cdef uint32_t i
    ex.plan.nmirrors = 0
    if ex.phase != PH_DONE and ex.up != NULL:
        ex.uops.flush(ex)        # the request itself first
    for i in range(n):
        c = snap_cluster(&w.snap, ex.plan.mirrors[i]) if w.snap.h != NULL else NULL
        if c == NULL or ex.phase == PH_DONE or not ex.flags & XF_REPLAYABLE or not send(ex, c):
            stat_inc(w.seg.stats, ST_MIRROR_SKIPPED)
