"""HPACK (L1): the encoder. See hpack_enc.pxd.

What repeats gets an entry when it comes for the second time: ids and timestamps, which never come twice, do not push out what does.
The look-ups are lossy hashes; whatever they find is compared before it is used.
"""
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastmesh._core.base.buf cimport BufPool
from fastmesh._core.base.view cimport ascii_lower
from fastmesh._core.proto.gen_hpack cimport fm_hpack_by_id, fm_hpack_lookup, fm_hpack_static
from fastmesh._core.proto.hpack_table cimport HPACK_ENTRY, HPACK_TABLE_MOST, HpackEntry, table_add, table_end, table_get, table_limit
from fastmesh._core.proto.huffman cimport huffman_encode, huffman_size
from fastmesh._core.proto.msg cimport (
    H_AUTHORIZATION, H_COOKIE, H_NONE, H_PROXY_AUTHORIZATION, H_SET_COOKIE, HF_NEVER)

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* a fast hash of a few words; only for look-ups that are checked */
    static inline uint64_t fm_hash_word(uint64_t h, uint64_t x) {
        unsigned __int128 m = (unsigned __int128)(h ^ x) * 0x9e3779b97f4a7c15ull;
        return (uint64_t)m ^ (uint64_t)(m >> 64);
    }
    static inline uint64_t fm_hash_bytes(const char *p, size_t n, uint64_t h, uint64_t fold) {
        uint64_t x;
        h = fm_hash_word(h, n + 1);
        while (n >= 8) { memcpy(&x, p, 8); h = fm_hash_word(h, x | fold); p += 8; n -= 8; }
        if (n) { x = 0; memcpy(&x, p, n); h = fm_hash_word(h, x | fold); }
        return h;
    }
    """
    uint64_t fm_hash_bytes(const char *p, size_t n, uint64_t h, uint64_t fold) nogil

cdef enum:
    NO_UPDATE = 0xffffffff
    COOKIE_SECRET = 20           # bytes: a shorter cookie can be guessed (RFC 7541 7.1.3)

cdef uint64_t FOLD = <uint64_t>0x2020202020202020


cdef void hpack_enc_init(HpackEnc *e, bint huffman) noexcept nogil:
    memset(e, 0, sizeof(HpackEnc))
    e.t.max = HPACK_TABLE_MOST
    e.pending_min = NO_UPDATE
    e.huffman = huffman


cdef void hpack_enc_end(HpackEnc *e, BufPool *bufs) noexcept nogil:
    table_end(&e.t, bufs)


cdef void hpack_enc_limit(HpackEnc *e, uint32_t peer_max) noexcept nogil:
    cdef uint32_t most = peer_max if peer_max < HPACK_TABLE_MOST else HPACK_TABLE_MOST
    if most == e.t.max and e.pending_min == NO_UPDATE:
        return
    if most < e.pending_min:
        e.pending_min = most
    e.pending = most
    table_limit(&e.t, most)


cdef char *put_int(char *p, int bits, uint32_t mask, uint32_t n) noexcept nogil:
    if n < mask:
        p[0] = <char>(bits | n)
        return p + 1
    p[0] = <char>(bits | mask)
    p += 1
    n -= mask
    while n >= 0x80:
        p[0] = <char>(0x80 | (n & 0x7f))
        p += 1
        n >>= 7
    p[0] = <char>n
    return p + 1


cdef char *hpack_enc_begin(HpackEnc *e, char *p, const char *end) noexcept nogil:
    if e.pending_min == NO_UPDATE:
        return p
    if end - p < 12:
        return NULL
    if e.pending_min < e.pending:
        p = put_int(p, 0x20, 0x1f, e.pending_min)
    p = put_int(p, 0x20, 0x1f, e.pending)
    e.pending_min = NO_UPDATE
    return p


cdef char *put_string(const HpackEnc *e, char *p, const char *s, uint32_t n) noexcept nogil:
    cdef uint32_t coded
    if e.huffman and n:
        coded = huffman_size(s, n)
        if coded < n:
            return huffman_encode(s, n, put_int(p, 0x80, 0x7f, coded))
    p = put_int(p, 0, 0x7f, n)
    if n:
        memcpy(p, s, n)
    return p + n


cdef inline bint same_name(const HpackEntry *x, const char *name, uint32_t n, int hid) noexcept nogil:
    # entries are in lower case; an id stands for one name
    return x.id == hid and x.name_n == n and (hid != H_NONE or memcmp(x.name, name, n) == 0)


cdef uint32_t find_pair(const HpackEnc *e, uint64_t h, const char *name, uint32_t name_n, const char *value, uint32_t value_n,
                        int hid) noexcept nogil:
    # HPACK index of the dynamic entry, or 0
    cdef HpackEntry x
    cdef uint32_t i = <uint16_t>(<uint16_t>e.t.newest - e.pair[h & 127])
    if table_get(&e.t, i, &x) and x.value_n == value_n and same_name(&x, name, name_n, hid) and memcmp(x.value, value, value_n) == 0:
        return i + 62
    return 0


cdef uint32_t find_name(const HpackEnc *e, uint64_t h, const char *name, uint32_t n, int hid) noexcept nogil:
    cdef HpackEntry x
    cdef uint32_t i = <uint16_t>(<uint16_t>e.t.newest - e.name[h & 127])
    return i + 62 if table_get(&e.t, i, &x) and same_name(&x, name, n, hid) else 0


cdef uint32_t find_static(uint32_t first, const char *value, uint32_t n) noexcept nogil:
    # an entry with this value among those with the name of entry `first`
    cdef uint32_t i = first
    while i <= 61 and fm_hpack_static[i].twin == first:
        if fm_hpack_static[i].value_n == n and n and memcmp(fm_hpack_static[i].value, value, n) == 0:
            return i
        i += 1
    return 0


cdef inline bint secret(int hid, uint32_t value_n, uint32_t flags) noexcept nogil:
    return (flags & HF_NEVER or hid == H_AUTHORIZATION or hid == H_PROXY_AUTHORIZATION or hid == H_SET_COOKIE
            or (hid == H_COOKIE and value_n < COOKIE_SECRET))


cdef char *put_literal(const HpackEnc *e, char *p, int bits, uint32_t mask, uint32_t index, const char *name, uint32_t name_n,
                       const char *value, uint32_t value_n) noexcept nogil:
    p = put_int(p, bits, mask, index)
    if index == 0:
        p = put_string(e, p, name, name_n)
    return put_string(e, p, value, value_n)


cdef char *hpack_enc_field(HpackEnc *e, BufPool *bufs, char *p, const char *end, const char *name, uint32_t name_n, const char *value,
                           uint32_t value_n, int hid, uint32_t flags) noexcept nogil:
    cdef char low[256]
    cdef uint64_t hn, h
    cdef uint32_t first, index, i
    cdef bint again
    if end - p < <ptrdiff_t>(<uint64_t>name_n + value_n + 12) or name_n > 0xffff:
        return NULL
    if name_n <= 256:
        for i in range(name_n):
            low[i] = <char>ascii_lower(<uint8_t>name[i])
        name = low
    else:
        for i in range(name_n):
            if 65 <= name[i] <= 90:
                return NULL      # no field of ours; who passes one on has it in lower case
    first = fm_hpack_by_id[hid] if hid != H_NONE else fm_hpack_lookup(name, name_n)
    if secret(hid, value_n, flags):
        return put_literal(e, p, 0x10, 0x0f, first, name, name_n, value, value_n)
    if first and value_n:
        index = find_static(first, value, value_n)
        if index:
            return put_int(p, 0x80, 0x7f, index)
    hn = <uint64_t>hid * <uint64_t>0x9e3779b97f4a7c15 if hid != H_NONE else fm_hash_bytes(name, name_n, 1, FOLD)
    hn ^= hn >> 32
    if name_n + value_n + HPACK_ENTRY > e.t.max >> 2:  # it would push out too much
        if first == 0:
            first = find_name(e, hn, name, name_n, hid)
        return put_literal(e, p, 0, 0x0f, first, name, name_n, value, value_n)
    h = fm_hash_bytes(value, value_n, hn, 0)
    index = find_pair(e, h, name, name_n, value, value_n, hid)
    if index:
        return put_int(p, 0x80, 0x7f, index)
    if first == 0:
        first = find_name(e, hn, name, name_n, hid)
    again = e.seen[(h >> 8) & 255] == <uint16_t>(h >> 40)
    if not again:
        e.seen[(h >> 8) & 255] = <uint16_t>(h >> 40)
        return put_literal(e, p, 0, 0x0f, first, name, name_n, value, value_n)
    if table_add(&e.t, bufs, name, name_n, value, value_n, hid) != 1:
        return put_literal(e, p, 0, 0x0f, first, name, name_n, value, value_n)
    e.pair[h & 127] = <uint16_t>e.t.newest
    e.name[hn & 127] = <uint16_t>e.t.newest
    return put_literal(e, p, 0x40, 0x3f, first, name, name_n, value, value_n)  # `first` counts as before the insertion
