"""Peak-EWMA (L2). See lb_ewma.pxd."""
from libc.math cimport exp
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport fm_load_relaxed, fm_store_relaxed
from fastmesh._core.policy.lb_ewma cimport EWMA_LEAST_NS, EWMA_START_NS
from fastmesh._core.shm.cells cimport EpCell


cdef inline double kept(uint64_t at_ns, uint64_t now_ns, uint32_t decay_ms) noexcept nogil:
    """How much of what was known then still counts. (Another worker's clock may be ahead by a turn.)"""
    if now_ns <= at_ns:
        return 1.0
    return exp(-<double>(now_ns - at_ns) / (decay_ms * 1e6))


cdef double ewma_cost(EpCell *e, uint64_t now_ns, uint32_t decay_ms, double active) noexcept nogil:
    cdef uint64_t at = fm_load_relaxed(&e.ewma_at_ns)
    cdef double ns = EWMA_START_NS
    if at == 0:
        fm_store_relaxed(&e.ewma_ns, EWMA_START_NS)
        fm_store_relaxed(&e.ewma_at_ns, now_ns)
    else:
        ns = fm_load_relaxed(&e.ewma_ns) * kept(at, now_ns, decay_ms)
    return (ns if ns > EWMA_LEAST_NS else EWMA_LEAST_NS) * (active + 1)


cdef void ewma_observe(EpCell *e, uint64_t now_ns, uint32_t decay_ms, uint64_t rtt_ns) noexcept nogil:
    cdef uint64_t at = fm_load_relaxed(&e.ewma_at_ns)
    cdef double was = fm_load_relaxed(&e.ewma_ns) if at else EWMA_START_NS
    cdef double share = kept(at, now_ns, decay_ms) if at else 0.0
    cdef double ns = rtt_ns
    if ns < was:
        ns = was * share + ns * (1.0 - share)
    fm_store_relaxed(&e.ewma_ns, <uint64_t>ns)
    fm_store_relaxed(&e.ewma_at_ns, now_ns)
