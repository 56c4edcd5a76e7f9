"""HPACK (L1): the encoder. See hpack_enc.pxd.

What repeats gets an entry when it comes for the second time: ids and timestamps, which never come twice, do not push out what does.
The look-ups are lossy hashes; whatever they find is compared before it is used.
"""
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastmesh._core.base.buf cimport BufPool
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
    /* words that may overlap, never past the end */
    static inline uint64_t fm_hash_bytes(const char *p, size_t n, uint64_t h) {
        uint64_t x = 0;
        h = fm_hash_word(h, n + 1);
        if (n > 8) {
            const char *last = p + n - 8;
            do { memcpy(&x, p, 8); h = fm_hash_word(h, x); p += 8; } while (p < last);
            memcpy(&x, last, 8);
        } else if (n >= 4) {
            uint32_t a, b;
            memcpy(&a, p, 4); memcpy(&b, p + n - 4, 4);
            x = a | (uint64_t)b << 32;
        } else if (n) {
            x = (uint8_t)p[0] | (uint64_t)(uint8_t)p[n >> 1] << 8 | (uint64_t)(uint8_t)p[n - 1] << 16;
        }
        return fm_hash_word(h, x);
    }
    static inline int fm_same_bytes(const char *a, const char *b, size_t n) {
        uint64_t x, y;
        if (n < 8) {
            size_t i;
            for (i = 0; i < n; i++) if (a[i] != b[i]) return 0;
            return 1;
        }
        for (; n > 8; a += 8, b += 8, n -= 8) {
            memcpy(&x, a, 8); memcpy(&y, b, 8);
            if (x != y) return 0;
            if (n < 16) { a += n - 16; b += n - 16; n = 16; }
        }
        memcpy(&x, a, 8); memcpy(&y, b, 8);
        return x == y;
    }
    static inline uint64_t fm_lower_word(uint64_t x) {
        uint64_t low = x & 0x7f7f7f7f7f7f7f7full;
        uint64_t upper = (low + 0x3f3f3f3f3f3f3f3full) & ~(low + 0x2525252525252525ull) & ~x & 0x8080808080808080ull;
        return x | upper >> 2;
    }
    static inline void fm_lower_bytes(char *to, const char *p, size_t n) {
        uint64_t x;
        size_t i;
        if (n < 8) {
            for (i = 0; i < n; i++) to[i] = (char)(p[i] >= 'A' && p[i] <= 'Z' ? p[i] | 0x20 : p[i]);
            return;
        }
        for (i = 0; i + 8 < n; i += 8) {
            memcpy(&x, p + i, 8); x = fm_lower_word(x); memcpy(to + i, &x, 8);
        }
        memcpy(&x, p + n - 8, 8); x = fm_lower_word(x); memcpy(to + n - 8, &x, 8);
    }
    """
    uint64_t fm_hash_bytes(const char *p, size_t n, uint64_t h) nogil
    bint fm_same_bytes(const char *a, const char *b, size_t n) nogil
    void fm_lower_bytes(char *to, const char *p, size_t n) nogil

cdef enum:
    NO_UPDATE = 0xffffffff
    COOKIE_SECRET = 20           # bytes: a shorter cookie can be guessed (RFC 7541 7.1.3)
    WAYS = 4                     # of a set of HpackEnc.pair and .seen
    SETS = 124                   # bits of the hash that choose one of pair's
    NAME_MOST = 256              # a longer name is written, not looked up


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
    return x.id == hid and x.name_n == n and (hid != H_NONE or fm_same_bytes(x.name, name, n))


cdef uint32_t find_pair(const HpackEnc *e, uint64_t h, const char *name, uint32_t name_n, const char *value, uint32_t value_n,
                        int hid) noexcept nogil:
    # HPACK index of the dynamic entry, or 0
    cdef HpackEntry x
    cdef uint32_t i, w
    for w in range(<uint32_t>(h & SETS), <uint32_t>(h & SETS) + WAYS):
        if e.tag[w] == <uint8_t>(h >> 56):
            i = <uint16_t>(<uint16_t>e.t.newest - e.pair[w])
            if (table_get(&e.t, i, &x) and x.value_n == value_n and same_name(&x, name, name_n, hid)
                    and fm_same_bytes(x.value, value, value_n)):
                return i + 62
    return 0


cdef void note_pair(HpackEnc *e, uint64_t h) noexcept nogil:
    # the newest entry, in place of the oldest of its set: what is evicted is older still
    cdef uint32_t oldest = <uint32_t>(h & SETS)
    cdef uint32_t w
    for w in range(oldest + 1, oldest + WAYS):
        if <uint16_t>(<uint16_t>e.t.newest - e.pair[w]) > <uint16_t>(<uint16_t>e.t.newest - e.pair[oldest]):
            oldest = w
    e.pair[oldest] = <uint16_t>e.t.newest
    e.tag[oldest] = <uint8_t>(h >> 56)


cdef bint seen_before(HpackEnc *e, uint64_t h) noexcept nogil:
    cdef uint16_t *s = &e.seen[(h >> 8) & 252]
    cdef uint16_t mark = <uint16_t>(h >> 40)
    cdef uint32_t w
    for w in range(WAYS):
        if s[w] == mark:
            return True
    s[3] = s[2]
    s[2] = s[1]
    s[1] = s[0]
    s[0] = mark
    return False


cdef uint32_t find_name(const HpackEnc *e, uint64_t h, const char *name, uint32_t n, int hid) noexcept nogil:
    cdef HpackEntry x
    cdef uint32_t i = <uint16_t>(<uint16_t>e.t.newest - e.name[h & 127])
    return i + 62 if table_get(&e.t, i, &x) and same_name(&x, name, n, hid) else 0


cdef uint32_t find_static(uint32_t first, const char *value, uint32_t n) noexcept nogil:
    # an entry with this value among those with the name of entry `first`
    cdef uint32_t i = first
    while i <= 61 and fm_hpack_static[i].twin == first:
        if fm_hpack_static[i].value_n == n and n and fm_same_bytes(fm_hpack_static[i].value, value, n):
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


cdef char *put_long_name(const HpackEnc *e, char *p, const char *name, uint32_t name_n, const char *value, uint32_t value_n,
                         bint never) noexcept nogil:
    p = put_int(put_int(p, 0x10 if never else 0, 0x0f, 0), 0, 0x7f, name_n)
    fm_lower_bytes(p, name, name_n)
    return put_string(e, p + name_n, value, value_n)


cdef char *hpack_enc_field(HpackEnc *e, BufPool *bufs, char *p, const char *end, const char *name, uint32_t name_n, const char *value,
                           uint32_t value_n, int hid, uint32_t flags) noexcept nogil:
    cdef char low[NAME_MOST]
    cdef uint64_t hn, h
    cdef uint32_t first, index
    if end - p < <ptrdiff_t>(<uint64_t>name_n + value_n + 12) or name_n > 0xffff:
        return NULL
    if name_n > NAME_MOST:
        return put_long_name(e, p, name, name_n, value, value_n, flags & HF_NEVER)
    if hid == H_NONE:
        fm_lower_bytes(low, name, name_n)
        name = low
        first = fm_hpack_lookup(name, name_n)
        hid = fm_hpack_static[first].id  # the caller need not have asked; H_NONE of entry 0
    else:
        first = fm_hpack_by_id[hid]
    if secret(hid, value_n, flags):
        if first == 0 and name != low:
            fm_lower_bytes(low, name, name_n)
            name = low
        return put_literal(e, p, 0x10, 0x0f, first, name, name_n, value, value_n)
    if first and value_n:
        index = find_static(first, value, value_n)
        if index:
            return put_int(p, 0x80, 0x7f, index)
    # an id stands for the name: the common case does not look at the name's bytes
    hn = <uint64_t>hid * <uint64_t>0x9e3779b97f4a7c15 if hid != H_NONE else fm_hash_bytes(name, name_n, 1)
    hn ^= hn >> 32
    if <uint64_t>name_n + value_n + HPACK_ENTRY <= e.t.max >> 2:  # more would push out too much
        h = fm_hash_bytes(value, value_n, hn)
        index = find_pair(e, h, name, name_n, value, value_n, hid)
        if index:
            return put_int(p, 0x80, 0x7f, index)
    else:
        h = 0                    # no place in the table
    if name != low:
        fm_lower_bytes(low, name, name_n)
        name = low
    if first == 0:
        first = find_name(e, hn, name, name_n, hid)
    if h == 0:
        return put_literal(e, p, 0, 0x0f, first, name, name_n, value, value_n)
    if not seen_before(e, h):
        return put_literal(e, p, 0, 0x0f, first, name, name_n, value, value_n)
    if table_add(&e.t, bufs, name, name_n, value, value_n, hid) != 1:
        return put_literal(e, p, 0, 0x0f, first, name, name_n, value, value_n)
    note_pair(e, h)
    e.name[hn & 127] = <uint16_t>e.t.newest
    return put_literal(e, p, 0x40, 0x3f, first, name, name_n, value, value_n)  # `first` counts as before the insertion
