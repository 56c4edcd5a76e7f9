"""A ClientHello read from outside (L1): which name a TLS client asks for (RFC 8446 4.1.2, RFC 6066 3), so that it can be routed without
being decrypted. No state: the bytes so far are looked at again when more have come; they are few.

Strict: what a TLS server would refuse anyway, or could read otherwise than we do, is refused here.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.view cimport Slice

cdef enum:
    HELLO_MOST = 16384           # bytes of the message: OpenSSL's limit; the largest of today (post-quantum key shares, ECH) are below 4 KiB
    HELLO_WIRE_MOST = 20480      # ... with the headers of the records that it comes in: no client cuts it into hundreds
    HELLO_EXTENSIONS = 128       # extensions of one hello: browsers send some 20, with GREASE

cdef struct TlsHello:
    Slice name                   # host name as sent, in the input or in `scratch`; none: n is 0
    bint ech                     # it carries an Encrypted Client Hello: the name is the outer one, the public name of who decrypts it

cdef int tls_hello(const char *p, uint32_t n, char *scratch, TlsHello *out) noexcept nogil
"""p[0:n]: all that the client has sent. FM_OK: out is set. FM_AGAIN: more is needed. FM_EBAD: this is no ClientHello, or a malformed one.
FM_EHEAD: it is too large. `scratch`: HELLO_MOST bytes, used when the message comes in several records."""
