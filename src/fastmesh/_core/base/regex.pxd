"""Regular expressions in linear time (L0): RE2, the only C++ in fastmesh.

A pattern holds at most RE_MAX_MEM bytes (program and automaton states together): what would need more is refused when it is made, and
a match that runs out of room for states goes on slower, in the same bound. Nothing here backtracks.
"""
from libc.stdint cimport int64_t, uint32_t

cdef enum:
    RE_MAX_MEM = 524288            # bytes per pattern; a worker may hold SNAP_MAX_REGEXES of them
    RE_WHY = 120                   # bytes of a reason
    RE_MOST_MATCHES = 128          # matches that are replaced in one value: each search is linear in its length, and so all are, too

cdef void *regex_new(const char *pattern, uint32_t n, char *why) noexcept nogil
"""Compile; NULL when it cannot be, with the reason (NUL-terminated, RE_WHY bytes) in `why` unless that is NULL. Give back with regex_free."""

cdef bint regex_full(const void *re, const char *p, uint32_t n) noexcept nogil
"""Whether the whole value matches."""

cdef bint regex_rewrite_ok(const void *re, const char *rewrite, uint32_t n, char *why) noexcept nogil
"""Whether regex_replace can use this rewrite (its groups are there); else the reason in `why` (RE_WHY bytes)."""

cdef int64_t regex_replace(const void *re, const char *p, uint32_t n, const char *rewrite, uint32_t rewrite_n, char *to,
                           uint32_t cap) noexcept nogil
"""p[0:n] with every match replaced, as RE2's GlobalReplace: \\0 to \\9 in the rewrite are groups, \\\\ is a backslash. Written to to[0:cap];
its length, or -1: it does not fit, or there are more than RE_MOST_MATCHES."""

cdef void regex_free(void *re) noexcept nogil
"""NULL is fine."""
