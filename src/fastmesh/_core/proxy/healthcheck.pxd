"""Active health checks (L3): each worker looks at what is due, makes the checks that it gets hold of (policy/health), tells the result.

A check is a connection of its own that serves nothing else: dialled as any other of the cluster (TLS, SNI, identities), one request,
closed. It counts neither as a request nor as a connection of the cluster: a limit that is reached does not make its endpoints ill.
"""
from fastmesh._core.proxy.ctx cimport HealthCheck, Worker

cdef enum:
    HEALTH_CHECKS = 256          # in flight in a worker: a thousand endpoints that hang for 5 s keep the others waiting for 20 s at most;
    #                              more: they wait, in turn (hc_deferred)

cdef void healthcheck_init(Worker *w) noexcept nogil
cdef void healthcheck_config(Worker *w) noexcept nogil
"""A new generation is in use, and not told yet (slot.seen_gen): checks in flight that it does not have end without a result, and what is
known of endpoints that it does not check is forgotten."""
cdef void healthcheck_stop(Worker *w) noexcept nogil
"""The worker drains or stops: no more checks; those in flight fall to the other workers."""
cdef void healthcheck_over(HealthCheck *h, int result) noexcept nogil
"""KR_*: its connection ends and the result counts. Twice is once."""
cdef void healthcheck_give_up(HealthCheck *h) noexcept nogil
"""It ends without a result: another worker may make it at once."""
cdef void healthcheck_reap(Worker *w) noexcept nogil
"""At the end of a turn: objects back into their pool."""
