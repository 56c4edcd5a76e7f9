"""What a connection's first bytes speak (L1). See sniff.pxd."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp
from fastmesh._core.proto.gen_tables cimport CC_TOKEN, fm_cc
from fastmesh._core.proto.h1_head cimport H1_MAX_METHOD

cdef enum:
    RECORD_HANDSHAKE = 0x16      # RFC 8446 5.1
    HELLO_CLIENT = 1             # RFC 8446 4
    HELLO_AT = 5                 # where the message of the first record begins
    NAME_N = 5                   # "HTTP/"


cdef int sniff_tls(const uint8_t *p, uint32_t n) noexcept nogil:
    if n > 1 and p[1] != 3:
        return SNIFF_OTHER
    if n > HELLO_AT:
        return SNIFF_TLS if p[HELLO_AT] == HELLO_CLIENT else SNIFF_OTHER
    return SNIFF_MORE


cdef int sniff_bytes(const char *s, uint32_t n) noexcept nogil:
    # RFC 9112 3: method SP request-target SP HTTP-version; the preface of HTTP/2 has that form, too (RFC 9113 3.4)
    cdef const uint8_t *p = <const uint8_t *>s
    cdef uint32_t i = 0
    cdef uint32_t target
    if n == 0:
        return SNIFF_MORE
    if p[0] == RECORD_HANDSHAKE:
        return sniff_tls(p, n)
    while i < n and fm_cc[p[i]] & CC_TOKEN:
        i += 1
        if i > H1_MAX_METHOD:
            return SNIFF_OTHER
    if i == n:
        return SNIFF_MORE
    if i == 0 or p[i] != c' ':
        return SNIFF_OTHER
    i += 1
    target = i
    while i < n and p[i] > 32 and p[i] != 127:
        i += 1
    if i == n:
        return SNIFF_MORE if n < SNIFF_MOST else SNIFF_OTHER
    if i == target or p[i] != c' ':
        return SNIFF_OTHER
    i += 1
    if n - i >= NAME_N:
        return SNIFF_HTTP if memcmp(p + i, b"HTTP/", NAME_N) == 0 else SNIFF_OTHER
    return SNIFF_MORE if memcmp(p + i, b"HTTP/", n - i) == 0 else SNIFF_OTHER
