"""HTTP/1 head parser (L1): RFC 9112 sections 2-6.1, strict. Contract in h1_head.pxd.

A restartable parse in picohttpparser's manner: no state between calls, each call starts at the first byte, in order, so that every prefix
of an input gives either FM_AGAIN or the very code that the whole input gives. `last` only saves work: a call whose new bytes hold no
end of a line and nothing forbidden cannot come to another answer, so at most one parse per line happens and slow senders cost O(lines * n).

The one file that reads the wire through raw pointers. Every read is behind a comparison with `end`.
Must not know: bodies, connections, policy.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from fastmesh._core.base.err cimport (
    FM_AGAIN, FM_EBAD, FM_EEXPECT, FM_EFRAMING, FM_EHEAD, FM_EHOST, FM_EMETHOD, FM_ETARGET, FM_ETE, FM_EVERSION, FM_OK,
)
from fastmesh._core.base.sys cimport fm_likely, fm_unlikely
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.proto.authority cimport authority_check
from fastmesh._core.proto.gen_tables cimport CC_TOKEN, fm_cc, fm_hdr_lookup, fm_method_lookup
from fastmesh._core.proto.lists cimport list_next, slice_is, slice_is_token
from fastmesh._core.proto.msg cimport (
    H_CONNECTION, H_CONTENT_LENGTH, H_EXPECT, H_HOST, H_TE, H_TRANSFER_ENCODING, H_UPGRADE, M_CONNECT, M_OPTIONS,
    MF_ABSOLUTE, MF_ASTERISK, MF_CHUNKED, MF_CLOSE, MF_EXPECT_100, MF_HTTPS, MF_KEEPALIVE, MF_RESPONSE, MF_TE_TRAILERS,
    MF_UPGRADE, MSG_MAX_HEAD, MSG_MAX_HEADERS, MSG_MAX_TARGET, Hdr, Msg,
    msg_reset,
)
from fastmesh._core.proto.scan cimport fm_scan_target, fm_scan_token, fm_scan_value

cdef enum:
    SP = 32
    HT = 9
    CR = 13
    LF = 10
    COLON = 58
    VERSION_N = 8              # "HTTP/1.1"
    CL_MAX_DIGITS = 19         # below 2^63 whatever they are, so the sum cannot wrap
    STATUS_1XX_END = 200
    STATUS_204 = 204

cdef enum:  # private bits of what the fields said, beside Msg.flags
    SAW_HOST = 1
    SAW_TE = 2                 # Transfer-Encoding
    SAW_UPGRADE_OPTION = 4     # Connection: upgrade
    SAW_UPGRADE = 8            # an Upgrade field that may be passed on
    SAW_UPGRADE_BAD = 16       # one that may not


# --- pieces -----------------------------------------------------------------------------------------------------------

cdef inline int eat_crlf(const uint8_t **cursor, const uint8_t *end) noexcept nogil:
    """CRLF and nothing else: a bare CR or LF is one parser's line end and another's data."""
    cdef const uint8_t *p = cursor[0]
    if p == end:
        return FM_AGAIN
    if p[0] != CR:
        return FM_EBAD
    if p + 1 == end:
        return FM_AGAIN
    if p[1] != LF:
        return FM_EBAD
    cursor[0] = p + 2
    return FM_OK


cdef int eat_version(const uint8_t **cursor, const uint8_t *end, uint8_t *minor) noexcept nogil:
    """HTTP/1.0 or HTTP/1.1. Another DIGIT "." DIGIT is FM_EVERSION, anything else FM_EBAD."""
    cdef const uint8_t *p = cursor[0]
    cdef const char *want = "HTTP/"
    cdef uint32_t i
    if fm_likely(end - p >= VERSION_N and memcmp(p, b"HTTP/1.", 7) == 0 and (p[7] == 49 or p[7] == 48)):
        minor[0] = p[7] - 48
        cursor[0] = p + VERSION_N
        return FM_OK
    for i in range(VERSION_N):
        if p + i == end:
            return FM_AGAIN
        if i < 5:
            if p[i] != <uint8_t>want[i]:
                return FM_EBAD
        elif i == 6:
            if p[i] != 46:  # '.'
                return FM_EBAD
        elif not 48 <= p[i] <= 57:
            return FM_EBAD
    return FM_EVERSION


cdef inline int field_line(const uint8_t **cursor, const uint8_t *end, Hdr *h) noexcept nogil:
    cdef const uint8_t *p = cursor[0]
    cdef const uint8_t *q
    cdef const uint8_t *v
    cdef int rc
    if p == end:
        return FM_AGAIN
    if p[0] == CR:
        rc = eat_crlf(cursor, end)
        return H1_END if rc == FM_OK else rc
    # A line that begins with white space is obs-fold, or white space before the first field (RFC 9112 2.2, 5.2): no token, refused.
    q = fm_scan_token(p, end)
    if q == end:
        return FM_AGAIN
    if fm_unlikely(q[0] != COLON or q == p):
        return FM_EBAD
    h.name = <const char *>p
    h.name_n = <unsigned short>(q - p)
    q += 1
    while q < end and (q[0] == SP or q[0] == HT):
        q += 1
    v = q
    q = fm_scan_value(q, end)
    cursor[0] = q
    rc = eat_crlf(cursor, end)
    if fm_unlikely(rc != FM_OK):
        return rc
    while q > v and ((q - 1)[0] == SP or (q - 1)[0] == HT):
        q -= 1
    h.value = <const char *>v
    h.value_n = <uint32_t>(q - v)
    h.id = <uint8_t>fm_hdr_lookup(h.name, h.name_n)
    h.flags = 0
    return FM_OK


cdef int h1_field_line(const char **cursor, const char *end, Hdr *h) noexcept nogil:
    return field_line(<const uint8_t **>cursor, <const uint8_t *>end, h)


cdef bint h1_worth_parsing(const char *p, uint32_t n, uint32_t last) noexcept nogil:
    cdef const uint8_t *b = <const uint8_t *>p
    if last == 0 or last > n:
        return True
    # still in the first line: parse, so that a bad or too long target is refused at once
    if memchr(p, LF, last) == NULL:
        return True
    # A CR just before `last` may be a bare one now, and the first byte of a line tells obs-fold; a CR or LF in the new bytes ends
    # the scan like a control does.
    return b[last - 1] == CR or b[last - 1] == LF or fm_scan_value(b + last, b + n) != b + n


# --- fields that decide framing or the connection ---------------------------------------------------------------------

cdef int on_content_length(Msg *m, Hdr *h, uint32_t saw) noexcept nogil:
    cdef uint32_t i
    cdef int64_t value = 0
    if m.content_length >= 0 or saw & SAW_TE:
        return FM_EFRAMING
    # Leading zeros are legal but read as octal somewhere: they are taken off before the value is passed on.
    while h.value_n > 1 and h.value[0] == 48:
        h.value += 1
        h.value_n -= 1
    if h.value_n == 0 or h.value_n > CL_MAX_DIGITS:
        return FM_EFRAMING
    for i in range(h.value_n):
        if not 48 <= h.value[i] <= 57:  # signs, spaces, lists, hex: RFC 9110 8.6 lets us refuse even equal lists
            return FM_EFRAMING
        if value > (<int64_t>1 << 62) // 10:
            return FM_EFRAMING
        value = value * 10 + (h.value[i] - 48)
    m.content_length = value
    return FM_OK


cdef int on_transfer_encoding(Msg *m, const Hdr *h, uint32_t saw) noexcept nogil:
    """Exactly one `chunked` over all fields of this name."""
    cdef Slice rest = slice_of(h.value, h.value_n)
    cdef Slice item
    if m.content_length >= 0 or m.minor == 0:
        return FM_EFRAMING
    while list_next(&rest, &item):
        if m.flags & MF_CHUNKED:
            return FM_EFRAMING  # chunked twice, or not last, or an empty element behind it
        if slice_is(item, "chunked", 7):
            m.flags |= MF_CHUNKED
        elif not slice_is_token(item):
            return FM_EFRAMING
        else:
            return FM_ETE
    return FM_OK


cdef int on_connection(Msg *m, const Hdr *h, uint32_t *saw) noexcept nogil:
    cdef Slice rest = slice_of(h.value, h.value_n)
    cdef Slice item
    while list_next(&rest, &item):
        if item.n == 0:
            continue
        if slice_is(item, "keep-alive", 10):
            m.flags |= MF_KEEPALIVE
        elif slice_is(item, "close", 5):
            m.flags |= MF_CLOSE
        elif slice_is(item, "upgrade", 7):
            saw[0] |= SAW_UPGRADE_OPTION
        elif not slice_is_token(item):
            return FM_EBAD
    return FM_OK


cdef void on_upgrade(const Hdr *h, uint32_t *saw) noexcept nogil:
    """A tunnel to another HTTP or to TLS would carry requests past routing and policy: such an offer is never passed on."""
    cdef Slice rest = slice_of(h.value, h.value_n)
    cdef Slice item
    cdef Slice name
    while list_next(&rest, &item):
        if item.n == 0:
            continue
        name = slice_of(item.p, 0)
        while name.n < item.n and item.p[name.n] != 47:  # '/'
            name.n += 1
        if (slice_is(name, "h2c", 3) or slice_is(name, "h2", 2) or slice_is(name, "http", 4)
                or slice_is(name, "tls", 3) or not slice_is_token(name)):
            saw[0] |= SAW_UPGRADE_BAD
        else:
            saw[0] |= SAW_UPGRADE


cdef int on_expect(Msg *m, const Hdr *h) noexcept nogil:
    cdef Slice rest = slice_of(h.value, h.value_n)
    cdef Slice item
    if m.minor == 0:
        return FM_OK  # RFC 9110 10.1.1: ignored from an HTTP/1.0 client
    while list_next(&rest, &item):
        if not slice_is(item, "100-continue", 12):
            return FM_EEXPECT
        m.flags |= MF_EXPECT_100
    return FM_OK


cdef void on_te(Msg *m, const Hdr *h) noexcept nogil:
    cdef Slice rest = slice_of(h.value, h.value_n)
    cdef Slice item
    while list_next(&rest, &item):
        if slice_is(item, "trailers", 8):
            m.flags |= MF_TE_TRAILERS


cdef int on_host(Msg *m, Hdr *h, uint32_t saw) noexcept nogil:
    cdef Slice value = slice_of(h.value, h.value_n)
    if saw & SAW_HOST or authority_check(&value) != FM_OK:
        return FM_EHOST
    if m.flags & MF_ABSOLUTE:
        value = m.host  # RFC 9112 3.2.2: the target's authority replaces what Host said, also in what is sent on
    h.value = value.p
    h.value_n = value.n
    m.host = value
    return FM_OK


cdef int on_known_field(Msg *m, Hdr *h, uint32_t *saw) noexcept nogil:
    """A field whose id the parser itself cares about."""
    cdef int rc = FM_OK
    cdef bint response = m.flags & MF_RESPONSE
    if h.id == H_HOST:
        if not response:
            rc = on_host(m, h, saw[0])
            saw[0] |= SAW_HOST
    elif h.id == H_CONTENT_LENGTH:
        rc = on_content_length(m, h, saw[0])
    elif h.id == H_TRANSFER_ENCODING:
        rc = on_transfer_encoding(m, h, saw[0])
        saw[0] |= SAW_TE
    elif h.id == H_CONNECTION:
        rc = on_connection(m, h, saw)
    elif h.id == H_TE:
        on_te(m, h)
    elif h.id == H_UPGRADE:
        on_upgrade(h, saw)
    elif h.id == H_EXPECT:
        if not response:
            rc = on_expect(m, h)
    return rc


cdef int fields(const uint8_t **cursor, const uint8_t *end, Msg *m, uint32_t *saw) noexcept nogil:
    """All field lines and the empty line."""
    cdef Hdr *h
    cdef int rc
    cdef Hdr spare
    while True:
        if fm_unlikely(m.nhdr == MSG_MAX_HEADERS):
            rc = field_line(cursor, end, &spare)
            if rc == H1_END:
                return FM_OK
            return FM_EHEAD if rc == FM_OK else rc
        h = &m.hdr[m.nhdr]
        rc = field_line(cursor, end, h)
        if fm_unlikely(rc != FM_OK):
            return FM_OK if rc == H1_END else rc
        m.nhdr += 1
        if 0 < h.id <= H_EXPECT:
            rc = on_known_field(m, h, saw)
            if fm_unlikely(rc != FM_OK):
                return rc


cdef void connection_flags(Msg *m, uint32_t saw) noexcept nogil:
    if m.minor == 0:
        if not m.flags & MF_KEEPALIVE:
            m.flags |= MF_CLOSE
    elif saw & SAW_UPGRADE_OPTION and saw & SAW_UPGRADE and not saw & SAW_UPGRADE_BAD:
        m.flags |= MF_UPGRADE  # RFC 9110 7.8: ignored in HTTP/1.0


# --- requests ---------------------------------------------------------------------------------------------------------

cdef void split_path(Msg *m, const char *p, uint32_t n) noexcept nogil:
    """Path and query of an origin-form (or what follows an authority)."""
    cdef const char *mark = <const char *>memchr(p, 63, n) if n else NULL  # '?'
    if mark == NULL:
        m.path = slice_of(p, n)
        m.query = slice_of(NULL, 0)
    else:
        m.path = slice_of(p, mark - p)
        m.query = slice_of(mark + 1, n - <uint32_t>(mark + 1 - p))
    if m.path.n == 0:
        m.path = slice_of("/", 1)


cdef int absolute_form(Msg *m) noexcept nogil:
    """scheme "://" authority [path] ["?" query], http and https only."""
    cdef Slice t = m.target
    cdef Slice authority
    cdef uint32_t skip, i
    if t.n >= 7 and slice_is(slice_of(t.p, 7), "http://", 7):
        skip = 7
    elif t.n >= 8 and slice_is(slice_of(t.p, 8), "https://", 8):
        skip = 8
        m.flags |= MF_HTTPS
    else:
        return FM_EBAD
    i = skip
    while i < t.n and t.p[i] != 47 and t.p[i] != 63:  # '/', '?'
        i += 1
    authority = slice_of(t.p + skip, i - skip)
    if authority_check(&authority) != FM_OK:
        return FM_EHOST
    m.flags |= MF_ABSOLUTE
    m.host = authority
    if i == t.n and m.method == M_OPTIONS:
        m.flags |= MF_ASTERISK  # RFC 9112 3.2.4: the last proxy sends "*"
        m.path = slice_of("*", 1)
        return FM_OK
    split_path(m, t.p + i, t.n - i)
    return FM_OK


cdef int h1_target_form(Msg *m) noexcept nogil:
    """RFC 9112 3.2: which of the four forms, and whether the method may have it."""
    if fm_unlikely(m.method == M_CONNECT):
        return FM_EMETHOD
    if fm_likely(m.target.p[0] == 47):  # '/'
        split_path(m, m.target.p, m.target.n)
        return FM_OK
    if m.target.n == 1 and m.target.p[0] == 42:  # '*'
        if m.method != M_OPTIONS:
            return FM_EBAD
        m.flags |= MF_ASTERISK
        m.path = m.target
        return FM_OK
    return absolute_form(m)


cdef int request_line(const uint8_t **cursor, const uint8_t *end, Msg *m) noexcept nogil:
    cdef const uint8_t *p = cursor[0]
    cdef const uint8_t *q
    cdef int rc
    q = fm_scan_token(p, end)
    if q - p > H1_MAX_METHOD:
        return FM_EMETHOD
    if q == end:
        return FM_AGAIN
    if q[0] != SP or q == p:
        return FM_EBAD
    m.method_name = slice_of(<const char *>p, q - p)
    m.method = <uint8_t>fm_method_lookup(<const char *>p, q - p)
    p = q + 1
    q = fm_scan_target(p, end)
    if fm_unlikely(q - p > MSG_MAX_TARGET):
        return FM_ETARGET
    if q == end:
        return FM_AGAIN
    if q[0] != SP or q == p:
        return FM_EBAD
    m.target = slice_of(<const char *>p, q - p)
    cursor[0] = q + 1
    rc = eat_version(cursor, end, &m.minor)
    if fm_likely(rc == FM_OK):
        rc = eat_crlf(cursor, end)
    if fm_likely(rc == FM_OK):
        rc = h1_target_form(m)
    return rc


cdef int parse_request(const char *start, uint32_t n, Msg *m) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>start
    cdef const uint8_t *end = p + n
    cdef uint32_t saw = 0
    cdef int rc
    msg_reset(m, 0)
    if p < end and p[0] == CR:  # RFC 9112 2.2: one empty line from a client that ends a body with one too many
        rc = eat_crlf(&p, end)
        if rc != FM_OK:
            return rc
    rc = request_line(&p, end, m)
    if fm_likely(rc == FM_OK):
        rc = fields(&p, end, m, &saw)
    if rc != FM_OK:
        return rc
    if fm_unlikely(not saw & SAW_HOST and m.minor == 1):
        return FM_EHOST  # RFC 9112 3.2: also when the target names an authority
    connection_flags(m, saw)
    m.head_n = <uint32_t>(p - <const uint8_t *>start)
    return <int>m.head_n


cdef int h1_request_head(const char *p, uint32_t n, uint32_t last, Msg *m) noexcept nogil:
    cdef uint32_t seen = n if n <= MSG_MAX_HEAD else <uint32_t>MSG_MAX_HEAD
    cdef int rc = FM_AGAIN
    if h1_worth_parsing(p, seen, last):
        rc = parse_request(p, seen, m)
    return FM_EHEAD if rc == FM_AGAIN and n > MSG_MAX_HEAD else rc


# --- responses --------------------------------------------------------------------------------------------------------

cdef int status_line(const uint8_t **cursor, const uint8_t *end, Msg *m) noexcept nogil:
    cdef const uint8_t *p
    cdef const uint8_t *q
    cdef uint32_t i
    cdef int rc = eat_version(cursor, end, &m.minor)
    if rc != FM_OK:
        return rc
    p = cursor[0]
    for i in range(4):  # SP and three digits
        if p + i == end:
            return FM_AGAIN
        if i == 0:
            if p[0] != SP:
                return FM_EBAD
        elif not 48 <= p[i] <= 57 or (i == 1 and p[1] == 48):
            return FM_EBAD
        else:
            m.status = <unsigned short>(m.status * 10 + (p[i] - 48))
    p += 4
    if p == end:
        return FM_AGAIN
    # RFC 9112 4 wants the space even before an empty reason; many servers leave it out, and no one reads that differently
    if p[0] == SP:
        p += 1
        q = fm_scan_value(p, end)
        m.reason = slice_of(<const char *>p, q - p)
        p = q
    cursor[0] = p
    return eat_crlf(cursor, end)


cdef int parse_response(const char *start, uint32_t n, Msg *m) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>start
    cdef const uint8_t *end = p + n
    cdef uint32_t saw = 0
    cdef int rc
    msg_reset(m, MF_RESPONSE)
    rc = status_line(&p, end, m)
    if fm_likely(rc == FM_OK):
        rc = fields(&p, end, m, &saw)
    if rc != FM_OK:
        return rc
    if m.status < STATUS_1XX_END or m.status == STATUS_204:
        # RFC 9110 8.6, RFC 9112 6.1: they have no content, so nothing may announce one. `Content-Length: 0` is common and harmless.
        if m.flags & MF_CHUNKED or m.content_length > 0:
            return FM_EFRAMING
    connection_flags(m, saw)
    m.head_n = <uint32_t>(p - <const uint8_t *>start)
    return <int>m.head_n


cdef int h1_response_head(const char *p, uint32_t n, uint32_t last, Msg *m) noexcept nogil:
    cdef uint32_t seen = n if n <= MSG_MAX_HEAD else <uint32_t>MSG_MAX_HEAD
    cdef int rc = FM_AGAIN
    if h1_worth_parsing(p, seen, last):
        rc = parse_response(p, seen, m)
    return FM_EHEAD if rc == FM_AGAIN and n > MSG_MAX_HEAD else rc


cdef bint h1_names_http(const char *p, uint32_t n) noexcept nogil:
    cdef const char *end = <const char *>memchr(p, 10, n)
    cdef const char *at = p
    if end == NULL:
        return True
    while at != NULL and end - at >= 6:
        at = <const char *>memchr(at, 72, end - at)  # 'H'
        if at != NULL:
            if end - at >= 5 and memcmp(at, b"HTTP/", 5) == 0:
                return True
            at += 1
    return False
