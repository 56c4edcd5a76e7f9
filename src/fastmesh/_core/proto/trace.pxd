"""Trace context and request ids (L1): W3C traceparent (Trace Context level 1), B3, x-request-id. Randomness is an argument."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastmesh._core.proto.msg cimport Msg

cdef enum:
    TRACEPARENT_BYTES = 55
    REQUEST_ID_BYTES = 36

cdef bint trace_parse(const char *v, uint32_t n, uint8_t *trace_id) noexcept nogil
"""A valid version-00 (or later, read as 00) traceparent: its trace id."""
cdef void trace_begin(char *out, uint8_t *trace_id, uint64_t a, uint64_t b, uint64_t c) noexcept nogil
"""55 bytes: 00-<trace id>-<parent id>-01 from three random words; trace_id gets the 16 bytes."""
cdef void request_id_make(char *out, uint64_t a, uint64_t b) noexcept nogil
"""36 bytes: a version 4 UUID from two random words."""
cdef bint trace_b3_id(const Msg *m, uint8_t *trace_id) noexcept nogil
"""The trace id of `b3` or `x-b3-traceid` (64-bit ids are padded on the left); False when there is none that is valid."""
