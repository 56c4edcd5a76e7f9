"""Finds the first byte that ends or spoils a part of a head, 16 bytes a step (L1). Header-only.

Each takes [p, end), reads nothing outside it, and gives the first byte that does not belong (or end). With SSE2 by vectors,
else byte by byte with the same answers.
"""
from libc.stdint cimport uint8_t

from fastmesh._core.proto.gen_tables cimport fm_cc

cdef extern from *:
    """
    #if defined(__SSE2__) && !defined(FM_SCAN_PORTABLE)
    #include <emmintrin.h>
    #define FM_SCAN_SSE2 1
    #endif

    /* field-vchar, obs-text, SP and HTAB (RFC 9110 5.5): all but the controls and DEL */
    static inline const uint8_t *fm_scan_value(const uint8_t *p, const uint8_t *end) {
    #ifdef FM_SCAN_SSE2
        const __m128i ctl = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8(9), del = _mm_set1_epi8(0x7f);
        while (end - p >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, ctl), v);
            __m128i bad = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(v, tab), low), _mm_cmpeq_epi8(v, del));
            int mask = _mm_movemask_epi8(bad);
            if (mask) return p + __builtin_ctz((unsigned)mask);
            p += 16;
        }
    #endif
        while (p < end && ((*p >= 0x20 && *p != 0x7f) || *p == 9)) p++;
        return p;
    }

    /* what a request target may hold: visible ASCII without '#' */
    static inline const uint8_t *fm_scan_target(const uint8_t *p, const uint8_t *end) {
    #ifdef FM_SCAN_SSE2
        const __m128i sp = _mm_set1_epi8(0x20), hash = _mm_set1_epi8('#'), del = _mm_set1_epi8(0x7f);
        while (end - p >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            __m128i ok = _mm_cmpgt_epi8(v, sp);   /* signed: 0x80.. are negative */
            __m128i bad = _mm_or_si128(_mm_cmpeq_epi8(v, hash), _mm_cmpeq_epi8(v, del));
            int mask = _mm_movemask_epi8(_mm_andnot_si128(bad, ok)) ^ 0xffff;
            if (mask) return p + __builtin_ctz((unsigned)mask);
            p += 16;
        }
    #endif
        while (p < end && *p > 0x20 && *p < 0x7f && *p != '#') p++;
        return p;
    }

    /* tchar (RFC 9110 5.6.2). By vectors only letters, digits and '-'; the table decides about what is left. */
    static inline const uint8_t *fm_scan_token(const uint8_t *p, const uint8_t *end) {
    #ifdef FM_SCAN_SSE2
        const __m128i lower = _mm_set1_epi8(0x20), a = _mm_set1_epi8('a' - 1), z = _mm_set1_epi8('z' + 1);
        const __m128i d0 = _mm_set1_epi8('0' - 1), d9 = _mm_set1_epi8('9' + 1), dash = _mm_set1_epi8('-');
        while (end - p >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p), l = _mm_or_si128(v, lower);
            __m128i alpha = _mm_and_si128(_mm_cmpgt_epi8(l, a), _mm_cmplt_epi8(l, z));
            __m128i digit = _mm_and_si128(_mm_cmpgt_epi8(v, d0), _mm_cmplt_epi8(v, d9));
            __m128i ok = _mm_or_si128(_mm_or_si128(alpha, digit), _mm_cmpeq_epi8(v, dash));
            int mask = _mm_movemask_epi8(ok) ^ 0xffff;
            if (!mask) { p += 16; continue; }
            p += __builtin_ctz((unsigned)mask);
            if (!(fm_cc[*p] & 1)) return p;
            p++;
        }
    #endif
        while (p < end && (fm_cc[*p] & 1)) p++;
        return p;
    }
    """
    const uint8_t *fm_scan_value(const uint8_t *p, const uint8_t *end) nogil
    const uint8_t *fm_scan_target(const uint8_t *p, const uint8_t *end) nogil
    const uint8_t *fm_scan_token(const uint8_t *p, const uint8_t *end) nogil
