"""HTTP/2 heads (L1). See h2_head.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from fastmesh._core.base.err cimport (
    FM_EBAD, FM_EEXPECT, FM_EHEAD, FM_EMETHOD, FM_ETARGET, FM_ETRAILER, FM_OK)
from fastmesh._core.base.view cimport Slice, View, slice_ieq, slice_of, view_of
from fastmesh._core.proto.authority cimport authority_check
from fastmesh._core.proto.gen_tables cimport CC_TOKEN, fm_cc
from fastmesh._core.proto.h1_head cimport H1_MAX_METHOD, h1_target_form
from fastmesh._core.proto.h2_case cimport H2_CASE_FIELD, H2_CASE_MOST, h2_case_read, h2_case_write, h2_field_goes
from fastmesh._core.proto.h2_stream cimport H2, H2_ARENA, HF2_LINK
from fastmesh._core.proto.hpack cimport HpackArena, hpack_block_begin, hpack_next
from fastmesh._core.proto.hpack_enc cimport hpack_enc_begin, hpack_enc_field
from fastmesh._core.proto.hygiene cimport trailer_forbidden
from fastmesh._core.proto.lists cimport list_next, slice_is
from fastmesh._core.proto.msg cimport (
    H_CONNECTION, H_CONTENT_LENGTH, H_COOKIE, H_EXPECT, H_HOST, H_KEEP_ALIVE, H_NONE, H_PROXY_CONNECTION, H_TE, H_TRANSFER_ENCODING,
    H_UPGRADE, H_X_FASTMESH_H1, HF_DROP, HF_NEVER, HP_AUTHORITY, HP_METHOD, HP_PATH, HP_PROTOCOL, HP_SCHEME, HP_STATUS, M_CONNECT,
    MF_EXPECT_100, MF_HTTPS, MF_NEVER, MF_PROTOCOL, MF_RESPONSE, MF_TE_TRAILERS, MSG_MAX_HEAD, MSG_MAX_HEADERS, MSG_MAX_TARGET, Hdr, Msg,
    method_id, msg_reset)
from fastmesh._core.proto.scan cimport fm_scan_target, fm_scan_token, fm_scan_value

cdef enum:
    LENGTH_DIGITS = 19           # of a content-length, as in HTTP/1
    FIELD_EXTRA = 12             # hpack_enc_field: what a field may take beyond its bytes


cdef struct Pseudo:              # what the pseudo fields said; p NULL: not there
    Slice method
    Slice scheme
    Slice authority
    Slice path
    Slice protocol
    Slice status


# ---- in ------------------------------------------------------------------------------------------------------------------------------

cdef bint value_ok(Slice v) noexcept nogil:
    # RFC 9113 8.2.1: no control but HTAB, no white space around it
    if v.n == 0:
        return True
    if v.p[0] == 32 or v.p[0] == 9 or v.p[v.n - 1] == 32 or v.p[v.n - 1] == 9:
        return False
    return fm_scan_value(<const uint8_t *>v.p, <const uint8_t *>v.p + v.n) == <const uint8_t *>v.p + v.n


cdef bint name_ok(const Hdr *f) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t c
    for i in range(f.name_n):
        c = <uint8_t>f.name[i]
        if not fm_cc[c] & CC_TOKEN or 65 <= c <= 90:
            return False
    return f.name_n != 0


cdef Slice *pseudo_of(Pseudo *ps, int hid, int kind) noexcept nogil:
    if kind == H2_RESPONSE:
        return &ps.status if hid == HP_STATUS else NULL
    if hid == HP_METHOD:
        return &ps.method
    if hid == HP_SCHEME:
        return &ps.scheme
    if hid == HP_AUTHORITY:
        return &ps.authority
    if hid == HP_PATH:
        return &ps.path
    return &ps.protocol if hid == HP_PROTOCOL else NULL


cdef inline Slice said(const Hdr *f) noexcept nogil:
    # an empty value has been said, too: its pointer is never NULL
    return slice_of(f.value, f.value_n) if f.value != NULL else slice_of(b"", 0)


cdef bint set_pseudo(Msg *m, Pseudo *ps, const Hdr *f, int kind) noexcept nogil:
    cdef Slice *at = pseudo_of(ps, f.id, kind)
    if at == NULL or at.p != NULL:
        return False             # unknown, of the other kind of message, or said twice
    at[0] = said(f)
    if f.flags & HF_NEVER:
        if f.id == HP_AUTHORITY:
            m.hdr[0].flags = HF_NEVER
        else:
            m.flags |= MF_NEVER
    return True


cdef int64_t length_of(Slice v) noexcept nogil:
    cdef int64_t n = 0
    cdef uint32_t i
    if v.n == 0 or v.n > LENGTH_DIGITS:
        return -1
    for i in range(v.n):
        if not 48 <= v.p[i] <= 57:
            return -1
        if n > (<int64_t>1 << 62) // 10:
            return -1
        n = n * 10 + (v.p[i] - 48)
    return n


cdef int on_field(Msg *m, Hdr *f, bint request, Slice *facts) noexcept nogil:
    # what a regular field does beside being one: FM_OK: keep it; 1: leave it out; else a code. facts: NULL but on the mesh link.
    cdef Slice v = slice_of(f.value, f.value_n)
    cdef Slice item
    cdef int64_t n
    cdef int k = f.id
    if k == H_NONE:
        return FM_OK
    if k == H_CONNECTION or k == H_KEEP_ALIVE or k == H_PROXY_CONNECTION or k == H_TRANSFER_ENCODING or k == H_UPGRADE:
        return FM_EBAD           # RFC 9113 8.2.2
    if k == H_TE:
        if not slice_is(v, "trailers", 8):
            return FM_EBAD
        m.flags |= MF_TE_TRAILERS
        return 1
    if k == H_CONTENT_LENGTH:
        while f.value_n > 1 and f.value[0] == 48:  # octal somewhere, as in HTTP/1
            f.value += 1
            f.value_n -= 1
        n = length_of(slice_of(f.value, f.value_n))
        if n < 0 or (m.content_length >= 0 and m.content_length != n):
            return FM_EBAD
        if m.content_length == n:
            f.flags |= HF_DROP   # said twice, the same: once is enough
        m.content_length = n
        return FM_OK
    if k == H_HOST and request:
        if m.host.p != NULL and not slice_ieq(m.host, v):
            return FM_EBAD
        m.host = said(f)
        m.hdr[0].flags |= f.flags & HF_NEVER
        return 1                 # it comes first, whichever of the two said it
    if k == H_EXPECT and request:
        while list_next(&v, &item):
            if not slice_is(item, "100-continue", 12):
                return FM_EEXPECT
            m.flags |= MF_EXPECT_100
    if k == H_X_FASTMESH_H1 and facts != NULL:
        if facts.n or v.n == 0:
            return FM_EBAD       # our own, said twice or empty
        facts[0] = v
        return 1
    return FM_OK


cdef int join_cookies(Msg *m, HpackArena *a) noexcept nogil:
    # RFC 9113 8.2.3: several fields here are one in HTTP/1
    cdef Hdr *first = NULL
    cdef uint32_t total = 0
    cdef uint32_t i
    cdef uint8_t never = 0
    cdef char *p
    cdef Hdr *h
    for i in range(m.nhdr):
        if m.hdr[i].id == H_COOKIE:
            if first == NULL:
                first = &m.hdr[i]
            total += m.hdr[i].value_n + 2
            never |= m.hdr[i].flags & HF_NEVER
    if first == NULL or total == first.value_n + 2:
        return FM_OK
    if a.end - a.p < <int>total:
        return FM_EHEAD
    p = a.p
    for i in range(m.nhdr):
        h = &m.hdr[i]
        if h.id != H_COOKIE:
            continue
        if h.value_n:            # an empty one would leave white space at the end
            memcpy(p, h.value, h.value_n)
            p += h.value_n
            memcpy(p, b"; ", 2)
            p += 2
        if h != first:
            h.flags |= HF_DROP
    first.value = a.p
    first.value_n = <uint32_t>(p - a.p) - 2 if p != a.p else 0
    first.flags |= never
    a.p = p
    return FM_OK


cdef bint names_port(Slice host) noexcept nogil:
    # of a checked authority
    cdef uint32_t i = host.n
    while i and 48 <= host.p[i - 1] <= 57:
        i -= 1
    return 0 < i < host.n and host.p[i - 1] == 58  # ':'


cdef int request_line(Msg *m, const Pseudo *ps) noexcept nogil:
    cdef Slice host = ps.authority
    cdef const uint8_t *end
    if ps.method.n == 0:
        return FM_EBAD
    if ps.method.n > H1_MAX_METHOD:
        return FM_EMETHOD
    end = <const uint8_t *>ps.method.p + ps.method.n
    if fm_scan_token(<const uint8_t *>ps.method.p, end) != end:
        return FM_EBAD
    m.method_name = ps.method
    m.method = <uint8_t>method_id(ps.method.p, ps.method.n)
    if host.p == NULL:
        host = m.host
    if host.p == NULL or authority_check(&host) != FM_OK:
        return FM_EBAD
    if m.host.p != NULL and not slice_ieq(host, m.host) and not slice_ieq(ps.authority, m.host):
        return FM_EBAD           # :authority and host disagree: each of two hops could believe another one
    m.host = host
    m.hdr[0].name = b"host"
    m.hdr[0].name_n = 4
    m.hdr[0].value = host.p
    m.hdr[0].value_n = host.n
    m.hdr[0].id = H_HOST
    if m.method == M_CONNECT and ps.protocol.p == NULL:
        if ps.scheme.p != NULL or ps.path.p != NULL or ps.authority.p == NULL or not names_port(host):
            return FM_EBAD       # RFC 9113 8.5
        m.target = host
        m.path = slice_of(b"/", 1)
        return FM_OK
    if ps.protocol.p != NULL:
        end = <const uint8_t *>ps.protocol.p + ps.protocol.n
        if m.method != M_CONNECT or ps.protocol.n == 0 or ps.authority.p == NULL or fm_scan_token(<const uint8_t *>ps.protocol.p, end) != end:
            return FM_EBAD
        m.flags |= MF_PROTOCOL
        m.protocol = ps.protocol
    if slice_is(ps.scheme, "https", 5):
        m.flags |= MF_HTTPS
    elif not slice_is(ps.scheme, "http", 4):
        return FM_EBAD
    if ps.path.n > MSG_MAX_TARGET:
        return FM_ETARGET
    end = <const uint8_t *>ps.path.p + ps.path.n
    if ps.path.n == 0 or fm_scan_target(<const uint8_t *>ps.path.p, end) != end:
        return FM_EBAD
    if ps.path.p[0] != 47 and not (ps.path.n == 1 and ps.path.p[0] == 42):
        return FM_EBAD           # '/' or '*'
    m.target = ps.path
    return path_of(m)


cdef int path_of(Msg *m) noexcept nogil:
    # extended CONNECT has a path as any other request; the HTTP/1 rules know CONNECT as one without
    cdef uint8_t method = m.method
    cdef int rc
    if method == M_CONNECT:
        m.method = 0
    rc = h1_target_form(m)
    m.method = method
    return FM_OK if rc == FM_OK else FM_EBAD


cdef int status_line(Msg *m, const Pseudo *ps) noexcept nogil:
    cdef const char *p = ps.status.p
    cdef uint32_t i
    if ps.status.n != 3:
        return FM_EBAD
    for i in range(3):
        if not 48 <= p[i] <= 57:
            return FM_EBAD
    m.status = <uint16_t>((p[0] - 48) * 100 + (p[1] - 48) * 10 + (p[2] - 48))
    return FM_EBAD if m.status < 100 or m.status == 101 else FM_OK  # above 599: as in HTTP/1, RFC 9110 15 lets us


cdef int h2_head_decode(H2 *h, int kind, const char *p, uint32_t n, Msg *m) noexcept nogil:
    cdef View v = view_of(p, n)
    cdef HpackArena a
    cdef Pseudo ps
    cdef Hdr f
    cdef Slice none = slice_of(NULL, 0)
    cdef Slice facts = none
    cdef bint link = h.flags & HF2_LINK
    cdef int verdict = FM_OK
    cdef int rc
    a.begin = h.arena
    a.p = h.arena
    a.end = h.arena + H2_ARENA
    a.list_n = 0
    a.list_most = MSG_MAX_HEAD + (H2_CASE_FIELD if link else 0)
    a.over = 0
    ps.method = ps.scheme = ps.authority = ps.path = ps.protocol = ps.status = none
    msg_reset(m, MF_RESPONSE if kind == H2_RESPONSE else 0)
    m.minor = 2
    m.nhdr = 1 if kind == H2_REQUEST else 0
    m.hdr[0].flags = 0
    m.head_n = n
    hpack_block_begin(&h.dec)
    while True:
        rc = hpack_next(&h.dec, &v, h.bufs, &a, &f)
        if rc < 0:
            return rc
        if rc == 0:
            break
        if a.over or verdict != FM_OK:
            continue             # on for the tables' sake
        if not value_ok(slice_of(f.value, f.value_n)):
            verdict = FM_EBAD
        elif f.name_n and f.name[0] == 58:  # ':'
            if kind == H2_TRAILERS or m.nhdr != (kind == H2_REQUEST) or m.content_length >= 0 or m.flags & (
                    MF_TE_TRAILERS | MF_EXPECT_100) or m.host.p != NULL or facts.n or not set_pseudo(m, &ps, &f, kind):
                verdict = FM_EBAD  # also behind a regular field
        elif not name_ok(&f):
            verdict = FM_EBAD
        elif kind == H2_TRAILERS and trailer_forbidden(&f):
            verdict = FM_ETRAILER
        else:
            rc = on_field(m, &f, kind == H2_REQUEST, &facts if link else NULL) if kind != H2_TRAILERS else FM_OK
            if rc < 0:
                verdict = rc
            elif rc == FM_OK:
                if m.nhdr >= MSG_MAX_HEADERS:
                    verdict = FM_EHEAD
                else:
                    m.hdr[m.nhdr] = f
                    m.nhdr += 1
    if a.over and verdict == FM_OK:
        verdict = FM_EHEAD
    if verdict == FM_OK:
        if kind == H2_REQUEST:
            verdict = request_line(m, &ps)
            if verdict == FM_OK:
                verdict = join_cookies(m, &a)
        elif kind == H2_RESPONSE:
            verdict = status_line(m, &ps)
        if verdict == FM_OK and facts.n:
            verdict = h2_case_read(m, facts, &a)
    return verdict


# ---- out -----------------------------------------------------------------------------------------------------------------------------

cdef uint32_t h2_head_size(const H2 *h, const Msg *m) noexcept nogil:
    # pseudo field names, a method, a scheme, table size updates
    cdef uint32_t n = 160 + m.method_name.n + m.target.n + m.protocol.n
    cdef uint32_t i
    for i in range(m.nhdr):
        n += m.hdr[i].name_n + m.hdr[i].value_n + FIELD_EXTRA
    if h.flags & HF2_LINK and m.minor < 2:
        n += H2_CASE_FIELD       # counts more than it takes
    return n


cdef char *put(H2 *h, char *p, const char *end, const char *name, uint32_t name_n, Slice value, int hid, uint32_t flags) noexcept nogil:
    return NULL if p == NULL else hpack_enc_field(&h.enc, h.bufs, p, end, name, name_n, value.p, value.n, hid, flags & HF_NEVER)


cdef char *h2_fields_encode(H2 *h, const Hdr *t, int n, char *p, const char *end) noexcept nogil:
    cdef int i
    p = hpack_enc_begin(&h.enc, p, end)  # trailers are a block of their own; behind a head's pseudo fields nothing is due
    for i in range(n):
        if p != NULL and h2_field_goes(&t[i]):
            p = hpack_enc_field(&h.enc, h.bufs, p, end, t[i].name, t[i].name_n, t[i].value, t[i].value_n, t[i].id, t[i].flags)
    return p


cdef char *put_facts(H2 *h, const Msg *m, char *p, const char *end, uint32_t block_n) noexcept nogil:
    cdef char facts[H2_CASE_MOST]
    cdef uint32_t n = H2_CASE_MOST
    if block_n > MSG_MAX_HEAD - H2_CASE_FIELD:
        n = 1                    # the block must stay below what the other side takes
    n = h2_case_write(m, facts, n)
    return put(h, p, end, b"x-fastmesh-h1", 13, slice_of(facts, n), H_X_FASTMESH_H1, 0)


cdef char *h2_head_encode(H2 *h, const Msg *m, char *p, const char *end) noexcept nogil:
    cdef char digits[3]
    cdef uint32_t never = HF_NEVER if m.flags & MF_NEVER else 0
    cdef char *start = p
    cdef uint32_t i
    p = hpack_enc_begin(&h.enc, p, end)
    if m.flags & MF_RESPONSE:
        digits[0] = <char>(48 + m.status // 100)
        digits[1] = <char>(48 + m.status // 10 % 10)
        digits[2] = <char>(48 + m.status % 10)
        p = put(h, p, end, b":status", 7, slice_of(digits, 3), HP_STATUS, never)
    else:
        p = put(h, p, end, b":method", 7, m.method_name, HP_METHOD, never)
        if m.method != M_CONNECT or m.flags & MF_PROTOCOL:
            p = put(h, p, end, b":scheme", 7, slice_of(b"https", 5) if m.flags & MF_HTTPS else slice_of(b"http", 4), HP_SCHEME, never)
            p = put(h, p, end, b":path", 5, m.target, HP_PATH, never)
        if m.flags & MF_PROTOCOL:
            p = put(h, p, end, b":protocol", 9, m.protocol, HP_PROTOCOL, never)
        for i in range(m.nhdr):
            if m.hdr[i].id == H_HOST and not m.hdr[i].flags & HF_DROP:
                p = put(h, p, end, b":authority", 10, slice_of(m.hdr[i].value, m.hdr[i].value_n), HP_AUTHORITY, m.hdr[i].flags)
                break
    if p == NULL:
        return NULL
    p = h2_fields_encode(h, m.hdr, <int>m.nhdr, p, end)
    if m.flags & MF_TE_TRAILERS and not m.flags & MF_RESPONSE:
        p = put(h, p, end, b"te", 2, slice_of(b"trailers", 8), H_TE, 0)
    if h.flags & HF2_LINK and m.minor < 2 and p != NULL:
        p = put_facts(h, m, p, end, <uint32_t>(p - start))
    return p
