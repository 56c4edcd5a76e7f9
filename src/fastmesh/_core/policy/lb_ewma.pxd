"""Peak-EWMA (L2): what a request would cost at an endpoint, by how long others have waited there. Linkerd's (and Finagle's) algorithm: a
peak counts at once and whole, what is better only little by little; an endpoint that nobody asks is forgiven as time goes by.

The estimate is one for all workers (EpCell.ewma_ns, ewma_at_ns): relaxed loads and stores, an update that is lost does no harm.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.shm.cells cimport EpCell

cdef enum:
    EWMA_START_NS = 30000000     # of an endpoint that nobody has asked yet: Linkerd's default_rtt
    EWMA_LEAST_NS = 1000         # below it, requests in flight alone count
    EWMA_PENALTY_NS = 1000000000 # what a failure counts as, at least: else the fastest to say no would get all

cdef double ewma_cost(EpCell *e, uint64_t now_ns, uint32_t decay_ms, double active) noexcept nogil
"""Estimate * (requests in flight + 1). The first to ask writes EWMA_START_NS."""
cdef void ewma_observe(EpCell *e, uint64_t now_ns, uint32_t decay_ms, uint64_t rtt_ns) noexcept nogil
