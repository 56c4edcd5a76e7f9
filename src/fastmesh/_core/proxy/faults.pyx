"""Faults that a route injects (L3). See faults.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.timer cimport timer_set
from fastmesh._core.policy.lb cimport rng_next
from fastmesh._core.proxy.ctx cimport PH_PICK, Exchange
from fastmesh._core.shm.snapshot cimport MILLION
from fastmesh._core.shm.stats cimport RF_DI, RF_FI, ST_FAULT_ABORTS, ST_FAULT_DELAYS, stat_inc


cdef bint hit(Exchange *ex, uint32_t ppm) noexcept nogil:
    return ppm != 0 and ((rng_next(&ex.w.rng) >> 32) * MILLION) >> 32 < ppm


cdef bint faults_delay(Exchange *ex) noexcept nogil:
    cdef uint64_t at = ex.w.r.now_ms + ex.plan.delay_ms
    if not hit(ex, ex.plan.delay_ppm):
        return False
    ex.rf |= RF_DI
    stat_inc(ex.w.seg.stats, ST_FAULT_DELAYS)
    ex.phase = PH_PICK
    if ex.deadline_ms == 0 or at < ex.deadline_ms:  # else the request's own timer is first
        timer_set(&ex.w.r.wheel, &ex.timer, at)
    return True


cdef bint faults_abort(Exchange *ex) noexcept nogil:
    if not hit(ex, ex.plan.abort_ppm):
        return False
    ex.rf |= RF_FI
    stat_inc(ex.w.seg.stats, ST_FAULT_ABORTS)
    return True
