"""HTTP/1 bodies (L1): where a body ends (RFC 9112 section 6.3) and the chunked coding (7.1), strict. Contract in h1_body.pxd.

The size line is a byte-resumable switch, as it may be split anywhere; data are handed out as spans of the caller's buffer; the trailer
section is parsed from its first byte once more whenever a line of it is complete (bounded by MSG_MAX_TRAILERS).
Must not know: where bytes come from or go to. Reads through View; field lines through h1_head.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastmesh._core.base.err cimport FM_AGAIN, FM_ECHUNK, FM_EOF, FM_ETRAILER, FM_OK
from fastmesh._core.base.view cimport Slice, View, slice_of, view_left, view_of, view_u8
from fastmesh._core.proto.gen_tables cimport CC_QDTEXT, CC_TOKEN, fm_cc
from fastmesh._core.proto.h1_head cimport H1_END, h1_field_line, h1_worth_parsing
from fastmesh._core.proto.lists cimport slice_is
from fastmesh._core.proto.msg cimport (
    BODY_CHUNKED, BODY_CLOSE, BODY_LENGTH, BODY_NONE, BODY_TUNNEL, M_CONNECT, M_HEAD, MF_CHUNKED, MSG_MAX_CHUNK_LINE, MSG_MAX_HEADERS, MSG_MAX_TRAILERS, Hdr, Msg)
from fastmesh._core.proto.hygiene cimport trailer_forbidden

cdef enum:
    MAX_SIZE_BITS = 62         # of a chunk and of a body: every sum then stays far inside int64
    MAX_SIZE_DIGITS = 16

cdef enum:  # H1Body.state of a chunked body; the S_ and E_ states are the grammar of RFC 9112 7.1 and 7.1.1
    S_FIRST = 0                # the first digit of chunk-size
    S_DIGITS
    S_SPACE                    # BWS behind the size: only ';' may follow
    E_NAME_FIRST               # behind ';', BWS allowed
    E_NAME
    E_NAME_SPACE               # BWS behind the name: '=' or ';'
    E_VALUE_FIRST              # behind '=', BWS allowed
    E_VALUE
    E_VALUE_SPACE              # BWS behind the value: ';'
    E_QUOTED
    E_QUOTED_PAIR
    E_QUOTED_END
    S_LF                       # LF of the size line
    D_DATA
    D_CR                       # CR LF behind the data
    D_LF
    T_TRAILERS


# --- framing ----------------------------------------------------------------------------------------------------------

cdef int h1_body_request(Msg *m) noexcept nogil:
    if m.flags & MF_CHUNKED:
        m.body = BODY_CHUNKED
    elif m.content_length > 0:
        m.body = BODY_LENGTH
    else:
        m.body = BODY_NONE
    return m.body


cdef int h1_body_response(Msg *m, int request_method) noexcept nogil:
    if m.status == 101 or (request_method == M_CONNECT and 200 <= m.status <= 299):
        m.body = BODY_TUNNEL
    elif request_method == M_HEAD or m.status < 200 or m.status == 204 or m.status == 304:
        m.body = BODY_NONE
    elif m.flags & MF_CHUNKED:
        m.body = BODY_CHUNKED
    elif m.content_length > 0:
        m.body = BODY_LENGTH
    elif m.content_length == 0:
        m.body = BODY_NONE
    else:
        m.body = BODY_CLOSE
    return m.body


# --- chunk-size line --------------------------------------------------------------------------------------------------

cdef inline int hex_value(uint8_t c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c |= 0x20
    return c - 87 if 97 <= c <= 102 else -1


cdef int after_item(uint8_t c) noexcept nogil:
    """What ends a chunk-size, an extension's name or value: the next state, or FM_ECHUNK."""
    if c == 13:
        return S_LF
    return E_NAME_FIRST if c == 59 else FM_ECHUNK  # ';'


cdef int size_digit(H1Body *b, int digit) noexcept nogil:
    if b.line_n > MAX_SIZE_DIGITS or b.left >> (MAX_SIZE_BITS - 4):
        return FM_ECHUNK
    b.left = (b.left << 4) | digit
    return S_DIGITS


cdef int size_step(H1Body *b, uint8_t c) noexcept nogil:
    """One byte of the size line, CR included: the next state, or FM_ECHUNK."""
    cdef bint space = c == 32 or c == 9
    cdef int state = b.state
    cdef int digit
    if state == S_FIRST:
        digit = hex_value(c)
        return size_digit(b, digit) if digit >= 0 else FM_ECHUNK
    elif state == S_DIGITS:
        digit = hex_value(c)
        if digit >= 0:
            return size_digit(b, digit)
        return S_SPACE if space else after_item(c)
    elif state == S_SPACE:
        if space:
            return S_SPACE
        return E_NAME_FIRST if c == 59 else FM_ECHUNK
    elif state == E_NAME_FIRST:
        if space:
            return E_NAME_FIRST
        return E_NAME if fm_cc[c] & CC_TOKEN else FM_ECHUNK
    elif state == E_NAME:
        if fm_cc[c] & CC_TOKEN:
            return E_NAME
        if c == 61:  # '='
            return E_VALUE_FIRST
        return E_NAME_SPACE if space else after_item(c)
    elif state == E_NAME_SPACE:
        if space:
            return E_NAME_SPACE
        if c == 61:
            return E_VALUE_FIRST
        return E_NAME_FIRST if c == 59 else FM_ECHUNK
    elif state == E_VALUE_FIRST:
        if space:
            return E_VALUE_FIRST
        if c == 34:  # '"'
            return E_QUOTED
        return E_VALUE if fm_cc[c] & CC_TOKEN else FM_ECHUNK
    elif state == E_VALUE:
        if fm_cc[c] & CC_TOKEN:
            return E_VALUE
        return E_VALUE_SPACE if space else after_item(c)
    elif state == E_VALUE_SPACE:
        if space:
            return E_VALUE_SPACE
        return E_NAME_FIRST if c == 59 else FM_ECHUNK
    elif state == E_QUOTED:
        if fm_cc[c] & CC_QDTEXT:
            return E_QUOTED
        if c == 92:  # backslash
            return E_QUOTED_PAIR
        return E_QUOTED_END if c == 34 else FM_ECHUNK
    elif state == E_QUOTED_PAIR:
        return E_QUOTED if fm_cc[c] & CC_QDTEXT or c == 34 or c == 92 else FM_ECHUNK
    elif state == E_QUOTED_END:
        return E_VALUE_SPACE if space else after_item(c)
    else:
        return FM_ECHUNK


cdef int feed_size_line(H1Body *b, View *v) noexcept nogil:
    """FM_OK with the line complete and b.left set, FM_AGAIN, or FM_ECHUNK."""
    cdef uint8_t c
    cdef int state
    while view_left(v):
        c = view_u8(v)
        b.line_n += 1
        if b.line_n > MSG_MAX_CHUNK_LINE:
            return FM_ECHUNK
        if b.state == S_LF:
            if c != 10:
                return FM_ECHUNK
            if b.total > (<int64_t>1 << MAX_SIZE_BITS) - b.left:
                return FM_ECHUNK
            b.line_n = 0
            b.state = D_DATA if b.left else T_TRAILERS
            return FM_OK
        state = size_step(b, c)
        if state < 0:
            return state
        if state > S_DIGITS and state != S_LF:
            b.ext_n += 1
            if b.ext_n > H1B_MAX_EXTENSIONS:
                return FM_ECHUNK
        b.state = <uint8_t>state
    return FM_AGAIN


# --- trailers ---------------------------------------------------------------------------------------------------------

cdef int trailer_section(const char *p, uint32_t n, Hdr *out, int maxout, uint32_t *used) noexcept nogil:
    """Count of the fields and *used, FM_AGAIN when the section has no end yet, or FM_ETRAILER. out may be NULL."""
    cdef const char *cursor = p
    cdef Hdr field
    cdef int count = 0
    cdef int rc
    while True:
        rc = h1_field_line(&cursor, p + n, &field)
        if rc == H1_END:
            used[0] = <uint32_t>(cursor - p)
            return count
        if rc == FM_AGAIN:
            return FM_AGAIN
        if rc != FM_OK or count == maxout or trailer_forbidden(&field):
            return FM_ETRAILER
        if out != NULL:
            out[count] = field
        count += 1


cdef int h1_body_trailers(const char *p, uint32_t n, Hdr *out, int maxout) noexcept nogil:
    cdef uint32_t used = 0
    cdef int count = trailer_section(p, n, out, maxout, &used)
    return count if count >= 0 and used == n else FM_ETRAILER


cdef int feed_trailers(H1Body *b, View *v, const char *start) noexcept nogil:
    """FM_OK at the end of the body, FM_AGAIN, or FM_ETRAILER. A section with fields is consumed only when it begins this call's input
    (`start`): its span is then what was consumed."""
    cdef uint32_t n = <uint32_t>view_left(v) if view_left(v) <= MSG_MAX_TRAILERS else <uint32_t>MSG_MAX_TRAILERS
    cdef uint32_t used = 0
    cdef int count = FM_AGAIN
    if h1_worth_parsing(<const char *>v.p, n, b.line_n):
        count = trailer_section(<const char *>v.p, n, NULL, MSG_MAX_HEADERS, &used)
    b.line_n = n
    if count == FM_AGAIN:
        return FM_AGAIN if view_left(v) <= MSG_MAX_TRAILERS else FM_ETRAILER
    if count < 0:
        return FM_ETRAILER
    if count > 0 and <const char *>v.p != start:
        b.line_n = 0
        return FM_AGAIN
    b.has_trailers = count > 0
    b.line_n = used
    b.done = 1
    v.p += used
    return FM_OK


# --- the decoder ------------------------------------------------------------------------------------------------------

cdef void h1_body_init(H1Body *b, int kind, int64_t content_length) noexcept nogil:
    b.kind = <uint8_t>kind
    b.state = S_FIRST
    b.done = kind == BODY_NONE or (kind == BODY_LENGTH and content_length <= 0)
    b.has_trailers = 0
    b.line_n = 0
    b.ext_n = 0
    b.left = content_length if kind == BODY_LENGTH and content_length > 0 else 0
    b.total = 0


cdef inline void take_span(View *v, size_t take, Slice *data, int *ndata) noexcept nogil:
    data[ndata[0]] = slice_of(<const char *>v.p, take)
    ndata[0] += 1
    v.p += take


cdef int feed_chunked(H1Body *b, View *v, const char *start, Slice *data, int *ndata, int maxdata) noexcept nogil:
    """FM_OK at the end of the body, FM_AGAIN when input or room for spans is used up, FM_ECHUNK, FM_ETRAILER."""
    cdef size_t take
    cdef uint8_t c
    cdef int rc
    while view_left(v):
        if b.state == D_DATA:
            if ndata[0] == maxdata:
                return FM_AGAIN
            take = view_left(v)
            if <int64_t>take > b.left:
                take = <size_t>b.left
            take_span(v, take, data, ndata)
            b.left -= <int64_t>take
            b.total += <int64_t>take
            if b.left == 0:
                b.state = D_CR
        elif b.state == D_CR or b.state == D_LF:
            c = view_u8(v)
            if c != (13 if b.state == D_CR else 10):
                return FM_ECHUNK
            b.state = D_LF if b.state == D_CR else S_FIRST
        elif b.state == T_TRAILERS:
            return feed_trailers(b, v, start)
        else:
            rc = feed_size_line(b, v)
            if rc != FM_OK:
                return rc
    return FM_AGAIN


cdef int h1_body_feed(H1Body *b, const char *p, uint32_t n, Slice *data, int *ndata, int maxdata) noexcept nogil:
    cdef View v = view_of(p, n)
    cdef size_t take
    cdef int rc
    ndata[0] = 0
    if b.done or n == 0:
        return 0
    if b.kind == BODY_CHUNKED:
        rc = feed_chunked(b, &v, p, data, ndata, maxdata)
        if rc != FM_OK and rc != FM_AGAIN:
            return rc
    elif maxdata > 0:
        take = n
        if b.kind == BODY_LENGTH and <int64_t>take > b.left:
            take = <size_t>b.left
        take_span(&v, take, data, ndata)
        b.total += <int64_t>take
        if b.kind == BODY_LENGTH:
            b.left -= <int64_t>take
            b.done = b.left == 0
    return <int>(n - view_left(&v))


cdef int h1_body_eof(const H1Body *b) noexcept nogil:
    return FM_OK if b.done or b.kind == BODY_CLOSE or b.kind == BODY_TUNNEL else FM_EOF
