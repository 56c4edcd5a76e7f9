"""Fuzz targets of heads that change their protocol version on the way: no smuggling, and nothing is lost.

`bridge_*`: whatever h2_head_decode accepts, cleaned and written as HTTP/1, is read by our HTTP/1 parser as the same message and nothing more;
sent on as HTTP/2 it is the same again. `carry_*`: the way back: what HTTP/1 parses, cleaned and encoded, is decoded as the same.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastmesh._core.base.buf cimport BufPool, buf_end, buf_init
from fastmesh._core.base.err cimport FM_EBAD, FM_EEXPECT, FM_EHEAD, FM_EHPACK, FM_EMETHOD, FM_ETARGET, FM_ETRAILER, FM_OK
from fastmesh._core.base.pool cimport Pool, pool_end, pool_init
from fastmesh._core.base.view cimport Slice, ascii_lower, slice_eq, slice_of
from fastmesh._core.proto.h1_body cimport h1_body_request, h1_body_response, h1_body_trailers
from fastmesh._core.proto.h1_head cimport h1_request_head, h1_response_head
from fastmesh._core.proto.h1_write cimport (
    Out, h1_write_fields, h1_write_last_chunk, h1_write_request_line, h1_write_status_line, out_bytes, out_field, out_of)
from fastmesh._core.proto.h2_head cimport (
    H2_REQUEST, H2_RESPONSE, H2_TRAILERS, h2_fields_encode, h2_head_decode, h2_head_encode)
from fastmesh._core.proto.h2_stream cimport H2, H2_ARENA, H2Limits, H2Ops, H2Stream, h2_end, h2_init
from fastmesh._core.proto.hygiene cimport hygiene_request, hygiene_response
from fastmesh._core.proto.msg cimport (
    BODY_CHUNKED, BODY_LENGTH, BODY_NONE, H_COOKIE, H_HOST, HF_DROP, HF_NEVER, M_CONNECT, MF_ABSOLUTE, MF_HTTPS, MF_NEVER, MF_PROTOCOL,
    MF_TE_TRAILERS, MSG_MAX_HEAD, MSG_MAX_HEADERS, MSG_MAX_TRAILERS, Hdr, Msg, msg_find, msg_reset)

TARGETS = ("bridge_request", "bridge_response", "bridge_trailers", "carry_request", "carry_response")

cdef enum:
    INPUT_MOST = 8192
    ROOM = 262144
    MEMORY = 1 << 20

cdef struct Ends:                # of one hop: who encodes, who decodes
    H2 out
    H2 inp
    BufPool bufs
    Pool pool

cdef H2Ops OPS                   # nothing is told: heads alone are coded
cdef uint64_t stats[64]
cdef char arena_in[H2_ARENA]
cdef char arena_again[H2_ARENA]
cdef Msg scratch
cdef char written[ROOM]
cdef char encoded[ROOM]
cdef char jar_first[ROOM]
cdef char jar_second[ROOM]


cdef void begin(Ends *e, char *arena, bint link) noexcept nogil:
    cdef H2Limits limits
    limits.max_streams = limits.stream_window = limits.conn_window = 65535
    buf_init(&e.bufs, MEMORY)
    pool_init(&e.pool, sizeof(H2Stream), 4)
    h2_init(&e.out, False, link, &OPS, NULL, &e.bufs, &e.pool, &scratch, arena, &limits, stats)
    h2_init(&e.inp, True, link, &OPS, NULL, &e.bufs, &e.pool, &scratch, arena, &limits, stats)


cdef const char *finish(Ends *e, const char *fault) noexcept nogil:
    h2_end(&e.out)
    h2_end(&e.inp)
    if fault == NULL and (e.bufs.held or e.bufs.live):
        fault = "memory is lost"
    buf_end(&e.bufs)
    pool_end(&e.pool)
    return fault


# ---- two heads that should say the same ----------------------------------------------------------------------------------------------

cdef bint same_name(const Hdr *x, const Hdr *y) noexcept nogil:
    cdef uint32_t i
    if x.name_n != y.name_n or x.id != y.id:
        return False
    for i in range(x.name_n):
        if ascii_lower(<uint8_t>x.name[i]) != ascii_lower(<uint8_t>y.name[i]):
            return False
    return True


cdef inline bint same_value(const Hdr *x, const Hdr *y) noexcept nogil:
    return x.value_n == y.value_n and (x.value_n == 0 or memcmp(x.value, y.value, x.value_n) == 0)


cdef const Hdr *next_field(const Msg *m, uint32_t *at, bint request) noexcept nogil:
    # the fields that travel in order: not Host, which has a place of its own, and not cookies, which are joined
    cdef const Hdr *f
    while at[0] < m.nhdr:
        f = &m.hdr[at[0]]
        at[0] += 1
        if not f.flags & HF_DROP and f.id != H_HOST and not (request and f.id == H_COOKIE):
            return f
    return NULL


cdef uint32_t cookies(const Msg *m, char *to) noexcept nogil:
    # as RFC 9113 8.2.3 joins them, without those that are empty
    cdef uint32_t i, n = 0
    for i in range(m.nhdr):
        if m.hdr[i].id == H_COOKIE and not m.hdr[i].flags & HF_DROP and m.hdr[i].value_n:
            if n:
                memcpy(to + n, b"; ", 2)
                n += 2
            memcpy(to + n, m.hdr[i].value, m.hdr[i].value_n)
            n += m.hdr[i].value_n
    return n


cdef const char *differ(const Msg *x, const Msg *y, bint request, bint never) noexcept nogil:
    """never: what was never indexed must still be so."""
    cdef const Hdr *f
    cdef const Hdr *g
    cdef uint32_t i = 0, j = 0, n
    if request:
        if x.method != y.method or not slice_eq(x.method_name, y.method_name):
            return "another method"
        if not slice_eq(x.target, y.target) or not slice_eq(x.path, y.path) or not slice_eq(x.query, y.query):
            return "another target"
        if not slice_eq(x.host, y.host):
            return "another host"
        f = msg_find(y, H_HOST)
        if f == NULL or not slice_eq(slice_of(f.value, f.value_n), x.host):
            return "Host is not the host"
        if never and ((x.hdr[0].flags ^ f.flags) & HF_NEVER or (x.flags ^ y.flags) & MF_NEVER):
            return "what was never to be indexed is now"
        n = cookies(x, jar_first)
        if cookies(y, jar_second) != n or memcmp(jar_first, jar_second, n) != 0:
            return "other cookies"
    elif x.status != y.status:
        return "another status"
    if x.content_length != y.content_length and (request or y.content_length >= 0):
        return "another length"  # hygiene takes it off responses that cannot have one
    while True:
        f = next_field(x, &i, request)
        g = next_field(y, &j, request)
        if f == NULL and g == NULL:
            return NULL
        if f == NULL or g == NULL:
            return "fields came or went"
        if not same_name(f, g):
            return "another name"
        if not same_value(f, g):
            return "another value"
        if never and f.flags & HF_NEVER and not g.flags & HF_NEVER:
            return "a field that was never to be indexed is now"


cdef uint32_t count(const Msg *m) noexcept nogil:
    cdef uint32_t i, n = 0
    for i in range(m.nhdr):
        n += not m.hdr[i].flags & HF_DROP
    return n


# ---- HTTP/2 to HTTP/1 ----------------------------------------------------------------------------------------------------------------

cdef const char *as_http1(Msg *m, bint response, bint end) noexcept nogil:
    cdef Out o = out_of(written, ROOM)
    cdef Msg second
    cdef int wanted = BODY_NONE if end else (BODY_LENGTH if m.content_length >= 0 else BODY_CHUNKED)
    cdef uint32_t n
    cdef int rc
    if response:
        h1_write_status_line(&o, m.status, m.reason)
    else:
        h1_write_request_line(&o, m, m.target)
    h1_write_fields(&o, m)
    if wanted == BODY_CHUNKED:
        out_field(&o, b"transfer-encoding", 17, b"chunked", 7)
    out_bytes(&o, b"\r\n", 2)
    if o.full:
        return "what was read does not fit where it is written"
    n = <uint32_t>(o.p - written)
    out_bytes(&o, b"GET /smuggled HTTP/1.1\r\n\r\n", 26)
    rc = h1_response_head(written, n + 26, 0, &second) if response else h1_request_head(written, n + 26, 0, &second)
    if rc == FM_EHEAD and (count(m) + (wanted == BODY_CHUNKED) > MSG_MAX_HEADERS or n > MSG_MAX_HEAD):
        return NULL
    if not response and m.method == M_CONNECT:
        if rc != FM_EMETHOD:
            return "HTTP/1 takes CONNECT"
        return NULL
    if rc < 0:
        return "HTTP/1 does not take what HTTP/2 has taken"
    if rc != <int>n:
        return "not exactly one message"
    if response:
        h1_body_response(&second, 1)
    else:
        h1_body_request(&second)
    if wanted == BODY_CHUNKED:
        # the field that was added is not one that came
        if not response or (m.status != 304):
            if second.body != BODY_CHUNKED:
                return "the body is framed otherwise"
        second.hdr[second.nhdr - 1].flags |= HF_DROP
    elif not response and (second.body != (BODY_LENGTH if m.content_length > 0 else BODY_NONE)):
        return "the body is framed otherwise"
    return differ(m, &second, not response, False)


cdef const char *again(Msg *m, bint response, bint link) noexcept nogil:
    """As HTTP/2 once more, twice: the second block refers to what the first has left in the tables."""
    cdef Ends e
    cdef Msg second
    cdef const char *fault = NULL
    cdef char *end
    cdef int i, rc
    begin(&e, arena_again, link)
    for i in range(2):
        end = h2_head_encode(&e.out, m, encoded, encoded + ROOM)
        if end == NULL:
            fault = "what was read does not fit where it is encoded"
            break
        rc = h2_head_decode(&e.inp, H2_RESPONSE if response else H2_REQUEST, encoded, <uint32_t>(end - encoded), &second)
        if rc == FM_EHEAD:       # fields of HTTP/1 count for less
            break
        if rc != FM_OK:
            fault = "we do not take what we have passed on"
            break
        fault = differ(m, &second, not response, m.minor == 2)
        if fault == NULL and not response and (m.flags ^ second.flags) & (MF_HTTPS | MF_PROTOCOL | MF_TE_TRAILERS):
            fault = "the flags changed on the way"
        if fault == NULL and not slice_eq(m.protocol, second.protocol):
            fault = "another protocol"
        if fault != NULL:
            break
    return finish(&e, fault)


cdef const char *bridge(const char *p, uint32_t n, uint32_t seed, bint response) noexcept nogil:
    cdef Ends e
    cdef Msg m
    cdef const char *fault = NULL
    cdef bint end = seed & 1
    cdef int rc
    begin(&e, arena_in, False)
    rc = h2_head_decode(&e.inp, H2_RESPONSE if response else H2_REQUEST, p, n, &m)
    if rc == FM_OK and not response and end and m.content_length > 0:
        rc = FM_EBAD             # h2_recv refuses these
    if rc == FM_OK:
        if response:
            end = end or m.status < 200 or m.status == 204 or m.status == 304
            rc = hygiene_response(&m, False)
        else:
            rc = hygiene_request(&m, False)
        if rc != FM_OK:
            fault = "hygiene refuses what HTTP/2 has taken"
        if fault == NULL and not m.flags & MF_PROTOCOL:
            fault = as_http1(&m, response, end)
        if fault == NULL:
            fault = again(&m, response, (seed & 2) != 0)
    elif (rc != FM_EBAD and rc != FM_EHEAD and rc != FM_EHPACK and rc != FM_EMETHOD and rc != FM_ETARGET and rc != FM_EEXPECT
            and rc != FM_ETRAILER):
        fault = "a code that no one expects"
    return finish(&e, fault)


cdef const char *bridge_trailers(const char *p, uint32_t n) noexcept nogil:
    cdef Ends e, back            # back: the input may have shrunk the table of e's decoder
    cdef Msg m, second
    cdef Out o = out_of(written, ROOM)
    cdef const char *fault = NULL
    cdef char *end
    cdef uint32_t size
    cdef int rc, got
    begin(&e, arena_in, False)
    rc = h2_head_decode(&e.inp, H2_TRAILERS, p, n, &m)
    if rc == FM_OK:
        h1_write_last_chunk(&o, m.hdr, <int>m.nhdr)
        size = <uint32_t>(o.p - written)
        msg_reset(&second, 0)
        got = h1_body_trailers(written + 3, size - 3, second.hdr, MSG_MAX_HEADERS)
        if o.full or (got != <int>m.nhdr and size <= MSG_MAX_TRAILERS):
            fault = "HTTP/1 does not take what HTTP/2 has taken"
        else:
            second.nhdr = m.nhdr if got >= 0 else 0
            if got >= 0:
                fault = differ(&m, &second, False, False)
        if fault == NULL:
            begin(&back, arena_again, False)
            end = h2_fields_encode(&back.out, m.hdr, <int>m.nhdr, encoded, encoded + ROOM)
            if h2_head_decode(&back.inp, H2_TRAILERS, encoded, <uint32_t>(end - encoded), &second) != FM_OK:
                fault = "we do not take what we have passed on"
            else:
                fault = differ(&m, &second, False, True)
            fault = finish(&back, fault)
    return finish(&e, fault)


# ---- HTTP/1 to HTTP/2 ----------------------------------------------------------------------------------------------------------------

cdef const char *carry(const char *p, uint32_t n, uint32_t seed, bint response) noexcept nogil:
    cdef Msg m
    cdef int rc = h1_response_head(p, n, 0, &m) if response else h1_request_head(p, n, 0, &m)
    if rc < 0:
        return NULL
    if (hygiene_response(&m, False) if response else hygiene_request(&m, False)) != FM_OK:
        return NULL
    # what the caller sees to: 101 has another form, requests without Host get one, the absolute form becomes another
    if m.status == 101 or (not response and (msg_find(&m, H_HOST) == NULL or m.flags & MF_ABSOLUTE)):
        return NULL
    return again(&m, response, (seed & 2) != 0)


def run(str target, bytes data):
    """One input: its first two bytes are settings, the rest is a header block or an HTTP/1 head."""
    cdef const char *fault
    cdef uint32_t n = <uint32_t>len(data)
    cdef uint32_t seed
    cdef char *p
    if n < 2 or n > INPUT_MOST:
        return
    seed = data[0] | <uint32_t>data[1] << 8
    n -= 2
    p = <char *>malloc(n if n else 1)
    if p == NULL:
        raise MemoryError
    memcpy(p, (<const char *>data) + 2, n)
    if target == "bridge_request":
        fault = bridge(p, n, seed, False)
    elif target == "bridge_response":
        fault = bridge(p, n, seed, True)
    elif target == "bridge_trailers":
        fault = bridge_trailers(p, n)
    else:
        fault = carry(p, n, seed, target == "carry_response")
    free(p)
    if fault != NULL:
        raise AssertionError(f"{target}: {fault.decode()}: {data!r}")
