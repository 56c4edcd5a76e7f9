"""Lookups in a Msg and the names that `_core` knows by number (L1). The struct and the enums are in msg.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcpy

from fastmesh._core.base.view cimport Slice, slice_ieq, slice_of
from fastmesh._core.proto.gen_tables cimport CC_TOKEN, fm_cc, fm_hdr_lookup, fm_method_lookup

cdef enum:
    LONGEST_NAME = 30          # of those that hdr_id knows


cdef const Hdr *msg_find(const Msg *m, int hid) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nhdr):
        if m.hdr[i].id == hid and not m.hdr[i].flags & HF_DROP:
            return &m.hdr[i]
    return NULL


cdef const Hdr *msg_find_name(const Msg *m, const char *name, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nhdr):
        if (m.hdr[i].name_n == n and not m.hdr[i].flags & HF_DROP
                and slice_ieq(slice_of(m.hdr[i].name, n), slice_of(name, n))):
            return &m.hdr[i]
    return NULL


cdef int hdr_id(const char *name, uint32_t n) noexcept nogil:
    cdef int found = fm_hdr_lookup(name, n)
    cdef uint32_t i
    if found != H_NONE:
        # the lookup takes tokens only (it folds case without looking); callers may hold anything
        for i in range(n):
            if not fm_cc[<unsigned char>name[i]] & CC_TOKEN:
                return H_NONE
    return found


cdef int hdr_id_loose(const char *name, uint32_t n) noexcept nogil:
    cdef char dashed[LONGEST_NAME]
    cdef uint32_t i
    if n > LONGEST_NAME or memchr(name, 95, n) == NULL:  # '_'
        return hdr_id(name, n)
    memcpy(dashed, name, n)
    for i in range(n):
        if dashed[i] == 95:
            dashed[i] = 45
    return hdr_id(dashed, n)


cdef int method_id(const char *name, uint32_t n) noexcept nogil:
    return fm_method_lookup(name, n)


cdef void msg_reset(Msg *m, int flags) noexcept nogil:
    cdef Slice none = slice_of(NULL, 0)
    m.head_n = 0
    m.flags = <unsigned short>flags
    m.method = 0
    m.minor = 0
    m.status = 0
    m.body = 0
    m.reserved = 0
    m.content_length = -1
    m.method_name = none
    m.target = none
    m.path = none
    m.query = none
    m.host = none
    m.reason = none
    m.protocol = none
    m.nhdr = 0


# ---- kept heads: KeptMsg, KeptHdr[nhdr], then the bytes that they point at, in order ---------------------------------------------------

cdef struct KeptMsg:
    int64_t content_length
    uint32_t head_n
    uint32_t nhdr
    uint32_t method_n, target_n, path_n, query_n, host_n, reason_n, protocol_n
    uint16_t flags
    uint16_t status
    uint8_t method
    uint8_t minor
    uint8_t body
    uint8_t reserved


cdef struct KeptHdr:
    uint32_t value_n
    uint16_t name_n
    uint8_t id
    uint8_t flags


cdef uint32_t msg_kept_size(const Msg *m) noexcept nogil:
    cdef uint32_t n = <uint32_t>sizeof(KeptMsg)
    cdef uint32_t i
    n += m.method_name.n + m.target.n + m.path.n + m.query.n + m.host.n + m.reason.n + m.protocol.n
    for i in range(m.nhdr):
        if not m.hdr[i].flags & HF_DROP:
            n += <uint32_t>sizeof(KeptHdr) + m.hdr[i].name_n + m.hdr[i].value_n
    return n


cdef inline char *keep_bytes(char *p, const char *s, uint32_t n) noexcept nogil:
    if n:
        memcpy(p, s, n)
    return p + n


cdef uint32_t msg_keep(const Msg *m, char *p) noexcept nogil:
    cdef KeptMsg *k = <KeptMsg *>p
    cdef KeptHdr *kh = <KeptHdr *>(p + sizeof(KeptMsg))
    cdef const Hdr *h
    cdef char *at
    cdef uint32_t i, n = 0
    for i in range(m.nhdr):
        h = &m.hdr[i]
        if h.flags & HF_DROP:
            continue
        kh[n].value_n = h.value_n
        kh[n].name_n = h.name_n
        kh[n].id = h.id
        kh[n].flags = h.flags
        n += 1
    k.content_length = m.content_length
    k.head_n = m.head_n
    k.nhdr = n
    k.method_n = m.method_name.n
    k.target_n = m.target.n
    k.path_n = m.path.n
    k.query_n = m.query.n
    k.host_n = m.host.n
    k.reason_n = m.reason.n
    k.protocol_n = m.protocol.n
    k.flags = m.flags
    k.status = m.status
    k.method = m.method
    k.minor = m.minor
    k.body = m.body
    k.reserved = 0
    at = <char *>(kh + n)
    at = keep_bytes(at, m.method_name.p, m.method_name.n)
    at = keep_bytes(at, m.target.p, m.target.n)
    at = keep_bytes(at, m.path.p, m.path.n)
    at = keep_bytes(at, m.query.p, m.query.n)
    at = keep_bytes(at, m.host.p, m.host.n)
    at = keep_bytes(at, m.reason.p, m.reason.n)
    at = keep_bytes(at, m.protocol.p, m.protocol.n)
    for i in range(m.nhdr):
        h = &m.hdr[i]
        if not h.flags & HF_DROP:
            at = keep_bytes(at, h.name, h.name_n)
            at = keep_bytes(at, h.value, h.value_n)
    return <uint32_t>(at - p)


cdef inline const char *load_slice(Slice *s, const char *p, uint32_t n) noexcept nogil:
    s.p = p
    s.n = n
    return p + n


cdef void msg_load(Msg *m, const char *p) noexcept nogil:
    cdef const KeptMsg *k = <const KeptMsg *>p
    cdef const KeptHdr *kh = <const KeptHdr *>(p + sizeof(KeptMsg))
    cdef const char *at = <const char *>(kh + k.nhdr)
    cdef Hdr *h
    cdef uint32_t i
    m.content_length = k.content_length
    m.head_n = k.head_n
    m.nhdr = k.nhdr
    m.flags = k.flags
    m.status = k.status
    m.method = k.method
    m.minor = k.minor
    m.body = k.body
    m.reserved = 0
    at = load_slice(&m.method_name, at, k.method_n)
    at = load_slice(&m.target, at, k.target_n)
    at = load_slice(&m.path, at, k.path_n)
    at = load_slice(&m.query, at, k.query_n)
    at = load_slice(&m.host, at, k.host_n)
    at = load_slice(&m.reason, at, k.reason_n)
    at = load_slice(&m.protocol, at, k.protocol_n)
    for i in range(k.nhdr):
        h = &m.hdr[i]
        h.name = at
        h.name_n = kh[i].name_n
        at += kh[i].name_n
        h.value = at
        h.value_n = kh[i].value_n
        at += kh[i].value_n
        h.id = kh[i].id
        h.flags = kh[i].flags
