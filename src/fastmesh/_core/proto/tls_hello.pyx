"""A ClientHello read from outside (L1). See tls_hello.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy
from fastmesh._core.base.err cimport FM_AGAIN, FM_EBAD, FM_EHEAD, FM_OK
from fastmesh._core.base.view cimport Slice, View, slice_of, view_left, view_of, view_u16, view_u24, view_u8

cdef enum:
    RECORD_HANDSHAKE = 22
    RECORD_MOST = 16384          # RFC 8446 5.1: bytes of one plaintext record
    HANDSHAKE_HEAD = 4
    CLIENT_HELLO = 1
    RANDOM_BYTES = 32
    SESSION_ID_MOST = 32
    EXT_SERVER_NAME = 0
    EXT_ECH = 0xfe0d
    NAME_HOST = 0
    NAME_MOST = 253              # RFC 1035, without the trailing dot that RFC 6066 forbids


cdef View take(View *v, size_t n) noexcept nogil:
    """The next n bytes as a view of their own; too few are left: v is bad, and what is given is empty."""
    cdef View w
    if view_left(v) < n:
        v.bad = 1
        v.p = v.end
        n = 0
    w = view_of(v.p, n)
    v.p += n
    return w


cdef bint name_ok(const uint8_t *p, size_t n) noexcept nogil:
    # letters, digits, hyphens, underscores (which are in use), in labels that are not empty
    cdef size_t i
    cdef uint8_t c, before = c'.'
    if n == 0 or n > NAME_MOST:
        return False
    for i in range(n):
        c = p[i]
        if c == c'.':
            if before == c'.':
                return False
        elif not (97 <= (c | 32) <= 122 or 48 <= c <= 57 or c == c'-' or c == c'_'):
            return False
        before = c
    return before != c'.'


cdef int server_name(View *v, TlsHello *out) noexcept nogil:
    # RFC 6066 3: a list, of which one kind of name is defined, each kind once. As OpenSSL: exactly one host name.
    cdef View names = take(v, view_u16(v))
    cdef View name
    if v.bad or view_left(v) or view_u8(&names) != NAME_HOST:
        return FM_EBAD
    name = take(&names, view_u16(&names))
    if names.bad or view_left(&names) or not name_ok(name.p, view_left(&name)):
        return FM_EBAD
    out.name = slice_of(<const char *>name.p, view_left(&name))
    return FM_OK


cdef int extensions(View *v, TlsHello *out) noexcept nogil:
    cdef uint16_t seen[HELLO_EXTENSIONS]
    cdef uint32_t n = 0
    cdef uint32_t kind, i
    cdef View ext
    while view_left(v):
        kind = view_u16(v)
        ext = take(v, view_u16(v))
        if v.bad:
            return FM_EBAD
        if n == HELLO_EXTENSIONS:
            return FM_EHEAD
        for i in range(n):
            if seen[i] == kind:
                return FM_EBAD   # RFC 8446 4.2: which of two names a server takes is its secret
        seen[n] = <uint16_t>kind
        n += 1
        if kind == EXT_SERVER_NAME and server_name(&ext, out) != FM_OK:
            return FM_EBAD
        if kind == EXT_ECH:
            out.ech = True
    return FM_OK


cdef int message(const char *p, uint32_t n, TlsHello *out) noexcept nogil:
    # the body of the handshake message, whole
    cdef View v = view_of(p, n)
    cdef View part
    cdef uint32_t version = view_u16(&v)
    if not 0x0301 <= version <= 0x0303:  # legacy_version: that of 1.2 since 1.3
        return FM_EBAD
    take(&v, RANDOM_BYTES)
    part = take(&v, view_u8(&v))
    if view_left(&part) > SESSION_ID_MOST:
        return FM_EBAD
    part = take(&v, view_u16(&v))  # cipher suites, two bytes each
    if view_left(&part) < 2 or view_left(&part) & 1:
        return FM_EBAD
    part = take(&v, view_u8(&v))  # compression methods
    if v.bad or view_left(&part) == 0:
        return FM_EBAD
    if view_left(&v) == 0:
        return FM_OK             # before TLS 1.3 there need not be extensions
    part = take(&v, view_u16(&v))
    if v.bad or view_left(&v):
        return FM_EBAD
    return extensions(&part, out)


cdef int tls_hello(const char *p, uint32_t n, char *scratch, TlsHello *out) noexcept nogil:
    cdef View v = view_of(p, n)
    cdef View record
    cdef const char *body = NULL
    cdef uint32_t have = 0       # bytes of the message in hand, its head included
    cdef uint32_t want = 0       # ... in all; 0: its head is not whole yet
    cdef uint32_t size, kind, version
    cdef bint whole
    out.name = slice_of(NULL, 0)
    out.ech = False
    while view_left(&v):
        kind = view_u8(&v)
        if kind != RECORD_HANDSHAKE:
            return FM_EBAD
        if view_left(&v) < 4:
            if view_left(&v) and v.p[0] != 3:
                return FM_EBAD   # what is there must fit, too
            break
        version = view_u16(&v)
        size = view_u16(&v)
        if version >> 8 != 3 or (version & 255) > 4 or size == 0 or size > RECORD_MOST:
            return FM_EBAD
        whole = view_left(&v) >= size
        record = take(&v, size if whole else view_left(&v))
        if have + view_left(&record) > HELLO_MOST:
            return FM_EHEAD
        if have == 0:
            body = <const char *>record.p
        else:
            if body != scratch:
                memcpy(scratch, body, have)
                body = scratch
            memcpy(scratch + have, record.p, view_left(&record))
        have += <uint32_t>view_left(&record)
        if have and body[0] != CLIENT_HELLO:
            return FM_EBAD
        if want == 0 and have >= HANDSHAKE_HEAD:
            record = view_of(body + 1, 3)
            want = view_u24(&record) + HANDSHAKE_HEAD
            if want > HELLO_MOST:
                return FM_EHEAD
        if want and have > want:
            return FM_EBAD       # a client says nothing more before it is answered
        if not whole:
            break
        if want and have == want:
            return message(body + HANDSHAKE_HEAD, want - HANDSHAKE_HEAD, out)
    return FM_EHEAD if n >= HELLO_WIRE_MOST else FM_AGAIN
