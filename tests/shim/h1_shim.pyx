"""Calls proto/* from tests. Input lies at the end of a page before an unreadable one, so that reading one byte too far is a crash."""
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset

from fastmesh._core.base.sys cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, fm_clock_ns, mmap, munmap,
)
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.proto.authority cimport authority_check
from fastmesh._core.proto.h1_body cimport (
    H1Body, h1_body_eof, h1_body_feed, h1_body_init, h1_body_request, h1_body_response, h1_body_trailers,
)
from fastmesh._core.proto.h1_head cimport h1_request_head, h1_response_head
from fastmesh._core.proto.h1_write cimport (
    Out, h1_reason, h1_write_fields, h1_write_request_line, h1_write_status_line, out_bytes, out_field, out_hex, out_of, out_uint,
)
from fastmesh._core.proto.hygiene cimport hygiene_request, hygiene_response
from fastmesh._core.proto.msg cimport (
    H_CONTENT_LENGTH, HF_DROP, Hdr, M_GET, MF_CHUNKED, MSG_MAX_HEADERS, Msg, hdr_id, hdr_id_loose, method_id, msg_find, msg_find_name,
)

cdef enum:
    PAGE = 4096
    ROOM = 32 * PAGE           # the longest input that a test may place
    SPANS = 4

cdef extern from *:
    """
    #include <sys/mman.h>
    static int shim_guard(void *p, size_t n) { return mprotect(p, n, PROT_NONE); }
    """
    int shim_guard(void *p, size_t n) nogil


cdef class Guarded:
    """ROOM writable bytes and an unreadable page behind them."""
    cdef char *base

    def __cinit__(self):
        self.base = <char *>mmap(NULL, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>self.base == MAP_FAILED or shim_guard(self.base + ROOM, PAGE) != 0:
            raise MemoryError

    def __dealloc__(self):
        munmap(self.base, ROOM + PAGE)

    cdef char *put(self, bytes data) except NULL:
        """Copies data so that its last byte is the last readable one."""
        cdef size_t n = len(data)
        if n > ROOM:
            raise ValueError("input longer than the guarded room")
        memcpy(self.base + ROOM - n, <const char *>data, n)
        return self.base + ROOM - n

    cdef char *room(self, size_t n) except NULL:
        if n > ROOM:
            raise ValueError("output longer than the guarded room")
        return self.base + ROOM - n


cdef Guarded INPUT = Guarded()
cdef Guarded OUTPUT = Guarded()


cdef bytes text(Slice s):
    return s.p[:s.n] if s.n else b""


cdef dict as_dict(const Msg *m):
    return {
        "head_n": m.head_n, "flags": m.flags, "method": m.method, "minor": m.minor, "status": m.status, "body": m.body,
        "content_length": m.content_length, "method_name": text(m.method_name), "target": text(m.target),
        "path": text(m.path), "query": text(m.query), "host": text(m.host), "reason": text(m.reason),
        "headers": [
            (m.hdr[i].name[:m.hdr[i].name_n], m.hdr[i].value[:m.hdr[i].value_n] if m.hdr[i].value_n else b"", m.hdr[i].id,
             bool(m.hdr[i].flags & HF_DROP))
            for i in range(m.nhdr)
        ],
    }


def head(bytes data, bint response=False, uint32_t last=0, int request_method=M_GET):
    """(rc, fields of the Msg or None). The body rule is applied too."""
    cdef Msg m
    cdef const char *p = INPUT.put(data)
    cdef uint32_t n = len(data)
    cdef int rc
    memset(&m, 0xAA, sizeof(m))  # what the parser does not set must not matter
    with nogil:
        if response:
            rc = h1_response_head(p, n, last, &m)
            if rc > 0:
                h1_body_response(&m, request_method)
        else:
            rc = h1_request_head(p, n, last, &m)
            if rc > 0:
                h1_body_request(&m)
    return rc, as_dict(&m) if rc > 0 else None


def head_code(bytes data, bint response, uint32_t last):
    """Only the code, for loops over split points."""
    cdef Msg m
    cdef const char *p = INPUT.put(data)
    if response:
        return h1_response_head(p, len(data), last, &m)
    return h1_request_head(p, len(data), last, &m)


cdef class Body:
    """One H1Body with the caller's side of the contract: bytes that were not consumed are offered again with more behind."""
    cdef H1Body b
    cdef bytes kept
    cdef readonly bytes trailer_section

    def __init__(self, int kind, int64_t content_length=-1):
        h1_body_init(&self.b, kind, content_length)
        self.kept = b""
        self.trailer_section = b""

    def feed(self, bytes data, int maxdata=SPANS):
        """(code or 0, decoded bytes, rest behind the body or None while it goes on)."""
        cdef Slice spans[SPANS]
        cdef int count = 0
        cdef int used
        cdef const char *p
        cdef uint32_t n
        out = []
        pending = self.kept + data
        if self.b.done:
            return 0, b"", pending
        while True:
            n = len(pending)
            p = INPUT.put(pending)
            with nogil:
                used = h1_body_feed(&self.b, p, n, spans, &count, maxdata)
            if used < 0:
                return used, b"".join(out), None
            for i in range(count):
                assert p <= spans[i].p and spans[i].p + spans[i].n <= p + used, "a span outside of what was consumed"
                out.append(text(spans[i]))
            if self.b.done:
                if self.b.has_trailers:
                    self.trailer_section = pending[used - <int>self.b.line_n:used]
                    assert self.trailer_section == pending[:used], "the section is not what the last call consumed"
                return 0, b"".join(out), pending[used:]
            pending = pending[used:]
            if not pending or (used == 0 and count == 0):
                self.kept = pending
                return 0, b"".join(out), None

    @property
    def state(self):
        return {"done": bool(self.b.done), "has_trailers": bool(self.b.has_trailers), "left": self.b.left, "total": self.b.total}

    def eof(self):
        return h1_body_eof(&self.b)


def trailers(bytes data, int maxout=MSG_MAX_HEADERS):
    cdef Hdr out[MSG_MAX_HEADERS]
    cdef const char *p = INPUT.put(data)
    cdef uint32_t n = len(data)
    cdef int rc
    with nogil:
        rc = h1_body_trailers(p, n, out, maxout)
    return rc, [(out[i].name[:out[i].name_n], out[i].value[:out[i].value_n] if out[i].value_n else b"") for i in range(rc)] if rc > 0 else []


def rewrite(bytes data, bint response=False, bint keep_upgrade=False, size_t room=65536, clean=True):
    """Parse a head, apply hygiene, write line and fields again: (rc, bytes, Msg as a dict)."""
    cdef Msg m
    cdef Out o
    cdef const char *p = INPUT.put(data)
    cdef char *q = OUTPUT.room(room)
    cdef int rc = h1_response_head(p, len(data), 0, &m) if response else h1_request_head(p, len(data), 0, &m)
    if rc <= 0:
        return rc, b"", None
    rc = 0
    if clean:
        rc = hygiene_response(&m, keep_upgrade) if response else hygiene_request(&m, keep_upgrade)
    if rc < 0:
        return rc, b"", as_dict(&m)
    with nogil:
        o = out_of(q, room)
        if response:
            h1_write_status_line(&o, m.status, m.reason)
        else:
            h1_write_request_line(&o, &m, m.target)
        h1_write_fields(&o, &m)
        out_bytes(&o, b"\r\n", 2)
    if o.full:
        return -23, b"", as_dict(&m)
    return 0, q[:o.p - q], as_dict(&m)


def write_head(bytes data, list replaced, size_t room=65536):
    """As rewrite, with (index, value) put into fields from another buffer before."""
    cdef Msg m
    cdef Out o
    cdef const char *p = INPUT.put(data)
    cdef char *q = OUTPUT.room(room)
    cdef bytes value
    if h1_request_head(p, len(data), 0, &m) <= 0:
        raise ValueError("not a request head")
    for index, value in replaced:
        m.hdr[index].value = value
        m.hdr[index].value_n = len(value)
    o = out_of(q, room)
    h1_write_fields(&o, &m)
    return q[:o.p - q]


def written(str what, *args, size_t room=256):
    """What out_uint, out_hex, out_field or the status line write into `room` bytes; None when full."""
    cdef char *q = OUTPUT.room(room)
    cdef Out o = out_of(q, room)
    cdef bytes name, value
    if what == "uint":
        out_uint(&o, args[0])
    elif what == "hex":
        out_hex(&o, args[0])
    elif what == "field":
        name, value = args
        out_field(&o, name, len(name), value, len(value))
    else:
        value = args[1]
        h1_write_status_line(&o, args[0], slice_of(value, len(value)))
    return None if o.full else q[:o.p - q]


def authority(bytes value):
    """(rc, the value as it is passed on)."""
    cdef const char *p = INPUT.put(value)
    cdef Slice s = slice_of(p, len(value))
    cdef int rc = authority_check(&s)
    return rc, text(s)


def header_id(bytes name, bint loose=False):
    return hdr_id_loose(INPUT.put(name), len(name)) if loose else hdr_id(INPUT.put(name), len(name))


def method_number(bytes name):
    return method_id(INPUT.put(name), len(name))


def reason(int status):
    return h1_reason(status)


def find(bytes data, int hid, bytes name):
    """(value by id, value by name) after hygiene."""
    cdef Msg m
    cdef const Hdr *a
    cdef const Hdr *b
    if h1_request_head(INPUT.put(data), len(data), 0, &m) <= 0:
        raise ValueError("not a request head")
    hygiene_request(&m, False)
    a = msg_find(&m, hid)
    b = msg_find_name(&m, name, len(name))
    return (None if a == NULL else a.value[:a.value_n], None if b == NULL else b.value[:b.value_n])


def bench(bytes data, int rounds, str what):
    """Nanoseconds a call of: "parse" (request head), "hop" (parse, hygiene, write)."""
    cdef Msg m
    cdef Out o
    cdef const char *p = INPUT.put(data)
    cdef char *q = OUTPUT.room(65536)
    cdef uint32_t n = len(data)
    cdef bint hop = what == "hop"
    cdef unsigned long long start
    cdef int i, rc = 0
    with nogil:
        start = fm_clock_ns()
        for i in range(rounds):
            rc = h1_request_head(p, n, 0, &m)
            if hop:
                h1_body_request(&m)
                hygiene_request(&m, False)
                o = out_of(q, 65536)
                h1_write_request_line(&o, &m, m.target)
                h1_write_fields(&o, &m)
                out_bytes(&o, b"\r\n", 2)
        start = fm_clock_ns() - start
    if rc <= 0:
        raise ValueError("not a request head")
    return start / rounds
