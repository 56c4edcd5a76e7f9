"""Active health checks (L2): when an endpoint's next check is due, who makes it, and what its result makes of the endpoint, as with Envoy.
Verdicts are one word per endpoint for all workers (EpCell.health).

EpCell.check_at_ns is both: when the next check is due, and who makes it. Whoever moves it on (CAS) has the check in hand; the value that it
puts there, the claim, lies behind the time that a check may take, so that what a worker takes with it when it dies falls due by itself.
A result counts only while the claim still stands: no two checks of an endpoint are ever judged at once.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.shm.cells cimport EpCell
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster, SnapHealth

cdef enum:  # what a result has changed
    HV_SAME = 0
    HV_UP                        # the endpoint is healthy from now on
    HV_DOWN                      # ... unhealthy
    HV_LATE                      # nothing: the claim had run out, or config has changed

cdef uint64_t health_due_ns(const EpCell *e, const SnapHealth *h, uint64_t now_ns) noexcept nogil
"""When the next check is due; at once where what stands there is later than this config could have put it."""
cdef uint64_t health_claim(EpCell *e, const SnapHealth *h, uint64_t now_ns) noexcept nogil
"""The claim: the caller makes the check that is due (or gives it back); 0: it is not due, or another worker's."""
cdef void health_give_back(EpCell *e, uint64_t claim, uint64_t now_ns) noexcept nogil
"""A check in hand that is not made, or has no result: due at once."""
cdef int health_result(EpCell *e, const SnapHealth *h, uint64_t claim, bint good, uint64_t now_ns, uint32_t rnd) noexcept nogil
"""HV_*. The next check is due an interval later, and a part of `jitter_percent` of it that rnd (any 32 bits) says."""
cdef void health_forget(EpCell *e) noexcept nogil
"""The endpoint is not checked any more: as if it had never been. A check in hand has no result then."""
cdef uint32_t health_count(SegMap *m, const Snap *s, const SnapCluster *c) noexcept nogil
"""ClCell.unhealthy anew: how many of the cluster's endpoints are unhealthy. What config changes, or two workers that count at once, the
next time puts right."""
cdef uint64_t health_out(const EpCell *cells, const Snap *s, const SnapCluster *c) noexcept nogil
"""How many of the cluster's endpoints are unhealthy or ejected, or both."""
