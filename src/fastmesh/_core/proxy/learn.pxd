"""What load balancing learns of an endpoint from an exchange (L3): how long its answer took. For clusters with LB_PEAK_EWMA, else nothing."""
from fastmesh._core.proxy.ctx cimport Exchange

cdef void learn_answer(Exchange *ex, int status) noexcept nogil
"""The head of an answer has come."""
cdef void learn_failure(Exchange *ex, int code) noexcept nogil
"""RE_*: the attempt has failed."""
cdef void learn_waited(Exchange *ex) noexcept nogil
"""Nobody waits for the answer any longer: it takes at least as long as it has taken until now."""
