"""Regular expressions in linear time (L0): RE2, the only C++ in fastmesh.

A pattern holds at most RE_MAX_MEM bytes (program and automaton states together): what would need more is refused when it is made, and
a match that runs out of room for states goes on slower, in the same bound. Nothing here backtracks.
"""
from libc.stdint cimport uint32_t

cdef enum:
    RE_MAX_MEM = 524288            # bytes per pattern; a worker may hold SNAP_MAX_REGEXES of them
    RE_WHY = 120                   # bytes of a reason

cdef void *regex_new(const char *pattern, uint32_t n, char *why) noexcept nogil
"""Compile; NULL when it cannot be, with the reason (NUL-terminated, RE_WHY bytes) in `why` unless that is NULL. Give back with regex_free."""

cdef bint regex_full(const void *re, const char *p, uint32_t n) noexcept nogil
"""Whether the whole value matches."""

cdef void regex_free(void *re) noexcept nogil
"""NULL is fine."""
