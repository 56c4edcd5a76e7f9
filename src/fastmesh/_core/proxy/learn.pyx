"""What load balancing learns of an endpoint (L3). See learn.pxd; what is made of it is policy/lb_ewma's."""
from libc.stdint cimport uint64_t
from fastmesh._core.policy.lb_ewma cimport EWMA_PENALTY_NS, ewma_observe
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.proxy.respond cimport RE_OVERLOAD, RE_PENDING, RE_UP_GOAWAY
from fastmesh._core.shm.snapshot cimport SNAP_NONE


cdef inline uint64_t waited(const Exchange *ex) noexcept nogil:
    """Since the request went out; 0: it has not."""
    return ex.w.r.now_ns - ex.t_sent if ex.t_sent and ex.w.r.now_ns > ex.t_sent else 0


cdef void learn(Exchange *ex, uint64_t ns) noexcept nogil:
    if ex.plan.decay_ms and ex.cell != SNAP_NONE:
        ewma_observe(&ex.w.seg.cells[ex.cell], ex.w.r.now_ns, ex.plan.decay_ms, ns)


cdef void learn_answer(Exchange *ex, int status) noexcept nogil:
    cdef uint64_t ns = waited(ex)
    if status == 429 or 502 <= status <= 504:
        # It has no capacity, or nobody behind it has. (Other errors may be the request's own fault.)
        learn(ex, ns if ns > EWMA_PENALTY_NS else EWMA_PENALTY_NS)
    elif ns:
        learn(ex, ns)


cdef void learn_failure(Exchange *ex, int code) noexcept nogil:
    cdef uint64_t ns = waited(ex)
    if code == RE_OVERLOAD or code == RE_PENDING or code == RE_UP_GOAWAY:
        return                   # it is not the endpoint that fails
    learn(ex, ns if ns > EWMA_PENALTY_NS else EWMA_PENALTY_NS)


cdef void learn_waited(Exchange *ex) noexcept nogil:
    cdef uint64_t ns = waited(ex)
    if ns:
        learn(ex, ns)
