"""Fuzz targets of proto/*: each takes one input and raises AssertionError with the invariant that does not hold.

The checks run in C, so that a fuzzer spends its time in the code under test. Input lies between unreadable bytes:
before a PROT_NONE page, or in a heap block of its exact size under AddressSanitizer.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from fastmesh._core.base.err cimport FM_AGAIN, FM_ETRAILER
from fastmesh._core.base.view cimport Slice, slice_eq, slice_of
from fastmesh._core.proto.authority cimport authority_check
from fastmesh._core.proto.h1_body cimport H1Body, h1_body_feed, h1_body_init, h1_body_request, h1_body_response, h1_body_trailers
from fastmesh._core.proto.h1_head cimport h1_request_head, h1_response_head
from fastmesh._core.proto.h1_write cimport Out, h1_write_fields, h1_write_request_line, h1_write_status_line, out_bytes, out_of
from fastmesh._core.proto.hygiene cimport hygiene_request, hygiene_response
from fastmesh._core.proto.msg cimport (
    BODY_CHUNKED, H_CONNECTION, H_HOST, H_TRANSFER_ENCODING, HF_DROP, Hdr, MF_CHUNKED, MSG_MAX_HEAD, MSG_MAX_HEADERS, Msg, msg_find,
)

cdef extern from *:
    """
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #define FZ_ROOM (32 * 4096)
    #ifdef __SANITIZE_ADDRESS__
    static char *fz_place(const char *data, size_t n) {
        char *p = malloc(n ? n : 1);
        if (p) memcpy(p, data, n);
        return p;
    }
    static void fz_release(char *p) { free(p); }
    #else
    static char *fz_place(const char *data, size_t n) {
        static char *base;
        if (!base) {
            char *map = mmap(NULL, FZ_ROOM + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (map == MAP_FAILED || mprotect(map + FZ_ROOM, 4096, PROT_NONE) != 0) return NULL;
            base = map;
        }
        memcpy(base + FZ_ROOM - n, data, n);
        return base + FZ_ROOM - n;
    }
    static void fz_release(char *p) { (void)p; }
    #endif
    """
    enum:
        FZ_ROOM
    char *fz_place(const char *data, size_t n) nogil
    void fz_release(char *p) nogil

cdef enum:
    SPANS = 3
    OUT_ROOM = 3 * MSG_MAX_HEAD

cdef char written[OUT_ROOM]
cdef char written_again[OUT_ROOM]


cdef int parse(const char *p, uint32_t n, uint32_t last, bint response, Msg *m) noexcept nogil:
    return h1_response_head(p, n, last, m) if response else h1_request_head(p, n, last, m)


cdef bint inside(Slice s, const char *p, uint32_t n) noexcept nogil:
    """Within the input, or a constant of one byte that stands for an empty path."""
    return s.n == 0 or (p <= s.p and s.p + s.n <= p + n) or (s.n == 1 and (s.p[0] == 47 or s.p[0] == 42))


cdef bint clean(Slice s) noexcept nogil:
    """Holds nothing that could end a line, or a string, at the next hop."""
    cdef uint32_t i
    cdef uint8_t c
    for i in range(s.n):
        c = <uint8_t>s.p[i]
        if (c < 32 and c != 9) or c == 127:
            return False
    return True


cdef const char *head_faults(const char *p, uint32_t n, const Msg *m) noexcept nogil:
    """What an accepted head must be."""
    cdef uint32_t i
    cdef Slice name, value
    if m.head_n > n or m.head_n < 4 or memcmp(p + m.head_n - 4, "\r\n\r\n", 4) != 0:
        return "the head does not end with an empty line"
    if m.nhdr > MSG_MAX_HEADERS or m.head_n > MSG_MAX_HEAD:
        return "a limit is passed"
    if m.flags & MF_CHUNKED and m.content_length >= 0:
        return "chunked and a length"
    if not (inside(m.method_name, p, n) and inside(m.target, p, n) and inside(m.path, p, n) and inside(m.query, p, n)
            and inside(m.host, p, n) and inside(m.reason, p, n)):
        return "a slice points outside of the input"
    if not (clean(m.target) and clean(m.host) and clean(m.reason)):
        return "a control in the first line"
    for i in range(m.nhdr):
        name = slice_of(m.hdr[i].name, m.hdr[i].name_n)
        value = slice_of(m.hdr[i].value, m.hdr[i].value_n)
        if not inside(name, p, m.head_n) or not inside(value, p, m.head_n):
            return "a field points outside of the head"
        if name.n == 0 or not clean(name) or not clean(value):
            return "a field that could end its line"
        if value.n and (value.p[0] == 32 or value.p[0] == 9 or value.p[value.n - 1] == 32 or value.p[value.n - 1] == 9):
            return "white space around a value"
    return NULL


cdef uint32_t write(Msg *m, char *to, bint response) noexcept nogil:
    cdef Out o = out_of(to, OUT_ROOM)
    if response:
        h1_write_status_line(&o, m.status, m.reason)
    else:
        h1_write_request_line(&o, m, m.target)
    h1_write_fields(&o, m)
    out_bytes(&o, "\r\n", 2)
    return 0 if o.full else <uint32_t>(o.p - to)


cdef const char *rewrite_faults(Msg *m, bint response) noexcept nogil:
    """What is passed on must be read by us as it was meant, and come out of a second hop as it went in."""
    cdef Msg second
    cdef int rc
    cdef uint32_t n, i, again
    cdef int64_t length = m.content_length
    rc = hygiene_response(m, True) if response else hygiene_request(m, True)
    if rc < 0:
        return NULL
    n = write(m, written, response)
    if n == 0:
        return "what was read does not fit where it is written"
    rc = parse(written, n, 0, response, &second)
    if rc != <int>n:
        # HTTP/1.0 without Host: the caller adds one; a written head may also pass the size limit by its reason phrase
        if (not response and m.minor == 0 and msg_find(m, H_HOST) == NULL) or n > MSG_MAX_HEAD:
            return NULL
        return "what we write we do not accept"
    if second.content_length != length and not (response and second.content_length < 0):
        return "the length changed on the way"
    if not response and not slice_eq(second.host, m.host) and m.host.n:
        return "the host changed on the way"
    for i in range(second.nhdr):
        if second.hdr[i].id == H_CONNECTION or second.hdr[i].id == H_TRANSFER_ENCODING:
            return "a hop-by-hop field was passed on"
    rc = hygiene_response(&second, False) if response else hygiene_request(&second, False)
    if rc < 0:
        return "hygiene refuses its own work"
    hygiene_response(m, False) if response else hygiene_request(m, False)
    again = write(&second, written_again, response)  # first: what it writes still lies in the other buffer
    n = write(m, written, response)
    if again != n or memcmp(written, written_again, n) != 0:
        return "a second hop changes what the first passed on"
    return NULL


cdef const char *head_target(const char *p, uint32_t n, uint32_t cut, bint response) noexcept nogil:
    cdef Msg m, other
    cdef const char *fault
    cdef int rc, part
    memset(&m, 0xAA, sizeof(m))
    rc = parse(p, n, 0, response, &m)
    if rc == 0 or rc > <int>n:
        return "an impossible code"
    if rc > 0:
        cut %= <uint32_t>rc
    elif n:
        cut %= n
    else:
        cut = 0
    part = parse(p, cut, 0, response, &other)
    if part != FM_AGAIN and (part != rc or rc > 0):
        return "a prefix gives another answer"
    if part == FM_AGAIN and cut:
        part = parse(p, n, cut, response, &other)
        # an error in an unfinished line may come later with `last` than without, but never another one
        if part != rc and not (rc < 0 and part == FM_AGAIN):
            return "going on gives another answer"
    if rc < 0:
        return NULL
    if parse(p, <uint32_t>rc, 0, response, &other) != rc:
        return "bytes behind the head change it"
    fault = head_faults(p, n, &m)
    if fault != NULL:
        return fault
    if response:
        h1_body_response(&m, cut & 3)
    else:
        h1_body_request(&m)
    return rewrite_faults(&m, response)


cdef struct Decoded:
    int code
    uint32_t used              # bytes of the input that belong to the body
    uint64_t digest
    uint64_t total
    uint8_t done


cdef Decoded decode(const char *p, uint32_t n, uint32_t portion, int maxdata) noexcept nogil:
    """Feed in portions, offering unconsumed bytes again, as a connection does."""
    cdef H1Body b
    cdef Slice spans[SPANS]
    cdef Decoded d
    cdef int count, used, i
    cdef uint32_t j, have = 0, at = 0
    memset(&d, 0, sizeof(d))
    d.digest = 14695981039346656037ull
    h1_body_init(&b, BODY_CHUNKED, -1)
    while have < n and not b.done:
        have = n if n - have <= portion else have + portion
        while not b.done:
            used = h1_body_feed(&b, p + at, have - at, spans, &count, maxdata)
            if used < 0:
                d.code = used
                return d
            for i in range(count):
                if spans[i].p < p + at or spans[i].p + spans[i].n > p + at + used:
                    d.code = 1
                    return d
                for j in range(spans[i].n):
                    d.digest = (d.digest ^ <uint8_t>spans[i].p[j]) * 1099511628211ull
            at += <uint32_t>used
            if used == 0 or at == have:
                break
        if b.done and b.has_trailers and h1_body_trailers(p + at - used, <uint32_t>used, NULL, MSG_MAX_HEADERS) < 1:
            d.code = 2
    d.used = at if b.done else 0
    d.done = b.done
    d.total = <uint64_t>b.total
    return d


cdef const char *chunked_target(const char *p, uint32_t n, uint32_t seed) noexcept nogil:
    cdef Decoded whole = decode(p, n, n if n else 1, SPANS)
    cdef Decoded parts = decode(p, n, 1 + seed % 64, 1 + <int>(seed % SPANS))
    if whole.code > 0 or parts.code > 0:
        return "a span or a trailer section is not where it should be"
    if whole.code == FM_ETRAILER and parts.code == 0 and not parts.done:
        return NULL  # an error in an unfinished line of trailers may be seen later
    if whole.code != parts.code or whole.done != parts.done or whole.used != parts.used:
        return "portions change the outcome"
    if whole.code == 0 and (whole.digest != parts.digest or whole.total != parts.total):
        return "portions change the content"
    if whole.done and decode(p, whole.used, whole.used, SPANS).used != whole.used:
        return "bytes behind the body change it"
    return NULL


cdef const char *authority_target(const char *p, uint32_t n) noexcept nogil:
    cdef Slice s = slice_of(p, n)
    cdef uint32_t i
    if authority_check(&s) != 0:
        return NULL
    if s.p != p or s.n == 0 or s.n > n or s.n + 1 < n:
        return "the value is not what was given"
    for i in range(s.n):
        if s.p[i] in (44, 47, 64, 63, 35, 92, 37) or not 33 <= s.p[i] <= 126:
            return "a byte that another parser could split at"
    return NULL


TARGETS = ("request", "response", "chunked", "authority")


def run(str target, bytes data):
    """One input: its first two bytes choose where it is split, the rest is fed to the target."""
    cdef const char *fault
    cdef char *p
    cdef uint32_t n, seed
    if len(data) < 2 or len(data) > FZ_ROOM:
        return
    seed = data[0] | <uint32_t>data[1] << 8
    n = len(data) - 2
    p = fz_place((<const char *>data) + 2, n)
    if p == NULL:
        raise MemoryError
    if target == "request":
        fault = head_target(p, n, seed, False)
    elif target == "response":
        fault = head_target(p, n, seed, True)
    elif target == "chunked":
        fault = chunked_target(p, n, seed)
    else:
        fault = authority_target(p, n)
    fz_release(p)
    if fault != NULL:
        raise AssertionError(f"{target}: {fault.decode()}: {data!r}")
