"""gRPC over HTTP/2 (L1), doc/PROTOCOL-HTTP2.md of gRPC: what a proxy reads and says of it beside HTTP. Allocates nothing, knows no clock."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Msg

cdef enum:  # the values of grpc-status
    GRPC_OK = 0
    GRPC_CANCELLED
    GRPC_UNKNOWN
    GRPC_INVALID_ARGUMENT
    GRPC_DEADLINE_EXCEEDED
    GRPC_NOT_FOUND
    GRPC_ALREADY_EXISTS
    GRPC_PERMISSION_DENIED
    GRPC_RESOURCE_EXHAUSTED
    GRPC_FAILED_PRECONDITION
    GRPC_ABORTED
    GRPC_OUT_OF_RANGE
    GRPC_UNIMPLEMENTED
    GRPC_INTERNAL
    GRPC_UNAVAILABLE
    GRPC_DATA_LOSS
    GRPC_UNAUTHENTICATED
    GRPC_STATUSES                # must be last

cdef enum:
    GRPC_TIMEOUT_BYTES = 9       # that a timeout takes at most: 8 digits and a unit

cdef bint grpc_request(const Msg *m) noexcept nogil
"""The content-type (of a request or a response) is application/grpc, alone or with a +suffix or ;parameters, in any case of letters.
application/grpc-web is another protocol: False."""

cdef int grpc_timeout_parse(Slice v, uint64_t *ns) noexcept nogil
"""A grpc-timeout of 1 to 8 digits and one of H M S m u n, in nanoseconds; above 2^64-1 (584 years) that. FM_OK, or FM_EBAD: *ns unchanged."""

cdef uint32_t grpc_timeout_write(uint64_t ns, char *out) noexcept nogil
"""A grpc-timeout at out; bytes written, at most GRPC_TIMEOUT_BYTES. Never more than ns, less by below one unit, which is the smallest whose
count has 8 digits (a coarser one when it says exactly the same); 0 only for 0."""

cdef int grpc_status_parse(Slice v) noexcept nogil
"""GRPC_* of a grpc-status, from trailers or from the head of a response that is trailers only. GRPC_UNKNOWN for an integer that is none of
them and for what is no integer (a leading zero included)."""

cdef uint32_t grpc_message_size(Slice text) noexcept nogil
"""Bytes that grpc_message_write takes."""
cdef char *grpc_message_write(char *out, Slice text) noexcept nogil
"""A grpc-message: text (UTF-8) with each byte that is no printable ASCII, and '%', percent-encoded; a space at either end as well, as a field's
value has none there (RFC 9110 5.5). The byte behind it."""

cdef int grpc_status_of_http(int status) noexcept nogil
"""GRPC_* for a response with this HTTP status and without grpc-status (doc/http-grpc-status-mapping.md)."""

cdef int grpc_status_of_h2(uint32_t code) noexcept nogil
"""GRPC_* for a call that a server ended by RST_STREAM with this error code. Where the table has no row (STREAM_CLOSED, HTTP_1_1_REQUIRED, codes
that nobody knows) GRPC_INTERNAL, as RFC 9113 section 7 has it for the last."""
