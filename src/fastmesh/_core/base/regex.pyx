"""RE2 behind three C calls (L0). Owns how patterns are compiled: UTF-8, quiet, bounded; knows nothing of routes.

C++ exceptions (no memory) end here: a pattern is then refused, a match is none.
"""
from libc.stdint cimport int64_t, uint32_t

cdef extern from *:
    """
    #include <re2/re2.h>
    #include <cstdio>
    #include <cstring>
    #include <string>

    static void *fm_re_new(const char *p, size_t n, long max_mem, char *why, size_t why_n) {
        try {
            re2::RE2::Options o;
            o.set_max_mem(max_mem);
            o.set_log_errors(false);
            re2::RE2 *re = new re2::RE2(re2::StringPiece(p, n), o);
            if (re->ok()) return re;
            if (why) std::snprintf(why, why_n, "%s", re->error().c_str());
            delete re;
        } catch (...) {
            if (why) std::snprintf(why, why_n, "out of memory");
        }
        return nullptr;
    }
    static bool fm_re_full(const void *re, const char *p, size_t n) {
        try {
            return static_cast<const re2::RE2 *>(re)->Match(re2::StringPiece(p ? p : "", n), 0, n, re2::RE2::ANCHOR_BOTH, nullptr, 0);
        } catch (...) {
            return false;
        }
    }
    static bool fm_re_rewrite_ok(const void *re, const char *rw, size_t n, char *why, size_t why_n) {
        std::string fault;
        try {
            if (static_cast<const re2::RE2 *>(re)->CheckRewriteString(re2::StringPiece(rw, n), &fault)) return true;
        } catch (...) {
            fault = "out of memory";
        }
        std::snprintf(why, why_n, "%s", fault.c_str());
        return false;
    }
    // Appends to out[0:cap]; false when it does not fit.
    struct fm_re_out { char *p; size_t n, cap; };
    static bool fm_re_put(struct fm_re_out *o, const char *p, size_t n) {
        if (n > o->cap - o->n) return false;
        if (n) std::memcpy(o->p + o->n, p, n);
        o->n += n;
        return true;
    }
    static bool fm_re_expand(struct fm_re_out *o, const char *rw, size_t rn, const re2::StringPiece *group) {
        for (size_t i = 0; i < rn; i++) {
            if (rw[i] != 92 || i + 1 == rn) {  // a backslash
                if (!fm_re_put(o, rw + i, 1)) return false;
            } else if (rw[++i] >= '0' && rw[i] <= '9') {
                const re2::StringPiece &g = group[rw[i] - '0'];
                if (!fm_re_put(o, g.data(), g.size())) return false;
            } else if (!fm_re_put(o, rw + i, 1)) {
                return false;
            }
        }
        return true;
    }
    static long fm_re_replace(const void *re, const char *p, size_t n, const char *rw, size_t rn, char *to, size_t cap, int most) {
        struct fm_re_out o = {to, 0, cap};
        re2::StringPiece group[10];
        size_t at = 0;
        const char *last = nullptr;
        try {
            while (at <= n && static_cast<const re2::RE2 *>(re)->Match(re2::StringPiece(p, n), at, n, re2::RE2::UNANCHORED, group, 10)) {
                if (most-- == 0) return -1;
                if (!fm_re_put(&o, p + at, group[0].data() - (p + at))) return -1;
                if (group[0].empty() && group[0].data() == last) {
                    // nothing, where the match before it ended: it is no match of its own
                    at = last - p;
                    if (at < n && !fm_re_put(&o, p + at, 1)) return -1;
                    at++;
                    continue;
                }
                if (!fm_re_expand(&o, rw, rn, group)) return -1;
                last = group[0].data() + group[0].size();
                at = last - p;
            }
        } catch (...) {
            return -1;
        }
        return at < n && !fm_re_put(&o, p + at, n - at) ? -1 : (long)o.n;
    }
    static void fm_re_free(void *re) { delete static_cast<re2::RE2 *>(re); }
    """
    void *fm_re_new(const char *p, size_t n, long max_mem, char *why, size_t why_n) nogil
    bint fm_re_full(const void *re, const char *p, size_t n) nogil
    bint fm_re_rewrite_ok(const void *re, const char *rw, size_t n, char *why, size_t why_n) nogil
    long fm_re_replace(const void *re, const char *p, size_t n, const char *rw, size_t rn, char *to, size_t cap, int most) nogil
    void fm_re_free(void *re) nogil


cdef void *regex_new(const char *pattern, uint32_t n, char *why) noexcept nogil:
    return fm_re_new(pattern, n, RE_MAX_MEM, why, RE_WHY)


cdef bint regex_full(const void *re, const char *p, uint32_t n) noexcept nogil:
    return fm_re_full(re, p, n)


cdef bint regex_rewrite_ok(const void *re, const char *rewrite, uint32_t n, char *why) noexcept nogil:
    return fm_re_rewrite_ok(re, rewrite, n, why, RE_WHY)


cdef int64_t regex_replace(const void *re, const char *p, uint32_t n, const char *rewrite, uint32_t rewrite_n, char *to,
                           uint32_t cap) noexcept nogil:
    return fm_re_replace(re, p, n, rewrite, rewrite_n, to, cap, RE_MOST_MATCHES)


cdef void regex_free(void *re) noexcept nogil:
    fm_re_free(re)
