"""One spelling for each path (L1), so that what is judged is what the application gets. RFC 3986 6.2.2, and stricter: what two readers may
take for different paths is refused, not guessed at.

`.` and `..` are resolved, slashes merged, escapes of unreserved bytes undone, hex digits in upper case. Refused: escapes that are broken or
stand for a slash, backslash, semicolon, control or another escape (%252f); these bytes themselves, `#`, a space, a byte above 127; `..` above the
root; what decodes to no valid UTF-8 (overlong forms). Upper and lower case stay different, as applications have it.
"""
from fastmesh._core.base.view cimport Slice

cdef enum:
    PATH_SAME = 0                # it is in that form, and has no escapes: sent and judged are the path itself
    PATH_MADE                    # sent and judged are in out
    PATH_REFUSED

cdef int path_normalize(Slice path, char *out, Slice *sent, Slice *judged) noexcept nogil
"""out: 2 * path.n bytes, of which PATH_SAME uses none. sent: what goes on; judged: the same with all its escapes undone. Of those
that do not begin with a slash, `*` alone is a path."""
