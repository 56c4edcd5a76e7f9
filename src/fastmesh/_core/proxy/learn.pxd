"""What load balancing and outlier detection learn of an endpoint from an exchange (L3): how long its answer took (LB_PEAK_EWMA), and what
has become of each attempt (EpShard.requests and failures for all, verdicts with OF_ON)."""
from fastmesh._core.policy.lb cimport LbView
from fastmesh._core.proxy.ctx cimport Exchange

cdef void learn_answer(Exchange *ex, int status) noexcept nogil
"""The head of an answer has come."""
cdef void learn_call(Exchange *ex) noexcept nogil
"""The status of a gRPC call has come (ex.grpc)."""
cdef void learn_failure(Exchange *ex, int code) noexcept nogil
"""RE_*: the attempt has failed."""
cdef void learn_cut(Exchange *ex) noexcept nogil
"""The answer has broken off behind its head."""
cdef void learn_waited(Exchange *ex) noexcept nogil
"""Nobody waits for the answer any longer: it takes at least as long as it has taken until now."""
cdef void learn_late(Exchange *ex) noexcept nogil
"""The time for an answer is over."""
cdef void learn_left(Exchange *ex) noexcept nogil
"""The exchange leaves its endpoint: what it was to find out and has not, another one will."""
cdef void learn_view(const Exchange *ex, LbView *v, bint *probe) noexcept nogil
"""What lb_pick looks at for this exchange."""
