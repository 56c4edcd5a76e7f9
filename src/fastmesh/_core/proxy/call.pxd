"""gRPC calls (L3): what an exchange does beyond HTTP when it carries one: deadline, status, which failures may be repeated."""
from libc.stdint cimport uint32_t
from fastmesh._core.proto.msg cimport Hdr, Msg
from fastmesh._core.proxy.ctx cimport Exchange

cdef void call_begin(Exchange *ex, const Msg *m) noexcept nogil
"""Is this request a call (XF_GRPC)? Its grpc-timeout becomes ex.deadline_ms; one that cannot be read is the server's to judge."""
cdef void call_timeout(Exchange *ex, Msg *m) noexcept nogil
"""The grpc-timeout that goes on says what is left now, of the call or of this attempt, whichever is shorter."""
cdef bint call_status(Exchange *ex, const Hdr *t, int n) noexcept nogil
"""Note the grpc-status in trailers, or in a head that is trailers only; False: there is none."""
cdef void call_expired(Exchange *ex) noexcept nogil
"""Its time is over in the middle of the answer: DEADLINE_EXCEEDED as trailers, and the client's side is complete."""
cdef uint32_t call_retry_on(const Exchange *ex) noexcept nogil
"""The retry condition (RO_*) that the noted status fulfils, or 0."""
