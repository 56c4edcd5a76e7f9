"""One spelling for each path (L1). See pathnorm.pxd."""
from libc.stdint cimport uint8_t, uint32_t
from fastmesh._core.base.view cimport Slice, slice_of


cdef inline bint unreserved(uint8_t c) noexcept nogil:
    # RFC 3986 2.3
    return 97 <= c <= 122 or 65 <= c <= 90 or 48 <= c <= 57 or c == c'-' or c == c'.' or c == c'_' or c == c'~'


cdef inline bint ambiguous(uint8_t c) noexcept nogil:
    # readers differ in what they take it for, whether escaped or not
    return c <= 32 or c == 127 or c == c';' or c == c'\\'


cdef inline int hex_of(uint8_t c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef inline int escape_at(const char *p, uint32_t at, uint32_t n) noexcept nogil:
    # the byte that the escape at p[at] stands for, or -1
    cdef int hi, lo
    if n - at < 3:
        return -1
    hi = hex_of(<uint8_t>p[at + 1])
    lo = hex_of(<uint8_t>p[at + 2])
    return -1 if hi < 0 or lo < 0 else hi << 4 | lo


cdef bint plain(Slice path) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t c
    for i in range(path.n):
        c = <uint8_t>path.p[i]
        if ambiguous(c) or c > 127 or c == c'%' or c == c'#':
            return False
        if c == c'/' and i + 1 < path.n and (path.p[i + 1] == c'/' or path.p[i + 1] == c'.'):
            return False
    return True


cdef bint utf8_ok(const char *text, uint32_t n) noexcept nogil:
    # RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF
    cdef const uint8_t *p = <const uint8_t *>text
    cdef uint32_t i = 0
    cdef uint32_t k, more, least, code
    while i < n:
        if p[i] < 128:
            i += 1
            continue
        if 0xc2 <= p[i] <= 0xdf:
            more, least, code = 1, 0x80, p[i] & 31
        elif 0xe0 <= p[i] <= 0xef:
            more, least, code = 2, 0x800, p[i] & 15
        elif 0xf0 <= p[i] <= 0xf4:
            more, least, code = 3, 0x10000, p[i] & 7
        else:
            return False
        if n - i <= more:
            return False
        for k in range(1, more + 1):
            if p[i + k] & 0xc0 != 0x80:
                return False
            code = code << 6 | (p[i + k] & 63)
        if code < least or 0xd800 <= code <= 0xdfff or code > 0x10ffff:
            return False
        i += more + 1
    return True


cdef int end_segment(char *out, uint32_t *k, uint32_t start) noexcept nogil:
    # out[start:k] is a segment behind a slash: "." goes, ".." takes the one before it along
    cdef uint32_t n = k[0] - start
    if n == 1 and out[start] == c'.':
        k[0] = start
    elif n == 2 and out[start] == c'.' and out[start + 1] == c'.':
        if start == 1:
            return PATH_REFUSED
        k[0] = start - 1
        while out[k[0] - 1] != c'/':
            k[0] -= 1
    return PATH_SAME


cdef int spell(Slice path, char *out, uint32_t *n) noexcept nogil:
    cdef const char *digits = b"0123456789ABCDEF"
    cdef uint32_t i = 0
    cdef uint32_t k = 0
    cdef uint32_t start = 0
    cdef uint8_t c
    cdef int v
    while i < path.n:
        c = <uint8_t>path.p[i]
        if c == c'%':
            v = escape_at(path.p, i, path.n)
            if v < 0 or v == c'/' or (v != 32 and ambiguous(<uint8_t>v)):
                return PATH_REFUSED
            if v == c'%' and escape_at(path.p, i + 2, path.n) >= 0:
                return PATH_REFUSED  # %25XX: who decodes twice would see another path
            i += 3
            if unreserved(<uint8_t>v):
                out[k] = <char>v
                k += 1
            else:
                out[k] = c'%'
                out[k + 1] = digits[v >> 4]
                out[k + 2] = digits[v & 15]
                k += 3
            continue
        if ambiguous(c) or c > 127 or c == c'#':
            return PATH_REFUSED
        i += 1
        if c == c'/':
            if k and end_segment(out, &k, start) != PATH_SAME:
                return PATH_REFUSED
            if k and out[k - 1] == c'/':
                start = k
                continue
            start = k + 1
        out[k] = <char>c
        k += 1
    if end_segment(out, &k, start) != PATH_SAME:
        return PATH_REFUSED
    n[0] = k
    return PATH_MADE


cdef int path_normalize(Slice path, char *out, Slice *sent, Slice *judged) noexcept nogil:
    cdef uint32_t n = 0
    cdef uint32_t i = 0
    cdef uint32_t k = 0
    cdef char *to
    sent[0] = judged[0] = path
    if path.n == 1 and path.p[0] == c'*':
        return PATH_SAME
    if path.n == 0 or path.p[0] != c'/':
        return PATH_REFUSED
    if plain(path):
        return PATH_SAME
    if spell(path, out, &n) != PATH_MADE:
        return PATH_REFUSED
    to = out + n
    while i < n:
        if out[i] == c'%':
            to[k] = <char>escape_at(out, i, n)
            i += 3
        else:
            to[k] = out[i]
            i += 1
        k += 1
    if not utf8_ok(to, k):
        return PATH_REFUSED
    sent[0] = slice_of(out, n)
    judged[0] = slice_of(to, k)
    return PATH_MADE
