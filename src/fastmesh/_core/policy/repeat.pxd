"""Whether a client repeats by itself what has failed here (L2): retries on top of the proxy's own, which multiply the load on what is failing.

A request that has failed, retries and all, is remembered by its x-request-id, method, authority and target: an application that passes on the
id of the request that it serves sends it with each of its calls, but the same call twice, and after a failure, is a retry. gRPC clients say so
themselves (grpc-previous-rpc-attempts). The memory is that of policy/giveup: of fixed size, shared by all workers, for GIVEUP_SECONDS.
"""
from libc.stdint cimport uint64_t
from fastmesh._core.proto.msg cimport Msg

cdef uint64_t repeat_key(const Msg *m) noexcept nogil
"""Of a request as the client has sent it; 0: it has no x-request-id."""
cdef bint repeat_said(const Msg *m) noexcept nogil
"""grpc-previous-rpc-attempts says that it is not the first attempt (gRFC A6)."""
