"""Test access to HTTP/2: one side of a connection on a wire in memory. Events are recorded; Python decides what is sent."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastmesh._core.base.buf cimport Block, BufPool, block_data, block_free, block_len, buf_end, buf_init
from fastmesh._core.base.pool cimport Pool, pool_end, pool_init
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.h2_recv cimport h2_recv
from fastmesh._core.proto.h2_send cimport (
    h2_credit, h2_drop, h2_goaway, h2_open, h2_pump, h2_reset, h2_send_data, h2_send_end, h2_send_head, h2_send_trailers, h2_start, h2_take)
from fastmesh._core.proto.h2_stream cimport (
    HSF_WAITING, H2, H2_ARENA, H2Limits, H2N_N, H2Ops, H2Stream, h2_end, h2_init, h2_stream_event, h2_stream_find,
    h2_stream_release)
from shim.h2_check cimport h2_faults
from fastmesh._core.proto.msg cimport MF_HTTPS, MF_RESPONSE, Hdr, Msg, hdr_id, method_id, msg_reset


def event(state: int, what: int) -> int:
    return h2_stream_event(state, what)


cdef list fields_of(const Hdr *t, int n):
    return [(t[i].name[:t[i].name_n], t[i].value[:t[i].value_n]) for i in range(n) if not t[i].flags & 1]


cdef void on_head(H2 *h, H2Stream *s, Msg *m, bint end) noexcept nogil:
    with gil:
        side = <Side><object>h.owner
        if side.takes:
            s.owner = <void *>1
        start = m.status if m.flags & MF_RESPONSE else (m.method_name.p[:m.method_name.n], m.target.p[:m.target.n])
        if side.next is not None:
            side.next.relayed = side.next.pass_on(m, end)
        side.tell(("head", s.id, start, fields_of(m.hdr, <int>m.nhdr), bool(end)))


cdef void on_data(H2 *h, H2Stream *s, const char *p, uint32_t n, bint end) noexcept nogil:
    cdef uint32_t sid = s.id
    with gil:
        side = <Side><object>h.owner
        side.tell(("data", sid, p[:n], bool(end)))
        s = h2_stream_find(h, sid)
        if side.credit and s != NULL:
            h2_credit(s, n)


cdef void on_trailers(H2 *h, H2Stream *s, const Hdr *t, int n) noexcept nogil:
    with gil:
        (<Side><object>h.owner).tell(("trailers", s.id, fields_of(t, n)))


cdef void on_refused(H2 *h, H2Stream *s, int code) noexcept nogil:
    with gil:
        side = <Side><object>h.owner
        if side.takes:
            s.owner = <void *>1
        side.tell(("refused", s.id, code))


cdef void on_reset(H2 *h, H2Stream *s, uint32_t code, bint remote) noexcept nogil:
    cdef uint32_t sid = s.id
    with gil:
        (<Side><object>h.owner).tell(("reset", sid, code, bool(remote)))
    s = h2_stream_find(h, sid)
    if s != NULL:
        h2_stream_release(s)


cdef void on_writable(H2 *h, H2Stream *s) noexcept nogil:
    with gil:
        (<Side><object>h.owner).tell(("writable", s.id))


cdef void on_goaway(H2 *h, uint32_t last, uint32_t code) noexcept nogil:
    with gil:
        (<Side><object>h.owner).tell(("goaway", last, code))


cdef void on_settings(H2 *h) noexcept nogil:
    with gil:
        (<Side><object>h.owner).tell(("settings",))


cdef H2Ops OPS
OPS.head = on_head
OPS.data = on_data
OPS.trailers = on_trailers
OPS.refused = on_refused
OPS.reset = on_reset
OPS.writable = on_writable
OPS.goaway = on_goaway
OPS.settings = on_settings


cdef class Side:
    """One end of a connection."""

    cdef H2 h
    cdef BufPool bufs
    cdef Pool pool
    cdef Msg msg
    cdef char *arena
    cdef uint64_t stats[64]
    cdef public list events
    cdef public object hook      # called with each event, while the frame is being parsed
    cdef public bint credit      # the owner gives credit for DATA at once
    cdef public bint takes       # ... and takes the streams that the peer opens
    cdef public Side next        # each head is passed on to it
    cdef public int relayed
    cdef object fault
    cdef bytes rest

    def __cinit__(self, server=True, max_streams=100, stream_window=65535, conn_window=65535, memory=1 << 24, streams=1000, link=False):
        cdef H2Limits limits
        buf_init(&self.bufs, memory)
        pool_init(&self.pool, sizeof(H2Stream), streams)
        self.arena = <char *>malloc(H2_ARENA)
        memset(self.stats, 0, sizeof(self.stats))
        self.events = []
        self.credit = True
        self.takes = True
        self.rest = b""
        limits.max_streams = max_streams
        limits.stream_window = stream_window
        limits.conn_window = conn_window
        h2_init(&self.h, server, link, &OPS, <void *>self, &self.bufs, &self.pool, &self.msg, self.arena, &limits, self.stats)
        h2_start(&self.h)

    def __dealloc__(self):
        h2_end(&self.h)
        buf_end(&self.bufs)
        pool_end(&self.pool)
        free(self.arena)

    cdef void tell(self, tuple event):
        self.events.append(event)
        if self.hook is not None:
            try:
                self.hook(event)
            except BaseException as e:
                self.fault = e

    cdef int pass_on(self, Msg *m, bint end):
        cdef H2Stream *s = h2_open(&self.h)
        if s == NULL:
            return -1
        s.owner = <void *>1
        return h2_send_head(s, m, end)

    def close(self) -> tuple[int, int, int]:
        """What is still held when everything has been given back: (blocks, bytes, streams)."""
        h2_end(&self.h)
        return self.bufs.live, self.bufs.held, self.pool.live

    def receive(self, data: bytes, now_ms: int = 1000) -> int:
        """As the connection would: what is not used is offered again in front of the next bytes. The code, or 0."""
        cdef bytes whole = self.rest + data
        cdef uint32_t n = <uint32_t>len(whole)
        cdef uint32_t at = 0
        cdef uint64_t now = now_ms
        cdef int used
        cdef char *p
        while True:
            p = <char *>malloc(n - at + 1)   # exactly as much as there is: ASan sees a byte too many
            memcpy(p, <const char *>whole + at, n - at)
            used = h2_recv(&self.h, p, n - at, now)
            free(p)
            if self.fault is not None:
                raise self.fault
            if used < 0:
                self.rest = b""
                return used
            if used == 0:
                break
            at += used
            if at == n:
                break
        self.rest = whole[at:]
        return 0

    def take(self) -> bytes:
        """Everything that is ready to be sent."""
        cdef uint64_t n = 0
        cdef Block *b
        cdef Block *nxt
        out = b""
        while True:
            more = h2_pump(&self.h)
            b = h2_take(&self.h, &n)
            while b != NULL:
                out += block_data(b)[b.start:b.end]
                nxt = b.next
                block_free(&self.bufs, b)
                b = nxt
            if not more:
                return out

    def ids(self) -> list[int]:
        """Of the streams that are there."""
        cdef H2Stream *s
        found = []
        for i in range(self.h.buckets):
            s = self.h.table[i]
            while s != NULL:
                found.append(s.id)
                s = s.hnext
        return sorted(found)

    def faults(self) -> list[str]:
        """What should be true of a connection at any time, and is not."""
        cdef const char *fault = h2_faults(&self.h, self.pool.live)
        return [] if fault == NULL else [fault.decode()]

    cdef H2Stream *at(self, uint32_t sid) except NULL:
        cdef H2Stream *s = h2_stream_find(&self.h, sid)
        if s == NULL:
            raise KeyError(sid)
        return s

    def state(self, sid: int) -> int:
        cdef H2Stream *s = h2_stream_find(&self.h, sid)
        return s.state if s != NULL else -1

    def windows(self, sid: int) -> tuple[int, int, int]:
        """(send window of the connection, of the stream, unsent bytes of the stream)"""
        cdef H2Stream *s = self.at(sid)
        return self.h.send_window, s.send_window, s.out_n

    def failed(self) -> tuple[int, str]:
        return self.h.error, self.h.why.decode() if self.h.why != NULL else ""

    def count(self, which: int) -> int:
        return self.stats[which]

    def held(self) -> int:
        return self.bufs.held

    def room(self, n: int | None = None) -> None:
        """Let no more than n bytes be taken on from now; None: as much as there is."""
        self.bufs.cap = 1 << 24 if n is None else self.bufs.held + <uint64_t>n

    def open(self) -> int:
        cdef H2Stream *s = h2_open(&self.h)
        if s == NULL:
            return 0
        s.owner = <void *>1
        return s.id

    cdef int put(self, sid, Msg *m, fields, bint end):
        cdef H2Stream *s = self.at(sid)
        keep = []
        for name, value in fields:
            keep.append((name, value))
            m.hdr[m.nhdr].name = <bytes>name
            m.hdr[m.nhdr].name_n = len(name)
            m.hdr[m.nhdr].value = <bytes>value
            m.hdr[m.nhdr].value_n = len(value)
            m.hdr[m.nhdr].id = hdr_id(<bytes>name, len(name))
            m.hdr[m.nhdr].flags = 0
            m.nhdr += 1
        return h2_send_head(s, m, end)

    def request(self, method: bytes, target: bytes, fields, end: bool = True) -> int:
        """The stream's id, 0: none can be opened."""
        cdef Msg m
        msg_reset(&m, 0)
        m.nhdr = 0
        m.method_name.p = method
        m.method_name.n = len(method)
        m.method = method_id(method, len(method))
        m.target.p = target
        m.target.n = len(target)
        sid = self.open()
        return sid if sid and self.put(sid, &m, fields, end) == 0 else 0

    def answer(self, sid: int, status: int, fields=(), end: bool = False) -> int:
        cdef Msg m
        msg_reset(&m, MF_RESPONSE)
        m.nhdr = 0
        m.status = status
        return self.put(sid, &m, fields, end)

    def data(self, sid: int, body: bytes, end: bool = False, wait: bool = False) -> int:
        cdef H2Stream *s = self.at(sid)
        cdef Slice v
        v.p = body
        v.n = len(body)
        if wait:
            s.flags |= HSF_WAITING
        return h2_send_data(s, &v, 1, end)

    def end(self, sid: int) -> int:
        return h2_send_end(self.at(sid))

    def trailers(self, sid: int, fields) -> int:
        cdef Hdr t[64]
        cdef int n = 0
        for name, value in fields:
            t[n].name = <bytes>name
            t[n].name_n = len(name)
            t[n].value = <bytes>value
            t[n].value_n = len(value)
            t[n].id = hdr_id(<bytes>name, len(name))
            t[n].flags = 0
            n += 1
        return h2_send_trailers(self.at(sid), t, n)

    def reset(self, sid: int, code: int) -> None:
        h2_drop(self.at(sid), code)

    def give(self, sid: int, n: int) -> None:
        h2_credit(self.at(sid), n)

    def release(self, sid: int) -> None:
        h2_stream_release(self.at(sid))

    def goaway(self, last: bool) -> None:
        h2_goaway(&self.h, last)
