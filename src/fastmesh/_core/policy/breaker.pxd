"""Circuit breaking (L2): how much of a cluster is in use, over all workers, and whether it may be more. Envoy's Thresholds, Istio's
connectionPool. Gauges are shards of the workers (shm/cells.pxd): a sum may overshoot a limit by the other workers' number at the most.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.shm.segment cimport SegMap
from fastmesh._core.shm.snapshot cimport SnapCluster

cdef bint breaker_request(SegMap *m, const SnapCluster *c) noexcept nogil
"""One more request in flight: counted, or False: max_requests are. Ends with breaker_request_done."""
cdef void breaker_request_done(SegMap *m, uint32_t cell) noexcept nogil
cdef bint breaker_pending(SegMap *m, const SnapCluster *c) noexcept nogil
"""One more request that waits for a connection. Ends with breaker_pending_done."""
cdef void breaker_pending_done(SegMap *m, uint32_t cell) noexcept nogil
cdef bint breaker_connection(SegMap *m, const SnapCluster *c) noexcept nogil
"""Whether a connection may be opened. It is not counted by that: breaker_connected, breaker_disconnected."""
cdef void breaker_connected(SegMap *m, uint32_t cell) noexcept nogil
cdef void breaker_disconnected(SegMap *m, uint32_t cell) noexcept nogil
cdef bint breaker_retry(SegMap *m, const SnapCluster *c) noexcept nogil
"""One more request in its second or a later attempt, back-off included: counted, or False: the budget (a share of the requests in
their first attempt, and always some) or max_retries is used up. Ends with breaker_retry_done."""
cdef void breaker_retry_done(SegMap *m, uint32_t cell) noexcept nogil
