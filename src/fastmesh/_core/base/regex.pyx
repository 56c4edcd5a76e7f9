"""RE2 behind three C calls (L0). Owns how patterns are compiled: UTF-8, quiet, bounded; knows nothing of routes.

C++ exceptions (no memory) end here: a pattern is then refused, a match is none.
"""
from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #include <re2/re2.h>
    #include <cstdio>

    static void *fm_re_new(const char *p, size_t n, long max_mem, char *why, size_t why_n) {
        try {
            re2::RE2::Options o;
            o.set_max_mem(max_mem);
            o.set_log_errors(false);
            o.set_never_capture(true);
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
    static void fm_re_free(void *re) { delete static_cast<re2::RE2 *>(re); }
    """
    void *fm_re_new(const char *p, size_t n, long max_mem, char *why, size_t why_n) nogil
    bint fm_re_full(const void *re, const char *p, size_t n) nogil
    void fm_re_free(void *re) nogil


cdef void *regex_new(const char *pattern, uint32_t n, char *why) noexcept nogil:
    return fm_re_new(pattern, n, RE_MAX_MEM, why, RE_WHY)


cdef bint regex_full(const void *re, const char *p, uint32_t n) noexcept nogil:
    return fm_re_full(re, p, n)


cdef void regex_free(void *re) noexcept nogil:
    fm_re_free(re)
