"""Trace context and request ids (L1). See trace.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from fastmesh._core.proto.msg cimport H_B3, H_X_B3_TRACEID, Hdr, Msg, msg_find


cdef inline int hex_val(uint8_t c) noexcept nogil:
    # lower case only: W3C Trace Context 3.2.2
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    return -1


cdef inline char hex_char(uint32_t v) noexcept nogil:
    return <char>(48 + v) if v < 10 else <char>(87 + v)


cdef bint hex_read(const char *p, uint32_t n, uint8_t *out) noexcept nogil:
    # n hex digits (even) into n/2 bytes; False unless all are digits and not all are zero
    cdef uint32_t i
    cdef int hi, lo
    cdef int some = 0
    for i in range(0, n, 2):
        hi = hex_val(<uint8_t>p[i])
        lo = hex_val(<uint8_t>p[i + 1])
        if hi < 0 or lo < 0:
            return False
        out[i >> 1] = <uint8_t>(hi << 4 | lo)
        some |= hi | lo
    return some != 0


cdef void hex_write(char *out, uint64_t v, uint32_t digits) noexcept nogil:
    cdef uint32_t i
    for i in range(digits):
        out[digits - 1 - i] = hex_char(<uint32_t>(v & 15))
        v >>= 4


cdef bint trace_parse(const char *v, uint32_t n, uint8_t *trace_id) noexcept nogil:
    cdef uint8_t parent[8]
    if n < TRACEPARENT_BYTES or v[2] != 45 or v[35] != 45 or v[52] != 45:
        return False
    if hex_val(<uint8_t>v[0]) < 0 or hex_val(<uint8_t>v[1]) < 0 or (v[0] == 102 and v[1] == 102):
        return False
    if v[0] == 48 and v[1] == 48 and n != TRACEPARENT_BYTES:
        return False
    if n > TRACEPARENT_BYTES and v[55] != 45:
        return False
    if hex_val(<uint8_t>v[53]) < 0 or hex_val(<uint8_t>v[54]) < 0:
        return False
    return hex_read(v + 36, 16, parent) and hex_read(v + 3, 32, trace_id)


cdef void trace_begin(char *out, uint8_t *trace_id, uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    cdef uint32_t i
    if b == 0:
        b = 1
    if c == 0:
        c = 1
    out[0] = 48
    out[1] = 48
    out[2] = 45
    hex_write(out + 3, a, 16)
    hex_write(out + 19, b, 16)
    out[35] = 45
    hex_write(out + 36, c, 16)
    out[52] = 45
    out[53] = 48
    out[54] = 49
    for i in range(8):
        trace_id[i] = <uint8_t>(a >> (56 - 8 * i))
        trace_id[8 + i] = <uint8_t>(b >> (56 - 8 * i))


cdef void request_id_make(char *out, uint64_t a, uint64_t b) noexcept nogil:
    a = (a & ~<uint64_t>0xF000) | 0x4000
    b = (b & ((<uint64_t>1 << 62) - 1)) | (<uint64_t>1 << 63)
    hex_write(out, a >> 32, 8)
    out[8] = 45
    hex_write(out + 9, (a >> 16) & 0xFFFF, 4)
    out[13] = 45
    hex_write(out + 14, a & 0xFFFF, 4)
    out[18] = 45
    hex_write(out + 19, b >> 48, 4)
    out[23] = 45
    hex_write(out + 24, b & ((<uint64_t>1 << 48) - 1), 12)


cdef bint trace_b3_id(const Msg *m, uint8_t *trace_id) noexcept nogil:
    cdef const Hdr *h = msg_find(m, H_X_B3_TRACEID)
    cdef uint32_t n
    if h != NULL:
        n = h.value_n
    else:
        h = msg_find(m, H_B3)
        if h == NULL:
            return False
        n = 0
        while n < h.value_n and h.value[n] != 45:
            n += 1
    memset(trace_id, 0, 16)
    if n == 32:
        return hex_read(h.value, 32, trace_id)
    if n == 16:
        return hex_read(h.value, 16, trace_id + 8)
    return False
