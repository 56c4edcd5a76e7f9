"""What is told of an exchange (L3): its metric series and, when the log is on, one record in the worker's ring."""
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange

cdef void log_keep_request(Exchange *ex, const Msg *m) noexcept nogil
"""Copy what the access log will want of the request head (only when it is on)."""
cdef void log_keep_refused(Exchange *ex) noexcept nogil
"""A request that could not be parsed: there is nothing to keep but that it was."""
cdef void log_keep_route(Exchange *ex, Slice cluster, Slice route) noexcept nogil
cdef void log_exchange(Exchange *ex, unsigned long long now_ns) noexcept nogil
"""Count it and write its record. Once, at the end."""
cdef void log_keep_details(Exchange *ex, Slice text) noexcept nogil
"""Why, in the place of ex.details: of a request that goes no further. The last that is kept."""
