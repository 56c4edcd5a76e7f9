"""What a connection's first bytes speak (L1), where nothing else says it: HTTP, TLS, or something that is not for us to understand.

No timer is part of the answer: each byte either fits the beginning of HTTP or TLS, or it does not. No state: the bytes so far are looked at
again when more have come.
"""
from libc.stdint cimport uint32_t

cdef enum:  # sniff_bytes
    SNIFF_MORE = 0               # it may become either
    SNIFF_HTTP                   # a request line of HTTP/1 as far as its version, or the preface of HTTP/2
    SNIFF_TLS                    # a TLS handshake record
    SNIFF_OTHER

cdef enum:
    SNIFF_MOST = 16384           # bytes of a request line that are waited for: more than any of ours may have (RFC 9112 3 asks for 8000)

cdef int sniff_bytes(const char *p, uint32_t n) noexcept nogil
"""p[0:n]: all that the client has sent. SNIFF_OTHER also for more than SNIFF_MOST bytes that decide nothing."""
