"""Fuzz targets of HTTP/2 connections: arbitrary bytes, cut anywhere, and an owner that acts in the midst of it.

`h2_server` and `h2_client` each raise AssertionError with the invariant that does not hold. What was told must not depend on where the input
was cut; what was sent must be frames that a peer can read. Each piece lies in heap memory of its exact size.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastmesh._core.base.buf cimport Block, BufPool, block_data, block_free, block_len, buf_end, buf_init
from fastmesh._core.base.pool cimport Pool, pool_end, pool_init
from fastmesh._core.base.view cimport Slice, View, slice_of, view_of
from fastmesh._core.proto.h2_frame cimport (
    H2_CONTINUATION, H2_DATA, H2_F_END_HEADERS, H2_FRAME_HEAD, H2_HEADERS, H2_MAX_FRAME, H2_PREFACE_N, H2_PUSH_PROMISE, H2Head, h2_head_get,
    h2_preface)
from fastmesh._core.proto.h2_recv cimport h2_recv
from fastmesh._core.proto.h2_send cimport (
    h2_credit, h2_drop, h2_goaway, h2_open, h2_ping, h2_pump, h2_reset, h2_send_data, h2_send_end, h2_send_head, h2_send_trailers, h2_start,
    h2_take)
from fastmesh._core.proto.h2_stream cimport (
    HF2_SERVER, HS_CLOSED, HSF_HEAD_SENT, HSF_WAITING, H2, H2_ARENA, H2Limits, H2Ops, H2Stream, h2_end, h2_init, h2_stream_any,
    h2_stream_find, h2_stream_release)
from fastmesh._core.proto.hpack cimport HpackArena, HpackDec, hpack_block_begin, hpack_dec_end, hpack_dec_init, hpack_next
from fastmesh._core.proto.msg cimport M_POST, MF_RESPONSE, Hdr, Msg, msg_reset
from shim.h2_check cimport h2_faults

TARGETS = ("h2_server", "h2_client")

cdef enum:
    INPUT_MOST = 8192
    OUT_MOST = 1 << 22
    STREAMS = 24
    FIRST_REQUESTS = 4           # that a client has open
    BODY = 20000                 # above a frame

cdef struct Run:                 # the owner of one connection
    H2 h
    BufPool bufs
    Pool pool
    Msg msg
    uint64_t stats[64]
    uint64_t digest              # of what was told
    uint32_t chance              # state of its choices, moved by events that do not depend on cuts
    uint32_t acts                # choices left: an input must end
    uint8_t gives                # credit for DATA
    uint8_t lazy                 # takes not each stream

cdef char arena[H2_ARENA]
cdef char body[BODY]
cdef char out_first[OUT_MOST]


cdef inline uint32_t choose(Run *r, uint32_t n) noexcept nogil:
    r.chance = r.chance * 1664525u + 1013904223u
    return (r.chance >> 8) % n


cdef inline void note(Run *r, uint64_t v) noexcept nogil:
    r.digest = (r.digest ^ v) * 1099511628211ull


cdef void note_bytes(Run *r, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        note(r, <uint8_t>p[i])


cdef void message(Msg *m, bint response, int status) noexcept nogil:
    msg_reset(m, MF_RESPONSE if response else 0)
    m.status = <unsigned short>status
    m.method_name = slice_of(b"POST", 4)
    m.method = M_POST
    m.target = slice_of(b"/", 1)
    m.nhdr = 1
    m.hdr[0].name = b"x-a" if response else b"host"
    m.hdr[0].name_n = 3 if response else 4
    m.hdr[0].value = b"b.test"
    m.hdr[0].value_n = 6
    m.hdr[0].id = 0 if response else 1
    m.hdr[0].flags = 0


cdef H2Stream *some(Run *r) noexcept nogil:
    # a stream by a small id, if it is there; not every id is
    return h2_stream_find(&r.h, choose(r, 2 * STREAMS))


cdef void act(Run *r) noexcept nogil:
    """Anything that an owner may do, to any stream."""
    cdef H2Stream *s = some(r)
    cdef uint32_t what = choose(r, 24)
    cdef bint end = choose(r, 3) == 0
    cdef Slice v[2]
    cdef Hdr t
    cdef Msg m
    if what == 0:
        h2_goaway(&r.h, choose(r, 4) == 0)
    elif what == 1:
        h2_ping(&r.h, 1)
    elif what == 2 and not r.h.flags & HF2_SERVER:
        s = h2_open(&r.h)
        if s != NULL:
            s.owner = r
            message(&m, False, 0)
            h2_send_head(s, &m, end)
    if s == NULL or s.owner == NULL:
        return
    if s.state == HS_CLOSED:
        if what & 1:
            h2_stream_release(s)
    elif what < 5:
        h2_drop(s, what)
    elif what == 5:
        h2_reset(s, what)
    elif what < 10 and r.h.flags & HF2_SERVER and not s.flags & HSF_HEAD_SENT:
        message(&m, True, 103 if what == 6 else 200)
        h2_send_head(s, &m, end and what != 6)
    elif what < 16:
        v[0] = slice_of(body, choose(r, 100))
        v[1] = slice_of(body, choose(r, BODY) if what == 15 else 0)
        if what & 1:
            s.flags |= HSF_WAITING
        h2_send_data(s, v, 2, end)
    elif what < 18:
        h2_send_end(s)
    elif what < 21:
        t.name = b"x-t"
        t.name_n = 3
        t.value = body
        t.value_n = choose(r, 300)
        t.id = 0
        t.flags = 0
        h2_send_trailers(s, &t, 1)
    elif what == 21:
        s = h2_stream_any(&r.h)  # as when a connection is given up
        while s != NULL and choose(r, 8):
            h2_drop(s, 8)
            s = h2_stream_any(&r.h)


cdef void react(Run *r) noexcept nogil:
    cdef uint32_t n = choose(r, 4)
    while n and r.acts:
        r.acts -= 1
        n -= 1
        act(r)


# ---- the owner -----------------------------------------------------------------------------------------------------------------------

cdef void note_fields(Run *r, const Hdr *t, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        note_bytes(r, t[i].name, t[i].name_n)
        note_bytes(r, t[i].value, t[i].value_n)
        note(r, 256)


cdef void on_head(H2 *h, H2Stream *s, Msg *m, bint end) noexcept nogil:
    cdef Run *r = <Run *>h.owner
    if not r.lazy or choose(r, 4):
        s.owner = r
    note(r, 1000 + 2 * s.id + end)
    note_bytes(r, m.target.p, m.target.n)
    note_fields(r, m.hdr, m.nhdr)
    react(r)


cdef void on_data(H2 *h, H2Stream *s, const char *p, uint32_t n, bint end) noexcept nogil:
    cdef Run *r = <Run *>h.owner
    note_bytes(r, p, n)
    if r.gives:
        h2_credit(s, n)
    if end:
        note(r, 2000 + s.id)
        react(r)


cdef void on_trailers(H2 *h, H2Stream *s, const Hdr *t, int n) noexcept nogil:
    cdef Run *r = <Run *>h.owner
    note(r, 3000 + s.id)
    note_fields(r, t, <uint32_t>n)
    react(r)


cdef void on_refused(H2 *h, H2Stream *s, int code) noexcept nogil:
    cdef Run *r = <Run *>h.owner
    s.owner = r
    note(r, 4000 + s.id + <uint64_t>-code)
    react(r)


cdef void on_reset(H2 *h, H2Stream *s, uint32_t code, bint remote) noexcept nogil:
    cdef Run *r = <Run *>h.owner
    cdef uint32_t sid = s.id
    note(r, 5000 + s.id + code + remote)
    react(r)
    s = h2_stream_find(h, sid)
    if s != NULL:
        h2_stream_release(s)


cdef void on_writable(H2 *h, H2Stream *s) noexcept nogil:
    note(<Run *>h.owner, 6000 + s.id)
    react(<Run *>h.owner)


cdef void on_goaway(H2 *h, uint32_t last, uint32_t code) noexcept nogil:
    note(<Run *>h.owner, 7000 + last + code)
    react(<Run *>h.owner)


cdef void on_settings(H2 *h) noexcept nogil:
    note(<Run *>h.owner, 8000)
    react(<Run *>h.owner)


cdef H2Ops OPS
OPS.head = on_head
OPS.data = on_data
OPS.trailers = on_trailers
OPS.refused = on_refused
OPS.reset = on_reset
OPS.writable = on_writable
OPS.goaway = on_goaway
OPS.settings = on_settings


# ---- what it said --------------------------------------------------------------------------------------------------------------------

cdef uint32_t collect(Run *r, char *to, uint32_t at) noexcept nogil:
    # everything that is ready behind to[0:at]
    cdef uint64_t n = 0
    cdef Block *b = h2_take(&r.h, &n)
    cdef Block *nxt
    while b != NULL:
        if at + block_len(b) <= OUT_MOST:
            memcpy(to + at, block_data(b) + b.start, block_len(b))
            at += block_len(b)
        nxt = b.next
        block_free(&r.bufs, b)
        b = nxt
    return at


cdef const char *block_ends(HpackDec *d, BufPool *bufs, const char *p, uint32_t n) noexcept nogil:
    cdef HpackArena a
    cdef Hdr f
    cdef int rc = 1
    cdef View v = view_of(p, n)
    a.begin = arena
    a.p = arena
    a.end = arena + H2_ARENA
    a.list_n = 0
    a.list_most = 0xffffffff
    a.over = 0
    hpack_block_begin(d)
    while rc == 1:
        rc = hpack_next(d, &v, bufs, &a, &f)
    if rc != 0:
        return "a header block of ours that cannot be read"
    return NULL


cdef const char *said(const char *p, uint32_t n, bint server, BufPool *bufs) noexcept nogil:
    """Frames, in an order that a peer takes."""
    cdef HpackDec d
    cdef H2Head f
    cdef View v
    cdef const char *fault = NULL
    cdef uint32_t open_block = 0
    cdef uint32_t at = 0 if server else H2_PREFACE_N
    hpack_dec_init(&d, 4096)
    while at < n and fault == NULL:
        v = view_of(p + at, n - at)
        if h2_head_get(&v, &f) != 0 or n - at - H2_FRAME_HEAD < f.length:
            fault = "half a frame"
            break
        if f.length > H2_MAX_FRAME:
            fault = "a frame that is too long"
        elif open_block and (f.type != H2_CONTINUATION or f.stream != open_block):
            fault = "a frame within a header block"
        elif not open_block and f.type == H2_CONTINUATION:
            fault = "a continuation of nothing"
        elif f.type == H2_PUSH_PROMISE:
            fault = "a push"
        elif f.type == H2_HEADERS or f.type == H2_CONTINUATION:
            open_block = 0 if f.flags & H2_F_END_HEADERS else f.stream
            if f.type == H2_HEADERS and not open_block:
                fault = block_ends(&d, bufs, p + at + H2_FRAME_HEAD, f.length)
        elif f.type == H2_DATA and not f.stream & 1:
            fault = "DATA on no stream"
        at += H2_FRAME_HEAD + f.length
    hpack_dec_end(&d, bufs)
    return fault


# ---- one run -------------------------------------------------------------------------------------------------------------------------

cdef inline uint32_t choose_cut(uint32_t at, uint32_t most) noexcept nogil:
    return (at * 2654435761u >> 16) % most


cdef const char *feed(Run *r, const char *p, uint32_t n, uint32_t most, int *code, uint32_t *out_n) noexcept nogil:
    """In pieces of up to `most` bytes (0: all at once); what is not used is offered again."""
    cdef uint32_t at = 0, have = 0
    cdef const char *fault
    cdef char *piece
    cdef int used
    while have < n and code[0] == 0:
        have = n if most == 0 or n - have <= most else have + 1 + choose_cut(have, most)
        while at < have:
            piece = <char *>malloc(have - at)
            if piece == NULL:
                return NULL
            memcpy(piece, p + at, have - at)
            used = h2_recv(&r.h, piece, have - at, 1000)
            free(piece)
            fault = h2_faults(&r.h, r.pool.live)
            if fault != NULL:
                return fault
            if used < 0:
                code[0] = used
                break
            if used > <int>(have - at):
                return "more bytes used than there were"
            at += <uint32_t>used
            if used == 0:
                if have - at > H2_FRAME_HEAD + H2_MAX_FRAME:
                    return "more is left over than a frame"
                break
        if r.gives:              # else at the end only: a peer that reads changes what is told
            h2_pump(&r.h)
            out_n[0] = collect(r, out_first, out_n[0])
    return NULL


cdef const char *drive(bint server, const char *p, uint32_t n, uint32_t seed, uint32_t most, uint64_t *digest) noexcept nogil:
    cdef Run r
    cdef H2Limits limits
    cdef H2Stream *s
    cdef Msg m
    cdef const char *fault = NULL
    cdef uint32_t out_n = 0, i
    cdef int code = 0
    cdef bint poor = seed & 0x80
    memset(&r, 0, sizeof(r))
    r.digest = 14695981039346656037ull
    r.chance = seed
    r.acts = 400
    r.gives = seed & 1
    r.lazy = (seed & 2) != 0
    buf_init(&r.bufs, 20480 if poor else 1 << 24)
    pool_init(&r.pool, sizeof(H2Stream), STREAMS)
    limits.max_streams = 8 if seed & 4 else 100
    limits.stream_window = 200 if r.gives and seed & 8 else 65535
    limits.conn_window = 65535
    h2_init(&r.h, server, (seed & 16) != 0, &OPS, &r, &r.bufs, &r.pool, &r.msg, arena, &limits, r.stats)
    h2_start(&r.h)
    if not server:
        for i in range(FIRST_REQUESTS):
            s = h2_open(&r.h)
            if s != NULL:
                s.owner = &r
                message(&m, False, 0)
                h2_send_head(s, &m, i & 1)
    if seed & 32 == 0:           # most inputs begin behind the preface and the first SETTINGS
        if server:
            h2_recv(&r.h, h2_preface(), H2_PREFACE_N, 1000)
        h2_recv(&r.h, b"\0\0\0\4\0\0\0\0\0", 9, 1000)
    fault = feed(&r, p, n, most, &code, &out_n)
    if fault == NULL and code != 0 and not r.h.error:
        fault = "an error without a reason"
    digest[0] = (r.digest ^ r.h.error) * 31 + <uint64_t>-code
    if fault == NULL:
        while h2_pump(&r.h):
            out_n = collect(&r, out_first, out_n)
        out_n = collect(&r, out_first, out_n)
        fault = h2_faults(&r.h, r.pool.live)
    if fault == NULL and not poor and out_n < OUT_MOST - 65536:
        fault = said(out_first, out_n, server, &r.bufs)
    while fault == NULL and h2_stream_any(&r.h) != NULL:
        h2_drop(h2_stream_any(&r.h), 8)
        fault = h2_faults(&r.h, r.pool.live)
    h2_end(&r.h)
    if fault == NULL and (r.bufs.held or r.bufs.live or r.pool.live):
        fault = "memory is lost"
    buf_end(&r.bufs)
    pool_end(&r.pool)
    return fault


cdef const char *connection(bint server, const char *p, uint32_t n, uint32_t seed) noexcept nogil:
    cdef uint64_t whole = 0, parts = 0
    cdef const char *fault = drive(server, p, n, seed, 0, &whole)
    if fault == NULL:
        fault = drive(server, p, n, seed, 1 + (seed >> 8) % 40, &parts)
    # credit and writes depend on the moment, and so may what comes of them
    if fault == NULL and not seed & 1 and not seed & 0x80 and whole != parts:
        fault = "what was told depends on the cuts"
    return fault


def run(str target, bytes data):
    """One input: its first two bytes are settings, the rest is what the peer says."""
    cdef const char *fault
    cdef uint32_t n = <uint32_t>len(data)
    if n < 2 or n > INPUT_MOST:
        return
    fault = connection(target == "h2_server", (<const char *>data) + 2, n - 2, data[0] | <uint32_t>data[1] << 8)
    if fault != NULL:
        raise AssertionError(f"{target}: {fault.decode()}: {data!r}")
