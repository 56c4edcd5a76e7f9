"""What a request is told apart by in consistent hashing (L3). See hashkey.pxd; who is chosen by it is policy/lb_hash's."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from fastmesh._core.base.err cimport FM_EHEAD, FM_OK
from fastmesh._core.base.view cimport Slice, slice_ieq, slice_of
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.proto.msg cimport H_COOKIE, H_HOST, H_SET_COOKIE, HF_DROP, Msg, hdr_id
from fastmesh._core.proxy.ctx cimport XF_HASHED, Exchange
from fastmesh._core.proxy.forward cimport forward_keep_field, hbuf_take
from fastmesh._core.shm.hashtab cimport mix64
from fastmesh._core.shm.snapshot cimport (
    HASH_COOKIE, HASH_HEADER, HASH_NO_COOKIE, HASH_NONE, HASH_QUERY, HASH_SOURCE, SnapCluster, fnv64, snap_str)

cdef enum:
    COOKIE_EXTRA = 80            # bytes of a Set-Cookie besides name and path


cdef inline void take(Exchange *ex, uint64_t hash) noexcept nogil:
    ex.hash_key = hash
    ex.flags |= XF_HASHED


cdef void by_header(Exchange *ex, const Msg *m, Slice name) noexcept nogil:
    # of several fields the order does not count, as in Envoy
    cdef uint64_t sum = 0
    cdef bint found = False
    cdef uint32_t i
    for i in range(m.nhdr):
        if not m.hdr[i].flags & HF_DROP and slice_ieq(slice_of(m.hdr[i].name, m.hdr[i].name_n), name):
            sum += mix64(fnv64(m.hdr[i].value, m.hdr[i].value_n))
            found = True
    if not found and m.host.n and hdr_id(name.p, name.n) == H_HOST:
        sum = mix64(fnv64(m.host.p, m.host.n))  # HTTP/2 has it as :authority
        found = True
    if found:
        take(ex, sum)


cdef Slice query_value(Slice query, Slice name, bint *found) noexcept nogil:
    # the first of this name, as it was sent (policy/router compares likewise)
    cdef const char *p = query.p
    cdef const char *stop = query.p + query.n
    cdef const char *end
    cdef const char *eq
    found[0] = False
    while query.n and p <= stop:
        end = p
        eq = NULL
        while end < stop and end[0] != c'&':
            if eq == NULL and end[0] == c'=':
                eq = end
            end += 1
        if (eq if eq != NULL else end) - p == name.n and memcmp(p, name.p, name.n) == 0:
            found[0] = True
            return slice_of(eq + 1, end - eq - 1) if eq != NULL else slice_of(end, 0)
        p = end + 1
    return slice_of(NULL, 0)


cdef Slice cookie_in(Slice field, Slice name) noexcept nogil:
    # RFC 6265 4.2.1: name=value, separated by "; "; a value may stand in quotes, which do not belong to it
    cdef const char *p = field.p
    cdef const char *stop = field.p + field.n
    cdef const char *end
    cdef const char *at
    while p < stop:
        while p < stop and (p[0] == c' ' or p[0] == c'\t'):
            p += 1
        end = p
        while end < stop and end[0] != c';':
            end += 1
        if end - p > name.n and p[name.n] == c'=' and memcmp(p, name.p, name.n) == 0:
            at = p + name.n + 1
            p = end
            while p > at and ((p - 1)[0] == c' ' or (p - 1)[0] == c'\t'):
                p -= 1
            if p - at >= 2 and at[0] == c'"' and (p - 1)[0] == c'"':
                at += 1
                p -= 1
            return slice_of(at, p - at)
        p = end + 1
    return slice_of(NULL, 0)


cdef Slice cookie_value(const Msg *m, Slice name) noexcept nogil:
    # HTTP/2 may send a field for each cookie (RFC 9113 8.2.3)
    cdef Slice v = slice_of(NULL, 0)
    cdef uint32_t i
    for i in range(m.nhdr):
        if m.hdr[i].id == H_COOKIE and not m.hdr[i].flags & HF_DROP:
            v = cookie_in(slice_of(m.hdr[i].value, m.hdr[i].value_n), name)
            if v.n:
                break
    return v


cdef uint32_t put(char *p, uint32_t at, const char *text, uint32_t n) noexcept nogil:
    memcpy(p + at, text, n)
    return at + n


cdef uint32_t put_number(char *p, uint32_t at, uint32_t value) noexcept nogil:
    cdef char digits[10]
    cdef uint32_t n = 0
    while True:
        n += 1
        digits[10 - n] = <char>(48 + value % 10)
        value /= 10
        if value == 0:
            return put(p, at, digits + 10 - n, n)


cdef uint64_t source_hash(const Addr *a, bint port) noexcept nogil:
    cdef uint64_t h = fnv64(<const char *>a.a, 4 if a.family == 4 else 16)
    return mix64(h + a.port) if port else h


cdef int make_cookie(Exchange *ex, const SnapCluster *c, Slice name) noexcept nogil:
    # Requests that a client sends at the same time, before it has the cookie, must get the same: it is the connection's, as in Envoy.
    cdef Slice path = snap_str(&ex.w.snap, c.hash_path)
    cdef uint64_t id = source_hash(&ex.peer_addr, True)
    cdef const char *digits = b"0123456789abcdef"
    cdef char hex[16]
    cdef char *p = hbuf_take(ex.w, name.n + path.n + COOKIE_EXTRA)
    cdef uint32_t n, i
    if p == NULL:
        return FM_EHEAD
    for i in range(16):
        hex[i] = digits[(id >> (60 - 4 * i)) & 15]
    n = put(p, 0, name.p, name.n)
    n = put(p, n, b'="', 2)
    n = put(p, n, hex, 16)
    n = put(p, n, b'"', 1)
    if c.hash_ttl_s:
        n = put_number(p, put(p, n, b"; Max-Age=", 10), c.hash_ttl_s)
    if path.n:
        n = put(p, put(p, n, b"; Path=", 7), path.p, path.n)
    n = put(p, n, b"; HttpOnly", 10)
    take(ex, fnv64(hex, 16))
    return forward_keep_field(ex, slice_of(b"set-cookie", 10), H_SET_COOKIE, slice_of(p, n))


cdef int hashkey_take(Exchange *ex, const Msg *m, const SnapCluster *c) noexcept nogil:
    cdef Slice name, value
    cdef bint found = False
    if c.hash_on == HASH_NONE:
        return FM_OK
    name = snap_str(&ex.w.snap, c.hash_name)
    if c.hash_on == HASH_HEADER:
        by_header(ex, m, name)
    elif c.hash_on == HASH_SOURCE:
        if ex.peer_addr.family:
            take(ex, source_hash(&ex.peer_addr, False))
    elif c.hash_on == HASH_QUERY:
        value = query_value(m.query, name, &found)
        if found:
            take(ex, fnv64(value.p, value.n))
    elif c.hash_on == HASH_COOKIE:
        value = cookie_value(m, name)
        if value.n:
            take(ex, fnv64(value.p, value.n))
        elif c.hash_ttl_s != HASH_NO_COOKIE:
            return make_cookie(ex, c, name)
    return FM_OK
