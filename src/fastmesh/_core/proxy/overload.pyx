"""What a worker does when it has too much (L3). See overload.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.err cimport FM_ENOMEM, FM_OK
from fastmesh._core.base.sys cimport EFD_CLOEXEC, EFD_NONBLOCK, EPOLLIN, eventfd, fm_clock_ns, read, write
from fastmesh._core.net.reactor cimport Source, reactor_add
from fastmesh._core.proxy.ctx cimport Worker
from fastmesh._core.shm.stats cimport ST_CX_SHED, ST_RQ_SHED_ACTIVE, ST_RQ_SHED_LAG, ST_RQ_SHED_MEMORY, stat_inc

cdef enum:
    NS_PER_MS = 1000000
    BELIEVED = 4                 # times the lag: so long a measure counts without another, for a worker that has become idle since


cdef int overload_init(Worker *w) noexcept nogil:
    w.probe.fn = on_probe
    w.probe.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if w.probe.fd < 0:
        return FM_ENOMEM
    return reactor_add(&w.r, &w.probe, EPOLLIN)


cdef void overload_probe(Worker *w) noexcept nogil:
    # Sent before anything of this turn is done, it waits as long as what becomes ready now. One is under way at most, and its own turn
    # sends none: an idle worker sleeps.
    cdef uint64_t one = 1
    if w.probe_ns or w.r.taken == 0 or w.r.now_ms < w.probe_next_ms:
        return
    w.probe_ns = w.r.now_ns
    w.probe_next_ms = w.r.now_ms + PROBE_MS
    write(w.probe.fd, &one, sizeof(one))


cdef void on_probe(Source *s, uint32_t events) noexcept nogil:
    cdef Worker *w = <Worker *>s.r.ctx
    cdef uint64_t sent = w.probe_ns
    cdef uint64_t lag = fm_clock_ns() - sent
    cdef uint64_t v
    read(s.fd, &v, sizeof(v))
    if sent == 0:
        return
    w.probe_ns = 0
    w.seg.slot.lag_us = <uint32_t>(lag // 1000 if lag < <uint64_t>0xffffffff * 1000 else 0xffffffff)
    if lag <= <uint64_t>w.opt.shed_lag_ms * NS_PER_MS:
        w.lag_over = 0
        return
    if w.lag_over < SHED_LAGS:
        w.lag_over += 1
    w.lag_until_ms = w.r.now_ms + BELIEVED * lag // NS_PER_MS


cdef bint overload_sheds(Worker *w) noexcept nogil:
    cdef int why
    if w.r.bufs.held > w.r.bufs.cap - w.r.bufs.cap // SHED_MEMORY:
        why = ST_RQ_SHED_MEMORY
    elif w.seg.slot.active >= w.opt.max_exchanges:
        why = ST_RQ_SHED_ACTIVE
    elif w.lag_over == SHED_LAGS and w.r.now_ms < w.lag_until_ms:
        why = ST_RQ_SHED_LAG
    else:
        return False
    stat_inc(w.seg.stats, why)
    return True


cdef bint overload_parts(Worker *w) noexcept nogil:
    if w.r.bufs.held <= w.r.bufs.cap - w.r.bufs.cap // SHED_PARTS:
        return False
    stat_inc(w.seg.stats, ST_CX_SHED)
    return True
