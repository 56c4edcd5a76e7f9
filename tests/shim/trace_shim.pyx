"""Calls proto/trace from tests."""
from libc.stdint cimport uint8_t, uint64_t

from fastmesh._core.proto.h1_head cimport h1_request_head
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proto.trace cimport (
    REQUEST_ID_BYTES, TRACEPARENT_BYTES, request_id_make, trace_b3_id, trace_begin, trace_parse,
)


def parse(bytes value):
    """The trace id, or None."""
    cdef uint8_t tid[16]
    if not trace_parse(value, <unsigned>len(value), tid):
        return None
    return (<char *>tid)[:16]


def begin(uint64_t a, uint64_t b, uint64_t c) -> tuple:
    """(traceparent, trace id), with what lies behind the room checked."""
    cdef char out[TRACEPARENT_BYTES + 1]
    cdef uint8_t tid[16]
    out[TRACEPARENT_BYTES] = 0x7E
    trace_begin(out, tid, a, b, c)
    if out[TRACEPARENT_BYTES] != 0x7E:
        raise AssertionError("written past its end")
    return out[:TRACEPARENT_BYTES], (<char *>tid)[:16]


def request_id(uint64_t a, uint64_t b) -> bytes:
    cdef char out[REQUEST_ID_BYTES + 1]
    out[REQUEST_ID_BYTES] = 0x7E
    request_id_make(out, a, b)
    if out[REQUEST_ID_BYTES] != 0x7E:
        raise AssertionError("written past its end")
    return out[:REQUEST_ID_BYTES]


def b3_id(bytes fields):
    """The trace id that the B3 fields of a request name, or None."""
    cdef Msg m
    cdef uint8_t tid[16]
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n"
    if h1_request_head(head, <unsigned>len(head), 0, &m) <= 0:
        raise ValueError("not a head")
    if not trace_b3_id(&m, tid):
        return None
    return (<char *>tid)[:16]
