"""gRPC over HTTP/2 (L1): content type, timeouts, statuses, messages. Contract in grpc.pxd. Must not know: calls, retries, clocks."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_EBAD, FM_OK
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.proto.h2_frame cimport H2_CANCEL, H2_ENHANCE_YOUR_CALM, H2_INADEQUATE_SECURITY, H2_REFUSED_STREAM
from fastmesh._core.proto.lists cimport is_ows, slice_is
from fastmesh._core.proto.msg cimport H_CONTENT_TYPE, Hdr, Msg, msg_find

cdef enum:
    TYPE_N = 16                # "application/grpc"
    DIGITS = 8                 # of a timeout (TimeoutValue)
    DIGITS_END = 100000000     # the first count that has more
    UNITS = 6
    TIME_MOST = 0xffffffffffffffff  # nanoseconds

cdef const char *UNIT = "numSMH"  # of a timeout, finest first


cdef bint grpc_request(const Msg *m) noexcept nogil:
    cdef const Hdr *h = msg_find(m, H_CONTENT_TYPE)
    cdef uint32_t i = TYPE_N
    if h == NULL or h.value_n < TYPE_N or not slice_is(slice_of(h.value, TYPE_N), b"application/grpc", TYPE_N):
        return False
    if i == h.value_n or h.value[i] == 43:  # '+'
        return True
    while i < h.value_n and is_ows(h.value[i]):
        i += 1
    return i < h.value_n and h.value[i] == 59  # ';'


# ---- timeouts ------------------------------------------------------------------------------------------------------------------------

cdef inline uint64_t step(uint32_t unit) noexcept nogil:
    # of how many of the next finer one a unit is made
    return 60 if unit > 3 else 1000


cdef int grpc_timeout_parse(Slice v, uint64_t *ns) noexcept nogil:
    cdef uint64_t count = 0
    cdef uint64_t unit = 1
    cdef uint32_t i
    cdef char c
    if v.n < 2 or v.n > GRPC_TIMEOUT_BYTES:
        return FM_EBAD
    for i in range(v.n - 1):
        c = v.p[i]
        if not 48 <= c <= 57:
            return FM_EBAD
        count = count * 10 + <uint64_t>(c - 48)
    c = v.p[v.n - 1]
    i = 0
    while c != UNIT[i]:
        i += 1
        if i == UNITS:
            return FM_EBAD
        unit *= step(i)
    ns[0] = TIME_MOST if count > TIME_MOST // unit else count * unit
    return FM_OK


cdef uint32_t grpc_timeout_write(uint64_t ns, char *out) noexcept nogil:
    cdef uint64_t count = ns
    cdef uint32_t unit = 0
    cdef uint32_t n = 1
    cdef uint32_t i
    cdef uint64_t rest
    while count >= DIGITS_END:  # 2^64 ns are 5 million hours: the loop ends before the units do
        unit += 1
        count //= step(unit)
    while unit + 1 < UNITS and count and count % step(unit + 1) == 0:
        unit += 1
        count //= step(unit)
    rest = count
    while rest >= 10:
        rest //= 10
        n += 1
    for i in range(n):
        out[n - 1 - i] = <char>(48 + count % 10)
        count //= 10
    out[n] = UNIT[unit]
    return n + 1


# ---- statuses ------------------------------------------------------------------------------------------------------------------------

cdef int grpc_status_parse(Slice v) noexcept nogil:
    cdef int status
    if v.n == 0 or v.n > 2 or not 48 <= v.p[0] <= 57:
        return GRPC_UNKNOWN
    status = v.p[0] - 48
    if v.n == 2:
        if status == 0 or not 48 <= v.p[1] <= 57:
            return GRPC_UNKNOWN
        status = status * 10 + (v.p[1] - 48)
    return status if status < GRPC_STATUSES else GRPC_UNKNOWN


cdef int grpc_status_of_http(int status) noexcept nogil:
    if status == 400 or status == 431:
        return GRPC_INTERNAL
    if status == 401:
        return GRPC_UNAUTHENTICATED
    if status == 403:
        return GRPC_PERMISSION_DENIED
    if status == 404:
        return GRPC_UNIMPLEMENTED
    if status == 429 or 502 <= status <= 504:
        return GRPC_UNAVAILABLE
    return GRPC_UNKNOWN          # 200 among them: a call that went well says so by grpc-status


cdef int grpc_status_of_h2(uint32_t code) noexcept nogil:
    if code == H2_REFUSED_STREAM:
        return GRPC_UNAVAILABLE
    if code == H2_CANCEL:
        return GRPC_CANCELLED
    if code == H2_ENHANCE_YOUR_CALM:
        return GRPC_RESOURCE_EXHAUSTED
    if code == H2_INADEQUATE_SECURITY:
        return GRPC_PERMISSION_DENIED
    return GRPC_INTERNAL


# ---- messages ------------------------------------------------------------------------------------------------------------------------

cdef inline bint plain(Slice text, uint32_t i) noexcept nogil:
    cdef uint8_t c = <uint8_t>text.p[i]
    if c == 32:
        return 0 < i < text.n - 1
    return 33 <= c <= 126 and c != 37  # '%'


cdef inline char hex_upper(uint8_t v) noexcept nogil:
    return <char>(48 + v) if v < 10 else <char>(55 + v)


cdef uint32_t grpc_message_size(Slice text) noexcept nogil:
    cdef uint32_t n = text.n
    cdef uint32_t i
    for i in range(text.n):
        if not plain(text, i):
            n += 2
    return n


cdef char *grpc_message_write(char *out, Slice text) noexcept nogil:
    cdef uint32_t i
    for i in range(text.n):
        if plain(text, i):
            out[0] = text.p[i]
            out += 1
        else:
            out[0] = 37
            out[1] = hex_upper(<uint8_t>text.p[i] >> 4)
            out[2] = hex_upper(<uint8_t>text.p[i] & 15)
            out += 3
    return out
