"""The time that a request has (L3): the least of what its route, its caller and a gRPC client allow. What is left of it goes on with each attempt,
so that no hop works on for a caller that has gone (x-envoy-expected-rq-timeout-ms, here also believed; grpc-timeout is proxy/call's).

A span says nothing of the time that an application has spent before it makes its own call. So the sidecar at an application's door adds the
absolute end (x-fastmesh-deadline, ms since 1970), which the application passes on as it is, with its trace fields; the same host's sidecar
believes it, and no other: clocks of hosts differ.
"""
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange

cdef void deadline_begin(Exchange *ex, const Msg *m) noexcept nogil
"""Take up what the caller says. A value that is no number of milliseconds says nothing."""
cdef int deadline_send(Exchange *ex, Msg *m) noexcept nogil
"""Say in the head of an attempt how long it may take: what is left of the request's time, at most the per-try timeout. FM_OK or FM_EHEAD."""
