"""Calls proto/grpc from tests. Input is allocated as long as it is; output with a byte behind it that is looked at."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.proto.grpc cimport (
    GRPC_TIMEOUT_BYTES, grpc_message_size, grpc_message_write, grpc_request, grpc_status_of_h2, grpc_status_of_http, grpc_status_parse,
    grpc_timeout_parse, grpc_timeout_write)
from fastmesh._core.proto.h1_head cimport h1_request_head
from fastmesh._core.proto.msg cimport Msg


cdef Slice held(bytes data) except *:
    """A copy that ends where the data does; to be freed."""
    cdef size_t n = len(data)
    cdef char *p = <char *>malloc(n) if n else NULL
    if n:
        memcpy(p, <const char *>data, n)
    return slice_of(p, n)


def is_request(fields: bytes) -> bool:
    cdef Msg m
    head = b"POST /a.B/C HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n"
    if h1_request_head(head, <uint32_t>len(head), 0, &m) <= 0:
        raise ValueError("not a head")
    return grpc_request(&m)


def timeout_parse(value: bytes):
    """Nanoseconds, or the code."""
    cdef Slice v = held(value)
    cdef uint64_t ns = 7
    cdef int rc = grpc_timeout_parse(v, &ns)
    free(<void *>v.p)
    if rc < 0 and ns != 7:
        raise AssertionError("changed by what is bad")
    return ns if rc == 0 else rc


def timeout_write(uint64_t ns) -> bytes:
    cdef char out[GRPC_TIMEOUT_BYTES + 1]
    cdef uint32_t n
    out[GRPC_TIMEOUT_BYTES] = 0x7E
    n = grpc_timeout_write(ns, out)
    if n > GRPC_TIMEOUT_BYTES or out[GRPC_TIMEOUT_BYTES] != 0x7E:
        raise AssertionError("written past its end")
    return out[:n]


def status_parse(value: bytes) -> int:
    cdef Slice v = held(value)
    cdef int status = grpc_status_parse(v)
    free(<void *>v.p)
    return status


def status_of_http(status: int) -> int:
    return grpc_status_of_http(status)


def status_of_h2(code: int) -> int:
    return grpc_status_of_h2(code)


def message(text: bytes) -> bytes:
    cdef Slice v = held(text)
    cdef uint32_t n = grpc_message_size(v)
    cdef char *out = <char *>malloc(n + 1)
    out[n] = 0x7E
    exact = grpc_message_write(out, v) == out + n and out[n] == 0x7E
    made = out[:n]
    free(out)
    free(<void *>v.p)
    if not exact:
        raise AssertionError("not as long as was said")
    return made
