"""HTTP/1's version and case of names over the mesh link (L1). Contract in h2_case.pxd. Must not know: frames, HPACK's tables, the link itself."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_EBAD, FM_EHEAD, FM_OK
from fastmesh._core.base.view cimport Slice, View, view_left, view_of, view_u8
from fastmesh._core.proto.hpack cimport HpackArena
from fastmesh._core.proto.msg cimport H_HOST, HF_DROP, MF_RESPONSE, Hdr, Msg

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the first byte of a word must be its lowest"
    #endif

    /* Eight bytes at a time: 0x80 in each byte that is one of these, 0 in the others. */
    static inline uint64_t fm_case_upper(uint64_t x) {
        uint64_t low = x & 0x7f7f7f7f7f7f7f7full;
        return (low + 0x3f3f3f3f3f3f3f3full) & ~(low + 0x2525252525252525ull) & ~x & 0x8080808080808080ull;
    }
    static inline uint64_t fm_case_letter(uint64_t x) { return fm_case_upper(x & ~0x2020202020202020ull); }
    static inline uint64_t fm_case_dash(uint64_t x) {
        x ^= 0x2d2d2d2d2d2d2d2dull;
        return ~(((x & 0x7f7f7f7f7f7f7f7full) + 0x7f7f7f7f7f7f7f7full) | x | 0x7f7f7f7f7f7f7f7full);
    }
    /* fewer than eight bytes, zeros behind them */
    static inline uint64_t fm_case_short(const char *p, size_t n) {
        uint32_t a, b;
        if (n >= 4) {
            memcpy(&a, p, 4); memcpy(&b, p + n - 4, 4);
            return a | (uint64_t)b << (8 * (n - 4));
        }
        if (n == 0) return 0;
        return (uint8_t)p[0] | (uint64_t)(uint8_t)p[n >> 1] << (8 * (n >> 1)) | (uint64_t)(uint8_t)p[n - 1] << (8 * (n - 1));
    }

    typedef struct { uint64_t upper, not_title, not_upper; } fm_case_t;

    /* start: 0x80 when the first byte begins a word of the name; what it is for the byte behind these is returned */
    static inline uint64_t fm_case_step(fm_case_t *c, uint64_t x, uint64_t start) {
        uint64_t upper = fm_case_upper(x), letter = fm_case_letter(x), dash = fm_case_dash(x);
        c->upper |= upper;
        c->not_title |= upper ^ (letter & (dash << 8 | start));
        c->not_upper |= upper ^ letter;
        return dash >> 56;
    }
    /* The code of a name. The last word overlaps the one before it: no byte outside the name is read. */
    static inline char fm_case_code(const char *p, size_t n) {
        fm_case_t c = {0, 0, 0};
        uint64_t x, start = 0x80;
        size_t i;
        if (n < 8) {
            fm_case_step(&c, fm_case_short(p, n), start);
        } else {
            for (i = 0; i + 8 < n; i += 8) {
                memcpy(&x, p + i, 8);
                start = fm_case_step(&c, x, start);
            }
            memcpy(&x, p + n - 8, 8);
            fm_case_step(&c, x, n == 8 || p[n - 9] == '-' ? 0x80 : 0);
        }
        return c.upper == 0 ? 'l' : c.not_title == 0 ? 't' : c.not_upper == 0 ? 'u' : 'x';
    }

    static inline uint64_t fm_case_raised(uint64_t x, uint64_t start, uint64_t all) {
        return x & ~((fm_case_letter(x) & (fm_case_dash(x) << 8 | start | all)) >> 2);
    }
    /* A name in lower case at p to Title-Case (all 0) or UPPER CASE (all ~0) at `to`, which may be p. */
    static inline void fm_case_raise(char *to, const char *p, size_t n, uint64_t all) {
        uint64_t x, y, start = 0x80;
        uint32_t a, b;
        size_t i;
        if (n < 8) {
            x = fm_case_raised(fm_case_short(p, n), start, all);
            if (n >= 4) {
                a = (uint32_t)x; b = (uint32_t)(x >> (8 * (n - 4)));
                memcpy(to, &a, 4); memcpy(to + n - 4, &b, 4);
            } else {
                for (i = 0; i < n; i++) to[i] = (char)(x >> (8 * i));
            }
            return;
        }
        for (i = 0; i + 8 < n; i += 8) {
            memcpy(&x, p + i, 8);
            y = fm_case_raised(x, start, all);
            memcpy(to + i, &y, 8);
            start = fm_case_dash(x) >> 56;
        }
        start = n == 8 || p[n - 9] == '-' ? 0x80 : 0;
        memcpy(&x, p + n - 8, 8);
        x = fm_case_raised(x, start, all);
        memcpy(to + n - 8, &x, 8);
    }
    """
    char fm_case_code(const char *p, size_t n) nogil
    void fm_case_raise(char *to, const char *p, size_t n, uint64_t all) nogil

cdef enum:
    LOWER = 108                  # 'l'
    TITLE = 116                  # 't'
    UPPER = 117                  # 'u'
    ODD = 120                    # 'x'


# ---- out -----------------------------------------------------------------------------------------------------------------------------

cdef inline bint is_upper(char c) noexcept nogil:
    return 65 <= c <= 90


cdef char *put_odd(char *p, const char *name, uint32_t n) noexcept nogil:
    cdef uint32_t i, k
    cdef int bits
    for i in range(0, n, 4):
        bits = 0
        for k in range(i, i + 4 if i + 4 < n else n):
            if is_upper(name[k]):
                bits |= 1 << (k - i)
        p[0] = <char>(48 + bits) if bits < 10 else <char>(87 + bits)
        p += 1
    return p


cdef inline char *put_code(char *p, const char *end, const Hdr *f, bint *some) noexcept nogil:
    # NULL: no room
    cdef char code
    if p == NULL or p == end:
        return NULL
    code = fm_case_code(f.name, f.name_n)
    p[0] = code
    p += 1
    if code != LOWER:
        some[0] = True
        if code == ODD:
            if end - p < (f.name_n + 3) // 4:
                return NULL
            p = put_odd(p, f.name, f.name_n)
    return p


cdef uint32_t h2_case_write(const Msg *m, char *out, uint32_t most) noexcept nogil:
    cdef char *p = out + 1
    cdef const char *end = out + most
    cdef bint some = False
    cdef uint32_t i
    out[0] = <char>(48 + m.minor)
    if not m.flags & MF_RESPONSE:
        for i in range(m.nhdr):
            if m.hdr[i].id == H_HOST and not m.hdr[i].flags & HF_DROP:
                p = put_code(p, end, &m.hdr[i], &some)
                break
    for i in range(m.nhdr):
        if h2_field_goes(&m.hdr[i]):
            p = put_code(p, end, &m.hdr[i], &some)
            if p == NULL:
                return 1
    return <uint32_t>(p - out) if some else 1


# ---- in ------------------------------------------------------------------------------------------------------------------------------

cdef char *own_name(Hdr *f, HpackArena *a) noexcept nogil:
    # where the name may be written: its place in the arena, or a new one there; NULL: the arena is full
    cdef char *to = <char *>f.name
    if a.begin <= to < a.p:
        return to
    if a.end - a.p < f.name_n:
        return NULL
    to = a.p
    a.p += f.name_n
    return to


cdef int read_odd(Hdr *f, View *v, char *to) noexcept nogil:
    cdef uint32_t n = f.name_n
    cdef uint32_t i, k
    cdef uint8_t c
    for i in range(0, n, 4):
        c = view_u8(v)
        if 48 <= c <= 57:
            c -= 48
        elif 97 <= c <= 102:
            c -= 87
        else:
            return FM_EBAD       # also at the value's end
        for k in range(i, i + 4 if i + 4 < n else n):
            to[k] = f.name[k]
            if c & 1:
                if not 97 <= to[k] <= 122:
                    return FM_EBAD
                to[k] -= 32
            c >>= 1
        if c:
            return FM_EBAD       # of bytes behind the name
    return FM_OK


cdef int h2_case_read(Msg *m, Slice facts, HpackArena *a) noexcept nogil:
    cdef View v = view_of(facts.p, facts.n)
    cdef uint8_t c = view_u8(&v)
    cdef Hdr *f
    cdef char *to
    cdef uint32_t i
    if c != 48 and c != 49:
        return FM_EBAD
    m.minor = c - 48
    if view_left(&v) == 0:
        return FM_OK
    for i in range(m.nhdr):
        f = &m.hdr[i]
        c = view_u8(&v)
        if c == LOWER:
            continue
        if c != TITLE and c != UPPER and c != ODD:
            return FM_EBAD       # also a value that is too short
        to = own_name(f, a)
        if to == NULL:
            return FM_EHEAD
        if c != ODD:
            fm_case_raise(to, f.name, f.name_n, 0 if c == TITLE else ~<uint64_t>0)
        elif read_odd(f, &v, to) != FM_OK:
            return FM_EBAD
        f.name = to
    return FM_OK if view_left(&v) == 0 else FM_EBAD
