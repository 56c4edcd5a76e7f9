"""The messages of grpc.health.v1.Health/Check (L1). See grpc_health.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastmesh._core.base.err cimport FM_EBAD
from fastmesh._core.base.view cimport Slice, View, view_left, view_of, view_u8, view_u32

cdef enum:
    FIELD_1_VARINT = 8           # field << 3 | wire type
    FIELD_1_BYTES = 10
    VARINT_MOST = 10             # bytes of a varint


cdef uint32_t varint_write(char *out, uint64_t v) noexcept nogil:
    cdef uint32_t n = 0
    while v >= 128:
        out[n] = <char>(v & 127 | 128)
        v >>= 7
        n += 1
    out[n] = <char>v
    return n + 1


cdef uint32_t grpc_health_request(char *out, Slice service) noexcept nogil:
    cdef uint32_t n = 5
    if service.n:
        out[n] = FIELD_1_BYTES
        n += 1
        n += varint_write(out + n, service.n)
        memcpy(out + n, service.p, service.n)
        n += service.n
    out[0] = 0                   # not compressed
    out[1] = <char>((n - 5) >> 24)
    out[2] = <char>((n - 5) >> 16)
    out[3] = <char>((n - 5) >> 8)
    out[4] = <char>(n - 5)
    return n


cdef uint64_t varint_read(View *v) noexcept nogil:
    cdef uint64_t x = 0
    cdef uint32_t i
    cdef uint64_t b
    for i in range(VARINT_MOST):
        b = view_u8(v)
        x |= (b & 127) << (7 * i)
        if b < 128:
            return x
    v.bad = 1
    return 0


cdef void skip(View *v, uint64_t n) noexcept nogil:
    if n > view_left(v):
        v.bad = 1
        v.p = v.end
    else:
        v.p += n


cdef int grpc_health_status(const char *p, uint32_t n) noexcept nogil:
    cdef View v = view_of(p, n)
    cdef uint32_t compressed = view_u8(&v)
    cdef uint32_t size = view_u32(&v)
    cdef uint64_t status = 0
    cdef uint64_t tag
    if v.bad or compressed or size != view_left(&v):
        return FM_EBAD           # one message, in the form that was asked for
    while view_left(&v) and not v.bad:
        tag = varint_read(&v)
        if tag == FIELD_1_VARINT:
            status = varint_read(&v)  # of several the last counts, as in protobuf
        elif tag & 7 == 0:
            varint_read(&v)
        elif tag & 7 == 1:
            skip(&v, 8)
        elif tag & 7 == 2:
            skip(&v, varint_read(&v))
        elif tag & 7 == 5:
            skip(&v, 4)
        else:
            v.bad = 1
    if v.bad:
        return FM_EBAD
    return <int>status if status < 1 << 16 else 0
